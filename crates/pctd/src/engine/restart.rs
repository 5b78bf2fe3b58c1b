//! Restarting a container for pctd's own pending changes, and taking them back when it does not
//! come back.
//!
//! A start with a bad mount leaves a container stopped, with its old values already gone from the
//! conf (PROXMOX.md 9). So every source is looked at first, and the values in force are kept
//! until the container has been seen running again. What was stopped is owed a start: a mark in the
//! ledger outlives a crash and a start that fails, and goes when the container is seen running.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use pctd_core::conf::{Conf, MountClass, MountLine, RawLine};
use pctd_core::desired::Desired;
use pctd_core::ids::{Ctid, MpKey};
use pctd_core::ledger::{Ledger, LedgerEntry};
use pctd_core::observed::{
    BadSource, ConvertFacts, ObservedContainer, Presence, Running, Snapshot,
};
use tracing::{error, info};

use super::{Engine, StepEnd};

/// How long after `pct reboot` has returned a container may take to be seen running.
const SEEN_RUNNING: Duration = Duration::from_secs(5);

/// What a restart is made for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Waiting<'a> {
    /// Mount points of pctd's that are pending.
    pub(super) keys: &'a [MpKey],
    /// Raw lines of pctd's that came or went.
    pub(super) lines: &'a [RawLine],
    /// What others changed.
    pub(super) others: &'a [String],
}

impl Engine {
    /// Restarts a container; see the module.
    pub(super) fn restart(
        &self,
        desired: &Desired,
        snapshot: &Snapshot,
        ctid: Ctid,
        waiting: &Waiting<'_>,
    ) -> StepEnd {
        let Waiting { keys, lines, others } = *waiting;
        let Some(Presence::Here(container)) = snapshot.containers.get(&ctid) else {
            return StepEnd::Refused;
        };
        // Gone since the plan was made; the next one says so.
        if self.bad_source(&container.conf).is_some() {
            return StepEnd::Refused;
        }
        // Entered first: a crash in between must not make two restarts out of one.
        let entry = self.memory().restarts.begin(ctid);
        if let Err(error) = self.enter([entry, LedgerEntry::StartOwed(ctid)]) {
            return StepEnd::Failed(error);
        }
        let own = keys.iter().map(ToString::to_string);
        let own: Vec<String> = own.chain(lines.iter().map(ToString::to_string)).collect();
        let also = match others {
            [] => String::new(),
            others => format!("; also applies what others changed: {}", others.join(", ")),
        };
        info!(
            CTID = %ctid,
            STEP = "reboot_container",
            KEY = own.join(","),
            "{ctid}: restarting for {}{also}",
            own.join(", ")
        );
        let begun = Instant::now();
        let called = self.node.pct().reboot(ctid, desired.settings.restart_timeout);
        if self.comes_back(ctid, container) {
            let elapsed = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
            info!(CTID = %ctid, STEP = "reboot_container", ELAPSED_MS = elapsed, "{ctid}: restarted");
            // Whatever its init is: it has been started with the conf as it is.
            return match self.enter([LedgerEntry::EditWaits { ctid, edited: None }]) {
                Ok(()) => StepEnd::Done,
                Err(error) => StepEnd::Failed(error),
            };
        }
        let why = called.err().map_or_else(|| "it is not running".to_owned(), |e| e.to_string());
        match self.observe_one(ctid).map(|now| now.running) {
            // Untouched, as after a lock that was not to be had.
            Some(running) if running != Running::No => return StepEnd::Failed(why),
            // Somebody stopped it first (`VM N not running`); it is not pctd's to start.
            Some(_) if why.contains("not running") && !why.contains("PID") => {
                return match self.enter([LedgerEntry::StartSettled(ctid)]) {
                    Ok(()) => StepEnd::Conflict(why),
                    Err(error) => StepEnd::Failed(error),
                };
            }
            _ => {}
        }
        let (why, is_started) = self.take_back(ctid, container, keys, why);
        error!(CTID = %ctid, STEP = "reboot_container", "{ctid}: did not come back: {why}");
        self.memory().restart_failed.insert(ctid, why.clone());
        // What is owed is tried again, with the delays of failures.
        if is_started { StepEnd::Refused } else { StepEnd::Failed(why) }
    }

    /// Starts a container that a restart of pctd's left stopped.
    pub(super) fn start_again(&self, ctid: Ctid) -> StepEnd {
        let called = self.node.pct().start(ctid);
        // Whatever the exit code: somebody else may have started it.
        let runs = || self.observe_one(ctid).is_some_and(|now| now.running != Running::No);
        let mut is_running = runs();
        if let (Err(error), false) = (&called, is_running) {
            // A crash in the middle of a restart may have left lines it does not start with.
            match self.take_back_lines(ctid) {
                Ok(None) => {}
                Ok(Some(done)) => {
                    error!(CTID = %ctid, STEP = "start_container", "{ctid}: {error}; {done}");
                    self.memory().restart_failed.insert(ctid, error.to_string());
                    // What it says does not matter: whether it runs does.
                    drop(self.node.pct().start(ctid));
                    is_running = runs();
                }
                Err(why) => return StepEnd::Failed(format!("{error}; {why}")),
            }
        }
        match called {
            _ if is_running => {
                info!(CTID = %ctid, STEP = "start_container", "{ctid}: started again");
                StepEnd::Done
            }
            Ok(()) => StepEnd::Failed(format!("{ctid} was started and is not running")),
            Err(error) => StepEnd::Failed(error.to_string()),
        }
    }

