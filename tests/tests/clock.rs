//! A clock that jumps while the daemon runs, forward and back, by hours.

#![expect(clippy::unwrap_used, reason = "what fails in a helper ends the test")]

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use pctd_sandbox::{Fault, FaultKind, Guest};
use pctd_tests::clock::Clock;
use pctd_tests::daemon::{eventually, text};
use pctd_tests::world::{UNPRIVILEGED, World, ctid};

const HOUR: i64 = 60 * 60;

/// A running container, and a clock.
fn world() -> Option<(World, Clock)> {
    let world = World::new(env!("CARGO_BIN_EXE_pctd-tests"))?;
    let clock = Clock::new(&world);
    world.node.update_settings(|settings| settings.timings.second_ms = 20).unwrap();
    world.dir("/tank/a", 100_000, 0o755);
    world.running(100, &[UNPRIVILEGED]);
    Some((world, clock))
}

/// Declares the mount; another `read_only` needs a restart.
fn declare(world: &World, read_only: bool) {
    declare_at(world, "/tank/a", read_only);
}

fn declare_at(world: &World, source: &str, read_only: bool) {
    world.volumes(
        r#""restart_timeout": "1s", "restart_limit": "1s", "resync_interval": "1s""#,
        &format!(
            r#""a": {{"host_path": "{source}", "owner": "container_root", "create": false,
                "mounts": {{"100": {{"path": "/a", "read_only": {read_only}}}}},
                "certificates": [{{"domain": "a.b", "days": 1, "renew_before": "1h"}}]}}"#
        ),
    );
}

fn ran(world: &World, command: &str) -> usize {
    world.calls().iter().filter(|call| call.starts_with(command)).count()
}

/// Returns when the certificate expires.
fn expires(world: &World) -> i64 {
    let ledger = text(&world.host("/var/lib/pctd/ledger.json"));
    let ledger: serde_json::Value = serde_json::from_str(&ledger).unwrap_or_default();
    ledger["certificates"]["a"]["a.b"]["made"]["expires"].as_i64().unwrap_or_default()
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().try_into().unwrap()
}

#[test]
fn a_restart_by_a_clock_that_was_ahead_puts_off_no_later_one() {
    let Some((world, clock)) = world() else { return };
    clock.set(5 * HOUR);
    declare(&world, false);
    let daemon = world.pctd.spawn(&clock.variables());
    daemon.wait_for("READY=1");
    daemon.until_all("Converged");
    declare(&world, true);
    eventually("it was restarted", || ran(&world, "reboot") == 1);
    daemon.until_all("Converged");
    clock.set(0);
    declare(&world, false);
    eventually("it is restarted again", || ran(&world, "reboot") == 2);
    daemon.until_all("Converged");
    daemon.stop();
}

#[test]
fn a_start_that_is_owed_is_owed_after_a_jump_of_the_clock() {
    let Some((world, clock)) = world() else { return };
    declare(&world, false);
    let daemon = world.pctd.spawn(&clock.variables());
    daemon.wait_for("READY=1");
    daemon.until_all("Converged");
    // Another source for the mount, which goes away while the container is down for it.
    let gone = world.dir("/tank/new", 100_000, 0o755);
    world.node.set_guest(ctid(100), Guest::Slow(400)).unwrap();
    declare_at(&world, "/tank/new", false);
    eventually("it is being restarted", || ran(&world, "reboot") == 1);
    let fault = FaultKind::Fail { exit: 255, stderr: "no such device".into() };
    world.node.inject(Fault::next(fault).on("start").times(3)).unwrap();
    fs::remove_dir_all(gone).unwrap();
    clock.set(3 * HOUR);
    eventually("it is started again", || {
        ran(&world, "start") > 3 && world.node.is_running(ctid(100))
    });
    daemon.stop();
}

#[test]
fn a_certificate_by_a_clock_that_was_ahead_is_made_anew() {
    let Some((world, clock)) = world() else { return };
    clock.set(5 * HOUR);
    declare(&world, false);
    let daemon = world.pctd.spawn(&clock.variables());
    eventually("it is made", || expires(&world) > 0);
    // This is also what shows that the daemon has that clock.
    let until = expires(&world) - now();
    assert!((28 * HOUR..=29 * HOUR).contains(&until), "{until}");
    daemon.until_all("Converged");
    let made = text(&world.host("/tank/a/a.b.crt"));
    clock.set(0);
    eventually("it is made anew", || expires(&world) - now() <= 24 * HOUR);
    eventually("it is in place", || text(&world.host("/tank/a/a.b.crt")) != made);
    daemon.until_all("Converged");
    daemon.stop();
}
