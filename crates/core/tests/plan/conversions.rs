//! The cases of conversions between privileged and unprivileged.

use std::time::Duration;

use pctd_core::ledger::{Backup, Conversion, ConversionPhase, LedgerEntry};
use pctd_core::observed::{Audit, NodeState, Obstacle, Presence};
use pctd_core::plan::Notice;

use crate::cases::{Case, case};
use crate::world::{PRIVILEGED, UNPRIVILEGED, World, ctid};

fn backup() -> Backup {
    Backup { archive: "/dump/100.tar.zst".to_owned(), disks: "local".to_owned() }
}

/// 100 is to be unprivileged, and may be converted; it mounts a volume of its root's.
fn declared(settings: &str) -> World {
    of(settings, r#""unprivileged": true, "convert": {"backup_storage": "local"}"#)
}

fn of(settings: &str, definition: &str) -> World {
    let text = r#"{"settings": {"seed_defaults": false SETTINGS}, "lxc_configs": {"100": {DEFINITION}},
        "shared_volumes": {"data": {"host_path": "/tank/data", "owner": "container_root",
        "mounts": {"100": "/data"}}}}"#;
    World::new(&text.replace("SETTINGS", settings).replace("DEFINITION", definition))
}

/// A privileged container that mounts the volume already.
fn conf(lines: &str) -> String {
    format!("{PRIVILEGED}mp0: /tank/data,mp=/data\n{lines}\n")
}

fn phase(world: World, was_running: bool, phase: ConversionPhase) -> World {
    let conversion = Conversion { unprivileged: true, was_running, phase };
    world
        .entered(LedgerEntry::Seen(ctid(100)))
        .entered(LedgerEntry::Converting { ctid: ctid(100), conversion })
}

fn backing_up() -> ConversionPhase {
    ConversionPhase::BackingUp { earlier: None }
}

fn restoring() -> ConversionPhase {
    ConversionPhase::Restoring { backup: backup() }
}

fn rolling_back() -> ConversionPhase {
    ConversionPhase::RollingBack { backup: backup(), why: "no room".to_owned() }
}

fn restored() -> ConversionPhase {
    ConversionPhase::Restored { backup: backup() }
}

pub(crate) fn all() -> Vec<Case> {
    let mut cases = beginning();
    cases.extend(losing());
    cases.extend(going_on());
    cases.extend(ending());
    cases
}

const REPLACE: &str = "100 convert to unprivileged: Replace by local to local";
/// Nobody owns its volume meanwhile.
const WAITS: &str = "data ! IdmapNotReady";

