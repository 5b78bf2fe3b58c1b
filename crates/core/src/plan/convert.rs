//! Converting a container between privileged and unprivileged, where its definition lets pctd.
//!
//! Proxmox has no other way than a backup and a restore over the container, and that restore removes
//! the old disks before it unpacks the backup. So everything a backup leaves out stands against it,
//! and so does what cannot be told ([`losses`]). Once it has begun, nobody else acts on the
//! container: its plan is the conversion's alone until it is whole again, a map that it will not
//! keep owns no volume, and what is absent because a restore failed is neither gone nor made anew.

use std::collections::BTreeMap;

use crate::desired::{Convert, Desired, Restart};
use crate::ids::{Ctid, VolumeName};
use crate::ledger::{Backup, Conversion, ConversionPhase, LedgerEntry};
use crate::observed::{Cluster, ObservedContainer, Presence, Running, Snapshot};
use crate::plan::hold::Hold;
use crate::plan::id_map;
use crate::plan::notice::Notice;
use crate::plan::planned::{ContainerPlan, Readiness, VolumePlan};
use crate::plan::restart;
use crate::plan::step::{ConvertContainer, ConvertPhase, Step};
use crate::plan::writable;

mod losses;

/// Returns whether a conversion has begun and the container is not what it is to be.
pub(super) fn is_under_way(snapshot: &Snapshot, ctid: Ctid) -> bool {
    let Some(conversion) = snapshot.ledger.converting.get(&ctid) else { return false };
    match snapshot.containers.get(&ctid) {
        Some(Presence::Here(container)) => !is_reached(conversion, container),
        // Before the restore was begun somebody else took it away.
        Some(Presence::Absent) => conversion.backup().is_some(),
        // Moved, or somebody else's id by now.
        Some(Presence::OnNode(_) | Presence::Vm) => false,
        Some(Presence::Unknown(_)) | None => true,
    }
}

/// Returns whether a container is whole, left alone by tasks, and as a conversion wants it.
fn is_reached(conversion: &Conversion, container: &ObservedContainer) -> bool {
    let conf = &container.conf;
    let is_left =
        conf.lock().is_none() && (container.running != Running::No || !container.flock_held);
    is_left && conf.has_rootfs() && conf.is_effectively_unprivileged() == conversion.unprivileged
}

/// Plans what a conversion that has begun needs; returns whether nothing else is planned.
pub(super) fn plan_begun(
    plan: &mut ContainerPlan,
    desired: &Desired,
    snapshot: &Snapshot,
    cluster: &Cluster,
    volumes: &BTreeMap<VolumeName, VolumePlan>,
    ctid: Ctid,
) -> bool {
    let Some(conversion) = snapshot.ledger.converting.get(&ctid) else { return false };
    let end = |plan: &mut ContainerPlan| {
        plan.records.push(LedgerEntry::ConvertEnded(ctid));
        false
    };
    let container = match snapshot.containers.get(&ctid) {
        Some(Presence::Here(container)) => container,
        Some(Presence::Absent) => {
            let Some(backup) = conversion.backup() else { return end(plan) };
            if snapshot.making.at_work.contains(&ctid) {
                plan.holds.push(Hold::Busy { ctid });
            } else if cluster.quorate {
                plan.steps.extend(restore(desired, ctid, conversion, backup));
            } else {
                plan.holds.push(Hold::NoQuorum);
            }
            return true;
        }
        Some(Presence::OnNode(_) | Presence::Vm) => return end(plan),
        Some(Presence::Unknown(_)) | None => return false,
    };
    let conf = &container.conf;
    if snapshot.making.at_work.contains(&ctid) {
        plan.holds.push(Hold::Busy { ctid });
        return true;
    }
    if let Some(hold) = writable::hold(ctid, container, cluster) {
        let is_cut_off = conf.lock().is_some_and(|lock| *lock == "create") && !container.flock_held;
        plan.holds.push(match conversion.backup() {
            Some(backup) if is_cut_off => Hold::ConvertInterrupted {
                ctid,
                backup: backup.clone(),
                unprivileged: wanted(desired, ctid, conversion),
                is_locked: true,
                is_whole: conf.has_rootfs(),
            },
            _ => hold,
        });
        return true;
    }
    if !conf.has_rootfs() {
        // The lock of a restore that was killed is gone; there is nothing else in the conf.
        return match conversion.backup() {
            Some(backup) => {
                plan.steps.extend(restore(desired, ctid, conversion, backup));
                true
            }
            None => end(plan),
        };
    }
    let is_unprivileged = conf.is_effectively_unprivileged();
    if let Some(backup) = conversion.cut_off()
        && is_unprivileged != conversion.unprivileged
        && container.running == Running::No
        && !snapshot.requests.named.contains(&ctid)
    {
        plan.holds.push(Hold::ConvertInterrupted {
            ctid,
            backup: backup.clone(),
            unprivileged: wanted(desired, ctid, conversion),
            is_locked: false,
            is_whole: true,
        });
        return true;
    }
    let goes_on = is_unprivileged != conversion.unprivileged
        && !matches!(conversion.phase, ConversionPhase::RollingBack { .. });
    // As it was before, with its disks: whatever was begun came to nothing, and what it did since is
    // not in the backup. It begins anew, if it may.
    let again = convert_of(desired, ctid, conversion.unprivileged).filter(|_| goes_on);
    if let Some(convert) = again {
        let runs_after = conversion.was_running || container.running != Running::No;
        if let Ok(steps) = begin(desired, snapshot, ctid, container, convert, runs_after) {
            plan.steps.extend(steps);
            return true;
        }
    }
    if conversion.was_running && container.running == Running::No {
        plan.steps.push(start(desired, volumes, ctid, conversion));
    } else {
        // Remembered, it is planned like any other; what stood against going on is said then.
        plan.records.push(conversion.end(ctid, is_unprivileged));
    }
    true
}

