//! The loop: decides which key is looked at when, and keeps what is known of each.
//!
//! Level-triggered by construction. An [`Event`] only says "look again"; its reason is for the
//! log and never reaches the [`Reconciler`]. Retry, backoff, concurrency and time are here and
//! nowhere else. The loop itself never blocks: everything that touches the node runs on the
//! blocking pool, one run per key at a time.
//!
//! - Here: the loop itself, its events and its deadlines.
//! - `config`: which configuration is in force; `in_force` whether it is what a client read. `surveys`: looks at everything.
//! - `runs`: which key is worked on when; `queue` what waits, `retries` and `backoff` how long,
//!   `walks` which volume is walked.
//! - `orders`: what is done to one volume because an admin says so. `counters`: what was done, for
//!   metrics.
//! - `clients`: what is asked; `followers` who waits for an answer. `board`, `status`: what is known.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use pctd_core::desired::Desired;
use pctd_core::ids::{Ctid, Key, VolumeName};
use pctd_core::order::OrderReport;
use pctd_core::request::Asked;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

pub(crate) use crate::controller::config::ConfigEvent;

use crate::controller::board::Board;
use crate::controller::config::ConfigState;
use crate::controller::followers::Followers;
use crate::controller::orders::Orders;
use crate::controller::queue::WorkQueue;
use crate::controller::retries::Retries;
use crate::controller::runs::{Run, has_room};
use crate::controller::surveys::Surveys;
use crate::controller::walks::Walks;
use crate::reconciler::{Outcome, Reconciler, View};

mod backoff;
pub(crate) mod board;
mod clients;
mod config;
pub(crate) mod counters;
pub(crate) mod followers;
mod in_force;
mod orders;
mod queue;
mod retries;
mod runs;
mod settled;
mod status;
mod surveys;
#[cfg(test)]
mod tests;
mod walks;

