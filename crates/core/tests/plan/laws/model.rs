//! A small node that does what a step says as Proxmox would do it (PROXMOX.md 4 and 9), and a
//! daemon on it that looks, keeps its ledger and takes one step at a time as the real one does.
//!
//! Everything that may not be done at all is a panic here: a locked conf is never edited, a mount
//! of somebody else is never changed, a guest is never restarted behind an admin's back.

#![expect(clippy::unwrap_used, reason = "a world that does not hold together is a mistake here")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bstr::BString;
use pctd_core::conf::{
    Conf, Force, MountClass, MountEntry, MountLine, MountPoint, RawLine, normalise_path,
};
use pctd_core::desired::{Desired, Mechanism, Mode, Mount, Restart, Source as MadeFrom, Volume};
use pctd_core::idmap::IdMap;
use pctd_core::ids::{Ctid, HostIds, Key, MpKey, VolumeName};
use pctd_core::ledger::{
    Backup, CertificateRecord, Conversion, ConversionPhase, Edited, Ledger, LedgerEntry, Making,
    Memory, PairRecord,
};
use pctd_core::observed::{
    Accounts, Audit, BadSource, Cluster, ConvertFacts, MakingFacts, MappingSupport, NodeState,
    ObservedCertificates, ObservedContainer, ObservedPair, ObservedVolume, PairFile, Presence,
    Removal, Requests, Running, Snapshot, SourceDir, SourceState, TemplateState,
};
use pctd_core::ownership::{Change, EntryKind, EntryStat, OwnershipRule, Place};
use pctd_core::plan::{
    CloneContainer, ConfigureContainer, ConvertContainer, ConvertPhase, CreateCertificate,
    CreateContainer, EditConf, Hold, Plans, Readiness, RemoveMount, SetMount, Step, plan,
};
use pctd_core::subids::SubIds;

use crate::world::{BOOT, file_system, mappable};

mod confs;
mod making;
mod volumes;

use volumes::walk;

/// What lies at the host path of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    Missing,
    File,
    Directory { root: EntryStat, entries: Vec<(&'static str, EntryStat)> },
}

/// A container's id, as far as it is anybody's.
#[derive(Debug, Clone)]
pub(crate) enum Guest {
    Here(Box<ObservedContainer>),
    Away(Presence),
}

/// Where the daemon is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Crash {
    /// What is written ahead is in the ledger, the step is not done.
    BeforeStep,
    /// A walk has put right what lies below the root, a restart has stopped the guest; any other
    /// step as [`Crash::BeforeStep`].
    Midway,
    /// The step is done, and nobody has looked at what came of it.
    AfterStep,
}

/// A crash at the step of this number.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fuse {
    pub(crate) step: usize,
    pub(crate) crash: Crash,
}

/// The node with its daemon.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) desired: Arc<Desired>,
    pub(crate) state: NodeState,
    pub(crate) guests: BTreeMap<Ctid, Guest>,
    pub(crate) sources: BTreeMap<VolumeName, Source>,
    pub(crate) file_system: &'static str,
    /// Whether every run walks its volume.
    pub(crate) verify: bool,
    /// Fingerprints of key and certificate by volume and domain.
    pub(crate) pairs: BTreeMap<(VolumeName, String), (Option<String>, Option<String>)>,
    pub(crate) ledger: Ledger,
    pub(crate) memory: Memory,
    /// What may follow from what the configuration does not say.
    pub(crate) removal: Removal,
    /// Steps taken, for the laws to look at.
    pub(crate) taken: Vec<(Key, Step)>,
    fuse: Option<Fuse>,
    now: Duration,
    /// What only the process knows; gone after a crash.
    not_ready_since: BTreeMap<Ctid, Duration>,
    restart_failed: BTreeMap<Ctid, String>,
    /// Volumes that containers need not wait for, as the daemon keeps them in mind.
    held: BTreeSet<VolumeName>,
    /// The confs that backups hold, by archive.
    archives: BTreeMap<String, Conf>,
}

impl Node {
    pub(crate) fn new(desired: Arc<Desired>) -> Self {
        let cluster = Cluster { node: "pve".to_owned(), quorate: true, online: BTreeSet::new() };
        Self {
            desired,
            state: NodeState::Up(cluster),
            guests: BTreeMap::new(),
            sources: BTreeMap::new(),
            file_system: "ext4:1",
            verify: true,
            pairs: BTreeMap::new(),
            ledger: Ledger::default(),
            memory: Memory::Whole,
            removal: Removal::Allowed,
            taken: Vec::new(),
            fuse: None,
            now: Duration::from_hours(1000),
            not_ready_since: BTreeMap::new(),
            restart_failed: BTreeMap::new(),
            held: BTreeSet::new(),
            archives: BTreeMap::new(),
        }
    }

