//! What an [`Engine`] does to entries that differ: judge, record, change.

#![expect(clippy::inline_always, reason = "see `pctd_sys`, `call`: a `ret` after a system call")]

use std::os::fd::AsFd;

use pctd_core::ownership::{Change, Place};
use pctd_core::undo;
use pctd_sys::close::close;
use rustix::io::Errno;

use super::super::due::{self, Due, Where};
use super::super::entry::{self, Applied, ProcFds};
use super::super::rule::WalkMode;
use super::super::stack::Spot;
use super::Engine;
use crate::stat::Stat;

impl<'a> Engine<'a> {
    /// Decides about an open entry and counts it; returns what a repair is to change.
    #[inline(always)]
    pub(super) fn judge(
        &mut self,
        place: Place<'_>,
        fd: impl AsFd,
        stat: &Stat,
    ) -> Result<Option<Change<'a>>, Errno> {
        let crew = self.crew;
        let Some(change) = entry::decide_open(crew.walk.rule, place, &fd, &stat.entry)? else {
            return Ok(None);
        };
        if crew.is_the_watchs(stat.changed) {
            self.tally.left();
            return Ok(None);
        }
        let finding =
            entry::examine(self.procfs(), &fd, stat, (crew.walk.rule.declared(), change))?;
        let repair = finding.change.filter(|_| crew.walk.mode == WalkMode::Repair);
        if repair.is_some() && !crew.may_change() {
            self.tally.limited();
            return Ok(None);
        }
        self.tally.finding(&finding, crew.since.is_some_and(|since| stat.changed > since));
        Ok(repair)
    }

    /// Changes what waits in this directory, once that is recorded.
    pub(super) fn settle(&mut self, spot: Spot<'_>) {
        if self.due.is_empty() {
            return;
        }
        let mut due = std::mem::take(&mut self.due);
        let entries = due.iter().filter_map(Due::record);
        if self.is_recorded(Where::In(spot), entries.collect()) {
            for Due { name, fd, stat, change } in due.drain(..) {
                self.change(|| spot.path(Some(&name)), &fd, &stat, change);
                close(fd);
            }
        } else {
            due.drain(..).for_each(|_| self.crew.not_changed(false));
        }
        // Its memory is used again.
        self.due = due;
    }

    /// Puts an open directory right.
    pub(super) fn put_right(
        &mut self,
        at: Where<'_>,
        place: Place<'_>,
        fd: impl AsFd,
        stat: &Stat,
    ) -> Result<(), Errno> {
        if let Some(change) = self.judge(place, &fd, stat)? {
            let record = due::record(c".", stat, change);
            if record.is_none_or(|record| self.is_recorded(at, vec![record])) {
                self.change(|| at.path(), &fd, stat, change);
            } else {
                self.crew.not_changed(false);
            }
        }
        Ok(())
    }

    /// Records what is about to be changed in a directory; returns whether it may be.
    fn is_recorded(&mut self, at: Where<'_>, entries: Vec<undo::Entry>) -> bool {
        let recorder = self.crew.walk.record.filter(|_| !entries.is_empty());
        let Some(recorder) = recorder else { return true };
        let done = at.directory(self.crew.volume).and_then(|dir| recorder.record(dir, entries));
        if let Err(error) = done {
            self.tally.unrecorded(error.to_string());
            self.crew.end();
            return false;
        }
        true
    }

    fn procfs(&self) -> &ProcFds {
        let own = self.procfs.get_or_init(|| ProcFds::open().ok());
        own.as_ref().unwrap_or(&self.crew.procfs)
    }

    #[inline(always)]
    fn change(
        &mut self,
        path: impl FnOnce() -> String,
        fd: impl AsFd,
        stat: &Stat,
        change: Change<'_>,
    ) {
        let crew = self.crew;
        if crew.is_hopeless() {
            return crew.not_changed(false);
        }
        match entry::apply(self.procfs(), &fd, stat, change) {
            Applied::Done => self.tally.changed(),
            Applied::Refused(refusal) => {
                crew.not_changed(true);
                self.tally.refused(&crew.volume.file_system().kind, refusal);
            }
            Applied::Failed(problem) => {
                crew.not_changed(false);
                self.tally.error(path, &problem);
            }
        }
    }
}
