//! The effects of pctd on a Proxmox VE node: everything that reads or changes the machine.
//!
//! Blocking code: the daemon calls it from its blocking pool. What is decided here is only what
//! has to be decided at the moment of the system call; what is wanted and what follows from it is
//! `pctd-core`'s.
//!
//! - [`paths`]: where everything lies, below `--root`.
//! - [`pve`]: `/etc/pve`: whether pmxcfs can be believed, where a container is, its conf.
//! - `process`: processes, and which of them are the node's own.
//! - [`procfs`]: held flocks, running containers, their id maps in force.
//! - [`accounts`]: the host's users and groups.
//! - `acl`: ACLs of open files.
//! - [`backup`]: a backup for a conversion: what stands against it, made with `vzdump`, read to its end.
//! - `conf_edit`: raw lines of a conf, written without `pct`; `subids`: what root may map.
//! - [`making`]: what has to be known before a container is made.
//! - `mapping`: whether ids can be mapped for single mounts.
//! - `storages`: the storages of Proxmox that are directories.
//! - `mounts`: mount points and file systems of open directories.
//! - [`source`]: the host path of a volume, reached safely, opened once, made where missing.
//! - `look`: one entry by its path, for an explanation.
//! - `answers`: asking about a host path without waiting for ever.
//! - [`certificate`]: certificates in a volume, looked at, made and put in place.
//! - [`walk`](mod@walk): the ownership of everything in a volume, looked at or repaired; `walks`:
//!   without waiting for ever.
//! - `bookmark`: where a walk was that was interrupted, so that the next one goes on from there.
//! - [`trace`]: what a walk leaves behind, to tell after a restart what it need not look at first.
//! - [`undo`]: what was changed in a volume, on record, and taken back.
//! - [`watch`]: drift below a volume, noticed and put right as it happens.
//! - [`textfile`]: a file for other programs, replaced whole.
//! - [`trusted`]: files that decide what root does, read where nobody else can have written them.
//! - [`pct`]: the `pct` program.
//! - [`ledger`]: what pctd did, on disk; the lock of the node.
//!
//! [`Node`] ties them together; it is what the daemon holds. Every method reads the node anew and
//! remembers nothing but the ledger. No file of a volume stays open between calls: an admin must
//! be able to unmount it.

pub mod accounts;
mod acl;
mod answers;
pub mod backup;
mod bookmark;
pub mod certificate;
mod conf_edit;
pub mod ledger;
mod look;
pub mod making;
mod mapping;
mod mounts;
pub mod paths;
pub mod pct;
mod process;
pub mod procfs;
pub mod pve;
mod raw_source;
pub mod source;
mod stat;
mod storages;
mod subids;
pub mod textfile;
pub mod trace;
pub mod trusted;
pub mod undo;
pub mod walk;
mod walks;
pub mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use pctd_core::conf::{Conf, Digest, MountLine, RawEdit};
use pctd_core::desired::{Certificate, Mechanism, Settings, Volume};
use pctd_core::ids::Ctid;
use pctd_core::observed::{
    Accounts, BadSource, ConvertFacts, MakingFacts, MappingFacts, MappingSupport, NodeState,
    ObservedCertificates, ObservedContainer, ObservedEntry, ObservedPair, ObservedVolume, Presence,
    Running, SourceState, TemplateState,
};
use pctd_core::ownership::OwnershipRule;
use pctd_core::presence::Verdict;
use pctd_core::subids::SubIds;
use pctd_core::vmlist::Fingerprint;
use rustix::io::Errno;

pub use crate::answers::{NoAnswer, PATIENCE};
pub use crate::backup::{BackupError, Vzdump};
pub use crate::bookmark::Bookmark;
pub use crate::certificate::{CertificateError, NewPair};
pub use crate::conf_edit::ConfEditError;
pub use crate::ledger::{LedgerError, LedgerStore, LockError, NodeLock};
pub use crate::paths::NodePaths;
pub use crate::pct::{Exit, Limits, Pct, PctClass, PctError, RemoveWhat};
pub use crate::pve::ConfVersion;
pub use crate::source::{CreateError, Created, FreshMode, OpenVolume};
pub use crate::trace::Trace;
pub use crate::undo::{Recorder, UndoError, UndoRequest, Undone};
pub use crate::walk::{
    FdBudget, Progress, Shifting, Unsupported, Walk, WalkMode, WalkReport, WalkRule,
};
pub use crate::walks::{WalkError, WalkRequest};
pub use crate::watch::{News, Watcher};