/// Plans the conversion of a whole container that differs from its declaration, or says why not.
pub(super) fn plan_mismatch(
    desired: &Desired,
    snapshot: &Snapshot,
    cluster: &Cluster,
    ctid: Ctid,
    container: &ObservedContainer,
    wanted_unprivileged: bool,
) -> Result<Vec<Step>, Hold> {
    let Some(convert) = convert_of(desired, ctid, wanted_unprivileged) else {
        return Err(Hold::UnprivilegedMismatch { ctid, wanted_unprivileged, clone_of: None });
    };
    if let Some(hold) = writable::hold(ctid, container, cluster) {
        return Err(hold);
    }
    begin(desired, snapshot, ctid, container, convert, container.running != Running::No)
}

/// Returns how a container may be converted to this, if it may.
fn convert_of(desired: &Desired, ctid: Ctid, unprivileged: bool) -> Option<&Convert> {
    let def = desired.containers.get(&ctid)?;
    def.convert.as_ref().filter(|_| def.unprivileged == Some(unprivileged))
}

/// Returns what a container that is lost is restored as.
fn wanted(desired: &Desired, ctid: Ctid, conversion: &Conversion) -> bool {
    let is_taken_back = matches!(conversion.phase, ConversionPhase::RollingBack { .. })
        || convert_of(desired, ctid, conversion.unprivileged).is_none();
    conversion.unprivileged != is_taken_back
}

fn begin(
    desired: &Desired,
    snapshot: &Snapshot,
    ctid: Ctid,
    container: &ObservedContainer,
    convert: &Convert,
    was_running: bool,
) -> Result<Vec<Step>, Hold> {
    let unprivileged = !container.conf.is_effectively_unprivileged();
    let disks = losses::storages(&container.conf).into_iter().next();
    let map = desired.containers.get(&ctid).and_then(|def| def.id_map.as_ref());
    let map = map.filter(|_| unprivileged);
    let mut losses = losses::of(snapshot, ctid, container, unprivileged);
    losses.extend(map.and_then(losses::of_map));
    if !losses.is_empty() {
        return Err(Hold::ConvertUnsafe { ctid, losses });
    }
    if let Some(map) = map {
        // Found out afterwards, it would be converted and left with another map than declared.
        id_map::permitted(snapshot, ctid, map)?;
    }
    if let Some(why) = snapshot.ledger.convert_failed.get(&ctid)
        && !snapshot.requests.named.contains(&ctid)
    {
        return Err(Hold::ConvertFailed { ctid, why: why.clone() });
    }
    let phase = |phase| ConvertContainer {
        phase,
        unprivileged,
        storage: None,
        archive: None,
        disks: None,
        after_volume: false,
    };
    let mut steps = Vec::new();
    if container.running != Running::No {
        if let Some(why) = may_not_stop(desired, snapshot, ctid) {
            return Err(Hold::ConvertWaits { ctid, why });
        }
        steps.push(phase(ConvertPhase::Stop));
    }
    let storage = Some(convert.backup_storage.clone());
    steps.push(ConvertContainer { storage, disks, ..phase(ConvertPhase::Replace) });
    if was_running {
        steps.push(phase(ConvertPhase::Start));
    }
    Ok(steps.into_iter().map(Step::ConvertContainer).collect())
}

