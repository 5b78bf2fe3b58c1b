//! A small cluster for one scenario: simulated nodes, the real `pctd` and `pct` on each, one
//! configuration in `/etc/pve`, and a directory that all of them see.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use pctd_core::ids::Ctid;
use pctd_sandbox::{Cluster, Node, NodeOptions, PctCall, Timings};
use rustix::fs::{chmod, inotify};
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_bind, mount_change, unmount};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use tempfile::TempDir;

use crate::daemon::{Daemon, Pctd};
use crate::world::{HURRIED, conf, ctid, own, skip};

/// Where every node sees the directory that they share.
pub const STORAGE: &str = "/mnt/pve/nas";

/// How long before a call of `pct` its container may have left: the time between a look and the call
/// that follows from it, on a machine that is busy.
const LOOK_TO_CALL: Duration = Duration::from_secs(2);

/// A cluster; goes away with everything in it when dropped.
#[derive(Debug)]
pub struct Town {
    /// The simulated cluster.
    pub cluster: Cluster,
    pctd: BTreeMap<String, Pctd>,
    mounted: Vec<PathBuf>,
    _dir: TempDir,
}

impl Town {
    /// Makes nodes of these names; `program` is `CARGO_BIN_EXE_pctd-tests`. `None` where this process
    /// may not do what it takes.
    pub fn new(program: &str, names: &[&str]) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            skip("a scenario of a cluster", "only root may change owners");
            return None;
        }
        // Short: the names of abstract sockets in it are limited.
        let dir = tempfile::Builder::new().prefix("p").rand_bytes(5).tempdir_in("/tmp").unwrap();
        chmod(dir.path(), 0o755.into()).unwrap();
        let options = NodeOptions { timings: Timings::default(), ..NodeOptions::default() };
        let cluster = Cluster::create(dir.path(), names, &options).unwrap();
        let storage = dir.path().join("nas");
        fs::create_dir(&storage).unwrap();
        let mut town = Self { cluster, pctd: BTreeMap::new(), mounted: Vec::new(), _dir: dir };
        for (name, node) in town.cluster.nodes().clone() {
            node.install_programs(program).unwrap();
            let etc = node.root().join("etc/pctd");
            fs::create_dir_all(&etc).unwrap();
            symlink("../pve/pctd/config.json", etc.join("config.json")).unwrap();
            let pctd = Pctd::new(node.root().join("usr/sbin/pctd"), node.root());
            town.pctd.insert(name, pctd);
            let place = node.root().join(STORAGE.trim_start_matches('/'));
            fs::create_dir_all(&place).unwrap();
            if let Err(errno) = mount_bind(&storage, &place)
                .and_then(|()| mount_change(&place, MountPropagationFlags::PRIVATE))
            {
                skip("a scenario with shared storage", &format!("mount: {errno}"));
                return None;
            }
            town.mounted.push(place);
        }
        Some(town)
    }

    /// Returns a node.
    pub fn node(&self, name: &str) -> &Node {
        self.cluster.node(name)
    }

    /// Returns the `pctd` of a node.
    ///
    /// # Panics
    ///
    /// There is no such node.
    pub fn pctd(&self, name: &str) -> &Pctd {
        self.pctd.get(name).expect("a node of the cluster")
    }

    /// Starts the daemon of a node, and makes it deaf to what happens in `/etc/pve`: of what other
    /// nodes write there the real file system tells nobody.
    pub fn daemon(&self, name: &str) -> Daemon {
        let daemon = self.pctd(name).start();
        deafen(&daemon, &self.node(name).paths().etc_pve());
        daemon
    }

    /// Writes the configuration on one node, with [`HURRIED`] settings, further ones, and these volumes.
    pub fn volumes(&self, on: &str, settings: &str, volumes: &str) {
        let comma = if settings.is_empty() { "" } else { "," };
        let text = format!(
            r#"{{"settings": {{{HURRIED}{comma} {settings}}}, "shared_volumes": {{{volumes}}}}}"#
        );
        self.cluster.write_file(on, "pctd/config.json", &text).unwrap();
    }

    /// Makes a stopped container on a node.
    pub fn container(&self, on: &str, id: u32, lines: &[&str]) {
        let node = self.node(on);
        node.create_volume(&format!("local:{id}/vm-{id}-disk-0.raw"), 1 << 30).unwrap();
        node.write_conf(ctid(id), conf(id, lines)).unwrap();
    }

    /// Returns the conf of a container as one node sees it; empty where there is none.
    pub fn conf(&self, on: &str, id: u32) -> String {
        let bytes = self.node(on).read_conf(ctid(id)).unwrap_or_default().unwrap_or_default();
        String::from_utf8(bytes).unwrap()
    }

    /// Returns the mount points in the conf of a container as one node sees it.
    pub fn mounts(&self, on: &str, id: u32) -> Vec<String> {
        let conf = self.conf(on, id);
        conf.lines().filter(|line| line.starts_with("mp")).map(str::to_owned).collect()
    }

    /// Runs `pct` on a node as an admin would.
    pub fn pct(&self, on: &str, arguments: &[&str]) {
        let output = self.node(on).pct(arguments).unwrap();
        assert!(output.is_success(), "{arguments:?}: {}", output.stderr_text());
    }

    /// Returns where a path of a node really is.
    pub fn host(&self, on: &str, path: &str) -> PathBuf {
        self.node(on).root().join(path.trim_start_matches('/'))
    }

    /// Makes a file of this owner on a node, and the directories above it.
    pub fn file(&self, on: &str, path: &str, owner: u32) -> PathBuf {
        let real = self.host(on, path);
        fs::create_dir_all(real.parent().unwrap()).unwrap();
        fs::write(&real, path).unwrap();
        own(&real, owner, owner);
        real
    }

    /// Returns the owner of a path on a node, if it is there.
    pub fn owner(&self, on: &str, path: &str) -> Option<u32> {
        fs::symlink_metadata(self.host(on, path)).ok().map(|stat| stat.uid())
    }

    /// Returns how often pctd called `pct` on a node.
    pub fn calls(&self, on: &str) -> Vec<PctCall> {
        self.node(on).pct_calls().unwrap()
    }

    /// Expects that every call of `pct` by pctd was for a container of its node, and that no two nodes
    /// were at work on one container at the same time.
    ///
    /// # Panics
    ///
    /// With the call, where it was not so.
    pub fn nobody_acted_elsewhere(&self) {
        let places = self.cluster.places().unwrap();
        let mut at_work: BTreeMap<Ctid, Vec<(SystemTime, SystemTime, &str)>> = BTreeMap::new();
        for name in self.cluster.nodes().keys() {
            for call in self.calls(name) {
                let Some(id) = call.argv.get(1).and_then(|id| id.parse::<Ctid>().ok()) else {
                    continue;
                };
                if ["create", "clone"].contains(&call.argv[0].as_str()) {
                    continue;
                }
                let since = call.began - LOOK_TO_CALL;
                let own = places.iter().filter(|place| place.ctid == id);
                let mut node_at = None;
                let mut was_here = false;
                for place in own {
                    if place.since > call.began {
                        break;
                    }
                    // Where it was before still counts if it left only now.
                    was_here = place.node.as_deref() == Some(name)
                        || place.since >= since && (was_here || node_at == Some(name.as_str()));
                    node_at = place.node.as_deref();
                }
                assert!(was_here, "{name} called {call:?}\n{places:#?}");
                if let (Some(ended), Some(0)) = (call.ended, call.exit) {
                    at_work.entry(id).or_default().push((call.began, ended, name));
                }
            }
        }
        for (id, mut calls) in at_work {
            calls.sort();
            for pair in calls.windows(2) {
                let ((_, ended, first), (began, _, second)) = (pair[0], pair[1]);
                assert!(first == second || ended <= began, "{id}: {pair:?}");
            }
        }
    }
}

