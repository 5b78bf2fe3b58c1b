//! What a process of the sandbox does, told by how it was run.
//!
//! [`main`] is a whole program: it is `pct` or `pctd` where it is run under that name, the monitor
//! of a container where it is told to be, else `pctd-sandbox`. A program that is none of these but
//! shall hold running containers gives its arguments to [`internal`] first.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crate::calls;
use crate::command;
use crate::context::{Context, ctid, lock_timeout};
use crate::error::{NodeError, chain};
use crate::faults::FaultKind;
use crate::launch::MONITOR;
use crate::monitor;
use crate::output::{Output, Streams};
use crate::paths::{ROOT_VARIABLE, Root};
use crate::pct;
use crate::perl::Locale;
use crate::pmxcfs::{SERVER, server};
use crate::real::{self, HOOK, PLUG};
use crate::settings::Settings;
use crate::vzdump;

/// Runs as whatever this process was started as.
pub fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    if let Some(code) = internal(&arguments) {
        return code;
    }
    match name(&arguments) {
        "pct" => tool(Tool::Pct, &arguments),
        "vzdump" => tool(Tool::Vzdump, &arguments),
        "pctd" => pctd::main_with(arguments),
        _ => command::run(&arguments),
    }
}

/// Returns the name a program was run under, e.g. `pct`.
fn name(arguments: &[OsString]) -> &str {
    let program = arguments.first().map(Path::new).and_then(Path::file_name);
    program.and_then(OsStr::to_str).unwrap_or_default()
}

/// Does what the sandbox asks of its own program, if that is what the arguments say: to hold a
/// running container, to be a hook of a real one, or to serve `/etc/pve`.
///
/// Anything that is named in [`crate::NodeOptions::program`] must call this first in its `main`.
pub fn internal(arguments: &[OsString]) -> Option<ExitCode> {
    match arguments {
        [_, command, rest @ ..] if command == MONITOR => Some(monitor::run(rest)),
        [_, command, rest @ ..] if command == HOOK => Some(real::run_hook(rest)),
        [_, command, rest @ ..] if command == PLUG => Some(real::run_plug(rest)),
        [_, command, rest @ ..] if command == SERVER => Some(server::run(rest)),
        _ => None,
    }
}

/// A program of Proxmox's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tool {
    Pct,
    Vzdump,
}

/// Runs as `pct`: `arguments` are those of the process, the program first.
pub fn pct(arguments: &[OsString]) -> ExitCode {
    tool(Tool::Pct, arguments)
}

fn tool(tool: Tool, arguments: &[OsString]) -> ExitCode {
    if let Some(code) = internal(arguments) {
        return code;
    }
    let (program, rest) = match arguments.split_first() {
        Some((program, rest)) => (program.as_os_str(), rest),
        None => (OsStr::new("pct"), arguments),
    };
    let variable = std::env::var_os(ROOT_VARIABLE);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let root = match Root::find(variable.as_deref(), program, &path) {
        Ok(root) => root,
        Err(error) => {
            eprintln!("pct: {error}");
            return ExitCode::from(255);
        }
    };
    match run(&root, tool, rest) {
        Ok(output) => ExitCode::from(output.exit),
        Err(error) => {
            eprintln!("pct: {}", chain(&error));
            ExitCode::from(255)
        }
    }
}

/// Runs a tool as a program does: recorded, and hit by faults.
fn run(root: &Root, tool: Tool, arguments: &[OsString]) -> Result<Output, NodeError> {
    let words: Vec<String> =
        arguments.iter().map(|argument| argument.to_string_lossy().into_owned()).collect();
    let mut argv = words.clone();
    if tool == Tool::Vzdump {
        argv.insert(0, "vzdump".to_owned());
    }
    calls::began(root, &argv)?;
    let fault = Settings::take_fault(root, &argv)?;
    let mut cx = Context::new(root.clone(), Streams::new(true))?;
    cx.interrupted = interruption();
    cx.fault.clone_from(&fault);
    if cx.program.is_none() {
        cx.program = std::env::current_exe().ok();
    }
    std::thread::sleep(Duration::from_millis(cx.settings.timings.command_ms));
    let output = match before(&mut cx, &argv, fault.as_ref()) {
        Some((exit, text)) => {
            cx.streams.error(&text);
            cx.streams.finish(exit)
        }
        None if tool == Tool::Vzdump => vzdump::run(cx, &words),
        None => pct::run(cx, arguments, Locale::of(|name| std::env::var(name).ok())),
    };
    let output = after(output, fault);
    calls::ended(root, output.exit)?;
    Ok(output)
}

/// Returns a flag that the signals set which Proxmox's worker cleans up after.
fn interruption() -> Arc<AtomicBool> {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in
        [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT, signal_hook::consts::SIGHUP]
    {
        // Where it cannot be caught, it ends the process as it would have.
        let _ = signal_hook::flag::register(signal, Arc::clone(&flag));
    }
    flag
}

/// Lets a fault have its way before anything is done; returns how the run ends by it.
fn before(cx: &mut Context, argv: &[String], fault: Option<&FaultKind>) -> Option<(u8, String)> {
    let id = argv.get(1).map(String::as_str).unwrap_or_default();
    match fault? {
        FaultKind::Fail { exit, stderr } => Some((*exit, format!("{}\n", stderr.trim_end()))),
        FaultKind::FailAfterwards { .. }
        | FaultKind::FailsAt { .. }
        | FaultKind::KilledAt { .. } => None,
        FaultKind::Hang { millis, holding_flock } => {
            let _held = holding_flock.then(|| crate::flock::hold(&cx.root.flock(id)).ok());
            let interrupted = cx.pass(*millis).err()?;
            Some((255, interrupted.render("")))
        }
        FaultKind::Locked { lock } => Some((255, format!("CT is locked ({lock})\n"))),
        FaultKind::LockTimeout => {
            let timeout = ctid(id).map_or_else(|die| die, lock_timeout);
            Some((timeout.code(), format!("trying to acquire lock...\n{}", timeout.render(""))))
        }
        FaultKind::Killed { signal } => {
            let own = rustix::process::getpid();
            if let Some(signal) = rustix::process::Signal::from_named_raw(*signal) {
                // Nothing to do if it does not kill: the run goes on then.
                let _ = rustix::process::kill_process(own, signal);
                std::thread::sleep(Duration::from_millis(100));
            }
            None
        }
    }
}

/// Lets a fault spoil a run that was applied.
fn after(output: Output, fault: Option<FaultKind>) -> Output {
    match fault {
        Some(FaultKind::FailAfterwards { exit, stderr }) => {
            let text = format!("{}\n", stderr.trim_end());
            eprint!("{text}");
            Output { exit, ..output }
        }
        _ => output,
    }
}
