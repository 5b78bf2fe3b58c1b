//! Between plans and the watch: which volumes are watched, and what their entries are held to.
//!
//! Only volumes that were in place are held to a rule as they change ([`VolumePlan::standing`]);
//! in doubt of any kind, a hold, an unknown map, the watch only keeps the events until there is a
//! rule again. What the watch finds out reaches the loop as one more reason to look.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};
use std::time::{Instant, SystemTime};

use pctd_core::desired::{Desired, Mode, Volume};
use pctd_core::ids::VolumeName;
use pctd_core::observed::{Assurance, Drift, Watch};
use pctd_core::ownership::OwnershipRule;
use pctd_core::plan::{Basis, Plans, VolumePlan};
use pctd_node::Trace;
use pctd_node::watch::{News, Standing, Watcher};
use tracing::{debug, info, warn};

use super::Engine;
use super::observe::undo_limit;

impl Engine {
    /// Starts to watch; `doubt` is called where a volume has to be walked, and must not wait.
    pub(crate) fn watching(
        mut self,
        doubt: impl Fn(VolumeName, String) + Send + Sync + 'static,
    ) -> Self {
        let started = Watcher::start(self.node.paths().clone(), move |news| match news {
            News::Repaired { volume, changed } => info!(
                VOLUME = %volume,
                STEP = "set_ownership",
                REASON = "Drift",
                CHANGED = changed,
                "{volume}: put right what had drifted: {changed} of its entries"
            ),
            News::Doubt { volume, why } => doubt(volume, why),
        });
        match started {
            Ok(watcher) => self.watcher = Some(watcher),
            // Said once; the status says it of every volume.
            Err(error) => warn!("{error}"),
        }
        self
    }

    /// Arms a volume before it is walked, so that nothing slips in between; returns whether what
    /// changes from now on is put right by the watch.
    pub(super) fn begin_walk(
        &self,
        desired: &Desired,
        volume: &Volume,
        rule: &OwnershipRule,
    ) -> bool {
        let watcher = self.watcher.as_ref().filter(|_| is_wanted(desired));
        watcher.is_some_and(|watcher| watcher.begin_walk(volume, rule))
    }

    /// Begins to note the directories of a volume that is walked; only a daemon has use for that.
    pub(super) fn begin_trace(&self, volume: &VolumeName) -> Option<Arc<Trace>> {
        self.watcher.as_ref()?;
        // One of a walk that did not come to its end must not pass for this one's.
        self.memory().traces.remove(volume);
        match Trace::begin(self.node.paths(), volume) {
            Ok(trace) => {
                let trace = Arc::new(trace);
                self.memory().traces.insert(volume.clone(), Arc::clone(&trace));
                Some(trace)
            }
            Err(error) => {
                debug!(VOLUME = %volume, "directories cannot be noted: {error}");
                None
            }
        }
    }

    /// Looks at the directories of a volume that was in place when pctd ended last, and lets the
    /// watch look at what changed since. The walk that follows can take its time then.
    pub(super) fn catch_up(&self, desired: &Desired, name: &VolumeName) {
        let begun = Instant::now();
        let record = self.node.ledger().ledger().volumes.get(name).cloned();
        let volume = desired.volumes.get(name);
        let (Some(watcher), Some(record), Some(volume)) = (&self.watcher, record, volume) else {
            return;
        };
        // Held to a rule since the survey: only then is what changed put right, too.
        if !watcher.is_holding(name) || self.memory().assured.contains_key(name) {
            return;
        }
        if let Some(found) = watcher.catch_up(volume, &record) {
            debug!(
                VOLUME = %name,
                DIRECTORIES = found.directories,
                CHANGED = found.changed,
                ELAPSED_MS = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
                "compared the directories with those of the last walk"
            );
            self.memory().assured.insert(name.clone(), (Assurance::Directories, record));
        }
    }

    /// Tells the watch what these plans say of its volumes, where they are what is desired by now:
    /// a run may end long after an edit.
    pub(super) fn stand(&self, desired: &Desired, plans: &Plans) {
        let Some(watcher) = self.watcher.as_ref().filter(|_| is_wanted(desired)) else { return };
        // Held to the end: the survey of an edit must not come in between.
        let in_force = self.in_force.lock().unwrap_or_else(PoisonError::into_inner);
        if !is_wanted(&in_force) {
            return;
        }
        let (cpu_percent, confirm_above) =
            (desired.settings.watch_cpu, desired.settings.confirm_above);
        let undo_limit = undo_limit(desired);
        for (name, plan) in &plans.volumes {
            let Some(volume) = desired.volumes.get(name) else { continue };
            if in_force.volumes.get(name) != Some(volume) {
                continue;
            }
            let is_left_alone = self.node.ledger().ledger().undone.contains_key(name)
                || self.memory().left_alone.contains(name);
            match plan {
                // A plan may be older than the word that nothing is to be done.
                VolumePlan { standing: Some(_), .. } if is_left_alone => watcher.pause(name),
                VolumePlan { standing: Some(rule), .. } => {
                    let rule = Some(rule.clone());
                    watcher.hold(volume, Standing { rule, cpu_percent, confirm_above, undo_limit });
                }
                VolumePlan { basis: Basis::NotManaged | Basis::OtherNode, .. } => {
                    watcher.forget(name);
                }
                _ => watcher.pause(name),
            }
        }
        if plans.node.is_some() {
            // Nothing is known of the node, so neither is whose anything is.
            desired.volumes.keys().for_each(|name| watcher.pause(name));
        }
    }

    /// Takes note of what is desired from now on, and lets go of volumes that are not any more.
    pub(super) fn stop_watching_others(&self, desired: &Desired) {
        if let Some(watcher) = &self.watcher {
            let mut in_force = self.in_force.lock().unwrap_or_else(PoisonError::into_inner);
            if *in_force != *desired {
                *in_force = desired.clone();
            }
            let names = desired.volumes.keys().filter(|_| is_wanted(desired));
            let wanted: BTreeSet<_> = names.cloned().collect();
            watcher.keep(&wanted);
            pctd_node::forget_others(self.node.paths(), &wanted);
        }
    }

    /// Returns how drift of a volume is noticed.
    pub(super) fn watch_of(&self, desired: &Desired, volume: &VolumeName) -> Watch {
        match &self.watcher {
            Some(watcher) if is_wanted(desired) => watcher.state(volume),
            Some(_) => Watch::Walks("it is switched off".to_owned()),
            None => Watch::Walks("there is no watch".to_owned()),
        }
    }

    /// Returns since when no change of a volume can have gone unnoticed.
    pub(super) fn watched_since(&self, volume: &VolumeName) -> Option<SystemTime> {
        self.watcher.as_ref()?.since(volume)
    }

    /// Returns what the watch of a volume has done.
    pub(super) fn drift_of(&self, volume: &VolumeName) -> Option<Drift> {
        match self.watcher.as_ref()?.state(volume) {
            Watch::Events(drift) => Some(drift),
            Watch::Walks(_) => None,
        }
    }
}

fn is_wanted(desired: &Desired) -> bool {
    desired.settings.watch_cpu > 0 && desired.settings.mode == Mode::Enforce
}
