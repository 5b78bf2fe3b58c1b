//! The cases of a cluster: volumes of some nodes only, and directories that all nodes see.

use std::collections::BTreeSet;

use pctd_core::desired::Desired;
use pctd_core::ids::Ctid;
use pctd_core::ledger::LedgerEntry;
use pctd_core::observed::{Cluster, NodeState, Presence, SourceState};
use pctd_core::ownership::Scope;
use pctd_core::plan::{Basis, Notice, Step, VolumePlan};
use proptest::prelude::*;

use crate::cases::{Case, case};
use crate::world::{SHIFTED, UNPRIVILEGED, World, ctid, file_system, lines, volume};

const NODES: [&str; 3] = ["pve", "pve2", "pve3"];

impl World {
    /// It is on another node, with this conf.
    fn on(mut self, node: &str, id: u32, conf: &str) -> Self {
        let conf = pctd_core::conf::Conf::parse(ctid(id), conf.as_bytes());
        self.snapshot.elsewhere.insert(ctid(id), conf.map_err(|error| error.to_string()));
        self.presence(id, Presence::OnNode(node.to_owned()))
    }

    /// This node is `node`, in a cluster with those in `online`.
    fn cluster(mut self, node: &str, online: &[&str], quorate: bool) -> Self {
        let online = online.iter().map(ToString::to_string).collect();
        self.snapshot.node = NodeState::Up(Cluster { node: node.to_owned(), quorate, online });
        self.snapshot.making.clustered = true;
        self
    }

    fn volume(&self, name: &str) -> VolumePlan {
        self.plans().volumes.remove(&volume(name)).unwrap()
    }
}

#[test]
fn what_no_container_mounts_is_looked_after_by_the_first_node() {
    let text = r#"{"shared_volumes": {"data": {"host_path": "/tank/data", "shared": true,
        "owner": "1234:1234", "mounts": {"100": "/data"}}}}"#;
    let on = |node: &str, online: &[&str]| {
        let world = World::new(text).cluster(node, online, true).drift("data", 3);
        !world.presence(100, Presence::Absent).volume("data").steps.is_empty()
    };
    assert_eq!(NODES.map(|node| on(node, &NODES)), [true, false, false]);
    assert_eq!(NODES.map(|node| on(node, &NODES[1..])), [false, true, false]);
}

fn notices(plan: &VolumePlan) -> Vec<&'static str> {
    plan.notices.iter().map(Notice::reason).collect()
}

/// One volume with these fields, mounted in 100 and 101, on `pve` of three nodes.
fn shared(fields: &str) -> World {
    let text = r#"{"settings": {"seed_defaults": false}, "shared_volumes": {"data": {
        "host_path": "/tank/data", "owner": "container_root", FIELDS
        "mounts": {"100": "/data", "101": "/data"}}}}"#;
    World::new(&text.replace("FIELDS", fields)).cluster("pve", &NODES, true)
}

const SHARED: &str = r#""shared": true,"#;

