//! One directory for containers and for tools of the host: a group that all entries have, handed on by
//! directories, and a default ACL that gives it new files whatever the umask. Users of the host and of
//! a real user namespace write to each other's files.

#![expect(clippy::unwrap_used, reason = "what fails in a helper ends the test")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use pctd_tests::daemon::eventually;
use pctd_tests::guest;
use pctd_tests::world::{Tmpfs, UNPRIVILEGED, World, holds, own, skip};
use rustix::fs::{getxattr_query, removexattr};

/// Nothing but an event brings the daemon to look again.
const CALM: &str = r#""resync_interval": "2h", "verify_interval": "6h""#;

/// The attribute that a default ACL is.
const DEFAULT: &str = "system.posix_acl_default";

/// The group on the host, and in a container with Proxmox's own map.
const MEDIA: u32 = 110_000;
const MEDIA_INSIDE: u32 = 10_000;

/// Owners are kept; the rest is the group's.
const SHARED: &str =
    r#""owner": "keep", "group": "media", "dir_mode": "2775", "file_mode": "0664","#;
const ACL: &str = r#""default_acl": "g::rwX","#;

/// A node with one container, the group `media`, and `/tank` on a file system of its own.
struct House {
    world: World,
    _tank: Tmpfs,
}

impl House {
    fn new() -> Option<Self> {
        let world = World::new(env!("CARGO_BIN_EXE_pctd-tests"))?;
        world.container(100, &[UNPRIVILEGED]);
        fs::write(world.host("/etc/passwd"), "root:x:0:0::/:/bin/sh\n").unwrap();
        fs::write(world.host("/etc/group"), format!("root:x:0:\nmedia:x:{MEDIA}:alice\n")).unwrap();
        let tank = Tmpfs::mount(&world.dir("/tank", 0, 0o755))?;
        world.dir("/tank/media", 0, 0o755);
        Some(Self { world, _tank: tank })
    }

    fn declare(&self, fields: &str) {
        let volume = format!(
            r#""media": {{"host_path": "/tank/media", {fields} "mounts": {{"100": "/media"}}}}"#
        );
        self.world.volumes(CALM, &volume);
    }

    fn media(&self) -> std::path::PathBuf {
        self.world.host("/tank/media")
    }
}

/// Who runs a script: a user, the own group, and one more group.
type Who = (u32, u32, u32);

/// Alice on the host, who is in the group.
const ALICE: Who = (1000, 1000, MEDIA);
/// A service in the container, which is in the group there.
const SERVICE: Who = (1000, 1000, MEDIA_INSIDE);

fn as_user((uid, gid, more): Who, script: &str) -> String {
    let groups = format!("--regid {gid} --groups {more}");
    format!("exec setpriv --reuid {uid} {groups} sh -euc '{script}'")
}

/// Runs a script as a user of the host.
fn on_host(dir: &Path, who: Who, script: &str) -> Output {
    Command::new("sh").arg("-euc").arg(as_user(who, script)).current_dir(dir).output().unwrap()
}

/// Runs a script as a user in a user namespace with Proxmox's own map; `None` where this machine has no
/// such namespaces for us.
fn inside(dir: &Path, who: Who, script: &str) -> Option<Output> {
    guest::run(dir, &[], &as_user(who, script))
}

fn went_well(output: &Output) {
    assert!(output.status.success(), "{output:?}");
}

/// What was there before: of the service, of alice, and links that lead to `/tank/victim`.
fn furnish(house: &House) {
    let victim = house.world.dir("/tank/victim", 0, 0o700);
    let secret = house.world.file("/tank/victim/secret", 0, 0o600);
    for (dir, owner) in [("theirs", 101_000), ("hers", 1000)] {
        let dir = format!("/tank/media/{dir}");
        house.world.dir(&dir, owner, 0o755);
        house.world.file(&format!("{dir}/old"), owner, 0o600);
    }
    symlink(victim, house.media().join("theirs/link")).unwrap();
    symlink(secret, house.media().join("out")).unwrap();
}

