//! Asking about a host path without waiting for ever.
//!
//! A path on a dead NFS server, or in a FUSE file system whose program hangs, keeps whoever looks
//! it up inside the kernel, where only the end of the process reaches it. So every look at a host
//! path, and every walk below one, happens on a thread that can be left behind. While one is stuck
//! at a path nobody is sent there again: what is asked meanwhile is answered at once, with since
//! when there is no answer. The thread ends when the path answers, and the path is asked again.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

/// How long a look at one path may take. A server that is only slow, or a disk that has to start,
/// is found when the hold is looked at again.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Where a look takes longer than this, the next path is looked at beside it: many paths on one
/// dead server must not wait in turn.
const BESIDE: Duration = Duration::from_millis(100);

/// How often somebody who waits for long work looks up.
const TICK: Duration = Duration::from_millis(20);

/// A path did not answer in time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoAnswer {
    /// Somebody is still waiting there.
    #[error(
        "it has not answered since {} (a server that is down, or a file system that hangs?); pctd goes on when it does",
        humantime::format_rfc3339_seconds(*.since)
    )]
    Since {
        /// When the first of them began to wait.
        since: SystemTime,
    },
    /// There was nobody to send.
    #[error("no thread to look at it: {why}")]
    NoThread {
        /// What the kernel said.
        why: String,
    },
}

/// What is known of paths that do not answer.
#[derive(Debug, Clone, Default)]
pub(crate) struct Answers {
    stuck: Arc<Mutex<BTreeMap<String, Stuck>>>,
}

#[derive(Debug)]
struct Stuck {
    since: SystemTime,
    /// How many are waiting there: a walk and whoever was sent to see why it stopped, say.
    threads: usize,
}

/// One question: the path it is about, and what asks it.
pub(crate) type Question<T> = (String, Box<dyn FnOnce() -> T + Send>);

/// Questions that several threads work on.
struct Call<T> {
    waiting: VecDeque<(usize, Question<T>)>,
    running: BTreeMap<usize, (String, Instant)>,
    answers: BTreeMap<usize, T>,
}

type Shared<T> = Arc<(Mutex<T>, Condvar)>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing here panics while it holds a lock.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Answers {
    /// Asks several questions and returns their answers in order; takes little longer than
    /// [`PATIENCE`], however many paths are stuck.
    pub(crate) fn ask_all<T: Send + 'static>(
        &self,
        questions: Vec<Question<T>>,
    ) -> Vec<Result<T, NoAnswer>> {
        let mut results: BTreeMap<usize, Result<T, NoAnswer>> = BTreeMap::new();
        let mut waiting = VecDeque::new();
        for (index, question) in questions.into_iter().enumerate() {
            match self.check(&question.0) {
                Ok(()) => waiting.push_back((index, question)),
                Err(stuck) => drop(results.insert(index, Err(stuck))),
            }
        }
        if waiting.is_empty() {
            return results.into_values().collect();
        }
        let answers = BTreeMap::new();
        let call = Call { waiting, running: BTreeMap::new(), answers };
        let shared: Shared<Call<T>> = Arc::new((Mutex::new(call), Condvar::new()));
        let mut spawned = self.spawn(&shared);
        let mut call = lock(&shared.0);
        loop {
            if let Err(why) = &spawned {
                for (index, _) in call.waiting.drain(..) {
                    results.insert(index, Err(NoAnswer::NoThread { why: why.clone() }));
                }
            }
            if call.waiting.is_empty() && call.running.is_empty() {
                break;
            }
            let waited = shared.1.wait_timeout(call, BESIDE);
            let timed_out;
            (call, timed_out) = waited.unwrap_or_else(PoisonError::into_inner);
            let overdue = |(_, since): &mut (String, Instant)| since.elapsed() >= PATIENCE;
            for (index, (path, since)) in call.running.extract_if(.., |_, run| overdue(run)) {
                results.insert(index, Err(self.give_up(&path, since.elapsed())));
            }
            let is_busy = call.running.values().all(|(_, since)| since.elapsed() >= BESIDE);
            if timed_out.timed_out() && is_busy && !call.waiting.is_empty() {
                spawned = self.spawn(&shared);
            }
        }
        let answers = std::mem::take(&mut call.answers);
        drop(call);
        results.extend(answers.into_iter().map(|(index, answer)| (index, Ok(answer))));
        results.into_values().collect()
    }

    /// Asks one question.
    pub(crate) fn ask<T: Send + 'static>(
        &self,
        path: &str,
        ask: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NoAnswer> {
        let begun = Instant::now();
        self.follow(path, ask, || begun.elapsed() >= PATIENCE)
    }

    /// Lets work at a path be done, however long it takes, until `is_stuck` says so; that is asked
    /// again and again meanwhile.
    pub(crate) fn follow<T: Send + 'static>(
        &self,
        path: &str,
        work: impl FnOnce() -> T + Send + 'static,
        mut is_stuck: impl FnMut() -> bool,
    ) -> Result<T, NoAnswer> {
        self.check(path)?;
        let begun = Instant::now();
        // The answer, and whether somebody waits for it.
        let shared: Shared<(Option<T>, bool)> =
            Arc::new((Mutex::new((None, true)), Condvar::new()));
        let (theirs, answers, at) = (Arc::clone(&shared), self.clone(), path.to_owned());
        spawn(move || {
            let answer = work();
            let mut state = lock(&theirs.0);
            if state.1 {
                state.0 = Some(answer);
                theirs.1.notify_one();
            } else {
                drop(state);
                answers.came_back(&at);
            }
        })?;
        loop {
            let waited = shared.1.wait_timeout_while(lock(&shared.0), TICK, |s| s.0.is_none());
            let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
            if let Some(answer) = state.0.take() {
                return Ok(answer);
            }
            drop(state);
            if is_stuck() {
                let mut state = lock(&shared.0);
                if let Some(answer) = state.0.take() {
                    return Ok(answer);
                }
                // Marked under its lock: whoever comes back afterwards takes the mark away.
                state.1 = false;
                return Err(self.give_up(path, begun.elapsed()));
            }
        }
    }

    /// Returns since when nobody came back from this path, if so.
    fn check(&self, path: &str) -> Result<(), NoAnswer> {
        match lock(&self.stuck).get(path) {
            Some(stuck) => Err(NoAnswer::Since { since: stuck.since }),
            None => Ok(()),
        }
    }

    fn give_up(&self, path: &str, waited: Duration) -> NoAnswer {
        let now = SystemTime::now();
        let since = now.checked_sub(waited).unwrap_or(now);
        let mut all = lock(&self.stuck);
        let stuck = all.entry(path.to_owned()).or_insert(Stuck { since, threads: 0 });
        stuck.threads += 1;
        NoAnswer::Since { since: stuck.since }
    }

    fn came_back(&self, path: &str) {
        let mut all = lock(&self.stuck);
        if let Some(stuck) = all.get_mut(path) {
            stuck.threads -= 1;
            if stuck.threads == 0 {
                all.remove(path);
            }
        }
    }

    /// Starts one more thread on the questions of a call.
    fn spawn<T: Send + 'static>(&self, shared: &Shared<Call<T>>) -> Result<(), String> {
        let (shared, answers) = (Arc::clone(shared), self.clone());
        let work = move || {
            loop {
                let mut call = lock(&shared.0);
                let Some((index, (path, ask))) = call.waiting.pop_front() else { return };
                call.running.insert(index, (path.clone(), Instant::now()));
                drop(call);
                let answer = ask();
                let mut call = lock(&shared.0);
                if call.running.remove(&index).is_some() {
                    call.answers.insert(index, answer);
                    // Whoever waits is woken by the last one; it looks up by itself meanwhile.
                    if call.waiting.is_empty() {
                        shared.1.notify_one();
                    }
                } else {
                    drop(call);
                    answers.came_back(&path);
                    return;
                }
            }
        };
        spawn(work).map_err(|error| error.to_string())
    }
}

