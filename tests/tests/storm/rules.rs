//! What must never be seen, whatever happens: looked at by a thread of its own, a few hundred times
//! a second.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use pctd_sandbox::PctCall;

/// How often it is looked.
const INTERVAL: Duration = Duration::from_millis(3);

/// A path, and who may own it at any time.
#[derive(Debug, Clone)]
pub(crate) struct Watched {
    /// Where it is.
    pub(crate) path: PathBuf,
    /// The owners, as uid, that it may have.
    pub(crate) owners: BTreeSet<u32>,
    /// Its only mode; none: any.
    pub(crate) mode: Option<u32>,
}

/// Looks at paths until it is dropped.
#[derive(Debug)]
pub(crate) struct Sampler {
    stop: Arc<AtomicBool>,
    looks: Arc<AtomicU64>,
    wrong: Arc<Mutex<Option<String>>>,
    thread: Option<JoinHandle<()>>,
}

impl Sampler {
    /// Begins to look.
    pub(crate) fn start(watched: Vec<Watched>) -> Self {
        let (stop, looks) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let wrong = Arc::new(Mutex::new(None));
        let (told, counted, found) = (Arc::clone(&stop), Arc::clone(&looks), Arc::clone(&wrong));
        let thread = std::thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                for each in &watched {
                    if let Some(what) = wrong_with(each) {
                        found.lock().unwrap().get_or_insert(what);
                    }
                }
                counted.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(INTERVAL);
            }
        });
        Self { stop, looks, wrong, thread: Some(thread) }
    }

    /// Returns how often it looked.
    pub(crate) fn looks(&self) -> u64 {
        self.looks.load(Ordering::Relaxed)
    }

    /// Returns the first thing that was wrong.
    pub(crate) fn wrong(&self) -> Option<String> {
        self.wrong.lock().unwrap().clone()
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

fn wrong_with(watched: &Watched) -> Option<String> {
    let stat = fs::symlink_metadata(&watched.path).ok()?;
    let mode = stat.mode() & 0o7777;
    let is_right = watched.owners.contains(&stat.uid())
        && watched.owners.contains(&stat.gid())
        && watched.mode.is_none_or(|only| only == mode);
    (!is_right).then(|| {
        let path = watched.path.display();
        format!("{path} was {}:{} {mode:04o}", stat.uid(), stat.gid())
    })
}

/// Says what is wrong with the calls of `pct` that the daemon made.
///
/// `daemons` are all there were, one after the other: what one had begun when it ended may go on
/// beside the calls of the next one, which does not know of it.
pub(crate) fn wrong_calls(calls: &[PctCall], daemons: &BTreeSet<u32>) -> Option<String> {
    for (at, call) in calls.iter().enumerate() {
        let words: Vec<&str> = call.argv.iter().map(String::as_str).collect();
        let [command, ctid, rest @ ..] = words.as_slice() else { continue };
        if !matches!(*command, "set" | "reboot" | "start") {
            return Some(format!("pctd ran {words:?}"));
        }
        if rest.iter().any(|word| matches!(*word, "--mp8" | "--mp9" | "mp8" | "mp9")) {
            return Some(format!("pctd changed what is not its own: {words:?}"));
        }
        let overlaps = |earlier: &&PctCall| {
            let is_same = earlier.argv.get(1).is_some_and(|other| other == ctid);
            let is_ones = earlier.parent == call.parent && daemons.contains(&call.parent);
            is_same && is_ones && earlier.ended.is_some_and(|ended| ended > call.began)
        };
        if let Some(earlier) = calls[..at].iter().find(overlaps) {
            return Some(format!("two at once: {earlier:?} and {call:?}"));
        }
    }
    None
}

/// Says what is wrong with a conf: a target that is mounted twice, or a line of others that is gone.
pub(crate) fn wrong_conf(path: &Path, text: &str) -> Option<String> {
    let current = text.split("\n[").next().unwrap_or_default();
    let mounts = current.lines().filter(|line| line.starts_with("mp"));
    let mut targets = BTreeSet::new();
    for line in mounts {
        let target = line.split(",mp=").nth(1).and_then(|rest| rest.split(',').next());
        if !targets.insert(target) {
            return Some(format!("{}: {target:?} is mounted twice:\n{text}", path.display()));
        }
    }
    let is_whole = current.contains("rootfs:") && current.contains("swap:");
    let has_all = ["mp9: /srv/foreign,mp=/foreign", "tags: mine"]
        .into_iter()
        .all(|line| current.lines().any(|own| own == line));
    (is_whole && !has_all).then(|| format!("{}: a line of others is gone:\n{text}", path.display()))
}