impl Drop for Town {
    fn drop(&mut self) {
        for node in self.cluster.nodes().values() {
            for running in node.running() {
                // A monitor that is left behind ends by itself when the directory is gone.
                let _stopped = node.stop_ct(running);
            }
        }
        for place in &self.mounted {
            // What stays mounted only keeps the directory from being removed.
            let _unmounted = unmount(place, UnmountFlags::DETACH);
        }
    }
}

/// Takes from a daemon its watches of everything below a directory, as it would not have noticed.
///
/// # Panics
///
/// The kernel refuses.
pub fn deafen(daemon: &Daemon, below: &Path) {
    let process = Pid::from_raw(i32::try_from(daemon.pid()).unwrap()).unwrap();
    let pidfd = pidfd_open(process, PidfdFlags::empty()).unwrap();
    let inodes = inodes_below(below);
    for fd in fs::read_dir(format!("/proc/{}/fdinfo", daemon.pid())).unwrap() {
        let fd = fd.unwrap();
        let info = fs::read_to_string(fd.path()).unwrap_or_default();
        for line in info.lines().filter(|line| line.starts_with("inotify ")) {
            let field = |name: &str, radix| {
                let text = line.split(' ').find_map(|word| word.strip_prefix(name));
                text.and_then(|text| u64::from_str_radix(text, radix).ok()).unwrap()
            };
            if !inodes.contains(&field("ino:", 16)) {
                continue;
            }
            let number = fd.file_name().to_str().unwrap().parse().unwrap();
            let own = pidfd_getfd(pidfd.as_fd(), number, PidfdGetfdFlags::empty()).unwrap();
            let watch = i32::try_from(field("wd:", 16)).unwrap();
            inotify::remove_watch(&own, watch).unwrap();
        }
    }
}

fn inodes_below(dir: &Path) -> Vec<u64> {
    let mut inodes = vec![fs::metadata(dir).unwrap().ino()];
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            inodes.extend(inodes_below(&entry.path()));
        }
    }
    inodes
}
