//! Restarts: only for pctd's own pending changes, gracefully, rarely, and never into a stop.

#![expect(clippy::unwrap_used, reason = "what fails in a helper ends the test")]

use std::fs;
use std::time::{Duration, Instant};

use pctd_sandbox::{Fault, FaultKind, Guest};
use pctd_tests::daemon::{Daemon, eventually};
use pctd_tests::world::{UNPRIVILEGED, World, conf, ctid, holds};
use serde_json::Value;

const SET: &str = "set 100 --mp0 /tank/a,mp=/data,ro=1";
const REBOOT: &str = "reboot 100 --timeout 3";

/// A running container that mounts `/tank/a`, put there by somebody.
fn world(more: &[&str]) -> Option<World> {
    let world = World::new(env!("CARGO_BIN_EXE_pctd-tests"))?;
    world.dir("/tank/a", 100_000, 0o755);
    world.running(100, &[&[UNPRIVILEGED, "mp0: /tank/a,mp=/data"], more].concat());
    Some(world)
}

/// Declares the mount with these options.
fn declare(world: &World, settings: &str, options: &str) {
    world.volumes(
        &format!(r#""restart_timeout": "3s"{settings}"#),
        &format!(
            r#""a": {{"host_path": "/tank/a", "owner": "container_root",
                "mounts": {{"100": {{"path": "/data", {options}}}}}}}"#
        ),
    );
}

const READ_ONLY: &str = r#""read_only": true"#;

fn reboots(world: &World) -> usize {
    world.calls().iter().filter(|call| call.starts_with("reboot")).count()
}

fn until_held(daemon: &Daemon) -> Value {
    daemon.until("a restart is needed", |status| {
        holds(status, "containers", "100") == ["NeedsRestart"]
    });
    daemon.status()["containers"]["100"]["holds"][0].clone()
}

/// Expects that nothing more is called while a daemon that looks again every 100 ms has time to.
fn nothing_follows(world: &World) {
    let calls = world.calls();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(700) {
        assert_eq!(world.calls(), calls);
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_changed_option_is_applied_by_one_graceful_reboot() {
    let Some(world) = world(&[]) else { return };
    declare(&world, "", READ_ONLY);
    let daemon = world.pctd.start();
    daemon.until_all("Converged");
    assert_eq!(world.calls(), [SET, REBOOT]);
    assert_eq!(world.conf(100), conf(100, &[UNPRIVILEGED, "mp0: /tank/a,mp=/data,ro=1"]));
    assert!(world.node.mounts(ctid(100))[0].ro);
    assert!(world.node.is_running(ctid(100)));
    nothing_follows(&world);
    daemon.stop();
    world.apply(&[], 0);
    assert_eq!(world.calls().len(), 2);
}

#[test]
fn all_changes_of_a_container_share_one_reboot() {
    let Some(world) = World::new(env!("CARGO_BIN_EXE_pctd-tests")) else { return };
    let names = ["a", "b", "c"];
    let lines: Vec<String> =
        names.iter().enumerate().map(|(n, v)| format!("mp{n}: /tank/{v},mp=/{v}")).collect();
    for name in names {
        world.dir(&format!("/tank/{name}"), 100_000, 0o755);
    }
    let lines: Vec<&str> = lines.iter().map(String::as_str).chain([UNPRIVILEGED]).collect();
    world.running(100, &lines);
    let volumes = names.map(|name| {
        format!(
            r#""{name}": {{"host_path": "/tank/{name}", "owner": "container_root",
                "mounts": {{"100": {{"path": "/{name}", "shared": true, "backup": false}}}}}}"#
        )
    });
    world.volumes("", &volumes.join(","));
    let daemon = world.pctd.start();
    daemon.until_all("Converged");
    let set = |(n, v)| format!("set 100 --mp{n} /tank/{v},mp=/{v},backup=0,shared=1");
    let expected: Vec<String> = names.into_iter().enumerate().map(set).collect();
    let mut calls = world.calls();
    assert_eq!(calls.pop().unwrap(), "reboot 100 --timeout 60");
    // Whose volume is looked through first is written first.
    calls.sort();
    assert_eq!(calls, expected);
}

#[test]
fn a_stopped_container_is_changed_and_not_started() {
    let Some(world) = world(&[]) else { return };
    world.pct(&["stop", "100"]);
    declare(&world, "", READ_ONLY);
    world.apply(&[], 0);
    assert_eq!(world.calls(), [SET]);
    assert!(!world.node.is_running(ctid(100)));
    assert_eq!(world.conf(100), conf(100, &[UNPRIVILEGED, "mp0: /tank/a,mp=/data,ro=1"]));
}

