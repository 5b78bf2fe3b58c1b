//! pmxcfs stops, is killed, and comes back.

use super::*;

use pctd_sandbox::{Fault, FaultKind};
use rustix::process::Signal;

/// A container that would be made if it were believed that there is none of that number.
const DEFINED: &str = r#""201": {"node": "pve", "template": "local:vztmpl/tiny.tar.zst"}"#;

type Change = fn(&World);

/// Goes through one outage: nothing is known, nothing done, nobody spins, and then all of what was
/// declared meanwhile comes about.
fn survives(begin: Change, end: Change) {
    let Some(served) = Served::new() else { return };
    let world = &served.world;
    let daemon = served.converged(UNHURRIED);
    let calls = world.calls().len();
    begin(world);
    until_unknown(&daemon);
    does_not_spin(&daemon);
    served.declare(UNHURRIED, r#""100": "/data", "201": "/data""#, DEFINED);
    let new = |status: &Value| !status["containers"]["201"].is_null();
    daemon.until("the new configuration is in force", new);
    daemon.signal(Signal::HUP);
    assert_eq!(beliefs(&daemon, Duration::from_millis(500)), BTreeSet::from(["Unknown".into()]));
    let plan = world.pctd.run(&["plan"]);
    assert!(plan.code == 3 && plan.stdout.contains("NodeUnknown"), "{plan:?}");
    assert_eq!(world.calls().len(), calls, "{:?}", world.calls());
    end(world);
    daemon.until_all("Converged");
    let made = world.calls()[calls..].iter().filter(|call| call.starts_with("create")).count();
    assert_eq!(made, 1, "{:?}", world.calls());
    assert!(served.is_mounted() && world.conf(201).contains("mp=/data"));
    an_edit_is_seen_at_once(&served, &daemon);
    daemon.stop();
}

#[test]
fn while_it_is_stopped_nothing_is_known_or_done_and_then_everything() {
    survives(|world| world.node.stop_pmxcfs().unwrap(), |world| world.node.start_pmxcfs().unwrap());
}

#[test]
fn while_it_is_dead_nothing_is_known_or_done_and_then_everything() {
    survives(|world| world.node.kill_pmxcfs().unwrap(), |world| world.node.start_pmxcfs().unwrap());
}

#[test]
fn dead_and_unmounted_it_is_no_empty_cluster_either() {
    let begin: Change = |world| {
        world.node.kill_pmxcfs().unwrap();
        world.node.unmount_pmxcfs().unwrap();
    };
    survives(begin, |world| world.node.start_pmxcfs().unwrap());
}

#[test]
fn while_it_answers_with_errors_nothing_is_known_or_done_and_then_everything() {
    survives(
        |world| world.node.fail_pmxcfs(true).unwrap(),
        |world| world.node.fail_pmxcfs(false).unwrap(),
    );
}

#[test]
fn a_restart_between_two_polls_leaves_no_dead_watch() {
    let Some(served) = Served::new() else { return };
    let daemon = served.converged(UNHURRIED);
    for _ in 0..3 {
        let log = Log::from_now(&daemon);
        served.world.node.stop_pmxcfs().unwrap();
        served.world.node.start_pmxcfs().unwrap();
        eventually("noticed", || log.has("watching"));
        daemon.until_all("Converged");
        an_edit_is_seen_at_once(&served, &daemon);
    }
    daemon.stop();
}

#[test]
fn a_daemon_that_starts_before_it_waits_and_then_converges() {
    let Some(served) = Served::new() else { return };
    served.world.node.stop_pmxcfs().unwrap();
    served.declare(UNHURRIED, r#""100": "/data""#, "");
    let daemon = served.world.pctd.start();
    until_unknown(&daemon);
    does_not_spin(&daemon);
    assert!(served.world.calls().is_empty());
    served.world.node.start_pmxcfs().unwrap();
    daemon.until_all("Converged");
    an_edit_is_seen_at_once(&served, &daemon);
    daemon.stop();
}

#[test]
fn a_call_that_meets_the_stop_fails_and_is_made_again_afterwards() {
    let Some(served) = Served::new() else { return };
    let world = &served.world;
    let hang = FaultKind::Hang { millis: 300, holding_flock: false };
    world.node.inject(Fault::next(hang).on("set")).unwrap();
    served.declare(HURRIED, r#""100": "/data""#, "");
    let daemon = world.pctd.start();
    eventually("pct runs", || world.calls().len() == 1);
    world.node.stop_pmxcfs().unwrap();
    until_unknown(&daemon);
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(world.calls().len(), 1);
    world.node.start_pmxcfs().unwrap();
    daemon.until_all("Converged");
    assert!(served.is_mounted());
    daemon.stop();
}
