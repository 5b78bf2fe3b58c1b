//! How many threads a walk has, and how they step back behind others.
//!
//! A tree whose inodes are in memory keeps a core busy per thread, so more threads than cores
//! gain nothing. On a disk, or over a network, threads mostly wait, and several times as many
//! finish several times sooner. Which of the two it is shows in the walk itself: a thread that was
//! neither on a core nor in line for one was waiting for the file system. So a walk begins on one
//! thread, takes as many as there are cores once it turns out not to be tiny, and more from the
//! moment its threads sleep for most of their time.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use tracing::debug;

/// A walk that is shorter than this stays on one thread: starting others would take as long.
const TINY: Duration = Duration::from_millis(5);
/// How often a worker looks at what it spent its time with.
const EVERY: Duration = Duration::from_millis(50);
/// Threads for each core on a file system that lets them wait (measured on a cold cache: 8 on two
/// cores take 0.4 of the time of one).
const WAITING_PER_CORE: usize = 4;
/// The most threads that are taken unasked, however many cores there are.
const MOST_UNASKED: usize = 8;
/// The lowest priority there is (setpriority(2)).
const NICEST: i32 = 19;

/// How many threads there are to be; only ever more, unless they cannot be had.
#[derive(Debug)]
pub(super) struct Hands {
    wanted: AtomicUsize,
    /// As many as there are cores.
    awake: usize,
    most: usize,
    automatic: bool,
}

impl Hands {
    /// Returns this many, or a number that is found out; never more than `limit`.
    pub(super) fn new(declared: Option<NonZeroUsize>, limit: usize) -> Self {
        let limit = limit.max(1);
        if let Some(declared) = declared {
            let all = declared.get().min(limit);
            return Self { wanted: all.into(), awake: all, most: all, automatic: false };
        }
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let awake = cores.min(MOST_UNASKED).min(limit);
        let most = (cores * WAITING_PER_CORE).min(MOST_UNASKED).min(limit);
        Self { wanted: 1.into(), awake, most, automatic: true }
    }

    /// Returns how many there are to be now.
    pub(super) fn wanted(&self) -> usize {
        self.wanted.load(Ordering::Relaxed)
    }

    /// Gives up on more than there are.
    pub(super) fn no_more_than(&self, there: usize) {
        self.wanted.fetch_min(there.max(1), Ordering::Relaxed);
    }

    /// Takes note of how a worker spent some time.
    fn learn(&self, asleep: Duration, of: Duration) {
        let wanted = if asleep * 2 > of { self.most } else { self.awake };
        if self.wanted.fetch_max(wanted, Ordering::Relaxed) < wanted {
            debug!(?asleep, ?of, threads = wanted, "more threads for the walk");
        }
    }
}

/// What one worker spends its time with.
#[derive(Debug)]
pub(super) struct Meter {
    begun: Instant,
    /// How long it had been awake when the clock was read, or before that.
    awake: Duration,
    next: Duration,
}

impl Meter {
    /// Begins to measure the calling thread; nothing where no number is to be found out.
    pub(super) fn start(hands: &Hands) -> Option<Self> {
        hands.automatic.then(|| Self::begin(awake(), TINY))
    }

    /// Begins with a number that is read before the clock is: what the thread stands in line in
    /// between then counts as awake and not as asleep.
    fn begin(awake: Duration, next: Duration) -> Self {
        Self { awake, begun: Instant::now(), next }
    }

    /// Looks, if it is time to; to be called often.
    pub(super) fn look(&mut self, hands: &Hands) {
        let passed = self.begun.elapsed();
        if passed < self.next {
            return;
        }
        // And here after the clock, for the same reason.
        let now = awake();
        // Of its first moment only that it was not tiny: a late start would pass for a slow disk.
        let is_first = self.next < EVERY;
        let asleep = passed.saturating_sub(now.saturating_sub(self.awake));
        hands.learn(if is_first { Duration::ZERO } else { asleep }, passed);
        *self = Self::begin(now, EVERY);
    }
}

/// Returns how long the calling thread has run, or stood in line to.
fn awake() -> Duration {
    on_core() + in_line()
}

