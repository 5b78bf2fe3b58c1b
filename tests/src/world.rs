//! A whole small world for one scenario: a simulated node in a temporary directory, the real
//! `pctd` and `pct` in it, host directories with real owners, and what a test looks at afterwards.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread::JoinHandle;

use pctd_core::ids::Ctid;
use pctd_sandbox::{Node, NodeOptions, Served, Timings};
use rustix::fs::{AtFlags, CWD, Gid, Uid, chmod, chownat};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::daemon::{Pctd, Ran};

/// The line of a conf that makes a container unprivileged.
pub const UNPRIVILEGED: &str = "unprivileged: 1";

/// Settings that make a daemon look again soon, for scenarios in which nothing else would.
pub const HURRIED: &str = r#""seed_defaults": false, "poll_interval": "50ms",
    "retry_initial": "20ms", "retry_max": "200ms", "hold_interval": "100ms""#;

/// A node, its configuration and its programs; goes away with everything in it when dropped.
#[derive(Debug)]
pub struct World {
    /// The simulated node.
    pub node: Node,
    /// Its `pctd`.
    pub pctd: Pctd,
    /// Counts direct edits of confs as pmxcfs does.
    _counting: Served,
    /// Whether `/etc/pve` is mounted.
    served: bool,
    /// Removed last. Its name is short: those of abstract sockets in it are limited to 107 bytes.
    _dir: TempDir,
}

/// Path, relative to the node, with what changes whenever the file does.
pub type Stamps = BTreeMap<String, (u64, i64, i64)>;

impl World {
    /// Makes a node on which everything is immediate; `program` is `CARGO_BIN_EXE_pctd-tests`.
    ///
    /// `None` where this process may not change owners: then the test has nothing to look at,
    /// which is said, or a failure with `PCTD_REQUIRE_REAL`.
    pub fn new(program: &str) -> Option<Self> {
        Self::with_timings(program, Timings::default())
    }

    /// As [`Self::new`], with a `pct` that takes its time.
    pub fn with_timings(program: &str, timings: Timings) -> Option<Self> {
        Self::with_options(program, NodeOptions { timings, ..NodeOptions::default() })
    }

    /// As [`Self::new`], on a node of a cluster whose `/etc/pve` is a file system of its own.
    pub fn on_fuse(program: &str) -> Option<Self> {
        if let Err(error) = fs::File::options().read(true).write(true).open("/dev/fuse") {
            skip("a scenario with /etc/pve as a file system", &format!("/dev/fuse: {error}"));
            return None;
        }
        let peers = vec!["far".to_owned()];
        let world = Self::with_options(
            program,
            NodeOptions { peers, fuse: true, ..NodeOptions::default() },
        )?;
        world.node.start_pmxcfs().unwrap();
        Some(world)
    }

    /// As [`Self::with_timings`], with containers that run for real, under lxc.
    pub fn with_containers(program: &str, timings: Timings) -> Option<Self> {
        if let Some(missing) = Node::missing_for_containers() {
            skip("a scenario with real containers", &format!("there is no {missing}"));
            return None;
        }
        allow_sub_ids();
        let options = NodeOptions { real_containers: true, timings, ..NodeOptions::default() };
        Self::with_options(program, options)
    }

