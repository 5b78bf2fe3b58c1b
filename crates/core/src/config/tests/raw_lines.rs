//! `id_maps` and `lxc_options`: what ends up as raw lines of a conf.

use super::{good, problems, warnings};
use crate::desired::Mechanism;
use crate::ids::Ctid;

fn defined(fields: &str) -> String {
    format!(r#"{{"lxc_configs": {{"100": {{{fields}}}}}}}"#)
}

/// Ranges as type, id inside, id outside and size.
fn maps(ranges: &[(&str, u64, u64, u64)]) -> String {
    let item = |(kind, container, host, size): &(&str, u64, u64, u64)| {
        format!(
            r#"{{"type": "{kind}id", "container_id": {container}, "host_id": {host}, "size": {size}}}"#
        )
    };
    let items: Vec<String> = ranges.iter().map(item).collect();
    format!(r#""id_maps": [{}]"#, items.join(", "))
}

#[test]
fn an_id_map_is_the_whole_of_it_in_normal_order() {
    let loaded = good(&[&defined(&maps(&[
        ("g", 0, 100_000, 65_536),
        ("u", 1001, 101_001, 64_535),
        ("u", 0, 100_000, 1000),
        ("u", 1000, 1000, 1),
    ]))]);
    let container = &loaded.desired.containers[&Ctid::new(100).unwrap()];
    let map = container.id_map.as_ref().unwrap();
    let lines: Vec<String> = map.ranges().iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        ["u 0 100000 1000", "u 1000 1000 1", "u 1001 101001 64535", "g 0 100000 65536"]
    );
    // Only an unprivileged container has one.
    assert_eq!(container.unprivileged, Some(true));
    let none = good(&[&defined(r#""id_maps": []"#)]);
    let container = &none.desired.containers[&Ctid::new(100).unwrap()];
    assert_eq!((&container.id_map, container.unprivileged), (&None, None));
}

#[test]
fn what_the_kernel_would_refuse_is_refused_with_its_place() {
    let whole = ("g", 0, 100_000, 65_536);
    for (ranges, expected) in [
        (vec![("u", 0, 5, 1)], "id_maps: no gid is mapped; add entries with \"type\": \"gid\""),
        (
            vec![whole, ("u", 1, 5, 10)],
            "id_maps[1]: uid 0 of the container is not mapped; map the ids of the container from 0 on",
        ),
        (
            vec![whole, ("u", 0, 100_000, 1000), ("u", 1001, 101_001, 64_535)],
            "id_maps[2]: uid 1000 of the container is not mapped; map them as well",
        ),
        (
            vec![whole, ("u", 0, 100_000, 1000), ("u", 1010, 101_010, 5)],
            "id_maps[2]: uid 1000 to 1009 of the container are not mapped; map them as well",
        ),
        (
            vec![whole, ("u", 0, 100_000, 65_536), ("u", 1000, 1000, 1)],
            "id_maps[2]: uid 1000 in the container is mapped twice, also by the entry with container_id 0, host_id 100000 and size 65536; make one of them shorter",
        ),
        (
            vec![whole, ("u", 0, 100_000, 1000), ("u", 1000, 100_999, 1)],
            "id_maps[2]: uid 100999 of the host is mapped twice, also by the entry with container_id 0, host_id 100000 and size 1000; make one of them shorter",
        ),
        (
            vec![whole, ("u", 0, 4_294_967_290, 6)],
            "id_maps[1]: uid 4294967295 does not exist (host_id and size); make \"size\" smaller",
        ),
        (vec![whole, ("u", 0, 5, 0)], "id_maps[1].size: 0 is too small: the least is 1"),
    ] {
        let found = problems(&[&defined(&maps(&ranges))]);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].ends_with(&format!("lxc_configs.100.{expected}")), "{}", found[0]);
    }
    let contradiction = format!(r#""unprivileged": false, {}"#, maps(&[("u", 0, 5, 1), whole]));
    let found = problems(&[&defined(&contradiction)]);
    assert!(found[0].contains("a privileged container has no id map"), "{found:?}");
    let incomplete = r#""id_maps": [{"type": "uid", "host_id": 5, "container_id": 0}]"#;
    let found = problems(&[&defined(incomplete)]);
    assert!(found[0].ends_with("id_maps[0]: the key \"size\" is missing"), "{found:?}");
}

#[test]
fn raw_lines_are_kept_in_order_and_those_proxmox_drops_are_named() {
    let loaded = good(&[&defined(
        r#""lxc_options": ["lxc.cgroup2.devices.allow = c 195:* rwm", "lxc.apparmor.profile: unconfined",
            "lxc.cgroup2.devices.allow: c 195:* rwm"]"#,
    )]);
    let container = &loaded.desired.containers[&Ctid::new(100).unwrap()];
    let lines: Vec<String> =
        container.definition.lxc_options.iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        ["lxc.cgroup2.devices.allow: c 195:* rwm", "lxc.apparmor.profile: unconfined"]
    );
    for (line, expected) in [
        ("lxc.bogus: 1", "Proxmox drops `lxc.bogus`"),
        ("memory: 5", "`memory: 5` is no raw line"),
        ("lxc.cap.drop: a\\nonboot: 1", "has a control character"),
        ("lxc.idmap: u 0 1 2", "declare the whole map as \"id_maps\""),
        ("lxc.rootfs.path: /x", "lxc.rootfs.path is auto generated from rootfs"),
    ] {
        let found = problems(&[&defined(&format!(r#""lxc_options": ["{line}"]"#))]);
        assert!(found[0].contains(expected), "{found:?}");
        assert!(found[0].contains("lxc_configs.100.lxc_options[0]: "), "{found:?}");
    }
}

#[test]
fn a_volume_says_who_mounts_it_and_a_mount_may_say_otherwise() {
    let loaded = good(&[
        r#"{"shared_volumes": {"a": {"host_path": "/srv/a", "mechanism": "lxc", "mounts": {
        "100": "/a", "101": {"path": "/a", "recursive": true, "shared": true},
        "102": {"path": "/a", "mechanism": "pct", "shared": true, "recursive": true}}}}}"#,
    ]);
    let volume = loaded.desired.volumes.values().next().unwrap();
    let found: Vec<(Mechanism, usize)> =
        volume.mounts.values().map(|mount| (mount.mechanism, mount.options.len())).collect();
    let lxc = |recursive| Mechanism::Lxc { recursive };
    assert_eq!(found, [(lxc(false), 0), (lxc(true), 0), (Mechanism::Pct, 1)]);
    let warned = warnings(&loaded);
    for (place, mechanism) in [("mounts.101.shared", "lxc"), ("mounts.102.recursive", "pct")] {
        let text =
            format!("{place}: warning: no effect on a mount of the mechanism \"{mechanism}\"");
        assert!(warned.iter().any(|warning| warning.ends_with(&text)), "{warned:?}");
    }
}

#[test]
fn nothing_is_mounted_below_what_lxc_mounts() {
    let text = |outer: &str| {
        format!(
            r#"{{"shared_volumes": {{
                "a": {{"host_path": "/srv/a", "mechanism": "{outer}", "mounts": {{"100": "/data"}}}},
                "b": {{"host_path": "/srv/b", "mechanism": "lxc", "mounts": {{"100": "/data/sub", "101": "/data"}}}}}}}}"#
        )
    };
    let found = problems(&[&text("lxc")]);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].contains("mounts.100: the volume `a`, which LXC mounts at `/data` in the container 100, would hide this"),
        "{found:?}"
    );
    good(&[&text("pct")]);
}
