//! The cluster file system: confs below `/etc/pve` and the counters that tell of changes.
//!
//! `pmxcfs` numbers every change of a guest's conf in `/etc/pve/.vmlist` (one number for the
//! list, one for each guest) and names its own start in `/etc/pve/.version`; after a restart the
//! counters begin again. There are two of it:
//!
//! - plain files, which is fast: the counters are replaced as a whole under a lock of the sandbox's
//!   own, and a conf that something else edits is found by [`Pmxcfs::refresh`];
//! - a file system of its own, served by a process (`server`) that behaves as the real one
//!   (`rules` over `tree`, `fuse` for the kernel, `store` for what outlives it).

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::hash::{Hash, Hasher};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::process::Pid;
use serde::{Deserialize, Serialize};

use crate::cluster::shared::Shared;
use crate::error::NodeError;
use crate::file;
use crate::launch::READY;
use crate::paths::Root;
use crate::settings::Settings;

mod fuse;
mod lists;
mod rules;
pub(crate) mod server;
mod store;
mod tree;

use lists::Listed;
pub(crate) use server::Request;

/// The first argument that makes the program the server of a node's `/etc/pve`.
pub(crate) const SERVER: &str = "internal-pmxcfs";

/// The cluster file system of a node.
#[derive(Debug, Clone)]
pub struct Pmxcfs {
    root: Root,
}

/// What the counters stand at.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Counters {
    starttime: u64,
    clinfo: u64,
    vmlist: u64,
    guests: BTreeMap<u32, Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    node: String,
    kind: String,
    version: u64,
    content: u64,
}

/// The kinds of guests, as directory and as `.vmlist` names them.
const KINDS: [(&str, &str); 2] = [("lxc", "lxc"), ("qemu-server", "qemu")];

impl Pmxcfs {
    /// Returns the cluster file system of the node with this root.
    pub const fn new(root: Root) -> Self {
        Self { root }
    }

    /// Returns whether it is mounted: a stopped `pmxcfs` leaves an empty directory behind.
    pub(crate) fn is_up(&self) -> bool {
        self.root.etc_pve().join(".version").exists()
    }

    /// Returns whether writes are possible, as Proxmox tests it: by the `w` bit of
    /// `/etc/pve/local` (`PVE::Cluster::check_cfs_quorum`).
    pub(crate) fn is_quorate(&self, node: &str) -> bool {
        let dir = self.root.etc_pve().join("nodes").join(node);
        fs::metadata(dir).is_ok_and(|meta| meta.permissions().mode() & 0o200 != 0)
    }

    /// Returns which node has a guest, and of what kind.
    pub(crate) fn owner(&self, id: &str) -> Option<(String, &'static str)> {
        for node in self.nodes() {
            for (dir, kind) in KINDS {
                if self.root.guests(&node, dir).join(format!("{id}.conf")).exists() {
                    return Some((node, kind));
                }
            }
        }
        None
    }

    fn nodes(&self) -> Vec<String> {
        let Ok(dir) = fs::read_dir(self.root.etc_pve().join("nodes")) else { return Vec::new() };
        let mut nodes: Vec<String> =
            dir.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        nodes.sort();
        nodes
    }

    /// Writes a conf as Proxmox does: a temporary file beside it, then a rename
    /// (`PVE::Tools::file_set_contents`).
    pub(crate) fn write(
        &self,
        node: &str,
        id: &str,
        content: &[u8],
        gap: Duration,
    ) -> io::Result<()> {
        let is_new = !self.root.conf(node, id).exists();
        self.change_tree(node, id, &|root| {
            // An id is one guest's in the whole cluster.
            if Self::new(root.clone()).owner(id).is_some_and(|(owner, _)| owner != node) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            put_conf(&root.conf(node, id), content, gap)
        })?;
        if is_new { self.note(id, Some(node)) } else { Ok(()) }
    }

    /// Removes a conf.
    pub(crate) fn remove(&self, node: &str, id: &str) -> io::Result<()> {
        self.change_tree(node, id, &|root| fs::remove_file(root.conf(node, id)))?;
        self.note(id, None)
    }

