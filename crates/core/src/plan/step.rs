//! Steps: the only things pctd ever does to a node.
//!
//! A step is data. It says enough to be carried out, printed and compared, and nothing about how.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::conf::{RawEdit, RawLine};
use crate::ids::{Ctid, HostIds, MpKey, VolumeName};
use crate::ledger::Making;

/// One idempotent change of the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum Step {
    /// Make a container from a template.
    CreateContainer(CreateContainer),
    /// Make a container as a clone; what is its source's alone is taken from it in the same step.
    CloneContainer(CloneContainer),
    /// Set properties of a container, in one call.
    ConfigureContainer(ConfigureContainer),
    /// Edit raw lines of a conf, which `pct` cannot.
    EditConf(EditConf),
    /// Make the host directory of a volume, with what is missing above it.
    CreateDirectory {
        /// The directory.
        path: String,
    },
    /// Bring owners and modes of a volume to the declaration.
    SetOwnership(SetOwnership),
    /// Make a key and a self-signed certificate in a volume, or make them anew.
    CreateCertificate(CreateCertificate),
    /// Add or change a mount point of a container.
    SetMount(SetMount),
    /// Remove a mount point that pctd added and that is no longer declared.
    RemoveMount(RemoveMount),
    /// Restart a container gracefully, for changes of pctd's that wait in `[pve:pending]`.
    RebootContainer {
        /// The mounts that wait.
        keys: Vec<MpKey>,
        /// The raw lines that wait: those that came, and those that went.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        lines: Vec<RawLine>,
        /// What else would take effect with them, changed by others.
        others: Vec<String>,
    },
    /// Start a container that did not come back from a restart pctd made.
    StartContainer {},
    /// Go through one phase of a conversion between privileged and unprivileged.
    ConvertContainer(ConvertContainer),
}

/// A container to be made from a template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct CreateContainer {
    /// The archive: a path on the host or a volume of a storage.
    pub template: String,
    /// Whether it gets an id map; fixed from then on.
    pub unprivileged: bool,
    /// The root disk, `STORAGE:SIZE` or a size on the default storage, in GiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rootfs: Option<String>,
    /// The storage of the root disk where no size is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage: Option<String>,
    /// Its properties in Proxmox's words.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub set: BTreeMap<String, String>,
}

/// A container to be made as a clone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct CloneContainer {
    /// The container that is cloned.
    pub from: Ctid,
    /// The snapshot of it that is cloned; absent: as it is now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    /// The host name of the clone; absent: its source's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// The storage of its disks where it is not that of the source; makes a full clone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage: Option<String>,
}

/// Properties of a container to be set.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ConfigureContainer {
    /// New values in Proxmox's words, by property.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub set: BTreeMap<String, String>,
    /// Properties that go: what a clone has from its source and must not have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub delete: Vec<String>,
    /// How the container was made, where this finishes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finishes: Option<Making>,
}

/// Raw lines of a conf that go and come. A running container has them from its next start on.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
pub struct EditConf {
    /// The lines that go.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remove: Vec<RawLine>,
    /// The lines that come.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub add: Vec<RawLine>,
    /// Whether a running container has to be restarted for it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub after_restart: bool,
    /// In words, which ids inside are which on disk, where a mount among them declares that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ids: Option<String>,
    /// Whether the volume of a mount among them has to be made or owned first.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub after_volume: bool,
    /// How the container was made, where this is part of finishing it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finishes: Option<Making>,
}

impl EditConf {
    /// Returns the edit of the text.
    pub fn edit(&self) -> RawEdit {
        RawEdit { remove: self.remove.clone(), add: self.add.clone() }
    }
}

/// A phase of the conversion of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ConvertContainer {
    /// The phase.
    pub phase: ConvertPhase,
    /// What the container is to be after all of them.
    pub unprivileged: bool,
    /// The storage that the backup is put on, where one is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<String>,
    /// The backup it is restored from, where that is there already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<String>,
    /// The storage its disks are on, and are put on again, where it is restored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disks: Option<String>,
    /// Whether a volume that it mounts has to be owned first.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub after_volume: bool,
}

