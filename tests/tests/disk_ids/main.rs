//! One dataset for any container: ids on disk that are declared, through maps of single mounts.

#![expect(clippy::unwrap_used, reason = "what fails in a helper ends the test")]

use std::fs;

use pctd_tests::daemon::eventually;
use pctd_tests::world::{UNPRIVILEGED, World, holds, skip};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, unmount};

mod real;

/// The lines of a container whose ids begin at 200000.
const SHIFTED: [&str; 3] =
    [UNPRIVILEGED, "lxc.idmap: u 0 200000 65536", "lxc.idmap: g 0 200000 65536"];
/// What puts them where a container with Proxmox's own map has them.
const MAP: &str = "idmap=u:0:100000:65536;g:0:100000:65536";

/// A node with the stopped containers 900, with Proxmox's own map, and 901, shifted.
fn world() -> Option<World> {
    World::new(env!("CARGO_BIN_EXE_pctd-tests")).map(with_containers)
}

fn with_containers(world: World) -> World {
    for name in ["subuid", "subgid"] {
        let ids = "root:100000:65536\nroot:200000:65536\nroot:1000:1\n";
        fs::write(world.host("/etc").join(name), ids).unwrap();
    }
    world.container(900, &[UNPRIVILEGED]);
    world.container(901, &SHIFTED);
    world.dir("/tank/media", 100_000, 0o755);
    world.file("/tank/media/film", 100_033, 0o600);
    world
}

/// The volume for both, with these fields.
fn shared(fields: &str) -> String {
    format!(
        r#""media": {{"host_path": "/tank/media", "owner": "container_root", {fields}
            "mounts": {{"900": "/media", "901": "/media"}}}}"#
    )
}

/// Returns the line of a mount in a conf, in force or pending.
fn lines(world: &World, id: u32) -> Vec<String> {
    let conf = world.conf(id);
    conf.lines().filter(|line| line.starts_with("mp")).map(str::to_owned).collect()
}

