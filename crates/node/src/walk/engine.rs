//! The order of a walk: down into directories, through their names in batches, up again, the root
//! last.
//!
//! Names are read in batches of one `getdents` each. Everything but directories is dealt with at
//! once; the directories of a batch are entered before the next batch is read. So memory does not
//! grow with the number of entries in a directory, and nothing is read twice.
//!
//! What differs is changed right there, or where that is recorded first, a few entries of one
//! directory at a time.
//!
//! Each worker of a walk is one [`Engine`]. A directory gets its own turn when everything in it
//! was dealt with, but for what another worker took over and still has in hand; only the root
//! waits for all of them.

use std::cell::OnceCell;
use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use pctd_core::ownership::Place;
use rustix::fs::{FileType, RawDir, SeekFrom, seek};
use rustix::io::{Errno, fcntl_dupfd_cloexec};

use super::crew::{Crew, Names, Piece};
use super::due::{Due, Where};
use super::entry::{self, ProcFds};
use super::pace::{self, Meter};
use super::stack::{Ascent, Frame, Reading, Spot, Stack};
use super::tally::{Tally, display_path, is_vanished};
use super::{Progress, Walk, WalkMode, WalkReport, WalkRule};
use crate::source::OpenVolume;
use crate::stat::{Stat, open_dir_here, open_for_reading, open_path_here};

mod repair;

/// The buffer for names; glibc's `readdir` takes the same.
const BATCH_BYTES: usize = 32 * 1024;

/// How much memory names of directories to be entered may take before batches are cut short.
const PENDING_BYTES: usize = 4 * 1024 * 1024;
/// How many names a directory may remember even then.
const PENDING_FLOOR: usize = 16;

/// How often an entry may turn out to be a directory and then not to be one before that is an
/// error; only an attacker gets that far.
const SWAPS_FOLLOWED: u32 = 8;

/// After so many entries in a row that differ, the next one is opened without a look at its name
/// first: most volumes are all right or all wrong, and the look is a tenth of what a repair costs.
const ALL_WRONG: u32 = 16;

/// Walks a volume.
///
/// # Errors
///
/// The root directory cannot be read, or `/proc` is not there; nothing was changed.
///
/// # Panics
///
/// If a thread of the walk panicked.
pub fn walk(volume: &OpenVolume, walk: Walk<'_>) -> Result<WalkReport, Errno> {
    pace::apart(walk.background, || {
        let crew = Crew::new(volume, walk)?;
        let mut engine = Engine::new(&crew, &|| false);
        if walk.rule.looks_below() {
            let fd = open_for_reading(volume.fd())?;
            let stat = Stat::of(&fd)?;
            crew.note(&fd, &stat);
            let account = crew.account(&fd, &stat);
            let root = Frame::new(CString::default(), fd, volume.identity(), false);
            let first = Piece::directory(root.with_account(account), Vec::new());
            engine.tally = crew.run(first);
            if let Some(bookmark) = walk.bookmark.filter(|_| walk.mode == WalkMode::Audit) {
                engine.tally.add_findings(bookmark.found());
            }
            engine.published = engine.tally.progress();
        }
        if !crew.is_cancelled() && !crew.is_over() {
            engine.root()?;
        }
        engine.publish();
        Ok(engine.tally.finish(crew.is_cancelled()))
    })
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
///
/// # Panics
///
/// If a thread of the walk panicked.
pub fn walk_below(
    volume: &OpenVolume,
    from: OwnedFd,
    name: &CStr,
    walk: Walk<'_>,
) -> Result<WalkReport, Errno> {
    pace::apart(walk.background, || {
        let crew = Crew::new(volume, walk)?;
        let mut engine = Engine::new(&crew, &|| false);
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
        if walk.rule.looks_below() {
            let path = || display_path(name.to_bytes());
            let base = engine.frame(name, from, &stat, path);
            engine.publish();
            let first = Piece::directory(base, name.to_bytes().to_vec());
            engine.tally = engine.tally.merge(crew.run(first));
        }
        Ok(engine.tally.finish(crew.is_cancelled()))
    })
}

/// One worker. See the module.
pub(super) struct Engine<'a> {
    crew: &'a Crew<'a>,
    /// Starts one more worker; returns whether it could.
    hire: &'a dyn Fn() -> bool,
    tally: Tally,
    /// What of the tally the others know.
    published: Progress,
    /// How many entries in a row were found to differ.
    wrong_in_a_row: u32,
    /// Entries of one directory that are changed once that is recorded.
    due: Vec<Due<'a>>,
    /// Its thread's own, from the first entry that differs; none where it cannot be opened.
    procfs: OnceCell<Option<ProcFds>>,
}

