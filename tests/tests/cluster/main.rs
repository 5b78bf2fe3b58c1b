//! Clusters: one configuration for all nodes, and each daemon acts on what is on its node.
//!
//! No daemon here hears of what happens in `/etc/pve`, as none would of another node's writes.

#![expect(clippy::unwrap_used, reason = "what fails in a helper ends the test")]

use std::fs;
use std::time::{Duration, Instant};

use pctd_sandbox::{Fault, FaultKind};
use pctd_tests::daemon::{Daemon, eventually, states};
use pctd_tests::statistics::counted;
use pctd_tests::town::{STORAGE, Town};
use pctd_tests::world::{UNPRIVILEGED, ctid, holds};
use rustix::process::Signal;
use serde_json::Value;

mod random;
mod storage;

const PROGRAM: &str = env!("CARGO_BIN_EXE_pctd-tests");

/// Container 100 of the default map, in a volume that each node has for itself.
const DATA: &str = r#""data": {"host_path": "/tank/data", "owner": "container_root",
    "mounts": {"100": "/data"}}"#;

const MOUNTED: &str = "mp0: /tank/data,mp=/data";

/// Two nodes, of which the first has container 100 and has mounted its volume.
fn two_nodes() -> Option<(Town, Daemon, Daemon)> {
    let town = Town::new(PROGRAM, &["pve1", "pve2"])?;
    town.container("pve1", 100, &[UNPRIVILEGED]);
    town.volumes("pve1", "", DATA);
    let (first, second) = (town.daemon("pve1"), town.daemon("pve2"));
    first.until_all("Converged");
    second.until_all("Converged");
    assert_eq!(town.mounts("pve2", 100), [MOUNTED]);
    Some((town, first, second))
}

fn is_here(status: &Value, id: &str) -> bool {
    status["containers"][id]["conditions"]["Defined"]["reason"] == "Here"
}

