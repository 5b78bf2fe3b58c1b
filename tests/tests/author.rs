//! The author's own two files, unchanged: accepted, understood, and put in place exactly.
//!
//! What is expected is derived here from the files by another, much simpler reading of them than
//! pctd's own; nothing is copied from what pctd printed.

#![expect(clippy::unwrap_used, reason = "what fails in a helper ends the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use pctd_tests::world::{UNPRIVILEGED, World, conf, json_of};
use serde_json::{Map, Value, json};

const FILES: [&str; 2] = ["phoenix_hypervisor_config.json", "phoenix_lxc_configs.json"];

/// The keys of a container that pctd knows, of its own and of the author's format.
const KNOWN: [&str; 19] = [
    "name",
    "memory_mb",
    "swap_mb",
    "cores",
    "template",
    "storage_pool",
    "storage_size_gb",
    "network_config",
    "mac_address",
    "unprivileged",
    "clone_from_ctid",
    "template_snapshot_name",
    "start_at_boot",
    "boot_order",
    "boot_delay",
    "pct_options",
    "lxc_options",
    "mount_points",
    "id_maps",
];

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data/author").join(name)
}

fn read(name: &str) -> Value {
    serde_json::from_slice(&fs::read(source(name)).unwrap()).unwrap()
}

fn entries(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

/// An entry of a host directory before pctd looks at it; the first one is the directory.
type Tree = &'static [(&'static str, u32, u32)];

/// The directories that exist; the others are missing.
const TREES: [(&str, Tree); 4] = [
    (
        "/quick/shared-prod-data/ssl",
        &[
            ("", 0, 0o755),
            ("phoenix.key", 0, 0o644),
            ("phoenix.crt", 1000, 0o600),
            ("ca/", 0, 0o700),
            ("ca/root.pem", 0, 0o640),
            ("ca/made-inside.pem", 101_000, 0o600),
            ("ca/beyond.crt", 165_536, 0o644),
        ],
    ),
    (
        "/bulk/shared-bulk-data/models",
        &[
            ("", 65_534, 0o775),
            ("llama/", 0, 0o755),
            ("llama/weights.bin", 0, 0o600),
            ("llama/config.json", 65_534, 0o664),
            ("llama/tokenizer.json", 65_534, 0o640),
            ("made-inside", 100_000, 0o664),
        ],
    ),
    ("/bulk/shared-bulk-data/build-cache", &[("", 0, 0o775), ("made-inside", 100_033, 0o664)]),
    // In place already.
    ("/quick/shared-prod-data/qdrant", &[("", 101_000, 0o750), ("made-inside", 101_000, 0o600)]),
];

/// `operator` as a user of the host, with a group of the same name.
const OPERATOR: u32 = 1500;

/// Makes the containers of the second file as their definitions say, and [`TREES`].
fn furnish(world: &World, definitions: &Value) {
    for (id, definition) in entries(&definitions["lxc_configs"]) {
        let mut lines = Vec::new();
        if definition["unprivileged"].as_bool().unwrap_or(true) {
            lines.push(UNPRIVILEGED.to_owned());
        }
        for map in definition["id_maps"].as_array().into_iter().flatten() {
            let kind = &map["type"].as_str().unwrap()[..1];
            let (inside, outside, size) = (&map["container_id"], &map["host_id"], &map["size"]);
            lines.push(format!("lxc.idmap: {kind} {inside} {outside} {size}"));
        }
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        world.container(id.parse().unwrap(), &lines);
    }
    for (path, tree) in TREES {
        for (name, owner, mode) in tree {
            let at = format!("{path}/{name}");
            if name.is_empty() || name.ends_with('/') {
                world.dir(&at, *owner, *mode);
            } else {
                world.file(&at, *owner, *mode);
            }
        }
    }
    let etc = |name: &str, text: String| fs::write(world.host("/etc").join(name), text).unwrap();
    etc("passwd", format!("nobody:x:65534:65534::/:\noperator:x:{OPERATOR}:100::/:\n"));
    etc("group", format!("users:x:100:\nnogroup:x:65534:\noperator:x:{OPERATOR}:\n"));
    fs::create_dir_all(world.host("/etc/pctd/conf.d")).unwrap();
    for name in FILES {
        fs::copy(source(name), world.host("/etc/pctd/conf.d").join(name)).unwrap();
    }
}

