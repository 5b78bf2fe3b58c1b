//! Owners and modes of real trees: what is touched, what is left, and in which order.

#![expect(clippy::unwrap_used, reason = "what fails in a helper ends the test")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use pctd_tests::daemon::eventually;
use pctd_tests::world::{Tmpfs, UNPRIVILEGED, World, holds, own};
use serde_json::Value;

/// Container root of the default map.
const ROOT: u32 = 100_000;

/// `postgres` of a Debian container, on the host.
const POSTGRES: u32 = 100_999;

/// A world with one unprivileged container, 100.
fn world() -> Option<World> {
    let world = World::new(env!("CARGO_BIN_EXE_pctd-tests"))?;
    world.container(100, &[UNPRIVILEGED]);
    Some(world)
}

/// Declares `/tank/data` of container root, mounted in 100.
fn declare(world: &World, settings: &str, fields: &str) {
    let comma = if fields.is_empty() { "" } else { "," };
    world.volumes(
        settings,
        &format!(
            r#""data": {{"host_path": "/tank/data", "owner": "container_root",
                "mounts": {{"100": "/data"}}{comma} {fields}}}"#
        ),
    );
}

/// A data directory as initdb leaves it, in a directory that root has made.
fn postgres(world: &World) {
    world.dir("/tank/data", 0, 0o755);
    for dir in ["base", "base/16384", "pg_wal", "global"] {
        world.dir(&format!("/tank/data/{dir}"), POSTGRES, 0o700);
    }
    for file in ["PG_VERSION", "base/16384/2619", "pg_wal/000000010000000000000001"] {
        world.file(&format!("/tank/data/{file}"), POSTGRES, 0o600);
    }
    symlink("base", world.host("/tank/data/link")).unwrap();
    own(&world.host("/tank/data/link"), POSTGRES, POSTGRES);
}

const MODES: &str = r#""dir_mode": "0775", "file_mode": "0664""#;

/// Does to `/tank/data` what the seed did, with the real programs.
fn seed(world: &World) {
    let path = world.host("/tank/data").display().to_string();
    for (program, arguments) in [
        ("chown", format!("-R {ROOT}:{ROOT} {path}")),
        ("find", format!("{path} -type d -exec chmod 775 {{}} ;")),
        ("find", format!("{path} -type f -exec chmod 664 {{}} ;")),
    ] {
        let status = Command::new(program).args(arguments.split(' ')).status().unwrap();
        assert!(status.success(), "{program} {arguments}");
    }
}

/// Returns what the seed makes of the tree that `furnish` makes.
fn as_the_seed_did(furnish: fn(&World)) -> BTreeMap<String, String> {
    let world = world().unwrap();
    furnish(&world);
    seed(&world);
    world.owners("/tank/data")
}

#[test]
fn what_a_service_in_the_container_owns_is_not_touched_by_default() {
    let Some(world) = world() else { return };
    postgres(&world);
    declare(&world, "", MODES);
    let (owners, mut stamps) = (world.owners("/tank/data"), world.stamps_of("/tank/data"));
    world.apply(&["--yes"], 0);
    let mut expected = owners;
    // Only the root directory was a stranger's.
    expected.insert(String::new(), format!("{ROOT}:{ROOT} 0775"));
    assert_eq!(world.owners("/tank/data"), expected);
    let mut after = world.stamps_of("/tank/data");
    assert_ne!(stamps.remove("tank/data"), after.remove("tank/data"));
    assert_eq!(after, stamps);
}

