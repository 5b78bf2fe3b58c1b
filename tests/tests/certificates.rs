//! Certificates in volumes: made when both files are missing, renewed when they are pctd's own, and
//! otherwise left alone.

#![expect(clippy::unwrap_used, reason = "what fails in a helper ends the test")]

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use pctd_tests::daemon::{eventually, text};
use pctd_tests::world::{UNPRIVILEGED, World, conf, holds, json_of};
use serde_json::{Value, json};

const KEY: &str = "/tank/ssl/a.b.key";
const CRT: &str = "/tank/ssl/a.b.crt";
const LEDGER: &str = "/var/lib/pctd/ledger.json";

/// A volume with a certificate, mounted in a stopped container.
fn world() -> Option<World> {
    let world = World::new(env!("CARGO_BIN_EXE_pctd-tests"))?;
    world.container(100, &[UNPRIVILEGED]);
    declare(&world, "");
    Some(world)
}

fn declare(world: &World, certificate: &str) {
    world.volumes(
        "",
        &format!(
            r#""ssl": {{"host_path": "/tank/ssl", "owner": "container_root",
                "dir_mode": "0755", "file_mode": "0644", "mounts": {{"100": "/ssl"}},
                "certificates": [{{"domain": "a.b" {certificate}}}]}}"#
        ),
    );
}

fn files(world: &World) -> (String, String) {
    (text(&world.host(KEY)), text(&world.host(CRT)))
}

fn ledger(world: &World) -> Value {
    serde_json::from_str(&text(&world.host(LEDGER))).unwrap()
}

/// Changes what the ledger says of the pair; nobody runs meanwhile.
fn rewrite(world: &World, change: impl Fn(&mut Value)) {
    let mut all = ledger(world);
    change(&mut all["certificates"]["ssl"]["a.b"]);
    fs::write(world.host(LEDGER), all.to_string()).unwrap();
}

#[test]
fn ensure_shared_ssl_certs_exist() {
    let Some(world) = world() else { return };
    let (code, plan) = world.plan();
    let steps = plan["volumes"]["ssl"]["steps"].as_array().unwrap();
    let names: Vec<_> = steps.iter().map(|step| step["step"].as_str().unwrap()).collect();
    assert_eq!((code, names), (3, vec!["create_directory", "set_ownership", "create_certificate"]));
    assert_eq!(world.owner(KEY), "");
    let daemon = world.pctd.start();
    daemon.until_all("Converged");
    assert_eq!(world.conf(100), conf(100, &["mp0: /tank/ssl,mp=/ssl", UNPRIVILEGED]));
    let owners = world.owners("/tank/ssl");
    let expected = [
        ("", "100000:100000 0755"),
        ("a.b.crt", "100000:100000 0644"),
        ("a.b.key", "100000:100000 0640"),
    ];
    assert_eq!(owners, expected.map(|(name, owner)| (name.into(), owner.into())).into());
    let log = daemon.log();
    let made = log.find("made a.b.key and a.b.crt in /tank/ssl").unwrap_or_else(|| panic!("{log}"));
    assert!(made < log.find("set mp0").unwrap(), "before anybody mounts it: {log}");
    daemon.stop();
    let before = world.stamps();
    world.apply(&["--yes"], 0);
    let changed = world.stamps().into_iter().filter(|(path, _)| path.starts_with("tank"));
    let unchanged = before.into_iter().filter(|(path, _)| path.starts_with("tank"));
    assert_eq!(changed.collect::<Vec<_>>(), unchanged.collect::<Vec<_>>());
}

#[test]
fn a_pair_of_somebody_else_is_left_and_named() {
    let Some(world) = world() else { return };
    world.dir("/tank/ssl", 100_000, 0o755);
    world.file(KEY, 100_000, 0o600);
    world.file(CRT, 100_000, 0o644);
    let report = world.apply(&[], 0);
    let notices = report["volumes"]["ssl"]["notices"].to_string();
    assert!(notices.contains("CertificateForeign"), "{report:#}");
    assert_eq!(files(&world), (KEY.to_owned(), CRT.to_owned()));
}

#[test]
fn half_a_pair_is_left_and_held_until_somebody_decides() {
    for half in [KEY, CRT] {
        let Some(world) = world() else { return };
        world.dir("/tank/ssl", 100_000, 0o755);
        world.file(half, 100_000, 0o600);
        let daemon = world.pctd.start();
        daemon.until("it is held", |s| holds(s, "volumes", "ssl") == ["CertificateBlocked"]);
        // The mount does not wait for what nobody may ever cure.
        eventually("it is mounted", || world.conf(100).contains("mp0: /tank/ssl,mp=/ssl"));
        assert_eq!(text(&world.host(half)), half);
        fs::remove_file(world.host(half)).unwrap();
        daemon.until_all("Converged");
        assert!(files(&world).0.starts_with("-----BEGIN PRIVATE KEY"));
        daemon.stop();
    }
}

