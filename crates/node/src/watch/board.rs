//! What the thread of the watch and everybody else share: one entry per volume.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use pctd_core::ids::VolumeName;

use super::mark::Root;
use super::rate::Rate;
use super::{News, Standing};

/// Why nothing is watched when the thread met a defect.
const ENDED: &str = "the watch ended unexpectedly; restart pctd";

/// What the thread and everybody else know of the volumes.
pub(super) struct Shared {
    entries: Mutex<BTreeMap<VolumeName, Shown>>,
    news: Box<dyn Fn(News) + Send + Sync>,
    /// Counts changes of the table of mounts.
    mounts: AtomicU64,
    /// Whether the thread ended though it was not asked to.
    ended: AtomicBool,
    /// Volumes that were armed before.
    armed_before: Mutex<BTreeSet<VolumeName>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("entries", &self.entries).finish_non_exhaustive()
    }
}

/// One volume as others see it.
#[derive(Debug)]
pub(super) struct Shown {
    pub(super) armed: Result<Root, String>,
    pub(super) standing: Option<Standing>,
    /// When it was armed.
    pub(super) since: Option<SystemTime>,
    /// The host path that could not be armed, and when by the count of mount changes: asking
    /// again before something was mounted is of no use.
    pub(super) refused: Option<(String, u64)>,
    /// What only a walk can settle.
    pub(super) doubt: Option<String>,
    pub(super) counts: Counts,
}

#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) events: u64,
    pub(super) repaired: Rate,
    pub(super) waiting: u64,
    pub(super) cpu: Duration,
}

impl Default for Shown {
    fn default() -> Self {
        let armed = Err("it is not watched yet".to_owned());
        let counts = Counts::default();
        Self { armed, standing: None, since: None, refused: None, doubt: None, counts }
    }
}

impl Shared {
    pub(super) fn new(news: impl Fn(News) + Send + Sync + 'static) -> Self {
        let (entries, armed_before) = (Mutex::default(), Mutex::default());
        let (mounts, ended) = (AtomicU64::default(), AtomicBool::default());
        Self { entries, news: Box::new(news), mounts, ended, armed_before }
    }

    /// Notes that the thread has ended: nothing is watched from now on.
    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
        for entry in self.entries().values_mut() {
            *entry = Shown { armed: Err(ENDED.to_owned()), ..Shown::default() };
        }
    }

    /// Returns why nothing can be watched any more, if so.
    pub(super) fn ended(&self) -> Option<&'static str> {
        self.ended.load(Ordering::Relaxed).then_some(ENDED)
    }

    /// Notes that a volume is armed; returns whether it was before, by this process.
    pub(super) fn arm_again(&self, name: &VolumeName) -> bool {
        let mut before = self.armed_before.lock().unwrap_or_else(PoisonError::into_inner);
        !before.insert(name.clone())
    }

    /// Notes that something was mounted or unmounted.
    pub(super) fn mounts_changed(&self) {
        self.mounts.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns how often something was.
    pub(super) fn mount_changes(&self) -> u64 {
        self.mounts.load(Ordering::Relaxed)
    }

    pub(super) fn entries(&self) -> MutexGuard<'_, BTreeMap<VolumeName, Shown>> {
        // Each field is valid by itself, so a panic elsewhere leaves nothing half done here.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn with<T>(&self, name: &VolumeName, f: impl FnOnce(&mut Shown) -> T) -> T {
        f(self.entries().entry(name.clone()).or_default())
    }

    /// Does something to a volume's counts, if it is still watched.
    pub(super) fn count(&self, name: &VolumeName, f: impl FnOnce(&mut Counts)) {
        if let Some(entry) = self.entries().get_mut(name) {
            f(&mut entry.counts);
        }
    }

    pub(super) fn set_waiting<'a>(&self, waiting: impl Iterator<Item = (&'a VolumeName, u64)>) {
        let mut entries = self.entries();
        for (name, waiting) in waiting {
            if let Some(entry) = entries.get_mut(name) {
                entry.counts.waiting = waiting;
            }
        }
    }

    pub(super) fn tell(&self, news: News) {
        (self.news)(news);
    }

    /// Notes that only a walk can settle what a volume is like; says so where one may be made.
    pub(super) fn doubt(&self, name: &VolumeName, why: &str) {
        let told = {
            let mut entries = self.entries();
            let Some(entry) = entries.get_mut(name) else { return };
            let is_new = entry.doubt.is_none();
            entry.doubt.get_or_insert_with(|| why.to_owned());
            is_new && entry.standing.as_ref().is_some_and(|standing| standing.rule.is_some())
        };
        if told {
            self.tell(News::Doubt { volume: name.clone(), why: why.to_owned() });
        }
    }

    /// Tells of a doubt that came up while there was no rule.
    pub(super) fn tell_doubt(&self, name: &VolumeName) {
        let doubt = self.entries().get(name).and_then(|entry| entry.doubt.clone());
        if let Some(why) = doubt {
            self.tell(News::Doubt { volume: name.clone(), why });
        }
    }

    /// Notes that a volume is not watched any more, then says so.
    pub(super) fn disarm(&self, name: &VolumeName, why: &str) {
        if let Some(entry) = self.entries().get_mut(name) {
            entry.armed = Err(why.to_owned());
            entry.since = None;
        }
        self.doubt(name, why);
    }
}
