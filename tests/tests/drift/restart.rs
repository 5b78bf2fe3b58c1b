//! What was changed while no daemon watched.

use super::*;

#[test]
fn after_a_restart_directories_tell_what_changed_before_the_walk_does() {
    let Some(this) = Drifting::new() else { return };
    this.world.dir("/tank/data/a/b", 4242, 0o775);
    this.world.file("/tank/data/a/b/old", 4242, 0o664);
    let assured = |daemon: &Daemon, wanted: &str| {
        let what = format!("in place because of {wanted}");
        daemon.until(&what, |status| status["volumes"]["data"]["assurance"] == wanted);
    };
    let daemon = this.watched("", ALWAYS);
    assured(&daemon, "Walk");
    // Written as well: the trace of the walk.
    daemon.stop();
    let dir = this.world.host("/tank/data");
    sh(&dir, "mkdir -p new/tree; echo x > new/tree/f; echo x > a/b/new; chmod 600 a/b/old");
    let log = {
        let daemon = this.world.pctd.spawn(&[("RUST_LOG", "debug")]);
        for path in ["new/tree/f", "a/b/new", "a/b/old"] {
            this.becomes(&format!("/tank/data/{path}"), "4242:4242 0664");
        }
        assured(&daemon, "Walk");
        let log = daemon.log();
        daemon.stop();
        log
    };
    // The root and a/b changed; a did not.
    let compared = log.lines().find(|line| line.contains("compared the directories"));
    let compared = compared.unwrap_or_else(|| panic!("{log}"));
    assert!(compared.contains("DIRECTORIES=3") && compared.contains("CHANGED=2"), "{compared}");
    // Another declaration is another matter: what was noted was not of it.
    this.declare("", &ALWAYS.replace("4242", "5353"));
    let daemon = this.world.pctd.spawn(&[("RUST_LOG", "debug")]);
    this.becomes("/tank/data/a/b/old", "5353:5353 0664");
    assured(&daemon, "Walk");
    assert!(!daemon.log().contains("compared the directories"), "{}", daemon.log());
    daemon.stop();
}

#[test]
fn after_a_restart_another_directory_under_the_path_is_believed_nothing() {
    let Some(this) = Drifting::new() else { return };
    let daemon = this.watched("", ALWAYS);
    daemon.until("walked", |status| status["volumes"]["data"]["assurance"] == "Walk");
    daemon.stop();
    // With the right owner and mode, so that nothing but the walk can tell.
    fs::rename(this.world.host("/tank/data"), this.world.host("/tank/old")).unwrap();
    this.world.dir("/tank/data/a", 4242, 0o775);
    this.world.dir("/tank/data", 4242, 0o775);
    this.world.file("/tank/data/a/f", 7, 0o600);
    let daemon = this.world.pctd.start();
    this.becomes("/tank/data/a/f", "4242:4242 0664");
    assert!(!daemon.log().contains("compared the directories"), "{}", daemon.log());
    daemon.stop();
}
