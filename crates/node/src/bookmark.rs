//! The bookmark of a walk: which directories it was through with, should it be interrupted.
//!
//! A walk of a huge volume takes hours, and pctd may be stopped, killed or told otherwise before
//! it ends. The next walk of the same volume for the same rule then goes on where it was: in a
//! directory the earlier one was through with, entries that are no directories are not looked at
//! again. Directories are all opened and judged, so mounts and what lies below are found as ever.
//!
//! A directory is believed while nothing was made in it, moved or removed since: it is named by its
//! file handle and its ctime, which nobody can set. Owners and modes of its entries may have changed
//! all the same. So what such a walk finds rests on [`pctd_core::observed::Assurance::Directories`]
//! at most, and a whole walk follows. (Two changes within one tick of the kernel's clock, 4 ms, have
//! the same ctime before Linux 6.13; that, too, is for the whole walk to find.) And never across a
//! boot: after a power failure the file system may be without changes that were made before it.
//!
//! One file per volume and kind of walk below `/var/lib/pctd/walks`: 40 bytes that say what the walk
//! was of, then blocks: how many directories, what was counted in them, 8 bytes for each, and a
//! checksum. So a file that was cut off is good up to there. Most is lost by a kill that was
//! noted within the last second. It is made with its first block: a walk that ends before that writes
//! nothing.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pctd_core::conf::Digest;
use pctd_core::ids::VolumeName;
use pctd_core::observed::Audit;
use pctd_sys::handle::FileHandle;
use rustix::fs::{FlockOperation, flock};

use crate::paths::NodePaths;
use crate::source::OpenVolume;
use crate::walk::report::WalkReport;
use crate::walk::rule::{WalkMode, WalkRule};

/// The length of what a walk was of: a SHA-1 in hex.
const TAG_LEN: usize = 40;
/// Only root need know what there is on the node.
const FILE_MODE: u32 = 0o600;
const DIR_MODE: u32 = 0o700;
/// A block is written after so many directories, or so long after the last one.
const BLOCK: usize = 512;
const EVERY: Duration = Duration::from_secs(1);
/// More directories than this are not kept in mind: 32 MiB, and only while a walk goes on.
const MOST: usize = 4 * 1024 * 1024;

/// What was counted of entries; in the order of [`Counts::of`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Counts([u64; 7]);

impl Counts {
    /// Takes what a walk has counted so far.
    pub(crate) fn of(audit: &Audit) -> Self {
        let Audit { entries, changes, owners, modes, acls, hard_links, privileges, .. } = *audit;
        Self([entries, changes, owners, modes, acls, hard_links, privileges])
    }

    /// Returns what came after `before`.
    pub(crate) fn since(self, before: Self) -> Self {
        let mut after = self.0;
        after.iter_mut().zip(before.0).for_each(|(count, before)| *count -= before);
        Self(after)
    }

    pub(crate) fn add(&mut self, more: Self) {
        self.0.iter_mut().zip(more.0).for_each(|(count, more)| *count = count.saturating_add(more));
    }

    /// Returns how many entries they are of.
    pub(crate) const fn entries(self) -> u64 {
        self.0[0]
    }

    /// Adds what was found of entries; how many there are is counted anew.
    pub(crate) fn add_findings_to(self, audit: &mut Audit) {
        let [_, changes, owners, modes, acls, hard_links, privileges] = self.0;
        audit.changes += changes;
        audit.owners += owners;
        audit.modes += modes;
        audit.acls += acls;
        audit.hard_links += hard_links;
        audit.privileges += privileges;
    }
}

/// The bookmark of one walk, which goes on where an earlier one left off. Left on disk when it is
/// dropped.
#[derive(Debug)]
pub struct Bookmark {
    mode: WalkMode,
    /// Of the audit and of the repair.
    paths: [PathBuf; 2],
    /// Directories that an earlier walk was through with, sorted.
    known: Vec<u64>,
    /// What that walk had found in them.
    found: Counts,
    notes: Mutex<Notes>,
}

