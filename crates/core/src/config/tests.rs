//! Whole files: the author's, the example, one full of mistakes, and anything at all.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::desired::{Certificate, Enforce, Mount, Owner, RequireMount, Source, Volume};
use crate::modes::{FilePattern, ModeRule};

const HYPERVISOR: &str =
    include_str!("../../../../tests/data/author/phoenix_hypervisor_config.json");
const CONTAINERS: &str = include_str!("../../../../tests/data/author/phoenix_lxc_configs.json");
const EXAMPLE: &str = include_str!("../../../../config/example.json");
const SHIPPED: &str = include_str!("../../../../config/config.json");

fn files(texts: &[&str]) -> Vec<(String, Vec<u8>)> {
    let name = |i: usize| format!("{}.json", ["a", "b", "c"][i]);
    texts.iter().enumerate().map(|(i, text)| (name(i), text.as_bytes().to_vec())).collect()
}

fn good(texts: &[&str]) -> Loaded {
    load(&files(texts), Strictness::Lenient).unwrap_or_else(|problems| panic!("{problems}"))
}

fn problems(texts: &[&str]) -> Vec<String> {
    match load(&files(texts), Strictness::Lenient) {
        Ok(loaded) => panic!("no problem in {loaded:?}"),
        Err(problems) => problems.problems.iter().map(ToString::to_string).collect(),
    }
}

fn warnings(loaded: &Loaded) -> Vec<String> {
    let warnings = loaded.notes.iter().filter(|note| note.severity == Severity::Warning);
    warnings.map(ToString::to_string).collect()
}

fn ctid(id: u32) -> Ctid {
    Ctid::new(id).unwrap()
}

fn volume<'l>(loaded: &'l Loaded, name: &str) -> &'l Volume {
    &loaded.desired.volumes[&name.parse().unwrap()]
}

fn mount(target: &str, options: &[(&str, &str)]) -> Mount {
    let options = options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    Mount { target: target.to_owned(), options, adopt: false }
}

fn patterns(modes: &[(&str, u32)]) -> Vec<(FilePattern, ModeRule)> {
    modes.iter().map(|(p, m)| (FilePattern::new(p).unwrap(), ModeRule::Exact(*m))).collect()
}

/// A volume as it comes out when nothing but its path and mounts is given.
fn plain(name: &str, host_path: &str, mounts: &[(u32, &str)]) -> Volume {
    Volume {
        name: name.parse().unwrap(),
        host_path: host_path.to_owned(),
        owner: Owner::Keep,
        owner_ctid: None,
        dir_mode: ModeRule::Keep,
        file_mode: ModeRule::Keep,
        file_modes: Vec::new(),
        enforce: Enforce::Always,
        recurse: true,
        create: true,
        require_mount: RequireMount::No,
        mounts: mounts.iter().map(|(id, target)| (ctid(*id), mount(target, &[]))).collect(),
        certificates: Vec::new(),
    }
}

#[test]
fn no_files_ask_for_nothing() {
    assert_eq!(good(&[]).desired, Desired::default());
    assert_eq!(good(&["{}"]).desired, Desired::default());
}

#[test]
fn the_shipped_file_asks_for_nothing() {
    let loaded = load(&files(&[SHIPPED]), Strictness::Strict).unwrap();
    assert!(loaded.desired.volumes.is_empty());
    assert!(!loaded.desired.settings.seed_defaults);
    assert_eq!(loaded.notes, []);
}

