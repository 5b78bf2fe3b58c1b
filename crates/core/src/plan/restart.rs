//! Restarts: what of pctd's a running container does not have yet, when it is restarted for that, and
//! the start that it is owed where it did not come back.
//!
//! A container stops only where nothing is known that would keep it from starting again, and one that
//! does not run is not started but for that debt.

use std::time::Duration;

use crate::conf::{Conf, RawLine};
use crate::desired::{Desired, Restart};
use crate::ids::{Ctid, MpKey};
use crate::ledger::LedgerEntry;
use crate::observed::{Cluster, ObservedContainer, Running, Snapshot};
use crate::plan::hold::Hold;
use crate::plan::planned::ContainerPlan;
use crate::plan::step::Step;

/// What of pctd's a running container does not have yet.
pub(super) struct Waiting {
    /// Mount points that are pending.
    pub(super) keys: Vec<MpKey>,
    /// Raw lines that came or went.
    pub(super) lines: Vec<RawLine>,
}

impl Waiting {
    fn names(&self) -> Vec<String> {
        let keys = self.keys.iter().map(ToString::to_string);
        keys.chain(self.lines.iter().map(ToString::to_string)).collect()
    }
}

/// Plans the restart that pctd's changes wait for, once all are written.
pub(super) fn plan(
    plan: &mut ContainerPlan,
    desired: &Desired,
    snapshot: &Snapshot,
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
    } else if let Some(why) = too_soon(desired, snapshot, ctid) {
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
pub(super) fn too_soon(desired: &Desired, snapshot: &Snapshot, ctid: Ctid) -> Option<String> {
    let ago = snapshot.restarted.get(&ctid)?;
    let left = desired.settings.restart_limit.checked_sub(*ago).filter(|left| !left.is_zero())?;
    let left = humantime::format_duration(Duration::from_secs(left.as_secs().max(1)));
    Some(format!("it was restarted a short while ago and may be again in {left} (`restart_limit`)"))
}

/// Holds the changes that would wait for a restart: the last one left the container stopped, and a
/// pending change would do so again at a restart that somebody else makes.
pub(super) fn hold_changes(plan: &mut ContainerPlan, ctid: Ctid, why: &str) {
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

/// How long after a restart pctd starts a container that did not come back. After that somebody will
/// have looked at it, and a container that an admin stopped is not pctd's to start.
const START_OWED_FOR: Duration = Duration::from_hours(1);

/// Plans the start that pctd owes a container it stopped, or says what stands in the way.
pub(super) fn plan_owed_start(
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
