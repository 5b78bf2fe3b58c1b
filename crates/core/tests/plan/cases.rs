//! The cases.

use std::sync::Arc;
use std::time::Duration;

use pctd_core::idmap::IdMap;
use pctd_core::ids::HostIds;
use pctd_core::ledger::{LedgerEntry, Memory};
use pctd_core::observed::{Audit, NodeState, Presence, Removal, Running, SourceState};

use crate::world::{PRIVILEGED, SHIFTED, UNPRIVILEGED, World, ctid, file_system, volume};

/// One case: what is wanted and there, and what follows.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) world: World,
    pub(crate) expected: Vec<&'static str>,
}

pub(crate) fn case(name: &'static str, world: World, expected: &[&'static str]) -> Case {
    Case { name, world, expected: expected.to_vec() }
}

/// One volume with these fields, mounted in 100 at /data.
fn with_fields(fields: &str) -> World {
    let text = r#"{"settings": {"seed_defaults": false}, "shared_volumes": {"data": {
        "host_path": "/tank/data", "mounts": {"100": "/data"}, FIELDS}}}"#;
    World::new(&text.replace("FIELDS", fields))
}

fn with_settings(settings: &str) -> World {
    let text = r#"{"settings": {"seed_defaults": false, SETTINGS}, "shared_volumes": {"data": {
        "host_path": "/tank/data", "owner": "container_root", "mounts": {"100": "/data"}}}}"#;
    World::new(&text.replace("SETTINGS", settings))
}

/// One volume mounted in 900 and 901.
fn shared(fields: &str) -> World {
    let text = r#"{"settings": {"seed_defaults": false}, "shared_volumes": {"data": {
        "host_path": "/tank/data", "owner": "container_root", FIELDS
        "mounts": {"900": "/data", "901": "/data"}}}}"#;
    World::new(&text.replace("FIELDS", fields)).here(900, UNPRIVILEGED).here(901, SHIFTED)
}

fn conf(lines: &str) -> String {
    format!("{UNPRIVILEGED}{lines}\n")
}

fn defined(fields: &str) -> World {
    let text = r#"{"settings": {"seed_defaults": false}, "lxc_configs": {"100": {FIELDS}},
        "shared_volumes": {"data": {"host_path": "/tank/data", "owner": "container_root",
        "mounts": {"100": "/data"}}}}"#;
    World::new(&text.replace("FIELDS", fields))
}

/// Every case.
pub(crate) fn all() -> Vec<Case> {
    let mut cases = mounts();
    cases.extend(removals());
    cases.extend(adoptions());
    cases.extend(restarts());
    cases.extend(containers());
    cases.extend(owners());
    cases.extend(sources());
    cases.extend(certificates());
    cases.extend(crate::definitions::all());
    cases.extend(crate::cluster::all());
    cases.extend(crate::lines::all());
    cases.extend(crate::disk_ids::all());
    cases.extend(crate::conversions::all());
    cases
}

