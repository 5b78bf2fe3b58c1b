//! A mount into a container that runs: a copy of the host's mount is made, and put in place from
//! within the container's mount namespace.
//!
//! A process of its own, with one thread: only such a one may enter another mount namespace.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, Uid, chownat, open};
use rustix::mount::{
    MountFlags, MoveMountFlags, OpenTreeFlags, mount_remount, move_mount, open_tree,
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Mounts; `arguments` are the container's init, the source on the host, the target inside, whether
/// it is read-only, and the ids of the container's root.
pub(super) fn run(arguments: &[OsString]) -> io::Result<()> {
    let text = |index: usize| arguments.get(index).and_then(|text| text.to_str());
    let [Some(init), Some(source), Some(target), Some(access), Some(uid), Some(gid)] =
        [0, 1, 2, 3, 4, 5].map(text)
    else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let id = |text: &str| text.parse().map_err(io::Error::other);
    let owner = (Uid::from_raw(id(uid)?), Gid::from_raw(id(gid)?));
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(CWD, source, flags)?;
    let namespace = Path::new("/proc").join(init).join("ns/mnt");
    let namespace = open(namespace, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    move_into_link_name_space(rustix::fd::AsFd::as_fd(&namespace), Some(LinkNameSpaceType::Mount))?;
    let target = make_target(target, owner)?;
    move_mount(&tree, "", CWD, &target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    if access == "ro" {
        mount_remount(&target, MountFlags::BIND | MountFlags::RDONLY, "")?;
    }
    Ok(())
}

/// Makes the directories that are missing, for the container's root, and passes no link.
fn make_target(target: &str, (uid, gid): (Uid, Gid)) -> io::Result<PathBuf> {
    let mut path = PathBuf::from("/");
    for name in Path::new(target).components() {
        let Component::Normal(name) = name else { continue };
        path.push(name);
        match fs::create_dir(&path) {
            Ok(()) => chownat(CWD, &path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        if !fs::symlink_metadata(&path)?.is_dir() {
            return Err(io::Error::other(format!("symlink encountered at: /{}", path.display())));
        }
    }
    Ok(path)
}
