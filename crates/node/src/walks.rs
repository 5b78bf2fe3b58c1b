//! Walks of whole volumes as [`Node`] makes them: on a thread of their own, asked after when they
//! stand still, left behind when their file system is gone.

use std::io;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use pctd_core::desired::Volume;
use pctd_core::observed::{Audit, SourceState};
use pctd_core::ownership::OwnershipRule;
use tracing::debug;

use crate::answers::NoAnswer;
use crate::bookmark::{self, Bookmark};
use crate::paths::NodePaths;
use crate::source::OpenVolume;
use crate::trace::Trace;
use crate::undo::{Recorder, UndoError, UndoRequest, Undone};
use crate::walk::{Progress, Shifting, Walk, WalkMode, WalkReport, WalkRule};
use crate::{Node, reach, source, undo, walk};

/// A walk that has looked at nothing for so long is asked after: its file system may be gone.
const STALLED: Duration = Duration::from_secs(30);
/// After so long it is left behind though the root answers: no batch of entries takes longer, but
/// another mount below may be the one that hangs.
const STUCK: Duration = Duration::from_mins(5);
/// As [`STALLED`], for one that is to end.
const STALLED_AT_END: Duration = Duration::from_secs(2);

/// What is to be walked, and how.
#[derive(Clone, Copy)]
pub struct WalkRequest<'a> {
    /// The volume.
    pub volume: &'a Volume,
    /// What its entries are to be.
    pub rule: WalkRule<'a>,
    /// The file system it must be on (`FileSystem::id`), where the walk was planned for one.
    pub file_system: Option<&'a str>,
    /// Set by anybody to end the walk at the next directory.
    pub cancel: &'a AtomicBool,
    /// Called after every directory.
    pub progress: &'a (dyn Fn(Progress) + Sync),
    /// A repair ends before it would change more entries than this.
    pub max_changes: Option<u64>,
    /// Of what differs, entries changed after this moment count as fresh (`Audit::fresh`).
    pub since: Option<SystemTime>,
    /// Whether the watch puts right what changes during an audit ([`Walk::watched`]).
    pub watched: bool,
    /// Where the directories are noted.
    pub trace: Option<&'a Arc<Trace>>,
    /// Whether it goes on where an earlier one was interrupted, and leaves a bookmark itself; only
    /// for whoever has the lock of the node.
    pub goes_on: bool,
    /// How many threads; none: found out (`Walk::threads`).
    pub threads: Option<NonZeroUsize>,
    /// Whether it gives way to whatever else the node does.
    pub background: bool,
    /// How many bytes the records of what a repair changes may take; 0: it is not recorded.
    pub undo_limit: u64,
}

impl<'a> WalkRequest<'a> {
    /// Returns a request that nothing ends, limits or follows.
    pub fn new(volume: &'a Volume, rule: impl Into<WalkRule<'a>>) -> Self {
        let rule = rule.into();
        let Walk { cancel, progress, max_changes, since, watched, threads, background, .. } =
            Walk::new(WalkMode::Audit, rule);
        let (file_system, trace, goes_on, undo_limit) = (None, None, false, 0);
        Self {
            volume,
            rule,
            file_system,
            cancel,
            progress,
            max_changes,
            since,
            watched,
            trace,
            goes_on,
            threads,
            background,
            undo_limit,
        }
    }
}

impl std::fmt::Debug for WalkRequest<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WalkRequest").field("volume", &self.volume.name).finish_non_exhaustive()
    }
}

/// Why a walk was not made, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum WalkError {
    /// The host path is no directory that may be used.
    #[error("{path} cannot be walked: {state:?}")]
    Source {
        /// The host path.
        path: String,
        /// What it is.
        state: SourceState,
    },
    /// It is on another file system than the walk was planned for.
    #[error("{path} is on {found} instead of {expected}")]
    FileSystemChanged {
        /// The host path.
        path: String,
        /// The file system that was planned for.
        expected: String,
        /// The one that is there now.
        found: String,
    },
    /// It stopped in the middle, and its path does not answer.
    #[error("{path}: {source}")]
    NoAnswer {
        /// The host path.
        path: String,
        /// Since when.
        source: NoAnswer,
    },
    /// An audit was cancelled; half of one says nothing.
    #[error("cancelled")]
    Cancelled,
    /// The root directory cannot be read.
    #[error("cannot walk {path}")]
    Io {
        /// The host path.
        path: String,
        /// What the kernel said.
        source: io::Error,
    },
}

