//! Mounts with mapped ids, made and looked through without attaching them.

#![expect(clippy::unwrap_used, reason = "what cannot be made in a test ends it")]

use std::fs::File;
use std::os::fd::OwnedFd;

use pctd_sys::idmapped::{detached_clone, detached_tree, map_ids, map_ids_of_tree, user_namespace};
use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, Uid, chownat, openat, statat};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

const MAP: &str = "5000 100000 65536\n";

fn directory() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, id) in [("zero", 5000), ("www", 5033), ("other", 100_000)] {
        std::fs::write(dir.path().join(name), "").unwrap();
        let (uid, gid) = (Uid::from_raw(id), Gid::from_raw(id));
        chownat(CWD, dir.path().join(name), Some(uid), Some(gid), AtFlags::empty()).unwrap();
    }
    dir
}

/// Returns whether this machine lets ids be mapped at all.
fn is_permitted() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    let made = is_root.then(|| detached_clone(File::open("/tmp").unwrap()));
    if matches!(made, Some(Ok(_))) && user_namespace(MAP, MAP).is_ok() {
        return true;
    }
    assert!(std::env::var_os("PCTD_REQUIRE_REAL").is_none(), "mounts cannot be made: {made:?}");
    eprintln!("skipped: mounts with mapped ids: {made:?}");
    false
}

fn owner(mount: &OwnedFd, name: &str) -> (u32, u32) {
    let stat = statat(mount, name, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    (stat.st_uid, stat.st_gid)
}

#[test]
fn ids_on_disk_are_other_ids_through_the_mount() {
    if !is_permitted() {
        return;
    }
    let dir = directory();
    // As pctd opens directories.
    let open = openat(CWD, dir.path(), OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
    let mount = detached_clone(&open).unwrap();
    assert_eq!(owner(&mount, "www"), (5033, 5033));
    map_ids(&mount, user_namespace(MAP, MAP).unwrap()).unwrap();
    assert_eq!(owner(&mount, "zero"), (100_000, 100_000));
    assert_eq!(owner(&mount, "www"), (100_033, 100_033));
    // What has no place in the map is nobody's.
    assert_eq!(owner(&mount, "other"), (65_534, 65_534));
    assert_eq!(map_ids(&mount, user_namespace(MAP, MAP).unwrap()), Err(Errno::PERM));
}

#[test]
fn nothing_is_left_of_it() {
    if !is_permitted() {
        return;
    }
    // Other tests mount other things meanwhile.
    let mounts = || {
        let all = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        all.lines().filter(|line| line.contains("idmapped")).count()
    };
    let children = || std::fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
    let before = (mounts(), children());
    let dir = directory();
    let mount = detached_clone(File::open(dir.path()).unwrap()).unwrap();
    map_ids(&mount, user_namespace(MAP, MAP).unwrap()).unwrap();
    drop(mount);
    assert_eq!((mounts(), children()), before);
}

#[test]
fn a_file_system_that_cannot_refuses() {
    if !is_permitted() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    mount("ramfs", dir.path(), "ramfs", MountFlags::empty(), None).unwrap();
    let clone = detached_clone(File::open(dir.path()).unwrap()).unwrap();
    let refused = map_ids(&clone, user_namespace(MAP, MAP).unwrap());
    unmount(dir.path(), UnmountFlags::DETACH).unwrap();
    assert_eq!(refused, Err(Errno::INVAL));
}

#[test]
fn a_map_with_an_id_twice_is_refused() {
    if !is_permitted() {
        return;
    }
    let twice = "100005 100000 1\n100001 100001 65535\n";
    let error = user_namespace(MAP, twice).unwrap_err();
    assert_eq!(Errno::from_io_error(&error), Some(Errno::INVAL));
}

#[test]
fn a_tree_is_mapped_with_all_that_is_mounted_below_or_not_at_all() {
    if !is_permitted() {
        return;
    }
    let dir = directory();
    let below = dir.path().join("below");
    std::fs::create_dir(&below).unwrap();
    let namespace = || user_namespace(MAP, MAP).unwrap();
    let tree = || detached_tree(File::open(dir.path()).unwrap()).unwrap();
    mount("tmpfs", &below, "tmpfs", MountFlags::empty(), None).unwrap();
    chownat(CWD, &below, Some(Uid::from_raw(5033)), None, AtFlags::empty()).unwrap();
    let mapped = tree();
    map_ids_of_tree(&mapped, namespace()).unwrap();
    assert_eq!(owner(&mapped, "below").0, 100_033);
    unmount(&below, UnmountFlags::DETACH).unwrap();
    // `ramfs` does not let its ids be mapped.
    mount("ramfs", &below, "ramfs", MountFlags::empty(), None).unwrap();
    let refused = tree();
    assert_eq!(map_ids_of_tree(&refused, namespace()), Err(Errno::INVAL));
    assert_eq!(owner(&refused, "zero"), (5000, 5000));
    unmount(&below, UnmountFlags::DETACH).unwrap();
}
