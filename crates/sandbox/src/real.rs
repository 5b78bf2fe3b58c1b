//! Real containers: `pct` starts, stops and reboots them with the programs of lxc.
//!
//! lxc-start binds the command socket, makes the namespaces and runs the hooks of Proxmox, which are
//! the program of the sandbox itself: before the start what the real hook would fail of, after the
//! stop the one that applies what is pending. The guest is a busybox and a shell that ends when it
//! is told to halt.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use pctd_core::conf::{Conf, IdLine};
use pctd_core::ids::Ctid;
use rustix::fs::{AtFlags, CWD, Gid, Uid, chownat};

use crate::context::Context;
use crate::monitor;
use crate::output::{Die, Output, Streams};
use crate::paths::Root;
use crate::running::{self, Mounted, Word};

pub(crate) mod config;
mod plug;

/// The first argument that makes the program a hook of lxc.
pub(crate) const HOOK: &str = "internal-hook";

/// The first argument that makes the program mount something into a running container.
pub(crate) const PLUG: &str = "internal-plug";

/// How often is looked whether a container runs that was started.
const START_POLL: Duration = Duration::from_millis(5);

/// The programs of lxc, of the maps of ids, and the one that is the guest.
const NEEDED: [&str; 7] = [
    "/usr/bin/lxc-start",
    "/usr/bin/lxc-stop",
    "/usr/bin/lxc-info",
    "/usr/bin/lxc-attach",
    "/usr/bin/newuidmap",
    "/usr/bin/newgidmap",
    BUSYBOX,
];

const BUSYBOX: &str = "/bin/busybox";

/// What the guest can be asked to do.
const APPLETS: [&str; 14] = [
    "sh", "ls", "cat", "id", "sleep", "stat", "touch", "mount", "chown", "chmod", "mkdir", "mv",
    "rm", "date",
];

/// The guest's init: ends at once when it is told to halt.
const INIT: &str = "#!/bin/sh\ntrap 'exit 0' TERM\nwhile :; do sleep 1000 & wait $!; done\n";

/// Returns what this machine lacks to run containers for real, if anything.
pub(crate) fn missing() -> Option<&'static str> {
    NEEDED.into_iter().find(|program| !Path::new(program).exists())
}

fn lxc(program: &str, root: &Root, id: &str) -> Command {
    let mut command = Command::new(program);
    command.arg("-n").arg(id).arg("-P").arg(root.path().join("var/lib/lxc"));
    command.current_dir("/").stdin(Stdio::null());
    command
}

/// Starts a container and waits until its init runs (`systemctl start pve-container@ID`).
pub(crate) fn start(cx: &Context, ctid: Ctid, conf: &Conf, skiplock: bool) -> Result<(), Die> {
    let id = ctid.to_string();
    let failed = |error: io::Error| Die::new(format!("unable to start {ctid}: {error}\n"));
    let rootfs = cx.root.lxc(&id).join("rootfs");
    if !rootfs.join("sbin/init").exists() {
        make_guest(&rootfs, container_root(conf)).map_err(failed)?;
    }
    let flag = skiplock_flag(&cx.root, &id);
    if skiplock {
        crate::file::replace(&flag, b"").map_err(failed)?;
    }
    let started = run(&cx.root, &id);
    // Mostly there is none.
    let _none = fs::remove_file(flag);
    if started.map_err(failed)? {
        return Ok(());
    }
    Err(Die::new(format!("unable to get PID for CT {ctid} (not running?)\n")))
}

/// Runs lxc-start in the foreground, as the unit of Proxmox does, so that it is the process which
/// listens on the command socket; returns whether the container came up.
fn run(root: &Root, id: &str) -> io::Result<bool> {
    let log = root.lxc(id).join("start.log");
    // A session of its own: what stops the terminal of a `pct` does not stop its container.
    let mut monitor = Command::new("setsid")
        .args(["lxc-start", "-F", "-n", id, "-P"])
        .arg(root.path().join("var/lib/lxc"))
        .args(["-l", "INFO", "-o"])
        .arg(log)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    loop {
        if monitor.try_wait()?.is_some() {
            return Ok(false);
        }
        let info = lxc("lxc-info", root, id).args(["-s", "-H"]).output()?;
        if info.stdout.trim_ascii() == b"RUNNING" {
            break;
        }
        std::thread::sleep(START_POLL);
    }
    // It outlives this process; a caller that stays reaps it.
    std::thread::spawn(move || monitor.wait());
    Ok(true)
}

/// Where Proxmox tells the hook that the lock does not count.
fn skiplock_flag(root: &Root, id: &str) -> std::path::PathBuf {
    root.path().join(format!("run/lxc/skiplock-{id}"))
}

