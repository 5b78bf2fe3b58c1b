//! What keeps a container from being changed, and when it is restarted.

use super::*;

pub(super) fn restarts() -> Vec<Case> {
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

pub(super) fn containers() -> Vec<Case> {
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