#[test]
fn two_containers_with_different_maps_share_a_volume_without_a_change_on_disk() {
    let Some(world) = world() else { return };
    world.volumes("", &shared(r#""disk_ids": "0 100000 65536","#));
    let before = world.stamps_of("/tank");
    let (code, plan) = world.plan();
    assert_eq!((code, plan["summary"]["holds"].as_u64()), (3, Some(0)), "{plan:#}");
    let step = &plan["containers"]["901"]["steps"][0];
    assert_eq!(step["value"], format!("/tank/media,mp=/media,{MAP}"));
    let ids = "root inside is 100000:100000 on disk, 33 is 100033:100033, 1000 is 101000:101000";
    assert_eq!(step["ids"], ids);
    let shown = world.pctd.run(&["plan"]).stdout;
    assert!(shown.lines().any(|line| line.trim() == ids), "{shown}");
    world.apply(&[], 0);
    assert_eq!(lines(&world, 900), ["mp0: /tank/media,mp=/media"]);
    assert_eq!(lines(&world, 901), [format!("mp0: /tank/media,mp=/media,{MAP}")]);
    assert_eq!(world.stamps_of("/tank"), before);
    for id in ["900", "901"] {
        world.pct(&["start", id]);
    }
    assert_eq!(world.plan().0, 0);
    assert!(world.pctd.run(&["inspect", "901"]).stdout.contains(ids));
}

#[test]
fn a_map_is_added_changed_and_taken_out_again_with_a_restart_each() {
    let Some(world) = world() else { return };
    let settings = r#""restart_limit": "0s""#;
    let volume = |fields: &str| {
        format!(
            r#""media": {{"host_path": "/tank/media", "owner": "keep", {fields}
                "mounts": {{"901": {{"path": "/media", "read_only": false}}}}}}"#
        )
    };
    world.volumes(settings, &volume(""));
    world.apply(&[], 0);
    world.pct(&["start", "901"]);
    for (fields, expected) in [
        (r#""disk_ids": "0 100000 65536","#, format!(",{MAP}")),
        (r#""disk_ids": "0 5000 65536","#, ",idmap=u:0:5000:65536;g:0:5000:65536".to_owned()),
        (r#""disk_ids": "container:901","#, String::new()),
        (r#""disk_ids": "owner","#, format!(",{MAP}")),
        ("", String::new()),
    ] {
        world.volumes(settings, &volume(fields));
        let (_, plan) = world.plan();
        let step = &plan["containers"]["901"]["steps"][0];
        assert_eq!(step["effective"], "after_restart", "{plan:#}");
        world.apply(&[], 0);
        assert_eq!(lines(&world, 901), [format!("mp0: /tank/media,mp=/media{expected},ro=0")]);
        assert_eq!(world.plan().0, 0, "{fields}");
    }
    let reboots = world.calls().iter().filter(|call| call.starts_with("reboot 901")).count();
    assert_eq!(reboots, 5);
}

#[test]
fn a_map_that_an_admin_changed_is_corrected_and_one_he_wrote_himself_stays() {
    let Some(world) = world() else { return };
    world.volumes("", &shared(r#""disk_ids": "0 100000 65536","#));
    world.apply(&[], 0);
    world.pct(&["set", "901", "--mp0", "/tank/media,mp=/media,idmap=passthrough"]);
    world.apply(&[], 0);
    assert_eq!(lines(&world, 901), [format!("mp0: /tank/media,mp=/media,{MAP}")]);
    // The same in other words is the same.
    let words = "/tank/media,mp=/media,idmap=g:0:100000:65536;u:0:100000:1000;u:1000:101000:64536";
    world.pct(&["set", "901", "--mp0", words]);
    assert_eq!(world.plan().0, 0);
    world.volumes("", &shared(r#""owner_ctid": "900","#));
    world.apply(&[], 0);
    assert_eq!(lines(&world, 901), [format!("mp0: {words}")]);
}

#[test]
fn the_running_daemon_serves_another_container_at_once() {
    let Some(world) = world() else { return };
    let only = |mounts: &str| {
        format!(
            r#""media": {{"host_path": "/tank/media", "owner": "container_root",
                "disk_ids": "0 100000 65536", "mounts": {{{mounts}}}}}"#
        )
    };
    world.volumes("", &only(r#""900": "/media""#));
    let daemon = world.pctd.start();
    daemon.until_all("Converged");
    world.pct(&["start", "901"]);
    let before = world.stamps_of("/tank");
    world.volumes("", &only(r#""900": "/media", "901": "/media""#));
    eventually("the mount is plugged in", || lines(&world, 901).len() == 1);
    assert_eq!(lines(&world, 901), [format!("mp0: /tank/media,mp=/media,{MAP}")]);
    eventually("it is converged", || world.plan().0 == 0);
    assert_eq!(world.stamps_of("/tank"), before);
    assert!(!world.calls().iter().any(|call| call.starts_with("reboot")));
}

#[test]
fn where_ids_cannot_be_mapped_nothing_is_written_and_the_container_starts() {
    let Some(world) = world() else { return };
    let on = world.host("/tank/media");
    if let Err(errno) = mount("ramfs", &on, "ramfs", MountFlags::empty(), None) {
        return skip("a file system without maps", &errno.to_string());
    }
    held_on(&world, "ramfs");
    unmount(&on, UnmountFlags::DETACH).unwrap();
}

#[test]
fn on_fuse_ids_cannot_be_mapped() {
    let program = env!("CARGO_BIN_EXE_pctd-tests");
    let Some(world) = World::on_fuse(program).map(with_containers) else { return };
    let on = world.host("/tank/media");
    // A FUSE that is there: that of the cluster.
    if let Err(errno) = mount_bind(world.host("/etc/pve"), &on) {
        return skip("a volume on FUSE", &errno.to_string());
    }
    held_on(&world, "fuse");
    unmount(&on, UnmountFlags::DETACH).unwrap();
}

/// Checks that a mount which needs a map is held, and that its container starts without it.
fn held_on(world: &World, kind: &str) {
    world.volumes("", &shared(r#""disk_ids": "0 100000 65536","#));
    let (before, report) = (world.owner("/tank/media"), world.apply(&[], 3));
    assert_eq!(holds(&report, "containers", "901"), ["IdmapUnsupported"]);
    assert_eq!(holds(&report, "volumes", "media"), ["IdmapUnsupported"]);
    let message = report["containers"]["901"]["holds"][0]["message"].as_str().unwrap();
    let expected = format!("/tank/media is on {kind}, which does not let ids be mapped (");
    assert!(message.starts_with(&expected), "{message}");
    assert_eq!(world.owner("/tank/media"), before);
    // Whose map it is needs no other one.
    assert_eq!(lines(world, 900), ["mp0: /tank/media,mp=/media"]);
    assert_eq!(lines(world, 901), [""; 0]);
    for id in ["900", "901"] {
        world.pct(&["start", id]);
    }
    // With the option it would not have started.
    world.pct(&["stop", "901"]);
    world.pct(&["set", "901", "--mp0", &format!("/tank/media,mp=/media,{MAP}")]);
    let failed = world.node.pct(["start", "901"]).unwrap();
    assert!(!failed.is_success());
    world.pct(&["stop", "900"]);
}

#[test]
fn a_node_that_is_too_old_or_lacks_a_line_is_told_what_to_do() {
    let Some(world) = world() else { return };
    world.volumes("", &shared(r#""disk_ids": "0 100000 65536","#));
    fs::write(world.host("/etc/subgid"), "root:100000:65536\n").unwrap();
    let message = |report: &serde_json::Value| {
        report["containers"]["901"]["holds"][0]["message"].as_str().unwrap().to_owned()
    };
    let report = world.apply(&[], 3);
    assert_eq!(
        message(&report),
        "root may not hand on the ids of container 901, without which its mount has no map: add `root:200000:65536` in /etc/subgid"
    );
    let packages = world.host("/var/lib/dpkg/status");
    let old = fs::read_to_string(&packages).unwrap().replace("6.1.10", "6.1.5");
    fs::write(&packages, old).unwrap();
    let report = world.apply(&[], 3);
    assert_eq!(holds(&report, "containers", "901"), ["IdmapUnsupported"]);
    assert!(message(&report).contains("pve-container is 6.1.5"), "{}", message(&report));
    assert_eq!(lines(&world, 901), [""; 0]);
}

#[test]
fn where_no_list_of_packages_tells_pct_is_asked_what_it_takes() {
    let Some(world) = world() else { return };
    world.volumes("", &shared(r#""disk_ids": "0 100000 65536","#));
    fs::remove_file(world.host("/var/lib/dpkg/status")).unwrap();
    world.node.update_settings(|node| node.before_mount_maps = true).unwrap();
    let report = world.apply(&[], 3);
    assert_eq!(holds(&report, "containers", "901"), ["IdmapUnsupported"]);
    assert_eq!(holds(&report, "volumes", "media"), ["IdmapUnsupported"]);
    let message = report["containers"]["901"]["holds"][0]["message"].as_str().unwrap();
    assert!(message.contains("pct help set` says so"), "{message}");
    assert_eq!(lines(&world, 901), [""; 0]);
    // It would have refused the option, and starts the container without.
    let refused =
        world.node.pct(["set", "901", "--mp0", &format!("/tank/media,mp=/media,{MAP}")]).unwrap();
    assert_eq!(refused.exit, 2);
    assert_eq!(
        refused.stderr_text(),
        "400 Parameter verification failed.\nmp0: invalid format - format error\n\
         mp0.idmap: property is not defined in schema and the schema does not allow additional properties\n\n\
         pct set <vmid> [OPTIONS]\n"
    );
    world.pct(&["start", "901"]);
    // A newer one takes it.
    world.node.update_settings(|node| node.before_mount_maps = false).unwrap();
    world.apply(&[], 0);
    assert_eq!(lines(&world, 901), [format!("mp0: /tank/media,mp=/media,{MAP}")]);
    assert_eq!(world.plan().0, 0);
}

#[test]
fn in_a_privileged_container_ids_are_those_on_disk_or_there_is_no_mount() {
    let Some(world) = world() else { return };
    world.container(902, &[]);
    world.file("/tank/media/host", 0, 0o600);
    let volume = |ids: &str| {
        format!(
            r#""media": {{"host_path": "/tank/media", "owner": "container_root",
                "disk_ids": "{ids}", "mounts": {{"901": "/media", "902": "/media"}}}}"#
        )
    };
    world.volumes("", &volume("0 100000 65536"));
    let report = world.apply(&[], 3);
    assert_eq!(holds(&report, "containers", "902"), ["IdmapImpossible"]);
    assert_eq!(lines(&world, 902), [""; 0]);
    assert_eq!(lines(&world, 901).len(), 1, "the other one has it all the same");
    world.pct(&["start", "902"]);
    world.pct(&["stop", "902"]);
    world.volumes("", &volume("passthrough"));
    world.apply(&[], 0);
    assert_eq!(lines(&world, 902), ["mp0: /tank/media,mp=/media"]);
    assert!(lines(&world, 901)[0].contains("idmap=passthrough"), "{:?}", lines(&world, 901));
    assert_eq!(world.owner("/tank/media"), "0:0 0755");
}
