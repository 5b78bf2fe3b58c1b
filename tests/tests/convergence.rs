//! Convergence: `plan` writes nothing, `apply` brings mounts in place one `pct set` at a time and
//! touches nothing else, and what is in place stays untouched.

use std::collections::BTreeSet;

use pctd_sandbox::{Fault, FaultKind};
use pctd_tests::daemon::eventually;
use pctd_tests::world::{Stamps, UNPRIVILEGED, World, ctid, holds};

fn world() -> Option<World> {
    World::new(env!("CARGO_BIN_EXE_pctd-tests"))
}

/// Two volumes, three mounts, files to be adopted.
fn two_volumes(world: &World) {
    world.container(100, &[UNPRIVILEGED]);
    world.container(101, &[UNPRIVILEGED]);
    world.dir("/tank/a/sub", 0, 0o755);
    world.file("/tank/a/sub/file", 0, 0o644);
    world.file("/tank/a/own", 101_000, 0o600);
    world.volumes(
        "",
        r#""a": {"host_path": "/tank/a", "owner": "container_root", "dir_mode": "0775",
                 "mounts": {"100": "/a", "101": "/a"}},
           "b": {"host_path": "/tank/b", "owner": "1234:1235", "file_mode": "0640",
                 "mounts": {"100": {"path": "/b", "read_only": true}}}"#,
    );
}

#[test]
fn a_plan_writes_nothing_at_all() {
    let Some(world) = world() else { return };
    two_volumes(&world);
    let before = world.stamps_of("/");
    let (code, plan) = world.plan();
    assert_eq!(code, 3, "{plan:#}");
    assert_eq!(plan["summary"]["steps"], 6, "{plan:#}");
    // Not even a ledger, a lock or a directory for them.
    assert_eq!(world.stamps_of("/"), before);
    assert!(!world.host("/var/lib/pctd").exists() && !world.host("/run/pctd").exists());
    assert_eq!(world.calls(), Vec::<String>::new());

    world.apply(&[], 0);
    let before = world.stamps_of("/");
    let (code, plan) = world.plan();
    assert_eq!((code, &plan["summary"]["steps"]), (0, &0.into()), "{plan:#}");
    assert_eq!(world.stamps_of("/"), before);
}

#[test]
fn a_second_apply_calls_no_pct_and_changes_no_ctime_anywhere() {
    let Some(world) = world() else { return };
    two_volumes(&world);
    world.apply(&[], 0);
    assert_eq!(
        world.calls(),
        [
            "set 100 --mp0 /tank/a,mp=/a",
            "set 100 --mp1 /tank/b,mp=/b,ro=1",
            "set 101 --mp0 /tank/a,mp=/a",
        ]
    );
    assert_eq!(world.owner("/tank/a/sub/file"), "100000:100000 0644");
    assert_eq!(world.owner("/tank/a/own"), "101000:101000 0600");
    assert_eq!(world.owner("/tank/b"), "1234:1235 0755");
    let before = world.stamps();
    let report = world.apply(&[], 0);
    assert_eq!(report["summary"], serde_json::json!({"steps": 0, "holds": 0}));
    assert_eq!(world.calls().len(), 3);
    assert_eq!(world.stamps(), before);

    // Nor does a daemon that finds everything in place, or an apply through it.
    let daemon = world.pctd.start();
    daemon.until_all("Converged");
    world.apply(&[], 0);
    world.apply(&["--yes"], 0);
    daemon.stop();
    assert_eq!(world.calls().len(), 3);
    // But for its own notes of which directories it walked.
    let of_others = |stamps: Stamps| -> Stamps {
        let is_note = |at: &str| at == "var/lib/pctd" || at.starts_with("var/lib/pctd/directories");
        stamps.into_iter().filter(|(at, _)| !is_note(at)).collect()
    };
    assert_eq!(of_others(world.stamps()), of_others(before));
}

#[test]
fn a_changed_option_keeps_its_key_and_every_other_option() {
    let Some(world) = world() else { return };
    let theirs = "mp7: /tank/a,mp=/data,backup=1,mountoptions=noatime,replicate=0,shared=1";
    world.container(100, &[UNPRIVILEGED, theirs]);
    world.dir("/tank/a", 100_000, 0o755);
    world.volumes(
        "",
        r#""a": {"host_path": "/tank/a", "owner": "container_root", "mounts":
            {"100": {"path": "/data", "read_only": true, "backup": false}}}"#,
    );
    world.apply(&[], 0);
    let changed = "/tank/a,mp=/data,backup=0,mountoptions=noatime,replicate=0,ro=1,shared=1";
    assert_eq!(world.calls(), [format!("set 100 --mp7 {changed}")]);
    assert!(world.conf(100).contains(&format!("mp7: {changed}\n")), "{}", world.conf(100));
    assert_eq!(world.plan().0, 0);
}

