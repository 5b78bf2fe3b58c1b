//! A shift as a rule of a walk, and what it comes to besides what every walk counts.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use pctd_core::ids::HostIds;
use pctd_core::ownership::{EntryStat, OwnershipRule, Place, mode_after_chown};
use pctd_core::shift::Shift;

/// How many entries are named.
const NAMED: usize = 5;

/// A shift, and what was seen of it so far.
#[derive(Debug)]
pub struct Shifting {
    shift: Shift,
    /// What is declared for the entries, if anything is.
    declared: Option<OwnershipRule>,
    in_target: AtomicU64,
    in_conflict: AtomicU64,
    examples: Mutex<Vec<ShiftedEntry>>,
}

/// An entry that is shifted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShiftedEntry {
    /// Its path below the root of the volume, for people.
    pub path: String,
    /// Whose it is.
    pub before: HostIds,
    /// Whose it will be.
    pub after: HostIds,
}

/// What was seen of a shift.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Seen {
    /// Entries that are of the range others are shifted to: an earlier shift's, or somebody's whom
    /// they cannot be told from afterwards.
    pub in_target: u64,
    /// Entries that what is declared would give to somebody else after the shift.
    pub in_conflict: u64,
    /// A few that are shifted.
    pub examples: Vec<ShiftedEntry>,
}

impl Shifting {
    /// Returns a shift in a volume for which this is declared.
    pub fn new(shift: Shift, declared: Option<OwnershipRule>) -> Self {
        let (in_target, in_conflict) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { shift, declared, in_target, in_conflict, examples: Mutex::default() }
    }

    /// Returns the shift.
    pub const fn shift(&self) -> Shift {
        self.shift
    }

    /// Takes note of an entry, once for each.
    pub(super) fn see(&self, place: Place<'_>, stat: &EntryStat, path: impl FnOnce() -> String) {
        let Some(change) = self.shift.decide(stat) else {
            let is_target = self.shift.reaches(stat.ids);
            self.in_target.fetch_add(u64::from(is_target), Ordering::Relaxed);
            return;
        };
        let ids = change.owner.unwrap_or(stat.ids);
        let after = EntryStat { ids, mode: mode_after_chown(stat), ..*stat };
        let again = self.declared.as_ref().and_then(|rule| rule.decide(place, &after));
        let is_in_conflict = again.is_some_and(|change| change.owner.is_some());
        self.in_conflict.fetch_add(u64::from(is_in_conflict), Ordering::Relaxed);
        let mut examples = self.examples.lock().unwrap_or_else(PoisonError::into_inner);
        if examples.len() < NAMED {
            examples.push(ShiftedEntry { path: path(), before: stat.ids, after: ids });
        }
    }

    /// Returns what was seen.
    pub fn seen(&self) -> Seen {
        let examples = self.examples.lock().unwrap_or_else(PoisonError::into_inner);
        Seen {
            in_target: self.in_target.load(Ordering::Relaxed),
            in_conflict: self.in_conflict.load(Ordering::Relaxed),
            examples: examples.clone(),
        }
    }
}
