//! Runs: which key is worked on when, and what follows from how that ended.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use pctd_core::ids::{Ctid, Key, VolumeName};
use pctd_core::plan::Hold;
use pctd_core::request::Asked;
use tokio::time::Instant;
use tracing::debug;

use super::{Controller, Done, News};
use crate::reconciler::{Job, Outcome, Reconciler, Verdict};

/// A run that is under way.
pub(super) struct Run {
    job: Job,
    since: Instant,
}

impl<R: Reconciler> Controller<R> {
    /// Lets a container and its volumes be looked at after something was heard of it.
    pub(super) fn look_at_container(&mut self, ctid: Ctid, news: News, at: Instant) {
        let volumes: Vec<Key> =
            self.desired.mounts_of(ctid).map(|(v, _)| Key::Volume(v.name.clone())).collect();
        self.wake_clones_of(ctid, at);
        let own = Key::Container(ctid);
        if !self.board.knows(&own) {
            return;
        }
        let running = self.running.contains_key(&own);
        if news == News::Lock && self.retries.is_echo(&own, running) {
            debug!(CTID = %ctid, reason = "its last run failed", "taken for the echo of a run");
            return;
        }
        if news == News::Moved {
            // A walk that was planned with it, or without it, may be another node's by now.
            volumes.iter().filter_map(|key| self.running.get(key)).for_each(Run::cancel);
        }
        for key in volumes.into_iter().chain([own]) {
            // A conf that changed is news: what failed before starts over. What is heard during a
            // run may be the run's own doing, and must not keep its failures from being counted.
            if !self.running.contains_key(&key) {
                self.retries.start_over(&key);
            }
            self.queue.add(key, at);
        }
    }

    /// Ends the walks of what other nodes see as well: one of them may be acting on it by now.
    pub(super) fn leave_shared(&mut self, at: Instant) {
        for (key, run) in &self.running {
            if let Key::Volume(name) = key
                && self.reconciler.is_shared(name)
            {
                run.cancel();
                self.queue.add(key.clone(), at);
            }
        }
    }

    /// Starts a run over every key that is due and for which there is room.
    pub(super) fn start_runs(&mut self) {
        // Nothing runs before the node was looked at once: what has nothing to do needs no run.
        if !self.surveys.was_made() {
            return;
        }
        let now = Instant::now();
        loop {
            let (running, limit) = (&self.running, self.desired.settings.max_concurrent);
            let next = self.queue.pop(now, |key| has_room(running, limit, key));
            let Some(key) = next else { return };
            if let Some(order) = self.orders.begin(&key) {
                let job = Job { goes_on: true, ..Job::default() };
                self.board.begin(&key, Arc::clone(&job.progress));
                self.running.insert(key.clone(), Run { job: job.clone(), since: now });
                self.start_order(key, order, job);
                continue;
            }
            let verify = self.walks.take(&key);
            let asked = self.asked.remove(&key).unwrap_or_default();
            let background = verify && asked == Asked::No;
            let removal = self.removal();
            let goes_on = true;
            let job = Job { verify, asked, background, removal, goes_on, ..Job::default() };
            self.board.begin(&key, Arc::clone(&job.progress));
            self.running.insert(key.clone(), Run { job: job.clone(), since: now });
            let (reconciler, desired) = (Arc::clone(&self.reconciler), Arc::clone(&self.desired));
            self.jobs.spawn_blocking(move || {
                let outcome = reconciler.reconcile(&desired, &key, &job);
                Done::Key(key, Box::new(outcome))
            });
        }
    }

    /// Takes note of a run that has ended.
    pub(super) fn on_outcome(&mut self, key: &Key, mut outcome: Outcome) {
        let run = self.running.remove(key);
        self.queue.done(key);
        let now = Instant::now();
        let walked = run.as_ref().map_or(0, |run| run.job.progress.report().entries);
        self.counters.run(key, &outcome, walked);
        if !self.board.knows(key) {
            // It was taken out of the configuration meanwhile.
            return;
        }
        let took = run.as_ref().map_or(Duration::ZERO, |run| now - run.since);
        let was_converged = self.board.is_converged(key);
        let settings = &self.desired.settings;
        if let Some(delay) = self.retries.delay_after(key, &mut outcome, took, settings) {
            self.queue.add(key.clone(), now + delay);
        }
        if let Some(run) = run {
            self.keep_open(key, &run.job, &outcome);
            if run.job.verify {
                self.walks.rest(key, took, now);
            }
        }
        let map_before = self.board.condition(key, "Mapped");
        self.board.finish(key, &outcome);
        if let Key::Container(ctid) = key
            && self.board.condition(key, "Mapped") != map_before
        {
            // Whose its volumes are to be follows from its map, which this run was the first to see.
            let volumes = self.desired.mounts_of(*ctid).map(|(v, _)| Key::Volume(v.name.clone()));
            for volume in volumes.collect::<Vec<_>>() {
                self.queue.add(volume, now);
            }
        }
        if let Key::Volume(name) = key
            && (!outcome.taken.is_empty() || !was_converged || !self.board.is_converged(key))
        {
            self.wake_containers_of(&name.clone(), now);
        }
        if let Key::Container(ctid) = key
            && !outcome.taken.is_empty()
        {
            // Its own clones, and those that waited while its source was busy with it.
            self.wake_clones_of(*ctid, now);
            if let Some(source) = self.desired.source_of(*ctid) {
                self.wake_clones_of(source, now);
            }
        }
        let waits_for = match key {
            Key::Container(ctid) if outcome.verdict == Verdict::Waiting => {
                self.waits_for(*ctid, now)
            }
            Key::Container(_) | Key::Volume(_) => BTreeSet::new(),
        };
        self.followers.outcome(key, &outcome, &waits_for);
    }