#[test]
fn a_user_of_the_host_and_a_service_write_to_each_others_files() {
    let Some(house) = House::new() else { return };
    furnish(&house);
    let victim = house.world.stamps_of("/tank/victim");
    house.declare(&format!("{SHARED} {ACL}"));
    let (code, plan) = house.world.plan();
    let step = &plan["volumes"]["media"]["steps"][0];
    let seen = (code, step["group"].as_u64(), step["default_acl"].as_str());
    assert_eq!(seen, (3, Some(MEDIA.into()), Some("u::rwx,g::rwx,o::r-x")), "{plan:#}");
    assert_eq!((step["changes"].as_u64(), step["default_acls"].as_u64()), (Some(7), Some(3)));
    let shown = house.world.pctd.run(&["plan"]).stdout;
    assert!(
        shown.contains("owner kept, group 110000 (setgid), default ACL u::rwx,g::rwx,o::r-x"),
        "{shown}"
    );

    house.world.apply(&[], 0);
    let owners = house.world.owners("/tank/media");
    let is = |path: &str| owners[path].as_str();
    assert_eq!((is(""), is("theirs")), ("0:110000 2775", "101000:110000 2775"));
    assert_eq!((is("theirs/old"), is("hers/old")), ("101000:110000 0664", "1000:110000 0664"));
    assert_eq!(house.world.stamps_of("/tank/victim"), victim);

    // Each with a umask that would keep the other out, in what the other made.
    let dir = house.media();
    went_well(&on_host(
        &dir,
        ALICE,
        "umask 077; echo alice > new; mkdir -p hers/album; echo 1 > hers/album/song; echo more >> theirs/old",
    ));
    let Some(service) = inside(
        &dir,
        SERVICE,
        "umask 077; echo service >> new; echo 2 >> hers/album/song; echo 3 > hers/album/second; \
         mkdir theirs/cache; echo 4 > theirs/cache/index; rm hers/old; id -u",
    ) else {
        return;
    };
    went_well(&service);
    assert_eq!(service.stdout, b"1000\n");
    went_well(&on_host(
        &dir,
        ALICE,
        "echo 5 >> theirs/cache/index; echo 6 >> hers/album/second; mv hers/album/song theirs/",
    ));
    let owners = house.world.owners("/tank/media");
    let is = |path: &str| owners[path].as_str();
    assert_eq!(fs::read_to_string(dir.join("new")).unwrap(), "alice\nservice\n");
    assert_eq!((is("new"), is("theirs/song")), ("1000:110000 0664", "1000:110000 0664"));
    assert_eq!(is("theirs/cache"), "101000:110000 2775");
    assert_eq!(is("theirs/cache/index"), "101000:110000 0664");

    // All of it as declared already: there is nothing to do, and nothing is written.
    let before = house.world.stamps_of("/tank");
    assert_eq!(house.world.plan().0, 0);
    house.world.apply(&[], 0);
    assert_eq!(house.world.stamps_of("/tank"), before);
    assert_eq!(house.world.stamps_of("/tank/victim"), victim);

    // Who is not in the group stays out.
    let stranger = on_host(&dir, (1001, 1001, 1001), "echo x >> new");
    assert!(!stranger.status.success(), "{stranger:?}");
}

#[test]
fn the_daemon_keeps_it_so_and_leaves_what_the_kernel_has_done() {
    let Some(house) = House::new() else { return };
    house.declare(&format!("{SHARED} {ACL}"));
    let daemon = house.world.pctd.start();
    daemon.until("watched", |status| {
        status["volumes"]["media"]["conditions"]["Watched"]["reason"] == "Events"
    });
    let drift = |what: &str| {
        daemon.status()["volumes"]["media"]["drift"][what].as_u64().unwrap_or_default()
    };
    let dir = house.media();
    went_well(&on_host(&dir, ALICE, "umask 077; mkdir a; echo x > a/file"));
    let Some(made) = inside(&dir, SERVICE, "umask 077; mkdir a/b; echo x > a/b/file") else {
        return;
    };
    went_well(&made);
    eventually("seen", || drift("events") >= 4);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(drift("repaired"), 0, "{}", daemon.log());
    // What was copied with its own group and mode, and a directory that hands nothing on.
    went_well(&on_host(&dir, ALICE, "umask 077; echo x > copy; chgrp 1000 copy; chmod 600 copy"));
    went_well(&on_host(
        &dir,
        (0, 0, 0),
        "setpriv --reuid 1000 --regid 1000 --clear-groups chmod 700 a",
    ));
    eventually("the copy", || house.world.owner("/tank/media/copy") == "1000:110000 0664");
    eventually("the directory", || house.world.owner("/tank/media/a") == "1000:110000 2775");
    let has_acl = || getxattr_query(dir.join("a/b"), DEFAULT).is_ok();
    assert!(has_acl());
    removexattr(dir.join("a/b"), DEFAULT).unwrap();
    eventually("the default ACL", has_acl);
    std::thread::sleep(Duration::from_millis(300));
    let settled = (drift("events"), drift("repaired"));
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!((drift("events"), drift("repaired")), settled, "it answers its own changes");
    daemon.stop();
    assert_eq!(house.world.plan().0, 0);
}