    pub(crate) fn keys(&self) -> Vec<Key> {
        let volumes = self.desired.volumes.keys().cloned().map(Key::Volume);
        volumes.chain(self.desired.ctids().into_iter().map(Key::Container)).collect()
    }

    pub(crate) fn conf(&self, ctid: Ctid) -> Option<&Conf> {
        match self.guests.get(&ctid) {
            Some(Guest::Here(container)) => Some(&container.conf),
            _ => None,
        }
    }

    fn since(&self, then: Duration) -> Duration {
        self.now.saturating_sub(then)
    }

    /// What the daemon sees when it looks for these keys, without a walk.
    pub(crate) fn snapshot(&self, keys: &[Key]) -> Snapshot {
        let mut containers = BTreeSet::new();
        let mut volumes = BTreeSet::new();
        for key in keys {
            match key {
                Key::Container(ctid) => {
                    containers.insert(*ctid);
                    containers.extend(self.desired.source_of(*ctid));
                    volumes.extend(self.desired.mounts_of(*ctid).map(|(v, _)| v.name.clone()));
                }
                Key::Volume(name) => drop(volumes.insert(name.clone())),
            }
        }
        for name in &volumes {
            containers.extend(self.desired.volumes[name].mounts.keys().copied());
        }
        let presence = |ctid: &Ctid| match self.guests.get(ctid) {
            Some(Guest::Here(container)) => Presence::Here(container.clone()),
            Some(Guest::Away(presence)) => presence.clone(),
            None => Presence::Absent,
        };
        let source = |name: &VolumeName| {
            let source = match &self.sources[name] {
                Source::Missing => {
                    SourceState::Missing { file_system: file_system(self.file_system) }
                }
                Source::File => SourceState::NotDirectory,
                Source::Directory { root, .. } => SourceState::Directory(SourceDir {
                    ids: root.ids,
                    mode: root.mode,
                    exposed: true,
                    file_system: file_system(self.file_system),
                }),
            };
            let certificates = self.certificates(name);
            let mapping = MappingSupport::Yes;
            let mapping_whole = mapping.clone();
            ObservedVolume { certificates, mapping, mapping_whole, ..ObservedVolume::new(source) }
        };
        let waited = |ctid: &Ctid| Some((*ctid, self.since(*self.not_ready_since.get(ctid)?)));
        let restarted = self.ledger.restarted.iter();
        let templates = self.desired.containers.values().filter_map(|def| match &def.source {
            Some(MadeFrom::Template(name)) => {
                Some((name.clone(), TemplateState::Usable(name.clone())))
            }
            _ => None,
        });
        let templates = templates.collect();
        let nobody = HostIds::new(65_534, 65_534);
        Snapshot {
            elsewhere: BTreeMap::new(),
            node: self.state.clone(),
            waited: containers.iter().filter_map(waited).collect(),
            containers: containers.iter().map(|ctid| (*ctid, presence(ctid))).collect(),
            volumes: volumes.iter().map(|name| (name.clone(), source(name))).collect(),
            ledger: Arc::new(self.ledger.clone()),
            memory: self.memory.clone(),
            restarted: restarted
                .map(|(c, at)| (*c, self.since(Duration::from_secs(*at))))
                .collect(),
            bad_sources: containers
                .iter()
                .filter_map(|ctid| Some((*ctid, BadSource::Missing(self.missing_source(*ctid)?))))
                .collect(),
            sub_ids: SubIds::default(),
            boot: BOOT.to_owned(),
            accounts: Accounts {
                users: BTreeMap::from([("nobody".to_owned(), nobody)]),
                groups: BTreeMap::from([("nogroup".to_owned(), 65_534)]),
            },
            making: MakingFacts { templates, ..MakingFacts::default() },
            mapping: mappable(),
            converting: containers.iter().map(|ctid| (*ctid, ConvertFacts::default())).collect(),
            requests: Requests {
                restart_failed: self.restart_failed.clone(),
                held: self.held.clone(),
                removal: self.removal,
                ..Requests::default()
            },
        }
    }

    /// Looks for one key: walks its volume where the plan needs it, or when told to.
    pub(crate) fn look(&mut self, key: &Key, verify: bool) -> Plans {
        let mut snapshot = self.snapshot(std::slice::from_ref(key));
        let desired = Arc::clone(&self.desired);
        let mut plans = plan(&desired, &snapshot);
        self.remember_waits(&mut snapshot, &plans);
        if !snapshot.waited.is_empty() {
            plans = plan(&desired, &snapshot);
        }
        let Key::Volume(name) = key else { return plans };
        let Some(planned) = plans.volumes.get(name) else { return plans };
        let (Some(rule), true) = (&planned.rule, planned.needs_audit || verify) else {
            return plans;
        };
        if let Source::Directory { root, entries } = &self.sources[name] {
            let observed = snapshot.volumes.get_mut(name).unwrap();
            observed.audit = Some(walk(rule, root, entries));
            plans = plan(&desired, &snapshot);
        }
        plans
    }

