//! Converting a container between privileged and unprivileged: stopped, backed up, restored from that
//! backup with the other privilege, started again where it ran.
//!
//! From some moment of the restore on there is nothing of the container but the backup (PROXMOX.md
//! 7). So each phase is in the ledger before it is begun, the backup is read to its end before
//! anything is destroyed, and a restore is never signalled. One that loses the container is
//! followed by another with the old privilege; one that a crash cut off is made again. A backup of
//! before a crash is never restored over a container that is there: it may have run since. But the
//! ledger keeps it until there is another or an admin says so: the disks may be gone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use pctd_core::conf::{Conf, MountClass};
use pctd_core::desired::Desired;
use pctd_core::ids::Ctid;
use pctd_core::ledger::{Backup, Conversion, ConversionPhase, LedgerEntry};
use pctd_core::observed::{
    ConvertFacts, NodeState, ObservedContainer, Presence, Running, Snapshot,
};
use pctd_core::plan::{ConvertContainer, ConvertPhase};
use pctd_node::{BackupError, ConfVersion, Limits, PctError};
use tracing::{error, info, warn};

use super::{Engine, StepEnd};
use crate::config_files::chain;
use crate::reconciler::Job;

/// The name of the step in the log.
const STEP: &str = "convert_container";

impl Engine {
    /// Goes through one phase of a conversion.
    pub(super) fn convert(
        &self,
        desired: &Desired,
        snapshot: &Snapshot,
        ctid: Ctid,
        step: &ConvertContainer,
        job: &Job,
    ) -> StepEnd {
        let container = match snapshot.containers.get(&ctid) {
            Some(Presence::Here(container)) => Some(&**container),
            _ => None,
        };
        let backup = || {
            let (archive, disks) = (step.archive.clone()?, step.disks.clone()?);
            Some(Backup { archive, disks })
        };
        match (step.phase, container) {
            (ConvertPhase::Stop, Some(_)) => self.stop_to_convert(desired, ctid, step),
            (ConvertPhase::Replace, Some(container)) => {
                self.replace(desired, ctid, step, container, job)
            }
            (ConvertPhase::Start, Some(container)) => self.start_converted(ctid, container),
            (ConvertPhase::Restore | ConvertPhase::RollBack, _) => match backup() {
                Some(backup) => self.restore(ctid, &backup, step.unprivileged, None),
                None => StepEnd::Refused,
            },
            (ConvertPhase::Stop | ConvertPhase::Replace | ConvertPhase::Start, None) => {
                StepEnd::Refused
            }
        }
    }

    fn stop_to_convert(&self, desired: &Desired, ctid: Ctid, step: &ConvertContainer) -> StepEnd {
        if let Err(error) = self.enter_phase(ctid, step, true, ConversionPhase::Stopping) {
            return StepEnd::Failed(error);
        }
        let privilege = privilege(step.unprivileged);
        info!(CTID = %ctid, STEP, "{ctid}: stopping, to be converted to {privilege}");
        let called = self.node.pct().shutdown(ctid, desired.settings.restart_timeout);
        // Whatever the exit code: somebody else may have stopped it.
        match (self.observe_one(ctid).map(|now| now.running), called) {
            (Some(Running::No), _) => StepEnd::Done,
            (_, Ok(())) => StepEnd::Failed(format!("{ctid} was stopped and still runs")),
            (_, Err(error)) => StepEnd::Failed(error.to_string()),
        }
    }

