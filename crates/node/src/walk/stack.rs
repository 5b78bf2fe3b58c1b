//! The directories between the one a walk begins at and where the walk is, only so many of them open at once.
//!
//! The deepest directories are the open ones. One further up is closed when the budget is spent
//! and opened again on the way back, as the `..` of the directory below it. If that is not the
//! directory it was, somebody moved the one below: the walk does not follow, it gives up what was
//! left to do there.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

use super::account::Account;
use super::tally::display_path;
use crate::stat::{Identity, Stat, open_parent};

/// More open directories than this gain nothing: few trees are that deep.
const MAX_FDS: usize = 256;
/// The fewest that still let a walk go down and up: the directory and the one above.
const MIN_FDS: usize = 2;
/// The share of the process's limit that one walk may take.
const LIMIT_SHARE: u64 = 4;

/// The most that a worker among others has open besides those of its own way: the directory it
/// began at, and one in the queue.
const BESIDES: usize = 2;

/// The share of its fds that a worker may have on entries that wait for their record, and the most
/// of these: with so many to a record, the record costs next to nothing.
const DUE_SHARE: usize = 4;
const MOST_DUE: usize = 32;

/// How many directories a walk keeps open, besides the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FdBudget(usize);

impl FdBudget {
    /// Returns a budget of this many, raised to the fewest that work.
    pub fn new(fds: usize) -> Self {
        Self(fds.max(MIN_FDS))
    }

    /// Returns how many workers it suffices for.
    pub(super) fn workers(self) -> usize {
        self.0 / (MIN_FDS + BESIDES)
    }

    /// Returns the share of one of so many workers.
    pub(super) fn share(self, workers: usize) -> Self {
        if workers < 2 { self } else { Self::new((self.0 / workers).saturating_sub(BESIDES)) }
    }

    /// Returns how many of them may be entries that wait for their record.
    pub(super) fn due(self) -> usize {
        (self.0 / DUE_SHARE).clamp(1, MOST_DUE)
    }

    /// Returns the budget without so many.
    pub(super) fn without(self, fds: usize) -> Self {
        Self::new(self.0.saturating_sub(fds))
    }
}

impl Default for FdBudget {
    /// A share of what the process may open.
    fn default() -> Self {
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX) / LIMIT_SHARE;
        Self::new(usize::try_from(limit).unwrap_or(MAX_FDS).min(MAX_FDS))
    }
}

/// How far a directory was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reading {
    /// Up to this offset (`d_off`), which is good for `lseek` on any fd of the directory.
    At(u64),
    /// To its end.
    Done,
}

/// One directory on the way.
#[derive(Debug)]
pub(super) struct Frame {
    /// Its name in the directory above; empty for the root of the volume.
    pub(super) name: CString,
    fd: Option<OwnedFd>,
    identity: Identity,
    pub(super) reading: Reading,
    /// Directories in it that are still to be entered.
    pub(super) pending: Vec<CString>,
    /// Whether the directory itself is to be changed once everything below is done.
    pub(super) due: bool,
    /// What is kept of its entries for the bookmark; none where there is none, or where others look
    /// at some of them.
    pub(super) account: Option<Account>,
}

impl Frame {
    pub(super) fn new(name: CString, fd: OwnedFd, identity: Identity, due: bool) -> Self {
        Self {
            name,
            fd: Some(fd),
            identity,
            reading: Reading::At(0),
            pending: Vec::new(),
            due,
            account: None,
        }
    }

    /// Returns it with an account of its entries.
    pub(super) fn with_account(self, account: Option<Account>) -> Self {
        Self { account, ..self }
    }

    /// Returns the bytes of names it holds.
    fn pending_bytes(&self) -> usize {
        self.pending.iter().map(|name| name.as_bytes().len()).sum()
    }
}

/// What became of the directory above when a walk went up to it.
#[derive(Debug)]
pub(super) enum Ascent {
    /// It was open all the time.
    StillOpen,
    /// It was opened again and is to be read on from where it was.
    Reopened,
    /// It and others (their paths) could not be found again.
    Lost(Vec<String>, Errno),
}

/// The way from the root, or another directory, to the current one.
#[derive(Debug)]
pub(super) struct Stack {
    frames: Vec<Frame>,
    /// The path of the first frame; empty for the root of the volume.
    above: Vec<u8>,
    /// The first frame after the first that is open; all after it are.
    first_open: usize,
    /// Directories that are still to be entered, and the bytes of their names.
    pending: usize,
    pending_bytes: usize,
}

impl Stack {
    /// Returns the way that begins at an open directory, which stays open; `path` is its path, empty
    /// for the root of the volume.
    pub(super) fn new(base: Frame, path: Vec<u8>) -> Self {
        Self { frames: vec![base], above: path, first_open: 1, pending: 0, pending_bytes: 0 }
    }

    pub(super) fn top(&mut self) -> Option<&mut Frame> {
        self.frames.last_mut()
    }

