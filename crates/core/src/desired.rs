//! What the admin wants: the validated configuration, and nothing that could still be wrong.
//!
//! Built by [`crate::config`]; a value of these types has passed every check that needs no node.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::num::NonZeroUsize;
use std::time::Duration;

use crate::acl::Acl;
use crate::ids::{Ctid, Key, VolumeName};
use crate::modes::{FilePattern, ModeRule};

pub mod definition;
pub mod disk_ids;

pub use definition::{ContainerDef, Convert, Definition, Field, Interface, Source};
pub use disk_ids::{DiskIds, MountIds};

/// The whole of what is wanted on this node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Desired {
    /// How pctd works.
    pub settings: Settings,
    /// The shared host directories.
    pub volumes: BTreeMap<VolumeName, Volume>,
    /// The containers of `lxc_configs`.
    pub containers: BTreeMap<Ctid, ContainerDef>,
}

impl Desired {
    /// Returns what of this is wanted on one node of a cluster: without the volumes of other nodes.
    #[must_use]
    pub fn on_node(&self, node: &str) -> Cow<'_, Self> {
        if self.volumes.values().all(|volume| volume.is_on(node)) {
            return Cow::Borrowed(self);
        }
        let mut own = self.clone();
        own.volumes.retain(|_, volume| volume.is_on(node));
        Cow::Owned(own)
    }

    /// Returns the volumes that `ctid` mounts, each with how.
    pub fn mounts_of(&self, ctid: Ctid) -> impl Iterator<Item = (&Volume, &Mount)> {
        self.volumes.values().filter_map(move |v| v.mounts.get(&ctid).map(|mount| (v, mount)))
    }

    /// Returns the container that `ctid` is cloned from.
    pub fn source_of(&self, ctid: Ctid) -> Option<Ctid> {
        match self.containers.get(&ctid)?.source {
            Some(Source::Clone { from, .. }) => Some(from),
            Some(Source::Template(_)) | None => None,
        }
    }

    /// Returns the containers that are defined as clones of `from`.
    pub fn clones_of(&self, from: Ctid) -> impl Iterator<Item = Ctid> {
        let is_clone = move |def: &&ContainerDef| matches!(&def.source, Some(Source::Clone { from: source, .. }) if *source == from);
        self.containers.values().filter(is_clone).map(|def| def.ctid)
    }

    /// Returns every container that is defined or mounts something, lowest first, once each.
    pub fn ctids(&self) -> std::collections::BTreeSet<Ctid> {
        let mounting = self.volumes.values().flat_map(|volume| volume.mounts.keys());
        self.containers.keys().chain(mounting).copied().collect()
    }

    /// Returns everything of this that the plan of `key` rests on: as long as it is equal, so is what
    /// a run over `key` is to achieve.
    pub fn part_of(&self, key: &Key) -> Part<'_> {
        let volumes: BTreeMap<_, _> = match key {
            Key::Container(ctid) => self.mounts_of(*ctid).map(|(v, _)| (&v.name, v)).collect(),
            Key::Volume(name) => self.volumes.get_key_value(name).into_iter().collect(),
        };
        let (own, source) = match key {
            Key::Container(ctid) => (self.containers.get(ctid), self.source_of(*ctid)),
            Key::Volume(_) => (None, None),
        };
        let is_source_made = source
            .and_then(|from| self.containers.get(&from))
            .is_some_and(|def| def.source.is_some());
        // Whose a volume is follows from the maps of all that mount it, and those from this.
        let mounting = volumes.values().flat_map(|volume| volume.mounts.keys());
        let declared =
            |ctid: &Ctid| (*ctid, self.containers.get(ctid).and_then(|def| def.unprivileged));
        let unprivileged = mounting.map(declared).collect();
        Part { settings: self.settings.of_a_run(), volumes, own, is_source_made, unprivileged }
    }
}

