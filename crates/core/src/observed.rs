//! What is there: one snapshot of the node, taken before a run and never changed by it.
//!
//! "Not known" is a value here, never an absence: a planner that met it plans nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::acl::Acl;
use crate::conf::Conf;
use crate::idmap::IdMap;
use crate::ids::{Ctid, HostIds, VolumeName};
use crate::ledger::{Ledger, Memory};
use crate::ownership::EntryStat;
use crate::subids::SubIds;

mod volume;

pub use volume::{
    Assurance, Audit, Drift, FileSystem, ObservedCertificates, ObservedPair, ObservedVolume,
    PairFile, SourceDir, SourceState, Watch,
};

/// Everything one run works on.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The node and its cluster.
    pub node: NodeState,
    /// Every container the run needs, the ones that share volumes with it included.
    pub containers: BTreeMap<Ctid, Presence>,
    /// The confs of containers on other nodes that mount a volume which all nodes see, or why one
    /// could not be read.
    pub elsewhere: BTreeMap<Ctid, Result<Conf, String>>,
    /// Every volume the run needs.
    pub volumes: BTreeMap<VolumeName, ObservedVolume>,
    /// What pctd did before.
    pub ledger: Arc<Ledger>,
    /// Whether that is everything.
    pub memory: Memory,
    /// How long each container's map has not been ready, where it is not.
    pub waited: BTreeMap<Ctid, Duration>,
    /// How long ago pctd restarted each container, where it did.
    pub restarted: BTreeMap<Ctid, Duration>,
    /// What containers would not start with of what they mount; looked for only where a restart or a
    /// start of pctd's may be due.
    pub bad_sources: BTreeMap<Ctid, BadSource>,
    /// The host ids that containers may have.
    pub sub_ids: SubIds,
    /// The boot of the host, which no other has had.
    pub boot: String,
    /// The host's users and groups that the declaration names, where they exist.
    pub accounts: Accounts,
    /// What is asked of this run beyond the declaration.
    pub requests: Requests,
    /// What matters only for containers that are absent, or just being made.
    pub making: MakingFacts,
    /// What matters only where ids are mapped for single mounts.
    pub mapping: MappingFacts,
    /// What matters only for containers that may be converted, by container.
    pub converting: BTreeMap<Ctid, ConvertFacts>,
}

/// What is known for the conversion of a container, beside its conf.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConvertFacts {
    /// What stands against it.
    pub obstacles: Vec<Obstacle>,
}

/// What stands against a conversion.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Obstacle {
    /// The backup storage is none, or none on which pctd can check a backup.
    #[error("the storage `{storage}` cannot hold its backup: {why}")]
    Storage {
        /// Its id.
        storage: String,
        /// Why not.
        why: String,
    },
    /// The HA manager starts and stops it.
    #[error("it is managed by HA, which would start it in between (`ha-manager remove ct:{0}`)")]
    HighAvailability(Ctid),
    /// Its disks are replicated.
    #[error("it is replicated, and its new disks would not be (`pvesr list`)")]
    Replication,
    /// Backups leave files out.
    #[error("/etc/vzdump.conf keeps files out of backups (exclude-path: {0})")]
    Excluded(String),
    /// What would tell of one of these could not be read.
    #[error("{path} cannot be read: {why}")]
    Unreadable {
        /// The file.
        path: String,
        /// What was met.
        why: String,
    },
}

/// Why a container would not start, of what it mounts from the host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadSource {
    /// There is nothing that could be mounted.
    #[error("{0}, which it mounts, is not a directory")]
    Missing(String),
    /// In a user namespace a mount cannot be had without those below it (`mount_namespaces(7)`).
    #[error("{below} is mounted below {path}, which LXC is to mount in it without that")]
    Nested {
        /// The source.
        path: String,
        /// The first mount below it.
        below: String,
    },
    /// It is to be mounted with mapped ids.
    #[error("{path}, which LXC is to mount in it, does not let ids be mapped ({why})")]
    Unmappable {
        /// The source.
        path: String,
        /// What the kernel said.
        why: String,
    },
}

/// What is known for maps of single mounts; looked at only where some are declared.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MappingFacts {
    /// Whether Proxmox knows them.
    pub proxmox: MappingSupport,
    /// Whether LXC knows them in raw lines.
    pub lxc: MappingSupport,
}

/// Whether ids can be mapped for single mounts, as far as one party to it goes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum MappingSupport {
    /// Nobody asked.
    #[default]
    NotAsked,
    /// They can.
    Yes,
    /// They cannot, or it is not known, for this reason.
    No(String),
}

