//! The plan of one volume: what is to be done to its directory, its owner and its modes, or why not, and
//! whether containers may mount it meanwhile.

use crate::desired::{Desired, Volume};
use crate::ids::HostIds;
use crate::ledger::{LedgerEntry, Memory, VolumeRecord};
use crate::observed::{
    Assurance, Audit, Cluster, FileSystem, ObservedVolume, Presence, Snapshot, SourceDir,
    SourceState,
};
use crate::ownership::{EntryKind, EntryStat, OwnershipRule, Place};
use crate::plan::certificate;
use crate::plan::disk_ids;
use crate::plan::hold::{Hold, NoMap, NotReady};
use crate::plan::notice::Notice;
use crate::plan::other_node;
use crate::plan::owner::{self, OwnerDecision};
use crate::plan::planned::{Basis, Readiness, VolumePlan};
use crate::plan::rule;
use crate::plan::sharing::{self, Actor};
use crate::plan::source;
use crate::plan::step::{SetOwnership, Step};
use crate::plan::undone;

/// Plans one volume on one snapshot.
pub(crate) fn plan(
    desired: &Desired,
    snapshot: &Snapshot,
    cluster: &Cluster,
    volume: &Volume,
) -> VolumePlan {
    let Some(observed) = snapshot.volumes.get(&volume.name) else {
        let why = "it was not observed".to_owned();
        let path = volume.host_path.clone();
        return VolumePlan::held(Hold::SourceUnreadable { path, why });
    };
    let mut plan = plan_observed(desired, snapshot, cluster, volume, observed);
    plan.records.extend(disk_ids::record(snapshot, volume));
    plan
}

fn plan_observed(
    desired: &Desired,
    snapshot: &Snapshot,
    cluster: &Cluster,
    volume: &Volume,
    observed: &ObservedVolume,
) -> VolumePlan {
    let decision = owner::decide(desired, snapshot, volume);
    if decision == OwnerDecision::NobodyHere || lives_elsewhere(snapshot, volume) {
        return VolumePlan::new(Readiness::Ready, Basis::NotManaged);
    }
    if sharing::is_shared(snapshot, volume) {
        if !cluster.quorate {
            // What is read may be old, and others may have gone on without this node.
            let holds = vec![Hold::NoQuorum];
            return VolumePlan { holds, ..VolumePlan::new(Readiness::Ready, Basis::None) };
        }
        match sharing::actor(snapshot, cluster, volume) {
            Actor::ThisNode => {}
            Actor::Lower => return VolumePlan::new(Readiness::Ready, Basis::NotManaged),
            Actor::Other { ctid, node } => {
                let acts = other_node::Acts { ctid, node, offline: !cluster.online.contains(node) };
                return other_node::plan(desired, snapshot, volume, observed, decision, acts);
            }
            Actor::Unknown(ctid) => {
                return VolumePlan::held(Hold::IdmapNotReady { ctid, why: NotReady::Unknown });
            }
        }
    }
    match &observed.source {
        SourceState::Directory(dir) => match source::unfit(snapshot, volume, &dir.file_system) {
            Some(hold) => VolumePlan::held(hold),
            None if observed.no_acl.is_some() => {
                VolumePlan::undecided(source::without_acl(volume, observed))
            }
            None => plan_directory(desired, snapshot, volume, observed, dir, decision),
        },
        SourceState::Missing { .. } if disk_ids::counts_from_owner(volume) => {
            let path = volume.host_path.clone();
            VolumePlan::held(Hold::IdmapImpossible { why: NoMap::NoOwner { path } })
        }
        SourceState::Missing { file_system } => {
            plan_missing(desired, snapshot, volume, file_system, decision)
        }
        unusable => VolumePlan::held(source::unusable(volume, unusable)),
    }
}

/// Returns whether the volume is for containers of other nodes only.
fn lives_elsewhere(snapshot: &Snapshot, volume: &Volume) -> bool {
    let presences = || volume.mounts.keys().filter_map(|ctid| snapshot.containers.get(ctid));
    presences().any(|presence| matches!(presence, Presence::OnNode(_)))
        && !presences().any(|p| matches!(p, Presence::Here(_) | Presence::Unknown(_)))
}