/// What of a configuration concerns one key; see [`Desired::part_of`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part<'a> {
    settings: Settings,
    volumes: BTreeMap<&'a VolumeName, &'a Volume>,
    own: Option<&'a ContainerDef>,
    /// Whether what it is cloned from is to be made as well, and so worth waiting for.
    is_source_made: bool,
    /// What the containers that share the volumes are declared to be.
    unprivileged: BTreeMap<Ctid, Option<bool>>,
}

/// Whether steps are taken or only reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Take the steps.
    Enforce,
    /// Plan and report, change nothing.
    Observe,
}

/// Where an id map may come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdmapSource {
    /// Proxmox's rule, the default map of unprivileged containers included.
    Effective,
    /// Only explicit `lxc.idmap` lines make a map ready.
    Explicit,
}

/// What a container-relative owner becomes when no map turns up in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdmapFallback {
    /// Keep waiting.
    Wait,
    /// `nobody:nogroup`, only for a volume that never was owned.
    Nobody,
}

/// When pctd restarts a container for its own pending changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// When a change of pctd's waits in `[pve:pending]`.
    IfPending,
    /// Never; the need is reported.
    Never,
}

/// `settings`, with the defaults of the specification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Enforce or only observe.
    pub mode: Mode,
    /// Whether a volume that does not say otherwise gets the seed's owner and modes.
    pub seed_defaults: bool,
    /// A pass that would change more entries of a volume than this waits for a confirmation.
    pub confirm_above: u64,
    /// How often everything is observed anew.
    pub resync_interval: Duration,
    /// How often every volume is walked in full.
    pub verify_interval: Duration,
    /// How often `.vmlist` is read, for changes that raise no event.
    pub poll_interval: Duration,
    /// The first delay after a failure.
    pub retry_initial: Duration,
    /// The longest delay after failures.
    pub retry_max: Duration,
    /// How often a hold is looked at again.
    pub hold_interval: Duration,
    /// Where id maps may come from.
    pub idmap_source: IdmapSource,
    /// How long a volume waits for the maps of all its containers.
    pub idmap_timeout: Duration,
    /// What happens after that.
    pub idmap_fallback: IdmapFallback,
    /// Whether containers are rebooted for pending changes of pctd's.
    pub restart: Restart,
    /// How long a guest may take to shut down before Proxmox kills it; at least a second.
    pub restart_timeout: Duration,
    /// The least time between two reboots of one container.
    pub restart_limit: Duration,
    /// Whether absent containers with a definition are made.
    pub create_containers: bool,
    /// Whether mounts that pctd added and that are no longer wanted are removed.
    pub prune: bool,
    /// How much of one core it may take to put the drift of one volume right as it happens, in
    /// percent; 0: drift is found by walks only.
    pub watch_cpu: u32,
    /// How much room the records of what pctd changed in one volume may take, in MiB; 0: nothing is
    /// recorded, and nothing can be taken back.
    pub undo_mb: u64,
    /// How many keys are reconciled at once.
    pub max_concurrent: usize,
    /// How many threads walk a volume; none: as many as it can use.
    pub walk_threads: Option<NonZeroUsize>,
    /// The fields of definitions that are kept as declared; of others drift is only shown.
    pub manage: BTreeSet<Field>,
    /// How long a `pct` call may take; reboots, creations and clones have times of their own.
    pub pct_timeout: Duration,
    /// How long the creation or the cloning of a container may take.
    pub create_timeout: Duration,
    /// This node's name, if not what `/etc/pve/local` says.
    pub node: Option<String>,
    /// The group, by name or number, that may ask the daemon for the status; none: only root.
    pub status_group: Option<String>,
    /// The file that metrics are written to; none: there are no metrics.
    pub metrics_file: Option<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            mode: Mode::Enforce,
            seed_defaults: true,
            confirm_above: 10_000,
            resync_interval: Duration::from_mins(10),
            verify_interval: Duration::from_hours(6),
            poll_interval: Duration::from_secs(2),
            retry_initial: Duration::from_millis(500),
            retry_max: Duration::from_mins(2),
            hold_interval: Duration::from_secs(15),
            idmap_source: IdmapSource::Effective,
            idmap_timeout: Duration::from_mins(2),
            idmap_fallback: IdmapFallback::Wait,
            restart: Restart::IfPending,
            restart_timeout: Duration::from_mins(1),
            restart_limit: Duration::from_mins(10),
            create_containers: true,
            prune: false,
            watch_cpu: 25,
            undo_mb: 512,
            max_concurrent: 4,
            walk_threads: None,
            manage: BTreeSet::new(),
            pct_timeout: Duration::from_mins(10),
            create_timeout: Duration::from_hours(6),
            node: None,
            status_group: None,
            metrics_file: None,
        }
    }
}

