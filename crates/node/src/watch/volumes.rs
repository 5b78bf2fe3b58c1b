//! What the thread of the watch knows of the volumes, and whose an event is.
//!
//! Nothing is changed here: an entry that lies in a volume waits in that volume's queue until the
//! worker has time for it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::mpsc::Sender;
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
use crate::undo::Recorder;

/// How many entries of one volume may wait; about 8 MiB of names.
const WAITING: usize = 64 * 1024;

/// How much of one core the events of directories in no volume may take, in percent, and those of a
/// volume without a rule: a file system tells of all or of none.
const NOBODYS: u32 = 10;

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
    /// Say that everything up to here is obeyed.
    Tell(Sender<()>),
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
    /// Where what is put right is recorded first; for the rule that is in force.
    pub(super) recorder: Option<Recorder>,
    /// The root directory, while there is work in it, and since when.
    pub(super) open: Option<(OpenRoot, Instant)>,
}

/// What the thread knows of all volumes.
#[derive(Debug, Default)]
pub(super) struct Volumes {
    pub(super) by_name: BTreeMap<VolumeName, Watched>,
    directories: Directories,
    /// What the budgets pay for.
    pub(super) clock: Clock,
    /// What events cost that are in no volume.
    nobody: Option<Budget>,
}

impl Volumes {
    /// Takes what events cost out of the budgets of the volumes they were in, so many of each; the
    /// rest is nobody's, and has a budget, too.
    pub(super) fn pay(&mut self, each: Duration, of: &BTreeMap<VolumeName, u32>, in_none: u32) {
        let now = Instant::now();
        for (name, events) in of {
            if let Some(watched) = self.by_name.get_mut(name) {
                watched.budget.spend(each * *events, now);
            }
        }
        self.nobodys().spend(each * in_none, now);
    }

    /// Returns whether somebody has used up what may be spent: then events are left to gather.
    pub(super) fn is_overspent(&mut self, now: Instant) -> bool {
        let overspent = |budget: &mut Budget| !budget.wait(now).is_zero();
        let nobody = overspent(self.nobodys());
        nobody || self.by_name.values_mut().any(|watched| overspent(&mut watched.budget))
    }

