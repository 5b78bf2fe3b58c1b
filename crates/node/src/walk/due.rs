//! Entries that wait for their record, and the record of them.
//!
//! A repair that can be taken back notes what an entry was before it changes it. One write for each
//! would cost a fifth of the repair; so a few entries of one directory stay open until they are
//! noted together, and are changed after that.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};

use pctd_core::ownership::Change;
use pctd_core::undo::{Directory, Entry};
use pctd_sys::handle::FileHandle;
use rustix::io::Errno;

use super::stack::Spot;
use crate::source::OpenVolume;
use crate::stat::Stat;
use crate::undo::RecordError;

/// An open entry and what is to be changed on it.
#[derive(Debug)]
pub(super) struct Due<'r> {
    pub(super) name: CString,
    pub(super) fd: OwnedFd,
    pub(super) stat: Stat,
    pub(super) change: Change<'r>,
}

impl Due<'_> {
    pub(super) fn record(&self) -> Option<Entry> {
        record(&self.name, &self.stat, self.change)
    }
}

/// Returns the record of a change; none where neither owner nor mode is to change: a default ACL is
/// taken back by declaring that there is none.
pub(crate) fn record(name: &CStr, stat: &Stat, change: Change<'_>) -> Option<Entry> {
    let is_recorded = change.owner.is_some() || change.mode.is_some();
    is_recorded
        .then(|| Entry::of(name.to_bytes(), stat.identity.inode, stat.birth, &stat.entry, change))
}

/// Returns how an open directory is found again; `path` is its path below the root of the volume.
pub(crate) fn directory(
    dir: impl AsFd,
    path: impl FnOnce() -> Vec<u8>,
) -> Result<Directory, RecordError> {
    match FileHandle::of(dir) {
        Ok(handle) => Ok(Directory::Handle(handle.as_bytes().to_vec())),
        Err(Errno::OPNOTSUPP) => Ok(Directory::Path(path())),
        Err(errno) => Err(RecordError::Directory(errno)),
    }
}

/// The directory in which something is to be changed.
#[derive(Debug, Clone, Copy)]
pub(super) enum Where<'s> {
    /// The root of the volume.
    Root,
    /// One on the way.
    In(Spot<'s>),
}

impl Where<'_> {
    /// Returns how it is found again.
    pub(super) fn directory(self, volume: &OpenVolume) -> Result<Directory, RecordError> {
        match self {
            Self::Root => directory(volume.fd(), Vec::new),
            Self::In(spot) => directory(spot.fd(), || spot.raw_path(None)),
        }
    }

    /// Returns its path for people.
    pub(super) fn path(self) -> String {
        match self {
            Self::Root => ".".to_owned(),
            Self::In(spot) => spot.path(None),
        }
    }
}
