//! Calls that are cut off: by a kill of pctd or of pct, a stop, a failure, somebody who was faster.

use super::*;

#[test]
fn a_daemon_killed_while_a_container_is_created_leaves_one_container() {
    for phase in 0..3 {
        let Some(world) = World::with_timings(PROGRAM, slow()) else { return };
        define(&world, "", &format!(r#""100": {{"template": "{TEMPLATE}", "swap_mb": 0}}"#));
        let daemon = world.pctd.start();
        at_work(&world, "create");
        match phase {
            0 => {}
            1 => drop(eventually("it is reserved", || world.conf(100).contains("lock: create"))),
            _ => drop(eventually("it is nearly complete", || world.conf(100).contains("rootfs"))),
        }
        kill(daemon);
        let daemon = world.pctd.start();
        daemon.until_all("Converged");
        daemon.stop();
        assert_eq!(commands(&world), ["create", "set"], "phase {phase}");
        assert_eq!(property(&world, 100, "swap").as_deref(), Some("0"), "phase {phase}");
        assert_eq!(world.node.volumes().unwrap(), ["local:100/vm-100-disk-0.raw"]);
    }
}

#[test]
fn a_daemon_killed_while_a_container_is_cloned_finishes_it_before_guests_start() {
    let hang = |millis| FaultKind::Hang { millis, holding_flock: false };
    // Before the clone begins, while it copies, and before it is configured.
    for phase in 0..3 {
        let Some(world) = clone_world(slow()) else { return };
        if phase == 0 {
            world.node.inject(Fault::next(hang(300)).on("clone")).unwrap();
        }
        if phase == 2 {
            world
                .node
                .inject(
                    Fault::next(FaultKind::Hang { millis: 60_000, holding_flock: false }).on("set"),
                )
                .unwrap();
        }
        let daemon = world.pctd.start();
        let pct = at_work(&world, if phase == 2 { "set" } else { "clone" });
        if phase == 1 {
            eventually("it copies", || world.conf(901).contains("lock: create"));
        }
        kill(daemon);
        if phase == 2 {
            world.signal_pct(pct, Signal::KILL);
            assert!(net0(&world, 901).contains(&"ip=10.0.0.100/24".to_owned()));
            assert_eq!(property(&world, 901, "onboot").as_deref(), Some("1"));
        }
        // Ready is when systemd starts the guests of the node.
        let daemon = world.pctd.start();
        if phase == 2 {
            assert!(net0(&world, 901).contains(&"ip=10.0.0.5/24".to_owned()), "{}", daemon.log());
        }
        daemon.until_all("Converged");
        daemon.stop();
        is_a_clone_of_its_own(&world);
        assert_eq!(commands(&world).iter().filter(|c| *c == "clone").count(), 1, "phase {phase}");
    }
}

#[test]
fn a_clone_whose_configuration_fails_is_configured_as_soon_as_that_works() {
    let Some(world) = clone_world(Timings::default()) else { return };
    let fail = FaultKind::Fail { exit: 255, stderr: "something went wrong".into() };
    world.node.inject(Fault::next(fail).on("set").times(3)).unwrap();
    let daemon = world.pctd.start();
    daemon.until_all("Converged");
    daemon.stop();
    is_a_clone_of_its_own(&world);
    assert_eq!(commands(&world), ["clone", "set", "set", "set", "set"]);
}

#[test]
fn a_pct_that_is_killed_leaves_a_container_that_is_reported_and_made_again_once_cleaned_up() {
    for (command, clone) in [("create", false), ("clone", true)] {
        let Some(world) = clone_world(endless(true)) else { return };
        let id = if clone { 901 } else { 100 };
        if !clone {
            define(&world, "", &format!(r#""100": {{"template": "{TEMPLATE}"}}"#));
        }
        let daemon = world.pctd.start();
        let pct = at_work(&world, command);
        eventually("it is reserved", || world.conf(id).contains("lock: create"));
        hurry(&world);
        world.signal_pct(pct, Signal::KILL);
        held(&daemon, &id.to_string(), "CreateInterrupted");
        let message = message(&world, &id.to_string());
        assert!(
            message.contains(&format!("`pct unlock {id}`, then `pct destroy {id}`")),
            "{message}"
        );
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(commands(&world), [command], "it is left to an admin");
        world.pct(&["unlock", &id.to_string()]);
        world.pct(&["destroy", &id.to_string()]);
        if clone {
            assert!(message.contains("also `pct unlock 900`"), "{message}");
            held(&daemon, "901", "CloneSourceNotReady");
            world.pct(&["unlock", "900"]);
        }
        daemon.until_all("Converged");
        daemon.stop();
        if clone {
            is_a_clone_of_its_own(&world);
        }
        assert_eq!(commands(&world)[..2], [command, command]);
    }
}

#[test]
fn a_creation_that_is_cut_off_after_its_conf_was_written_is_not_taken_for_whole() {
    let Some(world) = World::with_timings(PROGRAM, endless(false)) else { return };
    define(&world, "", &format!(r#""100": {{"template": "{TEMPLATE}", "memory_mb": 256}}"#));
    let daemon = world.pctd.start();
    let pct = at_work(&world, "create");
    eventually("it looks complete", || {
        world.conf(100).contains("rootfs") && !world.conf(100).contains("lock:")
    });
    hurry(&world);
    world.signal_pct(pct, Signal::KILL);
    held(&daemon, "100", "CreateInterrupted");
    world.pct(&["destroy", "100"]);
    eventually("it is made again", || commands(&world).len() > 1);
    daemon.until_all("Converged");
    assert_eq!(commands(&world), ["create", "create"]);
}

#[test]
fn a_pct_that_is_terminated_cleans_up_and_the_container_is_made_again() {
    let Some(world) = clone_world(endless(true)) else { return };
    let daemon = world.pctd.start();
    let pct = at_work(&world, "clone");
    eventually("it copies", || world.conf(901).contains("lock: create"));
    hurry(&world);
    world.signal_pct(pct, Signal::TERM);
    daemon.until_all("Converged");
    daemon.stop();
    is_a_clone_of_its_own(&world);
    assert_eq!(commands(&world), ["clone", "clone", "set"]);
}

#[test]
fn a_stop_does_not_wait_for_a_long_clone_and_leaves_nothing_of_it() {
    let timings = Timings { clone_copy_ms: 60_000, ..Timings::default() };
    let Some(world) = clone_world(timings) else { return };
    let daemon = world.pctd.start();
    at_work(&world, "clone");
    eventually("it copies", || world.conf(901).contains("lock: create"));
    let begun = Instant::now();
    daemon.stop();
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(world.conf(901), "");
    assert_eq!(property(&world, 900, "lock"), None);
    world.node.update_settings(|settings| settings.timings.clone_copy_ms = 0).unwrap();
    world.apply(&[], 0);
    is_a_clone_of_its_own(&world);
}

#[test]
fn a_container_that_somebody_else_makes_at_the_same_moment_stays_theirs() {
    let Some(world) = clone_world(Timings::default()) else { return };
    let hang = FaultKind::Hang { millis: 300, holding_flock: false };
    world.node.inject(Fault::next(hang).on("clone")).unwrap();
    let daemon = world.pctd.start();
    at_work(&world, "clone");
    let theirs = "name=eth0,bridge=vmbr0,hwaddr=BC:24:11:00:00:09,ip=10.0.0.77/24,type=veth";
    world.pct(&["create", "901", TEMPLATE, "--net0", theirs]);
    daemon.until_all("Converged");
    assert!(net0(&world, 901).contains(&"ip=10.0.0.77/24".to_owned()));
    assert_eq!(commands(&world), ["clone"]);
}
