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
    CreateContainer, EditConf, Hold, Plans, RemoveMount, SetMount, Step, plan,
};
use pctd_core::subids::SubIds;

use crate::world::{BOOT, file_system, mappable};

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

    fn certificates(&self, name: &VolumeName) -> ObservedCertificates {
        if !matches!(self.sources[name], Source::Directory { .. }) {
            return ObservedCertificates::default();
        }
        let file = |found: &Option<String>| match found {
            None => PairFile::Missing,
            Some(fingerprint) => PairFile::File { fingerprint: fingerprint.clone() },
        };
        let nothing = (None, None);
        let pair = |domain: &String| {
            let found = self.pairs.get(&(name.clone(), domain.clone())).unwrap_or(&nothing);
            ObservedPair { key: file(&found.0), certificate: file(&found.1) }
        };
        let domains = self.desired.volumes[name].certificates.iter().map(|c| &c.domain);
        let pairs = domains.map(|domain| (domain.clone(), pair(domain))).collect();
        ObservedCertificates { at: self.now.as_secs(), pairs }
    }

    fn create_certificate(
        &mut self,
        name: &VolumeName,
        create: &CreateCertificate,
        crash: Option<Crash>,
    ) {
        let (volume, domain) = (name.clone(), create.domain.clone());
        let found = self.pairs.entry((volume.clone(), domain.clone())).or_default();
        let nothing = CertificateRecord::default();
        let record = self.ledger.certificate(name, &domain).unwrap_or(&nothing);
        let own: Vec<&PairRecord> = record.made.iter().chain(&record.making).collect();
        let is_own = |file: &Option<String>| {
            let known =
                |file: &String| own.iter().any(|p| p.key == *file || p.certificate == *file);
            file.as_ref().is_none_or(known)
        };
        assert!(is_own(&found.0) && is_own(&found.1), "{domain}: somebody else's: {found:?}");
        let number = self.taken.len();
        let names = std::iter::once(&domain).chain(&create.alt_names).cloned().collect();
        let pair = PairRecord {
            key: format!("key {number}"),
            certificate: format!("certificate {number}"),
            names,
            days: create.days,
            // Longer than any settling takes, or it would be renewed on and on.
            expires: (self.now + Duration::from_hours(24 * u64::from(create.days))).as_secs(),
        };
        if crash != Some(Crash::BeforeStep) {
            found.0 = Some(pair.key.clone());
        }
        if crash.is_none_or(|crash| crash == Crash::AfterStep) {
            found.1 = Some(pair.certificate.clone());
        }
        self.ledger.enter(match crash {
            Some(_) => LedgerEntry::CertificateIntended { volume, domain, pair },
            None => LedgerEntry::CertificateMade { volume, domain, pair },
        });
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
                return None;
            }
            last = Some(step);
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

    fn set_ownership(&mut self, name: &VolumeName, rule: &OwnershipRule, crash: Option<Crash>) {
        let Some(Source::Directory { root, entries }) = self.sources.get_mut(name) else {
            panic!("{name} is no directory");
        };
        if crash == Some(Crash::BeforeStep) {
            return;
        }
        if rule.looks_below() {
            for (name, entry) in entries.iter_mut() {
                change(entry, rule.decide(Place::Below(name.as_bytes()), entry));
            }
        }
        if crash != Some(Crash::Midway) {
            // Last: a right root is what says that all is right.
            change(root, rule.decide(Place::Root, root));
        }
    }

    /// The container a step may edit now.
    fn editable(&mut self, ctid: Ctid) -> &mut ObservedContainer {
        let container = self.editable_if_protected(ctid);
        assert!(!container.conf.is_protected(), "{ctid} is protected");
        container
    }

    /// The same for what protection does not keep from being edited.
    fn editable_if_protected(&mut self, ctid: Ctid) -> &mut ObservedContainer {
        let Some(Guest::Here(container)) = self.guests.get_mut(&ctid) else {
            panic!("{ctid} is not here");
        };
        let NodeState::Up(cluster) = &self.state else { panic!("the node is unknown") };
        assert!(cluster.quorate, "no quorum");
        assert!(container.conf.lock().is_none(), "{ctid} is locked");
        assert!(!container.flock_held, "{ctid} is busy");
        container
    }

    fn set_mount(&mut self, ctid: Ctid, set: &SetMount, crash: Option<Crash>) {
        let ledger = self.ledger.clone();
        let desired = Arc::clone(&self.desired);
        let volume = &desired.volumes[&set.volume];
        let target = &volume.mounts[&ctid].target;
        let ready = matches!(self.sources[&set.volume], Source::Directory { .. });
        assert!(ready, "a source that is not there is not mounted");
        let container = self.editable(ctid);
        let adopt = volume.mounts[&ctid].adopt;
        assert_may_write(&container.conf, set, &volume.host_path, target, |entry, waits| {
            let is_bind = entry.parsed.as_ref().is_ok_and(|mp| mp.class == MountClass::Bind);
            ledger.is_own_mount(ctid, set.key, &entry.raw) || (adopt && is_bind && !waits)
        });
        let running = container.running != Running::No;
        let mount = MountPoint::parse(set.value.as_bytes()).unwrap();
        assert_eq!(mount.render(), set.value, "Proxmox would store another value");
        if crash.is_none_or(|crash| crash == Crash::AfterStep) {
            let conf = &mut container.conf;
            let (name, value) = (set.key.to_string(), set.value.as_str());
            let current = conf.current.get(&name).map(ToOwned::to_owned);
            // Stopped, or new and so hot-plugged, or back to what is in force: current at once.
            if !running || current.as_deref().is_none_or(|current| current == value.as_bytes()) {
                conf.current.set(&name, value);
                conf.pending.section.remove(&name);
            } else {
                conf.pending.section.set(&name, value);
            }
            conf.pending.remove_delete(&name);
            rewrite(ctid, conf);
        }
        let (key, value) = (set.key, set.value.clone());
        // A crash leaves only what was written ahead.
        self.ledger.enter(match crash {
            Some(_) => LedgerEntry::MountIntended { ctid, key, value },
            None => LedgerEntry::MountWritten { ctid, key, value },
        });
    }

    /// Edits the text as it would stand in the file: whatever is not named stays as it is.
    fn edit_conf(&mut self, ctid: Ctid, edit: &EditConf, crash: Option<Crash>) {
        let ledger = self.ledger.clone();
        let is_fresh = ledger.making.contains_key(&ctid);
        let desired = Arc::clone(&self.desired);
        let pruned = edit.add.is_empty();
        assert!(!pruned || is_fresh || desired.settings.prune, "prune is off");
        assert!(
            !pruned || is_fresh || self.removal == Removal::Allowed,
            "nothing may be concluded"
        );
        let sources = self.sources.iter();
        let directories: BTreeSet<VolumeName> = sources
            .filter(|(_, source)| matches!(source, Source::Directory { .. }))
            .map(|(name, _)| name.clone())
            .collect();
        let container = self.editable(ctid);
        let running = container.running != Running::No;
        assert_eq!(edit.after_restart, running);
        let mounts: Vec<(&Volume, &Mount)> = desired.mounts_of(ctid).collect();
        let declared = |line: &MountLine| {
            mounts.iter().find(|(_, mount)| line.target == mount.target.as_str())
        };
        let mount_of = |line: &RawLine| {
            MountLine::parse(line.value().as_bytes()).filter(|_| line.key() == RawLine::MOUNT_ENTRY)
        };
        for line in edit.add.iter().filter_map(mount_of) {
            let (volume, mount) = declared(&line).expect("a mount that nobody declared");
            assert!(matches!(mount.mechanism, Mechanism::Lxc { .. }), "made by pct");
            assert_eq!(line.source, volume.host_path.as_str());
            let ready = directories.contains(&volume.name);
            assert!(ready, "a source that is not there keeps the container from starting");
            let may_map = container.conf.is_effectively_unprivileged() || !line.is_mapped();
            assert!(may_map, "a map keeps a privileged container from starting");
        }
        for line in &edit.remove {
            let adopted =
                mount_of(line).is_some_and(|m| declared(&m).is_some_and(|(_, m)| m.adopt));
            let own = ledger.is_own_line(ctid, line) || adopted;
            assert!(own || is_fresh && !running, "`{line}` is somebody else's");
        }
        let maps = |lines: &[RawLine]| lines.iter().any(|line| line.key() == RawLine::IDMAP);
        let before = container.conf.effective_idmap();
        let mut lines: Vec<_> = container.conf.current.lxc().to_vec();
        for line in &edit.remove {
            let is_it =
                |(key, value): &(String, BString)| *key == line.key() && *value == line.value();
            let at = lines.iter().position(is_it);
            lines.remove(at.unwrap_or_else(|| panic!("`{line}` is not there")));
        }
        lines.extend(edit.add.iter().map(|line| (line.key().to_owned(), line.value().into())));
        let mut after = container.conf.current.clone();
        after.set_lxc(lines);
        if maps(&edit.add) || maps(&edit.remove) {
            let (before, after) = (before.unwrap(), after.effective_idmap().unwrap());
            let moved = before.moved(&after);
            let root = moved.iter().any(|ids| ids.first == 0);
            assert!(moved.is_empty() || is_fresh && !running && !root, "files of {moved:?}");
        }
        let text = container.conf.rewritten().unwrap();
        let edited = edit.edit().apply(ctid, &text).unwrap();
        let init = match container.running {
            Running::Yes { init, .. } => init,
            Running::No => None,
        };
        if crash.is_none_or(|crash| crash == Crash::AfterStep) {
            container.conf = Conf::parse(ctid, &edited).unwrap();
            assert_eq!(container.conf.current, after, "another conf than was meant");
        }
        self.ledger.enter(LedgerEntry::LinesIntended { ctid, lines: edit.add.clone() });
        if running {
            let (added, removed) = (edit.add.clone(), edit.remove.clone());
            let edited = Edited { boot: BOOT.to_owned(), init, added, removed };
            let edited = match ledger.edited.get(&ctid).cloned() {
                Some(before) => before.then(edited),
                None => edited,
            };
            self.ledger.enter(LedgerEntry::EditWaits { ctid, edited: Some(edited) });
        }
    }

    /// Enters a container that pctd makes under an id that is nobody's and never was anybody's.
    fn make(&mut self, ctid: Ctid, how: Making, text: &str, crash: Option<Crash>) {
        let absent = matches!(self.guests.get(&ctid), Some(Guest::Away(Presence::Absent)) | None);
        assert!(absent, "{ctid} is somebody's");
        assert!(!self.ledger.seen.contains(&ctid), "{ctid} was here before");
        self.ledger.enter(LedgerEntry::MakeIntended { ctid, how });
        if crash.is_none_or(|crash| crash == Crash::AfterStep) {
            let conf = Conf::parse(ctid, text.as_bytes()).unwrap();
            let made = ObservedContainer { conf, flock_held: false, running: Running::No };
            self.guests.insert(ctid, Guest::Here(Box::new(made)));
        }
    }

    fn create(&mut self, ctid: Ctid, create: &CreateContainer, crash: Option<Crash>) {
        let mut text = "arch: amd64\nrootfs: local:1/x.raw\nswap: 512\n".to_owned();
        if create.unprivileged {
            text += "unprivileged: 1\n";
        }
        for (name, value) in &create.set {
            text = text + name + ": " + value + "\n";
        }
        self.make(ctid, Making::Create, &text, crash);
    }

    fn clone_container(&mut self, ctid: Ctid, clone: &CloneContainer, crash: Option<Crash>) {
        let Some(Guest::Here(source)) = self.guests.get(&clone.from) else {
            panic!("{} is not here", clone.from);
        };
        assert!(source.conf.lock().is_none() && !source.flock_held, "the source is busy");
        let named = clone.snapshot.as_ref();
        let section = named.map_or(&source.conf.current, |name| &source.conf.snapshots[name]);
        assert!(named.is_some() || source.running == Running::No, "the source runs");
        let bound = section.volumes().any(|(_, mount)| mount.class != MountClass::Volume);
        assert!(!bound, "a bind mount is never cloned");
        let mut copy = source.conf.clone();
        copy.current = section.clone();
        copy.pending = pctd_core::conf::Pending::default();
        copy.snapshots.clear();
        for name in ["lock", "template", "parent", "snaptime"] {
            copy.current.remove(name);
        }
        if let Some(name) = &clone.hostname {
            copy.current.set("hostname", name.as_str());
        }
        let text = String::from_utf8(copy.rewritten().unwrap()).unwrap();
        self.make(ctid, Making::Clone, &text, crash);
    }

    fn configure(&mut self, ctid: Ctid, configure: &ConfigureContainer, crash: Option<Crash>) {
        let container = self.editable_if_protected(ctid);
        if crash.is_none_or(|crash| crash == Crash::AfterStep) {
            for (name, value) in &configure.set {
                container.conf.current.set(name, value.as_str());
            }
            for name in &configure.delete {
                assert!(container.conf.current.remove(name).is_some(), "{name} is not there");
            }
            rewrite(ctid, &mut container.conf);
        }
    }

    /// A source of the container, as it would be started, that is not there.
    fn missing_source(&self, ctid: Ctid) -> Option<String> {
        let conf = self.conf(ctid)?;
        let missing: BTreeSet<&str> = (self.desired.volumes.values())
            .filter(|v| !matches!(self.sources[&v.name], Source::Directory { .. }))
            .map(|v| v.host_path.as_str())
            .collect();
        let after =
            conf.mounts().iter().filter(|(key, _)| !conf.pending_mounts().contains_key(key));
        let after = after.filter(|(key, _)| !conf.pending_delete(**key));
        let source = |(_, entry): (&MpKey, &MountEntry)| {
            let mount = entry.parsed.as_ref().ok().filter(|mp| mp.class == MountClass::Bind)?;
            String::from_utf8(normalise_path(&mount.volume).to_vec()).ok()
        };
        let mut sources = after.chain(conf.pending_mounts()).filter_map(source);
        sources.find(|source| missing.contains(source.as_str()))
    }

    fn start(&mut self, ctid: Ctid) {
        assert!(self.ledger.start_owed.contains(&ctid), "{ctid} was not stopped by pctd");
        assert_eq!(self.missing_source(ctid), None, "{ctid} would not start");
        let Some(Guest::Here(container)) = self.guests.get_mut(&ctid) else {
            panic!("{ctid} is not here");
        };
        assert_eq!(container.running, Running::No, "{ctid} runs");
        assert!(container.conf.lock().is_none() && !container.flock_held, "{ctid} is locked");
        container.running = running(&container.conf, None);
    }

    fn converting(&mut self, ctid: Ctid, was_running: bool, phase: ConversionPhase) {
        let unprivileged = self.desired.containers[&ctid].unprivileged.unwrap();
        let conversion = Conversion { unprivileged, was_running, phase };
        self.ledger.enter(LedgerEntry::Converting { ctid, conversion });
    }

    /// Goes through a phase of a conversion. A crash midway through a restore loses the container,
    /// and only its backup is left.
    fn convert(&mut self, ctid: Ctid, convert: &ConvertContainer, crash: Option<Crash>) {
        let is_done = crash.is_none_or(|crash| crash == Crash::AfterStep);
        let was_running = self.ledger.converting.get(&ctid).is_some_and(|now| now.was_running);
        match convert.phase {
            ConvertPhase::Stop => {
                assert_eq!(self.desired.settings.restart, Restart::IfPending, "not to be stopped");
                self.converting(ctid, true, ConversionPhase::Stopping);
                let container = self.editable(ctid);
                assert_ne!(container.running, Running::No, "{ctid} does not run");
                if is_done {
                    apply_pending(&mut container.conf);
                    rewrite(ctid, &mut container.conf);
                    container.running = Running::No;
                }
            }
            ConvertPhase::Replace => {
                let begun = self.ledger.converting.get(&ctid);
                let earlier = begun.and_then(Conversion::cut_off).cloned();
                self.converting(ctid, was_running, ConversionPhase::BackingUp { earlier });
                let container = self.editable(ctid);
                assert_eq!(container.running, Running::No, "a running container is backed up");
                let conf = container.conf.clone();
                assert_nothing_is_lost(&conf);
                if crash == Some(Crash::BeforeStep) {
                    return;
                }
                let archive = format!("archive {}", self.taken.len());
                self.archives.insert(archive.clone(), conf);
                let disks = convert.disks.clone().unwrap();
                let backup = Backup { archive: archive.clone(), disks };
                let phase = ConversionPhase::Restoring { backup: backup.clone() };
                self.converting(ctid, was_running, phase);
                if crash == Some(Crash::Midway) {
                    self.guests.insert(ctid, Guest::Away(Presence::Absent));
                    return;
                }
                self.restore(ctid, &archive, convert.unprivileged);
                if crash.is_none() {
                    self.converting(ctid, was_running, ConversionPhase::Restored { backup });
                }
            }
            ConvertPhase::Restore | ConvertPhase::RollBack => {
                let archive = convert.archive.clone().unwrap();
                assert!(
                    matches!(self.guests[&ctid], Guest::Away(Presence::Absent)),
                    "an old backup is restored over {ctid}"
                );
                if is_done {
                    self.restore(ctid, &archive, convert.unprivileged);
                }
            }
            ConvertPhase::Start => {
                let is_unprivileged = self.conf(ctid).unwrap().is_effectively_unprivileged();
                let end = self.ledger.converting[&ctid].end(ctid, is_unprivileged);
                let at = self.now.as_secs();
                for entry in
                    [end, LedgerEntry::Restarted { ctid, at }, LedgerEntry::StartOwed(ctid)]
                {
                    self.ledger.enter(entry);
                }
                // What is missing is told by the plan of the start that is owed from now on.
                if is_done && self.missing_source(ctid).is_none() {
                    self.start(ctid);
                }
            }
        }
    }

    fn restore(&mut self, ctid: Ctid, archive: &str, unprivileged: bool) {
        let mut conf = self.archives[archive].clone();
        if unprivileged {
            conf.current.set("unprivileged", "1");
        } else {
            conf.current.remove("unprivileged");
        }
        rewrite(ctid, &mut conf);
        let container = ObservedContainer { conf, flock_held: false, running: Running::No };
        self.guests.insert(ctid, Guest::Here(Box::new(container)));
    }

    fn remove_mount(&mut self, ctid: Ctid, remove: &RemoveMount, crash: Option<Crash>) {
        let RemoveMount { key, value, pending, .. } = remove;
        assert!(self.desired.settings.prune, "prune is off");
        assert_eq!(self.removal, Removal::Allowed, "nothing may be concluded");
        let ledger = self.ledger.clone();
        assert!(ledger.is_own_mount(ctid, *key, value.as_bytes()), "{key} is somebody else's");
        assert!(!ledger.is_borrowed(ctid, *key), "{key} is somebody else's");
        let by_pct = |(_, mount): &(&Volume, &Mount)| mount.mechanism == Mechanism::Pct;
        let mounts = self.desired.mounts_of(ctid).filter(by_pct);
        let targets: BTreeSet<String> = mounts.map(|(_, mount)| mount.target.clone()).collect();
        let container = self.editable(ctid);
        let running = container.running != Running::No;
        let conf = &mut container.conf;
        let of = if *pending { conf.pending_mounts() } else { conf.mounts() };
        let entry = &of[key];
        assert_eq!(entry.raw, value.as_str(), "another value than was planned on");
        let class = entry.parsed.as_ref().unwrap().class;
        assert_eq!(class, MountClass::Bind, "a disk of a storage is never removed");
        let target = normalise_path(&entry.parsed.as_ref().unwrap().target).to_string();
        assert!(!targets.contains(&target), "{key} is desired");
        let name = key.to_string();
        if crash.is_none_or(|crash| crash == Crash::AfterStep) {
            if *pending {
                conf.pending.section.remove(&name);
                conf.pending.remove_delete(&name);
            } else {
                assert!(!conf.pending_mounts().contains_key(key), "it would become current");
                if running {
                    conf.pending.add_delete(&name, Force::No);
                } else {
                    conf.current.remove(&name);
                    conf.pending.remove_delete(&name);
                }
            }
            rewrite(ctid, conf);
        }
        if crash.is_none() && !conf.mount_keys_in_use().contains(key) {
            self.ledger.enter(LedgerEntry::MountForgotten { ctid, key: *key });
        }
    }

    fn reboot(
        &mut self,
        ctid: Ctid,
        (keys, lines): (&[MpKey], &[RawLine]),
        others: &[String],
        crash: Option<Crash>,
    ) {
        let (now, ledger) = (self.now.as_secs(), self.ledger.clone());
        // The daemon looks first: a start without a source would leave the guest stopped.
        assert_eq!(self.missing_source(ctid), None, "{ctid} would not start again");
        let edited = ledger.edited.get(&ctid);
        for line in lines {
            let ours = edited.is_some_and(|e| e.added.contains(line) || e.removed.contains(line));
            assert!(ours, "restarted for a line of others");
        }
        assert!(!keys.is_empty() || !lines.is_empty(), "restarted for nothing");
        let container = self.editable(ctid);
        let conf = &mut container.conf;
        let own: BTreeSet<String> = keys.iter().map(ToString::to_string).collect();
        for key in keys {
            let waits = conf.pending_mounts().get(key).or_else(|| conf.mounts().get(key));
            let ours = waits.is_some_and(|mount| ledger.is_own_mount(ctid, *key, &mount.raw));
            assert!(ours, "restarted for others");
        }
        let named: BTreeSet<String> = others.iter().cloned().chain(own).collect();
        assert_eq!(named, conf.pending_names(), "every change that takes effect is named");
        if crash != Some(Crash::BeforeStep) {
            apply_pending(conf);
            rewrite(ctid, conf);
            container.running = match container.running {
                Running::No => panic!("a stopped container is not restarted"),
                // Its start failed, or never came.
                Running::Yes { .. } if crash == Some(Crash::Midway) => Running::No,
                Running::Yes { init, .. } => {
                    let init = init.map(|pid| pid + 1);
                    Running::Yes { init, map: container.conf.effective_idmap().ok() }
                }
            };
        }
        self.ledger.enter(LedgerEntry::Restarted { ctid, at: now });
        self.ledger.enter(LedgerEntry::StartOwed(ctid));
        if crash.is_none() {
            self.ledger.enter(LedgerEntry::EditWaits { ctid, edited: None });
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

/// Panics where the mount to be written is not pctd's to write.
fn assert_may_write(
    conf: &Conf,
    set: &SetMount,
    path: &str,
    target: &str,
    is_own: impl Fn(&MountEntry, bool) -> bool,
) {
    assert!(!conf.pending_delete(set.key), "{} is being deleted by somebody", set.key);
    let at_target = |entry: &MountEntry| {
        entry.parsed.as_ref().is_ok_and(|mp| normalise_path(&mp.target) == target)
    };
    let same_source = |entry: &MountEntry| {
        entry
            .parsed
            .as_ref()
            .is_ok_and(|mp| mp.class == MountClass::Bind && normalise_path(&mp.volume) == path)
    };
    match (conf.mounts().get(&set.key), conf.pending_mounts().get(&set.key)) {
        (_, Some(pending)) => {
            assert!(is_own(pending, true), "{} is pending of somebody else", set.key);
        }
        (Some(now), None) => {
            assert!(at_target(now), "{} is another mount", set.key);
            assert!(same_source(now) || is_own(now, false), "{} is somebody else's", set.key);
        }
        (None, None) => {}
    }
    let all = conf.mounts().iter().chain(conf.pending_mounts());
    let twice = all.filter(|(key, entry)| **key != set.key && at_target(entry)).count();
    assert_eq!(twice, 0, "{target} would be mounted twice");
}

/// Panics where a backup does not have everything of a container.
fn assert_nothing_is_lost(conf: &Conf) {
    assert!(conf.snapshots.is_empty(), "snapshots are lost");
    assert!(conf.pending.is_empty(), "what is pending is lost");
    assert!(!conf.is_template(), "a template is converted");
    for entry in conf.mounts().values() {
        let mount = entry.parsed.as_ref().unwrap();
        let is_kept = match mount.class {
            MountClass::Bind => true,
            MountClass::Device => false,
            MountClass::Volume => mount.is_on("backup"),
        };
        assert!(is_kept, "{} is lost", entry.raw);
    }
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

fn change(entry: &mut EntryStat, change: Option<Change>) {
    let Some(change) = change else { return };
    if let Some(ids) = change.owner {
        entry.ids = ids;
        if entry.kind == EntryKind::File {
            // As the kernel does on every chown of a file.
            entry.mode &= !0o6000;
        }
    }
    if let Some(mode) = change.mode {
        entry.mode = mode;
    }
}

/// A read-only walk.
fn walk(rule: &OwnershipRule, root: &EntryStat, entries: &[(&'static str, EntryStat)]) -> Audit {
    let below = entries.iter().map(|(name, entry)| (Place::Below(name.as_bytes()), entry));
    let below = below.filter(|_| rule.looks_below());
    let mut audit = Audit::default();
    for (place, entry) in std::iter::once((Place::Root, root)).chain(below) {
        audit.entries += 1;
        if let Some(change) = rule.decide(place, entry) {
            audit.changes += 1;
            audit.owners += u64::from(change.owner.is_some());
            audit.modes += u64::from(change.mode.is_some());
        }
    }
    audit
}

/// Makes a running container of this conf; `in_force` where its map is another one than the conf's.
pub(crate) fn running(conf: &Conf, in_force: Option<IdMap>) -> Running {
    Running::Yes { init: Some(1000), map: in_force.or_else(|| conf.effective_idmap().ok()) }
}
