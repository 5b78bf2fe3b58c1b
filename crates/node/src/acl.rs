//! ACLs of open files: asked for and set on the very file that is open, never by a path.
//!
//! A default ACL belongs to a directory that can be opened for reading, of which fgetxattr(2) and
//! fsetxattr(2) take an fd. One that is open with `O_PATH` only is opened for reading as itself.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};

use pctd_core::acl::Acl;
use rustix::fs::{XattrFlags, fgetxattr, fgetxattr_query, fremovexattr, fsetxattr};
use rustix::io::Errno;

use crate::stat::open_for_reading;

/// What an entry grants.
pub(crate) const ACCESS: &CStr = c"system.posix_acl_access";
/// What new entries of a directory get.
pub(crate) const DEFAULT: &CStr = c"system.posix_acl_default";

/// Returns whether the default ACL of an open directory is this one.
pub(crate) fn is_default(dir: impl AsFd, wanted: &Acl<u32>) -> Result<bool, Errno> {
    // No longer than it would be: a longer one is another one.
    let mut value = wanted.to_bytes();
    match reading(dir.as_fd(), |fd| fgetxattr(fd, DEFAULT, value.as_mut_slice())) {
        Ok(len) => Ok(wanted.is(value.get(..len))),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(wanted.is(None)),
        Err(Errno::RANGE) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Gives an open directory this default ACL, or takes it the one it has.
pub(crate) fn set_default(dir: impl AsFd, acl: &Acl<u32>) -> Result<(), Errno> {
    let set = |fd: BorrowedFd<'_>| {
        if acl.is_none() {
            fremovexattr(fd, DEFAULT)
        } else {
            fsetxattr(fd, DEFAULT, &acl.to_bytes(), XattrFlags::empty())
        }
    };
    match reading(dir.as_fd(), set) {
        Err(Errno::NODATA) if acl.is_none() => Ok(()),
        result => result,
    }
}

/// Returns what the file system of an open directory says where it keeps no ACLs.
///
/// A file system with others behind it (FUSE) may only say so when one is set.
pub(crate) fn refusal(dir: impl AsFd) -> Option<Errno> {
    let asked = reading(dir.as_fd(), |fd| fgetxattr_query(fd, DEFAULT));
    asked.err().filter(|errno| *errno == Errno::OPNOTSUPP)
}

/// Does something with a directory that wants it open for reading.
fn reading<T>(
    dir: BorrowedFd<'_>,
    mut call: impl FnMut(BorrowedFd<'_>) -> Result<T, Errno>,
) -> Result<T, Errno> {
    match call(dir) {
        // Of `O_PATH`. What is no directory has no default ACL, and is not opened.
        Err(Errno::BADF) => call(open_for_reading(dir)?.as_fd()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::path::Path;

    use pctd_core::acl::Who;
    use rustix::fs::{CWD, Mode, OFlags, openat};

    use super::*;

    fn acl(group: &str) -> Acl<u32> {
        let entries = [(Who::Owner, "rwx"), (Who::OwningGroup, group), (Who::Other, "---")];
        Acl::new(entries.map(|(who, may)| (who, may.parse().unwrap())))
    }

    fn open(path: &Path, how: OFlags) -> OwnedFd {
        openat(CWD, path, how | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()).unwrap()
    }

    #[test]
    fn a_default_acl_is_set_and_taken_on_the_open_directory_whatever_has_its_name() {
        for how in [OFlags::PATH, OFlags::RDONLY | OFlags::DIRECTORY] {
            let house = tempfile::tempdir().unwrap();
            let [name, moved] = ["name", "moved"].map(|n| house.path().join(n));
            std::fs::create_dir(&name).unwrap();
            let dir = open(&name, how);
            std::fs::rename(&name, &moved).unwrap();
            std::fs::create_dir(&name).unwrap();
            assert_eq!(refusal(&dir), None);
            assert_eq!(is_default(&dir, &Acl::none()), Ok(true));
            assert_eq!(is_default(&dir, &acl("rwx")), Ok(false));
            assert_eq!(set_default(&dir, &acl("rwx")), Ok(()));
            assert_eq!(is_default(&dir, &acl("rwx")), Ok(true));
            for other in [acl("r-x"), Acl::none()] {
                assert_eq!(is_default(&dir, &other), Ok(false), "{other}");
            }
            assert_eq!(is_default(open(&moved, how), &acl("rwx")), Ok(true));
            assert_eq!(is_default(open(&name, how), &Acl::none()), Ok(true));
            for _ in 0..2 {
                assert_eq!(set_default(&dir, &Acl::none()), Ok(()));
                assert_eq!(is_default(&dir, &Acl::none()), Ok(true));
            }
        }
    }

    #[test]
    fn what_is_no_directory_is_not_opened() {
        let house = tempfile::tempdir().unwrap();
        let link = house.path().join("link");
        std::os::unix::fs::symlink(house.path(), &link).unwrap();
        let link = open(&link, OFlags::PATH);
        assert_eq!(set_default(&link, &acl("rwx")), Err(Errno::NOTDIR));
        assert_eq!(is_default(house_fd(&house), &Acl::none()), Ok(true));
    }

    fn house_fd(house: &tempfile::TempDir) -> OwnedFd {
        open(house.path(), OFlags::PATH)
    }

    #[test]
    fn a_file_system_without_acls_says_so() {
        let proc = open(Path::new("/proc"), OFlags::PATH);
        assert_eq!(refusal(&proc), Some(Errno::OPNOTSUPP));
        assert_eq!(is_default(&proc, &Acl::none()), Ok(true));
        assert_eq!(set_default(&proc, &acl("rwx")), Err(Errno::OPNOTSUPP));
    }
}
