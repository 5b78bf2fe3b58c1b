//! What is taken out of the configuration, and mounts of others that are taken over.

#![expect(clippy::unwrap_used, reason = "what fails in a helper ends the test")]

use std::fs;
use std::time::{Duration, Instant};

use pctd_sandbox::{Fault, FaultKind};
use pctd_tests::daemon::{Daemon, eventually};
use pctd_tests::world::{UNPRIVILEGED, World, conf, ctid, holds};

const PROGRAM: &str = env!("CARGO_BIN_EXE_pctd-tests");

/// A look at everything comes soon, and with it the time after which a configuration counts.
const SOON: &str = r#""prune": true, "resync_interval": "400ms", "restart_timeout": "3s""#;

/// A volume mounted in 100.
fn volume(name: &str) -> String {
    format!(
        r#""{name}": {{"host_path": "/tank/{name}", "owner": "container_root",
            "mounts": {{"100": "/{name}"}}}}"#
    )
}

fn declare(world: &World, settings: &str, names: &[&str]) {
    let volumes: Vec<String> = names.iter().map(|name| volume(name)).collect();
    world.volumes(settings, &volumes.join(","));
}

/// A container in which pctd has mounted `a` and `b`, and somebody `/srv/theirs`.
fn world(is_running: bool) -> Option<World> {
    let world = World::new(PROGRAM)?;
    world.dir("/srv/theirs", 100_000, 0o755);
    world.container(100, &[UNPRIVILEGED, "mp0: /srv/theirs,mp=/theirs"]);
    if is_running {
        world.pct(&["start", "100"]);
    }
    declare(&world, "", &["a", "b"]);
    world.apply(&[], 0);
    let expected = ["set 100 --mp1 /tank/a,mp=/a", "set 100 --mp2 /tank/b,mp=/b"];
    assert_eq!(world.calls(), expected);
    Some(world)
}

