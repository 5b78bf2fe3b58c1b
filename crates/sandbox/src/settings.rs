//! The settings of a simulated node, kept in one JSON file so that every run of `pct` sees them.
//!
//! What Proxmox knows of a node elsewhere (storage.cfg, the bridges, how a guest behaves when
//! it is told to halt) and what only a simulation has: how long things take, and faults.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::NodeError;
use crate::faults::{self, Fault, FaultKind};
use crate::file;
use crate::paths::Root;

/// Everything about a node that is not in its `/etc/pve`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The name of this node.
    pub node: String,
    /// The other nodes of its cluster; none is a standalone node.
    #[serde(default)]
    pub peers: Vec<String>,
    /// The storages, by id.
    pub storages: BTreeMap<String, Storage>,
    /// The network bridges that exist.
    pub bridges: BTreeSet<String>,
    /// How long things take.
    #[serde(default)]
    pub timings: Timings,
    /// Whether its Proxmox is older than maps of single mounts (pve-container 6.1.6).
    #[serde(default)]
    pub before_mount_maps: bool,
    /// Whether containers run for real, under lxc.
    #[serde(default)]
    pub real_containers: bool,
    /// What guests do when they are told to halt; others react at once.
    #[serde(default)]
    pub guests: BTreeMap<String, Guest>,
    /// What goes wrong next.
    #[serde(default)]
    pub faults: Vec<Fault>,
    /// The program that holds a running container: `pctd-sandbox`, or whatever gives its
    /// arguments to [`crate::program::internal`].
    #[serde(default)]
    pub program: Option<PathBuf>,
}

/// A storage of the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Storage {
    /// Its type, which decides the features.
    pub kind: StorageKind,
    /// Its directory, as a host path.
    pub path: String,
}

/// The types of storages the model knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StorageKind {
    /// A directory: raw images, no snapshots.
    Dir,
    /// Btrfs: raw images with snapshots.
    Btrfs,
}

/// How long things take, and how long is waited for a lock.
///
/// The defaults make everything but a lock wait immediate; a demonstration sets the real ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timings {
    /// Before a command does anything (Perl needs about 900 ms to get there).
    pub command_ms: u64,
    /// How long a command waits for the flock of a conf (`PVE::AbstractConfig::lock_config`).
    pub lock_ms: u64,
    /// How long create and clone wait for it to reserve an id (`create_and_lock_config`).
    pub reserve_lock_ms: u64,
    /// From `lock: create` to the nearly complete conf: formatting and unpacking.
    pub create_unpack_ms: u64,
    /// From there to the final conf: setup of the guest's files.
    pub create_setup_ms: u64,
    /// Copying one volume of a clone.
    pub clone_copy_ms: u64,
    /// From the command socket to a running init.
    pub start_ms: u64,
    /// From the end of init to the post-stop hook.
    pub stop_ms: u64,
    /// Between the answer to a failed start and its post-stop hook (0.8 s were seen).
    pub failed_start_hook_ms: u64,
    /// What one second of a `--timeout` takes; 1000, but a test may be in a hurry.
    pub second_ms: u64,
    /// `vzdump`: before the archive is made, with `lock: backup`.
    pub vzdump_ms: u64,
    /// `pct restore`: before the new disks are made, with `lock: create` in the old conf.
    pub restore_disks_ms: u64,
    /// `pct restore`: before the archive is unpacked, when the old disks are gone.
    pub restore_extract_ms: u64,
    /// For how long a conf is missing while it is replaced (`pmxcfs` shows a few ms of ENOENT).
    pub rename_gap_ms: u64,
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            command_ms: 0,
            lock_ms: 10_000,
            reserve_lock_ms: 5_000,
            create_unpack_ms: 0,
            create_setup_ms: 0,
            clone_copy_ms: 0,
            start_ms: 0,
            stop_ms: 0,
            failed_start_hook_ms: 0,
            second_ms: 1000,
            vzdump_ms: 0,
            restore_disks_ms: 0,
            restore_extract_ms: 0,
            rename_gap_ms: 0,
        }
    }
}

impl Timings {
    /// Returns how long so many seconds of a `--timeout` are.
    pub(crate) fn seconds(&self, seconds: u64) -> Duration {
        Duration::from_millis(self.second_ms.saturating_mul(seconds))
    }
}

/// What a guest does when it is told to halt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Guest {
    /// It halts at once.
    #[default]
    Obedient,
    /// It halts after so many milliseconds.
    Slow(u64),
    /// It ignores the signal.
    Deaf,
}

impl Settings {
    /// Returns the storages as Proxmox keeps them in `/etc/pve/storage.cfg`.
    pub(crate) fn storage_cfg(&self) -> String {
        let section = |(id, storage): (&String, &Storage)| {
            let kind = match storage.kind {
                StorageKind::Dir => "dir",
                StorageKind::Btrfs => "btrfs",
            };
            format!("{kind}: {id}\n\tpath {}\n\tcontent backup,rootdir,vztmpl\n\n", storage.path)
        };
        self.storages.iter().map(section).collect()
    }

    /// Reads the settings of a node.
    pub(crate) fn load(root: &Root) -> Result<Self, NodeError> {
        let path = root.settings();
        let content = std::fs::read(&path).map_err(|error| NodeError::io(&path, error))?;
        serde_json::from_slice(&content).map_err(|error| NodeError::Settings { path, error })
    }

    /// Takes the fault that hits a run with these arguments, and counts it.
    pub(crate) fn take_fault(root: &Root, argv: &[String]) -> Result<Option<FaultKind>, NodeError> {
        if Self::load(root)?.faults.is_empty() {
            return Ok(None);
        }
        Self::update(root, |settings| faults::take(&mut settings.faults, argv))
    }

    /// Changes the settings; no other process can change them in between.
    pub(crate) fn update<T>(
        root: &Root,
        change: impl FnOnce(&mut Self) -> T,
    ) -> Result<T, NodeError> {
        let lock = root.state("settings.lock");
        let _held = file::exclusive(&lock).map_err(|error| NodeError::io(&lock, error))?;
        let mut settings = Self::load(root)?;
        let before = settings.clone();
        let result = change(&mut settings);
        if settings != before {
            settings.store(root)?;
        }
        Ok(result)
    }

    /// Writes the settings.
    pub(crate) fn store(&self, root: &Root) -> Result<(), NodeError> {
        let path = root.settings();
        let mut text = serde_json::to_vec_pretty(self)
            .map_err(|error| NodeError::Settings { path: path.clone(), error })?;
        text.push(b'\n');
        file::replace(&path, &text).map_err(|error| NodeError::io(&path, error))
    }
}
