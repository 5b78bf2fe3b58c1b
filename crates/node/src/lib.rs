//! The effects of pctd on a Proxmox VE node: everything that reads or changes the machine.
//!
//! Blocking code: the daemon calls it from its blocking pool. What is decided here is only what
//! has to be decided at the moment of the system call; what is wanted and what follows from it is
//! `pctd-core`'s.
//!
//! - [`paths`]: where everything lies, below `--root`.
//! - [`pve`]: `/etc/pve`: whether pmxcfs can be believed, where a container is, its conf.
//! - [`procfs`]: held flocks, running containers, their id maps in force.
//! - [`accounts`]: the host's users and groups.
//! - `mounts`: mount points and file systems of open directories.
//! - [`source`]: the host path of a volume, reached safely, opened once, made where missing.
//! - [`walk`](mod@walk): the ownership of everything in a volume, looked at or repaired.
//! - [`watch`]: drift below a volume, noticed and put right as it happens.
//! - [`pct`]: the `pct` program.
//! - [`ledger`]: what pctd did, on disk; the lock of the node.
//!
//! [`Node`] ties them together; it is what the daemon holds. Every method reads the node anew and
//! remembers nothing but the ledger. No file of a volume stays open between calls: an admin must
//! be able to unmount it.

pub mod accounts;
pub mod ledger;
mod mounts;
pub mod paths;
pub mod pct;
pub mod procfs;
pub mod pve;
pub mod source;
mod stat;
pub mod walk;
pub mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use pctd_core::conf::Conf;
use pctd_core::desired::{Settings, Volume};
use pctd_core::ids::{Ctid, MpKey};
use pctd_core::observed::{
    Accounts, Audit, NodeState, ObservedContainer, Presence, Running, SourceState,
};
use pctd_core::ownership::OwnershipRule;
use pctd_core::presence::Verdict;
use pctd_core::vmlist::Fingerprint;

pub use crate::ledger::{LedgerError, LedgerStore, LockError, NodeLock};
pub use crate::paths::NodePaths;
pub use crate::pct::{Exit, Pct, PctClass, PctError};
pub use crate::source::{CreateError, Created, FreshMode, OpenVolume};
pub use crate::walk::{FdBudget, Progress, Unsupported, Walk, WalkMode, WalkReport};
pub use crate::watch::{News, Watcher};

use crate::procfs::{Locks, Sockets};

/// What of the settings concerns the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeOptions {
    /// The `pct` program, if not the node's own.
    pub pct: Option<PathBuf>,
    /// Variables `pct` gets besides `PATH` and `LC_ALL`.
    pub pct_env: Vec<(OsString, OsString)>,
    /// How long a call of `pct` other than a reboot may take.
    pub pct_timeout: Duration,
    /// This node's name, if not what `/etc/pve/local` says.
    pub node: Option<String>,
}

impl Default for NodeOptions {
    fn default() -> Self {
        let Settings { pct_timeout, node, .. } = Settings::default();
        Self { pct: None, pct_env: Vec::new(), pct_timeout, node }
    }
}

/// One node, as the daemon works on it.
#[derive(Debug)]
pub struct Node {
    paths: NodePaths,
    options: RwLock<NodeOptions>,
    ledger: Mutex<LedgerStore>,
}

/// What is to be walked, and how.
#[derive(Clone, Copy)]
pub struct WalkRequest<'a> {
    /// The volume.
    pub volume: &'a Volume,
    /// What its entries are to be.
    pub rule: &'a OwnershipRule,
    /// The file system it must be on (`FileSystem::id`), where the walk was planned for one.
    pub file_system: Option<&'a str>,
    /// Set by anybody to end the walk at the next directory.
    pub cancel: &'a AtomicBool,
    /// Called after every directory.
    pub progress: &'a (dyn Fn(Progress) + Sync),
    /// A repair ends before it would change more entries than this.
    pub max_changes: Option<u64>,
    /// Of what differs, entries changed after this moment count as fresh (`Audit::fresh`).
    pub since: Option<SystemTime>,
}

impl std::fmt::Debug for WalkRequest<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WalkRequest").field("volume", &self.volume.name).finish_non_exhaustive()
    }
}