use crate::answers::{Answers, Question};
use crate::mapping::Mapping;
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
    answers: Answers,
    mapping: Arc<Mapping>,
}

/// What is to be put in place, and instead of what.
#[derive(Debug, Clone, Copy)]
pub struct InstallRequest<'a> {
    /// The volume.
    pub volume: &'a Volume,
    /// What its entries are to be.
    pub rule: &'a OwnershipRule,
    /// The file system it must be on (`FileSystem::id`).
    pub file_system: &'a str,
    /// The certificate that is declared.
    pub certificate: &'a Certificate,
    /// What was there when that was decided.
    pub before: &'a ObservedPair,
}

/// Why a certificate was not put in place.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The volume is not what it was.
    #[error(transparent)]
    Volume(#[from] WalkError),
    /// The files.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The file system does not answer.
    #[error("cannot put a certificate into {path}")]
    NoAnswer {
        /// The host path.
        path: String,
        /// How long it was waited for.
        source: NoAnswer,
    },
}

impl Node {
    /// Returns the node at these paths, with its ledger read.
    pub fn open(paths: NodePaths, options: NodeOptions) -> Self {
        let ledger = Mutex::new(LedgerStore::load(&paths));
        let (answers, mapping) = (Answers::default(), Arc::default());
        Self { paths, options: RwLock::new(options), ledger, answers, mapping }
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

    /// Returns which content of its conf a container has, to tell later whether it is the same.
    ///
    /// # Errors
    ///
    /// The reason, with the path, why it cannot be told.
    pub fn conf_version(&self, ctid: Ctid) -> Result<ConfVersion, String> {
        pve::version(&self.paths, ctid)
    }

    /// Returns the confs of these containers, each on the node that `.vmlist` names for it.
    pub fn confs_elsewhere<'n>(
        &self,
        containers: impl IntoIterator<Item = (Ctid, &'n str)>,
    ) -> BTreeMap<Ctid, Result<Conf, String>> {
        let read = |(ctid, node)| (ctid, pve::conf_elsewhere(&self.paths, node, ctid));
        containers.into_iter().map(read).collect()
    }

    /// Returns the host's users and groups.
    ///
    /// # Errors
    ///
    /// Their files cannot be read.
    pub fn accounts(&self) -> io::Result<Accounts> {
        accounts::read(&self.paths)
    }

    /// Looks at the host paths of these volumes and the certificates declared for them, and waits for
    /// none for ever.
    pub fn observe_volumes<'a>(
        &self,
        volumes: impl IntoIterator<Item = &'a Volume>,
    ) -> Vec<ObservedVolume> {
        let question = |volume: &Volume| -> Question<ObservedVolume> {
            let (paths, path) = (self.paths.clone(), volume.host_path.clone());
            let (place, require_mount) = (path.clone(), volume.require_mount.clone());
            let declared = volume.certificates.clone();
            let mapping = volume.maps_ids().then(|| Arc::clone(&self.mapping));
            let made = |by: Mechanism| volume.mounts.values().any(|mount| mount.mechanism == by);
            let whole = made(Mechanism::Lxc { recursive: true });
            let by_lxc = whole || made(Mechanism::Lxc { recursive: false });
            let wants_acl = volume.default_acl.as_ref().is_some_and(|acl| !acl.is_none());
            let look = move || {
                let (source, open) = source::open_at(&paths, &place, &require_mount);
                let opened = open.as_ref().filter(|_| by_lxc);
                let nested = opened.and_then(|open| raw_source::nested(open, &place));
                let mapping_whole = match &open {
                    Some(open) if whole && mapping.is_some() && nested.is_some() => {
                        mapping::of_tree(open.fd())
                    }
                    _ => MappingSupport::NotAsked,
                };
                let mapping = mapping.map_or(MappingSupport::NotAsked, |known| {
                    mapping_of(&known, &paths, &place, &source, open.as_ref())
                });
                let certificates = match &open {
                    Some(open) if !declared.is_empty() => certificate::observe(open, &declared),
                    _ => ObservedCertificates::default(),
                };
                let no_acl = wants_acl
                    .then(|| no_acl(&paths, &place, &source, open.as_ref()))
                    .flatten()
                    .map(|errno| errno.to_string());
                let found = ObservedVolume::new(source);
                ObservedVolume { certificates, mapping, mapping_whole, nested, no_acl, ..found }
            };
            (path, Box::new(look))
        };
        let found = self.answers.ask_all(volumes.into_iter().map(question).collect());
        let volume = |found: Result<ObservedVolume, NoAnswer>| {
            let unknown = |error: NoAnswer| SourceState::Unreadable(error.to_string());
            found.unwrap_or_else(|error| ObservedVolume::new(unknown(error)))
        };
        found.into_iter().map(volume).collect()
    }

