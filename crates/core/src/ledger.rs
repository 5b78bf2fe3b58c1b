//! The ledger: what pctd itself did, so that it can tell its own work from everybody else's.
//!
//! Only data here; `pctd-node` keeps it on disk, atomic and synced.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::ids::{Ctid, HostIds, MpKey, VolumeName};

/// The version of the file's format.
pub const LEDGER_VERSION: u32 = 1;

/// What pctd remembers across restarts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ledger {
    /// [`LEDGER_VERSION`].
    pub version: u32,
    /// The mounts pctd wrote, exactly as they stood in the conf afterwards.
    #[serde(default)]
    pub mounts: BTreeMap<Ctid, BTreeMap<MpKey, String>>,
    /// The volumes whose ownership was brought to the declaration.
    #[serde(default)]
    pub volumes: BTreeMap<VolumeName, VolumeRecord>,
    /// Containers that were here once.
    #[serde(default)]
    pub seen: BTreeSet<Ctid>,
}

impl Default for Ledger {
    fn default() -> Self {
        Self {
            version: LEDGER_VERSION,
            mounts: BTreeMap::new(),
            volumes: BTreeMap::new(),
            seen: BTreeSet::new(),
        }
    }
}

/// A volume that was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeRecord {
    /// The declaration and the maps it was done for (`plan::declaration`).
    pub declaration: String,
    /// The owner that was set, if one was declared.
    pub owner: Option<HostIds>,
    /// The file system it was on ([`crate::observed::FileSystem::id`]).
    pub file_system: String,
}

/// A change of the ledger, made when the step it records has been seen to be in place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LedgerEntry {
    /// pctd wrote this mount; the value is what the conf held when it was read back.
    MountWritten {
        /// The container.
        ctid: Ctid,
        /// The key.
        key: MpKey,
        /// The value as stored.
        value: String,
    },
    /// A volume was found to be as declared after a complete walk.
    VolumeDone {
        /// The volume.
        volume: VolumeName,
        /// What to remember of it.
        record: VolumeRecord,
    },
    /// A container is here.
    Seen(Ctid),
}

impl Ledger {
    /// Enters a change; returns whether it changed anything.
    pub fn enter(&mut self, entry: LedgerEntry) -> bool {
        match entry {
            LedgerEntry::MountWritten { ctid, key, value } => {
                let mounts = self.mounts.entry(ctid).or_default();
                mounts.insert(key, value.clone()) != Some(value)
            }
            LedgerEntry::VolumeDone { volume, record } => {
                self.volumes.insert(volume, record.clone()) != Some(record)
            }
            LedgerEntry::Seen(ctid) => self.seen.insert(ctid),
        }
    }
}
