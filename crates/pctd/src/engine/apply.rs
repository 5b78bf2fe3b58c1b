//! Taking one step, and saying what came of it.

use std::time::Instant;

use pctd_core::conf::Conf;
use pctd_core::desired::{Desired, Volume};
use pctd_core::ids::{Ctid, Key, MpKey};
use pctd_core::ledger::LedgerEntry;
use pctd_core::observed::{Presence, Snapshot, SourceState};
use pctd_core::ownership::OwnershipRule;
use pctd_core::plan::{Plans, SetMount, Step};
use pctd_node::{Exit, PctClass, WalkError, WalkReport, WalkRequest};
use tracing::info;

use super::observe::walk_request;
use super::restart::Waiting;
use super::{Engine, StepEnd};
use crate::config_files::chain;
use crate::reconciler::Job;

impl Engine {
    /// Takes a step that was planned on `snapshot`.
    pub(super) fn apply(
        &self,
        desired: &Desired,
        snapshot: &Snapshot,
        plans: &Plans,
        key: &Key,
        step: &Step,
        job: &Job,
    ) -> StepEnd {
        let volume = match key {
            Key::Volume(name) => desired.volumes.get(name),
            Key::Container(_) => None,
        };
        match (key, step) {
            (Key::Container(ctid), Step::CreateContainer(container)) => {
                job.uncut(|| self.create(desired, *ctid, container, job))
            }
            (Key::Container(ctid), Step::CloneContainer(clone)) => {
                job.uncut(|| self.clone_container(desired, *ctid, clone, job))
            }
            (Key::Container(ctid), Step::ConfigureContainer(configure)) => {
                job.uncut(|| self.configure(snapshot, *ctid, configure))
            }
            (Key::Container(ctid), Step::EditConf(edit)) => {
                job.uncut(|| self.edit_conf(snapshot, *ctid, edit))
            }
            (Key::Container(ctid), Step::SetMount(set)) => {
                job.uncut(|| self.set_mount(snapshot, *ctid, set))
            }
            (Key::Container(ctid), Step::RemoveMount(remove)) => {
                job.uncut(|| self.remove_mount(snapshot, *ctid, remove))
            }
            (Key::Container(ctid), Step::RebootContainer { keys, lines, others }) => {
                let waiting = Waiting { keys, lines, others };
                job.uncut(|| self.restart(desired, snapshot, *ctid, &waiting))
            }
            (Key::Container(ctid), Step::StartContainer {}) => {
                job.uncut(|| self.start_again(*ctid))
            }
            (Key::Container(ctid), Step::ConvertContainer(convert)) => {
                job.uncut(|| self.convert(desired, snapshot, *ctid, convert, job))
            }
            (Key::Volume(name), Step::CreateDirectory { path }) => {
                let source = snapshot.volumes.get(name).map(|observed| &observed.source);
                let (Some(volume), Some(SourceState::Missing { file_system })) = (volume, source)
                else {
                    return StepEnd::Refused;
                };
                match self.node.create_directory(volume, &file_system.id) {
                    Ok(_) => {
                        info!(
                            VOLUME = %name,
                            STEP = step.name(),
                            PATH = path,
                            "{name}: created directory {path}"
                        );
                        StepEnd::Done
                    }
                    Err(error) => StepEnd::Failed(chain(&error)),
                }
            }
            (Key::Volume(name), Step::SetOwnership(_)) => {
                let rule = plans.volumes.get(name).and_then(|plan| plan.rule.as_ref());
                let observed = snapshot.volumes.get(name);
                let source = observed.map(|observed| &observed.source);
                let (Some(volume), Some(rule), Some(SourceState::Directory(dir))) =
                    (volume, rule, source)
                else {
                    return StepEnd::Refused;
                };
                // As the plan counts: what is fresh is allowed beyond the limit. More may have
                // come since the audit; the next look then finds that it needs a confirmation.
                let fresh = observed.and_then(|found| found.audit.as_ref()).map_or(0, |a| a.fresh);
                let allowed = desired.settings.confirm_above.saturating_add(fresh);
                let progress = |now| job.progress.set(now);
                let request = WalkRequest {
                    file_system: Some(&dir.file_system.id),
                    max_changes: (!job.is_confirmed()).then_some(allowed),
                    ..walk_request(desired, volume, rule, job, &progress)
                };
                self.set_ownership(rule, request)
            }
            (Key::Volume(name), Step::CreateCertificate(create)) => {
                let rule = plans.volumes.get(name).and_then(|plan| plan.rule.as_ref());
                let (Some(volume), Some(rule)) = (volume, rule) else { return StepEnd::Refused };
                job.uncut(|| self.create_certificate(snapshot, volume, rule, create))
            }
            _ => StepEnd::Failed(format!("{} is no step for {key}", step.name())),
        }
    }

