//! What was done since the start, counted: for metrics, and for nothing that is decided.

use std::collections::BTreeMap;

use jiff::Timestamp;
use pctd_core::ids::Key;
use pctd_core::plan::Step;
use pctd_core::report::StatusReport;

use super::Controller;
use crate::reconciler::{Outcome, Reconciler, Verdict};

/// What a run over a key can come to.
pub(crate) const VERDICTS: [&str; 6] =
    ["converged", "held", "waiting", "conflict", "failed", "cancelled"];

/// What was done since the start.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counters {
    /// Steps taken, by name.
    pub(crate) steps: BTreeMap<&'static str, u64>,
    /// Runs, by what they came to.
    pub(crate) runs: BTreeMap<&'static str, u64>,
    /// Entries that walks looked at.
    pub(crate) walked: u64,
    /// Entries that walks changed.
    pub(crate) changed: u64,
    /// When a run over a container or over a volume ended last.
    pub(crate) last_run: BTreeMap<&'static str, Timestamp>,
    /// When everything was looked at last.
    pub(crate) last_survey: Option<Timestamp>,
}

/// Everything that metrics are made of.
#[derive(Debug, Clone)]
pub(crate) struct Measures {
    /// What is known of each key.
    pub(crate) status: StatusReport,
    /// What was done.
    pub(crate) counters: Counters,
    /// How many keys failed and will be tried again.
    pub(crate) failing: usize,
}

impl Counters {
    /// Counts a run that has ended, in which `walked` entries were looked at.
    pub(super) fn run(&mut self, key: &Key, outcome: &Outcome, walked: u64) {
        let verdict = match outcome.verdict {
            Verdict::Converged => "converged",
            Verdict::Held => "held",
            Verdict::Waiting => "waiting",
            Verdict::Conflict(_) => "conflict",
            Verdict::Failed(_) => "failed",
            Verdict::Cancelled => "cancelled",
        };
        *self.runs.entry(verdict).or_default() += 1;
        for step in &outcome.taken {
            *self.steps.entry(step.name()).or_default() += 1;
            if let Step::SetOwnership(set) = step {
                self.changed = self.changed.saturating_add(set.changes);
            }
        }
        self.walked = self.walked.saturating_add(walked);
        let kind = match key {
            Key::Container(_) => "container",
            Key::Volume(_) => "volume",
        };
        self.last_run.insert(kind, Timestamp::now());
    }
}

impl<R: Reconciler> Controller<R> {
    /// Returns everything that metrics are made of.
    pub(super) fn measures(&self) -> Measures {
        Measures {
            status: self.status(&[]),
            counters: self.counters.clone(),
            failing: self.retries.failing(),
        }
    }
}
