//! Observing: from the node to one snapshot, and from there to plans.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pctd_core::conf::{Conf, RawLine};
use pctd_core::desired::{Desired, Volume};
use pctd_core::ids::{Ctid, Key, VolumeName};
use pctd_core::ledger::LedgerEntry;
use pctd_core::observed::{
    Accounts, Assurance, MappingFacts, NodeState, ObservedVolume, Presence, Requests, Snapshot,
    SourceState,
};
use pctd_core::ownership::OwnershipRule;
use pctd_core::plan::{self, Basis, Hold, Plans, Step, VolumePlan};
use pctd_node::{NodeOptions, Progress, WalkError, WalkRequest};
use tracing::debug;

use super::Engine;
use crate::config_files::chain;
use crate::reconciler::Job;

/// How often a volume is walked until whose its entries are to be is the same before and after: a task
/// that holds the lock of a container for a moment is enough to change that.
const WALKS: usize = 3;

/// What a run looks at: the keys it is for, and what their plans depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Scope {
    containers: BTreeSet<Ctid>,
    volumes: BTreeSet<VolumeName>,
    /// The volumes the run is for; only these are ever walked.
    own_volumes: BTreeSet<VolumeName>,
}

/// How deep volumes are looked into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Depth {
    /// Root directories only.
    Surface,
    /// A walk where the plan cannot be made without one.
    WhereNeeded,
    /// A walk of every volume the run is for.
    Walk,
}

impl Scope {
    /// Returns the scope of one key.
    pub(crate) fn of(desired: &Desired, key: &Key) -> Self {
        Self::of_keys(desired, [key])
    }

    /// Returns the scope of these keys: with a container the volumes it mounts, with a volume
    /// every container that mounts it, because its owner depends on all of their id maps.
    pub(crate) fn of_keys<'k>(desired: &Desired, keys: impl IntoIterator<Item = &'k Key>) -> Self {
        let mut scope = Self {
            containers: BTreeSet::new(),
            volumes: BTreeSet::new(),
            own_volumes: BTreeSet::new(),
        };
        for key in keys {
            match key {
                Key::Container(ctid) => {
                    scope.containers.insert(*ctid);
                    scope.volumes.extend(desired.mounts_of(*ctid).map(|(v, _)| v.name.clone()));
                    // Whether it can be cloned now.
                    scope.containers.extend(desired.source_of(*ctid));
                }
                Key::Volume(name) => {
                    scope.volumes.insert(name.clone());
                    scope.own_volumes.insert(name.clone());
                }
            }
        }
        let mounting = scope.volumes.iter().filter_map(|name| desired.volumes.get(name));
        scope.containers.extend(mounting.flat_map(|volume| volume.mounts.keys()).copied());
        scope
    }
}

/// Returns whether a volume is in place only as far as was known before it was walked: what the walk
/// found does not count where the rule was not the same, or not known, when it began.
fn owes_walk(snapshot: &Snapshot, plans: &Plans, name: &VolumeName) -> bool {
    let rests_on_before = |plan: &VolumePlan| matches!(plan.basis, Basis::Before(_));
    plans.volumes.get(name).is_some_and(rests_on_before)
        && snapshot.volumes.get(name).is_some_and(|observed| observed.audit.is_none())
}

impl Engine {
    /// Observes a scope and plans it.
    ///
    /// # Errors
    ///
    /// A walk that could not even begin, or one that was asked for and never counted; everything else
    /// is part of the snapshot.
    pub(crate) fn look(
        &self,
        desired: &Desired,
        scope: &Scope,
        depth: Depth,
        requests: Requests,
        job: &Job,
    ) -> Result<(Snapshot, Plans), String> {
        let mut snapshot = self.snapshot(desired, scope, requests);
        let plans = plan::plan(desired, &snapshot);
        self.remember_waits(&mut snapshot, &plans);
        // The waits may have run out just now, which is part of the plan.
        let plans = if snapshot.waited.is_empty() { plans } else { plan::plan(desired, &snapshot) };
        let walks: Vec<VolumeName> = scope
            .own_volumes
            .iter()
            .filter(|name| {
                let needed = plans.volumes.get(*name).is_some_and(|plan| plan.needs_audit);
                match depth {
                    Depth::Surface => false,
                    Depth::WhereNeeded => needed,
                    Depth::Walk => true,
                }
            })
            .cloned()
            .collect();
        // Before the walk, too: an old rule must not be followed while it is under way.
        self.stand_unless_ended(desired, &plans, job);
        if walks.is_empty() {
            return Ok((snapshot, plans));
        }
        let (mut snapshot, mut plans, mut owed) = (snapshot, plans, walks.clone());
        for _ in 0..WALKS {
            for name in &owed {
                self.walk(desired, &mut snapshot, &plans, name, job)?;
            }
            (snapshot, plans) = self.look_after_walks(desired, scope, snapshot, &plans, &walks);
            owed.retain(|name| depth == Depth::Walk && owes_walk(&snapshot, &plans, name));
            if owed.is_empty() || job.is_cancelled() {
                break;
            }
        }
        if let Some(name) = owed.first().filter(|_| !job.is_cancelled()) {
            return Err(format!(
                "whose the entries of {name} are to be changed during each of {WALKS} walks; \
                 try again when the containers that mount it are left alone"
            ));
        }
        self.stand_unless_ended(desired, &plans, job);
        Ok((snapshot, plans))
    }

