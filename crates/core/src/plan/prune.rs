//! What pctd added to a conf and is no longer declared.
//!
//! Only what the ledger says pctd wrote, and what still stands there exactly so. Nothing is
//! concluded from a configuration that may lack a file, nor from a ledger that was lost.

use std::collections::BTreeSet;

use crate::conf::{Conf, MountClass, MountEntry, normalise_path};
use crate::desired::{Desired, Mechanism, Mount, Volume};
use crate::ids::{Ctid, MpKey};
use crate::ledger::{LedgerEntry, Memory};
use crate::observed::{Removal, Snapshot};
use crate::plan::hold::Hold;
use crate::plan::notice::{Notice, WhyKept};
use crate::plan::planned::ContainerPlan;
use crate::plan::step::{Effective, RemoveMount, Step};

/// Plans what goes of one conf; returns the keys whose removal waits for a restart.
pub(crate) fn plan(
    plan: &mut ContainerPlan,
    desired: &Desired,
    snapshot: &Snapshot,
    ctid: Ctid,
    conf: &Conf,
    running: bool,
) -> Vec<MpKey> {
    let found = Leftovers::find(plan, desired, snapshot, ctid, conf, running);
    if let Some(why) = why_kept(desired, snapshot) {
        let notice = |remove: RemoveMount| {
            let RemoveMount { key, value, .. } = remove;
            Notice::Prunable { key, value, why }
        };
        plan.notices.extend(found.removals.into_iter().map(notice));
        return Vec::new();
    }
    if snapshot.requests.removal != Removal::Allowed {
        let what: Vec<String> = found.removals.iter().map(|r| r.key.to_string()).collect();
        if !what.is_empty() {
            plan.holds.push(Hold::ConfigUnsettled { ctid, what });
        }
        return Vec::new();
    }
    let foreign = |key| Hold::PendingForeign { ctid, key };
    plan.holds.extend(found.foreign_pending.into_iter().map(foreign));
    plan.steps.extend(found.removals.into_iter().map(Step::RemoveMount));
    found.waiting
}

/// Returns why nothing is removed, whatever is left over.
pub(super) fn why_kept(desired: &Desired, snapshot: &Snapshot) -> Option<WhyKept> {
    match (desired.settings.prune, &snapshot.memory) {
        (false, _) => Some(WhyKept::Off),
        (true, Memory::Lost(_)) => Some(WhyKept::LedgerLost),
        (true, Memory::Whole) => None,
    }
}

/// What of pctd's stands in a conf without being declared.
#[derive(Debug, Default)]
struct Leftovers {
    removals: Vec<RemoveMount>,
    /// Deleted already, and in force until a restart.
    waiting: Vec<MpKey>,
    /// Somebody else's change waits at the key of a mount that is to go.
    foreign_pending: Vec<MpKey>,
}

impl Leftovers {
    fn find(
        plan: &mut ContainerPlan,
        desired: &Desired,
        snapshot: &Snapshot,
        ctid: Ctid,
        conf: &Conf,
        running: bool,
    ) -> Self {
        let ledger = &snapshot.ledger;
        // One that LXC makes takes the place of a mount point at its target.
        let by_pct = |(_, mount): &(&Volume, &Mount)| mount.mechanism == Mechanism::Pct;
        let mounts = desired.mounts_of(ctid).filter(by_pct);
        let targets: BTreeSet<&[u8]> = mounts.map(|(_, mount)| mount.target.as_bytes()).collect();
        let is_declared = |entry: &&MountEntry| {
            let target = entry.parsed.as_ref().map(|mp| normalise_path(&mp.target));
            target.is_ok_and(|target| targets.contains(target.as_slice()))
        };
        let mut found = Self::default();
        for key in ledger.mount_keys(ctid) {
            let current = conf.mounts().get(&key);
            let pending = conf.pending_mounts().get(&key);
            let is_deleted = conf.pending_delete(key);
            if current.is_none() && pending.is_none() && !is_deleted {
                let is_meant =
                    ledger.intended.get(&ctid).is_some_and(|keys| keys.contains_key(&key));
                if !is_meant {
                    // Gone, by whoever: a later mount at this key is not pctd's because of it.
                    plan.records.push(LedgerEntry::MountForgotten { ctid, key });
                }
                continue;
            }
            // A declared target is for the mounts to settle, whatever stands there.
            if current.iter().chain(&pending).any(is_declared) || ledger.is_borrowed(ctid, key) {
                continue;
            }
            // pctd writes binds only: whatever the ledger says, a disk of a storage is never removed.
            let is_bind = |entry: &MountEntry| {
                entry.parsed.as_ref().is_ok_and(|mp| mp.class == MountClass::Bind)
            };
            let is_own =
                |entry: &MountEntry| is_bind(entry) && ledger.is_own_mount(ctid, key, &entry.raw);
            let remove = |entry: &MountEntry, pending: bool| RemoveMount {
                key,
                value: entry.raw.to_string(),
                pending,
                effective: match (pending, running) {
                    (true, _) => Effective::Now,
                    (false, true) => Effective::AfterRestart,
                    (false, false) => Effective::NextStart,
                },
            };
            match (pending, current) {
                // First, also where a deletion waits beside it: at a stop Proxmox deletes what is in
                // force and then makes the pending value current.
                (Some(pending), _) if is_own(pending) => found.removals.push(remove(pending, true)),
                (Some(_), Some(current)) if is_own(current) => found.foreign_pending.push(key),
                (None, Some(current)) if is_own(current) && !is_deleted => {
                    found.removals.push(remove(current, false));
                }
                (None, Some(current)) if is_own(current) && running => found.waiting.push(key),
                // Changed by somebody since, so it is theirs; or it goes at the next start.
                _ => {}
            }
        }
        found
    }
}