    /// Makes a change here, or wherever this node's changes show.
    fn change_tree(
        &self,
        node: &str,
        id: &str,
        make: &dyn Fn(&Root) -> io::Result<()>,
    ) -> io::Result<()> {
        match Shared::of(&self.root)? {
            Some(shared) => shared.change(node, Some(id), make),
            None if !self.is_quorate(node) => Err(io::ErrorKind::PermissionDenied.into()),
            None => {
                make(&self.root)?;
                self.touched(id).map_err(io::Error::other)
            }
        }
    }

    /// Notes in a cluster where a guest is from now on.
    fn note(&self, id: &str, node: Option<&str>) -> io::Result<()> {
        match Shared::of(&self.root)? {
            Some(shared) => shared.note(id, node),
            None => Ok(()),
        }
    }

    /// Returns the name of the temporary file a write uses, for its error message.
    pub(crate) fn tmp_name(node: &str, id: &str) -> String {
        format!("/etc/pve/nodes/{node}/lxc/{id}.conf.tmp.{}", std::process::id())
    }

    /// Counts a change of one guest, even when its content is the same; a process that serves it
    /// has done so.
    pub(crate) fn touched(&self, id: &str) -> Result<(), NodeError> {
        if self.is_served() {
            return Ok(());
        }
        self.change(|this, counters| {
            let Ok(id) = id.parse::<u32>() else { return };
            if let Some(entry) = counters.guests.get_mut(&id) {
                entry.content = 0;
            }
            this.scan(counters);
        })
    }

    /// Finds confs that were edited, added, moved or removed directly, and counts them.
    ///
    /// Returns whether there was any.
    pub fn refresh(&self) -> Result<bool, NodeError> {
        if self.is_served() {
            return Ok(false);
        }
        self.change(Self::scan)
    }

