//! The ownership walk: every entry of a volume against the declared rule, read-only or repairing.
//!
//! A container's root may do anything to the tree while it is walked. So no path is ever used
//! twice: below the volume's open directory everything is relative to open directories, one stat
//! decides, and what is changed is the very inode that was looked at (`entry`). Links are never
//! followed, other mounts never entered, automounts never triggered.
//!
//! The root directory comes last: once it is right, everything below it was dealt with, so a crash
//! on the way only means to walk again: not from the beginning, where it left a bookmark.
//!
//! Big volumes are walked by several threads, which share nothing per entry; how many is declared
//! or found out.
//!
//! - `engine`: the order of things: directories, one after the other, and cancellation. Their names come
//!   in by its `batch`; entries that are no directories are looked at in its `leaf`; what differs is
//!   judged, recorded and changed in its `repair`.
//! - `rule`: what entries are to be; `report`: what a walk tells of itself.
//! - `crew`: the threads of one walk, and how work passes between them.
//! - `pace`: how many of them, and how they step back behind others.
//! - `stack`: the directories on the way down, with a bounded number of them open.
//! - `entry`: one entry: decide, look closer, change.
//! - `due`: entries that wait for their record.
//! - `spot`: one entry that somebody else has opened, for [`crate::watch`].
//! - `shifting`: a shift by a constant as a rule.
//! - `account`: what is kept of a directory for the bookmark of the walk.
//! - `tally`: what is counted and how errors are kept.

mod account;
mod crew;
mod due;
mod engine;
pub(crate) mod entry;
mod pace;
pub(crate) mod report;
pub(crate) mod rule;
mod shifting;
pub(crate) mod spot;
mod stack;
mod tally;

use std::num::NonZeroUsize;
use std::sync::atomic::AtomicBool;
use std::time::SystemTime;

use crate::bookmark::Bookmark;
use crate::trace::Trace;
use crate::undo::Recorder;

pub use self::engine::{walk, walk_below};
pub use self::report::{Progress, Unsupported, WalkReport};
pub use self::rule::{WalkMode, WalkRule};
pub use self::shifting::{Seen, ShiftedEntry, Shifting};
pub use self::stack::FdBudget;

/// How a walk is to be made.
#[derive(Clone, Copy)]
pub struct Walk<'a> {
    /// Look or repair.
    pub mode: WalkMode,
    /// What entries are to be.
    pub rule: WalkRule<'a>,
    /// Set by anybody to end the walk at the next directory.
    pub cancel: &'a AtomicBool,
    /// Called after every directory and every batch of a big one, on the threads of the walk: two
    /// calls may come in either order.
    pub progress: &'a (dyn Fn(Progress) + Sync),
    /// How many directories may be open at once.
    pub fds: FdBudget,
    /// A repair ends before it would change more entries than this.
    pub max_changes: Option<u64>,
    /// Of what differs, entries changed after this moment count as fresh (`Audit::fresh`).
    pub since: Option<SystemTime>,
    /// Whether the watch of the volume puts right what changes while an audit is under way: then
    /// that is not counted as differing.
    pub watched: bool,
    /// Where every directory is noted, as it was before its entries were read.
    pub trace: Option<&'a Trace>,
    /// What it need not look at again, and where it notes what it was through with.
    pub bookmark: Option<&'a Bookmark>,
    /// Where what is changed is recorded before it is; none: nowhere.
    pub record: Option<&'a Recorder>,
    /// How many threads; none: as many as the cores, more on a file system that lets them wait.
    /// Fewer where `fds` do not suffice for them (four each).
    pub threads: Option<NonZeroUsize>,
    /// Whether it runs, and uses the disk, only when nobody else wants to.
    pub background: bool,
}

impl<'a> Walk<'a> {
    /// Returns a walk that nothing ends or follows, without limits.
    pub fn new(mode: WalkMode, rule: impl Into<WalkRule<'a>>) -> Self {
        static NEVER: AtomicBool = AtomicBool::new(false);
        Self {
            mode,
            rule: rule.into(),
            cancel: &NEVER,
            progress: &|_| {},
            fds: FdBudget::default(),
            max_changes: None,
            since: None,
            watched: false,
            trace: None,
            bookmark: None,
            record: None,
            threads: None,
            background: false,
        }
    }
}

impl std::fmt::Debug for Walk<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Walk")
            .field("mode", &self.mode)
            .field("rule", &self.rule)
            .finish_non_exhaustive()
    }
}