    /// Backs a stopped container up and restores it. Nothing comes in between: not a stop of pctd's
    /// own after the backup is good, nor another look, after which somebody may have started it.
    fn replace(
        &self,
        desired: &Desired,
        ctid: Ctid,
        step: &ConvertContainer,
        container: &ObservedContainer,
        job: &Job,
    ) -> StepEnd {
        let (Some(storage), Some(disks)) = (&step.storage, &step.disks) else {
            return StepEnd::Refused;
        };
        if container.running != Running::No {
            return StepEnd::Refused;
        }
        let begun = self.node.ledger().ledger().converting.get(&ctid).cloned();
        let was_running = begun.as_ref().is_some_and(|begun| begun.was_running);
        let earlier = begun.as_ref().and_then(Conversion::cut_off).cloned();
        let phase = ConversionPhase::BackingUp { earlier: earlier.clone() };
        if let Err(error) = self.enter_phase(ctid, step, was_running, phase) {
            return StepEnd::Failed(error);
        }
        let made = self.back_up(desired, ctid, step, storage, &container.conf, job);
        let (archive, version) = match made {
            Ok(made) => made,
            // Nothing has told yet that its disks are there: it stays what was cut off.
            Err(error) if let Some(Backup { archive, .. }) = &earlier => {
                let why = chain(&error);
                return StepEnd::Failed(format!("{why}; the backup of before is {archive}"));
            }
            Err(BackupError::Stopped) => return self.leave_off(ctid, was_running),
            Err(error) => return self.give_up(ctid, was_running, &chain(&error)),
        };
        let is_as_backed_up = |now: &ObservedContainer| {
            now.running == Running::No
                && !now.flock_held
                && (&now.conf.current, &now.conf.pending, &now.conf.snapshots)
                    == (&container.conf.current, &container.conf.pending, &container.conf.snapshots)
        };
        // What started, wrote and stopped again looks as it did before, but for the version; that is
        // asked last, because the hook that makes it another one runs before a stop is seen.
        let is_same = self.observe_one(ctid).as_ref().is_some_and(is_as_backed_up)
            && version.is_ok()
            && self.node.conf_version(ctid) == version;
        if !is_same {
            return StepEnd::Conflict(format!("{ctid} was changed or started during its backup"));
        }
        let backup = Backup { archive, disks: disks.clone() };
        let phase = ConversionPhase::Restoring { backup: backup.clone() };
        if let Err(error) = self.enter_phase(ctid, step, was_running, phase) {
            return StepEnd::Failed(error);
        }
        self.restore(ctid, &backup, step.unprivileged, Some(&container.conf))
    }

    /// Makes a backup and reads it to its end; returns where it is, and the version that the conf
    /// had when `vzdump` let go of the container. The check takes as long as the backup is large, and
    /// nothing locks the container meanwhile.
    fn back_up(
        &self,
        desired: &Desired,
        ctid: Ctid,
        step: &ConvertContainer,
        storage: &str,
        conf: &Conf,
        job: &Job,
    ) -> Result<(String, Result<ConfVersion, String>), BackupError> {
        let begun = Instant::now();
        let volumes = conf.current.volumes().filter(|(_, mount)| mount.class == MountClass::Volume);
        let disks: BTreeSet<String> = volumes.map(|(name, _)| name).collect();
        let limits = Limits::new(desired.settings.create_timeout, &job.stop);
        let made = self.node.vzdump().back_up(ctid, storage, &disks, limits)?;
        let version = self.node.conf_version(ctid);
        let archive = made.archive.clone();
        // Whatever becomes of it, it stays, and nothing else says where.
        let known = self.enter([LedgerEntry::BackedUp { ctid, archive: archive.clone() }]);
        if let Err(error) = known {
            // Nor is anything restored from it: that has to be entered, too.
            warn!(CTID = %ctid, STEP, PATH = archive, "{ctid}: its backup {archive} stays: {error}");
        }
        made.is_whole()?;
        info!(CTID = %ctid, STEP, PATH = archive, "{ctid}: reading its backup {archive} to its end");
        let entries = self.node.check_backup(&archive, step.unprivileged, &job.stop)?;
        info!(
            CTID = %ctid,
            STEP,
            PATH = archive,
            ENTRIES = entries,
            ELAPSED_MS = elapsed(begun),
            "{ctid}: backed up to {archive}, {entries} entries read"
        );
        Ok((archive, version))
    }

