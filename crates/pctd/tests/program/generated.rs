//! What the program generates and what of it is committed.

use crate::support::{pctd, workspace};

/// What `pctd schema` can print, and the file it is committed as.
const SCHEMAS: [(&str, &str); 8] = [
    ("config", "config/pctd.schema.json"),
    ("plan", "config/report-plan.schema.json"),
    ("status", "config/report-status.schema.json"),
    ("inspect", "config/report-inspect.schema.json"),
    ("check", "config/report-check.schema.json"),
    ("doctor", "config/report-doctor.schema.json"),
    ("undo", "config/report-undo.schema.json"),
    ("shift", "config/report-shift.schema.json"),
];

const SHELLS: [&str; 3] = ["bash", "zsh", "fish"];

/// Returns the commands, as `pctd --help` lists them.
fn commands() -> Vec<String> {
    let help = pctd(&["--help"]).stdout;
    let list = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let names =
        list.take_while(|line| !line.is_empty()).filter_map(|l| l.split_whitespace().next());
    names.map(str::to_owned).collect()
}

#[test]
fn committed_schemas_are_what_the_program_prints() {
    for (of, file) in SCHEMAS {
        let committed = std::fs::read_to_string(workspace().join(file)).unwrap();
        let ran = pctd(&["schema", of]);
        assert_eq!(ran.code, Some(0), "{of}: {}", ran.stderr);
        // Not assert_eq: nobody reads two schemas on one line.
        assert!(ran.stdout == committed, "run `pctd schema {of} > {file}`");
    }
}

#[test]
fn every_schema_the_program_offers_is_committed() {
    let help = pctd(&["schema", "--help"]).stdout;
    let offered: Vec<&str> = help
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- ")?.split_once(':'))
        .map(|(name, _)| name)
        .filter(|name| !["text", "json", "json-pretty"].contains(name))
        .collect();
    assert_eq!(offered, SCHEMAS.map(|(of, _)| of));
}

#[test]
fn shipped_configurations_are_valid_and_say_nothing_in_vain() {
    for (file, verdict) in [
        ("config/config.json", "Valid: 0 volumes, 0 containers.\n"),
        ("config/example.json", "Valid: 6 volumes, 4 containers.\n"),
    ] {
        let path = workspace().join(file).display().to_string();
        let ran = pctd(&["check", "--strict", &path]);
        assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.as_str()), (Some(0), verdict, ""));
    }
}

#[test]
fn every_command_has_a_manual_page_and_is_in_the_main_one() {
    let commands = commands();
    assert_eq!(commands.len(), 12, "{commands:?}");
    let main = pctd(&["man"]).stdout;
    for command in &commands {
        assert!(main.contains(&format!("pctd\\-{command}(8)")), "{command} is not in `pctd man`");
        let page = pctd(&["man", command]);
        assert_eq!(page.code, Some(0), "{command}: {}", page.stderr);
        assert!(page.stdout.contains(&format!(".TH pctd-{command} 8")), "{command}: no title");
    }
}

#[test]
fn completions_know_every_command() {
    for shell in SHELLS {
        let ran = pctd(&["completions", shell]);
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{shell}");
        for command in commands() {
            assert!(ran.stdout.contains(&command), "{shell} does not complete `{command}`");
        }
    }
}

#[test]
fn a_row_of_the_documentation_is_there_for_every_hold_and_every_command() {
    let text = std::fs::read_to_string(workspace().join("docs/OPERATION.md")).unwrap();
    let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("| `")).collect();
    for hold in pctd_core::plan::Hold::REASONS {
        let row = format!("| `{hold}` |");
        assert!(rows.iter().any(|line| line.starts_with(&row)), "no row for the hold {hold}");
    }
    for command in commands() {
        let starts = [format!("| `{command}` |"), format!("| `{command} ")];
        let is_there = rows.iter().any(|line| starts.iter().any(|start| line.starts_with(start)));
        assert!(is_there, "no row for the command {command}");
    }
}