impl Node {
    /// Counts what in a volume is not as declared; changes nothing.
    ///
    /// # Errors
    ///
    /// [`WalkError`]; entries that could not be looked at are counted instead.
    pub fn audit(&self, request: WalkRequest<'_>) -> Result<Audit, WalkError> {
        let report = self.walk(request, WalkMode::Audit)?;
        if report.cancelled { Err(WalkError::Cancelled) } else { Ok(report.audit) }
    }

    /// Brings a volume to what is declared, its root directory last.
    ///
    /// # Errors
    ///
    /// [`WalkError`]; entries that could not be changed are counted instead.
    pub fn repair(&self, request: WalkRequest<'_>) -> Result<WalkReport, WalkError> {
        self.walk(request, WalkMode::Repair)
    }

    /// Takes back what passes over a volume changed; only for whoever has the lock of the node.
    ///
    /// # Errors
    ///
    /// [`UndoError`] or [`WalkError`]; entries that could not be restored are counted instead.
    pub fn undo(
        &self,
        volume: &Volume,
        request: UndoRequest<'_>,
    ) -> Result<Result<Undone, UndoError>, WalkError> {
        let UndoRequest { back_to, privileges, dry_run, cancel, progress } = request;
        let (paths, on) = (self.paths.clone(), volume.clone());
        self.at_distance(&volume.host_path, cancel, progress, move |far| {
            let open = open(&paths, &on, None)?;
            if !dry_run {
                let path = on.host_path.clone();
                bookmark::forget(&paths, &on.name)
                    .map_err(|source| WalkError::Io { path, source })?;
            }
            let (cancel, progress) = (&far.cancel, &|now| far.set(now));
            let request = UndoRequest { back_to, privileges, dry_run, cancel, progress };
            Ok(undo::undo(&paths, &on.name, &open, request))
        })?
    }

    fn walk(&self, request: WalkRequest<'_>, mode: WalkMode) -> Result<WalkReport, WalkError> {
        let WalkRequest { volume, rule, file_system, cancel, progress, .. } = request;
        let WalkRequest { max_changes, since, watched, threads, background, .. } = request;
        let WalkRequest { trace, goes_on, undo_limit, .. } = request;
        let work = {
            let (paths, volume, rule) = (self.paths.clone(), volume.clone(), Kept::of(rule));
            let file_system = file_system.map(str::to_owned);
            let trace = trace.cloned();
            move |far: &Far| {
                let walk = Walk {
                    trace: trace.as_deref(),
                    cancel: &far.cancel,
                    progress: &|now| far.set(now),
                    max_changes,
                    since,
                    watched,
                    threads,
                    background,
                    ..Walk::new(mode, rule.get())
                };
                let open = open(&paths, &volume, file_system.as_deref())?;
                walk_on(&paths, &volume, &open, (goes_on, undo_limit), walk)
            }
        };
        self.at_distance(&volume.host_path, cancel, progress, work)?
    }

    /// Works in a volume on a thread of its own, so that a file system that stops answering costs
    /// that thread and nobody else.
    fn at_distance<T: Send + 'static>(
        &self,
        host_path: &str,
        cancel: &AtomicBool,
        progress: &(dyn Fn(Progress) + Sync),
        work: impl FnOnce(&Far) -> T + Send + 'static,
    ) -> Result<T, WalkError> {
        let far = Arc::new(Far::default());
        let see = {
            let far = Arc::clone(&far);
            move || {
                // One that was left behind has to end as soon as it comes back: nobody waits for it.
                far.cancel.store(cancel.load(Ordering::Relaxed), Ordering::Relaxed);
                let now = far.get();
                progress(now);
                now
            }
        };
        see();
        let work = {
            let far = Arc::clone(&far);
            move || work(&far)
        };
        let mut last = (Progress::default(), Instant::now());
        let mut asked = Instant::now();
        let done = self.answers.follow(host_path, work, || {
            let now = see();
            if now != last.0 {
                last = (now, Instant::now());
            }
            let ending = cancel.load(Ordering::Relaxed);
            let quiet = last.1.elapsed().min(asked.elapsed());
            if quiet < if ending { STALLED_AT_END } else { STALLED } {
                return last.1.elapsed() >= STUCK;
            }
            // A slow disk, or a file system that is gone? Its root tells.
            asked = Instant::now();
            let (paths, place) = (self.paths.clone(), host_path.to_owned());
            let look = move || reach::is_directory(&paths, &place);
            self.answers.ask(host_path, look).is_err()
        });
        match done {
            Ok(done) => {
                progress(far.get());
                Ok(done)
            }
            Err(source) => {
                far.cancel.store(true, Ordering::Relaxed);
                Err(WalkError::NoAnswer { path: host_path.to_owned(), source })
            }
        }
    }
}