impl Settings {
    /// Returns these settings without those that only say when a key is looked at, beside how
    /// many others, and who is told. A setting that is not named here counts for every run.
    #[must_use]
    pub fn of_a_run(&self) -> Self {
        let Self {
            seed_defaults,
            resync_interval,
            verify_interval,
            poll_interval,
            retry_initial,
            retry_max,
            hold_interval,
            max_concurrent,
            status_group,
            metrics_file,
            ..
        } = Self::default();
        Self {
            // What it stands for has been entered into the volumes.
            seed_defaults,
            resync_interval,
            verify_interval,
            poll_interval,
            retry_initial,
            retry_max,
            hold_interval,
            max_concurrent,
            status_group,
            metrics_file,
            ..self.clone()
        }
    }
}

/// Whose a volume is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// Left alone.
    Keep,
    /// These ids inside the containers, through their maps; `container_root` is 0:0.
    Container {
        /// The user id inside.
        uid: u32,
        /// The group id inside.
        gid: u32,
    },
    /// A user and group of the host, by name or number.
    Host {
        /// A user name or number.
        user: String,
        /// A group name or number; absent: the group of the user's name, else the user's primary group.
        group: Option<String>,
    },
}

impl Owner {
    /// The owner that `container_root` stands for.
    pub const CONTAINER_ROOT: Self = Self::Container { uid: 0, gid: 0 };
}

/// The one group of a volume's entries, whoever owns them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Group {
    /// This id inside the containers, through their maps.
    Container(u32),
    /// A group of the host, by name or number.
    Host(String),
}

impl fmt::Display for Group {
    /// Writes it as it is declared.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Container(gid) => write!(f, "container:{gid}"),
            Self::Host(group) => f.write_str(group),
        }
    }
}

/// Which entries below the root directory are touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enforce {
    /// Only those that no mounting container can own.
    Adopt,
    /// Every entry when the declaration or the map changes, then as `adopt`.
    Once,
    /// Every entry, always.
    Always,
}

/// What must be mounted at or above a volume before anything is done to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequireMount {
    /// Nothing.
    No,
    /// Any file system but the root one.
    NotRoot,
    /// This path must be a mount point.
    At(String),
}

/// A host directory and what it is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Its name in `shared_volumes`.
    pub name: VolumeName,
    /// The directory: absolute, normalised, ASCII.
    pub host_path: String,
    /// Whose it is.
    pub owner: Owner,
    /// The group of every entry, handed on by directories; none: that of the owner.
    pub group: Option<Group>,
    /// The default ACL of directories; none: left alone.
    pub default_acl: Option<Acl<String>>,
    /// The container whose map alone decides a container-relative owner or group.
    pub owner_ctid: Option<Ctid>,
    /// How ids inside the containers stand on the disk; none: as each container's own map has them.
    pub disk_ids: Option<DiskIds>,
    /// The mode of directories.
    pub dir_mode: ModeRule,
    /// The mode of regular files.
    pub file_mode: ModeRule,
    /// Modes by file name; the longest pattern that matches wins. Sorted longest first.
    pub file_modes: Vec<(FilePattern, ModeRule)>,
    /// Which entries are touched.
    pub enforce: Enforce,
    /// Whether anything below the root directory is looked at.
    pub recurse: bool,
    /// Whether a missing directory is made.
    pub create: bool,
    /// What must be mounted first.
    pub require_mount: RequireMount,
    /// The nodes it exists on; none named: every node.
    pub nodes: BTreeSet<String>,
    /// Whether it is one directory for all of them; absent: its file system tells.
    pub shared: Option<bool>,
    /// Where it is mounted, by container.
    pub mounts: BTreeMap<Ctid, Mount>,
    /// The certificates kept in it, in the order given.
    pub certificates: Vec<Certificate>,
}