    fn remember_waits(&mut self, snapshot: &mut Snapshot, plans: &Plans) {
        for ctid in snapshot.containers.keys() {
            let holds = plans.containers.get(ctid).map_or(&[][..], |plan| &plan.holds);
            let waits = holds.iter().any(|hold| {
                matches!(
                    hold,
                    Hold::IdmapNotReady { .. }
                        | Hold::UnprivilegedMismatch { .. }
                        | Hold::CreateInterrupted { .. }
                )
            });
            if waits {
                self.not_ready_since.entry(*ctid).or_insert(self.now);
            } else {
                self.not_ready_since.remove(ctid);
                snapshot.waited.remove(ctid);
            }
        }
    }

    /// Runs one key until its plan has nothing more to do; `None` when the daemon was killed.
    pub(crate) fn run(&mut self, key: &Key) -> Option<Plans> {
        let mut verify = self.verify;
        let mut last: Option<Step> = None;
        loop {
            let plans = self.look(key, verify);
            self.enter_records(&plans, key);
            let Some(step) = executable(&self.desired, plans.steps(key)) else {
                self.remember_held(&plans, key);
                return Some(plans);
            };
            assert_ne!(last.as_ref(), Some(step), "taken, and planned again: {key}");
            let step = step.clone();
            verify = matches!(step, Step::SetOwnership(_));
            let crash =
                self.fuse.take_if(|fuse| fuse.step == self.taken.len()).map(|fuse| fuse.crash);
            self.taken.push((key.clone(), step.clone()));
            self.apply(key, &plans, &step, crash);
            if crash.is_some() {
                self.not_ready_since.clear();
                self.restart_failed.clear();
                self.held.clear();
                return None;
            }
            last = Some(step);
        }
    }

    fn remember_held(&mut self, plans: &Plans, key: &Key) {
        let Key::Volume(name) = key else { return };
        let plan = plans.volumes.get(name);
        if plan.is_some_and(|plan| plan.readiness == Readiness::Ready && !plan.holds.is_empty()) {
            self.held.insert(name.clone());
        } else {
            self.held.remove(name);
        }
    }

    fn enter_records(&mut self, plans: &Plans, key: &Key) {
        let records = match key {
            Key::Container(ctid) => plans.containers.get(ctid).map(|plan| &plan.records),
            Key::Volume(name) => plans.volumes.get(name).map(|plan| &plan.records),
        };
        for record in records.into_iter().flatten() {
            self.ledger.enter(record.clone());
        }
    }

    fn apply(&mut self, key: &Key, plans: &Plans, step: &Step, crash: Option<Crash>) {
        match (key, step) {
            (Key::Container(ctid), Step::CreateContainer(create)) => {
                self.create(*ctid, create, crash);
            }
            (Key::Container(ctid), Step::CloneContainer(clone)) => {
                self.clone_container(*ctid, clone, crash);
            }
            (Key::Container(ctid), Step::ConfigureContainer(configure)) => {
                self.configure(*ctid, configure, crash);
            }
            (Key::Container(ctid), Step::EditConf(edit)) => self.edit_conf(*ctid, edit, crash),
            (Key::Container(ctid), Step::SetMount(set)) => self.set_mount(*ctid, set, crash),
            (Key::Container(ctid), Step::RemoveMount(remove)) => {
                self.remove_mount(*ctid, remove, crash);
            }
            (Key::Container(ctid), Step::RebootContainer { keys, lines, others }) => {
                self.reboot(*ctid, (keys, lines), others, crash);
            }
            (Key::Container(ctid), Step::StartContainer {}) => {
                if crash.is_none_or(|crash| crash == Crash::AfterStep) {
                    self.start(*ctid);
                }
            }
            (Key::Container(ctid), Step::ConvertContainer(convert)) => {
                self.convert(*ctid, convert, crash);
            }
            (Key::Volume(name), Step::CreateDirectory { path }) => {
                assert_eq!(*path, self.desired.volumes[name].host_path);
                assert_eq!(self.sources[name], Source::Missing, "only what is missing is made");
                if crash.is_none_or(|crash| crash == Crash::AfterStep) {
                    let ids = HostIds::ROOT;
                    let root = EntryStat { kind: EntryKind::Directory, ids, mode: 0o700 };
                    let made = Source::Directory { root, entries: Vec::new() };
                    self.sources.insert(name.clone(), made);
                }
            }
            (Key::Volume(name), Step::CreateCertificate(create)) => {
                self.create_certificate(name, create, crash);
            }
            (Key::Volume(name), Step::SetOwnership(_)) => {
                let rule = plans.volumes[name].rule.as_ref().unwrap();
                self.set_ownership(name, rule, crash);
            }
            _ => panic!("{} is no step for {key}", step.name()),
        }
    }

