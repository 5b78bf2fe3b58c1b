//! What the commands print as JSON: one document each, with its version.
//!
//! These types are the contract with programs; `pctd schema` prints their schema.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::condition::Truth;
use crate::ids::{Ctid, HostIds, Key, VolumeName};
use crate::observed::{Assurance, Drift};
use crate::plan::{Hold, Plans, Reason, Step};

mod shift;
mod undo;

pub use shift::{ShiftReport, ShiftedReport};
pub use undo::{PassReport, UndoReport, UndoneReport};

/// The version of every document here.
pub const REPORT_VERSION: u32 = 1;

/// What `plan` and `apply` print.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct PlanReport {
    /// The version of the document, 1.
    pub version: u32,
    /// By container.
    pub containers: BTreeMap<Ctid, KeyReport>,
    /// By volume.
    pub volumes: BTreeMap<VolumeName, KeyReport>,
    /// How much there is of it.
    pub summary: Summary,
}

/// The plan of one key; of `apply`, the steps that were taken and what is left.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
pub struct KeyReport {
    /// The steps.
    pub steps: Vec<Step>,
    /// Why something is left as it is.
    pub holds: Vec<Reason>,
    /// What else to know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notices: Vec<Reason>,
    /// Of a container with `plan -v`: what is not as defined and is not managed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unmanaged: Vec<FieldReport>,
    /// What failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A field of a definition that differs and is not managed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct FieldReport {
    /// The field, as `settings.manage` names it.
    pub field: String,
    /// The property of the conf as it is declared.
    pub declared: String,
    /// The property as it is; `null` where it is not there.
    pub found: Option<String>,
}

/// The numbers of a report.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema,
)]
pub struct Summary {
    /// How many steps.
    pub steps: usize,
    /// How many holds.
    pub holds: usize,
    /// How many keys failed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub errors: usize,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature serde asks for")]
const fn is_zero(number: &usize) -> bool {
    *number == 0
}

impl PlanReport {
    /// Returns a report in which the same holds up every one of these keys.
    pub fn all_held(keys: impl IntoIterator<Item = Key>, hold: &Hold) -> Self {
        let mut report = Self::empty();
        for key in keys {
            let holds = vec![Reason::from(hold)];
            report.insert(key, KeyReport { holds, ..KeyReport::default() });
        }
        report.count();
        report
    }

    /// Returns the report of these plans, restricted to `keys` where some are named.
    pub fn of_plans(plans: &Plans, keys: &[Key]) -> Self {
        let mut report = Self::empty();
        let wanted = |key: &Key| keys.is_empty() || keys.contains(key);
        for key in plans.keys().filter(wanted) {
            let notices = match &key {
                Key::Container(ctid) => plans.containers.get(ctid).map(|plan| &plan.notices),
                Key::Volume(name) => plans.volumes.get(name).map(|plan| &plan.notices),
            };
            let entry = KeyReport {
                steps: plans.steps(&key).to_vec(),
                holds: plans.holds(&key).iter().map(Reason::from).collect(),
                notices: notices.into_iter().flatten().map(Reason::from).collect(),
                unmanaged: Vec::new(),
                error: None,
            };
            report.insert(key, entry);
        }
        report.count();
        report
    }

    /// Adds what is not as defined and is not managed.
    pub fn add_unmanaged(&mut self, plans: &Plans) {
        for (ctid, entry) in &mut self.containers {
            let drift = plans.containers.get(ctid).map_or(&[][..], |plan| &plan.drift);
            let each = drift.iter().map(|drift| FieldReport {
                field: drift.field.to_string(),
                declared: format!("{}: {}", drift.property, drift.declared),
                found: drift.found.as_ref().map(|found| format!("{}: {found}", drift.property)),
            });
            entry.unmanaged.extend(each);
        }
    }

    /// Returns a report of nothing.
    pub const fn empty() -> Self {
        Self {
            version: REPORT_VERSION,
            containers: BTreeMap::new(),
            volumes: BTreeMap::new(),
            summary: Summary { steps: 0, holds: 0, errors: 0 },
        }
    }

    /// Enters what is to be said of `key`.
    pub fn insert(&mut self, key: Key, entry: KeyReport) {
        match key {
            Key::Container(ctid) => self.containers.insert(ctid, entry),
            Key::Volume(name) => self.volumes.insert(name, entry),
        };
    }

    /// Counts what is in the report into its summary.
    pub fn count(&mut self) {
        let entries = || self.containers.values().chain(self.volumes.values());
        self.summary = Summary {
            steps: entries().map(|entry| entry.steps.len()).sum(),
            holds: entries().map(|entry| entry.holds.len()).sum(),
            errors: entries().filter(|entry| entry.error.is_some()).count(),
        };
    }
}

/// What `status` prints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct StatusReport {
    /// The version of the document, 1.
    pub version: u32,
    /// The daemon itself.
    pub daemon: DaemonReport,
    /// The configuration in force, and what is wrong with the files now.
    pub config: ConfigReport,
    /// By container.
    pub containers: BTreeMap<Ctid, KeyStatus>,
    /// By volume.
    pub volumes: BTreeMap<VolumeName, KeyStatus>,
}

impl StatusReport {
    /// Returns whether everything is as declared and nothing is held.
    pub fn is_converged(&self) -> bool {
        let keys = self.containers.values().chain(self.volumes.values());
        self.config.valid && keys.into_iter().all(|key| key.state == KeyState::Converged)
    }
}

/// The daemon, as `status` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct DaemonReport {
    /// Its version.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// `enforce` or `observe`.
    pub mode: String,
    /// Whether `/etc/pve` answers, with why not.
    pub node: String,
}

