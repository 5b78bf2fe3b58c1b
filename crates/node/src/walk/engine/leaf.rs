//! What an [`Engine`] does with an entry that is no directory: a look by its name, which is enough for
//! what is as it is to be; everything else is opened, and what is open is judged.

#![expect(clippy::inline_always, reason = "see `pctd_sys`, `call`: a `ret` after a system call")]

use std::ffi::CStr;

use pctd_core::ownership::Place;
use rustix::io::Errno;

use super::super::due::Due;
use super::super::entry;
use super::super::stack::Spot;
use super::Engine;
use crate::stat::{Stat, open_path_here};

/// After so many entries in a row that differ, the next one is opened without a look at its name
/// first: most volumes are all right or all wrong, and the look is a tenth of what a repair costs.
const ALL_WRONG: u32 = 16;

/// What became of an entry that was taken for something other than a directory.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Leaf {
    /// It was looked at, or there is nothing left to look at.
    Dealt,
    /// It is a directory after all.
    Directory,
}

impl Engine<'_> {
    /// Looks at an entry that is no directory.
    #[inline(always)]
    pub(super) fn leaf(&mut self, spot: Spot<'_>, name: &CStr) -> Leaf {
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
    #[inline(always)]
    fn opened_leaf(&mut self, spot: Spot<'_>, name: &CStr) -> Leaf {
        self.try_open_leaf(spot, name).unwrap_or_else(|errno| {
            self.failed(spot, name, errno);
            Leaf::Dealt
        })
    }

    #[inline(always)]
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
}
