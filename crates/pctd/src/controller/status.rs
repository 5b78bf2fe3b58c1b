//! The controller's answer to `status`.

use jiff::{SignedDuration, Timestamp};
use pctd_core::desired::Mode;
use pctd_core::ids::Key;
use pctd_core::plan::Hold;
use pctd_core::report::{ConfigReport, DaemonReport, REPORT_VERSION, StatusReport};
use tokio::time::Instant;

use super::Controller;
use crate::reconciler::Reconciler;

/// What is known of the configuration files.
#[derive(Debug, Default)]
pub(super) struct ConfigState {
    generation: u64,
    files: Vec<String>,
    error: Option<String>,
}

impl ConfigState {
    /// Counts the configurations that were put in force; 0 before the first.
    pub(super) const fn generation(&self) -> u64 {
        self.generation
    }

    /// Notes that the files are valid, and whether they say something new.
    pub(super) fn accept(&mut self, files: Vec<String>, changed: bool) {
        self.files = files;
        self.error = None;
        self.generation += u64::from(changed);
    }

    /// Notes what is wrong with the files; returns whether it was not known.
    pub(super) fn reject(&mut self, error: &str, files: Vec<String>) -> bool {
        self.files = files;
        let new = self.error.as_deref() != Some(error);
        self.error = Some(error.to_owned());
        new
    }
}

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
                valid: self.config.error.is_none(),
                generation: self.config.generation,
                files: self.config.files.clone(),
                error: self.config.error.clone(),
            },
            containers: std::collections::BTreeMap::new(),
            volumes: std::collections::BTreeMap::new(),
        };
        for (key, status) in self.board.statuses(due).filter(|(key, _)| wanted(key)) {
            match key {
                Key::Container(ctid) => drop(report.containers.insert(*ctid, status)),
                Key::Volume(name) => drop(report.volumes.insert(name.clone(), status)),
            }
        }
        report
    }

    fn node_state(&self) -> String {
        let unknown = super::keys_of(&self.desired).iter().find_map(|key| {
            let holds = self.board.holds(key).iter();
            holds
                .filter(|hold| matches!(hold, Hold::NodeUnknown { .. }))
                .map(Hold::to_string)
                .next()
        });
        unknown.unwrap_or_else(|| "up".to_owned())
    }
}
