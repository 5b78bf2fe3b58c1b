//! The controller's answer to `status`.

use jiff::{SignedDuration, Timestamp};
use pctd_core::desired::Mode;
use pctd_core::ids::Key;
use pctd_core::plan::Hold;
use pctd_core::report::{
    ConfigReport, DaemonReport, DriftReport, KeyStatus, REPORT_VERSION, StatusReport,
};
use tokio::time::Instant;

use super::Controller;
use crate::reconciler::Reconciler;

impl<R: Reconciler> Controller<R> {
    /// Returns the status of `keys`, or of everything where none is named.
    pub(super) fn status(&self, keys: &[Key]) -> StatusReport {
        let wanted = |key: &Key| keys.is_empty() || keys.contains(key);
        let (now, wall) = (Instant::now(), Timestamp::now());
        let due = |key: &Key| {
            let at = self.queue.due(key)?.saturating_duration_since(now);
            wall.checked_add(SignedDuration::try_from(at).ok()?).ok()
        };
        let mut report = StatusReport {
            version: REPORT_VERSION,
            daemon: DaemonReport {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                pid: std::process::id(),
                mode: match self.desired.settings.mode {
                    Mode::Enforce => "enforce".to_owned(),
                    Mode::Observe => "observe".to_owned(),
                },
                node: self.node_state(),
            },
            config: ConfigReport {
                valid: self.config.error().is_none(),
                generation: self.config.generation(),
                files: self.config.files().to_vec(),
                error: self.config.error().map(str::to_owned),
            },
            containers: std::collections::BTreeMap::new(),
            volumes: std::collections::BTreeMap::new(),
        };
        // In place for how good a reason; of one that is not there is nothing to say.
        let assurance = |key: &Key| match key {
            Key::Volume(name) if self.board.is_converged(key) => {
                Some(self.reconciler.assurance(name))
            }
            Key::Volume(_) | Key::Container(_) => None,
        };
        let drift = |key: &Key| match key {
            Key::Volume(name) => self.reconciler.drift(name).as_ref().map(DriftReport::from),
            Key::Container(_) => None,
        };
        for (key, status) in self.board.statuses(due).filter(|(key, _)| wanted(key)) {
            let status = KeyStatus { drift: drift(key), assurance: assurance(key), ..status };
            match key {
                Key::Container(ctid) => drop(report.containers.insert(*ctid, status)),
                Key::Volume(name) => drop(report.volumes.insert(name.clone(), status)),
            }
        }
        report
    }

    fn node_state(&self) -> String {
        let unknown = super::board::keys_of(&self.desired).iter().find_map(|key| {
            let holds = self.board.holds(key).iter();
            holds
                .filter(|hold| matches!(hold, Hold::NodeUnknown { .. }))
                .map(Hold::to_string)
                .next()
        });
        unknown.unwrap_or_else(|| "up".to_owned())
    }
}
