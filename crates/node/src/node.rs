//! One node as the daemon holds it: where it is, what was done on it, and what is done.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use pctd_core::conf::{Digest, RawEdit};
use pctd_core::desired::{Certificate, Settings, Volume};
use pctd_core::ids::Ctid;
use pctd_core::observed::ObservedPair;
use pctd_core::ownership::OwnershipRule;

use crate::answers::{Answers, NoAnswer};
use crate::backup::{self, BackupError, Vzdump};
use crate::certificate::{self, CertificateError, NewPair};
use crate::conf_edit::{self, ConfEditError};
use crate::ledger::LedgerStore;
use crate::mapping::Mapping;
use crate::paths::NodePaths;
use crate::pct::Pct;
use crate::source::{self, CreateError, Created, FreshMode};
use crate::walks::WalkError;

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
    pub(crate) paths: NodePaths,
    options: RwLock<NodeOptions>,
    ledger: Mutex<LedgerStore>,
    pub(crate) answers: Answers,
    pub(crate) mapping: Arc<Mapping>,
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

    pub(crate) fn options(&self) -> NodeOptions {
        self.options.read().unwrap_or_else(PoisonError::into_inner).clone()
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

    /// Returns the node's `pct`, as the settings have it by now.
    pub fn pct(&self) -> Pct {
        let NodeOptions { pct, pct_env, pct_timeout, .. } = self.options();
        Pct { env: pct_env, ..Pct::new(pct.unwrap_or_else(|| self.paths.pct()), pct_timeout) }
    }
}
