//! The node the story is set on, and the real daemon that runs on it.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use pctd_core::ids::Ctid;
use signal_hook::consts::{SIGINT, SIGTERM};

use super::stage::Broken;
use crate::node::{Node, NodeOptions, Served};
use crate::settings::Timings;

/// The configuration of the story: the one that is shipped as an example.
const EXAMPLE: &str = include_str!("../../../../config/example.json");

/// Nothing in the story takes this long.
const PATIENCE: Duration = Duration::from_secs(15);

/// The containers that exist at the beginning: id, name, further lines of the conf, running.
const CONTAINERS: [(u32, &str, &str, bool); 4] = [
    (910, "portainer", "mp0: /tank/shared/ssl,mp=/certs\n", true),
    (950, "vllm", "mp2: /srv/cache,mp=/models2\n", false),
    (951, "embedding", "lxc.idmap: u 0 100000 65536\nlxc.idmap: g 0 100000 65536\n", true),
    (953, "nginx", "", true),
];

/// A node, its configuration and its programs.
#[derive(Debug)]
pub(super) struct Scene {
    pub(super) node: Node,
    /// Counts edits of confs as pmxcfs does.
    _served: Served,
}

/// A running daemon.
#[derive(Debug)]
pub(super) struct Daemon {
    child: Child,
    lines: Receiver<String>,
}

pub(super) fn ctid(id: u32) -> Result<Ctid, Broken> {
    Ctid::new(id).ok_or_else(|| Broken(format!("{id} is no container id")))
}

impl Scene {
    /// Makes the node, its containers, and directories as an admin finds them after years.
    pub(super) fn build(directory: &Path, program: &Path) -> Result<Self, Broken> {
        let node = make_node(directory, program, false)?;
        let served = node.serve();
        Ok(Self { node, _served: served })
    }

    /// Returns where a path of the node is.
    pub(super) fn host(&self, path: &str) -> PathBuf {
        self.node.root().join(path.trim_start_matches('/'))
    }

    /// Returns `uid:gid mode` of a path of the node.
    pub(super) fn owner(&self, path: &str) -> Result<String, Broken> {
        let stat = fs::symlink_metadata(self.host(path))?;
        Ok(format!("{}:{} {:04o}", stat.uid(), stat.gid(), stat.mode() & 0o7777))
    }