    fn set_ownership(&self, rule: &OwnershipRule, request: WalkRequest<'_>) -> StepEnd {
        let volume = request.volume;
        let begun = Instant::now();
        let report = match self.node.repair(request) {
            Ok(report) => report,
            // Mounted or unmounted in between: look again, and judge the file system anew.
            Err(error @ WalkError::FileSystemChanged { .. }) => {
                return StepEnd::Conflict(error.to_string());
            }
            // The next look says so at once.
            Err(WalkError::NoAnswer { .. }) => return StepEnd::Refused,
            Err(error) => return StepEnd::Failed(chain(&error)),
        };
        if report.changed > 0 {
            let owner = match (rule.owner, rule.group) {
                (Some(ids), _) => format!("owner {ids} and "),
                (None, Some(gid)) => format!("group {gid} and "),
                (None, None) => String::new(),
            };
            info!(
                VOLUME = %volume.name,
                STEP = "set_ownership",
                PATH = volume.host_path,
                ENTRIES = report.audit.entries,
                CHANGED = report.changed,
                PRIVILEGES_CLEARED = report.audit.privileges,
                ELAPSED_MS = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
                "{}: set {owner}modes on {} of {} entries of {}",
                volume.name,
                report.changed,
                report.audit.entries,
                volume.host_path
            );
        }
        self.judge_repair(volume, &report)
    }

    fn judge_repair(&self, volume: &Volume, report: &WalkReport) -> StepEnd {
        if let Some(why) = &report.unrecorded {
            self.memory().unrecorded.insert(volume.name.clone(), why.clone());
            return StepEnd::Refused;
        }
        if let Some(refusal) = &report.unsupported {
            self.memory().refused.insert(volume.name.clone(), refusal.message.clone());
            return StepEnd::Refused;
        }
        // Neither cancelled nor limited is in place: the walk of the next look judges what is left.
        if report.cancelled || report.limited || report.audit.errors == 0 {
            let is_whole = report.audit.believed == 0;
            return if is_whole { StepEnd::Done } else { StepEnd::DoneTheRest };
        }
        StepEnd::Failed(format!(
            "{} entries of {} could not be changed: {}",
            report.audit.errors,
            volume.host_path,
            report.audit.first_errors.join("; ")
        ))
    }

    fn set_mount(&self, snapshot: &Snapshot, ctid: Ctid, set: &SetMount) -> StepEnd {
        let Some(Presence::Here(container)) = snapshot.containers.get(&ctid) else {
            return StepEnd::Refused;
        };
        let (key, value) = (set.key, set.value.clone());
        if let Err(error) = self.enter([LedgerEntry::MountIntended { ctid, key, value }]) {
            return StepEnd::Failed(error);
        }
        let digest = container.conf.digest.to_string();
        let begun = Instant::now();
        let called = self.node.pct().set_mount(ctid, set.key, &set.value, &digest);
        // Whatever the exit code: a failing `pct set` may have written, and one that succeeded
        // may have been overwritten since (PROXMOX.md 1, 5). Only the conf tells.
        let Some(now) = self.observe_one(ctid) else {
            // Not known: the intention stays in the ledger, so that what is found later is pctd's.
            return StepEnd::Failed(format!("{ctid} could not be read after pct set"));
        };
        if is_set(&now.conf, set.key, &set.value) {
            info!(
                CTID = %ctid,
                STEP = "set_mount",
                KEY = %set.key,
                VALUE = set.value,
                VOLUME = %set.volume,
                ELAPSED_MS = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
                "{ctid}: set {}: {}",
                set.key,
                set.value
            );
            if let Err(error) = called {
                let what = "pct reported a failure after it had written the mount";
                info!(CTID = %ctid, "{ctid}: {what}: {error}");
            }
            let (key, value) = (set.key, set.value.clone());
            return match self.enter([LedgerEntry::MountWritten { ctid, key, value }]) {
                Ok(()) => StepEnd::Done,
                Err(error) => StepEnd::Failed(error),
            };
        }
        // One that did not end may still write; then the mount is pctd's own.
        let has_ended = called.as_ref().err().is_none_or(|error| error.exit != Exit::Stuck);
        let forget = LedgerEntry::MountNotWritten { ctid, key: set.key };
        if let Err(error) = self.enter(has_ended.then_some(forget)) {
            return StepEnd::Failed(error);
        }
        match called {
            Ok(()) => StepEnd::Conflict(format!("{} is not in the conf after pct set", set.key)),
            Err(error) if error.class == PctClass::Conflict => StepEnd::Conflict(error.to_string()),
            Err(error) => StepEnd::Failed(error.to_string()),
        }
    }
}

/// Returns whether a mount is what it was to be set to. What waits for a restart counts before what is in
/// force: a call that failed leaves an earlier change waiting, though it was to take that back.
fn is_set(conf: &Conf, key: MpKey, value: &str) -> bool {
    let mount = match conf.pending_mounts().get(&key) {
        None if conf.pending_delete(key) => None,
        None => conf.mounts().get(&key),
        waits => waits,
    };
    mount.is_some_and(|mount| mount.raw == value.as_bytes())
}
