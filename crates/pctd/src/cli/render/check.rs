//! What `check` found: the place first, as compilers have it.

use pctd_core::report::CheckReport;

use super::{count, line};
use crate::cli::style::{Palette, Tone};

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

#[cfg(test)]
mod tests {
    use pctd_core::report::CheckEntry;

    use super::*;

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