/// A rule of one's own, for another thread.
enum Kept {
    Declared(OwnershipRule),
    Shifted(Arc<Shifting>),
}

impl Kept {
    fn of(rule: WalkRule<'_>) -> Self {
        match rule {
            WalkRule::Declared(rule) => Self::Declared(rule.clone()),
            WalkRule::Shifted(shifting) => Self::Shifted(Arc::clone(shifting)),
        }
    }

    const fn get(&self) -> WalkRule<'_> {
        match self {
            Self::Declared(rule) => WalkRule::Declared(rule),
            Self::Shifted(shifting) => WalkRule::Shifted(shifting),
        }
    }
}

/// How far a walk on another thread is, and whether it is to end.
#[derive(Debug, Default)]
struct Far {
    cancel: AtomicBool,
    now: Mutex<Progress>,
}

impl Far {
    fn set(&self, now: Progress) {
        *self.now.lock().unwrap_or_else(PoisonError::into_inner) = now;
    }

    fn get(&self) -> Progress {
        *self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opens a volume where it is on the file system that is expected.
fn open(
    paths: &NodePaths,
    volume: &Volume,
    file_system: Option<&str>,
) -> Result<OpenVolume, WalkError> {
    let path = || volume.host_path.clone();
    let open = match source::open(paths, volume) {
        (_, Some(open)) => open,
        (state, None) => return Err(WalkError::Source { path: path(), state }),
    };
    let found = &open.file_system().id;
    if let Some(expected) = file_system.filter(|expected| expected != found) {
        let (expected, found) = (expected.to_owned(), found.clone());
        return Err(WalkError::FileSystemChanged { path: path(), expected, found });
    }
    Ok(open)
}

/// Walks an open volume, with a bookmark and a record where they are wanted.
fn walk_on(
    paths: &NodePaths,
    volume: &Volume,
    open: &OpenVolume,
    (goes_on, undo_limit): (bool, u64),
    walk: Walk<'_>,
) -> Result<WalkReport, WalkError> {
    let failed = |source| WalkError::Io { path: volume.host_path.clone(), source };
    let record = (walk.mode == WalkMode::Repair && undo_limit > 0)
        .then(|| {
            let what = (walk.rule.kind(), walk.rule.text());
            Recorder::new(paths, &volume.name, open, what, undo_limit)
        })
        .transpose()
        .map_err(failed)?;
    let bookmark = goes_on
        .then(|| Bookmark::open(paths, &volume.name, open, walk.rule, walk.mode))
        .and_then(|bookmark| {
            // It costs looks that were made before, should this one be interrupted.
            bookmark.inspect_err(|error| debug!(VOLUME = %volume.name, "no bookmark: {error}")).ok()
        });
    let (bookmarked, recorded) = (bookmark.as_ref(), record.as_ref());
    let report = walk::walk(open, Walk { bookmark: bookmarked, record: recorded, ..walk })
        .map_err(|errno| failed(errno.into()))?;
    if report.audit.believed > 0 {
        debug!(
            VOLUME = %volume.name,
            ENTRIES = report.audit.entries,
            BELIEVED = report.audit.believed,
            CANCELLED = report.cancelled,
            "a walk went on where one had been interrupted"
        );
    }
    if let Some(bookmark) = bookmark {
        bookmark.end(&report);
    }
    if let Some(record) = record.filter(|_| report.came_to_its_end()) {
        record.end();
    }
    Ok(report)
}
