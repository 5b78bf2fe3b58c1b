//! What `undo` prints.

use serde::{Deserialize, Serialize};

use super::REPORT_VERSION;
use crate::ids::VolumeName;
use crate::undo::{PassKind, Tally};

/// What `undo` prints; `undo --list` without a volume prints a list of these.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct UndoReport {
    /// The version of the document, 1.
    pub version: u32,
    /// The volume.
    pub volume: VolumeName,
    /// With `--list` all passes that can be taken back, else those that were, the newest first.
    pub passes: Vec<PassReport>,
    /// In a list of all volumes: whether it is not in the configuration (any more).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub undeclared: bool,
    /// What became of their entries; with `--dry-run`, what would. Not with `--list`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undone: Option<UndoneReport>,
}

/// A pass that changed something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct PassReport {
    /// What `--back-to` takes: when it began, in microseconds since 1970.
    pub pass: u64,
    /// The same as people write it.
    pub begun: String,
    /// What made it.
    pub by: PassKind,
    /// How many changes it recorded.
    pub entries: u64,
    /// Whether it came to its end, so that nothing is added to it any more.
    pub whole: bool,
    /// The size of its record.
    pub bytes: u64,
}

/// What an undo came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct UndoneReport {
    /// Whether it was only counted.
    pub dry_run: bool,
    /// Whether the records are gone, because nothing of them is left to do.
    pub done: bool,
    /// Whether it was ended before it was through; the same command goes on.
    pub cancelled: bool,
    /// What became of the entries.
    #[serde(flatten)]
    pub tally: Tally,
}

impl UndoReport {
    /// Returns a report of these passes.
    pub fn new(volume: VolumeName, passes: Vec<PassReport>, undone: Option<UndoneReport>) -> Self {
        Self { version: REPORT_VERSION, volume, passes, undeclared: false, undone }
    }
}