#[test]
fn a_restart_that_is_not_allowed_is_reported_and_left_to_the_admin() {
    let Some(world) = world(&[]) else { return };
    declare(&world, r#", "restart": "never""#, READ_ONLY);
    let daemon = world.pctd.start();
    let hold = until_held(&daemon);
    assert!(hold["message"].as_str().unwrap().contains("`pct reboot 100`"), "{hold}");
    nothing_follows(&world);
    assert_eq!(world.calls(), [SET]);
    world.apply(&["100"], 3);
    world.pct(&["reboot", "100", "--timeout", "2"]);
    daemon.until_all("Converged");
    assert_eq!(world.calls(), [SET]);
    assert!(world.node.mounts(ctid(100))[0].ro);
}

#[test]
fn a_container_is_not_restarted_twice_within_the_limit() {
    let Some(world) = world(&[]) else { return };
    declare(&world, "", READ_ONLY);
    let daemon = world.pctd.start();
    daemon.until_all("Converged");
    assert_eq!(reboots(&world), 1);
    declare(&world, "", r#""read_only": false"#);
    let hold = until_held(&daemon);
    assert!(hold["message"].as_str().unwrap().contains("restart_limit"), "{hold}");
    nothing_follows(&world);
    daemon.stop();
    // It is remembered across a restart of the daemon.
    let daemon = world.pctd.start();
    until_held(&daemon);
    nothing_follows(&world);
    assert_eq!(reboots(&world), 1);
    declare(&world, r#", "restart_limit": "1s""#, r#""read_only": false"#);
    daemon.until_all("Converged");
    assert_eq!(reboots(&world), 2);
    assert!(!world.node.mounts(ctid(100))[0].ro);
}

#[test]
fn what_others_left_pending_is_named_in_the_log_line_of_the_reboot() {
    let Some(world) = world(&["swap: 256", "features: nesting=0"]) else { return };
    world.pct(&["set", "100", "--features", "nesting=1"]);
    world.pct(&["set", "100", "--mp9", "/tank/a,mp=/nine"]);
    world.pct(&["set", "100", "--delete", "mp9"]);
    declare(&world, "", READ_ONLY);
    let daemon = world.pctd.start();
    daemon.until_all("Converged");
    let log = daemon.log();
    let line = log.lines().find(|line| line.contains(": restarting")).unwrap();
    for part in ["CTID=100", "reboot_container", "others changed: features, mp9 "] {
        assert!(line.contains(part), "{line}");
    }
    // Nothing of others' alone is ever triggered.
    world.pct(&["set", "100", "--features", "nesting=0"]);
    nothing_follows(&world);
    assert_eq!(world.calls(), [SET, REBOOT]);
}

#[test]
fn a_missing_source_of_any_mount_prevents_the_reboot() {
    let Some(world) = World::new(env!("CARGO_BIN_EXE_pctd-tests")) else { return };
    world.dir("/tank/a", 100_000, 0o755);
    let theirs = world.dir("/srv/theirs", 0, 0o755);
    world.running(100, &[UNPRIVILEGED, "mp0: /tank/a,mp=/data", "mp5: /srv/theirs,mp=/theirs"]);
    fs::remove_dir(&theirs).unwrap();
    declare(&world, "", READ_ONLY);
    let daemon = world.pctd.start();
    let hold = until_held(&daemon);
    assert!(hold["message"].as_str().unwrap().contains("/srv/theirs"), "{hold}");
    nothing_follows(&world);
    assert_eq!(world.calls(), [SET]);
    assert!(world.node.is_running(ctid(100)));
    // It is back: the restart that was held is made by itself, and only then.
    world.dir("/srv/theirs", 0, 0o755);
    daemon.until_all("Converged");
    assert_eq!(world.calls(), [SET, REBOOT]);
}

/// A container that runs with `/tank/old` while its reboot for `/tank/new` is under way, in which
/// its guest takes its time.
fn rebooting(settings: &str) -> Option<(World, Daemon, std::path::PathBuf)> {
    let world = World::new(env!("CARGO_BIN_EXE_pctd-tests"))?;
    world.dir("/tank/old", 100_000, 0o755);
    world.running(100, &[UNPRIVILEGED]);
    let source = |path: &str| {
        world.volumes(
            &format!(r#""restart_timeout": "3s"{settings}"#),
            &format!(
                r#""a": {{"host_path": "{path}", "owner": "container_root", "create": false,
                    "mounts": {{"100": "/data"}}}}"#
            ),
        );
    };
    source("/tank/old");
    let daemon = world.pctd.start();
    daemon.until_all("Converged");
    let new = world.dir("/tank/new", 100_000, 0o755);
    world.node.set_guest(ctid(100), Guest::Slow(400)).unwrap();
    source("/tank/new");
    eventually("the reboot has begun", || reboots(&world) == 1);
    Some((world, daemon, new))
}

fn starts(world: &World) -> usize {
    world.calls().iter().filter(|call| *call == "start 100").count()
}

fn owes_a_start(world: &World) -> bool {
    let ledger = pctd_tests::daemon::text(&world.host("/var/lib/pctd/ledger.json"));
    ledger.contains("start_owed")
}

#[test]
fn a_start_that_fails_after_a_reboot_is_tried_again_until_the_container_runs() {
    let Some((world, daemon, new)) = rebooting("") else { return };
    let fault = FaultKind::Fail { exit: 255, stderr: "no such device".into() };
    world.node.inject(Fault::next(fault).on("start").times(3)).unwrap();
    fs::remove_dir(&new).unwrap();
    eventually("the container is back", || world.node.is_running(ctid(100)) && starts(&world) > 1);
    // Once with the reboot, and after three failures the fourth one is the last.
    assert_eq!(starts(&world), 4, "{:?}", world.calls());
    assert!(daemon.log().contains("no such device"), "{}", daemon.log());
    eventually("nothing is owed any more", || !owes_a_start(&world));
    nothing_follows(&world);
    // What an admin stops stays stopped.
    world.pct(&["stop", "100"]);
    nothing_follows(&world);
    assert!(!world.node.is_running(ctid(100)));
}

#[test]
fn a_daemon_killed_during_a_reboot_whose_start_fails_starts_the_container_later() {
    let Some((world, mut daemon, new)) = rebooting("") else { return };
    daemon.signal(rustix::process::Signal::KILL);
    daemon.wait();
    fs::remove_dir(&new).unwrap();
    eventually("the reboot has ended", || {
        world.node.pct_calls().unwrap().iter().all(|call| call.ended.is_some())
    });
    assert!(!world.node.is_running(ctid(100)));
    assert!(owes_a_start(&world));
    let daemon = world.pctd.start();
    // What it mounts is missing, and a start would fail.
    daemon.until("the start is owed", |status| {
        holds(status, "containers", "100").contains(&"StartOwed".to_owned())
    });
    nothing_follows(&world);
    world.dir("/tank/new", 100_000, 0o755);
    daemon.until_all("Converged");
    assert!(world.node.is_running(ctid(100)));
    assert_eq!((starts(&world), reboots(&world)), (1, 1), "{:?}", world.calls());
    eventually("nothing is owed any more", || !owes_a_start(&world));
    daemon.stop();
}

#[test]
fn after_a_crash_during_a_reboot_that_went_well_a_stop_of_an_admins_stands() {
    let Some((world, mut daemon, _)) = rebooting("") else { return };
    daemon.signal(rustix::process::Signal::KILL);
    daemon.wait();
    eventually("the reboot has ended", || {
        world.node.pct_calls().unwrap().iter().all(|call| call.ended.is_some())
    });
    assert!(world.node.is_running(ctid(100)));
    assert!(owes_a_start(&world));
    let daemon = world.pctd.start();
    // In place, it is not looked at again: by then it is remembered that it came back.
    daemon.until_all("Converged");
    assert!(!owes_a_start(&world));
    world.pct(&["stop", "100"]);
    nothing_follows(&world);
    assert!(!world.node.is_running(ctid(100)));
    assert_eq!((starts(&world), reboots(&world)), (0, 1), "{:?}", world.calls());
    daemon.stop();
}

#[test]
fn a_reboot_whose_start_fails_is_taken_back_and_not_repeated() {
    let Some(world) = World::new(env!("CARGO_BIN_EXE_pctd-tests")) else { return };
    world.dir("/tank/old", 100_000, 0o755);
    world.running(100, &[UNPRIVILEGED]);
    let source = |path: &str| {
        world.volumes(
            r#""restart_timeout": "3s""#,
            &format!(
                r#""a": {{"host_path": "{path}", "owner": "container_root", "create": false,
                    "mounts": {{"100": "/data"}}}}"#
            ),
        );
    };
    source("/tank/old");
    let daemon = world.pctd.start();
    daemon.until_all("Converged");
    assert_eq!(world.calls(), ["set 100 --mp0 /tank/old,mp=/data"]);
    // The new source is there when pctd looks, and gone when the guest has shut down at last.
    let new = world.dir("/tank/new", 100_000, 0o755);
    world.node.set_guest(ctid(100), Guest::Slow(400)).unwrap();
    source("/tank/new");
    eventually("the reboot has begun", || reboots(&world) == 1);
    fs::remove_dir(&new).unwrap();
    eventually("the container is back", || {
        world.calls().last().is_some_and(|call| call == "start 100")
            && world.node.is_running(ctid(100))
    });
    let attempt = [
        "set 100 --mp0 /tank/old,mp=/data",
        "set 100 --mp0 /tank/new,mp=/data",
        REBOOT,
        "set 100 --mp0 /tank/old,mp=/data",
        "start 100",
    ];
    assert_eq!(world.calls(), attempt);
    eventually("old mount", || world.node.mounts(ctid(100)).len() == 1);
    assert_eq!(world.node.mounts(ctid(100))[0].source, "/tank/old");
    assert_eq!(world.conf(100), conf(100, &[UNPRIVILEGED, "mp0: /tank/old,mp=/data"]));
    eventually("it is logged", || daemon.log().contains("did not come back"));
    // The cause is gone, events come and go: still nobody but an admin asks for a second try.
    world.dir("/tank/new", 100_000, 0o755);
    daemon.signal(rustix::process::Signal::HUP);
    world.pct(&["set", "100", "--tags", "x"]);
    nothing_follows(&world);
    assert_eq!(world.calls(), attempt);
    let reasons = holds(&daemon.status(), "containers", "100");
    assert_eq!(reasons, ["NeedsRestart"], "{:#}", daemon.status());
    assert!(daemon.status().to_string().contains("`pctd apply 100` tries again"));
}
