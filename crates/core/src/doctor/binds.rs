//! The directories of the host that a container mounts: by mount points of its conf, and by raw lines
//! that LXC mounts itself.

use std::collections::BTreeMap;
use std::fmt;

use crate::conf::{
    Conf, MountClass, MountEntry, MountIdMap, MountLine, MountPoint, normalise_path,
};
use crate::idmap::IdMap;
use crate::ids::{Ctid, MpKey};
use crate::mount_map;
use crate::observed::{ObservedContainer, Snapshot};
use crate::plan::mounts_in_force;

/// What mounts a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountedBy {
    /// A mount point.
    Key(MpKey),
    /// A raw line, in full.
    Line(String),
}

impl MountedBy {
    /// Returns the key, where it has one.
    pub const fn key(&self) -> Option<MpKey> {
        match self {
            Self::Key(key) => Some(*key),
            Self::Line(_) => None,
        }
    }

    /// Returns the line, where it is one.
    pub fn line(&self) -> Option<&str> {
        match self {
            Self::Key(_) => None,
            Self::Line(line) => Some(line),
        }
    }
}

impl fmt::Display for MountedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(key) => write!(f, "{key}"),
            Self::Line(line) => write!(f, "`{line}`"),
        }
    }
}

/// Which map of ids a mount has beside the container's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountMap {
    /// None.
    None,
    /// This one.
    Known(MountIdMap),
    /// That of another user namespace, which nobody read.
    Unknown(String),
}

/// A directory of the host in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind {
    /// What mounts it.
    pub by: MountedBy,
    /// The directory of the host.
    pub source: String,
    /// Where the container has it.
    pub target: String,
    /// Whether it waits for a restart.
    pub pending: bool,
    /// Whether it goes away at the next restart.
    pub going: bool,
    /// Whether it includes what is mounted below the directory.
    pub recursive: bool,
    /// Its map of ids.
    pub map: MountMap,
}

impl Bind {
    /// Returns where the ids of a container with this map are on disk behind the mount; none where
    /// nobody knows.
    pub(super) fn image(&self, own: &IdMap) -> Option<IdMap> {
        match &self.map {
            // Proxmox ignores it in a privileged container, and LXC starts none with it.
            _ if own.same_mapping(&IdMap::privileged()) => Some(own.clone()),
            MountMap::None => Some(own.clone()),
            MountMap::Known(option) => Some(mount_map::through(own, option)),
            MountMap::Unknown(_) => None,
        }
    }
}

/// Returns the directories of the host that a container here mounts. What is in force comes first,
/// and counts where several say the same.
pub(super) fn of(snapshot: &Snapshot, ctid: Ctid, container: &ObservedContainer) -> Vec<Bind> {
    let conf = &container.conf;
    let mut all = points(conf, conf.mounts(), false);
    let in_force = mounts_in_force(snapshot, ctid, container);
    let current: Vec<MountLine> = MountLine::of(&conf.current).map(|(line, _)| line).collect();
    all.extend(in_force.iter().map(|line| by_line(line, false, !current.contains(line))));
    all.extend(points(conf, conf.pending_mounts(), true));
    let waiting = current.iter().filter(|line| !in_force.contains(line));
    all.extend(waiting.map(|line| by_line(line, true, false)));
    all
}

fn points(conf: &Conf, entries: &BTreeMap<MpKey, MountEntry>, pending: bool) -> Vec<Bind> {
    let bind = |(key, entry): (&MpKey, &MountEntry)| {
        let mp = entry.parsed.as_ref().ok().filter(|mp| mp.class == MountClass::Bind)?;
        Some(Bind {
            by: MountedBy::Key(*key),
            source: normalise_path(&mp.volume).to_string(),
            target: normalise_path(&mp.target).to_string(),
            pending,
            going: !pending && goes(conf, *key, mp),
            recursive: false,
            map: mp.idmap().map_or(MountMap::None, MountMap::Known),
        })
    };
    entries.iter().filter_map(bind).collect()
}

fn by_line(line: &MountLine, pending: bool, going: bool) -> Bind {
    let namespace = line.options.iter().find_map(|option| option.strip_prefix("idmap="));
    let map = match (line.idmap(), namespace) {
        (Some(map), _) => MountMap::Known(map),
        (None, Some(namespace)) => MountMap::Unknown(namespace.to_owned()),
        (None, None) => MountMap::None,
    };
    Bind {
        by: MountedBy::Line(line.line().to_string()),
        source: line.source.to_string(),
        target: line.target.to_string(),
        pending,
        going,
        recursive: line.is_recursive(),
        map,
    }
}

/// Returns whether a mount is not there any more after a restart.
fn goes(conf: &Conf, key: MpKey, mp: &MountPoint) -> bool {
    let is_other = |entry: &MountEntry| {
        entry.parsed.as_ref().is_ok_and(|next| {
            (&next.volume, normalise_path(&next.target)) != (&mp.volume, normalise_path(&mp.target))
        })
    };
    conf.pending_delete(key) || conf.pending_mounts().get(&key).is_some_and(is_other)
}
