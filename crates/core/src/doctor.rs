//! Whose ids are whose: what there is to say of a container, and of one path, in plain words.
//!
//! Pure: what was observed and planned comes in, a value goes out. Every sentence rests on what the
//! planner itself uses: the id map that counts, the map as it is on disk behind a mount, the rule
//! for one entry. What it says pctd would do is what pctd would do.
//!
//! `binds` are the directories that the container mounts, `place` finds out what a path means, `ids` puts
//! an id map into words, `entry` what is at the path.

mod binds;
mod entry;
mod ids;
mod place;

use serde::{Deserialize, Serialize};

pub use binds::{Bind, MountMap, MountedBy};
pub use place::{Located, locate};

use crate::conf::{MountLine, RawLine};
use crate::desired::Desired;
use crate::idmap::IdMap;
use crate::ids::{Ctid, HostIds, Key, MpKey, VolumeName};
use crate::mount_map;
use crate::observed::{ObservedContainer, ObservedEntry, Presence, Snapshot};
use crate::plan::{Hold, Notice, Plans, Reason, Step, container_map};
use crate::report::REPORT_VERSION;

/// What is asked, and all that is known.
#[derive(Debug, Clone, Copy)]
pub struct Case<'a> {
    /// The configuration; empty where it cannot be read.
    pub desired: &'a Desired,
    /// Why it cannot be read.
    pub config_error: Option<&'a str>,
    /// What was observed of the container, and of the volume at the path.
    pub snapshot: &'a Snapshot,
    /// What is planned on that.
    pub plans: &'a Plans,
    /// The container.
    pub ctid: Ctid,
    /// The path that was asked for, and what is there.
    pub path: Option<(&'a Located, &'a ObservedEntry)>,
}

/// What `doctor` prints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct DoctorReport {
    /// The version of the document, 1.
    pub version: u32,
    /// The container.
    pub ctid: Ctid,
    /// `here`, `on_node`, `vm`, `absent` or `unknown`.
    pub presence: String,
    /// `[kind, container, host, count]` of the id map that counts; empty for a privileged container,
    /// and where none is known.
    pub idmap: Vec<(String, u64, u64, u64)>,
    /// The directories of the host that it mounts, and will mount after a restart.
    pub mounts: Vec<DoctorMount>,
    /// What was asked for beside the container.
    pub path: Option<DoctorPath>,
    /// Everything there is to say, in the order in which it makes sense.
    pub findings: Vec<Finding>,
}

/// A bind mount of the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct DoctorMount {
    /// Its key in the conf; `null` for a raw line.
    pub key: Option<MpKey>,
    /// The raw line that LXC mounts it by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<String>,
    /// The directory of the host.
    pub source: String,
    /// Where the container has it.
    pub target: String,
    /// The volume whose directory that is.
    pub volume: Option<VolumeName>,
    /// Whether it waits for a restart.
    pub pending: bool,
    /// Whether it goes away at the next restart.
    pub going: bool,
    /// Whether it has an id map of its own (`idmap=`).
    pub own_idmap: bool,
    /// In words, which ids inside are which on disk, where it has one that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ids: Option<String>,
}

/// A path that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct DoctorPath {
    /// As it was typed.
    pub asked: String,
    /// On the host.
    pub host: String,
    /// In the container, where it is there.
    pub inside: Option<String>,
    /// The key of the mount point, or the raw line, that it is reached through.
    pub mount: Option<String>,
    /// The volume it belongs to.
    pub volume: Option<VolumeName>,
    /// What is there.
    pub entry: Option<DoctorEntry>,
}

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct DoctorEntry {
    /// `directory`, `file`, `symlink` or `special`.
    pub kind: String,
    /// Whose it is on disk.
    pub ids: HostIds,
    /// Its mode, octal.
    pub mode: String,
    /// The uid the container sees; `null` for nobody.
    pub uid_inside: Option<u32>,
    /// The gid the container sees; `null` for nobody.
    pub gid_inside: Option<u32>,
    /// The owner that pctd would give it.
    pub new_owner: Option<HostIds>,
    /// The mode that pctd would give it, octal.
    pub new_mode: Option<String>,
    /// Its default ACL, with ids of the host; `null` where there is none.
    pub default_acl: Option<String>,
    /// The default ACL that pctd would give it; `none`: it would take the one away.
    pub new_default_acl: Option<String>,
}

/// One thing to say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Finding {
    /// A stable name for it; of a hold or a notice, its own.
    pub reason: String,
    /// Whether something is not as it should be.
    pub problem: bool,
    /// The sentence.
    pub message: String,
}

impl DoctorReport {
    /// Returns whether everything is as it should be.
    pub fn is_well(&self) -> bool {
        !self.findings.iter().any(|finding| finding.problem)
    }

    fn say(&mut self, reason: &str, message: impl Into<String>) {
        self.add(reason, false, message.into());
    }

    fn warn(&mut self, reason: &str, message: impl Into<String>) {
        self.add(reason, true, message.into());
    }

    fn held(&mut self, hold: &Hold) {
        let Reason { reason, message } = Reason::from(hold);
        self.add(&reason, true, message);
    }

