//! Mounts that are missing, there, changed, somebody else's, or no longer declared.

use super::*;

pub(super) fn mounts() -> Vec<Case> {
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

pub(super) fn removals() -> Vec<Case> {
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

pub(super) fn adoptions() -> Vec<Case> {
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