#[test]
fn the_example_is_valid_and_says_nothing_in_vain() {
    let loaded = load(&files(&[EXAMPLE]), Strictness::Strict).unwrap();
    assert_eq!(loaded.notes, []);
    let expected = Volume {
        owner: Owner::CONTAINER_ROOT,
        owner_ctid: Some(ctid(953)),
        dir_mode: ModeRule::Exact(0o755),
        file_mode: ModeRule::Exact(0o644),
        file_modes: patterns(&[("*.key", 0o640), ("*.pem", 0o640)]),
        enforce: Enforce::Adopt,
        require_mount: RequireMount::At("/tank".into()),
        mounts: BTreeMap::from([
            (ctid(910), mount("/certs", &[("ro", "1")])),
            (ctid(952), mount("/qdrant/certs", &[])),
            (ctid(953), mount("/etc/nginx/ssl", &[("ro", "1")])),
        ]),
        ..plain("ssl_certs", "/tank/shared/ssl", &[])
    };
    assert_eq!(*volume(&loaded, "ssl_certs"), expected);
    let sites = volume(&loaded, "nginx_sites");
    assert_eq!(sites.enforce, Enforce::Always);
    let options = [("mountoptions", "nodev;noexec;nosuid")];
    assert_eq!(sites.mounts[&ctid(953)], mount("/etc/nginx/sites-enabled", &options));
    assert_eq!(volume(&loaded, "models").enforce, Enforce::Once);
    let names: Vec<_> = loaded.desired.volumes.keys().map(ToString::to_string).collect();
    let expected = ["ct952-0", "late_data", "models", "nginx_sites", "portainer_data", "ssl_certs"];
    assert_eq!(names, expected);
}

#[test]
fn the_authors_two_files_work_unchanged() {
    let loaded = good(&[HYPERVISOR, CONTAINERS]);
    let volumes: Vec<Volume> = loaded.desired.volumes.values().cloned().collect();
    let seeded = |name: &str, path: &str, mounts: &[(u32, &str)], dir: u32, file: u32| Volume {
        owner: Owner::CONTAINER_ROOT,
        dir_mode: ModeRule::Exact(dir),
        file_mode: ModeRule::Exact(file),
        enforce: Enforce::Adopt,
        ..plain(name, path, mounts)
    };
    let (prod, bulk) = ("/quickOS/shared-prod-data", "/fastData/shared-bulk-data");
    let host = |user: &str, group: Option<&str>| Owner::Host {
        user: user.to_owned(),
        group: group.map(str::to_owned),
    };
    let expected = [
        Volume {
            owner: host("heads", None),
            enforce: Enforce::Always,
            ..seeded(
                "build_cache",
                &format!("{bulk}/build-cache"),
                &[(957, "/var/cache/build")],
                0o775,
                0o664,
            )
        },
        Volume {
            owner: Owner::CONTAINER_ROOT,
            enforce: Enforce::Adopt,
            ..plain(
                "ct951-0",
                &format!("{bulk}/hf-cache"),
                &[(951, "/root/.cache/huggingface"), (955, "/var/cache/huggingface")],
            )
        },
        Volume {
            owner: Owner::Container { uid: 1000, gid: 1000 },
            enforce: Enforce::Adopt,
            ..plain("ct952-0", &format!("{prod}/qdrant"), &[(952, "/qdrant/storage")])
        },
        plain("ct954-0", &format!("{prod}/n8n"), &[(954, "/root/.n8n")]),
        Volume {
            owner: host("nobody", Some("nogroup")),
            enforce: Enforce::Once,
            ..seeded(
                "models",
                &format!("{bulk}/models"),
                &[(950, "/models"), (951, "/models"), (955, "/models"), (998, "/models")],
                0o775,
                0o664,
            )
        },
        seeded(
            "nginx_sites",
            &format!("{prod}/nginx/sites-available"),
            &[(953, "/etc/nginx/sites-available")],
            0o755,
            0o644,
        ),
        seeded(
            "portainer_data",
            &format!("{prod}/portainer_data"),
            &[(910, "/data"), (999, "/data")],
            0o770,
            0o660,
        ),
        Volume {
            file_modes: patterns(&[("*.key", 0o640), ("*.pem", 0o640)]),
            ..seeded(
                "ssl_certs",
                &format!("{prod}/ssl"),
                &[(910, "/certs"), (952, "/qdrant/certs"), (953, "/etc/nginx/ssl")],
                0o755,
                0o644,
            )
        },
    ];
    assert_eq!(volumes, expected);

    let clone = |from: u32, snapshot: Option<&str>| {
        Some(Source::Clone { from: ctid(from), snapshot: snapshot.map(str::to_owned) })
    };
    let containers = &loaded.desired.containers;
    assert_eq!(containers.len(), 12);
    assert!(
        matches!(&containers[&ctid(900)].source, Some(Source::Template(path)) if path.starts_with('/'))
    );
    assert_eq!(containers[&ctid(901)].source, clone(900, Some("base-snapshot")));
    assert_eq!(containers[&ctid(910)].source, clone(901, Some("docker-snapshot")));
    assert_eq!(containers[&ctid(910)].name.as_deref(), Some("Portainer"));
    let unprivileged = [900, 902, 954].map(|id| containers[&ctid(id)].unprivileged);
    assert_eq!(unprivileged, [Some(true), None, Some(false)]);

    let stray = "a.json:121:9: shared_volumes.firewall: warning: neither host_path nor mounts is there, \
                 so this is no volume: ignored";
    assert_eq!(warnings(&loaded), [stray]);
    let strict = load(&files(&[HYPERVISOR, CONTAINERS]), Strictness::Strict).unwrap();
    assert_eq!(strict, loaded);
}

