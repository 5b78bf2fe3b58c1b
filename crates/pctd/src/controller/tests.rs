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
use pctd_core::ids::{Ctid, Key};
use pctd_core::plan::{Hold, NotReady, Step};
use pctd_core::report::{KeyState, KeyStatus, PlanReport, StatusReport};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::followers::{Answer, Op, Request};
use super::{ConfigEvent, Controller, Event, News, SETTLE};
use crate::reconciler::{Job, Outcome, Reconciler, Verdict, View};

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
}

/// Lets a call end that was held until then.
type Gate = std_mpsc::Sender<()>;

impl Reply {
    fn new(verdict: Verdict) -> Self {
        let view = match &verdict {
            Verdict::Converged => View::default(),
            _ => differs(),
        };
        Self { outcome: Outcome { view, taken: Vec::new(), verdict }, gate: None }
    }

    fn failed() -> Self {
        Self::new(Verdict::Failed("pct exited with 255".to_owned()))
    }

    fn conflict() -> Self {
        Self::new(Verdict::Conflict("the digest differs".to_owned()))
    }

    fn held(hold: Hold) -> Self {
        let view = View { holds: vec![hold], ..View::default() };
        Self { outcome: Outcome { view, taken: Vec::new(), verdict: Verdict::Held }, gate: None }
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
    panics: bool,
}

impl Reconciler for Script {
    fn survey(&self, desired: &Desired) -> BTreeMap<Key, View> {
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
            assert!(state.running.insert(key.clone()), "{key} runs twice at once");
            state.replies.get_mut(key).and_then(VecDeque::pop_front)
        };
        let Reply { mut outcome, gate } = reply.unwrap_or_else(|| Reply::new(Verdict::Converged));
        let (verify, confirmed) = (job.verify, job.confirmed);
        self.calls.send(Call::Run { key: key.clone(), verify, confirmed }).unwrap();
        if let Some(gate) = gate {
            gate.recv().unwrap();
            if job.is_cancelled() {
                self.calls.send(Call::Cancelled(key.clone())).unwrap();
                outcome.verdict = Verdict::Cancelled;
            }
        }
        self.state.lock().unwrap().running.remove(key);
        outcome
    }
}

