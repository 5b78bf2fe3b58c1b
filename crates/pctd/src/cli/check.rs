//! `pctd check`: validates configuration and looks at nothing else.

use std::path::PathBuf;

use pctd_core::config::{self, Place, Problem, Severity, Strictness};
use pctd_core::report::{CheckEntry, CheckReport, REPORT_VERSION};
use pctd_node::trusted::Flaw;

use super::args::Global;
use super::{Ended, Failure, config_paths, named_paths, print_report, render};
use crate::config_files::Files;

pub(super) fn run(global: &Global, paths: Vec<PathBuf>, strict: bool) -> Result<Ended, Failure> {
    let paths = if paths.is_empty() { config_paths(global)? } else { named_paths(global, paths)? };
    let Files { files, flaws } = paths.read()?;
    let names = files.iter().map(|(name, _)| name.clone()).collect();
    let strictness = if strict { Strictness::Strict } else { Strictness::Lenient };
    let mut report = CheckReport {
        version: REPORT_VERSION,
        valid: true,
        files: names,
        volumes: 0,
        containers: 0,
        problems: Vec::new(),
        notes: Vec::new(),
    };
    match config::load(&files, strictness) {
        Ok(loaded) => {
            report.volumes = loaded.desired.volumes.len();
            report.containers = loaded.desired.containers.len();
            let notes = loaded.notes.iter();
            report.notes = notes.map(|n| entry(word(n.severity), &n.place, &n.message)).collect();
        }
        Err(problems) => {
            report.valid = false;
            let each = problems.problems.iter();
            report.problems = each.map(|p| entry("error", &p.place, &told(p))).collect();
            let notes = problems.notes.iter();
            report.notes = notes.map(|n| entry(word(n.severity), &n.place, &n.message)).collect();
        }
    }
    // What others could change is not put in force, whatever it says now.
    report.valid &= flaws.is_empty();
    report.problems.splice(0..0, flaws.iter().map(exposed));
    print_report(global, &report, |palette| render::check(&report, palette))?;
    Ok(if report.valid { Ended::InSync } else { Ended::Bad })
}

fn exposed(flaw: &Flaw) -> CheckEntry {
    let file = flaw.path.display().to_string();
    let place = Place { file, line: 1, column: 1, json_path: String::new() };
    entry("error", &place, &flaw.to_string())
}

fn told(problem: &Problem) -> String {
    match &problem.remedy {
        Some(remedy) => format!("{}; {remedy}", problem.message),
        None => problem.message.clone(),
    }
}

const fn word(severity: Severity) -> &'static str {
    match severity {
        Severity::Warning => "warning",
        Severity::Ignored => "ignored",
    }
}

fn entry(severity: &str, place: &Place, message: &str) -> CheckEntry {
    CheckEntry {
        severity: severity.to_owned(),
        file: place.file.clone(),
        line: place.line,
        column: place.column,
        path: place.json_path.clone(),
        message: message.to_owned(),
    }
}
