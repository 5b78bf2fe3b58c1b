//! File handles: a name for a file that survives renames and restarts, and needs no open fd.
//!
//! In memory a handle is the bytes the kernel writes for it from `handle_type` on
//! (`struct file_handle`): the type, then what the file system made of it. So a handle read out of
//! an event needs no conversion, and two are the same file where their bytes are equal.

use std::borrow::Borrow;
use std::ffi::c_int;
use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd};

use rustix::fs::OFlags;
use rustix::io::Errno;

/// The size of the type before the bytes of the file system.
const TYPE_LEN: usize = size_of::<c_int>();
/// The most bytes a file system may need (`MAX_HANDLE_SZ`), and the same as the kernel counts.
const MAX_LEN: usize = 128;
const MAX_BYTES: u32 = 128;

/// A handle of one's own; see the module.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileHandle(Box<[u8]>);

impl FileHandle {
    /// Takes a handle from bytes that an event or an earlier handle gave.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }

    /// Returns its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Asks for the handle of an open file or directory.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP` where the file system has none; else as `name_to_handle_at(2)`.
    pub fn of(fd: impl AsFd) -> Result<Self, Errno> {
        let mut raw = RawHandle::default();
        let mut mount: c_int = 0;
        let (fd, path, flags) = (fd.as_fd().as_raw_fd(), c"".as_ptr(), libc::AT_EMPTY_PATH);
        let handle = (&raw mut raw).cast::<libc::file_handle>();
        // SAFETY: the path is a static NUL-terminated string. `handle` points to a `RawHandle`,
        // which begins as `struct file_handle` does and has room for the `MAX_HANDLE_SZ` bytes
        // that `handle_bytes` announces; `mount` outlives the call; `fd` is borrowed, so open.
        let returned = unsafe { libc::name_to_handle_at(fd, path, handle, &raw mut mount, flags) };
        crate::check(returned.into())?;
        let len = usize::try_from(raw.bytes).unwrap_or(MAX_LEN).min(MAX_LEN);
        Ok(Self([&raw.kind.to_ne_bytes(), &raw.data[..len]].concat().into()))
    }
}

impl Borrow<[u8]> for FileHandle {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

/// `struct file_handle` with room for any handle.
#[repr(C)]
struct RawHandle {
    bytes: u32,
    kind: c_int,
    data: [u8; MAX_LEN],
}

const _: () = assert!(
    std::mem::offset_of!(RawHandle, data) == size_of::<libc::file_handle>()
        && align_of::<RawHandle>() == align_of::<libc::file_handle>(),
    "RawHandle begins as struct file_handle does"
);

impl Default for RawHandle {
    fn default() -> Self {
        Self { bytes: MAX_BYTES, kind: 0, data: [0; MAX_LEN] }
    }
}

/// Opens the file a handle stands for, wherever it is by now, as part of the mount that `mount`
/// is open on (any file of it; `O_PATH` will not do).
///
/// # Errors
///
/// `ESTALE` where the file is gone; `EINVAL` for bytes that are no handle; `EPERM` without
/// `CAP_DAC_READ_SEARCH`; else as `open_by_handle_at(2)`.
pub fn open(mount: impl AsFd, handle: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let (kind, data) = handle.split_first_chunk::<TYPE_LEN>().ok_or(Errno::INVAL)?;
    let mut raw = RawHandle { kind: c_int::from_ne_bytes(*kind), ..RawHandle::default() };
    raw.data.get_mut(..data.len()).ok_or(Errno::INVAL)?.copy_from_slice(data);
    raw.bytes = u32::try_from(data.len()).map_err(|_| Errno::INVAL)?;
    let flags = c_int::try_from((flags | OFlags::CLOEXEC).bits()).map_err(|_| Errno::INVAL)?;
    let mount = mount.as_fd().as_raw_fd();
    let handle = (&raw mut raw).cast::<libc::file_handle>();
    // SAFETY: `handle` points to a `RawHandle`, which begins as `struct file_handle` does and
    // holds the `handle_bytes` bytes it announces; `mount` is borrowed, so open. What the bytes
    // mean is the kernel's to check (a wrong handle is ESTALE or EINVAL).
    let returned = unsafe { libc::open_by_handle_at(mount, handle, flags) };
    let fd = c_int::try_from(crate::check(returned.into())?).map_err(|_| Errno::BADF)?;
    // SAFETY: the call has just returned this fd, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Opens the directory a handle stands for, for reading; as [`open`].
///
/// # Errors
///
/// As [`open`]; `ENOTDIR` where it is something else.
pub fn open_dir(mount: impl AsFd, handle: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    match open(&mount, handle, flags | OFlags::NOATIME) {
        Err(Errno::PERM) => open(mount, handle, flags),
        result => result,
    }
}
