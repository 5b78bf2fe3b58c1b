//! A simulated node as a test or a demonstration handles it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pctd_core::ids::Ctid;
use rustix::fs::Mode;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Signal, kill_process, test_kill_process};

use crate::calls::{self, PctCall};
use crate::context::Context;
use crate::error::NodeError;
use crate::faults::Fault;
use crate::flock::{self, FlockGuard};
use crate::output::{Output, Streams};
use crate::paths::Root;
use crate::pct;
use crate::perl::Locale;
use crate::pmxcfs::{Pmxcfs, Request};
use crate::real;
use crate::running::{self, Mounted};
use crate::settings::{Guest, Settings, Storage, StorageKind, Timings};
use crate::storage::Storages;

/// How often the watcher looks for confs that were edited directly.
const WATCH_INTERVAL: Duration = Duration::from_millis(20);

/// How long a process may take to end once it is told to.
const PATIENCE: Duration = Duration::from_secs(5);

/// The ids root may map (subuid(5)): Proxmox's default, and one more as an admin adds for a hole.
const SUB_IDS: &str = "root:100000:65536\nroot:1000:1\n";

/// What dpkg says of the installed Proxmox (deb-status(5)): the version the rules are of, and an LXC
/// of its time.
const PACKAGES: &str = "\
Package: lxc-pve
Status: install ok installed
Version: 6.0.5-4

Package: pve-container
Status: install ok installed
Version: 6.1.10

";

/// The templates of a new node.
const TEMPLATES: [&str; 2] = ["tiny.tar.gz", "tiny.tar.zst"];

/// What a new node is like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeOptions {
    /// Its name.
    pub name: String,
    /// The other nodes of its cluster.
    pub peers: Vec<String>,
    /// Whether `/etc/pve` is a file system of its own, as on a real node, served by a process that
    /// [`Node::start_pmxcfs`] starts.
    pub fuse: bool,
    /// Whether containers run for real, under lxc; see [`Node::missing_for_containers`].
    pub real_containers: bool,
    /// How long things take.
    pub timings: Timings,
    /// The program that holds running containers; see [`crate::program::internal`].
    pub program: Option<PathBuf>,
}

impl Default for NodeOptions {
    fn default() -> Self {
        Self {
            name: "vm".into(),
            peers: Vec::new(),
            fuse: false,
            real_containers: false,
            timings: Timings::default(),
            program: None,
        }
    }
}

/// A simulated node in a directory.
#[derive(Debug, Clone)]
pub struct Node {
    root: Root,
}

impl Node {
    /// Makes a node in a directory, which may exist but has no node yet.
    ///
    /// It has the storages `local` (a directory) and `bt` (with snapshots), the bridge `vmbr0`,
    /// two templates, and no container.
    pub fn create(dir: impl AsRef<Path>, options: NodeOptions) -> Result<Self, NodeError> {
        let root = Root::new(dir);
        if root.settings().exists() {
            return Err(NodeError::Conflict(format!(
                "{} is a node already",
                root.path().display()
            )));
        }
        let storage = |kind, path: &str| Storage { kind, path: path.to_owned() };
        let settings = Settings {
            node: options.name,
            peers: options.peers,
            storages: BTreeMap::from([
                ("local".to_owned(), storage(StorageKind::Dir, "/var/lib/vz")),
                ("bt".to_owned(), storage(StorageKind::Btrfs, "/mnt/bt")),
            ]),
            bridges: BTreeSet::from(["vmbr0".to_owned()]),
            timings: options.timings,
            before_mount_maps: false,
            real_containers: options.real_containers,
            guests: BTreeMap::new(),
            faults: Vec::new(),
            program: options.program,
        };
        let node = Self { root };
        node.lay_out(&settings, options.fuse)?;
        Ok(node)
    }

