//! What the thread of the watch knows of the volumes, and whose an event is.
//!
//! Nothing is changed here: an entry that lies in a volume waits in that volume's queue until the
//! worker has time for it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pctd_core::ids::VolumeName;
use pctd_sys::fanotify::{Entry, Place};
use pctd_sys::handle::{self, FileHandle};
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};

use super::board::Shared;
use super::budget::Budget;
use super::directories::{Directories, Location};
use super::mark::{OpenRoot, Root};
use super::queue::{Look, Queue, Slice};
use super::repair::Held;
use crate::paths::NodePaths;
use crate::stat::open_parent;

/// How many entries of one volume may wait; about 8 MiB of names.
const WAITING: usize = 64 * 1024;

/// What the thread is told.
#[derive(Debug)]
pub(super) enum Command {
    /// Watch this volume; its events are kept until there is a rule.
    Arm(VolumeName, Root),
    /// Hold its entries to this rule, or keep its events until there is one again.
    Rule { volume: VolumeName, rule: Option<Arc<Held>>, percent: u32 },
    /// Look at these entries of it as if events had come in.
    Look(VolumeName, Vec<Slice>),
    /// Watch it no longer.
    Forget(VolumeName),
}

/// The thread's own picture of a volume.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) root: Root,
    pub(super) rule: Option<Arc<Held>>,
    pub(super) queue: Queue,
    pub(super) budget: Budget,
    pub(super) untold: u64,
    pub(super) told: Option<Instant>,
    /// Whether the root directory may be another one by now.
    pub(super) unsure: bool,
    /// The root directory, while there is work in it, and since when.
    pub(super) open: Option<(OpenRoot, Instant)>,
}

/// What the thread knows of all volumes.
#[derive(Debug, Default)]
pub(super) struct Volumes {
    pub(super) by_name: BTreeMap<VolumeName, Watched>,
    directories: Directories,
    /// The processor time of this thread that was taken out of somebody's budget, or is nobody's.
    pub(super) paid: Duration,
}

impl Volumes {
    /// Returns the processor time since the last time, which is to be paid for now.
    pub(super) fn spent(&mut self) -> Duration {
        let now = cpu_time();
        now.saturating_sub(std::mem::replace(&mut self.paid, now))
    }

    pub(super) fn obey(&mut self, command: Command, shared: &Shared) {
        match command {
            Command::Arm(name, root) => {
                self.directories.clear();
                let now = Instant::now();
                let watched = Watched {
                    root,
                    rule: None,
                    queue: Queue::new(WAITING),
                    budget: Budget::new(1, now),
                    untold: 0,
                    told: None,
                    unsure: false,
                    open: None,
                };
                self.by_name.insert(name, watched);
            }
            Command::Rule { volume, rule, percent } => {
                let Some(watched) = self.by_name.get_mut(&volume) else { return };
                watched.budget.set_percent(percent, Instant::now());
                watched.rule = rule;
                if watched.rule.is_some() {
                    shared.tell_doubt(&volume);
                }
            }
            Command::Look(name, slices) => {
                let Some(watched) = self.by_name.get_mut(&name) else { return };
                for (directory, entry, look) in slices.iter().flat_map(Slice::entries) {
                    if !watched.queue.push(directory.as_bytes(), entry, look) {
                        return shared.doubt(&name, "more changed than could be kept in mind");
                    }
                }
            }
            Command::Forget(name) => self.forget(&name),
        }
    }

    pub(super) fn forget(&mut self, name: &VolumeName) {
        self.directories.clear();
        self.by_name.remove(name);
    }

    /// Lets an entry wait for its turn; returns the volume it is in, if any.
    pub(super) fn enter(
        &mut self,
        entry: &Entry<'_>,
        mounts: &mut Mounts<'_>,
        shared: &Shared,
    ) -> Option<VolumeName> {
        let moved_dir = entry.is_dir && entry.from.is_some();
        let from = entry.from.and_then(|from| self.volume_of(&from, mounts, shared));
        let volume = self.volume_of(&entry.place, mounts, shared);
        if moved_dir {
            // Everything below it has another way up now.
            self.directories.clear();
        }
        let Some(name) = volume else {
            if entry.is_dir {
                self.doubt_the_way(entry);
            }
            return None;
        };
        let watched = self.by_name.get_mut(&name)?;
        let came_in = moved_dir && from.as_ref() != Some(&name);
        let look = if came_in { Look::Tree } else { Look::Entry };
        if !watched.queue.push(entry.place.directory, entry.place.name, look) {
            shared.doubt(&name, "more changed than could be kept in mind");
        }
        Some(name)
    }