    /// Runs the keys in this order until nothing is left to do, letting time pass in between so
    /// that every time limit runs out.
    pub(crate) fn settle(&mut self, order: &[usize]) {
        self.settle_with(order, None);
    }

    /// As [`Node::settle`], with a crash on the way; the daemon is then started again.
    pub(crate) fn settle_with(&mut self, order: &[usize], fuse: Option<Fuse>) {
        self.fuse = fuse;
        let keys = self.keys();
        // A volume is made, owned once and again when the last map turns up; a mount is written,
        // and after a crash once more; a container is restarted once for each of its changes.
        let mounts: usize = self.desired.volumes.values().map(|v| v.mounts.len()).sum();
        let pairs: usize = self.desired.volumes.values().map(|v| v.certificates.len()).sum();
        // A container is made, and finished, and each of both once more.
        let made = self.desired.containers.len();
        // Or it is converted in three phases, each of them twice, and all volumes with it.
        let bound = 6 * self.desired.volumes.len() + 4 * mounts + 4 * pairs + 10 * made + 4;
        for at in order {
            self.run(&keys[at % keys.len()]);
        }
        // Whatever waits for time to pass does so once, and is looked at again after that.
        let mut quiet = 0;
        while quiet < 2 {
            let before = self.taken.len();
            // A daemon that was killed has forgotten how long it waited.
            let killed = keys.iter().filter(|key| self.run(key).is_none()).count();
            if self.taken.len() == before && killed == 0 {
                quiet += 1;
                if quiet == 1 {
                    // Once, an admin asks for what is not tried again unasked.
                    self.restart_failed.clear();
                }
                self.now += Duration::from_hours(1);
            } else {
                quiet = 0;
            }
            assert!(self.taken.len() <= bound, "no end: {:?}", self.taken);
        }
    }

    /// The containers that are here, each with whether it is unprivileged.
    pub(crate) fn privileges(&self) -> BTreeMap<Ctid, bool> {
        let each = |ctid: &Ctid| Some((*ctid, self.conf(*ctid)?.is_effectively_unprivileged()));
        self.guests.keys().filter_map(each).collect()
    }

    /// The containers that run.
    pub(crate) fn running(&self) -> BTreeSet<Ctid> {
        let runs = |guest: &Guest| match guest {
            Guest::Here(container) => container.running != Running::No,
            Guest::Away(_) => false,
        };
        self.guests.iter().filter(|(_, guest)| runs(guest)).map(|(ctid, _)| *ctid).collect()
    }

    /// Every mount by its target, in force and waiting, whatever its key.
    pub(crate) fn mounts(&self) -> BTreeSet<(Ctid, bool, String)> {
        let here = self.guests.keys().filter_map(|ctid| Some((*ctid, self.conf(*ctid)?)));
        let each = |(ctid, conf): (Ctid, &Conf)| {
            let current = conf.mounts().values().map(move |m| (ctid, false, m.raw.to_string()));
            let pending = conf.pending_mounts().values();
            let pending = pending.map(move |m| (ctid, true, m.raw.to_string()));
            current.chain(pending).collect::<Vec<_>>()
        };
        here.flat_map(each).collect()
    }
}

/// The step a daemon would take of these: a mount waits for its volume.
pub(crate) fn executable<'s>(desired: &Desired, steps: &'s [Step]) -> Option<&'s Step> {
    let mut ready = steps.iter().filter(|step| !step.waits_for_volume());
    ready.next().filter(|_| desired.settings.mode == Mode::Enforce)
}

/// What `pct` does when it writes: the whole file, in its own order.
fn rewrite(ctid: Ctid, conf: &mut Conf) {
    let bytes = conf.rewritten().unwrap();
    *conf = Conf::parse(ctid, &bytes).unwrap();
}

/// What happens to what is pending when a container stops.
pub(crate) fn apply_pending(conf: &mut Conf) {
    for name in conf.pending.deletes().into_keys() {
        conf.current.remove(&name.to_string());
    }
    for (name, value) in conf.pending.section.properties().clone() {
        conf.current.set(&name, value);
    }
    conf.pending = pctd_core::conf::Pending::default();
}

/// Makes a running container of this conf; `in_force` where its map is another one than the conf's.
pub(crate) fn running(conf: &Conf, in_force: Option<IdMap>) -> Running {
    Running::Yes { init: Some(1000), map: in_force.or_else(|| conf.effective_idmap().ok()) }
}
