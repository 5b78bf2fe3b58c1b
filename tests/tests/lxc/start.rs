//! While it starts, a container's hooks have the ids of the host; and while it runs, it has the map
//! it was started with.

use super::*;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use pctd_tests::world::{conf, holds};

const OWNER: &str = r#""owner": "container_root", "enforce": "always""#;

#[test]
fn while_its_hooks_run_with_the_hosts_ids_its_volume_keeps_its_owner() {
    let Some(this) = Real::new(Timings { start_ms: 1500, ..Timings::default() }) else { return };
    let world = &this.world;
    world.file("/tank/data/file", 0, 0o644);
    world.container(100, &[UNPRIVILEGED]);
    let daemon = this.converged(OWNER);
    let stop = AtomicBool::new(false);
    let (owners, waits) = std::thread::scope(|scope| {
        let owners = scope.spawn(|| {
            let mut seen = BTreeSet::new();
            while !stop.load(Ordering::Relaxed) {
                seen.insert(world.owner("/tank/data"));
                seen.insert(world.owner("/tank/data/file"));
                std::thread::sleep(Duration::from_millis(1));
            }
            seen
        });
        let started = scope.spawn(|| this.start());
        let mut waits = BTreeSet::new();
        while !started.is_finished() {
            // Whatever makes it look: a file of the host's root, an admin who asks.
            world.file("/tank/data/more", 0, 0o644);
            let report = world.pctd.json(&["apply", "data"]);
            waits.extend(holds(&report, "volumes", "data"));
            let text = report["volumes"]["data"]["holds"][0]["message"].to_string();
            waits.extend(text.contains("it is starting").then(|| "it is starting".to_owned()));
            std::thread::sleep(Duration::from_millis(50));
        }
        started.join().unwrap();
        stop.store(true, Ordering::Relaxed);
        (owners.join().unwrap(), waits)
    });
    assert_eq!(owners, BTreeSet::from(["100000:100000 0755".into(), "100000:100000 0644".into()]));
    let expected: BTreeSet<String> = ["IdmapNotReady".into(), "it is starting".into()].into();
    assert!(waits.is_superset(&expected), "{waits:?}");
    daemon.until_all("Converged");
    eventually("put right", || world.owner("/tank/data/more") == "100000:100000 0644");
    daemon.stop();
}

#[test]
fn a_map_that_was_edited_counts_from_the_next_start() {
    let Some(this) = Real::new(Timings::default()) else { return };
    let world = &this.world;
    world.file("/tank/data/file", 0, 0o644);
    world.running(100, &[UNPRIVILEGED]);
    let daemon = this.converged(r#""owner": "container:1000", "enforce": "always""#);
    assert_eq!(this.seen(&["file"]), ["1000:1000 644"]);
    let lines = [&["mp0: /tank/data,mp=/data", UNPRIVILEGED], &HOLE[..]].concat();
    world.node.write_conf(ctid(100), conf(100, &lines)).unwrap();
    daemon.until("reported", |status| {
        status["containers"]["100"]["notices"][0]["reason"] == "IdmapPendingRestart"
    });
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(world.owner("/tank/data/file"), "101000:101000 0644");
    assert_eq!(this.seen(&["file"]), ["1000:1000 644"]);
    world.pct(&["reboot", "100"]);
    eventually("owned anew", || world.owner("/tank/data/file") == "1000:1000 0644");
    assert_eq!(this.seen(&["file"]), ["1000:1000 644"]);
    daemon.until_all("Converged");
    daemon.stop();
}

#[test]
fn a_container_that_an_admin_started_in_the_background_has_its_map_too() {
    let Some(this) = Real::new(Timings::default()) else { return };
    let world = &this.world;
    world.file("/tank/data/file", 0, 0o644);
    world.running(100, &[UNPRIVILEGED]);
    world.pct(&["stop", "100"]);
    // The process that made the socket is gone, as lxc-start is without `-F`.
    let started = std::process::Command::new("lxc-start")
        .args(["-n", "100", "-P"])
        .arg(world.host("/var/lib/lxc"))
        .status()
        .unwrap();
    assert!(started.success());
    let lines = [&[UNPRIVILEGED], &HOLE[..]].concat();
    world.node.write_conf(ctid(100), conf(100, &lines)).unwrap();
    let daemon = this.converged(r#""owner": "container:1000", "enforce": "always""#);
    assert_eq!(world.owner("/tank/data/file"), "101000:101000 0644");
    assert_eq!(this.seen(&["file"]), ["1000:1000 644"]);
    daemon.stop();
}
