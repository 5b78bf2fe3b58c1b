//! fanotify in its file-handle form: events of a whole file system, by directory and name.
//!
//! One group, a mark per super block. An event says which entry (`name`) of which directory (its
//! file handle) was made, moved or had its attributes changed, and by which process. It needs no
//! fd and no permission of whoever caused it, and it comes from every mount, mount namespace and
//! user namespace there is.
//!
//! `fanotify(7)`, `fanotify_init(2)`, `fanotify_mark(2)`. Needs `CAP_SYS_ADMIN` and Linux 5.17
//! (`FAN_RENAME`).

use std::ffi::{CStr, c_int};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use rustix::io::Errno;

/// The size of `struct fanotify_event_metadata`.
const METADATA_LEN: usize = 24;
/// The size of `struct fanotify_event_info_header`.
const INFO_HEADER_LEN: usize = 4;
/// What is asked for: entries made, moved and changed in owner or mode, directories included.
const WANTED: u64 = libc::FAN_ATTRIB | libc::FAN_CREATE | libc::FAN_RENAME | libc::FAN_ONDIR;

/// How many events may wait to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queue {
    /// `/proc/sys/fs/fanotify/max_queued_events`, 16,384 by default; then an overflow is reported.
    Bounded,
    /// As many as memory holds.
    Unlimited,
}

/// A notification group.
#[derive(Debug)]
pub struct Group {
    fd: OwnedFd,
}

impl Group {
    /// Makes a group; reads from it never wait.
    ///
    /// # Errors
    ///
    /// `EPERM` without `CAP_SYS_ADMIN`, `ENOSYS` or `EINVAL` where the kernel lacks it.
    pub fn new(queue: Queue) -> Result<Self, Errno> {
        let flags = libc::FAN_CLASS_NOTIF
            | libc::FAN_CLOEXEC
            | libc::FAN_NONBLOCK
            | libc::FAN_REPORT_DFID_NAME
            | match queue {
                Queue::Bounded => 0,
                Queue::Unlimited => libc::FAN_UNLIMITED_QUEUE,
            };
        // SAFETY: both arguments are integers.
        let returned = unsafe { libc::fanotify_init(flags, 0) };
        let fd = c_int::try_from(crate::check(returned.into())?).map_err(|_| Errno::BADF)?;
        // SAFETY: the call has just returned this fd, and nobody else knows it.
        Ok(Self { fd: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    /// Asks for the events of the whole file system that a directory lies on; marking one twice
    /// changes nothing. The mark keeps nothing open: the file system can be unmounted, and then
    /// the mark is gone without a word.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP` (no file handles: overlayfs as it is by default), `ENODEV` (no file system id:
    /// FUSE), `EXDEV` (a btrfs subvolume), `EINVAL` before Linux 5.17; else as
    /// `fanotify_mark(2)`.
    pub fn mark_file_system(&self, dir: impl AsFd) -> Result<(), Errno> {
        self.mark(libc::FAN_MARK_ADD, dir.as_fd())
    }

    /// Takes a mark back.
    ///
    /// # Errors
    ///
    /// `ENOENT` where there is none; else as `fanotify_mark(2)`.
    pub fn unmark_file_system(&self, dir: impl AsFd) -> Result<(), Errno> {
        self.mark(libc::FAN_MARK_REMOVE, dir.as_fd())
    }

    fn mark(&self, action: u32, dir: BorrowedFd<'_>) -> Result<(), Errno> {
        let flags = action | libc::FAN_MARK_FILESYSTEM | libc::FAN_MARK_ONLYDIR;
        let (group, dir, path) = (self.fd.as_raw_fd(), dir.as_raw_fd(), c".".as_ptr());
        // SAFETY: the path is a static NUL-terminated string, which the kernel only reads; both
        // fds are borrowed, so open, during the call; the rest are integers.
        let returned = unsafe { libc::fanotify_mark(group, flags, WANTED, dir, path) };
        crate::check(returned.into()).map(drop)
    }

    /// Reads the events that wait, as many as `buffer` holds; none is an empty iterator.
    ///
    /// # Errors
    ///
    /// As `read(2)`; `EINVAL` where `buffer` is too small for one event (4 KiB always suffice).
    pub fn read<'b>(&self, buffer: &'b mut [u8]) -> Result<Events<'b>, Errno> {
        match rustix::io::read(&self.fd, &mut *buffer) {
            Ok(len) => Ok(Events { rest: &buffer[..len] }),
            Err(Errno::AGAIN | Errno::INTR) => Ok(Events { rest: &[] }),
            Err(errno) => Err(errno),
        }
    }
}

impl AsFd for Group {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'b> {
    /// An entry was made, moved here or changed.
    Entry(Entry<'b>),
    /// Events were lost: anything may have happened.
    Overflow,
    /// One that cannot be read; anything may have happened.
    Unknown,
}

/// An entry that was made, moved or changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'b> {
    /// Where it is now.
    pub place: Place<'b>,
    /// Where it was, if it was moved.
    pub from: Option<Place<'b>>,
    /// Whether it is a directory.
    pub is_dir: bool,
    /// Whether it is new (made, or linked).
    pub is_new: bool,
    /// The process that did it (0: one that this pid namespace does not see).
    pub pid: i32,
}

/// A name in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place<'b> {
    /// The id of the file system, as `statvfs` has it in `f_fsid`.
    pub file_system: u64,
    /// The handle of the directory; see [`crate::handle`].
    pub directory: &'b [u8],
    /// The name in it; `.` is the directory itself.
    pub name: &'b CStr,
}

