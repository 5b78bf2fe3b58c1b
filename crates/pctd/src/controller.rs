//! The loop: decides which key is looked at when, and keeps what is known of each.
//!
//! Level-triggered by construction. An [`Event`] only says "look again"; its reason is for the
//! log and never reaches the [`Reconciler`]. Retry, backoff, concurrency and time are here and
//! nowhere else. The loop itself never blocks: everything that touches the node runs on the
//! blocking pool, one run per key at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use pctd_core::desired::Desired;
use pctd_core::ids::{Ctid, Key, VolumeName};
use pctd_core::plan::{Hold, Recheck};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{debug, error, info};

use crate::controller::backoff::Backoff;
use crate::controller::board::{Board, keys_of};
use crate::controller::followers::Followers;
use crate::controller::queue::WorkQueue;
use crate::reconciler::{Job, Outcome, Reconciler, Verdict, View};

mod backoff;
pub(crate) mod board;
pub(crate) mod followers;
mod queue;
mod status;
#[cfg(test)]
mod tests;

/// Something that asks for another look, or for an answer.
#[derive(Debug)]
pub(crate) enum Event {
    /// A conf or its lock changed.
    Container(Ctid, News),
    /// Anything may have changed.
    All(&'static str),
    /// The configuration files were read.
    Config(ConfigEvent),
    /// A client wants to know, or wants something done.
    Client(followers::Request),
}

/// What was heard of a container. For the log, and to tell an echo of a run from news; what it
/// means is only known by looking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum News {
    /// Its conf was written.
    Conf,
    /// The lock file of its conf was closed: somebody, perhaps a run of pctd's, was at work.
    Lock,
    /// Its number in `.vmlist` changed.
    Vmlist,
}

/// What became of the configuration files.
#[derive(Debug, Clone)]
pub(crate) enum ConfigEvent {
    /// They are valid.
    Accepted {
        /// What they say.
        desired: Arc<Desired>,
        /// The files that were read.
        files: Vec<String>,
    },
    /// They are not; what was in force stays in force.
    Rejected {
        /// What is wrong.
        error: String,
        /// The files that were read.
        files: Vec<String>,
    },
}

/// Events are collected for this long, so that the several of one `pct set` make one run.
const SETTLE: Duration = Duration::from_millis(20);

/// A conflict is retried at once this often before it counts as a failure.
const CONFLICTS: u32 = 3;

/// What is heard of a container this soon after a run over it failed is taken for the echo of that
/// run: a `pct set` that fails closes the lock file it took, too.
const ECHO: Duration = Duration::from_secs(1);

/// A volume that is held or failed waits at least this many times as long as its last run took, so
/// that one whose walk is long is not walked without a pause.
const PACE: u32 = 20;

/// Runs on the blocking pool that have ended.
enum Done {
    /// With the generation of the configuration it was made for.
    Survey(u64, BTreeMap<Key, View>),
    Key(Key, Box<Outcome>),
}

/// A run that is under way.
struct Run {
    job: Job,
    since: Instant,
}

/// The state of the loop. See the module.
pub(crate) struct Controller<R> {
    reconciler: Arc<R>,
    desired: Arc<Desired>,
    config: status::ConfigState,
    queue: WorkQueue,
    board: Board,
    followers: Followers,
    failures: BTreeMap<Key, u32>,
    /// When the last run over a key ended, where it failed.
    failed_at: BTreeMap<Key, Instant>,
    /// Volumes to be walked at their next run, and when each is due for it anyway.
    verify_now: BTreeSet<VolumeName>,
    verify_due: BTreeMap<VolumeName, Instant>,
    /// Keys whose next run an admin asked for.
    confirmed: BTreeSet<Key>,
    jobs: JoinSet<Done>,
    running: BTreeMap<Key, Run>,
    surveying: bool,
    /// Whether there was a survey at all.
    surveyed: bool,
    survey_again: bool,
    next_resync: Instant,
    summary: watch::Sender<String>,
}