    /// Looks at everything but the walks again: they may have taken hours. What one found counts
    /// only if entries are to be what they were to be then.
    fn look_after_walks(
        &self,
        desired: &Desired,
        scope: &Scope,
        before: Snapshot,
        walked_by: &Plans,
        walks: &[VolumeName],
    ) -> (Snapshot, Plans) {
        let mut snapshot = self.snapshot(desired, scope, before.requests);
        let plans = plan::plan(desired, &snapshot);
        self.remember_waits(&mut snapshot, &plans);
        for name in walks {
            let (Some(found), Some(now)) =
                (before.volumes.get(name), snapshot.volumes.get_mut(name))
            else {
                continue;
            };
            let rule = |plans: &Plans| plans.volumes.get(name).and_then(|plan| plan.rule.clone());
            let file_system = |source: &SourceState| match source {
                SourceState::Directory(dir) => Some(dir.file_system.id.clone()),
                _ => None,
            };
            if let SourceState::Unreadable(_) = &found.source {
                // The walk found out what a look at the root cannot.
                now.source.clone_from(&found.source);
            } else if rule(&plans) == rule(walked_by)
                && file_system(&now.source) == file_system(&found.source)
            {
                now.audit.clone_from(&found.audit);
            }
        }
        let plans = plan::plan(desired, &snapshot);
        (snapshot, plans)
    }

    /// Tells the watch what these plans say. A run that was ended may be one of an older
    /// configuration.
    fn stand_unless_ended(&self, desired: &Desired, plans: &Plans, job: &Job) {
        if !job.is_cancelled() {
            self.stand(desired, plans);
        }
    }

    fn walk(
        &self,
        desired: &Desired,
        snapshot: &mut Snapshot,
        plans: &Plans,
        name: &VolumeName,
        job: &Job,
    ) -> Result<(), String> {
        let plan = plans.volumes.get(name);
        let rule = plan.and_then(|plan| plan.rule.as_ref());
        let (Some(rule), Some(volume)) = (rule, desired.volumes.get(name)) else { return Ok(()) };
        let Some(observed) = snapshot.volumes.get_mut(name) else { return Ok(()) };
        if !matches!(observed.source, SourceState::Directory(_)) {
            return Ok(());
        }
        // What is probably in place can wait; a volume that is not, and its containers, should not.
        let background = job.background && plan.is_some_and(|plan| !plan.needs_audit);
        // Only of a volume that was in place as declared is a change since then drift.
        let in_place = plan.is_some_and(|plan| plan.standing.is_some());
        let since = self.watched_since(name).filter(|_| in_place);
        let watched = self.begin_walk(desired, volume, rule);
        let trace = self.begin_trace(name);
        let progress = |now| job.progress.set(now);
        let request = walk_request(desired, volume, rule, job, &progress);
        match self.node.audit(WalkRequest {
            background,
            since,
            watched,
            trace: trace.as_ref(),
            ..request
        }) {
            Ok(audit) => observed.audit = Some(audit),
            Err(WalkError::Cancelled) => {}
            Err(WalkError::NoAnswer { source, .. }) => {
                observed.source = SourceState::Unreadable(source.to_string());
            }
            Err(error) => return Err(chain(&error)),
        }
        Ok(())
    }