    /// Returns the current directory, which is always open.
    pub(super) fn here(&self) -> Spot<'_> {
        self.at(self.frames.len() - 1)
    }

    /// Returns a directory on the way that is open: the first, the current, or one that
    /// [`Stack::take_spare`] named.
    pub(super) fn at(&self, level: usize) -> Spot<'_> {
        Spot { stack: self, level }
    }

    /// Returns how to begin another way at the current directory, without reading or changing it.
    pub(super) fn same_place(&self) -> Option<impl FnOnce(OwnedFd) -> Frame> {
        let top = self.frames.last()?;
        let (name, identity) = (top.name.clone(), top.identity);
        Some(move |fd| Frame { reading: Reading::Done, ..Frame::new(name, fd, identity, false) })
    }

    /// Returns whether the current directory is the one the way begins at.
    pub(super) fn at_base(&self) -> bool {
        self.frames.len() == 1
    }

    pub(super) fn set_reading(&mut self, reading: Reading) {
        if let Some(top) = self.frames.last_mut() {
            top.reading = reading;
        }
    }

    /// Remembers directories to be entered from the current one.
    pub(super) fn remember(&mut self, names: Vec<CString>) {
        if let Some(top) = self.frames.last_mut() {
            top.pending = names;
            self.pending += top.pending.len();
            self.pending_bytes += top.pending_bytes();
        }
    }

    /// Takes the next directory to be entered from the current one.
    pub(super) fn next_pending(&mut self) -> Option<CString> {
        let name = self.frames.last_mut()?.pending.pop()?;
        self.forget_pending(1, name.as_bytes().len());
        Some(name)
    }

    /// Takes a directory out that is to be entered from one of the open ones, the nearest to the
    /// base; none where the walk would be left with nothing to enter.
    pub(super) fn take_spare(&mut self) -> Option<(usize, CString)> {
        if self.pending < 2 {
            return None;
        }
        let open = std::iter::once(0).chain(self.first_open..self.frames.len());
        let mut levels = open.filter(|level| *level < self.frames.len());
        let level = levels.find(|level| !self.frames[*level].pending.is_empty())?;
        let name = self.frames[level].pending.pop()?;
        self.forget_pending(1, name.as_bytes().len());
        Some((level, name))
    }

    /// Undoes [`Stack::take_spare`].
    pub(super) fn put_back(&mut self, level: usize, name: CString) {
        self.pending += 1;
        self.pending_bytes += name.as_bytes().len();
        self.frames[level].pending.push(name);
    }

    fn forget_pending(&mut self, names: usize, bytes: usize) {
        self.pending -= names;
        self.pending_bytes -= bytes;
    }

    /// Returns how much memory the names of directories to be entered take.
    pub(super) fn pending_bytes(&self) -> usize {
        self.pending_bytes
    }

    /// Enters a directory, with no more of them open than the budget has.
    pub(super) fn push(&mut self, frame: Frame, budget: FdBudget) {
        while self.frames.len() - self.first_open >= budget.0 {
            self.close_one();
        }
        self.frames.push(frame);
    }

    /// Closes the open directory that is needed last; returns whether there was one to spare.
    pub(super) fn close_one(&mut self) -> bool {
        let spare = self.first_open + 1 < self.frames.len();
        if spare {
            self.frames[self.first_open].fd = None;
            self.first_open += 1;
        }
        spare
    }

    /// Leaves the current directory for the one above.
    ///
    /// Where that one was closed and cannot be found again, all directories up to the next open
    /// one are left too.
    pub(super) fn pop(&mut self) -> Ascent {
        let Some(left) = self.frames.pop() else { return Ascent::StillOpen };
        self.forget_pending(left.pending.len(), left.pending_bytes());
        match self.frames.last_mut() {
            Some(above) if above.fd.is_none() => match reopen_above(&left, above.identity) {
                Ok(fd) => {
                    above.fd = Some(fd);
                    self.first_open = self.frames.len() - 1;
                    Ascent::Reopened
                }
                Err(errno) => Ascent::Lost(self.pop_closed(), errno),
            },
            _ => Ascent::StillOpen,
        }
    }

    /// Leaves every directory that is not open; returns their paths.
    fn pop_closed(&mut self) -> Vec<String> {
        let mut lost = Vec::new();
        while self.frames.last().is_some_and(|frame| frame.fd.is_none()) {
            lost.push(self.here().path(None));
            if let Some(frame) = self.frames.pop() {
                self.forget_pending(frame.pending.len(), frame.pending_bytes());
            }
        }
        self.first_open = self.frames.len();
        lost
    }
}

/// One of the open directories on the way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spot<'s> {
    stack: &'s Stack,
    level: usize,
}

impl<'s> Spot<'s> {
    /// Returns the directory.
    pub(super) fn fd(self) -> BorrowedFd<'s> {
        let fd = self.stack.frames.get(self.level).and_then(|frame| frame.fd.as_ref());
        fd.expect("the directory is one of the open ones").as_fd()
    }

    /// Returns its path, or that of a name in it, for people.
    pub(super) fn path(self, name: Option<&CStr>) -> String {
        display_path(&self.raw_path(name))
    }

    /// Returns its path below the root of the volume, or that of a name in it.
    pub(super) fn raw_path(self, name: Option<&CStr>) -> Vec<u8> {
        let frames = self.stack.frames.iter().take(self.level + 1).skip(1);
        let names = frames.map(|frame| frame.name.as_bytes());
        let mut path = self.stack.above.clone();
        for name in names.chain(name.map(CStr::to_bytes)) {
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name);
        }
        path
    }
}

fn reopen_above(left: &Frame, expected: Identity) -> Result<OwnedFd, Errno> {
    let fd = open_parent(left.fd.as_ref().ok_or(Errno::BADF)?)?;
    // The directory was moved: what is above it now may be anywhere.
    if Stat::of(&fd)?.identity == expected { Ok(fd) } else { Err(Errno::STALE) }
}
