//! `getxattrat`: an extended attribute of a name in an open directory.
//!
//! With `/proc/self/fd` as the directory that is the very file an fd stands for, even one opened
//! `O_PATH`, of which `fgetxattr` wants to know nothing; and without the way there by path, which
//! costs several times as much as the question.

#![expect(clippy::inline_always, reason = "see `call`")]

use std::ffi::{CStr, c_int, c_long};
use std::os::fd::{AsFd, AsRawFd as _};
use std::sync::LazyLock;

use rustix::io::Errno;

use crate::call::{Argument as _, call};

/// The number of the call; calls that came after Linux 5.0 have the same on all architectures. libc
/// does not name it yet.
const SYS_GETXATTRAT: c_long = 464;

/// `struct xattr_args` of linux/xattr.h, in its first version.
#[repr(C)]
struct XattrArgs {
    value: u64,
    size: u32,
    flags: u32,
}

/// Whether the kernel has the call; asked once, with an fd that nobody has.
static IS_SUPPORTED: LazyLock<bool> =
    LazyLock::new(|| get_size(-1, c"name", c"user.x") != Err(Errno::NOSYS));

/// Returns whether the kernel has the call at all (Linux 6.13).
pub fn is_supported() -> bool {
    *IS_SUPPORTED
}

/// Returns whether the file that `name` in `dir` leads to has an extended attribute; links are
/// followed.
///
/// # Errors
///
/// `ENOSYS` before Linux 6.13; else as `getxattr(2)`.
#[inline(always)]
pub fn has_at(dir: impl AsFd, name: &CStr, attribute: &CStr) -> Result<bool, Errno> {
    match get_size(dir.as_fd().as_raw_fd(), name, attribute) {
        Ok(()) => Ok(true),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(false),
        Err(errno) => Err(errno),
    }
}

#[inline(always)]
fn get_size(dir: c_int, name: &CStr, attribute: &CStr) -> Result<(), Errno> {
    const FOLLOW: c_int = 0;
    // Without room for the value only its size is asked for.
    let args = XattrArgs { value: 0, size: 0, flags: 0 };
    let (name, attribute) = (name.as_ptr(), attribute.as_ptr());
    let (args, len) = (&raw const args, size_of::<XattrArgs>());
    let arguments =
        [dir.word(), name.word(), FOLLOW.word(), attribute.word(), args.word(), len.word()];
    // SAFETY: both names are NUL-terminated strings that outlive the call; `args` points to a whole
    // `struct xattr_args` of the length that is given, whose `size` of 0 says that nothing is to be
    // written to `value`. The kernel only reads all three, and `dir` is an integer to it.
    unsafe { call(SYS_GETXATTRAT, arguments) }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;

    use rustix::fs::{CWD, Mode, OFlags, XattrFlags, openat, setxattr};

    use super::*;

    #[test]
    fn an_attribute_is_found_through_an_o_path_fd_whatever_has_the_name() {
        if !is_supported() {
            return; // Linux before 6.13: the caller's fallback is tested where it is.
        }
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        std::fs::write(&one, "").unwrap();
        let path = OFlags::PATH | OFlags::NOFOLLOW;
        let fd = openat(CWD, &one, path, Mode::empty()).unwrap();
        std::fs::rename(&one, &two).unwrap();
        std::fs::write(&one, "").unwrap();
        let fds = openat(CWD, "/proc/self/fd", path | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let name = std::ffi::CString::new(fd.as_raw_fd().to_string()).unwrap();
        assert_eq!(has_at(&fds, &name, c"trusted.x"), Ok(false));
        match setxattr(&two, "trusted.x", b"1", XattrFlags::empty()) {
            // Not root, or a file system without.
            Err(Errno::PERM | Errno::OPNOTSUPP) => return,
            result => result.unwrap(),
        }
        assert_eq!(has_at(&fds, &name, c"trusted.x"), Ok(true));
        assert_eq!(has_at(&fds, &name, c"trusted.y"), Ok(false));
        assert_eq!(has_at(&fds, c"none", c"trusted.x"), Err(Errno::NOENT));
    }
}
