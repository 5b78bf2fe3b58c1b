//! The plan of one container: its mounts, and a restart where one of them waits for it.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::conf::{Conf, RawLine};
use crate::desired::{Desired, Mechanism, Mount, Restart, Volume};
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
use crate::plan::site::Site;
use crate::plan::step::Step;

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
        hold_changes(plan, ctid, why);
    }
    finish(plan, desired, snapshot, cluster, (ctid, container), Waiting { keys, lines });
}

/// What of pctd's a running container does not have yet.
struct Waiting {
    /// Mount points that are pending.
    keys: Vec<MpKey>,
    /// Raw lines that came or went.
    lines: Vec<RawLine>,
}

impl Waiting {
    fn names(&self) -> Vec<String> {
        let keys = self.keys.iter().map(ToString::to_string);
        keys.chain(self.lines.iter().map(ToString::to_string)).collect()
    }
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
    let conf = &container.conf;
    let running = container.running != Running::No;
    // One restart for all changes: not before every mount is written.
    let all_written = plan.steps.is_empty() && plan.waits_for.is_empty();
    let is_waiting = !waiting.keys.is_empty() || !waiting.lines.is_empty();
    if running && all_written && is_waiting {
        plan_restart(plan, desired, snapshot, ctid, conf, waiting);
    } else if !running && all_written && !waiting.lines.is_empty() {
        let is_there = |line: &RawLine| line.is_in(&conf.current);
        let (added, removed) = waiting.lines.into_iter().partition(is_there);
        plan.holds.push(Hold::NotStarted { ctid, added, removed });
    }
    if !plan.steps.is_empty()
        && let Some(hold) = write_hold(ctid, conf, container, cluster)
    {
        plan.steps.clear();
        plan.holds.push(hold);
    }
    let protects =
        |step: &Step| !matches!(step, Step::ConfigureContainer(_) | Step::StartContainer {});
    if conf.is_protected() && plan.steps.iter().any(protects) {
        // Protection keeps disks and mounts; it comes off a clone before those are written.
        let comes_off = plan.steps.iter().any(|step| {
            matches!(step, Step::ConfigureContainer(c) if c.delete.iter().any(|n| n == "protection"))
        });
        if !comes_off {
            plan.steps.retain(|step| !protects(step));
            plan.holds.push(Hold::Protected { ctid });
        }
    }
    plan_start(plan, snapshot, cluster, ctid, container);
}

/// How long after a restart pctd starts a container that did not come back. After that somebody will
/// have looked at it, and a container that an admin stopped is not pctd's to start.
const START_OWED_FOR: Duration = Duration::from_hours(1);

