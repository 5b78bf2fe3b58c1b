//! The watch: drift below a volume is noticed and put right as it happens, without any walk.
//!
//! One fanotify group with a mark per file system that holds a volume. An event names an entry by
//! directory handle and name; whose volume that is, is remembered; the entry is looked at once,
//! held to the volume's rule and put right. No container, user namespace or mount namespace can
//! hide a change from it, and nothing in the volume stays open while nothing happens.
//!
//! The watch only makes convergence faster. What it cannot be sure of it says ([`News::Doubt`]),
//! and the volume is walked: lost events, too many of them, an entry that could not be changed, a
//! directory that was moved in with everything in it. When nothing is in doubt, an armed volume
//! that was walked once needs no other walk.
//!
//! - `mark`: whether a file system tells of every change, and the mark.
//! - `directories`: which volume a directory lies in. `queue`: what waits to be looked at.
//! - `catch_up`: what happened while nobody watched. `repair`: one entry.
//! - `budget`: how much processor time a volume may cost.
//! - `worker`: the thread that does it all. `volumes`: what it knows of them, and whose an event is.
//! - `board`: what it and others share.

mod board;
mod budget;
mod catch_up;
mod directories;
mod mark;
mod queue;
mod rate;
mod repair;
mod volumes;
mod worker;

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant, SystemTime};

use pctd_core::desired::Volume;
use pctd_core::ids::VolumeName;
use pctd_core::ledger::VolumeRecord;
use pctd_core::observed::{Drift, Watch};
use pctd_core::ownership::OwnershipRule;
use pctd_sys::fanotify::{Group, Queue};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

pub use self::catch_up::CaughtUp;

use self::board::{Shared, Shown};
use self::mark::{Marks, Root};
use self::repair::Held;
use self::volumes::{Command, Volumes};
use self::worker::Worker;
use crate::paths::NodePaths;

/// How long the watch may take to let go of a volume.
const LETS_GO: Duration = Duration::from_secs(10);

/// What the watch has to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// Entries were put right; at most one a second for each volume.
    Repaired {
        /// The volume.
        volume: VolumeName,
        /// How many since the last time.
        changed: u64,
    },
    /// The volume may differ in ways the watch does not know; told once until it is walked.
    Doubt {
        /// The volume.
        volume: VolumeName,
        /// What happened.
        why: String,
    },
}

/// How a volume is to be held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// What its entries are to be; absent: events are kept until that is known.
    pub rule: Option<OwnershipRule>,
    /// How much of one core its repairs may take, in percent.
    pub cpu_percent: u32,
    /// A tree that was moved in and needs more changes than this is left to a walk.
    pub confirm_above: u64,
    /// How many bytes the records of what is put right may take; 0: it is not recorded.
    pub undo_limit: u64,
}

/// The watch; see the module. Its thread ends when this is dropped.
#[derive(Debug)]
pub struct Watcher {
    paths: NodePaths,
    marks: Arc<Marks>,
    wake: Arc<OwnedFd>,
    commands: Sender<Command>,
    shared: Arc<Shared>,
}

/// Why there is no watch.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The kernel does not give one.
    #[error("file systems cannot be watched: {0}; drift is found by walks only")]
    Unavailable(#[from] Errno),
    /// No thread for it.
    #[error("cannot start the thread of the watch: {0}")]
    Thread(std::io::Error),
}

impl Watcher {
    /// Starts a watch of nothing; `news` is called on its thread and must not wait.
    ///
    /// # Errors
    ///
    /// [`WatchError`].
    pub fn start(
        paths: NodePaths,
        news: impl Fn(News) + Send + Sync + 'static,
    ) -> Result<Self, WatchError> {
        let group = Arc::new(Group::new(Queue::Bounded)?);
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let (commands, receiver) = channel();
        let shared = Arc::new(Shared::new(news));
        let marks = Arc::new(Marks::new(Arc::clone(&group)));
        let worker = Worker {
            paths: paths.clone(),
            group,
            marks: Arc::clone(&marks),
            wake: Arc::clone(&wake),
            commands: receiver,
            shared: Arc::clone(&shared),
            volumes: Volumes::default(),
        };
        std::thread::Builder::new()
            .name("watch".to_owned())
            .spawn(move || worker.run())
            .map_err(WatchError::Thread)?;
        Ok(Self { paths, marks, wake, commands, shared })
    }

    /// Arms a volume, so that what changes from now on is seen: to be called before a walk. What was
    /// in doubt so far is the walk's to find. Returns whether the volume is held to this very rule,
    /// so that what changes from now on is put right without that walk.
    pub fn begin_walk(&self, volume: &Volume, rule: &OwnershipRule) -> bool {
        let now = self.marks.arm(&self.paths, &volume.host_path);
        let held = self.shared.with(&volume.name, |entry| {
            entry.doubt = None;
            let same = now.is_ok() && entry.armed == now;
            same.then(|| {
                let standing = entry.standing.as_ref();
                standing.is_some_and(|standing| standing.rule.as_ref() == Some(rule))
            })
        });
        held.unwrap_or_else(|| {
            self.armed(volume, now, None);
            false
        })
    }

