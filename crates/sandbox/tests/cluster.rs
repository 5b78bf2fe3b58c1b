//! The simulated cluster: what one node does and what the others see of it.

#![expect(clippy::unwrap_used, reason = "a test whose cluster cannot be made ends")]

use std::fs;
use std::time::{Duration, Instant};

use pctd_core::ids::Ctid;
use pctd_core::vmlist::{Members, Vmlist};
use pctd_sandbox::{Cluster, Node, NodeOptions};

const NODES: [&str; 3] = ["pve1", "pve2", "pve3"];
const CONF: &str =
    "arch: amd64\nmemory: 512\nostype: debian\nrootfs: local:100/vm-100-disk-0.raw,size=1G\n";

fn ctid(id: u32) -> Ctid {
    Ctid::new(id).unwrap()
}

fn cluster() -> (tempfile::TempDir, Cluster) {
    let dir = tempfile::tempdir().unwrap();
    let program = Some(env!("CARGO_BIN_EXE_pctd-sandbox").into());
    let options = NodeOptions { program, ..NodeOptions::default() };
    let cluster = Cluster::create(dir.path(), &NODES, &options).unwrap();
    cluster.node("pve1").create_volume("local:100/vm-100-disk-0.raw", 1 << 30).unwrap();
    cluster.node("pve1").write_conf(ctid(100), CONF).unwrap();
    (dir, cluster)
}

fn pve(node: &Node, name: &str) -> Vec<u8> {
    fs::read(node.paths().etc_pve().join(name)).unwrap()
}

fn place(node: &Node) -> Option<String> {
    let vmlist = Vmlist::parse(&pve(node, ".vmlist")).unwrap();
    vmlist.get(ctid(100)).map(|guest| guest.node.clone())
}

fn members(node: &Node) -> (bool, Vec<String>) {
    let members = Members::parse(&pve(node, ".members")).unwrap();
    (members.quorate, members.online.into_iter().collect())
}

#[test]
fn a_change_shows_on_every_node_and_is_counted_by_each_for_itself() {
    let (_dir, cluster) = cluster();
    let counters = || NODES.map(|name| pve(cluster.node(name), ".version"));
    let before = counters();
    assert_ne!(before[0], before[1], "counters of two nodes have nothing to do with each other");
    let set = cluster.node("pve1").pct(["set", "100", "--tags", "x"]).unwrap();
    assert!(set.is_success(), "{}", set.stderr_text());
    for (name, (before, after)) in NODES.iter().zip(before.into_iter().zip(counters())) {
        let conf = String::from_utf8(pve(cluster.node(name), "nodes/pve1/lxc/100.conf")).unwrap();
        assert!(conf.contains("tags: x"), "{name}: {conf}");
        assert_ne!(before, after, "{name}");
    }
}

#[test]
fn an_id_is_one_containers_in_the_whole_cluster() {
    let (_dir, cluster) = cluster();
    let foreign = cluster.node("pve2").pct(["set", "100", "--tags", "x"]).unwrap();
    let text = "Configuration file 'nodes/pve2/lxc/100.conf' does not exist\n";
    assert_eq!(foreign.stderr_text(), text);
    let made = ["create", "100", "local:vztmpl/tiny.tar.gz", "--rootfs", "local:1"];
    let taken = cluster.node("pve2").pct(made).unwrap();
    assert!(taken.stderr_text().contains("already exists on node 'pve1'"), "{taken:?}");
    assert!(cluster.node("pve3").write_conf(ctid(100), CONF).is_err());
}

#[test]
fn a_container_that_migrates_is_on_one_node_whoever_looks() {
    let (_dir, cluster) = cluster();
    cluster.migrate(ctid(100), "pve2", Duration::ZERO).unwrap();
    for node in cluster.nodes().values() {
        assert_eq!(place(node).as_deref(), Some("pve2"));
    }
    assert_eq!(cluster.node("pve2").read_conf(ctid(100)).unwrap().unwrap(), CONF.as_bytes());
    assert!(cluster.node("pve2").start_ct(ctid(100)).unwrap().is_success());
    cluster.migrate(ctid(100), "pve3", Duration::ZERO).unwrap();
    assert!(!cluster.node("pve2").is_running(ctid(100)));
    assert!(cluster.node("pve3").is_running(ctid(100)));
    cluster.node("pve3").stop_ct(ctid(100)).unwrap();
    let nodes: Vec<_> = cluster.places().unwrap().into_iter().map(|place| place.node).collect();
    assert_eq!(nodes, ["pve1", "pve2", "pve3"].map(|name| Some(name.to_owned())));
}

#[test]
fn without_a_quorum_writes_hang_until_it_is_noticed_and_are_refused_then() {
    let (_dir, cluster) = cluster();
    cluster.cut(&["pve1"]).unwrap();
    assert!(members(cluster.node("pve1")).0, "it has not noticed");
    let begun = Instant::now();
    let hung = std::thread::scope(|scope| {
        let hung = scope.spawn(|| cluster.node("pve1").pct(["set", "100", "--tags", "x"]).unwrap());
        std::thread::sleep(Duration::from_millis(80));
        cluster.notice().unwrap();
        hung.join().unwrap()
    });
    assert!(begun.elapsed() >= Duration::from_millis(80));
    assert!(hung.stderr_text().contains("Permission denied"), "{}", hung.stderr_text());
    assert_eq!(members(cluster.node("pve1")), (false, vec!["pve1".to_owned()]));
    let others = ["pve2", "pve3"].map(str::to_owned).to_vec();
    assert_eq!(members(cluster.node("pve2")), (true, others));
    // The others go on, and what they do shows once all reach each other again.
    cluster.move_conf("pve2", ctid(100), "pve3").unwrap();
    assert_eq!(place(cluster.node("pve1")).as_deref(), Some("pve1"));
    cluster.heal().unwrap();
    assert_eq!(place(cluster.node("pve1")).as_deref(), Some("pve3"));
    assert_eq!(members(cluster.node("pve1")).1.len(), 3);
}

#[test]
fn a_file_system_that_was_stopped_catches_up_and_counts_from_one() {
    let (_dir, cluster) = cluster();
    for tag in ["a", "b", "c"] {
        cluster.node("pve1").pct(["set", "100", "--tags", tag]).unwrap();
    }
    cluster.stop_pmxcfs("pve2").unwrap();
    assert!(fs::read_dir(cluster.node("pve2").paths().etc_pve()).unwrap().next().is_none());
    cluster.node("pve1").pct(["set", "100", "--tags", "d"]).unwrap();
    cluster.write_file("pve1", "pctd/config.json", "{}").unwrap();
    cluster.start_pmxcfs("pve2").unwrap();
    let node = cluster.node("pve2");
    assert!(String::from_utf8(pve(node, "nodes/pve1/lxc/100.conf")).unwrap().contains("tags: d"));
    assert_eq!(pve(node, "pctd/config.json"), b"{}");
    assert!(String::from_utf8(pve(node, ".vmlist")).unwrap().contains("\"version\": 1 }"));
}
