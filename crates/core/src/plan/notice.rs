//! Notices: what an admin should know though there is nothing to do or to wait for.

/// A fact worth reporting that holds nothing up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Notice {
    /// Proxmox binds are not recursive.
    #[error("{} is mounted below and not visible in the containers: Proxmox binds are not recursive", .below.join(", "))]
    NestedMountInvisible {
        /// The mount points, relative to the volume.
        below: Vec<String>,
    },
    /// Entries with an access ACL keep their mode.
    #[error("{entries} entries carry an access ACL and keep their mode")]
    AclKeepsMode {
        /// How many.
        entries: u64,
    },
    /// Entries to be changed have other names.
    #[error("{entries} entries that differ have more than one name; all names change")]
    HardLinks {
        /// How many.
        entries: u64,
    },
    /// A volume with `enforce: once` after the ledger was lost.
    #[error(
        "the ledger was lost, so only entries that no container can own are set, as with \"adopt\": every entry may have been set before; `pctd apply {volume}` sets them all"
    )]
    LedgerLost {
        /// The volume.
        volume: crate::ids::VolumeName,
    },
    /// A volume with `enforce: once` on shared storage that this node has not had before.
    #[error(
        "another node may have set every entry before, so only entries that no container can own are set, as with \"adopt\"; `pctd apply {volume}` sets them all"
    )]
    DoneElsewhere {
        /// The volume.
        volume: crate::ids::VolumeName,
    },
    /// Another node sets the owners and modes of a volume that all nodes see.
    #[error("{}", acting(node, *.ctid, *.offline))]
    OtherNodeActs {
        /// The lowest container that mounts the volume.
        ctid: crate::ids::Ctid,
        /// The node it is on.
        node: String,
        /// Whether that node is known to be down.
        offline: bool,
    },
    /// The volume does not exist on this node.
    #[error("it exists on {} only", .nodes.iter().map(String::as_str).collect::<Vec<_>>().join(", "))]
    OfOtherNodes {
        /// The nodes it exists on.
        nodes: std::collections::BTreeSet<String>,
    },
    /// Files of the host's root can come about in a volume that every user of the host can enter.
    #[error(
        "root inside {} can leave programs in {path} that run as the host's root, and every user of the host can get there; close a directory above it (`chmod o-x`), or mount its file system with nosuid", list(.containers)
    )]
    RootExposed {
        /// The host path.
        path: String,
        /// The containers.
        containers: Vec<crate::ids::Ctid>,
    },
    /// Nobody in a container can be in the group of a volume.
    #[error(
        "group {gid} of the host has no id inside {}: nobody there can be in it, so services there write to what is their own and to nothing that others made; give it an id that they have, such as 110000, which is 10000 inside by Proxmox's default map", list(.containers)
    )]
    GroupOutside {
        /// The group id on the host.
        gid: u32,
        /// The containers.
        containers: Vec<crate::ids::Ctid>,
    },
    /// A running container uses another map than its conf holds.
    #[error(
        "the id map in the conf is not the one in force; it takes effect when the container restarts"
    )]
    IdmapPendingRestart,
    /// A property that pctd keeps as declared waits for a restart.
    #[error("{} take effect when the container restarts", .names.join(", "))]
    PropertyPendingRestart {
        /// The properties.
        names: Vec<String>,
    },
    /// A mount of the conf copies owner and mode of a directory inside onto the host directory.
    #[error(
        "{key} has keepattrs=1: at every start the container's root decides owner and mode of the host directory"
    )]
    KeepAttrs {
        /// The key.
        key: crate::ids::MpKey,
    },
    /// Key and certificate are there, and somebody else's.
    #[error(
        "{domain}.key and {domain}.crt are not pctd's, so they are neither checked nor renewed"
    )]
    CertificateForeign {
        /// The domain.
        domain: String,
    },
    /// A raw line that pctd added is no longer declared, and is not removed.
    #[error("`{line}` was added by pctd and is no longer declared; {why}")]
    PrunableLine {
        /// The line.
        line: crate::conf::RawLine,
        /// Why it stays.
        why: WhyKept,
    },
    /// The backup a container was converted from is still pctd's to mention.
    #[error(
        "it was converted from the backup {archive}, which pctd does not remove; it is protected: the web interface lifts that, and taking `convert` out of the definition ends this notice"
    )]
    ConvertBackup {
        /// The archive, as a path of the node.
        archive: String,
    },
    /// Another backup that was made to convert a container, and of which nobody else tells.
    #[error(
        "the backup {archive} that was made to convert it is left over, of a conversion that was cut off, failed or began anew, or of an earlier one; pctd neither uses nor removes it; it is protected: the web interface lifts that, and taking `convert` out of the definition ends this notice"
    )]
    BackupLeft {
        /// The archive, as a path of the node.
        archive: String,
    },
    /// A mount that pctd added is no longer declared, and is not removed.
    #[error("{key} ({value}) was added by pctd and is no longer declared; {why}")]
    Prunable {
        /// The key.
        key: crate::ids::MpKey,
        /// What stands there.
        value: String,
        /// Why it stays.
        why: WhyKept,
    },
}

/// Why a mount that is no longer declared is not removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WhyKept {
    /// `prune` is off.
    #[error("`\"prune\": true` in the settings removes it")]
    Off,
    /// The ledger was lost once, so it is not sure what pctd added.
    #[error("the ledger was lost, so it is left to you: remove it by hand")]
    LedgerLost,
}

fn list(containers: &[crate::ids::Ctid]) -> String {
    containers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl Notice {
    /// Returns the stable name of the fact.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::NestedMountInvisible { .. } => "NestedMountInvisible",
            Self::AclKeepsMode { .. } => "AclKeepsMode",
            Self::HardLinks { .. } => "HardLinks",
            Self::LedgerLost { .. } => "LedgerLost",
            Self::DoneElsewhere { .. } => "DoneElsewhere",
            Self::OtherNodeActs { .. } => "OtherNodeActs",
            Self::OfOtherNodes { .. } => "OfOtherNodes",
            Self::RootExposed { .. } => "RootExposed",
            Self::GroupOutside { .. } => "GroupOutside",
            Self::IdmapPendingRestart => "IdmapPendingRestart",
            Self::PropertyPendingRestart { .. } => "PropertyPendingRestart",
            Self::KeepAttrs { .. } => "KeepAttrs",
            Self::CertificateForeign { .. } => "CertificateForeign",
            Self::ConvertBackup { .. } => "ConvertBackup",
            Self::BackupLeft { .. } => "BackupLeft",
            Self::Prunable { .. } => "Prunable",
            Self::PrunableLine { .. } => "PrunableLine",
        }
    }
}

/// Returns who looks after a volume on shared storage.
pub(super) fn acting(node: &str, ctid: crate::ids::Ctid, offline: bool) -> String {
    let who = format!("node {node} sets its owners and modes, because container {ctid} is there");
    if offline {
        format!("{who}; it is offline, and nobody does until it is back or {ctid} is moved")
    } else {
        who
    }
}