#[test]
fn a_new_mount_gets_the_lowest_key_that_is_free_now_and_after_a_restart() {
    let Some(world) = world() else { return };
    for dir in ["/srv/0", "/srv/1", "/srv/4"] {
        world.dir(dir, 0, 0o755);
    }
    // mp0 and mp4 in force, mp4 to be deleted, mp0 to be changed: both still take their keys.
    world.running(100, &[UNPRIVILEGED, "mp0: /srv/0,mp=/m0", "mp4: /srv/4,mp=/m4"]);
    world.pct(&["set", "100", "--delete", "mp4"]);
    world.pct(&["set", "100", "--mp0", "/srv/1,mp=/m0"]);
    let before = world.conf(100);
    let mounts = ["a", "b", "c", "d"].map(|name| {
        format!(r#""{name}": {{"host_path": "/tank/{name}", "mounts": {{"100": "/{name}"}}}}"#)
    });
    world.volumes("", &mounts.join(","));
    world.apply(&[], 0);
    assert_eq!(
        world.calls(),
        [
            "set 100 --mp1 /tank/a,mp=/a",
            "set 100 --mp2 /tank/b,mp=/b",
            "set 100 --mp3 /tank/c,mp=/c",
            "set 100 --mp5 /tank/d,mp=/d",
        ]
    );
    // All four are plugged into the running container, and what waits still waits.
    let inside: BTreeSet<_> =
        world.node.mounts(ctid(100)).into_iter().map(|mount| mount.target).collect();
    assert_eq!(inside, ["/a", "/b", "/c", "/d", "/m0", "/m4"].map(String::from).into());
    let after = world.conf(100);
    let kept: Vec<&str> = after.lines().filter(|line| !line.contains("/tank/")).collect();
    assert_eq!(kept, before.lines().collect::<Vec<_>>());
}

#[test]
fn mounts_that_others_made_are_left_and_one_at_the_target_is_a_hold() {
    let Some(world) = world() else { return };
    let theirs = [UNPRIVILEGED, "mp0: /srv/other,mp=/data,backup=1", "mp1: local:1/v.raw,mp=/v"];
    world.container(100, &theirs);
    world.dir("/tank/a", 100_000, 0o755);
    world.volumes(
        "",
        r#""a": {"host_path": "/tank/a", "owner": "container_root", "mounts": {"100": "/data"}},
           "b": {"host_path": "/tank/b", "owner": "container_root", "mounts": {"100": "/b"}}"#,
    );
    let report = world.apply(&[], 3);
    assert_eq!(holds(&report, "containers", "100"), ["ForeignMount"], "{report:#}");
    assert_eq!(world.calls(), ["set 100 --mp2 /tank/b,mp=/b"]);
    for line in theirs {
        assert!(world.conf(100).contains(&format!("{line}\n")), "{}", world.conf(100));
    }
}

/// What Proxmox keeps that is not pctd's: comments, unknown keys, snapshots, what waits.
const RICH: &str = "\
#a note%3A 50%25 %C3%BC
# two
arch: amd64
cores: 2
features: nesting=1
foo: bar
hostname: ct100
memory: abc
mp10: /srv/ten,mp=/ten
mp2: /srv/two,mp=/two,backup=1
net0: name=eth0,bridge=vmbr0,hwaddr=BC:24:11:00:00:01,type=veth
ostype: debian
rootfs: local:100/vm-100-disk-0.raw,size=1G
swap: 512
tags: a;b
unprivileged: 1
lxc.idmap: u 0 100000 65536
lxc.idmap: g 0 100000 65536
lxc.mount.entry: /srv/x  mnt/x none bind,optional,create=dir 0 0

[before]
arch: amd64
hostname: old
memory: 256
ostype: debian
rootfs: local:100/vm-100-disk-0.raw,size=1G
snaptime: 1700000000
swap: 512
lxc.idmap: u 0 300000 65536
";

#[test]
fn every_line_of_a_conf_that_is_not_pctds_stays_byte_for_byte() {
    let Some(world) = world() else { return };
    world.container(100, &[]);
    world.node.write_conf(ctid(100), RICH).unwrap();
    world.volumes("", r#""a": {"host_path": "/tank/a", "mounts": {"100": "/a"}}"#);
    world.apply(&[], 0);
    let expected = RICH.replacen("mp10:", "mp0: /tank/a,mp=/a\nmp10:", 1);
    assert_eq!(world.conf(100), expected);
}

#[test]
fn a_conf_written_by_hand_changes_only_into_proxmoxs_normal_form() {
    let Some(world) = world() else { return };
    let by_hand = "\
unprivileged: yes
lxc.idmap = u 0 100000 65536
lxc.idmap=g 0 100000 65536
swap: 0512
memory: 512
# a note at the wrong place
rootfs: volume=local:100/vm-100-disk-0.raw,size=1G
ostype: debian
garbage
arch: amd64
hostname: ct
";
    for id in [100, 101] {
        world.container(id, &[]);
        world.node.write_conf(ctid(id), by_hand).unwrap();
    }
    world.volumes("", r#""a": {"host_path": "/tank/a", "mounts": {"100": "/a"}}"#);
    world.apply(&[], 0);
    // What Proxmox makes of the same text when an admin sets one more mount.
    world.pct(&["set", "101", "--mp0", "/tank/a,mp=/a"]);
    assert_eq!(world.conf(100), world.conf(101));
    assert!(!world.conf(100).contains("garbage"));
}

#[test]
fn an_edit_between_the_read_and_the_write_is_neither_lost_nor_overwritten() {
    let Some(world) = world() else { return };
    world.container(100, &[UNPRIVILEGED]);
    world.volumes("", r#""a": {"host_path": "/tank/a", "mounts": {"100": "/a"}}"#);
    // The first `pct set` gets going late; meanwhile an admin takes the key it was to write.
    let late = FaultKind::Hang { millis: 300, holding_flock: false };
    world.node.inject(Fault::next(late).on("set")).unwrap();
    let apply = world.apply_aside();
    eventually("pct set has begun", || !world.calls().is_empty());
    let theirs = "mp0: /srv/theirs,mp=/theirs";
    world
        .node
        .write_conf(ctid(100), pctd_tests::world::conf(100, &[UNPRIVILEGED, theirs]))
        .unwrap();
    let ran = apply.join().unwrap();
    assert_eq!(ran.code, 0, "{ran:#?}");
    assert_eq!(world.calls(), ["set 100 --mp0 /tank/a,mp=/a", "set 100 --mp1 /tank/a,mp=/a"]);
    let ours = "mp1: /tank/a,mp=/a";
    assert_eq!(world.conf(100), pctd_tests::world::conf(100, &[UNPRIVILEGED, theirs, ours]));
    // What was not written is not remembered either: mp0 is still a stranger's.
    let ledger = std::fs::read_to_string(world.host("/var/lib/pctd/ledger.json")).unwrap();
    assert!(!ledger.contains("mp0"), "{ledger}");
    assert_eq!(world.plan().0, 0);
}

#[test]
fn a_daemon_and_an_editor_that_write_at_the_same_time_lose_nothing() {
    let Some(world) = world() else { return };
    world.container(100, &[UNPRIVILEGED]);
    let names: Vec<String> = (0..6).map(|n| format!("v{n}")).collect();
    let volume = |name: &String| {
        format!(r#""{name}": {{"host_path": "/tank/{name}", "mounts": {{"100": "/{name}"}}}}"#)
    };
    world.volumes("", &names.iter().map(volume).collect::<Vec<_>>().join(","));
    let daemon = world.pctd.start();
    // Tags and a mount of somebody else's, through Proxmox, while pctd is at work.
    for round in 0..8 {
        world.pct(&["set", "100", "--tags", &format!("t{round}")]);
        let key = format!("--mp{}", 40 + round);
        world.pct(&["set", "100", &key, &format!("/srv/{round},mp=/s{round}")]);
    }
    daemon.until_all("Converged");
    daemon.stop();
    let conf = world.conf(100);
    assert!(conf.contains("tags: t7\n"), "{conf}");
    for round in 0..8 {
        let line = format!("mp{}: /srv/{round},mp=/s{round}\n", 40 + round);
        assert!(conf.contains(&line), "{conf}");
    }
    for (index, name) in names.iter().enumerate() {
        assert!(conf.contains(&format!("mp{index}: /tank/{name},mp=/{name}\n")), "{conf}");
    }
    assert_eq!(conf.matches("/tank/").count(), names.len(), "{conf}");
}

#[test]
fn a_mount_below_another_is_made_after_it_however_long_its_volume_takes() {
    let Some(world) = world() else { return };
    world.running(100, &[UNPRIVILEGED]);
    // The upper one takes longest: many files to adopt, and at first it may not be done at all.
    world.dir("/tank/upper", 0, 0o755);
    for n in 0..400 {
        world.file(&format!("/tank/upper/{n}"), 0, 0o644);
    }
    let declare = |create: bool| {
        world.volumes(
            "",
            &format!(
                r#""late": {{"host_path": "/tank/late", "create": {create}, "mounts": {{"100": "/w"}}}},
                   "below": {{"host_path": "/tank/below", "mounts": {{"100": "/w/a/b"}}}},
                   "lower": {{"host_path": "/tank/lower", "mounts": {{"100": "/data/lower"}}}},
                   "upper": {{"host_path": "/tank/upper", "owner": "container_root",
                              "mounts": {{"100": "/data"}}}}"#
            ),
        );
    };
    declare(false);
    let daemon = world.pctd.start();
    daemon.until("the lower one is there", |_| world.conf(100).contains("mp=/data/lower"));
    daemon.until("the other waits", |status| holds(status, "containers", "100") == ["VolumeHeld"]);
    let upper = ["set 100 --mp0 /tank/upper,mp=/data", "set 100 --mp1 /tank/lower,mp=/data/lower"];
    assert_eq!(world.calls(), upper);
    declare(true);
    daemon.until_all("Converged");
    let below = ["set 100 --mp2 /tank/late,mp=/w", "set 100 --mp3 /tank/below,mp=/w/a/b"];
    assert_eq!(world.calls(), [upper, below].concat());
}