fn spawn(work: impl FnOnce() + Send + 'static) -> Result<(), NoAnswer> {
    let started = thread::Builder::new().name("host path".to_owned()).spawn(work);
    started.map(drop).map_err(|error| NoAnswer::NoThread { why: error.to_string() })
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// A question that hangs until its sender is dropped.
    fn hanging(path: &str) -> (Question<u32>, mpsc::Sender<()>) {
        let (gate, wait) = mpsc::channel::<()>();
        let ask = move || {
            // An error: the gate is gone.
            let _gone = wait.recv();
            0
        };
        ((path.to_owned(), Box::new(ask)), gate)
    }

    fn answering(path: &str, answer: u32) -> Question<u32> {
        (path.to_owned(), Box::new(move || answer))
    }

    fn until(mut wanted: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !wanted() {
            assert!(begun.elapsed() < Duration::from_secs(20), "it never came to that");
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn answers_come_in_the_order_of_the_questions() {
        let questions = (0..100).map(|n| answering(&format!("/{n}"), n)).collect();
        let expected: Vec<_> = (0..100).map(Ok).collect();
        assert_eq!(Answers::default().ask_all(questions), expected);
        assert_eq!(Answers::default().ask_all::<u32>(Vec::new()), []);
    }

    #[test]
    fn paths_that_hang_hold_up_no_other_and_are_asked_once() {
        let answers = Answers::default();
        let (mut questions, mut gates) = (Vec::new(), Vec::new());
        for n in 0..10 {
            let (question, gate) = hanging(&format!("/dead/{n}"));
            questions.extend([question, answering(&format!("/fine/{n}"), n)]);
            gates.push(gate);
        }
        let begun = Instant::now();
        let found = answers.ask_all(questions);
        let took = begun.elapsed();
        assert!(took >= PATIENCE && took < PATIENCE * 2, "{took:?}");
        for (n, pair) in found.chunks(2).enumerate() {
            assert!(matches!(pair[0], Err(NoAnswer::Since { .. })), "{pair:?}");
            assert_eq!(pair[1], Ok(u32::try_from(n).unwrap()));
        }
        // Again: nobody is sent there, and since when is as before.
        let begun = Instant::now();
        let unasked = || -> Question<u32> { ("/dead/0".to_owned(), Box::new(|| panic!("asked"))) };
        assert_eq!(answers.ask_all(vec![unasked()]), [found[0].clone()]);
        assert_eq!(answers.ask("/dead/0", || 7), found[0]);
        assert!(begun.elapsed() < PATIENCE);
        // It answers: the mark goes with the one who waited there.
        drop(gates);
        until(|| answers.ask("/dead/0", || 7) == Ok(7));
        until(|| lock(&answers.stuck).is_empty());
    }

    #[test]
    fn long_work_goes_on_until_it_is_said_to_be_stuck() {
        let answers = Answers::default();
        let slow = || {
            thread::sleep(TICK * 5);
            1
        };
        let mut ticks = 0;
        let done = answers.follow("/slow", slow, || {
            ticks += 1;
            false
        });
        assert_eq!(done, Ok(1));
        assert!(ticks >= 2, "{ticks}");
        let ((path, ask), gate) = hanging("/dead");
        let given_up = answers.follow(&path, ask, || true);
        assert!(matches!(given_up, Err(NoAnswer::Since { .. })), "{given_up:?}");
        assert_eq!(answers.follow("/dead", || 2, || false), given_up);
        drop(gate);
        until(|| answers.ask("/dead", || 7) == Ok(7));
    }
}
