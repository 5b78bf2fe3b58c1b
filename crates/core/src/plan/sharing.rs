//! Which node of a cluster sets owners and modes of a directory that all of them see.
//!
//! Every node reads the same list of containers and the same confs, so each decides for itself and all
//! decide alike, without a word between them: the node that has the container with the lowest id among
//! those that mount the volume; the first node by name where there is no such container. Where that node is down nobody acts, as long as its containers stay with
//! it; without a quorum what is read may be old, and nobody acts either.

use crate::desired::{Desired, Enforce, Volume};
use crate::ids::Ctid;
use crate::ledger::{LedgerEntry, VolumeRecord};
use crate::observed::{Cluster, ObservedVolume, Presence, Snapshot, SourceState};
use crate::ownership::{EntryKind, EntryStat, OwnershipRule, Place};
use crate::plan::hold::Hold;
use crate::plan::notice::Notice;
use crate::plan::owner::OwnerDecision;
use crate::plan::planned::{Basis, Readiness, VolumePlan};
use crate::plan::rule;
use crate::plan::source;

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

/// The other node that sets the owners and modes of a volume.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Acts<'s> {
    /// The container it does so for.
    pub(crate) ctid: Ctid,
    /// Its name.
    pub(crate) node: &'s str,
    /// Whether it is known to be down.
    pub(crate) offline: bool,
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

/// Plans a volume that another node looks after: nothing is done, and containers here may mount it once
/// its root directory shows that the other node has done its part.
pub(crate) fn plan_beside(
    desired: &Desired,
    snapshot: &Snapshot,
    volume: &Volume,
    observed: &ObservedVolume,
    decision: OwnerDecision,
    acts: Acts<'_>,
) -> VolumePlan {
    let Acts { ctid, offline, .. } = acts;
    let node = acts.node.to_owned();
    // One that is down may not come back soon; services here need not wait for it.
    let readiness = if offline { Readiness::Ready } else { Readiness::Held };
    let not_yet = || {
        let holds = vec![Hold::OtherNodeActs { ctid, node: node.clone(), offline }];
        VolumePlan { holds, ..VolumePlan::new(readiness, Basis::None) }
    };
    let dir = match &observed.source {
        SourceState::Directory(dir) => dir,
        SourceState::Missing { .. } if volume.create => return not_yet(),
        SourceState::Missing { .. } => {
            return VolumePlan::held(Hold::SourceMissing { path: volume.host_path.clone() });
        }
        unusable => return VolumePlan::held(source::unusable(volume, unusable)),
    };
    if let Some(hold) = source::unfit(snapshot, volume, &dir.file_system) {
        return VolumePlan::held(hold);
    }
    let whose = match decision.known() {
        Ok(whose) => whose,
        Err(holds) => return VolumePlan::undecided(holds),
    };
    let root = EntryStat { kind: EntryKind::Directory, ids: dir.ids, mode: dir.mode };
    let rule = rule::of(desired, snapshot, volume, whose, Some(&root));
    if rule.decide(Place::Root, &root).is_some() {
        return not_yet();
    }
    let mut plan = VolumePlan::new(Readiness::Ready, Basis::OtherNode);
    if rule::is_managed(&rule) {
        plan.notices.push(Notice::OtherNodeActs { ctid, node, offline });
    } else {
        plan.basis = Basis::NotManaged;
    }
    // So that it is not done a second time when this node takes over.
    let declaration = rule::declaration(volume, &rule);
    let known = snapshot.ledger.volumes.get(&volume.name);
    if volume.enforce == Enforce::Once && known.is_none_or(|known| known.declaration != declaration)
    {
        let file_system = dir.file_system.id.clone();
        let record = VolumeRecord { declaration, owner: rule.owner, file_system, assumed: true };
        plan.records.push(LedgerEntry::VolumeDone { volume: volume.name.clone(), record });
    }
    plan
}