/// Tells a container to end; the command socket tells when it has.
pub(crate) fn tell(root: &Root, id: &str, word: Word) -> io::Result<()> {
    let how = match word {
        Word::Halt => "--nokill",
        Word::Kill => "--kill",
    };
    let told = lxc("lxc-stop", root, id).args([how, "--nowait"]).output()?;
    if told.status.success() || !running::is_running(root, id) {
        return Ok(());
    }
    Err(io::Error::other(String::from_utf8_lossy(&told.stderr).trim().to_owned()))
}

/// Runs a script inside a container, as its root.
pub(crate) fn attach(root: &Root, id: &str, script: &str) -> io::Result<Output> {
    let ran = inside(root, id, script).output()?;
    let exit = ran.status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(255);
    Ok(Output { exit, stdout: ran.stdout, stderr: ran.stderr })
}

/// Returns the command that does so.
pub(crate) fn inside(root: &Root, id: &str, script: &str) -> Command {
    let mut command = lxc("lxc-attach", root, id);
    command.args(["--clear-env", "--", "/bin/sh", "-euc", script]);
    command
}

/// Mounts into a running container (`mountpoint_hotplug`).
pub(crate) fn plug(cx: &Context, ctid: Ctid, conf: &Conf, mounted: &Mounted) -> Result<(), String> {
    let failed = |error: io::Error| format!("{error}\n");
    let program = cx.program.clone().ok_or("no program to mount with\n")?;
    let id = ctid.to_string();
    let info = lxc("lxc-info", &cx.root, &id).args(["-p", "-H"]).output().map_err(failed)?;
    let (uid, gid) = container_root(conf);
    let output = Command::new(program)
        .arg(PLUG)
        .arg(String::from_utf8_lossy(&info.stdout).trim())
        .arg(cx.root.host(&mounted.source))
        .arg(&mounted.target)
        .arg(if mounted.ro { "ro" } else { "rw" })
        .args([uid.to_string(), gid.to_string()])
        .output()
        .map_err(failed)?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Runs as a process of its own what has to enter a container's namespace.
pub(crate) fn run_plug(arguments: &[OsString]) -> ExitCode {
    match plug::run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs as a hook of lxc: `arguments` are the root, which hook, and what lxc adds: first the id.
pub(crate) fn run_hook(arguments: &[OsString]) -> ExitCode {
    let [root, hook, id, ..] = arguments else { return ExitCode::from(2) };
    let Some(ctid) = id.to_str().and_then(|id| id.parse::<Ctid>().ok()) else {
        return ExitCode::from(2);
    };
    let root = Root::new(root);
    match self::hook(&root, hook, ctid) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // lxc keeps it in its own log only; Proxmox has it in that of the service.
            let _kept = crate::file::replace(&root.start_log(&ctid.to_string()), error.as_bytes());
            eprint!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn hook(root: &Root, hook: &OsStr, ctid: Ctid) -> Result<(), String> {
    let mut cx = Context::new(root.clone(), Streams::new(true)).map_err(|it| format!("{it}\n"))?;
    let id = ctid.to_string();
    if hook != "pre-start" {
        std::thread::sleep(Duration::from_millis(cx.settings.timings.stop_ms));
        monitor::end(&mut cx, ctid);
        return Ok(());
    }
    std::thread::sleep(Duration::from_millis(cx.settings.timings.start_ms));
    let skiplock = skiplock_flag(root, &id).exists();
    let (_, mounts, _) = monitor::pre_start(&mut cx, ctid, skiplock)?;
    running::set_mounts(root, &id, &mounts).map_err(|error| format!("{error}\n"))
}

/// Returns the ids of the host that the container's root has.
fn container_root(conf: &Conf) -> (u32, u32) {
    let lines = conf.current.idmap_lines().unwrap_or_default();
    let root = |kind| {
        let mut ranges = lines.iter().map(IdLine::range).filter(|range| range.kind == kind);
        let host = ranges.find(|range| range.container == 0).map_or(0, |range| range.host);
        u32::try_from(host).unwrap_or_default()
    };
    (root(pctd_core::idmap::IdKind::User), root(pctd_core::idmap::IdKind::Group))
}

/// Makes the files of a guest, owned by the container's root.
fn make_guest(rootfs: &Path, (uid, gid): (u32, u32)) -> io::Result<()> {
    let mut made = vec![rootfs.to_owned()];
    for dir in ["bin", "sbin", "proc", "sys", "dev", "etc", "root", "tmp"] {
        made.push(rootfs.join(dir));
        fs::create_dir_all(rootfs.join(dir))?;
    }
    let busybox = rootfs.join("bin/busybox");
    fs::copy(BUSYBOX, &busybox)?;
    made.push(busybox);
    for applet in APPLETS {
        let link = rootfs.join("bin").join(applet);
        symlink("busybox", &link)?;
        made.push(link);
    }
    // Last: that it is there says that all is.
    let init = rootfs.join("sbin/init");
    fs::write(&init, INIT)?;
    rustix::fs::chmod(&init, rustix::fs::Mode::from_raw_mode(0o755))?;
    made.push(init);
    for path in made {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        chownat(CWD, &path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(())
}