    /// Returns what keeps containers from starting, for those whose start may be due.
    pub(super) fn bad_sources(
        &self,
        containers: &BTreeMap<Ctid, Presence>,
        ledger: &Ledger,
        converting: &BTreeMap<Ctid, ConvertFacts>,
    ) -> BTreeMap<Ctid, BadSource> {
        let bad = |(ctid, presence): (&Ctid, &Presence)| {
            let Presence::Here(container) = presence else { return None };
            let is_due = match container.running {
                Running::No => ledger.start_owed.contains(ctid),
                Running::Yes { .. } => {
                    !container.conf.pending.is_empty()
                        || ledger.edited.contains_key(ctid)
                        || converting.contains_key(ctid)
                }
            };
            let found = is_due.then(|| self.bad_source(&container.conf)).flatten()?;
            Some((*ctid, found))
        };
        containers.iter().filter_map(bad).collect()
    }

    /// Returns what the container would not start with of what it mounts.
    pub(super) fn bad_source(&self, conf: &Conf) -> Option<BadSource> {
        let mut after: BTreeMap<MpKey, _> = conf.mounts().iter().map(|(k, m)| (*k, m)).collect();
        after.extend(conf.pending_mounts().iter().map(|(k, m)| (*k, m)));
        let binds = after.into_iter().filter(|(key, _)| !conf.pending_delete(*key));
        let sources = binds.filter_map(|(_, mount)| {
            let mp = mount.parsed.as_ref().ok()?;
            (mp.class == MountClass::Bind).then(|| mp.volume.to_string())
        });
        let missing = sources.into_iter().find(|source| !self.node.is_bind_source(source));
        missing.map(BadSource::Missing).or_else(|| {
            let entries = MountLine::of(&conf.current).map(|(line, _)| line);
            let is_unprivileged = conf.is_effectively_unprivileged();
            let mut of_host = entries.filter(|line| line.source.starts_with(b"/"));
            of_host.find_map(|line| self.node.fault_of(&line, is_unprivileged))
        })
    }

    /// Waits until the container runs with another init than before.
    fn comes_back(&self, ctid: Ctid, before: &ObservedContainer) -> bool {
        let old = init_of(before);
        let deadline = Instant::now() + SEEN_RUNNING;
        loop {
            if let Some(now) = self.observe_one(ctid)
                && now.running != Running::No
                && (old.is_none() || init_of(&now) != old)
            {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Returns a container as it is now, where it is here.
    pub(super) fn observe_one(&self, ctid: Ctid) -> Option<ObservedContainer> {
        match self.node.observe_containers(&BTreeSet::from([ctid])).remove(&ctid) {
            Some(Presence::Here(container)) => Some(*container),
            _ => None,
        }
    }

    /// Puts the old mounts back and starts the container; returns what there is to say of it, and
    /// whether it was started.
    fn take_back(
        &self,
        ctid: Ctid,
        before: &ObservedContainer,
        keys: &[MpKey],
        mut why: String,
    ) -> (String, bool) {
        for key in keys {
            // What was to go does not come back: the container does not need it to start.
            if before.conf.pending_delete(*key) {
                continue;
            }
            let Some(old) = before.conf.mounts().get(key).map(|mount| mount.raw.to_string()) else {
                continue;
            };
            let Some(now) = self.observe_one(ctid) else { continue };
            if now.running != Running::No {
                continue;
            }
            let digest = now.conf.digest.to_string();
            let put =
                self.node.pct().set_mount(ctid, *key, &old, &digest).map_err(|e| e.to_string());
            let was_own = self.node.ledger().ledger().is_own_mount(ctid, *key, old.as_bytes());
            let entry = if was_own {
                LedgerEntry::MountWritten { ctid, key: *key, value: old }
            } else {
                LedgerEntry::MountForgotten { ctid, key: *key }
            };
            if let Err(error) = put.and_then(|()| self.enter([entry])) {
                why.extend(["; ", &key.to_string(), " could not be put back: ", &error]);
            }
        }
        let put_back = match self.take_back_lines(ctid) {
            Ok(Some(done)) => done,
            Ok(None) => "its old mounts were put back",
            Err(error) => {
                why.extend(["; its raw lines could not be put back: ", &error]);
                "its old mounts were put back"
            }
        };
        match self.node.pct().start(ctid) {
            Ok(()) => {
                why.extend(["; ", put_back, " and it was started"]);
                (why, true)
            }
            Err(error) => {
                why.extend(["; ", put_back, ", and starting it failed: ", &error.to_string()]);
                (why, false)
            }
        }
    }
}

const fn init_of(container: &ObservedContainer) -> Option<u32> {
    match container.running {
        Running::Yes { init, .. } => init,
        Running::No => None,
    }
}
