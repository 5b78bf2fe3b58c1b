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
use crate::bookmark::Bookmark;
use crate::paths::NodePaths;
use crate::trace::Trace;
use crate::walk::{Progress, Walk, WalkMode, WalkReport};
use crate::{Node, source, walk};

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
    pub rule: &'a OwnershipRule,
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
}

impl<'a> WalkRequest<'a> {
    /// Returns a request that nothing ends, limits or follows.
    pub fn new(volume: &'a Volume, rule: &'a OwnershipRule) -> Self {
        let Walk { cancel, progress, max_changes, since, watched, threads, background, .. } =
            Walk::new(WalkMode::Audit, rule);
        let (file_system, trace, goes_on) = (None, None, false);
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

    /// Walks on a thread of its own, so that a file system that stops answering costs that thread
    /// and nobody else.
    fn walk(&self, request: WalkRequest<'_>, mode: WalkMode) -> Result<WalkReport, WalkError> {
        let WalkRequest { volume, rule, file_system, cancel, progress, .. } = request;
        let WalkRequest { max_changes, since, watched, threads, background, .. } = request;
        let WalkRequest { trace, goes_on, .. } = request;
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
            let (paths, volume, rule) = (self.paths.clone(), volume.clone(), rule.clone());
            let (file_system, far) = (file_system.map(str::to_owned), Arc::clone(&far));
            let trace = trace.cloned();
            move || {
                let walk = Walk {
                    trace: trace.as_deref(),
                    cancel: &far.cancel,
                    progress: &|now| far.set(now),
                    max_changes,
                    since,
                    watched,
                    threads,
                    background,
                    ..Walk::new(mode, &rule)
                };
                walk_on(&paths, &volume, file_system.as_deref(), goes_on, walk)
            }
        };
        let mut last = (Progress::default(), Instant::now());
        let mut asked = Instant::now();
        let done = self.answers.follow(&volume.host_path, work, || {
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
            let (paths, place) = (self.paths.clone(), volume.host_path.clone());
            let look = move || source::is_directory(&paths, &place);
            self.answers.ask(&volume.host_path, look).is_err()
        });
        let path = volume.host_path.clone();
        match done {
            Ok(report) => {
                progress(far.get());
                report
            }
            Err(source) => {
                far.cancel.store(true, Ordering::Relaxed);
                Err(WalkError::NoAnswer { path, source })
            }
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

/// Walks a volume where it is on the file system that is expected.
fn walk_on(
    paths: &NodePaths,
    volume: &Volume,
    file_system: Option<&str>,
    goes_on: bool,
    walk: Walk<'_>,
) -> Result<WalkReport, WalkError> {
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
    let bookmark = goes_on
        .then(|| Bookmark::open(paths, &volume.name, &open, walk.rule, walk.mode))
        .and_then(|bookmark| {
            // It costs looks that were made before, should this one be interrupted.
            bookmark.inspect_err(|error| debug!(VOLUME = %volume.name, "no bookmark: {error}")).ok()
        });
    let report = walk::walk(&open, Walk { bookmark: bookmark.as_ref(), ..walk })
        .map_err(|errno| WalkError::Io { path: path(), source: errno.into() })?;
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
    Ok(report)
}
