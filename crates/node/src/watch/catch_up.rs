//! What happened while nobody watched, as far as directories tell: [`crate::trace`].
//!
//! Each directory of the last complete walk is looked at once. Where one changed, its entries are
//! handed to the watch as if their events came in now; a directory that walk did not see is looked
//! at whole.

use std::collections::HashSet;
use std::ffi::CString;
use std::hash::{BuildHasher as _, RandomState};
use std::io;

use pctd_core::ids::VolumeName;
use pctd_core::ledger::VolumeRecord;
use pctd_sys::handle::{self, FileHandle};
use rustix::fs::{FileType, RawDir};
use rustix::io::Errno;

use super::mark::Root;
use super::queue::{Look, Slice};
use crate::paths::NodePaths;
use crate::stat::{Stat, open_path_here};
use crate::trace;

/// More directories than this are not worth it: the volume is walked anyway.
const MOST_CHANGED: usize = 4 * 1024;

/// What the directories of a volume told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CaughtUp {
    /// Directories that were looked at.
    pub directories: u64,
    /// Of those, directories that changed.
    pub changed: u64,
}

/// Compares the directories of an armed volume with the trace of its last complete walk; returns
/// what is to be looked at. `None` where there is no such trace, or too much of it has changed.
pub(super) fn compare(
    paths: &NodePaths,
    volume: &VolumeName,
    root: &Root,
    record: &VolumeRecord,
) -> Option<(CaughtUp, Vec<Slice>)> {
    let open = root.open(paths).ok()?;
    let traced = || trace::read(paths, volume, record);
    let mut sum = CaughtUp { directories: 0, changed: 0 };
    let (mut changed, mut has_root) = (Vec::new(), false);
    for entry in traced()? {
        let (directory, before) = entry.ok()?;
        sum.directories += 1;
        has_root |= directory == root.handle;
        match handle::open_dir(&open.fd, directory.as_bytes()).and_then(|dir| Stat::of(&dir)) {
            Ok(stat) if stat.changed == before => {}
            // Gone: the directory it was in changed, too.
            Err(Errno::STALE | Errno::NOENT) => {}
            Ok(_) => {
                sum.changed += 1;
                changed.push(directory);
            }
            Err(_) => return None,
        }
        if changed.len() > MOST_CHANGED {
            return None;
        }
    }
    if !has_root {
        // Another directory has the volume's path by now; its trace would be of the old one.
        return None;
    }
    if changed.is_empty() {
        return Some((sum, Vec::new()));
    }
    let known = Known::new(traced()?).ok()?;
    let slices = changed.into_iter().map(|directory| {
        let names = match handle::open_dir(&open.fd, directory.as_bytes()) {
            Err(Errno::STALE | Errno::NOENT) => Vec::new(),
            dir => names_in(&dir?, &known)?,
        };
        Ok(Slice { directory, names })
    });
    Some((sum, slices.collect::<Result<_, Errno>>().ok()?))
}

/// Every entry of a directory, and the directory itself.
fn names_in(dir: &std::os::fd::OwnedFd, known: &Known) -> Result<Vec<(CString, Look)>, Errno> {
    let mut buffer = vec![std::mem::MaybeUninit::uninit(); 32 * 1024];
    let mut entries = RawDir::new(dir, &mut buffer);
    let mut names = vec![(c".".to_owned(), Look::Entry)];
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let is_dir = matches!(entry.file_type(), FileType::Directory | FileType::Unknown);
        let is_known = || {
            let handle = open_path_here(dir, name).and_then(FileHandle::of);
            handle.is_ok_and(|handle| known.has(&handle))
        };
        let look = if is_dir && !is_known() { Look::Tree } else { Look::Entry };
        names.push((name.to_owned(), look));
    }
    Ok(names)
}

/// Which directories the walk saw; by hash, since there may be millions. Two that share one are
/// told apart by the walk that follows.
struct Known {
    hasher: RandomState,
    hashes: HashSet<u64>,
}

impl Known {
    fn new(
        traced: impl Iterator<Item = io::Result<(FileHandle, trace::Changed)>>,
    ) -> io::Result<Self> {
        let hasher = RandomState::new();
        let all = traced.map(|entry| entry.map(|(handle, _)| hasher.hash_one(handle)));
        Ok(Self { hashes: all.collect::<io::Result<_>>()?, hasher })
    }

    fn has(&self, handle: &FileHandle) -> bool {
        self.hashes.contains(&self.hasher.hash_one(handle))
    }
}
