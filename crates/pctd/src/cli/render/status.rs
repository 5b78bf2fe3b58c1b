//! A status: it reads like a table.

use pctd_core::condition::Truth;
use pctd_core::report::{ConditionReport, KeyState, KeyStatus, StatusReport};

use super::line;
use crate::cli::style::{Palette, Tone};

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

/// Returns a status as what a terminal of so many columns and rows is to show now.
pub(crate) fn page(
    report: &StatusReport,
    palette: Palette,
    size: Option<(usize, usize)>,
) -> String {
    let table = status(report, palette);
    let (columns, rows) = size.unwrap_or((usize::MAX, usize::MAX));
    let lines: Vec<&str> = table.lines().collect();
    // Home, each line to its end, and what the last page left below.
    let mut text = "\x1b[H".to_owned();
    let shown = if lines.len() > rows { rows.saturating_sub(1) } else { lines.len() };
    let more = lines.len() - shown;
    let last = (more > 0).then(|| format!("... {more} more lines"));
    let page: Vec<String> =
        lines[..shown].iter().map(|line| fit(line, columns)).chain(last).collect();
    text.push_str(&page.join("\x1b[K\r\n"));
    text.push_str("\x1b[K\x1b[J");
    text
}

/// Cuts a line off after so many columns; what only sets a colour takes none.
fn fit(line: &str, columns: usize) -> String {
    let (mut text, mut used, mut in_colour) = (String::new(), 0, false);
    for c in line.chars() {
        if c == '\x1b' || in_colour {
            in_colour = c == '\x1b' || c != 'm';
            text.push(c);
        } else if used < columns {
            used += 1;
            text.push(c);
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use pctd_core::plan::Reason;
    use pctd_core::report::{ConfigReport, DaemonReport, ProgressReport};

    use super::*;

    fn reason(reason: &str, message: &str) -> Reason {
        Reason { reason: reason.to_owned(), message: message.to_owned() }
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
}
