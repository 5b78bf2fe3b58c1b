//! The order of a walk: down into directories, through their names in batches, up again, the root
//! last.
//!
//! Names are read in batches of one `getdents` each. Everything but directories is dealt with at
//! once; the directories of a batch are entered before the next batch is read. So memory does not
//! grow with the number of entries in a directory, and nothing is read twice.

use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::time::UNIX_EPOCH;

use pctd_core::ownership::Place;
use rustix::fs::{FileType, RawDir, SeekFrom, seek};
use rustix::io::Errno;

use super::entry::{self, Applied, ProcFds};
use super::stack::{Ascent, Frame, Reading, Stack};
use super::tally::{Tally, display_path, is_vanished};
use super::{Walk, WalkMode, WalkReport};
use crate::mounts::MountTable;
use crate::source::OpenVolume;
use crate::stat::{Stat, open_dir_here, open_for_reading, open_path_here};

/// The buffer for names; glibc's `readdir` takes the same.
const BATCH_BYTES: usize = 32 * 1024;

/// How much memory names of directories to be entered may take before batches are cut short.
const PENDING_BYTES: usize = 4 * 1024 * 1024;
/// How many names a directory may remember even then.
const PENDING_FLOOR: usize = 16;

/// How often an entry may turn out to be a directory and then not to be one before that is an
/// error; only an attacker gets that far.
const SWAPS_FOLLOWED: u32 = 8;

/// Walks a volume.
///
/// # Errors
///
/// The root directory cannot be read, or `/proc` is not there; nothing was changed.
pub fn walk(volume: &OpenVolume, walk: Walk<'_>) -> Result<WalkReport, Errno> {
    let mut engine = Engine::new(volume, walk)?;
    let mut finished = true;
    if walk.rule.looks_below() {
        let fd = open_for_reading(volume.fd())?;
        let root = Frame::new(CString::default(), fd, volume.identity(), false);
        finished = engine.below(Stack::new(root, String::new(), walk.fds));
    }
    if finished && !engine.tally.is_over() {
        engine.root()?;
    }
    (walk.progress)(engine.tally.progress());
    Ok(engine.tally.finish(!finished))
}

/// Walks one directory below the root of a volume and everything in it; the root is not looked at.
///
/// `from` is open for reading, and known to be inside the volume; `name` is what it is called
/// there. So a directory that was just moved into a volume need not wait for the next walk.
///
/// # Errors
///
/// `from` is no directory (ENOTDIR), on another mount or file system than the volume (EXDEV), or
/// its root (EINVAL); or `/proc` is not there. Nothing was changed.
pub fn walk_below(
    volume: &OpenVolume,
    from: OwnedFd,
    name: &CStr,
    walk: Walk<'_>,
) -> Result<WalkReport, Errno> {
    let mut engine = Engine::new(volume, walk)?;
    let stat = Stat::of(&from)?;
    if !stat.is_dir() {
        return Err(Errno::NOTDIR);
    }
    if !engine.is_inside(&stat) {
        return Err(Errno::XDEV);
    }
    if stat.identity == volume.identity() {
        return Err(Errno::INVAL);
    }
    let mut finished = true;
    if walk.rule.looks_below() {
        let base = engine.frame(name, from, &stat);
        let path = display_path("", std::iter::once(name.to_bytes()));
        finished = engine.below(Stack::new(base, path, walk.fds));
    }
    Ok(engine.tally.finish(!finished))
}

struct Engine<'a> {
    walk: Walk<'a>,
    volume: &'a OpenVolume,
    procfs: ProcFds,
    /// Whether a directory is looked at before it is opened, because opening could mount something.
    ask_first: bool,
    /// `Walk::since`, as a stat has it.
    since: Option<(i64, u32)>,
    tally: Tally,
}

/// What became of an entry that was taken for something other than a directory.
#[derive(Debug, PartialEq, Eq)]
enum Leaf {
    Dealt,
    /// It is a directory after all.
    Directory,
}

impl<'a> Engine<'a> {
    fn new(volume: &'a OpenVolume, walk: Walk<'a>) -> Result<Self, Errno> {
        let since = walk.since.map(|since| {
            let since = since.duration_since(UNIX_EPOCH).unwrap_or_default();
            (i64::try_from(since.as_secs()).unwrap_or(i64::MAX), since.subsec_nanos())
        });
        Ok(Self {
            walk,
            volume,
            procfs: ProcFds::open()?,
            ask_first: MountTable::read().map_or(true, |table| table.may_automount(volume.mount())),
            since,
            tally: Tally::default(),
        })
    }