pub(crate) fn all() -> Vec<Case> {
    let plain = || shared(SHARED);
    vec![
        case(
            "the node of the lowest container acts on what all nodes see",
            plain().here(100, UNPRIVILEGED).on("pve2", 101, UNPRIVILEGED).drift("data", 3),
            &["data own 100000:100000 3/10", "100 +mp0: /tank/data,mp=/data after volume"],
        ),
        case(
            "the others mount it once its directory is right",
            plain().on("pve2", 100, UNPRIVILEGED).here(101, UNPRIVILEGED).drift("data", 3),
            &["101 +mp0: /tank/data,mp=/data"],
        ),
        case(
            "and wait for it until then",
            plain()
                .on("pve2", 100, UNPRIVILEGED)
                .here(101, UNPRIVILEGED)
                .dir("data", |dir| dir.mode = 0o700)
                .with(|world| {
                    let dir_mode = "0755".parse().unwrap();
                    world.desired.volumes.get_mut(&volume("data")).unwrap().dir_mode = dir_mode;
                }),
            &["data ! OtherNodeActs", "101 waits for data"],
        ),
        case(
            "but not for a node that is down, and nobody acts in its place",
            plain()
                .cluster("pve", &["pve", "pve3"], true)
                .on("pve2", 100, SHIFTED)
                .here(101, SHIFTED)
                .drift("data", 3),
            &["data ! OtherNodeActs", "101 +mp0: /tank/data,mp=/data"],
        ),
        case(
            "what is missing is the other node's to make",
            plain()
                .on("pve2", 100, UNPRIVILEGED)
                .here(101, UNPRIVILEGED)
                .source("data", SourceState::Missing { file_system: file_system("nfs4:1") }),
            &["data ! OtherNodeActs", "101 waits for data"],
        ),
        case(
            "the maps of containers on other nodes count",
            plain().here(100, UNPRIVILEGED).on("pve2", 101, SHIFTED).drift("data", 3),
            &["data ! OwnerConflict", "100 +mp0: /tank/data,mp=/data"],
        ),
        case(
            "which both nodes report",
            plain().on("pve2", 100, SHIFTED).here(101, UNPRIVILEGED).drift("data", 3),
            &["data ! OwnerConflict", "101 +mp0: /tank/data,mp=/data"],
        ),
        case(
            "owner_ctid may name one of them",
            shared(r#""shared": true, "owner_ctid": "101","#)
                .here(100, UNPRIVILEGED)
                .on("pve2", 101, SHIFTED)
                .drift("data", 3),
            &["data own 200000:200000 3/10", "100 +mp0: /tank/data,mp=/data after volume"],
        ),
        case(
            "one that is being made elsewhere is waited for",
            plain().here(100, UNPRIVILEGED).on("pve2", 101, "lock: create\n").drift("data", 3),
            &["data ! IdmapNotReady", "100 waits for data"],
        ),
        case(
            "without a quorum nobody knows who acts",
            plain()
                .cluster("pve", &["pve"], false)
                .here(100, "rootfs: x\nunprivileged: 1\nmp0: /tank/data,mp=/data\n")
                .on("pve2", 101, UNPRIVILEGED)
                .drift("data", 3),
            &["data ! NoQuorum"],
        ),
        case(
            "what is local goes on without a quorum",
            shared(r#""shared": false,"#)
                .cluster("pve", &["pve"], false)
                .here(100, "rootfs: x\nunprivileged: 1\nmp0: /tank/data,mp=/data\n")
                .drift("data", 3),
            &["data own 100000:100000 3/10"],
        ),
        case(
            "nor while the lowest is neither here nor surely away",
            plain()
                .presence(100, Presence::Unknown("its conf is not there".to_owned()))
                .here(101, UNPRIVILEGED)
                .drift("data", 3),
            &["data ! IdmapNotReady", "100 ! ContainerUnknown", "101 waits for data"],
        ),
        case(
            "the kind of the file system tells where nothing is said",
            shared("")
                .on("pve2", 100, UNPRIVILEGED)
                .here(101, UNPRIVILEGED)
                .dir("data", |dir| dir.file_system = file_system("nfs4:1"))
                .drift("data", 3),
            &["101 +mp0: /tank/data,mp=/data"],
        ),
        case(
            "and a word of the admin's tells better",
            shared(r#""shared": false,"#)
                .on("pve2", 100, UNPRIVILEGED)
                .here(101, UNPRIVILEGED)
                .dir("data", |dir| dir.file_system = file_system("nfs4:1"))
                .drift("data", 3),
            &["data own 100000:100000 3/10", "101 +mp0: /tank/data,mp=/data after volume"],
        ),
        case(
            "what all nodes see is not on the root disk of one",
            plain()
                .here(100, UNPRIVILEGED)
                .dir("data", |dir| dir.file_system.is_root = true)
                .drift("data", 3),
            &["data ! SourceNotMounted", "100 waits for data"],
        ),
        case(
            "a volume of other nodes does not exist here",
            shared(r#""nodes": ["pve2", "pve3"],"#)
                .here(100, UNPRIVILEGED)
                .source("data", SourceState::OfOtherNodes),
            &[],
        ),
        case(
            "and what pctd mounted of it is not declared any more",
            shared(r#""nodes": ["pve2"],"#)
                .here(100, "rootfs: x\nunprivileged: 1\nmp0: /tank/data,mp=/data\n")
                .wrote(100, "mp0", "/tank/data,mp=/data")
                .with(|world| world.desired.settings.prune = true)
                .settled(),
            &["100 -mp0: /tank/data,mp=/data"],
        ),
        case(
            "a container where a volume does not exist does not count for it",
            shared(r#""shared": true, "nodes": ["pve", "pve2"],"#)
                .on("pve3", 100, SHIFTED)
                .here(101, UNPRIVILEGED)
                .drift("data", 3),
            &["data own 100000:100000 3/10", "101 +mp0: /tank/data,mp=/data after volume"],
        ),
        case(
            "a start that was owed is nobody's here once the container is elsewhere",
            plain().on("pve2", 100, UNPRIVILEGED).start_owed(100).settle(),
            &[],
        ),
    ]
}

#[test]
fn a_node_that_takes_over_does_not_set_once_more_what_another_has_set() {
    let once = || shared(r#""shared": true, "enforce": "once","#);
    let seen = |world: &World| {
        let plan = world.volume("data");
        (plan.rule.as_ref().unwrap().scope == Scope::All, notices(&plan))
    };
    // Its directory is right: somebody has been through.
    let taken_over = once().here(100, UNPRIVILEGED).here(101, UNPRIVILEGED);
    assert_eq!(seen(&taken_over), (false, vec!["DoneElsewhere"]));
    assert_eq!(seen(&taken_over.clone().confirmed("data")), (true, vec![]));
    // Its directory, which comes last, is not.
    let first = taken_over.clone().dir("data", |dir| dir.ids = pctd_core::ids::HostIds::ROOT);
    assert_eq!(seen(&first), (true, vec![]));
    let local = shared(r#""enforce": "once","#).here(100, UNPRIVILEGED).here(101, UNPRIVILEGED);
    assert_eq!(seen(&local), (true, vec![]));
    // What changes while another node acts is that node's to do, and remembered here.
    let beside = once().on("pve2", 100, UNPRIVILEGED).here(101, UNPRIVILEGED);
    let records = beside.volume("data").records;
    let Some(LedgerEntry::VolumeDone { record, .. }) = records.first() else {
        panic!("{records:?}")
    };
    assert!(record.assumed);
    let again = beside.settle();
    assert_eq!(again.volume("data").records, vec![]);
    let taken_over = again.here(100, UNPRIVILEGED);
    assert_eq!(seen(&taken_over), (false, vec!["DoneElsewhere"]));
}

#[test]
fn what_another_node_looks_after_is_said_and_not_watched() {
    let beside = |online: &[&str]| {
        let world = shared(SHARED).cluster("pve", online, true);
        world.on("pve2", 100, UNPRIVILEGED).here(101, UNPRIVILEGED).volume("data")
    };
    let plan = beside(&NODES);
    assert_eq!((plan.basis, plan.standing.is_some()), (Basis::OtherNode, false));
    let said = "node pve2 sets its owners and modes, because container 100 is there";
    assert_eq!(plan.notices[0].to_string(), said);
    let plan = beside(&["pve", "pve3"]);
    let said = format!("{said}; it is offline, and nobody does until it is back or 100 is moved");
    assert_eq!(plan.notices[0].to_string(), said);
    let elsewhere = shared(r#""nodes": ["pve3", "pve2"],"#).here(100, UNPRIVILEGED);
    assert_eq!(elsewhere.volume("data").notices[0].to_string(), "it exists on pve2, pve3 only");
}

/// Three containers, each on one of three nodes or nowhere.
fn any_places() -> impl Strategy<Value = [Option<usize>; 3]> {
    prop::array::uniform3(prop::option::weighted(0.9, 0..NODES.len()))
}

/// What the node at `own` sees of a cluster in which the containers 100 to 102 are at these places.
fn seen_by(
    own: usize,
    places: [Option<usize>; 3],
    nodes: &BTreeSet<usize>,
    online: &[&str],
) -> World {
    let names: Vec<String> = nodes.iter().map(|node| format!("\"{}\"", NODES[*node])).collect();
    let text = format!(
        r#"{{"settings": {{"seed_defaults": false}}, "shared_volumes": {{"data": {{
        "host_path": "/tank/data", "owner": "container_root", "shared": true, "nodes": [{}],
        "mounts": {{"100": "/data", "101": "/data", "102": "/data"}}}}}}}}"#,
        names.join(",")
    );
    let mut world = World::new(&text).cluster(NODES[own], online, true).drift("data", 3);
    for (id, place) in (100..).zip(places) {
        world = match place {
            None => world.presence(id, Presence::Absent),
            Some(place) if place == own => world.here(id, UNPRIVILEGED),
            Some(place) => world.on(NODES[place], id, UNPRIVILEGED),
        };
    }
    world
}

proptest! {
    /// Whoever asks, and wherever the containers are.
    #[test]
    fn exactly_one_node_acts_on_what_all_see(
        places in any_places(),
        nodes in prop::collection::btree_set(0..NODES.len(), 1..=3),
    ) {
        let acting: Vec<usize> = (0..NODES.len())
            .filter(|own| {
                let world = seen_by(*own, places, &nodes, &NODES);
                let plan = world.volume("data");
                plan.steps.iter().any(|step| matches!(step, Step::SetOwnership(_)))
            })
            .collect();
        let mut counting = places.into_iter().flatten().filter(|place| nodes.contains(place));
        let expected: Vec<usize> = counting.next().into_iter().collect();
        prop_assert_eq!(acting, expected);
    }

    /// A node that is down changes nothing in who acts: the others do nothing in its place.
    #[test]
    fn a_node_that_is_down_is_not_stood_in_for(places in any_places(), down in 0..NODES.len()) {
        let all: BTreeSet<usize> = (0..NODES.len()).collect();
        let online: Vec<&str> =
            NODES.iter().enumerate().filter(|(node, _)| *node != down).map(|(_, name)| *name).collect();
        for own in (0..NODES.len()).filter(|own| *own != down) {
            let with = lines(&seen_by(own, places, &all, &NODES).plans());
            let without = lines(&seen_by(own, places, &all, &online).plans());
            let owns = |lines: &[String]| lines.iter().filter(|line| line.contains(" own ")).count();
            prop_assert_eq!(owns(&with), owns(&without));
        }
    }
}

#[test]
fn on_one_node_the_volumes_of_others_are_not_wanted() {
    let names = |desired: &Desired, node: &str| -> Vec<String> {
        desired.on_node(node).volumes.keys().map(ToString::to_string).collect()
    };
    let world = World::new(
        r#"{"settings": {"seed_defaults": false}, "shared_volumes": {
        "a": {"host_path": "/tank/a", "nodes": ["pve"], "mounts": {"100": "/data"}},
        "b": {"host_path": "/tank/b", "nodes": ["pve2"], "mounts": {"100": "/data"}},
        "c": {"host_path": "/tank/c", "mounts": {"100": "/c"}}}}"#,
    );
    assert_eq!(names(&world.desired, "pve"), ["a", "c"]);
    assert_eq!(names(&world.desired, "pve2"), ["b", "c"]);
    assert_eq!(names(&world.desired, "pve3"), ["c"]);
    let mounts = |node: &str| -> Vec<String> {
        let own = world.desired.on_node(node);
        let mounts = own.mounts_of(Ctid::new(100).unwrap());
        mounts.map(|(volume, mount)| format!("{} {}", volume.name, mount.target)).collect()
    };
    assert_eq!(mounts("pve2"), ["b /data", "c /c"]);
}
