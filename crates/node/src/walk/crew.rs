//! The threads of one walk, and how work passes between them.
//!
//! Every worker is an [`Engine`] that goes its own way depth first and counts for itself. Work
//! passes as a [`Piece`]: an open directory with all below it, or a batch of names of a big one.
//! The queue is kept short, because each piece holds an fd: whoever has a directory to spare puts
//! one in as soon as it has fewer pieces than there are other workers. With one worker none of
//! this happens, and it costs what a walk without threads costs.
//!
//! How many there are: as many as declared, or found out (`pace`). A walk begins on one thread,
//! and the others are started when there is a piece for them, so a small volume never needs them.

use std::collections::VecDeque;
use std::ffi::CStr;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, Scope};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::io::Errno;

use super::Walk;
use super::account::Account;
use super::engine::Engine;
use super::entry::ProcFds;
use super::pace::Hands;
use super::report::Progress;
use super::rule::WalkMode;
use super::stack::{FdBudget, Frame};
use super::tally::{REFUSALS_BEFORE_END, Tally};
use crate::mounts::MountTable;
use crate::source::OpenVolume;
use crate::stat::Stat;

/// Work that one worker can do without the others.
#[derive(Debug)]
pub(super) struct Piece {
    /// The directory it begins at.
    pub(super) base: Frame,
    /// Its path below the root of the volume; empty for that.
    pub(super) path: Vec<u8>,
    /// Names in it, of what is probably no directory, to be looked at.
    pub(super) leaves: Names,
}

impl Piece {
    /// Returns a directory and all below it.
    pub(super) fn directory(base: Frame, path: Vec<u8>) -> Self {
        Self { base, path, leaves: Names::default() }
    }
}

/// Names one after the other, each with its NUL.
#[derive(Debug, Default)]
pub(super) struct Names(Vec<u8>);

impl Names {
    pub(super) fn push(&mut self, name: &CStr) {
        self.0.extend_from_slice(name.to_bytes_with_nul());
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &CStr> {
        let names = self.0.split_inclusive(|byte| *byte == 0);
        names.filter_map(|name| CStr::from_bytes_with_nul(name).ok())
    }
}

/// What the workers of one walk have in common.
pub(super) struct Crew<'a> {
    pub(super) walk: Walk<'a>,
    pub(super) volume: &'a OpenVolume,
    pub(super) procfs: ProcFds,
    /// Whether a directory is looked at before it is opened, because opening could mount something.
    pub(super) ask_first: bool,
    /// `Walk::since`, as a stat has it.
    pub(super) since: Option<(i64, u32)>,
    /// How many workers there are to be.
    pub(super) hands: Hands,
    begun: Instant,
    /// The same, as the clock had it.
    start: SystemTime,
    queue: Mutex<Queue>,
    /// Somebody waits for a piece, or for the end.
    news: Condvar,
    /// As many pieces as the queue has, for a look without the lock.
    queued: AtomicUsize,
    /// Nobody is to go on: at the limit, without hope, or after a panic.
    stop: AtomicBool,
    cancelled: AtomicBool,
    entries: AtomicU64,
    changes: AtomicU64,
    refused: AtomicU64,
    /// Changes that were made, or are about to be.
    changed: AtomicU64,
}

#[derive(Default)]
struct Queue {
    pieces: VecDeque<Piece>,
    /// Workers that have a piece in hand, and may put others in.
    busy: usize,
    /// Workers that wait.
    idle: usize,
    /// Workers that were started.
    hired: usize,
    /// What workers that are through have counted.
    tallies: Vec<Tally>,
}

impl<'a> Crew<'a> {
    pub(super) fn new(volume: &'a OpenVolume, walk: Walk<'a>) -> Result<Self, Errno> {
        let hands = Hands::new(walk.threads, walk.fds.workers());
        Ok(Self {
            walk,
            volume,
            procfs: ProcFds::open()?,
            ask_first: MountTable::read().map_or(true, |table| table.may_automount(volume.mount())),
            since: walk.since.map(as_in_a_stat),
            hands,
            begun: Instant::now(),
            start: SystemTime::now(),
            queue: Mutex::default(),
            news: Condvar::new(),
            queued: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            cancelled: AtomicBool::new(false),
            entries: AtomicU64::new(0),
            changes: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            changed: AtomicU64::new(0),
        })
    }