    /// Walks everything the stack begins with; returns whether it came to the end.
    fn below(&mut self, mut stack: Stack) -> bool {
        let mut buffer = vec![MaybeUninit::uninit(); BATCH_BYTES];
        loop {
            if self.walk.cancel.load(Ordering::Relaxed) {
                return false;
            }
            if self.tally.is_over() {
                return true;
            }
            if let Some(name) = stack.next_pending() {
                self.enter(&mut stack, &name);
                continue;
            }
            match stack.top().map(|top| top.reading) {
                Some(Reading::At(_)) => self.batch(&mut stack, &mut buffer),
                Some(Reading::Done) if !stack.at_base() => self.leave(&mut stack),
                Some(Reading::Done) => {
                    self.own_turn(&mut stack);
                    return true;
                }
                None => return true,
            }
            (self.walk.progress)(self.tally.progress());
        }
    }

    /// Reads one batch of names of the current directory.
    fn batch(&mut self, stack: &mut Stack, buffer: &mut [MaybeUninit<u8>]) {
        let mut directories: Vec<CString> = Vec::new();
        let mut cut_at = None;
        let mut iter = RawDir::new(stack.top_fd(), buffer);
        let mut reading = loop {
            if self.tally.is_over() {
                break Reading::Done;
            }
            let entry = match iter.next() {
                Some(Ok(entry)) => entry,
                Some(Err(Errno::INTR)) => continue,
                Some(Err(errno)) => {
                    if !is_vanished(errno) {
                        self.tally.error(|| stack.path(None), &errno);
                    }
                    break Reading::Done;
                }
                None => break Reading::Done,
            };
            let (name, offset) = (entry.file_name(), entry.next_entry_cookie());
            if !matches!(name.to_bytes(), b"." | b"..") {
                let leaf = match entry.file_type() {
                    FileType::Directory => Leaf::Directory,
                    _ => self.leaf(stack, name),
                };
                if leaf == Leaf::Directory {
                    directories.push(name.to_owned());
                }
            }
            if iter.is_buffer_empty() {
                break Reading::At(offset);
            }
            if directories.len() >= PENDING_FLOOR && stack.pending_bytes() > PENDING_BYTES {
                cut_at = Some(offset);
                break Reading::At(offset);
            }
        };
        if let Some(offset) = cut_at {
            reading = self.go_to(stack, offset);
        }
        stack.set_reading(reading);
        stack.remember(directories);
    }

    /// Lets the next batch of the current directory start at `offset`.
    fn go_to(&mut self, stack: &Stack, offset: u64) -> Reading {
        match seek(stack.top_fd(), SeekFrom::Start(offset)) {
            Ok(_) => Reading::At(offset),
            Err(errno) => {
                self.tally.error(|| stack.path(None), &errno);
                Reading::Done
            }
        }
    }

    /// Looks at an entry that is no directory.
    fn leaf(&mut self, stack: &Stack, name: &CStr) -> Leaf {
        let stat = match Stat::at(stack.top_fd(), name) {
            Ok(stat) => stat,
            Err(errno) => {
                self.failed(stack, name, errno);
                return Leaf::Dealt;
            }
        };
        if stat.mount != self.volume.mount() {
            self.tally.nested_mount(stack.path(Some(name)));
            return Leaf::Dealt;
        }
        if stat.is_dir() {
            return Leaf::Directory;
        }
        let place = Place::Below(name.to_bytes());
        if entry::decide(self.walk.rule, place, &stat.entry).is_none() {
            self.tally.entry();
            return Leaf::Dealt;
        }
        self.differing_leaf(stack, name).unwrap_or_else(|errno| {
            self.failed(stack, name, errno);
            Leaf::Dealt
        })
    }

    /// Opens an entry that looked different and decides anew: its name may stand for another now.
    fn differing_leaf(&mut self, stack: &Stack, name: &CStr) -> Result<Leaf, Errno> {
        let fd = match open_path_here(stack.top_fd(), name) {
            Err(Errno::XDEV) => {
                self.tally.nested_mount(stack.path(Some(name)));
                return Ok(Leaf::Dealt);
            }
            result => result?,
        };
        let stat = Stat::of(&fd)?;
        if stat.is_dir() {
            return Ok(Leaf::Directory);
        }
        self.tally.entry();
        self.put_right(|| stack.path(Some(name)), Place::Below(name.to_bytes()), &fd, &stat)?;
        Ok(Leaf::Dealt)
    }