#[derive(Debug)]
struct Notes {
    path: PathBuf,
    tag: [u8; TAG_LEN],
    /// `None` until there is something to write.
    file: Option<File>,
    /// How many more are kept; none once something could not be written.
    room: usize,
    block: Block,
    written: Instant,
}

/// Directories and what was counted in them.
#[derive(Debug, Default)]
struct Block {
    directories: Vec<u64>,
    counts: Counts,
}

impl Bookmark {
    /// Opens the bookmark of a volume, with what an earlier walk of this kind left in it that was of
    /// the same directory and for the same rule.
    ///
    /// # Errors
    ///
    /// Its file cannot be used, or another walk that was left behind still has it.
    pub fn open<'r>(
        paths: &NodePaths,
        volume: &VolumeName,
        open: &OpenVolume,
        rule: impl Into<WalkRule<'r>>,
        mode: WalkMode,
    ) -> io::Result<Self> {
        let tag = tag(open, &rule.into().text())?;
        let paths = [WalkMode::Audit, WalkMode::Repair].map(|mode| path_of(paths, volume, mode));
        let [of_audit, of_repair] = &paths;
        let (own, other) = match mode {
            WalkMode::Audit => (of_audit, of_repair),
            WalkMode::Repair => (of_repair, of_audit),
        };
        let mut found = Block::default();
        let file = go_on(own, &tag, &mut found)?;
        let Block { directories: mut known, counts } = found;
        if let Ok(other_file) = File::open(other) {
            // What a repair was through with is right; an audit only says what is not.
            let mut right = Block::default();
            match read(&other_file, &tag, &mut right) {
                Ok(Some(_)) if mode == WalkMode::Audit => known.append(&mut right.directories),
                Ok(Some(_)) => {}
                // Of another rule, and entries were changed for another since, or may be now.
                Ok(None) | Err(_) => fs::remove_file(other)?,
            }
        }
        known.sort_unstable();
        let room = MOST.saturating_sub(known.len());
        let (path, block, written) = (own.clone(), Block::default(), Instant::now());
        let notes = Mutex::new(Notes { path, tag, file, room, block, written });
        Ok(Self { mode, paths, known, found: counts, notes })
    }

    /// Returns whether an earlier walk was through with a directory that has not changed since.
    pub(crate) fn knows(&self, dir: impl AsFd, changed: (i64, u32)) -> bool {
        !self.known.is_empty()
            && name(dir, changed).is_some_and(|name| self.known.binary_search(&name).is_ok())
    }

    /// Returns what the earlier walk had found where it was.
    pub(crate) fn found(&self) -> Counts {
        self.found
    }

    /// Notes that this walk is through with a directory that last changed then.
    pub(crate) fn note(&self, dir: impl AsFd, changed: (i64, u32), counts: Counts) {
        let Some(name) = name(dir, changed) else { return };
        let mut notes = self.notes();
        if notes.room == 0 {
            return;
        }
        notes.room -= 1;
        notes.block.directories.push(name);
        if self.mode == WalkMode::Audit {
            notes.block.counts.add(counts);
        }
        if notes.block.directories.len() >= BLOCK || notes.written.elapsed() >= EVERY {
            notes.write();
        }
    }

    /// Takes note of how the walk ended: once it was whole there is nothing to go on with.
    pub fn end(self, report: &WalkReport) {
        if report.cancelled {
            return;
        }
        let [of_audit, of_repair] = &self.paths;
        let mut notes = self.notes();
        notes.give_up();
        // What an audit found wrong, the repair of it goes on with.
        let is_over = self.mode == WalkMode::Repair || report.audit.changes == 0;
        for path in std::iter::once(of_audit).chain(is_over.then_some(of_repair)) {
            // Another's, where this walk could not make it.
            if *path != notes.path || notes.file.is_some() {
                // One that stays is of directories that were looked at all the same.
                let _removed = fs::remove_file(path);
            }
        }
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        // A panic while it was locked ends the walk; what was written is checked when it is read.
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Bookmark {
    fn drop(&mut self) {
        self.notes().write();
    }
}

impl Notes {
    fn write(&mut self) {
        let block = std::mem::take(&mut self.block);
        self.written = Instant::now();
        if !block.directories.is_empty() && self.append(&block.to_bytes()).is_err() {
            // What was written of it has no checksum.
            self.give_up();
        }
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.file {
            Some(file) => file.write_all(bytes),
            none => none.insert(begin(&self.path, &self.tag)?).write_all(bytes),
        }
    }

    fn give_up(&mut self) {
        self.room = 0;
        self.block = Block::default();
    }
}

/// Opens the file an earlier walk left, to go on in it, with what is in it; none where there is none
/// or it is of another walk.
fn go_on(path: &Path, tag: &[u8], found: &mut Block) -> io::Result<Option<File>> {
    let mut file = match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    let Some(end) = read(&file, tag, found)? else {
        fs::remove_file(path)?;
        return Ok(None);
    };
    file.set_len(end)?;
    file.seek(SeekFrom::End(0))?;
    Ok(Some(file))
}

/// Makes the file of a walk. One that is there by now is another walk's that was left behind.
fn begin(path: &Path, tag: &[u8]) -> io::Result<File> {
    let dir = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    DirBuilder::new().recursive(true).mode(DIR_MODE).create(dir)?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(path)?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    file.write_all(tag)?;
    Ok(file)
}

impl Block {
    fn to_bytes(&self) -> Vec<u8> {
        let len = u64::try_from(self.directories.len()).unwrap_or(u64::MAX);
        let numbers =
            [len].into_iter().chain(self.counts.0).chain(self.directories.iter().copied());
        let mut bytes: Vec<u8> = numbers.flat_map(u64::to_le_bytes).collect();
        bytes.extend(Digest::of(&bytes).prefix().to_le_bytes());
        bytes
    }

    /// Reads one block; none at the end, or where it is not whole.
    fn read(from: &mut impl Read) -> io::Result<Option<(Self, u64)>> {
        const HEAD: usize = 8 * (1 + 7);
        let mut bytes = vec![0; HEAD];
        let mut whole = |part: &mut [u8]| match from.read_exact(part) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            result => result.map(|()| true),
        };
        if !whole(&mut bytes)? {
            return Ok(None);
        }
        let number = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_le_bytes);
        let len = usize::try_from(number(&bytes[..8])).unwrap_or(usize::MAX);
        if len > BLOCK {
            return Ok(None);
        }
        bytes.resize(HEAD + 8 * len + 8, 0);
        if !whole(&mut bytes[HEAD..])? {
            return Ok(None);
        }
        let (content, check) = bytes.split_at(bytes.len() - 8);
        if number(check) != Digest::of(content).prefix() {
            return Ok(None);
        }
        let mut numbers = content.chunks_exact(8).map(number).skip(1);
        let mut counts = Counts::default();
        counts.0.fill_with(|| numbers.next().unwrap_or(0));
        let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        Ok(Some((Self { directories: numbers.collect(), counts }, size)))
    }
}