#[test]
fn its_own_pair_is_renewed_before_it_expires_and_when_another_is_declared() {
    let Some(world) = world() else { return };
    world.apply(&[], 0);
    let first = files(&world);
    let pair = ledger(&world)["certificates"]["ssl"]["a.b"]["made"].clone();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let left = pair["expires"].as_u64().unwrap() - now;
    assert!((364 * 86_400..=365 * 86_400).contains(&left), "{left}");
    world.apply(&[], 0);
    assert_eq!(files(&world), first);
    // A month less a moment before its end.
    rewrite(&world, |record| record["made"]["expires"] = json!(now + 30 * 86_400 - 60));
    world.apply(&[], 0);
    let second = files(&world);
    assert!(second.0 != first.0 && second.1 != first.1);
    declare(&world, r#", "subject_alt_names": ["10.0.0.1"], "days": 90"#);
    let daemon = world.pctd.start();
    daemon.until_all("Converged");
    eventually("it is for another name", || files(&world).1 != second.1);
    daemon.until_all("Converged");
    daemon.stop();
    assert_eq!(world.owner(KEY), "100000:100000 0640");
    assert_eq!(world.owners("/tank/ssl").len(), 3, "nothing is left beside them");
    // What somebody put in its place is theirs from then on, however old it is.
    let third = files(&world);
    fs::write(world.host(CRT), "theirs").unwrap();
    rewrite(&world, |record| record["made"]["expires"] = json!(now));
    world.apply(&[], 0);
    assert_eq!(files(&world), (third.0, "theirs".to_owned()));
}

#[test]
fn what_a_crash_leaves_half_done_is_finished() {
    let Some(world) = world() else { return };
    world.apply(&[], 0);
    let interrupt = |record: &mut Value| {
        let pair = record["made"].take();
        record["making"] = json!([pair]);
    };
    // Killed after the files were there.
    let first = files(&world);
    rewrite(&world, interrupt);
    world.apply(&[], 0);
    assert_eq!(files(&world), first);
    assert_eq!(ledger(&world)["certificates"]["ssl"]["a.b"]["making"], json!([]));
    // Killed after the key was there.
    rewrite(&world, interrupt);
    fs::remove_file(world.host(CRT)).unwrap();
    world.apply(&[], 0);
    let second = files(&world);
    assert!(second.0 != first.0 && second.1.starts_with("-----BEGIN CERTIFICATE"));
    // Killed before anything was there.
    rewrite(&world, interrupt);
    fs::remove_file(world.host(KEY)).unwrap();
    fs::remove_file(world.host(CRT)).unwrap();
    world.apply(&[], 0);
    assert!(files(&world).0.starts_with("-----BEGIN PRIVATE KEY"));
}

#[test]
fn after_the_ledger_was_lost_nothing_is_made_anew() {
    let Some(world) = world() else { return };
    world.apply(&[], 0);
    let first = files(&world);
    fs::write(world.host(LEDGER), "{").unwrap();
    declare(&world, r#", "days": 90"#);
    world.apply(&["--yes"], 0);
    assert_eq!(files(&world), first);
}

#[test]
fn a_key_in_the_way_that_is_a_link_leads_nowhere() {
    let Some(world) = world() else { return };
    let dir = world.dir("/tank/ssl", 100_000, 0o755);
    let target = world.host("/etc/pctd/secret");
    fs::write(&target, "secret").unwrap();
    std::os::unix::fs::symlink(&target, dir.join("a.b.key")).unwrap();
    let report = world.apply(&[], 3);
    assert_eq!(holds(&report, "volumes", "ssl"), ["CertificateBlocked"]);
    assert_eq!(text(&target), "secret");
}

#[test]
fn a_daemon_killed_at_any_moment_leaves_a_whole_pair_in_the_end() {
    for delay in (0..12).map(|n| std::time::Duration::from_millis(5 * n)) {
        let Some(world) = world() else { return };
        let mut daemon = world.pctd.start();
        std::thread::sleep(delay);
        daemon.signal(rustix::process::Signal::KILL);
        daemon.wait();
        let ran = world.pctd.run(&["apply", "--yes", "--output-format", "json"]);
        assert_eq!(ran.code, 0, "{delay:?}: {:#}", json_of(&ran));
        let (key, certificate) = files(&world);
        assert!(key.starts_with("-----BEGIN PRIVATE KEY"), "{delay:?}");
        assert!(certificate.starts_with("-----BEGIN CERTIFICATE"), "{delay:?}");
    }
}
