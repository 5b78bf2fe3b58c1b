//! A conversion of a container between privileged and unprivileged, as far as it has come.
//!
//! Proxmox can only restore a backup with the other privilege, and removes the old disks before it
//! unpacks that backup. So every phase is entered before it is begun: what a crash or a failure
//! leaves is the container as it was, or its checked backup, and the ledger knows which.

use serde::{Deserialize, Serialize};

use crate::ids::Ctid;
use crate::ledger::LedgerEntry;

/// A conversion that has begun and is not over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conversion {
    /// What the container is to be.
    pub unprivileged: bool,
    /// Whether it ran before, so that it has to run again.
    pub was_running: bool,
    /// What was begun last.
    #[serde(flatten)]
    pub phase: ConversionPhase,
}

/// What was begun last; whether it was done, the node tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "snake_case")]
pub enum ConversionPhase {
    /// It is stopped.
    Stopping,
    /// It is backed up, and the backup checked. A backup that a crash leaves is not used: nobody
    /// knows what the container did after it.
    BackingUp {
        /// Of a restore that was cut off before: until there is another backup, this one may be all
        /// there is.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        earlier: Option<Backup>,
    },
    /// It is restored from this backup. From some moment on there is nothing else of it.
    Restoring {
        /// What it is restored from.
        backup: Backup,
    },
    /// That failed and the container was lost; it is restored as it was.
    RollingBack {
        /// What it is restored from.
        backup: Backup,
        /// What the conversion failed of.
        why: String,
    },
    /// It is what it is to be, and is started again where it ran.
    Restored {
        /// What it was restored from.
        backup: Backup,
    },
}

/// What a container is restored from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backup {
    /// The archive, as a path of the node.
    pub archive: String,
    /// The storage its disks were on, and are put on again; without a word Proxmox takes `local`.
    pub disks: String,
}

impl Conversion {
    /// Returns the backup that may be all there is of the container.
    pub const fn backup(&self) -> Option<&Backup> {
        match &self.phase {
            ConversionPhase::Restoring { backup } | ConversionPhase::RollingBack { backup, .. } => {
                Some(backup)
            }
            ConversionPhase::BackingUp { earlier } => earlier.as_ref(),
            // With the last one the container is there again.
            ConversionPhase::Stopping | ConversionPhase::Restored { .. } => None,
        }
    }

    /// Returns the backup of a restore that was cut off, if a stopped container that is as before may
    /// have lost its disks: Proxmox frees them while the conf still names them. One that was rolled
    /// back is there, since that restore began when nothing else was.
    pub const fn cut_off(&self) -> Option<&Backup> {
        match &self.phase {
            ConversionPhase::RollingBack { .. } => None,
            _ => self.backup(),
        }
    }

    /// Returns how it ends with a whole container that is unprivileged or is not.
    pub fn end(&self, ctid: Ctid, is_unprivileged: bool) -> LedgerEntry {
        let is_reached = is_unprivileged == self.unprivileged;
        match &self.phase {
            ConversionPhase::Restoring { backup }
            | ConversionPhase::RollingBack { backup, .. }
            | ConversionPhase::Restored { backup }
                if is_reached =>
            {
                LedgerEntry::Converted { ctid, archive: backup.archive.clone() }
            }
            ConversionPhase::RollingBack { backup, why } => {
                let Backup { archive, disks } = backup;
                let why = format!(
                    "{why}; it was restored as it was from {archive}, and `pvesm list {disks} --vmid {ctid}` may show disks that it does not use"
                );
                LedgerEntry::ConvertFailed { ctid, why }
            }
            _ => LedgerEntry::ConvertEnded(ctid),
        }
    }
}
