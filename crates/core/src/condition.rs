//! Conditions: what is true of a container or a volume, for people and programs.
//!
//! Derived from one snapshot and its plans, never kept: a condition that nobody re-derives would
//! be a rumour. Only the time since when it holds is added by whoever watches.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::desired::Desired;
use crate::ids::{Ctid, VolumeName};
use crate::observed::{
    Assurance, NodeState, ObservedVolume, Presence, Snapshot, SourceState, Watch,
};
use crate::plan::{Basis, Hold, Plans, Step, VolumePlan, owner_of};

/// Whether something is so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub enum Truth {
    /// It is.
    True,
    /// It is not.
    False,
    /// It cannot be told.
    Unknown,
}

/// One condition of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// Whether it holds.
    pub status: Truth,
    /// A stable word for why.
    pub reason: &'static str,
    /// The same for people.
    pub message: Cow<'static, str>,
}

impl Condition {
    fn new(status: Truth, reason: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self { status, reason, message: message.into() }
    }

    fn unknown(why: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Truth::Unknown, "Unknown", why)
    }

    fn held(hold: &Hold) -> Self {
        Self::new(Truth::False, hold.reason(), hold.to_string())
    }
}

/// The conditions of one key by their names; a list, since there are four and thousands of keys.
pub type Conditions = Vec<(&'static str, Condition)>;

/// Returns the conditions `Defined`, `Unprivileged`, `Mapped` and `Mounted` of a container.
pub fn of_container(
    desired: &Desired,
    snapshot: &Snapshot,
    plans: &Plans,
    ctid: Ctid,
) -> Conditions {
    let all = |condition: Condition| {
        let names = ["Defined", "Unprivileged", "Mapped", "Mounted"];
        names.into_iter().map(|name| (name, condition.clone())).collect()
    };
    if let Some(hold) = &plans.node {
        return all(Condition::unknown(hold.to_string()));
    }
    let elsewhere = |defined: Condition| {
        let why = defined.message.clone();
        let mut conditions: Conditions = all(Condition::new(Truth::Unknown, "NotHere", why));
        conditions[0].1 = defined;
        conditions
    };
    let container = match snapshot.containers.get(&ctid) {
        Some(Presence::Here(container)) => container,
        Some(Presence::OnNode(node)) => {
            let message = format!("on node {node}");
            return elsewhere(Condition::new(Truth::True, "OnOtherNode", message));
        }
        Some(Presence::Vm) => {
            let hold = Hold::IdTakenByVm { ctid };
            return elsewhere(Condition::held(&hold));
        }
        Some(Presence::Absent) => {
            let plan = plans.containers.get(&ctid);
            if let Some(hold) = plan.and_then(|plan| plan.holds.first()) {
                return elsewhere(Condition::held(hold));
            }
            let is_made = plan.is_some_and(|plan| !plan.steps.is_empty());
            return elsewhere(if is_made {
                Condition::new(Truth::False, "Progressing", "it is to be made")
            } else {
                Condition::new(Truth::False, "Absent", "no such container in the cluster")
            });
        }
        Some(Presence::Unknown(why)) => return all(Condition::unknown(why.clone())),
        None => return all(Condition::unknown("not observed yet")),
    };
    let holds = plans.containers.get(&ctid).map_or(&[][..], |plan| &plan.holds);
    let mut conditions = Conditions::new();
    let mut add = |name: &'static str, condition| conditions.push((name, condition));
    add("Defined", Condition::new(Truth::True, "Here", "its conf is on this node"));
    let mismatch = holds.iter().find(|hold| is_of_privilege(hold));
    let steps = plans.containers.get(&ctid).map_or(&[][..], |plan| &plan.steps);
    let is_converted = steps.iter().any(|step| matches!(step, Step::ConvertContainer(_)));
    let declared = desired.containers.get(&ctid).and_then(|def| def.unprivileged);
    add(
        "Unprivileged",
        match (mismatch, declared) {
            (Some(hold), _) => Condition::held(hold),
            (None, _) if is_converted => {
                Condition::new(Truth::False, "Progressing", "it is to be converted")
            }
            (None, Some(_)) => Condition::new(Truth::True, "AsDeclared", "as declared"),
            (None, None) => Condition::new(Truth::True, "NotDeclared", "nothing is declared"),
        },
    );
    let map_hold = holds.iter().find(|hold| is_of_map(hold));
    add(
        "Mapped",
        map_hold.map_or_else(|| mapped(desired, snapshot, ctid, container), Condition::held),
    );
    let mounting = match &snapshot.node {
        NodeState::Up(cluster) => desired.on_node(&cluster.node),
        NodeState::Unknown(_) => Cow::Borrowed(desired),
    };
    add("Mounted", mounted(&mounting, plans, ctid));
    conditions
}

/// Returns whether a hold says why a container does not have its declared id map.
const fn is_of_map(hold: &Hold) -> bool {
    matches!(hold, Hold::IdmapChange { .. } | Hold::SubIdsMissing { .. })
}

/// Returns whether a hold says why a container is not as privileged as declared.
fn is_of_privilege(hold: &Hold) -> bool {
    matches!(
        hold,
        Hold::UnprivilegedMismatch { .. }
            | Hold::ConvertUnsafe { .. }
            | Hold::ConvertWaits { .. }
            | Hold::ConvertFailed { .. }
            | Hold::ConvertInterrupted { .. }
    )
}

fn mapped(
    desired: &Desired,
    snapshot: &Snapshot,
    ctid: Ctid,
    container: &crate::observed::ObservedContainer,
) -> Condition {
    match owner_of(desired, snapshot, ctid, container) {
        Ok(root) => Condition::new(Truth::True, "Ready", root),
        Err(why) => Condition::held(&Hold::IdmapNotReady { ctid, why }),
    }
}

fn mounted(desired: &Desired, plans: &Plans, ctid: Ctid) -> Condition {
    let Some(plan) = plans.containers.get(&ctid) else {
        return Condition::unknown("not planned yet");
    };
    // A container's other holds speak of its definition and its map.
    let hold = plan.holds.iter().find(|hold| {
        !matches!(hold, Hold::IdmapNotReady { .. }) && !is_of_privilege(hold) && !is_of_map(hold)
    });
    if let Some(hold) = hold {
        return Condition::held(hold);
    }
    if let Some(volume) = plan.waits_for.first() {
        let message = format!("volume {volume} is held");
        return Condition::new(Truth::False, "VolumeHeld", message);
    }
    if !plan.steps.is_empty() {
        let message = format!("{} steps to take", plan.steps.len());
        return Condition::new(Truth::False, "Progressing", message);
    }
    match desired.mounts_of(ctid).count() {
        0 => Condition::new(Truth::True, "NothingToMount", "no volume is mounted here"),
        1 => Condition::new(Truth::True, "InPlace", "its mount is in place"),
        count => Condition::new(Truth::True, "InPlace", format!("its {count} mounts are in place")),
    }
}

/// Returns the conditions `Present`, `Owned` and `Watched` of a volume.
pub fn of_volume(snapshot: &Snapshot, plans: &Plans, name: &VolumeName) -> Conditions {
    let mut conditions = Conditions::new();
    let (present, owned) = match (&plans.node, plans.volumes.get(name)) {
        (Some(hold), _) => {
            let condition = Condition::unknown(hold.to_string());
            (condition.clone(), condition)
        }
        (None, None) => {
            let condition = Condition::unknown("not observed yet");
            (condition.clone(), condition)
        }
        (None, Some(plan)) => {
            let source = snapshot.volumes.get(name).map(|observed| &observed.source);
            (present(source, plan), owned(plan))
        }
    };
    conditions.push(("Present", present));
    conditions.push(("Owned", owned));
    conditions.push(("Watched", watched(snapshot.volumes.get(name), plans.volumes.get(name))));
    conditions
}

fn watched(observed: Option<&ObservedVolume>, plan: Option<&VolumePlan>) -> Condition {
    match (observed.map(|observed| &observed.watch), plan) {
        (None, _) | (_, None) => Condition::unknown("not observed yet"),
        (_, Some(VolumePlan { basis: Basis::NotManaged, .. })) => {
            Condition::new(Truth::False, "NotManaged", "nothing is declared, so nothing drifts")
        }
        (_, Some(VolumePlan { basis: Basis::OtherNode, .. })) => {
            Condition::new(Truth::False, "OtherNodeActs", "another node looks after it")
        }
        (Some(Watch::Walks(why)), _) => Condition::new(
            Truth::False,
            "PeriodicVerify",
            format!("drift is found by the walk every `verify_interval`: {why}"),
        ),
        (Some(Watch::Events(drift)), Some(plan)) => match (&drift.doubt, &plan.standing) {
            (Some(why), _) => {
                Condition::new(Truth::False, "Doubt", format!("to be walked again: {why}"))
            }
            (None, None) => {
                let message = "changes are noted until the volume is in place";
                Condition::new(Truth::False, "Armed", message)
            }
            (None, Some(_)) => {
                Condition::new(Truth::True, "Events", "drift is put right as it happens")
            }
        },
    }
}

fn present(source: Option<&SourceState>, plan: &VolumePlan) -> Condition {
    match source {
        Some(SourceState::Directory(dir)) => {
            let hold = plan.holds.iter().find(|hold| {
                matches!(hold, Hold::SourceNotMounted { .. } | Hold::SourceChanged { .. })
            });
            hold.map_or_else(
                || Condition::new(Truth::True, "Directory", format!("on {}", dir.file_system.id)),
                Condition::held,
            )
        }
        Some(SourceState::OfOtherNodes) => {
            Condition::new(Truth::False, "NotNeeded", "it does not exist on this node")
        }
        Some(SourceState::Missing { .. }) => match plan.holds.first() {
            Some(hold) => Condition::held(hold),
            None if plan.steps.is_empty() => {
                let message = "missing, and no container here mounts it";
                Condition::new(Truth::False, "NotNeeded", message)
            }
            None => Condition::new(Truth::False, "Progressing", "the directory is to be made"),
        },
        Some(_) => match plan.holds.first() {
            Some(hold) => Condition::held(hold),
            None => Condition::new(Truth::False, "NotNeeded", "no container here mounts it"),
        },
        None => Condition::unknown("not observed yet"),
    }
}

fn owned(plan: &VolumePlan) -> Condition {
    if let Some(hold) = plan.holds.first() {
        return Condition::held(hold);
    }
    match plan.basis {
        Basis::NotManaged => Condition::new(
            Truth::True,
            "NotManaged",
            "nothing is declared, or nobody here mounts it",
        ),
        Basis::OtherNode => Condition::new(
            Truth::True,
            "OtherNodeActs",
            "the root directory is right; another node looks after the rest",
        ),
        Basis::Walk => Condition::new(Truth::True, "Verified", "every entry was looked at"),
        Basis::Before(assurance) => {
            let message = match assurance {
                Assurance::Walk => "every entry was looked at since the start",
                Assurance::Directories => {
                    "no directory changed while nobody watched, or it was looked at; owners and \
                     modes are being verified"
                }
                Assurance::Ledger => "the root directory is right and an earlier walk was complete",
            };
            Condition::new(Truth::True, "InPlace", message)
        }
        Basis::None => Condition::new(Truth::False, "Progressing", "entries are to be changed"),
    }
}

#[cfg(test)]
mod tests;
