//! What fails on the way, and ends by itself.

use super::*;

/// Expects the conversion to be given up with a container that is as it was and runs, and to work
/// when an admin asks for it.
fn is_given_up_and_works_when_asked(world: &World, what: &str) {
    let daemon = world.pctd.start();
    held(&daemon, "ConvertFailed");
    eventually("it runs again", || world.node.is_running(ctid(100)));
    is_whole(world, false);
    let before = commands(world);
    std::thread::sleep(std::time::Duration::from_millis(400));
    assert_eq!(commands(world), before, "{what}: it is not tried again unasked");
    daemon.stop();
    assert!(message(world).contains("`pctd apply 100`"), "{}", message(world));
    assert_eq!(world.node.clear_faults().unwrap(), [], "{what}");
    world.apply(&["100", "data"], 0);
    assert!(world.node.is_running(ctid(100)));
    is_converted(world, true);
}

#[test]
fn a_backup_that_fails_or_is_not_whole_changes_nothing() {
    let fail = FaultKind::Fail { exit: 255, stderr: "storage is gone".into() };
    for what in [
        fail,
        FaultKind::FailsAt { point: Point::Dump },
        FaultKind::FailsAt { point: Point::Truncate },
        FaultKind::FailsAt { point: Point::LeaveOut },
    ] {
        let Some(world) = world(Timings::default(), true) else { return };
        start(&world);
        inject(&world, "vzdump", what.clone(), 1);
        is_given_up_and_works_when_asked(&world, &format!("{what:?}"));
        let commands = commands(&world);
        let begin = ["shutdown", "vzdump", "start", "shutdown", "vzdump", "restore", "start"];
        assert_eq!(commands, begin, "nothing is restored from it");
        assert_eq!(leaked(&world), [""; 0]);
    }
}

#[test]
fn a_backup_with_files_of_an_id_that_the_map_lacks_is_not_restored() {
    let Some(world) = world(Timings::default(), true) else { return };
    let disk = world.node.volume_content("local:100/vm-100-disk-0.raw");
    own(&disk.join("etc/passwd"), 70_000, 0);
    world.apply(&[], 3);
    assert_eq!(commands(&world), ["vzdump"]);
    let message = message(&world);
    assert!(message.contains("./etc/passwd in the backup "), "{message}");
    let names_it = message.contains("/var/lib/vz/dump/vzdump-lxc-100-");
    assert!(names_it && message.contains(" belongs to 70000/0"), "{message}");
}

#[test]
fn a_restore_that_fails_before_it_begins_leaves_the_container_as_it_was() {
    let Some(world) = world(Timings::default(), true) else { return };
    start(&world);
    let fail = FaultKind::Fail { exit: 255, stderr: "storage 'local' is not online".into() };
    inject(&world, "restore", fail, 1);
    is_given_up_and_works_when_asked(&world, "restore");
}

#[test]
fn a_restore_that_loses_the_container_is_taken_back_with_everything_in_it() {
    for point in [Point::Allocate, Point::Extract, Point::Merge] {
        let Some(world) = world(Timings::default(), true) else { return };
        start(&world);
        inject(&world, "restore", FaultKind::FailsAt { point }, 1);
        is_given_up_and_works_when_asked(&world, &format!("{point:?}"));
        // Where the new disks could not be made, nothing names the old ones any more.
        let left = if point == Point::Allocate { 2 } else { 0 };
        assert_eq!(leaked(&world).len(), left, "{:?}", leaked(&world));
    }
}

#[test]
fn a_container_that_cannot_be_taken_back_is_tried_again_and_never_made_anew() {
    let Some(world) = world(Timings::default(), true) else { return };
    declare(&world, true, "", &format!(r#"{CONVERT}, "template": "local:vztmpl/tiny.tar.zst""#));
    start(&world);
    inject(&world, "restore", FaultKind::FailsAt { point: Point::Extract }, 4);
    let daemon = world.pctd.start();
    // While it is nothing but a backup, the status says what to run.
    daemon.until("it says what to run", |status| {
        let error = status["containers"]["100"]["error"].as_str().unwrap_or_default();
        error.contains("`pct restore 100 /var/lib/vz/dump/vzdump-lxc-100-")
    });
    held(&daemon, "ConvertFailed");
    eventually("it runs again", || world.node.is_running(ctid(100)));
    daemon.stop();
    is_whole(&world, false);
    let calls = commands(&world);
    assert!(!calls.contains(&"create".to_owned()), "{calls:?}");
    assert_eq!(calls.iter().filter(|call| *call == "restore").count(), 5, "{calls:?}");
    world.apply(&["100", "data"], 0);
    is_converted(&world, true);
}

#[test]
fn a_start_that_fails_afterwards_is_owed() {
    let Some(world) = world(Timings::default(), true) else { return };
    start(&world);
    let fail = FaultKind::Fail { exit: 255, stderr: "unable to get PID for CT 100".into() };
    inject(&world, "start", fail, 2);
    let daemon = world.pctd.start();
    eventually("it runs again", || is_unprivileged(&world) && world.node.is_running(ctid(100)));
    daemon.until_all("Converged");
    daemon.stop();
    is_converted(&world, true);
}

#[test]
fn a_guest_that_does_not_halt_is_killed_after_restart_timeout() {
    let Some(world) = world(Timings { second_ms: 50, ..Timings::default() }, true) else { return };
    declare(&world, true, r#", "restart_timeout": "2s""#, CONVERT);
    world.node.set_guest(ctid(100), pctd_sandbox::Guest::Deaf).unwrap();
    start(&world);
    world.apply(&[], 0);
    assert_eq!(world.calls()[0], "shutdown 100 --timeout 2 --forceStop 1");
    assert!(world.node.is_running(ctid(100)));
    is_converted(&world, true);
}
