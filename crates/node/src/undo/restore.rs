//! Taking back what passes changed: what was changed last first, the root of the volume at the end.
//!
//! A directory is found by its handle, wherever in the volume it is by now, and only if its way up
//! leads to the volume's root. From there on the rules of the walk hold: names relative to the open
//! directory, never a link followed, the change made on the very inode that was judged. An entry is
//! restored where it is the same inode and still as the pass left it.
//!
//! The records go once nothing of them is left to do. So an undo that was interrupted is made again
//! from the beginning, and finds in place what it had restored.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use pctd_core::ids::VolumeName;
use pctd_core::undo::Tally;
use pctd_core::undo::{
    Directory, Entries, Entry, Header, Identity, Judgement, PassKind, Privileges,
};
use pctd_sys::handle::{self, FileHandle};
use rustix::io::Errno;

use super::places::Plan;
use super::record::identity;
use super::store::{self, Kept};
use crate::paths::NodePaths;
use crate::source::OpenVolume;
use crate::stat::{Stat, is_below, open_dir_here, open_path_here};
use crate::walk::Progress;
use crate::walk::entry::{self, Applied, ProcFds};

/// How many errors are kept with their path; the rest is counted.
const ERRORS_KEPT: usize = 5;

/// What is to be taken back, and how.
#[derive(Clone, Copy)]
pub struct UndoRequest<'a> {
    /// The pass to go back to, that one included; none: the last one that was no drift.
    pub back_to: Option<u64>,
    /// Whether setuid and setgid of files are given back.
    pub privileges: Privileges,
    /// Whether it is only counted.
    pub dry_run: bool,
    /// Set by anybody to end it.
    pub cancel: &'a AtomicBool,
    /// Called now and then.
    pub progress: &'a (dyn Fn(Progress) + Sync),
}

impl std::fmt::Debug for UndoRequest<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UndoRequest").field("back_to", &self.back_to).finish_non_exhaustive()
    }
}

/// What an undo came to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Undone {
    /// When the passes began that were taken back, the newest first.
    pub passes: Vec<(u64, PassKind)>,
    /// What became of their entries.
    pub tally: Tally,
    /// Whether anything in the volume is another than before.
    pub changed: bool,
    /// It was ended from outside.
    pub cancelled: bool,
    /// The records are gone: nothing of them is left to do.
    pub is_done: bool,
}

/// Why nothing was taken back.
#[derive(Debug, thiserror::Error)]
pub enum UndoError {
    /// Nothing is on record.
    #[error("nothing that pctd changed is on record")]
    Nothing,
    /// There is no such pass.
    #[error("there is no pass {0}")]
    NoSuchPass(u64),
    /// It was of another directory.
    #[error("pass {0} was of another directory or file system than the one that is there now")]
    Elsewhere(u64),
    /// The file system lets nobody open what was recorded.
    #[error("directories cannot be opened by their handles: {0}")]
    Handles(Errno),
    /// The records cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// Where they are.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// The volume cannot be used.
    #[error(transparent)]
    Volume(#[from] Errno),
}

/// Takes back what passes over an open volume changed.
///
/// # Errors
///
/// [`UndoError`], and then nothing was changed; entries that could not be restored are counted
/// instead, and so is what ends it half way.
pub(crate) fn undo(
    paths: &NodePaths,
    volume: &VolumeName,
    open: &OpenVolume,
    request: UndoRequest<'_>,
) -> Result<Undone, UndoError> {
    let dir = store::dir_of(paths, volume);
    let failed = |source| UndoError::Io { path: dir.clone(), source };
    let kept = store::kept(&dir).map_err(failed)?;
    let from = begin_of(&kept, request.back_to)?;
    let root = identity(open).map_err(failed)?;
    let plan = Plan::read(&kept, from).map_err(failed)?;
    let is_here =
        |header: &Header| header.root == root && header.file_system == open.file_system().id;
    if let Some(other) = plan.passes().find(|kept| !is_here(&kept.header)) {
        return Err(UndoError::Elsewhere(other.header.begun));
    }
    let mut undo = Undo {
        open,
        root,
        request,
        procfs: ProcFds::open()?,
        last: None,
        changed_since: BTreeSet::new(),
        done: Undone::default(),
    };
    undo.done.passes = plan.passes().map(|kept| (kept.header.begun, kept.header.kind)).collect();
    undo.done.passes.reverse();
    let mut of_root = Vec::new();
    let mut files = BTreeMap::new();
    for place in &plan.places {
        if request.cancel.load(Ordering::Relaxed) {
            undo.done.cancelled = true;
            return Ok(undo.done);
        }
        let entries = place.read(&plan, &mut files).map_err(failed);
        if let Err(error) = entries.and_then(|entries| undo.block(entries, &mut of_root)) {
            return undo.broken_off(error);
        }
        undo.tell();
    }
    for entry in of_root {
        undo.entry(open, &entry);
    }
    undo.done.tally.changed_since = u64::try_from(undo.changed_since.len()).unwrap_or(u64::MAX);
    undo.tell();
    let tally = &undo.done.tally;
    if !request.dry_run && tally.errors == 0 && tally.withheld == 0 {
        if let Err(error) = plan.forget().map_err(failed) {
            return undo.broken_off(error);
        }
        undo.done.is_done = true;
    }
    Ok(undo.done)
}

/// Returns from when on everything is to be taken back.
fn begin_of(kept: &[Kept], back_to: Option<u64>) -> Result<u64, UndoError> {
    if let Some(begun) = back_to {
        let is_there = kept.iter().any(|kept| kept.header.begun == begun);
        return if is_there { Ok(begun) } else { Err(UndoError::NoSuchPass(begun)) };
    }
    let whole = kept.iter().rev().find(|kept| kept.header.kind != PassKind::Drift);
    let last = whole.or_else(|| kept.last()).ok_or(UndoError::Nothing)?;
    Ok(last.header.begun)
}

struct Undo<'a> {
    open: &'a OpenVolume,
    root: Identity,
    request: UndoRequest<'a>,
    procfs: ProcFds,
    /// The directory of the last record, since most have many; none where it is gone.
    last: Option<(Directory, Option<OwnedFd>)>,
    /// Inodes that are not as the record left them that was looked at last. Where an undo was
    /// interrupted, an older record may tell that it had taken back more already.
    changed_since: BTreeSet<(u64, u32)>,
    done: Undone,
}