/// Why a walk was not made, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum WalkError {
    /// The host path is no directory that may be used.
    #[error("{path} cannot be walked: {state:?}")]
    Source {
        /// The host path.
        path: String,
        /// What it is.
        state: SourceState,
    },
    /// It is on another file system than the walk was planned for.
    #[error("{path} is on {found} instead of {expected}")]
    FileSystemChanged {
        /// The host path.
        path: String,
        /// The file system that was planned for.
        expected: String,
        /// The one that is there now.
        found: String,
    },
    /// An audit was cancelled; half of one says nothing.
    #[error("cancelled")]
    Cancelled,
    /// The root directory cannot be read.
    #[error("cannot walk {path}")]
    Io {
        /// The host path.
        path: String,
        /// What the kernel said.
        source: io::Error,
    },
}

impl Node {
    /// Returns the node at these paths, with its ledger read.
    pub fn open(paths: NodePaths, options: NodeOptions) -> Self {
        let ledger = Mutex::new(LedgerStore::load(&paths));
        Self { paths, options: RwLock::new(options), ledger }
    }

    /// Takes other options, as after an edit of the configuration.
    pub fn configure(&self, options: NodeOptions) {
        *self.options.write().unwrap_or_else(PoisonError::into_inner) = options;
    }

    /// Returns where everything lies.
    pub fn paths(&self) -> &NodePaths {
        &self.paths
    }

    /// Returns the ledger.
    pub fn ledger(&self) -> MutexGuard<'_, LedgerStore> {
        // A panic while it was locked cannot have left it half changed: changes replace it whole.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the ledger again: what was read before the lock was taken may be old.
    pub fn reload_ledger(&self) {
        *self.ledger() = LedgerStore::load(&self.paths);
    }

    /// Reads the state of `/etc/pve`, and what to compare with at the next poll.
    pub fn cluster(&self) -> (NodeState, Option<Fingerprint>) {
        match self.pve() {
            Ok(pve::Pve { cluster, fingerprint }) => (NodeState::Up(cluster), Some(fingerprint)),
            Err(reason) => (NodeState::Unknown(reason), None),
        }
    }

    fn pve(&self) -> Result<pve::Pve, String> {
        pve::read(&self.paths, self.options().node.as_deref())
    }

