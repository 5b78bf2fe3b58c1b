//! Surveys: a look at everything, once at the start, after an edit and at every resync.

use std::collections::BTreeMap;
use std::sync::Arc;

use pctd_core::ids::Key;
use pctd_core::observed::Removal;
use tokio::time::Instant;

use super::board::keys_of;
use super::{Controller, Done};
use crate::reconciler::{Reconciler, View};

/// Whether a survey is under way, and what was asked meanwhile.
#[derive(Debug)]
pub(super) struct Surveys {
    under_way: bool,
    /// Whether there was a survey at all.
    done_once: bool,
    again: bool,
    next_resync: Instant,
}

impl Surveys {
    /// Returns the state before the first survey, which is due.
    pub(super) fn new() -> Self {
        Self { under_way: false, done_once: false, again: false, next_resync: Instant::now() }
    }

    /// Returns whether one is under way.
    pub(super) const fn is_under_way(&self) -> bool {
        self.under_way
    }

    /// Returns whether there was a survey at all.
    pub(super) const fn was_made(&self) -> bool {
        self.done_once
    }

    /// Returns when the next one is due without an event.
    pub(super) const fn next_resync(&self) -> Instant {
        self.next_resync
    }
}

impl<R: Reconciler> Controller<R> {
    /// Starts a survey, or notes that one more is wanted after the one under way.
    pub(super) fn survey(&mut self) {
        self.surveys.next_resync = Instant::now() + self.desired.settings.resync_interval;
        if self.surveys.under_way {
            self.surveys.again = true;
            return;
        }
        self.surveys.under_way = true;
        let (reconciler, desired) = (Arc::clone(&self.reconciler), Arc::clone(&self.desired));
        let (generation, removal) = (self.config.generation(), self.removal());
        self.jobs
            .spawn_blocking(move || Done::Survey(generation, reconciler.survey(&desired, removal)));
    }

    /// Returns what may follow from what the configuration does not say.
    pub(super) fn removal(&self) -> Removal {
        if self.settled.is(self.desired.settings.resync_interval, Instant::now()) {
            Removal::Allowed
        } else {
            Removal::Unsettled
        }
    }

    /// Takes note of a survey that has ended.
    pub(super) fn on_survey(&mut self, generation: u64, views: BTreeMap<Key, View>) {
        self.surveys.under_way = false;
        self.surveys.done_once = true;
        self.counters.last_survey = Some(jiff::Timestamp::now());
        let now = Instant::now();
        // One that was made for an older configuration says nothing; another is on its way.
        let mut views =
            if generation == self.config.generation() { views } else { BTreeMap::new() };
        if generation == 0 {
            // Nothing was ever desired, so nothing is left over from it either.
            views.clear();
        }
        let wanted = keys_of(&self.desired);
        // One that failed knows of nothing, which says nothing.
        if !views.is_empty() || wanted.is_empty() {
            // What was left behind is a key for as long as there is something to say of it.
            self.board.keep(wanted.into_iter().chain(views.keys().cloned()).collect());
        }
        for (key, view) in views {
            let converged = view.is_converged();
            let only_unsettled = view.steps.is_empty() && view.holds.is_empty();
            let (running, owes_walk) = (self.running.contains_key(&key), self.walks.owes(&key));
            // A run under way sees more than this survey did, and a walk that found something sees
            // deeper; it is made again at its own time.
            if !(running || owes_walk && only_unsettled && self.board.is_stuck(&key)) {
                self.board.survey(&key, view);
            }
            let has_time = owes_walk && only_unsettled && self.queue.due(&key).is_some();
            let is_walk = running && matches!(key, Key::Volume(_));
            // A container's run may have looked before what the survey saw came about.
            if !converged && !has_time && !is_walk {
                self.queue.add(key, now);
            }
        }
        if std::mem::take(&mut self.surveys.again) {
            self.survey();
        }
    }
}
