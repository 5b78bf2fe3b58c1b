//! The engine: one key at a time, observe -> plan -> one step -> observe again, on a real node.
//!
//! Every step is decided on a snapshot taken right before it, so the digest a `pct set` carries is
//! that of the bytes it was planned on, and *converged* always means that a plan came out empty.
//! Nothing here retries or waits: that is the controller's.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use pctd_core::condition;
use pctd_core::desired::{Desired, Mode};
use pctd_core::ids::{Ctid, Key, VolumeName};
use pctd_core::ledger::{LedgerEntry, VolumeRecord};
use pctd_core::observed::{Assurance, Drift, MapConsent, Removal, Requests, Snapshot};
use pctd_core::order::{Order, OrderReport};
use pctd_core::plan::{Basis, Plans, Readiness, Step};
use pctd_core::request::Asked;
use pctd_node::{Node, NodeOptions, NodePaths, Trace, Watcher};
use tracing::debug;

use crate::engine::restarts::Restarts;
use crate::reconciler::{Job, Outcome, Reconciler, Verdict, View};

mod apply;
mod certificate;
mod convert;
mod edit;
mod making;
mod observe;
mod remove;
mod restart;
mod restarts;
mod shift;
pub(crate) mod undo;
mod watch;

pub(crate) use observe::{Depth, Scope};

/// Steps one run may take: more than any conf has mounts, so only a defect reaches it.
const MAX_STEPS: usize = 600;

/// Observes a node and changes it. See the module.
#[derive(Debug)]
pub(crate) struct Engine {
    node: Node,
    /// What was said on the command line about the node; the rest is the configuration's.
    options: NodeOptions,
    memory: Mutex<Memory>,
    /// Only the daemon watches.
    watcher: Option<Watcher>,
    /// What was desired at the last look at everything; for the watch.
    in_force: Mutex<Desired>,
}

/// What is remembered between runs, and only in this process.
#[derive(Debug, Default)]
struct Memory {
    /// Since when each container's id map has not been ready.
    not_ready_since: BTreeMap<Ctid, Instant>,
    /// Volumes whose file system refused an owner, until an admin asks again or the refusal is
    /// due for another look.
    refused: BTreeMap<VolumeName, String>,
    /// Volumes in which what was to be changed could not be recorded, until the next try.
    unrecorded: BTreeMap<VolumeName, String>,
    /// Volumes whose last run found why nothing is done to them, which waiting will not cure.
    held: BTreeSet<VolumeName>,
    /// What is known of volumes since this process started, besides the ledger, and for which
    /// record of the ledger that holds.
    assured: BTreeMap<VolumeName, (Assurance, VolumeRecord)>,
    /// What walks noted whose outcome is not known yet.
    traces: BTreeMap<VolumeName, Arc<Trace>>,
    /// Volumes that other nodes see as well.
    shared: BTreeSet<VolumeName>,
    /// Volumes that an order is at work in, and the watch leaves alone.
    left_alone: BTreeSet<VolumeName>,
    /// Containers that a run clones right now.
    cloning: BTreeSet<Ctid>,
    /// The restarts that the ledger knows of, and when they were.
    restarts: Restarts,
    /// Containers that did not come back from a restart.
    restart_failed: BTreeMap<Ctid, String>,
}

/// What one step came to.
#[derive(Debug)]
enum StepEnd {
    /// It is done, or found to be done.
    Done,
    /// It is done, but for what another run did that was interrupted, and that was not looked at.
    DoneTheRest,
    /// It was not done, deliberately; the next plan says why.
    Refused,
    /// The conf changed in between.
    Conflict(String),
    /// It failed.
    Failed(String),
}

impl Engine {
    /// Returns the engine of this node.
    pub(crate) fn new(paths: NodePaths, options: NodeOptions) -> Self {
        let node = Node::open(paths, options.clone());
        Self { node, options, memory: Mutex::default(), watcher: None, in_force: Mutex::default() }
    }

