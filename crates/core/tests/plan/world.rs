//! A small world for the planner: a configuration, confs and directories as short texts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use pctd_core::conf::Conf;
use pctd_core::config::{Strictness, load};
use pctd_core::desired::{Desired, Source};
use pctd_core::idmap::IdMap;
use pctd_core::ids::{Ctid, HostIds, VolumeName};
use pctd_core::ledger::{Edited, Ledger, LedgerEntry, Memory, PairRecord};
use pctd_core::observed::{
    Accounts, Audit, BadSource, Cluster, ConvertFacts, FileSystem, MakingFacts, MapConsent,
    MappingFacts, MappingSupport, NodeState, ObservedContainer, ObservedPair, ObservedVolume,
    PairFile, Presence, Removal, Requests, Running, Snapshot, SourceDir, SourceState,
    TemplateState,
};
use pctd_core::plan::{Effective, Hold, Plans, Step, plan};
use pctd_core::subids::{SubIds, SubRanges};

/// A conf of an ordinary unprivileged container, without mounts.
pub(crate) const UNPRIVILEGED: &str =
    "arch: amd64\nrootfs: local:1/x.raw,size=1G\nunprivileged: 1\n";
/// A conf of a privileged container.
pub(crate) const PRIVILEGED: &str = "arch: amd64\nrootfs: local:1/x.raw,size=1G\n";
/// The boot of the host.
pub(crate) const BOOT: &str = "this boot";
/// When certificates are looked at, in seconds since 1970.
pub(crate) const NOW: u64 = 1_000_000_000;
/// The second container of the classic conflict.
pub(crate) const SHIFTED: &str = "rootfs: local:1/x.raw\nunprivileged: 1\nlxc.idmap: u 0 200000 65536\nlxc.idmap: g 0 200000 65536\n";

/// Everything a plan is made from.
#[derive(Debug, Clone)]
pub(crate) struct World {
    pub(crate) desired: Desired,
    pub(crate) snapshot: Snapshot,
}

pub(crate) fn ctid(id: u32) -> Ctid {
    Ctid::new(id).unwrap()
}

pub(crate) fn volume(name: &str) -> VolumeName {
    name.parse().unwrap()
}

pub(crate) fn file_system(id: &str) -> FileSystem {
    FileSystem {
        id: id.to_owned(),
        kind: id.split(':').next().unwrap().to_owned(),
        mount_point: "/tank".to_owned(),
        is_root: false,
        required_mounted: None,
    }
}

/// A node that can map ids for mounts.
pub(crate) fn mappable() -> MappingFacts {
    MappingFacts { proxmox: MappingSupport::Yes, lxc: MappingSupport::Yes }
}

impl World {
    /// A world with this configuration, in which every volume is a directory owned by 100000 and
    /// nothing else exists.
    pub(crate) fn new(config: &str) -> Self {
        let files = [("config.json".to_owned(), config.as_bytes().to_vec())];
        let desired = load(&files, Strictness::Lenient).map_err(|e| e.to_string()).unwrap().desired;
        let ids = HostIds::new(100_000, 100_000);
        let directory = |_: &VolumeName| ObservedVolume {
            audit: Some(Audit { entries: 10, ..Audit::default() }),
            mapping: MappingSupport::Yes,
            mapping_whole: MappingSupport::Yes,
            ..ObservedVolume::new(SourceState::Directory(SourceDir {
                ids,
                mode: 0o755,
                exposed: false,
                file_system: file_system("ext4:1"),
            }))
        };
        let users = BTreeMap::from([("nobody".to_owned(), HostIds::new(65_534, 65_534))]);
        let groups = BTreeMap::from([("nogroup".to_owned(), 65_534)]);
        let templates = desired.containers.values().filter_map(|def| match &def.source {
            Some(Source::Template(name)) => {
                Some((name.clone(), TemplateState::Usable(name.clone())))
            }
            _ => None,
        });
        let templates = templates.collect();
        let cluster = Cluster { node: "pve".to_owned(), quorate: true, online: BTreeSet::new() };
        let snapshot = Snapshot {
            node: NodeState::Up(cluster),
            containers: desired.ctids().into_iter().map(|id| (id, Presence::Absent)).collect(),
            elsewhere: BTreeMap::new(),
            volumes: desired.volumes.keys().map(|name| (name.clone(), directory(name))).collect(),
            ledger: Arc::new(Ledger::default()),
            memory: Memory::Whole,
            waited: BTreeMap::new(),
            restarted: BTreeMap::new(),
            bad_sources: BTreeMap::new(),
            sub_ids: SubIds::default(),
            boot: BOOT.to_owned(),
            accounts: Accounts { users, groups },
            requests: Requests::default(),
            making: MakingFacts { templates, ..MakingFacts::default() },
            mapping: mappable(),
            converting: desired
                .containers
                .keys()
                .map(|id| (*id, ConvertFacts::default()))
                .collect(),
        };
        Self { desired, snapshot }
    }

