//! Reports as text: a plan reads like a diff, a status like a table. Pure.

use std::fmt::Write as _;

use pctd_core::condition::Truth;
use pctd_core::plan::{
    CloneContainer, ConfigureContainer, CreateCertificate, CreateContainer, EditConf, Effective,
    RemoveMount, SetMount, SetOwnership, Step,
};
use pctd_core::report::{
    CheckReport, ConditionReport, InspectReport, KeyReport, KeyState, KeyStatus, PlanReport,
    StatusReport,
};

use super::style::{Palette, Tone};

/// What the steps of a report are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tense {
    /// What would be done.
    Plan,
    /// What was done.
    Done,
}

/// Returns a plan, or what `apply` did, as text.
pub(crate) fn plan(report: &PlanReport, tense: Tense, palette: Palette) -> String {
    let mut text = String::new();
    let mut quiet = 0;
    let volumes = report.volumes.iter().map(|(name, entry)| (format!("volume {name}"), entry));
    let containers =
        report.containers.iter().map(|(ctid, entry)| (format!("container {ctid}"), entry));
    for (title, entry) in volumes.chain(containers) {
        if *entry == KeyReport::default() {
            quiet += 1;
        } else {
            key(&mut text, &title, entry, palette);
        }
    }
    let summary = report.summary;
    if summary.steps + summary.holds + summary.errors == 0 {
        let keys = report.volumes.len() + report.containers.len();
        line(&mut text, format_args!("In sync: {}.", count(keys, "key")));
        return text;
    }
    let mut parts = vec![match tense {
        Tense::Plan => count(summary.steps, "step"),
        Tense::Done => format!("{} taken", count(summary.steps, "step")),
    }];
    if summary.holds > 0 {
        parts.push(count(summary.holds, "hold"));
    }
    if summary.errors > 0 {
        parts.push(format!("{} failed", summary.errors));
    }
    if quiet > 0 {
        parts.push(format!("{quiet} in sync"));
    }
    line(&mut text, format_args!("{}.", parts.join(", ")));
    text
}

fn key(text: &mut String, title: &str, entry: &KeyReport, palette: Palette) {
    line(text, format_args!("{}", palette.paint(Tone::Heading, title)));
    for step in &entry.steps {
        match step {
            Step::CreateContainer(container) => created(text, container, palette),
            Step::CloneContainer(clone) => cloned(text, clone, palette),
            Step::ConfigureContainer(configure) => configured(text, configure, palette),
            Step::EditConf(edit) => edited(text, edit, palette),
            Step::CreateDirectory { path } => {
                let sign = palette.paint(Tone::Add, "+");
                line(text, format_args!("  {sign} directory {path}"));
            }
            Step::SetOwnership(set) => {
                let sign = palette.paint(Tone::Change, "~");
                line(text, format_args!("  {sign} {}", ownership(set)));
            }
            Step::CreateCertificate(create) => {
                let (tone, sign) =
                    if create.renew { (Tone::Change, "~") } else { (Tone::Add, "+") };
                let sign = palette.paint(tone, sign);
                let CreateCertificate { path, domain, days, .. } = create;
                let line_text =
                    format_args!("  {sign} {path}/{domain}.key and .crt, for {days} days");
                line(text, line_text);
            }
            Step::SetMount(set) => mount(text, set, palette),
            Step::StartContainer {} => {
                let sign = palette.paint(Tone::Change, "~");
                line(text, format_args!("  {sign} start, because a restart left it stopped"));
            }
            Step::RemoveMount(remove) => removal(text, remove, palette),
            Step::RebootContainer { keys, lines, others } => {
                let keys = keys.iter().map(ToString::to_string);
                let names: Vec<String> =
                    keys.chain(lines.iter().map(|l| format!("`{l}`"))).collect();
                let sign = palette.paint(Tone::Change, "~");
                line(text, format_args!("  {sign} restart, for {}", names.join(", ")));
                if !others.is_empty() {
                    let also = format!("    also takes effect: {}", others.join(", "));
                    line(text, format_args!("{}", palette.paint(Tone::Dim, also)));
                }
            }
        }
    }
    if let Some(error) = &entry.error {
        line(text, format_args!("  {} {error}", palette.paint(Tone::Bad, "failed:")));
    }
    for hold in &entry.holds {
        let reason = palette.paint(Tone::Hold, format!("! {}", hold.reason));
        line(text, format_args!("  {reason}: {}", hold.message));
    }
    for notice in &entry.notices {
        let reason = palette.paint(Tone::Dim, format!("i {}", notice.reason));
        line(text, format_args!("  {reason}: {}", notice.message));
    }
    for drift in &entry.unmanaged {
        let what = palette.paint(Tone::Dim, format!("i {} is not managed", drift.field));
        let found = drift.found.as_deref().unwrap_or("nothing");
        line(text, format_args!("  {what}: declared {}, found {found}", drift.declared));
    }
    text.push('\n');
}