/// What became of an entry that was taken for something other than a directory.
#[derive(Debug, PartialEq, Eq)]
enum Leaf {
    Dealt,
    /// It is a directory after all.
    Directory,
}

impl<'a> Engine<'a> {
    pub(super) fn new(crew: &'a Crew<'a>, hire: &'a dyn Fn() -> bool) -> Self {
        Self {
            crew,
            hire,
            tally: Tally::default(),
            published: Progress::default(),
            wrong_in_a_row: 0,
            due: Vec::new(),
            procfs: OnceCell::new(),
        }
    }

    /// Returns what was counted.
    pub(super) fn tally(self) -> Tally {
        self.tally
    }

    /// Walks a piece, as far as nobody else takes parts of it.
    pub(super) fn piece(&mut self, piece: Piece) {
        let mut stack = Stack::new(piece.base, piece.path);
        self.leaves(&mut stack, &piece.leaves);
        self.below(stack);
    }

    /// Looks at names that another worker read.
    fn leaves(&mut self, stack: &mut Stack, names: &Names) {
        let mut directories = Vec::new();
        for name in names.iter() {
            if self.crew.is_over() {
                break;
            }
            if self.leaf(stack.here(), name) == Leaf::Directory {
                directories.push(name.to_owned());
            }
        }
        self.settle(stack.here());
        stack.remember(directories);
        self.publish();
    }