    /// Keeps what the next run over `key` has to know of this one.
    fn keep_open(&mut self, key: &Key, job: &Job, outcome: &Outcome) {
        // What was refused is asked for again when the next verify is due, not at every look.
        let refused = |hold: &Hold| matches!(hold, Hold::OwnershipUnsupported { .. });
        if job.verify
            && outcome.verdict != Verdict::Converged
            && !outcome.view.holds.iter().any(refused)
        {
            // Only another walk can say that what this one found is gone, or look at all.
            self.walks.ask(key);
        }
        if outcome.verdict == Verdict::Converged && outcome.view.believed {
            // It is in place as far as known, and a whole walk makes sure, behind everybody else.
            self.walks.ask(key);
            self.queue.add(key.clone(), Instant::now());
        }
        // Where some task was in the way, what the admin asked for is still to be done.
        let passes = outcome.view.holds.iter().any(Hold::is_busy);
        if passes || matches!(outcome.verdict, Verdict::Conflict(_)) {
            self.note_asked(key, job.asked.later());
        }
    }

    /// Notes for the next run over `key` what an admin asked for.
    pub(super) fn note_asked(&mut self, key: &Key, asked: Asked) {
        if asked > Asked::No {
            let noted = self.asked.entry(key.clone()).or_default();
            *noted = asked.max(*noted);
        }
    }

    /// Wakes the containers that are to be cloned from this one and may wait for it.
    fn wake_clones_of(&mut self, source: Ctid, at: Instant) {
        let clones = self.desired.clones_of(source).map(Key::Container);
        for key in clones.filter(|key| !self.board.is_converged(key)).collect::<Vec<_>>() {
            if self.board.is_known(&key) {
                self.queue.add(key, at);
            }
        }
    }

    /// Wakes the containers that may wait for a volume.
    fn wake_containers_of(&mut self, name: &VolumeName, now: Instant) {
        let Some(volume) = self.desired.volumes.get(name) else { return };
        let waiting = volume.mounts.keys().copied().map(Key::Container);
        for key in waiting.collect::<Vec<_>>() {
            // A hold of the container's own is not lifted by its volume. What was never looked at is
            // the survey's that is on its way.
            let own = |hold: &Hold| !matches!(hold, Hold::VolumeHeld { .. });
            let waits = self.board.is_known(&key)
                && !self.board.is_converged(&key)
                && !self.board.holds(&key).iter().any(own);
            // A run under way may have looked at the volume before, whatever was known of its key.
            if waits || self.running.contains_key(&key) {
                self.queue.add(key, now);
            }
        }
    }
}

/// Returns whether a run over `key` may start beside those that are running.
///
/// Walks have places of their own: a long one must not keep an edit of a conf waiting.
pub(super) fn has_room(running: &BTreeMap<Key, Run>, limit: usize, key: &Key) -> bool {
    let is_volume = |key: &Key| matches!(key, Key::Volume(_));
    let same_kind = running.keys().filter(|other| is_volume(other) == is_volume(key)).count();
    same_kind < if is_volume(key) { limit.div_ceil(2) } else { limit }.max(1)
}

impl Run {
    /// Returns whether the run is in what must not be cut.
    pub(super) fn is_uncut(&self) -> bool {
        self.job.uncut.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Ends the run as soon as that leaves nothing half done.
    pub(super) fn stop(&self) {
        self.job.stop.store(true, std::sync::atomic::Ordering::Relaxed);
        self.cancel();
    }

    /// Ends the run after the step, or the directory, it is at.
    pub(super) fn cancel(&self) {
        self.job.cancel.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}
