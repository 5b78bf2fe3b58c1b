//! Starting the process that holds a container, and hearing whether it came up.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use pctd_core::conf::Conf;
use pctd_core::ids::Ctid;

use crate::context::Context;
use crate::output::Die;
use crate::real;

/// The first argument that makes the program a monitor.
pub(crate) const MONITOR: &str = "internal-monitor";

/// What a monitor that came up says.
pub(crate) const READY: &str = "ready";

/// What one says whose container did not start.
pub(crate) const FAILED: &str = "failed";

/// Starts the monitor of a container and waits until its guest runs (`systemctl start
/// pve-container@ID`).
pub(crate) fn launch(cx: &mut Context, ctid: Ctid, conf: &Conf, skiplock: bool) -> Result<(), Die> {
    if cx.settings.real_containers {
        return real::start(cx, ctid, conf, skiplock);
    }
    let Some(program) = cx.program.clone() else {
        return Err(
            "no program to hold the container: install the programs of the node first\n".into()
        );
    };
    let id = ctid.to_string();
    let failed = |error: std::io::Error| {
        Die::new(format!("unable to start {}: {error}\n", program.display()))
    };
    let log = cx.root.start_log(&id);
    if let Some(dir) = log.parent() {
        fs::create_dir_all(dir).map_err(failed)?;
    }
    let log = File::create(log).map_err(failed)?;
    let lxc = cx.root.path().join("var/lib/lxc");
    let mut command = Command::new(&program);
    command
        // As lxc-start titles itself.
        .arg0(format!("[lxc monitor] {} {id}", lxc.display()))
        .args([MONITOR.as_ref(), cx.root.path().as_os_str(), id.as_ref()])
        .arg(if skiplock { "skiplock" } else { "" })
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log);
    let mut child = command.spawn().map_err(failed)?;
    let mut answer = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_line(&mut answer).map_err(failed)?;
    }
    if answer.trim() == READY {
        // The monitor outlives this process; a caller that stays reaps it.
        std::thread::spawn(move || child.wait());
        return Ok(());
    }
    // Its post-stop hook may still be at work.
    std::thread::spawn(move || child.wait());
    Err(Die::new(format!("unable to get PID for CT {ctid} (not running?)\n")))
}
