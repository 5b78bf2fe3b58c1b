//! What `shift` prints.

use serde::{Deserialize, Serialize};

use super::REPORT_VERSION;
use crate::ids::{HostIds, VolumeName};
use crate::observed::Audit;
use crate::shift::Shift;

/// What `shift` prints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ShiftReport {
    /// The version of the document, 1.
    pub version: u32,
    /// The volume.
    pub volume: VolumeName,
    /// Which ids become which.
    pub shift: Shift,
    /// Whether it was only counted.
    pub dry_run: bool,
    /// Whether it was ended before it was through; the same command goes on.
    pub cancelled: bool,
    /// How many entries there are.
    pub entries: u64,
    /// How many of them had ids to be shifted.
    pub to_shift: u64,
    /// How many were shifted.
    pub changed: u64,
    /// How many had ids of the range others are shifted to, from an earlier shift or otherwise.
    pub in_target: u64,
    /// How many would be given to somebody else afterwards, by what is declared. With any the shift is
    /// refused.
    pub in_conflict: u64,
    /// Files that lose setuid, setgid or capabilities.
    pub privileges: u64,
    /// Entries that have other names, which change with them.
    pub hard_links: u64,
    /// Other file systems below, which are not entered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nested_mounts: Vec<String>,
    /// Entries that could not be looked at or changed.
    pub errors: u64,
    /// The first of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub first_errors: Vec<String>,
    /// A few entries that are shifted.
    pub examples: Vec<ShiftedReport>,
}

/// An entry that is shifted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ShiftedReport {
    /// Its path below the directory of the volume.
    pub path: String,
    /// Whose it was.
    pub before: HostIds,
    /// Whose it is then.
    pub after: HostIds,
}

impl ShiftReport {
    /// Returns a report of what a look at the volume found, nothing being changed yet.
    pub fn new(volume: VolumeName, shift: Shift, dry_run: bool, audit: &Audit) -> Self {
        Self {
            version: REPORT_VERSION,
            volume,
            shift,
            dry_run,
            cancelled: false,
            entries: audit.entries,
            to_shift: audit.changes,
            changed: 0,
            in_target: 0,
            in_conflict: 0,
            privileges: audit.privileges,
            hard_links: audit.hard_links,
            nested_mounts: audit.nested_mounts.clone(),
            errors: audit.errors,
            first_errors: audit.first_errors.clone(),
            examples: Vec::new(),
        }
    }
}
