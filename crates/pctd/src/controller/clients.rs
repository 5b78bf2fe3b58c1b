//! What clients ask for: the status at once, a look that is followed until it has settled.

use std::collections::BTreeSet;

use pctd_core::ids::{Ctid, Key, VolumeName};
use pctd_core::request::Op;
use tokio::time::Instant;

use super::Controller;
use super::followers::Request;
use crate::reconciler::Reconciler;

impl<R: Reconciler> Controller<R> {
    /// Answers a client, or lets it follow what it asked for.
    pub(super) fn on_client(&mut self, request: Request) {
        match request.op.clone() {
            Op::Status(keys) => {
                if let Some(key) = keys.iter().find(|key| !self.board.knows(key)) {
                    request.answer_error(format!("{key} is not in the configuration in force"));
                    return;
                }
                let report = self.status(&keys);
                request.answer_status(report);
            }
            Op::Order { order, read } => {
                if let Some(why) = read.and_then(|read| self.config.objection(&read)) {
                    request.answer_error(why);
                    return;
                }
                self.take_order(order, request);
            }
            Op::Reconcile { keys, asked, read } => {
                if let Some(why) = read.and_then(|read| self.config.objection(&read)) {
                    request.answer_error(why);
                    return;
                }
                if let Some(key) = keys.iter().find(|key| !self.board.knows(key)) {
                    request.answer_error(format!("{key} is not in the configuration in force"));
                    return;
                }
                let wanted: BTreeSet<Key> = if keys.is_empty() {
                    self.board.keys().cloned().collect()
                } else {
                    keys.into_iter().collect()
                };
                let now = Instant::now();
                for key in &wanted {
                    self.walks.ask(key);
                    self.note_asked(key, asked);
                    self.retries.start_over(key);
                    self.queue.add(key.clone(), now);
                }
                let jobs = self.running.keys().cloned().collect();
                self.followers.follow(request, wanted, &jobs);
            }
        }
    }

    /// Returns the volumes that a container waits for in vain: nothing will be done about them soon.
    pub(super) fn waits_for(&mut self, ctid: Ctid, now: Instant) -> BTreeSet<VolumeName> {
        let soon = |key: &Key| {
            self.running.contains_key(key) || self.queue.due(key).is_some_and(|at| at <= now)
        };
        let volumes: Vec<Key> =
            self.desired.mounts_of(ctid).map(|(v, _)| Key::Volume(v.name.clone())).collect();
        if soon(&Key::Container(ctid)) || volumes.iter().any(soon) {
            return BTreeSet::new();
        }
        let (fine, held): (Vec<Key>, Vec<Key>) =
            volumes.into_iter().partition(|key| self.board.is_converged(key));
        if held.is_empty() {
            // The container saw what no run over its volumes has seen yet.
            for key in fine {
                self.queue.add(key, now);
            }
        }
        let name = |key| match key {
            Key::Volume(name) => Some(name),
            Key::Container(_) => None,
        };
        held.into_iter().filter_map(name).collect()
    }
}