fn plan_missing(
    desired: &Desired,
    snapshot: &Snapshot,
    volume: &Volume,
    on: &FileSystem,
    decision: OwnerDecision,
) -> VolumePlan {
    if !volume.create {
        return VolumePlan::held(Hold::SourceMissing { path: volume.host_path.clone() });
    }
    // Where it was once done on another file system, that file system is what is missing.
    if let Some(hold) = source::unfit(snapshot, volume, on) {
        return VolumePlan::held(hold);
    }
    if let Some(hold) = source::forgotten(snapshot, volume) {
        return VolumePlan::held(hold);
    }
    let create = Step::CreateDirectory { path: volume.host_path.clone() };
    let mut plan = VolumePlan::new(Readiness::Soon, Basis::None);
    plan.steps.push(create);
    let no_acl = snapshot
        .volumes
        .get(&volume.name)
        .map_or_else(Vec::new, |o| source::without_acl(volume, o));
    let resolved = if no_acl.is_empty() { decision.known() } else { Err(no_acl) };
    match resolved {
        Err(holds) => {
            plan.readiness = if holds.iter().any(Hold::waits_for_map) {
                Readiness::Held
            } else {
                Readiness::Soon
            };
            plan.holds = holds;
        }
        Ok(whose) => {
            let rule = rule::of(desired, snapshot, volume, whose, None);
            // A directory made by a step is root's, and closed until a declared mode is set.
            let mode = if rule.dir_mode.is_keep() { 0o755 } else { 0o700 };
            let fresh = EntryStat { kind: EntryKind::Directory, ids: HostIds::ROOT, mode };
            let change = rule.decide(Place::Root, &fresh).unwrap_or_default();
            let counts = Audit {
                entries: 1,
                changes: 1,
                owners: u64::from(change.owner.is_some()),
                modes: u64::from(change.mode.is_some()),
                default_acls: u64::from(rule.default_acl.as_ref().is_some_and(|a| !a.is_none())),
                ..Audit::default()
            };
            if counts.owners + counts.modes + counts.default_acls > 0 {
                plan.steps.push(set_ownership(volume, &rule, &counts));
            }
            plan.rule = Some(rule);
            certificate::plan_missing(&mut plan, volume);
        }
    }
    plan
}

/// Returns the step that brings a volume to its rule, of which a walk found this.
fn set_ownership(volume: &Volume, rule: &OwnershipRule, audit: &Audit) -> Step {
    Step::SetOwnership(SetOwnership {
        path: volume.host_path.clone(),
        owner: rule.owner,
        group: rule.group,
        default_acl: rule.default_acl.as_ref().map(ToString::to_string),
        entries: audit.entries,
        changes: audit.changes,
        owners: audit.owners,
        modes: audit.modes,
        default_acls: audit.default_acls,
    })
}

fn plan_directory(
    desired: &Desired,
    snapshot: &Snapshot,
    volume: &Volume,
    observed: &ObservedVolume,
    dir: &SourceDir,
    decision: OwnerDecision,
) -> VolumePlan {
    let whose = match decision.known() {
        Ok(whose) => whose,
        Err(holds) => return VolumePlan::undecided(holds),
    };
    let root = EntryStat { kind: EntryKind::Directory, ids: dir.ids, mode: dir.mode };
    let rule = rule::of(desired, snapshot, volume, whose, Some(&root));
    if rule::is_managed(&rule) && undone::is_undone(snapshot, volume) {
        // Neither by a walk nor by the watch; services need not wait for what is not to come.
        return VolumePlan::undecided(vec![Hold::Undone { volume: volume.name.clone() }]);
    }
    let is_shared = sharing::is_shared(snapshot, volume);
    let assumed = rule::is_assumed(snapshot, volume, &rule, &root);
    let notice = exposes_root(desired, snapshot, volume, dir);
    let record = VolumeRecord {
        declaration: rule::declaration(volume, &rule),
        owner: rule.owner,
        file_system: dir.file_system.id.clone(),
        assumed,
        maps: rule::maps(desired, snapshot, volume),
    };
    let mut plan = VolumePlan::new(Readiness::Ready, Basis::NotManaged);
    plan.notices.extend(notice);
    plan.records.extend(undone::record(snapshot, volume));
    let outside =
        rule.group.map(|gid| (gid, owner::outside_of_group(desired, snapshot, volume, gid)));
    if let Some((gid, containers)) = outside.filter(|(_, containers)| !containers.is_empty()) {
        plan.notices.push(Notice::GroupOutside { gid, containers });
    }
    if assumed && rule::is_managed(&rule) {
        let volume = volume.name.clone();
        plan.notices.push(match &snapshot.memory {
            Memory::Whole if is_shared => Notice::DoneElsewhere { volume },
            Memory::Whole | Memory::Lost(_) => Notice::LedgerLost { volume },
        });
    }
    if rule::is_managed(&rule) {
        let root_differs = rule.decide(Place::Root, &root).is_some();
        let done = snapshot.ledger.volumes.get(&volume.name) == Some(&record);
        match &observed.audit {
            Some(audit) => {
                plan.basis = match audit.believed {
                    0 => Basis::Walk,
                    _ => Basis::Before(Assurance::Directories),
                };
                judge(&mut plan, desired, snapshot, volume, dir, &rule, audit);
            }
            None if root_differs || !done => {
                // What was refused or held will not pass by waiting, and services need not wait for it.
                let requests = &snapshot.requests;
                let is_left = requests.refused.contains_key(&volume.name)
                    || requests.held.contains(&volume.name);
                plan.readiness = if is_left { Readiness::Ready } else { Readiness::Soon };
                plan.basis = Basis::None;
                plan.needs_audit = true;
            }
            None => plan.basis = Basis::Before(observed.assurance),
        }
    }
    let in_place = plan.steps.is_empty() && plan.holds.is_empty() && !plan.needs_audit;
    let is_done = snapshot.ledger.volumes.get(&volume.name) == Some(&record);
    if in_place && !is_done {
        plan.records.push(LedgerEntry::VolumeDone { volume: volume.name.clone(), record });
    }
    // Single entries are put right as they drift only where everything was right before: what a
    // first pass would change, it must be asked about as a whole.
    // What could not be looked at says nothing against the entries that can: of a volume that was in
    // place they are held to the rule as before.
    let is_held = plan.holds.iter().any(|hold| !matches!(hold, Hold::WalkIncomplete { .. }));
    if rule::is_managed(&rule) && !is_held && (in_place || is_done) {
        plan.standing = rule::standing(desired, snapshot, volume, &rule);
    }
    plan.rule = Some(rule);
    certificate::plan(&mut plan, snapshot, volume, &observed.certificates);
    plan
}

