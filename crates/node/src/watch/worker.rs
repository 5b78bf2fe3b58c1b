//! The thread of the watch: takes events in, puts entries right, sleeps.
//!
//! Events are taken in first and always, so that the kernel's queue does not overflow while
//! entries are put right; volumes then take turns, a slice each, within their budgets. The thread
//! sleeps while nothing happens on any marked file system, and holds nothing open meanwhile.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use pctd_core::ids::VolumeName;
use pctd_sys::fanotify::{Event, Group};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;

use super::News;
use super::board::Shared;
use super::mark::Marks;
use super::queue::{Look, Slice};
use super::repair::{Found, Held, Repaired};
use super::volumes::{Command, Mounts, Volumes, Watched};
use crate::paths::NodePaths;
use crate::undo::Recorder;
use crate::walk::entry::ProcFds;

/// One read of events: about a thousand.
const BUFFER: usize = 64 * 1024;
/// How many reads are made before entries are put right again, whatever else waits.
const READS: usize = 64;
/// How many entries are put right before events are taken in again.
const SLICE: usize = 256;
/// Between two takings-in while a volume is over its budget: its many changes of one file become
/// one event in the kernel meanwhile. Even a quarter of a million changes a second do not overflow
/// its queue in this time.
const PAUSE: Duration = Duration::from_millis(40);
/// How long a taking-in lasts at most meanwhile; what it leaves is still in the kernel's queue.
const GLANCE: Duration = Duration::from_millis(4);
/// How long a root directory stays open after there was work in it: most of what one entry costs
/// is the way there, and changes seldom come alone.
const STAYS_OPEN: Duration = Duration::from_millis(50);
/// Why a volume is armed anew.
const OTHERWISE: &str = "it is mounted otherwise than before";
/// How often at most a volume's repairs are told of.
const TELL: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct Worker {
    pub(super) paths: NodePaths,
    pub(super) group: Arc<Group>,
    pub(super) marks: Arc<Marks>,
    pub(super) wake: Arc<OwnedFd>,
    pub(super) commands: Receiver<Command>,
    pub(super) shared: Arc<Shared>,
    pub(super) volumes: Volumes,
}

impl Worker {
    /// Runs until nobody can send commands any more.
    pub(super) fn run(mut self) {
        let _told = TellEnd(Arc::clone(&self.shared));
        let mounts = open_mount_table();
        // Of the kernel's own file system; it keeps nobody from unmounting anything.
        let procfs = ProcFds::open();
        let mut buffer = vec![0; BUFFER];
        loop {
            if !self.take_commands() {
                return;
            }
            let throttled = self.take_in(&mut buffer);
            self.look_at_roots();
            let next = self.work(procfs.as_ref().map_err(|errno| *errno));
            self.publish();
            let timeout = if throttled { Some(next.unwrap_or(PAUSE).min(PAUSE)) } else { next };
            if self.sleep(mounts.as_ref(), timeout, throttled) {
                self.look_at_mounts();
            }
        }
    }