#[test]
fn keys_of_other_tools_are_listed() {
    let loaded = good(&[HYPERVISOR, CONTAINERS]);
    let ignored = |path: &str| {
        let note = loaded.notes.iter().find(|note| note.place.json_path == path);
        note.map(|note| (note.severity, note.message.as_str()))
    };
    for path in [
        "zfs",
        "nfs",
        "samba",
        "vms",
        "users",
        "nvidia_repo_url",
        "lxc_configs.950.vllm_model",
        "lxc_configs.910.features",
        "lxc_configs.952.volumes",
        "lxc_configs.954.zfs_volumes",
    ] {
        assert_eq!(ignored(path), Some((Severity::Ignored, "not a key of pctd's")), "{path}");
    }
    for path in ["$schema", "shared_volumes", "lxc_configs.950.memory_mb", "zfs.pools"] {
        assert_eq!(ignored(path), None, "{path}");
    }
    assert_eq!(ignored("lxc_configs.910").unwrap().1, "this version does not create containers");
}

#[test]
fn the_places_of_volumes_and_containers_are_known() {
    let loaded = good(&[HYPERVISOR, CONTAINERS]);
    let place = |key: &str| loaded.places[&key.parse::<Key>().unwrap()].to_string();
    assert_eq!(place("models"), "a.json:105:9: shared_volumes.models");
    assert_eq!(place("900"), "b.json:7:9: lxc_configs.900");
    assert!(place("ct952-0").ends_with("lxc_configs.952.mount_points[0]"));
}

#[test]
fn several_files_make_one_state() {
    let loaded = good(&[
        r#"{"settings": {"seed_defaults": false}, "shared_volumes": {"a": {"host_path": "/tank/a"}}}"#,
        r#"{"settings": {"mode": "observe", "comment": ""}, "shared_volumes": {"b": {"host_path": "/tank/b"}}}"#,
        r#"{"settings": {"comment": "again"}, "lxc_configs": {"100": {}}}"#,
    ]);
    assert_eq!(loaded.desired.settings.mode, crate::desired::Mode::Observe);
    assert!(!loaded.desired.settings.seed_defaults);
    assert_eq!(loaded.desired.volumes.len(), 2);
    assert_eq!(loaded.desired.containers.len(), 1);
}

