//! Conversions of containers with `id_maps`: a restore knows nothing of them.

use super::*;

/// `convert`, and a map of users and of groups from 0 on.
fn with_map(host: u32, size: u32) -> String {
    let range = |kind: &str| {
        format!(r#"{{"type": "{kind}", "container_id": 0, "host_id": {host}, "size": {size}}}"#)
    };
    format!(r#"{CONVERT}, "id_maps": [{}, {}]"#, range("uid"), range("gid"))
}

/// Lets root map these ids of the host.
fn permit(world: &World, text: &str) {
    for file in ["/etc/subuid", "/etc/subgid"] {
        fs::write(world.host(file), text).unwrap();
    }
}

const LINES: [&str; 2] = ["lxc.idmap: u 0 100000 70000", "lxc.idmap: g 0 100000 70000"];

fn has_map(world: &World) -> bool {
    LINES.iter().all(|line| lines(world).contains(&(*line).to_owned()))
}

#[test]
fn a_map_that_leaves_every_id_its_host_id_is_written_once_it_is_converted() {
    let Some(world) = world(Timings::default(), true) else { return };
    permit(&world, "root:100000:70000\n");
    declare(&world, true, "", &with_map(100_000, 70_000));
    start(&world);
    let daemon = world.pctd.start();
    daemon.until("it has its map", |_| has_map(&world));
    daemon.until_all("Converged");
    daemon.stop();
    // The map is in force after a start that follows it.
    assert_eq!(commands(&world), ["shutdown", "vzdump", "restore", "start", "reboot"]);
    assert!(world.node.is_running(ctid(100)));
    is_converted(&world, true);
}

#[test]
fn a_stopped_one_stays_stopped_and_has_its_map() {
    let Some(world) = world(Timings::default(), true) else { return };
    permit(&world, "root:100000:70000\n");
    declare(&world, true, "", &with_map(100_000, 70_000));
    world.apply(&[], 0);
    assert_eq!(commands(&world), ["vzdump", "restore"]);
    assert!(has_map(&world), "{}", world.conf(100));
    is_converted(&world, true);
    world.pct(&["start", "100"]);
    assert!(world.node.is_running(ctid(100)));
}

#[test]
fn a_map_for_which_a_restore_does_not_unpack_stands_against_a_conversion() {
    let Some(world) = world(Timings::default(), true) else { return };
    permit(&world, "root:100000:65536\nroot:200000:65536\n");
    declare(&world, true, "", &with_map(200_000, 65_536));
    for arguments in [&[][..], &["100"]] {
        let before = world.conf(100);
        let report = world.apply(arguments, 3);
        assert_eq!(holds(&report, "containers", "100")[0], "ConvertUnsafe", "{report:#}");
        assert!(message(&world).contains("users 0-65535, groups 0-65535"), "{}", message(&world));
        assert_eq!((world.calls(), world.conf(100)), (Vec::new(), before));
    }
    // As it says: converted first, and then the map is a matter of its own.
    declare(&world, true, "", CONVERT);
    world.apply(&[], 0);
    is_converted(&world, true);
    declare(&world, true, "", &with_map(200_000, 65_536));
    let report = world.apply(&[], 3);
    assert_eq!(holds(&report, "containers", "100"), ["IdmapChange"], "{report:#}");
}

#[test]
fn a_map_that_root_may_not_use_is_found_before_the_conversion() {
    let Some(world) = world(Timings::default(), true) else { return };
    permit(&world, "root:100000:65536\n");
    declare(&world, true, "", &with_map(100_000, 70_000));
    let report = world.apply(&[], 3);
    assert_eq!(holds(&report, "containers", "100")[0], "SubIdsMissing", "{report:#}");
    assert_eq!(world.calls(), [""; 0]);
    permit(&world, "root:100000:70000\n");
    world.apply(&[], 0);
    assert!(has_map(&world), "{}", world.conf(100));
    is_converted(&world, true);
}