    /// Returns whether the watch of the volume will have put an entry right, which was changed at
    /// this time.
    pub(super) fn is_the_watchs(&self, changed: (i64, u32)) -> bool {
        let is_audit = self.walk.mode == WalkMode::Audit;
        let length = || self.begun.elapsed();
        is_audit && self.walk.watched && is_within(changed, self.start, length)
    }

    /// Notes a directory before its entries are read.
    pub(super) fn note(&self, dir: impl AsFd, stat: &Stat) {
        if let Some(trace) = self.walk.trace {
            trace.note(dir, stat.changed);
        }
    }

    /// Begins to keep account of a directory, where there is a bookmark.
    pub(super) fn account(&self, dir: impl AsFd, stat: &Stat) -> Option<Account> {
        self.walk.bookmark.map(|bookmark| Account::begin(bookmark, dir, stat))
    }

    /// Walks a piece and all that comes of it; returns what was counted once every worker is done.
    pub(super) fn run(&self, first: Piece) -> Tally {
        self.queue().pieces.push_back(first);
        self.queue().hired = 1;
        std::thread::scope(|scope| work(self, scope));
        let tallies = std::mem::take(&mut self.queue().tallies);
        tallies.into_iter().fold(Tally::default(), Tally::merge)
    }

    /// Returns whether the walk was ended from outside.
    pub(super) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// Returns whether nobody is to go on, because of what was found.
    pub(super) fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Returns whether nobody is to go on, for whatever reason.
    pub(super) fn is_ended(&self) -> bool {
        if self.walk.cancel.load(Ordering::Relaxed) {
            self.cancelled.store(true, Ordering::Relaxed);
            return true;
        }
        self.is_over()
    }

    /// Returns how many directories one worker may have open; fewer when others come.
    pub(super) fn fds(&self) -> FdBudget {
        self.walk.fds.share(self.hands.wanted()).without(self.due() - 1)
    }

    /// Returns how many entries one worker may have open until their record is written.
    pub(super) fn due(&self) -> usize {
        match self.walk.record {
            Some(_) => self.walk.fds.share(self.hands.wanted()).due(),
            None => 1,
        }
    }

    /// Returns whether there are fewer pieces than others could take at once.
    pub(super) fn wants_work(&self) -> bool {
        self.queued.load(Ordering::Relaxed) + 1 < self.hands.wanted()
    }

    /// Takes permission for one more change; where there is none the walk is over.
    pub(super) fn may_change(&self) -> bool {
        let before = self.changed.fetch_add(1, Ordering::Relaxed);
        let may = self.walk.max_changes.is_none_or(|most| before < most);
        if !may {
            self.stop.store(true, Ordering::Relaxed);
        }
        may
    }

    /// Notes that a change that was permitted was not made. The walk is over once a file system
    /// refused the first few: more of them would say the same.
    pub(super) fn not_changed(&self, refused: bool) {
        let changed = self.changed.fetch_sub(1, Ordering::Relaxed) - 1;
        if refused {
            let refused = self.refused.fetch_add(1, Ordering::Relaxed) + 1;
            if refused >= REFUSALS_BEFORE_END && changed == 0 {
                self.stop.store(true, Ordering::Relaxed);
            }
        }
    }

    /// Ends the walk: what follows could not be recorded.
    pub(super) fn end(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Returns whether the file system refused the first few changes and made none.
    pub(super) fn is_hopeless(&self) -> bool {
        self.is_over() && self.refused.load(Ordering::Relaxed) >= REFUSALS_BEFORE_END
    }

    /// Adds to what is known of the progress, and tells it.
    pub(super) fn publish(&self, new: Progress) {
        let entries = self.entries.fetch_add(new.entries, Ordering::Relaxed) + new.entries;
        let changes = self.changes.fetch_add(new.changes, Ordering::Relaxed) + new.changes;
        let micros = u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX).max(1);
        let rate = entries.saturating_mul(1_000_000) / micros;
        (self.walk.progress)(Progress { entries, changes, rate });
    }