/// The configuration, as `status` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ConfigReport {
    /// Whether the files as they are now are valid.
    pub valid: bool,
    /// Counts the configurations that were accepted.
    pub generation: u64,
    /// The files.
    pub files: Vec<String>,
    /// What is wrong with them; the last good configuration stays in force.
    pub error: Option<String>,
}

/// One key, as `status` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct KeyStatus {
    /// The sum of it.
    pub state: KeyState,
    /// What is true of it.
    pub conditions: BTreeMap<String, ConditionReport>,
    /// Why something is left as it is.
    pub holds: Vec<Reason>,
    /// What else to know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notices: Vec<Reason>,
    /// The last failure, until it is overcome.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// When it is looked at again without an event (RFC 3339), if before the resync.
    pub next_retry: Option<String>,
    /// A walk that is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<ProgressReport>,
    /// What the watch of a volume has put right, where it is watched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drift: Option<DriftReport>,
    /// What it rests on that a volume is in place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assurance: Option<Assurance>,
}

/// What the watch of a volume has done since it was armed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct DriftReport {
    /// Changes by others that were looked at.
    pub events: u64,
    /// Entries that were put right.
    pub repaired: u64,
    /// Of those, about how many in the last minute.
    pub per_minute: u64,
    /// Entries that wait to be looked at.
    pub waiting: u64,
    /// Processor time the repairs took, in milliseconds.
    pub cpu_ms: u64,
    /// Why the volume is to be walked again, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doubt: Option<String>,
}

impl From<&Drift> for DriftReport {
    fn from(drift: &Drift) -> Self {
        Self {
            events: drift.events,
            repaired: drift.repaired,
            per_minute: drift.per_minute,
            waiting: drift.waiting,
            cpu_ms: u64::try_from(drift.cpu.as_millis()).unwrap_or(u64::MAX),
            doubt: drift.doubt.clone(),
        }
    }
}

/// Where a key stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub enum KeyState {
    /// Nothing differs.
    Converged,
    /// Steps are being taken, or will be.
    Progressing,
    /// Something is deliberately left as it is.
    Held,
    /// The last attempt failed and will be repeated.
    Failed,
    /// It was not observed yet, or could not be.
    Unknown,
}

/// A condition with since when it holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ConditionReport {
    /// Whether it holds.
    pub status: Truth,
    /// A stable word for why.
    pub reason: String,
    /// The same for people.
    pub message: String,
    /// Since when its status and reason are so (RFC 3339).
    pub since: String,
}

/// How far a walk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ProgressReport {
    /// Entries looked at so far.
    pub entries: u64,
    /// Entries changed, or found to differ, so far.
    pub changes: u64,
    /// Entries looked at per second, since the walk began.
    #[serde(default)]
    pub rate: u64,
}

impl std::fmt::Display for ProgressReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { entries, changes, rate } = self;
        write!(f, "{entries} entries, {changes} differ, {rate}/s")
    }
}

/// What `inspect` prints: a container as pctd reads it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct InspectReport {
    /// The version of the document, 1.
    pub version: u32,
    /// The container.
    pub ctid: Ctid,
    /// `here`, `on_node`, `vm`, `absent` or `unknown`.
    pub presence: String,
    /// The effective answer, custom maps included; `null` where the conf was not read.
    pub unprivileged: Option<bool>,
    /// `[kind, container, host, count]`; empty for a privileged container.
    pub idmap: Vec<(String, u64, u64, u64)>,
    /// The host ids of the container's root; `null` with the reason in `not_ready`.
    pub root: Option<HostIds>,
    /// Why the map cannot be used yet.
    pub not_ready: Option<String>,
    /// The mount points in force.
    pub mounts: BTreeMap<String, InspectMount>,
    /// What waits for a restart.
    pub pending: InspectPending,
    /// The names of its snapshots.
    pub snapshots: Vec<String>,
    /// Its `lock`.
    pub lock: Option<String>,
    /// Whether it is a template.
    pub template: bool,
    /// Whether it is protected.
    pub protection: bool,
    /// The SHA-1 of the conf.
    pub digest: Option<String>,
    /// Whether it runs.
    pub running: bool,
    /// What Proxmox would warn of, and what else is odd.
    pub warnings: Vec<String>,
}

/// A mount point, as `inspect` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct InspectMount {
    /// `bind`, `device`, `volume` or `invalid`.
    pub class: String,
    /// The host path, device or volume; of an invalid mount the raw value.
    pub source: String,
    /// Where it is mounted, as written.
    pub target: Option<String>,
    /// The other options, in Proxmox's normal form.
    pub options: BTreeMap<String, String>,
    /// In words, which ids inside are which on disk, where the mount has a map of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ids: Option<String>,
}

/// `[pve:pending]`, as `inspect` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
pub struct InspectPending {
    /// New values by name.
    pub set: BTreeMap<String, String>,
    /// Names that go away.
    pub delete: Vec<String>,
}

/// What `check` prints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct CheckReport {
    /// The version of the document, 1.
    pub version: u32,
    /// Whether the files can be put in force.
    pub valid: bool,
    /// The files.
    pub files: Vec<String>,
    /// How many volumes they declare.
    pub volumes: usize,
    /// How many containers they define.
    pub containers: usize,
    /// What is wrong.
    pub problems: Vec<CheckEntry>,
    /// What is ignored or looks odd.
    pub notes: Vec<CheckEntry>,
}

/// One remark of `check`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct CheckEntry {
    /// `error`, `warning` or `ignored`.
    pub severity: String,
    /// The file.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// The column, from 1, in characters.
    pub column: usize,
    /// Where in the document.
    pub path: String,
    /// What is so, and what to write.
    pub message: String,
}
