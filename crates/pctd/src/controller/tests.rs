//! The loop on a clock that stands still, over a node that does as it is told.
//!
//! Waiting for the next call lets the clock run to the next deadline, so every test says to the
//! millisecond when something happens. A call that a [`Gate`] holds stops the clock.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc as std_mpsc};
use std::time::Duration;

use pctd_core::config::{Strictness, load};
use pctd_core::desired::Desired;
use pctd_core::ids::{Ctid, Key, VolumeName};
use pctd_core::observed::{Assurance, Drift, Removal};
use pctd_core::order::{Order, OrderReport, UndoOrder};
use pctd_core::plan::{Hold, NotReady, Step};
use pctd_core::report::{KeyState, KeyStatus, PlanReport, StatusReport, UndoReport};
use pctd_core::request::{Asked, Op, ReadFile};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::followers::{Answer, Request};
use super::retries::CONFLICTS;
use super::walks::PACE;
use super::{ConfigEvent, Controller, Event, News, SETTLE};
use crate::reconciler::{Job, Outcome, Reconciler, Verdict, View};

mod clients;
mod config;
mod life;
mod retries;
mod runs;
mod walks;

/// Two containers and no volume, so that nothing is due but what a test asks for.
const CONTAINERS: &str =
    r#"{"lxc_configs": {"100": {"unprivileged": true}, "101": {"unprivileged": true}}}"#;

/// A volume in two containers.
const VOLUME: &str = r#"{"shared_volumes": {"data": {"host_path": "/tank/data", "mounts": {"100": "/data", "101": "/data"}}}}"#;

/// What the node is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Call {
    Survey,
    Run {
        key: Key,
        verify: bool,
        confirmed: bool,
    },
    Order(Order),
    /// A run that a gate held found that it is to end.
    Cancelled(Key),
}

fn run(text: &str) -> Call {
    Call::Run { key: key(text), verify: false, confirmed: false }
}

fn walk(text: &str) -> Call {
    Call::Run { key: key(text), verify: true, confirmed: false }
}

fn confirmed(text: &str) -> Call {
    Call::Run { key: key(text), verify: matches!(key(text), Key::Volume(_)), confirmed: true }
}

/// What the node answers to a run.
#[derive(Debug)]
struct Reply {
    outcome: Outcome,
    gate: Option<std_mpsc::Receiver<()>>,
    /// Whether the gate holds it in what must not be cut.
    uncut: bool,
}

/// Lets a call end that was held until then.
type Gate = std_mpsc::Sender<()>;

impl Reply {
    fn new(verdict: Verdict) -> Self {
        let view = match &verdict {
            Verdict::Converged => View::default(),
            _ => differs(),
        };
        Self { outcome: Outcome { view, taken: Vec::new(), verdict }, gate: None, uncut: false }
    }

    fn uncut(mut self) -> Self {
        self.uncut = true;
        self
    }

    fn failed() -> Self {
        Self::new(Verdict::Failed("pct exited with 255".to_owned()))
    }

    fn conflict() -> Self {
        Self::new(Verdict::Conflict("the digest differs".to_owned()))
    }

    fn held(hold: Hold) -> Self {
        let view = View { holds: vec![hold], ..View::default() };
        let outcome = Outcome { view, taken: Vec::new(), verdict: Verdict::Held };
        Self { outcome, ..Self::new(Verdict::Held) }
    }

    fn taking(mut self, step: Step) -> Self {
        self.outcome.taken.push(step);
        self
    }

    fn gated(mut self) -> (Self, Gate) {
        let (gate, wait) = std_mpsc::channel();
        self.gate = Some(wait);
        (self, gate)
    }
}

/// A node that does as it is told.
struct Script {
    calls: mpsc::UnboundedSender<Call>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Answers to come by key; a key without any converges.
    replies: BTreeMap<Key, VecDeque<Reply>>,
    /// What a survey sees of keys that are not in place.
    differing: BTreeMap<Key, View>,
    survey_gate: Option<std_mpsc::Receiver<()>>,
    running: BTreeSet<Key>,
    /// What was asked of each run so far.
    asked: Vec<Asked>,
    panics: bool,
}

