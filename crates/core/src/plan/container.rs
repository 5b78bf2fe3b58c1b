//! The plan of one container: what of its definition, its mounts and its raw lines is to be written, in
//! which order, and the restart they wait for.

use std::collections::BTreeMap;

use crate::conf::Conf;
use crate::desired::{Desired, Mechanism, Mount, Volume};
use crate::ids::{Ctid, MpKey, VolumeName};
use crate::ledger::LedgerEntry;
use crate::observed::{Cluster, ObservedContainer, Presence, Running, Snapshot};
use crate::plan::container_map;
use crate::plan::convert;
use crate::plan::definition;
use crate::plan::disk_ids;
use crate::plan::entries;
use crate::plan::hold::{Hold, NotReady};
use crate::plan::lines;
use crate::plan::mounts::{MountPlan, MountTable, Wanted};
use crate::plan::notice::Notice;
use crate::plan::planned::{ContainerPlan, Readiness, VolumePlan};
use crate::plan::prune;
use crate::plan::restart::{self, Waiting};
use crate::plan::site::Site;
use crate::plan::step::Step;
use crate::plan::writable;

/// Plans one container on one snapshot whose volumes have been planned.
pub(crate) fn plan(
    desired: &Desired,
    snapshot: &Snapshot,
    cluster: &Cluster,
    volumes: &BTreeMap<VolumeName, VolumePlan>,
    ctid: Ctid,
) -> ContainerPlan {
    let mut plan = ContainerPlan::default();
    if convert::plan_begun(&mut plan, desired, snapshot, cluster, volumes, ctid) {
        return plan;
    }
    let is_declared = desired.ctids().contains(&ctid);
    match snapshot.containers.get(&ctid) {
        Some(Presence::Here(container)) if !is_declared => {
            plan_undeclared(&mut plan, desired, snapshot, cluster, ctid, container);
        }
        Some(Presence::Vm | Presence::Absent) if !is_declared => {}
        Some(Presence::Here(container)) => {
            plan_here(&mut plan, desired, snapshot, cluster, volumes, ctid, container);
        }
        Some(Presence::Vm) => plan.holds.push(Hold::IdTakenByVm { ctid }),
        Some(Presence::Absent) => {
            definition::plan_absent(&mut plan, desired, snapshot, cluster, ctid);
        }
        Some(Presence::OnNode(_)) => {
            let made_here = desired.containers.get(&ctid).is_some_and(|def| def.source.is_some());
            if made_here && !snapshot.ledger.seen.contains(&ctid) {
                // Destroyed there, it is gone as well.
                plan.records.push(LedgerEntry::Seen(ctid));
            }
            if snapshot.ledger.making.contains_key(&ctid) {
                plan.records.push(LedgerEntry::MakeEnded(ctid));
            }
            if snapshot.ledger.start_owed.contains(&ctid) {
                // Whether it runs is the other node's from now on, and an admin's when it comes back.
                plan.records.push(LedgerEntry::StartSettled(ctid));
            }
        }
        Some(Presence::Unknown(why)) => {
            plan.holds.push(Hold::ContainerUnknown { why: why.clone() });
        }
        None => {
            let why = "it was not observed".to_owned();
            plan.holds.push(Hold::ContainerUnknown { why });
        }
    }
    plan
}

/// Plans a container that is no longer declared, for what pctd left in its conf.
fn plan_undeclared(
    plan: &mut ContainerPlan,
    desired: &Desired,
    snapshot: &Snapshot,
    cluster: &Cluster,
    ctid: Ctid,
    container: &ObservedContainer,
) {
    let conf = &container.conf;
    // What is being made or restored does not show yet what it will mount.
    if !conf.has_rootfs() || conf.lock().is_some() || container.flock_held {
        return;
    }
    let running = container.running != Running::No;
    let keys = prune::plan(plan, desired, snapshot, ctid, conf, running);
    let site = Site::new(desired, snapshot, ctid, container);
    lines::prune(plan, &site);
    let lines = lines::waiting(plan, &site);
    finish(plan, desired, snapshot, cluster, (ctid, container), Waiting { keys, lines });
}

