//! Whose the files are, seen from inside.

use super::*;

const ADOPT: &str = r#""owner": "container_root", "dir_mode": "0775", "file_mode": "0664""#;

#[test]
fn in_an_unprivileged_container_files_are_roots_and_a_services_stay_its_own() {
    let Some(this) = Real::new(Timings::default()) else { return };
    let world = &this.world;
    world.file("/tank/data/host", 0, 0o600);
    world.file("/tank/data/user", 1000, 0o600);
    world.file("/tank/data/service", 101_000, 0o600);
    world.container(100, &[UNPRIVILEGED]);
    let daemon = this.converged(ADOPT);
    this.start();
    let seen = this.seen(&["", "host", "user", "service"]);
    assert_eq!(seen, ["0:0 775", "0:0 664", "0:0 664", "1000:1000 600"]);
    this.inside("echo more >> /data/host; mkdir /data/made; echo x > /data/made/x");
    assert_eq!(world.owner("/tank/data/made/x"), "100000:100000 0644");
    assert_eq!(this.inside("cat /proc/self/uid_map").split_whitespace().nth(1), Some("100000"));
    // A restart of it brings the mount back, and nothing is left to do.
    let calls = world.calls();
    world.pct(&["reboot", "100"]);
    assert_eq!(this.seen(&["host"]), ["0:0 664"]);
    daemon.until_all("Converged");
    assert_eq!(world.calls(), calls);
    daemon.stop();
}

#[test]
fn in_a_privileged_container_roots_files_are_the_hosts_roots() {
    let Some(this) = Real::new(Timings::default()) else { return };
    this.world.dir("/tank/data", 100_000, 0o755);
    this.world.file("/tank/data/service", 1000, 0o600);
    this.world.container(100, &[]);
    let daemon = this.converged(r#""owner": "container_root", "dir_mode": "0775""#);
    this.start();
    this.inside("echo x > /data/made; cat /data/service");
    assert_eq!(this.seen(&["", "made", "service"]), ["0:0 775", "0:0 644", "1000:1000 600"]);
    assert_eq!(this.world.owner("/tank/data"), "0:0 0775");
    daemon.stop();
}

#[test]
fn with_a_hole_in_the_map_only_what_nobody_inside_owns_is_taken() {
    let Some(this) = Real::new(Timings::default()) else { return };
    let files = [
        ("0", 0, "0:0 664"),
        ("1000", 1000, "1000:1000 600"),
        ("100999", 100_999, "999:999 600"),
        ("101000", 101_000, "0:0 664"),
        ("101001", 101_001, "1001:1001 600"),
        ("165536", 165_536, "0:0 664"),
    ];
    for (name, owner, _) in files {
        this.world.file(&format!("/tank/data/{name}"), owner, 0o600);
    }
    this.world.container(100, &[&[UNPRIVILEGED], &HOLE[..]].concat());
    let daemon = this.converged(ADOPT);
    this.start();
    let seen = this.seen(&files.map(|(name, ..)| name));
    assert_eq!(seen, files.map(|(.., expected)| expected));
    // What the user of the passed-through id makes is the host user's.
    this.inside("cd /data; touch by; chown 1000:1000 by");
    assert_eq!(this.world.owner("/tank/data/by"), "1000:1000 0644");
    daemon.stop();
}

#[test]
fn a_mount_is_plugged_into_a_container_that_runs_on() {
    let Some(this) = Real::new(Timings::default()) else { return };
    let world = &this.world;
    world.file("/tank/data/host", 0, 0o600);
    world.running(100, &[UNPRIVILEGED]);
    assert_eq!(this.inside("ls / | grep -c data || true"), "0");
    // Of this start and no other.
    let init = || world.pctd.json(&["inspect", "100"])["running"].to_string();
    let before = init();
    let daemon = this.converged(ADOPT);
    assert_eq!(this.seen(&["", "host"]), ["0:0 775", "0:0 664"]);
    this.inside("echo x >> /data/host; echo y > /data/made");
    assert_eq!(world.owner("/tank/data/made").split(' ').next(), Some("100000:100000"));
    assert_eq!(init(), before);
    assert_eq!(world.calls(), ["set 100 --mp0 /tank/data,mp=/data"]);
    // Another one of it, read-only, in a directory that is not there yet.
    world.dir("/tank/more", 0, 0o755);
    world.pct(&["set", "100", "--mp1", "/tank/more,mp=/srv/more,ro=1"]);
    assert_eq!(this.inside("touch /srv/more/x 2>/dev/null || echo refused"), "refused");
    assert_eq!(this.inside("stat -c %u:%g /srv"), "0:0");
    daemon.stop();
}