/// What is known for making containers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MakingFacts {
    /// Whether the node is in a cluster.
    pub clustered: bool,
    /// The templates that definitions of absent containers name.
    pub templates: BTreeMap<String, TemplateState>,
    /// Containers for which a task that creates, clones or restores is at work.
    pub at_work: BTreeSet<Ctid>,
    /// Containers that a run of pctd's clones right now; Proxmox lets one clone at a time.
    pub cloning: BTreeSet<Ctid>,
}

/// Where a template is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TemplateState {
    /// There, or on a storage only Proxmox can look at; this is its name for `pct`.
    Usable(String),
    /// Not there; these paths were looked for.
    Missing(Vec<String>),
    /// Nobody can tell, for this reason.
    Unknown(String),
}

/// What an admin said, or an earlier attempt learned.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Requests {
    /// Volumes an admin confirmed for this run: a big pass, or another file system, is meant.
    pub confirmed: BTreeSet<VolumeName>,
    /// Volumes whose file system refused to change an owner, with what it said.
    pub refused: BTreeMap<VolumeName, String>,
    /// Volumes in which what was to be changed could not be recorded, with why.
    pub unrecorded: BTreeMap<VolumeName, String>,
    /// Volumes whose last walk found why nothing is done to them, which waiting will not cure.
    pub held: BTreeSet<VolumeName>,
    /// Containers that an admin named: one that is gone is made again, and a conversion that failed is
    /// tried again.
    pub named: BTreeSet<Ctid>,
    /// Containers for which an admin means another id map, for this run.
    pub id_maps: BTreeMap<Ctid, MapConsent>,
    /// Containers that did not come back from a restart pctd made, with what was met.
    pub restart_failed: BTreeMap<Ctid, String>,
    /// Whether what is no longer declared may be removed.
    pub removal: Removal,
}

/// Which change of a container's id map an admin means. Several holds say to name a container, so a
/// name alone is not enough for everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MapConsent {
    /// One by which its root keeps its host id, and no line of others goes.
    RootKept,
    /// Any.
    Any,
}

/// Whether what is no longer declared may be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Removal {
    /// The configuration has stood long enough, or an admin asked for it.
    Allowed,
    /// Files may be missing from the configuration: it is new to this process, was empty or invalid,
    /// or lost a file a short while ago. Nothing may follow from what it does not say.
    #[default]
    Unsettled,
}

/// The host's answer for the owners that are declared by name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Accounts {
    /// User id and primary group id by user name.
    pub users: BTreeMap<String, HostIds>,
    /// Group id by group name.
    pub groups: BTreeMap<String, u32>,
}

/// The state of `/etc/pve`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeState {
    /// pmxcfs is up and answers.
    Up(Cluster),
    /// It is not, or what it says cannot be believed; nothing may be done.
    Unknown(String),
}

/// What pmxcfs says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// This node's name.
    pub node: String,
    /// Whether writes to `/etc/pve` are possible.
    pub quorate: bool,
    /// The nodes of the cluster that are reached; empty where there is no cluster.
    pub online: BTreeSet<String>,
}

/// Where a container is.
#[derive(Debug, Clone)]
pub enum Presence {
    /// On this node: its conf was read and agrees with `.vmlist`.
    Here(Box<ObservedContainer>),
    /// On another node of the cluster.
    OnNode(String),
    /// The id belongs to a virtual machine.
    Vm,
    /// Nowhere in the cluster.
    Absent,
    /// It could not be told, for this reason.
    Unknown(String),
}

/// A container that is here.
#[derive(Debug, Clone)]
pub struct ObservedContainer {
    /// Its conf, as one read gave it.
    pub conf: Conf,
    /// Whether some process holds the flock on its conf.
    pub flock_held: bool,
    /// Whether it runs.
    pub running: Running,
}

/// Whether a container runs, and as what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Running {
    /// It does not.
    No,
    /// It does.
    Yes {
        /// The process id of its init on the host, where it could be found.
        init: Option<u32>,
        /// The map in force, from `/proc/<init>/uid_map` and `gid_map`, where it could be read.
        map: Option<IdMap>,
    },
}

/// What is at one path, looked at for an explanation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ObservedEntry {
    /// Something.
    Found(FoundEntry),
    /// Nothing; this is the first component that is not there.
    Missing {
        /// Its path.
        at: String,
    },
    /// A component on the way is a symbolic link.
    Link {
        /// Its path.
        at: String,
    },
    /// It could not be looked at.
    Unreadable(String),
}

/// An entry, and what else decides about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundEntry {
    /// What one look at it says.
    pub stat: EntryStat,
    /// Its access ACL; without entries where there is none.
    pub acl: Acl<u32>,
    /// The default ACL of a directory; without entries where there is none.
    pub default_acl: Acl<u32>,
    /// The mount between it and the directory it was looked for below, where there is one.
    pub below_mount: Option<String>,
}