impl<R: Reconciler> Controller<R> {
    /// Returns the loop, with what the configuration files say at the start.
    ///
    /// Where they are refused nothing is desired, and the loop is ready all the same: guests that
    /// wait for it must not pay for a typing error.
    pub(crate) fn new(
        reconciler: Arc<R>,
        first: ConfigEvent,
        summary: watch::Sender<String>,
    ) -> Self {
        let mut controller = Self {
            reconciler,
            desired: Arc::new(Desired::default()),
            config: status::ConfigState::default(),
            queue: WorkQueue::default(),
            board: Board::default(),
            followers: Followers::default(),
            failures: BTreeMap::new(),
            failed_at: BTreeMap::new(),
            verify_now: BTreeSet::new(),
            verify_due: BTreeMap::new(),
            confirmed: BTreeSet::new(),
            jobs: JoinSet::new(),
            running: BTreeMap::new(),
            surveying: false,
            surveyed: false,
            survey_again: false,
            next_resync: Instant::now(),
            summary,
        };
        controller.on_config(first);
        if !controller.surveying {
            // Refused: the look at nothing still says when the loop is ready.
            controller.survey();
        }
        controller
    }

    /// Runs until `stop` turns true or every sender of events is gone; ends after the steps under way.
    pub(crate) async fn run(
        mut self,
        mut events: mpsc::Receiver<Event>,
        mut stop: watch::Receiver<bool>,
        ready: impl FnOnce(),
    ) {
        let mut ready = Some(ready);
        loop {
            self.start_runs();
            let deadline = self.next_deadline();
            // Every arm is cancel-safe: receiving, joining and sleeping lose nothing when dropped.
            tokio::select! {
                event = events.recv() => match event {
                    Some(event) => self.on_event(event),
                    None => break,
                },
                Some(done) = self.jobs.join_next(), if !self.jobs.is_empty() => match done {
                    Ok(Done::Survey(generation, views)) => {
                        self.on_survey(generation, views);
                        // Ready is the first configuration and the first look, not convergence.
                        if let Some(ready) = ready.take() {
                            ready();
                        }
                    }
                    Ok(Done::Key(key, outcome)) => self.on_outcome(&key, *outcome),
                    Err(panic) => {
                        // A defect: the process ends and systemd starts it anew.
                        error!("a run ended unexpectedly: {panic}");
                        break;
                    }
                },
                () = tokio::time::sleep_until(deadline) => self.on_time(),
                _ = stop.changed() => break,
            }
            self.summary.send_if_modified(|old| {
                let new = self.board.summary();
                let changed = *old != new;
                *old = new;
                changed
            });
        }
        self.shut_down().await;
    }

    async fn shut_down(mut self) {
        self.running.values().for_each(Run::cancel);
        while let Some(done) = self.jobs.join_next().await {
            if let Ok(Done::Key(key, outcome)) = done {
                debug!(%key, verdict = ?outcome.verdict, "run ended at shutdown");
            }
        }
    }

    fn on_event(&mut self, event: Event) {
        let soon = Instant::now() + SETTLE;
        match event {
            Event::Container(ctid, news) => {
                debug!(CTID = %ctid, ?news, "look again");
                self.look_at_container(ctid, news, soon);
            }
            Event::All(reason) => {
                debug!(reason, "look at everything again");
                self.survey();
            }
            Event::Config(event) => self.on_config(event),
            Event::Client(request) => self.on_client(request),
        }
    }

    fn on_config(&mut self, event: ConfigEvent) {
        match event {
            ConfigEvent::Accepted { desired, files } => self.accept(desired, files),
            ConfigEvent::Rejected { error, files } => {
                if !self.config.reject(&error, files) {
                    // Said already; editors write a file more than once.
                    return;
                }
                let kept = match self.config.generation() {
                    0 => "nothing is done until it is put right",
                    _ => "the last good one stays in force",
                };
                error!("configuration refused, {kept}:\n{error}");
            }
        }
    }

    /// Puts a configuration in force; an equal one wakes nobody.
    fn accept(&mut self, desired: Arc<Desired>, files: Vec<String>) {
        let equal = self.config.generation() > 0 && *self.desired == *desired;
        self.config.accept(files, !equal);
        if equal {
            return;
        }
        info!(
            GENERATION = self.config.generation(),
            volumes = desired.volumes.len(),
            containers = desired.ctids().len(),
            "configuration accepted"
        );
        self.let_go(&desired);
        // Every volume is walked once when it is new to this process: what happened while nobody
        // watched is not known.
        let now = Instant::now();
        self.verify_due.retain(|name, _| desired.volumes.contains_key(name));
        for name in desired.volumes.keys() {
            self.verify_due.entry(name.clone()).or_insert(now);
        }
        self.desired = desired;
        self.board.restrict(&self.desired);
        self.failures.clear();
        self.failed_at.clear();
        self.survey();
    }

