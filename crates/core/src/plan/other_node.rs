//! The plan of a volume that another node of the cluster looks after: nothing is done here, and
//! containers may mount it once its root directory shows that the other node has done its part.

use crate::desired::{Desired, Enforce, Volume};
use crate::ids::Ctid;
use crate::ledger::{LedgerEntry, VolumeRecord};
use crate::observed::{ObservedVolume, Snapshot, SourceState};
use crate::ownership::{EntryKind, EntryStat, Place};
use crate::plan::hold::Hold;
use crate::plan::notice::Notice;
use crate::plan::owner::OwnerDecision;
use crate::plan::planned::{Basis, Readiness, VolumePlan};
use crate::plan::rule;
use crate::plan::source;

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

/// Plans a volume that all nodes see and another one acts on.
pub(crate) fn plan(
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
        let record = VolumeRecord {
            declaration,
            owner: rule.owner,
            file_system,
            assumed: true,
            maps: String::new(),
        };
        plan.records.push(LedgerEntry::VolumeDone { volume: volume.name.clone(), record });
    }
    plan
}
