//! Conversions that are not made.

use super::*;

/// Expects the conversion to be refused for this, and nothing to be run.
fn is_refused(world: &World, reason: &str, says: &str) {
    let before = world.conf(100);
    let report = world.apply(&[], 3);
    assert_eq!(holds(&report, "containers", "100")[0], reason, "{report:#}");
    assert!(message(world).contains(says), "{}", message(world));
    assert_eq!(world.calls(), [""; 0]);
    assert_eq!(world.conf(100), before);
}

#[test]
fn without_convert_the_remedy_is_said_and_nothing_is_done() {
    let Some(world) = world(Timings::default(), true) else { return };
    declare(&world, true, "", "");
    is_refused(&world, "UnprivilegedMismatch", "`vzdump 100 --mode stop --compress zstd");
    assert!(message(&world).contains("--force 1 --unprivileged 1"));
    assert!(message(&world).contains(r#""convert""#));
}

#[test]
fn whatever_a_backup_would_lose_stands_against_a_conversion() {
    for (lines, says) in [
        (
            &["mp2: local:100/vm-100-disk-2.raw,mp=/w,size=1G"][..],
            "mp2 (local:100/vm-100-disk-2.raw)",
        ),
        (&["unused0: local:100/vm-100-disk-7.raw"], "unused0"),
        (&["protection: 1"], "--protection 0"),
        (&["mp2: bt:100/vm-100-disk-2.raw,mp=/w,backup=1,size=1G"], "several storages (bt, local)"),
        (&["mp2: /dev/sdb1,mp=/w"], "the device mp2"),
        (
            &["mp2: local:900/base-900-disk-0.raw/100/vm-100-disk-3.raw,mp=/w,backup=1,size=1G"],
            "linked clone",
        ),
        (&["mp2: local:101/vm-101-disk-0.raw,mp=/w,backup=1,size=1G"], "another container's disk"),
    ] {
        let Some(world) = world(Timings::default(), true) else { return };
        let conf = pctd_tests::world::conf(100, &[&[BIND, DISK][..], lines].concat());
        world.node.write_conf(ctid(100), conf).unwrap();
        is_refused(&world, "ConvertUnsafe", says);
    }
    for (section, says) in [
        ("[before]\nrootfs: local:100/vm-100-disk-0.raw\nsnaptime: 1\n", "snapshots (before)"),
        ("[pve:pending]\ncores: 2\n", "wait for a restart (cores)"),
    ] {
        let Some(world) = world(Timings::default(), true) else { return };
        let conf = world.conf(100) + section;
        world.node.write_conf(ctid(100), conf).unwrap();
        is_refused(&world, "ConvertUnsafe", says);
    }
}

#[test]
fn what_the_node_says_against_it_is_heard() {
    for (path, text, says) in [
        ("/etc/pve/ha/resources.cfg", "ct: 100\n\tstate started\n", "managed by HA"),
        ("/etc/pve/replication.cfg", "local: 100-0\n\ttarget pve2\n", "replicated"),
        ("/etc/vzdump.conf", "exclude-path: /var/cache\n", "/var/cache"),
        (
            "/etc/pve/storage.cfg",
            "dir: local\n\tpath /var/lib/vz\n\tcontent rootdir\n",
            "`backup` is not among",
        ),
        ("/etc/pve/storage.cfg", "pbs: local\n\tserver a\n\tcontent backup\n", "of type pbs"),
    ] {
        let Some(world) = world(Timings::default(), true) else { return };
        let path = world.host(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        is_refused(&world, "ConvertUnsafe", says);
    }
}

#[test]
fn lines_of_an_id_map_stand_against_making_it_privileged() {
    let Some(world) = world(Timings::default(), false) else { return };
    let map = ["lxc.idmap: u 0 100000 65536", "lxc.idmap: g 0 100000 65536"];
    let conf = world.conf(100) + &map.join("\n") + "\n";
    world.node.write_conf(ctid(100), conf).unwrap();
    is_refused(&world, "ConvertUnsafe", "lxc.idmap lines");
}

#[test]
fn a_container_that_may_not_be_restarted_is_left_running_until_it_stops() {
    let Some(world) = world(Timings::default(), true) else { return };
    declare(&world, true, r#", "restart": "never""#, CONVERT);
    start(&world);
    is_refused(&world, "ConvertWaits", "`pct shutdown 100`");
    assert!(world.node.is_running(ctid(100)));
    world.pct(&["shutdown", "100"]);
    world.apply(&[], 0);
    assert!(!world.node.is_running(ctid(100)), "it is not pctd that stopped it");
    is_converted(&world, true);
}

#[test]
fn one_that_is_locked_is_waited_for() {
    let Some(world) = world(Timings::default(), true) else { return };
    world.pct(&["set", "100", "--lock", "backup"]);
    is_refused(&world, "Locked", "`pct unlock 100`");
}

#[test]
fn one_that_would_not_start_again_is_not_stopped() {
    let Some(world) = world(Timings::default(), true) else { return };
    world.dir("/srv/x", 0, 0o755);
    world.pct(&["set", "100", "--mp3", "/srv/x,mp=/x"]);
    start(&world);
    fs::remove_dir_all(world.host("/srv/x")).unwrap();
    is_refused(&world, "ConvertWaits", "/srv/x, which it mounts, is not a directory");
    assert!(world.node.is_running(ctid(100)));
}
