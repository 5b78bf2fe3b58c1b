use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::*;
use crate::conf::Conf;
use crate::config::{Strictness, load};
use crate::ids::HostIds;
use crate::ledger::{Ledger, Memory};
use crate::observed::{
    Accounts, Audit, Cluster, FileSystem, MakingFacts, MappingFacts, NodeState, ObservedContainer,
    ObservedVolume, Requests, Running, SourceDir,
};
use crate::plan::plan;

const MOUNTED: &str = "rootfs: local:1/x.raw\nunprivileged: 1\nmp0: /tank/data,mp=/data\n";
const BARE: &str = "rootfs: local:1/x.raw\nunprivileged: 1\n";

/// A world with the volume `data` in container 100.
struct World {
    desired: Desired,
    snapshot: Snapshot,
}

fn ctid() -> Ctid {
    Ctid::new(100).unwrap()
}

fn volume() -> VolumeName {
    "data".parse().unwrap()
}

fn ext4() -> FileSystem {
    FileSystem {
        id: "ext4:1".to_owned(),
        kind: "ext4".to_owned(),
        mount_point: "/tank".to_owned(),
        is_root: false,
        required_mounted: None,
    }
}

fn directory(ids: HostIds) -> SourceState {
    SourceState::Directory(SourceDir { ids, mode: 0o755, exposed: false, file_system: ext4() })
}

