//! A disk with one bad spot: one call about one entry answers `EIO`. All others are put right, that
//! one is named and not forgotten, and it is put right once the disk works, without any edit.

#![expect(clippy::unwrap_used, reason = "what fails in a helper ends the test")]

use std::ffi::CString;
use std::fs;
use std::path::{Path, PathBuf};

use pctd_tests::daemon::{Daemon, eventually};
use pctd_tests::disk::{Call, Disk};
use pctd_tests::world::{Tmpfs, UNPRIVILEGED, World, own, skip};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use serde_json::Value;

/// What the volume holds besides its root; names with a slash at the end are directories.
const ENTRIES: [&str; 6] = ["dir/", "dir/deep/", "dir/deep/file", "dir/file", "file", "many/"];
/// In `many`, so many files: of entries that all differ, pctd opens most without a look at the name.
const MANY: u32 = 24;

/// The message of `EIO`.
const EIO: &str = "Input/output error (os error 5)";

/// A bad spot, and what it keeps from being put right.
struct Spot {
    call: Call,
    at: &'static str,
    /// What is said of it.
    error: &'static str,
    /// The entries that stay as they are; with a slash at the end, what is below them too.
    left: &'static [&'static str],
}

const fn spot(
    call: Call,
    at: &'static str,
    error: &'static str,
    left: &'static [&'static str],
) -> Spot {
    Spot { call, at, error, left }
}

/// A volume on the disk, in which everything differs, its own owner too.
fn world() -> Option<(World, Disk)> {
    let world = World::new(env!("CARGO_BIN_EXE_pctd-tests"))?;
    world.container(100, &[UNPRIVILEGED]);
    let disk = Disk::mount(&world.dir("/tank/a", 0, 0o755))?;
    let many: Vec<String> = (0..MANY).map(|n| format!("many/{n:02}")).collect();
    for entry in ENTRIES.into_iter().chain(many.iter().map(String::as_str)) {
        let path = format!("/tank/a/{entry}");
        if entry.ends_with('/') {
            world.dir(&path, 0, 0o755);
        } else {
            world.file(&path, 0, 0o644);
        }
    }
    declare(&world);
    Some((world, disk))
}

fn declare(world: &World) {
    world.volumes(
        "",
        r#""a": {"host_path": "/tank/a", "owner": "container_root", "dir_mode": "0750",
            "file_mode": "0640", "mounts": {"100": "/a"}}"#,
    );
}

/// Expects these entries, and what is below them, as they were, and all others as declared.
fn all_but(left: &[&str], world: &World, case: &str) {
    for (path, owner) in world.owners("/tank/a") {
        let is_dir = world.host(&format!("/tank/a/{path}")).is_dir();
        let is_left = left.iter().any(|left| match left.strip_suffix('/') {
            Some(dir) => path == dir || path.starts_with(left),
            None => path == *left,
        });
        let expected = match (is_left, is_dir) {
            (true, true) => "0:0 0755",
            (true, false) => "0:0 0644",
            (false, true) => "100000:100000 0750",
            (false, false) => "100000:100000 0640",
        };
        assert_eq!(owner, expected, "{path:?} of {case}");
    }
}

/// Returns what the ledger says of the volume.
fn record(world: &World) -> Value {
    let text = fs::read_to_string(world.host("/var/lib/pctd/ledger.json")).unwrap_or_default();
    let ledger: Value = serde_json::from_str(&text).unwrap_or_default();
    ledger["volumes"]["a"].clone()
}

/// Returns why the volume is not in place, as the status or a plan says it.
fn why(report: &Value) -> String {
    let volume = &report["volumes"]["a"];
    let held = volume["holds"].as_array().into_iter().flatten();
    let held = held.filter_map(|hold| hold["message"].as_str());
    held.chain(volume["error"].as_str()).collect::<Vec<_>>().join("; ")
}

/// Waits until the daemon has come to the bad spot once more.
fn comes_again(daemon: &Daemon, disk: &Disk, case: &str) {
    let before = disk.failed();
    eventually(case, || {
        assert_ne!(daemon.status()["volumes"]["a"]["state"], "Converged", "{case}");
        disk.failed() > before
    });
}

fn named_and_put_right_once_the_disk_works(spot: &Spot) {
    let Some((world, disk)) = world() else { return };
    let case = &format!("{:?} of {:?}", spot.call, spot.at);
    let named = format!("{}: {EIO}", spot.error);
    disk.spoil(spot.at, spot.call);
    // What differs and cannot be changed is a failure; what cannot be looked at, a hold.
    let (code, expected) = match spot.call {
        Call::Chown | Call::Chmod => (1, "1 entries of /tank/a could not be changed"),
        _ => (3, "1 entries could not be looked at or changed"),
    };
    let report = world.apply(&[], code);
    assert_eq!(why(&report), format!("{expected}: {named}"), "{case}: {report:#}");
    all_but(spot.left, &world, case);
    assert_eq!(record(&world), Value::Null, "{case}");

    // A daemon that has only what is on disk to go by.
    let daemon = world.pctd.start();
    comes_again(&daemon, &disk, case);
    daemon.until(case, |status| {
        why(status).contains(&named) && status["volumes"]["a"]["next_retry"].is_string()
    });
    all_but(spot.left, &world, case);
    assert_eq!(record(&world), Value::Null, "{case}");
    disk.heal();
    daemon.until_all("Converged");
    all_but(&[], &world, case);
    assert_ne!(record(&world), Value::Null, "{case}");
    daemon.stop();
}