/// What the files ask of one directory.
struct Wish {
    path: String,
    mounts: BTreeMap<String, String>,
    owner: Option<u32>,
    /// Mode of directories, of files, and of keys among the files; none: left alone.
    modes: Option<(u32, u32, u32)>,
    /// Whether what containers can own is left to them.
    adopt: bool,
}

/// The seed's modes by the name of a volume: directories, files, keys.
fn seed_modes(name: &str) -> (u32, u32, u32) {
    match name {
        "ssl_certs" => (0o755, 0o644, 0o640),
        "nginx_sites" => (0o755, 0o644, 0o644),
        "portainer_data" => (0o770, 0o660, 0o660),
        _ => (0o775, 0o664, 0o664),
    }
}

/// Reads what is asked for out of the two files, by volume.
fn wishes(hypervisor: &Value, definitions: &Value) -> BTreeMap<String, Wish> {
    let mut wishes = BTreeMap::new();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    for (name, volume) in entries(&hypervisor["shared_volumes"]) {
        if volume.get("host_path").is_none() {
            continue;
        }
        let (owner, adopt) = match volume.get("owner").map(|owner| owner.as_str().unwrap()) {
            Some("container_root") => (100_000, true),
            Some("operator") => (OPERATOR, false),
            None => (65_534, false),
            Some(other) => panic!("{other}"),
        };
        let wish = Wish {
            path: text(&volume["host_path"]),
            mounts: entries(&volume["mounts"]).map(|(id, at)| (id.clone(), text(at))).collect(),
            owner: Some(owner),
            modes: Some(seed_modes(name)),
            adopt,
        };
        wishes.insert(name.clone(), wish);
    }
    for (id, definition) in entries(&definitions["lxc_configs"]) {
        for (index, point) in
            definition["mount_points"].as_array().into_iter().flatten().enumerate()
        {
            // Ids as seen inside; all containers with such mount points have the default map.
            let inside = point["owner_uid"].as_u64().map(|id| u32::try_from(id).unwrap());
            let owner = inside.map(|id| 100_000 + id);
            let path = text(&point["host_path"]);
            // One directory with one owner in several containers is one volume.
            let same = wishes.values_mut().find(|wish| wish.path == path && wish.owner == owner);
            let target = text(&point["container_path"]);
            if let Some(wish) = same {
                wish.mounts.insert(id.clone(), target);
            } else {
                let mounts = BTreeMap::from([(id.clone(), target)]);
                let wish = Wish { path, mounts, owner, modes: None, adopt: true };
                wishes.insert(format!("ct{id}-{index}"), wish);
            }
        }
    }
    wishes
}

/// Returns the steps a directory needs.
fn volume_steps(wish: &Wish) -> Vec<Value> {
    let mut steps = Vec::new();
    let found = TREES.iter().find(|(path, _)| *path == wish.path).map(|(_, tree)| *tree);
    if found.is_none() {
        steps.push(json!({"step": "create_directory", "path": wish.path}));
    }
    // A directory that is made is root's and closed until its owner is set.
    let tree = found.unwrap_or(&[("", 0, 0o700)]);
    let (mut changes, mut owners, mut modes) = (0, 0, 0);
    for (name, owner, mode) in tree {
        let contained = (100_000..165_536).contains(owner);
        if wish.adopt && contained && !name.is_empty() {
            continue;
        }
        let is_dir = name.is_empty() || name.ends_with('/');
        let is_key = [".key", ".pem"].iter().any(|end| name.ends_with(end));
        let wanted = wish.modes.map(|(dirs, files, keys)| match (is_dir, is_key) {
            (true, _) => dirs,
            (false, true) => keys,
            (false, false) => files,
        });
        let (other_owner, other_mode) =
            (wish.owner.is_some_and(|wanted| wanted != *owner), wanted.is_some_and(|m| m != *mode));
        owners += u64::from(other_owner);
        modes += u64::from(other_mode);
        changes += u64::from(other_owner || other_mode);
    }
    if changes > 0 {
        steps.push(json!({
            "step": "set_ownership",
            "path": wish.path,
            "owner": wish.owner.map(|id| json!({"uid": id, "gid": id})),
            "entries": tree.len(),
            "changes": changes,
            "owners": owners,
            "modes": modes,
        }));
    }
    steps
}