impl Undo<'_> {
    fn tell(&self) {
        let Tally { entries, restored, .. } = self.done.tally;
        (self.request.progress)(Progress { entries, changes: restored, rate: 0 });
    }

    /// Restores the entries of one record, the last first, but for the root of the volume.
    fn block(&mut self, record: Entries, of_root: &mut Vec<Entry>) -> Result<(), UndoError> {
        let Entries { directory, mut entries, .. } = record;
        let is_root = match &directory {
            Directory::Handle(handle) => *handle == self.root.handle,
            Directory::Path(path) => path.is_empty(),
        };
        if is_root {
            // Its own record is one by itself.
            of_root.extend(entries.extract_if(.., |entry| entry.name == b"."));
        }
        if entries.is_empty() {
            return Ok(());
        }
        let dir = match self.last.take() {
            Some((last, dir)) if last == directory => dir,
            _ => match self.find(&directory) {
                Ok(dir) => dir,
                Err(Errno::PERM) => return Err(UndoError::Handles(Errno::PERM)),
                Err(errno) => {
                    let count = u64::try_from(entries.len()).unwrap_or(u64::MAX);
                    self.failed(count, &format!("a directory cannot be opened: {errno}"));
                    return Ok(());
                }
            },
        };
        if let Some(dir) = &dir {
            entries.iter().rev().for_each(|entry| self.entry(dir, entry));
        } else {
            let count = u64::try_from(entries.len()).unwrap_or(u64::MAX);
            self.done.tally.entries += count;
            self.done.tally.gone += count;
        }
        self.last = Some((directory, dir));
        Ok(())
    }

    /// Opens a directory; none where it is gone, or no longer in the volume.
    fn find(&self, directory: &Directory) -> Result<Option<OwnedFd>, Errno> {
        let found = match directory {
            Directory::Handle(bytes) => self.by_handle(bytes),
            Directory::Path(path) => self.by_path(path),
        };
        match found {
            Ok(Some(dir)) if !self.is_inside(&Stat::of(&dir)?) => Ok(None),
            Err(Errno::NOENT | Errno::STALE | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => {
                Ok(None)
            }
            found => found,
        }
    }

    fn by_handle(&self, bytes: &[u8]) -> Result<Option<OwnedFd>, Errno> {
        let dir = handle::open_dir(self.open, bytes)?;
        let root = FileHandle::from_bytes(&self.root.handle);
        let is_inside = bytes == root.as_bytes() || is_below(dir.as_fd(), &root)?;
        Ok(is_inside.then_some(dir))
    }

    fn by_path(&self, path: &[u8]) -> Result<Option<OwnedFd>, Errno> {
        let mut dir = crate::stat::open_for_reading(self.open)?;
        for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
            let name = CString::new(name).map_err(|_| Errno::INVAL)?;
            dir = open_dir_here(&dir, &name)?;
        }
        Ok(Some(dir))
    }

    /// Returns whether something is on the mount and the file system of the volume.
    fn is_inside(&self, stat: &Stat) -> bool {
        // A btrfs subvolume is on the same mount and yet a file system of its own.
        let device = self.open.identity().device;
        stat.mount == self.open.mount() && (!stat.is_dir() || stat.identity.device == device)
    }

    /// Restores one entry of an open directory.
    fn entry(&mut self, dir: impl AsFd, entry: &Entry) {
        self.done.tally.entries += 1;
        match self.try_entry(dir, entry) {
            Ok(()) => {}
            // Another one has its name, or something is mounted over it.
            Err(Errno::NOENT | Errno::STALE | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => {
                self.done.tally.gone += 1;
            }
            Err(errno) => self.entry_failed(entry, &errno.to_string()),
        }
    }

    fn try_entry(&mut self, dir: impl AsFd, entry: &Entry) -> Result<(), Errno> {
        if entry.name == b"." {
            return self.open_entry(&dir, entry);
        }
        let name = CString::new(entry.name.as_slice()).map_err(|_| Errno::INVAL)?;
        if entry.name == b".." || entry.name.contains(&b'/') {
            return Err(Errno::INVAL);
        }
        let fd = open_path_here(dir, &name)?;
        self.open_entry(&fd, entry)
    }

    fn open_entry(&mut self, fd: impl AsFd, entry: &Entry) -> Result<(), Errno> {
        let stat = Stat::of(&fd)?;
        let is_same = stat.identity.inode == entry.inode && stat.birth == entry.birth;
        if !is_same || !self.is_inside(&stat) {
            return Err(Errno::STALE);
        }
        let inode = (entry.inode, entry.birth);
        let privileges = self.request.privileges;
        let tally = &mut self.done.tally;
        let change = match entry.judge(&stat.entry, privileges) {
            Judgement::ChangedSince => {
                self.changed_since.insert(inode);
                return Ok(());
            }
            Judgement::InPlace => {
                self.changed_since.remove(&inode);
                tally.in_place += 1;
                let is_whole = stat.entry.mode == entry.before.mode;
                tally.withheld +=
                    u64::from(!is_whole && entry.withholds(stat.entry.kind, privileges));
                return Ok(());
            }
            Judgement::Restore(change) => change,
        };
        let finding = entry::examine(&self.procfs, &fd, &stat, (None, change))?;
        let tally = &mut self.done.tally;
        tally.acls += u64::from(finding.acl);
        let Some(change) = finding.change else { return Ok(()) };
        if !self.request.dry_run {
            let why = match entry::apply(&self.procfs, &fd, &stat, change) {
                Applied::Done => None,
                Applied::Refused(refusal) => Some(refusal.to_string()),
                Applied::Failed(why) => Some(why),
            };
            if let Some(why) = why {
                // A change is of several calls, and the last of them may be what failed.
                self.done.changed |= Stat::of(&fd).map_or(true, |now| now.entry != stat.entry);
                self.entry_failed(entry, &why);
                return Ok(());
            }
            self.done.changed = true;
        }
        self.changed_since.remove(&inode);
        tally.restored += 1;
        tally.withheld += u64::from(entry.withholds(stat.entry.kind, privileges));
        Ok(())
    }

    /// Ends it with what cannot be gone on from: an error where nothing was changed.
    fn broken_off(mut self, error: UndoError) -> Result<Undone, UndoError> {
        if !self.done.changed {
            return Err(error);
        }
        let tally = &mut self.done.tally;
        tally.errors += 1;
        tally.first_errors.insert(0, format!("it was broken off: {error}"));
        tally.first_errors.truncate(ERRORS_KEPT);
        Ok(self.done)
    }

    fn entry_failed(&mut self, entry: &Entry, why: &str) {
        let name = String::from_utf8_lossy(&entry.name).escape_debug().to_string();
        let tally = &mut self.done.tally;
        tally.errors += 1;
        if tally.first_errors.len() < ERRORS_KEPT {
            tally.first_errors.push(format!("{name}: {why}"));
        }
    }

    fn failed(&mut self, entries: u64, why: &str) {
        let tally = &mut self.done.tally;
        tally.entries += entries;
        tally.errors += entries;
        if tally.first_errors.len() < ERRORS_KEPT {
            tally.first_errors.push(why.to_owned());
        }
    }
}
