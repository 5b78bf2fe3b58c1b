//! Mounts with mapped ids: `mount_setattr` with `MOUNT_ATTR_IDMAP`, and the user namespace it takes
//! the map from (`mount_setattr(2)`, `user_namespaces(7)`).
//!
//! The mount is a detached clone: nobody sees it before it is attached, and it is gone when its fd
//! is closed.

use std::ffi::c_int;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};

use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

const CLONE: OpenTreeFlags = OpenTreeFlags::OPEN_TREE_CLONE
    .union(OpenTreeFlags::OPEN_TREE_CLOEXEC)
    .union(OpenTreeFlags::AT_EMPTY_PATH);

/// Returns a mount of the directory that `dir` is open on (`O_PATH` will do), without what is
/// mounted below it.
///
/// # Errors
///
/// `EPERM` without `CAP_SYS_ADMIN`; else as `open_tree(2)`.
pub fn detached_clone(dir: impl AsFd) -> Result<OwnedFd, Errno> {
    open_tree(dir, c"", CLONE)
}

/// Returns a mount of the directory that `dir` is open on, and of everything that is mounted below
/// it.
///
/// # Errors
///
/// As [`detached_clone`].
pub fn detached_tree(dir: impl AsFd) -> Result<OwnedFd, Errno> {
    open_tree(dir, c"", CLONE | OpenTreeFlags::AT_RECURSIVE)
}

/// Maps the ids of a detached mount: those on disk to those of the host, as `namespace` has them
/// inside and outside.
///
/// # Errors
///
/// `EINVAL` where the file system does not let its ids be mapped; `EPERM` where they are already;
/// `ENOSYS` before Linux 5.12.
pub fn map_ids(mount: impl AsFd, namespace: impl AsFd) -> Result<(), Errno> {
    set_map(mount, namespace, libc::AT_EMPTY_PATH)
}

/// Maps the ids of a detached mount and of all mounts below it.
///
/// # Errors
///
/// As [`map_ids`], where one of them cannot; none is mapped then.
pub fn map_ids_of_tree(mount: impl AsFd, namespace: impl AsFd) -> Result<(), Errno> {
    set_map(mount, namespace, libc::AT_EMPTY_PATH | libc::AT_RECURSIVE)
}

fn set_map(mount: impl AsFd, namespace: impl AsFd, flags: c_int) -> Result<(), Errno> {
    let namespace = u64::try_from(namespace.as_fd().as_raw_fd()).map_err(|_| Errno::BADF)?;
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: namespace,
    };
    let (mount, path) = (mount.as_fd().as_raw_fd(), c"".as_ptr());
    let (attributes, size) = (&raw const attributes, size_of::<libc::mount_attr>());
    // SAFETY: the path is a static NUL-terminated string and `attributes` points to a whole
    // `struct mount_attr` of the size that is given; the kernel only reads both. The other arguments
    // are integers, and both fds are borrowed, so open, during the call.
    let returned =
        unsafe { libc::syscall(libc::SYS_mount_setattr, mount, path, flags, attributes, size) };
    crate::check(returned).map(drop)
}

/// Returns a user namespace with these maps, in lines of id inside, id outside and count. Nothing
/// runs in it any more.
///
/// # Errors
///
/// As `clone(2)` and a write to `/proc/PID/uid_map`: `EINVAL` for ids that are there twice, `EPERM`
/// without the capabilities over the ids.
pub fn user_namespace(users: &str, groups: &str) -> io::Result<OwnedFd> {
    let child = Child::start()?;
    let of_child = |name: &str| format!("/proc/{}/{name}", child.0.as_raw_nonzero());
    // The kernel takes each map in one write only.
    fs::write(of_child("gid_map"), groups)?;
    fs::write(of_child("uid_map"), users)?;
    Ok(File::open(of_child("ns/user"))?.into())
}

/// A process that does nothing, in a user namespace of its own; ended and reaped when dropped.
struct Child(Pid);

impl Child {
    fn start() -> io::Result<Self> {
        let number = |constant: c_int| u64::try_from(constant).map_err(io::Error::other);
        let arguments = libc::clone_args {
            flags: number(libc::CLONE_NEWUSER)?,
            exit_signal: number(libc::SIGCHLD)?,
            pidfd: 0,
            child_tid: 0,
            parent_tid: 0,
            stack: 0,
            stack_size: 0,
            tls: 0,
            set_tid: 0,
            set_tid_size: 0,
            cgroup: 0,
        };
        let (pointer, size) = (&raw const arguments, size_of::<libc::clone_args>());
        // SAFETY: `pointer` leads to a whole `struct clone_args` of the size that is given, which the
        // kernel only reads: none of its pointers is set. Without CLONE_VM the child has a copy of
        // this process, in which other threads may have held any lock at this moment: all it does
        // is `sleep_on`, which takes none, allocates nothing, and does not return.
        let returned = unsafe { libc::syscall(libc::SYS_clone3, pointer, size) };
        if returned == 0 {
            sleep_on();
        }
        let pid = i32::try_from(crate::check(returned)?).ok().and_then(Pid::from_raw);
        pid.map(Self).ok_or_else(|| io::Error::other("clone3 returned no process id"))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // It is not reaped yet, so the id is still its own. Both fail only if somebody else did so.
        let _ended = kill_process(self.0, Signal::KILL);
        while matches!(waitpid(Some(self.0), WaitOptions::empty()), Err(Errno::INTR)) {}
    }
}

/// What the child does: wait to be killed, by whoever made it or, where that ends first, with it.
fn sleep_on() -> ! {
    // SAFETY: the call only takes integers, and is one that a child of a process with threads may
    // make: it is a system call and nothing else.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    loop {
        // SAFETY: as above; it takes nothing.
        unsafe { libc::pause() };
    }
}
