//! One open entry held to a rule, outside of any walk: what the watch puts right.

use std::ffi::CStr;
use std::os::fd::AsFd;

use pctd_core::ownership::{OwnershipRule, Place};
use pctd_core::undo::Directory;
use pctd_sys::handle::FileHandle;
use rustix::io::Errno;

use super::due;
use super::entry::{self, Applied, ProcFds};
use crate::stat::Stat;
use crate::undo::{RecordError, Recorder};

/// What entries are held to, and where they must lie.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spot<'a> {
    pub(crate) rule: &'a OwnershipRule,
    pub(crate) mount: u64,
    pub(crate) device: (u32, u32),
    pub(crate) procfs: &'a ProcFds,
    /// Where what is changed is recorded before it is; none: nowhere.
    pub(crate) record: Option<&'a Recorder>,
}

/// What came of one entry.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Touched {
    /// It is as declared, or not pctd's to change.
    InPlace,
    /// It was put right.
    Changed,
    /// It differs and could not be changed.
    Failed(String),
}

impl Spot<'_> {
    /// Returns whether, from this stat, nothing is to be done.
    pub(crate) fn is_right(&self, place: Place<'_>, stat: &Stat) -> bool {
        // A default ACL stands in no stat.
        entry::decide(self.rule, place, &stat.entry).is_none()
            && self.rule.default_acl_for(place, &stat.entry).is_none()
    }

    /// Judges an open entry (`O_PATH` will do), and changes that very inode where it differs. `name` is
    /// what it is called in `dir`.
    ///
    /// # Errors
    ///
    /// It cannot be looked at; nothing was changed.
    pub(crate) fn open_entry(
        &self,
        fd: impl AsFd,
        place: Place<'_>,
        (dir, name): (impl AsFd, &CStr),
    ) -> Result<Touched, Errno> {
        let stat = Stat::of(&fd)?;
        // A btrfs subvolume is on the same mount and yet a file system of its own.
        if stat.mount != self.mount || stat.is_dir() && stat.identity.device != self.device {
            return Ok(Touched::InPlace);
        }
        let Some(change) = entry::decide_open(self.rule, place, &fd, &stat.entry)? else {
            return Ok(Touched::InPlace);
        };
        let judged = (Some(self.rule), change);
        let Some(change) = entry::examine(self.procfs, &fd, &stat, judged)?.change else {
            return Ok(Touched::InPlace);
        };
        if let (Some(recorder), Some(entry)) = (self.record, due::record(name, &stat, change)) {
            // Whatever is watched has handles.
            let dir = FileHandle::of(dir).map_err(RecordError::Directory);
            let dir = dir.map(|handle| Directory::Handle(handle.as_bytes().to_vec()));
            if let Err(error) = dir.and_then(|dir| recorder.record(dir, vec![entry])) {
                return Ok(Touched::Failed(format!("it cannot be recorded: {error}")));
            }
        }
        Ok(match entry::apply(self.procfs, &fd, &stat, change) {
            Applied::Done => Touched::Changed,
            Applied::Refused(refusal) => Touched::Failed(refusal.to_string()),
            Applied::Failed(why) => Touched::Failed(why),
        })
    }
}