    /// Restores a container and sees what came of it; `before` is what it was, where it is known.
    fn restore(
        &self,
        ctid: Ctid,
        backup: &Backup,
        unprivileged: bool,
        before: Option<&Conf>,
    ) -> StepEnd {
        let Some(conversion) = self.node.ledger().ledger().converting.get(&ctid).cloned() else {
            return StepEnd::Refused;
        };
        let (privilege, archive) = (privilege(unprivileged), &backup.archive);
        info!(CTID = %ctid, STEP, PATH = archive, "{ctid}: restoring as {privilege} from {archive}");
        let begun = Instant::now();
        let called = self.node.pct().restore(ctid, backup, unprivileged);
        let found = self.node.observe_containers(&BTreeSet::from([ctid])).remove(&ctid);
        let is_target = unprivileged == conversion.unprivileged;
        match Left::of(found.as_ref(), unprivileged) {
            Left::Restored(now) => {
                info!(
                    CTID = %ctid,
                    STEP,
                    ELAPSED_MS = elapsed(begun),
                    "{ctid}: restored as {privilege}; the backup stays at {archive}"
                );
                for name in
                    before.map(|before| differences(before, &now.conf)).into_iter().flatten()
                {
                    warn!(CTID = %ctid, STEP, "{ctid}: {name} is not as it was before the restore");
                }
                if let Err(error) = called {
                    info!(CTID = %ctid, "{ctid}: pct reported a failure all the same: {error}");
                }
                if !is_target {
                    // The next plan sees it, and what the conversion failed of.
                    return StepEnd::Done;
                }
                let phase = ConversionPhase::Restored { backup: backup.clone() };
                match self.enter([LedgerEntry::Converting {
                    ctid,
                    conversion: Conversion { phase, ..conversion },
                }]) {
                    Ok(()) => StepEnd::Done,
                    Err(error) => StepEnd::Failed(error),
                }
            }
            Left::Untouched => {
                let why = format!("{}; its backup is {archive}", failure(called));
                self.give_up(ctid, conversion.was_running, &why)
            }
            Left::Nothing if is_target => {
                let why = failure(called);
                error!(CTID = %ctid, STEP, "{ctid}: lost in its restore, taking it back: {why}");
                let phase = ConversionPhase::RollingBack { backup: backup.clone(), why };
                match self.enter([LedgerEntry::Converting {
                    ctid,
                    conversion: Conversion { phase, ..conversion },
                }]) {
                    Ok(()) => StepEnd::Refused,
                    Err(error) => StepEnd::Failed(error),
                }
            }
            Left::Nothing => {
                let (why, flag, disks) = (failure(called), u8::from(unprivileged), &backup.disks);
                StepEnd::Failed(format!(
                    "{ctid} is not there but for its backup, and cannot be restored: {why}; it is tried again, and by hand is `pct restore {ctid} {archive} --unprivileged {flag} --storage {disks}`"
                ))
            }
            Left::Unclear => StepEnd::Failed(failure(called)),
        }
    }

    /// Starts a container that ran before, whatever became of its conversion. From then on it is a
    /// start that is owed, which is tried again for a while.
    fn start_converted(&self, ctid: Ctid, container: &ObservedContainer) -> StepEnd {
        let Some(conversion) = self.node.ledger().ledger().converting.get(&ctid).cloned() else {
            return StepEnd::Refused;
        };
        let is_unprivileged = container.conf.is_effectively_unprivileged();
        let end = conversion.end(ctid, is_unprivileged);
        if let LedgerEntry::ConvertFailed { why, .. } = &end {
            error!(CTID = %ctid, STEP, "{ctid}: not converted: {why}");
        }
        match self.owe_start(ctid, end) {
            // The next plan says what it waits for.
            Ok(()) if self.bad_source(&container.conf).is_some() => StepEnd::Refused,
            Ok(()) => self.start_again(ctid),
            Err(error) => StepEnd::Failed(error),
        }
    }

    /// Ends a conversion that came to nothing before anything was destroyed.
    fn give_up(&self, ctid: Ctid, was_running: bool, why: &str) -> StepEnd {
        error!(CTID = %ctid, STEP, "{ctid}: not converted: {why}");
        self.take_up(ctid, was_running, LedgerEntry::ConvertFailed { ctid, why: why.to_owned() })
    }

    /// Leaves a conversion off because pctd stops, before anything was destroyed. It begins anew
    /// when pctd is back; until then the container should not be down for it.
    fn leave_off(&self, ctid: Ctid, was_running: bool) -> StepEnd {
        info!(CTID = %ctid, STEP, "{ctid}: left off, because pctd is to stop");
        self.take_up(ctid, was_running, LedgerEntry::ConvertEnded(ctid))
    }