#[test]
fn what_is_given_twice_is_refused_with_both_places() {
    let text = r#"{"settings": {"mode": "observe"}, "shared_volumes": {"a": {"host_path": "/tank/a"}},
"lxc_configs": {"100": {}}}"#;
    assert_eq!(
        problems(&[text, text]),
        [
            "b.json:1:15: settings.mode: this setting is there twice, first at a.json:1:15; keep one of them",
            "b.json:1:54: shared_volumes.a: the volume `a` is there twice, first at a.json:1:54; keep one of them, \
             or rename one",
            "b.json:2:17: lxc_configs.100: the container 100 is there twice, first at a.json:2:17; keep one of them",
        ]
    );
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
        "mounts": {
            "comment": "two",
            "101": {"path": "//x//y/", "read_only": false, "shared": true, "backup": true, "adopt": true,
                    "mount_options": ["nosuid", "noatime", "nosuid"]},
            "102": "/z/"},
        "certificates": [{"domain": "a.example"}, {"domain": "b.example"}]}}}"#]);
    let options =
        [("ro", "0"), ("shared", "1"), ("backup", "1"), ("mountoptions", "noatime;nosuid")];
    let certificate = |domain: &str| Certificate { domain: domain.to_owned() };
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
        mounts: BTreeMap::from([
            (ctid(101), Mount { adopt: true, ..mount("/x/y", &options) }),
            (ctid(102), mount("/z", &[])),
        ]),
        certificates: vec![certificate("a.example"), certificate("b.example")],
        ..plain("v", "/tank/v", &[])
    };
    assert_eq!(*volume(&loaded, "v"), expected);
    let notes: Vec<_> = loaded.notes.iter().map(|note| note.message.as_str()).collect();
    let expected = [
        "this version does not take over mounts of others",
        "this version does not make certificates",
    ];
    assert_eq!(notes, expected);
}

const MISTAKES: &str = r#"{
  "settings": {
    "retry_inital": "1s",
    "poll_interval": "5",
    "restart_timeout": "500ms",
    "restart": "If_pending",
    "mode": null,
    "seed_defaults": "true",
    "max_concurrent": 0,
    "confirm_above": 1.5
  },
  "shared_volumes": {
    "9lives": { "host_path": "/tank/nine" },
    "a": { "host_path": "/etc/ssl", "ownr": "keep", "file_mode": 644 },
    "a": { "host_path": "/tank/a" },
    "b": { "host_path": "/tank//b/", "owner": "container-root", "dir_mode": "9", "mount": {} },
    "c": { "mounts": { "953": "/data", "12": "/x", "954": { "path": "/d", "readonly": true } } },
    "d": { "host_path": "/tank/d", "owner": "root", "owner_ctid": "100", "mounts": { "953": "/data" } },
    "e": { "host_path": "/tank/d/e", "owner": "www-data", "mounts": { "953": "data", "954": ["/x"] } },
    "f": { "host_path": "/tank/f", "mounts": { "953": "//data/" }, "require_mount": "/tank/other" },
    "g": { "host_path": "/tank/g", "mounts": { "954": { "path": "/g", "mount_options": [] } } },
    "h": { "host_path": "/var", "file_modes": { "a/b": "0600" }, "certificates": [ { "domain": "../x" } ] }
  },
  "lxc_configs": {
    "100": { "unprivileged": 1, "clone_from_ctid": "100" },
    "101": { "mount_points": [ { "host_path": "tank", "owner_gid": 3 } ] },
    "102": { "mount_points": [ { "host_path": "/tank/a,b", "container_path": "/", "owner_uid": -1 } ] },
    "x": {}
  }
}"#;

#[test]
fn all_mistakes_of_a_file_are_reported_at_once() {
    let expected = include_str!("testdata/mistakes.txt");
    assert_eq!(problems(&[MISTAKES]).join("\n") + "\n", expected);
}

