//! Mounts that LXC makes itself (`"mechanism": "lxc"`): lines of the conf, seen by a start.

use std::fs;

use pctd_tests::world::{UNPRIVILEGED, World, conf, ctid, holds, skip};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

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

const SAME_IDS: &str =
    "lxc.mount.entry: /tank/a data none bind,nosuid,create=dir,idmap=container 0 0";

fn declare_ids(world: &World, ids: &str, mount: &str) {
    world.volumes(
        r#""restart_timeout": "3s", "restart_limit": "0s""#,
        &format!(
            r#""a": {{"host_path": "/tank/a", "owner": "container_root", "mechanism": "lxc",
                {ids} "mounts": {{"100": {mount}}}}}"#
        ),
    );
}

#[test]
fn a_map_of_ids_comes_and_goes_with_its_declaration() {
    let Some(world) = world(&[]) else { return };
    for (ids, line, owner) in [
        ("", ENTRY, "100000:100000 0755"),
        (r#""disk_ids": "passthrough","#, SAME_IDS, "0:0 0755"),
        (r#""disk_ids": "container:100","#, ENTRY, "100000:100000 0755"),
        (r#""disk_ids": "passthrough","#, SAME_IDS, "0:0 0755"),
        ("", ENTRY, "100000:100000 0755"),
    ] {
        declare_ids(&world, ids, r#""/data""#);
        let report = world.plan().1;
        let step = &report["containers"]["100"]["steps"][0];
        assert_eq!(step["add"][0], line, "{report:#}");
        if line == SAME_IDS {
            assert_eq!(step["ids"], "every id inside is the same on disk");
        }
        world.apply(&[], 0);
        assert_eq!(world.conf(100), conf(100, &[UNPRIVILEGED, line]));
        let mounts = world.node.mounts(ctid(100));
        let is_mapped = mounts[0].options.iter().any(|option| option == "idmapped");
        assert_eq!((mounts.len(), is_mapped), (1, line == SAME_IDS));
        // Whose the volume is follows the mount that is in force.
        world.apply(&[], 0);
        assert_eq!((world.plan().0, world.owner("/tank/a")), (0, owner.to_owned()), "{ids}");
    }
    assert_eq!(world.calls(), [REBOOT; 5]);
    // Another place on disk is not LXC's to give.
    declare_ids(&world, r#""disk_ids": "0 5000 65536","#, r#""/data""#);
    let report = world.apply(&[], 3);
    assert_eq!(holds(&report, "containers", "100"), ["IdmapImpossible"]);
    let message = report["containers"]["100"]["holds"][0]["message"].to_string();
    assert!(message.contains("those of container 100 at /data are to be others"), "{message}");
    assert_eq!(world.conf(100), conf(100, &[UNPRIVILEGED, ENTRY]));
}

#[test]
fn what_keeps_a_container_from_starting_with_a_line_is_found_before_it_is_stopped() {
    let Some(world) = world(&[]) else { return };
    let below = world.dir("/tank/a/below", 0, 0o755);
    let kind = |kind: &str| mount(kind, &below, kind, MountFlags::empty(), None);
    if let Err(errno) = kind("tmpfs") {
        return skip("a mount below a volume", &errno.to_string());
    }
    // LXC cannot leave it out of a bind mount.
    declare_ids(&world, "", r#""/data""#);
    let report = world.apply(&[], 3);
    assert_eq!(holds(&report, "containers", "100"), ["NestedMount"]);
    assert!(report.to_string().contains("/tank/a/below is mounted below /tank/a"), "{report:#}");
    assert_eq!(world.conf(100), conf(100, &[UNPRIVILEGED]));
    unmount(&below, UnmountFlags::DETACH).unwrap();
    // One that comes later holds the restart.
    let never = r#""restart": "never""#;
    let volume = |settings: &str| {
        world.volumes(
            settings,
            r#""a": {"host_path": "/tank/a", "owner": "container_root", "mechanism": "lxc",
                "disk_ids": "passthrough", "mounts": {"100": {"path": "/data", "recursive": true}}}"#,
        );
    };
    volume(never);
    world.apply(&[], 3);
    assert!(world.conf(100).contains(" rbind,nosuid,create=dir,idmap=container 0 0"));
    kind("ramfs").unwrap();
    volume("");
    let report = world.apply(&[], 3);
    assert_eq!(
        holds(&report, "containers", "100"),
        ["IdmapUnsupported", "NeedsRestart"],
        "{report:#}"
    );
    let report = report.to_string();
    assert!(report.contains("is mounted below /tank/a does not all let ids be mapped"), "{report}");
    assert!(report.contains("in it, does not let ids be mapped (Invalid argument"), "{report}");
    assert!(world.node.is_running(ctid(100)) && world.calls().is_empty());
    unmount(&below, UnmountFlags::DETACH).unwrap();
    world.apply(&[], 0);
    assert_eq!(world.calls(), ["reboot 100 --timeout 60"]);
}

#[test]
fn an_lxc_that_knows_no_maps_gets_no_line_with_one() {
    let Some(world) = world(&[]) else { return };
    let packages = world.host("/var/lib/dpkg/status");
    let old = fs::read_to_string(&packages).unwrap().replace("6.0.5", "4.0.12");
    fs::write(&packages, old).unwrap();
    declare_ids(&world, r#""disk_ids": "passthrough","#, r#""/data""#);
    let report = world.apply(&[], 3);
    for (section, key) in [("containers", "100"), ("volumes", "a")] {
        assert_eq!(holds(&report, section, key), ["IdmapUnsupported"]);
    }
    assert!(report.to_string().contains("lxc-pve is 4.0.12-4"), "{report:#}");
    assert_eq!(world.conf(100), conf(100, &[UNPRIVILEGED]));
    assert_eq!(world.owner("/tank/a"), "0:0 0755");
}