    fn options(&self) -> NodeOptions {
        self.options.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Looks where these containers are, and at those that are here.
    pub fn observe_containers(&self, ctids: &BTreeSet<Ctid>) -> BTreeMap<Ctid, Presence> {
        let observed = self.pve().and_then(|pve| self.observe_in(&pve, ctids));
        observed.unwrap_or_else(|reason| {
            ctids.iter().map(|ctid| (*ctid, Presence::Unknown(reason.clone()))).collect()
        })
    }

    fn observe_in(
        &self,
        pve: &pve::Pve,
        ctids: &BTreeSet<Ctid>,
    ) -> Result<BTreeMap<Ctid, Presence>, String> {
        let proc = |error: io::Error| format!("/proc: {error}");
        // A create holds the flock from before the first conf to after the last one. Only a flock
        // that is free before and after the conf is read says that the conf is whole.
        let before = Locks::read().map_err(proc)?;
        let verdicts = pve::locate_all(&self.paths, pve, ctids.iter().copied());
        let after = Locks::read().map_err(proc)?;
        let sockets = Sockets::read().map_err(proc)?;
        let held = |ctid| -> io::Result<bool> {
            Ok(before.held(&self.paths, ctid)? || after.held(&self.paths, ctid)?)
        };
        let presence = |(ctid, verdict)| {
            let presence = match verdict {
                Verdict::Here(bytes) => match held(ctid) {
                    Ok(held) => here(ctid, &bytes, held, sockets.running(&self.paths, ctid)),
                    Err(error) => Presence::Unknown(format!(
                        "{}: {error}",
                        self.paths.conf_lock(ctid).display()
                    )),
                },
                Verdict::OnNode(node) => Presence::OnNode(node),
                Verdict::Vm => Presence::Vm,
                Verdict::Absent => Presence::Absent,
                Verdict::Unknown(reason) => Presence::Unknown(reason),
            };
            (ctid, presence)
        };
        Ok(verdicts.into_iter().map(presence).collect())
    }

    /// Returns the host's users and groups.
    ///
    /// # Errors
    ///
    /// Their files cannot be read.
    pub fn accounts(&self) -> io::Result<Accounts> {
        accounts::read(&self.paths)
    }

    /// Looks at a volume's host path.
    pub fn observe_source(&self, volume: &Volume) -> SourceState {
        source::observe(&self.paths, volume)
    }

    /// Makes a volume's host path if its place is still on the file system `expected`.
    ///
    /// # Errors
    ///
    /// [`CreateError`].
    pub fn create_directory(
        &self,
        volume: &Volume,
        expected: &str,
    ) -> Result<Created, CreateError> {
        let fresh = if volume.dir_mode.is_keep() { FreshMode::Ordinary } else { FreshMode::Closed };
        source::create(&self.paths, &volume.host_path, expected, fresh)
    }

    /// Counts what in a volume is not as declared; changes nothing.
    ///
    /// # Errors
    ///
    /// [`WalkError`]; entries that could not be looked at are counted instead.
    pub fn audit(&self, request: WalkRequest<'_>) -> Result<Audit, WalkError> {
        let report = self.walk(request, WalkMode::Audit)?;
        if report.cancelled { Err(WalkError::Cancelled) } else { Ok(report.audit) }
    }

    /// Brings a volume to what is declared, its root directory last.
    ///
    /// # Errors
    ///
    /// [`WalkError`]; entries that could not be changed are counted instead.
    pub fn repair(&self, request: WalkRequest<'_>) -> Result<WalkReport, WalkError> {
        self.walk(request, WalkMode::Repair)
    }

    fn walk(&self, request: WalkRequest<'_>, mode: WalkMode) -> Result<WalkReport, WalkError> {
        let WalkRequest { volume, rule, file_system, cancel, progress, max_changes, since } =
            request;
        let path = || volume.host_path.clone();
        let open = match source::open(&self.paths, volume) {
            (_, Some(open)) => open,
            (state, None) => return Err(WalkError::Source { path: path(), state }),
        };
        let found = &open.file_system().id;
        if let Some(expected) = file_system.filter(|expected| expected != found) {
            let (expected, found) = (expected.to_owned(), found.clone());
            return Err(WalkError::FileSystemChanged { path: path(), expected, found });
        }
        let walk = Walk { cancel, progress, max_changes, since, ..Walk::new(mode, rule) };
        walk::walk(&open, walk)
            .map_err(|errno| WalkError::Io { path: path(), source: errno.into() })
    }

    /// Sets one mount point of a container, if its conf still has this digest.
    ///
    /// # Errors
    ///
    /// [`PctError`]; the conf may have been written nevertheless.
    pub fn set_mount(
        &self,
        ctid: Ctid,
        key: MpKey,
        value: &str,
        digest: &str,
    ) -> Result<(), PctError> {
        self.pct().set_mount(ctid, key, value, digest)
    }

    /// Reboots a container, giving its guest `timeout` to shut down; returns when that is over.
    ///
    /// # Errors
    ///
    /// [`PctError`]; the container may be stopped.
    pub fn reboot(&self, ctid: Ctid, timeout: Duration) -> Result<(), PctError> {
        self.pct().reboot(ctid, timeout)
    }

    /// Starts a container.
    ///
    /// # Errors
    ///
    /// [`PctError`].
    pub fn start(&self, ctid: Ctid) -> Result<(), PctError> {
        self.pct().start(ctid)
    }

    /// Returns whether a container would start with this bind source: a directory that is reached
    /// without a link (`PVE::LXC::walk_tree_nofollow_fd`).
    pub fn is_bind_source(&self, path: &str) -> bool {
        source::is_directory(&self.paths, path)
    }

    fn pct(&self) -> Pct {
        let NodeOptions { pct, pct_env, pct_timeout, .. } = self.options();
        Pct { env: pct_env, ..Pct::new(pct.unwrap_or_else(|| self.paths.pct()), pct_timeout) }
    }
}

fn here(ctid: Ctid, bytes: &[u8], flock_held: bool, running: Running) -> Presence {
    match Conf::parse(ctid, bytes) {
        Ok(conf) => Presence::Here(Box::new(ObservedContainer { conf, flock_held, running })),
        Err(error) => Presence::Unknown(error.to_string()),
    }
}