    /// Enters how a conversion ended, and starts the container again where it ran.
    fn take_up(&self, ctid: Ctid, was_running: bool, end: LedgerEntry) -> StepEnd {
        if !was_running {
            return match self.enter([end]) {
                Ok(()) => StepEnd::Refused,
                Err(error) => StepEnd::Failed(error),
            };
        }
        match self.owe_start(ctid, end).map(|()| self.start_again(ctid)) {
            Ok(StepEnd::Done) => StepEnd::Refused,
            Ok(end) => end,
            Err(error) => StepEnd::Failed(error),
        }
    }

    fn owe_start(&self, ctid: Ctid, end: LedgerEntry) -> Result<(), String> {
        let restarted = self.memory().restarts.begin(ctid);
        self.enter([end, restarted, LedgerEntry::StartOwed(ctid)])
    }

    fn enter_phase(
        &self,
        ctid: Ctid,
        step: &ConvertContainer,
        was_running: bool,
        phase: ConversionPhase,
    ) -> Result<(), String> {
        let conversion = Conversion { unprivileged: step.unprivileged, was_running, phase };
        self.enter([LedgerEntry::Converting { ctid, conversion }])
    }

    /// Returns what stands against conversions that may be due, by container.
    pub(super) fn convert_facts(
        &self,
        desired: &Desired,
        node: &NodeState,
        containers: &BTreeMap<Ctid, Presence>,
    ) -> BTreeMap<Ctid, ConvertFacts> {
        let NodeState::Up(cluster) = node else { return BTreeMap::new() };
        let storage = |(ctid, presence): (&Ctid, &Presence)| {
            let def = desired.containers.get(ctid)?;
            let (convert, wanted) = (def.convert.as_ref()?, def.unprivileged?);
            let Presence::Here(container) = presence else { return None };
            let is_due = container.conf.is_effectively_unprivileged() != wanted;
            is_due.then(|| (*ctid, convert.backup_storage.clone()))
        };
        let storages = containers.iter().filter_map(storage).collect();
        self.node.convert_facts(&cluster.node, &storages)
    }
}

/// What a restore left.
enum Left<'p> {
    /// The container, as it was asked for.
    Restored(&'p ObservedContainer),
    /// The container, as it was before.
    Untouched,
    /// No container: only its backup.
    Nothing,
    /// Something that cannot be judged now: it is locked, at work, or cannot be read.
    Unclear,
}

impl<'p> Left<'p> {
    fn of(found: Option<&'p Presence>, unprivileged: bool) -> Self {
        match found {
            Some(Presence::Absent) => Self::Nothing,
            Some(Presence::Here(now)) if now.conf.lock().is_some() || now.flock_held => {
                Self::Unclear
            }
            Some(Presence::Here(now)) if !now.conf.has_rootfs() => Self::Nothing,
            Some(Presence::Here(now)) if now.conf.is_effectively_unprivileged() == unprivileged => {
                Self::Restored(now)
            }
            Some(Presence::Here(_)) => Self::Untouched,
            _ => Self::Unclear,
        }
    }
}

/// Returns the properties that a restore changed beyond its purpose. Disks have new names.
fn differences(before: &Conf, after: &Conf) -> Vec<String> {
    let is_disk = |conf: &Conf, name: &str| {
        let mut volumes = conf.current.volumes();
        volumes.any(|(of, mount)| of == name && mount.class == MountClass::Volume)
    };
    let (was, is) = (before.current.properties(), after.current.properties());
    let names: BTreeSet<&String> = was.keys().chain(is.keys()).collect();
    let differs = |name: &&String| {
        let both_disks = is_disk(before, name) && is_disk(after, name);
        *name != "unprivileged" && !both_disks && was.get(*name) != is.get(*name)
    };
    let mut different: Vec<String> = names.into_iter().filter(differs).cloned().collect();
    if before.current.lxc() != after.current.lxc() {
        different.push("lxc.*".to_owned());
    }
    different
}

fn failure(called: Result<(), PctError>) -> String {
    called.err().map_or_else(|| "pct reported no failure".to_owned(), |error| error.to_string())
}

const fn privilege(unprivileged: bool) -> &'static str {
    if unprivileged { "unprivileged" } else { "privileged" }
}

fn elapsed(begun: Instant) -> u64 {
    u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX)
}
