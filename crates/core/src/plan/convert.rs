//! Converting a container between privileged and unprivileged, where its definition lets pctd.
//!
//! Proxmox has no other way than a backup and a restore over the container, and that restore removes
//! the old disks before it unpacks the backup. So everything a backup leaves out stands against it,
//! and so does what cannot be told ([`losses`]). Once it has begun, nobody else acts on the
//! container: its plan is the conversion's alone until it is whole again, a map that it will not
//! keep owns no volume, and what is absent because a restore failed is neither gone nor made anew.

use std::collections::{BTreeMap, BTreeSet};

use crate::conf::{Conf, MountClass, MountLine, MountPoint};
use crate::desired::{Convert, Desired, Restart};
use crate::idmap::IdMap;
use crate::ids::{Ctid, VolumeName};
use crate::ledger::{Backup, Conversion, ConversionPhase, LedgerEntry};
use crate::observed::{Cluster, ObservedContainer, Presence, Running, Snapshot};
use crate::plan::hold::{Hold, ranges};
use crate::plan::id_map;
use crate::plan::notice::Notice;
use crate::plan::planned::{ContainerPlan, Readiness, VolumePlan};
use crate::plan::restart;
use crate::plan::step::{ConvertContainer, ConvertPhase, Step};
use crate::plan::writable;

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
    let disks = storages(&container.conf).into_iter().next();
    let map = desired.containers.get(&ctid).and_then(|def| def.id_map.as_ref());
    let map = map.filter(|_| unprivileged);
    let mut losses = losses(snapshot, ctid, container, unprivileged);
    losses.extend(map.and_then(of_map));
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

/// Says where the backup is, as long as the definition lets pctd convert.
pub(super) fn notice(plan: &mut ContainerPlan, desired: &Desired, snapshot: &Snapshot, ctid: Ctid) {
    let is_declared = desired.containers.get(&ctid).is_some_and(|def| def.convert.is_some());
    if let Some(archive) = snapshot.ledger.converted.get(&ctid).filter(|_| is_declared) {
        plan.notices.push(Notice::ConvertBackup { archive: archive.clone() });
    }
}

/// Returns everything that a backup and a restore with the other privilege would lose.
fn losses(
    snapshot: &Snapshot,
    ctid: Ctid,
    container: &ObservedContainer,
    to_unprivileged: bool,
) -> Vec<String> {
    let conf = &container.conf;
    let mut losses = of_conf(ctid, conf, to_unprivileged);
    for (name, entry) in conf
        .current
        .rootfs()
        .map(|entry| ("rootfs".to_owned(), entry))
        .into_iter()
        .chain(conf.mounts().iter().map(|(key, entry)| (key.to_string(), entry)))
    {
        losses.extend(match &entry.parsed {
            Ok(mount) => of_mount(ctid, &name, mount, to_unprivileged),
            Err(_) => Some(format!("{name} cannot be read")),
        });
    }
    // What is pending is in no backup. A stop applies it, but what others changed is theirs to apply.
    let is_own = |name: &String| {
        name.parse().is_ok_and(|key| {
            let waits = conf.pending_mounts().get(&key).or_else(|| conf.mounts().get(&key));
            waits.is_some_and(|mount| snapshot.ledger.is_own_mount(ctid, key, &mount.raw))
        })
    };
    let pending = conf.pending_names();
    let stopped = container.running == Running::No;
    let lost: Vec<String> = pending.into_iter().filter(|name| stopped || !is_own(name)).collect();
    if !lost.is_empty() {
        losses.push(format!(
            "changes that wait for a restart ({}): restart it, or `pct set {ctid} --revert NAME`",
            lost.join(", ")
        ));
    }
    match snapshot.converting.get(&ctid) {
        Some(facts) => losses.extend(facts.obstacles.iter().map(ToString::to_string)),
        // Planned beside another key, for which nobody looked.
        None => losses.push("what else stands against it was not looked at".to_owned()),
    }
    losses
}

