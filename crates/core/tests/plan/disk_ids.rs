//! Cases of ids on disk that are declared, and whose they then are.

use pctd_core::desired::Owner;
use pctd_core::idmap::IdMap;
use pctd_core::ids::HostIds;
use pctd_core::ledger::{DiskRoot, LedgerEntry, Memory};
use pctd_core::observed::{BadSource, MappingSupport, Presence, SourceState};
use pctd_core::ownership::Scope;
use pctd_core::plan::{Notice, Step};

use crate::cases::{Case, case};
use crate::world::{PRIVILEGED, SHIFTED, UNPRIVILEGED, World, ctid, file_system, volume};

/// A volume mounted in 900, with Proxmox's map, and 901, shifted to 200000.
fn shared(fields: &str) -> World {
    with_mounts(fields, r#""900": "/data", "901": "/data""#)
}

fn with_mounts(fields: &str, mounts: &str) -> World {
    let text = r#"{"settings": {"seed_defaults": false}, "shared_volumes": {"data": {
        "host_path": "/tank/data", "owner": "container_root", FIELDS "mounts": {MOUNTS}}}}"#;
    World::new(&text.replace("FIELDS", fields).replace("MOUNTS", mounts))
        .here(900, UNPRIVILEGED)
        .here(901, SHIFTED)
}