    /// A directory that was made or moved outside of all volumes may be on the way to one.
    fn doubt_the_way(&mut self, entry: &Entry<'_>) {
        let names = [Some(entry.place.name), entry.from.map(|from| from.name)];
        for watched in self.by_name.values_mut() {
            let mut on_the_way = watched.root.host_path.split('/').map(str::as_bytes);
            watched.unsure |=
                on_the_way.any(|part| names.iter().flatten().any(|name| name.to_bytes() == part));
        }
    }

    /// Returns the volume that a directory lies in.
    fn volume_of(
        &mut self,
        place: &Place<'_>,
        mounts: &mut Mounts<'_>,
        shared: &Shared,
    ) -> Option<VolumeName> {
        let Place { file_system, directory, .. } = *place;
        if let Some(known) = self.directories.get(file_system, directory) {
            return match known {
                Location::In(volume) => Some(volume.clone()),
                Location::Elsewhere => None,
            };
        }
        match self.find(file_system, directory, mounts) {
            Ok(volume) => {
                let handle = FileHandle::from_bytes(directory);
                let at = volume.clone().map_or(Location::Elsewhere, Location::In);
                self.directories.remember(file_system, handle, at);
                volume
            }
            // Gone by now, and what was in it with it.
            Err(Errno::STALE | Errno::NOENT) => None,
            Err(errno) => {
                let on_it = self.by_name.iter().filter(|(_, w)| w.root.file_system == file_system);
                let why = format!("a directory that changed cannot be found: {errno}");
                on_it.for_each(|(name, _)| shared.doubt(name, &why));
                None
            }
        }
    }

    fn find(
        &self,
        file_system: u64,
        directory: &[u8],
        mounts: &mut Mounts<'_>,
    ) -> Result<Option<VolumeName>, Errno> {
        let on_it = || self.by_name.iter().filter(|(_, w)| w.root.file_system == file_system);
        // By mount: one way up per mount that holds volumes of this file system.
        let mut tried = Vec::new();
        for (_, watched) in on_it() {
            if tried.contains(&watched.root.mount) {
                continue;
            }
            tried.push(watched.root.mount);
            let Some(root) = mounts.get(&watched.root) else { continue };
            let is = |handle: &[u8]| {
                let here = |w: &Watched| w.root.mount == watched.root.mount;
                on_it().find(|(_, w)| here(w) && w.root.handle.as_bytes() == handle)
            };
            if let Some((name, _)) = is(directory) {
                return Ok(Some(name.clone()));
            }
            let mut at = handle::open_dir(&root.fd, directory)?;
            let mut own = FileHandle::from_bytes(directory);
            loop {
                at = match open_parent(&at) {
                    // Above a bind mount's root, or beside it.
                    Err(Errno::XDEV | Errno::NOENT) => break,
                    result => result?,
                };
                let above = FileHandle::of(&at)?;
                if above == own {
                    break;
                }
                let known = self.directories.get(file_system, above.as_bytes());
                if let Some(name) = is(above.as_bytes()).map(|(name, _)| name) {
                    return Ok(Some(name.clone()));
                }
                if let Some(Location::In(name)) = known {
                    return Ok(Some(name.clone()));
                }
                own = above;
            }
        }
        Ok(None)
    }
}

/// Root directories that are open for one taking-in of events, by mount.
pub(super) struct Mounts<'a> {
    paths: &'a NodePaths,
    open: BTreeMap<u64, Option<OpenRoot>>,
}

impl<'a> Mounts<'a> {
    pub(super) fn new(paths: &'a NodePaths) -> Self {
        Self { paths, open: BTreeMap::new() }
    }

    fn get(&mut self, root: &Root) -> Option<&OpenRoot> {
        self.open.entry(root.mount).or_insert_with(|| root.open(self.paths).ok()).as_ref()
    }

    /// Returns whether a root on this mount was asked for in vain.
    pub(super) fn is_lost(&self, mount: u64) -> bool {
        self.open.get(&mount).is_some_and(Option::is_none)
    }
}

/// Returns the processor time this thread has used.
pub(super) fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}