    fn snapshot(&self, desired: &Desired, scope: &Scope, requests: Requests) -> Snapshot {
        self.node.configure(NodeOptions {
            pct_timeout: desired.settings.pct_timeout,
            node: desired.settings.node.clone(),
            ..self.options.clone()
        });
        let (node, _) = self.node.cluster();
        let (mut containers, volumes) = match &node {
            NodeState::Unknown(_) => (BTreeMap::new(), BTreeMap::new()),
            NodeState::Up(cluster) => {
                let volumes = self.observe_volumes(desired, scope, &cluster.node);
                (self.node.observe_containers(&scope.containers), volumes)
            }
        };
        let elsewhere = self.confs_elsewhere(desired, &containers, &volumes);
        let (ledger, memory) = {
            let store = self.node.ledger();
            (Arc::clone(store.ledger()), store.memory().clone())
        };
        let making = self.making_facts(desired, &ledger, &mut containers);
        let maps_ids = scope.volumes.iter().filter_map(|name| desired.volumes.get(name));
        let mapping = if maps_ids.into_iter().any(Volume::maps_ids) {
            self.node.mapping_facts()
        } else {
            MappingFacts::default()
        };
        let accounts = self.node.accounts().unwrap_or_else(|error| {
            // Owners by name are then unknown accounts, which is a hold with its own message.
            debug!("users and groups cannot be read: {error}");
            Accounts::default()
        });
        let restarted = self.memory().restarts.ago(&ledger.restarted);
        let converting = self.convert_facts(desired, &node, &containers);
        let bad_sources = self.bad_sources(&containers, &ledger, &converting);
        let mut snapshot = Snapshot {
            node,
            containers,
            elsewhere,
            volumes,
            ledger,
            memory,
            waited: BTreeMap::new(),
            restarted,
            bad_sources,
            sub_ids: self.node.sub_ids(),
            boot: self.node.boot_id(),
            accounts,
            requests,
            making,
            mapping,
            converting,
        };
        snapshot.waited = self.waits(&snapshot.containers);
        snapshot
    }

    /// Looks at the volumes of a scope that exist on this node.
    fn observe_volumes(
        &self,
        desired: &Desired,
        scope: &Scope,
        node: &str,
    ) -> BTreeMap<VolumeName, ObservedVolume> {
        let volumes = scope.volumes.iter().filter_map(|name| desired.volumes.get(name));
        let (here, others): (Vec<&Volume>, Vec<&Volume>) =
            volumes.partition(|volume| volume.is_on(node));
        let found = self.node.observe_volumes(here.iter().copied());
        let observed = here.into_iter().zip(found).map(|(volume, found)| {
            let name = &volume.name;
            let watch = self.watch_of(desired, name);
            let assurance = self.assurance_of(name);
            (name.clone(), ObservedVolume { watch, assurance, ..found })
        });
        let unseen =
            |volume: &Volume| (volume.name.clone(), ObservedVolume::new(SourceState::OfOtherNodes));
        observed.chain(others.into_iter().map(unseen)).collect()
    }

    /// Reads the confs of containers on other nodes that count for a volume here.
    fn confs_elsewhere(
        &self,
        desired: &Desired,
        containers: &BTreeMap<Ctid, Presence>,
        volumes: &BTreeMap<VolumeName, ObservedVolume>,
    ) -> BTreeMap<Ctid, Result<Conf, String>> {
        let is_shared = |volume: &&Volume| {
            volumes.get(&volume.name).is_some_and(|found| {
                let file_system = found.source.file_system();
                volume.is_shared(file_system.map_or("", |file_system| &file_system.kind))
            })
        };
        let shared: Vec<&Volume> = desired.volumes.values().filter(is_shared).collect();
        {
            let known = &mut self.memory().shared;
            known.retain(|name| !volumes.contains_key(name));
            known.extend(shared.iter().map(|volume| volume.name.clone()));
        }
        let mounting: BTreeSet<Ctid> =
            shared.into_iter().flat_map(|volume| volume.mounts.keys().copied()).collect();
        let away = mounting.into_iter().filter_map(|ctid| match containers.get(&ctid)? {
            Presence::OnNode(node) => Some((ctid, node.as_str())),
            _ => None,
        });
        self.node.confs_elsewhere(away)
    }

    /// Returns what is known of a volume from before.
    pub(super) fn assurance_of(&self, name: &VolumeName) -> Assurance {
        let assured = self.memory().assured.get(name).cloned();
        let ledger = Arc::clone(self.node.ledger().ledger());
        let still = assured.filter(|(_, record)| ledger.volumes.get(name) == Some(record));
        still.map_or(Assurance::Ledger, |(by, _)| by)
    }