fn reasons(status: &Value, section: &str, key: &str) -> Vec<String> {
    let notices = status[section][key]["notices"].as_array().cloned().unwrap_or_default();
    notices.iter().map(|notice| notice["reason"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_container_that_migrates_is_taken_over_within_a_poll() {
    let Some((town, first, second)) = two_nodes() else { return };
    let slow = r#""poll_interval": "400ms""#;
    let text = format!(
        r#"{{"settings": {{"seed_defaults": false, {slow}}}, "shared_volumes": {{{DATA}}}}}"#
    );
    town.cluster.write_file("pve2", "pctd/config.json", &text).unwrap();
    for daemon in [&first, &second] {
        daemon.until("the other settings", |status| status["config"]["generation"] == 2);
    }
    assert_eq!(town.owner("pve2", "/tank/data"), None, "nobody there needs it yet");
    town.cluster.migrate(ctid(100), "pve2", Duration::from_millis(50)).unwrap();
    let took =
        eventually("its directory is there", || town.owner("pve2", "/tank/data") == Some(100_000));
    assert!(took < Duration::from_millis(400) + Duration::from_secs(1), "{took:?}");
    second.until("it is here", |status| is_here(status, "100"));
    first.until("it is not", |status| !is_here(status, "100"));
    // What goes wrong is put right where it is, and only there.
    let calls = town.calls("pve1").len();
    town.pct("pve2", &["set", "100", "--delete", "mp0"]);
    eventually("it is mounted again", || town.mounts("pve1", 100) == [MOUNTED]);
    assert_eq!(town.calls("pve1").len(), calls);
    // And back: it is neither gone nor new.
    town.cluster.migrate(ctid(100), "pve1", Duration::ZERO).unwrap();
    first.until("it is back", |status| is_here(status, "100"));
    first.until_all("Converged");
    second.until_all("Converged");
    assert_eq!(town.calls("pve1").len(), calls, "it is as it was");
    town.nobody_acted_elsewhere();
}

#[test]
fn what_another_nodes_pctd_mounted_is_not_removed_and_is_known_again_when_it_is_back() {
    let Some((town, first, second)) = two_nodes() else { return };
    town.cluster.migrate(ctid(100), "pve2", Duration::ZERO).unwrap();
    second.until("it is here", |status| is_here(status, "100"));
    // Another directory at the same place: whose the old one is, its new node cannot know.
    let other = DATA.replace("/tank/data", "/tank/other");
    town.volumes("pve1", r#""prune": true, "resync_interval": "100ms""#, &other);
    second.until("it is somebody else's", |status| {
        holds(status, "containers", "100") == ["ForeignMount"]
    });
    town.volumes("pve1", r#""prune": true, "resync_interval": "100ms""#, "");
    // Long enough for the removal that must not be.
    std::thread::sleep(Duration::from_millis(400));
    assert_eq!(town.mounts("pve2", 100), [MOUNTED]);
    town.cluster.migrate(ctid(100), "pve1", Duration::ZERO).unwrap();
    eventually("who made it takes it away", || town.mounts("pve1", 100).is_empty());
    town.nobody_acted_elsewhere();
    drop((first, second));
}

#[test]
fn a_container_that_leaves_while_pct_is_at_work_gets_its_mount_once() {
    let Some(town) = Town::new(PROGRAM, &["pve1", "pve2"]) else { return };
    town.container("pve1", 100, &[UNPRIVILEGED]);
    town.volumes("pve1", "", DATA);
    let slow = FaultKind::Hang { millis: 300, holding_flock: false };
    town.node("pve1").inject(Fault::next(slow).on("set")).unwrap();
    let (first, second) = (town.daemon("pve1"), town.daemon("pve2"));
    eventually("pct is at work", || town.calls("pve1").len() == 1);
    town.cluster.migrate(ctid(100), "pve2", Duration::ZERO).unwrap();
    eventually("it is mounted", || town.mounts("pve1", 100) == [MOUNTED]);
    for daemon in [&first, &second] {
        daemon.until_all("Converged");
    }
    assert_eq!(town.mounts("pve2", 100), [MOUNTED]);
    let ended = town.calls("pve1");
    assert!(ended.len() == 1 && ended[0].exit != Some(0), "{ended:?}");
    assert_eq!(town.calls("pve2").len(), 1);
    town.nobody_acted_elsewhere();
}

#[test]
fn without_a_quorum_ownership_goes_on_and_confs_wait() {
    let names = ["pve1", "pve2", "pve3"];
    let Some(town) = Town::new(PROGRAM, &names) else { return };
    town.container("pve1", 100, &[UNPRIVILEGED]);
    let shared = format!(
        r#"{DATA}, "nas": {{"host_path": "{STORAGE}/x", "owner": "container_root", "shared": true,
        "mounts": {{"100": "/nas"}}}}"#
    );
    town.volumes("pve1", "", &shared);
    let daemon = town.daemon("pve1");
    daemon.until_all("Converged");
    town.cluster.cut(&["pve1"]).unwrap();
    // The node has not noticed, and writes hang. Its own files can still be edited.
    let more = r#"{"shared_volumes": {"more": {"host_path": "/tank/more", "owner": "container_root",
        "mounts": {"100": "/more"}}}}"#;
    fs::create_dir_all(town.host("pve1", "/etc/pctd/conf.d")).unwrap();
    fs::write(town.host("pve1", "/etc/pctd/conf.d/more.json"), more).unwrap();
    let calls = town.calls("pve1").len();
    eventually("pct hangs", || town.calls("pve1").len() > calls);
    let file = town.file("pve1", "/tank/data/late", 0);
    eventually("ownership goes on", || town.owner("pve1", "/tank/data/late") == Some(100_000));
    assert!(town.calls("pve1").last().unwrap().ended.is_none(), "it still hangs");
    town.cluster.notice().unwrap();
    let told = |status: &Value| {
        holds(status, "containers", "100") == ["NoQuorum"]
            && holds(status, "volumes", "nas") == ["NoQuorum"]
            && status["volumes"]["data"]["state"] == "Converged"
    };
    daemon.until("it is told", told);
    fs::remove_file(file).unwrap();
    town.file("pve1", "/tank/data/later", 0);
    eventually("ownership goes on", || town.owner("pve1", "/tank/data/later") == Some(100_000));
    town.file("pve1", &format!("{STORAGE}/x/wrong"), 0);
    std::thread::sleep(Duration::from_millis(300));
    let wrong = town.owner("pve1", &format!("{STORAGE}/x/wrong"));
    assert_eq!(wrong, Some(0), "what all see may be another node's by now");
    town.cluster.heal().unwrap();
    daemon.until_all("Converged");
    let more = "mp2: /tank/more,mp=/more".to_owned();
    assert!(town.mounts("pve2", 100).contains(&more), "{:?}", town.mounts("pve2", 100));
    eventually("and what was left alone is put right", || {
        town.owner("pve1", &format!("{STORAGE}/x/wrong")) == Some(100_000)
    });
    town.nobody_acted_elsewhere();
}

