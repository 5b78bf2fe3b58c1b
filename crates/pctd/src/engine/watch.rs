//! Between plans and the watch: which volumes are watched, and what their entries are held to.
//!
//! Only volumes that were in place are held to a rule as they change ([`VolumePlan::standing`]);
//! in doubt of any kind, a hold, an unknown map, the watch only keeps the events until there is a
//! rule again. What the watch finds out reaches the loop as one more reason to look.

use std::collections::BTreeSet;
use std::time::SystemTime;

use pctd_core::desired::{Desired, Mode, Volume};
use pctd_core::ids::VolumeName;
use pctd_core::observed::{Drift, Watch};
use pctd_core::plan::{Basis, Plans, VolumePlan};
use pctd_node::watch::{News, Standing, Watcher};
use tracing::{info, warn};

use super::Engine;

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
                "{volume}: put {changed} drifted entries right"
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
    pub(super) fn begin_walk(&self, desired: &Desired, volume: &Volume) -> bool {
        let watcher = self.watcher.as_ref().filter(|_| is_wanted(desired));
        watcher.is_some_and(|watcher| watcher.begin_walk(volume))
    }

    /// Tells the watch what these plans say of its volumes.
    pub(super) fn stand(&self, desired: &Desired, plans: &Plans) {
        let Some(watcher) = self.watcher.as_ref().filter(|_| is_wanted(desired)) else { return };
        let (cpu_percent, confirm_above) =
            (desired.settings.watch_cpu, desired.settings.confirm_above);
        for (name, plan) in &plans.volumes {
            let Some(volume) = desired.volumes.get(name) else { continue };
            match plan {
                VolumePlan { standing: Some(rule), .. } => {
                    let rule = Some(rule.clone());
                    watcher.hold(volume, Standing { rule, cpu_percent, confirm_above });
                }
                VolumePlan { basis: Basis::NotManaged, .. } => watcher.forget(name),
                _ => watcher.pause(name),
            }
        }
        if plans.node.is_some() {
            // Nothing is known of the node, so neither is whose anything is.
            desired.volumes.keys().for_each(|name| watcher.pause(name));
        }
    }

    /// Lets go of volumes that are not desired any more.
    pub(super) fn stop_watching_others(&self, desired: &Desired) {
        if let Some(watcher) = &self.watcher {
            let names = desired.volumes.keys().filter(|_| is_wanted(desired));
            let wanted: BTreeSet<_> = names.cloned().collect();
            watcher.keep(&wanted);
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
