//! Putting single entries of a volume right: the directory an event named, one stat, one change.
//!
//! A handle finds its directory wherever it is by now. So before anything in it is looked at, the
//! way up is followed from the open directory to the volume's root, by handle, inside one mount.
//! From there on the rules of the walk hold: names relative to the open directory, never a link
//! followed, the change made on the very inode that was judged.

use std::ffi::CStr;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use pctd_core::ids::VolumeName;
use pctd_core::ownership::{OwnershipRule, Place};
use pctd_core::undo::PassKind;
use pctd_sys::handle::{self, FileHandle};
use rustix::io::{Errno, fcntl_dupfd_cloexec};

use super::mark::{OpenRoot, Root};
use crate::paths::NodePaths;
use crate::source::OpenVolume;
use crate::stat::{Stat, is_below, open_dir_here, open_path_here};
use crate::undo::Recorder;
use crate::walk::entry::ProcFds;
use crate::walk::spot::{Spot, Touched};
use crate::walk::{Progress, Walk, WalkMode, walk_below};

/// How many entries of a tree that was moved in are looked at here; a larger one is walked as part
/// of its volume, so that others need not wait for it.
const TREE_ENTRIES: u64 = 2_000;

/// Why a tree that was moved in is left to a walk.
const TOO_MUCH: &str = "a large directory was moved in";
const UNREADABLE: &str = "a directory was moved in that cannot be read";
const MOVED_ON: &str = "a directory was moved in and on before it was looked at";

/// What the entries of a volume are held to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) rule: OwnershipRule,
    /// More changes at once than this are not made without a question.
    pub(super) confirm_above: u64,
    /// How many bytes the records of what is changed may take; 0: it is not recorded.
    pub(super) undo_limit: u64,
}

impl Held {
    /// Returns where what is changed is recorded; none where it is not to be.
    ///
    /// # Errors
    ///
    /// The root directory cannot be looked at.
    pub(super) fn recorder(
        &self,
        paths: &NodePaths,
        volume: &VolumeName,
        armed: &Root,
        root: &OpenRoot,
    ) -> io::Result<Option<Recorder>> {
        if self.undo_limit == 0 {
            return Ok(None);
        }
        let fd = fcntl_dupfd_cloexec(&root.fd, 0)?;
        let open = OpenVolume::new(fd, &root.stat, armed.on.clone());
        let what = (PassKind::Drift, format!("{:?}", self.rule));
        Recorder::new(paths, volume, &open, what, self.undo_limit).map(Some)
    }
}

/// What came of a few entries.
#[derive(Debug, Default)]
pub(super) struct Repaired {
    /// Entries that were changed.
    pub(super) changed: u64,
    /// The first entry that could not be, and why.
    pub(super) failed: Option<String>,
}

/// A directory of a volume, found by its handle.
pub(super) struct Found<'a> {
    root: &'a OpenRoot,
    procfs: &'a ProcFds,
    record: Option<&'a Recorder>,
    pub(super) dir: OwnedFd,
    is_root: bool,
}

impl<'a> Found<'a> {
    /// Opens the directory, unless it is gone or no longer in the volume.
    ///
    /// # Errors
    ///
    /// It is there and cannot be opened.
    pub(super) fn open(
        armed: &Root,
        root: &'a OpenRoot,
        directory: &FileHandle,
        (procfs, record): (&'a ProcFds, Option<&'a Recorder>),
    ) -> Result<Option<Self>, Errno> {
        let dir = match handle::open_dir(&root.fd, directory.as_bytes()) {
            Err(Errno::STALE | Errno::NOENT) => return Ok(None),
            result => result?,
        };
        // A btrfs subvolume is on the same mount and yet a file system of its own.
        if Stat::of(&dir)?.identity.device != root.stat.identity.device {
            return Ok(None);
        }
        let is_root = *directory == armed.handle;
        let inside = is_root || is_below(dir.as_fd(), &armed.handle)?;
        Ok(inside.then_some(Self { root, procfs, record, dir, is_root }))
    }