fn created(text: &mut String, container: &CreateContainer, palette: Palette) {
    let CreateContainer { template, unprivileged, rootfs, storage, set } = container;
    let plus = palette.paint(Tone::Add, "+");
    let kind = if *unprivileged { "unprivileged" } else { "privileged" };
    let disk = rootfs.as_ref().or(storage.as_ref());
    let disk = disk.map_or_else(String::new, |disk| format!(", root disk {disk}"));
    line(text, format_args!("  {plus} {kind} container from {template}{disk}"));
    for (name, value) in set {
        line(text, format_args!("    {plus} {name}: {value}"));
    }
}

fn cloned(text: &mut String, clone: &CloneContainer, palette: Palette) {
    let CloneContainer { from, snapshot, hostname, storage } = clone;
    let plus = palette.paint(Tone::Add, "+");
    let word = |before: &str, value: &Option<String>| {
        value.as_ref().map_or_else(String::new, |value| format!("{before}{value}"))
    };
    let (of, name, on) =
        (word(", snapshot ", snapshot), word(", named ", hostname), word(", on ", storage));
    line(text, format_args!("  {plus} clone of {from}{of}{name}{on}"));
}

fn configured(text: &mut String, configure: &ConfigureContainer, palette: Palette) {
    for (name, value) in &configure.set {
        let sign = palette.paint(Tone::Change, "~");
        line(text, format_args!("  {sign} {name}: {value}"));
    }
    for name in &configure.delete {
        let sign = palette.paint(Tone::Bad, "-");
        line(text, format_args!("  {sign} {name}"));
    }
}

fn edited(text: &mut String, edit: &EditConf, palette: Palette) {
    for raw in &edit.remove {
        line(text, format_args!("  {} {raw}", palette.paint(Tone::Bad, "-")));
    }
    for raw in &edit.add {
        line(text, format_args!("  {} {raw}", palette.paint(Tone::Add, "+")));
    }
    let when = if edit.after_restart { "seen after a restart" } else { "seen at the next start" };
    let note = format!("    raw lines of the conf; {when}");
    line(text, format_args!("{}", palette.paint(Tone::Dim, note)));
}

fn mount(text: &mut String, set: &SetMount, palette: Palette) {
    if let Some(was) = &set.was {
        let (minus, plus) = (palette.paint(Tone::Bad, "-"), palette.paint(Tone::Add, "+"));
        line(text, format_args!("  {minus} {}: {was}", set.key));
        line(text, format_args!("  {plus} {}: {}", set.key, set.value));
    } else {
        let plus = palette.paint(Tone::Add, "+");
        line(text, format_args!("  {plus} {}: {}", set.key, set.value));
    }
    let when = match set.effective {
        Effective::Now => "plugged in at once",
        Effective::NextStart => "seen at the next start",
        Effective::AfterRestart => "seen after a restart",
    };
    let after = if set.after_volume { ", once the volume is ready" } else { "" };
    let note = format!("    volume {}; {when}{after}", set.volume);
    line(text, format_args!("{}", palette.paint(Tone::Dim, note)));
}

fn removal(text: &mut String, remove: &RemoveMount, palette: Palette) {
    let minus = palette.paint(Tone::Bad, "-");
    line(text, format_args!("  {minus} {}: {}", remove.key, remove.value));
    let what = if remove.pending { "pending, " } else { "" };
    let until = match remove.effective {
        Effective::Now | Effective::NextStart => "",
        Effective::AfterRestart => "; in force until a restart",
    };
    let note = format!("    {what}added by pctd and no longer declared{until}");
    line(text, format_args!("{}", palette.paint(Tone::Dim, note)));
}

