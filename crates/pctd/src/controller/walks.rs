//! When a volume is walked though nothing says that it differs. Pure; time is passed in.
//!
//! Every volume is due once when it is new to this process, because what happened while nobody
//! watched is not known, and then at the verify interval. A verify ends only with a walk that finds
//! nothing: until then the volume *owes* one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pctd_core::desired::{Desired, Settings};
use pctd_core::ids::{Key, VolumeName};
use tokio::time::Instant;

/// A volume that is held or failed waits at least this many times as long as its last run took, so
/// that one whose walk is long is not walked without a pause.
pub(super) const PACE: u32 = 20;

/// How long after a walk a volume is not walked again for a doubt, however short the walk was.
const LEAST_REST: Duration = Duration::from_secs(1);

/// Volumes to be walked at their next run, and when each is due for it anyway.
#[derive(Debug, Default)]
pub(super) struct Walks {
    owed: BTreeSet<VolumeName>,
    due: BTreeMap<VolumeName, Instant>,
    /// Before when a doubt is no reason to walk a volume again.
    rested: BTreeMap<VolumeName, Instant>,
}

impl Walks {
    /// Forgets volumes that are not desired, and makes those due that are new.
    pub(super) fn restrict(&mut self, desired: &Desired, now: Instant) {
        self.owed.retain(|name| desired.volumes.contains_key(name));
        self.due.retain(|name, _| desired.volumes.contains_key(name));
        self.rested.retain(|name, _| desired.volumes.contains_key(name));
        for name in desired.volumes.keys() {
            self.due.entry(name.clone()).or_insert(now);
        }
    }

    /// Asks for a walk at the next run over `key`, where that is a volume.
    pub(super) fn ask(&mut self, key: &Key) {
        if let Key::Volume(name) = key {
            self.owed.insert(name.clone());
        }
    }

    /// Asks for a walk because `key` is in doubt; returns when it may be made.
    pub(super) fn doubt(&mut self, key: &Key, soon: Instant) -> Instant {
        self.ask(key);
        let rested = match key {
            Key::Volume(name) => self.rested.get(name).copied(),
            Key::Container(_) => None,
        };
        rested.map_or(soon, |rested| rested.max(soon))
    }

    /// Notes that a walk of `key` has ended: whoever can write to it can bring it into doubt again
    /// at once, and must not get pctd to do nothing but walk.
    pub(super) fn rest(&mut self, key: &Key, took: Duration, now: Instant) {
        if let Key::Volume(name) = key {
            self.rested.insert(name.clone(), now + (took * PACE).max(LEAST_REST));
        }
    }

    /// Returns whether `key` is a volume that only a walk can say to be in place.
    pub(super) fn owes(&self, key: &Key) -> bool {
        matches!(key, Key::Volume(name) if self.owed.contains(name))
    }

    /// Takes the walk that `key` owes for a run that begins.
    pub(super) fn take(&mut self, key: &Key) -> bool {
        matches!(key, Key::Volume(name) if self.owed.remove(name))
    }

    /// Makes the volumes whose time has come owe a walk, and returns them.
    pub(super) fn fall_due(&mut self, now: Instant, interval: Duration) -> Vec<VolumeName> {
        let due = self.due.iter_mut().filter(|(_, at)| **at <= now);
        let due: Vec<VolumeName> = due
            .map(|(name, at)| {
                *at = now + interval;
                name.clone()
            })
            .collect();
        self.owed.extend(due.iter().cloned());
        due
    }

    /// Returns when the next volume is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.due.values().min().copied()
    }
}

/// Returns how long `key` is left alone at least after a run that took so long and achieved nothing.
pub(super) fn pause(key: &Key, took: Duration, settings: &Settings) -> Duration {
    match key {
        Key::Volume(_) => (took * PACE).min(settings.verify_interval),
        Key::Container(_) => Duration::ZERO,
    }
}