    fn with_options(program: &str, options: NodeOptions) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            skip("a scenario with real owners", "only root may change owners");
            return None;
        }
        let dir = tempfile::Builder::new().prefix("p").rand_bytes(5).tempdir_in("/tmp").unwrap();
        // Others than root have to get through to the volumes.
        chmod(dir.path(), 0o755.into()).unwrap();
        let options = NodeOptions { name: "pve".into(), ..options };
        let fuse = options.fuse;
        let node = Node::create(dir.path().join("n"), options).unwrap();
        node.install_programs(program).unwrap();
        fs::create_dir_all(node.root().join("etc/pctd")).unwrap();
        let pctd = Pctd::new(node.root().join("usr/sbin/pctd"), node.root());
        Some(Self { _counting: node.serve(), served: fuse, pctd, node, _dir: dir })
    }

    /// Returns where a path of the node really is.
    pub fn host(&self, path: &str) -> PathBuf {
        self.node.root().join(path.trim_start_matches('/'))
    }

    /// Writes the configuration as an editor does: a new file, renamed over the old one.
    pub fn config(&self, text: &str) {
        let path = self.host("/etc/pctd/config.json");
        let new = path.with_extension("new");
        fs::write(&new, text).unwrap();
        fs::rename(&new, &path).unwrap();
    }

    /// Writes a configuration with [`HURRIED`] settings, further ones, and these volumes.
    pub fn volumes(&self, settings: &str, volumes: &str) {
        let comma = if settings.is_empty() { "" } else { "," };
        self.config(&format!(
            r#"{{"settings": {{{HURRIED}{comma} {settings}}}, "shared_volumes": {{{volumes}}}}}"#
        ));
    }

    /// Makes a stopped container with these lines in its conf; see [`conf`].
    pub fn container(&self, id: u32, lines: &[&str]) {
        self.node.create_volume(&format!("local:{id}/vm-{id}-disk-0.raw"), 1 << 30).unwrap();
        self.node.write_conf(ctid(id), conf(id, lines)).unwrap();
    }

    /// Makes a container and starts it.
    pub fn running(&self, id: u32, lines: &[&str]) {
        self.container(id, lines);
        let started = self.node.start_ct(ctid(id)).unwrap();
        assert!(started.is_success(), "{}", started.stderr_text());
    }

    /// Returns a container's conf; empty where there is none.
    pub fn conf(&self, id: u32) -> String {
        let bytes = self.node.read_conf(ctid(id)).unwrap().unwrap_or_default();
        String::from_utf8(bytes).unwrap()
    }

    /// Runs `pct` as an admin would, beside the record of what the daemon runs.
    pub fn pct(&self, arguments: &[&str]) {
        let output = self.node.pct(arguments).unwrap();
        assert!(output.is_success(), "{arguments:?}: {}", output.stderr_text());
    }

    /// Returns the arguments of every `pct` that pctd has run, in order, without the digest, which
    /// every `set` must have.
    pub fn calls(&self) -> Vec<String> {
        let calls = self.node.pct_calls().unwrap();
        let shown = |argv: &[String]| match argv {
            [command, rest @ .., flag, digest] if command == "set" => {
                assert_eq!(flag, "--digest", "{argv:?}");
                assert!(digest.len() == 40, "{argv:?}");
                format!("set {}", rest.join(" "))
            }
            argv => argv.join(" "),
        };
        calls.iter().map(|call| shown(&call.argv)).collect()
    }

    /// Sends a signal to a `pct` of this node that was at work; its number may be that of any other
    /// process by now, which is spared.
    pub fn signal_pct(&self, pid: u32, signal: Signal) {
        let argv = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let own = self.host("/usr/sbin/pct");
        if argv.split(|byte| *byte == 0).next() == Some(own.as_os_str().as_encoded_bytes()) {
            let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
            let _ended = kill_process(pid.unwrap(), signal);
        }
    }

    /// Makes a directory with this owner and mode, and what is missing above it.
    pub fn dir(&self, path: &str, owner: u32, mode: u32) -> PathBuf {
        let real = self.host(path);
        fs::create_dir_all(&real).unwrap();
        own(&real, owner, owner);
        chmod(&real, mode.into()).unwrap();
        real
    }

    /// Makes a file with this owner and mode, in a directory that exists.
    pub fn file(&self, path: &str, owner: u32, mode: u32) -> PathBuf {
        let real = self.host(path);
        fs::write(&real, path).unwrap();
        own(&real, owner, owner);
        chmod(&real, mode.into()).unwrap();
        real
    }

    /// Returns `uid:gid mode` of a path; empty where there is none.
    pub fn owner(&self, path: &str) -> String {
        match fs::symlink_metadata(self.host(path)) {
            Ok(stat) => format!("{}:{} {:04o}", stat.uid(), stat.gid(), stat.mode() & 0o7777),
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => panic!("{path}: {error}"),
        }
    }

    /// Returns `uid:gid mode` of everything below a directory, by relative path; its own is
    /// empty.
    pub fn owners(&self, path: &str) -> BTreeMap<String, String> {
        let base = self.host(path);
        let relative = |at: PathBuf| at.strip_prefix(&base).unwrap().display().to_string();
        let each = |at: PathBuf| {
            let name = relative(at);
            let owner = self.owner(&format!("{path}/{name}"));
            (name, owner)
        };
        all_below(&base).into_iter().map(each).collect()
    }

    /// Returns inode and ctime of everything on the node but `/run`: what somebody who changes
    /// nothing leaves as it is.
    pub fn stamps(&self) -> Stamps {
        let run = self.host("/run");
        self.stamps_of("/").into_iter().filter(|(at, _)| !self.host(at).starts_with(&run)).collect()
    }

    /// Returns the same of everything below one directory.
    pub fn stamps_of(&self, path: &str) -> Stamps {
        let stamp = |at: PathBuf| {
            // The simulated pmxcfs may replace a file of its own meanwhile.
            let stat = fs::symlink_metadata(&at).ok()?;
            let name = at.strip_prefix(self.node.root()).unwrap().display().to_string();
            Some((name, (stat.ino(), stat.ctime(), stat.ctime_nsec())))
        };
        all_below(&self.host(path)).into_iter().filter_map(stamp).collect()
    }

    /// Runs `pctd plan`; returns the exit code and the document.
    pub fn plan(&self) -> (i32, Value) {
        let ran = self.pctd.run(&["plan", "--output-format", "json"]);
        (ran.code, json_of(&ran))
    }

    /// Runs `pctd apply` with these arguments, and expects this exit code.
    pub fn apply(&self, arguments: &[&str], code: i32) -> Value {
        let ran = self.pctd.run(&[&["apply", "--output-format", "json"], arguments].concat());
        assert_eq!(ran.code, code, "{ran:#?}");
        json_of(&ran)
    }

    /// Runs `pctd apply` beside the test.
    pub fn apply_aside(&self) -> JoinHandle<Ran> {
        let pctd = self.pctd.clone();
        std::thread::spawn(move || pctd.run(&["apply", "--output-format", "json"]))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for running in self.node.running() {
            // A monitor that is left behind ends by itself when the directory is gone.
            let _stopped = self.node.stop_ct(running);
        }
        if self.served {
            // A scenario may have ended it already, or left a dead mount.
            let _stopped = self.node.stop_pmxcfs();
            let _unmounted = self.node.unmount_pmxcfs();
        }
    }
}

