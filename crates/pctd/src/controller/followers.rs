//! Clients that asked for something: `status` is answered at once, `reconcile` is followed until
//! every key it named has settled.

use std::collections::{BTreeMap, BTreeSet};

use pctd_core::ids::{Key, VolumeName};
use pctd_core::order::OrderReport;
use pctd_core::plan::{Hold, Reason, Step};
use pctd_core::report::{KeyReport, PlanReport, StatusReport};
use pctd_core::request::Op;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::reconciler::{Outcome, Verdict};

/// A request with the way back to its client.
#[derive(Debug)]
pub(crate) struct Request {
    /// What is wanted.
    pub(crate) op: Op,
    /// Where the answer goes; a client that went away is no error.
    pub(crate) reply: oneshot::Sender<Answer>,
}

/// The answer to a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Answer {
    /// To `status`.
    Status(Box<StatusReport>),
    /// To `reconcile`.
    Plan(PlanReport),
    /// To an order.
    Order(OrderReport),
    /// It could not be done.
    Error {
        /// The version of the protocol.
        version: u32,
        /// Why.
        error: String,
    },
}

impl Request {
    /// Answers with a status.
    pub(crate) fn answer_status(self, report: StatusReport) {
        self.answer(Answer::Status(Box::new(report)));
    }

    /// Answers that it cannot be done.
    pub(crate) fn answer_error(self, error: String) {
        self.answer(Answer::Error { version: pctd_core::report::REPORT_VERSION, error });
    }

    /// Answers with what came of an order.
    pub(crate) fn answer_order(self, came_of_it: Result<OrderReport, String>) {
        match came_of_it {
            Ok(report) => self.answer(Answer::Order(report)),
            Err(why) => self.answer_error(why),
        }
    }

    fn answer(self, answer: Answer) {
        // The client may have hung up; then nobody wants the answer.
        drop(self.reply.send(answer));
    }
}

/// So many looks at a key that a task keeps busy a client waits for; with the backoff between them
/// that is about as long as `pct` itself waits for a lock.
const PATIENCE: u8 = 6;

/// A key that a client waits for.
#[derive(Debug)]
struct Open {
    /// Whether the run under way began before the request.
    stale: bool,
    /// How many more looks at a busy key it waits for.
    patience: u8,
}

/// Clients waiting for keys to settle.
#[derive(Debug, Default)]
pub(crate) struct Followers {
    waiting: Vec<Follower>,
}

#[derive(Debug)]
struct Follower {
    request: Request,
    /// Keys that have not settled.
    open: BTreeMap<Key, Open>,
    /// What was done so far.
    taken: BTreeMap<Key, Vec<Step>>,
    report: PlanReport,
}

impl Followers {
    /// Follows `keys` until they settle; runs under way began before the request and do not count.
    pub(crate) fn follow(
        &mut self,
        request: Request,
        keys: BTreeSet<Key>,
        running: &BTreeSet<Key>,
    ) {
        let open = keys.into_iter().map(|key| {
            let stale = running.contains(&key);
            (key, Open { stale, patience: PATIENCE })
        });
        let open = open.collect();
        let follower =
            Follower { request, open, taken: BTreeMap::new(), report: PlanReport::empty() };
        self.waiting.push(follower);
        self.settle();
    }

    /// Enters what came of a run, and the volumes that the key waits for in vain.
    pub(crate) fn outcome(
        &mut self,
        key: &Key,
        outcome: &Outcome,
        waits_for: &BTreeSet<VolumeName>,
    ) {
        for follower in &mut self.waiting {
            follower.outcome(key, outcome, waits_for);
        }
        self.settle();
    }

    /// Ends the wait for a key that is no longer in the configuration.
    pub(crate) fn forget(&mut self, key: &Key) {
        for follower in &mut self.waiting {
            if follower.open.remove(key).is_some() {
                let error = Some("it was taken out of the configuration".to_owned());
                let steps = follower.taken.remove(key).unwrap_or_default();
                let entry = KeyReport { steps, error, ..KeyReport::default() };
                follower.report.insert(key.clone(), entry);
            }
        }
        self.settle();
    }

    fn settle(&mut self) {
        // Of a client that hung up nobody waits for the end.
        self.waiting.retain(|follower| !follower.request.reply.is_closed());
        for index in (0..self.waiting.len()).rev() {
            if self.waiting[index].open.is_empty() {
                let mut follower = self.waiting.swap_remove(index);
                follower.report.count();
                follower.request.answer(Answer::Plan(follower.report));
            }
        }
    }
}

impl Follower {
    fn outcome(&mut self, key: &Key, outcome: &Outcome, waits_for: &BTreeSet<VolumeName>) {
        let Some(open) = self.open.get_mut(key) else { return };
        self.taken.entry(key.clone()).or_default().extend(outcome.taken.iter().cloned());
        // A run that began before the request may have looked before what the client did.
        if std::mem::take(&mut open.stale) {
            return;
        }
        // Some task is at work on a container, such as a step of another key: it ends soon.
        if outcome.view.holds.iter().any(Hold::is_busy) && open.patience > 0 {
            open.patience -= 1;
            return;
        }
        let error = match &outcome.verdict {
            Verdict::Converged | Verdict::Held => None,
            Verdict::Failed(error) => Some(error.clone()),
            Verdict::Waiting if !waits_for.is_empty() => None,
            // These go on by themselves, soon.
            Verdict::Waiting | Verdict::Conflict(_) | Verdict::Cancelled => return,
        };
        self.open.remove(key);
        let held = |volume: &VolumeName| Reason {
            reason: "VolumeHeld".to_owned(),
            message: format!("it waits for volume {volume}"),
        };
        let holds = outcome.view.holds.iter().map(Reason::from);
        let entry = KeyReport {
            steps: self.taken.remove(key).unwrap_or_default(),
            holds: holds.chain(waits_for.iter().map(held)).collect(),
            notices: outcome.view.notices.clone(),
            unmanaged: Vec::new(),
            error,
        };
        self.report.insert(key.clone(), entry);
    }
}