/// Returns how long the calling thread has run.
fn on_core() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

/// Returns how long the calling thread has stood in line for a core: on a busy machine that must
/// not be taken for a slow disk. Zero where the kernel does not count it (Documentation/scheduler/sched-stats.rst).
fn in_line() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = text.split_ascii_whitespace().nth(1).and_then(|nanos| nanos.parse().ok());
    Duration::from_nanos(nanos.unwrap_or(0))
}

/// Runs `work`: in the background on a thread of its own, so that the caller keeps its priority.
pub(super) fn apart<T: Send>(background: bool, work: impl FnOnce() -> T + Send) -> T {
    if !background {
        return work();
    }
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            step_back();
            work()
        });
        // A panic goes on where it would have without the thread.
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Lets the calling thread run, and use the disk, only when nobody else wants to.
///
/// It lasts as long as the thread does; without the right to go back up there is no way back.
pub(super) fn step_back() {
    // On Linux this is the thread, not the process (setpriority(2), C library/kernel differences).
    if let Err(errno) = rustix::process::setpriority_process(None, NICEST) {
        debug!("a walk in the background keeps its priority: {errno}");
    }
    if let Err(errno) = pctd_sys::io_priority::make_idle() {
        debug!("a walk in the background keeps its place at the disk: {errno}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn hands(cores: usize, most: usize) -> Hands {
        Hands { wanted: 1.into(), awake: cores, most, automatic: true }
    }

    #[test]
    fn a_walk_takes_the_cores_when_awake_and_more_when_it_sleeps() {
        let hands = hands(2, 8);
        assert_eq!(hands.wanted(), 1);
        hands.learn(20 * MS, 50 * MS);
        assert_eq!(hands.wanted(), 2);
        hands.learn(30 * MS, 50 * MS);
        assert_eq!(hands.wanted(), 8);
        hands.learn(Duration::ZERO, 10 * MS);
        assert_eq!(hands.wanted(), 8, "threads that are there do not harm");
        hands.no_more_than(3);
        assert_eq!(hands.wanted(), 3);
    }

    #[test]
    fn a_declared_number_is_kept_as_far_as_it_can_be() {
        let of = |declared, limit| Hands::new(NonZeroUsize::new(declared), limit);
        assert_eq!((of(3, 60).wanted(), of(3, 60).most), (3, 3));
        assert_eq!(of(64, 4).wanted(), 4, "no more than fds suffice for");
        assert_eq!(of(5, 0).wanted(), 1);
        assert!(Meter::start(&of(3, 60)).is_none());
        assert_eq!(of(0, 60).wanted(), 1, "one to begin with");
        assert!(of(0, 60).most <= MOST_UNASKED && of(0, 1).most == 1);
    }

    #[test]
    fn a_thread_that_sleeps_is_told_from_one_that_works() {
        let hands = hands(2, 8);
        let mut meter = Meter::begin(awake(), EVERY);
        let end = Instant::now() + EVERY;
        while Instant::now() < end {}
        meter.look(&hands);
        assert_eq!(hands.wanted(), 2);
        // However long it takes to begin: that is no disk.
        let mut meter = Meter::begin(awake(), TINY);
        std::thread::sleep(2 * EVERY);
        meter.look(&hands);
        assert_eq!(hands.wanted(), 2);
        std::thread::sleep(EVERY);
        meter.look(&hands);
        assert_eq!(hands.wanted(), 8);
    }

    #[test]
    fn a_thread_that_is_kept_from_its_core_is_not_taken_for_one_that_sleeps() {
        let hands = hands(2, 8);
        // Held up between the two readings.
        let before = awake();
        while awake() < before + EVERY {}
        let mut meter = Meter::begin(before, EVERY);
        std::thread::sleep(EVERY);
        meter.look(&hands);
        assert_eq!(hands.wanted(), 2);
    }

    #[test]
    fn only_the_thread_itself_steps_back() {
        let nice = || rustix::process::getpriority_process(None).unwrap();
        let before = nice();
        let there = std::thread::spawn(move || {
            step_back();
            nice()
        });
        assert_eq!(there.join().unwrap(), NICEST);
        assert_eq!(nice(), before);
    }
}