    /// Waits for something to do; returns whether the table of mounts changed.
    fn sleep(&self, mounts: Option<&OwnedFd>, timeout: Option<Duration>, throttled: bool) -> bool {
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        // While throttled the group is left out: the kernel gathers events meanwhile.
        let group = if throttled { PollFlags::empty() } else { PollFlags::IN };
        let mut fds =
            vec![PollFd::new(&*self.wake, PollFlags::IN), PollFd::new(&*self.group, group)];
        fds.extend(mounts.map(|mounts| PollFd::new(mounts, PollFlags::PRI)));
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            // Out of memory: the next round may be better, and must not be at once.
            Err(_) => std::thread::sleep(PAUSE),
        }
        let changed = fds.get(2).is_some_and(|fd| fd.revents().contains(PollFlags::PRI));
        if fds[0].revents().contains(PollFlags::IN) {
            // Only ever a sign that there are commands.
            let _count = rustix::io::read(&*self.wake, &mut [0; 8]);
        }
        changed
    }

    /// Returns whether there may be more commands.
    fn take_commands(&mut self) -> bool {
        use std::sync::mpsc::TryRecvError;
        loop {
            match self.commands.try_recv() {
                Ok(command) => self.volumes.obey(command, &self.shared),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    /// Takes in all events that wait; returns whether they are to be left to gather for a while.
    fn take_in(&mut self, buffer: &mut [u8]) -> bool {
        let own_pid = i32::try_from(std::process::id()).unwrap_or(-1);
        let paths = self.paths.clone();
        let mut mounts = Mounts::new(&paths);
        let begun = Instant::now();
        for _ in 0..READS {
            // Whoever makes events as fast as they are read would otherwise be read all the time.
            if begun.elapsed() >= GLANCE && self.volumes.is_overspent(Instant::now()) {
                break;
            }
            let events = match self.group.read(buffer) {
                Ok(events) => events,
                Err(errno) => {
                    // Nothing that is known of; in any case not at once again.
                    self.doubt_all(&format!("events cannot be read: {errno}"));
                    return true;
                }
            };
            // A volume is armed before it is walked. What happens after that is read after that, so
            // it finds the volume known, if commands are obeyed in between.
            self.take_commands();
            let (mut count, mut in_none, mut of) =
                (0_u32, 0_u32, BTreeMap::<VolumeName, u32>::new());
            for event in events {
                count += 1;
                match event {
                    // What a walk or this thread did itself.
                    Event::Entry(entry) if entry.pid == own_pid => {}
                    Event::Entry(entry) => {
                        let location = self.volumes.enter(&entry, &mut mounts, &self.shared);
                        in_none += u32::from(location.iter().next().is_none());
                        for name in location.iter() {
                            *of.entry(name.clone()).or_default() += 1;
                        }
                    }
                    Event::Overflow | Event::Unknown => self.doubt_all("events were lost"),
                }
            }
            if count == 0 {
                break;
            }
            for (name, events) in &of {
                self.shared.count(name, |counts| counts.events += u64::from(*events));
            }
            let paying = of.values().sum::<u32>() + in_none;
            // What its own repairs cost here is paid by whoever made them necessary.
            if paying > 0 {
                let each = self.volumes.clock.spent() / paying;
                self.volumes.pay(each, &of, in_none);
            }
        }
        for watched in self.volumes.by_name.values_mut() {
            watched.unsure |= mounts.is_lost(watched.root.mount);
        }
        self.volumes.is_overspent(Instant::now())
    }

    fn doubt_all(&self, why: &str) {
        for name in self.volumes.by_name.keys() {
            self.shared.doubt(name, why);
        }
    }

    /// Puts a slice of every volume right that has work and time; returns when there is more.
    fn work(&mut self, procfs: Result<&ProcFds, Errno>) -> Option<Duration> {
        let mut next: Option<Duration> = None;
        let mut sooner = |wait: Duration| next = Some(next.map_or(wait, |next| next.min(wait)));
        for (name, watched) in &mut self.volumes.by_name {
            if let Some((_, since)) = &watched.open {
                if let Some(left) = STAYS_OPEN.checked_sub(since.elapsed()) {
                    sooner(left);
                } else {
                    watched.open = None;
                    watched.recorder.iter().for_each(Recorder::rest);
                }
            }
            let Some(rule) = watched.rule.clone() else { continue };
            if !watched.queue.is_empty() {
                let wait = watched.budget.wait(Instant::now());
                if wait.is_zero() {
                    slice(&self.paths, &self.shared, name, watched, &rule, procfs);
                    match (&watched.open, watched.unsure) {
                        (_, true) => sooner(Duration::ZERO),
                        (Some(_), _) => sooner(STAYS_OPEN),
                        (None, _) => {}
                    }
                    let spent = self.volumes.clock.spent();
                    watched.budget.spend(spent, Instant::now());
                    self.shared.count(name, |counts| counts.cpu += spent);
                }
                if !watched.queue.is_empty() {
                    sooner(watched.budget.wait(Instant::now()));
                }
            }
            if watched.untold > 0 {
                let now = Instant::now();
                let due = watched.told.map_or(now, |told| told + TELL);
                if due <= now {
                    let (volume, changed) = (name.clone(), std::mem::take(&mut watched.untold));
                    watched.told = Some(now);
                    self.shared.tell(News::Repaired { volume, changed });
                } else {
                    sooner(due - now);
                }
            }
        }
        next
    }

    fn publish(&self) {
        let waiting =
            self.volumes.by_name.iter().map(|(name, watched)| {
                (name, u64::try_from(watched.queue.len()).unwrap_or(u64::MAX))
            });
        self.shared.set_waiting(waiting);
    }

    /// Looks whether roots that may have been exchanged were.
    fn look_at_roots(&mut self) {
        let unsure = |watched: &mut Watched| std::mem::take(&mut watched.unsure);
        let looked = self.volumes.by_name.iter_mut().filter_map(|(name, watched)| {
            if !unsure(watched) {
                return None;
            }
            watched.root.open(&self.paths).err().map(|why| (name.clone(), why))
        });
        for (name, why) in looked.collect::<Vec<_>>() {
            self.volumes.forget(&name);
            self.shared.disarm(&name, &why);
        }
    }

    /// Something was mounted or unmounted: a volume may be another directory now, or its file
    /// system one without the mark.
    fn look_at_mounts(&mut self) {
        self.shared.mounts_changed();
        let mut gone = Vec::new();
        for (name, watched) in &self.volumes.by_name {
            match self.marks.arm(&self.paths, &watched.root.host_path) {
                Ok(root) if root == watched.root => {}
                Ok(_) => gone.push((name.clone(), OTHERWISE.to_owned())),
                Err(why) => gone.push((name.clone(), why)),
            }
        }
        for (name, why) in gone {
            self.volumes.forget(&name);
            self.shared.disarm(&name, &why);
        }
    }
}

/// Says when the thread ends unasked, so that nobody relies on a watch that is none.
struct TellEnd(Arc<Shared>);

impl Drop for TellEnd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.end();
        }
    }
}