impl Reconciler for Script {
    fn survey(&self, desired: &Desired, _removal: Removal) -> BTreeMap<Key, View> {
        let (gate, differing) = {
            let mut state = self.state.lock().unwrap();
            (state.survey_gate.take(), state.differing.clone())
        };
        self.calls.send(Call::Survey).unwrap();
        if let Some(gate) = gate {
            gate.recv().unwrap();
        }
        let view = |key: Key| {
            let view = differing.get(&key).cloned().unwrap_or_default();
            (key, view)
        };
        super::board::keys_of(desired).into_iter().map(view).collect()
    }

    fn reconcile(&self, _: &Desired, key: &Key, job: &Job) -> Outcome {
        let reply = {
            let mut state = self.state.lock().unwrap();
            assert!(!state.panics, "as told");
            state.asked.push(job.asked);
            assert!(state.running.insert(key.clone()), "{key} runs twice at once");
            state.replies.get_mut(key).and_then(VecDeque::pop_front)
        };
        let Reply { mut outcome, gate, uncut } =
            reply.unwrap_or_else(|| Reply::new(Verdict::Converged));
        let (verify, confirmed) = (job.verify, job.is_confirmed());
        let has_gate = gate.is_some();
        let work = || {
            self.calls.send(Call::Run { key: key.clone(), verify, confirmed }).unwrap();
            if let Some(gate) = gate {
                gate.recv().unwrap();
            }
        };
        if uncut {
            job.uncut(work);
        } else {
            work();
        }
        if has_gate && job.is_cancelled() {
            self.calls.send(Call::Cancelled(key.clone())).unwrap();
            outcome.verdict = Verdict::Cancelled;
        }
        self.state.lock().unwrap().running.remove(key);
        outcome
    }

    fn obey(&self, _: &Desired, order: &Order, _: &Job) -> Result<OrderReport, String> {
        let name = order.volume().clone();
        let is_alone = {
            let running = &mut self.state.lock().unwrap().running;
            running.insert(Key::Volume(name.clone()))
        };
        assert!(is_alone, "a run goes on in {name}");
        self.calls.send(Call::Order(order.clone())).unwrap();
        self.state.lock().unwrap().running.remove(&Key::Volume(name.clone()));
        Ok(OrderReport::Undo(UndoReport::new(name, Vec::new(), None)))
    }

    fn drift(&self, _: &VolumeName) -> Option<Drift> {
        None
    }

    fn is_shared(&self, volume: &VolumeName) -> bool {
        volume.as_str() == "data"
    }

    fn assurance(&self, _: &VolumeName) -> Assurance {
        Assurance::Ledger
    }
}

/// A loop over a scripted node.
struct Loop {
    script: Arc<Script>,
    calls: mpsc::UnboundedReceiver<Call>,
    events: mpsc::Sender<Event>,
    stop: watch::Sender<bool>,
    readies: Arc<AtomicUsize>,
    /// How often more time was asked for.
    extended: Arc<AtomicUsize>,
    task: JoinHandle<()>,
    begun: Instant,
}

impl Loop {
    /// Starts a loop over a node in which everything is in place.
    fn start(config: &str) -> Self {
        Self::start_with(config, |_| {})
    }

    fn start_with(config: &str, prepare: impl FnOnce(&mut State)) -> Self {
        let (calls_tx, calls) = mpsc::unbounded_channel();
        let mut state = State::default();
        prepare(&mut state);
        let script = Arc::new(Script { calls: calls_tx, state: Mutex::new(state) });
        let (events, events_rx) = mpsc::channel(16);
        let (stop, stop_rx) = watch::channel(false);
        let (summary, _) = watch::channel(String::new());
        let readies = Arc::new(AtomicUsize::new(0));
        let files = vec![ReadFile::of("config.json", config.as_bytes())];
        let begun = Instant::now();
        let desired = Arc::new(desired_of(config));
        let first = ConfigEvent::Accepted { desired, files };
        let controller = Controller::new(Arc::clone(&script), first, summary);
        let told = Arc::clone(&readies);
        let ready = move || {
            told.fetch_add(1, Ordering::Relaxed);
        };
        let extended = Arc::new(AtomicUsize::new(0));
        let asked = Arc::clone(&extended);
        let extend = move |_| {
            asked.fetch_add(1, Ordering::Relaxed);
        };
        let task = tokio::spawn(controller.run(events_rx, stop_rx, ready, extend));
        Self { script, calls, events, stop, readies, extended, task, begun }
    }