    /// Begins anew, as a restarted `pmxcfs` does: another start time, all counters at 1.
    pub(crate) fn restart(&self) -> Result<(), NodeError> {
        self.change(|this, counters| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            *counters = Counters {
                starttime: now.max(counters.starttime + 1),
                clinfo: counters.clinfo + 1,
                ..Counters::default()
            };
            this.scan(counters);
        })
    }

    /// Returns whether a process serves it, and not plain files.
    pub(crate) fn is_served(&self) -> bool {
        self.root.cluster_store().exists()
    }

    /// Starts the process that serves it, and waits until it is mounted.
    pub(crate) fn launch(&self, program: &Path) -> Result<(), NodeError> {
        let failed = |error| NodeError::io(program, error);
        let log = self.root.path().join("run/pve/pmxcfs.stderr");
        let log = fs::File::create(&log).map_err(|error| NodeError::io(&log, error))?;
        let mut child = Command::new(program)
            .args([SERVER.as_ref(), self.root.path().as_os_str()])
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .map_err(failed)?;
        let mut answer = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut answer).map_err(failed)?;
        }
        // It outlives this process; a caller that stays reaps it.
        std::thread::spawn(move || child.wait());
        if answer.trim() == READY {
            return Ok(());
        }
        let why = fs::read_to_string(self.root.path().join("run/pve/pmxcfs.stderr"));
        Err(NodeError::Conflict(why.unwrap_or_default().trim().to_owned()))
    }

    /// Asks the process that serves it for something.
    pub(crate) fn ask(&self, request: &Request) -> Result<(), NodeError> {
        server::ask(&self.root, request).map_err(|error| NodeError::io(&self.root.etc_pve(), error))
    }

    /// Returns the process that serves it.
    pub(crate) fn server(&self) -> Option<Pid> {
        let pid = file::read(&self.root.pmxcfs_pid()).ok().flatten()?;
        Pid::from_raw(String::from_utf8(pid).ok()?.trim().parse().ok()?)
    }

    fn change<T>(&self, change: impl FnOnce(&Self, &mut Counters) -> T) -> Result<T, NodeError> {
        let lock = self.root.state("pmxcfs.lock");
        let _held = file::exclusive(&lock).map_err(|error| NodeError::io(&lock, error))?;
        let path = self.root.state("pmxcfs.json");
        let state = file::read(&path).map_err(|error| NodeError::io(&path, error))?;
        let mut counters: Counters =
            state.and_then(|state| serde_json::from_slice(&state).ok()).unwrap_or_default();
        let before = counters.clone();
        let result = change(self, &mut counters);
        if counters != before && self.root.etc_pve().join("nodes").exists() {
            let state = serde_json::to_vec(&counters)
                .map_err(|error| NodeError::Settings { path: path.clone(), error })?;
            // Shown first: what a writer that is killed in between leaves is found again by the next.
            self.publish(&counters)?;
            file::replace(&path, &state).map_err(|error| NodeError::io(&path, error))?;
        }
        Ok(result)
    }

    /// Compares the directories with the counters; returns whether anything differed.
    fn scan(&self, counters: &mut Counters) -> bool {
        let mut found = BTreeMap::new();
        for node in self.nodes() {
            for (dir, kind) in KINDS {
                for (id, content) in confs(&self.root.guests(&node, dir)) {
                    found.insert(id, (node.clone(), kind, content));
                }
            }
        }
        let mut changed = false;
        let mut guests = BTreeMap::new();
        for (id, (node, kind, content)) in found {
            let same = counters.guests.remove(&id).filter(|entry| {
                entry.node == node && entry.kind == kind && entry.content == content
            });
            let entry = same.unwrap_or_else(|| {
                changed = true;
                counters.vmlist += 1;
                Entry { node, kind: kind.to_owned(), version: counters.vmlist, content }
            });
            guests.insert(id, entry);
        }
        if !counters.guests.is_empty() {
            changed = true;
            counters.vmlist += 1;
        }
        counters.guests = guests;
        changed
    }

    /// Writes `.vmlist`, `.version` and `.members` in the form `pmxcfs` gives them.
    fn publish(&self, counters: &Counters) -> Result<(), NodeError> {
        let listed = counters.guests.iter().map(|(id, guest)| Listed {
            id: *id,
            node: &guest.node,
            kind: &guest.kind,
            version: guest.version,
        });
        let vmlist = lists::vmlist(counters.vmlist, listed);
        let files = [("corosync.conf", 1), ("storage.cfg", 1), ("datacenter.cfg", 1)];
        let version =
            lists::version(counters.starttime, counters.clinfo, counters.vmlist, files.into_iter());
        self.put(".vmlist", &vmlist)?;
        self.put(".version", &version)
    }

    /// Writes `.members`: a standalone node has no `cluster` object and always a quorum.
    pub(crate) fn publish_members(
        &self,
        settings: &Settings,
        quorate: bool,
        offline: &BTreeSet<String>,
    ) -> Result<(), NodeError> {
        let text = lists::members(&settings.node, &settings.peers, quorate, offline);
        self.put(".members", &text)
    }

    /// Replaces a virtual file; its temporary file lies outside of `/etc/pve`, which shows none.
    fn put(&self, name: &str, text: &str) -> Result<(), NodeError> {
        let path = self.root.etc_pve().join(name);
        let tmp = self.root.state(&format!("put{name}"));
        let written = fs::write(&tmp, text).and_then(|()| fs::rename(&tmp, &path));
        written.map_err(|error| NodeError::io(&path, error))
    }
}

/// Replaces a conf, which nobody finds for as long as `gap` says.
fn put_conf(path: &Path, content: &[u8], gap: Duration) -> io::Result<()> {
    let tmp = path.with_extension(format!("conf.tmp.{}", std::process::id()));
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        // What pmxcfs shows for every conf.
        .mode(0o640)
        .open(&tmp)
        .and_then(|mut file| file.write_all(content));
    let result = written.and_then(|()| {
        if !gap.is_zero() && path.exists() {
            fs::remove_file(path)?;
            std::thread::sleep(gap);
        }
        fs::rename(&tmp, path)
    });
    if result.is_err() {
        // The first error is the one to report.
        let _ = fs::remove_file(&tmp);
    }
    result
}

/// Returns the confs of a directory with a mark of their content.
///
/// Names that are no plain number without a leading zero are no guests (`abc.conf`, `0120.conf`).
fn confs(dir: &Path) -> Vec<(u32, u64)> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name();
            let id = guest_id(name.to_str()?.strip_suffix(".conf")?)?;
            let mut hasher = DefaultHasher::new();
            fs::read(entry.path()).ok()?.hash(&mut hasher);
            // 0 is kept for "count it whatever it is".
            Some((id, hasher.finish() | 1))
        })
        .collect()
}

/// Reads the id in a file name.
pub(crate) fn guest_id(name: &str) -> Option<u32> {
    let plain = name.bytes().all(|byte| byte.is_ascii_digit()) && !name.starts_with('0');
    plain.then(|| name.parse().ok()).flatten()
}
