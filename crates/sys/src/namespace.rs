//! `NS_GET_PARENT`: which namespace another one was made in.

use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd};

use rustix::io::Errno;

/// Opens the parent of a user or pid namespace; `namespace` is an open `/proc/<pid>/ns/user`, say.
///
/// # Errors
///
/// `EPERM` where the parent is none of the caller's namespaces nor below them; else as
/// `ioctl_ns(2)`.
pub fn parent(namespace: impl AsFd) -> Result<OwnedFd, Errno> {
    let fd = namespace.as_fd().as_raw_fd();
    // SAFETY: the call takes no argument, so no memory of this process is involved; `fd` is
    // borrowed, so open, and what is no namespace is refused (`ENOTTY`).
    let returned = unsafe { libc::ioctl(fd, libc::NS_GET_PARENT) };
    crate::check(returned.into())?;
    // SAFETY: it succeeded, so this is a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(returned) })
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn what_is_no_namespace_has_no_parent() {
        assert_eq!(parent(File::open("/dev/null").unwrap()).unwrap_err(), Errno::NOTTY);
    }
}
