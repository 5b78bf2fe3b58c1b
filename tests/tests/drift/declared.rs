//! What is declared counts for events as it does for walks: what is held, edited or left alone.

use pctd_tests::world::holds;

use super::*;

#[test]
fn a_volume_that_is_held_is_not_touched_by_events_either() {
    let Some(this) = Drifting::new() else { return };
    for n in 0..5 {
        this.world.file(&format!("/tank/data/{n}"), 0, 0o600);
    }
    this.declare(r#""confirm_above": 3"#, ALWAYS);
    let daemon = this.world.pctd.start();
    daemon.until("held", |status| {
        holds(status, "volumes", "data").contains(&"ConfirmationRequired".to_owned())
    });
    this.world.file("/tank/data/0", 0, 0o640);
    this.world.file("/tank/data/new", 0, 0o640);
    std::thread::sleep(QUIET);
    assert_eq!(this.world.owner("/tank/data/0"), "0:0 0640");
    assert_eq!(this.world.owner("/tank/data/new"), "0:0 0640");
    assert_eq!(watched(&daemon.status())["reason"], "Armed");
    this.world.apply(&["data", "--yes"], 0);
    until_watched(&daemon);
    // Kept since it was armed, or seen by the pass.
    this.becomes("/tank/data/new", "4242:4242 0664");
    daemon.stop();
}

#[test]
fn an_edit_of_the_declaration_is_what_counts_from_then_on() {
    let Some(this) = Drifting::new() else { return };
    let daemon = this.watched("", ALWAYS);
    this.declare("", &ALWAYS.replace("4242", "5353"));
    this.becomes("/tank/data", "5353:5353 0775");
    until_watched(&daemon);
    this.world.file("/tank/data/f", 0, 0o600);
    this.becomes("/tank/data/f", "5353:5353 0664");
    // Observed only: nothing is changed by anything.
    this.declare(r#""mode": "observe""#, ALWAYS);
    daemon.until("observing", |status| watched(status)["reason"] == "PeriodicVerify");
    this.world.file("/tank/data/f", 0, 0o600);
    std::thread::sleep(QUIET);
    assert_eq!(this.world.owner("/tank/data/f"), "0:0 0600");
    // Not declared any more: left alone.
    this.declare("", ALWAYS);
    this.becomes("/tank/data/f", "4242:4242 0664");
    this.world.volumes(CALM, "");
    daemon.until("nothing declared", |status| status["volumes"].as_object().unwrap().is_empty());
    this.world.file("/tank/data/f", 0, 0o600);
    std::thread::sleep(QUIET);
    assert_eq!(this.world.owner("/tank/data/f"), "0:0 0600");
    daemon.stop();
}

#[test]
fn an_edit_that_would_change_many_is_asked_about_however_young_they_are() {
    let Some(this) = Drifting::new() else { return };
    let daemon = this.watched(r#""confirm_above": 10"#, ALWAYS);
    for n in 0..30 {
        this.world.file(&format!("/tank/data/{n}"), 0, 0o600);
    }
    this.becomes("/tank/data/29", "4242:4242 0664");
    eventually("none is wrong", || wrong(&this.world.host("/tank/data")).is_empty());
    // All of them changed since the volume is watched; that makes a typing error no drift.
    let is_held = |status: &Value| {
        holds(status, "volumes", "data").contains(&"ConfirmationRequired".to_owned())
    };
    this.declare(r#""confirm_above": 10"#, &ALWAYS.replace("4242:4242", "5353:5353"));
    daemon.until("held", is_held);
    this.declare(r#""confirm_above": 10"#, ALWAYS);
    until_watched(&daemon);
    // Nor does another path, with young entries of its own.
    this.world.dir("/tank/precious", 0, 0o755);
    for n in 0..30 {
        this.world.file(&format!("/tank/precious/{n}"), 7, 0o600);
    }
    let precious = r#""data": {"host_path": "/tank/precious", "mounts": {"100": "/data"},"#;
    let settings = format!(r#"{CALM}, "confirm_above": 10"#);
    this.world.volumes(&settings, &format!("{precious} {ALWAYS}}}"));
    daemon.until("held", is_held);
    assert_eq!(this.world.owner("/tank/precious/7"), "7:7 0600");
    assert_eq!(this.world.owner("/tank/data/7"), "4242:4242 0664");
    daemon.stop();
}

#[test]
fn a_walk_that_an_edit_ended_brings_its_old_rule_not_back() {
    let Some(this) = Drifting::new() else { return };
    let dir = this.world.host("/tank/data");
    sh(
        &dir,
        "seq 600 | xargs mkdir; for f in 1 2 3 4 5; do seq 600 | sed s,$,/$f, | xargs touch; done",
    );
    let one_thread = r#""walk_threads": 1, "confirm_above": 100000"#;
    let daemon = this.watched(one_thread, ALWAYS);
    // A verify that an admin asks for, and in the middle of it another declaration, which is held.
    let pctd = this.world.pctd.clone();
    for n in 0..5 {
        let asked = std::thread::spawn({
            let pctd = pctd.clone();
            move || pctd.run(&["apply", "data"])
        });
        let walks = this.world.host("/var/lib/pctd/walks/audit/data");
        eventually("a walk", || walks.exists() || asked.is_finished());
        let other = ALWAYS.replace("4242", "5353");
        this.declare(r#""walk_threads": 1, "confirm_above": 10"#, &other);
        daemon.until("held", |status| {
            holds(status, "volumes", "data").contains(&"ConfirmationRequired".to_owned())
        });
        this.world.file("/tank/data/f", 0, 0o600);
        std::thread::sleep(QUIET);
        assert_eq!(this.world.owner("/tank/data/f"), "0:0 0600", "{n}");
        this.declare(one_thread, ALWAYS);
        asked.join().unwrap();
        this.becomes("/tank/data/f", "4242:4242 0664");
        until_watched(&daemon);
    }
    daemon.stop();
}

#[test]
fn once_means_once() {
    let Some(this) = Drifting::new() else { return };
    this.world.file("/tank/data/before", 100_999, 0o600);
    let daemon = this.watched("", &ADOPT.replacen("owner", r#"enforce": "once", "owner"#, 1));
    assert_eq!(this.world.owner("/tank/data/before"), "100000:100000 0664");
    own(&this.world.host("/tank/data/before"), 100_999, 100_999);
    // Whole at once: a mode that is set after the watch gave it to the container is the container's.
    let outside = this.world.file("/tank/nobodys", 0, 0o600);
    fs::rename(outside, this.world.host("/tank/data/nobodys")).unwrap();
    this.becomes("/tank/data/nobodys", "100000:100000 0664");
    std::thread::sleep(QUIET);
    assert_eq!(this.world.owner("/tank/data/before"), "100999:100999 0664");
    daemon.stop();
}

#[test]
fn a_moved_in_tree_of_many_needs_a_confirmation_like_any_other() {
    let Some(this) = Drifting::new() else { return };
    let daemon = this.watched(r#""confirm_above": 10"#, ALWAYS);
    this.world.dir("/tank/other", 0, 0o700);
    for n in 0..30 {
        this.world.file(&format!("/tank/other/{n}"), 0, 0o600);
    }
    // Older than the watch of the volume is what counts as no drift of it.
    daemon.stop();
    let daemon = this.watched(r#""confirm_above": 10"#, ALWAYS);
    fs::rename(this.world.host("/tank/other"), this.world.host("/tank/data/other")).unwrap();
    daemon.until("held", |status| {
        holds(status, "volumes", "data").contains(&"ConfirmationRequired".to_owned())
    });
    let wrong =
        (0..30).filter(|n| this.world.owner(&format!("/tank/data/other/{n}")) == "0:0 0600");
    assert!(wrong.count() >= 20);
    daemon.stop();
}