impl World {
    fn declared(volume_fields: &str, definition: &str) -> Self {
        let text = format!(
            r#"{{"settings": {{"seed_defaults": false}}, "lxc_configs": {{"100": {{{definition}}}}},
            "shared_volumes": {{"data": {{"host_path": "/tank/data", {volume_fields}
            "mounts": {{"100": "/data"}}}}}}}}"#
        );
        let files = [("config.json".to_owned(), text.into_bytes())];
        let desired = load(&files, Strictness::Lenient).map_err(|e| e.to_string()).unwrap().desired;
        let cluster = Cluster { node: "pve".to_owned(), quorate: true, online: BTreeSet::new() };
        let source = directory(HostIds::new(100_000, 100_000));
        let audit = Some(Audit { entries: 10, ..Audit::default() });
        let snapshot = Snapshot {
            node: NodeState::Up(cluster),
            containers: BTreeMap::new(),
            elsewhere: BTreeMap::new(),
            volumes: BTreeMap::from([(
                volume(),
                ObservedVolume { audit, ..ObservedVolume::new(source) },
            )]),
            ledger: Arc::new(Ledger::default()),
            memory: Memory::Whole,
            waited: BTreeMap::new(),
            restarted: BTreeMap::new(),
            bad_sources: BTreeMap::new(),
            sub_ids: crate::subids::SubIds::default(),
            boot: String::new(),
            accounts: Accounts::default(),
            requests: Requests::default(),
            making: MakingFacts::default(),
            mapping: MappingFacts::default(),
            converting: BTreeMap::new(),
        };
        Self { desired, snapshot }.conf(MOUNTED)
    }

    fn new() -> Self {
        Self::declared(r#""owner": "container_root","#, "")
    }

    fn presence(mut self, presence: Presence) -> Self {
        self.snapshot.containers.insert(ctid(), presence);
        self
    }

    fn conf(self, text: &str) -> Self {
        let conf = Conf::parse(ctid(), text.as_bytes()).unwrap();
        let here = ObservedContainer { conf, flock_held: false, running: Running::No };
        self.presence(Presence::Here(Box::new(here)))
    }

    fn source(mut self, source: SourceState) -> Self {
        self.snapshot.volumes.get_mut(&volume()).unwrap().source = source;
        self
    }

    fn audit(mut self, audit: Option<Audit>) -> Self {
        self.snapshot.volumes.get_mut(&volume()).unwrap().audit = audit;
        self
    }

    fn unknown_node(mut self) -> Self {
        self.snapshot.node = NodeState::Unknown("no .vmlist".to_owned());
        self
    }

    /// Enters everything that was found in place, as a run would.
    fn settle(mut self) -> Self {
        let plans = plan(&self.desired, &self.snapshot);
        let ledger = Arc::make_mut(&mut self.snapshot.ledger);
        for record in plans.volumes.values().flat_map(|plan| plan.records.clone()) {
            ledger.enter(record);
        }
        self
    }

    /// All conditions as `Name=Status/Reason`, the container's first.
    fn told(&self) -> String {
        let plans = plan(&self.desired, &self.snapshot);
        let mut container = of_container(&self.desired, &self.snapshot, &plans, ctid());
        let mut volume = of_volume(&self.snapshot, &plans, &volume());
        container.sort_by_key(|(name, _)| *name);
        volume.sort_by_key(|(name, _)| *name);
        let short = |(name, is): &(&'static str, Condition)| {
            assert!(!is.message.is_empty() && !is.message.ends_with('.'), "{name}: {is:?}");
            let status = match is.status {
                Truth::True => "yes",
                Truth::False => "no",
                Truth::Unknown => "?",
            };
            (*name != "Watched").then(|| format!("{name}={status}/{}", is.reason))
        };
        let words: Vec<_> = container.iter().chain(&volume).filter_map(short).collect();
        words.join(" ")
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn typical_worlds_have_these_conditions() {
    let missing = || SourceState::Missing { file_system: ext4() };
    let drift = |changes| Some(Audit { entries: 10, changes, ..Audit::default() });
    let kept = || World::declared("", "");
    let fixed = || World::declared(r#""owner": "container_root", "create": false,"#, "");
    let cases = vec![
        (
            "everything is in place",
            World::new(),
            "Defined=yes/Here Mapped=yes/Ready Mounted=yes/InPlace Unprivileged=yes/NotDeclared \
             Owned=yes/Verified Present=yes/Directory",
        ),
        (
            "it was in place when it was walked",
            World::new().settle().audit(None),
            "Defined=yes/Here Mapped=yes/Ready Mounted=yes/InPlace Unprivileged=yes/NotDeclared \
             Owned=yes/InPlace Present=yes/Directory",
        ),
        (
            "a walk went on where one was interrupted",
            World::new().audit(Some(Audit { entries: 10, believed: 4, ..Audit::default() })),
            "Defined=yes/Here Mapped=yes/Ready Mounted=yes/InPlace Unprivileged=yes/NotDeclared \
             Owned=yes/InPlace Present=yes/Directory",
        ),
        (
            "nobody walked it yet",
            World::new().audit(None),
            "Defined=yes/Here Mapped=yes/Ready Mounted=yes/InPlace Unprivileged=yes/NotDeclared \
             Owned=no/Progressing Present=yes/Directory",
        ),
        (
            "nothing is declared of the owner",
            kept(),
            "Defined=yes/Here Mapped=yes/Ready Mounted=yes/InPlace Unprivileged=yes/NotDeclared \
             Owned=yes/NotManaged Present=yes/Directory",
        ),
        (
            "a mount is missing",
            World::new().conf(BARE),
            "Defined=yes/Here Mapped=yes/Ready Mounted=no/Progressing Unprivileged=yes/NotDeclared \
             Owned=yes/Verified Present=yes/Directory",
        ),
        (
            "entries differ",
            World::new().audit(drift(3)),
            "Defined=yes/Here Mapped=yes/Ready Mounted=yes/InPlace Unprivileged=yes/NotDeclared \
             Owned=no/Progressing Present=yes/Directory",
        ),
        (
            "too many entries differ",
            World::new().audit(drift(10_001)),
            "Defined=yes/Here Mapped=yes/Ready Mounted=yes/InPlace Unprivileged=yes/NotDeclared \
             Owned=no/ConfirmationRequired Present=yes/Directory",
        ),
        (
            "the directory is to be made",
            World::new().source(missing()).audit(None),
            "Defined=yes/Here Mapped=yes/Ready Mounted=yes/InPlace Unprivileged=yes/NotDeclared \
             Owned=no/Progressing Present=no/Progressing",
        ),
        (
            "the directory is missing and not to be made",
            fixed().conf(BARE).source(missing()).audit(None),
            "Defined=yes/Here Mapped=yes/Ready Mounted=no/VolumeHeld Unprivileged=yes/NotDeclared \
             Owned=no/SourceMissing Present=no/SourceMissing",
        ),
        (
            "a file is in the way",
            World::new().source(SourceState::NotDirectory).audit(None),
            "Defined=yes/Here Mapped=yes/Ready Mounted=yes/InPlace Unprivileged=yes/NotDeclared \
             Owned=no/SourceNotDirectory Present=no/SourceNotDirectory",
        ),
        (
            "somebody else's mount is in the way",
            World::new().conf("rootfs: local:1/x.raw\nunprivileged: 1\nmp0: /srv/x,mp=/data\n"),
            "Defined=yes/Here Mapped=yes/Ready Mounted=no/ForeignMount Unprivileged=yes/NotDeclared \
             Owned=yes/Verified Present=yes/Directory",
        ),
        (
            "a lock",
            World::new().conf("rootfs: local:1/x.raw\nunprivileged: 1\nlock: backup\n"),
            "Defined=yes/Here Mapped=yes/Ready Mounted=no/Locked Unprivileged=yes/NotDeclared \
             Owned=yes/Verified Present=yes/Directory",
        ),
        (
            "a map that cannot be read",
            World::new().conf(&format!("{MOUNTED}lxc.idmap: b 0 1 2\n")),
            "Defined=yes/Here Mapped=no/IdmapNotReady Mounted=yes/InPlace Unprivileged=yes/NotDeclared \
             Owned=no/IdmapNotReady Present=yes/Directory",
        ),
        (
            "as its definition says",
            World::declared(r#""owner": "container_root","#, r#""unprivileged": true"#),
            "Defined=yes/Here Mapped=yes/Ready Mounted=yes/InPlace Unprivileged=yes/AsDeclared \
             Owned=yes/Verified Present=yes/Directory",
        ),
        (
            "not as its definition says",
            World::declared(r#""owner": "container_root","#, r#""unprivileged": false"#),
            "Defined=yes/Here Mapped=yes/Ready Mounted=yes/InPlace Unprivileged=no/UnprivilegedMismatch \
             Owned=yes/Verified Present=yes/Directory",
        ),
        (
            "on another node",
            World::new().presence(Presence::OnNode("pve2".to_owned())),
            "Defined=yes/OnOtherNode Mapped=?/NotHere Mounted=?/NotHere Unprivileged=?/NotHere \
             Owned=yes/NotManaged Present=yes/Directory",
        ),
        (
            "nowhere",
            World::new().presence(Presence::Absent).source(missing()),
            "Defined=no/Absent Mapped=?/NotHere Mounted=?/NotHere Unprivileged=?/NotHere \
             Owned=yes/NotManaged Present=no/NotNeeded",
        ),
        (
            "a virtual machine",
            World::new().presence(Presence::Vm),
            "Defined=no/IdTakenByVm Mapped=?/NotHere Mounted=?/NotHere Unprivileged=?/NotHere \
             Owned=yes/NotManaged Present=yes/Directory",
        ),
        (
            "two reads disagree",
            World::new().presence(Presence::Unknown("its conf is not there".to_owned())),
            "Defined=?/Unknown Mapped=?/Unknown Mounted=?/Unknown Unprivileged=?/Unknown \
             Owned=no/IdmapNotReady Present=yes/Directory",
        ),
        (
            "pmxcfs does not answer",
            World::new().unknown_node(),
            "Defined=?/Unknown Mapped=?/Unknown Mounted=?/Unknown Unprivileged=?/Unknown \
             Owned=?/Unknown Present=?/Unknown",
        ),
    ];
    for (name, world, expected) in cases {
        assert_eq!(world.told(), expected, "{name}");
    }
}

#[test]
fn what_was_not_observed_is_unknown() {
    let World { desired, mut snapshot } = World::new();
    snapshot.containers.clear();
    snapshot.volumes.clear();
    let plans = plan(&desired, &snapshot);
    let container = of_container(&desired, &snapshot, &plans, ctid());
    let volume = of_volume(&snapshot, &plans, &volume());
    let all = container.iter().chain(&volume).filter(|(name, _)| *name != "Watched");
    for (name, condition) in all {
        assert_eq!(condition.status, Truth::Unknown, "{name}");
    }
}
