//! `fchmodat2`, which sets the mode of the very file an fd stands for, even one opened `O_PATH`.

#![expect(clippy::inline_always, reason = "see `call`")]

use std::os::fd::{AsFd, AsRawFd as _};

use rustix::io::Errno;

use crate::call::{Argument as _, call};

/// Sets the mode bits of the file that `fd` is open on; `O_PATH` will do, and a symbolic link is
/// not followed.
///
/// # Errors
///
/// `ENOSYS` before Linux 6.6; else as chmod(2). A symbolic link is `EOPNOTSUPP` on most file
/// systems.
#[inline(always)]
pub fn chmod_fd(fd: impl AsFd, mode: u32) -> Result<(), Errno> {
    let (fd, path, flags) = (fd.as_fd().as_raw_fd(), c"".as_ptr(), libc::AT_EMPTY_PATH);
    let arguments = [fd.word(), path.word(), mode.word(), flags.word(), 0, 0];
    // SAFETY: the path is a NUL-terminated string with static lifetime, which the kernel only
    // reads; the other arguments are integers, and `fd` is borrowed, so open, during the call.
    unsafe { call(libc::SYS_fchmodat2, arguments) }
}

/// Returns whether the kernel has the call at all.
///
/// Asked with arguments that change nothing: where the call exists, its flags are looked at
/// before anything else.
pub fn is_supported() -> bool {
    const NO_SUCH_FLAGS: i32 = -1;
    let path = c"".as_ptr();
    // SAFETY: as in `chmod_fd`; the flags are refused before the fd or the path is looked at.
    let returned = unsafe { libc::syscall(libc::SYS_fchmodat2, -1, path, 0, NO_SUCH_FLAGS) };
    !matches!(crate::check(returned), Err(Errno::NOSYS))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use rustix::fs::{CWD, Mode, OFlags, openat};

    use super::*;

    #[test]
    fn the_file_behind_an_o_path_fd_is_changed_whatever_has_its_name() {
        if !is_supported() {
            return; // Linux before 6.6: the caller's fallback is tested where it is.
        }
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        std::fs::write(&one, "").unwrap();
        let fd = openat(CWD, &one, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty()).unwrap();
        std::fs::rename(&one, &two).unwrap();
        std::os::unix::fs::symlink(&two, &one).unwrap();
        chmod_fd(&fd, 0o4711).unwrap();
        assert_eq!(std::fs::metadata(&two).unwrap().permissions().mode() & 0o7777, 0o4711);
    }

    #[test]
    fn a_refusal_is_the_kernels() {
        if !is_supported() {
            return;
        }
        let null = openat(CWD, "/proc/self/stat", OFlags::PATH, Mode::empty()).unwrap();
        assert_eq!(chmod_fd(&null, 0o777), Err(Errno::PERM));
    }
}