    /// Returns what is known for maps of single mounts.
    pub fn mapping_facts(&self) -> MappingFacts {
        self.mapping.facts(&self.paths, &self.pct())
    }

    /// Makes a key and a certificate in memory.
    ///
    /// # Errors
    ///
    /// [`CertificateError`].
    pub fn generate_certificate(
        &self,
        certificate: &Certificate,
    ) -> Result<NewPair, CertificateError> {
        certificate::generate(certificate)
    }

    /// Puts a key and a certificate in place of what was there before.
    ///
    /// # Errors
    ///
    /// [`InstallError`]; the key may be in place already, and where the file system did not answer,
    /// both may be later.
    pub fn install_certificate(
        &self,
        request: &InstallRequest<'_>,
        new: &NewPair,
    ) -> Result<(), InstallError> {
        let InstallRequest { volume, rule, file_system, certificate, before } = *request;
        let (paths, place) = (self.paths.clone(), volume.clone());
        let (rule, certificate, before) = (rule.clone(), certificate.clone(), before.clone());
        let (file_system, new) = (file_system.to_owned(), new.clone());
        let install = move || -> Result<(), InstallError> {
            let path = || place.host_path.clone();
            let open = match source::open(&paths, &place) {
                (_, Some(open)) => open,
                (state, None) => return Err(WalkError::Source { path: path(), state }.into()),
            };
            let found = open.file_system().id.clone();
            if found != file_system {
                let expected = file_system.clone();
                return Err(WalkError::FileSystemChanged { path: path(), expected, found }.into());
            }
            Ok(certificate::install(&open, &rule, &certificate, &new, &before)?)
        };
        self.answers.ask(&volume.host_path, install).unwrap_or_else(|source| {
            Err(InstallError::NoAnswer { path: volume.host_path.clone(), source })
        })
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
        let (paths, place) = (self.paths.clone(), volume.host_path.clone());
        let expected = expected.to_owned();
        let made = self
            .answers
            .ask(&volume.host_path, move || source::create(&paths, &place, &expected, fresh));
        made.unwrap_or_else(|source| {
            Err(CreateError::NoAnswer { path: volume.host_path.clone(), source })
        })
    }