fn mounts() -> Vec<Case> {
    let plain = World::one_mount;
    let full: Vec<String> = (0..256).map(|n| format!("mp{n}: /srv/{n},mp=/m{n}")).collect();
    let full = full.join("\n");
    vec![
        case(
            "a missing mount is added at the lowest key",
            plain().here(100, UNPRIVILEGED),
            &["100 +mp0: /tank/data,mp=/data"],
        ),
        case(
            "a mount that is there is left",
            plain().here(100, &conf("mp3: /tank/data,mp=/data,ro=1,backup=0")),
            &[],
        ),
        case(
            "a longer target that begins alike is another target",
            plain().here(100, &conf("mp0: /tank/data2,mp=/data2")),
            &["100 +mp1: /tank/data,mp=/data"],
        ),
        case(
            "targets are the same when they normalise to the same",
            plain().here(100, &conf("mp0: /tank//data/,mp=//data/")),
            &[],
        ),
        case(
            "a relative target is Proxmox's absolute one",
            plain().here(100, &conf("mp0: /tank/data,mp=data")),
            &[],
        ),
        case(
            "two mount points that normalise to one target are reported",
            plain().here(100, &conf("mp0: /tank/data,mp=/data\nmp4: /srv/x,mp=/data/")),
            &["100 ! DuplicateMount"],
        ),
        case(
            "the lowest free key is free in current, pending and pending delete",
            plain().here(
                100,
                &conf("mp0: /a,mp=/a\nmp2: /c,mp=/c\n[pve:pending]\nmp1: /b,mp=/b\ndelete: mp3"),
            ),
            &["100 +mp4: /tank/data,mp=/data"],
        ),
        case(
            "a volume mount point takes a key like any other",
            plain().here(100, &conf("mp0: local:1/v.raw,mp=/v,size=1G")),
            &["100 +mp1: /tank/data,mp=/data"],
        ),
        case("no key is left", plain().here(100, &conf(&full)), &["100 ! NoFreeKey"]),
        case(
            "another source that pctd did not write is left",
            plain().here(100, &conf("mp0: /srv/other,mp=/data")),
            &["100 ! ForeignMount"],
        ),
        case(
            "a volume of a storage at the target is left",
            plain().here(100, &conf("mp0: local:1/v.raw,mp=/data,size=1G")),
            &["100 ! ForeignMount"],
        ),
        case(
            "another source that pctd wrote is changed at the same key",
            plain()
                .here(100, &conf("mp5: /srv/old,mp=/data,ro=1"))
                .wrote(100, "mp5", "/srv/old,mp=/data,ro=1"),
            &["100 ~mp5: /tank/data,mp=/data"],
        ),
        case(
            "what pctd wrote and somebody changed since is foreign",
            plain()
                .here(100, &conf("mp5: /srv/old,mp=/data,ro=1"))
                .wrote(100, "mp5", "/srv/old,mp=/data"),
            &["100 ! ForeignMount"],
        ),
        case(
            "a managed option changes and all others are kept",
            World::new(
                r#"{"settings": {"seed_defaults": false}, "shared_volumes": {"data": {
                "host_path": "/tank/data", "owner": "container_root",
                "mounts": {"100": {"path": "/data", "read_only": true, "mount_options": ["nosuid", "noatime"]}}}}}"#,
            )
            .here(100, &conf("mp7: /tank/data,mp=/data,backup=1,replicate=0,shared=1")),
            &["100 ~mp7: /tank/data,mp=/data,backup=1,mountoptions=noatime;nosuid,replicate=0,ro=1,shared=1"],
        ),
        case(
            "an option that says the default is the same as none, and lists have no order",
            World::new(
                r#"{"settings": {"seed_defaults": false}, "shared_volumes": {"data": {
                "host_path": "/tank/data", "owner": "container_root",
                "mounts": {"100": {"path": "/data", "read_only": false, "mount_options": ["nosuid", "noatime"]}}}}}"#,
            )
            .here(100, &conf("mp7: /tank/data,mp=/data,mountoptions=nosuid;noatime")),
            &[],
        ),
        case(
            "a running container gets a new mount at once",
            plain().here(100, UNPRIVILEGED).running(100),
            &["100 +mp0: /tank/data,mp=/data now"],
        ),
        case(
            "a pending change of somebody else is left",
            plain()
                .here(100, &conf("mp0: /tank/data,mp=/data\n[pve:pending]\nmp0: /x,mp=/data"))
                .running(100),
            &["100 ! PendingForeign"],
        ),
        case(
            "a pending delete of somebody else is left",
            plain()
                .here(100, &conf("mp0: /tank/data,mp=/data\n[pve:pending]\ndelete: mp0"))
                .running(100),
            &["100 ! PendingForeign"],
        ),
        case(
            "a mount waits while its volume is not there",
            plain().here(100, UNPRIVILEGED).source("data", SourceState::NotDirectory),
            &["data ! SourceNotDirectory", "100 waits for data"],
        ),
        case(
            "a mount comes after its volume",
            plain().here(100, UNPRIVILEGED).drift("data", 3),
            &["data own 100000:100000 3/10", "100 +mp0: /tank/data,mp=/data after volume"],
        ),
    ]
}