/// Returns the complete document that `plan` has to print.
fn expected_plan(wishes: &BTreeMap<String, Wish>, ids: &BTreeSet<String>) -> Value {
    let mut volumes = Map::new();
    let mut containers: BTreeMap<&str, Vec<(&str, &str)>> =
        ids.iter().map(|id| (id.as_str(), Vec::new())).collect();
    for (name, wish) in wishes {
        volumes.insert(name.clone(), json!({"steps": volume_steps(wish), "holds": []}));
        for (id, target) in &wish.mounts {
            containers.get_mut(id.as_str()).unwrap().push((target, name));
        }
    }
    let mut steps: usize =
        volumes.values().map(|plan| plan["steps"].as_array().unwrap().len()).sum();
    let mut plans = Map::new();
    for (id, mut mounts) in containers {
        if ["998", "999"].contains(&id) {
            // Nowhere, and nobody says how to make them: they block nobody.
            mounts.clear();
        }
        // Proxmox mounts in this order, so a parent has to come first.
        mounts.sort_unstable();
        let step = |(index, (target, name)): (usize, &(&str, &str))| {
            let mut step = json!({
                "step": "set_mount",
                "key": format!("mp{index}"),
                "value": format!("{},mp={target}", wishes[*name].path),
                "volume": name,
                "effective": "next_start",
            });
            if !volumes[*name]["steps"].as_array().unwrap().is_empty() {
                step["after_volume"] = json!(true);
            }
            step
        };
        let each: Vec<Value> = mounts.iter().enumerate().map(step).collect();
        steps += each.len();
        plans.insert(id.to_owned(), json!({"steps": each, "holds": []}));
    }
    let summary = json!({"steps": steps, "holds": 0});
    json!({"version": 1, "containers": plans, "volumes": volumes, "summary": summary})
}

#[test]
fn check_accepts_the_files_and_names_everything_it_ignores() {
    let Some(world) = World::new(env!("CARGO_BIN_EXE_pctd-tests")) else { return };
    let paths = FILES.map(|name| source(name).display().to_string());
    let ran = world.pctd.run(&["check", &paths[0], &paths[1], "--output-format", "json"]);
    assert_eq!(ran.code, 0, "{ran:#?}");
    let report = json_of(&ran);
    assert_eq!((&report["valid"], &report["problems"]), (&json!(true), &json!([])));
    assert_eq!(report["files"], json!(paths));

    let mut expected = BTreeSet::from(["warning shared_volumes.firewall".to_owned()]);
    for name in FILES {
        let known = ["$schema", "comment", "settings", "shared_volumes", "lxc_configs"];
        let file = read(name);
        let foreign = entries(&file).filter(|(key, _)| !known.contains(&key.as_str()));
        expected.extend(foreign.map(|(key, _)| format!("ignored {key}")));
    }
    for (id, definition) in entries(&read(FILES[1])["lxc_configs"]) {
        let foreign = entries(definition).filter(|(key, _)| !KNOWN.contains(&key.as_str()));
        expected.extend(foreign.map(|(key, _)| format!("ignored lxc_configs.{id}.{key}")));
    }
    let notes = report["notes"].as_array().unwrap().iter();
    let told: BTreeSet<String> = notes
        .map(|note| {
            // Each is told where it stands.
            let number = |key: &str| usize::try_from(note[key].as_u64().unwrap()).unwrap();
            let text = fs::read_to_string(note["file"].as_str().unwrap()).unwrap();
            let path = note["path"].as_str().unwrap();
            let line = text.lines().nth(number("line") - 1).unwrap();
            let key = format!("\"{}\":", path.rsplit('.').next().unwrap());
            assert!(line[number("column") - 1..].starts_with(&key), "{note}: {line}");
            format!("{} {path}", note["severity"].as_str().unwrap())
        })
        .collect();
    assert_eq!(told, expected);
}

