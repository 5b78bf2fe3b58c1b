//! A simulated node as a test or a demonstration handles it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use pctd_core::ids::Ctid;
use rustix::fs::Mode;

use crate::error::NodeError;
use crate::faults::Fault;
use crate::paths::Root;
use crate::pmxcfs::Pmxcfs;
use crate::settings::{Guest, Settings, Storage, StorageKind, Timings};
use crate::storage::Storages;

mod cluster_fs;
mod confs;
mod containers;

pub use cluster_fs::Served;

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
}

fn make_dir(dir: &Path) -> Result<(), NodeError> {
    fs::create_dir_all(dir).map_err(|error| NodeError::io(dir, error))
}