    /// Starts a loop and lets its first survey, and the first walks, pass.
    async fn settled(config: &str) -> Self {
        let mut this = Self::start(config);
        let walks = desired_of(config).volumes.keys().map(|name| walk(name.as_str())).collect();
        let mut first: Vec<Call> = vec![this.next().await];
        for _ in &walks {
            first.push(this.next().await);
        }
        let expected: Vec<Call> = std::iter::once(Call::Survey).chain::<Vec<Call>>(walks).collect();
        assert!(expected.iter().all(|call| first.contains(call)), "{first:?}");
        this.pass(Duration::ZERO).await;
        this
    }

    fn reply(&self, text: &str, replies: impl IntoIterator<Item = Reply>) {
        let mut state = self.script.state.lock().unwrap();
        state.replies.entry(key(text)).or_default().extend(replies);
    }

    fn differing(&self, text: &str) {
        self.script.state.lock().unwrap().differing.insert(key(text), differs());
    }

    async fn event(&self, text: &str) {
        self.hear(text, News::Conf).await;
    }

    async fn hear(&self, text: &str, news: News) {
        let Key::Container(ctid) = key(text) else { panic!("{text} is no container") };
        self.events.send(Event::Container(ctid, news)).await.unwrap();
    }

    async fn configure(&self, config: &str) {
        let desired = Arc::new(desired_of(config));
        let files = vec![ReadFile::of("config.json", config.as_bytes())];
        self.events.send(Event::Config(ConfigEvent::Accepted { desired, files })).await.unwrap();
    }

    async fn ask(&self, op: Op) -> oneshot::Receiver<Answer> {
        let (reply, answer) = oneshot::channel();
        self.events.send(Event::Client(Request { op, reply })).await.unwrap();
        answer
    }

    async fn apply(&self, keys: &[&str], confirm: bool) -> oneshot::Receiver<Answer> {
        let keys: Vec<Key> = keys.iter().map(|text| key(text)).collect();
        let asked = Asked::of(confirm, false, &keys);
        self.ask(Op::Reconcile { keys, asked, read: None }).await
    }

    async fn status(&self) -> StatusReport {
        match self.ask(Op::Status(Vec::new())).await.await.unwrap() {
            Answer::Status(report) => *report,
            other => panic!("{other:?}"),
        }
    }

    async fn status_of(&self, text: &str) -> KeyStatus {
        let report = self.status().await;
        match key(text) {
            Key::Container(ctid) => report.containers[&ctid].clone(),
            Key::Volume(name) => report.volumes[&name].clone(),
        }
    }

    /// The next thing the node is asked, whenever that is.
    async fn next(&mut self) -> Call {
        self.calls.recv().await.expect("the loop goes on")
    }

    /// Lets time pass, and returns what the node was asked meanwhile.
    async fn pass(&mut self, time: Duration) -> Vec<Call> {
        // A little more, so that what is due just then is seen.
        sleep(time + Duration::from_millis(1)).await;
        std::iter::from_fn(|| self.calls.try_recv().ok()).collect()
    }

    /// Moves the clock while a gate holds it, after everything sent so far was taken note of.
    async fn advance(&self, time: Duration) {
        self.status().await;
        tokio::time::advance(time).await;
    }

    /// The time between now and the next call.
    async fn gap(&mut self) -> (Call, Duration) {
        let before = Instant::now();
        let call = self.next().await;
        (call, before.elapsed())
    }
}

fn desired_of(config: &str) -> Desired {
    let files = [("config.json".to_owned(), config.as_bytes().to_vec())];
    load(&files, Strictness::Lenient).map_err(|error| error.to_string()).unwrap().desired
}

fn key(text: &str) -> Key {
    text.parse().unwrap()
}

fn ctid(id: u32) -> Ctid {
    Ctid::new(id).unwrap()
}

fn step() -> Step {
    Step::CreateDirectory { path: "/tank/data".to_owned() }
}

fn differs() -> View {
    View { steps: vec![step()], ..View::default() }
}

fn protected() -> Hold {
    Hold::Protected { ctid: ctid(100) }
}

fn confirmation() -> Hold {
    let volume = "data".parse().unwrap();
    Hold::ConfirmationRequired { volume, changes: 20_000, entries: 30_000, limit: 10_000 }
}

fn plan_of(answer: Answer) -> PlanReport {
    match answer {
        Answer::Plan(report) => report,
        other => panic!("{other:?}"),
    }
}

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