/// Returns what to know where containers can leave programs with the rights of the host's root:
/// that their mounts are `nosuid` does not keep users of the host from running those.
fn exposes_root(
    desired: &Desired,
    snapshot: &Snapshot,
    volume: &Volume,
    dir: &SourceDir,
) -> Option<Notice> {
    let reaching = disk_ids::reaching_root(desired, snapshot, volume);
    let path = volume.host_path.clone();
    (dir.exposed && !reaching.is_empty())
        .then(|| Notice::RootExposed { path, containers: reaching.into_iter().collect() })
}

/// Turns what a walk found into a step, or into the reason not to take it.
fn judge(
    plan: &mut VolumePlan,
    desired: &Desired,
    snapshot: &Snapshot,
    volume: &Volume,
    dir: &SourceDir,
    rule: &OwnershipRule,
    audit: &Audit,
) {
    if !audit.nested_mounts.is_empty() {
        plan.notices.push(Notice::NestedMountInvisible { below: audit.nested_mounts.clone() });
    }
    if audit.acls > 0 {
        plan.notices.push(Notice::AclKeepsMode { entries: audit.acls });
    }
    if audit.hard_links > 0 {
        plan.notices.push(Notice::HardLinks { entries: audit.hard_links });
    }
    if audit.errors > 0 {
        let first = audit.first_errors.clone();
        plan.holds.push(Hold::WalkIncomplete { errors: audit.errors, first });
        // What could not be looked at is not known to be in place.
        plan.basis = Basis::None;
    }
    if audit.changes == 0 {
        return;
    }
    plan.basis = Basis::None;
    // What changed under a watch is drift; the limit is for a path that was never meant.
    let limit = desired.settings.confirm_above;
    if let Some(why) = snapshot.requests.refused.get(&volume.name) {
        let (kind, why) = (dir.file_system.kind.clone(), why.clone());
        // Default ACLs are set first, so they were refused where nothing is left but them.
        plan.holds.push(if audit.default_acls == audit.changes {
            let (path, mount_point) =
                (volume.host_path.clone(), dir.file_system.mount_point.clone());
            Hold::AclUnsupported { path, kind, mount_point, why }
        } else {
            Hold::OwnershipUnsupported { kind, why }
        });
    } else if let Some(why) = snapshot.requests.unrecorded.get(&volume.name) {
        let (volume, why) = (volume.name.clone(), why.clone());
        plan.holds.push(Hold::UndoUnavailable { volume, why });
    } else if audit.changes.saturating_sub(audit.fresh) > limit
        && !snapshot.requests.confirmed.contains(&volume.name)
    {
        plan.holds.push(Hold::ConfirmationRequired {
            volume: volume.name.clone(),
            changes: audit.changes,
            entries: audit.entries,
            limit,
        });
    } else {
        plan.readiness = Readiness::Soon;
        plan.steps.push(set_ownership(volume, rule, audit));
    }
}
