//! Which node of a cluster sets owners and modes of a directory that all of them see.
//!
//! Every node reads the same list of containers and the same confs, so each decides for itself and all
//! decide alike, without a word between them: the node that has the container with the lowest id among
//! those that mount the volume; the first node by name where there is no such container. Where that
//! node is down nobody acts, as long as its containers stay with it; without a quorum what is read may
//! be old, and nobody acts either.

use crate::desired::Volume;
use crate::ids::Ctid;
use crate::observed::{Cluster, Presence, Snapshot};
use crate::ownership::{EntryStat, OwnershipRule, Place};

/// Who sets the owners and modes of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Actor<'s> {
    /// This node.
    ThisNode,
    /// Another one, because of this container.
    Other {
        /// The lowest container that mounts the volume.
        ctid: Ctid,
        /// Where it is.
        node: &'s str,
    },
    /// Another one, though none of its containers is anywhere.
    Lower,
    /// Nobody can tell, because it is not known where this container is.
    Unknown(Ctid),
}

/// Returns whether the directory that was found is one for all nodes.
pub(crate) fn is_shared(snapshot: &Snapshot, volume: &Volume) -> bool {
    let found = snapshot.volumes.get(&volume.name).and_then(|found| found.source.file_system());
    volume.is_shared(found.map_or("", |file_system| &file_system.kind))
}

/// Returns who acts on a volume that all nodes see.
pub(crate) fn actor<'s>(snapshot: &'s Snapshot, cluster: &Cluster, volume: &Volume) -> Actor<'s> {
    for ctid in volume.mounts.keys() {
        match snapshot.containers.get(ctid) {
            Some(Presence::Here(_)) => return Actor::ThisNode,
            // Where the volume does not exist nothing is done for it.
            Some(Presence::OnNode(node)) if volume.is_on(node) => {
                return Actor::Other { ctid: *ctid, node };
            }
            Some(Presence::Unknown(_)) | None => return Actor::Unknown(*ctid),
            Some(Presence::OnNode(_) | Presence::Vm | Presence::Absent) => {}
        }
    }
    // No container decides: one of the nodes that are there, or two would each put right what the
    // other did where an account has another number on each.
    match cluster.online.iter().find(|node| volume.is_on(node)) {
        Some(lowest) if *lowest != cluster.node => Actor::Lower,
        Some(_) | None => Actor::ThisNode,
    }
}

/// Returns whether another node may have set every entry of a volume: the root directory, which comes
/// last, is as it is to be.
pub(crate) fn may_be_done(
    snapshot: &Snapshot,
    volume: &Volume,
    rule: &OwnershipRule,
    root: Option<&EntryStat>,
) -> bool {
    let is_right = |root: &EntryStat| rule.decide(Place::Root, root).is_none();
    snapshot.making.clustered && is_shared(snapshot, volume) && root.is_some_and(is_right)
}