    fn add(&mut self, reason: &str, problem: bool, message: String) {
        let finding = Finding { reason: reason.to_owned(), problem, message };
        // A volume's hold may be its container's, too.
        if !self.findings.contains(&finding) {
            self.findings.push(finding);
        }
    }
}

/// Explains a container, and what is at a path.
pub fn diagnose(case: &Case<'_>) -> DoctorReport {
    let mut report = DoctorReport {
        version: REPORT_VERSION,
        ctid: case.ctid,
        presence: String::new(),
        idmap: Vec::new(),
        mounts: Vec::new(),
        path: None,
        findings: Vec::new(),
    };
    if let Some(error) = case.config_error {
        report.warn("ConfigInvalid", format!("nothing is known of volumes: {error}"));
    }
    let map = container(&mut report, case);
    for hold in case.plans.holds(&Key::Container(case.ctid)) {
        report.held(&hold);
    }
    let plan = case.plans.containers.get(&case.ctid);
    for step in plan.into_iter().flat_map(|plan| &plan.steps) {
        mount_differs(&mut report, case.ctid, step);
    }
    if let Some((located, found)) = case.path {
        entry::explain(&mut report, case, map.as_ref(), located, found);
    }
    report
}

fn mount_differs(report: &mut DoctorReport, ctid: Ctid, step: &Step) {
    let (what, would, ids) = match step {
        Step::SetMount(set) => {
            (format!("volume {}", set.volume), format!("set {}: {}", set.key, set.value), &set.ids)
        }
        Step::EditConf(edit) => {
            let is_mount = |line: &&RawLine| MountLine::made_by(line).is_some();
            let Some(line) = edit.add.iter().find(is_mount) else { return };
            let source =
                MountLine::made_by(line).map_or_else(String::new, |m| m.source.to_string());
            (source, format!("add `{line}`"), &edit.ids)
        }
        _ => return,
    };
    let ids = ids.as_ref().map_or_else(String::new, |ids| format!("; then {ids}"));
    let what = format!("{what} is not mounted as declared: `pctd apply {ctid}` would {would}{ids}");
    report.warn("MountDiffers", what);
}

/// Explains where the container is and what its ids are; returns the map that counts.
fn container(report: &mut DoctorReport, case: &Case<'_>) -> Option<IdMap> {
    let ctid = case.ctid;
    let (presence, why) = match case.snapshot.containers.get(&ctid) {
        Some(Presence::Here(container)) => {
            "here".clone_into(&mut report.presence);
            let binds = binds::of(case.snapshot, ctid, container);
            let own = map(report, case, container);
            let mount = |bind| mount(case.desired, own.as_ref(), bind);
            report.mounts = binds.into_iter().map(mount).collect();
            return own;
        }
        Some(Presence::OnNode(node)) => ("on_node", format!("container {ctid} is on node {node}")),
        Some(Presence::Vm) => ("vm", format!("{ctid} is a virtual machine")),
        Some(Presence::Absent) => ("absent", format!("there is no container {ctid}")),
        Some(Presence::Unknown(why)) => ("unknown", format!("container {ctid}: {why}")),
        None => ("unknown", format!("container {ctid} was not observed")),
    };
    presence.clone_into(&mut report.presence);
    report.warn("NotHere", why);
    None
}

fn map(report: &mut DoctorReport, case: &Case<'_>, container: &ObservedContainer) -> Option<IdMap> {
    let (ctid, conf) = (case.ctid, &container.conf);
    let map = match container_map::of(case.desired, ctid, container) {
        Ok(map) => map,
        Err(why) => {
            report.held(&Hold::IdmapNotReady { ctid, why });
            return None;
        }
    };
    if map.same_mapping(&IdMap::privileged()) {
        report.say("IdMap", format!("container {ctid} is privileged: its ids are the host's"));
        return Some(map);
    }
    let range =
        |r: &crate::idmap::IdRange| (r.kind.letter().to_string(), r.container, r.host, r.count);
    report.idmap = map.ranges().iter().map(range).collect();
    let kind = if map.same_mapping(&IdMap::default_unprivileged()) {
        "Proxmox's default id map"
    } else {
        "an id map of its own (lxc.idmap)"
    };
    let words = ids::words(&map);
    report.say("IdMap", format!("container {ctid} is unprivileged, with {kind}: {words}"));
    if let Some(holes) = ids::holes(&map) {
        report.say("IdMapHoles", holes);
    }
    if container_map::waits_for_restart(container) {
        let after = conf.effective_idmap().map(|map| ids::words(&map)).unwrap_or_default();
        let now = Notice::IdmapPendingRestart;
        report.warn(now.reason(), format!("{now}; after that: {after}"));
    }
    Some(map)
}

fn mount(desired: &Desired, own: Option<&IdMap>, bind: Bind) -> DoctorMount {
    let volume = desired.volumes.values().find(|volume| volume.host_path == bind.source);
    let own_idmap = bind.map != MountMap::None;
    let image = own.filter(|_| own_idmap).and_then(|own| bind.image(own));
    DoctorMount {
        key: bind.by.key(),
        line: bind.by.line().map(str::to_owned),
        volume: volume.map(|volume| volume.name.clone()),
        own_idmap,
        ids: image.map(|image| mount_map::describe(&image)),
        source: bind.source,
        target: bind.target,
        pending: bind.pending,
        going: bind.going,
    }
}