    /// Decides about an open entry, counts, and in a repair changes it.
    fn put_right(
        &mut self,
        path: impl FnOnce() -> String,
        place: Place<'_>,
        fd: impl std::os::fd::AsFd,
        stat: &Stat,
    ) -> Result<(), Errno> {
        let Some(change) = entry::decide(self.walk.rule, place, &stat.entry) else {
            return Ok(());
        };
        let finding = entry::examine(&fd, stat, change)?;
        let repair = finding.change.filter(|_| self.walk.mode == WalkMode::Repair);
        if repair.is_some() && Some(self.tally.changes_made()) == self.walk.max_changes {
            self.tally.limited();
            return Ok(());
        }
        self.tally.finding(&finding, self.since.is_some_and(|since| stat.changed > since));
        if let Some(change) = repair {
            match entry::apply(&self.procfs, &fd, stat, change) {
                Applied::Done => self.tally.changed(),
                Applied::Refused(refusal) => {
                    self.tally.refused(&self.volume.file_system().kind, refusal);
                }
                Applied::Failed(problem) => self.tally.error(path, &problem),
            }
        }
        Ok(())
    }

    /// Goes down into a directory of the current one.
    fn enter(&mut self, stack: &mut Stack, name: &CStr) {
        if let Err(errno) = self.try_enter(stack, name) {
            self.failed(stack, name, errno);
        }
    }

    fn try_enter(&mut self, stack: &mut Stack, name: &CStr) -> Result<(), Errno> {
        let nested = |engine: &mut Self, stack: &Stack| {
            engine.tally.nested_mount(stack.path(Some(name)));
            Ok(())
        };
        if self.ask_first && Stat::at(stack.top_fd(), name)?.mount != self.volume.mount() {
            return nested(self, stack);
        }
        let mut swaps = 0;
        let fd = loop {
            match open_dir_here(stack.top_fd(), name) {
                // Others take fds too; a shorter tail of open directories does as well.
                Err(Errno::MFILE | Errno::NFILE) if stack.close_one() => {}
                Err(Errno::XDEV) => return nested(self, stack),
                // It was swapped for something else since its name was read, perhaps back again.
                Err(errno @ (Errno::NOTDIR | Errno::LOOP)) => {
                    swaps += 1;
                    if self.leaf(stack, name) == Leaf::Dealt {
                        return Ok(());
                    }
                    if swaps > SWAPS_FOLLOWED {
                        return Err(errno);
                    }
                }
                result => break result?,
            }
        };
        let stat = Stat::of(&fd)?;
        if !self.is_inside(&stat) {
            return nested(self, stack);
        }
        let frame = self.frame(name, fd, &stat);
        stack.push(frame);
        Ok(())
    }

    /// Returns whether an open entry is on the mount and the file system of the volume.
    fn is_inside(&self, stat: &Stat) -> bool {
        // A btrfs subvolume is on the same mount and yet a file system of its own.
        let device = self.volume.identity().device;
        stat.mount == self.volume.mount() && stat.identity.device == device
    }

    /// Counts a directory that is about to be walked.
    fn frame(&mut self, name: &CStr, fd: OwnedFd, stat: &Stat) -> Frame {
        self.tally.entry();
        let place = Place::Below(name.to_bytes());
        let due = entry::decide(self.walk.rule, place, &stat.entry).is_some();
        Frame::new(name.to_owned(), fd, stat.identity, due)
    }

    /// Goes up from the current directory, whose own turn it is now.
    fn leave(&mut self, stack: &mut Stack) {
        self.own_turn(stack);
        match stack.pop() {
            Ascent::StillOpen => {}
            Ascent::Reopened => {
                if let Some(Reading::At(offset)) = stack.top().map(|top| top.reading) {
                    let reading = self.go_to(stack, offset);
                    stack.set_reading(reading);
                }
            }
            Ascent::Lost(paths, errno) => {
                for path in paths {
                    let problem = format_args!("the way back up to it is gone: {errno}");
                    self.tally.error(|| path, &problem);
                }
            }
        }
    }

    /// Puts the current directory itself right, everything in it being done.
    fn own_turn(&mut self, stack: &mut Stack) {
        let Some(name) = stack.top().filter(|top| top.due).map(|top| top.name.clone()) else {
            return;
        };
        let fd = stack.top_fd();
        let place = Place::Below(name.to_bytes());
        let path = || stack.path(None);
        let done = Stat::of(fd).and_then(|stat| self.put_right(path, place, fd, &stat));
        if let Err(errno) = done {
            self.tally.error(path, &errno);
        }
    }

    /// Looks at the root directory, and in a repair puts it right.
    fn root(&mut self) -> Result<(), Errno> {
        let stat = Stat::of(self.volume.fd())?;
        self.tally.entry();
        self.put_right(|| ".".into(), Place::Root, self.volume.fd(), &stat)
    }

    fn failed(&mut self, stack: &Stack, name: &CStr, errno: Errno) {
        if !is_vanished(errno) {
            self.tally.error(|| stack.path(Some(name)), &errno);
        }
    }
}
