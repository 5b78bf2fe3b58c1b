//! `settings`, gathered from all files.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::time::Duration;

use super::document::{Node, Spot};
use super::report::{Complaint, Report};
use super::shape::ALWAYS_ALLOWED;
use super::syntax;
use crate::desired::{Field, IdmapFallback, IdmapSource, Mode, Restart, Settings};

/// Returns the settings; a file may give some and another file others.
pub(super) fn read(roots: &[Node<'_>], report: &mut Report<'_>) -> Settings {
    let mut given: BTreeMap<&str, (Spot, Node<'_>)> = BTreeMap::new();
    for section in roots.iter().filter_map(|root| root.get("settings")) {
        for (key, key_spot, value) in section.members() {
            if ALWAYS_ALLOWED.contains(&key) {
                continue;
            }
            if let Some((first, _)) = given.get(key) {
                let first = report.place(first).position();
                report.problem(
                    &key_spot,
                    Complaint::new(format!("this setting is there twice, first at {first}"))
                        .or("keep one of them"),
                );
                continue;
            }
            given.insert(key, (key_spot, value));
        }
    }
    let settings = Given(&given).settings();
    if settings.retry_initial > settings.retry_max
        && let Some((_, at)) = given.get("retry_initial").or_else(|| given.get("retry_max"))
    {
        let (first, longest) = (settings.retry_initial, settings.retry_max);
        let (first, longest) =
            (humantime::format_duration(first), humantime::format_duration(longest));
        report.problem(
            &at.spot,
            Complaint::new(format!(
                "the first delay retry_initial (\"{first}\") is longer than the longest retry_max (\"{longest}\")"
            )),
        );
    }
    settings
}

struct Given<'g, 't>(&'g BTreeMap<&'t str, (Spot, Node<'t>)>);

impl<'t> Given<'_, 't> {
    /// What has the wrong shape was reported already, and counts as not given here.
    fn settings(&self) -> Settings {
        let default = Settings::default();
        let choice = |key| self.node(key).and_then(Node::text);
        Settings {
            mode: match choice("mode") {
                Some("enforce") => Mode::Enforce,
                Some("observe") => Mode::Observe,
                _ => default.mode,
            },
            seed_defaults: self.boolean("seed_defaults", default.seed_defaults),
            confirm_above: self.whole("confirm_above").unwrap_or(default.confirm_above),
            resync_interval: self.duration("resync_interval", default.resync_interval),
            verify_interval: self.duration("verify_interval", default.verify_interval),
            poll_interval: self.duration("poll_interval", default.poll_interval),
            retry_initial: self.duration("retry_initial", default.retry_initial),
            retry_max: self.duration("retry_max", default.retry_max),
            hold_interval: self.duration("hold_interval", default.hold_interval),
            idmap_source: match choice("idmap_source") {
                Some("effective") => IdmapSource::Effective,
                Some("explicit") => IdmapSource::Explicit,
                _ => default.idmap_source,
            },
            idmap_timeout: self.duration("idmap_timeout", default.idmap_timeout),
            idmap_fallback: match choice("idmap_fallback") {
                Some("wait") => IdmapFallback::Wait,
                Some("nobody") => IdmapFallback::Nobody,
                _ => default.idmap_fallback,
            },
            restart: match choice("restart") {
                Some("if_pending") => Restart::IfPending,
                Some("never") => Restart::Never,
                _ => default.restart,
            },
            restart_timeout: self.duration("restart_timeout", default.restart_timeout),
            restart_limit: self.duration("restart_limit", default.restart_limit),
            create_containers: self.boolean("create_containers", default.create_containers),
            prune: self.boolean("prune", default.prune),
            watch_cpu: self
                .whole("watch_cpu")
                .and_then(|percent| u32::try_from(percent).ok())
                .unwrap_or(default.watch_cpu),
            undo_mb: self.whole("undo_mb").unwrap_or(default.undo_mb),
            max_concurrent: self
                .whole("max_concurrent")
                .and_then(|count| usize::try_from(count).ok())
                .unwrap_or(default.max_concurrent),
            walk_threads: self
                .whole("walk_threads")
                .and_then(|count| usize::try_from(count).ok())
                .and_then(NonZeroUsize::new),
            manage: self
                .node("manage")
                .into_iter()
                .flat_map(Node::items)
                .filter_map(|item| Field::named(item.text()?))
                .collect(),
            pct_timeout: self.duration("pct_timeout", default.pct_timeout),
            create_timeout: self.duration("create_timeout", default.create_timeout),
            node: choice("node").map(str::to_owned),
            status_group: choice("status_group").map(str::to_owned),
            metrics_file: choice("metrics_file").map(str::to_owned),
        }
    }

    fn node(&self, key: &str) -> Option<&Node<'t>> {
        self.0.get(key).map(|(_, node)| node)
    }

    fn boolean(&self, key: &str, default: bool) -> bool {
        self.node(key).and_then(Node::boolean).unwrap_or(default)
    }

    fn whole(&self, key: &str) -> Option<u64> {
        self.node(key).and_then(Node::whole)
    }

    fn duration(&self, key: &str, default: Duration) -> Duration {
        let text = self.node(key).and_then(Node::text);
        text.and_then(|text| syntax::duration(text, Duration::ZERO).ok()).unwrap_or(default)
    }
}

#[cfg(test)]
mod tests {
    use super::super::fields::SETTINGS;
    use super::super::{Strictness, load};
    use super::*;

    fn load_text(text: &str) -> Settings {
        load(&[("a.json".into(), text.as_bytes().to_vec())], Strictness::Strict)
            .map(|loaded| loaded.desired.settings)
            .unwrap()
    }

    #[test]
    fn the_documented_defaults_are_the_ones_in_force() {
        let given: Vec<String> = SETTINGS
            .fields
            .iter()
            .filter_map(|field| field.default.map(|json| format!("\"{}\": {json}", field.name)))
            .collect();
        assert_eq!(
            load_text(&format!("{{\"settings\": {{{}}}}}", given.join(","))),
            Settings::default()
        );
        assert_eq!(load_text("{}"), Settings::default());
        let without = SETTINGS.fields.iter().filter(|field| field.default.is_none());
        let without: Vec<&str> = without.map(|field| field.name).collect();
        assert_eq!(without, ["node", "status_group", "metrics_file"]);
    }

    #[test]
    fn every_setting_takes_effect() {
        let settings = load_text(
            r#"{"settings": {"mode": "observe", "seed_defaults": false, "confirm_above": 0,
                "resync_interval": "1h", "verify_interval": "1d", "poll_interval": "100ms",
                "retry_initial": "1s", "retry_max": "1m 30s", "hold_interval": "3s",
                "idmap_source": "explicit", "idmap_timeout": "0", "idmap_fallback": "nobody",
                "restart": "never", "restart_timeout": "1s", "restart_limit": "0s",
                "create_containers": false, "prune": true, "watch_cpu": 5, "undo_mb": 0, "max_concurrent": 1,
                "walk_threads": 3, "manage": ["cores", "name"], "pct_timeout": "1m",
                "create_timeout": "2h", "node": "pve-1",
                "status_group": "adm", "metrics_file": "/var/lib/a.prom"}}"#,
        );
        let expected = Settings {
            mode: Mode::Observe,
            seed_defaults: false,
            confirm_above: 0,
            resync_interval: Duration::from_hours(1),
            verify_interval: Duration::from_hours(24),
            poll_interval: Duration::from_millis(100),
            retry_initial: Duration::from_secs(1),
            retry_max: Duration::from_secs(90),
            hold_interval: Duration::from_secs(3),
            idmap_source: IdmapSource::Explicit,
            idmap_timeout: Duration::ZERO,
            idmap_fallback: IdmapFallback::Nobody,
            restart: Restart::Never,
            restart_timeout: Duration::from_secs(1),
            restart_limit: Duration::ZERO,
            create_containers: false,
            prune: true,
            watch_cpu: 5,
            undo_mb: 0,
            max_concurrent: 1,
            walk_threads: NonZeroUsize::new(3),
            manage: [Field::Name, Field::Cores].into(),
            pct_timeout: Duration::from_mins(1),
            create_timeout: Duration::from_hours(2),
            node: Some("pve-1".into()),
            status_group: Some("adm".into()),
            metrics_file: Some("/var/lib/a.prom".into()),
        };
        assert_eq!(settings, expected);
    }
}
