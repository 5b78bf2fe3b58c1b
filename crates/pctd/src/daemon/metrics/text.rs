//! Metrics in Prometheus's text format (0.0.4), as the textfile collector reads it. Pure.
//!
//! What can be counted is there from the start, with 0: a series that only turns up with its first
//! event hides that event from `increase()`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use pctd_core::condition::Truth;
use pctd_core::plan::{Hold, Step};
use pctd_core::report::{KeyState, KeyStatus};

use crate::controller::counters::{Measures, VERDICTS};

/// What is left when the daemon has ended.
pub(super) const STOPPED: &str =
    "# HELP pctd_up Whether the daemon runs.\n# TYPE pctd_up gauge\npctd_up 0\n";

const STATES: [(&str, KeyState); 5] = [
    ("converged", KeyState::Converged),
    ("progressing", KeyState::Progressing),
    ("held", KeyState::Held),
    ("failed", KeyState::Failed),
    ("unknown", KeyState::Unknown),
];

/// Returns all metrics.
pub(super) fn render(measures: &Measures) -> String {
    let Measures { status, counters, failing } = measures;
    let mut page = Page(String::new());
    page.one("pctd_up", "gauge", "Whether the daemon runs.", 1);
    page.family("pctd_info", "gauge", "The version of the daemon and its mode.");
    let daemon = &status.daemon;
    page.sample("pctd_info", &[("version", &daemon.version), ("mode", &daemon.mode)], 1);
    let is_up = i64::from(daemon.node == "up");
    page.one("pctd_node_up", "gauge", "Whether /etc/pve can be believed.", is_up);
    let config = &status.config;
    let valid = i64::from(config.valid);
    page.one(
        "pctd_config_valid",
        "gauge",
        "Whether the configuration files can be put in force.",
        valid,
    );
    let generation = config.generation;
    page.one(
        "pctd_config_generation",
        "gauge",
        "Counts the configurations that were put in force.",
        generation,
    );

    let containers = || status.containers.values().map(|status| ("container", status));
    let volumes = || status.volumes.values().map(|status| ("volume", status));
    let keys: Vec<(&str, &KeyStatus)> = containers().chain(volumes()).collect();
    page.family("pctd_keys", "gauge", "Containers and volumes by their state.");
    for kind in ["container", "volume"] {
        for (name, state) in STATES {
            let count = keys.iter().filter(|(of, key)| *of == kind && key.state == state).count();
            page.sample("pctd_keys", &[("kind", kind), ("state", name)], count);
        }
    }
    page.family(
        "pctd_conditions",
        "gauge",
        "Containers and volumes by condition and whether it holds.",
    );
    let mut conditions: BTreeMap<(&str, &str, &str), u64> = BTreeMap::new();
    for (kind, key) in &keys {
        for (name, condition) in &key.conditions {
            for (is, truth) in
                [("true", Truth::True), ("false", Truth::False), ("unknown", Truth::Unknown)]
            {
                let count = conditions.entry((kind, name, is)).or_default();
                *count += u64::from(condition.status == truth);
            }
        }
    }
    for ((kind, name, is), count) in conditions {
        page.sample(
            "pctd_conditions",
            &[("kind", kind), ("condition", name), ("status", is)],
            count,
        );
    }
    page.family("pctd_holds", "gauge", "Reasons to leave something as it is, for now.");
    let holds = || keys.iter().flat_map(|(_, key)| &key.holds);
    for reason in Hold::REASONS {
        let count = holds().filter(|hold| hold.reason == *reason).count();
        page.sample("pctd_holds", &[("reason", reason)], count);
    }
    page.one(
        "pctd_failing_keys",
        "gauge",
        "Containers and volumes that failed and will be tried again.",
        *failing,
    );

    page.family("pctd_steps_total", "counter", "Steps taken.");
    for name in Step::NAMES {
        let count = counters.steps.get(name).copied().unwrap_or_default();
        page.sample("pctd_steps_total", &[("step", name)], count);
    }
    page.family(
        "pctd_runs_total",
        "counter",
        "Looks at one container or volume, by what they came to.",
    );
    for name in VERDICTS {
        let count = counters.runs.get(name).copied().unwrap_or_default();
        page.sample("pctd_runs_total", &[("verdict", name)], count);
    }
    page.one(
        "pctd_walk_entries_total",
        "counter",
        "Entries that walks looked at.",
        counters.walked,
    );
    page.one("pctd_walk_changes_total", "counter", "Entries that walks changed.", counters.changed);
    drift(&mut page, measures);
    page.family("pctd_last_reconcile_timestamp_seconds", "gauge", "When a look at one ended last.");
    for (kind, at) in &counters.last_run {
        page.sample("pctd_last_reconcile_timestamp_seconds", &[("kind", kind)], at.as_second());
    }
    if let Some(at) = counters.last_survey {
        let help = "When everything was looked at last.";
        page.one("pctd_last_survey_timestamp_seconds", "gauge", help, at.as_second());
    }
    page.0
}

fn drift(page: &mut Page, measures: &Measures) {
    let volumes = &measures.status.volumes;
    let drifts =
        || volumes.iter().filter_map(|(name, key)| Some((name.as_str(), key.drift.as_ref()?)));
    page.family(
        "pctd_drift_events_total",
        "counter",
        "Changes by others that were looked at as they happened.",
    );
    for (volume, drift) in drifts() {
        page.sample("pctd_drift_events_total", &[("volume", volume)], drift.events);
    }
    page.family(
        "pctd_drift_repaired_total",
        "counter",
        "Entries that were put right as they drifted.",
    );
    for (volume, drift) in drifts() {
        page.sample("pctd_drift_repaired_total", &[("volume", volume)], drift.repaired);
    }
}

struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string cannot fail, here and below.
        let _infallible = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: impl std::fmt::Display) {
        self.family(name, kind, help);
        self.sample(name, &[], value);
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        let label = |(name, value): &(&str, &str)| format!("{name}=\"{}\"", escaped(value));
        let labels: Vec<String> = labels.iter().map(label).collect();
        let labels =
            if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _infallible = writeln!(self.0, "{name}{labels} {value}");
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_in_a_label_is_escaped() {
        let mut page = Page(String::new());
        page.sample("a_total", &[("x", "a\"b\\c\nd"), ("y", "")], 7);
        assert_eq!(page.0, "a_total{x=\"a\\\"b\\\\c\\nd\",y=\"\"} 7\n");
    }
}