    /// Offers a piece to the others; starts one more of them where all have something to do.
    pub(super) fn offer(&self, piece: Piece, hire: &dyn Fn() -> bool) {
        let mut queue = self.queue();
        queue.pieces.push_back(piece);
        self.queued.store(queue.pieces.len(), Ordering::Relaxed);
        if queue.idle >= queue.pieces.len() || queue.hired >= self.hands.wanted() {
            self.news.notify_one();
            return;
        }
        queue.hired += 1;
        drop(queue);
        if !hire() {
            // Those that are there do it: this one, if nobody else.
            self.hands.no_more_than(self.queue().hired - 1);
        }
    }

    /// Waits for a piece; none once all is done, or nobody is to go on.
    fn next(&self) -> Option<Piece> {
        let mut queue = self.queue();
        loop {
            if self.is_ended() {
                return None;
            }
            if let Some(piece) = queue.pieces.pop_front() {
                self.queued.store(queue.pieces.len(), Ordering::Relaxed);
                queue.busy += 1;
                return Some(piece);
            }
            if queue.busy == 0 {
                return None;
            }
            queue.idle += 1;
            queue = self.news.wait(queue).unwrap_or_else(PoisonError::into_inner);
            queue.idle -= 1;
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // A panic is noticed by `Presence`; the queue is whole at any moment.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Works on pieces until there are none.
fn work<'scope, 'env>(crew: &'env Crew<'env>, scope: &'scope Scope<'scope, 'env>) {
    if crew.walk.background {
        super::pace::step_back();
    }
    let hire = || {
        let thread = Builder::new().name("walk".into());
        thread.spawn_scoped(scope, move || work(crew, scope)).is_ok()
    };
    let mut engine = Engine::new(crew, &hire);
    let _presence = Presence(crew);
    while let Some(piece) = crew.next() {
        let busy = Busy(crew);
        engine.piece(piece);
        drop(busy);
    }
    crew.queue().tallies.push(engine.tally());
}

/// A worker with a piece in hand. Others wait for what it may still offer, so it must not go away
/// unnoticed.
struct Busy<'c, 'a>(&'c Crew<'a>);

impl Drop for Busy<'_, '_> {
    fn drop(&mut self) {
        let mut queue = self.0.queue();
        queue.busy -= 1;
        if queue.busy == 0 {
            self.0.news.notify_all();
        }
    }
}

/// A worker at all: when it is the first to leave, the others learn that it is over.
struct Presence<'c, 'a>(&'c Crew<'a>);

impl Drop for Presence<'_, '_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.stop.store(true, Ordering::Relaxed);
        }
        // With the lock, so that nobody is between its look and its wait.
        let _queue = self.0.queue();
        self.0.news.notify_all();
    }
}
/// Returns whether a time is within a walk that began then and has lasted so long.
///
/// How long is measured, not read from the clock: that may be set meanwhile, and what it jumps over
/// was changed before the walk, if ever.
fn is_within(time: (i64, u32), start: SystemTime, length: impl FnOnce() -> Duration) -> bool {
    time > as_in_a_stat(start) && time <= as_in_a_stat(start + length())
}

/// Returns a time as `stx_ctime` has it.
fn as_in_a_stat(time: SystemTime) -> (i64, u32) {
    let time = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    (i64::try_from(time.as_secs()).unwrap_or(i64::MAX), time.subsec_nanos())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_clock_jumped_over_is_not_within_the_walk() {
        let start = UNIX_EPOCH + Duration::from_secs(1000);
        let is_within = |at: u64, nanos| {
            let at = start + Duration::from_secs(at);
            let (seconds, _) = as_in_a_stat(at);
            is_within((seconds, nanos), start, || Duration::from_secs(5))
        };
        assert!(is_within(0, 1) && is_within(3, 0) && is_within(5, 0));
        // Whatever the clock says now: the walk has lasted five seconds.
        assert!(!is_within(0, 0) && !is_within(5, 1) && !is_within(3600, 0));
    }
}
