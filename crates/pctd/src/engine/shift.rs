//! Shifting the ids in a volume: counted first, refused where it would be of no use, then done on the
//! record.

use std::sync::{Arc, PoisonError};
use std::time::Instant;

use pctd_core::desired::{Desired, Volume};
use pctd_core::ids::{Ctid, Key};
use pctd_core::observed::{Presence, Running, Snapshot};
use pctd_core::order::ShiftOrder;
use pctd_core::plan::{Hold, Plans};
use pctd_core::report::{ShiftReport, ShiftedReport};
use pctd_node::{Shifting, WalkReport, WalkRequest, WalkRule};
use tracing::info;

use super::observe::undo_limit;
use super::{Depth, Engine, Scope};
use crate::config_files::chain;
use crate::reconciler::Job;

impl Engine {
    /// Gives entries of a volume other ids, by a constant.
    ///
    /// # Errors
    ///
    /// Why nothing, or not all, was shifted.
    pub(super) fn shift(
        &self,
        desired: &Desired,
        order: &ShiftOrder,
        job: &Job,
    ) -> Result<ShiftReport, String> {
        let ShiftOrder { volume: name, shift, dry_run, live } = order;
        let volume = desired.volumes.get(name);
        let volume = volume.ok_or_else(|| format!("{name} is not in the configuration"))?;
        let key = Key::Volume(name.clone());
        let scope = Scope::of(desired, &key);
        let requests = self.requests(job, Some(&key));
        let (snapshot, plans) = self.look(desired, &scope, Depth::Surface, requests, job)?;
        refuse(&plans, volume)?;
        if !(*live || *dry_run) {
            refuse_running(&snapshot, volume)?;
        }
        let rule = plans.volumes.get(name).and_then(|plan| plan.rule.clone());
        let shifting = || Arc::new(Shifting::new(*shift, rule.clone()));
        let progress = |now| job.progress.set(now);
        let counting = shifting();
        let request = request(desired, volume, &counting, job, &progress);
        let audit = self.node.audit(request).map_err(|error| chain(&error))?;
        let seen = counting.seen();
        let mut report = ShiftReport::new(name.clone(), *shift, *dry_run, &audit);
        report.in_target = seen.in_target;
        report.in_conflict = seen.in_conflict;
        report.examples = seen.examples.into_iter().map(example).collect();
        if *dry_run {
            return Ok(report);
        }
        if report.in_conflict > 0 {
            return Err(format!(
                "{} of {} entries would not keep their new ids, because another owner is declared for {name}; declare first where they are to be (`disk_ids`, `owner`), with `\"mode\": \"observe\"` until they are",
                report.in_conflict, audit.changes
            ));
        }
        if audit.changes == 0 {
            return Ok(report);
        }
        let done = self.shift_now(desired, volume, &shifting(), job)?;
        report.changed = done.changed;
        report.cancelled = done.cancelled;
        report.errors = done.audit.errors;
        report.first_errors.clone_from(&done.audit.first_errors);
        Ok(report)
    }

    fn shift_now(
        &self,
        desired: &Desired,
        volume: &Volume,
        shifting: &Arc<Shifting>,
        job: &Job,
    ) -> Result<WalkReport, String> {
        let name = &volume.name;
        let begun = Instant::now();
        let _left_alone = self.leave_alone(volume)?;
        let progress = |now| job.progress.set(now);
        let request = request(desired, volume, shifting, job, &progress);
        let report = self.node.repair(request).map_err(|error| chain(&error))?;
        info!(
            VOLUME = %name,
            STEP = "shift",
            PATH = volume.host_path,
            ENTRIES = report.audit.entries,
            CHANGED = report.changed,
            PRIVILEGES_CLEARED = report.audit.privileges,
            ELAPSED_MS = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
            "{name}: shifted {} of {} entries of {} from {}",
            report.changed,
            report.audit.entries,
            volume.host_path,
            shifting.shift()
        );
        if let Some(why) = &report.unrecorded {
            let held = Hold::UndoUnavailable { volume: name.clone(), why: why.clone() };
            return Err(held.to_string());
        }
        if let Some(refused) = &report.unsupported {
            return Err(format!(
                "{} does not let owners be changed: {}",
                refused.kind, refused.message
            ));
        }
        Ok(report)
    }

