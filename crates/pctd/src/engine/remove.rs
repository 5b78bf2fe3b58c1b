//! Removing a mount that pctd added and that is no longer declared.

use std::time::Instant;

use pctd_core::conf::Conf;
use pctd_core::ids::{Ctid, MpKey};
use pctd_core::ledger::LedgerEntry;
use pctd_core::observed::{Presence, Snapshot};
use pctd_core::plan::{Effective, RemoveMount};
use pctd_node::{PctClass, RemoveWhat};
use tracing::info;

use super::{Engine, StepEnd};

impl Engine {
    /// Removes a mount point, or what waits at its key, and looks at what came of it.
    ///
    /// Nothing is written ahead: what a crash leaves is either the mount as it was or one that is
    /// gone or going, and the next plan sees which.
    pub(super) fn remove_mount(
        &self,
        snapshot: &Snapshot,
        ctid: Ctid,
        remove: &RemoveMount,
    ) -> StepEnd {
        let Some(Presence::Here(container)) = snapshot.containers.get(&ctid) else {
            return StepEnd::Refused;
        };
        let RemoveMount { key, value, pending, effective } = remove;
        let digest = container.conf.digest.to_string();
        let what = if *pending { RemoveWhat::Pending } else { RemoveWhat::Mount };
        let begun = Instant::now();
        let called = self.node.pct().remove_mount(ctid, *key, what, &digest);
        // A `pct` that failed may have written, and one that succeeded may have made another value
        // current instead (PROXMOX.md 4); only the conf tells.
        let Some(now) = self.observe_one(ctid) else {
            return StepEnd::Failed(format!("{ctid} could not be read after pct set"));
        };
        if !is_removed(&now.conf, *key, what) {
            return match called {
                Ok(()) => StepEnd::Conflict(format!("{key} is still in the conf after pct set")),
                Err(error) if error.class == PctClass::Conflict => {
                    StepEnd::Conflict(error.to_string())
                }
                Err(error) => StepEnd::Failed(error.to_string()),
            };
        }
        let (did, until) = match (what, effective) {
            (RemoveWhat::Pending, _) => ("took back the pending", ""),
            (RemoveWhat::Mount, Effective::AfterRestart) => ("removed", ", until it restarts"),
            (RemoveWhat::Mount, Effective::Now | Effective::NextStart) => ("removed", ""),
        };
        info!(
            CTID = %ctid,
            STEP = "remove_mount",
            KEY = %key,
            VALUE = value,
            ELAPSED_MS = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
            "{ctid}: {did} {key}: {value}, which is no longer declared{until}"
        );
        if let Err(error) = called {
            info!(CTID = %ctid, "{ctid}: pct reported a failure after it had removed the mount: {error}");
        }
        let is_gone = !now.conf.mount_keys_in_use().contains(key);
        let forget = is_gone.then_some(LedgerEntry::MountForgotten { ctid, key: *key });
        match self.enter(forget) {
            Ok(()) => StepEnd::Done,
            Err(error) => StepEnd::Failed(error),
        }
    }
}

/// Returns whether nothing of what was to go is left, or what is left goes at the next stop.
fn is_removed(conf: &Conf, key: MpKey, what: RemoveWhat) -> bool {
    let waits = conf.pending_mounts().contains_key(&key);
    match what {
        RemoveWhat::Pending => !waits,
        RemoveWhat::Mount => {
            !waits && (!conf.mounts().contains_key(&key) || conf.pending_delete(key))
        }
    }
}
