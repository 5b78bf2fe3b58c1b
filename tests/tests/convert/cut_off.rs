//! What is cut off: by a kill of pctd at each phase, of `pct` and of `vzdump`, by a stop.

use super::*;

fn slow() -> Timings {
    Timings {
        vzdump_ms: 300,
        restore_disks_ms: 300,
        restore_extract_ms: 300,
        stop_ms: 300,
        ..Timings::default()
    }
}

/// Waits until the conversion is in this phase.
fn phase(world: &World, phase: usize) {
    let conf = || world.conf(100);
    match phase {
        0 => drop(at_work(world, "shutdown")),
        1 => {
            at_work(world, "vzdump");
            eventually("it is backed up", || conf().contains("lock: backup"));
        }
        2 => {
            at_work(world, "restore");
            eventually("it is locked and whole", || {
                conf().contains("lock: create") && conf().contains("rootfs")
            });
        }
        3 => {
            at_work(world, "restore");
            eventually("its disks are gone", || conf() == "lock: create\n");
        }
        _ => {
            at_work(world, "start");
        }
    }
}

#[test]
fn a_daemon_killed_at_any_phase_goes_on_when_it_is_back() {
    for at in 0..5 {
        let Some(world) = world(slow(), true) else { return };
        start(&world);
        if at == 4 {
            let hang = FaultKind::Hang { millis: 300, holding_flock: true };
            inject(&world, "start", hang, 1);
        }
        let daemon = world.pctd.start();
        phase(&world, at);
        kill(daemon);
        let daemon = world.pctd.start();
        eventually("it is converted and runs", || {
            is_unprivileged(&world) && world.node.is_running(ctid(100))
        });
        daemon.until_all("Converged");
        daemon.stop();
        is_converted(&world, true);
        let commands = commands(&world);
        let count = |name: &str| commands.iter().filter(|command| *command == name).count();
        assert_eq!(count("restore"), 1, "phase {at}: {commands:?}");
        assert_eq!(leaked(&world), [""; 0], "phase {at}");
    }
}

#[test]
fn a_daemon_and_its_program_killed_at_once_lose_nothing() {
    for at in 1..4 {
        let Some(world) = world(slow(), true) else { return };
        start(&world);
        let daemon = world.pctd.start();
        phase(&world, at);
        let program = at_work(&world, if at == 1 { "vzdump" } else { "restore" });
        daemon.signal(Signal::STOP);
        kill_process(program, Signal::KILL).unwrap();
        kill(daemon);
        let daemon = world.pctd.start();
        held(&daemon, if at == 1 { "Locked" } else { "ConvertInterrupted" });
        assert!(message(&world).contains("`pct unlock 100`"), "{}", message(&world));
        world.pct(&["unlock", "100"]);
        if at == 2 {
            asked(&world);
        }
        eventually("it is converted and runs", || {
            is_unprivileged(&world) && world.node.is_running(ctid(100))
        });
        daemon.until_all("Converged");
        daemon.stop();
        is_converted(&world, true);
    }
}