fn ownership(set: &SetOwnership) -> String {
    let owner = set.owner.map_or_else(|| "owner kept".to_owned(), |ids| format!("owner {ids}"));
    let mut what = Vec::new();
    if set.owners > 0 {
        what.push(count_u64(set.owners, "owner"));
    }
    if set.modes > 0 {
        what.push(count_u64(set.modes, "mode"));
    }
    format!(
        "{owner} on {}: {} of {} ({})",
        set.path,
        set.changes,
        if set.entries == 1 { "1 entry".to_owned() } else { format!("{} entries", set.entries) },
        what.join(", ")
    )
}

/// Returns a status as text.
pub(crate) fn status(report: &StatusReport, palette: Palette) -> String {
    let mut text = String::new();
    let daemon = &report.daemon;
    line(
        &mut text,
        format_args!(
            "pctd {} (pid {}), {}, generation {} of {}",
            daemon.version,
            daemon.pid,
            daemon.mode,
            report.config.generation,
            report.config.files.join(", ")
        ),
    );
    if daemon.node != "up" {
        line(&mut text, format_args!("{}", palette.paint(Tone::Bad, &daemon.node)));
    }
    if let Some(error) = &report.config.error {
        let heading = "configuration refused, the last good one is in force:";
        line(&mut text, format_args!("{}\n{error}", palette.paint(Tone::Bad, heading)));
    }
    let volumes = report.volumes.iter().map(|(name, status)| (name.to_string(), status));
    let containers = report.containers.iter().map(|(ctid, status)| (ctid.to_string(), status));
    let rows: Vec<(String, &KeyStatus)> = volumes.chain(containers).collect();
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0).max(3);
    for (name, entry) in rows {
        let (word, tone) = state(entry.state);
        let word = palette.paint(tone, format!("{word:<11}"));
        line(&mut text, format_args!("{name:<width$}  {word}  {}", explanation(entry)));
        for hold in entry.holds.iter().skip(1) {
            let more = format!("{}: {}", hold.reason, hold.message);
            line(&mut text, format_args!("{:<width$}  {:<11}  {more}", "", ""));
        }
    }
    text
}

const fn state(state: KeyState) -> (&'static str, Tone) {
    match state {
        KeyState::Converged => ("converged", Tone::Add),
        KeyState::Progressing => ("progressing", Tone::Change),
        KeyState::Held => ("held", Tone::Hold),
        KeyState::Failed => ("failed", Tone::Bad),
        KeyState::Unknown => ("unknown", Tone::Dim),
    }
}

/// Returns the one line that says most about a key.
fn explanation(entry: &KeyStatus) -> String {
    if let Some(progress) = entry.progress.filter(|progress| progress.entries > 0) {
        return progress.to_string();
    }
    if let Some(error) = &entry.error {
        return error.clone();
    }
    if let Some(hold) = entry.holds.first() {
        return format!("{}: {}", hold.reason, hold.message);
    }
    // What is not so says most; else what the key is for.
    let untrue = |(name, condition): &(&String, &ConditionReport)| {
        // `Watched` says how drift is found, not whether something is wrong.
        *name != "Watched" && condition.status != Truth::True && condition.reason != "NotHere"
    };
    let purpose =
        || entry.conditions.iter().find(|(name, _)| *name == "Mounted" || *name == "Owned");
    let telling = entry.conditions.iter().find(untrue).or_else(purpose);
    telling.map_or_else(String::new, |(_, condition)| condition.message.clone())
}

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

/// Returns what `check` found as text.
pub(crate) fn check(report: &CheckReport, palette: Palette) -> String {
    let mut text = String::new();
    for entry in report.problems.iter().chain(&report.notes) {
        let tone = if entry.severity == "error" { Tone::Bad } else { Tone::Dim };
        let place = format!("{}:{}:{}", entry.file, entry.line, entry.column);
        let severity = palette.paint(tone, &entry.severity);
        let path = if entry.path.is_empty() { "the file" } else { &entry.path };
        line(&mut text, format_args!("{place}: {severity}: {path}: {}", entry.message));
    }
    let verdict = if report.valid {
        format!(
            "Valid: {}, {}.",
            count(report.volumes, "volume"),
            count(report.containers, "container")
        )
    } else {
        format!("Refused: {}.", count(report.problems.len(), "problem"))
    };
    line(&mut text, format_args!("{verdict}"));
    text
}

