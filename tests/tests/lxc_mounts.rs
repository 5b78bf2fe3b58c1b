//! Mounts that LXC makes itself (`"mechanism": "lxc"`): lines of the conf, seen by a start.

use std::fs;

use pctd_tests::world::{UNPRIVILEGED, World, conf, ctid, holds};

const ENTRY: &str = "lxc.mount.entry: /tank/a data none bind,create=dir 0 0";
const REBOOT: &str = "reboot 100 --timeout 3";

fn world(lines: &[&str]) -> Option<World> {
    let world = World::new(env!("CARGO_BIN_EXE_pctd-tests"))?;
    world.dir("/tank/a", 0, 0o755);
    world.running(100, &[&[UNPRIVILEGED], lines].concat());
    Some(world)
}

fn declare(world: &World, settings: &str, mount: &str) {
    world.volumes(
        &format!(r#""restart_timeout": "3s"{settings}"#),
        &format!(
            r#""a": {{"host_path": "/tank/a", "owner": "container_root", "mechanism": "lxc",
                "mounts": {{"100": {mount}}}}}"#
        ),
    );
}

#[test]
fn a_mount_of_lxc_is_a_line_that_a_restart_makes_seen_and_its_volume_is_owned_first() {
    let Some(world) = world(&[]) else { return };
    declare(&world, "", r#""/data""#);
    let daemon = world.pctd.start();
    daemon.until_all("Converged");
    assert_eq!(world.calls(), [REBOOT]);
    assert_eq!(world.conf(100), conf(100, &[UNPRIVILEGED, ENTRY]));
    assert_eq!(world.owner("/tank/a"), "100000:100000 0755");
    let mounts = world.node.mounts(ctid(100));
    assert_eq!((mounts.len(), mounts[0].target.as_str()), (1, "/data"));
    // What it is for: a bind mount through `pct` would refuse both.
    world.pct(&["stop", "100"]);
    world.pct(&["clone", "100", "101"]);
    assert!(world.conf(101).contains(ENTRY), "the clone mounts the same directory");
    daemon.stop();
    // Changed, and gone.
    declare(&world, "", r#"{"path": "/data", "read_only": true}"#);
    world.apply(&[], 0);
    let read_only = ENTRY.replace("bind,", "bind,ro,");
    assert_eq!(world.conf(100), conf(100, &[UNPRIVILEGED, &read_only]));
    world.volumes(r#""prune": true"#, "");
    world.apply(&["100"], 0);
    assert_eq!(world.conf(100), conf(100, &[UNPRIVILEGED]));
}

#[test]
fn a_missing_source_keeps_the_container_from_being_restarted() {
    let Some(world) = world(&[]) else { return };
    world.dir("/srv/theirs", 0, 0o755);
    let theirs = "lxc.mount.entry: /srv/theirs theirs none bind,create=dir 0 0";
    world.node.write_conf(ctid(100), conf(100, &[UNPRIVILEGED, theirs])).unwrap();
    fs::remove_dir(world.host("/srv/theirs")).unwrap();
    declare(&world, "", r#""/data""#);
    let daemon = world.pctd.start();
    daemon.until("a restart is needed", |status| {
        holds(status, "containers", "100") == ["NeedsRestart"]
    });
    let status = daemon.status().to_string();
    assert!(status.contains("/srv/theirs, which it mounts, is not"), "{status}");
    assert!(world.node.is_running(ctid(100)) && world.calls().is_empty());
    world.dir("/srv/theirs", 0, 0o755);
    daemon.until_all("Converged");
    assert_eq!(world.calls(), [REBOOT]);
}

#[test]
fn a_mount_point_at_its_target_is_left_or_makes_room_with_prune() {
    let Some(world) = world(&["mp0: /tank/a,mp=/data"]) else { return };
    declare(&world, "", r#""/data""#);
    let report = world.apply(&[], 3);
    assert_eq!(holds(&report, "containers", "100"), ["TargetTaken"]);
    assert!(world.calls().is_empty());
    // One that pctd wrote itself is changed into a line by one restart.
    world.pct(&["stop", "100"]);
    world.pct(&["set", "100", "--delete", "mp0"]);
    world.pct(&["start", "100"]);
    let by_pct =
        r#""a": {"host_path": "/tank/a", "owner": "container_root", "mounts": {"100": "/data"}}"#;
    world.volumes("", by_pct);
    world.apply(&[], 0);
    declare(&world, r#", "prune": true"#, r#""/data""#);
    world.apply(&["100"], 0);
    assert_eq!(world.calls(), ["set 100 --mp0 /tank/a,mp=/data", "set 100 --delete mp0", REBOOT]);
    assert_eq!(world.conf(100), conf(100, &[UNPRIVILEGED, ENTRY]));
    assert_eq!(world.node.mounts(ctid(100)).len(), 1);
}