#[test]
fn what_is_not_json_is_refused_with_its_place() {
    for (bytes, expected) in [
        (&b""[..], "a.json:1:1: not JSON: EOF while parsing a value; write at least {}"),
        (
            b"{\n  \"a\": 1,\n}",
            "a.json:3:1: not JSON: key must be a string; leave the comma before the closing bracket out",
        ),
        (
            b"{\n // x\n}",
            "a.json:2:2: not JSON: key must be a string; JSON has no comments: use a \"comment\" key",
        ),
        (b"{\"a\": 'x'}", "a.json:1:7: not JSON: expected value; write texts in double quotes"),
        (b"{} {}", "a.json:1:4: not JSON: trailing characters"),
        (b"{\"a\": \"\xc3\xa4\" x}", "a.json:1:11: not JSON: expected `,` or `}`"),
        (
            b"\xef\xbb\xbf{}",
            "a.json:1:1: begins with a byte order mark; save it as UTF-8 without one",
        ),
        (b"\xff\xfe{\0}\0", "a.json:1:1: is UTF-16; save it as UTF-8"),
        (b"{\n\"\xc3\xa4\xe4\"}", "a.json:2:3: not UTF-8 from here on; save the file as UTF-8"),
        (b"[]", "a.json:1:1: expected an object, found a list"),
        (b"{\"a\": \"\\ud800\"}", "a.json:1:14: a: not JSON: unexpected end of hex escape"),
    ] {
        let result = load(&[("a.json".to_owned(), bytes.to_vec())], Strictness::Lenient);
        assert_eq!(result.unwrap_err().to_string(), expected, "{}", bytes.escape_ascii());
    }
    let deep = format!("{{\"a\": {}{}}}", "[".repeat(100), "]".repeat(100));
    let path = format!("a{}", "[0]".repeat(64));
    assert_eq!(problems(&[&deep]), [format!("a.json:1:71: {path}: more than 64 levels deep")]);
}

