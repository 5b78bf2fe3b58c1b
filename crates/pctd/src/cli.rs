//! The commands: from what was typed to an exit code.
//!
//! Exit codes are part of the contract: 0 in sync or done, 1 failure, 2 wrong usage, 3 something
//! differs or is held.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};
use pctd_core::doctor::DoctorReport;
use pctd_core::ids::Key;
use pctd_core::order::{ShiftOrder, UndoOrder};
use pctd_core::report;
use pctd_core::shift::{Ranges, Shift};
use pctd_node::{NodeOptions, NodePaths};
use serde::Serialize;

use crate::config_files::{ConfigPaths, Trust, chain};
use crate::daemon;
use crate::engine::Engine;
use crate::log::{self, Verbosity};

mod apply;
mod args;
mod check;
mod client;
mod doctor;
mod inspect;
mod order;
mod plan;
mod progress;
mod render;
mod shift;
mod status;
mod style;
mod undo;

use args::{Cli, Command, Global, OutputFormat, SchemaOf};

/// Something differs, or is held.
const DIFFERS: u8 = 3;

/// A problem that nobody can wait out.
type Failure = Box<dyn std::error::Error>;

/// How a command ended, if it did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// In sync, or done.
    InSync,
    /// Something differs, or is held.
    Differs,
    /// It did what it is for, and what it found is bad.
    Bad,
}

/// Runs pctd with these arguments, the program's name first.
pub(crate) fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors, and clap knows which stream each belongs to. Where
            // even that cannot be written, there is nobody to tell.
            let _unwritable = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    match dispatch(cli) {
        Ok(Ended::InSync) => ExitCode::SUCCESS,
        Ok(Ended::Differs) => ExitCode::from(DIFFERS),
        Ok(Ended::Bad) => ExitCode::FAILURE,
        Err(error) => {
            let _unwritable = writeln!(io::stderr(), "pctd: {}", chain(&*error));
            ExitCode::FAILURE
        }
    }
}

fn dispatch(cli: Cli) -> Result<Ended, Failure> {
    let global = cli.global;
    match cli.command {
        Command::Run => {
            log::init(verbosity(&global, Verbosity::Normal));
            let config = config_paths(&global)?;
            daemon::run(open_engine(&global)?, config)?;
            Ok(Ended::InSync)
        }
        Command::Plan { keys } => {
            log::init(verbosity(&global, Verbosity::Quiet));
            plan::run(&global, &keys)
        }
        Command::Apply { keys, yes } => {
            log::init(verbosity(&global, Verbosity::Quiet));
            apply::run(&global, &keys, yes)
        }
        Command::Status { keys, watch } => status::run(&global, &keys, watch),
        Command::Check { paths, strict } => check::run(&global, paths, strict),
        Command::Inspect { ctid } => inspect::run(&global, ctid),
        Command::Doctor { ctid, path } => doctor::run(&global, ctid, path.as_deref()),
        Command::Undo { volume: None, .. } => undo::list_all(&global),
        Command::Undo { volume: Some(volume), list: true, .. } => undo::list(&global, &volume),
        Command::Undo { volume: Some(volume), list: false, back_to, setuid, dry_run } => {
            log::init(verbosity(&global, Verbosity::Quiet));
            undo::run(&global, UndoOrder { volume, back_to, setuid, dry_run })
        }
        Command::Shift { volume, from, to, count, dry_run, live } => {
            log::init(verbosity(&global, Verbosity::Quiet));
            let shift = Shift::new(Ranges { from, to, count })?;
            shift::run(&global, ShiftOrder { volume, shift, dry_run, live })
        }
        Command::Schema { of } => {
            let schema = match of {
                SchemaOf::Config => pctd_core::config::schema(),
                SchemaOf::Plan => schemars::schema_for!(report::PlanReport).to_value(),
                SchemaOf::Status => schemars::schema_for!(report::StatusReport).to_value(),
                SchemaOf::Inspect => schemars::schema_for!(report::InspectReport).to_value(),
                SchemaOf::Check => schemars::schema_for!(report::CheckReport).to_value(),
                SchemaOf::Shift => schemars::schema_for!(report::ShiftReport).to_value(),
                SchemaOf::Undo => schemars::schema_for!(report::UndoReport).to_value(),
                SchemaOf::Doctor => schemars::schema_for!(DoctorReport).to_value(),
            };
            print(&format!("{}\n", serde_json::to_string_pretty(&schema)?))?;
            Ok(Ended::InSync)
        }
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "pctd", &mut script);
            print(&String::from_utf8_lossy(&script))?;
            Ok(Ended::InSync)
        }
        Command::Man { command } => man(command.as_deref()),
    }
}

fn man(name: Option<&str>) -> Result<Ended, Failure> {
    let mut all = Cli::command();
    all.build();
    let command = match name {
        None => all,
        Some(name) => {
            let found = all.find_subcommand(name).cloned();
            let found = found.ok_or_else(|| format!("there is no command `{name}`"))?;
            let title: &'static str = Box::leak(format!("pctd-{name}").into_boxed_str());
            found.name(title)
        }
    };
    let mut page = Vec::new();
    // Section 8: a daemon, and commands for whoever administers the node.
    clap_mangen::Man::new(command).section("8").render(&mut page)?;
    print(&String::from_utf8_lossy(&page))?;
    Ok(Ended::InSync)
}

const fn verbosity(global: &Global, usual: Verbosity) -> Verbosity {
    match (global.verbose, global.quiet) {
        (true, _) => Verbosity::Verbose,
        (false, true) => Verbosity::Quiet,
        (false, false) => usual,
    }
}

/// Returns where the configuration is that is in force, or is to be.
fn config_paths(global: &Global) -> Result<ConfigPaths, Failure> {
    let absolute: io::Result<Vec<PathBuf>> =
        global.config.iter().map(std::path::absolute).collect();
    named_paths(global, absolute?)
}

/// Returns these paths, or where the configuration is by default.
fn named_paths(global: &Global, named: Vec<PathBuf>) -> Result<ConfigPaths, Failure> {
    let paths = NodePaths::new(global.root.clone())?;
    let directory = paths.config_dir();
    let trust = if global.allow_insecure_config { Trust::Anybody } else { Trust::Root(paths) };
    Ok(ConfigPaths::new(named, &directory, trust))
}

fn open_engine(global: &Global) -> Result<Engine, Failure> {
    let paths = NodePaths::new(global.root.clone())?;
    let options = NodeOptions { pct: global.pct.clone(), ..NodeOptions::default() };
    Ok(Engine::new(paths, options))
}

/// Refuses keys there is nothing to say of, before anything is looked at.
fn check_keys(known: &BTreeSet<Key>, keys: &[Key]) -> Result<(), Failure> {
    match keys.iter().find(|key| !known.contains(key)) {
        Some(key) => Err(format!("{key} is not in the configuration").into()),
        None => Ok(()),
    }
}

/// Prints a report in the format that was asked for.
fn print_report<T: Serialize>(
    global: &Global,
    report: &T,
    text: impl FnOnce(style::Palette) -> String,
) -> Result<(), Failure> {
    match global.output_format {
        OutputFormat::Text => print(&text(style::Palette::for_stdout())),
        OutputFormat::Json => print(&format!("{}\n", serde_json::to_string(report)?)),
        OutputFormat::JsonPretty => print(&format!("{}\n", serde_json::to_string_pretty(report)?)),
    }
}

/// Writes to standard output; a reader that went away (`| head`) is no failure.
fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}