#[test]
fn while_the_cluster_file_system_is_down_nothing_is_known_and_nothing_forgotten() {
    let Some((town, first, second)) = two_nodes() else { return };
    town.cluster.stop_pmxcfs("pve1").unwrap();
    first.until("nothing is known", |status| holds(status, "containers", "100") == ["NodeUnknown"]);
    let invalid = |status: &Value| status["config"]["valid"] == false;
    first.until("the configuration cannot be read", invalid);
    let status = first.status();
    assert_eq!(status["config"]["generation"], 1, "the last good one stays: {status:#}");
    assert!(!status["volumes"]["data"].is_null());
    // A file of the node's own is not all there is, as long as the link leads nowhere.
    fs::create_dir_all(town.host("pve1", "/etc/pctd/conf.d")).unwrap();
    fs::write(town.host("pve1", "/etc/pctd/conf.d/own.json"), "{}").unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert!(!first.status()["volumes"]["data"].is_null());
    // Meanwhile the other node edits the configuration and moves the container.
    let more = r#", "more": {"host_path": "/tank/more", "owner": "container_root",
        "mounts": {"100": "/more"}}"#;
    town.volumes("pve2", "", &format!("{DATA}{more}"));
    second.until("the edit is in force", |status| status["config"]["generation"] == 2);
    town.cluster.move_conf("pve2", ctid(100), "pve2").unwrap();
    eventually("it is mounted there", || town.mounts("pve2", 100).len() == 2);
    let calls = town.calls("pve1").len();
    town.cluster.start_pmxcfs("pve1").unwrap();
    first.until("all is known again", |status| {
        status["config"]["valid"] == true
            && status["config"]["generation"] == 2
            && states(status).all(|(_, state)| state == "Converged")
    });
    // Its counters began anew: what changes now is seen all the same.
    town.cluster.migrate(ctid(100), "pve1", Duration::ZERO).unwrap();
    first.until("it is here", |status| is_here(status, "100"));
    town.pct("pve1", &["set", "100", "--delete", "mp1"]);
    eventually("it is mounted again", || town.mounts("pve2", 100).len() == 2);
    assert_eq!(town.calls("pve1").len(), calls + 1);
    town.nobody_acted_elsewhere();
}