/// The events of one read.
#[derive(Debug, Clone)]
pub struct Events<'b> {
    rest: &'b [u8],
}

impl<'b> Events<'b> {
    /// Takes apart bytes as `read` gives them; safe for any bytes.
    pub fn parse(bytes: &'b [u8]) -> Self {
        Self { rest: bytes }
    }
}

impl<'b> Iterator for Events<'b> {
    type Item = Event<'b>;

    fn next(&mut self) -> Option<Event<'b>> {
        if self.rest.is_empty() {
            return None;
        }
        let len = u32_at(self.rest, 0).and_then(|len| usize::try_from(len).ok());
        let len = len.filter(|len| (METADATA_LEN..=self.rest.len()).contains(len));
        // Without a length that can be believed, nothing after it can be.
        let (event, rest) = self.rest.split_at(len.unwrap_or(self.rest.len()));
        self.rest = rest;
        Some(len.and_then(|_| parse_event(event)).unwrap_or(Event::Unknown))
    }
}

/// Reads `struct fanotify_event_metadata` and what follows it.
fn parse_event(event: &[u8]) -> Option<Event<'_>> {
    let version = *event.get(4)?;
    let metadata_len = usize::from(u16_at(event, 6)?);
    let mask = u64::from_ne_bytes(*event.get(8..16)?.first_chunk()?);
    let pid = i32::from_ne_bytes(*event.get(20..24)?.first_chunk()?);
    if version != FAN_METADATA_VERSION {
        return None;
    }
    if mask & libc::FAN_Q_OVERFLOW != 0 {
        return Some(Event::Overflow);
    }
    let (mut place, mut from) = (None, None);
    let mut rest = event.get(metadata_len..)?;
    while !rest.is_empty() {
        let kind = *rest.first()?;
        let len = usize::from(u16_at(rest, 2)?);
        let record = rest.get(INFO_HEADER_LEN..len)?;
        rest = rest.get(len..)?;
        match kind {
            libc::FAN_EVENT_INFO_TYPE_DFID_NAME | libc::FAN_EVENT_INFO_TYPE_NEW_DFID_NAME => {
                place = Some(parse_place(record)?);
            }
            libc::FAN_EVENT_INFO_TYPE_OLD_DFID_NAME => from = Some(parse_place(record)?),
            _ => {}
        }
    }
    Some(Event::Entry(Entry {
        place: place?,
        from,
        is_dir: mask & libc::FAN_ONDIR != 0,
        is_new: mask & libc::FAN_CREATE != 0,
        pid,
    }))
}

/// `FANOTIFY_METADATA_VERSION`.
const FAN_METADATA_VERSION: u8 = 3;

/// Reads what follows the header of `struct fanotify_event_info_fid` with a name.
fn parse_place(record: &[u8]) -> Option<Place<'_>> {
    // Put together as statvfs does it.
    let (low, high) = (u32_at(record, 0)?, u32_at(record, 4)?);
    let handle_len = usize::try_from(u32_at(record, 8)?).ok()?;
    // From `handle_type` on; see `crate::handle`.
    let handle = record.get(12..)?;
    let (directory, name) = handle.split_at_checked(handle_len.checked_add(4)?)?;
    Some(Place {
        file_system: u64::from(high) << 32 | u64::from(low),
        directory,
        name: CStr::from_bytes_until_nul(name).ok()?,
    })
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|bytes| u16::from_ne_bytes(*bytes))
}