/// Adds what a file has of a walk with this tag; returns where that ends, or none where the file is
/// of another walk.
fn read(file: &File, tag: &[u8], sum: &mut Block) -> io::Result<Option<u64>> {
    let mut from = BufReader::new(file);
    let mut head = [0; TAG_LEN];
    match from.read_exact(&mut head) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        result => result?,
    }
    if head != tag {
        return Ok(None);
    }
    let mut end = u64::try_from(TAG_LEN).unwrap_or(u64::MAX);
    while let Some((block, size)) = Block::read(&mut from)? {
        end += size;
        sum.directories.extend(block.directories);
        sum.counts.add(block.counts);
    }
    Ok(Some(end))
}

/// Forgets the bookmarks of a volume: what was put right in it may not be any more.
pub(crate) fn forget(paths: &NodePaths, volume: &VolumeName) -> io::Result<()> {
    for mode in [WalkMode::Audit, WalkMode::Repair] {
        match fs::remove_file(path_of(paths, volume, mode)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Returns where bookmarks are kept.
pub(crate) fn dirs(paths: &NodePaths) -> [PathBuf; 2] {
    [WalkMode::Audit, WalkMode::Repair].map(|mode| dir_of(paths, mode))
}

fn dir_of(paths: &NodePaths, mode: WalkMode) -> PathBuf {
    let kind = match mode {
        WalkMode::Audit => "audit",
        WalkMode::Repair => "repair",
    };
    paths.state_dir().join("walks").join(kind)
}

fn path_of(paths: &NodePaths, volume: &VolumeName, mode: WalkMode) -> PathBuf {
    // Names of volumes are plain words, so this is one component.
    dir_of(paths, mode).join(volume.to_string())
}

/// Returns what a walk is of: this very directory, since this boot, for this rule.
fn tag(volume: &OpenVolume, rule: &str) -> io::Result<[u8; TAG_LEN]> {
    let boot = fs::read_to_string(Path::new("/proc/sys/kernel/random/boot_id"))?;
    let root = FileHandle::of(volume.fd())?;
    let on = &volume.file_system().id;
    let text = format!("{boot}\n{on}\n{:?}\n{rule}\n", root.as_bytes());
    let hex = Digest::of(text.as_bytes()).to_string();
    hex.as_bytes().try_into().map_err(io::Error::other)
}

/// Returns what tells a directory as it is now from all others, and from itself after a change;
/// none where it has no handle.
fn name(dir: impl AsFd, changed: (i64, u32)) -> Option<u64> {
    let handle = FileHandle::of(dir).ok()?;
    let (seconds, nanos) = (changed.0.to_le_bytes(), changed.1.to_le_bytes());
    Some(Digest::of(&[handle.as_bytes(), &seconds, &nanos].concat()).prefix())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(directories: &[u64]) -> Block {
        let counts = Counts([9, 8, 7, 6, 5, 4, 3]);
        Block { directories: directories.to_vec(), counts }
    }

    #[test]
    fn a_file_that_was_cut_off_anywhere_is_good_up_to_the_last_whole_block() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let tag = [b'a'; TAG_LEN];
        let (first, second) = (block(&[1, 2]).to_bytes(), block(&[3]).to_bytes());
        let whole = [&tag[..], &first, &second].concat();
        for len in 0..=whole.len() {
            fs::write(&path, &whole[..len]).unwrap();
            let mut sum = Block::default();
            let end = read(&File::open(&path).unwrap(), &tag, &mut sum).unwrap();
            let expected: &[u64] = match len {
                len if len == whole.len() => &[1, 2, 3],
                len if len >= TAG_LEN + first.len() => &[1, 2],
                _ => &[],
            };
            assert_eq!(sum.directories, expected, "{len}");
            assert_eq!(end.is_some(), len >= TAG_LEN);
            assert!(end.is_none_or(|end| end <= u64::try_from(len).unwrap()));
        }
        let mut sum = Block::default();
        assert_eq!(read(&File::open(&path).unwrap(), &[b'b'; TAG_LEN], &mut sum).unwrap(), None);
        assert!(sum.directories.is_empty());
        // Neither is what was spoilt believed.
        for at in TAG_LEN..whole.len() {
            let mut spoilt = whole.clone();
            spoilt[at] ^= 1;
            fs::write(&path, spoilt).unwrap();
            let mut sum = Block::default();
            read(&File::open(&path).unwrap(), &tag, &mut sum).unwrap();
            assert!(sum.directories.len() < 3, "{at}");
        }
    }
}