#[test]
fn near_misses_outside_of_pctds_own_sections_are_problems_only_for_the_strict() {
    let text = r#"{"setings": {}, "lxc_configs": {"100": {"mount_point": [], "cores": "2"}},
        "shared_volumes": {"x": {"mount": {}, "host-path": "/x"}}}"#;
    let expected = [
        "a.json:1:2: setings: warning: `setings` is not a key of a configuration; did you mean \"settings\"?",
        "a.json:1:41: lxc_configs.100.mount_point: warning: `mount_point` is not a key of a container definition; \
         did you mean \"mount_points\"?",
        "a.json:1:69: lxc_configs.100.cores: warning: expected a whole number, found a text; write 2 without quotes",
        "a.json:2:28: shared_volumes.x: warning: neither host_path nor mounts is there, so this is no volume: \
         ignored; did you mean the key \"mounts\"?",
    ];
    assert_eq!(warnings(&good(&[text])), expected);
    let strict = load(&files(&[text]), Strictness::Strict).unwrap_err();
    let strict: Vec<_> = strict.problems.iter().map(ToString::to_string).collect();
    let expected: Vec<_> = expected.iter().map(|line| line.replace("warning: ", "")).collect();
    assert_eq!(strict, expected);
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
            r#""b": {"host_path": "/t/x", "owner": "root"}, "a": {"host_path": "/t", "dir_mode": "0700"}"#,
            Some(
                "`/t/x` lies in the directory of the volume `a` (a.json:1:123), and their owner, dir_mode differ; \
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
fn containers_cannot_be_clones_of_themselves() {
    let found = problems(&[r#"{"lxc_configs": {
        "100": {"clone_from_ctid": "101"}, "101": {"clone_from_ctid": 100}, "102": {"clone_from_ctid": "101"},
        "103": {"clone_from_ctid": "", "template": ""}, "104": {"clone_from_ctid": "104"}}}"#]);
    let ids: Vec<_> = found.iter().filter_map(|line| line.split('.').nth(2)).collect();
    assert_eq!(ids, ["100", "101", "104"], "{found:?}");
}

#[test]
fn places_name_odd_keys_in_quotes_and_columns_count_characters() {
    let found = problems(&[
        r#"{"shared_volumes": {"a.b": {"host_path": "/tank/ä", "own": 1}, "ä\n": {"mounts": 1}}}"#,
    ]);
    let places: Vec<_> =
        found.iter().map(|line| line.split(": ").take(2).collect::<Vec<_>>().join(": ")).collect();
    let expected = [
        r#"a.json:1:42: shared_volumes."a.b".host_path"#,
        r#"a.json:1:53: shared_volumes."a.b".own"#,
        r#"a.json:1:64: shared_volumes."ä\n""#,
        r#"a.json:1:71: shared_volumes."ä\n""#,
        r#"a.json:1:82: shared_volumes."ä\n".mounts"#,
    ];
    assert_eq!(places, expected);
}

#[test]
fn notes_and_problems_are_flat_json() {
    let problems = load(&files(&[r#"{"x": 1, "settings": 1}"#]), Strictness::Lenient).unwrap_err();
    let expected = json!({
        "problems": [{"file": "a.json", "line": 1, "column": 22, "json_path": "settings",
                      "message": "expected an object, found a number"}],
        "notes": [{"severity": "ignored", "file": "a.json", "line": 1, "column": 2, "json_path": "x",
                   "message": "not a key of pctd's"}],
    });
    assert_eq!(serde_json::to_value(problems).unwrap(), expected);
}

#[test]
fn the_schema_describes_every_key() {
    let schema = schema();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    let definitions: Vec<_> =
        schema["$defs"].as_object().unwrap().keys().map(String::as_str).collect();
    let expected = [
        "certificate",
        "container_definition",
        "mapping",
        "mount",
        "mount_point",
        "network_configuration",
        "settings_section",
        "volume",
    ];
    assert_eq!(definitions, expected);
    let settings = &schema["$defs"]["settings_section"];
    assert_eq!(settings["additionalProperties"], json!(false));
    assert_eq!(settings["properties"]["poll_interval"]["default"], "2s");
    assert_eq!(settings["properties"]["mode"]["enum"], json!(["enforce", "observe"]));
    let volume = &schema["$defs"]["volume"]["then"];
    assert_eq!(volume["required"], json!(["host_path"]));
    assert_eq!(volume["properties"]["owner"]["type"], "string");

    let mut undescribed = Vec::new();
    visit(&schema, &mut |value| {
        let Some(properties) = value.get("properties").and_then(Value::as_object) else { return };
        let described = |v: &Value| *v == json!(true) || v.get("description").is_some();
        undescribed
            .extend(properties.iter().filter(|(_, v)| !described(v)).map(|(k, _)| k.clone()));
    });
    assert_eq!(undescribed, [""; 0]);
}

fn visit(value: &Value, f: &mut impl FnMut(&Value)) {
    f(value);
    match value {
        Value::Array(items) => items.iter().for_each(|item| visit(item, f)),
        Value::Object(members) => members.values().for_each(|member| visit(member, f)),
        _ => {}
    }
}

/// Writes the members of every object in another order.
fn reversed(value: &Value) -> String {
    match value {
        Value::Object(members) => {
            let members =
                members.iter().rev().map(|(k, v)| format!("{}:{}", json!(k), reversed(v)));
            format!("{{{}}}", members.collect::<Vec<_>>().join(","))
        }
        Value::Array(items) => {
            format!("[{}]", items.iter().map(reversed).collect::<Vec<_>>().join(","))
        }
        other => other.to_string(),
    }
}

/// Texts and numbers that mean something in one place or another.
fn any_scalar() -> impl Strategy<Value = Value> {
    let texts = proptest::sample::select(vec![
        "",
        "/",
        "/data",
        "/tank/a",
        "/tank/a/b",
        "/etc",
        "container_root",
        "container:1",
        "keep",
        "root",
        "0775",
        "u=rwX",
        "once",
        "10m",
        "953",
        "100",
        "a.example",
        "noatime",
        "observe",
    ]);
    prop_oneof![
        4 => texts.prop_map(Value::from),
        1 => any::<String>().prop_map(Value::from),
        1 => any::<bool>().prop_map(Value::from),
        1 => any::<i64>().prop_map(Value::from),
        1 => (0u32..2000).prop_map(Value::from),
        1 => Just(Value::Null),
    ]
}

fn any_key() -> impl Strategy<Value = String> {
    let known = proptest::sample::select(vec![
        "settings",
        "shared_volumes",
        "lxc_configs",
        "a",
        "b",
        "100",
        "101",
        "host_path",
        "owner",
        "owner_ctid",
        "mounts",
        "path",
        "mode",
        "mount_points",
        "container_path",
        "clone_from_ctid",
        "certificates",
        "domain",
        "file_modes",
        "dir_mode",
        "comment",
        "require_mount",
        "mount_options",
    ]);
    prop_oneof![9 => known.prop_map(str::to_owned), 1 => any::<String>()]
}

fn any_json() -> impl Strategy<Value = Value> {
    any_scalar().prop_recursive(6, 64, 5, |inner| {
        prop_oneof![
            4 => proptest::collection::btree_map(any_key(), inner.clone(), 0..5)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
            1 => proptest::collection::vec(inner, 0..4).prop_map(Value::from),
        ]
    })
}

/// A volume that is more often right than wrong.
fn any_volume() -> impl Strategy<Value = Value> {
    let path = proptest::sample::select(vec!["/tank/a", "/tank/a/b", "/tank/c", "/srv", "/etc"]);
    let owner = proptest::sample::select(vec!["keep", "container_root", "root", "1000:1000"]);
    let mounts = proptest::collection::btree_map(
        100u32..105,
        proptest::sample::select(vec!["/a", "/b/", "/c"]),
        0..3,
    );
    (path, owner, mounts, any::<bool>()).prop_map(|(path, owner, mounts, recurse)| {
        let mounts: serde_json::Map<_, _> =
            mounts.into_iter().map(|(id, target)| (id.to_string(), json!(target))).collect();
        json!({"host_path": path, "owner": owner, "mounts": mounts, "recurse": recurse})
    })
}

fn any_volumes() -> impl Strategy<Value = Value> {
    let names =
        proptest::sample::select(vec!["a", "b", "ssl_certs", "ct100-0"]).prop_map(str::to_owned);
    proptest::collection::btree_map(names, any_volume(), 0..4)
        .prop_map(|volumes| Value::Object(volumes.into_iter().collect()))
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(bytes in any::<Vec<u8>>()) {
        let _ = load(&[("a".to_owned(), bytes)], Strictness::Strict);
    }

    #[test]
    fn no_broken_file_makes_the_reader_panic(cut in 0..HYPERVISOR.len(), byte in any::<u8>()) {
        let mut bytes = HYPERVISOR.as_bytes().to_vec();
        bytes[cut] = byte;
        let _ = load(&[("a".to_owned(), bytes.clone())], Strictness::Strict);
        bytes.truncate(cut);
        prop_assert!(load(&[("a".to_owned(), bytes)], Strictness::Strict).is_err());
    }

    #[test]
    fn no_json_makes_the_reader_panic(volumes in any_json(), containers in any_json(), settings in any_json()) {
        let text = json!({"shared_volumes": volumes, "lxc_configs": containers, "settings": settings});
        let _ = load(&files(&[&text.to_string()]), Strictness::Lenient);
    }

    #[test]
    fn the_order_of_keys_means_nothing(volumes in any_volumes(), containers in any_json()) {
        let text = json!({"shared_volumes": volumes, "lxc_configs": {"100": containers}});
        let one = load(&files(&[&text.to_string()]), Strictness::Lenient);
        let other = load(&files(&[&reversed(&text)]), Strictness::Lenient);
        match (one, other) {
            (Ok(one), Ok(other)) => prop_assert_eq!(one.desired, other.desired),
            (Err(one), Err(other)) => {
                let count = |p: &Problems| p.problems.len();
                prop_assert_eq!(count(&one), count(&other));
            }
            (one, other) => prop_assert!(false, "{:?} and {:?}", one, other),
        }
    }
}
