//! The seam between the loop and the node: what the controller asks for and what it is told.
//!
//! The loop knows nothing of containers; whoever implements [`Reconciler`] knows nothing of
//! queues, retries or time. [`crate::engine::Engine`] is the real one; the controller's tests
//! bring a scripted one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use pctd_core::condition::Conditions;
use pctd_core::desired::Desired;
use pctd_core::ids::{Key, VolumeName};
use pctd_core::observed::{Assurance, Drift, Removal};
use pctd_core::order::{Order, OrderReport};
use pctd_core::plan::{Hold, Reason, Step};
use pctd_core::report::ProgressReport;
use pctd_core::request::Asked;

/// Observes the node and brings one key at a time to what is desired. Blocking.
pub(crate) trait Reconciler: Send + Sync + 'static {
    /// Observes and plans everything once, changes nothing and walks no volume.
    ///
    /// Everything is what is desired and what the past left behind: the answer names every key there
    /// is something to do for.
    fn survey(&self, desired: &Desired, removal: Removal) -> BTreeMap<Key, View>;

    /// Observes one key, takes the steps it needs and observes it again.
    fn reconcile(&self, desired: &Desired, key: &Key, job: &Job) -> Outcome;

    /// Carries out an order for one volume.
    ///
    /// # Errors
    ///
    /// In words, why it was not.
    fn obey(&self, desired: &Desired, order: &Order, job: &Job) -> Result<OrderReport, String>;

    /// Returns what the watch of a volume has done so far. Does not wait.
    fn drift(&self, volume: &VolumeName) -> Option<Drift>;

    /// Returns whether other nodes see the directory of a volume as well, as known by now.
    fn is_shared(&self, volume: &VolumeName) -> bool;

    /// Returns what is known of a volume besides its root directory. Does not wait.
    fn assurance(&self, volume: &VolumeName) -> Assurance;
}

/// How one run over a key is to be made, and how it is followed from outside.
#[derive(Debug, Clone, Default)]
pub(crate) struct Job {
    /// Whether a volume is walked even where nothing says that it differs.
    pub(crate) verify: bool,
    /// Whether an admin asked for it.
    pub(crate) asked: Asked,
    /// Whether nobody waits for it, so that its verify gives way to whatever else the node does.
    pub(crate) background: bool,
    /// What may follow from what the configuration does not say.
    pub(crate) removal: Removal,
    /// Set to end the run after the step, or the directory, it is at.
    pub(crate) cancel: Arc<AtomicBool>,
    /// Set when the process is to stop: a container that is being made is then not waited for.
    pub(crate) stop: Arc<AtomicBool>,
    /// Set while the run is in what must not be cut: a call of `pct` and what belongs to it.
    pub(crate) uncut: Arc<AtomicBool>,
    /// Whether a walk goes on where one was interrupted, and can be gone on with itself: for whoever
    /// has the lock of the node.
    pub(crate) goes_on: bool,
    /// How far its walk is.
    pub(crate) progress: Arc<Progress>,
}

impl Job {
    /// Returns whether an admin asked for it.
    pub(crate) fn is_confirmed(&self) -> bool {
        self.asked != Asked::No
    }

    /// Returns whether the run is to end early.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }

    /// Does what must not be cut; the process waits for its end, however long that takes.
    pub(crate) fn uncut<T>(&self, work: impl FnOnce() -> T) -> T {
        self.uncut.store(true, Ordering::Relaxed);
        let done = work();
        self.uncut.store(false, Ordering::Relaxed);
        done
    }
}

/// How far a walk is; written by the walk, read by whoever shows it.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Entries looked at.
    pub(crate) entries: AtomicU64,
    /// Entries that differ or were changed.
    pub(crate) changes: AtomicU64,
    /// Entries looked at per second.
    pub(crate) rate: AtomicU64,
}

impl Progress {
    /// Notes where the walk is.
    pub(crate) fn set(&self, now: pctd_node::Progress) {
        self.entries.store(now.entries, Ordering::Relaxed);
        self.changes.store(now.changes, Ordering::Relaxed);
        self.rate.store(now.rate, Ordering::Relaxed);
    }

    /// Returns where it is, for a report.
    pub(crate) fn report(&self) -> ProgressReport {
        ProgressReport {
            entries: self.entries.load(Ordering::Relaxed),
            changes: self.changes.load(Ordering::Relaxed),
            rate: self.rate.load(Ordering::Relaxed),
        }
    }
}

/// One key as a plan sees it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct View {
    /// What is true of it.
    pub(crate) conditions: Conditions,
    /// What would be done.
    pub(crate) steps: Vec<Step>,
    /// Why something is left.
    pub(crate) holds: Vec<Hold>,
    /// What else to know.
    pub(crate) notices: Vec<Reason>,
    /// Whether it cannot be judged without a walk, or waits for a volume.
    pub(crate) unsettled: bool,
    /// Whether this rests in part on what a walk had looked at that was interrupted: then a whole
    /// one has to follow.
    pub(crate) believed: bool,
}

impl View {
    /// Returns whether nothing differs and nothing is in doubt.
    pub(crate) fn is_converged(&self) -> bool {
        self.steps.is_empty() && self.holds.is_empty() && !self.unsettled
    }
}

/// What came of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// The key as it was seen last.
    pub(crate) view: View,
    /// The steps that were taken.
    pub(crate) taken: Vec<Step>,
    /// How it ended.
    pub(crate) verdict: Verdict,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing differs any more.
    Converged,
    /// Something differs and is deliberately left.
    Held,
    /// It goes on once a volume is ready.
    Waiting,
    /// Somebody else changed the conf in between; look again at once.
    Conflict(String),
    /// A step failed.
    Failed(String),
    /// The run was cancelled.
    Cancelled,
}