/// Plans the start that pctd owes a container it stopped, or says what stands in the way.
fn plan_start(
    plan: &mut ContainerPlan,
    snapshot: &Snapshot,
    cluster: &Cluster,
    ctid: Ctid,
    container: &ObservedContainer,
) {
    if !snapshot.ledger.start_owed.contains(&ctid) {
        return;
    }
    let is_recent = snapshot.restarted.get(&ctid).is_some_and(|ago| *ago < START_OWED_FOR);
    if container.running != Running::No || !is_recent {
        plan.records.push(LedgerEntry::StartSettled(ctid));
        return;
    }
    let owed = |why: String| Hold::StartOwed { ctid, why };
    let hold = if container.flock_held {
        // The restart itself, perhaps, after a crash of pctd.
        Some(Hold::Busy { ctid })
    } else if !cluster.quorate {
        Some(owed("this node has no quorum".to_owned()))
    } else if let Some(lock) = container.conf.lock() {
        Some(owed(format!("it is locked ({lock})")))
    } else {
        snapshot.bad_sources.get(&ctid).map(|bad| owed(bad.to_string()))
    };
    match hold {
        Some(hold) if plan.holds.contains(&hold) => {}
        Some(hold) => plan.holds.push(hold),
        None => plan.steps.push(Step::StartContainer {}),
    }
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

/// Holds the changes that would wait for a restart: the last one left the container stopped, and a
/// pending change would do so again at a restart that somebody else makes.
fn hold_changes(plan: &mut ContainerPlan, ctid: Ctid, why: &str) {
    let mut what = Vec::new();
    plan.steps.retain(|step| match step {
        Step::SetMount(set) if set.was.is_some() => {
            what.push(set.key.to_string());
            false
        }
        Step::EditConf(edit) => {
            what.extend(edit.add.iter().chain(&edit.remove).map(ToString::to_string));
            false
        }
        _ => true,
    });
    if !what.is_empty() {
        plan.holds.push(Hold::NeedsRestart { ctid, what, why: failed_before(ctid, why) });
    }
}

fn failed_before(ctid: Ctid, why: &str) -> String {
    format!("the last restart failed: {why}; `pctd apply {ctid}` tries again")
}

/// Returns why the conf may not be written now, if so.
pub(super) fn write_hold(
    ctid: Ctid,
    conf: &Conf,
    container: &ObservedContainer,
    cluster: &Cluster,
) -> Option<Hold> {
    if !cluster.quorate {
        Some(Hold::NoQuorum)
    } else if let Some(lock) = conf.lock() {
        Some(Hold::Locked { ctid, lock: lock.to_string() })
    } else if container.flock_held {
        Some(Hold::Busy { ctid })
    } else {
        None
    }
}

/// Plans a restart for pctd's own pending changes, or says why there is none.
fn plan_restart(
    plan: &mut ContainerPlan,
    desired: &Desired,
    snapshot: &Snapshot,
    ctid: Ctid,
    conf: &Conf,
    waiting: Waiting,
) {
    let what = waiting.names();
    let settings = &desired.settings;
    if settings.restart == Restart::Never {
        let why = format!("`restart` is \"never\": run `pct reboot {ctid}` when it suits");
        plan.holds.push(Hold::NeedsRestart { ctid, what, why });
    } else if let Some(why) = snapshot.requests.restart_failed.get(&ctid) {
        // What stood in the way would be met again, at once and without end.
        plan.holds.push(Hold::NeedsRestart { ctid, what, why: failed_before(ctid, why) });
    } else if let Some(bad) = snapshot.bad_sources.get(&ctid) {
        // It would not start again.
        let why = format!("{bad}; it is restarted when that is put right");
        plan.holds.push(Hold::NeedsRestart { ctid, what, why });
    } else if let Some(missing) = unpermitted(snapshot, conf) {
        // Nor with this map.
        let why = format!("its id map needs {missing}; it is restarted when that is there");
        plan.holds.push(Hold::NeedsRestart { ctid, what, why });
    } else if let Some(why) = restarted_lately(desired, snapshot, ctid) {
        plan.holds.push(Hold::NeedsRestart { ctid, what, why });
    } else {
        let names = conf.pending_names().into_iter();
        let others = names.filter(|name| !what.contains(name)).collect();
        let Waiting { keys, lines } = waiting;
        plan.steps.push(Step::RebootContainer { keys, lines, others });
    }
}

/// Returns what the map that a conf asks for lacks, so that the container would not start.
fn unpermitted(snapshot: &Snapshot, conf: &Conf) -> Option<String> {
    let map = conf.has_custom_idmap().then(|| conf.effective_idmap().ok()).flatten()?;
    let missing = snapshot.sub_ids.missing(&map);
    (!missing.is_empty()).then(|| missing.join(" and "))
}

/// Returns that a container was restarted so lately that it may not be again.
pub(super) fn restarted_lately(
    desired: &Desired,
    snapshot: &Snapshot,
    ctid: Ctid,
) -> Option<String> {
    let ago = snapshot.restarted.get(&ctid)?;
    let left = desired.settings.restart_limit.checked_sub(*ago).filter(|left| !left.is_zero())?;
    let left = humantime::format_duration(Duration::from_secs(left.as_secs().max(1)));
    Some(format!("it was restarted a short while ago and may be again in {left} (`restart_limit`)"))
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
