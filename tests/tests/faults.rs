//! A `pct` that fails, hangs, lies or is killed: it converges all the same, mounts nothing twice,
//! and is not called over and over.

#![expect(clippy::unwrap_used, reason = "what fails in a helper ends the test")]

use std::time::{Duration, Instant};

use pctd_sandbox::{Fault, FaultKind};
use pctd_tests::daemon::{PATIENCE, eventually};
use pctd_tests::disk::Disk;
use pctd_tests::world::{UNPRIVILEGED, World, conf, ctid, holds};

const MOUNTS: [&str; 3] = ["mp0: /tank/a,mp=/a", "mp1: /tank/b,mp=/b", "mp2: /tank/c,mp=/c"];

/// Three mounts to be made, in a stopped or a running container.
fn world(is_running: bool, settings: &str) -> Option<World> {
    let world = World::new(env!("CARGO_BIN_EXE_pctd-tests"))?;
    world.container(100, &[UNPRIVILEGED]);
    if is_running {
        world.pct(&["start", "100"]);
    }
    let volume = |name: &str| {
        format!(
            r#""{name}": {{"host_path": "/tank/{name}", "owner": "container_root",
                "mounts": {{"100": "/{name}"}}}}"#
        )
    };
    world.volumes(settings, &["a", "b", "c"].map(volume).join(","));
    Some(world)
}

/// Expects exactly the three mounts, in the conf and inside.
fn all_is_well(world: &World) {
    let lines = [&[UNPRIVILEGED], &MOUNTS[..]].concat();
    assert_eq!(world.conf(100), conf(100, &lines));
    if world.node.is_running(ctid(100)) {
        let mut inside: Vec<String> =
            world.node.mounts(ctid(100)).into_iter().map(|mount| mount.target).collect();
        inside.sort();
        assert_eq!(inside, ["/a", "/b", "/c"]);
    }
    assert_eq!(world.plan().0, 0);
}

fn fail() -> FaultKind {
    FaultKind::Fail { exit: 255, stderr: "something went wrong".into() }
}

/// Lets each of the three calls meet the fault in turn, and expects so many calls in all.
fn each_call_meets(fault: &FaultKind, calls: usize) {
    for nth in 0..3 {
        let Some(world) = world(nth != 1, "") else { return };
        world.node.inject(Fault::next(fault.clone()).on("set").after(nth)).unwrap();
        let daemon = world.pctd.start();
        daemon.until_all("Converged");
        daemon.stop();
        assert_eq!(world.calls().len(), calls, "call {nth}: {:?}", world.calls());
        all_is_well(&world);
    }
}

#[test]
fn a_call_that_fails_is_repeated_once() {
    each_call_meets(&fail(), 4);
}

#[test]
fn a_call_that_finds_a_lock_is_repeated_once() {
    each_call_meets(&FaultKind::Locked { lock: "backup".into() }, 4);
}

#[test]
fn a_call_that_does_not_get_the_flock_in_time_is_repeated_once() {
    each_call_meets(&FaultKind::LockTimeout, 4);
}

#[test]
fn a_call_that_is_killed_is_repeated_once() {
    each_call_meets(&FaultKind::Killed { signal: 9 }, 4);
}

#[test]
fn a_call_that_is_applied_and_fails_is_not_repeated() {
    // What is there is there, whatever was said.
    each_call_meets(&FaultKind::FailAfterwards { exit: 2, stderr: "bridge".into() }, 3);
}

#[test]
fn an_apply_that_meets_a_failure_says_so_and_the_next_one_finishes() {
    let Some(world) = world(true, "") else { return };
    world.node.inject(Fault::next(fail()).on("set").after(1)).unwrap();
    let report = world.apply(&[], 1);
    let error = report["containers"]["100"]["error"].as_str().unwrap();
    assert!(error.contains("something went wrong"), "{report:#}");
    assert_eq!(report["summary"]["errors"], 1, "{report:#}");
    assert_eq!(world.conf(100), conf(100, &[UNPRIVILEGED, MOUNTS[0]]));
    world.apply(&[], 0);
    assert_eq!(world.calls().len(), 4);
    all_is_well(&world);
}

/// What is in force is what is declared again, so only what waits shows that the call did nothing.
#[test]
fn a_call_that_fails_to_take_back_what_waits_for_a_restart_is_repeated() {
    let Some(world) = World::new(env!("CARGO_BIN_EXE_pctd-tests")) else { return };
    world.container(100, &[UNPRIVILEGED]);
    let declare = |read_only: bool| {
        world.volumes(
            r#""restart": "never""#,
            &format!(
                r#""a": {{"host_path": "/tank/a", "owner": "container_root",
                    "mounts": {{"100": {{"path": "/a", "read_only": {read_only}}}}}}}"#
            ),
        );
    };
    declare(false);
    world.apply(&[], 0);
    world.pct(&["start", "100"]);
    let in_place = world.conf(100);
    declare(true);
    world.apply(&[], 3);
    assert!(world.conf(100).contains("[pve:pending]"), "{}", world.conf(100));
    declare(false);
    world.node.inject(Fault::next(fail()).on("set")).unwrap();
    let failed = world.pctd.run(&["apply"]);
    assert_eq!(failed.code, 1, "{failed:?}");
    world.apply(&[], 0);
    assert_eq!(world.conf(100), in_place);
    assert_eq!(world.plan().0, 0);
}

