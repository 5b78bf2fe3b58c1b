//! Mounts that LXC makes itself, with mapped ids and without, and those that it does not make.

use std::fs;

use pctd_tests::world::{conf, holds, own, skip};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::*;

/// Ids from 200000 on.
const SHIFTED: [&str; 3] =
    [UNPRIVILEGED, "lxc.idmap: u 0 200000 65536", "lxc.idmap: g 0 200000 65536"];
/// The ids that are looked at: root's, those of `www-data` and of the first user that is made.
const IDS: [u32; 3] = [0, 33, 1000];

/// Runs a script in a container.
fn inside(world: &World, id: u32, script: &str) -> String {
    let output = world.node.attach(ctid(id), script).unwrap();
    assert!(output.is_success(), "{id}: {script}: {}", output.stderr_text());
    output.stdout_text().trim().to_owned()
}

/// Declares `/tank/data` for these containers, mounted by LXC.
fn declare(world: &World, fields: &str, mounts: &str) {
    world.volumes(
        r#""restart_limit": "0s""#,
        &format!(
            r#""data": {{"host_path": "/tank/data", "owner": "container_root", "mechanism": "lxc",
                "dir_mode": "0777", {fields} "mounts": {{{mounts}}}}}"#
        ),
    );
}

#[test]
fn containers_with_different_maps_work_on_each_others_files_through_lines() {
    let Some(this) = Real::new(Timings::default()) else { return };
    let world = &this.world;
    for name in ["subuid", "subgid"] {
        let ids = "root:100000:65536\nroot:200000:65536\nroot:1000:1\n";
        fs::write(world.host("/etc").join(name), ids).unwrap();
    }
    world.container(100, &[UNPRIVILEGED]);
    world.container(101, &SHIFTED);
    world.container(102, &[&[UNPRIVILEGED], &HOLE[..]].concat());
    world.container(103, &[]);
    let containers = [100, 101, 102, 103];
    let mounts = containers.map(|id| format!(r#""{id}": "/data""#)).join(", ");
    declare(world, r#""disk_ids": "passthrough","#, &mounts);
    world.apply(&[], 0);
    for id in containers {
        // One that has the ids of the host needs no map, and does not start with one.
        let is_mapped = world.conf(id).contains("bind,nosuid,create=dir,idmap=container 0 0");
        assert_eq!(is_mapped, id != 103, "{}", world.conf(id));
        world.pct(&["start", &id.to_string()]);
    }
    for maker in containers {
        for id in IDS {
            let file = format!("{maker}.{id}");
            inside(
                world,
                maker,
                &format!("umask 077; cd /data; : > {file}; chown {id}:{id} {file}"),
            );
            assert_eq!(world.owner(&format!("/tank/data/{file}")), format!("{id}:{id} 0600"));
            for other in containers {
                let seen = inside(world, other, &format!("stat -c '%u:%g %a' /data/{file}"));
                assert_eq!(seen, format!("{id}:{id} 600"), "{file} in {other}");
                inside(world, other, &format!("echo {other} >> /data/{file}"));
            }
        }
    }
    // What is outside of a map is nobody's, and each deletes what its neighbour made.
    own(&world.file("/tank/data/outside", 0, 0o644), 999_999, 999_999);
    for (maker, other) in containers.iter().zip(containers.iter().cycle().skip(1)) {
        for id in IDS {
            inside(world, *other, &format!("rm /data/{maker}.{id}"));
        }
        let seen = inside(world, *maker, "stat -c %u:%g /data/outside");
        assert_eq!(seen, if *maker == 103 { "999999:999999" } else { "65534:65534" });
    }
    assert_eq!(world.plan().0, 0);
}

#[test]
fn a_line_that_lxc_would_not_start_with_is_not_written() {
    let Some(this) = Real::new(Timings::default()) else { return };
    let world = &this.world;
    let below = world.dir("/tank/data/below", 0, 0o777);
    world.container(100, &[UNPRIVILEGED]);
    // Whether it starts with a line that an admin writes, which is what pctd's hold rests on.
    let starts = |options: &str| {
        let line = format!("lxc.mount.entry: /tank/data data none {options},create=dir 0 0");
        world.node.write_conf(ctid(100), conf(100, &[UNPRIVILEGED, &line])).unwrap();
        let started = world.node.start_ct(ctid(100)).unwrap().is_success();
        if started {
            world.pct(&["stop", "100"]);
        }
        world.node.write_conf(ctid(100), conf(100, &[UNPRIVILEGED])).unwrap();
        started
    };
    let held = |ids: &str, recursive: &str| {
        declare(world, ids, &format!(r#""100": {{"path": "/data", "recursive": {recursive}}}"#));
        holds(&world.plan().1, "containers", "100")
    };
    let (same, any) = (r#""disk_ids": "passthrough","#, "");
    let ways = [
        ("bind", any, "false"),
        ("rbind", any, "true"),
        ("bind,idmap=container", same, "false"),
        ("rbind,idmap=container", same, "true"),
    ];
    for (kind, expected) in [
        ("tmpfs", [Some("NestedMount"), None, Some("NestedMount"), None]),
        ("ramfs", [Some("NestedMount"), None, Some("NestedMount"), Some("IdmapUnsupported")]),
    ] {
        if let Err(errno) = mount(kind, &below, kind, MountFlags::empty(), None) {
            return skip("a mount below a volume", &errno.to_string());
        }
        for ((options, ids, recursive), hold) in ways.into_iter().zip(expected) {
            assert_eq!(starts(options), hold.is_none(), "{options} with {kind} below");
            let expected: Vec<&str> = hold.into_iter().collect();
            assert_eq!(held(ids, recursive), expected, "{options} with {kind} below");
        }
        unmount(&below, UnmountFlags::DETACH).unwrap();
    }
    // On a file system that cannot, nothing is written and the container starts.
    let data = world.host("/tank/data");
    mount("ramfs", &data, "ramfs", MountFlags::empty(), None).unwrap();
    assert!(!starts("bind,idmap=container") && starts("bind"));
    declare(world, same, r#""100": "/data""#);
    let report = world.apply(&[], 3);
    assert_eq!(holds(&report, "containers", "100"), ["IdmapUnsupported"]);
    assert_eq!(world.conf(100), conf(100, &[UNPRIVILEGED]));
    this.start();
    world.pct(&["stop", "100"]);
    unmount(&data, UnmountFlags::DETACH).unwrap();
    // Nor does a privileged container start with a map.
    world.node.write_conf(ctid(100), conf(100, &[])).unwrap();
    let line = "lxc.mount.entry: /tank/data data none bind,create=dir,idmap=container 0 0";
    world.node.write_conf(ctid(100), conf(100, &[line])).unwrap();
    assert!(!world.node.start_ct(ctid(100)).unwrap().is_success());
}
