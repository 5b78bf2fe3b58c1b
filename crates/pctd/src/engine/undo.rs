//! Taking back what was changed in a volume.
//!
//! First it is entered into the ledger that nothing of it is to be done again, and the watch lets go of
//! the volume: neither a crash nor an event can undo the undo. Where certainly nothing came of it, that
//! goes again.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::Instant;

use pctd_core::desired::{Desired, Volume};
use pctd_core::ids::VolumeName;
use pctd_core::ledger::LedgerEntry;
use pctd_core::order::UndoOrder;
use pctd_core::plan;
use pctd_core::report::{PassReport, UndoReport, UndoneReport};
use pctd_core::undo::Privileges;
use pctd_node::undo::{self, Pass};
use pctd_node::{NodePaths, UndoError, UndoRequest, Undone, WalkError};
use tracing::{info, warn};

use super::Engine;
use crate::config_files::chain;
use crate::reconciler::Job;

/// Returns the passes over a volume that can be taken back, oldest first.
///
/// # Errors
///
/// Their records cannot be read.
pub(crate) fn passes(paths: &NodePaths, volume: &VolumeName) -> Result<Vec<PassReport>, String> {
    let read = undo::passes(paths, volume);
    let passes =
        read.map_err(|error| format!("the records of {volume} cannot be read: {error}"))?;
    Ok(passes.iter().map(report).collect())
}

fn report(pass: &Pass) -> PassReport {
    let Pass { begun, kind, entries, is_whole, bytes } = *pass;
    let time = i64::try_from(begun).ok().and_then(|at| jiff::Timestamp::from_microsecond(at).ok());
    let time = time.map_or_else(String::new, |time| format!("{time:.0}"));
    PassReport { pass: begun, begun: time, by: kind, entries, whole: is_whole, bytes }
}

impl Engine {
    /// Takes back what was changed in a volume.
    ///
    /// # Errors
    ///
    /// Why nothing was taken back.
    pub(super) fn undo(
        &self,
        desired: &Desired,
        order: &UndoOrder,
        job: &Job,
    ) -> Result<UndoReport, String> {
        let name = &order.volume;
        let volume = desired.volumes.get(name);
        let volume = volume.ok_or_else(|| format!("{name} is not in the configuration"))?;
        let begun = Instant::now();
        let known = passes(self.node.paths(), name)?;
        let known: BTreeMap<u64, PassReport> =
            known.into_iter().map(|pass| (pass.pass, pass)).collect();
        if known.is_empty() {
            return Err(format!("nothing that pctd changed in {name} is on record"));
        }
        if let Some(pass) = order.back_to.filter(|pass| !known.contains_key(pass)) {
            return Err(format!(
                "there is no pass {pass} of {name}; `pctd undo {name} --list` shows those there are"
            ));
        }
        let as_before = if order.dry_run { Vec::new() } else { self.let_be(volume)? };
        let progress = |now| job.progress.set(now);
        let privileges = if order.setuid { Privileges::GivenBack } else { Privileges::Withheld };
        let request = UndoRequest {
            back_to: order.back_to,
            privileges,
            dry_run: order.dry_run,
            cancel: &job.cancel,
            progress: &progress,
        };
        let done = self.node.undo(volume, request);
        if came_to_nothing(&done) {
            self.not_undone(name, as_before);
        }
        let done = done.map_err(|error| chain(&error))?;
        let done = done.map_err(|error| format!("{name}: {}", chain(&error)))?;
        if !order.dry_run {
            info!(
                VOLUME = %name,
                STEP = "undo",
                PATH = volume.host_path,
                ENTRIES = done.tally.entries,
                CHANGED = done.tally.restored,
                ELAPSED_MS = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
                "{name}: gave {} of {} entries of {} their owners and modes back",
                done.tally.restored,
                done.tally.entries,
                volume.host_path
            );
        }
        let passes = done.passes.iter().filter_map(|(begun, _)| known.get(begun).cloned());
        let undone = UndoneReport {
            dry_run: order.dry_run,
            done: done.is_done,
            cancelled: done.cancelled,
            tally: done.tally.clone(),
        };
        Ok(UndoReport::new(name.clone(), passes.collect(), Some(undone)))
    }

    /// Sees that nothing is done to the entries of a volume until an admin asks for it; returns what
    /// takes that back.
    fn let_be(&self, volume: &Volume) -> Result<Vec<LedgerEntry>, String> {
        let name = &volume.name;
        // Held until the watch has let go: plans made before this are not told to it any more.
        let _in_force = self.in_force.lock().unwrap_or_else(PoisonError::into_inner);
        let as_before = plan::not_undone(self.node.ledger().ledger(), name);
        let declared = plan::declared(volume);
        self.enter([LedgerEntry::Undone { volume: name.clone(), declared }])?;
        self.memory().assured.remove(name);
        match &self.watcher {
            Some(watcher) if !watcher.pause_now(name) => {
                self.not_undone(name, as_before);
                Err(format!("the watch does not let go of {name}; try again"))
            }
            _ => Ok(as_before),
        }
    }

    /// Lets be done again what is declared, where nothing was taken back. The look at the volume that
    /// follows every order tells the watch.
    fn not_undone(&self, volume: &VolumeName, as_before: Vec<LedgerEntry>) {
        if let Err(error) = self.enter(as_before) {
            // Why nothing was taken back is what is answered.
            warn!(VOLUME = %volume, "{volume}: nothing was taken back, and yet it stays held: {error}");
        }
    }
}

/// Returns whether an undo failed, or was ended, before it had changed anything.
fn came_to_nothing(done: &Result<Result<Undone, UndoError>, WalkError>) -> bool {
    match done {
        // What does not answer now may yet do what it was asked to.
        Err(error) => !matches!(error, WalkError::NoAnswer { .. }),
        Ok(Err(_)) => true,
        Ok(Ok(done)) => !done.changed && (done.cancelled || done.tally.errors > 0),
    }
}