impl Volume {
    /// Returns whether the volume exists on this node.
    pub fn is_on(&self, node: &str) -> bool {
        self.nodes.is_empty() || self.nodes.contains(node)
    }

    /// Returns whether what lies on a file system of this type is one directory for all nodes.
    ///
    /// What is not said is told by the type. To take a directory of one node for shared costs a word in
    /// the configuration; to take a shared one for a node's own would let two nodes undo each other.
    pub fn is_shared(&self, file_system: &str) -> bool {
        self.shared.unwrap_or_else(|| SHARED_KINDS.contains(&file_system))
    }

    /// Returns whether its owner or its group is an id inside the containers.
    pub const fn is_relative(&self) -> bool {
        matches!(self.owner, Owner::Container { .. })
            || matches!(self.group, Some(Group::Container(_)))
    }

    /// Returns whether ids of any of its mounts may have to be mapped.
    pub fn maps_ids(&self) -> bool {
        self.disk_ids.is_some() || self.mounts.values().any(|mount| mount.idmap.is_some())
    }
}

/// The types of file systems that are there for sharing between machines, as mountinfo has them.
const SHARED_KINDS: [&str; 13] = [
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "ceph",
    "fuse.ceph",
    "fuse.ceph-fuse",
    "fuse.glusterfs",
    "beegfs",
    "gfs2",
    "gpfs",
    "lustre",
    "ocfs2",
];

/// A self-signed key and certificate kept in a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The host name it is for; a DNS name, safe as a file name.
    pub domain: String,
    /// Further names and addresses it is for, in the order of the alphabet, without `domain`.
    pub alt_names: Vec<String>,
    /// For how many days it is made.
    pub days: u32,
    /// How long before it expires it is made anew.
    pub renew_before: Duration,
}

impl Certificate {
    /// The default for [`Self::days`]: what browsers accept at most of a public one is 398, and an
    /// own one has no reason to be harder to get rid of.
    pub const DAYS: u32 = 365;
    /// The default for [`Self::renew_before`].
    pub const RENEW_BEFORE: Duration = Duration::from_hours(30 * 24);

    /// Returns everything it is for, `domain` first.
    pub fn names(&self) -> Vec<String> {
        std::iter::once(&self.domain).chain(&self.alt_names).cloned().collect()
    }

    /// Returns the name of the key file.
    pub fn key_file(&self) -> String {
        format!("{}.key", self.domain)
    }

    /// Returns the name of the certificate file.
    pub fn certificate_file(&self) -> String {
        format!("{}.crt", self.domain)
    }
}

/// How a volume is mounted in one container. Only options that are given are managed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// The target inside the container: absolute, normalised.
    pub target: String,
    /// The managed options of the mount point in Proxmox's words (`ro`, `shared`, `backup`,
    /// `mountoptions`, ...), values in normal form; no other option is touched.
    pub options: BTreeMap<String, String>,
    /// How its ids stand on the disk, where the volume does not decide that.
    pub idmap: Option<MountIds>,
    /// Whether a mount of another source found at the target is taken over.
    pub adopt: bool,
    /// Who makes it.
    pub mechanism: Mechanism,
}

/// Who makes a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mechanism {
    /// Proxmox, as a mount point that `pct` writes.
    #[default]
    Pct,
    /// LXC, when the container starts, by a raw line of its conf.
    Lxc {
        /// Whether what is mounted below the directory is mounted, too.
        recursive: bool,
    },
}