#[test]
fn always_does_as_the_seed_did_and_again_after_later_drift() {
    let Some(world) = world() else { return };
    let expected = as_the_seed_did(postgres);
    postgres(&world);
    declare(&world, "", &format!(r#"{MODES}, "enforce": "always""#));
    for _ in 0..2 {
        world.apply(&[], 0);
        assert_eq!(world.owners("/tank/data"), expected);
        own(&world.host("/tank/data/base/16384/2619"), POSTGRES, POSTGRES);
        world.file("/tank/data/PG_VERSION", POSTGRES, 0o600);
    }
}

#[test]
fn once_does_as_the_seed_did_and_then_leaves_what_services_make() {
    let Some(world) = world() else { return };
    let mut expected = as_the_seed_did(postgres);
    postgres(&world);
    declare(&world, "", &format!(r#"{MODES}, "enforce": "once""#));
    world.apply(&[], 0);
    assert_eq!(world.owners("/tank/data"), expected);
    // A service takes one back and makes another; a stranger drops one.
    world.file("/tank/data/PG_VERSION", POSTGRES, 0o600);
    world.file("/tank/data/made-inside", 101_000, 0o600);
    world.file("/tank/data/dropped", 0, 0o600);
    world.apply(&[], 0);
    expected.insert("PG_VERSION".into(), format!("{POSTGRES}:{POSTGRES} 0600"));
    expected.insert("made-inside".into(), "101000:101000 0600".into());
    expected.insert("dropped".into(), format!("{ROOT}:{ROOT} 0664"));
    assert_eq!(world.owners("/tank/data"), expected);
    // Another declaration is done once more, to every entry.
    declare(&world, "", r#""dir_mode": "0750", "file_mode": "0640", "enforce": "once""#);
    world.apply(&[], 0);
    for (name, owner) in world.owners("/tank/data") {
        let mode = match name.as_str() {
            "link" => "0777",
            "" | "base" | "base/16384" | "pg_wal" | "global" => "0750",
            _ => "0640",
        };
        assert_eq!(owner, format!("{ROOT}:{ROOT} {mode}"), "{name}");
    }
}

#[test]
fn a_pass_over_more_than_confirm_above_waits_until_it_is_confirmed_by_name() {
    let Some(world) = world() else { return };
    world.dir("/tank/data", 0, 0o755);
    for n in 0..8 {
        world.file(&format!("/tank/data/{n}"), 0, 0o644);
    }
    declare(&world, r#""confirm_above": 8"#, "");
    let before = world.stamps_of("/tank");
    let daemon = world.pctd.start();
    let waits = |status: &Value| holds(status, "volumes", "data") == ["ConfirmationRequired"];
    daemon.until("a confirmation is required", waits);
    let message = daemon.status()["volumes"]["data"]["holds"][0]["message"].to_string();
    assert!(message.contains("9 of 9") && message.contains("pctd apply data"), "{message}");
    world.apply(&[], 3);
    daemon.until("it is still required", waits);
    assert_eq!(world.stamps_of("/tank"), before);
    // The container need not wait for a word that may never come.
    eventually("the mount", || world.conf(100).contains("mp0: /tank/data,mp=/data\n"));
    let report = world.apply(&["data"], 0);
    assert_eq!(report["volumes"]["data"]["steps"][0]["changes"], 9, "{report:#}");
    assert_eq!(world.owner("/tank/data/7"), "100000:100000 0644");
    daemon.until_all("Converged");
    daemon.stop();
    // Eight are not too many.
    for n in 0..8 {
        world.file(&format!("/tank/data/{n}"), 0, 0o644);
    }
    world.apply(&[], 0);
    // The same without a daemon, for all volumes at once.
    for n in 0..9 {
        world.file(&format!("/tank/data/{n}"), 0, 0o644);
    }
    world.apply(&[], 3);
    assert_eq!(world.owner("/tank/data/8"), "0:0 0644");
    world.apply(&["--yes"], 0);
    assert_eq!(world.owner("/tank/data/8"), "100000:100000 0644");
}

#[test]
fn nothing_is_done_below_a_mount_point_that_is_not_mounted() {
    let Some(world) = world() else { return };
    let tank = world.dir("/tank", 0, 0o755);
    for (require, what) in [("true", "the root file system"), (r#""/tank""#, "a mount point")] {
        declare(&world, "", &format!(r#""require_mount": {require}"#));
        let report = world.apply(&["--yes"], 3);
        assert_eq!(holds(&report, "volumes", "data"), ["SourceNotMounted"], "{what}");
        assert_eq!(holds(&report, "containers", "100"), ["VolumeHeld"], "{what}");
        let message = report["volumes"]["data"]["holds"][0]["message"].to_string();
        assert!(message.contains(what), "{message}");
        assert!(!world.host("/tank/data").exists());
        assert_eq!(world.calls(), Vec::<String>::new());
    }
    let daemon = world.pctd.start();
    let Some(mounted) = Tmpfs::mount(&tank) else { return };
    let is_owned = || world.owner("/tank/data").starts_with("100000:100000");
    eventually("the volume is made where it belongs", is_owned);
    daemon.until_all("Converged");
    // Gone again, as after a reboot: the container must not get an empty directory of the root.
    drop(mounted);
    world.apply(&[], 3);
    daemon.until("it is missed", |status| holds(status, "volumes", "data") == ["SourceNotMounted"]);
    assert!(!world.host("/tank/data").exists());
    daemon.stop();
}

#[test]
fn another_file_system_than_before_is_not_taken_for_the_volume() {
    let Some(world) = world() else { return };
    let data = world.dir("/tank/data", 0, 0o755);
    declare(&world, "", "");
    world.apply(&[], 0);
    let Some(mounted) = Tmpfs::mount(&data) else { return };
    let report = world.apply(&[], 3);
    assert_eq!(holds(&report, "volumes", "data"), ["SourceChanged"], "{report:#}");
    assert!(world.owner("/tank/data").starts_with("0:0"));
    world.apply(&["data"], 0);
    assert!(world.owner("/tank/data").starts_with("100000:100000"));
    world.apply(&[], 0);
    drop(mounted);
    let report = world.apply(&[], 3);
    assert_eq!(holds(&report, "volumes", "data"), ["SourceChanged"], "{report:#}");
}

#[test]
fn a_source_behind_a_symbolic_link_is_refused_with_the_path_to_write() {
    let Some(world) = world() else { return };
    world.dir("/pool/real/data", 0, 0o755);
    world.file("/pool/real/data/file", 0, 0o644);
    world.dir("/tank", 0, 0o755);
    for (link, target) in [("/tank/data", "../pool/real/data"), ("/tank", "/pool/real")] {
        let at = world.host(link);
        if at.exists() {
            fs::remove_dir_all(&at).unwrap();
        }
        symlink(target, at).unwrap();
        declare(&world, "", r#""enforce": "always""#);
        let before = world.stamps_of("/pool");
        let report = world.apply(&["--yes"], 3);
        assert_eq!(holds(&report, "volumes", "data"), ["PathUnsafe"], "{report:#}");
        let message = report["volumes"]["data"]["holds"][0]["message"].to_string();
        let remedy = "write /pool/real/data";
        assert!(message.contains(&format!("{link} is a symbolic link")), "{message}");
        assert!(message.contains(remedy), "{message}");
        assert_eq!(world.stamps_of("/pool"), before);
        assert_eq!(world.calls(), Vec::<String>::new());
    }
}

#[test]
fn a_source_that_is_not_to_be_made_or_is_no_directory_is_a_hold() {
    let Some(world) = world() else { return };
    world.dir("/tank", 0, 0o755);
    declare(&world, "", r#""create": false"#);
    let report = world.apply(&["--yes"], 3);
    assert_eq!(holds(&report, "volumes", "data"), ["SourceMissing"], "{report:#}");
    assert!(!world.host("/tank/data").exists());
    // Through a daemon as well it ends with what is held, and does not wait for it.
    let daemon = world.pctd.start();
    let report = world.apply(&[], 3);
    assert_eq!(holds(&report, "volumes", "data"), ["SourceMissing"], "{report:#}");
    assert_eq!(holds(&report, "containers", "100"), ["VolumeHeld"], "{report:#}");
    daemon.stop();
    world.file("/tank/data", 0, 0o644);
    let report = world.apply(&["--yes"], 3);
    assert_eq!(holds(&report, "volumes", "data"), ["SourceNotDirectory"], "{report:#}");
    assert_eq!(world.owner("/tank/data"), "0:0 0644");
    assert_eq!(world.calls(), Vec::<String>::new());
    fs::remove_file(world.host("/tank/data")).unwrap();
    declare(&world, "", "");
    world.apply(&[], 0);
    assert_eq!(world.owner("/tank/data"), "100000:100000 0755");
}

#[test]
fn modes_are_octal_symbolic_and_by_name_where_the_longest_pattern_wins() {
    let Some(world) = world() else { return };
    world.dir("/tank/data", 0, 0o700);
    world.dir("/tank/data/sub", 0, 0o755);
    let files = [
        ("plain", 0o600, "0644"),
        ("tool", 0o700, "0755"),
        ("a.key", 0o644, "0640"),
        ("sub/server.key", 0o644, "0600"),
        ("sub/a.keys", 0o666, "0644"),
        ("setuid", 0o4755, "0755"),
    ];
    for (name, mode, _) in files {
        world.file(&format!("/tank/data/{name}"), 0, mode);
    }
    world.volumes(
        "",
        r#""data": {"host_path": "/tank/data", "owner": "1234:1235", "dir_mode": "2775",
            "file_mode": "u=rwX,g=rX,o=rX", "mounts": {"100": "/data"},
            "file_modes": {"*.key": "0640", "server.key": "0600", "*": "u=rwX,go=rX"}}"#,
    );
    world.apply(&[], 0);
    assert_eq!(world.owner("/tank/data"), "1234:1235 2775");
    assert_eq!(world.owner("/tank/data/sub"), "1234:1235 2775");
    for (name, _, mode) in files {
        assert_eq!(
            world.owner(&format!("/tank/data/{name}")),
            format!("1234:1235 {mode}"),
            "{name}"
        );
    }
    let before = world.stamps();
    world.apply(&[], 0);
    assert_eq!(world.stamps(), before);
}

#[test]
fn the_root_directory_changes_last_so_that_a_broken_off_pass_is_done_again() {
    let Some(world) = world() else { return };
    world.dir("/tank/data", 0, 0o755);
    for dir in 0..30 {
        world.dir(&format!("/tank/data/{dir}"), 0, 0o755);
        for file in 0..30 {
            world.file(&format!("/tank/data/{dir}/{file}"), 0, 0o644);
        }
    }
    declare(&world, "", r#""dir_mode": "0775""#);
    world.apply(&[], 0);
    let mut stamps = world.stamps_of("/tank/data");
    let (_, seconds, nanos) = stamps.remove("tank/data").unwrap();
    assert_eq!(stamps.len(), 930);
    let latest = stamps.values().map(|(_, s, n)| (*s, *n)).max().unwrap();
    assert!((seconds, nanos) >= latest, "{seconds}.{nanos:09} {latest:?}");
    // What differs again is put right, and nothing else gets a new ctime.
    world.file("/tank/data/7/7", 0, 0o600);
    let mut before = world.stamps_of("/tank/data");
    world.apply(&[], 0);
    let mut after = world.stamps_of("/tank/data");
    assert_ne!(before.remove("tank/data/7/7"), after.remove("tank/data/7/7"));
    assert_eq!(after, before);
}

#[test]
fn a_link_that_points_out_of_the_volume_is_never_followed() {
    let Some(world) = world() else { return };
    world.dir("/srv/secret", 0, 0o700);
    world.file("/srv/secret/shadow", 0, 0o600);
    world.dir("/tank/data/sub", 0, 0o755);
    let secret = world.host("/srv/secret");
    symlink(&secret, world.host("/tank/data/dir")).unwrap();
    symlink(secret.join("shadow"), world.host("/tank/data/sub/file")).unwrap();
    symlink("../../../srv/secret", world.host("/tank/data/sub/up")).unwrap();
    symlink("/nowhere", world.host("/tank/data/nowhere")).unwrap();
    let before = world.stamps_of("/srv");
    let modes = r#""dir_mode": "0777", "file_mode": "0666", "enforce": "always""#;
    declare(&world, "", modes);
    world.apply(&[], 0);
    assert_eq!(world.stamps_of("/srv"), before);
    // The links themselves are entries like others, and have no mode.
    for link in ["dir", "sub/file", "sub/up", "nowhere"] {
        assert_eq!(world.owner(&format!("/tank/data/{link}")), "100000:100000 0777", "{link}");
    }
    assert_eq!(world.owner("/tank/data/sub"), "100000:100000 0777");
    let before = world.stamps();
    world.apply(&[], 0);
    assert_eq!(world.stamps(), before);
}

#[test]
fn a_mount_below_a_volume_is_named_and_not_entered() {
    let Some(world) = world() else { return };
    let nested = world.dir("/tank/data/sub/nested", 0, 0o755);
    let Some(_mounted) = Tmpfs::mount(&nested) else { return };
    world.file("/tank/data/sub/nested/file", 0, 0o644);
    declare(&world, "", r#""enforce": "always""#);
    let before = world.stamps_of("/tank/data/sub/nested");
    let report = world.apply(&[], 0);
    let notice = &report["volumes"]["data"]["notices"][0];
    assert_eq!(notice["reason"], "NestedMountInvisible", "{report:#}");
    assert!(notice["message"].as_str().unwrap().contains("sub/nested"), "{notice}");
    assert_eq!(world.stamps_of("/tank/data/sub/nested"), before);
    assert_eq!(world.owner("/tank/data/sub"), "100000:100000 0755");
    let daemon = world.pctd.start();
    daemon.until("the status names it, too", |status| {
        status["volumes"]["data"]["notices"][0]["reason"] == "NestedMountInvisible"
    });
}

#[test]
fn files_that_a_running_container_makes_keep_their_owner_and_mode() {
    let Some(world) = world() else { return };
    world.pct(&["start", "100"]);
    world.dir("/tank/data", 0, 0o755);
    declare(&world, "", r#""dir_mode": "1777", "file_mode": "0664""#);
    let daemon = world.pctd.start();
    daemon.until_all("Converged");
    // As user 1000 inside is on the host.
    let script = "umask 077; echo x > made; mkdir dir";
    let mut command = Command::new("sh");
    command.args(["-c", script]).current_dir(world.host("/tank/data")).uid(101_000).gid(101_000);
    assert!(command.status().unwrap().success());
    assert_eq!(world.owner("/tank/data/made"), "101000:101000 0600");
    let before = world.stamps_of("/tank/data");
    world.apply(&["--yes"], 0);
    daemon.stop();
    world.apply(&["data"], 0);
    assert_eq!(world.stamps_of("/tank/data"), before);
    assert_eq!(world.owner("/tank/data/dir"), "101000:101000 0700");
}