#[test]
fn an_edit_of_the_configuration_on_one_node_is_in_force_on_all() {
    let Some((town, first, second)) = two_nodes() else { return };
    let edit =
        |mode: &str| DATA.replace(r#""owner""#, &format!(r#""dir_mode": "{mode}", "owner""#));
    town.volumes("pve1", "", &edit("0750"));
    for daemon in [&first, &second] {
        daemon.until("it is in force", |status| status["config"]["generation"] == 2);
        daemon.until_all("Converged");
    }
    // A slip on one node is refused on all, and says so.
    town.cluster.write_file("pve2", "pctd/config.json", "{").unwrap();
    for daemon in [&first, &second] {
        daemon.until("it is refused", |status| status["config"]["valid"] == false);
        assert!(daemon.log().contains("the last good one stays in force"));
    }
    town.volumes("pve2", "", &edit("0700"));
    for daemon in [&first, &second] {
        daemon.until("it is in force", |status| status["config"]["generation"] == 3);
    }
}

#[test]
fn a_defined_container_that_another_node_makes_first_is_not_made_twice() {
    let Some(town) = Town::new(PROGRAM, &["pve1", "pve2"]) else { return };
    let text = r#"{"settings": {"seed_defaults": false, "poll_interval": "50ms", "retry_initial": "20ms",
        "hold_interval": "100ms"}, "lxc_configs": {"120": {"name": "web", "node": "pve1",
        "template": "local:vztmpl/tiny.tar.zst", "storage_pool": "local", "storage_size_gb": 1}}}"#;
    town.cluster.write_file("pve2", "pctd/config.json", text).unwrap();
    let slow = FaultKind::Hang { millis: 300, holding_flock: false };
    town.node("pve1").inject(Fault::next(slow).on("create")).unwrap();
    let (first, second) = (town.daemon("pve1"), town.daemon("pve2"));
    eventually("it is being made", || town.calls("pve1").len() == 1);
    town.pct(
        "pve2",
        &[
            "create",
            "120",
            "local:vztmpl/tiny.tar.zst",
            "--rootfs",
            "local:1",
            "--hostname",
            "theirs",
        ],
    );
    eventually("the other ends", || town.calls("pve1")[0].ended.is_some());
    for daemon in [&first, &second] {
        daemon.until_all("Converged");
    }
    assert!(town.conf("pve1", 120).contains("hostname: theirs"));
    assert!(!town.host("pve1", "/etc/pve/nodes/pve1/lxc/120.conf").exists());
    assert_eq!((town.calls("pve1").len(), town.calls("pve2").len()), (1, 0));
    // Destroyed where it is, it was there: nobody makes it unasked.
    town.pct("pve2", &["destroy", "120"]);
    first.until("it is gone", |status| holds(status, "containers", "120") == ["Gone"]);
    assert_eq!(town.calls("pve1").len(), 1);
}

#[test]
fn a_volume_exists_on_the_nodes_it_names() {
    let Some(town) = Town::new(PROGRAM, &["pve1", "pve2"]) else { return };
    town.container("pve1", 100, &[UNPRIVILEGED]);
    let volume = |name: &str, node: &str, owner: u32| {
        format!(
            r#""{name}": {{"host_path": "/tank/{name}", "owner": "container:{owner}", "nodes": ["{node}"],
            "mounts": {{"100": {{"path": "/data", "adopt": true}}}}}}"#
        )
    };
    town.volumes("pve1", "", &[volume("a", "pve1", 1), volume("b", "pve2", 2)].join(","));
    let (first, second) = (town.daemon("pve1"), town.daemon("pve2"));
    eventually("it mounts the one", || town.mounts("pve1", 100) == ["mp0: /tank/a,mp=/data"]);
    first.until_all("Converged");
    assert_eq!(town.owner("pve1", "/tank/a"), Some(100_001));
    assert_eq!(town.owner("pve1", "/tank/b"), None);
    assert_eq!(reasons(&first.status(), "volumes", "b"), ["OfOtherNodes"]);
    town.cluster.migrate(ctid(100), "pve2", Duration::ZERO).unwrap();
    eventually("and there the other", || town.mounts("pve1", 100) == ["mp0: /tank/b,mp=/data"]);
    second.until_all("Converged");
    assert_eq!(town.owner("pve2", "/tank/b"), Some(100_002));
    assert_eq!(town.owner("pve2", "/tank/a"), None);
    town.nobody_acted_elsewhere();
}
