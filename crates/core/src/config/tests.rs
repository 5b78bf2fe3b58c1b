//! Whole files: the author's, the example, one full of mistakes, and anything at all.

mod anything;
mod group;
mod raw_lines;
mod volumes;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::*;
use crate::desired::{DiskIds, Enforce, Mount, MountIds, Owner, RequireMount, Source, Volume};
use crate::idmap::{IdKind, IdMap, IdRange};
use crate::ids::Ctid;
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
    let mechanism = crate::desired::Mechanism::Pct;
    Mount { target: target.to_owned(), options, idmap: None, adopt: false, mechanism }
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
        group: None,
        default_acl: None,
        owner_ctid: None,
        disk_ids: None,
        dir_mode: ModeRule::Keep,
        file_mode: ModeRule::Keep,
        file_modes: Vec::new(),
        enforce: Enforce::Always,
        recurse: true,
        create: true,
        require_mount: RequireMount::No,
        nodes: BTreeSet::new(),
        shared: None,
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
        require_mount: RequireMount::No,
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
    let (prod, bulk) = ("/quick/shared-prod-data", "/bulk/shared-bulk-data");
    let host = |user: &str, group: Option<&str>| Owner::Host {
        user: user.to_owned(),
        group: group.map(str::to_owned),
    };
    let expected = [
        Volume {
            owner: host("operator", None),
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
    for path in ["lxc_configs.902.lxc_options", "lxc_configs.957.id_maps"] {
        assert_eq!(ignored(path), None, "{path}");
    }
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
        "conversion",
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