fn count(number: usize, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

fn count_u64(number: u64, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

fn line(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _infallible = writeln!(text, "{arguments}");
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use pctd_core::ids::{HostIds, MpKey};
    use pctd_core::plan::Reason;
    use pctd_core::report::{
        CheckEntry, ConditionReport, ConfigReport, DaemonReport, FieldReport, InspectMount,
        InspectPending, ProgressReport,
    };

    use super::*;

    fn reason(reason: &str, message: &str) -> Reason {
        Reason { reason: reason.to_owned(), message: message.to_owned() }
    }

    fn set(key: u8, value: &str, was: Option<&str>, effective: Effective) -> Step {
        Step::SetMount(SetMount {
            key: MpKey::new(key),
            value: value.to_owned(),
            was: was.map(str::to_owned),
            volume: "data".parse().unwrap(),
            effective,
            after_volume: effective == Effective::Now,
        })
    }

    fn remove(key: u8, pending: bool) -> Step {
        let effective = if pending { Effective::Now } else { Effective::AfterRestart };
        let value = "/srv/old,mp=/old".to_owned();
        Step::RemoveMount(RemoveMount { key: MpKey::new(key), value, pending, effective })
    }

    fn certificate(renew: bool) -> Step {
        Step::CreateCertificate(CreateCertificate {
            path: "/tank/data".to_owned(),
            domain: "a.example".to_owned(),
            alt_names: Vec::new(),
            days: 365,
            renew,
        })
    }

    fn own(owner: Option<HostIds>, entries: u64, owners: u64, modes: u64) -> Step {
        let (path, changes) = ("/tank/data".to_owned(), owners.max(modes));
        Step::SetOwnership(SetOwnership { path, owner, entries, changes, owners, modes })
    }

    /// A report in which every kind of step and every part of an entry occurs.
    fn full() -> PlanReport {
        let root = Some(HostIds::new(100_000, 100_000));
        let volume = KeyReport {
            steps: vec![
                Step::CreateDirectory { path: "/tank/data".to_owned() },
                own(root, 1, 1, 1),
                own(None, 12, 0, 3),
                certificate(false),
                certificate(true),
            ],
            notices: vec![reason("HardLinks", "2 entries have more than one name")],
            ..KeyReport::default()
        };
        let container = KeyReport {
            steps: vec![
                Step::CreateContainer(CreateContainer {
                    template: "local:vztmpl/a.tar.zst".to_owned(),
                    unprivileged: true,
                    rootfs: Some("quick:8".to_owned()),
                    storage: None,
                    set: BTreeMap::from([("cores".to_owned(), "2".to_owned())]),
                }),
                Step::CloneContainer(CloneContainer {
                    from: "900".parse().unwrap(),
                    snapshot: Some("ready".to_owned()),
                    hostname: Some("web".to_owned()),
                    storage: Some("quick".to_owned()),
                }),
                Step::ConfigureContainer(ConfigureContainer {
                    set: BTreeMap::from([("memory".to_owned(), "512".to_owned())]),
                    delete: vec!["onboot".to_owned()],
                    finishes: None,
                }),
                Step::EditConf(EditConf {
                    remove: vec!["lxc.idmap: u 0 100000 65536".parse().unwrap()],
                    add: vec!["lxc.idmap: u 0 100000 1000".parse().unwrap()],
                    after_restart: true,
                    finishes: None,
                }),
                Step::EditConf(EditConf {
                    add: vec!["lxc.cap.drop: x".parse().unwrap()],
                    ..EditConf::default()
                }),
                set(0, "/tank/data,mp=/data", None, Effective::Now),
                set(1, "/tank/data,mp=/b,ro=1", Some("/tank/data,mp=/b"), Effective::AfterRestart),
                set(2, "/tank/data,mp=/c", None, Effective::NextStart),
                remove(4, true),
                remove(5, false),
                Step::RebootContainer {
                    keys: vec![MpKey::new(1)],
                    lines: vec!["lxc.cap.drop: x".parse().unwrap()],
                    others: Vec::new(),
                },
                Step::RebootContainer {
                    keys: vec![MpKey::new(1), MpKey::new(3)],
                    lines: Vec::new(),
                    others: vec!["cores".to_owned(), "swap".to_owned()],
                },
                Step::StartContainer {},
            ],
            holds: vec![reason("Locked", "container 100 is locked (backup)")],
            unmanaged: vec![FieldReport {
                field: "cores".to_owned(),
                declared: "cores: 2".to_owned(),
                found: None,
            }],
            error: Some("pct exited with 255".to_owned()),
            ..KeyReport::default()
        };
        let mut report = PlanReport::empty();
        report.insert("data".parse().unwrap(), volume);
        report.insert("100".parse().unwrap(), container);
        report.insert("101".parse().unwrap(), KeyReport::default());
        report.count();
        report
    }

    #[test]
    fn a_plan_reads_like_a_diff() {
        let expected = "\
volume data
  + directory /tank/data
  ~ owner 100000:100000 on /tank/data: 1 of 1 entry (1 owner, 1 mode)
  ~ owner kept on /tank/data: 3 of 12 entries (3 modes)
  + /tank/data/a.example.key and .crt, for 365 days
  ~ /tank/data/a.example.key and .crt, for 365 days
  i HardLinks: 2 entries have more than one name

container 100
  + unprivileged container from local:vztmpl/a.tar.zst, root disk quick:8
    + cores: 2
  + clone of 900, snapshot ready, named web, on quick
  ~ memory: 512
  - onboot
  - lxc.idmap: u 0 100000 65536
  + lxc.idmap: u 0 100000 1000
    raw lines of the conf; seen after a restart
  + lxc.cap.drop: x
    raw lines of the conf; seen at the next start
  + mp0: /tank/data,mp=/data
    volume data; plugged in at once, once the volume is ready
  - mp1: /tank/data,mp=/b
  + mp1: /tank/data,mp=/b,ro=1
    volume data; seen after a restart
  + mp2: /tank/data,mp=/c
    volume data; seen at the next start
  - mp4: /srv/old,mp=/old
    pending, added by pctd and no longer declared
  - mp5: /srv/old,mp=/old
    added by pctd and no longer declared; in force until a restart
  ~ restart, for mp1, `lxc.cap.drop: x`
  ~ restart, for mp1, mp3
    also takes effect: cores, swap
  ~ start, because a restart left it stopped
  failed: pct exited with 255
  ! Locked: container 100 is locked (backup)
  i cores is not managed: declared cores: 2, found nothing

";
        let text = plan(&full(), Tense::Plan, Palette::none());
        assert_eq!(text, format!("{expected}18 steps, 1 hold, 1 failed, 1 in sync.\n"));
        let text = plan(&full(), Tense::Done, Palette::none());
        assert_eq!(text, format!("{expected}18 steps taken, 1 hold, 1 failed, 1 in sync.\n"));
    }

    #[test]
    fn every_kind_of_step_is_in_the_plan_that_is_tested() {
        let report = full();
        let entries = report.containers.values().chain(report.volumes.values());
        let names: std::collections::BTreeSet<_> =
            entries.flat_map(|entry| &entry.steps).map(Step::name).collect();
        assert_eq!(names, Step::NAMES.iter().copied().collect());
    }

    #[test]
    fn a_plan_of_nothing_is_one_line() {
        let mut report = PlanReport::empty();
        assert_eq!(plan(&report, Tense::Plan, Palette::none()), "In sync: 0 keys.\n");
        report.insert("100".parse().unwrap(), KeyReport::default());
        report.count();
        assert_eq!(plan(&report, Tense::Done, Palette::none()), "In sync: 1 key.\n");
    }

    #[test]
    fn a_notice_alone_is_shown_and_is_in_sync() {
        let notices = vec![reason("KeepAttrs", "mp0 has keepattrs=1")];
        let mut report = PlanReport::empty();
        report.insert("100".parse().unwrap(), KeyReport { notices, ..KeyReport::default() });
        report.count();
        let expected = "container 100\n  i KeepAttrs: mp0 has keepattrs=1\n\nIn sync: 1 key.\n";
        assert_eq!(plan(&report, Tense::Plan, Palette::none()), expected);
    }

    fn condition(status: Truth, message: &str) -> ConditionReport {
        let (reason, since) = ("Because".to_owned(), "2026-01-01T00:00:00Z".to_owned());
        ConditionReport { status, reason, message: message.to_owned(), since }
    }

    fn key_status(state: KeyState, conditions: &[(&str, Truth, &str)]) -> KeyStatus {
        let each = conditions.iter();
        let each = each.map(|(name, status, text)| ((*name).to_owned(), condition(*status, text)));
        KeyStatus {
            state,
            conditions: each.collect(),
            holds: Vec::new(),
            notices: Vec::new(),
            error: None,
            next_retry: None,
            progress: None,
            drift: None,
            assurance: None,
        }
    }

    fn status_report() -> StatusReport {
        let daemon = DaemonReport {
            version: "0.1.0".to_owned(),
            pid: 77,
            mode: "enforce".to_owned(),
            node: "up".to_owned(),
        };
        let files = vec!["/etc/pctd/config.json".to_owned(), "/etc/pctd/conf.d/a.json".to_owned()];
        let config = ConfigReport { valid: true, generation: 3, files, error: None };
        let (version, containers, volumes) = (1, BTreeMap::new(), BTreeMap::new());
        StatusReport { version, daemon, config, containers, volumes }
    }

    #[test]
    fn a_status_reads_like_a_table() {
        let mut report = status_report();
        let in_place = [
            ("Owned", Truth::True, "every entry was looked at"),
            ("Present", Truth::True, "on ext4:1"),
            ("Watched", Truth::False, "by the walk"),
        ];
        let mut walking = key_status(KeyState::Progressing, &in_place);
        walking.progress = Some(ProgressReport { entries: 1200, changes: 3, rate: 400 });
        let mut failed = key_status(KeyState::Failed, &[]);
        failed.error = Some("pct exited with 255".to_owned());
        let mut held = key_status(KeyState::Held, &in_place);
        held.holds =
            vec![reason("Locked", "it is locked"), reason("ForeignMount", "mp0 is in the way")];
        let differs =
            [("Defined", Truth::True, "here"), ("Mounted", Truth::False, "1 steps to take")];
        for (name, status) in
            [("data", key_status(KeyState::Converged, &in_place)), ("ssl_certs", walking)]
        {
            report.volumes.insert(name.parse().unwrap(), status);
        }
        for (id, status) in [
            ("100", key_status(KeyState::Progressing, &differs)),
            ("101", failed),
            ("102", held),
            ("103", key_status(KeyState::Unknown, &[])),
        ] {
            report.containers.insert(id.parse().unwrap(), status);
        }
        let expected = "\
pctd 0.1.0 (pid 77), enforce, generation 3 of /etc/pctd/config.json, /etc/pctd/conf.d/a.json
data       converged    every entry was looked at
ssl_certs  progressing  1200 entries, 3 differ, 400/s
100        progressing  1 steps to take
101        failed       pct exited with 255
102        held         Locked: it is locked
                        ForeignMount: mp0 is in the way
103        unknown      \n";
        assert_eq!(status(&report, Palette::none()), expected);
    }

    #[test]
    fn a_status_tells_of_the_node_and_of_a_refused_configuration() {
        let mut report = status_report();
        report.daemon.node = "the state of /etc/pve is unknown: no .vmlist".to_owned();
        report.config.valid = false;
        report.config.error = Some("config.json:3:1: no JSON".to_owned());
        let expected = "\
pctd 0.1.0 (pid 77), enforce, generation 3 of /etc/pctd/config.json, /etc/pctd/conf.d/a.json
the state of /etc/pve is unknown: no .vmlist
configuration refused, the last good one is in force:
config.json:3:1: no JSON
";
        assert_eq!(status(&report, Palette::none()), expected);
    }

    fn bind(source: &str, target: &str, options: &[(&str, &str)]) -> InspectMount {
        let each = options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let (class, target) = ("bind".to_owned(), Some(target.to_owned()));
        InspectMount { class, source: source.to_owned(), target, options: each.collect() }
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

    #[test]
    fn a_check_names_the_place_first() {
        let entry = |severity: &str, line, message: &str| CheckEntry {
            severity: severity.to_owned(),
            file: "config.json".to_owned(),
            line,
            column: 5,
            path: "shared_volumes.data".to_owned(),
            message: message.to_owned(),
        };
        let mut report = CheckReport {
            version: 1,
            valid: true,
            files: vec!["config.json".to_owned()],
            volumes: 1,
            containers: 2,
            problems: Vec::new(),
            notes: vec![entry("ignored", 7, "belongs to another tool")],
        };
        let note = "config.json:7:5: ignored: shared_volumes.data: belongs to another tool\n";
        let expected = format!("{note}Valid: 1 volume, 2 containers.\n");
        assert_eq!(check(&report, Palette::none()), expected);
        report.valid = false;
        report.problems = vec![entry("error", 3, "host_path is missing; write it")];
        let problem =
            "config.json:3:5: error: shared_volumes.data: host_path is missing; write it\n";
        let expected = format!("{problem}{note}Refused: 1 problem.\n");
        assert_eq!(check(&report, Palette::none()), expected);
    }
}