    /// Returns a container's conf.
    pub(super) fn conf(&self, id: u32) -> Result<String, Broken> {
        let bytes = self.node.read_conf(ctid(id)?)?.unwrap_or_default();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Edits the configuration as an editor does: a new file, renamed over the old one.
    pub(super) fn edit(&self, change: impl FnOnce(String) -> String) -> Result<(), Broken> {
        let path = self.host("/etc/pctd/config.json");
        let new = path.with_extension("new");
        fs::write(&new, change(fs::read_to_string(&path)?))?;
        fs::rename(&new, &path)?;
        Ok(())
    }

    fn command(&self) -> Command {
        let mut command = Command::new(self.host("/usr/sbin/pctd"));
        command.arg("--root").arg(self.node.root()).env("NO_COLOR", "1");
        command.env_remove("NOTIFY_SOCKET").env_remove("JOURNAL_STREAM");
        command
    }

    /// Runs a command of pctd; returns its exit code and what it printed.
    pub(super) fn pctd(&self, arguments: &[&str]) -> Result<(Option<i32>, String), Broken> {
        let output = self.command().args(arguments).output()?;
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.push_str(&String::from_utf8_lossy(&output.stderr));
        Ok((output.status.code(), text))
    }

    /// Starts the daemon.
    pub(super) fn start(&self) -> Result<Daemon, Broken> {
        let mut child = self.command().arg("run").stderr(Stdio::piped()).spawn()?;
        let stderr = child.stderr.take();
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stderr.into_iter().flat_map(|pipe| BufReader::new(pipe).lines()) {
                let Ok(line) = line else { return };
                // The story has ended.
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Daemon { child, lines })
    }

    /// Returns how often `pct` was called.
    pub(super) fn calls(&self) -> Result<usize, Broken> {
        Ok(self.node.pct_calls()?.len())
    }
}

/// Waits until something holds; returns how long that took.
pub(super) fn until(
    what: &str,
    mut holds: impl FnMut() -> Result<bool, Broken>,
) -> Result<Duration, Broken> {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        if holds()? {
            return Ok(begun.elapsed());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Err(Broken(format!("waited {PATIENCE:?} in vain: {what}")))
}

impl Daemon {
    /// Returns what the daemon logged since the last time, without times and level names.
    pub(super) fn log(&self) -> Vec<String> {
        self.lines.try_iter().map(|line| shorten(&line)).collect()
    }

    /// Ends it as systemd would; returns its exit code.
    pub(super) fn stop(mut self) -> Result<Option<i32>, Broken> {
        terminate(&self.child)?;
        Ok(self.child.wait()?.code())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing to kill.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Drops what the story says itself from a line of the log: the time, the level and the fields.
fn shorten(line: &str) -> String {
    let levels = ["ERROR ", "WARN ", "INFO ", "DEBUG "];
    let after_time = line.split_once('Z').map_or("", |(_, rest)| rest.trim_start());
    let Some(event) = levels.iter().find_map(|level| after_time.strip_prefix(level)) else {
        // A further line of a message.
        return line.to_owned();
    };
    // The message says it all; the fields behind it are for filters.
    let is_field = |word: &&str| {
        let name = word.split_once('=').map_or("", |(name, _)| name);
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_')
    };
    let words: Vec<&str> = event.split(' ').take_while(|word| !is_field(word)).collect();
    words.join(" ")
}

fn make_node(directory: &Path, program: &Path, fuse: bool) -> Result<Node, Broken> {
    // A real `pct` takes most of a second to start; a third of that keeps the story short.
    let timings = Timings {
        command_ms: 150,
        create_unpack_ms: 700,
        create_setup_ms: 500,
        ..Timings::default()
    };
    let options = NodeOptions { name: "pve".into(), fuse, timings, ..NodeOptions::default() };
    let node = Node::create(directory, options)?;
    node.install_programs(program)?;
    if fuse {
        node.start_pmxcfs()?;
    }
    fs::create_dir_all(node.root().join("etc/pctd"))?;
    fs::write(node.root().join("etc/pctd/config.json"), EXAMPLE)?;
    node.create_host_dir("/srv/cache")?;
    furnish(&node)?;
    for (id, name, lines, running) in CONTAINERS {
        let volume = format!("local:{id}/vm-{id}-disk-0.raw");
        node.create_volume(&volume, 1 << 30)?;
        let conf = format!(
            "arch: amd64\nhostname: {name}\nmemory: 512\n{}ostype: debian\nrootfs: {volume},size=1G\nswap: 512\nunprivileged: 1\n{}",
            lines
                .lines()
                .filter(|line| line.starts_with("mp"))
                .fold(String::new(), |all, line| all + line + "\n"),
            lines
                .lines()
                .filter(|line| line.starts_with("lxc"))
                .fold(String::new(), |all, line| all + line + "\n"),
        );
        node.write_conf(ctid(id)?, conf)?;
        if running {
            let started = node.start_ct(ctid(id)?)?;
            if !started.is_success() {
                return Err(Broken(format!(
                    "container {id} does not start: {}",
                    started.stderr_text()
                )));
            }
        }
    }
    Ok(node)
}

/// Makes directories as they are found: written on the host by root and by a user, a service's
/// own files among them.
fn furnish(node: &Node) -> Result<(), Broken> {
    let files = [
        ("ssl/phoenix.local.crt", 0, 0o644),
        ("ssl/phoenix.local.key", 0, 0o600),
        ("ssl/ca/root.pem", 0, 0o644),
        ("nginx/sites/default.conf", 1000, 0o600),
        ("nginx/sites/portainer.conf", 1000, 0o644),
        ("models/llama/weights.bin", 0, 0o600),
        ("models/llama/config.json", 0, 0o640),
        ("portainer/portainer.db", 1000, 0o600),
        ("portainer/tls/key.pem", 101_000, 0o600),
        ("qdrant/collection/segment", 0, 0o600),
    ];
    for (file, owner, mode) in files {
        let path = Path::new("/tank/shared").join(file);
        let directory = path.parent().map(|parent| parent.to_string_lossy().into_owned());
        node.create_host_dir(&directory.unwrap_or_default())?;
        let real = node.root().join(path.strip_prefix("/").unwrap_or(&path));
        fs::write(&real, file)?;
        let open = fs::File::open(&real)?;
        rustix::fs::fchmod(&open, rustix::fs::Mode::from_raw_mode(mode))?;
        let (uid, gid) = (rustix::fs::Uid::from_raw(owner), rustix::fs::Gid::from_raw(owner));
        rustix::fs::fchown(&open, Some(uid), Some(gid))?;
    }
    Ok(())
}

/// See [`super::serve`].
pub(super) fn serve(directory: &Path, program: &Path, fuse: bool) -> Result<ExitCode, Broken> {
    let node = match Node::open(directory) {
        Ok(node) => node,
        Err(_) => make_node(directory, program, fuse)?,
    };
    let served = node.pmxcfs().is_served();
    if served && !node.pmxcfs().is_up() {
        node.start_pmxcfs()?;
    }
    let scene = Scene { _served: node.serve(), node };
    let root = scene.node.root().display();
    println!(
        "A simulated node in {root}; end it with ^C. Try, in another terminal:\n\n  \
         {root}/usr/sbin/pctd --root {root} status --watch\n  \
         {root}/usr/sbin/pctd --root {root} plan\n  \
         {root}/usr/sbin/pct list\n  \
         {root}/usr/sbin/pct set 950 --delete mp0\n  \
         {root}/usr/sbin/pct create 960 local:vztmpl/tiny.tar.gz --rootfs local:0.1\n  \
         $EDITOR {root}/etc/pctd/config.json\n"
    );
    // Both are told of a ^C; this one stays until the daemon has ended, and stops the containers.
    let told = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&told))?;
    }
    let mut daemon = scene.command().arg("run").env_remove("NO_COLOR").spawn()?;
    let status = loop {
        if let Some(status) = daemon.try_wait()? {
            break status;
        }
        if told.swap(false, Ordering::Relaxed) {
            terminate(&daemon)?;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    for running in scene.node.running() {
        scene.node.stop_ct(running)?;
    }
    if served {
        scene.node.stop_pmxcfs()?;
    }
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Tells a daemon to end, as systemd does.
fn terminate(daemon: &Child) -> Result<(), Broken> {
    let pid = rustix::process::Pid::from_raw(i32::try_from(daemon.id())?);
    let pid = pid.ok_or_else(|| Broken("no pid".into()))?;
    match rustix::process::kill_process(pid, rustix::process::Signal::TERM) {
        // It ended in between.
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
