//! The status board: the last thing known of every key, and since when it is so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use pctd_core::condition::{Condition, Conditions, Truth};
use pctd_core::desired::Desired;
use pctd_core::ids::Key;
use pctd_core::ledger::Making;
use pctd_core::plan::{Hold, Reason, Step};
use pctd_core::report::{ConditionReport, KeyState, KeyStatus};
use tracing::{info, warn};

use crate::reconciler::{Outcome, Progress, Verdict, View};

/// What is known of every desired key.
#[derive(Debug, Default)]
pub(crate) struct Board {
    entries: BTreeMap<Key, Entry>,
    /// Why nothing is known of the node, if so.
    unknown: Option<String>,
}

#[derive(Debug)]
struct Entry {
    view: View,
    since: Vec<(&'static str, Timestamp)>,
    /// Whether the next convergence is worth no line in the log.
    converged_silently: bool,
    state: Option<KeyState>,
    error: Option<String>,
    progress: Option<Arc<Progress>>,
}

impl Board {
    /// Keeps an entry for every key that is desired, and no other.
    pub(crate) fn restrict(&mut self, desired: &Desired) {
        self.keep(keys_of(desired));
    }

    /// Keeps an entry for each of these keys, and no other.
    pub(crate) fn keep(&mut self, wanted: BTreeSet<Key>) {
        self.entries.retain(|key, _| wanted.contains(key));
        for key in wanted {
            self.entries.entry(key).or_default();
        }
    }

    /// Notes that a run over `key` has begun.
    pub(crate) fn begin(&mut self, key: &Key, progress: Arc<Progress>) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.progress = Some(progress);
        }
    }

    /// Enters what a survey saw of a key that nobody works on.
    pub(crate) fn survey(&mut self, key: &Key, view: View) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        let state = match (view.is_converged(), view.holds.is_empty()) {
            (true, _) => KeyState::Converged,
            // A failure stays visible until a run overcomes it.
            (false, _) if entry.error.is_some() => KeyState::Failed,
            (false, false) if view.steps.is_empty() => KeyState::Held,
            (false, _) => KeyState::Progressing,
        };
        let error = entry.error.clone().filter(|_| state == KeyState::Failed);
        note_node(&mut self.unknown, &view);
        entry.update(key, view, state, error);
    }

    /// Enters what came of a run.
    pub(crate) fn finish(&mut self, key: &Key, outcome: &Outcome) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        let Outcome { view, taken, verdict } = outcome;
        note_node(&mut self.unknown, view);
        entry.progress = None;
        // What was put right in one run never showed as anything else.
        entry.converged_silently &= taken.is_empty();
        let (state, error) = match verdict {
            Verdict::Converged => (KeyState::Converged, None),
            Verdict::Held => (KeyState::Held, None),
            Verdict::Waiting | Verdict::Cancelled => (KeyState::Progressing, None),
            Verdict::Conflict(why) | Verdict::Failed(why) => (KeyState::Failed, Some(why.clone())),
        };
        entry.update(key, view.clone(), state, error);
    }

    /// Returns every key there is something to say of.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &Key> {
        self.entries.keys()
    }

    /// Returns whether there is something to say of `key`: it is desired, or was left behind.
    pub(crate) fn knows(&self, key: &Key) -> bool {
        self.entries.contains_key(key)
    }

    /// Returns whether the last thing known of `key` is that nothing differs.
    pub(crate) fn is_converged(&self, key: &Key) -> bool {
        self.entries.get(key).is_some_and(|entry| entry.state == Some(KeyState::Converged))
    }

    /// Returns whether the last run over `key` left something undone for a reason it found.
    pub(crate) fn is_stuck(&self, key: &Key) -> bool {
        let state = self.entries.get(key).and_then(|entry| entry.state);
        matches!(state, Some(KeyState::Held | KeyState::Failed))
    }

    /// Returns a condition of `key` as last seen: whether it holds, and why.
    pub(crate) fn condition(&self, key: &Key, name: &str) -> Option<(Truth, &'static str)> {
        let conditions = &self.entries.get(key)?.view.conditions;
        let (_, found) = conditions.iter().find(|(of, _)| *of == name)?;
        Some((found.status, found.reason))
    }

    /// Returns whether `key` was ever looked at.
    pub(crate) fn is_known(&self, key: &Key) -> bool {
        self.entries.get(key).is_some_and(|entry| entry.state.is_some())
    }

    /// Returns whether a clone is about to lose what it still has of its source.
    pub(crate) fn is_finishing_clones(&self) -> bool {
        let finishes = |step: &Step| match step {
            Step::ConfigureContainer(step) => step.finishes == Some(Making::Clone),
            Step::EditConf(step) => step.finishes == Some(Making::Clone),
            _ => false,
        };
        self.entries.values().any(|entry| {
            entry.state == Some(KeyState::Progressing)
                && entry.view.steps.first().is_some_and(finishes)
        })
    }

    /// Returns the holds of `key` as last seen.
    pub(crate) fn holds(&self, key: &Key) -> &[Hold] {
        self.entries.get(key).map_or(&[], |entry| &entry.view.holds)
    }

    /// Returns every key with its status; `due` says when one is looked at next.
    pub(crate) fn statuses<'a>(
        &'a self,
        due: impl Fn(&Key) -> Option<Timestamp> + 'a,
    ) -> impl Iterator<Item = (&'a Key, KeyStatus)> {
        self.entries.iter().map(move |(key, entry)| (key, entry.status(due(key))))
    }

    /// Returns one line for `systemctl status`.
    pub(crate) fn summary(&self) -> String {
        let count = |state| self.entries.values().filter(|e| e.state == Some(state)).count();
        let total = self.entries.len();
        let mut text = format!("{} of {total} in place", count(KeyState::Converged));
        let others = [
            (KeyState::Progressing, "in progress"),
            (KeyState::Held, "held"),
            (KeyState::Failed, "failed"),
        ];
        for (state, word) in others {
            let number = count(state);
            if number > 0 {
                text = format!("{text}, {number} {word}");
            }
        }
        for (key, entry) in &self.entries {
            let progress = entry.progress.as_ref().map(|progress| progress.report());
            if let Some(progress) = progress.filter(|progress| progress.entries > 0) {
                text = format!("{text}; {key}: {progress}");
            }
        }
        text
    }
}