#[test]
fn the_plan_lists_exactly_the_mounts_and_owners_the_files_ask_for() {
    let Some(world) = World::new(env!("CARGO_BIN_EXE_pctd-tests")) else { return };
    let (hypervisor, definitions) = (read(FILES[0]), read(FILES[1]));
    furnish(&world, &definitions);
    let wishes = wishes(&hypervisor, &definitions);
    let defined = entries(&definitions["lxc_configs"]).map(|(id, _)| id.clone());
    let mounting = wishes.values().flat_map(|wish| wish.mounts.keys().cloned());
    let ids: BTreeSet<String> = defined.chain(mounting).collect();
    let (code, plan) = world.plan();
    let expected = expected_plan(&wishes, &ids);
    assert_eq!(code, 3);
    assert!(plan == expected, "{plan:#}\n\nexpected:\n{expected:#}");

    // And `apply` does just that, after which nothing is left to plan.
    world.apply(&[], 0);
    let (code, after) = world.plan();
    assert_eq!((code, &after["summary"]["steps"]), (0, &json!(0)), "{after:#}");
    for (id, plan) in entries(&expected["containers"]) {
        let lines = plan["steps"].as_array().unwrap().iter().map(|step| {
            format!("{}: {}", step["key"].as_str().unwrap(), step["value"].as_str().unwrap())
        });
        let mounts: Vec<String> = lines.collect();
        let conf = world.conf(id.parse().unwrap());
        let found: Vec<&str> = conf.lines().filter(|line| line.starts_with("mp")).collect();
        assert_eq!(found, mounts, "{id}");
    }
    for (path, owner) in [
        ("/quick/shared-prod-data/ssl", "100000:100000 0755"),
        ("/quick/shared-prod-data/ssl/phoenix.key", "100000:100000 0640"),
        ("/quick/shared-prod-data/ssl/ca/made-inside.pem", "101000:101000 0600"),
        ("/quick/shared-prod-data/portainer_data", "100000:100000 0770"),
        ("/bulk/shared-bulk-data/models/made-inside", "65534:65534 0664"),
        ("/bulk/shared-bulk-data/build-cache/made-inside", "1500:1500 0664"),
        ("/quick/shared-prod-data/qdrant", "101000:101000 0750"),
    ] {
        assert_eq!(world.owner(path), owner, "{path}");
    }
}

#[test]
fn a_container_that_does_not_exist_holds_up_nobody() {
    let Some(world) = World::new(env!("CARGO_BIN_EXE_pctd-tests")) else { return };
    furnish(&world, &read(FILES[1]));
    // 910 shares `portainer_data` with 999, which is nowhere, and 950 is not there either: it is a
    // clone of 902, of which nobody has taken the snapshot that the file names.
    world.node.remove_conf(pctd_tests::world::ctid(950)).unwrap();
    let report = world.apply(&[], 3);
    let held: Vec<&String> = entries(&report["containers"])
        .filter(|(_, plan)| plan["holds"] != json!([]))
        .map(|(id, _)| id)
        .collect();
    assert_eq!(held, ["950"], "{report:#}");
    assert_eq!(pctd_tests::world::holds(&report, "containers", "950"), ["CloneSourceNotReady"]);
    assert!(world.conf(910).contains("mp1: /quick/shared-prod-data/portainer_data,mp=/data\n"));
    assert!(world.conf(951).contains("mp0: /bulk/shared-bulk-data/models,mp=/models\n"));
    assert_eq!(world.conf(901), conf(901, &[UNPRIVILEGED]));
}