/// Something that asks for another look, or for an answer.
#[derive(Debug)]
pub(crate) enum Event {
    /// A conf or its lock changed.
    Container(Ctid, News),
    /// A volume may differ in ways that only a walk can tell.
    Doubt(VolumeName, String),
    /// Anything may have changed.
    All(&'static str),
    /// The cluster may go on without this node: there is no quorum, or nothing is known.
    Adrift,
    /// The configuration files were read.
    Config(ConfigEvent),
    /// A client wants to know, or wants something done.
    Client(followers::Request),
    /// Metrics are to be written.
    Measure(oneshot::Sender<counters::Measures>),
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
    /// It came to this node, or left it.
    Moved,
}

/// Events are collected for this long, so that the several of one `pct set` make one run.
const SETTLE: Duration = Duration::from_millis(20);

/// How long clones that a crash left unfinished keep others waiting; systemd gives up after 90 s.
const READY_PATIENCE: Duration = Duration::from_secs(30);

/// How long the end waits for what may be cut at any time, such as a look or a walk. Where the file
/// system answers, both end at once.
const GRACE: Duration = Duration::from_secs(5);

/// How much time is asked for at the end, counted from then, while something goes on that must not be
/// cut. Asked for every [`GRACE`], so that some may go unheard on a machine that is busy with it.
const EXTENSION: Duration = Duration::from_mins(1);

/// How often systemd is told how far a walk is.
const TELL: Duration = Duration::from_secs(5);

/// Runs on the blocking pool that have ended.
enum Done {
    /// With the generation of the configuration it was made for.
    Survey(u64, BTreeMap<Key, View>),
    Key(Key, Box<Outcome>),
    Order(Key, Result<OrderReport, String>),
}

/// The state of the loop. See the module.
pub(crate) struct Controller<R> {
    reconciler: Arc<R>,
    desired: Arc<Desired>,
    config: ConfigState,
    settled: settled::Settled,
    queue: WorkQueue,
    board: Board,
    followers: Followers,
    orders: Orders,
    retries: Retries,
    walks: Walks,
    /// Keys whose next run an admin asked for.
    asked: BTreeMap<Key, Asked>,
    jobs: JoinSet<Done>,
    running: BTreeMap<Key, Run>,
    surveys: Surveys,
    counters: counters::Counters,
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
            config: ConfigState::default(),
            settled: settled::Settled::default(),
            queue: WorkQueue::default(),
            board: Board::default(),
            followers: Followers::default(),
            orders: Orders::default(),
            retries: Retries::default(),
            walks: Walks::default(),
            asked: BTreeMap::new(),
            jobs: JoinSet::new(),
            running: BTreeMap::new(),
            surveys: Surveys::new(),
            counters: counters::Counters::default(),
            summary,
        };
        controller.on_config(first);
        if !controller.surveys.is_under_way() {
            // Refused: the look at nothing still says when the loop is ready.
            controller.survey();
        }
        controller
    }

    /// Runs until `stop` turns true or every sender of events is gone; ends after the steps under way,
    /// and asks with `extend` for the time they take.
    pub(crate) async fn run(
        mut self,
        mut events: mpsc::Receiver<Event>,
        mut stop: watch::Receiver<bool>,
        ready: impl FnOnce(),
        extend: impl Fn(Duration),
    ) {
        let mut ready = Some(ready);
        let mut ready_by = Instant::now() + READY_PATIENCE;
        loop {
            self.start_runs();
            let deadline = match &ready {
                Some(_) => self.next_deadline().min(ready_by),
                None => self.next_deadline(),
            };
            // Every arm is cancel-safe: receiving, joining and sleeping lose nothing when dropped.
            tokio::select! {
                event = events.recv() => match event {
                    Some(event) => self.on_event(event),
                    None => break,
                },
                Some(done) = self.jobs.join_next(), if !self.jobs.is_empty() => match done {
                    Ok(Done::Survey(generation, views)) => {
                        self.on_survey(generation, views);
                    }
                    Ok(Done::Key(key, outcome)) => self.on_outcome(&key, *outcome),
                    Ok(Done::Order(key, came_of_it)) => self.on_order(&key, came_of_it),
                    Err(panic) => {
                        // A defect: the process ends and systemd starts it anew.
                        error!("a run ended unexpectedly: {panic}");
                        break;
                    }
                },
                () = tokio::time::sleep_until(deadline) => self.on_time(),
                _ = stop.changed() => break,
            }
            // Ready is the first configuration and the first look, not convergence. But guests start
            // after it, and a clone that a crash left unfinished still has its source's address.
            let is_late = Instant::now() >= ready_by;
            if self.surveys.was_made()
                && (is_late || !self.board.is_finishing_clones())
                && let Some(ready) = ready.take()
            {
                ready();
            } else if is_late {
                ready_by = Instant::now() + READY_PATIENCE;
            }
            self.summary.send_if_modified(|old| {
                let new = self.board.summary();
                let changed = *old != new;
                *old = new;
                changed
            });
        }
        self.shut_down(extend).await;
    }

    async fn shut_down(mut self, extend: impl Fn(Duration)) {
        self.running.values().for_each(Run::stop);
        let uncut = self.running.iter().filter(|(_, run)| run.is_uncut());
        let uncut: Vec<String> = uncut.map(|(key, _)| key.to_string()).collect();
        if !uncut.is_empty() {
            info!("ending after what is being done to {}, which must not be cut", uncut.join(", "));
            extend(EXTENSION);
        }
        let mut grace = Instant::now() + GRACE;
        loop {
            // Every arm is cancel-safe: joining and sleeping lose nothing when dropped.
            tokio::select! {
                done = self.jobs.join_next() => match done {
                    Some(Ok(Done::Key(key, outcome))) => {
                        debug!(%key, verdict = ?outcome.verdict, "run ended at shutdown");
                        self.running.remove(&key);
                    }
                    Some(Ok(Done::Order(key, came_of_it))) => self.on_order(&key, came_of_it),
                    Some(_) => {}
                    None => return,
                },
                () = tokio::time::sleep_until(grace) => {
                    if self.running.values().any(Run::is_uncut) {
                        extend(EXTENSION);
                        grace = Instant::now() + GRACE;
                        continue;
                    }
                    // A file system that does not answer; what was done so far stays right.
                    let left: Vec<String> = self.running.keys().map(Key::to_string).collect();
                    let left = if left.is_empty() { "a survey".to_owned() } else { left.join(", ") };
                    warn!("ending without {left}: what it looks at does not answer");
                    return;
                }
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
            Event::Doubt(name, why) => {
                debug!(VOLUME = %name, why, "walk again");
                let key = Key::Volume(name);
                if self.board.knows(&key) {
                    let at = self.walks.doubt(&key, soon);
                    self.queue.add(key, at);
                }
            }
            Event::All(reason) => {
                debug!(reason, "look at everything again");
                self.survey();
            }
            Event::Adrift => {
                debug!("the cluster may go on without this node");
                self.leave_shared(soon);
            }
            Event::Config(event) => self.on_config(event),
            Event::Client(request) => self.on_client(request),
            // Whoever asked may have ended.
            Event::Measure(reply) => drop(reply.send(self.measures())),
        }
    }

    fn on_time(&mut self) {
        let now = Instant::now();
        if now >= self.surveys.next_resync() {
            self.survey();
        }
        for name in self.walks.fall_due(now, self.desired.settings.verify_interval) {
            self.queue.add(Key::Volume(name), now);
        }
    }

    fn next_deadline(&self) -> Instant {
        let limit = self.desired.settings.max_concurrent;
        let key = self
            .surveys
            .was_made()
            .then(|| self.queue.next_deadline(|key| has_room(&self.running, limit, key)))
            .flatten();
        let resync = self.surveys.next_resync();
        // While something runs, so that what is told of it is not old.
        let tell = (!self.running.is_empty()).then(|| Instant::now() + TELL);
        [self.walks.next_due(), key, tell].into_iter().flatten().fold(resync, Instant::min)
    }
}

impl<R> std::fmt::Debug for Controller<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Controller").field("queue", &self.queue).finish_non_exhaustive()
    }
}
