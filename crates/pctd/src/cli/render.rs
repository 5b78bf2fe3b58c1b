//! Reports as text: a plan reads like a diff, a status like a table. Pure.

use std::fmt::Write as _;

use pctd_core::condition::Truth;
use pctd_core::plan::{Effective, SetMount, SetOwnership, Step};
use pctd_core::report::{
    CheckReport, ConditionReport, InspectReport, KeyReport, KeyState, KeyStatus, PlanReport, StatusReport,
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
            Step::CreateDirectory { path } => {
                let sign = palette.paint(Tone::Add, "+");
                line(text, format_args!("  {sign} directory {path}"));
            }
            Step::SetOwnership(set) => {
                let sign = palette.paint(Tone::Change, "~");
                line(text, format_args!("  {sign} {}", ownership(set)));
            }
            Step::SetMount(set) => mount(text, set, palette),
            Step::RebootContainer { keys, others } => {
                let names: Vec<String> = keys.iter().map(ToString::to_string).collect();
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
    text.push('\n');
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
            line(&mut text, format_args!("{:<width$}  {:<11}  {}", "", "", hold.message));
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
        return format!("{} entries looked at, {} differ", progress.entries, progress.changes);
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
    let purpose = || entry.conditions.iter().find(|(name, _)| *name == "Mounted" || *name == "Owned");
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
        row(key, &format!("{} {} at {target} {}", mount.class, mount.source, options.join(" ")));
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
        line(&mut text, format_args!("{place}: {severity}: {}: {}", entry.path, entry.message));
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