#[test]
fn a_directory_that_cannot_be_read_is_named_and_what_is_in_it_put_right_once_it_can() {
    let below: &[_] = &["dir/deep/", "dir/file"];
    named_and_put_right_once_the_disk_works(&spot(Call::List, "dir", "dir", below));
}

#[test]
fn an_entry_that_cannot_be_looked_at_is_named_and_put_right_once_it_can() {
    for spot in [
        spot(Call::Find, "dir", "dir", &["dir/"]),
        spot(Call::Find, "dir/deep/file", "dir/deep/file", &["dir/deep/file"]),
        spot(Call::Find, "many/20", "many/20", &["many/20"]),
        spot(Call::Stat, "dir/file", "dir/file", &["dir/file"]),
    ] {
        named_and_put_right_once_the_disk_works(&spot);
    }
}

#[test]
fn an_entry_whose_owner_or_mode_cannot_be_set_is_named_and_put_right_once_it_can() {
    for spot in [
        spot(Call::Chown, "dir/file", "dir/file: chown", &["dir/file"]),
        spot(Call::Chmod, "dir/file", "dir/file: chmod", &["dir/file"]),
        spot(Call::Chown, "dir", "dir: chown", &["dir"]),
        spot(Call::Chown, "", ".: chown", &[""]),
    ] {
        named_and_put_right_once_the_disk_works(&spot);
    }
}

#[test]
fn an_entry_that_cannot_be_asked_for_its_acl_is_named_and_put_right_once_it_can() {
    for spot in [
        spot(Call::Attribute, "dir/file", "dir/file", &["dir/file"]),
        spot(Call::Attribute, "dir/deep", "dir/deep", &["dir/deep"]),
    ] {
        named_and_put_right_once_the_disk_works(&spot);
    }
}

#[test]
fn what_drifts_and_cannot_be_looked_at_is_doubted_and_put_right_once_it_can() {
    let Some(world) = World::new(env!("CARGO_BIN_EXE_pctd-tests")) else { return };
    world.container(100, &[UNPRIVILEGED]);
    // FUSE is not watched, but an overlay over it is: what somebody changes has its data and its
    // owner in memory then, and its number still on the disk.
    let Some(disk) = Disk::mount(&world.dir("/tank/lower", 100_000, 0o755)) else { return };
    world.dir("/tank/lower", 100_000, 0o750);
    world.file("/tank/lower/file", 100_000, 0o640);
    let Some(_memory) = Tmpfs::mount(&world.dir("/tank/memory", 0, 0o755)) else { return };
    let layers = [("lowerdir", "lower"), ("upperdir", "memory/upper"), ("workdir", "memory/work")];
    let layers = layers.map(|(option, at)| {
        let dir = format!("/tank/{at}");
        let dir = if at == "lower" { world.host(&dir) } else { world.dir(&dir, 100_000, 0o750) };
        format!("{option}={}", dir.display())
    });
    let options = format!("{},index=on,nfs_export=on", layers.join(","));
    let Some(_overlay) = Overlay::mount(&world.dir("/tank/a", 0, 0o755), &options) else { return };
    declare(&world);

    let daemon = world.pctd.start();
    daemon.until("the volume is watched", |status| {
        status["volumes"]["a"]["state"] == "Converged"
            && status["volumes"]["a"]["drift"]["events"].is_number()
    });
    disk.spoil("file", Call::Stat);
    own(&world.host("/tank/a/file"), 0, 0);
    daemon.until("the entry is named", |status| why(status).contains(&format!("file: {EIO}")));
    let doubt = format!("an entry could not be put right: {EIO}");
    assert!(daemon.log().contains(&doubt), "{}", daemon.log());
    assert_eq!(world.owner("/tank/a/file"), "0:0 0640");
    disk.heal();
    daemon.until_all("Converged");
    assert_eq!(world.owner("/tank/a/file"), "100000:100000 0640");
    daemon.stop();
}

/// An overlay, mounted for as long as this lives.
struct Overlay(PathBuf);

impl Overlay {
    fn mount(at: &Path, options: &str) -> Option<Self> {
        let options = CString::new(options).unwrap();
        match mount("overlay", at, "overlay", MountFlags::empty(), Some(options.as_c_str())) {
            Ok(()) => Some(Self(at.to_owned())),
            Err(errno) => {
                skip("an overlay over a disk that fails", &format!("mount: {errno}"));
                None
            }
        }
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        // The directory goes with its test; a mount that stays behind would only be in the way.
        let _unmounted = unmount(&self.0, UnmountFlags::DETACH);
    }
}