    /// One volume `data` at /tank/data for container root of 100, mounted there at /data.
    pub(crate) fn one_mount() -> Self {
        Self::new(
            r#"{"settings": {"seed_defaults": false}, "shared_volumes": {"data": {
                "host_path": "/tank/data", "owner": "container_root", "mounts": {"100": "/data"}}}}"#,
        )
    }

    pub(crate) fn here(mut self, id: u32, conf: &str) -> Self {
        let conf = Conf::parse(ctid(id), conf.as_bytes()).unwrap();
        let container = ObservedContainer { conf, flock_held: false, running: Running::No };
        self.snapshot.containers.insert(ctid(id), Presence::Here(Box::new(container)));
        self
    }

    pub(crate) fn presence(mut self, id: u32, presence: Presence) -> Self {
        self.snapshot.containers.insert(ctid(id), presence);
        self
    }

    pub(crate) fn container(
        mut self,
        id: u32,
        change: impl FnOnce(&mut ObservedContainer),
    ) -> Self {
        match self.snapshot.containers.get_mut(&ctid(id)) {
            Some(Presence::Here(container)) => change(container),
            other => panic!("{id} is {other:?}"),
        }
        self
    }

    pub(crate) fn running(self, id: u32) -> Self {
        self.container(id, |c| {
            c.running = Running::Yes { init: Some(1), map: c.conf.effective_idmap().ok() };
        })
    }

    pub(crate) fn running_with(self, id: u32, map: IdMap) -> Self {
        self.container(id, |c| c.running = Running::Yes { init: Some(1), map: Some(map) })
    }

    pub(crate) fn flock(self, id: u32) -> Self {
        self.container(id, |c| c.flock_held = true)
    }

    pub(crate) fn source(mut self, name: &str, source: SourceState) -> Self {
        self.snapshot.volumes.get_mut(&volume(name)).unwrap().source = source;
        self
    }

    pub(crate) fn dir(self, name: &str, change: impl FnOnce(&mut SourceDir)) -> Self {
        let mut world = self;
        match &mut world.snapshot.volumes.get_mut(&volume(name)).unwrap().source {
            SourceState::Directory(dir) => change(dir),
            other => panic!("{name} is {other:?}"),
        }
        world
    }

    pub(crate) fn audit(mut self, name: &str, audit: Option<Audit>) -> Self {
        self.snapshot.volumes.get_mut(&volume(name)).unwrap().audit = audit;
        self
    }

    /// A walk found this many of ten entries to be different.
    pub(crate) fn drift(self, name: &str, changes: u64) -> Self {
        let audit = Audit { entries: 10, changes, owners: changes, ..Audit::default() };
        self.audit(name, Some(audit))
    }

    /// What is there of the pair for `a.b`, by fingerprint; `!` stands for something that is no file.
    pub(crate) fn pair(mut self, key: Option<&str>, certificate: Option<&str>) -> Self {
        let file = |found: Option<&str>| match found {
            None => PairFile::Missing,
            Some("!") => PairFile::Unusable("is no regular file; remove it".to_owned()),
            Some(fingerprint) => PairFile::File { fingerprint: fingerprint.to_owned() },
        };
        let pair = ObservedPair { key: file(key), certificate: file(certificate) };
        let found = self.snapshot.volumes.get_mut(&volume("data")).unwrap();
        found.certificates.at = NOW;
        found.certificates.pairs.insert("a.b".to_owned(), pair);
        self
    }

    /// pctd put the pair `key`, `crt` in place, or was about to, for 365 days of which so many are left.
    pub(crate) fn made(mut self, key: &str, crt: &str, is_done: bool, days_left: u64) -> Self {
        let pair = PairRecord {
            key: key.to_owned(),
            certificate: crt.to_owned(),
            names: vec!["a.b".to_owned()],
            days: 365,
            expires: NOW + days_left * 24 * 60 * 60,
        };
        let (volume, domain) = (volume("data"), "a.b".to_owned());
        Arc::make_mut(&mut self.snapshot.ledger).enter(if is_done {
            LedgerEntry::CertificateMade { volume, domain, pair }
        } else {
            LedgerEntry::CertificateIntended { volume, domain, pair }
        });
        self
    }

    pub(crate) fn wrote(mut self, id: u32, key: &str, value: &str) -> Self {
        let (key, value) = (key.parse().unwrap(), value.to_owned());
        let entry = LedgerEntry::MountWritten { ctid: ctid(id), key, value };
        Arc::make_mut(&mut self.snapshot.ledger).enter(entry);
        self
    }

    /// What the configuration does not say may be removed.
    pub(crate) fn settled(mut self) -> Self {
        self.snapshot.requests.removal = Removal::Allowed;
        self
    }

    pub(crate) fn entered(mut self, entry: LedgerEntry) -> Self {
        Arc::make_mut(&mut self.snapshot.ledger).enter(entry);
        self
    }

    /// What pctd had done to a volume was taken back.
    pub(crate) fn undone(self, name: &str) -> Self {
        let volume = volume(name);
        let declared = pctd_core::plan::declared(&self.desired.volumes[&volume]);
        self.entered(LedgerEntry::Undone { volume, declared })
    }

    /// pctd wrote these raw lines.
    pub(crate) fn wrote_lines(self, id: u32, lines: &[&str]) -> Self {
        let lines = lines.iter().map(|line| line.parse().unwrap()).collect();
        self.entered(LedgerEntry::LinesIntended { ctid: ctid(id), lines })
    }

    /// pctd wrote these raw lines while it ran with this init.
    pub(crate) fn edited(self, id: u32, init: u32, added: &[&str], removed: &[&str]) -> Self {
        let lines =
            |lines: &[&str]| lines.iter().map(|line| line.parse().unwrap()).collect::<Vec<_>>();
        let (added, removed) = (lines(added), lines(removed));
        let edited = Edited { boot: BOOT.to_owned(), init: Some(init), added, removed };
        self.entered(LedgerEntry::EditWaits { ctid: ctid(id), edited: Some(edited) })
    }

    /// Root may map these ids of the host and no others.
    pub(crate) fn sub_ids(mut self, text: &str) -> Self {
        let ranges = || SubRanges::parse(text.as_bytes());
        self.snapshot.sub_ids = SubIds { users: ranges(), groups: ranges() };
        self
    }

    /// An admin named it.
    pub(crate) fn named(mut self, id: u32) -> Self {
        self.snapshot.requests.named.insert(ctid(id));
        self
    }

    /// An admin named it just now, and so means another id map.
    pub(crate) fn consent(mut self, id: u32, consent: MapConsent) -> Self {
        self.snapshot.requests.id_maps.insert(ctid(id), consent);
        self.named(id)
    }

    /// A task that makes it is at work.
    pub(crate) fn at_work(mut self, id: u32) -> Self {
        self.snapshot.making.at_work.insert(ctid(id));
        self
    }

    /// A run of pctd's clones it.
    pub(crate) fn cloning(mut self, id: u32) -> Self {
        self.snapshot.making.cloning.insert(ctid(id));
        self
    }

    pub(crate) fn waited(mut self, id: u32) -> Self {
        self.snapshot.waited.insert(ctid(id), Duration::from_hours(1));
        self
    }

    /// pctd restarted it so long ago.
    pub(crate) fn restarted(mut self, id: u32, ago: Duration) -> Self {
        self.snapshot.restarted.insert(ctid(id), ago);
        self
    }

    /// pctd stopped it for a restart just now, and has not seen it running again.
    pub(crate) fn start_owed(mut self, id: u32) -> Self {
        Arc::make_mut(&mut self.snapshot.ledger).enter(LedgerEntry::StartOwed(ctid(id)));
        self.restarted(id, Duration::from_secs(9))
    }

    /// It mounts what is not there.
    pub(crate) fn missing_source(mut self, id: u32) -> Self {
        self.snapshot.bad_sources.insert(ctid(id), BadSource::Missing("/srv/gone".to_owned()));
        self
    }

    pub(crate) fn restart_failed(mut self, id: u32) -> Self {
        self.snapshot.requests.restart_failed.insert(ctid(id), "it is stopped".to_owned());
        self
    }

    pub(crate) fn confirmed(mut self, name: &str) -> Self {
        self.snapshot.requests.confirmed.insert(volume(name));
        self
    }

    /// The ledger could not be read, and a new one was begun.
    pub(crate) fn forgot(mut self) -> Self {
        self.snapshot.ledger = Arc::default();
        self.snapshot.memory = Memory::Lost("ledger.json: EOF while parsing".to_owned());
        self
    }

    pub(crate) fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    pub(crate) fn plans(&self) -> Plans {
        plan(&self.desired, &self.snapshot)
    }

    /// Enters everything the plan found in place, as a run would.
    pub(crate) fn settle(mut self) -> Self {
        let plans = self.plans();
        let ledger = Arc::make_mut(&mut self.snapshot.ledger);
        let volumes = plans.volumes.values().flat_map(|plan| plan.records.clone());
        let containers = plans.containers.values().flat_map(|plan| plan.records.clone());
        for record in volumes.chain(containers) {
            ledger.enter(record);
        }
        self
    }
}