    fn nobodys(&mut self) -> &mut Budget {
        self.nobody.get_or_insert_with(|| Budget::new(NOBODYS, Instant::now()))
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
                    budget: Budget::new(NOBODYS, now),
                    untold: 0,
                    told: None,
                    unsure: false,
                    recorder: None,
                    open: None,
                };
                self.by_name.insert(name, watched);
            }
            Command::Rule { volume, rule, percent } => {
                let Some(watched) = self.by_name.get_mut(&volume) else { return };
                watched.budget.set_percent(percent, Instant::now());
                watched.rule = rule;
                // Whoever takes back what was changed needs its file.
                watched.recorder = None;
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
            // Whoever asked may have ceased to wait.
            Command::Tell(done) => drop(done.send(())),
        }
    }

    pub(super) fn forget(&mut self, name: &VolumeName) {
        self.directories.clear();
        self.by_name.remove(name);
    }

    /// Lets an entry wait for its turn in every volume it is in, and returns those.
    pub(super) fn enter(
        &mut self,
        entry: &Entry<'_>,
        mounts: &mut Mounts<'_>,
        shared: &Shared,
    ) -> Location {
        let moved_dir = entry.is_dir && entry.from.is_some();
        let location = self.location_of(&entry.place, mounts, shared);
        if moved_dir {
            // Everything below it has another way up now.
            self.directories.clear();
        }
        if entry.is_dir {
            self.doubt_the_way(entry);
        }
        // Under its old name it may be one that came from elsewhere and was not looked at yet, and
        // so may be what it lay in: only a new name in the same place says that it did not come.
        let stayed = entry.from.is_some_and(|from| from.directory == entry.place.directory);
        for name in location.iter() {
            let Some(watched) = self.by_name.get_mut(name) else { continue };
            let came_in = moved_dir && (!stayed || watched.queue.has_trees());
            let look = if came_in { Look::Tree } else { Look::Entry };
            if !watched.queue.push(entry.place.directory, entry.place.name, look) {
                shared.doubt(name, "more changed than could be kept in mind");
            }
        }
        location
    }

    /// A directory that was made or moved may be one on the way to a volume, or its root: then the
    /// volume is looked at anew. In a volume, too, since one may lie in another.
    fn doubt_the_way(&mut self, entry: &Entry<'_>) {
        let names = [Some(entry.place.name), entry.from.map(|from| from.name)];
        for watched in self.by_name.values_mut() {
            let mut on_the_way = watched.root.host_path.split('/').map(str::as_bytes);
            watched.unsure |=
                on_the_way.any(|part| names.iter().flatten().any(|name| name.to_bytes() == part));
        }
    }

    /// Returns the volumes that a directory lies in.
    fn location_of(
        &mut self,
        place: &Place<'_>,
        mounts: &mut Mounts<'_>,
        shared: &Shared,
    ) -> Location {
        let Place { file_system, directory, .. } = *place;
        if let Some(known) = self.directories.get(file_system, directory) {
            return known.clone();
        }
        match self.find(file_system, directory, mounts) {
            Ok(location) => {
                let handle = FileHandle::from_bytes(directory);
                self.directories.remember(file_system, handle, location.clone());
                location
            }
            // Gone by now, and what was in it with it.
            Err(Errno::STALE | Errno::NOENT) => Location::default(),
            Err(errno) => {
                let why = format!("a directory that changed cannot be found: {errno}");
                self.on(file_system).for_each(|(name, _)| shared.doubt(name, &why));
                Location::default()
            }
        }
    }

    fn on(&self, file_system: u64) -> impl Iterator<Item = (&VolumeName, &Watched)> {
        self.by_name.iter().filter(move |(_, watched)| watched.root.file_system == file_system)
    }

    /// Follows the way up from a directory, once for each mount that holds volumes of its file
    /// system: from one mount, what lies beside its root cannot be seen.
    fn find(
        &self,
        file_system: u64,
        directory: &[u8],
        mounts: &mut Mounts<'_>,
    ) -> Result<Location, Errno> {
        let mut found = Vec::new();
        let all: BTreeSet<u64> = self.on(file_system).map(|(_, w)| w.root.mount).collect();
        for mount in all {
            let here = || self.on(file_system).filter(|(_, w)| w.root.mount == mount);
            let Some(root) = mounts.get(mount, here().map(|(_, w)| &w.root)) else { continue };
            let mut at = handle::open_dir(&root.fd, directory)?;
            let mut own = FileHandle::from_bytes(directory);
            loop {
                let roots = here().filter(|(_, w)| w.root.handle == own);
                found.extend(roots.map(|(name, _)| name.clone()));
                at = match open_parent(&at) {
                    // Above the mount's root (EXDEV), or beside it (ENOENT).
                    Err(Errno::XDEV | Errno::NOENT) => break,
                    result => result?,
                };
                let above = FileHandle::of(&at)?;
                if above == own {
                    break;
                }
                if let Some(known) = self.directories.get(file_system, above.as_bytes()) {
                    found.extend(known.iter().cloned());
                    break;
                }
                own = above;
            }
        }
        Ok(found.into_iter().collect())
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

    /// Returns the first of these roots, all on one mount, that can be opened.
    fn get<'r>(
        &mut self,
        mount: u64,
        roots: impl IntoIterator<Item = &'r Root>,
    ) -> Option<&OpenRoot> {
        let open = || roots.into_iter().find_map(|root| root.open(self.paths).ok());
        self.open.entry(mount).or_insert_with(open).as_ref()
    }

    /// Returns whether a root on this mount was asked for in vain.
    pub(super) fn is_lost(&self, mount: u64) -> bool {
        self.open.get(&mount).is_some_and(Option::is_none)
    }
}

/// The processor time of this thread, each bit of which somebody pays for.
#[derive(Debug, Default)]
pub(super) struct Clock {
    paid: Duration,
}

impl Clock {
    /// Returns the time since the last call, which is to be paid for now.
    pub(super) fn spent(&mut self) -> Duration {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        let now = Duration::try_from(time).unwrap_or_default();
        now.saturating_sub(std::mem::replace(&mut self.paid, now))
    }
}
