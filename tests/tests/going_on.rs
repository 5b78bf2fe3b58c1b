//! A daemon that ends in the middle of a walk goes on there when it is back.

#![expect(clippy::unwrap_used, reason = "what fails in a helper ends the test")]

use std::fs;
use std::path::Path;
use std::process::Command;

use pctd_tests::daemon::eventually;
use pctd_tests::world::{Tmpfs, UNPRIVILEGED, World};
use rustix::process::Signal;

const DIRECTORIES: u64 = 1_500;
const FILES: u64 = 10;
/// With the root.
const ENTRIES: u64 = DIRECTORIES * (FILES + 1) + 1;

/// On one thread, so that it lasts long enough to be interrupted.
const SETTINGS: &str = r#""walk_threads": 1, "confirm_above": 100000"#;
const VOLUME: &str = r#""data": {"host_path": "/tank/data", "mounts": {"100": "/data"},
    "owner": "4242:4242", "enforce": "always", "dir_mode": "0775", "file_mode": "0664"}"#;

/// A node with a volume of [`ENTRIES`] entries, and the file system it is on.
fn house() -> Option<(World, Tmpfs)> {
    let world = World::new(env!("CARGO_BIN_EXE_pctd-tests"))?;
    world.container(100, &[UNPRIVILEGED]);
    let tank = Tmpfs::mount(&world.dir("/tank", 0, 0o755))?;
    let root = world.dir("/tank/data", 0, 0o755);
    let script = format!(
        "seq {DIRECTORIES} | xargs mkdir; \
         for f in $(seq {FILES}); do seq {DIRECTORIES} | sed s,$,/$f, | xargs touch; done"
    );
    sh(&root, &script);
    world.volumes(SETTINGS, VOLUME);
    Some((world, tank))
}

fn sh(dir: &Path, script: &str) {
    let status = Command::new("sh").args(["-euc", script]).current_dir(dir).status().unwrap();
    assert!(status.success(), "{script}");
}

/// Starts the daemon and waits until every entry was looked at by one walk; returns of each walk that
/// went on where another had been interrupted how many entries there are, and how many it believed.
fn until_walked(world: &World) -> Vec<(u64, u64)> {
    let daemon = world.pctd.spawn(&[("RUST_LOG", "debug")]);
    daemon.wait_for("READY=1");
    daemon.until("walked", |status| status["volumes"]["data"]["assurance"] == "Walk");
    let log = daemon.log();
    daemon.stop();
    let went_on = log.lines().filter(|line| line.contains("a walk went on"));
    went_on.map(|line| (number(line, "ENTRIES="), number(line, "BELIEVED="))).collect()
}

fn number(line: &str, name: &str) -> u64 {
    let from = line.split(name).nth(1).unwrap();
    from.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
}

#[test]
fn a_repair_that_was_killed_or_stopped_goes_on_and_a_whole_walk_follows() {
    for signal in [Signal::KILL, Signal::TERM] {
        let Some((world, _tank)) = house() else { return };
        let bookmark = world.host("/var/lib/pctd/walks/repair/data");
        let mut daemon = world.pctd.start();
        eventually("the repair is under way", || {
            fs::metadata(&bookmark).is_ok_and(|file| file.len() > 4096)
        });
        daemon.signal(signal);
        daemon.wait();
        assert_eq!(world.owner("/tank/data"), "0:0 0755", "the root comes last");
        // The audit of the next start, and its repair; the audit after that is whole.
        let went_on = until_walked(&world);
        println!("{signal:?}: {went_on:?}");
        assert_eq!(went_on.len(), 2, "{went_on:?}");
        for (entries, believed) in went_on {
            assert_eq!(entries, ENTRIES);
            // What was noted before the kill: 512 directories at least.
            assert!(believed >= 512 * FILES, "{believed}");
        }
        assert_eq!(world.owner("/tank/data"), "4242:4242 0775");
        let root = world.host("/tank/data");
        let wrong =
            Command::new("find").arg(&root).args(["-not", "-uid", "4242"]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&wrong.stdout), "");
        assert!(!bookmark.exists());
    }
}

#[test]
fn a_verify_that_was_killed_goes_on_and_a_whole_walk_follows() {
    let Some((world, _tank)) = house() else { return };
    sh(&world.host("/tank/data"), "chown -R 4242:4242 .; chmod -R u=rwX,g=rwX,o=rX .");
    let bookmark = world.host("/var/lib/pctd/walks/audit/data");
    // It takes some ten milliseconds, so it may be over before it is killed.
    let was_interrupted = (0..20).any(|_| {
        let mut daemon = world.pctd.spawn(&[]);
        let under_way = || fs::metadata(&bookmark).is_ok_and(|file| file.len() > 4096);
        eventually("a verify", || under_way() || daemon.log().contains("in place"));
        daemon.signal(Signal::KILL);
        daemon.wait();
        under_way()
    });
    assert!(was_interrupted);
    let went_on = until_walked(&world);
    let [(entries, believed)] = went_on[..] else { panic!("{went_on:?}") };
    assert_eq!(entries, ENTRIES);
    assert!(believed >= 512 * FILES, "{believed}");
    assert!(!bookmark.exists());
}