/// Lets a daemon that looks again every 100 ms have time, and expects no call.
fn nothing_is_called(world: &World, time: Duration) {
    let calls = world.calls();
    let begun = Instant::now();
    while begun.elapsed() < time {
        assert_eq!(world.calls(), calls);
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn until_conf(world: &World, lines: &[&str]) {
    let wanted = conf(100, lines);
    eventually("the conf is as wanted", || world.conf(100) == wanted);
}

fn notices(report: &serde_json::Value) -> Vec<String> {
    let all = report["containers"]["100"]["notices"].as_array().cloned().unwrap_or_default();
    all.iter().map(|notice| notice["reason"].as_str().unwrap().to_owned()).collect()
}

const THEIRS: &str = "mp0: /srv/theirs,mp=/theirs";
const A: &str = "mp1: /tank/a,mp=/a";
const B: &str = "mp2: /tank/b,mp=/b";

#[test]
fn without_prune_it_stays_and_is_reported() {
    let Some(world) = world(false) else { return };
    for names in [&["a"][..], &[]] {
        declare(&world, "", names);
        let (code, plan) = world.plan();
        assert_eq!((code, notices(&plan).len()), (0, 2 - names.len()), "{plan:#}");
        let daemon = world.pctd.start();
        daemon.until_all("Converged");
        daemon.until("it is reported", |status| notices(status).contains(&"Prunable".to_owned()));
        daemon.stop();
    }
    assert_eq!(world.conf(100), conf(100, &[UNPRIVILEGED, THEIRS, A, B]));
    assert_eq!(world.calls().len(), 2);
}

#[test]
fn a_plan_shows_what_would_go_and_apply_removes_it_when_it_is_meant() {
    let Some(world) = world(false) else { return };
    declare(&world, r#""prune": true"#, &["a"]);
    let (code, plan) = world.plan();
    let step = &plan["containers"]["100"]["steps"][0];
    assert_eq!((code, step["step"].as_str()), (3, Some("remove_mount")), "{plan:#}");
    assert_eq!((step["key"].as_str(), step["value"].as_str()), (Some("mp2"), Some(&B[5..])));
    // Nobody knows how long these files have been like this.
    let report = world.apply(&[], 3);
    assert_eq!(holds(&report, "containers", "100"), ["ConfigUnsettled"]);
    assert_eq!(world.calls().len(), 2);
    world.apply(&["100"], 0);
    assert_eq!(world.calls()[2..], ["set 100 --delete mp2"]);
    assert_eq!(world.conf(100), conf(100, &[UNPRIVILEGED, THEIRS, A]));
    assert_eq!(world.plan().0, 0);
    assert!(world.host("/tank/b").is_dir(), "directories stay");
}

#[test]
fn a_running_container_loses_it_with_one_graceful_reboot() {
    let Some(world) = world(true) else { return };
    declare(&world, SOON, &["a"]);
    let daemon = world.pctd.start();
    until_conf(&world, &[UNPRIVILEGED, THEIRS, A]);
    daemon.until_all("Converged");
    assert_eq!(world.calls()[2..], ["set 100 --delete mp2", "reboot 100 --timeout 3"]);
    let inside: Vec<String> =
        world.node.mounts(ctid(100)).into_iter().map(|mount| mount.target).collect();
    assert_eq!(inside, ["/theirs", "/a"]);
    nothing_is_called(&world, Duration::from_millis(600));
    daemon.stop();
}

#[test]
fn a_container_of_which_nothing_is_declared_any_more_is_cleaned_and_then_nobodys() {
    let Some(world) = world(false) else { return };
    declare(&world, SOON, &[]);
    let daemon = world.pctd.start();
    until_conf(&world, &[UNPRIVILEGED, THEIRS]);
    let gone = |status: &serde_json::Value| status["containers"].get("100").is_none();
    daemon.until("it is no key any more", gone);
    assert_eq!(world.calls()[2..], ["set 100 --delete mp1", "set 100 --delete mp2"]);
    // Made by hand exactly as pctd had it, it is its maker's.
    world.pct(&["set", "100", "--mp1", "/tank/a,mp=/a"]);
    nothing_is_called(&world, Duration::from_millis(900));
    daemon.stop();
}

#[test]
fn a_file_that_is_missing_for_a_moment_removes_nothing() {
    let Some(world) = world(true) else { return };
    let slow = SOON.replace("400ms", "3s");
    declare(&world, &slow, &["a"]);
    let more = world.host("/etc/pctd/conf.d/b.json");
    let text = format!(r#"{{"shared_volumes": {{{}}}}}"#, volume("b"));
    fs::create_dir_all(more.parent().unwrap()).unwrap();
    fs::write(&more, &text).unwrap();
    let daemon = world.pctd.start();
    daemon.until_all("Converged");
    // Long enough for everything it has seen to count.
    std::thread::sleep(Duration::from_millis(3200));
    let aside = more.with_extension("aside");
    fs::rename(&more, &aside).unwrap();
    let unsettled =
        |status: &serde_json::Value| holds(status, "containers", "100") == ["ConfigUnsettled"];
    daemon.until("it waits", unsettled);
    nothing_is_called(&world, Duration::from_millis(800));
    fs::rename(&aside, &more).unwrap();
    daemon.until_all("Converged");
    assert_eq!(world.calls().len(), 2);
    // An entry that goes from a file that stays is meant, though not while the above lasts.
    fs::write(&more, "{").unwrap();
    daemon.until("it is refused", |status| status["config"]["valid"] == false);
    nothing_is_called(&world, Duration::from_millis(500));
    fs::write(&more, "{}").unwrap();
    daemon.until("it waits again", unsettled);
    until_conf(&world, &[UNPRIVILEGED, THEIRS, A]);
    daemon.stop();
}

#[test]
fn an_entry_that_goes_from_a_file_that_stays_is_removed_at_once() {
    let Some(world) = world(false) else { return };
    declare(&world, SOON, &["a", "b"]);
    let daemon = world.pctd.start();
    daemon.until_all("Converged");
    std::thread::sleep(Duration::from_millis(600));
    // From now on no resync would come to its aid.
    declare(&world, &SOON.replace("400ms", "450ms"), &["a"]);
    until_conf(&world, &[UNPRIVILEGED, THEIRS, A]);
    assert!(!daemon.log().contains("ConfigUnsettled"), "{}", daemon.log());
    daemon.stop();
}

#[test]
fn a_ledger_that_was_lost_removes_nothing() {
    let Some(world) = world(false) else { return };
    fs::write(world.host("/var/lib/pctd/ledger.json"), "{").unwrap();
    declare(&world, SOON, &["a"]);
    world.apply(&["--yes"], 0);
    // What is known from now on is not all there is.
    declare(&world, SOON, &["a", "c"]);
    world.apply(&["--yes"], 0);
    declare(&world, SOON, &["a"]);
    let (code, plan) = world.plan();
    assert_eq!((code, notices(&plan)), (0, vec!["Prunable".to_owned()]), "{plan:#}");
    world.apply(&["100"], 0);
    let daemon = world.pctd.start();
    daemon.until_all("Converged");
    nothing_is_called(&world, Duration::from_secs(1));
    daemon.stop();
    let lines = [UNPRIVILEGED, THEIRS, A, B, "mp3: /tank/c,mp=/c"];
    assert_eq!(world.conf(100), conf(100, &lines));
}

#[test]
fn what_somebody_changed_since_is_theirs() {
    let Some(world) = world(false) else { return };
    world.pct(&["set", "100", "--mp2", "/tank/b,mp=/b,ro=1"]);
    declare(&world, SOON, &["a"]);
    world.apply(&["100"], 0);
    assert_eq!(world.conf(100), conf(100, &[UNPRIVILEGED, THEIRS, A, "mp2: /tank/b,mp=/b,ro=1"]));
}

/// Declares that `b` is mounted read-only, without a restart to make it so.
fn leave_a_change_pending(world: &World) {
    let read_only = volume("b").replace(r#""/b""#, r#"{"path": "/b", "read_only": true}"#);
    let volumes = format!("{}, {read_only}", volume("a"));
    world.volumes(r#""prune": true, "restart": "never""#, &volumes);
    let report = world.apply(&[], 3);
    assert_eq!(holds(&report, "containers", "100"), ["NeedsRestart"]);
    let pending = "[pve:pending]\nmp2: /tank/b,mp=/b,ro=1\n";
    assert!(world.conf(100).contains(pending), "{}", world.conf(100));
}

#[test]
fn what_only_waits_is_taken_back_before_what_is_in_force_is_deleted() {
    let Some(world) = world(true) else { return };
    leave_a_change_pending(&world);
    declare(&world, r#""prune": true, "restart": "never""#, &["a"]);
    let report = world.apply(&["100"], 3);
    assert_eq!(holds(&report, "containers", "100"), ["NeedsRestart"]);
    let calls =
        ["set 100 --mp2 /tank/b,mp=/b,ro=1", "set 100 --revert mp2", "set 100 --delete mp2"];
    assert_eq!(world.calls()[2..], calls);
    world.pct(&["stop", "100"]);
    assert_eq!(world.conf(100), conf(100, &[UNPRIVILEGED, THEIRS, A]));
    assert_eq!(world.plan().0, 0);
}

#[test]
fn a_mount_of_others_gets_its_old_options_back_and_is_not_deleted() {
    let Some(world) = World::new(PROGRAM) else { return };
    world.dir("/tank/b", 100_000, 0o755);
    world.running(100, &[UNPRIVILEGED, "mp2: /tank/b,mp=/b"]);
    let read_only = volume("b").replace(r#""/b""#, r#"{"path": "/b", "read_only": true}"#);
    world.volumes(r#""prune": true"#, &read_only);
    world.apply(&[], 0);
    declare(&world, r#""prune": true"#, &[]);
    assert_eq!(world.plan().0, 0);
    declare(&world, SOON, &["a"]);
    world.apply(&["--yes"], 0);
    let lines = [UNPRIVILEGED, "mp0: /tank/a,mp=/a", "mp2: /tank/b,mp=/b,ro=1"];
    assert_eq!(world.conf(100), conf(100, &lines));
}

#[test]
fn a_removal_that_fails_or_is_killed_is_taken_up_again() {
    let faults = [
        FaultKind::Fail { exit: 255, stderr: "something went wrong".into() },
        FaultKind::FailAfterwards { exit: 2, stderr: "bridge 'x' does not exist".into() },
        FaultKind::Locked { lock: "backup".into() },
        FaultKind::Killed { signal: 9 },
    ];
    for fault in faults {
        let Some(world) = world(false) else { return };
        declare(&world, SOON, &["a"]);
        world.node.inject(Fault::next(fault.clone()).on("set")).unwrap();
        let daemon: Daemon = world.pctd.start();
        until_conf(&world, &[UNPRIVILEGED, THEIRS, A]);
        daemon.until_all("Converged");
        daemon.stop();
        assert!(world.calls().len() <= 4, "{fault:?}: {:?}", world.calls());
    }
}

#[test]
fn a_mount_of_others_is_taken_over_where_that_is_asked_for() {
    let Some(world) = World::new(PROGRAM) else { return };
    world.dir("/srv/old", 100_000, 0o755);
    world.dir("/tank/b", 100_000, 0o755);
    world
        .container(100, &[UNPRIVILEGED, "mp0: /srv/old,mp=/a,ro=1", "mp1: /tank/b,mp=/b,backup=0"]);
    let adopt = |name: &str| {
        let path = format!(r#""/{name}""#);
        volume(name).replace(&path, &format!(r#"{{"path": {path}, "adopt": true}}"#))
    };
    declare(&world, "", &["a"]);
    let report = world.apply(&[], 3);
    assert_eq!(holds(&report, "containers", "100"), ["ForeignMount"]);
    world.volumes("", &format!("{}, {}", adopt("a"), adopt("b")));
    world.apply(&[], 0);
    assert_eq!(world.calls(), ["set 100 --mp0 /tank/a,mp=/a"]);
    let both = [UNPRIVILEGED, "mp0: /tank/a,mp=/a", "mp1: /tank/b,mp=/b,backup=0"];
    assert_eq!(world.conf(100), conf(100, &both));
    // From now on both are pctd's.
    declare(&world, r#""prune": true"#, &[]);
    world.apply(&["100"], 0);
    assert_eq!(world.conf(100), conf(100, &[UNPRIVILEGED]));
}

#[test]
fn mount_options_are_taken_back_by_an_empty_list() {
    let Some(world) = World::new(PROGRAM) else { return };
    world.dir("/tank/b", 100_000, 0o755);
    world.container(100, &[UNPRIVILEGED, "mp0: /tank/b,mp=/b,mountoptions=nosuid,ro=1"]);
    let path = r#"{"path": "/b", "mount_options": []}"#;
    world.volumes("", &volume("b").replace(r#""/b""#, path));
    world.apply(&[], 0);
    assert_eq!(world.conf(100), conf(100, &[UNPRIVILEGED, "mp0: /tank/b,mp=/b,ro=1"]));
    assert_eq!(world.plan().0, 0);
}