#[test]
fn a_group_of_the_host_alone_is_said_to_be_nobodys_inside() {
    let Some(house) = House::new() else { return };
    fs::write(house.world.host("/etc/group"), "root:x:0:\nmedia:x:1005:\n").unwrap();
    house.declare(&format!("{SHARED} {ACL}"));
    own(&house.media(), 101_000, 0);
    house.world.apply(&[], 0);
    let (code, plan) = house.world.plan();
    let notice = &plan["volumes"]["media"]["notices"][0];
    assert_eq!((code, notice["reason"].as_str()), (0, Some("GroupOutside")), "{plan:#}");
    // Its own files a service makes all the same, in the group that it does not know.
    let Some(made) = inside(&house.media(), SERVICE, "umask 077; mkdir own; echo x > own/file")
    else {
        return;
    };
    went_well(&made);
    assert_eq!(house.world.owner("/tank/media/own"), "101000:1005 2775");
    assert_eq!(house.world.owner("/tank/media/own/file"), "101000:1005 0664");
    went_well(&on_host(&house.media(), (1000, 1000, 1005), "echo x > hers"));
    let theirs = inside(&house.media(), SERVICE, "echo x >> hers").unwrap();
    assert!(!theirs.status.success(), "{theirs:?}");
}

#[test]
fn with_adopt_what_a_service_made_stays_as_it_made_it() {
    let Some(house) = House::new() else { return };
    let declared =
        r#""owner": "container_root", "group": "media", "dir_mode": "2775", "file_mode": "0664","#;
    house.declare(&format!("{declared} {ACL}"));
    furnish(&house);
    house.world.apply(&[], 0);
    let owners = house.world.owners("/tank/media");
    let is = |path: &str| owners[path].as_str();
    assert_eq!((is(""), is("hers/old")), ("100000:110000 2775", "100000:110000 0664"));
    assert_eq!((is("theirs"), is("theirs/old")), ("101000:101000 0755", "101000:101000 0600"));
    assert_eq!(house.world.plan().0, 0);
}

#[test]
fn without_a_default_acl_nothing_more_is_asked_of_the_file_system() {
    let Some(house) = House::new() else { return };
    let ramfs = house.media().join("ramfs");
    fs::create_dir(&ramfs).unwrap();
    let mounted = Command::new("mount").args(["-t", "ramfs", "none"]).arg(&ramfs).status().unwrap();
    if !mounted.success() {
        return skip("mounts of ramfs", &mounted.to_string());
    }
    let volume = |acl: &str| {
        let fields = format!(r#""host_path": "/tank/media/ramfs", {SHARED} {acl}"#);
        house
            .world
            .volumes(CALM, &format!(r#""media": {{{fields} "mounts": {{"100": "/media"}}}}"#));
    };
    volume(ACL);
    let before = house.world.stamps_of("/tank/media/ramfs");
    let held = house.world.apply(&[], 3);
    let stayed = house.world.stamps_of("/tank/media/ramfs") == before;
    volume("");
    house.world.apply(&[], 0);
    let owner = house.world.owner("/tank/media/ramfs");
    Command::new("umount").arg(&ramfs).status().unwrap();
    assert_eq!(holds(&held, "volumes", "media"), ["AclUnsupported"], "{held:#}");
    assert!(stayed, "{held:#}");
    assert_eq!(owner, "0:110000 2775");
}