/// Makes a node for a benchmark, with its programs and nothing else; `program` is
/// `CARGO_BIN_EXE_pctd-tests`.
pub fn bare_node(directory: &Path, program: &str) -> (Node, Pctd) {
    let node = Node::create(directory, NodeOptions::default()).unwrap();
    node.install_programs(program).unwrap();
    fs::create_dir_all(node.root().join("etc/pctd")).unwrap();
    let pctd = Pctd::new(node.root().join("usr/sbin/pctd"), node.root());
    (node, pctd)
}

/// Lets root map the ids that containers here use, as an admin of a node does: newuidmap asks for
/// root, too.
fn allow_sub_ids() {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _held = ONE_AT_A_TIME.lock().unwrap();
    for file in ["/etc/subuid", "/etc/subgid"] {
        let there = fs::read_to_string(file).unwrap_or_default();
        for line in ["root:100000:65536", "root:200000:65536", "root:1000:1"] {
            if !there.lines().any(|it| it == line) {
                let mut file = fs::File::options().append(true).create(true).open(file).unwrap();
                file.write_all(format!("{line}\n").as_bytes()).unwrap();
            }
        }
    }
}

/// Returns the document a command printed.
///
/// # Panics
///
/// It printed none.
pub fn json_of(ran: &Ran) -> Value {
    serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:#?}"))
}

