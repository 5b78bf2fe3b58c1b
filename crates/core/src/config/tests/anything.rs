//! Properties that hold for whatever a file may hold.

use proptest::prelude::*;

use super::*;

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
        "disk_ids",
        "idmap",
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
    fn no_broken_file_makes_the_reader_panic(cut in 0..HYPERVISOR.trim_end().len(), byte in any::<u8>()) {
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