/// Nothing declared for 100 any more, and pctd wrote its mp5.
fn left_behind() -> World {
    with_settings(r#""prune": true"#)
        .settled()
        .here(100, &conf("mp0: /tank/data,mp=/data\nmp5: /srv/old,mp=/old"))
        .wrote(100, "mp5", "/srv/old,mp=/old")
}

fn removals() -> Vec<Case> {
    let with = |prune: &str, lines: &str| {
        with_settings(prune).settled().here(100, &conf(lines)).wrote(100, "mp5", "/srv/old,mp=/old")
    };
    let on = |lines: &str| with(r#""prune": true"#, &format!("mp0: /tank/data,mp=/data\n{lines}"));
    let undeclared = || {
        let text = r#"{"settings": {"prune": true}, "shared_volumes": {}}"#;
        World::new(text).settled().here(100, &conf("mp5: /srv/old,mp=/old"))
    };
    let wrote = |world: World, value| world.wrote(100, "mp5", value);
    vec![
        case(
            "what pctd added and nobody declares goes",
            left_behind(),
            &["100 -mp5: /srv/old,mp=/old"],
        ),
        case(
            "with prune off it stays",
            with(r#""prune": false"#, "mp0: /tank/data,mp=/data\nmp5: /srv/old,mp=/old"),
            &[],
        ),
        case(
            "a configuration that has not stood yet removes nothing",
            left_behind().with(|w| w.snapshot.requests.removal = Removal::Unsettled),
            &["100 ! ConfigUnsettled"],
        ),
        case(
            "a ledger that was lost removes nothing",
            left_behind().with(|w| w.snapshot.memory = Memory::Lost("it was".to_owned())),
            &[],
        ),
        case("what others added stays", on("mp5: /srv/other,mp=/old"), &[]),
        case("what others changed since is theirs", on("mp5: /srv/old,mp=/old,ro=1"), &[]),
        case(
            "it goes before another one comes",
            with(r#""prune": true"#, "mp5: /srv/old,mp=/old"),
            &["100 -mp5: /srv/old,mp=/old", "100 +mp0: /tank/data,mp=/data"],
        ),
        case(
            "a running container keeps it until it restarts",
            left_behind().running(100),
            &["100 -mp5: /srv/old,mp=/old after restart"],
        ),
        case(
            "a deletion that waits is worth a restart",
            on("mp5: /srv/old,mp=/old\n[pve:pending]\ndelete: mp5").running(100),
            &["100 reboot for [MpKey(5)], also []"],
        ),
        case(
            "a deletion that waits, with prune off, is somebody's own affair",
            with(
                r#""prune": false"#,
                "mp0: /tank/data,mp=/data\nmp5: /srv/old,mp=/old\n[pve:pending]\ndelete: mp5",
            )
            .running(100),
            &[],
        ),
        case(
            "what waits is taken back before what is in force is deleted",
            on("mp5: /srv/older,mp=/old\n[pve:pending]\nmp5: /srv/old,mp=/old").running(100),
            &["100 -pending mp5: /srv/old,mp=/old"],
        ),
        case(
            "what waits beside a deletion is taken back first, too",
            on("mp5: /srv/older,mp=/old\n[pve:pending]\nmp5: /srv/old,mp=/old\ndelete: mp5"),
            &["100 -pending mp5: /srv/old,mp=/old"],
        ),
        case(
            "what was in force behind what was taken back goes if it was pctd's",
            on("mp5: /srv/older,mp=/old").with(|w| {
                let (key, value) = ("mp5".parse().unwrap(), "/srv/older,mp=/old".to_owned());
                let entry = LedgerEntry::MountReplaced { ctid: ctid(100), key, value };
                Arc::make_mut(&mut w.snapshot.ledger).enter(entry);
            }),
            &["100 -mp5: /srv/older,mp=/old"],
        ),
        case(
            "somebody else's change at the key of a mount that is to go",
            on("mp5: /srv/old,mp=/old\n[pve:pending]\nmp5: /srv/other,mp=/old").running(100),
            &["100 ! PendingForeign"],
        ),
        case(
            "options changed on a mount of others do not make it pctd's to remove",
            on("mp5: /srv/old,mp=/old").with(|w| {
                let entry =
                    LedgerEntry::MountBorrowed { ctid: ctid(100), key: "mp5".parse().unwrap() };
                Arc::make_mut(&mut w.snapshot.ledger).enter(entry);
            }),
            &[],
        ),
        case(
            "a conf that may not be written keeps it",
            on("protection: 1\nmp5: /srv/old,mp=/old"),
            &["100 ! Protected"],
        ),
        case(
            "a container that is not declared any more",
            wrote(undeclared(), "/srv/old,mp=/old"),
            &["100 -mp5: /srv/old,mp=/old"],
        ),
        case(
            "a container that is not declared any more and is being restored",
            wrote(undeclared(), "/srv/old,mp=/old")
                .here(100, &conf("lock: create\nmp5: /srv/old,mp=/old")),
            &[],
        ),
        case(
            "a container that is not declared any more and became a virtual machine",
            wrote(undeclared(), "/srv/old,mp=/old").presence(100, Presence::Vm),
            &[],
        ),
    ]
}

fn adoptions() -> Vec<Case> {
    let adopting = |fields: &str, lines: &str| {
        let text = r#"{"settings": {"seed_defaults": false, "prune": true}, "shared_volumes": {"data": {
            "host_path": "/tank/data", "owner": "container_root",
            "mounts": {"100": {"path": "/data", "adopt": true FIELDS}}}}}"#;
        World::new(&text.replace("FIELDS", fields)).settled().here(100, &conf(lines))
    };
    let undeclare = |world: World| world.with(|w| drop(w.desired.volumes.remove(&volume("data"))));
    vec![
        case(
            "another source is taken over where that is asked for",
            adopting("", "mp0: /srv/other,mp=/data,ro=1"),
            &["100 ~mp0: /tank/data,mp=/data"],
        ),
        case(
            "a disk of a storage is never taken over",
            adopting("", "mp0: local:1/v.raw,mp=/data,size=1G"),
            &["100 ! ForeignMount"],
        ),
        case(
            "somebody else's change that waits is not taken over",
            adopting("", "mp0: /srv/x,mp=/data\n[pve:pending]\nmp0: /srv/y,mp=/data").running(100),
            &["100 ! PendingForeign"],
        ),
        case(
            "an identical mount that was taken over is pctd's to remove",
            undeclare(adopting("", "mp0: /tank/data,mp=/data,backup=0").settle()),
            &["100 -mp0: /tank/data,mp=/data,backup=0"],
        ),
        case(
            "an identical mount that was not taken over is not",
            undeclare(
                with_settings(r#""prune": true"#)
                    .settled()
                    .here(100, &conf("mp0: /tank/data,mp=/data"))
                    .settle(),
            ),
            &[],
        ),
    ]
}

fn restarts() -> Vec<Case> {
    let waiting =
        "mp0: /tank/data,mp=/data,ro=1\n[pve:pending]\nmp0: /tank/data,mp=/data\ncores: 2";
    let own = |world: World| {
        world.here(100, &conf(waiting)).running(100).wrote(100, "mp0", "/tank/data,mp=/data")
    };
    let there = || World::one_mount().here(100, &conf("mp0: /tank/data,mp=/data"));
    vec![
        case(
            "a changed option of a running container waits for a restart",
            World::new(
                r#"{"settings": {"seed_defaults": false}, "shared_volumes": {"data": {
                "host_path": "/tank/data", "owner": "container_root",
                "mounts": {"100": {"path": "/data", "read_only": true}}}}}"#,
            )
            .here(100, &conf("mp0: /tank/data,mp=/data"))
            .running(100),
            &["100 ~mp0: /tank/data,mp=/data,ro=1 after restart"],
        ),
        case(
            "what waits is restarted for, and others' changes are named",
            own(World::one_mount()),
            &["100 reboot for [MpKey(0)], also [\"cores\"]"],
        ),
        case(
            "restart: never",
            own(with_settings(r#""restart": "never""#)),
            &["100 ! NeedsRestart"],
        ),
        case(
            "not twice within the limit",
            own(World::one_mount()).restarted(100, Duration::from_secs(1)),
            &["100 ! NeedsRestart"],
        ),
        case(
            "again after the limit",
            own(World::one_mount()).restarted(100, Duration::from_mins(10)),
            &["100 reboot for [MpKey(0)], also [\"cores\"]"],
        ),
        case(
            "after a restart that failed nothing is left pending",
            World::new(
                r#"{"settings": {"seed_defaults": false}, "shared_volumes": {"data": {
                "host_path": "/tank/data", "owner": "container_root",
                "mounts": {"100": {"path": "/data", "read_only": true}}}}}"#,
            )
            .here(100, &conf("mp0: /tank/data,mp=/data"))
            .running(100)
            .restart_failed(100),
            &["100 ! NeedsRestart"],
        ),
        case(
            "not while a source is missing, with which it would not start again",
            own(World::one_mount()).missing_source(100),
            &["100 ! NeedsRestart"],
        ),
        case("what a restart left stopped is started", there().start_owed(100), &["100 start"]),
        case(
            "what a restart left stopped is started though it is protected",
            there().start_owed(100).container(100, |c| c.conf.current.set("protection", "1")),
            &["100 start"],
        ),
        case(
            "what a restart left stopped is not started while its sources are missing",
            there().start_owed(100).missing_source(100),
            &["100 ! StartOwed"],
        ),
        case(
            "nor while a task is at work on it",
            there().start_owed(100).flock(100),
            &["data ! IdmapNotReady", "100 ! IdmapNotReady", "100 ! Busy"],
        ),
        case(
            "nor while it is locked",
            there().start_owed(100).container(100, |c| c.conf.current.set("lock", "backup")),
            &["100 ! StartOwed"],
        ),
        case(
            "nor when it was long ago: by now somebody else has stopped it",
            there().start_owed(100).restarted(100, Duration::from_hours(2)),
            &[],
        ),
        case(
            "what a restart left running is not started",
            there().running(100).start_owed(100),
            &[],
        ),
        case("what somebody else stopped is not started", there(), &[]),
        case(
            "not while it is locked",
            own(World::one_mount()).container(100, |c| c.conf.current.set("lock", "backup")),
            &["100 ! Locked"],
        ),
    ]
}