    /// Holds a volume to a rule from now on. Where it is not armed any more, or was elsewhere, it is
    /// armed, and in doubt: nobody knows what happened meanwhile. What happened before this process
    /// began is the walk's to find that every volume gets then.
    pub fn hold(&self, volume: &Volume, standing: Standing) {
        let name = &volume.name;
        let changes = self.shared.mount_changes();
        let (armed, same, refused) = self.shared.with(name, |entry| {
            let armed = entry.armed.as_ref().is_ok_and(|root| root.host_path == volume.host_path);
            let refused = entry.refused.as_ref() == Some(&(volume.host_path.clone(), changes));
            (armed, entry.standing.as_ref() == Some(&standing), refused)
        });
        if refused || armed && same {
            return;
        }
        if !armed {
            let now = self.marks.arm(&self.paths, &volume.host_path);
            self.armed(volume, now, Some("it was not watched for a while"));
        }
        let Standing { confirm_above, undo_limit, .. } = standing;
        let held = |rule| Arc::new(Held { rule, confirm_above, undo_limit });
        let rule = standing.rule.clone().map(held);
        let percent = standing.cpu_percent;
        self.shared.with(name, |entry| entry.standing = Some(standing));
        self.send(Command::Rule { volume: name.clone(), rule, percent });
    }

    /// Looks at what the directories of a volume tell of the time before it was armed, and hands
    /// what changed to the watch. `None` where that cannot be told: only a walk can then.
    pub fn catch_up(&self, volume: &Volume, record: &VolumeRecord) -> Option<CaughtUp> {
        let name = &volume.name;
        let root = self.shared.entries().get(name)?.armed.clone().ok()?;
        let (sum, slices) = catch_up::compare(&self.paths, name, &root, record)?;
        if !slices.is_empty() {
            self.send(Command::Look(name.clone(), slices));
        }
        Some(sum)
    }

    /// Keeps the events of a volume until there is a rule again.
    pub fn pause(&self, name: &VolumeName) {
        let command = {
            let mut entries = self.shared.entries();
            let standing = entries.get_mut(name).and_then(|entry| entry.standing.as_mut());
            let Some(standing) = standing.filter(|standing| standing.rule.is_some()) else {
                return;
            };
            standing.rule = None;
            let percent = standing.cpu_percent;
            Command::Rule { volume: name.clone(), rule: None, percent }
        };
        self.send(command);
    }

    /// As [`Watcher::pause`], and waits until nothing is done to the volume any more; returns whether
    /// it came to that.
    pub fn pause_now(&self, name: &VolumeName) -> bool {
        self.pause(name);
        let (done, seen) = channel();
        self.send(Command::Tell(done));
        // An entry under way takes a moment, unless its file system does not answer.
        seen.recv_timeout(LETS_GO).is_ok() || self.shared.ended().is_some()
    }

    /// Returns whether a volume is held to a rule.
    pub fn is_holding(&self, name: &VolumeName) -> bool {
        let entries = self.shared.entries();
        let standing = entries.get(name).and_then(|entry| entry.standing.as_ref());
        standing.is_some_and(|standing| standing.rule.is_some())
    }

    /// Watches a volume no longer.
    pub fn forget(&self, name: &VolumeName) {
        let was = self.shared.entries().remove(name);
        if let Some(was) = was {
            self.disarm(name.clone(), &was);
        }
    }

    /// Returns since when no change of a volume can have gone unnoticed.
    pub fn since(&self, name: &VolumeName) -> Option<SystemTime> {
        self.shared.entries().get(name)?.since
    }

    /// Watches no volume but these.
    pub fn keep(&self, wanted: &BTreeSet<VolumeName>) {
        let unwanted = |name: &VolumeName, _: &mut Shown| !wanted.contains(name);
        let gone: Vec<_> = self.shared.entries().extract_if(.., unwanted).collect();
        for (name, was) in gone {
            self.disarm(name, &was);
        }
    }

    /// Returns how drift of a volume is noticed.
    pub fn state(&self, volume: &VolumeName) -> Watch {
        match self.shared.entries().get(volume) {
            None => Watch::Walks("it is not watched yet".to_owned()),
            Some(entry) => match &entry.armed {
                Err(why) => Watch::Walks(why.clone()),
                Ok(_) => Watch::Events(Drift {
                    events: entry.counts.events,
                    repaired: entry.counts.repaired.total(),
                    per_minute: entry.counts.repaired.per_minute(Instant::now()),
                    waiting: entry.counts.waiting,
                    cpu: entry.counts.cpu,
                    doubt: entry.doubt.clone(),
                }),
            },
        }
    }

    /// Enters what came of arming a volume.
    fn armed(&self, volume: &Volume, armed: Result<Root, String>, doubt: Option<&str>) {
        let name = &volume.name;
        let armed = armed.and_then(|root| match self.shared.ended() {
            Some(why) => Err(why.to_owned()),
            None => Ok(root),
        });
        let command = match &armed {
            // Events that came since the mark are looked at after this.
            Ok(root) => Command::Arm(name.clone(), root.clone()),
            Err(_) => Command::Forget(name.clone()),
        };
        self.send(command);
        let changes = self.shared.mount_changes();
        self.shared.with(name, |entry| {
            let since = armed.is_ok().then(SystemTime::now);
            let refused = armed.is_err().then(|| (volume.host_path.clone(), changes));
            let again = armed.is_ok() && self.shared.arm_again(name);
            let doubt = doubt.filter(|_| again).map(str::to_owned);
            *entry = Shown { armed, since, refused, doubt, ..Shown::default() };
        });
    }

    /// Lets the thread forget a volume, and the kernel its file system if it was the last on it.
    fn disarm(&self, name: VolumeName, was: &Shown) {
        self.send(Command::Forget(name));
        if let Ok(root) = &was.armed {
            let others = || {
                let entries = self.shared.entries();
                entries.values().filter_map(|entry| entry.armed.clone().ok()).collect()
            };
            self.marks.disarm(&self.paths, root, others);
        }
    }

    fn send(&self, command: Command) {
        // The thread ends only with this value.
        let _sent = self.commands.send(command);
        let _woken = rustix::io::write(&*self.wake, &1_u64.to_ne_bytes());
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // Without a sender left the thread ends; it only has to look.
        self.commands = channel().0;
        let _woken = rustix::io::write(&*self.wake, &1_u64.to_ne_bytes());
    }
}
