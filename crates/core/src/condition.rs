//! Conditions: what is true of a container or a volume, for people and programs.
//!
//! Derived from one snapshot and its plans, never kept: a condition that nobody re-derives would
//! be a rumour. Only the time since when it holds is added by whoever watches.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::desired::Desired;
use crate::ids::{Ctid, VolumeName};
use crate::observed::{Presence, Snapshot, SourceState};
use crate::plan::{Basis, Hold, Plans, owner_of};

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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Condition {
    /// Whether it holds.
    pub status: Truth,
    /// A stable word for why.
    pub reason: String,
    /// The same for people.
    pub message: String,
}

impl Condition {
    fn new(status: Truth, reason: &str, message: impl Into<String>) -> Self {
        Self { status, reason: reason.to_owned(), message: message.into() }
    }

    fn unknown(why: &str) -> Self {
        Self::new(Truth::Unknown, "Unknown", why)
    }

    fn held(hold: &Hold) -> Self {
        Self::new(Truth::False, hold.reason(), hold.to_string())
    }
}

/// The conditions of one key by their names.
pub type Conditions = BTreeMap<String, Condition>;

/// Returns the conditions `Defined`, `Unprivileged`, `Mapped` and `Mounted` of a container.
pub fn of_container(
    desired: &Desired,
    snapshot: &Snapshot,
    plans: &Plans,
    ctid: Ctid,
) -> Conditions {
    let all = |condition: Condition| {
        let names = ["Defined", "Unprivileged", "Mapped", "Mounted"];
        names.into_iter().map(|name| (name.to_owned(), condition.clone())).collect()
    };
    if let Some(hold) = &plans.node {
        return all(Condition::unknown(&hold.to_string()));
    }
    let elsewhere = |defined: Condition, why: &str| {
        let mut conditions: Conditions = all(Condition::new(Truth::Unknown, "NotHere", why));
        conditions.insert("Defined".to_owned(), defined);
        conditions
    };
    let container = match snapshot.containers.get(&ctid) {
        Some(Presence::Here(container)) => container,
        Some(Presence::OnNode(node)) => {
            let message = format!("on node {node}");
            return elsewhere(Condition::new(Truth::True, "OnOtherNode", &message), &message);
        }
        Some(Presence::Vm) => {
            let hold = Hold::IdTakenByVm { ctid };
            return elsewhere(Condition::held(&hold), "the id is a virtual machine's");
        }
        Some(Presence::Absent) => {
            let message = "no such container in the cluster";
            return elsewhere(Condition::new(Truth::False, "Absent", message), message);
        }
        Some(Presence::Unknown(why)) => return all(Condition::unknown(why)),
        None => return all(Condition::unknown("not observed yet")),
    };
    let holds = plans.containers.get(&ctid).map_or(&[][..], |plan| &plan.holds);
    let mut conditions = Conditions::new();
    let mut add = |name: &str, condition| conditions.insert(name.to_owned(), condition);
    add("Defined", Condition::new(Truth::True, "Here", "its conf is on this node"));
    let mismatch = holds.iter().find(|h| matches!(h, Hold::UnprivilegedMismatch { .. }));
    let declared = desired.containers.get(&ctid).and_then(|def| def.unprivileged);
    add(
        "Unprivileged",
        match (mismatch, declared) {
            (Some(hold), _) => Condition::held(hold),
            (None, Some(_)) => Condition::new(Truth::True, "AsDeclared", "as declared"),
            (None, None) => Condition::new(Truth::True, "NotDeclared", "nothing is declared"),
        },
    );
    add("Mapped", mapped(desired, ctid, container));
    add("Mounted", mounted(desired, plans, ctid));
    conditions
}

fn mapped(
    desired: &Desired,
    ctid: Ctid,
    container: &crate::observed::ObservedContainer,
) -> Condition {
    match owner_of(desired, ctid, container) {
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
        !matches!(hold, Hold::UnprivilegedMismatch { .. } | Hold::IdmapNotReady { .. })
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
            let condition = Condition::unknown(&hold.to_string());
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
    conditions.insert("Present".to_owned(), present);
    conditions.insert("Owned".to_owned(), owned);
    conditions.insert(
        "Watched".to_owned(),
        Condition::new(
            Truth::False,
            "PeriodicVerify",
            "drift below the root directory is found by the walk every `verify_interval`",
        ),
    );
    conditions
}

fn present(source: Option<&SourceState>, plan: &crate::plan::VolumePlan) -> Condition {
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

fn owned(plan: &crate::plan::VolumePlan) -> Condition {
    if let Some(hold) = plan.holds.first() {
        return Condition::held(hold);
    }
    match plan.basis {
        Basis::NotManaged => {
            Condition::new(Truth::True, "NotManaged", "nothing is declared, or nobody here mounts it")
        }
        Basis::Walk => Condition::new(Truth::True, "Verified", "every entry was looked at"),
        Basis::Ledger => {
            let message = "the root directory is right and an earlier walk was complete";
            Condition::new(Truth::True, "InPlace", message)
        }
        Basis::None => Condition::new(Truth::False, "Progressing", "entries are to be changed"),
    }
}
