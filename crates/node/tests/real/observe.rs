//! The node as the daemon observes it.

use std::collections::BTreeSet;
use std::fs;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::symlink;
use std::os::unix::net::{SocketAddr, UnixListener};

use pctd_core::ids::Ctid;
use pctd_core::observed::{Cluster, NodeState, Presence, Running};
use pctd_node::{Node, NodeOptions, WalkError, WalkRequest};

use crate::support::{Tree, rule};

const CONF: &str =
    "arch: amd64\nhostname: a\nmemory: 512\nostype: debian\nrootfs: local:100/x.raw\n";

fn node() -> (Tree, Node) {
    let tree = Tree::new();
    let pve = tree.outside("etc/pve");
    fs::create_dir_all(pve.join("nodes/vm/lxc")).unwrap();
    symlink("nodes/vm", pve.join("local")).unwrap();
    fs::write(pve.join(".version"), r#"{"starttime":1,"vmlist":3}"#).unwrap();
    let vmlist = r#"{"version":3,"ids":{"100":{"node":"vm","type":"lxc","version":2},
        "101":{"node":"vm","type":"lxc","version":2},"102":{"node":"b","type":"lxc","version":1}}}"#;
    fs::write(pve.join(".vmlist"), vmlist).unwrap();
    for ctid in [100, 101] {
        fs::write(pve.join(format!("nodes/vm/lxc/{ctid}.conf")), CONF).unwrap();
    }
    let node = Node::open(tree.paths.clone(), NodeOptions::default());
    (tree, node)
}

fn ctid(id: u32) -> Ctid {
    Ctid::new(id).unwrap()
}

#[test]
fn containers_are_observed_with_their_locks_and_sockets() {
    let (_tree, node) = node();
    let paths = node.paths();
    fs::create_dir_all(paths.conf_lock_dir()).unwrap();
    let lock = fs::File::create(paths.conf_lock(ctid(100))).unwrap();
    lock.lock().unwrap();
    let name = SocketAddr::from_abstract_name(paths.command_socket(ctid(101))).unwrap();
    let _socket = UnixListener::bind_addr(&name).unwrap();

    let ctids: BTreeSet<_> = [100, 101, 102, 103].map(ctid).into();
    let observed = node.observe_containers(&ctids);
    assert_eq!(observed.len(), 4);
    let Presence::Here(first) = &observed[&ctid(100)] else { panic!("{observed:?}") };
    assert!(first.flock_held);
    assert_eq!(first.running, Running::No);
    let Presence::Here(second) = &observed[&ctid(101)] else { panic!("{observed:?}") };
    assert!(!second.flock_held);
    assert!(matches!(second.running, Running::Yes { .. }));
    assert!(matches!(&observed[&ctid(102)], Presence::OnNode(name) if name == "b"));
    assert!(matches!(&observed[&ctid(103)], Presence::Absent));
}

#[test]
fn nothing_is_known_of_any_container_while_pmxcfs_is_down() {
    let (_tree, node) = node();
    let up = NodeState::Up(Cluster { node: "vm".into(), quorate: true, online: BTreeSet::new() });
    assert_eq!(node.cluster().0, up);
    fs::remove_dir_all(node.paths().pve()).unwrap();
    fs::create_dir(node.paths().pve()).unwrap();
    let (state, fingerprint) = node.cluster();
    assert!(
        matches!(&state, NodeState::Unknown(reason) if reason.contains(".version")),
        "{state:?}"
    );
    assert_eq!(fingerprint, None);
    let observed = node.observe_containers(&[ctid(100)].into());
    assert!(matches!(&observed[&ctid(100)], Presence::Unknown(_)));
}

#[test]
fn a_walk_is_made_only_on_the_file_system_it_was_planned_for() {
    let (tree, node) = node();
    let rule = rule("0755", "0644");
    let cancel = false.into();
    let volume = &tree.volume;
    let request = WalkRequest {
        file_system: Some("ext4:elsewhere"),
        cancel: &cancel,
        ..WalkRequest::new(volume, &rule)
    };
    let error = node.repair(request).unwrap_err();
    assert!(matches!(error, WalkError::FileSystemChanged { .. }), "{error}");
    assert_eq!(crate::support::ids(tree.at("")), pctd_core::ids::HostIds::ROOT);
    let audit = node.audit(WalkRequest { file_system: None, ..request }).unwrap();
    assert_eq!((audit.entries, audit.changes), (1, 1));
    cancel.store(true, std::sync::atomic::Ordering::Relaxed);
    let error = node.audit(WalkRequest { file_system: None, ..request }).unwrap_err();
    assert!(matches!(error, WalkError::Cancelled), "{error}");
}