impl Default for Entry {
    fn default() -> Self {
        Self {
            view: View::default(),
            since: Vec::new(),
            converged_silently: true,
            state: None,
            error: None,
            progress: None,
        }
    }
}

impl Entry {
    fn update(&mut self, key: &Key, view: View, state: KeyState, error: Option<String>) {
        let before = std::mem::replace(&mut self.view, view);
        announce(key, &before, &self.view, self.error.as_deref(), error.as_deref());
        // That the node is back was said once, for all keys.
        let by_node = before.holds.iter().any(|hold| matches!(hold, Hold::NodeUnknown { .. }));
        let changed = !by_node && self.state.is_some_and(|was| was != state);
        let silent = std::mem::replace(&mut self.converged_silently, true);
        if state == KeyState::Converged && (changed || !silent) {
            log_with_key!(info, key, "converged");
        }
        let now = Timestamp::now();
        note_changes(&mut self.since, &before.conditions, &self.view.conditions, now);
        self.state = Some(state);
        self.error = error;
    }

    fn status(&self, next: Option<Timestamp>) -> KeyStatus {
        let report = |(name, condition): &(&'static str, Condition)| {
            let since = since(&self.since, name).unwrap_or_else(Timestamp::now);
            let report = ConditionReport {
                status: condition.status,
                reason: condition.reason.to_owned(),
                message: condition.message.clone().into_owned(),
                since: format!("{since:.0}"),
            };
            ((*name).to_owned(), report)
        };
        KeyStatus {
            state: self.state.unwrap_or(KeyState::Unknown),
            conditions: self.view.conditions.iter().map(report).collect(),
            holds: self.view.holds.iter().map(Reason::from).collect(),
            notices: self.view.notices.clone(),
            error: self.error.clone(),
            drift: None,
            assurance: None,
            next_retry: next.map(|at| format!("{at:.0}")),
            progress: self.progress.as_ref().map(|progress| progress.report()),
        }
    }
}

fn since(all: &[(&'static str, Timestamp)], name: &str) -> Option<Timestamp> {
    all.iter().find(|(of, _)| *of == name).map(|(_, since)| *since)
}

/// Remembers since when each condition is as it is; a new message alone is no change.
fn note_changes(
    all: &mut Vec<(&'static str, Timestamp)>,
    before: &Conditions,
    after: &Conditions,
    now: Timestamp,
) {
    *all = after
        .iter()
        .map(|(name, condition)| {
            let same = before.iter().any(|(of, was)| {
                of == name && was.status == condition.status && was.reason == condition.reason
            });
            let kept = since(all, name).filter(|_| same);
            (*name, kept.unwrap_or(now))
        })
        .collect();
}

/// Logs once for all keys that nothing is known of the node, and that it is back.
fn note_node(unknown: &mut Option<String>, view: &View) {
    let hold = view.holds.iter().find(|hold| matches!(hold, Hold::NodeUnknown { .. }));
    match (hold, unknown.as_ref()) {
        (Some(hold), None) => {
            warn!(REASON = hold.reason(), "{hold}");
            *unknown = Some(hold.to_string());
        }
        (None, Some(_)) => {
            info!("the state of /etc/pve is known again");
            *unknown = None;
        }
        _ => {}
    }
}

/// Logs holds and failures when they appear, never while they last.
fn announce(key: &Key, before: &View, after: &View, was: Option<&str>, error: Option<&str>) {
    let known = |hold: &&Hold| !before.holds.iter().any(|old| old.reason() == hold.reason());
    for hold in after.holds.iter().filter(known) {
        if hold.is_passing() {
            log_with_key!(debug, key, format_args!("held: {hold}"); REASON = hold.reason());
        } else {
            log_with_key!(warn, key, format_args!("held: {hold}"); REASON = hold.reason());
        }
    }
    for notice in after.notices.iter().filter(|notice| !before.notices.contains(notice)) {
        log_with_key!(warn, key, notice.message; REASON = notice.reason.as_str());
    }
    if let Some(error) = error.filter(|error| was != Some(*error)) {
        log_with_key!(warn, key, format_args!("failed, will retry: {error}"));
    }
}

/// Returns every key a configuration speaks of.
pub(crate) fn keys_of(desired: &Desired) -> BTreeSet<Key> {
    let volumes = desired.volumes.keys().cloned().map(Key::Volume);
    volumes.chain(desired.ctids().into_iter().map(Key::Container)).collect()
}