/// Returns the names of the holds of one key in a plan or a status.
pub fn holds(report: &Value, section: &str, key: &str) -> Vec<String> {
    let holds = report[section][key]["holds"].as_array().cloned().unwrap_or_default();
    holds.iter().map(|hold| hold["reason"].as_str().unwrap_or_default().to_owned()).collect()
}

/// Returns the id of a container.
///
/// # Panics
///
/// It is none.
pub fn ctid(id: u32) -> Ctid {
    Ctid::new(id).expect("a container id")
}

/// Returns a complete conf in Proxmox's normal form: properties in the order of the alphabet, then
/// `lxc` lines as they are.
pub fn conf(id: u32, lines: &[&str]) -> String {
    let mut properties: Vec<String> =
        ["arch: amd64", "memory: 512", "ostype: debian", "swap: 512"].map(String::from).to_vec();
    properties.push(format!("hostname: ct{id}"));
    properties.push(format!("rootfs: local:{id}/vm-{id}-disk-0.raw,size=1G"));
    let (raw, more): (Vec<&str>, Vec<&str>) = lines.iter().partition(|l| l.starts_with("lxc."));
    properties.extend(more.into_iter().map(str::to_owned));
    properties.sort_by(|a, b| a.split(':').next().cmp(&b.split(':').next()));
    properties.extend(raw.into_iter().map(str::to_owned));
    properties.iter().fold(String::new(), |text, line| text + line + "\n")
}

/// Returns everything below a directory and itself; links are not followed, mounts are.
fn all_below(dir: &Path) -> Vec<PathBuf> {
    let mut all = vec![dir.to_owned()];
    let mut next = 0;
    while let Some(path) = all.get(next).cloned() {
        next += 1;
        if fs::symlink_metadata(&path).is_ok_and(|stat| stat.is_dir()) {
            all.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    all
}

/// Gives a file, or a link itself, to these ids.
///
/// # Panics
///
/// The kernel refuses.
pub fn own(path: &Path, uid: u32, gid: u32) {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    chownat(CWD, path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// An empty file system in memory, mounted for as long as this lives.
#[derive(Debug)]
pub struct Tmpfs(PathBuf);

impl Tmpfs {
    /// Mounts one, or says that this machine does not permit it.
    pub fn mount(at: &Path) -> Option<Self> {
        Self::with(at, None)
    }

    /// Mounts one that is soon full: of 128 KiB.
    pub fn small(at: &Path) -> Option<Self> {
        Self::with(at, Some(c"size=128k"))
    }

    /// Lets nobody write to it, or everybody again.
    ///
    /// # Panics
    ///
    /// The kernel refuses.
    pub fn set_read_only(&self, is_read_only: bool) {
        let read_only = if is_read_only { MountFlags::RDONLY } else { MountFlags::empty() };
        mount_remount(&self.0, MountFlags::BIND | read_only, "").unwrap();
    }

    fn with(at: &Path, options: Option<&CStr>) -> Option<Self> {
        match mount("tmpfs", at, "tmpfs", MountFlags::empty(), options) {
            Ok(()) => Some(Self(at.to_owned())),
            Err(errno) => {
                skip("a scenario with another file system", &format!("mount: {errno}"));
                None
            }
        }
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // The directory goes with its test; a mount that stays behind would only be in the way.
        let _unmounted = unmount(&self.0, UnmountFlags::DETACH);
    }
}

/// Says that something is not tested here, and why; a failure with `PCTD_REQUIRE_REAL`.
///
/// # Panics
///
/// With `PCTD_REQUIRE_REAL` in the environment.
pub fn skip(what: &str, why: &str) {
    assert!(std::env::var_os("PCTD_REQUIRE_REAL").is_none(), "{what}: {why}");
    // Past the test harness, which shows what a test printed only when it fails.
    let _unwritable = writeln!(io::stderr(), "skipped: {what}: {why}");
}
