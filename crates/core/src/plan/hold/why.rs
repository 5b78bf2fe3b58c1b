//! What lies behind a hold: what lacks, stands in the way, or would be lost.

use super::words::mapping_advice;
use crate::conf::RawLine;
use crate::idmap::Moved;
use crate::ids::{Ctid, VolumeName};
use crate::mount_map::NoOption;

/// What an id map lacks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotReady {
    /// The conf is empty or has no rootfs.
    #[error("its conf is not complete yet")]
    Incomplete,
    /// It is being created, cloned or restored.
    #[error("it is being created (lock: create)")]
    BeingCreated,
    /// A task holds its flock while it does not run.
    #[error("a task holds its lock")]
    Busy,
    /// It runs, and still with the host's ids.
    #[error("it is starting, or runs privileged until it is restarted")]
    Starting,
    /// It runs, and with which map cannot be told; the conf may have been edited since it started.
    #[error("it runs, and the map it runs with cannot be read")]
    InForceUnknown,
    /// There is a map, but Proxmox could not use it.
    #[error("{0}")]
    Invalid(String),
    /// `idmap_source` asks for explicit lines.
    #[error("it has no lxc.idmap line and `idmap_source` is \"explicit\"")]
    NotExplicit,
    /// It is declared unprivileged and is not.
    #[error("it is declared unprivileged and is privileged")]
    Privileged,
    /// It was just made, and its declared map is not in its conf yet.
    #[error("its declared id map is not in its conf yet")]
    NotWritten,
    /// It is being converted between privileged and unprivileged.
    #[error("it is being converted")]
    Converting,
    /// It is not on this node, though it is to decide the owner.
    #[error("it is not on this node")]
    NotHere,
    /// Its state is unknown.
    #[error("its state is unknown")]
    Unknown,
}

/// What stands against another id map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MapChange {
    /// These ids would be others on the host, and the files of a container stay as they are.
    Moves {
        /// The ids.
        moved: Vec<Moved>,
        /// The lines that would go and are not pctd's.
        foreign: Vec<RawLine>,
    },
    /// The lines that are there are not pctd's.
    Foreign(Vec<RawLine>),
    /// The lines that are there are none.
    Unreadable(String),
    /// A line that is there can be neither kept nor named.
    NoLine(String),
    /// The container would be made with a root file system that its root cannot own.
    Unmakeable(Vec<Moved>),
}

/// Why the declared ids cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoMap {
    /// Mounts of a privileged container have no map.
    #[error(
        "container {ctid} is privileged, so its ids are the same on disk and no mount of it can have others; declare `\"disk_ids\": \"passthrough\"`, or `\"idmap\": \"none\"` for this mount"
    )]
    Privileged {
        /// The container.
        ctid: Ctid,
    },
    /// LXC has no other map than the container's own.
    #[error(
        "a mount that LXC makes can only have the same ids on disk as inside, and those of container {ctid} at {target} are to be others there; declare `\"disk_ids\": \"passthrough\"`, or mount with `\"mechanism\": \"pct\"`"
    )]
    ByLxc {
        /// The container.
        ctid: Ctid,
        /// The target inside.
        target: String,
    },
    /// The ids do not fit.
    #[error(
        "container {ctid} cannot have the declared ids on disk at {target}: {why}; correct `disk_ids` so that it has one id on disk for every id inside"
    )]
    NoOption {
        /// The container.
        ctid: Ctid,
        /// The target inside.
        target: String,
        /// What does not fit.
        why: NoOption,
    },
    /// The declared owner has no place.
    #[error(
        "owner {uid}:{gid} inside has no id in `disk_ids`; extend that, or declare another owner"
    )]
    OwnerOutside {
        /// The user id inside.
        uid: u32,
        /// The group id inside.
        gid: u32,
    },
    /// The declared group has no place.
    #[error(
        "group {gid} of the host is none of the ids that the containers have on disk by `disk_ids`, so they could write to nothing that is in it; declare one that is, such as \"container:GID\""
    )]
    GroupOutside {
        /// The group id on the host.
        gid: u32,
    },
    /// There is no owner to count from.
    #[error(
        "`disk_ids` counts from the owner of {path}, which is not there; make it and give it to whoever root inside is to be on disk"
    )]
    NoOwner {
        /// The host path.
        path: String,
    },
    /// Nobody gave the directory away yet.
    #[error(
        "`disk_ids` counts from the owner of {path}, which belongs to the host's root or its group; give it to whoever root inside is to be on disk, or declare `\"disk_ids\": \"passthrough\"` if that is meant"
    )]
    HostsRoot {
        /// The host path.
        path: String,
    },
    /// It was counted from an owner before, and nobody knows from which.
    #[error(
        "from which owner of {path} `disk_ids` counted was lost with the ledger; declare it as a base, such as \"0 100000 65536\""
    )]
    OwnerForgotten {
        /// The host path.
        path: String,
    },
    /// The map of a container is not there yet.
    #[error("the mount at {target} waits for the id map of container {ctid}: {why}")]
    NotReady {
        /// The container.
        ctid: Ctid,
        /// The target inside.
        target: String,
        /// What is missing.
        why: NotReady,
    },
    /// The map of the container is about to change.
    #[error(
        "the id map of container {ctid} changes when it restarts, and the map of a mount depends on it; `pct reboot {ctid}` when it suits"
    )]
    Stale {
        /// The container.
        ctid: Ctid,
    },
}