    /// Returns what is known for making containers: where these templates are, and at which of
    /// these containers, whose confs say that they are being made, a task is at work.
    pub fn making_facts<'t>(
        &self,
        templates: impl IntoIterator<Item = &'t str>,
        suspects: &BTreeSet<Ctid>,
    ) -> MakingFacts {
        // Their storage may be on a server that is down.
        let names: Vec<&str> = templates.into_iter().collect();
        let question = |name: &&str| -> Question<TemplateState> {
            let (paths, name) = (self.paths.clone(), (*name).to_owned());
            (name.clone(), Box::new(move || making::template(&paths, &name)))
        };
        let found = self.answers.ask_all(names.iter().map(question).collect());
        let found = found
            .into_iter()
            .map(|state| state.unwrap_or_else(|error| TemplateState::Unknown(error.to_string())));
        MakingFacts {
            clustered: making::is_clustered(&self.paths),
            templates: names.into_iter().map(str::to_owned).zip(found).collect(),
            at_work: making::at_work(&self.paths, &self.pct().program, suspects),
            cloning: BTreeSet::new(),
        }
    }

    /// Returns which ids of the host root may give to containers.
    pub fn sub_ids(&self) -> SubIds {
        subids::read(&self.paths)
    }

    /// Returns the boot of the machine; empty where the kernel does not say.
    pub fn boot_id(&self) -> String {
        let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
        id.map(|id| id.trim().to_owned()).unwrap_or_default()
    }

    /// Edits raw lines of a container's conf, if that still is the one with this digest.
    ///
    /// # Errors
    ///
    /// [`ConfEditError`]; only after [`ConfEditError::NoAnswer`] the edit may be made all the same.
    pub fn edit_conf(
        &self,
        ctid: Ctid,
        digest: Digest,
        edit: &RawEdit,
    ) -> Result<(), ConfEditError> {
        let path = self.paths.pve();
        let pve = self.pve().map_err(|reason| ConfEditError::Io {
            path: path.clone(),
            source: io::Error::other(reason),
        })?;
        let node = pve.cluster.node;
        let conf = self.paths.conf(&node, ctid);
        let request = conf_edit::Request {
            paths: self.paths.clone(),
            node,
            ctid,
            digest,
            edit: edit.clone(),
        };
        let abandoned = Arc::new(AtomicBool::new(false));
        let begun = Instant::now();
        let theirs = Arc::clone(&abandoned);
        let made = self.answers.follow(
            &path.to_string_lossy(),
            move || conf_edit::make(&request, &theirs),
            || {
                let is_over = begun.elapsed() >= conf_edit::WRITE_PATIENCE;
                abandoned.store(is_over, Ordering::Release);
                is_over
            },
        );
        made.unwrap_or_else(|source| Err(ConfEditError::NoAnswer { path: conf, source }))
    }

    /// Looks at what is `below` a directory of the node, for an explanation.
    pub fn look_at(&self, source: &str, below: &str) -> ObservedEntry {
        let paths = self.paths.clone();
        let (source, below) = (source.to_owned(), below.to_owned());
        let path = format!("{source}/{below}");
        let look = move || look::at(&paths, &source, &below);
        self.answers
            .ask(&path, look)
            .unwrap_or_else(|error| ObservedEntry::Unreadable(error.to_string()))
    }

    /// Returns what stands against the conversions of these containers beside their confs; the
    /// storages are those their backups are to be put on.
    pub fn convert_facts(
        &self,
        node: &str,
        storages: &BTreeMap<Ctid, String>,
    ) -> BTreeMap<Ctid, ConvertFacts> {
        backup::facts(&self.paths, node, storages)
    }

    /// Reads a backup to its end.
    ///
    /// # Errors
    ///
    /// [`BackupError`]; it is not to be relied on.
    pub fn check_backup(
        &self,
        archive: &str,
        unprivileged: bool,
        stop: &AtomicBool,
    ) -> Result<u64, BackupError> {
        backup::check(&self.paths.host(archive), unprivileged, stop)
    }

    /// Returns the node's `vzdump`.
    pub fn vzdump(&self) -> Vzdump {
        Vzdump::new(Pct { program: self.paths.vzdump(), ..self.pct() })
    }

    /// Returns whether a container would start with this bind source: a directory that is reached
    /// without a link (`PVE::LXC::walk_tree_nofollow_fd`).
    pub fn is_bind_source(&self, path: &str) -> bool {
        let (paths, place) = (self.paths.clone(), path.to_owned());
        self.answers.ask(path, move || source::is_directory(&paths, &place)).unwrap_or(false)
    }

    /// Returns why a container would not start with the mount of a raw line.
    pub fn fault_of(&self, line: &MountLine, is_unprivileged: bool) -> Option<BadSource> {
        let (paths, place, path) = (self.paths.clone(), line.clone(), line.source.to_string());
        let found =
            self.answers.ask(&path, move || raw_source::fault(&paths, &place, is_unprivileged));
        found.unwrap_or(Some(BadSource::Missing(path)))
    }

    /// Returns the node's `pct`, as the settings have it by now.
    pub fn pct(&self) -> Pct {
        let NodeOptions { pct, pct_env, pct_timeout, .. } = self.options();
        Pct { env: pct_env, ..Pct::new(pct.unwrap_or_else(|| self.paths.pct()), pct_timeout) }
    }
}

/// Asks whether a volume can be mounted with mapped ids, or could once its directory is made.
fn mapping_of(
    known: &Mapping,
    paths: &NodePaths,
    path: &str,
    source: &SourceState,
    open: Option<&OpenVolume>,
) -> MappingSupport {
    match (source, open) {
        (_, Some(open)) => known.of(open.fd(), open.file_system()),
        (SourceState::Missing { file_system }, None) => match source::nearest(paths, path) {
            Some(dir) => known.of(dir.as_fd(), file_system),
            None => MappingSupport::NotAsked,
        },
        _ => MappingSupport::NotAsked,
    }
}

/// Asks whether a volume's file system keeps default ACLs; returns what it says where it does not.
fn no_acl(
    paths: &NodePaths,
    path: &str,
    source: &SourceState,
    open: Option<&OpenVolume>,
) -> Option<Errno> {
    match (source, open) {
        (_, Some(open)) => acl::refusal(open.fd()),
        (SourceState::Missing { .. }, None) => {
            source::nearest(paths, path).and_then(|dir| acl::refusal(dir.as_fd()))
        }
        _ => None,
    }
}

fn here(ctid: Ctid, bytes: &[u8], flock_held: bool, running: Running) -> Presence {
    match Conf::parse(ctid, bytes) {
        Ok(conf) => Presence::Here(Box::new(ObservedContainer { conf, flock_held, running })),
        Err(error) => Presence::Unknown(error.to_string()),
    }
}
