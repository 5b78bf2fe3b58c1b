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
use rustix::io::Errno;

use super::Walk;
use super::crew::{Crew, Piece};
use super::due::{Due, Where};
use super::entry::{self, ProcFds};
use super::pace::{self, Meter};
use super::report::{Progress, WalkReport};
use super::rule::{WalkMode, WalkRule};
use super::stack::{Ascent, Frame, Reading, Spot, Stack};
use super::tally::{Tally, display_path, is_vanished};
use crate::source::OpenVolume;
use crate::stat::{Stat, open_dir_here, open_for_reading};

mod batch;
mod leaf;
mod repair;

use self::batch::BATCH_BYTES;
use self::leaf::Leaf;

/// How often an entry may turn out to be a directory and then not to be one before that is an
/// error; only an attacker gets that far.
const SWAPS_FOLLOWED: u32 = 8;

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
