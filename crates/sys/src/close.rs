//! `close` without a function around it, for loops that open and close a file for each entry.

#![expect(clippy::inline_always, reason = "see `call`")]

use std::os::fd::{IntoRawFd as _, OwnedFd};

/// Closes a file, as dropping it does, where this is called (see `call`).
#[inline(always)]
pub fn close(fd: OwnedFd) {
    // SAFETY: the fd is owned, and given up with this: nobody else closes it, or uses it any more.
    unsafe { rustix::io::close(fd.into_raw_fd()) }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;

    use super::*;

    #[test]
    fn what_is_closed_is_not_open() {
        // Its number is high, so that no other test gets it meanwhile.
        let file = std::fs::File::open("/").unwrap();
        let fd = rustix::io::fcntl_dupfd_cloexec(&file, 700).unwrap();
        let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
        assert!(std::fs::symlink_metadata(&link).is_ok());
        close(fd);
        assert!(std::fs::symlink_metadata(&link).is_err());
    }
}