/// A loop over a scripted node.
struct Loop {
    script: Arc<Script>,
    calls: mpsc::UnboundedReceiver<Call>,
    events: mpsc::Sender<Event>,
    stop: watch::Sender<bool>,
    readies: Arc<AtomicUsize>,
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
        let files = vec!["config.json".to_owned()];
        let begun = Instant::now();
        let desired = Arc::new(desired_of(config));
        let first = ConfigEvent::Accepted { desired, files };
        let controller = Controller::new(Arc::clone(&script), first, summary);
        let told = Arc::clone(&readies);
        let ready = move || {
            told.fetch_add(1, Ordering::Relaxed);
        };
        let task = tokio::spawn(controller.run(events_rx, stop_rx, ready));
        Self { script, calls, events, stop, readies, task, begun }
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
        let files = vec!["config.json".to_owned()];
        self.events.send(Event::Config(ConfigEvent::Accepted { desired, files })).await.unwrap();
    }

    async fn ask(&self, op: Op) -> oneshot::Receiver<Answer> {
        let (reply, answer) = oneshot::channel();
        self.events.send(Event::Client(Request { op, reply })).await.unwrap();
        answer
    }

    async fn apply(&self, keys: &[&str], confirm: bool) -> oneshot::Receiver<Answer> {
        let keys = keys.iter().map(|text| key(text)).collect();
        self.ask(Op::Reconcile { keys, confirm }).await
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

#[tokio::test(start_paused = true)]
async fn ready_is_told_after_the_first_survey_only() {
    let (gate, wait) = std_mpsc::channel();
    let mut this = Loop::start_with(CONTAINERS, |state| state.survey_gate = Some(wait));
    assert_eq!(this.next().await, Call::Survey);
    assert_eq!(this.readies.load(Ordering::Relaxed), 0);
    gate.send(()).unwrap();
    this.pass(ms(0)).await;
    assert_eq!(this.readies.load(Ordering::Relaxed), 1);
    this.events.send(Event::All("a test")).await.unwrap();
    assert_eq!(this.pass(ms(0)).await, [Call::Survey]);
    assert_eq!(this.readies.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn what_the_first_survey_finds_is_run_at_once() {
    let mut this =
        Loop::start_with(CONTAINERS, |state| drop(state.differing.insert(key("101"), differs())));
    assert_eq!(this.next().await, Call::Survey);
    assert_eq!(this.next().await, run("101"));
    assert_eq!(this.begun.elapsed(), ms(0));
    assert_eq!(this.pass(secs(60)).await, []);
}

#[tokio::test(start_paused = true)]
async fn one_run_per_key_at_a_time() {
    let mut this = Loop::settled(CONTAINERS).await;
    let (reply, gate) = Reply::new(Verdict::Converged).gated();
    this.reply("100", [reply]);
    this.event("100").await;
    assert_eq!(this.next().await, run("100"));
    for _ in 0..3 {
        this.event("100").await;
    }
    this.event("101").await;
    this.advance(secs(1)).await;
    // Another key is not held up by it.
    assert_eq!(this.next().await, run("101"));
    gate.send(()).unwrap();
    assert_eq!(this.next().await, run("100"));
    assert_eq!(this.pass(secs(60)).await, []);
}

#[tokio::test(start_paused = true)]
async fn an_event_while_a_key_runs_makes_it_run_again() {
    let mut this = Loop::settled(CONTAINERS).await;
    let (reply, gate) = Reply::new(Verdict::Converged).gated();
    this.reply("100", [reply]);
    this.event("100").await;
    assert_eq!(this.next().await, run("100"));
    this.event("100").await;
    this.status().await;
    gate.send(()).unwrap();
    assert_eq!(this.next().await, run("100"));
}

#[tokio::test(start_paused = true)]
async fn several_events_make_one_run() {
    let mut this = Loop::settled(CONTAINERS).await;
    for _ in 0..10 {
        this.event("100").await;
    }
    assert_eq!(this.gap().await, (run("100"), super::SETTLE));
    assert_eq!(this.pass(secs(60)).await, []);
}

#[tokio::test(start_paused = true)]
async fn failures_back_off_and_success_resets() {
    let mut this = Loop::settled(CONTAINERS).await;
    this.reply("100", (0..12).map(|_| Reply::failed()));
    this.event("100").await;
    assert_eq!(this.next().await, run("100"));
    for full in [500, 1000, 2000, 4000, 8000, 16_000, 32_000, 64_000, 120_000, 120_000, 120_000] {
        let (call, gap) = this.gap().await;
        assert_eq!(call, run("100"));
        // The clock of tokio has whole milliseconds.
        assert!(gap >= ms(full / 2) && gap <= ms(full + 1), "{gap:?} of {full} ms");
    }
    this.pass(ms(0)).await;
    assert_eq!(this.status_of("100").await.state, KeyState::Failed);
    // The last failure is overcome, and the next one starts over.
    assert_eq!(this.next().await, run("100"));
    assert_eq!(this.pass(secs(60)).await, []);
    assert_eq!(this.status_of("100").await.state, KeyState::Converged);
    this.reply("100", [Reply::failed()]);
    this.event("100").await;
    assert_eq!(this.next().await, run("100"));
    let (call, gap) = this.gap().await;
    assert_eq!(call, run("100"));
    assert!(gap <= ms(501), "{gap:?}");
}

#[tokio::test(start_paused = true)]
async fn a_failing_key_is_not_hurried_by_its_own_echo() {
    let mut this = Loop::settled(CONTAINERS).await;
    // A `pct set` that fails closes its lock file, which is an event.
    this.reply("100", (0..1000).map(|_| Reply::failed()));
    this.event("100").await;
    let mut runs = 0;
    while this.begun.elapsed() < secs(600) {
        match this.next().await {
            Call::Run { .. } => {
                runs += 1;
                this.hear("100", News::Lock).await;
                sleep(ms(5)).await;
                this.hear("100", News::Lock).await;
            }
            // The resync is no echo.
            other => assert_eq!(other, Call::Survey),
        }
    }
    assert!(runs <= 16, "{runs} runs in ten minutes");
    // What is heard later is news.
    sleep(secs(2)).await;
    this.hear("100", News::Lock).await;
    assert_eq!(this.gap().await.0, run("100"));
    // A conf that was written is news at any time.
    this.event("100").await;
    assert_eq!(this.gap().await, (run("100"), SETTLE));
}

#[tokio::test(start_paused = true)]
async fn holds_are_looked_at_again_at_the_hold_interval() {
    let mut this = Loop::settled(CONTAINERS).await;
    this.reply("100", (0..3).map(|_| Reply::held(protected())));
    this.event("100").await;
    assert_eq!(this.next().await, run("100"));
    for _ in 0..3 {
        assert_eq!(this.gap().await, (run("100"), secs(15)));
    }
    assert_eq!(this.pass(secs(60)).await, []);
}

#[tokio::test(start_paused = true)]
async fn a_hold_that_should_pass_soon_backs_off_and_an_event_hurries_it() {
    let mut this = Loop::settled(CONTAINERS).await;
    let busy = || Hold::IdmapNotReady { ctid: ctid(100), why: NotReady::Busy };
    this.reply("100", (0..4).map(|_| Reply::held(busy())));
    this.event("100").await;
    assert_eq!(this.next().await, run("100"));
    for full in [500, 1000, 2000] {
        let (call, gap) = this.gap().await;
        assert_eq!(call, run("100"));
        assert!(gap >= ms(full / 2) && gap <= ms(full + 1), "{gap:?} of {full} ms");
    }
    // Its lock was closed: that is what it waited for.
    this.event("100").await;
    assert_eq!(this.gap().await, (run("100"), super::SETTLE));
}

#[tokio::test(start_paused = true)]
async fn a_conflict_is_retried_at_once_but_not_for_ever() {
    let mut this = Loop::settled(CONTAINERS).await;
    this.reply("100", (0..8).map(|_| Reply::conflict()));
    this.event("100").await;
    assert_eq!(this.next().await, run("100"));
    for _ in 0..super::CONFLICTS {
        assert_eq!(this.gap().await, (run("100"), ms(0)));
    }
    for full in [500, 1000] {
        let (call, gap) = this.gap().await;
        assert_eq!(call, run("100"));
        assert!(gap >= ms(full / 2) && gap <= ms(full + 1), "{gap:?} of {full} ms");
    }
}

#[tokio::test(start_paused = true)]
async fn an_equal_configuration_wakes_nobody() {
    let mut this = Loop::settled(CONTAINERS).await;
    this.configure(CONTAINERS).await;
    assert_eq!(this.pass(secs(1)).await, []);
    assert_eq!(this.status().await.config.generation, 1);
    this.configure(VOLUME).await;
    assert!(this.pass(secs(1)).await.contains(&Call::Survey));
    assert_eq!(this.status().await.config.generation, 2);
}

#[tokio::test(start_paused = true)]
async fn a_refused_configuration_leaves_the_old_one_in_force() {
    let mut this = Loop::settled(CONTAINERS).await;
    let (error, files) = ("config.json:1:1: no JSON".to_owned(), vec!["config.json".to_owned()]);
    let refused = ConfigEvent::Rejected { error: error.clone(), files };
    this.events.send(Event::Config(refused)).await.unwrap();
    assert_eq!(this.pass(secs(1)).await, []);
    let config = this.status().await.config;
    assert_eq!((config.valid, config.generation, config.error), (false, 1, Some(error)));
    this.event("100").await;
    assert_eq!(this.next().await, run("100"));
    // Put back as it was, it is valid again and still wakes nobody.
    this.configure(CONTAINERS).await;
    assert_eq!(this.pass(secs(1)).await, []);
    assert!(this.status().await.config.valid);
}

#[tokio::test(start_paused = true)]
async fn a_configuration_that_changes_during_a_run_is_looked_at_after_it() {
    let mut this = Loop::settled(CONTAINERS).await;
    let (reply, gate) = Reply::new(Verdict::Converged).gated();
    this.reply("100", [reply]);
    this.event("100").await;
    assert_eq!(this.next().await, run("100"));
    // In what the survey sees nothing differs yet, and the run under way knows the old one.
    this.configure(r#"{"lxc_configs": {"100": {"unprivileged": false}}}"#).await;
    assert_eq!(this.next().await, Call::Survey);
    // The run ends after its step, and the next one is made for the new configuration.
    gate.send(()).unwrap();
    assert_eq!(this.next().await, Call::Cancelled(key("100")));
    assert_eq!(this.next().await, run("100"));
    assert_eq!(this.pass(secs(60)).await, []);
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_no_longer_declared_is_left_alone() {
    let mut this = Loop::settled(CONTAINERS).await;
    let (reply, gate) = Reply::held(protected()).gated();
    this.reply("100", [reply]);
    let answer = this.apply(&["100"], false).await;
    assert_eq!(this.next().await, run("100"));
    this.configure(r#"{"lxc_configs": {"101": {"unprivileged": true}}}"#).await;
    assert_eq!(this.next().await, Call::Survey);
    let report = plan_of(answer.await.unwrap());
    assert_eq!(report.summary.errors, 1, "{report:?}");
    gate.send(()).unwrap();
    // It ends early, and its hold is looked at no more.
    assert_eq!(this.pass(secs(60)).await, [Call::Cancelled(key("100"))]);
    this.event("100").await;
    assert_eq!(this.pass(secs(60)).await, []);
}

#[tokio::test(start_paused = true)]
async fn a_walk_that_is_no_longer_meant_ends_early_and_the_new_one_is_made() {
    let mut this = Loop::settled(VOLUME).await;
    let (reply, gate) = Reply::new(Verdict::Converged).gated();
    this.reply("data", [reply]);
    let answer = this.apply(&["data"], true).await;
    assert_eq!(this.next().await, confirmed("data"));
    this.configure(&VOLUME.replace("/tank/data", "/tank/other")).await;
    assert_eq!(this.next().await, Call::Survey);
    gate.send(()).unwrap();
    assert_eq!(this.next().await, Call::Cancelled(key("data")));
    // What was confirmed was the other path.
    assert_eq!(this.next().await, walk("data"));
    assert_eq!(plan_of(answer.await.unwrap()).summary.errors, 0);
}

#[tokio::test(start_paused = true)]
async fn a_volume_that_becomes_ready_wakes_the_containers_that_wait() {
    let mut this = Loop::settled(VOLUME).await;
    this.reply("100", [Reply::new(Verdict::Waiting)]);
    let (reply, gate) = Reply::new(Verdict::Converged).taking(step()).gated();
    this.reply("data", [reply]);
    this.event("100").await;
    let both = [this.next().await, this.next().await];
    assert!(both.contains(&run("100")) && both.contains(&run("data")), "{both:?}");
    this.status().await;
    gate.send(()).unwrap();
    let (call, gap) = this.gap().await;
    assert_eq!((call, gap), (run("100"), ms(0)));
    // 101 does not wait for anything.
    assert_eq!(this.pass(secs(60)).await, []);
}

#[tokio::test(start_paused = true)]
async fn a_resync_finds_what_no_event_told() {
    let mut this = Loop::settled(CONTAINERS).await;
    this.differing("101");
    assert_eq!(this.next().await, Call::Survey);
    assert_eq!(this.begun.elapsed(), secs(600));
    assert_eq!(this.next().await, run("101"));
}

#[tokio::test(start_paused = true)]
async fn a_survey_during_a_run_makes_the_key_run_again_where_it_differs() {
    let mut this = Loop::settled(CONTAINERS).await;
    let (reply, gate) = Reply::new(Verdict::Converged).gated();
    this.reply("100", [reply]);
    this.event("100").await;
    assert_eq!(this.next().await, run("100"));
    // The run has looked already; what the survey sees came after that.
    this.differing("100");
    this.events.send(Event::All("a test")).await.unwrap();
    assert_eq!(this.next().await, Call::Survey);
    this.status().await;
    while this.status().await.containers[&ctid(100)].next_retry.is_none() {
        tokio::task::yield_now().await;
    }
    gate.send(()).unwrap();
    assert_eq!(this.next().await, run("100"));
}

#[tokio::test(start_paused = true)]
async fn a_failure_stays_visible_until_a_run_overcomes_it() {
    let mut this = Loop::settled(CONTAINERS).await;
    let (reply, gate) = Reply::new(Verdict::Converged).gated();
    this.reply("100", [Reply::failed(), reply]);
    this.differing("100");
    this.event("100").await;
    assert_eq!(this.next().await, run("100"));
    this.status().await;
    this.events.send(Event::All("a test")).await.unwrap();
    assert_eq!(this.next().await, Call::Survey);
    assert_eq!(this.next().await, run("100"));
    let status = this.status_of("100").await;
    assert_eq!(status.state, KeyState::Failed);
    assert_eq!(status.error.as_deref(), Some("pct exited with 255"));
    gate.send(()).unwrap();
    this.pass(ms(0)).await;
    let status = this.status_of("100").await;
    assert_eq!((status.state, status.error), (KeyState::Converged, None));
}

#[tokio::test(start_paused = true)]
async fn a_stop_waits_for_the_step_under_way() {
    let mut this = Loop::settled(CONTAINERS).await;
    let (reply, gate) = Reply::new(Verdict::Converged).gated();
    this.reply("100", [reply]);
    this.event("100").await;
    assert_eq!(this.next().await, run("100"));
    this.stop.send(true).unwrap();
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(!this.task.is_finished());
    gate.send(()).unwrap();
    assert_eq!(this.next().await, Call::Cancelled(key("100")));
    this.task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_loop_ends_with_its_sources() {
    let this = Loop::settled(CONTAINERS).await;
    drop(this.events);
    this.task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_client_is_answered_when_its_keys_have_settled() {
    let mut this = Loop::settled(VOLUME).await;
    let (stale, gate) = Reply::new(Verdict::Converged).gated();
    this.reply(
        "100",
        [stale, Reply::new(Verdict::Waiting), Reply::new(Verdict::Converged).taking(step())],
    );
    this.event("100").await;
    let both = [this.next().await, this.next().await];
    assert!(both.contains(&run("100")) && both.contains(&run("data")), "{both:?}");
    let (reply, walked) = Reply::held(protected()).taking(step()).gated();
    this.reply("data", [reply]);
    let mut answer = this.apply(&["100", "data"], false).await;
    assert_eq!(this.next().await, walk("data"));
    // The run that began before the request does not count.
    gate.send(()).unwrap();
    assert_eq!(this.next().await, run("100"));
    this.status().await;
    assert!(answer.try_recv().is_err());
    walked.send(()).unwrap();
    assert_eq!(this.next().await, run("100"));
    let report = plan_of(answer.await.unwrap());
    assert_eq!(report.containers[&ctid(100)].steps, [step()]);
    let data = &report.volumes[&"data".parse().unwrap()];
    assert_eq!((data.steps.len(), data.holds.len()), (1, 1));
    assert_eq!((report.summary.steps, report.summary.holds, report.summary.errors), (2, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_names_a_stranger_is_told_so() {
    let this = Loop::settled(CONTAINERS).await;
    let answer = this.apply(&["102"], false).await.await.unwrap();
    let Answer::Error { error, .. } = answer else { panic!("{answer:?}") };
    assert_eq!(error, "102 is not in the configuration in force");
}

#[tokio::test(start_paused = true)]
async fn a_client_does_not_wait_for_a_volume_that_is_held() {
    let mut this = Loop::settled(VOLUME).await;
    let refused = || Hold::SourceNotDirectory { path: "/tank/data".to_owned() };
    this.reply("data", (0..100).map(|_| Reply::held(refused())));
    this.reply("100", (0..100).map(|_| Reply::new(Verdict::Waiting)));
    let answer = this.apply(&[], false).await;
    let report = plan_of(answer.await.unwrap());
    assert!(this.begun.elapsed() < secs(1));
    let reasons: Vec<_> =
        report.containers[&ctid(100)].holds.iter().map(|h| h.reason.as_str()).collect();
    assert_eq!(reasons, ["VolumeHeld"]);
    assert_eq!((report.summary.holds, report.summary.errors), (2, 0));
    // Nor for one it did not name.
    let report = plan_of(this.apply(&["100"], false).await.await.unwrap());
    assert_eq!(report.summary.holds, 1);
    // Nor does one that waits for the other keep the loop busy.
    this.pass(ms(0)).await;
    let runs = this.pass(secs(150)).await.len();
    assert!(runs <= 40, "{runs} runs in ten hold intervals");
}

#[tokio::test(start_paused = true)]
async fn a_client_is_told_of_conflicts_without_end() {
    let this = Loop::settled(CONTAINERS).await;
    this.reply("100", (0..100).map(|_| Reply::conflict()));
    let report = plan_of(this.apply(&["100"], false).await.await.unwrap());
    let error = report.containers[&ctid(100)].error.as_deref();
    assert_eq!(error, Some("the digest differs"));
}

#[tokio::test(start_paused = true)]
async fn a_confirmation_outlives_a_conflict_and_nothing_else() {
    let mut this = Loop::settled(VOLUME).await;
    this.reply("data", [Reply::conflict(), Reply::held(confirmation())]);
    let answer = this.apply(&["data"], true).await;
    assert_eq!(this.next().await, confirmed("data"));
    assert_eq!(this.next().await, confirmed("data"));
    assert_eq!(plan_of(answer.await.unwrap()).summary.holds, 1);
    assert_eq!(this.gap().await, (walk("data"), secs(15)));
}

#[tokio::test(start_paused = true)]
async fn walks_do_not_take_the_places_of_conf_edits() {
    let config = r#"{"settings": {"max_concurrent": 1}, "shared_volumes": {
        "data": {"host_path": "/tank/data", "mounts": {"100": "/data"}},
        "more": {"host_path": "/tank/more", "mounts": {"101": "/more"}}}}"#;
    let mut this = Loop::settled(config).await;
    let (reply, gate) = Reply::new(Verdict::Converged).gated();
    this.reply("data", [reply]);
    let _answer = this.apply(&["data"], false).await;
    assert_eq!(this.next().await, walk("data"));
    this.event("101").await;
    this.advance(secs(1)).await;
    assert_eq!(this.next().await, run("101"));
    // The other walk waits for its place.
    gate.send(()).unwrap();
    assert_eq!(this.next().await, run("more"));
}

#[tokio::test(start_paused = true)]
async fn every_volume_is_verified_when_it_is_due() {
    let mut this = Loop::settled(VOLUME).await;
    this.event("100").await;
    let calls = this.pass(secs(1)).await;
    assert!(calls.contains(&run("data")), "{calls:?}");
    let walks = |calls: Vec<Call>| {
        calls.into_iter().filter(|call| *call != Call::Survey).collect::<Vec<_>>()
    };
    let calls = this.pass(secs(6 * 3600 - 10)).await;
    assert_eq!(walks(calls), []);
    let calls = this.pass(secs(10)).await;
    assert_eq!(walks(calls), [walk("data")]);
}

#[tokio::test(start_paused = true)]
async fn a_verify_ends_only_when_a_walk_finds_nothing() {
    let mut this = Loop::start(VOLUME);
    this.reply("data", [Reply::failed(), Reply::held(confirmation()), Reply::conflict()]);
    let calls = [this.next().await, this.next().await];
    assert!(calls.contains(&Call::Survey) && calls.contains(&walk("data")), "{calls:?}");
    assert_eq!(this.gap().await.0, walk("data"));
    this.pass(ms(0)).await;
    // The root directory looks right to a survey; the walk knew better.
    this.events.send(Event::All("a test")).await.unwrap();
    assert_eq!(this.next().await, Call::Survey);
    this.pass(ms(0)).await;
    assert_eq!(this.status_of("data").await.state, KeyState::Held);
    assert_eq!(this.next().await, walk("data"));
    assert_eq!(this.next().await, walk("data"));
    this.event("100").await;
    let calls = this.pass(secs(1)).await;
    assert!(calls.contains(&run("data")), "{calls:?}");
}

#[tokio::test(start_paused = true)]
async fn what_a_file_system_refused_is_not_asked_for_at_every_look() {
    let mut this = Loop::start(VOLUME);
    let (kind, why) = ("nfs4".to_owned(), "EPERM".to_owned());
    this.reply("data", [Reply::held(Hold::OwnershipUnsupported { kind, why })]);
    let calls = [this.next().await, this.next().await];
    assert!(calls.contains(&Call::Survey) && calls.contains(&walk("data")), "{calls:?}");
    assert_eq!(this.gap().await, (run("data"), secs(15)));
}

#[tokio::test(start_paused = true)]
async fn a_long_walk_that_ends_in_a_hold_is_not_made_without_a_pause() {
    let mut this = Loop::settled(VOLUME).await;
    let (reply, gate) = Reply::held(confirmation()).gated();
    this.reply("data", [reply]);
    let _answer = this.apply(&["data"], false).await;
    assert_eq!(this.next().await, walk("data"));
    this.advance(secs(60)).await;
    gate.send(()).unwrap();
    let before = Instant::now();
    loop {
        match this.next().await {
            Call::Survey => {}
            call => break assert_eq!(call, walk("data")),
        }
    }
    assert_eq!(before.elapsed(), secs(60) * super::PACE);
}

#[tokio::test(start_paused = true)]
async fn a_reconciler_that_panics_ends_the_loop() {
    let this = Loop::settled(CONTAINERS).await;
    this.script.state.lock().unwrap().panics = true;
    this.event("100").await;
    this.task.await.unwrap();
}
