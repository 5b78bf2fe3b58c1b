//! The file watches: they only ever say "look again".
//!
//! inotify is a hint here. Writes of other cluster nodes raise no event on pmxcfs, a restart of
//! pmxcfs kills the watch silently, and a queue can overflow. So what is wanted and what is
//! watched are compared on every poll, and a lost event costs at most a poll or a resync.
//!
//! A file system that was mounted anew may well show the device and the inode of the one before: a
//! directory of confs is the same one only while pmxcfs has not been started anew.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use pctd_core::ids::Ctid;
use tokio::sync::mpsc;
use tracing::{debug, warn};

use crate::config_files::identity;

/// What a watch saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Something in a directory of the configuration.
    Config,
    /// A conf was written, made, moved or removed.
    Conf(Ctid),
    /// The lock file of a conf was closed: a task may have ended.
    Lock(Ctid),
    /// Events were lost.
    Lost,
}

/// Which directory a watch is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Configuration files.
    Config,
    /// `/etc/pve/nodes/<node>/lxc`.
    Confs,
    /// `/run/lock/lxc`.
    Locks,
}

/// The watches, kept in line with what is wanted.
#[derive(Debug)]
pub(crate) struct Watches {
    watcher: RecommendedWatcher,
    wanted: Vec<(PathBuf, Role)>,
    /// What is watched, with the directory it was when the watch was made.
    active: BTreeMap<PathBuf, Watched>,
}

/// A directory that a watch is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Watched {
    /// Its device and inode.
    identity: (u64, u64),
    /// When the pmxcfs was started that shows it, if one does.
    starttime: Option<u64>,
}

impl Watches {
    /// Starts a watcher whose findings go to `seen`; a full channel drops them, because
    /// [`Seen::Lost`] and the resync make up for it.
    ///
    /// # Errors
    ///
    /// inotify is not to be had.
    pub(crate) fn new(
        wanted: Vec<(PathBuf, Role)>,
        seen: mpsc::Sender<Seen>,
    ) -> notify::Result<Self> {
        let roles = wanted.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            for found in findings(&roles, event) {
                // Full: a finding is waiting already, and it makes the loop look.
                let _dropped = seen.try_send(found);
            }
        })?;
        Ok(Self { watcher, wanted, active: BTreeMap::new() })
    }

    /// Makes missing watches and renews those whose directory is another one now; returns whether
    /// anything was made or lost, because what happened before went unseen.
    ///
    /// `starttime` is that of the pmxcfs which answers now.
    pub(crate) fn renew(&mut self, starttime: Option<u64>) -> bool {
        let mut renewed = false;
        for (path, role) in &self.wanted {
            let starttime = starttime.filter(|_| *role == Role::Confs);
            let now = identity(path).map(|identity| Watched { identity, starttime });
            if now.is_some() && self.active.get(path) == now.as_ref() {
                continue;
            }
            if self.active.remove(path).is_some() {
                // The old directory is gone; so is the watch, mostly. That it went raised no event
                // that names anything, and is news in itself.
                let _gone = self.watcher.unwatch(path);
                renewed = true;
            }
            let Some(now) = now else { continue };
            match self.watcher.watch(path, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    debug!(path = %path.display(), "watching");
                    self.active.insert(path.clone(), now);
                    renewed = true;
                }
                Err(error) => warn!("cannot watch {}: {error}; polling goes on", path.display()),
            }
        }
        renewed
    }
}

fn findings(roles: &[(PathBuf, Role)], event: notify::Result<notify::Event>) -> Vec<Seen> {
    let Ok(event) = event else { return vec![Seen::Lost] };
    if event.need_rescan() {
        return vec![Seen::Lost];
    }
    let wrote = match event.kind {
        // Our own reads open files, too.
        EventKind::Access(kind) => kind == AccessKind::Close(AccessMode::Write),
        EventKind::Create(_)
        | EventKind::Modify(_)
        | EventKind::Remove(_)
        | EventKind::Any
        | EventKind::Other => true,
    };
    if !wrote {
        return Vec::new();
    }
    event.paths.iter().filter_map(|path| finding(roles, path)).collect()
}

fn finding(roles: &[(PathBuf, Role)], path: &Path) -> Option<Seen> {
    let parent = path.parent()?;
    let role = roles.iter().find(|(wanted, _)| wanted == path || wanted == parent)?;
    let name = path.file_name()?.to_str().unwrap_or_default();
    match role.1 {
        Role::Config => Some(Seen::Config),
        Role::Confs => name.strip_suffix(".conf")?.parse().ok().map(Seen::Conf),
        Role::Locks => {
            let ctid = name.strip_prefix("pve-config-")?.strip_suffix(".lock")?;
            ctid.parse().ok().map(Seen::Lock)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roles() -> Vec<(PathBuf, Role)> {
        vec![
            ("/etc/pve/nodes/a/lxc".into(), Role::Confs),
            ("/run/lock/lxc".into(), Role::Locks),
            ("/etc/pctd".into(), Role::Config),
        ]
    }

    #[test]
    fn only_names_that_mean_something_are_found() {
        let ctid = Ctid::new(100).unwrap();
        for (path, expected) in [
            ("/etc/pve/nodes/a/lxc/100.conf", Some(Seen::Conf(ctid))),
            ("/etc/pve/nodes/a/lxc/100.conf.tmp.77", None),
            ("/etc/pve/nodes/a/lxc/0100.conf", None),
            ("/run/lock/lxc/pve-config-100.lock", Some(Seen::Lock(ctid))),
            ("/run/lock/lxc/other", None),
            ("/etc/pctd/config.json", Some(Seen::Config)),
            ("/etc/pctd", Some(Seen::Config)),
            ("/elsewhere/100.conf", None),
        ] {
            assert_eq!(finding(&roles(), Path::new(path)), expected, "{path}");
        }
    }

    #[test]
    fn reads_are_not_news() {
        let open = notify::Event::new(EventKind::Access(AccessKind::Open(AccessMode::Any)))
            .add_path("/etc/pve/nodes/a/lxc/100.conf".into());
        assert_eq!(findings(&roles(), Ok(open)), []);
    }

    #[test]
    fn lost_events_ask_for_a_look_at_everything() {
        let overflow = notify::Event::new(EventKind::Other).set_flag(notify::event::Flag::Rescan);
        assert_eq!(findings(&roles(), Ok(overflow)), [Seen::Lost]);
    }
}
