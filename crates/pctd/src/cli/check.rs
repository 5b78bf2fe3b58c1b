//! `pctd check`: validates configuration and looks at nothing else.

use std::path::PathBuf;

use pctd_core::config::{self, Place, Problem, Severity, Strictness};
use pctd_core::report::{CheckEntry, CheckReport, REPORT_VERSION};

use super::args::Global;
use super::{Ended, Failure, config_paths, print_report, render};
use crate::config_files::ConfigPaths;

pub(super) fn run(global: &Global, paths: Vec<PathBuf>, strict: bool) -> Result<Ended, Failure> {
    let paths = if paths.is_empty() {
        config_paths(global)?
    } else {
        ConfigPaths::new(paths, std::path::Path::new("/"))
    };
    let files = paths.read()?;
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
    print_report(global, &report, |palette| render::check(&report, palette))?;
    Ok(if report.valid { Ended::InSync } else { Ended::Bad })
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
