//! What a walk tells of itself: how far it is, and in the end what it found and did.

use pctd_core::observed::Audit;

/// How far a walk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Entries looked at so far.
    pub entries: u64,
    /// Of those, entries that differ or differed.
    pub changes: u64,
    /// Entries looked at per second, since the walk began.
    pub rate: u64,
}

/// What a walk found and did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WalkReport {
    /// What was found, before anything was changed.
    pub audit: Audit,
    /// Entries that were changed.
    pub changed: u64,
    /// The walk was ended from outside; the root directory was not touched.
    pub cancelled: bool,
    /// The repair ended at [`super::Walk::max_changes`]; the root directory was not touched.
    pub limited: bool,
    /// The file system refuses to change owners or modes.
    pub unsupported: Option<Unsupported>,
    /// Why what was to be changed could not be recorded; nothing was changed after that.
    pub unrecorded: Option<String>,
}

impl WalkReport {
    /// Returns whether everything there is was looked at.
    pub fn came_to_its_end(&self) -> bool {
        !self.cancelled && !self.limited && self.unrecorded.is_none()
    }

    /// Returns whether everything there is was looked at and, in a repair, put right.
    pub fn is_complete(&self) -> bool {
        self.came_to_its_end() && self.unsupported.is_none() && self.audit.errors == 0
    }
}

/// A file system on which owners or modes cannot be changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsupported {
    /// Its type, as in mountinfo.
    pub kind: String,
    /// What the kernel said to the first attempt.
    pub message: String,
    /// How many entries it refused; the walk ends early when it refuses all of them.
    pub entries: u64,
}
