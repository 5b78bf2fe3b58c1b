//! What volumes become: their defaults, their keys, their contradictions.

use std::time::Duration;

use super::*;
use crate::desired::Certificate;

fn with_certificate(fields: &str, certificate: &str) -> String {
    format!(
        r#"{{"settings": {{"seed_defaults": false}}, "shared_volumes": {{"v": {{
        "host_path": "/tank/v", {fields} "certificates": [{{"domain": "a.b" {certificate}}}]}}}}}}"#
    )
}

#[test]
fn no_declared_mode_opens_a_key_to_everybody() {
    let added = [(".pctd-*.key", 0o600), ("a.b.key", 0o640)];
    let cases: [(&str, &[(&str, u32)]); 5] = [
        ("", &[]),
        (r#""file_mode": "0660","#, &[]),
        (r#""file_mode": "0644","#, &added),
        (r#""file_mode": "u=rw,go=r","#, &added),
        (
            r#""file_mode": "0644", "file_modes": {"*.key": "0600"},"#,
            &[(".pctd-*.key", 0o600), ("*.key", 0o600)],
        ),
    ];
    for (fields, expected) in cases {
        let loaded = good(&[&with_certificate(fields, "")]);
        assert_eq!(volume(&loaded, "v").file_modes, patterns(expected), "{fields}");
    }
}

/// What is wrong with a certificate, and what is said of it.
#[test]
fn a_certificate_that_could_not_be_kept_is_refused() {
    let cases = [
        (
            r#""file_modes": {"*": "0644"},"#,
            "",
            "shared_volumes.v.file_modes: `*` would let everybody read the key `a.b.key`; add `a.b.key` with a mode such as \"0640\"",
        ),
        (
            "",
            r#", "days": 30"#,
            "shared_volumes.v.certificates[0].days: a certificate for 30 days would always be due for renewal 30days before it expires; write a shorter renew_before",
        ),
        (
            "",
            r#", "subject_alt_names": ["a/b"]"#,
            "shared_volumes.v.certificates[0].subject_alt_names[0]: `a/b` is neither a host name nor an IP address",
        ),
        (
            "",
            r#", "days": 40000"#,
            "shared_volumes.v.certificates[0].days: 40000 is too large: the most is 36525",
        ),
    ];
    for (fields, certificate, expected) in cases {
        let text = with_certificate(fields, certificate);
        let files = files(&[&text]);
        let error = load(&files, Strictness::Lenient).unwrap_err().to_string();
        let said = error.split_once(": ").unwrap().1;
        assert_eq!(said, expected, "{text}");
    }
}

/// What a volume gets that leaves things out: its JSON, then owner, modes and enforce.
#[test]
fn seed_defaults_fill_in_what_a_volume_does_not_say() {
    let nobody = Owner::Host { user: "nobody".into(), group: Some("nogroup".into()) };
    let www = Owner::Host { user: "www-data".into(), group: None };
    let keys = [("*.key", 0o640), ("*.pem", 0o640)];
    let exact = ModeRule::Exact;
    for (name, said, owner, dir, file, by_name, enforce) in [
        ("x", "", nobody.clone(), exact(0o775), exact(0o664), &[][..], Enforce::Once),
        ("ssl_certs", "", nobody.clone(), exact(0o755), exact(0o644), &keys[..], Enforce::Once),
        (
            "x",
            r#","enforce": "always""#,
            nobody.clone(),
            exact(0o775),
            exact(0o664),
            &[][..],
            Enforce::Always,
        ),
        (
            "x",
            r#","owner": "container_root""#,
            Owner::CONTAINER_ROOT,
            exact(0o775),
            exact(0o664),
            &[][..],
            Enforce::Adopt,
        ),
        ("x", r#","owner": "www-data""#, www, exact(0o775), exact(0o664), &[][..], Enforce::Always),
        (
            "x",
            r#","owner": "keep""#,
            Owner::Keep,
            exact(0o775),
            exact(0o664),
            &[][..],
            Enforce::Once,
        ),
        (
            "x",
            r#","owner": "keep", "dir_mode": "keep", "file_mode": "keep""#,
            Owner::Keep,
            ModeRule::Keep,
            ModeRule::Keep,
            &[][..],
            Enforce::Always,
        ),
        // A mode of the admin's own for all files covers the keys as well.
        (
            "ssl_certs",
            r#","file_mode": "0600""#,
            nobody.clone(),
            exact(0o755),
            exact(0o600),
            &[][..],
            Enforce::Once,
        ),
        (
            "ssl_certs",
            r#","file_modes": {"*.key": "0600", "x*.crt": "0600"}"#,
            nobody,
            exact(0o755),
            exact(0o644),
            &[("x*.crt", 0o600), ("*.key", 0o600), ("*.pem", 0o640)][..],
            Enforce::Once,
        ),
    ] {
        let text =
            format!(r#"{{"shared_volumes": {{"{name}": {{"host_path": "/tank/x"{said}}}}}}}"#);
        let expected = Volume {
            owner,
            dir_mode: dir,
            file_mode: file,
            file_modes: patterns(by_name),
            enforce,
            ..plain(name, "/tank/x", &[])
        };
        assert_eq!(*volume(&good(&[&text]), name), expected, "{text}");
    }
}

#[test]
fn without_seed_defaults_what_is_not_declared_is_left_alone() {
    for (said, owner, enforce) in [
        ("", Owner::Keep, Enforce::Always),
        (r#","owner": "container:33""#, Owner::Container { uid: 33, gid: 33 }, Enforce::Adopt),
        (
            r#","owner": "1000""#,
            Owner::Host { user: "1000".into(), group: Some("1000".into()) },
            Enforce::Always,
        ),
    ] {
        let text = format!(
            r#"{{"settings": {{"seed_defaults": false}}, "shared_volumes": {{"ssl_certs": {{"host_path": "/tank/x"{said}}}}}}}"#
        );
        let expected = Volume { owner, enforce, ..plain("ssl_certs", "/tank/x", &[]) };
        assert_eq!(*volume(&good(&[&text]), "ssl_certs"), expected, "{text}");
    }
}

#[test]
fn every_key_of_a_volume_takes_effect() {
    let loaded = good(&[r#"{"shared_volumes": {"v": {
        "host_path": "/tank/v", "owner": "container:5:6", "owner_ctid": 101, "dir_mode": "2775",
        "file_mode": "u=rw", "file_modes": {"*.b": "keep", "*.a": "0600", "*.long": "0644", "comment": 1},
        "enforce": "once", "recurse": false, "create": false, "require_mount": true,
        "nodes": ["pve2", "pve1"], "shared": false,
        "mounts": {
            "comment": "two",
            "101": {"path": "//x//y/", "read_only": false, "shared": true, "backup": true, "adopt": true,
                    "mount_options": ["nosuid", "noatime", "nosuid"]},
            "102": "/z/"},
        "certificates": [{"domain": "a.example"}, {"domain": "b.example", "days": 90,
            "subject_alt_names": ["*.c", "10.0.0.1", "b.example", "*.c"], "renew_before": "1w"}]}}}"#]);
    let options =
        [("ro", "0"), ("shared", "1"), ("backup", "1"), ("mountoptions", "noatime;nosuid")];
    let certificate = |domain: &str| Certificate {
        domain: domain.to_owned(),
        alt_names: Vec::new(),
        days: 365,
        renew_before: Duration::from_hours(30 * 24),
    };
    let other = Certificate {
        alt_names: vec!["*.c".to_owned(), "10.0.0.1".to_owned()],
        days: 90,
        renew_before: Duration::from_hours(7 * 24),
        ..certificate("b.example")
    };
    let mut file_modes = patterns(&[("*.long", 0o644), ("*.a", 0o600), ("*.b", 0)]);
    file_modes[2].1 = ModeRule::Keep;
    let expected = Volume {
        owner: Owner::Container { uid: 5, gid: 6 },
        owner_ctid: Some(ctid(101)),
        dir_mode: ModeRule::Exact(0o2775),
        file_mode: "u=rw".parse().unwrap(),
        file_modes,
        enforce: Enforce::Once,
        recurse: false,
        create: false,
        require_mount: RequireMount::NotRoot,
        nodes: ["pve1".to_owned(), "pve2".to_owned()].into(),
        shared: Some(false),
        mounts: BTreeMap::from([
            (ctid(101), Mount { adopt: true, ..mount("/x/y", &options) }),
            (ctid(102), mount("/z", &[])),
        ]),
        certificates: vec![certificate("a.example"), other],
        ..plain("v", "/tank/v", &[])
    };
    assert_eq!(*volume(&loaded, "v"), expected);
    let notes: Vec<_> = loaded.notes.iter().map(|note| note.message.as_str()).collect();
    assert_eq!(notes, [""; 0]);
}

/// Several volumes, and the problem or warning they make.
#[test]
fn volumes_that_contradict_each_other_are_refused() {
    let near = |problem: &str| problem.split(": ").skip(2).collect::<Vec<_>>().join(": ");
    for (volumes, problem) in [
        (
            r#""a": {"host_path": "/t", "owner": "root"}, "b": {"host_path": "/t", "owner": "root", "enforce": "once"}"#,
            Some(
                "`/t` is the directory of the volume `a` (a.json:1:78), and their enforce differ; declare both alike, or \
                 make them one volume",
            ),
        ),
        (
            r#""b": {"host_path": "/t/x", "owner": "root"}, "a": {"host_path": "/t", "owner": "man", "dir_mode": "0700"}"#,
            Some(
                "`/t/x` lies in the directory of the volume `a` (a.json:1:123), and their owner differ; \
                 declare both alike, or write \"recurse\": false for `a`",
            ),
        ),
        (
            r#""a": {"host_path": "/t", "owner": "root", "recurse": false}, "b": {"host_path": "/t/x", "owner": "man"}"#,
            None,
        ),
        (r#""a": {"host_path": "/t", "owner": "root"}, "b": {"host_path": "/t/x"}"#, None),
        (
            r#""a": {"host_path": "/t", "owner": "root"}, "b": {"host_path": "/tx", "owner": "man"}"#,
            None,
        ),
        (
            r#""a": {"host_path": "/t", "owner": "root"}, "b": {"host_path": "/t/x", "owner": "root"}"#,
            None,
        ),
        (
            r#""a": {"host_path": "/a", "mounts": {"100": "/x/"}}, "b": {"host_path": "/b", "mounts": {"100": "/x"}}"#,
            Some(
                "the volumes `a` (a.json:1:95) and `b` are both mounted at `/x` in the container 100; mount one of them \
                 at another path",
            ),
        ),
    ] {
        let text = format!(
            r#"{{"settings": {{"seed_defaults": false}}, "shared_volumes": {{{volumes}}}}}"#
        );
        let found = load(&files(&[&text]), Strictness::Lenient)
            .map_or_else(|problems| problems.problems, |_| Vec::new());
        let found: Vec<_> = found.iter().map(|problem| near(&problem.to_string())).collect();
        assert_eq!(found, Vec::from_iter(problem), "{text}");
    }
}

#[test]
fn a_contradiction_that_nobody_wrote_is_a_warning() {
    let loaded = good(&[r#"{"shared_volumes": {
        "data": {"host_path": "/t", "owner": "container_root", "mounts": {"100": "/a"}},
        "ssl_certs": {"host_path": "/t/ssl", "owner": "container_root", "mounts": {"100": "/b"}}},
        "lxc_configs": {"101": {"mount_points": [
            {"host_path": "/t/x", "container_path": "/x"}]}}}"#]);
    let expected = "a.json:3:36: shared_volumes.ssl_certs.host_path: warning: `/t/ssl` lies in the directory of the \
                    volume `data` (a.json:2:31), and their dir_mode, file_mode, file_modes differ; declare both \
                    alike, or write \"recurse\": false for `data`";
    assert_eq!(warnings(&loaded), [expected]);
}

#[test]
fn nested_volumes_of_different_containers_are_warned_of() {
    let loaded = good(&[r#"{"shared_volumes": {
        "a": {"host_path": "/t", "owner": "container_root", "mounts": {"100": "/a"}},
        "b": {"host_path": "/t/x", "owner": "container_root", "mounts": {"101": "/a"}}}}"#]);
    let expected = "a.json:3:28: shared_volumes.b.host_path: warning: `/t/x` lies in the directory of the volume `a` \
                    (a.json:2:28) but is mounted in other containers: if their id maps differ, each undoes the \
                    other's owner";
    assert_eq!(warnings(&loaded), [expected]);
}

#[test]
fn mount_points_become_volumes() {
    let text = |extra: &str| {
        format!(
            r#"{{"settings": {{"seed_defaults": false}},
            "shared_volumes": {{"ct100-0": {{"host_path": "/t/s", "owner": "container:5", "mounts": {{"101": "/s"}}}}}},
            "lxc_configs": {{
                "100": {{"mount_points": [
                    {{"host_path": "/t/a", "container_path": "/a", "owner_uid": 7}},
                    {{"host_path": "/t/a", "container_path": "/again", "owner_uid": 7, "owner_gid": 7}}]}},
                "101": {{"mount_points": [
                    {{"host_path": "/t/s", "container_path": "/s/", "owner_uid": 5}},
                    {{"host_path": "/t/a", "container_path": "/a", "owner_uid": 7}},
                    {{"host_path": "/t/b", "container_path": "/b"}}{extra}]}}}}}}"#
        )
    };
    let owned = |name: &str, id: u32, path: &str, mounts: &[(u32, &str)]| Volume {
        owner: Owner::Container { uid: id, gid: id },
        enforce: Enforce::Adopt,
        ..plain(name, path, mounts)
    };
    let loaded = good(&[&text("")]);
    let volumes: Vec<Volume> = loaded.desired.volumes.into_values().collect();
    let expected = [
        owned("ct100-0", 5, "/t/s", &[(101, "/s")]),
        owned("ct100-0-2", 7, "/t/a", &[(100, "/a"), (101, "/a")]),
        owned("ct100-1", 7, "/t/a", &[(100, "/again")]),
        plain("ct101-2", "/t/b", &[(101, "/b")]),
    ];
    assert_eq!(volumes, expected);

    for (extra, problem) in [
        (
            r#",{"host_path": "/t/b", "container_path": "/b2", "owner_uid": 1}, {"host_path": "/t/b", "container_path": "/b3", "owner_uid": 2}"#,
            "and their owner differ",
        ),
        (
            r#",{"host_path": "/t/s", "container_path": "/s", "owner_uid": 6}"#,
            "mounts this at the same path, for another owner",
        ),
        (
            r#",{"host_path": "/t/c", "container_path": "/b"}"#,
            "are both mounted at `/b` in the container 101",
        ),
        (
            r#",{"host_path": "/t/c", "container_path": "/c", "owner_gid": 1}"#,
            "a group without a user",
        ),
    ] {
        let found = problems(&[&text(extra)]);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains(problem), "{found:?}");
    }
}

#[test]
fn a_volume_may_be_of_some_nodes_only_and_one_of_others_may_stand_at_its_place() {
    let two = |first: &str, second: &str| {
        format!(
            r#"{{"settings": {{"seed_defaults": false}}, "shared_volumes": {{
            "a": {{"host_path": "/tank/x", "owner": "1:1", {first} "mounts": {{"100": "/data"}}}},
            "b": {{"host_path": "/tank/x", "owner": "2:2", {second} "mounts": {{"100": "/data"}}}}}}}}"#
        )
    };
    let nodes = |text: &str| format!(r#""nodes": [{text}],"#);
    let apart = two(&nodes(r#""pve1""#), &nodes(r#""pve2", "pve3""#));
    let loaded = good(&[&apart]);
    let names = |name: &str| volume(&loaded, name).nodes.clone();
    assert_eq!(names("a"), ["pve1".to_owned()].into());
    assert_eq!(names("b"), ["pve2".to_owned(), "pve3".to_owned()].into());
    for (first, second) in
        [(nodes(r#""pve1""#), String::new()), (nodes(r#""pve1", "pve2""#), nodes(r#""pve2""#))]
    {
        let problems = problems(&[&two(&first, &second)]);
        assert_eq!(problems.len(), 2, "{problems:?}");
    }
    let nowhere = problems(&[&two(&nodes(""), &nodes(r#""pve2""#))]);
    assert!(nowhere.iter().any(|p| p.contains("no node is named")), "{nowhere:?}");
}

#[test]
fn what_all_nodes_see_is_required_to_be_mounted_unless_it_says_otherwise() {
    let read = |fields: &str| {
        let text = format!(
            r#"{{"settings": {{"seed_defaults": false}}, "shared_volumes": {{
            "a": {{"host_path": "/tank/x", {fields} "mounts": {{}}}}}}}}"#
        );
        let loaded = good(&[&text]);
        let read = volume(&loaded, "a");
        (read.shared, read.require_mount.clone())
    };
    assert_eq!(read(""), (None, RequireMount::No));
    assert_eq!(read(r#""shared": false,"#), (Some(false), RequireMount::No));
    assert_eq!(read(r#""shared": true,"#), (Some(true), RequireMount::NotRoot));
    let free = r#""shared": true, "require_mount": false,"#;
    assert_eq!(read(free), (Some(true), RequireMount::No));
}

#[test]
fn ids_on_disk_are_declared_for_a_volume_and_for_single_mounts() {
    let loaded = good(&[r#"{"shared_volumes": {"v": {
        "host_path": "/tank/v", "disk_ids": ["u 0 100000 65536", "g 0 5000 65536"], "dir_mode": "keep",
        "file_mode": "keep",
        "mounts": {"101": "/a", "102": {"path": "/b", "idmap": "none"},
                   "103": {"path": "/c", "idmap": "container:101"}}}}}"#]);
    let range = |kind, host| IdRange { kind, container: 0, host, count: 65_536 };
    let space = IdMap::new(vec![range(IdKind::User, 100_000), range(IdKind::Group, 5000)]);
    let with = |target: &str, idmap| Mount { idmap: Some(idmap), ..mount(target, &[]) };
    let expected = Volume {
        disk_ids: Some(DiskIds::Ranges(space)),
        // Not the seed's, which no container could have.
        owner: Owner::Keep,
        enforce: Enforce::Always,
        mounts: BTreeMap::from([
            (ctid(101), mount("/a", &[])),
            (ctid(102), with("/b", MountIds::Plain)),
            (ctid(103), with("/c", MountIds::Disk(DiskIds::Container(ctid(101))))),
        ]),
        ..plain("v", "/tank/v", &[])
    };
    assert_eq!(*volume(&loaded, "v"), expected);
}

#[test]
fn ids_on_disk_that_cannot_be_meant_are_refused() {
    let near = |problem: &str| problem.split(": ").skip(1).collect::<Vec<_>>().join(": ");
    for (fields, problem) in [
        (
            r#""disk_ids": "none""#,
            "shared_volumes.v.disk_ids: `none` is no range of ids; write \"INSIDE DISK COUNT\" such as \"0 100000 65536\", with \"u \" or \"g \" before it for users or groups alone",
        ),
        (
            r#""disk_ids": "passtrough""#,
            "shared_volumes.v.disk_ids: `passtrough` says nothing of ids on disk; did you mean \"passthrough\"?",
        ),
        (
            r#""disk_ids": ["u 0 100000 65536"]"#,
            "shared_volumes.v.disk_ids: no group has an id on disk; name ranges for users and groups, or leave the letter out",
        ),
        (
            r#""disk_ids": "container:999""#,
            "shared_volumes.v.disk_ids: the container 999 does not mount this volume; name one that does, or write its ids as a range",
        ),
        (
            r#""mounts": {"101": {"path": "/a", "idmap": "container:102"}}"#,
            "shared_volumes.v.mounts.101.idmap: the container 102 does not mount this volume; name one that does, or write its ids as a range",
        ),
    ] {
        let text =
            format!(r#"{{"shared_volumes": {{"v": {{"host_path": "/tank/v", {fields}}}}}}}"#);
        let found = problems(&[&text]);
        assert_eq!(found.iter().map(|p| near(p)).collect::<Vec<_>>(), [problem], "{fields}");
    }
}