/// The phases of a conversion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ConvertPhase {
    /// Stop it, gracefully.
    Stop,
    /// Back it up, check the backup, and restore it with the other privilege. One step, because a
    /// backup is worth nothing once somebody may have started the container after it.
    Replace,
    /// Restore it, after a restore that was cut off and left nothing else of it.
    Restore,
    /// Restore it as it was, after a restore that failed and left nothing else of it.
    RollBack,
    /// Start it, because it ran before.
    Start,
}

/// Owners and modes to be set in a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct SetOwnership {
    /// The volume's directory.
    pub path: String,
    /// The owner to be set; absent: owners are left alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<HostIds>,
    /// The group that every entry is to have and directories hand on, where one is declared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<u32>,
    /// The default ACL of directories, with ids of the host, where one is declared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_acl: Option<String>,
    /// Entries that were looked at.
    pub entries: u64,
    /// Entries that are not as declared.
    pub changes: u64,
    /// Of those, entries with another owner.
    pub owners: u64,
    /// Of those, entries with another mode.
    pub modes: u64,
    /// Of those, directories with another default ACL.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub default_acls: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "what serde calls")]
const fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// A key and a self-signed certificate to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct CreateCertificate {
    /// The directory they are put in, as `DOMAIN.key` and `DOMAIN.crt`.
    pub path: String,
    /// The host name they are for.
    pub domain: String,
    /// Further names and addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alt_names: Vec<String>,
    /// For how many days.
    pub days: u32,
    /// Whether they take the place of a pair that pctd made before.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub renew: bool,
}

/// A mount point to be added or changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct SetMount {
    /// The key it gets or has.
    pub key: MpKey,
    /// The value in Proxmox's normal form.
    pub value: String,
    /// The value it replaces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub was: Option<String>,
    /// The volume that asks for it.
    pub volume: VolumeName,
    /// In words, which ids inside are which on disk, where that is declared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ids: Option<String>,
    /// When a running container sees it.
    pub effective: Effective,
    /// Whether the volume has to be made or owned first.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub after_volume: bool,
}

/// A mount point to be removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct RemoveMount {
    /// Its key.
    pub key: MpKey,
    /// The value that stands there, exactly as pctd wrote it.
    pub value: String,
    /// Whether it only waits in `[pve:pending]` and is taken back (`--revert`). Proxmox does not
    /// delete a key that has a pending value, so this comes first; what is in force goes after it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pending: bool,
    /// When a running container loses it.
    pub effective: Effective,
}

/// When a changed mount takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Effective {
    /// At once: a new mount is plugged into a running container.
    Now,
    /// When the container starts the next time.
    NextStart,
    /// Once the container restarts: Proxmox keeps a changed mount pending while it runs.
    AfterRestart,
}

impl Step {
    /// Returns whether it is not to be taken before a step of a volume: what is mounted must have
    /// its owner.
    pub fn waits_for_volume(&self) -> bool {
        match self {
            Self::SetMount(set) => set.after_volume,
            Self::ConvertContainer(convert) => convert.after_volume,
            Self::EditConf(edit) => edit.after_volume,
            _ => false,
        }
    }

    /// The names of all steps.
    pub const NAMES: &[&str] = &[
        "create_container",
        "clone_container",
        "configure_container",
        "edit_conf",
        "create_directory",
        "set_ownership",
        "create_certificate",
        "set_mount",
        "remove_mount",
        "reboot_container",
        "start_container",
        "convert_container",
    ];

    /// Returns the step's name as in logs and JSON.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::CreateContainer(_) => "create_container",
            Self::CloneContainer(_) => "clone_container",
            Self::ConfigureContainer(_) => "configure_container",
            Self::EditConf(_) => "edit_conf",
            Self::CreateDirectory { .. } => "create_directory",
            Self::SetOwnership(_) => "set_ownership",
            Self::CreateCertificate(_) => "create_certificate",
            Self::SetMount(_) => "set_mount",
            Self::RemoveMount(_) => "remove_mount",
            Self::RebootContainer { .. } => "reboot_container",
            Self::StartContainer {} => "start_container",
            Self::ConvertContainer(_) => "convert_container",
        }
    }
}