    /// Looks at one entry, and puts it right where it differs.
    pub(super) fn put_right(&self, rule: &OwnershipRule, name: &CStr, sum: &mut Repaired) {
        if !(rule.looks_below() || self.is_root && name == c".") {
            // Below the root nothing is declared; no walk would look there either.
            return;
        }
        let touched = match name.to_bytes() {
            b"." if self.is_root => self.own(rule, Place::Root),
            // Patterns of names are for files, so a directory's own name does not matter.
            b"." => self.own(rule, Place::Below(b".")),
            _ => self.named(rule, name),
        };
        match touched {
            Ok(Touched::Changed) => sum.changed += 1,
            Ok(Touched::Failed(why)) => {
                let name = String::from_utf8_lossy(name.to_bytes()).escape_debug().to_string();
                sum.failed.get_or_insert_with(|| format!("{name}: {why}"));
            }
            // Gone again, or another file system by now: neither is pctd's to change.
            Ok(Touched::InPlace) | Err(Errno::NOENT | Errno::STALE | Errno::XDEV) => {}
            Err(errno) => {
                sum.failed.get_or_insert_with(|| errno.to_string());
            }
        }
    }

    /// Looks at everything in a directory that was moved in from elsewhere, and puts it right.
    ///
    /// # Errors
    ///
    /// Why that is left to a walk of the whole volume.
    pub(super) fn put_tree_right(
        &self,
        armed: &Root,
        held: &Held,
        name: &CStr,
        sum: &mut Repaired,
    ) -> Result<(), &'static str> {
        if !held.rule.looks_below() {
            return Ok(());
        }
        let dir = match open_dir_here(&self.dir, name) {
            // Under its new name it may pass for one that was always here.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Err(MOVED_ON),
            // Something is mounted over it.
            Err(Errno::XDEV) => return Ok(()),
            result => result.map_err(|_| UNREADABLE)?,
        };
        let root = fcntl_dupfd_cloexec(&self.root.fd, 0).map_err(|_| UNREADABLE)?;
        let volume = OpenVolume::new(root, &self.root.stat, armed.on.clone());
        let cancel = AtomicBool::new(false);
        let progress = |now: Progress| {
            if now.entries > TREE_ENTRIES {
                cancel.store(true, Ordering::Relaxed);
            }
        };
        let walk = Walk {
            cancel: &cancel,
            progress: &progress,
            max_changes: Some(held.confirm_above),
            record: self.record,
            threads: Some(NonZeroUsize::MIN),
            ..Walk::new(WalkMode::Repair, &held.rule)
        };
        let report = walk_below(&volume, dir, name, walk).map_err(|_| UNREADABLE)?;
        sum.changed += report.changed;
        if report.is_complete() { Ok(()) } else { Err(TOO_MUCH) }
    }

    /// Looks at the directory itself.
    fn own(&self, rule: &OwnershipRule, place: Place<'_>) -> Result<Touched, Errno> {
        self.spot(rule).open_entry(&self.dir, place, (&self.dir, c"."))
    }

    fn named(&self, rule: &OwnershipRule, name: &CStr) -> Result<Touched, Errno> {
        let stat = Stat::at(&self.dir, name)?;
        let place = Place::Below(name.to_bytes());
        let spot = self.spot(rule);
        if stat.mount != self.root.stat.mount || spot.is_right(place, &stat) {
            return Ok(Touched::InPlace);
        }
        // Its name may stand for something else by now: what is open is what is judged.
        spot.open_entry(open_path_here(&self.dir, name)?, place, (&self.dir, name))
    }

    fn spot<'r>(&'r self, rule: &'r OwnershipRule) -> Spot<'r> {
        let (mount, device) = (self.root.stat.mount, self.root.stat.identity.device);
        Spot { rule, mount, device, procfs: self.procfs, record: self.record }
    }
}