    /// Returns how long each of these containers has not been ready, as known so far.
    fn waits(&self, containers: &BTreeMap<Ctid, Presence>) -> BTreeMap<Ctid, Duration> {
        let memory = self.memory();
        let since = containers.keys().filter_map(|ctid| memory.not_ready_since.get_key_value(ctid));
        since.map(|(ctid, since)| (*ctid, since.elapsed())).collect()
    }

    /// Starts and stops the clocks of containers whose map is not ready.
    fn remember_waits(&self, snapshot: &mut Snapshot, plans: &Plans) {
        let mut memory = self.memory();
        for ctid in snapshot.containers.keys() {
            let plan = plans.containers.get(ctid);
            let waits = plan.is_some_and(|plan| {
                plan.holds.iter().any(|hold| {
                    matches!(
                        hold,
                        Hold::IdmapNotReady { .. }
                            | Hold::UnprivilegedMismatch { .. }
                            | Hold::CreateInterrupted { .. }
                    )
                })
            });
            if waits || is_waited_for_elsewhere(snapshot, plans, *ctid) {
                memory.not_ready_since.entry(*ctid).or_insert_with(Instant::now);
            } else {
                memory.not_ready_since.remove(ctid);
                snapshot.waited.remove(ctid);
            }
        }
    }

    /// Enters what these plans found in place for `key`.
    ///
    /// # Errors
    ///
    /// The ledger could not be written.
    pub(super) fn enter_records(
        &self,
        plans: &Plans,
        key: &Key,
        taken: &[Step],
    ) -> Result<(), String> {
        let records = match key {
            Key::Container(ctid) => plans.containers.get(ctid).map(|plan| &plan.records),
            Key::Volume(name) => plans.volumes.get(name).map(|plan| &plan.records),
        };
        match records {
            Some(records) if !records.is_empty() => {
                self.enter(records.iter().cloned().map(|record| believed(record, taken)))
            }
            _ => Ok(()),
        }
    }

    /// Enters changes into the ledger.
    ///
    /// # Errors
    ///
    /// The ledger could not be written.
    pub(super) fn enter(
        &self,
        entries: impl IntoIterator<Item = LedgerEntry>,
    ) -> Result<(), String> {
        self.node.ledger().enter(entries).map(drop).map_err(|error| chain(&error))
    }
}

/// Returns what a record comes to in a run that has taken these steps: the hook of a stop may have
/// read the conf before and write it later, so only another run believes that a line is gone. One that
/// restarted or started the container may have taken lines back.
fn believed(record: LedgerEntry, taken: &[Step]) -> LedgerEntry {
    let LedgerEntry::LinesForgotten { ctid, mut lines } = record else { return record };
    let may_return = |line: &RawLine, step: &Step| match step {
        Step::EditConf(edit) => edit.remove.contains(line),
        Step::RebootContainer { .. } | Step::StartContainer {} => true,
        _ => false,
    };
    lines.retain(|line| !taken.iter().any(|step| may_return(line, step)));
    LedgerEntry::LinesForgotten { ctid, lines }
}

/// Returns whether a volume waits for the map of a container on another node, of which no plan of
/// its own speaks here.
fn is_waited_for_elsewhere(snapshot: &Snapshot, plans: &Plans, ctid: Ctid) -> bool {
    matches!(snapshot.elsewhere.get(&ctid), Some(Ok(_)))
        && plans
            .volumes
            .values()
            .flat_map(|plan| &plan.holds)
            .any(|hold| matches!(hold, Hold::IdmapNotReady { ctid: other, .. } if *other == ctid))
}

/// Returns how many bytes the records of what is changed in a volume may take.
pub(super) const fn undo_limit(desired: &Desired) -> u64 {
    desired.settings.undo_mb.saturating_mul(1 << 20)
}

/// Returns how a volume is walked for a job.
pub(super) fn walk_request<'a>(
    desired: &Desired,
    volume: &'a Volume,
    rule: &'a OwnershipRule,
    job: &'a Job,
    progress: &'a (dyn Fn(Progress) + Sync),
) -> WalkRequest<'a> {
    let (cancel, threads, goes_on) = (&*job.cancel, desired.settings.walk_threads, job.goes_on);
    let undo_limit = undo_limit(desired);
    WalkRequest { cancel, progress, threads, goes_on, undo_limit, ..WalkRequest::new(volume, rule) }
}