fn containers() -> Vec<Case> {
    let plain = World::one_mount;
    vec![
        case(
            "an unknown node plans nothing",
            plain().here(100, UNPRIVILEGED).with(|w| {
                w.snapshot.node = NodeState::Unknown("/etc/pve/.vmlist: no such file".into());
            }),
            &["! NodeUnknown"],
        ),
        case(
            "an unknown container plans nothing",
            plain().presence(100, Presence::Unknown("it is in .vmlist and has no conf".into())),
            &["data ! IdmapNotReady", "100 ! ContainerUnknown"],
        ),
        case("an absent container blocks nobody", plain(), &[]),
        case(
            "a container on another node is that node's",
            plain().presence(100, Presence::OnNode("pve2".into())),
            &[],
        ),
        case(
            "a virtual machine has the id",
            plain().presence(100, Presence::Vm),
            &["100 ! IdTakenByVm"],
        ),
        case(
            "a lock holds the conf, not the ownership",
            plain().here(100, &conf("lock: backup")).drift("data", 1),
            &["data own 100000:100000 1/10", "100 ! Locked"],
        ),
        case(
            "a lock without anything to do is nobody's business",
            plain().here(100, &conf("lock: backup\nmp0: /tank/data,mp=/data")),
            &[],
        ),
        case(
            "a protected container is left",
            plain().here(100, &conf("protection: 1")),
            &["100 ! Protected"],
        ),
        case(
            "without quorum no conf is written and ownership goes on",
            plain().here(100, UNPRIVILEGED).drift("data", 1).with(|w| {
                let NodeState::Up(cluster) = &mut w.snapshot.node else { panic!() };
                cluster.quorate = false;
            }),
            &["data own 100000:100000 1/10", "100 ! NoQuorum"],
        ),
        case(
            "a running container whose flock is held is busy",
            plain().here(100, UNPRIVILEGED).running(100).flock(100),
            &["100 ! Busy"],
        ),
        case(
            "a running container whose map in force cannot be read",
            plain()
                .here(100, UNPRIVILEGED)
                .container(100, |c| c.running = Running::Yes { init: None, map: None })
                .drift("data", 1),
            &["data ! IdmapNotReady", "100 ! IdmapNotReady", "100 waits for data"],
        ),
        case(
            "a privileged container that is declared unprivileged",
            defined(r#""unprivileged": true"#).here(100, PRIVILEGED),
            &["data ! IdmapNotReady", "100 ! UnprivilegedMismatch", "100 waits for data"],
        ),
        case(
            "an unprivileged container that is declared privileged keeps its mounts",
            defined(r#""unprivileged": false"#).here(100, UNPRIVILEGED),
            &["100 +mp0: /tank/data,mp=/data", "100 ! UnprivilegedMismatch"],
        ),
        case(
            "in observe mode steps are shown and not taken",
            with_settings(r#""mode": "observe""#).here(100, UNPRIVILEGED),
            &["100 +mp0: /tank/data,mp=/data", "100 ! ObserveOnly"],
        ),
    ]
}

fn owners() -> Vec<Case> {
    let plain = World::one_mount;
    let not_ready = ["data ! IdmapNotReady", "100 ! IdmapNotReady"];
    let not_ready_waits = ["data ! IdmapNotReady", "100 ! IdmapNotReady", "100 waits for data"];
    vec![
        case("an empty conf has no map yet", plain().here(100, "").drift("data", 9), &not_ready),
        case("a conf being created has no map yet", plain().here(100, &conf("lock: create")).flock(100).drift("data", 9), &not_ready),
        case("a conf without a rootfs has no map yet", plain().here(100, "unprivileged: 1\n"), &not_ready),
        case(
            "a stopped container whose flock is held may still be in the making",
            plain().here(100, UNPRIVILEGED).flock(100),
            &not_ready_waits,
        ),
        case("a map that cannot be read is none", plain().here(100, &conf("lxc.idmap: b 0 100000 65536")), &not_ready_waits),
        case(
            "a map that overlaps is none",
            plain().here(100, &conf("lxc.idmap: u 0 100000 65536\nlxc.idmap: u 5 200000 1\nlxc.idmap: g 0 100000 65536")),
            &not_ready_waits,
        ),
        case(
            "explicit lines are asked for and not there",
            with_settings(r#""idmap_source": "explicit""#).here(100, UNPRIVILEGED),
            &not_ready_waits,
        ),
        case(
            "the fallback applies after the timeout to what never was owned",
            with_settings(r#""idmap_source": "explicit", "idmap_fallback": "nobody""#)
                .here(100, UNPRIVILEGED)
                .waited(100)
                .drift("data", 2),
            &["data own 65534:65534 2/10", "100 +mp0: /tank/data,mp=/data after volume", "100 ! IdmapNotReady"],
        ),
        case(
            "the fallback is not for what may have been owned before the ledger was lost",
            with_settings(r#""idmap_source": "explicit", "idmap_fallback": "nobody""#)
                .here(100, UNPRIVILEGED)
                .waited(100)
                .drift("data", 2)
                .forgot(),
            &not_ready_waits,
        ),
        case(
            "a privileged container's root is the host's",
            plain().here(100, PRIVILEGED).dir("data", |d| d.ids = HostIds::ROOT),
            &["100 +mp0: /tank/data,mp=/data"],
        ),
        case(
            "the map in force wins over the conf",
            plain()
                .here(100, &conf("lxc.idmap: u 0 300000 65536\nlxc.idmap: g 0 300000 65536"))
                .running_with(100, IdMap::default_unprivileged())
                .drift("data", 1),
            &["data own 100000:100000 1/10", "100 +mp0: /tank/data,mp=/data now after volume"],
        ),
        case(
            "a mount that carries its own id map counts with the ids on disk",
            plain()
                .here(100, &conf("mp0: /tank/data,mp=/data,idmap=passthrough"))
                .drift("data", 1),
            &["data own 0:0 1/10"],
        ),
        case(
            "ids that the mount's own map names come from there",
            plain()
                .here(100, &conf("mp0: /tank/data,mp=/data,idmap=u:0:5000:1;g:0:5001:1"))
                .drift("data", 1),
            &["data own 5000:5001 1/10"],
        ),
        case(
            "the host's own ids are never taken for those of an unprivileged container that starts",
            plain().here(100, UNPRIVILEGED).running_with(100, IdMap::privileged()).drift("data", 1),
            &not_ready_waits,
        ),
        case(
            "different maps are a conflict, and the mounts go on",
            shared("").drift("data", 5),
            &["data ! OwnerConflict", "900 +mp0: /tank/data,mp=/data", "901 +mp0: /tank/data,mp=/data"],
        ),
        case(
            "owner_ctid resolves it",
            shared(r#""owner_ctid": "901","#).drift("data", 5),
            &[
                "data own 200000:200000 5/10",
                "900 +mp0: /tank/data,mp=/data after volume",
                "901 +mp0: /tank/data,mp=/data after volume",
            ],
        ),
        case(
            "owner_ctid has to be here",
            shared(r#""owner_ctid": "901","#).presence(901, Presence::Absent),
            &["data ! IdmapNotReady", "900 waits for data"],
        ),
        case(
            "one that is not ready is waited for",
            shared("").here(901, "").drift("data", 5),
            &["data ! IdmapNotReady", "901 ! IdmapNotReady", "900 waits for data"],
        ),
        case(
            "but not for ever",
            shared("").here(901, "").waited(901).drift("data", 5),
            &[
                "data own 100000:100000 5/10",
                "900 +mp0: /tank/data,mp=/data after volume",
                "901 ! IdmapNotReady",
            ],
        ),
        case(
            "one on another node does not count",
            shared("").presence(901, Presence::OnNode("pve2".into())),
            &["900 +mp0: /tank/data,mp=/data"],
        ),
        case(
            "an id in a hole of the map",
            with_fields(r#""owner": "container:70000""#).here(100, UNPRIVILEGED),
            &["data ! IdUnmapped", "100 +mp0: /tank/data,mp=/data"],
        ),
        case(
            "an account that is not there",
            with_fields(r#""owner": "alice""#).here(100, UNPRIVILEGED),
            &["data ! UnknownAccount", "100 +mp0: /tank/data,mp=/data"],
        ),
        case(
            "a host owner by name",
            with_fields(r#""owner": "nobody:nogroup""#).here(100, UNPRIVILEGED).drift("data", 4),
            &["data own 65534:65534 4/10", "100 +mp0: /tank/data,mp=/data after volume"],
        ),
        case(
            "what was never walked is walked first",
            plain().here(100, UNPRIVILEGED).audit("data", None),
            &["100 +mp0: /tank/data,mp=/data after volume", "data ? Soon"],
        ),
        case(
            "what is in the ledger and right at the root needs no walk",
            plain().here(100, &conf("mp0: /tank/data,mp=/data")).settle().audit("data", None),
            &[],
        ),
        case(
            "a root that differs needs one, whatever the ledger says",
            plain()
                .here(100, &conf("mp0: /tank/data,mp=/data"))
                .settle()
                .audit("data", None)
                .dir("data", |d| d.ids = HostIds::ROOT),
            &["data ? Soon"],
        ),
        case(
            "a big pass waits for a word",
            with_settings(r#""confirm_above": 5"#).here(100, UNPRIVILEGED).drift("data", 6),
            &["data ! ConfirmationRequired", "100 +mp0: /tank/data,mp=/data"],
        ),
        case(
            "drift since the watch was armed needs no word",
            with_settings(r#""confirm_above": 5"#).here(100, UNPRIVILEGED).audit(
                "data",
                Some(Audit { entries: 10, changes: 9, fresh: 4, owners: 9, ..Audit::default() }),
            ),
            &["data own 100000:100000 9/10", "100 +mp0: /tank/data,mp=/data after volume"],
        ),
        case(
            "what is old is too much, however much is fresh",
            with_settings(r#""confirm_above": 5"#).here(100, UNPRIVILEGED).audit(
                "data",
                Some(Audit { entries: 10, changes: 9, fresh: 3, owners: 9, ..Audit::default() }),
            ),
            &["data ! ConfirmationRequired", "100 +mp0: /tank/data,mp=/data"],
        ),
        case(
            "a big pass that was confirmed",
            with_settings(r#""confirm_above": 5"#)
                .here(100, UNPRIVILEGED)
                .drift("data", 6)
                .confirmed("data"),
            &["data own 100000:100000 6/10", "100 +mp0: /tank/data,mp=/data after volume"],
        ),
        case(
            "a file system that refuses owners",
            plain()
                .here(100, UNPRIVILEGED)
                .drift("data", 6)
                .dir("data", |d| d.file_system = file_system("nfs4:/tank"))
                .with(|w| drop(w.snapshot.requests.refused.insert(volume("data"), "EPERM".into()))),
            &["data ! OwnershipUnsupported", "100 +mp0: /tank/data,mp=/data"],
        ),
        case(
            "what cannot be recorded is not changed",
            plain()
                .here(100, UNPRIVILEGED)
                .drift("data", 6)
                .with(|w| drop(w.snapshot.requests.unrecorded.insert(volume("data"), "full".into()))),
            &["data ! UndoUnavailable", "100 +mp0: /tank/data,mp=/data"],
        ),
        case(
            "what was taken back is not done again",
            plain().here(100, UNPRIVILEGED).drift("data", 6).undone("data"),
            &["data ! Undone", "100 +mp0: /tank/data,mp=/data"],
        ),
        case(
            "what was taken back is done again when an admin asks for it",
            plain().here(100, UNPRIVILEGED).drift("data", 6).undone("data").confirmed("data"),
            &["data own 100000:100000 6/10", "100 +mp0: /tank/data,mp=/data after volume"],
        ),
        case(
            "what was taken back is done again when something else is declared",
            with_fields(r#""owner": "container_root", "file_mode": "0640""#)
                .here(100, UNPRIVILEGED)
                .drift("data", 6)
                .entered(LedgerEntry::Undone { volume: volume("data"), declared: "before".into() }),
            &["data own 100000:100000 6/10", "100 +mp0: /tank/data,mp=/data after volume"],
        ),
        case(
            "entries that cannot be read are not in place",
            plain().here(100, &conf("mp0: /tank/data,mp=/data")).audit(
                "data",
                Some(Audit { entries: 2, errors: 1, first_errors: vec!["x: EIO".into()], ..Audit::default() }),
            ),
            &["data ! WalkIncomplete"],
        ),
    ]
}

fn sources() -> Vec<Case> {
    let plain = || World::one_mount().here(100, UNPRIVILEGED);
    let missing = || SourceState::Missing { file_system: file_system("ext4:1") };
    let waits = |reason: &'static str| vec![reason, "100 waits for data"];
    vec![
        case(
            "a missing directory is made and owned, then mounted",
            plain().source("data", missing()),
            &[
                "data mkdir /tank/data",
                "data own 100000:100000 1/1",
                "100 +mp0: /tank/data,mp=/data after volume",
            ],
        ),
        case(
            "a missing directory that is not to be made",
            with_fields(r#""create": false"#).here(100, UNPRIVILEGED).source("data", missing()),
            &waits("data ! SourceMissing"),
        ),
        case(
            "a link is never followed",
            plain().source(
                "data",
                SourceState::Symlink { link: "/tank".into(), resolved: Some("/pool/data".into()) },
            ),
            &waits("data ! PathUnsafe"),
        ),
        case(
            "a parent that everybody may write to",
            plain().source("data", SourceState::WritableByAll { ancestor: "/tank".into() }),
            &waits("data ! PathUnsafe"),
        ),
        case(
            "a path that cannot be read",
            plain().source("data", SourceState::Unreadable("input/output error".into())),
            &waits("data ! SourceUnreadable"),
        ),
        case(
            "a disk that is not mounted",
            with_fields(r#""require_mount": true"#)
                .here(100, UNPRIVILEGED)
                .dir("data", |d| d.file_system.is_root = true),
            &waits("data ! SourceNotMounted"),
        ),
        case(
            "a named mount point that is none",
            with_fields(r#""require_mount": "/tank""#)
                .here(100, UNPRIVILEGED)
                .dir("data", |d| d.file_system.required_mounted = Some(false)),
            &waits("data ! SourceNotMounted"),
        ),
        case(
            "a missing directory on a disk that is not mounted is not made",
            with_fields(r#""require_mount": "/tank""#)
                .here(100, UNPRIVILEGED)
                .source("data", missing()),
            &waits("data ! SourceNotMounted"),
        ),
        case(
            "another file system than before",
            plain().settle().dir("data", |d| d.file_system = file_system("ext4:2")),
            &waits("data ! SourceChanged"),
        ),
        case(
            "another file system than before, and the directory is missing there",
            plain()
                .settle()
                .source("data", SourceState::Missing { file_system: file_system("ext4:2") }),
            &waits("data ! SourceChanged"),
        ),
        case(
            "a missing directory after the ledger was lost is not made unasked",
            plain().forgot().source("data", missing()),
            &waits("data ! LedgerLost"),
        ),
        case(
            "a missing directory after the ledger was lost, and it is to be made",
            plain().forgot().source("data", missing()).confirmed("data"),
            &[
                "data mkdir /tank/data",
                "data own 100000:100000 1/1",
                "100 +mp0: /tank/data,mp=/data after volume",
            ],
        ),
        case(
            "a missing directory that is remembered is made, whatever else was lost",
            plain().forgot().settle().source("data", missing()),
            &[
                "data mkdir /tank/data",
                "data own 100000:100000 1/1",
                "100 +mp0: /tank/data,mp=/data after volume",
            ],
        ),
        case(
            "another file system that is meant",
            plain()
                .settle()
                .dir("data", |d| d.file_system = file_system("ext4:2"))
                .confirmed("data"),
            &["100 +mp0: /tank/data,mp=/data"],
        ),
    ]
}

fn certificates() -> Vec<Case> {
    let with = |fields: &str| {
        let text = r#""owner": "container_root", "certificates": [{"domain": "a.b" FIELDS}]"#;
        with_fields(&text.replace("FIELDS", fields)).here(100, &conf("mp0: /tank/data,mp=/data"))
    };
    let plain = || with("");
    let missing = || SourceState::Missing { file_system: file_system("ext4:1") };
    let make = ["data make a.b for 365 days"];
    let renew = ["data renew a.b for 365 days"];
    let blocked = ["data ! CertificateBlocked"];
    vec![
        case("a pair that is missing is made", plain().pair(None, None), &make),
        case("a pair that nobody looked at is not", plain(), &[]),
        case(
            "a pair is made after the directory and before the mount",
            plain().here(100, UNPRIVILEGED).source("data", missing()),
            &[
                "data mkdir /tank/data",
                "data own 100000:100000 1/1",
                "data make a.b for 365 days",
                "100 +mp0: /tank/data,mp=/data after volume",
            ],
        ),
        case(
            "nothing is made for an owner that is not known yet",
            plain().pair(None, None).here(100, "unprivileged: 1\n"),
            &["data ! IdmapNotReady", "100 ! IdmapNotReady"],
        ),
        case("a pair of somebody else is left", plain().pair(Some("k"), Some("c")), &[]),
        case("a key without a certificate is left", plain().pair(Some("k"), None), &blocked),
        case("a certificate without a key is left", plain().pair(None, Some("c")), &blocked),
        case("what is no file is left", plain().pair(Some("!"), None), &blocked),
        case("what is no file beside a key is left", plain().pair(Some("k"), Some("!")), &blocked),
        case(
            "its own pair is in place",
            plain().pair(Some("k"), Some("c")).made("k", "c", true, 31),
            &[],
        ),
        case(
            "its own pair is renewed a month before it expires",
            plain().pair(Some("k"), Some("c")).made("k", "c", true, 30),
            &renew,
        ),
        case(
            "or as long before as is declared",
            with(r#", "renew_before": "90d""#).pair(Some("k"), Some("c")).made("k", "c", true, 80),
            &renew,
        ),
        case(
            "its own pair is in place from the first day on",
            plain().pair(Some("k"), Some("c")).made("k", "c", true, 365),
            &[],
        ),
        case(
            "its own pair that is not valid yet is renewed: the clock was ahead",
            plain().pair(Some("k"), Some("c")).made("k", "c", true, 366),
            &renew,
        ),
        case(
            "somebody else's pair is not renewed",
            plain().pair(Some("k2"), Some("c")).made("k", "c", true, 1),
            &[],
        ),
        case(
            "its own pair is renewed when another one is declared",
            with(r#", "subject_alt_names": ["10.0.0.1"]"#)
                .pair(Some("k"), Some("c"))
                .made("k", "c", true, 300),
            &renew,
        ),
        case(
            "half of its own finished pair is somebody's doing",
            plain().pair(Some("k"), None).made("k", "c", true, 300),
            &blocked,
        ),
        case(
            "half of a pair it was making is made anew",
            plain().pair(Some("k"), None).made("k", "c", false, 365),
            &make,
        ),
        case(
            "a pair of which the ledger lacks the end is done",
            plain().pair(Some("k"), Some("c")).made("k", "c", false, 365),
            &[],
        ),
        case(
            "a new key beside the old certificate is a renewal that was interrupted",
            plain()
                .pair(Some("k2"), Some("c"))
                .made("k", "c", true, 9)
                .made("k2", "c2", false, 365),
            &renew,
        ),
        case(
            "a key that was interrupted twice is still pctd's",
            plain().pair(Some("k"), None).made("k", "c", false, 365).made("k2", "c2", false, 365),
            &make,
        ),
    ]
}
