//! Whether the source of a volume, its host path, can be used at all: what is there, on which file
//! system, and whether that is the one that is meant.
//!
//! A disk that is not mounted leaves an empty directory or none behind, and looks like work to be
//! done. Nothing is done then, neither to that directory nor in its place.

use crate::desired::{RequireMount, Volume};
use crate::ledger::Memory;
use crate::observed::{FileSystem, ObservedVolume, Snapshot, SourceState};
use crate::plan::hold::{Hold, Missing};

/// Returns why what was found in place of a directory cannot be used.
pub(super) fn unusable(volume: &Volume, source: &SourceState) -> Hold {
    let path = volume.host_path.clone();
    match source {
        SourceState::Symlink { link, resolved } => Hold::PathUnsafe {
            why: match resolved {
                Some(real) => format!(
                    "{link} is a symbolic link, and Proxmox refuses to start a container with it; write {real}"
                ),
                None => format!(
                    "{link} is a symbolic link, and Proxmox refuses to start a container with it; write the real path"
                ),
            },
        },
        SourceState::WritableByAll { ancestor } => Hold::PathUnsafe {
            why: format!(
                "{ancestor} is writable by everybody, so anybody could swap {path}; take that right away with `chmod o-w {ancestor}`"
            ),
        },
        SourceState::Unreadable(why) => Hold::SourceUnreadable { path, why: why.clone() },
        SourceState::NotDirectory
        | SourceState::Directory(_)
        | SourceState::Missing { .. }
        | SourceState::OfOtherNodes => Hold::SourceNotDirectory { path },
    }
}

/// Returns why nothing may be done on the file system that was found there, if so: it is not the one
/// that is meant.
pub(super) fn unfit(snapshot: &Snapshot, volume: &Volume, on: &FileSystem) -> Option<Hold> {
    let wanted = match &volume.require_mount {
        RequireMount::No => None,
        RequireMount::NotRoot => {
            on.is_root.then(|| "`require_mount` wants it off the root file system".to_owned())
        }
        RequireMount::At(path) => (on.required_mounted != Some(true))
            .then(|| format!("`require_mount` wants {path} to be a mount point")),
    };
    if let Some(wanted) = wanted {
        let path = volume.host_path.clone();
        return Some(Hold::SourceNotMounted { path, on: on.mount_point.clone(), wanted });
    }
    let before = snapshot.ledger.volumes.get(&volume.name)?;
    let moved = before.file_system != on.id && !snapshot.requests.confirmed.contains(&volume.name);
    moved.then(|| Hold::SourceChanged {
        volume: volume.name.clone(),
        path: volume.host_path.clone(),
        was: before.file_system.clone(),
        is: on.id.clone(),
    })
}

/// Returns why a missing directory is not made while nobody remembers on which file system it was:
/// it may be there once a disk is mounted.
pub(super) fn forgotten(snapshot: &Snapshot, volume: &Volume) -> Option<Hold> {
    let Memory::Lost(why) = &snapshot.memory else { return None };
    let is_known = snapshot.ledger.volumes.contains_key(&volume.name)
        || snapshot.requests.confirmed.contains(&volume.name);
    (!is_known).then(|| Hold::LedgerLost {
        missing: Missing::Directory { volume: volume.name.clone(), path: volume.host_path.clone() },
        why: why.clone(),
    })
}

/// Returns why a volume cannot have the default ACL that is declared for it, if so. Nothing else is
/// done to it then: without that its modes say something else than was meant.
pub(super) fn without_acl(volume: &Volume, observed: &ObservedVolume) -> Vec<Hold> {
    let (Some(why), Some(on)) = (&observed.no_acl, observed.source.file_system()) else {
        return Vec::new();
    };
    let (path, why) = (volume.host_path.clone(), why.clone());
    let (kind, mount_point) = (on.kind.clone(), on.mount_point.clone());
    vec![Hold::AclUnsupported { path, kind, mount_point, why }]
}
