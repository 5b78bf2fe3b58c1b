//! Whose ids are whose: what there is to say of a container, and of one path, in plain words.
//!
//! Pure: what was observed and planned comes in, a value goes out. Every sentence rests on what the
//! planner itself uses: the id map that counts, the map as it is on disk behind a mount, the rule
//! for one entry. What it says pctd would do is what pctd would do.
//!
//! `place` finds out what a path means, `ids` puts an id map into words, `entry` what is at the path.

mod entry;
mod ids;
mod place;

use serde::{Deserialize, Serialize};

pub use place::{Located, locate};

use crate::conf::{Conf, MountClass, MountEntry, MountPoint, normalise_path};
use crate::desired::Desired;
use crate::idmap::IdMap;
use crate::ids::{Ctid, HostIds, Key, MpKey, VolumeName};
use crate::observed::{ObservedContainer, ObservedEntry, Presence, Snapshot};
use crate::plan::{Hold, Notice, Plans, Reason, Step, map_of};
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
    /// Its key in the conf.
    pub key: MpKey,
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
    /// The mount point it is reached through.
    pub mount: Option<MpKey>,
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
        if let Step::SetMount(set) = step {
            let (ctid, volume, key, value) = (case.ctid, &set.volume, set.key, &set.value);
            let what = format!(
                "volume {volume} is not mounted as declared: `pctd apply {ctid}` would set {key}: {value}"
            );
            report.warn("MountDiffers", what);
        }
    }
    if let Some((located, found)) = case.path {
        entry::explain(&mut report, case, map.as_ref(), located, found);
    }
    report
}

/// Explains where the container is and what its ids are; returns the map that counts.
fn container(report: &mut DoctorReport, case: &Case<'_>) -> Option<IdMap> {
    let ctid = case.ctid;
    let (presence, why) = match case.snapshot.containers.get(&ctid) {
        Some(Presence::Here(container)) => {
            "here".clone_into(&mut report.presence);
            report.mounts = mounts(case.desired, &container.conf);
            return map(report, case, container);
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
    let map = match map_of(case.desired, ctid, container) {
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
    if crate::plan::map_waits_for_restart(container) {
        let after = conf.effective_idmap().map(|map| ids::words(&map)).unwrap_or_default();
        let now = Notice::IdmapPendingRestart;
        report.warn(now.reason(), format!("{now}; after that: {after}"));
    }
    Some(map)
}

fn mounts(desired: &Desired, conf: &Conf) -> Vec<DoctorMount> {
    let of = |entries: &std::collections::BTreeMap<MpKey, MountEntry>, pending: bool| {
        let mount = |(key, entry): (&MpKey, &MountEntry)| {
            let mp = entry.parsed.as_ref().ok().filter(|mp| mp.class == MountClass::Bind)?;
            let source = normalise_path(&mp.volume).to_string();
            let volume = desired.volumes.values().find(|volume| volume.host_path == source);
            Some(DoctorMount {
                key: *key,
                target: normalise_path(&mp.target).to_string(),
                volume: volume.map(|volume| volume.name.clone()),
                source,
                pending,
                going: !pending && goes(conf, *key, mp),
                own_idmap: mp.idmap().is_some(),
            })
        };
        entries.iter().filter_map(mount).collect::<Vec<_>>()
    };
    let mut all = of(conf.mounts(), false);
    all.extend(of(conf.pending_mounts(), true));
    all
}

/// Returns whether a mount is not there any more after a restart.
fn goes(conf: &Conf, key: MpKey, mp: &MountPoint) -> bool {
    let is_other = |entry: &MountEntry| {
        entry.parsed.as_ref().is_ok_and(|next| {
            (&next.volume, normalise_path(&next.target)) != (&mp.volume, normalise_path(&mp.target))
        })
    };
    conf.pending_delete(key) || conf.pending_mounts().get(&key).is_some_and(is_other)
}