/// What a mount with an id map of its own lacks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unmappable {
    /// Proxmox does not know them.
    #[error(
        "this Proxmox cannot map ids for one mount ({why}); upgrade pve-container to 6.1.6 or later, or take `disk_ids` out"
    )]
    Proxmox {
        /// What was found.
        why: String,
    },
    /// LXC does not know them.
    #[error(
        "this LXC cannot map ids for one mount ({why}); upgrade lxc-pve to 5.0 or later, or take `disk_ids` out"
    )]
    Lxc {
        /// What was found.
        why: String,
    },
    /// Something below does not let its ids be mapped, and is to be included.
    #[error(
        "what is mounted below {path} does not all let ids be mapped ({why}), and a container that mounts it so would not start; mount it with `\"mechanism\": \"pct\"`, which leaves that out, or take `disk_ids` out"
    )]
    Whole {
        /// The host path.
        path: String,
        /// What the kernel said.
        why: String,
    },
    /// The file system does not let its ids be mapped.
    #[error(
        "{path} is on {kind}, which does not let ids be mapped ({why}), and a container that mounts it so would not start; take `disk_ids` out, and {}", mapping_advice(.kind)
    )]
    FileSystem {
        /// The host path.
        path: String,
        /// The type of the file system.
        kind: String,
        /// What the kernel said.
        why: String,
    },
    /// Root of the host may not hand on the ids.
    #[error("root may not hand on the ids of container {ctid}, without which its mount has no map: add {}", .missing.join(" and "))]
    SubIds {
        /// The container.
        ctid: Ctid,
        /// What is missing, each with its file.
        missing: Vec<String>,
    },
}

/// What a lost ledger may have known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Missing {
    /// The host path of a volume.
    Directory {
        /// The volume.
        volume: VolumeName,
        /// Its path.
        path: String,
    },
    /// A container that is defined.
    Container(Ctid),
}

/// What keeps a container from being cloned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceLack {
    /// It is made, or will be.
    Coming,
    /// It does not exist, and its definition does not say what it is made from.
    Absent,
    /// It is on this node of the cluster instead of here.
    OnNode(String),
    /// The id is a virtual machine's.
    Vm,
    /// Its state is unknown.
    Unknown,
    /// A task, such as another clone of it, is at work.
    Busy,
    /// Its conf carries this lock.
    Locked(String),
    /// It runs, and no snapshot is named.
    Running,
    /// It has no snapshot of this name.
    NoSnapshot(String),
    /// A bind mount or a device is in the way.
    HasMount {
        /// Its key.
        key: String,
        /// The snapshot it is in; none: it is in force.
        snapshot: Option<String>,
    },
}
