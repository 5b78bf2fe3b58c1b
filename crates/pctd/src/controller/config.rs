//! The configuration in force: accepting another one, and letting go of what it no longer says.

use std::collections::BTreeSet;
use std::sync::Arc;

use pctd_core::desired::Desired;
use pctd_core::ids::Key;
use pctd_core::request::ReadFile;
use tokio::time::Instant;
use tracing::{error, info};

use super::Controller;
use super::board::keys_of;
use super::in_force::difference;
use crate::reconciler::Reconciler;

/// What became of the configuration files.
#[derive(Debug, Clone)]
pub(crate) enum ConfigEvent {
    /// They are valid.
    Accepted {
        /// What they say.
        desired: Arc<Desired>,
        /// The files that were read.
        files: Vec<ReadFile>,
    },
    /// They are not; what was in force stays in force.
    Rejected {
        /// What is wrong.
        error: String,
        /// The files that were read.
        files: Vec<String>,
    },
}

/// What is known of the configuration files.
#[derive(Debug, Default)]
pub(super) struct ConfigState {
    generation: u64,
    files: Vec<String>,
    /// What is in force was read from these.
    in_force: Vec<ReadFile>,
    error: Option<String>,
}

impl ConfigState {
    /// Counts the configurations that were put in force; 0 before the first.
    pub(super) const fn generation(&self) -> u64 {
        self.generation
    }

    /// Returns the files that were read last.
    pub(super) fn files(&self) -> &[String] {
        &self.files
    }

    /// Returns what is wrong with them, if anything is.
    pub(super) fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    /// Notes that the files are valid, and whether they say something new.
    pub(super) fn accept(&mut self, files: Vec<ReadFile>, changed: bool) {
        self.files = files.iter().map(|file| file.path.clone()).collect();
        self.in_force = files;
        self.error = None;
        self.generation += u64::from(changed);
    }

    /// Returns what became of what was in force when the files were refused.
    const fn kept(&self) -> &'static str {
        match self.generation {
            0 => "nothing is done until it is put right",
            _ => "the last good one stays in force",
        }
    }

    /// Returns why something that a client read is not applied, where it is not in force.
    pub(super) fn objection(&self, theirs: &[ReadFile]) -> Option<String> {
        let difference = difference(theirs, &self.in_force)?;
        Some(match &self.error {
            Some(error) => {
                format!("the daemon refuses its configuration, {}:\n{error}", self.kept())
            }
            None => format!(
                "the daemon has another configuration in force: {difference}; apply what it reads (again, if that was just edited), or stop it first"
            ),
        })
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
    /// Takes note of what became of the configuration files.
    pub(super) fn on_config(&mut self, event: ConfigEvent) {
        match event {
            ConfigEvent::Accepted { desired, files } => self.accept(desired, files),
            ConfigEvent::Rejected { error, files } => {
                self.settled.reject();
                if !self.config.reject(&error, files) {
                    // Said already; editors write a file more than once.
                    return;
                }
                error!("configuration refused, {}:\n{error}", self.config.kept());
            }
        }
    }

    /// Puts a configuration in force; an equal one wakes nobody.
    fn accept(&mut self, desired: Arc<Desired>, files: Vec<ReadFile>) {
        let names = files.iter().map(|file| file.path.clone()).collect();
        self.settled.accept(names, desired.volumes.is_empty(), Instant::now());
        let equal = self.config.generation() > 0 && *self.desired == *desired;
        self.config.accept(files, !equal);
        if equal {
            return;
        }
        info!(
            GENERATION = self.config.generation(),
            volumes = desired.volumes.len(),
            containers = desired.ctids().len(),
            "configuration accepted"
        );
        self.let_go(&desired);
        self.walks.restrict(&desired, Instant::now());
        self.desired = desired;
        self.board.restrict(&self.desired);
        self.retries.clear();
        self.survey();
    }

    /// Lets go of what `next` no longer declares, or declares otherwise.
    fn let_go(&mut self, next: &Desired) {
        let wanted = keys_of(next);
        let gone: Vec<Key> = keys_of(&self.desired).difference(&wanted).cloned().collect();
        for key in &gone {
            self.queue.forget(key);
            self.followers.forget(key);
            self.orders.forget(key);
        }
        // What was confirmed was the declaration of then: a new path under an old name is not it.
        let volumes = self.desired.volumes.keys();
        let other =
            volumes.filter(|name| self.desired.volumes.get(*name) != next.volumes.get(*name));
        let other = other.cloned().map(Key::Volume);
        let definitions = self.desired.containers.iter();
        let redefined = definitions.filter(|(ctid, def)| next.containers.get(ctid) != Some(*def));
        let redefined = redefined.map(|(ctid, _)| Key::Container(*ctid));
        let other: BTreeSet<Key> = other.chain(redefined).chain(gone).collect();
        self.asked.retain(|key, _| !other.contains(key));
        // A run under way that is meant otherwise now ends after the step it is at, and its key is
        // looked at once more. One whose own part is as it was goes on: an edit elsewhere must not
        // take away hours of a walk.
        let meant_otherwise =
            |key: &&Key| self.desired.part_of(key) != next.part_of(key) || !wanted.contains(key);
        for (key, run) in self.running.iter().filter(|(key, _)| meant_otherwise(key)) {
            run.cancel();
            if wanted.contains(key) {
                self.queue.add(key.clone(), Instant::now());
            }
        }
    }
}
