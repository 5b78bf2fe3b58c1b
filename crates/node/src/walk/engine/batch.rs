//! How an [`Engine`] comes by the names in a directory: one `getdents` at a time, and not more than can
//! be remembered. Names that another worker has time for are left to it.

use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;

use rustix::fs::{FileType, RawDir, SeekFrom, seek};
use rustix::io::{Errno, fcntl_dupfd_cloexec};

use super::super::crew::{Names, Piece};
use super::super::stack::{Reading, Stack};
use super::super::tally::is_vanished;
use super::Engine;
use super::leaf::Leaf;

/// The buffer for names; glibc's `readdir` takes the same.
pub(super) const BATCH_BYTES: usize = 32 * 1024;

/// How much memory names of directories to be entered may take before batches are cut short.
const PENDING_BYTES: usize = 4 * 1024 * 1024;
/// How many names a directory may remember even then.
const PENDING_FLOOR: usize = 16;

impl Engine<'_> {
    /// Reads one batch of names of the current directory, and deals with them unless another
    /// worker has nothing to do.
    pub(super) fn batch(&mut self, stack: &mut Stack, buffer: &mut [MaybeUninit<u8>]) {
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
    pub(super) fn go_to(&mut self, stack: &Stack, offset: u64) -> Reading {
        match seek(stack.here().fd(), SeekFrom::Start(offset)) {
            Ok(_) => Reading::At(offset),
            Err(errno) => {
                self.tally.error(|| stack.here().path(None), &errno);
                Reading::Done
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

    /// Looks at names that another worker read.
    pub(super) fn leaves(&mut self, stack: &mut Stack, names: &Names) {
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
}