fn of_conf(ctid: Ctid, conf: &Conf, to_unprivileged: bool) -> Vec<String> {
    let mut losses = Vec::new();
    if !conf.snapshots.is_empty() {
        let names: Vec<&str> = conf.snapshots.keys().map(String::as_str).collect();
        losses.push(format!("its snapshots ({})", names.join(", ")));
    }
    let unused = conf.current.properties().keys().filter(|name| name.starts_with("unused"));
    losses.extend(unused.map(|name| format!("the disk {name}, which would be deleted")));
    let storages = storages(conf);
    if storages.len() > 1 {
        let names: Vec<String> = storages.into_iter().collect();
        losses.push(format!(
            "its disks are on several storages ({}), and a restore would put all on one",
            names.join(", ")
        ));
    }
    if conf.is_template() {
        losses.push("it is a template, and what was cloned from it may need its disk".to_owned());
    }
    if conf.is_protected() {
        losses.push(format!("it is protected (`pct set {ctid} --protection 0`)"));
    }
    let mapped = MountLine::of(&conf.current).find(|(line, _)| line.is_mapped());
    if let (false, Some((_, line))) = (to_unprivileged, mapped) {
        losses.push(format!(
            "its mount `{line}`, with which a privileged container does not start; take the map of ids out of it, by `\"idmap\": \"none\"` where it is declared"
        ));
    }
    if !to_unprivileged && conf.has_custom_idmap() {
        losses.push(
            "its lxc.idmap lines, which keep it unprivileged whatever is restored; take them out of its conf"
                .to_owned(),
        );
    }
    losses
}

/// Returns the ids whose files a container with this map would lose: `pct restore` unpacks for the
/// default map where the conf has no lines, and those of a privileged container has none.
fn of_map(map: &IdMap) -> Option<String> {
    let moved = IdMap::default_unprivileged().moved(map);
    (!moved.is_empty()).then(|| {
        format!(
            "the owners of the files of {}: a restore unpacks for other host ids than `id_maps` gives them; leave `id_maps` out until it is converted",
            ranges(&moved)
        )
    })
}

/// Returns what a backup loses of a mount. Bind mounts are restored as they stand in the conf.
fn of_mount(ctid: Ctid, name: &str, mount: &MountPoint, to_unprivileged: bool) -> Option<String> {
    let volume = mount.volume.to_string();
    match mount.class {
        MountClass::Bind => None,
        MountClass::Device => {
            Some(format!("what is on the device {name}, whose owners a restore does not change"))
        }
        MountClass::Volume => {
            let (base, owner) = names_in(&volume);
            if name != "rootfs" && !mount.is_on("backup") {
                Some(format!(
                    "the disk {name} ({volume}), which is in no backup and would be empty afterwards; set its option backup=1"
                ))
            } else if let Some(base) = base {
                Some(format!("{name} is a linked clone of {base}, and would be a full copy"))
            } else if owner.is_some_and(|owner| owner != ctid) {
                Some(format!("{name} ({volume}) is another container's disk"))
            } else if mount.size().is_none() {
                Some(format!("the size of {name} is not in the conf (`pct rescan --vmid {ctid}`)"))
            } else if to_unprivileged && mount.is_on("quota") {
                Some(format!("the quotas of {name}, with which no unprivileged container starts"))
            } else if mount.options.contains_key("idmap") {
                Some(format!(
                    "the id map of {name}, which the other privilege gives another meaning"
                ))
            } else {
                None
            }
        }
    }
}

/// Returns the storages a container has disks on.
fn storages(conf: &Conf) -> BTreeSet<String> {
    let disks = conf.current.volumes().filter(|(_, mount)| mount.class == MountClass::Volume);
    let storage = |volume: String| volume.split(':').next().unwrap_or_default().to_owned();
    disks.map(|(_, mount)| storage(mount.volume.to_string())).collect()
}

/// Returns the base image a volume is a linked clone of, and the container whose disk it is, as far
/// as its name tells (`PVE::Storage::Plugin::parse_name_dir`: `base-ID-disk-N`, `vm-ID-disk-N`).
fn names_in(volume: &str) -> (Option<String>, Option<Ctid>) {
    let name = volume.split_once(':').map_or(volume, |(_, name)| name);
    let mut parts: Vec<&str> = name.split('/').collect();
    let own = parts.pop().unwrap_or_default();
    let is_base = |part: &&&str| part.starts_with("base-") || part.starts_with("basevol-");
    let base = parts.iter().find(is_base).map(|part| (*part).to_owned());
    let disk =
        ["vm-", "subvol-", "base-", "basevol-"].iter().find_map(|kind| own.strip_prefix(kind));
    let owner = disk.and_then(|rest| rest.split('-').next()?.parse().ok());
    (base, owner)
}
