//! `pctd apply` while a daemon is at work: what is applied is what was read, or nothing.

#![expect(clippy::unwrap_used, reason = "what fails in a helper ends the test")]

use std::fs;

use pctd_tests::daemon::{Daemon, Ran, eventually};
use pctd_tests::world::{UNPRIVILEGED, World};

/// The configuration with these volumes, each in 100 and of its root's.
fn with(volumes: &[&str]) -> String {
    let volume = |name: &&str| {
        format!(
            r#""{name}": {{"host_path": "/tank/{name}", "owner": "container_root",
            "mounts": {{"100": "/{name}"}}}}"#
        )
    };
    let volumes: Vec<String> = volumes.iter().map(volume).collect();
    // Nothing but an event tells the daemon of an edit, and that takes it a moment.
    format!(
        r#"{{"settings": {{"seed_defaults": false, "poll_interval": "1h"}}, "shared_volumes": {{{}}}}}"#,
        volumes.join(", ")
    )
}

fn world() -> Option<(World, Daemon)> {
    let world = World::new(env!("CARGO_BIN_EXE_pctd-tests"))?;
    world.container(100, &[UNPRIVILEGED]);
    world.config(&with(&["a"]));
    let daemon = world.pctd.start();
    daemon.until_all("Converged");
    Some((world, daemon))
}

/// Runs `apply` with another configuration than the daemon's.
fn apply_other(world: &World, text: &str) -> Ran {
    let other = world.host("/etc/pctd/other.txt");
    fs::write(&other, text).unwrap();
    world.pctd.run(&["apply", "--config", other.to_str().unwrap()])
}

fn is_mounted(world: &World, volume: &str) -> bool {
    world.conf(100).contains(&format!(": /tank/{volume},mp=/{volume}"))
}

#[test]
fn apply_right_after_an_edit_applies_the_edit() {
    let Some((world, daemon)) = world() else { return };
    let all = ["a", "b", "c", "d"];
    for (edited, named) in [(2, &[][..]), (3, &["c"]), (4, &[])] {
        world.config(&with(&all[..edited]));
        let report = world.apply(named, 0);
        let new = all[edited - 1];
        assert_eq!(report["volumes"][new]["error"], serde_json::Value::Null, "{report:#}");
        assert!(world.host(&format!("/tank/{new}")).is_dir(), "{report:#}");
    }
    assert!(is_mounted(&world, "b") && is_mounted(&world, "d"), "{}", world.conf(100));
    // And back: what was taken out is no key any more.
    world.config(&with(&["a"]));
    let report = world.apply(&[], 0);
    assert_eq!(report["volumes"].as_object().unwrap().len(), 1, "{report:#}");
    daemon.stop();
}

#[test]
fn another_configuration_than_the_daemons_is_not_applied_and_it_is_said_what_differs() {
    let Some((world, daemon)) = world() else { return };
    let calls = world.calls();
    let ran = apply_other(&world, &with(&["a", "b"]));
    assert_eq!(ran.code, 1, "{ran:?}");
    let own = world.host("/etc/pctd/config.json").display().to_string();
    for said in [
        "the daemon has another configuration in force",
        "other.txt is not among what the daemon reads",
        &format!("{own}, which the daemon reads, is not in yours"),
        "apply what it reads (again, if that was just edited), or stop it first",
    ] {
        assert!(ran.stderr.contains(said), "{said} is not in {ran:?}");
    }
    assert_eq!(world.calls(), calls);
    assert!(!world.host("/tank/b").exists());
    // The contents count, wherever they are.
    let ran = apply_other(&world, &with(&["a"]));
    assert_eq!(ran.code, 0, "{ran:?}");
    daemon.stop();
}

#[test]
fn an_edit_with_a_mistake_is_not_applied_and_it_is_said_what_stays_in_force() {
    let Some((world, daemon)) = world() else { return };
    let calls = world.calls();
    world.config("{\n  \"shared_volumes\": 7}");
    let ran = world.pctd.run(&["apply"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.stderr.contains("config.json:2:"), "{ran:?}");
    assert!(ran.stderr.contains("the daemon goes on with the last good configuration"), "{ran:?}");
    // Whoever has a good one beside it hears where the mistake in the daemon's is.
    let ran = apply_other(&world, &with(&["a", "b"]));
    assert_eq!(ran.code, 1, "{ran:?}");
    for said in
        ["the daemon refuses its configuration, the last good one stays in force", "config.json:2:"]
    {
        assert!(ran.stderr.contains(said), "{said} is not in {ran:?}");
    }
    // What is in force can still be applied.
    let ran = apply_other(&world, &with(&["a"]));
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(world.calls(), calls);
    world.config(&with(&["a", "b"]));
    world.apply(&[], 0);
    eventually("it is mounted", || is_mounted(&world, "b"));
    daemon.stop();
    // Without a daemon there is none that goes on.
    world.config("{");
    let ran = world.pctd.run(&["apply"]);
    assert!(ran.code == 1 && !ran.stderr.contains("daemon"), "{ran:?}");
}