#[test]
fn a_call_that_hangs_is_ended_after_its_time_and_repeated() {
    for holding_flock in [false, true] {
        let Some(world) = world(holding_flock, r#""pct_timeout": "1s""#) else { return };
        let hang = FaultKind::Hang { millis: 60_000, holding_flock };
        world.node.inject(Fault::next(hang).on("set").after(1)).unwrap();
        let begun = Instant::now();
        let daemon = world.pctd.start();
        daemon.until_all("Converged");
        let took = begun.elapsed();
        assert!(took > Duration::from_secs(1) && took < PATIENCE / 2, "{took:?}");
        daemon.stop();
        assert_eq!(world.calls().len(), 4, "{:?}", world.calls());
        // It was ended gently: it could say how it ended.
        let calls = world.node.pct_calls().unwrap();
        assert!(calls[1].exit.is_some_and(|exit| exit != 0), "{calls:?}");
        all_is_well(&world);
    }
}

#[test]
fn a_lock_that_somebody_else_holds_is_waited_for_without_a_call() {
    let Some(world) = world(true, "") else { return };
    let held = world.node.hold_flock(ctid(100)).unwrap();
    let daemon = world.pctd.start();
    daemon.until("the lock is seen", |status| holds(status, "containers", "100") == ["Busy"]);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(world.calls(), Vec::<String>::new());
    drop(held);
    daemon.until_all("Converged");
    assert_eq!(world.calls().len(), 3);
    all_is_well(&world);
}

/// As [`world`], where every `pct set` fails and is repeated after these delays.
fn failing_world(initial: &str, max: &str) -> Option<World> {
    let world = world(true, "")?;
    let text = std::fs::read_to_string(world.host("/etc/pctd/config.json")).unwrap();
    let text =
        text.replace(r#""retry_initial": "20ms""#, &format!(r#""retry_initial": "{initial}""#));
    world.config(&text.replace(r#""retry_max": "200ms""#, &format!(r#""retry_max": "{max}""#)));
    world.node.inject(Fault::next(fail()).on("set").times(10_000)).unwrap();
    Some(world)
}

#[test]
fn a_call_that_always_fails_is_made_rarer_and_rarer() {
    // 100, 200, 400, 800 ms, each at least half of it.
    let Some(world) = failing_world("100ms", "1m") else { return };
    let daemon = world.pctd.start();
    let failed = |status: &serde_json::Value| status["containers"]["100"]["state"] == "Failed";
    daemon.until("the failure is seen", failed);
    std::thread::sleep(Duration::from_millis(1200));
    let calls = world.calls().len();
    assert!((2..=6).contains(&calls), "{calls} calls");
    let error = daemon.status()["containers"]["100"]["error"].to_string();
    assert!(error.contains("something went wrong"), "{error}");
}

#[test]
fn a_change_of_the_conf_is_news_that_ends_a_long_delay() {
    let Some(world) = failing_world("1h", "1h") else { return };
    let daemon = world.pctd.start();
    daemon.until("the failure is seen", |status| status["containers"]["100"]["state"] == "Failed");
    let calls = world.calls().len();
    world.node.clear_faults().unwrap();
    world.pct(&["set", "100", "--tags", "x"]);
    daemon.until_all("Converged");
    // The poll may have heard of the container as well, before the fault was gone.
    let more = world.calls().len() - calls;
    assert!((3..=4).contains(&more), "{:?}", world.calls());
}

#[test]
fn a_daemon_killed_while_pct_is_at_work_leaves_nothing_twice() {
    let Some(world) = world(true, "") else { return };
    let hang = FaultKind::Hang { millis: 300, holding_flock: false };
    world.node.inject(Fault::next(hang).on("set").after(1)).unwrap();
    let mut daemon = world.pctd.start();
    eventually("the second call is at work", || world.calls().len() == 2);
    daemon.signal(rustix::process::Signal::KILL);
    daemon.wait();
    // The orphan goes on and may write after the next daemon has looked.
    let daemon = world.pctd.start();
    daemon.until_all("Converged");
    eventually("every call has ended", || {
        world.node.pct_calls().unwrap().iter().all(|call| call.ended.is_some())
    });
    daemon.until_all("Converged");
    assert!(world.calls().len() <= 5, "{:?}", world.calls());
    all_is_well(&world);
}

#[test]
fn after_a_lost_ledger_nothing_is_rewritten_or_made_again_unasked() {
    let Some(world) = World::new(env!("CARGO_BIN_EXE_pctd-tests")) else { return };
    world.container(100, &[UNPRIVILEGED]);
    world.dir("/tank/data", 0, 0o755);
    world.file("/tank/data/old", 0, 0o644);
    let volume = |name: &str| {
        format!(
            r#""{name}": {{"host_path": "/tank/{name}", "owner": "container_root",
                "enforce": "once", "mounts": {{"100": "/{name}"}}}}"#
        )
    };
    world.volumes("", &["data", "disk"].map(volume).join(","));
    world.apply(&[], 0);
    assert_eq!(world.owner("/tank/data/old"), "100000:100000 0644");
    // A service made this one; what was set once is its own from then on.
    world.file("/tank/data/service", 100_033, 0o600);
    // A crash of the disk: the ledger is cut short, and one volume is on what is not mounted.
    let ledger = world.host("/var/lib/pctd/ledger.json");
    let text = std::fs::read_to_string(&ledger).unwrap();
    std::fs::write(&ledger, &text[..text.len() / 2]).unwrap();
    std::fs::remove_dir(world.host("/tank/disk")).unwrap();
    let calls = world.calls();

    let daemon = world.pctd.start();
    let reasons = |status: &serde_json::Value, of: &str| -> Vec<String> {
        let all = status["volumes"]["data"][of].as_array().cloned().unwrap_or_default();
        all.iter().map(|one| one["reason"].as_str().unwrap_or_default().to_owned()).collect()
    };
    daemon.until("the walk is done", |status| {
        status["volumes"]["data"]["state"] == "Converged"
            && holds(status, "volumes", "disk") == ["LedgerLost"]
    });
    assert_eq!(reasons(&daemon.status(), "notices"), ["LedgerLost"]);
    assert!(daemon.log().contains("the ledger is lost"), "{}", daemon.log());
    std::thread::sleep(Duration::from_millis(400));
    assert_eq!(world.owner("/tank/data/service"), "100033:100033 0600");
    assert!(!world.host("/tank/disk").exists());
    assert_eq!(world.calls(), calls);
    // The bad file is kept, and the doubt outlives a restart.
    let aside = world.host("/var/lib/pctd/ledger.json.bad-1");
    assert_eq!(std::fs::read_to_string(aside).unwrap(), text[..text.len() / 2]);
    daemon.stop();
    let daemon = world.pctd.start();
    daemon.until("the doubt is back", |status| reasons(status, "notices") == ["LedgerLost"]);
    assert_eq!(world.owner("/tank/data/service"), "100033:100033 0600");
    // An admin knows better.
    world.apply(&["data", "disk"], 0);
    assert_eq!(world.owner("/tank/data/service"), "100000:100000 0600");
    assert_eq!(world.owner("/tank/disk"), "100000:100000 0755");
    daemon.until_all("Converged");
    assert_eq!(reasons(&daemon.status(), "notices"), Vec::<String>::new());
}

#[test]
fn a_disk_with_errors_is_neither_missing_nor_done_with_until_it_works() {
    let Some(world) = World::new(env!("CARGO_BIN_EXE_pctd-tests")) else { return };
    world.container(100, &[UNPRIVILEGED]);
    let Some(disk) = Disk::mount(&world.dir("/tank/a", 0, 0o755)) else { return };
    for n in 0..60 {
        world.file(&format!("/tank/a/{n}"), 0, 0o644);
    }
    world.volumes(
        "",
        r#""a": {"host_path": "/tank/a", "owner": "container_root", "mounts": {"100": "/a"}}"#,
    );
    disk.fail(1);
    let daemon = world.pctd.start();
    daemon.until("the source is held", |status| {
        holds(status, "volumes", "a") == ["SourceUnreadable"]
            && holds(status, "containers", "100") == ["VolumeHeld"]
    });
    // Mostly it answers, so that walks begin; no file can be looked at without a request, so each of
    // them comes to an error.
    disk.fail(50);
    let (begun, before) = (Instant::now(), disk.failed());
    while begun.elapsed() < Duration::from_secs(1) || disk.failed() < before + 5 {
        let status = daemon.status();
        assert_ne!(status["volumes"]["a"]["state"], "Converged", "{status:#}");
        assert!(begun.elapsed() < Duration::from_secs(20), "{} errors", disk.failed());
        std::thread::sleep(Duration::from_millis(10));
    }
    disk.fail(0);
    daemon.until_all("Converged");
    assert!(world.conf(100).contains("mp0: /tank/a,mp=/a"));
    let wrong = |(_, owner): &(String, String)| !owner.starts_with("100000:100000 ");
    assert_eq!(world.owners("/tank/a").into_iter().find(wrong), None);
    daemon.stop();
}