/// Returns every step and hold as a short line, volumes first.
pub(crate) fn lines(plans: &Plans) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(hold) = &plans.node {
        lines.push(format!("! {}", hold.reason()));
        return lines;
    }
    for key in plans.keys() {
        lines.extend(plans.steps(&key).iter().map(|step| format!("{key} {}", line(step))));
        // The lines about waiting below say it with the volume's name.
        let holds = plans.holds(&key).into_iter().filter(|h| !matches!(h, Hold::VolumeHeld { .. }));
        lines.extend(holds.map(|hold| format!("{key} ! {}", hold.reason())));
    }
    for (name, plan) in plans.volumes.iter().filter(|(_, plan)| plan.needs_audit) {
        lines.push(format!("{name} ? {:?}", plan.readiness));
    }
    for (ctid, plan) in &plans.containers {
        lines.extend(plan.waits_for.iter().map(|volume| format!("{ctid} waits for {volume}")));
    }
    lines
}

fn line(step: &Step) -> String {
    match step {
        Step::CreateDirectory { path } => format!("mkdir {path}"),
        Step::SetOwnership(set) => {
            let kept = set.group.map_or("keep".to_owned(), |gid| format!("keep:{gid}"));
            let owner = set.owner.map_or(kept, |ids| ids.to_string());
            format!("own {owner} {}/{}", set.changes, set.entries)
        }
        Step::CreateCertificate(create) => {
            let what = if create.renew { "renew" } else { "make" };
            format!("{what} {} for {} days", create.domain, create.days)
        }
        Step::SetMount(set) => {
            let sign = if set.was.is_some() { "~" } else { "+" };
            let when = match set.effective {
                Effective::Now => " now",
                Effective::NextStart => "",
                Effective::AfterRestart => " after restart",
            };
            let after = if set.after_volume { " after volume" } else { "" };
            format!("{sign}{}: {}{when}{after}", set.key, set.value)
        }
        Step::CreateContainer(create) => {
            let kind = if create.unprivileged { "" } else { " privileged" };
            let disk = create.rootfs.as_ref().or(create.storage.as_ref());
            let disk = disk.map_or_else(String::new, |disk| format!(" on {disk}"));
            format!("create{kind} from {}{disk}:{}", create.template, properties(&create.set))
        }
        Step::CloneContainer(clone) => {
            let word = |before: &str, value: &Option<String>| {
                value.as_ref().map_or_else(String::new, |value| format!("{before}{value}"))
            };
            let (of, name, on) = (
                word("@", &clone.snapshot),
                word(" as ", &clone.hostname),
                word(" on ", &clone.storage),
            );
            format!("clone {}{of}{name}{on}", clone.from)
        }
        Step::ConfigureContainer(configure) => {
            let delete = configure.delete.iter().fold(String::new(), |all, name| all + " -" + name);
            let finish = if configure.finishes.is_some() { "finish" } else { "configure" };
            format!("{finish}:{}{delete}", properties(&configure.set))
        }
        Step::EditConf(edit) => {
            let removed = edit.remove.iter().map(|line| format!(" -{line}"));
            let added = edit.add.iter().map(|line| format!(" +{line}"));
            let what = if edit.finishes.is_some() { "finish" } else { "edit" };
            let when = if edit.after_restart { " after restart" } else { "" };
            let after = if edit.after_volume { " after volume" } else { "" };
            format!("{what} lines:{}{when}{after}", removed.chain(added).collect::<String>())
        }
        Step::StartContainer {} => "start".to_owned(),
        Step::ConvertContainer(convert) => {
            let privilege = if convert.unprivileged { "unprivileged" } else { "privileged" };
            let word = |before: &str, value: &Option<String>| {
                value.as_ref().map_or_else(String::new, |value| format!("{before}{value}"))
            };
            let (by, from, to) = (
                word(" by ", &convert.storage),
                word(" from ", &convert.archive),
                word(" to ", &convert.disks),
            );
            let after = if convert.after_volume { " after volume" } else { "" };
            format!("convert to {privilege}: {:?}{by}{from}{to}{after}", convert.phase)
        }
        Step::RemoveMount(remove) => {
            let what = if remove.pending { "pending " } else { "" };
            let when = match remove.effective {
                Effective::AfterRestart => " after restart",
                Effective::Now | Effective::NextStart => "",
            };
            format!("-{what}{}: {}{when}", remove.key, remove.value)
        }
        Step::RebootContainer { keys, lines, others } => {
            let lines = lines.iter().fold(String::new(), |all, line| format!("{all} `{line}`"));
            format!("reboot for {keys:?}{lines}, also {others:?}")
        }
    }
}

fn properties(set: &BTreeMap<String, String>) -> String {
    set.iter().fold(String::new(), |all, (name, value)| all + " " + name + "=" + value)
}
