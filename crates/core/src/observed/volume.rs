//! What is there of one volume: its host path and the file system below it, what a walk found, how its
//! drift is noticed, and the certificates in it.

use std::collections::BTreeMap;
use std::time::Duration;

use super::MappingSupport;
use crate::ids::HostIds;

/// A volume's directory and what a walk found below it.
#[derive(Debug, Clone)]
pub struct ObservedVolume {
    /// The root directory.
    pub source: SourceState,
    /// What a read-only walk found, when one was made for this snapshot.
    pub audit: Option<Audit>,
    /// How drift below the root directory is noticed.
    pub watch: Watch,
    /// What is known of it from before.
    pub assurance: Assurance,
    /// The certificates in it.
    pub certificates: ObservedCertificates,
    /// Whether its file system can be mounted with mapped ids.
    pub mapping: MappingSupport,
    /// Whether it can with everything that is mounted below; asked where a mount includes that.
    pub mapping_whole: MappingSupport,
    /// The first mount below it, if there is any; looked for where LXC mounts it.
    pub nested: Option<String>,
    /// What its file system says where a default ACL is declared and it keeps none.
    pub no_acl: Option<String>,
}

impl ObservedVolume {
    /// Returns a volume of which no more is known than this.
    pub fn new(source: SourceState) -> Self {
        let watch = Watch::Walks("nobody watches it".to_owned());
        let (assurance, certificates) = (Assurance::Ledger, ObservedCertificates::default());
        Self {
            source,
            audit: None,
            watch,
            assurance,
            certificates,
            mapping: MappingSupport::NotAsked,
            mapping_whole: MappingSupport::NotAsked,
            nested: None,
            no_acl: None,
        }
    }
}

/// The host path of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceState {
    /// A directory that was reached without a symbolic link.
    Directory(SourceDir),
    /// Nothing there.
    Missing {
        /// The file system of the nearest directory that exists.
        file_system: FileSystem,
    },
    /// Something that is no directory.
    NotDirectory,
    /// A component is a symbolic link.
    Symlink {
        /// The path of the link.
        link: String,
        /// Where the whole path leads once links are resolved, when that could be told.
        resolved: Option<String>,
    },
    /// A directory above is writable by everybody and not sticky, so anybody could swap the source.
    WritableByAll {
        /// That directory.
        ancestor: String,
    },
    /// It could not be looked at.
    Unreadable(String),
    /// It was not looked at, because the volume does not exist on this node.
    OfOtherNodes,
}

impl SourceState {
    /// Returns the file system it is on, or would be made on, where that is known.
    pub const fn file_system(&self) -> Option<&FileSystem> {
        match self {
            Self::Directory(SourceDir { file_system, .. }) | Self::Missing { file_system } => {
                Some(file_system)
            }
            _ => None,
        }
    }
}

/// The root directory of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceDir {
    /// Whose it is.
    pub ids: HostIds,
    /// Its mode bits.
    pub mode: u32,
    /// Whether any user of the host may get here and run a program with its setuid bit.
    pub exposed: bool,
    /// What it lies on.
    pub file_system: FileSystem,
}

/// The file system a directory lies on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSystem {
    /// A name for it that survives a reboot: type and file system id where that is stable, else type and mount point.
    pub id: String,
    /// Its type, as in mountinfo.
    pub kind: String,
    /// Where it is mounted.
    pub mount_point: String,
    /// Whether it is the node's root file system.
    pub is_root: bool,
    /// Whether the path that `require_mount` names is a mount point, when it names one.
    pub required_mounted: Option<bool>,
}

/// What a read-only walk of a volume found.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, schemars::JsonSchema)]
pub struct Audit {
    /// Entries there are, the root directory included.
    pub entries: u64,
    /// Of those, entries that an earlier walk had looked at which was interrupted, in directories
    /// that have not changed since. Of these the other counts say what that walk found.
    pub believed: u64,
    /// Entries that are not as declared.
    pub changes: u64,
    /// Of those, entries that were changed after the watch of the volume was armed: drift, which
    /// says nothing against the path. 0 where nothing was watched.
    pub fresh: u64,
    /// Of those that differ, entries whose owner differs.
    pub owners: u64,
    /// Of those that differ, entries whose mode differs.
    pub modes: u64,
    /// Of those that differ, directories whose default ACL differs.
    pub default_acls: u64,
    /// Entries whose mode is left alone because they carry an access ACL.
    pub acls: u64,
    /// Entries that differ and have more than one name.
    pub hard_links: u64,
    /// Entries whose setuid, setgid bits or file capabilities the chown clears.
    pub privileges: u64,
    /// Mount points below, which are not entered, relative to the volume (lossy text, for display).
    pub nested_mounts: Vec<String>,
    /// How many entries could not be looked at.
    pub errors: u64,
    /// The first few of those errors.
    pub first_errors: Vec<String>,
}

/// How drift below a volume's root directory is noticed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Watch {
    /// By walks only, for this reason.
    Walks(String),
    /// By events, as it happens.
    Events(Drift),
}

/// What the watch of a volume has done since it was armed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Drift {
    /// Changes by others that were looked at.
    pub events: u64,
    /// Entries that were put right.
    pub repaired: u64,
    /// Of those, about how many in the last minute.
    pub per_minute: u64,
    /// Entries that wait to be looked at.
    pub waiting: u64,
    /// Processor time the repairs took.
    pub cpu: Duration,
    /// What only a walk can settle, where there is such a thing.
    pub doubt: Option<String>,
}

/// What the belief rests on that the entries of a volume are in place, while none are looked at.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    serde::Serialize,
    serde::Deserialize,
    schemars::JsonSchema,
)]
pub enum Assurance {
    /// The ledger: an earlier process walked it to the end.
    Ledger,
    /// Besides, the directories were compared since the start: no entry was made, moved or removed
    /// while nobody watched, or it was looked at. Changes of owners and modes leave no such trace.
    Directories,
    /// This process walked it to the end.
    Walk,
}

/// The files of the certificates that are declared for a volume.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ObservedCertificates {
    /// When they were looked at, in seconds since 1970.
    pub at: u64,
    /// Key and certificate by domain; one that is not here was not looked at.
    pub pairs: BTreeMap<String, ObservedPair>,
}

/// A key and its certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedPair {
    /// `DOMAIN.key`.
    pub key: PairFile,
    /// `DOMAIN.crt`.
    pub certificate: PairFile,
}

/// One of the two files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PairFile {
    /// Nothing has its name.
    Missing,
    /// A regular file.
    File {
        /// The SHA-256 of what it holds, in hexadecimal digits.
        fingerprint: String,
    },
    /// Something else, or something that could not be read, for this reason.
    Unusable(String),
}
