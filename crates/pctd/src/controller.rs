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
use pctd_core::plan::Recheck;
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



/// Something that asks for another look, or for an answer.
#[derive(Debug)]
pub(crate) enum Event {
    /// A conf or its lock changed.
    Container(Ctid, &'static str),
    /// Anything may have changed.
    All(&'static str),
    /// The configuration files were read.
    Config(ConfigEvent),
    /// A client wants to know, or wants something done.
    Client(followers::Request),
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

/// Runs on the blocking pool that have ended.
enum Done {
    Survey(BTreeMap<Key, View>),
    Key(Key, Box<Outcome>),
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
    /// Volumes to be walked at their next run, and when each is due for it anyway.
    verify_now: BTreeSet<VolumeName>,
    verify_due: BTreeMap<VolumeName, Instant>,
    /// Keys whose next run an admin asked for.
    confirmed: BTreeSet<Key>,
    jobs: JoinSet<Done>,
    running: BTreeMap<Key, Job>,
    surveying: bool,
    survey_again: bool,
    next_resync: Instant,
    summary: watch::Sender<String>,
}

impl<R: Reconciler> Controller<R> {
    /// Returns the loop for a first, valid configuration.
    pub(crate) fn new(
        reconciler: Arc<R>,
        desired: Arc<Desired>,
        files: Vec<String>,
        summary: watch::Sender<String>,
    ) -> Self {
        let mut controller = Self {
            reconciler,
            desired: Arc::new(Desired::default()),
            config: status::ConfigState::new(files.clone()),
            queue: WorkQueue::default(),
            board: Board::default(),
            followers: Followers::default(),
            failures: BTreeMap::new(),
            verify_now: BTreeSet::new(),
            verify_due: BTreeMap::new(),
            confirmed: BTreeSet::new(),
            jobs: JoinSet::new(),
            running: BTreeMap::new(),
            surveying: false,
            survey_again: false,
            next_resync: Instant::now(),
            summary,
        };
        controller.accept(desired, files);
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
                    Ok(Done::Survey(views)) => {
                        self.on_survey(views);
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
        for job in self.running.values() {
            job.cancel.store(true, std::sync::atomic::Ordering::Relaxed);
        }
        while let Some(done) = self.jobs.join_next().await {
            if let Ok(Done::Key(key, outcome)) = done {
                debug!(%key, verdict = ?outcome.verdict, "run ended at shutdown");
            }
        }
    }

    fn on_event(&mut self, event: Event) {
        let soon = Instant::now() + SETTLE;
        match event {
            Event::Container(ctid, reason) => {
                debug!(CTID = %ctid, reason, "look again");
                self.look_at_container(ctid, soon);
            }
            Event::All(reason) => {
                debug!(reason, "look at everything again");
                self.survey();
            }
            Event::Config(ConfigEvent::Accepted { desired, files }) => self.accept(desired, files),
            Event::Config(ConfigEvent::Rejected { error, files }) => {
                if self.config.reject(&error, files) {
                    error!("configuration refused, the last good one stays in force:\n{error}");
                }
            }
            Event::Client(request) => self.on_client(request),
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
        let gone: Vec<Key> = keys_of(&self.desired).difference(&keys_of(&desired)).cloned().collect();
        for key in gone {
            self.queue.forget(&key);
            self.failures.remove(&key);
        }
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
        self.survey();
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
        self.jobs.spawn_blocking(move || Done::Survey(reconciler.survey(&desired)));
    }

    fn on_survey(&mut self, views: BTreeMap<Key, View>) {
        self.surveying = false;
        let now = Instant::now();
        for (key, view) in views {
            if self.running.contains_key(&key) {
                // The run under way sees more than this survey did.
                continue;
            }
            let converged = view.is_converged();
            self.board.survey(&key, view);
            if !converged {
                self.queue.add(key, now);
            }
        }
        if std::mem::take(&mut self.survey_again) {
            self.survey();
        }
    }

    fn on_time(&mut self) {
        let now = Instant::now();
        if now >= self.next_resync {
            self.survey();
        }
        let due: Vec<_> = self.verify_due.iter().filter(|(_, at)| **at <= now).map(|(name, _)| name.clone()).collect();
        for name in due {
            self.verify_due.insert(name.clone(), now + self.desired.settings.verify_interval);
            self.verify_now.insert(name.clone());
            self.queue.add(Key::Volume(name), now);
        }
    }

    fn next_deadline(&self) -> Instant {
        let verify = self.verify_due.values().min().copied();
        let limit = self.desired.settings.max_concurrent;
        let key = self.queue.next_deadline(|key| has_room(&self.running, limit, key));
        [Some(self.next_resync), verify, key].into_iter().flatten().min().unwrap_or(self.next_resync)
    }

    fn start_runs(&mut self) {
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
            self.running.insert(key.clone(), job.clone());
            let (reconciler, desired) = (Arc::clone(&self.reconciler), Arc::clone(&self.desired));
            self.jobs.spawn_blocking(move || {
                let outcome = reconciler.reconcile(&desired, &key, &job);
                Done::Key(key, Box::new(outcome))
            });
        }
    }

    fn on_outcome(&mut self, key: &Key, outcome: Outcome) {
        self.running.remove(key);
        self.queue.done(key);
        let now = Instant::now();
        let was_converged = self.board.is_converged(key);
        self.board.finish(key, outcome.view.clone(), &outcome.verdict);
        if let Some(delay) = self.delay_after(key, &outcome) {
            self.queue.add(key.clone(), now + delay);
        }
        let settled = outcome.verdict == Verdict::Converged || outcome.verdict == Verdict::Held;
        if let Key::Volume(name) = key
            && (!outcome.taken.is_empty() || !was_converged || !settled)
        {
            self.wake_containers_of(&name.clone(), now);
        }
        self.followers.outcome(key, &outcome);
    }

    /// Decides when a key is looked at again without an event; `None`: at the resync.
    fn delay_after(&mut self, key: &Key, outcome: &Outcome) -> Option<Duration> {
        let settings = &self.desired.settings;
        let backoff = Backoff { initial: settings.retry_initial, max: settings.retry_max };
        let mut fail = || {
            let failures = self.failures.entry(key.clone()).or_insert(0);
            *failures = failures.saturating_add(1);
            *failures
        };
        match &outcome.verdict {
            Verdict::Converged => {
                self.failures.remove(key);
                None
            }
            Verdict::Conflict(_) => {
                let failures = fail();
                let later = failures.checked_sub(CONFLICTS).filter(|left| *left > 0);
                Some(later.map_or(Duration::ZERO, |n| backoff.delay(n, fastrand::u8(..))))
            }
            Verdict::Failed(_) => Some(backoff.delay(fail(), fastrand::u8(..))),
            Verdict::Held => {
                let soon = outcome.view.holds.iter().any(|h| h.recheck() == Recheck::Backoff);
                if soon {
                    Some(backoff.delay(fail(), fastrand::u8(..)))
                } else {
                    self.failures.remove(key);
                    Some(settings.hold_interval)
                }
            }
            // The volume's own run wakes it; this is for the case that nothing does.
            Verdict::Waiting => Some(settings.hold_interval),
            Verdict::Cancelled => None,
        }
    }

    fn look_at_container(&mut self, ctid: Ctid, at: Instant) {
        let volumes: Vec<Key> =
            self.desired.mounts_of(ctid).map(|(v, _)| Key::Volume(v.name.clone())).collect();
        if volumes.is_empty() && !self.desired.containers.contains_key(&ctid) {
            return;
        }
        // A conf that changed is news: what failed before starts over.
        for key in volumes.into_iter().chain([Key::Container(ctid)]) {
            self.failures.remove(&key);
            self.queue.add(key, at);
        }
    }

    /// Wakes the containers that may wait for a volume.
    fn wake_containers_of(&mut self, name: &VolumeName, now: Instant) {
        let Some(volume) = self.desired.volumes.get(name) else { return };
        let waiting = volume.mounts.keys().copied().map(Key::Container);
        for key in waiting.filter(|key| !self.board.is_converged(key)).collect::<Vec<_>>() {
            // A hold of the container's own is not lifted by its volume.
            if self.board.holds(&key).is_empty() {
                self.queue.add(key, now);
            }
        }
    }

    fn on_client(&mut self, request: followers::Request) {
        match request.op.clone() {
            followers::Op::Status(keys) => {
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
fn has_room(running: &BTreeMap<Key, Job>, limit: usize, key: &Key) -> bool {
    let is_volume = |key: &Key| matches!(key, Key::Volume(_));
    let same_kind = running.keys().filter(|other| is_volume(other) == is_volume(key)).count();
    same_kind < if is_volume(key) { limit.div_ceil(2) } else { limit }.max(1)
}

impl<R> std::fmt::Debug for Controller<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Controller").field("queue", &self.queue).finish_non_exhaustive()
    }
}