fn beginning() -> Vec<Case> {
    let stop = "100 convert to unprivileged: Stop";
    let start = "100 convert to unprivileged: Start";
    vec![
        case(
            "a stopped container is converted",
            declared("").here(100, &conf("")),
            &[WAITS, REPLACE],
        ),
        case(
            "one that runs is stopped first and started afterwards",
            declared("").here(100, &conf("")).running(100),
            &[WAITS, stop, REPLACE, start],
        ),
        case(
            "the other way round",
            of("", r#""unprivileged": false, "convert": {"backup_storage": "bt"}"#)
                .here(100, &format!("{UNPRIVILEGED}mp0: /tank/data,mp=/data\n")),
            &["100 convert to privileged: Replace by bt to local"],
        ),
        case(
            "what is as declared is not converted",
            declared("").here(100, &format!("{UNPRIVILEGED}mp0: /tank/data,mp=/data\n")),
            &[],
        ),
        case(
            "nothing is converted where that is not allowed",
            of("", r#""unprivileged": true"#).here(100, &conf("")),
            &[WAITS, "100 ! UnprivilegedMismatch"],
        ),
        case(
            "a container that may not be restarted is not stopped",
            declared(r#", "restart": "never""#).here(100, &conf("")).running(100),
            &[WAITS, "100 ! ConvertWaits"],
        ),
        case(
            "but converted where it is stopped anyway",
            declared(r#", "restart": "never""#).here(100, &conf("")),
            &[WAITS, REPLACE],
        ),
        case(
            "one that was restarted a short while ago is left running",
            declared("").here(100, &conf("")).running(100).restarted(100, Duration::from_secs(5)),
            &[WAITS, "100 ! ConvertWaits"],
        ),
        case(
            "one that would not start again is left running",
            declared("").here(100, &conf("")).running(100).missing_source(100),
            &[WAITS, "100 ! ConvertWaits"],
        ),
        case(
            "a conversion that failed is not tried again unasked",
            declared("").here(100, &conf("")).entered(failed()),
            &[WAITS, "100 ! ConvertFailed"],
        ),
        case(
            "an admin who names it lets it be tried again",
            declared("").here(100, &conf("")).entered(failed()).named(100),
            &[WAITS, REPLACE],
        ),
        case(
            "nothing is begun while it is locked",
            declared("").here(100, &conf("lock: backup")),
            &[WAITS, "100 ! Locked"],
        ),
        case(
            "nothing is begun without a quorum",
            declared("").here(100, &conf("")).with(|w| {
                let NodeState::Up(cluster) = &mut w.snapshot.node else { panic!() };
                cluster.quorate = false;
            }),
            &[WAITS, "100 ! NoQuorum"],
        ),
        case(
            "in observe mode it is shown and not done",
            declared(r#", "mode": "observe""#).here(100, &conf("")),
            &[WAITS, REPLACE, "100 ! ObserveOnly"],
        ),
    ]
}

fn failed() -> LedgerEntry {
    LedgerEntry::ConvertFailed { ctid: ctid(100), why: "vzdump failed".to_owned() }
}

fn losing() -> Vec<Case> {
    let unsafe_conf = |name, lines: &str| {
        case(name, declared("").here(100, &conf(lines)), &[WAITS, "100 ! ConvertUnsafe"])
    };
    let safe_conf =
        |name, lines: &str| case(name, declared("").here(100, &conf(lines)), &[WAITS, REPLACE]);
    let facts = |obstacle: Obstacle| {
        declared("").here(100, &conf("")).with(|w| {
            w.snapshot.converting.get_mut(&ctid(100)).unwrap().obstacles.push(obstacle);
        })
    };
    let held: &[&str] = &[WAITS, "100 ! ConvertUnsafe"];
    let map = |host: u32, size: u32| {
        let range = |kind| {
            format!(r#"{{"type": "{kind}", "container_id": 0, "host_id": {host}, "size": {size}}}"#)
        };
        let maps = format!(r#", "id_maps": [{}, {}]"#, range("uid"), range("gid"));
        let text = r#""unprivileged": true, "convert": {"backup_storage": "local"}"#;
        of("", &format!("{text}{maps}")).here(100, &conf(""))
    };
    vec![
        unsafe_conf("a disk that is in no backup", "mp1: local:100/vm-100-disk-1.raw,mp=/v,size=1G"),
        unsafe_conf("a disk that is kept out", "mp1: local:100/vm-100-disk-1.raw,mp=/v,backup=0,size=1G"),
        safe_conf("a disk that is backed up", "mp1: local:100/vm-100-disk-1.raw,mp=/v,backup=1,size=1G"),
        safe_conf("bind mounts stay in the conf", "mp1: /srv/a,mp=/a,backup=0"),
        unsafe_conf("a device", "mp1: /dev/sdb1,mp=/v"),
        unsafe_conf("a mount that cannot be read", "mp1: what"),
        unsafe_conf("a disk that is not used", "unused0: local:100/vm-100-disk-7.raw"),
        unsafe_conf("disks on two storages", "mp1: quick:100/vm-100-disk-1.raw,mp=/v,backup=1,size=1G"),
        unsafe_conf("a disk of unknown size", "mp1: local:100/vm-100-disk-1.raw,mp=/v,backup=1"),
        unsafe_conf("snapshots", "[before]\nrootfs: local:1/x.raw\nsnaptime: 1"),
        unsafe_conf("protection", "protection: 1"),
        unsafe_conf("a template", "template: 1"),
        unsafe_conf("quotas", "mp1: local:100/vm-100-disk-1.raw,mp=/v,backup=1,quota=1,size=1G"),
        unsafe_conf(
            "another container's disk",
            "mp1: local:101/vm-101-disk-0.raw,mp=/v,backup=1,size=1G",
        ),
        unsafe_conf(
            "a linked clone",
            "mp1: local:900/base-900-disk-0.raw/100/vm-100-disk-0.qcow2,mp=/v,backup=1",
        ),
        unsafe_conf(
            "an id map of one disk",
            "mp1: local:100/vm-100-disk-1.raw,mp=/v,backup=1,idmap=passthrough",
        ),
        unsafe_conf("a change that waits for a restart", "[pve:pending]\ncores: 2"),
        case(
            "lines of an id map make it unprivileged whatever is restored",
            of("", r#""unprivileged": false, "convert": {"backup_storage": "bt"}"#).here(
                100,
                &format!(
                    "{UNPRIVILEGED}mp0: /tank/data,mp=/data\nlxc.idmap: u 0 100000 65536\nlxc.idmap: g 0 100000 65536\n"
                ),
            ),
            &["100 ! ConvertUnsafe"],
        ),
        case("a map that gives no id another host id is written afterwards", map(100_000, 70_000), &[WAITS, REPLACE]),
        case("a map that does, for which nothing is unpacked", map(200_000, 65_536), held),
        case(
            "a map that ends earlier",
            map(100_000, 1000),
            held,
        ),
        case(
            "a map that root may not use",
            map(100_000, 70_000).sub_ids("root:100000:65536\n"),
            &[WAITS, "100 ! SubIdsMissing"],
        ),
        case("a storage without backups", facts(Obstacle::Storage { storage: "local".into(), why: "its content is not `backup`".into() }), held),
        case("high availability", facts(Obstacle::HighAvailability(ctid(100))), held),
        case("replication", facts(Obstacle::Replication), held),
        case("files that backups leave out", facts(Obstacle::Excluded("/srv".into())), held),
        case(
            "what cannot be told",
            facts(Obstacle::Unreadable { path: "/etc/pve/x".into(), why: "it is a directory".into() }),
            held,
        ),
        case(
            "what nobody looked at",
            declared("").here(100, &conf("")).with(|w| w.snapshot.converting.clear()),
            held,
        ),
    ]
}

fn going_on() -> Vec<Case> {
    let restore = "100 convert to unprivileged: Restore from /dump/100.tar.zst to local";
    let roll_back = "100 convert to privileged: RollBack from /dump/100.tar.zst to local";
    let gone = |phase_now| phase(declared(""), false, phase_now).presence(100, Presence::Absent);
    vec![
        case("a container whose restore was cut off is restored, not made", gone(restoring()), &[WAITS, restore]),
        case(
            "with its start, where it ran",
            phase(declared(""), true, restoring()).presence(100, Presence::Absent),
            &[WAITS, restore, "100 convert to unprivileged: Start"],
        ),
        case("one whose restore failed is restored as it was", gone(rolling_back()), &[WAITS, roll_back]),
        case(
            "so is one that is not to be converted any more",
            phase(of("", r#""unprivileged": true"#), false, restoring())
                .presence(100, Presence::Absent),
            &[WAITS, roll_back],
        ),
        case(
            "also one that nothing is declared of any more",
            {
                let mut world = phase(World::one_mount(), false, restoring());
                world.desired.volumes.clear();
                world.snapshot.volumes.clear();
                world.presence(100, Presence::Absent)
            },
            &["100 convert to privileged: RollBack from /dump/100.tar.zst to local"],
        ),
        case("but not while a task is at work", gone(restoring()).at_work(100), &[WAITS, "100 ! Busy"]),
        case(
            "nor without a quorum",
            gone(restoring()).with(|w| {
                let NodeState::Up(cluster) = &mut w.snapshot.node else { panic!() };
                cluster.quorate = false;
            }),
            &[WAITS, "100 ! NoQuorum"],
        ),
        case(
            "a lock that a killed restore left",
            phase(declared(""), false, restoring()).here(100, "lock: create\n"),
            &[WAITS, "100 ! ConvertInterrupted"],
        ),
        case(
            "a lock of a restore that goes on",
            phase(declared(""), false, restoring()).here(100, "lock: create\n").flock(100),
            &[WAITS, "100 ! Locked"],
        ),
        case(
            "once it is unlocked it is restored",
            phase(declared(""), false, restoring()).here(100, ""),
            &[WAITS, restore],
        ),
        case(
            "a backup that goes on",
            phase(declared(""), false, backing_up()).here(100, &conf("lock: backup")),
            &[WAITS, "100 ! Locked"],
        ),
        case(
            "a backup that was cut off is made anew",
            phase(declared(""), true, backing_up()).here(100, &conf("")),
            &[WAITS, REPLACE, "100 convert to unprivileged: Start"],
        ),
        case(
            "a whole conf after a restore that was cut off may name disks that are gone",
            phase(declared(""), true, restoring()).here(100, &conf("")),
            &[WAITS, "100 ! ConvertInterrupted"],
        ),
        case(
            "also where it is not to be converted any more",
            phase(of("", r#""unprivileged": true"#), true, restoring()).here(100, &conf("")),
            &[WAITS, "100 ! ConvertInterrupted"],
        ),
        case(
            "and where an admin let it begin anew and it failed",
            phase(declared(""), false, ConversionPhase::BackingUp { earlier: Some(backup()) })
                .here(100, &conf("")),
            &[WAITS, "100 ! ConvertInterrupted"],
        ),
        case(
            "an admin who names it knows that they are there",
            phase(declared(""), false, restoring()).here(100, &conf("")).named(100),
            &[WAITS, REPLACE],
        ),
        case(
            "an old backup is not restored over a container that runs",
            phase(declared(""), false, restoring()).here(100, &conf("")).running(100),
            &[WAITS, "100 convert to unprivileged: Stop", REPLACE, "100 convert to unprivileged: Start"],
        ),
        case(
            "one that an admin destroyed before that is gone",
            phase(
                of("", r#""template": "local:vztmpl/x", "unprivileged": true, "convert": {"backup_storage": "bt"}"#),
                false,
                backing_up(),
            )
            .presence(100, Presence::Absent),
            &["100 ! Gone"],
        ),
        case(
            "one that somebody took to another node is theirs",
            phase(declared(""), false, restoring()).presence(100, Presence::OnNode("pve2".into())),
            &[],
        ),
        case(
            "one whose state is unknown is left alone",
            phase(declared(""), false, restoring())
                .presence(100, Presence::Unknown("no conf, and in .vmlist".into())),
            &["data ! IdmapNotReady", "100 ! ContainerUnknown"],
        ),
        case(
            "a source that is being converted is not cloned",
            phase(
                World::new(r#"{"settings": {"seed_defaults": false}, "lxc_configs": {"101": {"clone_from_ctid": "100"}}}"#),
                false,
                backing_up(),
            )
            .here(100, PRIVILEGED),
            &["101 ! CloneSourceNotReady"],
        ),
    ]
}

fn ending() -> Vec<Case> {
    let done = format!("{UNPRIVILEGED}mp0: /tank/data,mp=/data\n");
    let start = "100 convert to unprivileged: Start";
    vec![
        case(
            "what is restored is started",
            phase(declared(""), true, restored()).here(100, &done),
            &[start],
        ),
        case(
            "after its volume has the owner of its new map",
            phase(declared(""), true, restored())
                .here(100, &done)
                .dir("data", |dir| dir.ids = pctd_core::ids::HostIds::ROOT)
                .audit(
                    "data",
                    Some(Audit { entries: 1, changes: 1, owners: 1, ..Audit::default() }),
                ),
            &["data own 100000:100000 1/1", "100 convert to unprivileged: Start after volume"],
        ),
        case("or left stopped", phase(declared(""), false, restored()).here(100, &done), &[]),
        case(
            "a restore that nobody saw the end of is one",
            phase(declared(""), true, restoring()).here(100, &done),
            &[start],
        ),
        case(
            "what runs again is done",
            phase(declared(""), true, restored()).here(100, &done).running(100),
            &[],
        ),
        case(
            "what was rolled back is started",
            phase(declared(""), true, rolling_back()).here(100, &conf("")),
            &[WAITS, start],
        ),
        case(
            "and not converted again unasked",
            phase(declared(""), false, rolling_back()).here(100, &conf("")).settle(),
            &[WAITS, "100 ! ConvertFailed"],
        ),
        case(
            "one that may not be converted any more is started again",
            phase(of("", r#""unprivileged": true"#), true, backing_up()).here(100, &conf("")),
            &[WAITS, start],
        ),
        case(
            "and is left as it is",
            phase(of("", r#""unprivileged": true"#), false, backing_up())
                .here(100, &conf(""))
                .settle(),
            &[WAITS, "100 ! UnprivilegedMismatch"],
        ),
    ]
}

#[test]
fn every_backup_is_named_as_long_as_the_container_may_be_converted() {
    let entry = |archive: &str| LedgerEntry::BackedUp { ctid: ctid(100), archive: archive.into() };
    let converted = LedgerEntry::Converted { ctid: ctid(100), archive: "/dump/b".into() };
    let notices = |definition: &str| {
        let world = of("", definition).here(100, UNPRIVILEGED);
        let world = world.entered(entry("/dump/a")).entered(entry("/dump/b"));
        let plans = world.entered(converted.clone()).plans();
        plans.containers[&ctid(100)].notices.clone()
    };
    let both = [
        Notice::ConvertBackup { archive: "/dump/b".into() },
        Notice::BackupLeft { archive: "/dump/a".into() },
    ];
    assert_eq!(notices(r#""unprivileged": true, "convert": {"backup_storage": "local"}"#), both);
    assert_eq!(notices(r#""unprivileged": true"#), []);
}

#[test]
fn a_backup_that_may_be_all_there_is_is_not_said_to_be_left_over() {
    let entry = LedgerEntry::BackedUp { ctid: ctid(100), archive: "/dump/100.tar.zst".into() };
    let world = || declared("").here(100, &conf("")).entered(entry.clone());
    let left = |world: World| {
        let plans = world.plans();
        let notices = plans.containers.get(&ctid(100)).map(|plan| plan.notices.clone());
        notices.unwrap_or_default().iter().any(|notice| notice.reason() == "BackupLeft")
    };
    assert!(left(world()));
    for of in [restoring(), rolling_back(), restored(), backing_up()] {
        assert!(!left(phase(world(), false, of)));
    }
}
