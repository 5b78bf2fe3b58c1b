//! The file system an open directory lies on.
//!
//! It is found through the mount id of the directory, never through its path: a path says where
//! something is today, the id says what the open directory lies on.

use std::io;
use std::os::fd::AsFd;

use bstr::ByteSlice as _;
use pctd_core::desired::RequireMount;
use pctd_core::observed::FileSystem;
use rustix::fs::fstatvfs;
use rustix::io::Errno;

use crate::mounts::MountTable;
use crate::paths::NodePaths;
use crate::reach;
use crate::stat::Stat;

/// File systems whose `f_fsid` comes from a UUID or a GUID on disk and so survives a reboot.
///
/// statfs(2); the others (xfs among them) derive it from the device number.
const STABLE_FSID: [&str; 5] = ["ext2", "ext3", "ext4", "btrfs", "zfs"];

/// Returns the file system an open directory lies on.
///
/// # Errors
///
/// The directory cannot be looked at, or its mount left the table meanwhile (ESTALE).
pub(crate) fn file_system(
    paths: &NodePaths,
    dir: impl AsFd,
    require: &RequireMount,
) -> io::Result<FileSystem> {
    let stat = Stat::of(&dir)?;
    let table = MountTable::read()?;
    let entry = table.get(stat.mount).ok_or(Errno::STALE)?;
    let mount_point = entry.mount_point.to_str_lossy().into_owned();
    let id = if STABLE_FSID.contains(&entry.kind.as_str()) {
        format!("{}:{:016x}", entry.kind, fstatvfs(&dir)?.f_fsid)
    } else {
        format!("{}:{mount_point}", entry.kind)
    };
    let required_mounted = match require {
        RequireMount::No | RequireMount::NotRoot => None,
        RequireMount::At(path) => Some(reach::is_mount_point(paths, path)),
    };
    let is_root = stat.mount == Stat::of(paths.root())?.mount;
    Ok(FileSystem { id, kind: entry.kind.clone(), mount_point, is_root, required_mounted })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_below_the_root_is_on_the_root_file_system() {
        let dir = tempfile::tempdir().unwrap();
        let paths = NodePaths::new(Some(dir.path().into())).unwrap();
        let found = file_system(&paths, paths.root(), &RequireMount::No).unwrap();
        assert!(found.is_root);
        assert!(found.id.starts_with(&format!("{}:", found.kind)), "{}", found.id);
        assert_eq!(found.required_mounted, None);
        let again = file_system(&paths, paths.root(), &RequireMount::No).unwrap();
        assert_eq!(found, again);
    }
}