    /// Lets go of what `next` no longer declares, or declares otherwise.
    fn let_go(&mut self, next: &Desired) {
        let wanted = keys_of(next);
        let gone: Vec<Key> = keys_of(&self.desired).difference(&wanted).cloned().collect();
        for key in &gone {
            self.queue.forget(key);
            self.failed_at.remove(key);
            self.followers.forget(key);
        }
        // What was confirmed was the declaration of then: a new path under an old name is not it.
        let volumes = self.desired.volumes.keys();
        let other =
            volumes.filter(|name| self.desired.volumes.get(*name) != next.volumes.get(*name));
        let other: BTreeSet<Key> = other.cloned().map(Key::Volume).chain(gone).collect();
        self.confirmed.retain(|key| !other.contains(key));
        self.verify_now.retain(|name| next.volumes.contains_key(name));
        // Runs under way work on the old declaration and the old settings, which may be why they were
        // changed: each ends after the step it is at, and every key is looked at once more.
        for (key, run) in &self.running {
            run.cancel();
            if wanted.contains(key) {
                self.queue.add(key.clone(), Instant::now());
            }
        }
    }

    /// Starts a survey, or notes that one more is wanted after the one under way.
    fn survey(&mut self) {
        self.next_resync = Instant::now() + self.desired.settings.resync_interval;
        if self.surveying {
            self.survey_again = true;
            return;
        }
        self.surveying = true;
        let (reconciler, desired) = (Arc::clone(&self.reconciler), Arc::clone(&self.desired));
        let generation = self.config.generation();
        self.jobs.spawn_blocking(move || Done::Survey(generation, reconciler.survey(&desired)));
    }