/// Puts one slice of a volume's entries right.
fn slice(
    paths: &NodePaths,
    shared: &Shared,
    name: &VolumeName,
    watched: &mut Watched,
    rule: &Held,
    procfs: Result<&ProcFds, Errno>,
) {
    let procfs = match procfs {
        Ok(procfs) => procfs,
        Err(errno) => return shared.doubt(name, &format!("/proc cannot be used: {errno}")),
    };
    if watched.open.as_ref().is_none_or(|(_, since)| since.elapsed() > STAYS_OPEN) {
        match watched.root.open(paths) {
            Ok(root) => watched.open = Some((root, Instant::now())),
            Err(why) => {
                watched.open = None;
                watched.unsure = true;
                watched.queue.clear();
                return shared.doubt(name, &why);
            }
        }
    }
    let Some((root, _)) = &watched.open else { return };
    let Some(Slice { directory, names }) = watched.queue.take(SLICE) else { return };
    if watched.recorder.is_none() {
        match rule.recorder(paths, name, &watched.root, root) {
            Ok(recorder) => watched.recorder = recorder,
            Err(error) => return shared.doubt(name, &format!("the root cannot be noted: {error}")),
        }
    }
    let with = (procfs, watched.recorder.as_ref());
    let found = match Found::open(&watched.root, root, &directory, with) {
        Ok(Some(found)) => found,
        // Gone, or moved out: what is there now has another owner to answer to.
        Ok(None) => return,
        Err(errno) => return shared.doubt(name, &format!("a directory cannot be opened: {errno}")),
    };
    let mut sum = Repaired::default();
    for (entry, look) in names {
        found.put_right(&rule.rule, &entry, &mut sum);
        if look == Look::Tree
            && let Err(why) = found.put_tree_right(&watched.root, rule, &entry, &mut sum)
        {
            shared.doubt(name, why);
        }
    }
    watched.untold += sum.changed;
    shared.count(name, |counts| counts.repaired.add(sum.changed, Instant::now()));
    if let Some(why) = sum.failed {
        shared.doubt(name, &format!("an entry could not be put right: {why}"));
    }
}

/// Opens the table of mounts, whose changes poll tells of (`proc_pid_mounts(5)`).
fn open_mount_table() -> Option<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    openat(CWD, "/proc/self/mountinfo", flags, Mode::empty()).ok()
}
