//! A directory that all nodes see.

use super::*;

const NODES: [&str; 3] = ["pve1", "pve2", "pve3"];

/// The map of a container whose ids begin elsewhere.
const SHIFTED: [&str; 3] =
    [UNPRIVILEGED, "lxc.idmap: u 0 200000 65536", "lxc.idmap: g 0 200000 65536"];

fn media(fields: &str) -> String {
    format!(
        r#""media": {{"host_path": "{STORAGE}/media", "owner": "container_root", "shared": true, {fields}
        "mounts": {{"100": "/media", "101": "/media"}}}}"#
    )
}

fn place(file: &str) -> String {
    format!("{STORAGE}/media/{file}")
}

/// Three nodes, of which the first has 100 and the second 101.
fn three_nodes(second: &[&str], fields: &str) -> Option<Town> {
    let town = Town::new(PROGRAM, &NODES)?;
    town.container("pve1", 100, &[UNPRIVILEGED]);
    town.container("pve2", 101, second);
    town.file("pve1", &place("old"), 0);
    town.volumes("pve3", "", &media(fields));
    Some(town)
}

fn walked(daemon: &Daemon) -> bool {
    daemon.log().contains("STEP=\"set_ownership\"") || daemon.log().contains("set_ownership")
}

#[test]
fn of_all_nodes_one_sets_owners_and_the_others_mount_what_it_has_set() {
    let Some(town) = three_nodes(&[UNPRIVILEGED], "") else { return };
    // Without the node that acts the others wait.
    let others = [town.daemon("pve2"), town.daemon("pve3")];
    others[0].until("it waits", |status| {
        holds(status, "volumes", "media") == ["OtherNodeActs"]
            && holds(status, "containers", "101").contains(&"VolumeHeld".to_owned())
    });
    assert_eq!(town.owner("pve2", &place("old")), Some(0));
    assert_eq!(town.mounts("pve2", 101), Vec::<String>::new());
    let first = town.daemon("pve1");
    first.until_all("Converged");
    assert_eq!(town.owner("pve3", &place("old")), Some(100_000));
    for daemon in &others {
        daemon.until_all("Converged");
    }
    assert_eq!(town.mounts("pve1", 101), [format!("mp0: {STORAGE}/media,mp=/media")]);
    let status = others[0].status();
    assert_eq!(reasons(&status, "volumes", "media"), ["OtherNodeActs"]);
    assert_eq!(status["volumes"]["media"]["conditions"]["Owned"]["reason"], "OtherNodeActs");
    // Drift as well is put right by the one: the others let go of it.
    town.file("pve2", &place("drift"), 0);
    eventually("it is put right", || town.owner("pve2", &place("drift")) == Some(100_000));
    assert!(walked(&first), "{}", first.log());
    for daemon in &others {
        assert!(!walked(daemon), "{}", daemon.log());
    }
    town.nobody_acted_elsewhere();
}

#[test]
fn a_conflict_across_nodes_is_reported_on_each_of_them() {
    let Some(town) = three_nodes(&SHIFTED, "") else { return };
    let daemons = NODES.map(|name| town.daemon(name));
    for daemon in &daemons[..2] {
        daemon.until("it is reported", |status| {
            holds(status, "volumes", "media") == ["OwnerConflict"]
        });
        let status = daemon.status();
        let message = status["volumes"]["media"]["holds"][0]["message"].as_str().unwrap();
        assert!(message.contains("100: 100000:100000, 101: 200000:200000"), "{message}");
    }
    assert_eq!(town.owner("pve1", &place("old")), Some(0), "neither is right");
    town.volumes("pve1", "", &media(r#""owner_ctid": "101","#));
    eventually("the one that is named decides", || {
        town.owner("pve1", &place("old")) == Some(200_000)
    });
    for daemon in &daemons {
        daemon.until_all("Converged");
    }
    assert!(walked(&daemons[0]) && !walked(&daemons[1]) && !walked(&daemons[2]));
}

#[test]
fn a_node_that_is_lost_is_not_stood_in_for_until_its_container_is_moved() {
    let Some(town) = three_nodes(&[UNPRIVILEGED], r#""enforce": "once", "#) else { return };
    let mut daemons = NODES.map(|name| Some(town.daemon(name)));
    for daemon in daemons.iter().flatten() {
        daemon.until_all("Converged");
    }
    // What a service made is its own from now on.
    town.file("pve2", &place("service"), 100_033);
    let [first, second, third] = &mut daemons;
    drop(first.take());
    town.cluster.cut(&["pve1"]).unwrap();
    town.cluster.notice().unwrap();
    for daemon in [&*second, &*third].into_iter().flatten() {
        daemon.until("it is said", |status| {
            let notices = status["volumes"]["media"]["notices"].as_array();
            let message = notices.and_then(|all| all.first()).map(|n| n["message"].to_string());
            message.is_some_and(|text| text.contains("pve1") && text.contains("it is offline"))
                || holds(status, "volumes", "media").is_empty()
                    && status["containers"]["101"]["conditions"]["Defined"]["reason"]
                        == "OnOtherNode"
        });
    }
    town.file("pve2", &place("wrong"), 0);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(town.owner("pve2", &place("wrong")), Some(0), "nobody acts in its place");
    // An admin gives up the node: `mv` of the conf on one that is left.
    town.cluster.move_conf("pve3", ctid(100), "pve3").unwrap();
    eventually("its new node acts", || town.owner("pve3", &place("wrong")) == Some(100_000));
    let third = third.as_ref().unwrap();
    third.until("it says what it takes for granted", |status| {
        reasons(status, "volumes", "media") == ["DoneElsewhere"]
    });
    assert_eq!(town.owner("pve3", &place("service")), Some(100_033), "once is once");
    // And the lost one returns, with what it remembers of long ago.
    let calls = town.calls("pve1").len();
    town.cluster.heal().unwrap();
    let back = town.daemon("pve1");
    back.until_all("Converged");
    second.as_ref().unwrap().until_all("Converged");
    town.file("pve1", &place("again"), 0);
    eventually("one acts", || town.owner("pve1", &place("again")) == Some(100_000));
    assert!(!walked(&back), "{}", back.log());
    assert_eq!(town.calls("pve1").len(), calls);
    town.nobody_acted_elsewhere();
}

#[test]
fn a_walk_ends_where_its_container_leaves_and_is_made_where_it_goes() {
    let Some(town) = three_nodes(&[UNPRIVILEGED], "") else { return };
    for directory in 0..50 {
        let directory = town.host("pve1", &place(&directory.to_string()));
        fs::create_dir_all(&directory).unwrap();
        for file in 0..100 {
            fs::write(directory.join(file.to_string()), "").unwrap();
        }
    }
    town.volumes("pve3", r#""confirm_above": 100000"#, &media(""));
    let daemons = NODES.map(|name| town.daemon(name));
    town.cluster.migrate(ctid(100), "pve3", Duration::ZERO).unwrap();
    for daemon in &daemons {
        daemon.until_all("Converged");
    }
    let left = std::process::Command::new("find")
        .arg(town.host("pve1", &place("")))
        .args(["-not", "-uid", "100000"])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&left.stdout), "");
    let acting = reasons(&daemons[0].status(), "volumes", "media");
    assert!(acting.is_empty(), "it has no container of the volume any more: {acting:?}");
    assert_eq!(reasons(&daemons[1].status(), "volumes", "media"), ["OtherNodeActs"]);
    town.nobody_acted_elsewhere();
}