/// Returns why a running container may not be stopped now, by the rules of restarts.
fn may_not_stop(desired: &Desired, snapshot: &Snapshot, ctid: Ctid) -> Option<String> {
    if desired.settings.restart == Restart::Never {
        return Some(format!(
            "`restart` is \"never\"; `pct shutdown {ctid}` when it suits, and it is converted"
        ));
    }
    if let Some(bad) = snapshot.bad_sources.get(&ctid) {
        return Some(format!("{bad}, and it would not start again"));
    }
    // Whoever names it means it now.
    let is_named = snapshot.requests.named.contains(&ctid);
    restart::too_soon(desired, snapshot, ctid).filter(|_| !is_named)
}

/// Returns the restore of a container of which there is nothing but its backup.
fn restore(
    desired: &Desired,
    ctid: Ctid,
    conversion: &Conversion,
    backup: &Backup,
) -> impl Iterator<Item = Step> {
    let unprivileged = wanted(desired, ctid, conversion);
    let is_taken_back = unprivileged != conversion.unprivileged;
    let phase = if is_taken_back { ConvertPhase::RollBack } else { ConvertPhase::Restore };
    let start = ConvertContainer {
        phase: ConvertPhase::Start,
        unprivileged,
        storage: None,
        archive: None,
        disks: None,
        after_volume: false,
    };
    let (archive, disks) = (Some(backup.archive.clone()), Some(backup.disks.clone()));
    let restore = ConvertContainer { phase, archive, disks, ..start.clone() };
    let start = conversion.was_running.then_some(start);
    std::iter::once(restore).chain(start).map(Step::ConvertContainer)
}

/// Returns the start of a container that ran before. One that was converted waits until the volumes
/// it mounts are owned through its new map.
fn start(
    desired: &Desired,
    volumes: &BTreeMap<VolumeName, VolumePlan>,
    ctid: Ctid,
    conversion: &Conversion,
) -> Step {
    let is_owned_soon =
        |name| volumes.get(name).is_some_and(|plan: &VolumePlan| plan.readiness == Readiness::Soon);
    Step::ConvertContainer(ConvertContainer {
        phase: ConvertPhase::Start,
        unprivileged: conversion.unprivileged,
        storage: None,
        archive: None,
        disks: None,
        after_volume: desired.mounts_of(ctid).any(|(volume, _)| is_owned_soon(&volume.name)),
    })
}

/// Says where the backups are, as long as the definition lets pctd convert.
pub(super) fn notice(plan: &mut ContainerPlan, desired: &Desired, snapshot: &Snapshot, ctid: Ctid) {
    let is_declared = desired.containers.get(&ctid).is_some_and(|def| def.convert.is_some());
    if !is_declared {
        return;
    }
    if let Some(archive) = snapshot.ledger.converted.get(&ctid) {
        plan.notices.push(Notice::ConvertBackup { archive: archive.clone() });
    }
    if snapshot.ledger.converting.contains_key(&ctid) {
        // One of them may be all there is of the container: nobody is told that it is left over.
        return;
    }
    for archive in snapshot.ledger.backups.get(&ctid).into_iter().flatten() {
        plan.notices.push(Notice::BackupLeft { archive: archive.clone() });
    }
}