#[test]
fn a_program_that_is_killed_is_gone_on_with_once_an_admin_has_unlocked_the_container() {
    for (command, point) in [
        ("vzdump", Point::Dump),
        ("restore", Point::Allocate),
        ("restore", Point::Extract),
        ("restore", Point::Merge),
    ] {
        let Some(world) = world(Timings::default(), true) else { return };
        declare(
            &world,
            true,
            "",
            &format!(r#"{CONVERT}, "template": "local:vztmpl/tiny.tar.zst""#),
        );
        start(&world);
        inject(&world, command, FaultKind::KilledAt { point }, 1);
        let daemon = world.pctd.start();
        if command == "restore" {
            held(&daemon, "ConvertInterrupted");
            let message = message(&world);
            assert!(message.contains("`pct unlock 100`"), "{message}");
            let is_whole = point == Point::Allocate;
            let way = if is_whole { "pctd restores it from" } else { "`pct restore 100" };
            assert!(message.contains(&format!("{way} /var/lib/vz/dump/")), "{message}");
            std::thread::sleep(std::time::Duration::from_millis(300));
            assert_eq!(commands(&world).last().unwrap(), "restore", "it is left to an admin");
        } else {
            // It is given up as any failure, and nobody starts what is locked.
            eventually("it is locked", || world.conf(100).contains("lock: backup"));
            held(&daemon, "StartOwed");
        }
        world.pct(&["unlock", "100"]);
        if command == "vzdump" {
            held(&daemon, "ConvertFailed");
            eventually("it runs again", || world.node.is_running(ctid(100)));
            daemon.stop();
            is_whole(&world, false);
            continue;
        }
        if point == Point::Allocate {
            asked(&world);
        }
        eventually("it is converted and runs", || {
            is_unprivileged(&world) && world.node.is_running(ctid(100))
        });
        daemon.until_all("Converged");
        daemon.stop();
        is_converted(&world, true);
        assert!(!commands(&world).contains(&"create".to_owned()), "{point:?}");
    }
}

/// Waits until the disks of 100 are in doubt, and says that they are there.
fn asked(world: &World) {
    eventually("its disks are in doubt", || {
        let message = message(world);
        message.contains("`pctd apply 100`") && !message.contains("unlock")
    });
    assert!(!world.node.is_running(ctid(100)), "nothing is done with them before");
    // Its volume may have to wait for it.
    world.pctd.run(&["apply", "100"]);
}

#[test]
fn a_restore_that_was_cut_off_among_the_old_disks_keeps_its_backup_until_it_is_restored() {
    let Some(world) = world(Timings::default(), true) else { return };
    start(&world);
    inject(&world, "restore", FaultKind::KilledAt { point: Point::Allocate }, 1);
    let daemon = world.pctd.start();
    held(&daemon, "ConvertInterrupted");
    let archive = ledger(&world)["converting"]["100"]["backup"]["archive"].clone();
    let archive = archive.as_str().unwrap();
    // The power goes while they are freed: the conf is whole, and one is there no more.
    let disk = world.host("/var/lib/vz/images/100/vm-100-disk-1.raw");
    fs::remove_file(&disk).unwrap();
    fs::remove_dir_all(world.node.volume_content("local:100/vm-100-disk-1.raw")).unwrap();
    world.pct(&["unlock", "100"]);
    let is_named = || {
        let message = message(&world);
        message.contains(&format!("pctd restores it from {archive}")) && !message.contains("unlock")
    };
    eventually("the hold names the backup", is_named);
    // Whoever is mistaken loses nothing.
    world.pctd.run(&["apply", "100"]);
    eventually("it still does", is_named);
    assert_eq!(commands(&world).iter().filter(|command| *command == "restore").count(), 1);
    fs::remove_file(world.host("/etc/pve/lxc/100.conf")).unwrap();
    eventually("it is restored", || is_unprivileged(&world));
    daemon.until_all("Converged");
    eventually("it runs again", || world.node.is_running(ctid(100)));
    daemon.stop();
    is_converted(&world, true);
    assert_eq!(ledger(&world)["converted"]["100"], archive);
}

#[test]
fn a_restore_that_is_terminated_is_taken_back() {
    let Some(world) = world(slow(), true) else { return };
    start(&world);
    let daemon = world.pctd.start();
    phase(&world, 3);
    let pct = at_work(&world, "restore");
    kill_process(pct, Signal::TERM).unwrap();
    held(&daemon, "ConvertFailed");
    eventually("it runs again", || world.node.is_running(ctid(100)));
    daemon.stop();
    is_whole(&world, false);
    assert_eq!(leaked(&world), [""; 0]);
}

#[test]
fn a_stop_during_the_backup_starts_the_container_and_one_during_the_restore_waits() {
    for at in [1, 3] {
        let Some(world) = world(slow(), true) else { return };
        start(&world);
        let daemon = world.pctd.start();
        phase(&world, at);
        daemon.stop();
        let commands = commands(&world);
        if at == 1 {
            assert!(world.node.is_running(ctid(100)), "{commands:?}");
            is_whole(&world, false);
            assert_eq!(commands, ["shutdown", "vzdump", "start"]);
        } else {
            assert_eq!(commands, ["shutdown", "vzdump", "restore"]);
            assert!(is_unprivileged(&world), "{}", world.conf(100));
        }
        let daemon = world.pctd.start();
        eventually("it is converted and runs", || {
            is_unprivileged(&world) && world.node.is_running(ctid(100))
        });
        daemon.until_all("Converged");
        daemon.stop();
        is_converted(&world, true);
    }
}

#[test]
fn one_that_is_taken_out_of_the_configuration_while_it_is_lost_comes_back_as_it_was() {
    let Some(world) = world(slow(), true) else { return };
    let daemon = world.pctd.start();
    phase(&world, 3);
    let pct = at_work(&world, "restore");
    daemon.signal(Signal::STOP);
    kill_process(pct, Signal::TERM).unwrap();
    eventually("it is lost", || world.conf(100).is_empty());
    kill(daemon);
    world.volumes("", "");
    let daemon = world.pctd.start();
    eventually("it is back", || {
        world.conf(100).contains("rootfs") && !world.conf(100).contains("lock")
    });
    daemon.stop();
    assert!(!is_unprivileged(&world));
    assert_eq!(files(&world).len(), FILES.len());
}
