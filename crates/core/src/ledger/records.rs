//! What the ledger holds of single things.

use serde::{Deserialize, Serialize};

use crate::conf::RawLine;
use crate::ids::HostIds;

/// How pctd makes a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Making {
    /// From a template.
    Create,
    /// As a clone.
    Clone,
}

/// Raw lines that came and went while a container ran, and as what it ran then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Edited {
    /// The boot of the host (`/proc/sys/kernel/random/boot_id`).
    pub boot: String,
    /// The process id of the container's init, where it could be found.
    pub init: Option<u32>,
    /// The lines that came, in their order.
    pub added: Vec<RawLine>,
    /// The lines that went, in their order.
    pub removed: Vec<RawLine>,
}

impl Edited {
    /// Returns what both edits of one run of the container come to; the later one counts for what
    /// the earlier one undid.
    #[must_use]
    pub fn then(self, later: Self) -> Self {
        if (&self.boot, self.init) != (&later.boot, later.init) {
            return later;
        }
        let without = |lines: &[RawLine], others: &[RawLine]| -> Vec<RawLine> {
            lines.iter().filter(|line| !others.contains(line)).cloned().collect()
        };
        let mut added = without(&self.added, &later.removed);
        let mut removed = without(&self.removed, &later.added);
        for (all, first, more) in
            [(&mut added, &self.removed, &later.added), (&mut removed, &self.added, &later.removed)]
        {
            for line in without(more, first) {
                if !all.contains(&line) {
                    all.push(line);
                }
            }
        }
        Self { added, removed, ..later }
    }
}

/// The owner of a directory from which ids on disk are counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskRoot {
    /// The host path of the volume then; another directory is counted anew.
    pub path: String,
    /// The ids that root inside the containers has on disk.
    pub ids: HostIds,
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
    /// Whether the ledger had been lost before, so that for `enforce: once` it is only taken for
    /// granted that every entry was set once; an admin's confirmation sets them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub assumed: bool,
    /// For `enforce: once` the maps of its containers (`plan::rule::maps`): what lies outside of them
    /// is put right ever after, and with other maps other entries do.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub maps: String,
}

/// What pctd made for one domain.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateRecord {
    /// The pair that was put in place last.
    pub made: Option<PairRecord>,
    /// The pairs that were about to be. Each crash in the middle leaves one more, until one is done.
    #[serde(default)]
    pub making: Vec<PairRecord>,
}

/// A key and its certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PairRecord {
    /// The SHA-256 of the key file.
    pub key: String,
    /// The SHA-256 of the certificate file.
    pub certificate: String,
    /// What it is for, the first name being the domain.
    pub names: Vec<String>,
    /// For how many days it was made.
    pub days: u32,
    /// When it expires, in seconds since 1970.
    pub expires: u64,
}