    /// Keeps the watch from putting single entries right until the end of what is returned.
    fn leave_alone(&self, volume: &Volume) -> Result<LeftAlone<'_>, String> {
        let name = &volume.name;
        let left_alone = {
            // Held until the watch has let go: plans made before this are not told to it any more.
            let _in_force = self.in_force.lock().unwrap_or_else(PoisonError::into_inner);
            self.memory().left_alone.insert(name.clone());
            let left_alone = LeftAlone { engine: self, volume: volume.clone() };
            if let Some(watcher) = &self.watcher
                && !watcher.pause_now(name)
            {
                return Err(format!("the watch does not let go of {name}; try again"));
            }
            left_alone
        };
        self.memory().assured.remove(name);
        Ok(left_alone)
    }
}

/// A volume that the watch leaves alone for as long as this lives.
struct LeftAlone<'e> {
    engine: &'e Engine,
    volume: Volume,
}

impl Drop for LeftAlone<'_> {
    fn drop(&mut self) {
        self.engine.memory().left_alone.remove(&self.volume.name);
    }
}

fn request<'a>(
    desired: &Desired,
    volume: &'a Volume,
    shifting: &'a Arc<Shifting>,
    job: &'a Job,
    progress: &'a (dyn Fn(pctd_node::Progress) + Sync),
) -> WalkRequest<'a> {
    WalkRequest {
        cancel: &job.cancel,
        progress,
        threads: desired.settings.walk_threads,
        undo_limit: undo_limit(desired),
        ..WalkRequest::new(volume, WalkRule::Shifted(shifting))
    }
}

/// Refuses what is not this node's to change, or not what it was.
fn refuse(plans: &Plans, volume: &Volume) -> Result<(), String> {
    if let Some(hold) = &plans.node {
        return Err(hold.to_string());
    }
    let holds = plans.volumes.get(&volume.name).map_or(&[][..], |plan| &plan.holds);
    let is_in_the_way = |hold: &&Hold| {
        matches!(
            hold,
            Hold::NoQuorum
                | Hold::OtherNodeActs { .. }
                | Hold::PathUnsafe { .. }
                | Hold::SourceChanged { .. }
                | Hold::SourceMissing { .. }
                | Hold::SourceNotDirectory { .. }
                | Hold::SourceNotMounted { .. }
                | Hold::SourceUnreadable { .. }
        )
    };
    holds.iter().find(is_in_the_way).map_or(Ok(()), |hold| Err(hold.to_string()))
}

/// Refuses while a container may have files of the volume open: half of them would be nobody's to it in
/// the middle, and what it makes meanwhile would have the old ids.
fn refuse_running(snapshot: &Snapshot, volume: &Volume) -> Result<(), String> {
    let runs = |ctid: &&Ctid| match snapshot.containers.get(*ctid) {
        Some(Presence::Here(container)) => container.running != Running::No,
        Some(Presence::Unknown(_)) => true,
        _ => false,
    };
    let running: Vec<String> =
        volume.mounts.keys().filter(runs).map(|ctid| format!("`pct stop {ctid}`")).collect();
    if running.is_empty() {
        return Ok(());
    }
    Err(format!(
        "containers that mount {} run, and would lose what they work on half way; {} first, or say `--live`",
        volume.name,
        running.join(" and ")
    ))
}

fn example(entry: pctd_node::walk::ShiftedEntry) -> ShiftedReport {
    let pctd_node::walk::ShiftedEntry { path, before, after } = entry;
    ShiftedReport { path, before, after }
}