fn plan_here(
    plan: &mut ContainerPlan,
    desired: &Desired,
    snapshot: &Snapshot,
    cluster: &Cluster,
    volumes: &BTreeMap<VolumeName, VolumePlan>,
    ctid: Ctid,
    container: &ObservedContainer,
) {
    let conf = &container.conf;
    if container_map::waits_for_restart(container) {
        plan.notices.push(Notice::IdmapPendingRestart);
    }
    plan.notices.extend(keep_attrs(conf));
    let mismatch = desired
        .containers
        .get(&ctid)
        .and_then(|def| def.unprivileged)
        .filter(|wanted| conf.has_rootfs() && *wanted != conf.is_effectively_unprivileged());
    let map = container_map::of(desired, ctid, container);
    let ready = map.as_ref().map(|_| ());
    if let Some(hold) = definition::interrupted(desired, snapshot, ctid, container, ready) {
        plan.holds.push(hold);
        return;
    }
    convert::notice(plan, desired, snapshot, ctid);
    if let Some(wanted) = mismatch {
        // One that is still being made is finished first.
        let is_made = snapshot.ledger.making.contains_key(&ctid);
        match convert::plan_mismatch(desired, snapshot, cluster, ctid, container, wanted) {
            Ok(steps) if !is_made => {
                plan.steps = steps;
                return;
            }
            Ok(_) => {}
            Err(hold) => plan.holds.push(hold),
        }
    } else if snapshot.ledger.convert_failed.contains_key(&ctid) && conf.has_rootfs() {
        plan.records.push(LedgerEntry::ConvertEnded(ctid));
    }
    let whole = !matches!(
        ready,
        Err(NotReady::Incomplete | NotReady::BeingCreated | NotReady::Busy | NotReady::Unknown)
    );
    if whole && !snapshot.ledger.seen.contains(&ctid) {
        plan.records.push(LedgerEntry::Seen(ctid));
    }
    match map {
        // The latter is reported above, with its remedy.
        Ok(_) | Err(NotReady::Privileged) => {}
        Err(why) => {
            let building = matches!(why, NotReady::Incomplete | NotReady::BeingCreated);
            plan.holds.push(Hold::IdmapNotReady { ctid, why });
            if building {
                // A conf that is still being made is not edited, whatever it lacks.
                return;
            }
        }
    }
    let site = Site::new(desired, snapshot, ctid, container);
    let defined = lines::definition(plan, &site);
    definition::plan_here(plan, desired, snapshot, ctid, container, defined.is_open);
    plan.steps.extend(defined.step.map(Step::EditConf));
    let running = container.running != Running::No;
    let mut table = MountTable::new(ctid, conf, running, &snapshot.ledger);
    // Before anything is added: what goes makes room for what comes.
    let mut keys = prune::plan(plan, desired, snapshot, ctid, conf, running);
    lines::prune(plan, &site);
    keys.extend(plan_mounts(plan, desired, snapshot, volumes, (ctid, container), &mut table));
    entries::plan(plan, &site, volumes);
    plan.records.extend(table.into_records());
    let lines = lines::waiting(plan, &site);
    if let Some(why) = snapshot.requests.restart_failed.get(&ctid) {
        restart::hold_changes(plan, ctid, why);
    }
    finish(plan, desired, snapshot, cluster, (ctid, container), Waiting { keys, lines });
}

/// Adds the restart that pctd's changes wait for, or holds everything where the conf may not
/// be written.
fn finish(
    plan: &mut ContainerPlan,
    desired: &Desired,
    snapshot: &Snapshot,
    cluster: &Cluster,
    (ctid, container): (Ctid, &ObservedContainer),
    waiting: Waiting,
) {
    restart::plan(plan, desired, snapshot, (ctid, container), waiting);
    writable::restrict(plan, cluster, ctid, container);
    restart::plan_owed_start(plan, snapshot, cluster, ctid, container);
}

/// Plans the mounts of a container; returns those of pctd's that wait for a restart.
fn plan_mounts(
    plan: &mut ContainerPlan,
    desired: &Desired,
    snapshot: &Snapshot,
    volumes: &BTreeMap<VolumeName, VolumePlan>,
    (ctid, container): (Ctid, &ObservedContainer),
    table: &mut MountTable<'_>,
) -> Vec<MpKey> {
    let mut pending = Vec::new();
    // Proxmox mounts in the order of the keys: `/data` has to come before `/data/sub`, or hides it.
    let by_pct = |(_, mount): &(&Volume, &Mount)| mount.mechanism == Mechanism::Pct;
    let mut mounts: Vec<_> = desired.mounts_of(ctid).filter(by_pct).collect();
    mounts.sort_by(|(_, a), (_, b)| a.target.cmp(&b.target));
    // For the same reason one below another waits until that one is there.
    let mut open: Vec<(&str, &VolumeName, Readiness)> = Vec::new();
    for (volume, mount) in mounts {
        let readiness = volumes.get(&volume.name).map_or(Readiness::Held, |v| v.readiness);
        if let Some(hold) = entries::in_the_way(&container.conf, ctid, &mount.target) {
            plan.holds.push(hold);
            continue;
        }
        let decided = disk_ids::decide(desired, snapshot, volume, (ctid, mount), container);
        let idmap = match decided {
            Ok(idmap) => idmap,
            Err(hold) => {
                if !plan.holds.contains(&hold) {
                    plan.holds.push(hold);
                }
                continue;
            }
        };
        if disk_ids::counts_from_owner(volume) {
            plan.records.extend(disk_ids::record(snapshot, volume));
        }
        match table.plan(Wanted { volume, mount, idmap: &idmap }) {
            MountPlan::InPlace => {}
            MountPlan::WaitsForRestart(key) => pending.push(key),
            MountPlan::Held(hold) => plan.holds.push(hold),
            MountPlan::Set(mut set) => {
                let above = open.iter().find(|(target, ..)| is_below(&mount.target, target));
                let (waits_for, readiness) = match above {
                    Some((_, above, state)) if readiness != Readiness::Held => (*above, *state),
                    _ => (&volume.name, readiness),
                };
                if readiness != Readiness::Ready {
                    open.push((&mount.target, waits_for, readiness));
                }
                if readiness == Readiness::Held {
                    if !plan.waits_for.contains(waits_for) {
                        plan.waits_for.push(waits_for.clone());
                    }
                } else {
                    set.after_volume = readiness == Readiness::Soon;
                    plan.steps.push(Step::SetMount(set));
                }
            }
        }
    }
    pending
}

/// Returns whether one normalised target lies below another.
fn is_below(target: &str, above: &str) -> bool {
    target.strip_prefix(above).is_some_and(|rest| rest.starts_with('/'))
}

fn keep_attrs(conf: &Conf) -> Vec<Notice> {
    let keeps = |(key, entry): (&MpKey, &crate::conf::MountEntry)| {
        let on = entry
            .parsed
            .as_ref()
            .is_ok_and(|mp| mp.options.get("keepattrs").is_some_and(|value| value == "1"));
        on.then_some(Notice::KeepAttrs { key: *key })
    };
    conf.mounts().iter().filter_map(keeps).collect()
}