    /// Walks everything the stack begins with.
    fn below(&mut self, mut stack: Stack) {
        let mut buffer = vec![MaybeUninit::uninit(); BATCH_BYTES];
        let mut meter = Meter::start(&self.crew.hands);
        while !self.crew.is_ended() {
            if let Some(meter) = &mut meter {
                meter.look(&self.crew.hands);
            }
            if self.crew.wants_work() {
                self.offer_directory(&mut stack);
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
                    break;
                }
                None => break,
            }
            self.publish();
        }
        self.publish();
    }

    /// Tells how far it is; per directory and batch, not per entry.
    fn publish(&mut self) {
        let now = self.tally.progress();
        self.crew.publish(Progress {
            entries: now.entries - self.published.entries,
            changes: now.changes - self.published.changes,
            rate: 0,
        });
        self.published = now;
    }

    /// Leaves a directory to another worker: the one nearest to where the stack begins, because
    /// most is probably below it.
    fn offer_directory(&mut self, stack: &mut Stack) {
        let Some((level, name)) = stack.take_spare() else { return };
        let spot = stack.at(level);
        match self.open(spot, &name) {
            // As many as that are open: it stays where it was.
            Err(Errno::MFILE | Errno::NFILE) => stack.put_back(level, name),
            Err(errno) => self.failed(spot, &name, errno),
            Ok(None) => {}
            Ok(Some(frame)) => {
                let path = spot.raw_path(Some(&name));
                self.crew.offer(Piece::directory(frame, path), self.hire);
            }
        }
    }

    /// Leaves names of the current directory to another worker, or looks at them where that cannot be.
    fn offer_names(&mut self, stack: &Stack, names: Names) -> Vec<CString> {
        let spot = stack.here();
        if let (Ok(fd), Some(base)) = (fcntl_dupfd_cloexec(spot.fd(), 0), stack.same_place()) {
            let piece = Piece { leaves: names, ..Piece::directory(base(fd), spot.raw_path(None)) };
            self.crew.offer(piece, self.hire);
            return Vec::new();
        }
        let is_directory = |name: &&CStr| self.leaf(spot, name) == Leaf::Directory;
        let directories = names.iter().filter(is_directory).map(CStr::to_owned).collect();
        self.settle(spot);
        directories
    }

    /// Reads one batch of names of the current directory, and deals with them unless another
    /// worker has nothing to do.
    fn batch(&mut self, stack: &mut Stack, buffer: &mut [MaybeUninit<u8>]) {
        // The first batch is the only one of most directories: not worth the way.
        let is_first = stack.top().is_none_or(|top| top.reading == Reading::At(0));
        let account = stack.top().and_then(|top| top.account);
        let believed = account.is_some_and(|account| account.believed);
        let before = self.tally.so_far();
        let mut others = (!is_first && !believed && self.crew.wants_work()).then(Names::default);
        let mut directories: Vec<CString> = Vec::new();
        let mut cut_at = None;
        let mut iter = RawDir::new(stack.here().fd(), buffer);
        let mut reading = loop {
            if self.crew.is_over() {
                break Reading::Done;
            }
            let entry = match iter.next() {
                Some(Ok(entry)) => entry,
                Some(Err(Errno::INTR)) => continue,
                Some(Err(errno)) => {
                    if !is_vanished(errno) {
                        self.tally.error(|| stack.here().path(None), &errno);
                    }
                    break Reading::Done;
                }
                None => break Reading::Done,
            };
            let (name, offset) = (entry.file_name(), entry.next_entry_cookie());
            if !matches!(name.to_bytes(), b"." | b"..") {
                let leaf = match (entry.file_type(), &mut others) {
                    (FileType::Directory, _) => Leaf::Directory,
                    (kind, _) if believed && kind != FileType::Unknown => {
                        self.tally.believed();
                        Leaf::Dealt
                    }
                    (_, Some(names)) => {
                        names.push(name);
                        Leaf::Dealt
                    }
                    (_, None) => self.leaf(stack.here(), name),
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
        self.settle(stack.here());
        if let Some(offset) = cut_at {
            reading = self.go_to(stack, offset);
        }
        if let Some(top) = stack.top() {
            // Of names that others look at, nobody keeps account.
            let account = account.filter(|_| others.is_none());
            top.account = account.map(|account| account.with(before, self.tally.so_far()));
        }
        if let Some(names) = others.filter(|names| !names.is_empty()) {
            directories.extend(self.offer_names(stack, names));
        }
        stack.set_reading(reading);
        stack.remember(directories);
    }

    /// Lets the next batch of the current directory start at `offset`.
    fn go_to(&mut self, stack: &Stack, offset: u64) -> Reading {
        match seek(stack.here().fd(), SeekFrom::Start(offset)) {
            Ok(_) => Reading::At(offset),
            Err(errno) => {
                self.tally.error(|| stack.here().path(None), &errno);
                Reading::Done
            }
        }
    }

    /// Looks at an entry that is no directory.
    fn leaf(&mut self, spot: Spot<'_>, name: &CStr) -> Leaf {
        if self.wrong_in_a_row >= ALL_WRONG {
            // It will have to be opened anyway.
            return self.opened_leaf(spot, name);
        }
        let stat = match Stat::at(spot.fd(), name) {
            Ok(stat) => stat,
            Err(errno) => {
                self.failed(spot, name, errno);
                return Leaf::Dealt;
            }
        };
        if stat.mount != self.crew.volume.mount() {
            self.tally.nested_mount(spot.path(Some(name)));
            return Leaf::Dealt;
        }
        if stat.is_dir() {
            return Leaf::Directory;
        }
        let place = Place::Below(name.to_bytes());
        if entry::decide(self.crew.walk.rule, place, &stat.entry).is_none() {
            self.count(place, &stat, || spot.path(Some(name)));
            return Leaf::Dealt;
        }
        self.opened_leaf(spot, name)
    }

    /// Opens an entry and decides about what is open: its name may stand for another now.
    fn opened_leaf(&mut self, spot: Spot<'_>, name: &CStr) -> Leaf {
        self.try_open_leaf(spot, name).unwrap_or_else(|errno| {
            self.failed(spot, name, errno);
            Leaf::Dealt
        })
    }

    fn try_open_leaf(&mut self, spot: Spot<'_>, name: &CStr) -> Result<Leaf, Errno> {
        let fd = match open_path_here(spot.fd(), name) {
            Err(Errno::XDEV) => {
                self.tally.nested_mount(spot.path(Some(name)));
                return Ok(Leaf::Dealt);
            }
            result => result?,
        };
        let mut stat = Stat::of(&fd)?;
        if stat.links > 1 && !self.due.is_empty() {
            // It may be among those that wait, under another of its names.
            self.settle(spot);
            stat = Stat::of(&fd)?;
        }
        if stat.is_dir() {
            return Ok(Leaf::Directory);
        }
        let place = Place::Below(name.to_bytes());
        self.count(place, &stat, || spot.path(Some(name)));
        if entry::decide(self.crew.walk.rule, place, &stat.entry).is_none() {
            self.wrong_in_a_row = 0;
            return Ok(Leaf::Dealt);
        }
        self.wrong_in_a_row = self.wrong_in_a_row.saturating_add(1);
        if let Some(change) = self.judge(place, &fd, &stat)? {
            self.due.push(Due { name: name.to_owned(), fd, stat, change });
            if self.due.len() >= self.crew.due() {
                self.settle(spot);
            }
        }
        Ok(Leaf::Dealt)
    }

    /// Goes down into a directory of the current one.
    fn enter(&mut self, stack: &mut Stack, name: &CStr) {
        let frame = loop {
            match self.open(stack.here(), name) {
                // Others take fds too; a shorter tail of open directories does as well.
                Err(Errno::MFILE | Errno::NFILE) if stack.close_one() => {}
                result => break result,
            }
        };
        match frame {
            Ok(Some(frame)) => stack.push(frame, self.crew.fds()),
            Ok(None) => {}
            Err(errno) => self.failed(stack.here(), name, errno),
        }
    }

    /// Opens a directory to be walked; none where it is a mount point, or no directory and dealt with.
    fn open(&mut self, spot: Spot<'_>, name: &CStr) -> Result<Option<Frame>, Errno> {
        let nested = |engine: &mut Self| {
            engine.tally.nested_mount(spot.path(Some(name)));
            Ok(None)
        };
        if self.crew.ask_first && Stat::at(spot.fd(), name)?.mount != self.crew.volume.mount() {
            return nested(self);
        }
        let mut swaps = 0;
        let fd = loop {
            match open_dir_here(spot.fd(), name) {
                Err(Errno::XDEV) => return nested(self),
                // It was swapped for something else since its name was read, perhaps back again.
                Err(errno @ (Errno::NOTDIR | Errno::LOOP)) => {
                    swaps += 1;
                    let leaf = self.leaf(spot, name);
                    self.settle(spot);
                    if leaf == Leaf::Dealt {
                        return Ok(None);
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
            return nested(self);
        }
        Ok(Some(self.frame(name, fd, &stat, || spot.path(Some(name)))))
    }

    /// Returns whether an open entry is on the mount and the file system of the volume.
    fn is_inside(&self, stat: &Stat) -> bool {
        // A btrfs subvolume is on the same mount and yet a file system of its own.
        let device = self.crew.volume.identity().device;
        stat.mount == self.crew.volume.mount() && stat.identity.device == device
    }

    /// Counts a directory that is about to be walked.
    fn frame(
        &mut self,
        name: &CStr,
        fd: OwnedFd,
        stat: &Stat,
        path: impl FnOnce() -> String,
    ) -> Frame {
        let place = Place::Below(name.to_bytes());
        self.count(place, stat, path);
        self.crew.note(&fd, stat);
        // What cannot be asked now is asked, and said, when its turn comes.
        let due = entry::decide_open(self.crew.walk.rule, place, &fd, &stat.entry)
            .map_or(true, |change| change.is_some());
        let account = self.crew.account(&fd, stat);
        Frame::new(name.to_owned(), fd, stat.identity, due).with_account(account)
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
        let Some(top) = stack.top() else { return };
        let (due, account) = (top.due.then(|| top.name.clone()), top.account);
        let spot = stack.here();
        if let Some(name) = &due {
            let place = Place::Below(name.to_bytes());
            let at = Where::In(spot);
            let done =
                Stat::of(spot.fd()).and_then(|stat| self.put_right(at, place, spot.fd(), &stat));
            if let Err(errno) = done {
                self.tally.error(|| spot.path(None), &errno);
            }
        }
        // At an early end its names may not have been read to the end.
        if let (Some(account), Some(bookmark)) = (account, self.crew.walk.bookmark)
            && !self.crew.is_ended()
        {
            let is_own_change = due.is_some() && self.crew.walk.mode == WalkMode::Repair;
            account.close(bookmark, spot.fd(), is_own_change);
        }
    }

    /// Looks at the root directory, and in a repair puts it right.
    fn root(&mut self) -> Result<(), Errno> {
        let fd = self.crew.volume.fd();
        let stat = Stat::of(fd)?;
        self.count(Place::Root, &stat, || ".".to_owned());
        self.put_right(Where::Root, Place::Root, fd, &stat)
    }

    /// Counts an entry that is looked at.
    fn count(&mut self, place: Place<'_>, stat: &Stat, path: impl FnOnce() -> String) {
        self.tally.entry();
        if let WalkRule::Shifted(shifting) = self.crew.walk.rule {
            shifting.see(place, &stat.entry, path);
        }
    }

    fn failed(&mut self, spot: Spot<'_>, name: &CStr, errno: Errno) {
        if !is_vanished(errno) {
            self.tally.error(|| spot.path(Some(name)), &errno);
        }
    }
}