    /// Opens the node in a directory.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, NodeError> {
        let node = Self { root: Root::new(dir) };
        Settings::load(&node.root)?;
        Ok(node)
    }

    fn lay_out(&self, settings: &Settings, fuse: bool) -> Result<(), NodeError> {
        let pve = if fuse { self.root.cluster_store() } else { self.root.etc_pve() };
        for node in std::iter::once(&settings.node).chain(&settings.peers) {
            for kind in ["lxc", "qemu-server"] {
                make_dir(&pve.join("nodes").join(node).join(kind))?;
            }
        }
        if fuse {
            self.make_mount_point()?;
        } else {
            self.make_links(&settings.node)?;
        }
        for dir in [
            "run/lock/lxc",
            "run/pve",
            "var/lib/lxc",
            "var/log",
            "var/lib/dpkg",
            "var/lib/pctd-sandbox",
            "usr/bin",
            "usr/sbin",
            "usr/bin",
            "srv",
            "mnt/bt/images",
        ] {
            make_dir(&self.root.path().join(dir))?;
        }
        for dir in ["images", "template/cache", "snippets"] {
            make_dir(&self.root.path().join("var/lib/vz").join(dir))?;
        }
        for template in TEMPLATES {
            self.put(&format!("var/lib/vz/template/cache/{template}"), "")?;
        }
        for name in ["etc/subuid", "etc/subgid"] {
            self.put(name, SUB_IDS)?;
        }
        // Nobody runs them here; that they are there says that these files count.
        for name in ["newuidmap", "newgidmap"] {
            self.put(&format!("usr/bin/{name}"), "")?;
        }
        // A directory that has a Debian in it has a list of its own.
        if !self.root.path().join("var/lib/dpkg/status").exists() {
            self.put("var/lib/dpkg/status", PACKAGES)?;
        }
        settings.store(&self.root)?;
        let storage_cfg = pve.join("storage.cfg");
        fs::write(&storage_cfg, settings.storage_cfg())
            .map_err(|error| NodeError::io(&storage_cfg, error))?;
        if fuse {
            return Ok(());
        }
        self.pmxcfs().publish_members(settings, true, &BTreeSet::new())?;
        self.pmxcfs().restart()
    }

    fn make_links(&self, own: &str) -> Result<(), NodeError> {
        let links = [
            ("local", String::new()),
            ("lxc", "/lxc".into()),
            ("qemu-server", "/qemu-server".into()),
        ];
        for (name, below) in links {
            let link = self.root.etc_pve().join(name);
            symlink(format!("nodes/{own}{below}"), &link)
                .map_err(|error| NodeError::io(&link, error))?;
        }
        Ok(())
    }

    /// Makes `/etc/pve` as it is while nothing is mounted there.
    fn make_mount_point(&self) -> Result<(), NodeError> {
        let pve = self.root.etc_pve();
        fs::create_dir_all(&pve)
            .and_then(|()| {
                let dir = File::open(&pve)?;
                Ok(rustix::fs::fchmod(&dir, Mode::from_raw_mode(0o750))?)
            })
            .map_err(|error| NodeError::io(&pve, error))
    }

    fn put(&self, name: &str, content: &str) -> Result<(), NodeError> {
        let path = self.root.path().join(name);
        fs::write(&path, content).map_err(|error| NodeError::io(&path, error))
    }

    /// Returns the directory: what `pctd --root` takes.
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// Returns where everything is.
    pub const fn paths(&self) -> &Root {
        &self.root
    }

    /// Returns the cluster file system.
    pub fn pmxcfs(&self) -> Pmxcfs {
        Pmxcfs::new(self.root.clone())
    }

    /// Returns the settings.
    pub fn settings(&self) -> Result<Settings, NodeError> {
        Settings::load(&self.root)
    }

    /// Changes the settings.
    pub fn update_settings(&self, change: impl FnOnce(&mut Settings)) -> Result<(), NodeError> {
        Settings::update(&self.root, change)
    }

    /// Puts the programs into `DIR/usr/sbin` and `DIR/usr/bin`, as links to `program`, which also holds running
    /// containers from now on.
    ///
    /// `program` is one that dispatches on its name, with [`crate::program::main`].
    pub fn install_programs(&self, program: impl AsRef<Path>) -> Result<(), NodeError> {
        let program = std::path::absolute(&program)
            .map_err(|error| NodeError::io(program.as_ref(), error))?;
        for name in ["sbin/pct", "sbin/pctd", "bin/vzdump"] {
            let link = self.root.path().join("usr").join(name);
            match fs::remove_file(&link) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(NodeError::io(&link, error));
                }
                _ => {}
            }
            symlink(&program, &link).map_err(|error| NodeError::io(&link, error))?;
        }
        self.update_settings(|settings| settings.program = Some(program))
    }

    /// Returns the path of a container's conf on this node.
    pub fn conf_path(&self, ctid: Ctid) -> Result<PathBuf, NodeError> {
        Ok(self.root.conf(&self.settings()?.node, &ctid.to_string()))
    }

    /// Reads a container's conf, wherever in the cluster it is; `None` if there is none.
    pub fn read_conf(&self, ctid: Ctid) -> Result<Option<Vec<u8>>, NodeError> {
        let Some((node, "lxc")) = self.pmxcfs().owner(&ctid.to_string()) else { return Ok(None) };
        let path = self.root.conf(&node, &ctid.to_string());
        crate::file::read(&path).map_err(|error| NodeError::io(&path, error))
    }

    /// Writes a conf on this node as an editor does: without Proxmox's flock, whatever it says.
    pub fn write_conf(&self, ctid: Ctid, content: impl AsRef<[u8]>) -> Result<(), NodeError> {
        let id = ctid.to_string();
        let own = self.settings()?.node;
        if let Some((node, kind)) =
            self.pmxcfs().owner(&id).filter(|(node, kind)| *node != own || *kind != "lxc")
        {
            return Err(NodeError::Conflict(format!("{id} is a guest of {node} ({kind}) already")));
        }
        let path = self.root.conf(&own, &id);
        self.pmxcfs()
            .write(&own, &id, content.as_ref(), Duration::ZERO)
            .map_err(|error| NodeError::io(&path, error))
    }

    /// Writes the conf of a virtual machine on this node.
    pub fn write_vm_conf(&self, id: Ctid, content: impl AsRef<[u8]>) -> Result<(), NodeError> {
        let path =
            self.root.guests(&self.settings()?.node, "qemu-server").join(format!("{id}.conf"));
        crate::file::replace(&path, content.as_ref())
            .map_err(|error| NodeError::io(&path, error))?;
        self.pmxcfs().touched(&id.to_string())
    }

    /// Removes a conf of this node.
    pub fn remove_conf(&self, ctid: Ctid) -> Result<(), NodeError> {
        let (path, node) = (self.conf_path(ctid)?, self.settings()?.node);
        let removed = self.pmxcfs().remove(&node, &ctid.to_string());
        removed.map_err(|error| NodeError::io(&path, error))
    }

    /// Moves a container's conf to another node of the cluster, as a migration does.
    pub fn move_to(&self, ctid: Ctid, node: &str) -> Result<(), NodeError> {
        let id = ctid.to_string();
        let owner = self.pmxcfs().owner(&id);
        let (from, _) = owner.ok_or_else(|| NodeError::Conflict(format!("{id} is on no node")))?;
        let path = self.root.conf(node, &id);
        make_dir(&self.root.guests(node, "lxc"))?;
        fs::rename(self.root.conf(&from, &id), &path)
            .map_err(|error| NodeError::io(&path, error))?;
        self.pmxcfs().touched(&id)
    }

    /// Holds the flock of a conf, as another writer would, until the guard is dropped.
    pub fn hold_flock(&self, ctid: Ctid) -> Result<FlockGuard, NodeError> {
        let path = self.root.flock(&ctid.to_string());
        flock::hold(&path).map_err(|error| NodeError::io(&path, error))
    }

    /// Takes the quorum away, or gives it back: `.members`, and the `w` bits Proxmox goes by.
    ///
    /// `pct` refuses to write without it. A process of root that writes directly is kept from it
    /// only by a file system of its own, as the real one is.
    pub fn set_quorum(&self, quorate: bool) -> Result<(), NodeError> {
        if self.pmxcfs().is_served() {
            return self.pmxcfs().ask(&Request::Quorum(quorate));
        }
        let peers = if quorate { Vec::new() } else { self.settings()?.peers };
        self.show_quorum(quorate, &peers.into_iter().collect())
    }

    /// Shows whether there is a quorum, and which nodes are not reached.
    pub(crate) fn show_quorum(
        &self,
        quorate: bool,
        offline: &BTreeSet<String>,
    ) -> Result<(), NodeError> {
        let settings = self.settings()?;
        self.pmxcfs().publish_members(&settings, quorate, offline)?;
        let (dirs, files) = if quorate { (0o755, 0o640) } else { (0o555, 0o440) };
        for node in std::iter::once(&settings.node).chain(&settings.peers) {
            let mut paths = vec![self.root.etc_pve().join("nodes").join(node)];
            for kind in ["lxc", "qemu-server"] {
                let dir = self.root.guests(node, kind);
                let confs = fs::read_dir(&dir).map_err(|error| NodeError::io(&dir, error))?;
                paths.extend(confs.flatten().map(|entry| entry.path()));
                paths.push(dir);
            }
            for path in paths {
                let file = match File::open(&path) {
                    Ok(file) => file,
                    // The temporary file of somebody who is just writing a conf.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    Err(error) => return Err(NodeError::io(&path, error)),
                };
                let is_dir = file.metadata().is_ok_and(|meta| meta.is_dir());
                let mode = Mode::from_raw_mode(if is_dir { dirs } else { files });
                rustix::fs::fchmod(&file, mode)
                    .map_err(|error| NodeError::io(&path, error.into()))?;
            }
        }
        Ok(())
    }

    /// Stops the cluster file system: `/etc/pve` is an empty local directory then.
    pub fn stop_pmxcfs(&self) -> Result<(), NodeError> {
        if self.pmxcfs().is_served() {
            return self.end_pmxcfs(Signal::TERM);
        }
        let (pve, aside) = (self.root.etc_pve(), self.aside());
        fs::rename(&pve, &aside).map_err(|error| NodeError::io(&pve, error))?;
        self.make_mount_point()
    }

    /// Kills the process that serves the cluster file system: nothing below `/etc/pve` answers
    /// until it is unmounted, or the process is started again.
    pub fn kill_pmxcfs(&self) -> Result<(), NodeError> {
        self.end_pmxcfs(Signal::KILL)
    }

    /// Unmounts what a killed process left behind, and leaves the bare mount point.
    pub fn unmount_pmxcfs(&self) -> Result<(), NodeError> {
        let pve = self.root.etc_pve();
        unmount(&pve, UnmountFlags::DETACH).map_err(|errno| NodeError::io(&pve, errno.into()))
    }

    fn end_pmxcfs(&self, signal: Signal) -> Result<(), NodeError> {
        let pid = self.root.pmxcfs_pid();
        let gone = || NodeError::Conflict("no process serves /etc/pve".into());
        let server = self.pmxcfs().server().ok_or_else(gone)?;
        kill_process(server, signal).map_err(|errno| NodeError::io(&pid, errno.into()))?;
        let deadline = Instant::now() + PATIENCE;
        while test_kill_process(server).is_ok() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        fs::remove_file(&pid).map_err(|error| NodeError::io(&pid, error))
    }

    /// Starts it again: everything is back, the counters begin anew.
    pub fn start_pmxcfs(&self) -> Result<(), NodeError> {
        if self.pmxcfs().is_served() {
            let none = || NodeError::Conflict("install the programs of the node first".into());
            let program = self.settings()?.program.ok_or_else(none)?;
            return self.pmxcfs().launch(&program);
        }
        let (pve, aside) = (self.root.etc_pve(), self.aside());
        fs::remove_dir(&pve)
            .and_then(|()| fs::rename(&aside, &pve))
            .map_err(|error| NodeError::io(&pve, error))?;
        self.pmxcfs().restart()
    }

    /// Writes a file below `/etc/pve` on another node of the cluster: nothing on this node is told.
    ///
    /// As the rest of what another node does, only where `/etc/pve` is a file system of its own.
    pub fn peer_write(&self, path: &str, content: impl Into<Vec<u8>>) -> Result<(), NodeError> {
        self.pmxcfs().ask(&Request::Write(path.into(), content.into()))
    }

    /// Removes a file below `/etc/pve` on another node.
    pub fn peer_remove(&self, path: &str) -> Result<(), NodeError> {
        self.pmxcfs().ask(&Request::Remove(path.into()))
    }

    /// Renames a file below `/etc/pve` on another node.
    pub fn peer_rename(&self, from: &str, to: &str) -> Result<(), NodeError> {
        self.pmxcfs().ask(&Request::Rename(from.into(), to.into()))
    }

    /// Lets every open of a file below `/etc/pve` fail with "no such file" until it is shown
    /// again: what a reader may meet for some milliseconds while somebody renames over it.
    pub fn hide_from_open(&self, path: Option<&str>) -> Result<(), NodeError> {
        self.pmxcfs().ask(&Request::Hide(path.map(Into::into)))
    }

    /// Lets everything below `/etc/pve` fail with an input/output error, or no longer.
    pub fn fail_pmxcfs(&self, fails: bool) -> Result<(), NodeError> {
        self.pmxcfs().ask(&Request::Fail(fails))
    }

    pub(crate) fn aside(&self) -> PathBuf {
        self.root.path().join("etc/.pve-stopped")
    }

    /// Makes `.vmlist` unreadable as JSON until the next change.
    pub fn spoil_vmlist(&self) -> Result<(), NodeError> {
        let path = self.root.etc_pve().join(".vmlist");
        crate::file::replace(&path, b"{\n\"version\": 1,\n\"ids\": {\n")
            .map_err(|error| NodeError::io(&path, error))
    }

    /// Makes a volume, e.g. `local:100/vm-100-disk-0.raw`.
    pub fn create_volume(&self, volume: &str, bytes: u64) -> Result<(), NodeError> {
        let settings = self.settings()?;
        let storages = Storages::new(&self.root, &settings);
        storages.make(volume, bytes).map_err(|error| NodeError::io(Path::new(volume), error))
    }

    /// Returns all volumes; one of `bt` as the name of its directory, snapshots included.
    pub fn volumes(&self) -> Result<Vec<String>, NodeError> {
        let settings = self.settings()?;
        Ok(Storages::new(&self.root, &settings).list())
    }

    /// Returns the directory that stands for what is in a volume: backed up, restored and freed
    /// with it. Owners in it are the host's.
    pub fn volume_content(&self, volume: &str) -> PathBuf {
        crate::archive::content(&self.root, volume)
    }

    /// Makes a host directory, e.g. `/srv/h1`, and returns where it really is.
    pub fn create_host_dir(&self, path: &str) -> Result<PathBuf, NodeError> {
        let dir = self.root.host(path);
        make_dir(&dir)?;
        Ok(dir)
    }

    /// Sets what a guest does when it is told to halt.
    pub fn set_guest(&self, ctid: Ctid, guest: Guest) -> Result<(), NodeError> {
        self.update_settings(|settings| {
            settings.guests.insert(ctid.to_string(), guest);
        })
    }

    /// Lets something go wrong.
    pub fn inject(&self, fault: Fault) -> Result<(), NodeError> {
        self.update_settings(|settings| settings.faults.push(fault))
    }

    /// Takes back all faults that have not hit yet, and returns them.
    pub fn clear_faults(&self) -> Result<Vec<Fault>, NodeError> {
        Settings::update(&self.root, |settings| std::mem::take(&mut settings.faults))
    }

    /// Runs `pct` in this process, in a UTF-8 locale.
    ///
    /// Such a run is no run of the program: it is not recorded, and no fault hits it.
    ///
    /// # Errors
    ///
    /// Fails only where the node itself is broken; what `pct` refuses is an output.
    pub fn pct<T: Into<OsString>>(
        &self,
        arguments: impl IntoIterator<Item = T>,
    ) -> Result<Output, NodeError> {
        self.pct_in_locale(arguments, "C.UTF-8")
    }

    /// Runs `pct` in this process with this value of `LC_ALL`.
    pub fn pct_in_locale<T: Into<OsString>>(
        &self,
        arguments: impl IntoIterator<Item = T>,
        locale: &str,
    ) -> Result<Output, NodeError> {
        let arguments: Vec<OsString> = arguments.into_iter().map(Into::into).collect();
        let cx = Context::new(self.root.clone(), Streams::new(false))?;
        let locale = Locale::of(|name| (name == "LC_ALL").then(|| locale.to_owned()));
        Ok(pct::run(cx, &arguments, locale))
    }

    /// Starts a container.
    pub fn start_ct(&self, ctid: Ctid) -> Result<Output, NodeError> {
        self.pct(["start", &ctid.to_string()])
    }

    /// Stops a container, if it runs.
    pub fn stop_ct(&self, ctid: Ctid) -> Result<Output, NodeError> {
        self.pct(["stop", &ctid.to_string()])
    }

    /// Returns what this machine lacks to run containers for real, if anything.
    pub fn missing_for_containers() -> Option<&'static str> {
        real::missing()
    }

    /// Runs a shell script inside a real container, as its root.
    pub fn attach(&self, ctid: Ctid, script: &str) -> Result<Output, NodeError> {
        let id = ctid.to_string();
        real::attach(&self.root, &id, script)
            .map_err(|error| NodeError::io(&self.root.lxc(&id), error))
    }

    /// Returns the command that does so, for one that goes on beside the test.
    pub fn inside(&self, ctid: Ctid, script: &str) -> std::process::Command {
        real::inside(&self.root, &ctid.to_string(), script)
    }

    /// Returns whether a container runs.
    pub fn is_running(&self, ctid: Ctid) -> bool {
        running::is_running(&self.root, &ctid.to_string())
    }

    /// Returns the ids of all running containers.
    pub fn running(&self) -> BTreeSet<Ctid> {
        running::list(&self.root).iter().filter_map(|id| id.parse().ok()).collect()
    }

    /// Returns what is mounted inside a running container, in mount order.
    pub fn mounts(&self, ctid: Ctid) -> Vec<Mounted> {
        running::mounts(&self.root, &ctid.to_string())
    }

    /// Returns all runs of the programs `pct` and `vzdump` so far; those of the latter begin with its
    /// name.
    pub fn pct_calls(&self) -> Result<Vec<PctCall>, NodeError> {
        calls::read(&self.root)
    }

    /// Counts direct edits of confs as long as the guard lives, as `pmxcfs` would at once.
    ///
    /// There is nothing to do where a process serves `/etc/pve`: it counts them.
    pub fn serve(&self) -> Served {
        if self.pmxcfs().is_served() {
            return Served { stop: Arc::default(), thread: None };
        }
        let stop = Arc::new(AtomicBool::new(false));
        let (pmxcfs, told) = (self.pmxcfs(), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                // A conf that vanishes while it is read is seen at the next look.
                let _ = pmxcfs.refresh();
                std::thread::sleep(WATCH_INTERVAL);
            }
        });
        Served { stop, thread: Some(thread) }
    }

    /// Returns the mode of the directory by which Proxmox tells a quorum.
    pub fn local_mode(&self) -> Result<u32, NodeError> {
        let path = self.root.etc_pve().join("local");
        let meta = fs::metadata(&path).map_err(|error| NodeError::io(&path, error))?;
        Ok(meta.permissions().mode() & 0o7777)
    }
}

fn make_dir(dir: &Path) -> Result<(), NodeError> {
    fs::create_dir_all(dir).map_err(|error| NodeError::io(dir, error))
}

/// A node whose direct edits are counted; see [`Node::serve`].
#[derive(Debug)]
pub struct Served {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It has nothing to say, and a panic in it was reported already.
            let _ = thread.join();
        }
    }
}
