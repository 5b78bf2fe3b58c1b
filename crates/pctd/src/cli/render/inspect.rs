//! A container as pctd reads it, row by row.

use pctd_core::report::InspectReport;

use super::line;
use crate::cli::style::{Palette, Tone};

/// Returns a container as text.
pub(crate) fn inspect(report: &InspectReport, palette: Palette) -> String {
    let mut text = String::new();
    let title = format!("container {}", report.ctid);
    line(&mut text, format_args!("{}", palette.paint(Tone::Heading, title)));
    let mut row = |name: &str, value: &str| line(&mut text, format_args!("  {name:<13} {value}"));
    row("presence", &report.presence);
    if let Some(unprivileged) = report.unprivileged {
        row("privilege", if unprivileged { "unprivileged" } else { "privileged" });
        row("running", if report.running { "yes" } else { "no" });
    }
    for (kind, container, host, count) in &report.idmap {
        row("id map", &format!("{kind} {container} -> {host}, {count} ids"));
    }
    if let Some(root) = report.root {
        row("root", &format!("{root} on the host"));
    }
    if let Some(why) = &report.not_ready {
        row("not ready", why);
    }
    for (key, mount) in &report.mounts {
        let options: Vec<_> = mount.options.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let target = mount.target.as_deref().unwrap_or("?");
        let text = format!("{} {} at {target} {}", mount.class, mount.source, options.join(" "));
        row(key, text.trim_end());
        if let Some(ids) = &mount.ids {
            row("", ids);
        }
    }
    for (name, value) in &report.pending.set {
        row("pending", &format!("{name}: {value}"));
    }
    for name in &report.pending.delete {
        row("pending", &format!("{name} goes away"));
    }
    if !report.snapshots.is_empty() {
        row("snapshots", &report.snapshots.join(", "));
    }
    if let Some(lock) = &report.lock {
        row("lock", lock);
    }
    for (is, name) in [(report.template, "template"), (report.protection, "protection")] {
        if is {
            row(name, "yes");
        }
    }
    if let Some(digest) = &report.digest {
        row("digest", digest);
    }
    for warning in &report.warnings {
        row("warning", warning.trim_end());
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use pctd_core::ids::HostIds;
    use pctd_core::report::{InspectMount, InspectPending};

    use super::*;

    fn bind(source: &str, target: &str, options: &[(&str, &str)]) -> InspectMount {
        let each = options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let (class, target) = ("bind".to_owned(), Some(target.to_owned()));
        InspectMount {
            class,
            source: source.to_owned(),
            target,
            options: each.collect(),
            ids: Some("every id inside is the same on disk".to_owned()),
        }
    }

    fn absent() -> InspectReport {
        InspectReport {
            version: 1,
            ctid: "100".parse().unwrap(),
            presence: "absent".to_owned(),
            unprivileged: None,
            idmap: Vec::new(),
            root: None,
            not_ready: Some("there is no such container".to_owned()),
            mounts: BTreeMap::new(),
            pending: InspectPending::default(),
            snapshots: Vec::new(),
            lock: None,
            template: false,
            protection: false,
            digest: None,
            running: false,
            warnings: Vec::new(),
        }
    }

    #[test]
    fn a_container_is_inspected_row_by_row() {
        let invalid = InspectMount {
            class: "invalid".to_owned(),
            source: "no mount point".to_owned(),
            target: None,
            options: BTreeMap::new(),
            ids: None,
        };
        let report = InspectReport {
            presence: "here".to_owned(),
            unprivileged: Some(true),
            idmap: vec![("u".to_owned(), 0, 100_000, 65_536), ("g".to_owned(), 0, 100_000, 65_536)],
            root: Some(HostIds::new(100_000, 100_000)),
            not_ready: Some("a task holds its lock".to_owned()),
            mounts: BTreeMap::from([
                ("mp0".to_owned(), bind("/tank/data", "/data", &[("backup", "0"), ("ro", "1")])),
                ("mp1".to_owned(), invalid),
            ]),
            pending: InspectPending {
                set: BTreeMap::from([("mp2".to_owned(), "/srv/b,mp=/b".to_owned())]),
                delete: vec!["swap".to_owned()],
            },
            snapshots: vec!["after".to_owned(), "before".to_owned()],
            lock: Some("backup".to_owned()),
            template: true,
            protection: true,
            digest: Some("da39a3ee5e6b4b0d3255bfef95601890afd80709".to_owned()),
            running: true,
            warnings: vec!["vm 100 - unable to parse config: x\n".to_owned()],
            ..absent()
        };
        let expected = "\
container 100
  presence      here
  privilege     unprivileged
  running       yes
  id map        u 0 -> 100000, 65536 ids
  id map        g 0 -> 100000, 65536 ids
  root          100000:100000 on the host
  not ready     a task holds its lock
  mp0           bind /tank/data at /data backup=0 ro=1
                every id inside is the same on disk
  mp1           invalid no mount point at ?
  pending       mp2: /srv/b,mp=/b
  pending       swap goes away
  snapshots     after, before
  lock          backup
  template      yes
  protection    yes
  digest        da39a3ee5e6b4b0d3255bfef95601890afd80709
  warning       vm 100 - unable to parse config: x
";
        assert_eq!(inspect(&report, Palette::none()), expected);
    }

    #[test]
    fn a_container_that_is_not_here_has_few_rows() {
        let expected = "\
container 100
  presence      absent
  not ready     there is no such container
";
        assert_eq!(inspect(&absent(), Palette::none()), expected);
    }
}