    fn on_survey(&mut self, generation: u64, views: BTreeMap<Key, View>) {
        self.surveying = false;
        self.surveyed = true;
        let now = Instant::now();
        // One that was made for an older configuration says nothing; another is on its way.
        let views = if generation == self.config.generation() { views } else { BTreeMap::new() };
        for (key, view) in views {
            let converged = view.is_converged();
            let only_unsettled = view.steps.is_empty() && view.holds.is_empty();
            let (running, owes_walk) = (self.running.contains_key(&key), self.owes_walk(&key));
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
        if std::mem::take(&mut self.survey_again) {
            self.survey();
        }
    }

    /// Returns whether `key` is a volume that only a walk can say to be in place.
    fn owes_walk(&self, key: &Key) -> bool {
        matches!(key, Key::Volume(name) if self.verify_now.contains(name))
    }

    fn on_time(&mut self) {
        let now = Instant::now();
        if now >= self.next_resync {
            self.survey();
        }
        let due: Vec<_> = self
            .verify_due
            .iter()
            .filter(|(_, at)| **at <= now)
            .map(|(name, _)| name.clone())
            .collect();
        for name in due {
            self.verify_due.insert(name.clone(), now + self.desired.settings.verify_interval);
            self.verify_now.insert(name.clone());
            self.queue.add(Key::Volume(name), now);
        }
    }

    fn next_deadline(&self) -> Instant {
        let verify = self.verify_due.values().min().copied();
        let limit = self.desired.settings.max_concurrent;
        let key = self
            .surveyed
            .then(|| self.queue.next_deadline(|key| has_room(&self.running, limit, key)))
            .flatten();
        [Some(self.next_resync), verify, key]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(self.next_resync)
    }

    fn start_runs(&mut self) {
        // Nothing runs before the node was looked at once: what has nothing to do needs no run.
        if !self.surveyed {
            return;
        }
        let now = Instant::now();
        loop {
            let (running, limit) = (&self.running, self.desired.settings.max_concurrent);
            let next = self.queue.pop(now, |key| has_room(running, limit, key));
            let Some(key) = next else { return };
            let verify = match &key {
                Key::Volume(name) => self.verify_now.remove(name),
                Key::Container(_) => false,
            };
            let job = Job { verify, confirmed: self.confirmed.remove(&key), ..Job::default() };
            self.board.begin(&key, Arc::clone(&job.progress));
            self.running.insert(key.clone(), Run { job: job.clone(), since: now });
            let (reconciler, desired) = (Arc::clone(&self.reconciler), Arc::clone(&self.desired));
            self.jobs.spawn_blocking(move || {
                let outcome = reconciler.reconcile(&desired, &key, &job);
                Done::Key(key, Box::new(outcome))
            });
        }
    }

    fn on_outcome(&mut self, key: &Key, mut outcome: Outcome) {
        let run = self.running.remove(key);
        self.queue.done(key);
        let now = Instant::now();
        if !self.board.knows(key) {
            // It was taken out of the configuration meanwhile.
            return;
        }
        let took = run.as_ref().map_or(Duration::ZERO, |run| now - run.since);
        let was_converged = self.board.is_converged(key);
        if let Some(delay) = self.delay_after(key, &mut outcome, took) {
            self.queue.add(key.clone(), now + delay);
        }
        if let Some(run) = run {
            self.keep_open(key, &run.job, &outcome);
        }
        self.board.finish(key, &outcome);
        if let Key::Volume(name) = key
            && (!outcome.taken.is_empty() || !was_converged || !self.board.is_converged(key))
        {
            self.wake_containers_of(&name.clone(), now);
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
        if let Key::Volume(name) = key
            && job.verify
            && outcome.verdict != Verdict::Converged
            && !outcome.view.holds.iter().any(refused)
        {
            // Only another walk can say that what this one found is gone, or look at all.
            self.verify_now.insert(name.clone());
        }
        if job.confirmed && matches!(outcome.verdict, Verdict::Conflict(_)) {
            self.confirmed.insert(key.clone());
        }
    }

    /// Returns the volumes that a container waits for in vain: nothing will be done about them soon.
    fn waits_for(&mut self, ctid: Ctid, now: Instant) -> BTreeSet<VolumeName> {
        let soon = |key: &Key| {
            self.running.contains_key(key) || self.queue.due(key).is_some_and(|at| at <= now)
        };
        let volumes: Vec<Key> =
            self.desired.mounts_of(ctid).map(|(v, _)| Key::Volume(v.name.clone())).collect();
        if soon(&Key::Container(ctid)) || volumes.iter().any(soon) {
            return BTreeSet::new();
        }
        let (fine, held): (Vec<Key>, Vec<Key>) =
            volumes.into_iter().partition(|key| self.board.is_converged(key));
        if held.is_empty() {
            // The container saw what no run over its volumes has seen yet.
            for key in fine {
                self.queue.add(key, now);
            }
        }
        let name = |key| match key {
            Key::Volume(name) => Some(name),
            Key::Container(_) => None,
        };
        held.into_iter().filter_map(name).collect()
    }

    /// Decides when a key is looked at again without an event; `None`: at the resync.
    fn delay_after(
        &mut self,
        key: &Key,
        outcome: &mut Outcome,
        took: Duration,
    ) -> Option<Duration> {
        let settings = &self.desired.settings;
        let backoff = Backoff { initial: settings.retry_initial, max: settings.retry_max };
        let mut fail = || {
            let failures = self.failures.entry(key.clone()).or_insert(0);
            *failures = failures.saturating_add(1);
            *failures
        };
        self.failed_at.remove(key);
        let pause = match key {
            Key::Volume(_) => (took * PACE).min(settings.verify_interval),
            Key::Container(_) => Duration::ZERO,
        };
        match &outcome.verdict {
            Verdict::Converged => {
                self.failures.remove(key);
                None
            }
            Verdict::Conflict(why) => {
                let failures = fail();
                let Some(later) = failures.checked_sub(CONFLICTS).filter(|left| *left > 0) else {
                    return Some(Duration::ZERO);
                };
                // Whoever follows it is not to wait until somebody else stops writing.
                outcome.verdict = Verdict::Failed(why.clone());
                self.failed_at.insert(key.clone(), Instant::now());
                Some(backoff.delay(later, fastrand::u8(..)))
            }
            Verdict::Failed(_) => {
                let delay = backoff.delay(fail(), fastrand::u8(..));
                self.failed_at.insert(key.clone(), Instant::now());
                Some(delay.max(pause))
            }
            Verdict::Held => {
                let holds = &outcome.view.holds;
                if holds.iter().any(Hold::is_busy) {
                    // Its end raises an event, which may come while this run is still at work.
                    let delay = backoff.delay(fail(), fastrand::u8(..));
                    Some(delay.min(settings.poll_interval).max(pause))
                } else if holds.iter().any(|hold| hold.recheck() == Recheck::Backoff) {
                    Some(backoff.delay(fail(), fastrand::u8(..)))
                } else {
                    self.failures.remove(key);
                    Some(settings.hold_interval.max(pause))
                }
            }
            // The volume's own run wakes it; this is for the case that nothing does.
            Verdict::Waiting => Some(settings.hold_interval),
            // The configuration changed, and with it what is to be done.
            Verdict::Cancelled => Some(Duration::ZERO),
        }
    }

    fn look_at_container(&mut self, ctid: Ctid, news: News, at: Instant) {
        let volumes: Vec<Key> =
            self.desired.mounts_of(ctid).map(|(v, _)| Key::Volume(v.name.clone())).collect();
        if volumes.is_empty() && !self.desired.containers.contains_key(&ctid) {
            return;
        }
        let own = Key::Container(ctid);
        let running = self.running.contains_key(&own);
        let failed = self.failed_at.get(&own);
        let soon_after = failed.is_some_and(|failed| running || failed.elapsed() < ECHO);
        if news == News::Lock && soon_after {
            debug!(CTID = %ctid, reason = "its last run failed", "taken for the echo of a run");
            return;
        }
        for key in volumes.into_iter().chain([own]) {
            // A conf that changed is news: what failed before starts over. What is heard during a
            // run may be the run's own doing, and must not keep its failures from being counted.
            if !self.running.contains_key(&key) {
                self.failures.remove(&key);
            }
            self.queue.add(key, at);
        }
    }

    /// Wakes the containers that may wait for a volume.
    fn wake_containers_of(&mut self, name: &VolumeName, now: Instant) {
        let Some(volume) = self.desired.volumes.get(name) else { return };
        let waiting = volume.mounts.keys().copied().map(Key::Container);
        for key in waiting.filter(|key| !self.board.is_converged(key)).collect::<Vec<_>>() {
            // A hold of the container's own is not lifted by its volume; a run under way may have
            // seen one go. What was never looked at is the survey's that is on its way.
            let own = |hold: &Hold| !matches!(hold, Hold::VolumeHeld { .. });
            let waits = self.board.is_known(&key) && !self.board.holds(&key).iter().any(own);
            if waits || self.running.contains_key(&key) {
                self.queue.add(key, now);
            }
        }
    }

    fn on_client(&mut self, request: followers::Request) {
        match request.op.clone() {
            followers::Op::Status(keys) => {
                if let Some(key) = keys.iter().find(|key| !self.board.knows(key)) {
                    request.answer_error(format!("{key} is not in the configuration in force"));
                    return;
                }
                let report = self.status(&keys);
                request.answer_status(report);
            }
            followers::Op::Reconcile { keys, confirm } => {
                let all = keys_of(&self.desired);
                if let Some(key) = keys.iter().find(|key| !all.contains(key)) {
                    request.answer_error(format!("{key} is not in the configuration in force"));
                    return;
                }
                let wanted: BTreeSet<Key> =
                    if keys.is_empty() { all } else { keys.into_iter().collect() };
                let now = Instant::now();
                for key in &wanted {
                    if let Key::Volume(name) = key {
                        self.verify_now.insert(name.clone());
                    }
                    if confirm {
                        self.confirmed.insert(key.clone());
                    }
                    self.failures.remove(key);
                    self.queue.add(key.clone(), now);
                }
                let jobs = self.running.keys().cloned().collect();
                self.followers.follow(request, wanted, &jobs);
            }
        }
    }
}

/// Returns whether a run over `key` may start beside those that are running.
///
/// Walks have places of their own: a long one must not keep an edit of a conf waiting.
fn has_room(running: &BTreeMap<Key, Run>, limit: usize, key: &Key) -> bool {
    let is_volume = |key: &Key| matches!(key, Key::Volume(_));
    let same_kind = running.keys().filter(|other| is_volume(other) == is_volume(key)).count();
    same_kind < if is_volume(key) { limit.div_ceil(2) } else { limit }.max(1)
}

impl Run {
    /// Ends the run after the step, or the directory, it is at.
    fn cancel(&self) {
        self.job.cancel.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}

impl<R> std::fmt::Debug for Controller<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Controller").field("queue", &self.queue).finish_non_exhaustive()
    }
}
