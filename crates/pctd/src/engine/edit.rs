//! Editing raw lines of a conf, and taking them back from a container that does not start with them.

use std::time::Instant;

use pctd_core::conf::RawLine;
use pctd_core::ids::Ctid;
use pctd_core::ledger::{Edited, LedgerEntry};
use pctd_core::observed::{ObservedContainer, Presence, Running, Snapshot};
use pctd_core::plan::EditConf;
use pctd_node::ConfEditError;
use tracing::info;

use super::{Engine, StepEnd};
use crate::config_files::chain;

impl Engine {
    /// Edits raw lines, and looks at what came of it.
    pub(super) fn edit_conf(&self, snapshot: &Snapshot, ctid: Ctid, edit: &EditConf) -> StepEnd {
        let Some(Presence::Here(container)) = snapshot.containers.get(&ctid) else {
            return StepEnd::Refused;
        };
        let before = self.node.ledger().ledger().edited.get(&ctid).cloned();
        let waits = match &container.running {
            Running::No => before.clone(),
            Running::Yes { init, .. } => {
                let (added, removed) = (edit.add.clone(), edit.remove.clone());
                let boot = snapshot.boot.clone();
                let edited = Edited { boot, init: *init, added, removed };
                Some(match before.clone() {
                    Some(before) => before.then(edited),
                    None => edited,
                })
            }
        };
        // Entered first, so that after a crash in between the lines are known for pctd's own, and a
        // restart is known to be due.
        let intended = LedgerEntry::LinesIntended { ctid, lines: edit.add.clone() };
        if let Err(error) = self.enter([intended, LedgerEntry::EditWaits { ctid, edited: waits }]) {
            return StepEnd::Failed(error);
        }
        let begun = Instant::now();
        let written = self.node.edit_conf(ctid, container.conf.digest, &edit.edit());
        // Whatever it says: the hook of a stop heeds no lock, and may have written since.
        let Some(now) = self.observe_one(ctid) else {
            // Not known: what was intended stays in the ledger.
            return StepEnd::Failed(format!("{ctid} could not be read after its conf was edited"));
        };
        let is_done = is_edited(&now, edit);
        let unknown = matches!(written, Err(ConfEditError::NoAnswer { .. }));
        let entries = if is_done || unknown {
            // It may still be written; and what went may come back, by the hook of a stop or because
            // the container does not start: it is pctd's own until a later run finds it gone.
            Vec::new()
        } else {
            let lines = edit.add.iter().filter(|line| !line.is_in(&now.conf.current));
            let lines = lines.cloned().collect();
            let edited = before;
            vec![
                LedgerEntry::LinesForgotten { ctid, lines },
                LedgerEntry::EditWaits { ctid, edited },
            ]
        };
        if let Err(error) = self.enter(entries) {
            return StepEnd::Failed(error);
        }
        match written {
            _ if is_done => {
                let until = if edit.after_restart { ", seen after a restart" } else { "" };
                info!(
                    CTID = %ctid,
                    STEP = "edit_conf",
                    VALUE = shown(edit),
                    ELAPSED_MS = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
                    "{ctid}: edited its conf: {}{until}",
                    shown(edit)
                );
                StepEnd::Done
            }
            Ok(()) => StepEnd::Conflict(format!("the conf of {ctid} was written over at once")),
            Err(
                error @ (ConfEditError::Busy { .. }
                | ConfEditError::Locked { .. }
                | ConfEditError::Changed { .. }),
            ) => StepEnd::Conflict(error.to_string()),
            Err(error) => StepEnd::Failed(chain(&error)),
        }
    }

    /// Puts the raw lines back with which a container last ran; returns what there is to say of it.
    ///
    /// # Errors
    ///
    /// They could not be put back.
    pub(super) fn take_back_lines(&self, ctid: Ctid) -> Result<Option<&'static str>, String> {
        let Some(edited) = self.node.ledger().ledger().edited.get(&ctid).cloned() else {
            return Ok(None);
        };
        let Some(now) = self.observe_one(ctid) else {
            return Err("its conf could not be read".to_owned());
        };
        if now.running != Running::No {
            return Ok(None);
        }
        let current = &now.conf.current;
        let there = |line: &&RawLine| line.is_in(current);
        let back = EditConf {
            remove: edited.added.iter().filter(there).cloned().collect(),
            add: edited.removed.iter().filter(|line| !there(line)).cloned().collect(),
            ..EditConf::default()
        };
        if !back.remove.is_empty() || !back.add.is_empty() {
            let written = self.node.edit_conf(ctid, now.conf.digest, &back.edit());
            let is_done = self.observe_one(ctid).is_some_and(|now| is_edited(&now, &back));
            if let (Err(error), false) = (written, is_done) {
                return Err(chain(&error));
            }
        }
        // What went is pctd's own until a later run finds it gone: the hook of the stop may have read the
        // conf before, and write it back.
        self.enter([LedgerEntry::EditWaits { ctid, edited: None }])?;
        Ok(Some("its old raw lines were put back"))
    }
}

/// Returns whether a conf has all that came and nothing that went.
fn is_edited(container: &ObservedContainer, edit: &EditConf) -> bool {
    let current = &container.conf.current;
    edit.add.iter().all(|line| line.is_in(current))
        && !edit.remove.iter().any(|line| line.is_in(current))
}

fn shown(edit: &EditConf) -> String {
    let went = edit.remove.iter().map(|line| format!("-{line}"));
    let came = edit.add.iter().map(|line| format!("+{line}"));
    went.chain(came).collect::<Vec<_>>().join("; ")
}
