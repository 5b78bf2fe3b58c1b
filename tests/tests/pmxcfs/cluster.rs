//! The cluster around the node: no quorum, edits and moves on other nodes, files that are too
//! large, and confs that cannot be opened for a moment.

use super::*;

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use pctd_sandbox::{Fault, FaultKind};
use pctd_tests::world::{conf, ctid, holds};

#[test]
fn without_a_quorum_confs_wait_and_owners_do_not() {
    let Some(served) = Served::new() else { return };
    let world = &served.world;
    let daemon = served.converged(UNHURRIED);
    served.unmount();
    eventually("the mount is back", || served.is_mounted());
    daemon.until_all("Converged");
    let calls = world.calls().len();
    world.node.set_quorum(false).unwrap();
    // The edit came before; that it is put right has to wait.
    served.declare(UNHURRIED, r#""100": "/elsewhere""#, "");
    world.file("/tank/data/new", 0, 0o644);
    daemon.until("held", |status| holds(status, "containers", "100").contains(&"NoQuorum".into()));
    eventually("the owner is right", || world.owner("/tank/data/new") == "100000:100000 0644");
    does_not_spin(&daemon);
    assert_eq!(world.calls().len(), calls);
    assert_eq!(beliefs(&daemon, Duration::from_millis(200)), BTreeSet::from(["True".into()]));
    world.node.set_quorum(true).unwrap();
    // Attributes are good for a second, and the poll comes every second; a hold would take 15.
    let took = daemon.until_all("Converged");
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert!(world.conf(100).contains("mp=/elsewhere"));
    daemon.stop();
}

#[test]
fn a_call_that_loses_the_quorum_on_its_way_changes_nothing_and_is_made_again() {
    let Some(served) = Served::new() else { return };
    let world = &served.world;
    let before = world.conf(100);
    let hang = FaultKind::Hang { millis: 200, holding_flock: true };
    world.node.inject(Fault::next(hang).on("set")).unwrap();
    served.declare(HURRIED, r#""100": "/data""#, "");
    let daemon = world.pctd.start();
    eventually("pct runs", || world.calls().len() == 1);
    world.node.set_quorum(false).unwrap();
    daemon.until("held", |status| holds(status, "containers", "100").contains(&"NoQuorum".into()));
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!((world.calls().len(), world.conf(100)), (1, before));
    world.node.set_quorum(true).unwrap();
    daemon.until_all("Converged");
    assert!(served.is_mounted());
    daemon.stop();
}

#[test]
fn an_edit_on_another_node_raises_no_event_and_the_poll_finds_it() {
    let Some(served) = Served::new() else { return };
    let world = &served.world;
    let daemon = served.converged(UNHURRIED);
    until_quiet(&daemon);
    let log = Log::from_now(&daemon);
    let calls = world.calls().len();
    world.node.peer_write(CONF, conf(100, &[UNPRIVILEGED, "tags: far"])).unwrap();
    eventually("the mount is back", || served.is_mounted());
    assert!(world.conf(100).contains("tags: far"), "{}", world.conf(100));
    let seen = &daemon.log()[log.from..];
    let (poll, watch) = (seen.find("news=Vmlist"), seen.find("news=Conf"));
    // The watch sees pctd's own `pct` at most.
    assert!(poll.is_some() && (watch.is_none() || poll < watch), "{seen}");
    assert_eq!(world.calls().len(), calls + 1);
    daemon.stop();
}

#[test]
fn a_container_that_moves_away_and_back_is_left_alone_there_and_served_here() {
    let Some(served) = Served::new() else { return };
    let world = &served.world;
    let daemon = served.converged(UNHURRIED);
    let far = "nodes/far/lxc/100.conf";
    world.node.peer_rename(CONF, far).unwrap();
    daemon.until("on another node", |status| {
        status["containers"]["100"]["conditions"]["Defined"]["reason"] == "OnOtherNode"
    });
    let calls = world.calls().len();
    world.node.peer_write(far, conf(100, &[UNPRIVILEGED])).unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(world.calls().len(), calls, "it is the other node's");
    world.node.peer_rename(far, CONF).unwrap();
    daemon.until_all("Converged");
    eventually("served again", || served.is_mounted());
    daemon.stop();
}

#[test]
fn a_conf_without_room_for_a_line_stays_whole_and_keeps_nobody_waiting() {
    let Some(served) = Served::new() else { return };
    let world = &served.world;
    let daemon = served.converged(HURRIED);
    // As large as a file may be: the next line does not fit.
    let mut large = conf(100, &[UNPRIVILEGED]);
    let comment = (1 << 20) - large.len() - "#\n".len();
    large.insert_str(0, &format!("#{}\n", "x".repeat(comment)));
    world.node.write_conf(ctid(100), &large).unwrap();
    daemon.until("it cannot be written", |status| status["containers"]["100"]["state"] == "Failed");
    assert_eq!(world.conf(100), large);
    let names = fs::read_dir(world.host("/etc/pve/lxc")).unwrap();
    let names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
    assert!(names.iter().any(|name| name == "100.conf") && names.len() <= 2, "{names:?}");
    world.file("/tank/data/new", 0, 0o644);
    eventually("the owner is right", || world.owner("/tank/data/new") == "100000:100000 0644");
    served.unmount();
    daemon.until_all("Converged");
    assert!(served.is_mounted());
    daemon.stop();
}

#[test]
fn a_conf_that_cannot_be_opened_for_a_moment_is_not_gone() {
    let Some(served) = Served::new() else { return };
    let world = &served.world;
    served.declare(
        HURRIED,
        r#""100": "/data""#,
        r#""100": {"template": "local:vztmpl/tiny.tar.zst"}"#,
    );
    let daemon = world.pctd.start();
    daemon.until_all("Converged");
    let (calls, world_conf) = (world.calls().len(), world.conf(100));
    world.node.hide_from_open(Some(CONF)).unwrap();
    // The list says that it is there, and that there is something to be looked at.
    world.node.peer_write(CONF, world_conf).unwrap();
    until_unknown(&daemon);
    assert_eq!(beliefs(&daemon, Duration::from_millis(300)), BTreeSet::from(["Unknown".into()]));
    world.node.hide_from_open(None).unwrap();
    daemon.until_all("Converged");
    assert_eq!(world.calls().len(), calls);

    // A writer that renames over it as fast as it can.
    let (text, stop) = (world.conf(100), AtomicBool::new(false));
    let seen = std::thread::scope(|scope| {
        let storm = scope.spawn(|| {
            let mut renames = 0;
            while !stop.load(Ordering::Relaxed) {
                world.node.write_conf(ctid(100), &text).unwrap();
                renames += 1;
            }
            renames
        });
        let seen = beliefs(&daemon, Duration::from_secs(1));
        stop.store(true, Ordering::Relaxed);
        println!("{} renames", storm.join().unwrap());
        seen
    });
    assert!(!seen.contains("False"), "{seen:?}");
    daemon.until_all("Converged");
    assert_eq!(world.calls().len(), calls);
    daemon.stop();
}