/// 901 alone, with a line for the mount in its conf.
fn alone(fields: &str, line: &str) -> World {
    with_mounts(fields, r#""901": "/data""#).here(901, &format!("{SHIFTED}{line}\n"))
}

const BASE: &str = r#""disk_ids": "0 100000 65536","#;
const MAPPED: &str = "mp0: /tank/data,mp=/data,idmap=u:0:100000:65536;g:0:100000:65536";
const ADDED: &str = "901 +mp0: /tank/data,mp=/data,idmap=u:0:100000:65536;g:0:100000:65536";

pub(crate) fn all() -> Vec<Case> {
    let mut cases = declarations();
    cases.extend(changes());
    cases.extend(obstacles());
    cases.extend(by_lxc());
    cases
}

fn declarations() -> Vec<Case> {
    vec![
        case(
            "the container whose map it is needs no option, the other one gets it",
            shared(BASE),
            &["900 +mp0: /tank/data,mp=/data", ADDED],
        ),
        case(
            "the ids of one container",
            shared(r#""disk_ids": "container:901","#),
            &[
                "900 +mp0: /tank/data,mp=/data,idmap=u:0:200000:65536;g:0:200000:65536",
                "901 +mp0: /tank/data,mp=/data",
            ],
        ),
        case(
            "the owner that the directory has",
            shared(r#""disk_ids": "owner","#).dir("data", |dir| dir.ids = HostIds::new(5000, 6000)),
            &[
                "900 +mp0: /tank/data,mp=/data,idmap=u:0:5000:65536;g:0:6000:65536",
                "901 +mp0: /tank/data,mp=/data,idmap=u:0:5000:65536;g:0:6000:65536",
            ],
        ),
        case(
            "the owner of a directory that nobody gave away",
            shared(r#""disk_ids": "owner","#).dir("data", |dir| dir.ids = HostIds::new(0, 0)),
            &["data ! IdmapImpossible", "900 ! IdmapImpossible", "901 ! IdmapImpossible"],
        ),
        case(
            "the owner of a mount point whose disk is not there",
            shared(r#""disk_ids": "owner", "require_mount": "/tank","#)
                .dir("data", |dir| dir.ids = HostIds::new(5000, 5000)),
            &["data ! SourceNotMounted", "900 ! SourceNotMounted", "901 ! SourceNotMounted"],
        ),
        case(
            "the owner after the ledger was lost",
            shared(r#""disk_ids": "owner","#)
                .dir("data", |dir| dir.ids = HostIds::new(5000, 5000))
                .with(|world| world.snapshot.memory = Memory::Lost("torn".to_owned())),
            &["data ! IdmapImpossible", "900 ! IdmapImpossible", "901 ! IdmapImpossible"],
        ),
        case(
            "the owner that it had first, whoever has it now",
            shared(r#""disk_ids": "owner","#)
                .dir("data", |dir| dir.ids = HostIds::new(101_000, 101_000))
                .entered(LedgerEntry::DiskRootSeen {
                    volume: volume("data"),
                    root: DiskRoot {
                        path: "/tank/data".to_owned(),
                        ids: HostIds::new(100_000, 100_000),
                    },
                }),
            &["900 +mp0: /tank/data,mp=/data", ADDED],
        ),
        case(
            "the ids of the host, without setuid programs",
            shared(r#""disk_ids": "passthrough","#),
            &[
                "900 +mp0: /tank/data,mp=/data,idmap=passthrough,mountoptions=nosuid",
                "901 +mp0: /tank/data,mp=/data,idmap=passthrough,mountoptions=nosuid",
            ],
        ),
        case(
            "a mount that names its options has no others",
            with_mounts(
                r#""disk_ids": "passthrough","#,
                r#""900": {"path": "/data", "mount_options": ["noatime"]}, "901": {"path": "/data", "mount_options": []}"#,
            ),
            &[
                "900 +mp0: /tank/data,mp=/data,idmap=passthrough,mountoptions=noatime",
                "901 +mp0: /tank/data,mp=/data,idmap=passthrough",
            ],
        ),
        case(
            "options of others stay beside it",
            alone(r#""disk_ids": "passthrough","#, "mp0: /tank/data,mp=/data,mountoptions=noatime"),
            &["901 ~mp0: /tank/data,mp=/data,idmap=passthrough,mountoptions=noatime;nosuid"],
        ),
        case(
            "a privileged container has the ids of the host as it is",
            with_mounts(r#""disk_ids": "passthrough","#, r#""902": "/data""#).here(902, PRIVILEGED),
            &["902 +mp0: /tank/data,mp=/data"],
        ),
        case(
            "a mount may differ from its volume",
            with_mounts(
                BASE,
                r#""900": {"path": "/data", "idmap": "0 5000 65536"}, "901": {"path": "/data", "idmap": "none"}"#,
            ),
            &[
                "900 +mp0: /tank/data,mp=/data,idmap=u:0:5000:65536;g:0:5000:65536",
                "901 +mp0: /tank/data,mp=/data",
            ],
        ),
        case(
            "of one mount alone it counts for the owner as well",
            with_mounts(
                "",
                r#""900": "/data", "901": {"path": "/data", "idmap": "container:900"}"#,
            ),
            &["900 +mp0: /tank/data,mp=/data", ADDED],
        ),
        case(
            "a running container gets it at once",
            with_mounts(BASE, r#""901": "/data""#).running(901),
            &["901 +mp0: /tank/data,mp=/data,idmap=u:0:100000:65536;g:0:100000:65536 now"],
        ),
    ]
}

fn changes() -> Vec<Case> {
    let written = "/tank/data,mp=/data,idmap=u:0:100000:65536;g:0:100000:65536";
    let mapped =
        |mapped| LedgerEntry::MountMapped { ctid: ctid(901), key: "mp0".parse().unwrap(), mapped };
    let undeclared = |line: &str| {
        with_mounts("", r#""901": "/data""#)
            .here(901, &format!("{SHIFTED}{line}\n"))
            .dir("data", |dir| dir.ids = HostIds::new(200_000, 200_000))
    };
    vec![
        case("a mount that has it is left", alone(BASE, MAPPED), &[]),
        case(
            "what says the same in other words is left",
            alone(
                BASE,
                "mp0: /tank/data,mp=/data,idmap=g:0:100000:70000;u:0:100000:1000;u:1000:101000:64536",
            ),
            &[],
        ),
        case(
            "another map is corrected",
            alone(BASE, "mp0: /tank/data,mp=/data,idmap=u:0:5000:1;g:0:5000:1"),
            &["901 ~mp0: /tank/data,mp=/data,idmap=u:0:100000:65536;g:0:100000:65536"],
        ),
        case(
            "an existing mount of a running container waits for a restart",
            alone(BASE, "mp0: /tank/data,mp=/data").running(901),
            &[
                "901 ~mp0: /tank/data,mp=/data,idmap=u:0:100000:65536;g:0:100000:65536 after restart",
            ],
        ),
        case(
            "and the container is restarted for it",
            alone(BASE, &format!("mp0: /tank/data,mp=/data\n[pve:pending]\n{MAPPED}"))
                .running(901)
                .wrote(901, "mp0", written),
            &["901 reboot for [MpKey(0)], also []"],
        ),
        case(
            "without a declaration a map that pctd wrote goes",
            undeclared(MAPPED).wrote(901, "mp0", written).entered(mapped(true)),
            &["901 ~mp0: /tank/data,mp=/data"],
        ),
        case(
            "one that somebody else wrote stays",
            undeclared(MAPPED).wrote(901, "mp0", written).dir("data", |dir| {
                dir.ids = HostIds::new(100_000, 100_000);
            }),
            &[],
        ),
        case(
            "so does one that somebody changed since",
            undeclared("mp0: /tank/data,mp=/data,idmap=passthrough")
                .wrote(901, "mp0", written)
                .entered(mapped(true)),
            &[],
        ),
        case(
            "a mount that is declared to have none loses it",
            with_mounts("", r#""901": {"path": "/data", "idmap": "none"}"#)
                .here(901, &format!("{SHIFTED}{MAPPED}\n")),
            &["901 ~mp0: /tank/data,mp=/data"],
        ),
    ]
}

fn obstacles() -> Vec<Case> {
    let unsupported = |world: World| {
        world.with(|world| {
            world.snapshot.mapping.proxmox = MappingSupport::No("it is 6.0.9".to_owned());
        })
    };
    let fuse = |world: World| {
        world.with(|world| {
            world.snapshot.volumes.get_mut(&volume("data")).unwrap().mapping =
                MappingSupport::No("Invalid argument".to_owned());
        })
    };
    vec![
        case(
            "a privileged container cannot have others",
            with_mounts(BASE, r#""902": "/data""#).here(902, PRIVILEGED),
            &["902 ! IdmapImpossible"],
        ),
        case(
            "ids that have no place on disk",
            alone(r#""disk_ids": "0 100000 1000","#, ""),
            &["901 ! IdmapImpossible"],
        ),
        case(
            "an owner that has no place on disk",
            with_mounts(BASE, r#""900": "/data""#).with(|world| {
                let data = world.desired.volumes.get_mut(&volume("data")).unwrap();
                data.owner = Owner::Container { uid: 70_000, gid: 0 };
            }),
            &["data ! IdmapImpossible", "900 +mp0: /tank/data,mp=/data"],
        ),
        case(
            "a map that changes at the next restart",
            alone(BASE, "").running_with(901, IdMap::default_unprivileged()),
            &["901 ! IdmapImpossible"],
        ),
        case(
            "one that has it already is not held for that",
            alone(BASE, MAPPED).running_with(901, IdMap::default_unprivileged()),
            &[],
        ),
        case(
            "a directory that is not there has no owner",
            with_mounts(r#""disk_ids": "owner","#, r#""900": "/data""#)
                .source("data", SourceState::Missing { file_system: file_system("ext4:1") }),
            &["data ! IdmapImpossible", "900 ! IdmapImpossible"],
        ),
        case(
            "the container whose ids they are is not here",
            shared(r#""disk_ids": "container:900","#).presence(900, Presence::Absent),
            &["data ! IdmapNotReady", "901 ! IdmapImpossible"],
        ),
        case(
            "Proxmox does not know it: owners and mounts are left, but of whom needs none",
            unsupported(shared(BASE)),
            &["data ! IdmapUnsupported", "900 +mp0: /tank/data,mp=/data", "901 ! IdmapUnsupported"],
        ),
        case(
            "nobody needs it, so nobody asks",
            unsupported(fuse(with_mounts(BASE, r#""900": "/data""#))),
            &["900 +mp0: /tank/data,mp=/data"],
        ),
        case(
            "the file system refuses it",
            fuse(shared(BASE)),
            &["data ! IdmapUnsupported", "900 +mp0: /tank/data,mp=/data", "901 ! IdmapUnsupported"],
        ),
        case(
            "root may not hand on the ids",
            shared(BASE).sub_ids("root:100000:65536\nroot:200000:5\n"),
            &["900 +mp0: /tank/data,mp=/data", "901 ! IdmapUnsupported"],
        ),
        case(
            "the map of the container itself needs no tool",
            alone(r#""disk_ids": "passthrough","#, "").sub_ids("root:100000:65536\n"),
            &["901 +mp0: /tank/data,mp=/data,idmap=passthrough,mountoptions=nosuid"],
        ),
    ]
}

/// The volume in both, mounted by LXC.
fn lines(fields: &str) -> World {
    shared(&format!(r#""mechanism": "lxc", {fields}"#))
}

/// 901 alone, mounted by LXC, with a line in its conf.
fn line(fields: &str, line: &str) -> World {
    alone(&format!(r#""mechanism": "lxc", {fields}"#), line)
}

const PASSTHROUGH: &str = r#""disk_ids": "passthrough","#;
const PLAIN: &str = "lxc.mount.entry: /tank/data data none bind,create=dir 0 0";
const SAME: &str =
    "lxc.mount.entry: /tank/data data none bind,nosuid,create=dir,idmap=container 0 0";

fn by_lxc() -> Vec<Case> {
    let whole = || {
        with_mounts(
            r#""mechanism": "lxc", "disk_ids": "passthrough","#,
            r#""901": {"path": "/data", "recursive": true}"#,
        )
    };
    let nested = |world: World| {
        world.with(|world| {
            let data = world.snapshot.volumes.get_mut(&volume("data")).unwrap();
            data.nested = Some("/tank/data/below".to_owned());
        })
    };
    let unmappable = |why: MappingSupport| {
        move |world: &mut World| {
            let data = world.snapshot.volumes.get_mut(&volume("data")).unwrap();
            data.mapping_whole = why;
        }
    };
    vec![
        case(
            "LXC has the same ids inside and on disk",
            lines(PASSTHROUGH),
            &[
                "900 edit lines: +lxc.mount.entry: /tank/data data none bind,nosuid,create=dir,idmap=container 0 0",
                "901 edit lines: +lxc.mount.entry: /tank/data data none bind,nosuid,create=dir,idmap=container 0 0",
            ],
        ),
        case(
            "or those of the container, and no others",
            lines(BASE),
            &[
                "900 edit lines: +lxc.mount.entry: /tank/data data none bind,create=dir 0 0",
                "901 ! IdmapImpossible",
            ],
        ),
        case(
            "a privileged container has the same ids without a map, with which it would not start",
            with_mounts(r#""mechanism": "lxc", "disk_ids": "passthrough","#, r#""902": "/data""#)
                .here(902, &format!("{PRIVILEGED}{SAME}\n"))
                .wrote_lines(902, &[SAME]),
            &[
                "902 edit lines: -lxc.mount.entry: /tank/data data none bind,nosuid,create=dir,idmap=container 0 0 +lxc.mount.entry: /tank/data data none bind,create=dir 0 0",
            ],
        ),
        case(
            "a line that is there is left",
            line(PASSTHROUGH, SAME).wrote_lines(901, &[SAME]),
            &[],
        ),
        case(
            "a running container has it after a restart",
            line(PASSTHROUGH, PLAIN).wrote_lines(901, &[PLAIN]).running(901),
            &[
                "901 edit lines: -lxc.mount.entry: /tank/data data none bind,create=dir 0 0 +lxc.mount.entry: /tank/data data none bind,nosuid,create=dir,idmap=container 0 0 after restart",
            ],
        ),
        case(
            "without a declaration the map of a line of pctd's goes",
            line("", SAME)
                .wrote_lines(901, &[SAME])
                .dir("data", |dir| dir.ids = HostIds::new(0, 0)),
            &[
                "901 edit lines: -lxc.mount.entry: /tank/data data none bind,nosuid,create=dir,idmap=container 0 0 +lxc.mount.entry: /tank/data data none bind,create=dir 0 0",
            ],
        ),
        case(
            "that of somebody else's line stays, and says whose the directory is",
            line("", SAME).dir("data", |dir| dir.ids = HostIds::new(0, 0)),
            &[],
        ),
        case(
            "where one is declared, somebody else's line without it is in the way",
            line(PASSTHROUGH, PLAIN),
            &["901 ! TargetTaken"],
        ),
        case(
            "nor is another namespace the container's",
            line(PASSTHROUGH, &SAME.replace("container", "/run/ns")),
            &["901 ! TargetTaken"],
        ),
        case(
            "LXC does not know it: owners and mounts are left",
            lines(PASSTHROUGH).with(|world| {
                world.snapshot.mapping.lxc = MappingSupport::No("lxc-pve is 4.0.12".to_owned());
            }),
            &["data ! IdmapUnsupported", "900 ! IdmapUnsupported", "901 ! IdmapUnsupported"],
        ),
        case(
            "nor does Proxmox have to know it",
            line(PASSTHROUGH, "").with(|world| {
                world.snapshot.mapping.proxmox = MappingSupport::No("it is 5.2".to_owned());
            }),
            &[
                "901 edit lines: +lxc.mount.entry: /tank/data data none bind,nosuid,create=dir,idmap=container 0 0",
            ],
        ),
        case(
            "what is mounted below is mapped as well, where it is included",
            nested(whole()),
            &[
                "901 edit lines: +lxc.mount.entry: /tank/data data none rbind,nosuid,create=dir,idmap=container 0 0",
            ],
        ),
        case(
            "and held where that cannot be",
            nested(whole()).with(unmappable(MappingSupport::No("Invalid argument".to_owned()))),
            &["data ! IdmapUnsupported", "901 ! IdmapUnsupported"],
        ),
        case(
            "nobody asks where nothing is mounted below",
            whole().with(unmappable(MappingSupport::NotAsked)),
            &[
                "901 edit lines: +lxc.mount.entry: /tank/data data none rbind,nosuid,create=dir,idmap=container 0 0",
            ],
        ),
        case(
            "LXC cannot leave out what is mounted below in an unprivileged container",
            nested(line("", PLAIN).wrote_lines(901, &[PLAIN]))
                .dir("data", |dir| dir.ids = HostIds::new(200_000, 200_000)),
            &["901 ! NestedMount"],
        ),
        case(
            "in a privileged one it can",
            nested(
                with_mounts(r#""mechanism": "lxc","#, r#""902": "/data""#)
                    .here(902, PRIVILEGED)
                    .dir("data", |dir| dir.ids = HostIds::new(0, 0)),
            ),
            &["902 edit lines: +lxc.mount.entry: /tank/data data none bind,create=dir 0 0"],
        ),
        case(
            "a container that would not start with it is not restarted",
            line(PASSTHROUGH, SAME)
                .wrote_lines(901, &[SAME])
                .running(901)
                .edited(901, 1, &[SAME], &[])
                .with(|world| {
                    let (path, why) = ("/tank/data".to_owned(), "Invalid argument".to_owned());
                    let bad = BadSource::Unmappable { path, why };
                    world.snapshot.bad_sources.insert(ctid(901), bad);
                }),
            &["901 ! NeedsRestart"],
        ),
    ]
}

/// The maps that say whose the entries of `data` are.
fn scope(world: &World) -> Scope {
    world.plans().volumes.remove(&volume("data")).unwrap().rule.unwrap().scope
}

#[test]
fn what_lies_outside_of_the_declared_ids_is_nobodys() {
    let space = IdMap::default_unprivileged();
    assert_eq!(scope(&shared(BASE)), Scope::Foreign(vec![space.clone()]));
    // Until its restart a container still makes files under the ids of its own map.
    let shifted = IdMap::new(
        space.ranges().iter().map(|r| pctd_core::idmap::IdRange { host: 200_000, ..*r }).collect(),
    );
    let waiting = alone(BASE, "mp0: /tank/data,mp=/data");
    assert_eq!(scope(&waiting), Scope::Foreign(vec![space.clone(), shifted]));
    assert_eq!(scope(&alone(BASE, MAPPED)), Scope::Foreign(vec![space]));
}

#[test]
fn a_line_counts_for_the_ids_on_disk_once_the_container_was_started_with_it() {
    let by = |host: u64| {
        let ranges = IdMap::default_unprivileged();
        let ranges = ranges.ranges().iter();
        IdMap::new(ranges.map(|r| pctd_core::idmap::IdRange { host, ..*r }).collect())
    };
    let waiting = line(PASSTHROUGH, SAME).wrote_lines(901, &[SAME]).running(901).edited(
        901,
        1,
        &[SAME],
        &[PLAIN],
    );
    assert_eq!(scope(&waiting), Scope::Foreign(vec![by(0), by(200_000)]));
    let started = waiting.container(901, |container| {
        let map = container.conf.effective_idmap().ok();
        container.running = pctd_core::observed::Running::Yes { init: Some(2), map };
    });
    assert_eq!(scope(&started), Scope::Foreign(vec![by(0)]));
    // The same without a declaration, where only what is in force counts.
    let undeclared = line("", SAME).running(901);
    assert_eq!(scope(&undeclared), Scope::Foreign(vec![by(0)]));
    let undeclared = undeclared.edited(901, 1, &[SAME], &[PLAIN]);
    assert_eq!(scope(&undeclared), Scope::Foreign(vec![by(200_000)]));
}

#[test]
fn the_owner_is_remembered_before_anything_rests_on_it_and_forgotten_when_nothing_does() {
    let world = shared(r#""disk_ids": "owner","#);
    let seen = LedgerEntry::DiskRootSeen {
        volume: volume("data"),
        root: DiskRoot { path: "/tank/data".to_owned(), ids: HostIds::new(100_000, 100_000) },
    };
    let plans = world.plans();
    assert!(plans.volumes[&volume("data")].records.contains(&seen));
    assert!(plans.containers[&ctid(901)].records.contains(&seen));
    let settled = world.settle();
    assert!(!settled.plans().volumes[&volume("data")].records.contains(&seen));
    let undeclared = shared("").with(|world| world.snapshot.ledger = settled.snapshot.ledger);
    let forgotten = LedgerEntry::DiskRootForgotten(volume("data"));
    assert!(undeclared.plans().volumes[&volume("data")].records.contains(&forgotten));
}

#[test]
fn a_step_says_which_id_is_which() {
    let plans = shared(BASE).plans();
    let Step::SetMount(set) = &plans.containers[&ctid(901)].steps[0] else { panic!() };
    let words = "root inside is 100000:100000 on disk, 33 is 100033:100033, 1000 is 101000:101000";
    assert_eq!(set.ids.as_deref(), Some(words));
    let plans = lines(PASSTHROUGH).plans();
    let Step::EditConf(edit) = &plans.containers[&ctid(901)].steps[0] else { panic!() };
    assert_eq!(edit.ids.as_deref(), Some("every id inside is the same on disk"));
}

#[test]
fn programs_of_the_hosts_root_are_warned_of_where_users_can_get_at_them() {
    let notices = |world: &World| -> Vec<&'static str> {
        world.plans().volumes[&volume("data")].notices.iter().map(Notice::reason).collect()
    };
    let passthrough = shared(r#""disk_ids": "passthrough","#);
    assert_eq!(notices(&passthrough), [""; 0]);
    assert_eq!(notices(&passthrough.dir("data", |dir| dir.exposed = true)), ["RootExposed"]);
    assert_eq!(notices(&shared(BASE).dir("data", |dir| dir.exposed = true)), [""; 0]);
}