    /// Returns the node it works on.
    pub(crate) const fn node(&self) -> &Node {
        &self.node
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        // Each field is valid by itself, so a panic elsewhere leaves nothing half done here.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns every key there is something to say of: what is desired, and the containers in which
    /// something of pctd's may stand, or that it owes something, though they are not declared any more.
    pub(crate) fn keys(&self, desired: &Desired) -> BTreeSet<Key> {
        let mut keys = crate::controller::board::keys_of(desired);
        let ledger = std::sync::Arc::clone(self.node.ledger().ledger());
        let left = ledger.mounting().into_iter().chain(ledger.start_owed.iter().copied());
        // A container that is being converted may be nothing but a backup.
        let left = left.chain(ledger.converting.keys().copied());
        keys.extend(left.map(Key::Container));
        keys
    }

    /// Returns what is asked of a run, or of a look at everything.
    pub(crate) fn requests(&self, job: &Job, key: Option<&Key>) -> Requests {
        // Whoever names a key means what the files say of it now.
        let removal = if job.is_confirmed() { Removal::Allowed } else { job.removal };
        let memory = self.memory();
        let mut requests = Requests {
            confirmed: BTreeSet::new(),
            refused: memory.refused.clone(),
            unrecorded: memory.unrecorded.clone(),
            held: memory.held.clone(),
            named: BTreeSet::new(),
            id_maps: BTreeMap::new(),
            restart_failed: memory.restart_failed.clone(),
            removal,
        };
        match key {
            Some(Key::Volume(name)) if job.is_confirmed() => {
                requests.confirmed.insert(name.clone());
            }
            Some(Key::Container(ctid)) if job.asked >= Asked::Again => {
                requests.named.insert(*ctid);
                let consent = match job.asked {
                    Asked::Sure => Some(MapConsent::Any),
                    Asked::Named => Some(MapConsent::RootKept),
                    Asked::No | Asked::All | Asked::Again => None,
                };
                requests.id_maps.extend(consent.map(|consent| (*ctid, consent)));
            }
            Some(_) | None => {}
        }
        requests
    }

    /// Forgets what was refused before: an admin asks for another try, or a verify is due.
    fn forget_refusals(&self, key: &Key) {
        let mut memory = self.memory();
        match key {
            Key::Container(ctid) => drop(memory.restart_failed.remove(ctid)),
            Key::Volume(name) => drop(memory.refused.remove(name)),
        }
    }

    /// Remembers for the containers of a volume whether they need not wait for it any longer.
    fn remember_held(&self, plans: &Plans, key: &Key, verdict: &Verdict) {
        let Key::Volume(name) = key else { return };
        let is_ready = plans.volumes.get(name).is_some_and(|p| p.readiness == Readiness::Ready);
        let mut memory = self.memory();
        if is_ready && *verdict == Verdict::Held {
            memory.held.insert(name.clone());
        } else {
            memory.held.remove(name);
        }
    }

    /// Remembers that a volume was walked to the end and found in place.
    fn remember_walk(&self, plans: &Plans, key: &Key, verdict: &Verdict) {
        let Key::Volume(name) = key else { return };
        let trace = self.memory().traces.remove(name);
        // With a rule that holds from now on: else nothing below the root was judged.
        let plan = plans.volumes.get(name).filter(|plan| plan.standing.is_some());
        let by = match plan.map(|plan| plan.basis) {
            Some(Basis::Walk) => Assurance::Walk,
            // A walk that went on where another was interrupted compared the directories on its way,
            // and noted all of them.
            Some(Basis::Before(Assurance::Directories)) if trace.is_some() => {
                Assurance::Directories
            }
            _ => return,
        };
        let record = self.node.ledger().ledger().volumes.get(name).cloned();
        if *verdict == Verdict::Converged
            && let Some(record) = record
        {
            if let Some(Err(error)) = trace.map(|trace| trace.keep(&record)) {
                debug!(VOLUME = %name, "what the walk noted is lost: {error}");
            }
            // What a whole walk of this process saw is not known less well because of another.
            let assured = (by.max(self.assurance_of(name)), record);
            self.memory().assured.insert(name.clone(), assured);
        }
    }

    fn run(&self, desired: &Desired, key: &Key, job: &Job) -> Outcome {
        if job.is_confirmed() || job.verify {
            self.forget_refusals(key);
        }
        if let Key::Volume(name) = key {
            self.memory().unrecorded.remove(name);
        }
        if let (Key::Volume(name), true) = (key, job.verify) {
            self.catch_up(desired, name);
        }
        let mut taken: Vec<Step> = Vec::new();
        let mut repaired = false;
        let mut depth = if job.verify { Depth::Walk } else { Depth::WhereNeeded };
        loop {
            let scope = Scope::of(desired, key);
            let requests = self.requests(job, Some(key));
            let looked = self.look(desired, &scope, depth, requests, job);
            let (snapshot, plans) = match looked {
                Ok(found) => found,
                Err(error) => return outcome(View::default(), taken, Verdict::Failed(error)),
            };
            let view = view(desired, &snapshot, &plans, key);
            if job.is_cancelled() {
                return outcome(view, taken, Verdict::Cancelled);
            }
            debug!(key = %key, steps = view.steps.len(), holds = view.holds.len(), "planned");
            if desired.settings.mode == Mode::Enforce
                && let Err(error) = self.enter_records(&plans, key, &taken)
            {
                return outcome(view, taken, Verdict::Failed(error));
            }
            if owes_records(desired, &plans, key) {
                // It is remembered now; only a look says that nothing else is left.
                continue;
            }
            let step = match next_step(desired, &view) {
                Ok(step) => step,
                Err(verdict) => {
                    self.remember_held(&plans, key, &verdict);
                    self.remember_walk(&plans, key, &verdict);
                    return outcome(view, taken, verdict);
                }
            };
            // Taken, and still planned: something undoes it, or writes faster than is repaired.
            // Backoff, not a busy loop.
            let is_repair = matches!(step, Step::SetOwnership(_));
            let again = if is_repair { repaired } else { taken.last() == Some(&step) };
            if again || taken.len() >= MAX_STEPS {
                let why = format!("{} did not last: something undoes it", step.name());
                return outcome(view, taken, Verdict::Failed(why));
            }
            // After a walk that changed something, only a walk can say that all is right.
            depth = match &step {
                Step::SetOwnership(_) => Depth::Walk,
                _ => Depth::WhereNeeded,
            };
            match self.apply(desired, &snapshot, &plans, key, &step, job) {
                StepEnd::Done => {
                    repaired |= is_repair;
                    taken.push(step);
                }
                StepEnd::DoneTheRest => taken.push(step),
                StepEnd::Refused => {}
                StepEnd::Conflict(why) => return outcome(view, taken, Verdict::Conflict(why)),
                StepEnd::Failed(why) => return outcome(view, taken, Verdict::Failed(why)),
            }
        }
    }
}

fn outcome(view: View, taken: Vec<Step>, verdict: Verdict) -> Outcome {
    Outcome { view, taken, verdict }
}

/// Returns the step to take, or how the run ends because there is none.
fn next_step(desired: &Desired, view: &View) -> Result<Step, Verdict> {
    let step = view.steps.iter().find(|step| !step.waits_for_volume());
    match step {
        Some(step) if desired.settings.mode == Mode::Enforce => Ok(step.clone()),
        _ if !view.holds.is_empty() => Err(Verdict::Held),
        _ if !view.steps.is_empty() || view.unsettled => Err(Verdict::Waiting),
        _ => Err(Verdict::Converged),
    }
}

/// Returns whether what was seen of a container has to be remembered before it is left alone: that
/// it is whole, or that it was here at all, since one that goes is not to be made again.
fn owes_records(desired: &Desired, plans: &Plans, key: &Key) -> bool {
    let Key::Container(ctid) = key else { return false };
    let is_made = desired.containers.get(ctid).is_some_and(|def| def.source.is_some());
    let records = plans.containers.get(ctid).map_or(&[][..], |plan| &plan.records);
    let counts = |record: &LedgerEntry| match record {
        LedgerEntry::MakeEnded(_)
        | LedgerEntry::StartSettled(_)
        | LedgerEntry::Converted { .. }
        | LedgerEntry::ConvertFailed { .. }
        | LedgerEntry::ConvertEnded(_) => true,
        LedgerEntry::Seen(_) => is_made,
        _ => false,
    };
    desired.settings.mode == Mode::Enforce && records.iter().any(counts)
}

/// Returns one key as these plans see it.
pub(crate) fn view(desired: &Desired, snapshot: &Snapshot, plans: &Plans, key: &Key) -> View {
    let (conditions, notices, unsettled) = match key {
        Key::Container(ctid) => {
            let plan = plans.containers.get(ctid);
            (
                condition::of_container(desired, snapshot, plans, *ctid),
                plan.map(|plan| plan.notices.as_slice()),
                plan.is_some_and(|plan| !plan.waits_for.is_empty())
                    || owes_records(desired, plans, key),
            )
        }
        Key::Volume(name) => {
            let plan = plans.volumes.get(name);
            (
                condition::of_volume(snapshot, plans, name),
                plan.map(|plan| plan.notices.as_slice()),
                plan.is_some_and(|plan| plan.needs_audit),
            )
        }
    };
    View {
        conditions,
        steps: plans.steps(key).to_vec(),
        holds: plans.holds(key),
        believed: believes(snapshot, key),
        notices: notices.unwrap_or_default().iter().map(Into::into).collect(),
        unsettled,
    }
}

/// Returns whether a walk of this look went on where another was interrupted.
fn believes(snapshot: &Snapshot, key: &Key) -> bool {
    let Key::Volume(name) = key else { return false };
    let audit = snapshot.volumes.get(name).and_then(|observed| observed.audit.as_ref());
    audit.is_some_and(|audit| audit.believed > 0)
}

impl Reconciler for Engine {
    fn survey(&self, desired: &Desired, removal: Removal) -> BTreeMap<Key, View> {
        self.stop_watching_others(desired);
        let job = Job { removal, ..Job::default() };
        let keys = self.keys(desired);
        let scope = Scope::of_keys(desired, &keys);
        let looked = self.look(desired, &scope, Depth::Surface, self.requests(&job, None), &job);
        match looked {
            Ok((snapshot, plans)) => {
                let each = |key: Key| (key.clone(), view(desired, &snapshot, &plans, &key));
                keys.into_iter().map(each).collect()
            }
            Err(error) => {
                debug!(error, "survey failed");
                BTreeMap::new()
            }
        }
    }

    fn obey(&self, desired: &Desired, order: &Order, job: &Job) -> Result<OrderReport, String> {
        match order {
            Order::Undo(order) => self.undo(desired, order, job).map(OrderReport::Undo),
            Order::Shift(order) => self.shift(desired, order, job).map(OrderReport::Shift),
        }
    }

    fn reconcile(&self, desired: &Desired, key: &Key, job: &Job) -> Outcome {
        let outcome = self.run(desired, key, job);
        if let Key::Volume(name) = key {
            // What a walk noted that did not come to a good end is of no use.
            self.memory().traces.remove(name);
        }
        outcome
    }

    fn drift(&self, volume: &VolumeName) -> Option<Drift> {
        self.drift_of(volume)
    }

    fn is_shared(&self, volume: &VolumeName) -> bool {
        self.memory().shared.contains(volume)
    }

    fn assurance(&self, volume: &VolumeName) -> Assurance {
        self.assurance_of(volume)
    }
}
