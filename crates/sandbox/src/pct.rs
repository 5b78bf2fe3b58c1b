//! The `pct` program: which command, with which parameters (`PVE::CLIHandler`,
//! `PVE::RESTHandler::cli_handler`), and how a run ends.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use crate::context::Context;
use crate::getopt;
use crate::output::{Die, Output};
use crate::perl::{Locale, from_file, to_path};

mod clone;
mod command;
mod commands;
mod create;
mod destroy;
mod parameters;
mod power;
mod restore;
mod set;
mod show;
mod snapshot;
mod task;
mod usage;

pub(crate) use power::{Manner, checked_start, post_stop, vm_stop};

use command::Command;
use parameters::Parameters;
use task::Ended;

/// Runs `pct` with these arguments.
pub(crate) fn run(mut cx: Context, arguments: &[OsString], locale: Locale) -> Output {
    let exit = match dispatch(&mut cx, arguments, locale) {
        Ok(()) => 0,
        Err(failure) => {
            cx.streams.enter_task(false);
            cx.streams.error(&failure.text);
            failure.exit
        }
    };
    cx.streams.finish(exit)
}

struct Failure {
    text: String,
    exit: u8,
}

fn dispatch(cx: &mut Context, arguments: &[OsString], locale: Locale) -> Result<(), Failure> {
    let usage = |complaint: &str| Failure {
        text: format!("ERROR: {complaint}\n{}", usage::all()),
        exit: 255,
    };
    if !cx.pmxcfs.is_up() {
        let refused = "ipcc_send_rec[1] failed: Connection refused\n".repeat(3);
        let text = format!("{refused}Unable to load access control list: Connection refused\n");
        return Err(Failure { text, exit: 111 });
    }
    let Some((name, rest)) = arguments.split_first() else {
        return Err(usage("no command specified"));
    };
    let name = name.to_string_lossy();
    let Some(command) = commands::find(&name) else {
        return Err(usage(&format!("unknown command 'pct {name}'")));
    };
    if command.name == "help" {
        let of_set = rest.first().is_some_and(|about| about == "set");
        let maps = !cx.settings.before_mount_maps;
        cx.streams.print(&if of_set { usage::set(maps) } else { usage::all() });
        return Ok(());
    }
    let result =
        read(cx, command, rest, locale).and_then(|parameters| (command.run)(cx, &parameters));
    result.map_err(|die| match die {
        Ended::Died(die) => {
            Failure { text: die.render(&format!("{}\n", command.usage)), exit: die.code() }
        }
        // `$upid_exit` of PVE::CLI::pct.
        Ended::TaskFailed(die) => Failure { text: die.folded(), exit: 255 },
    })
}

/// Reads and checks the parameters of a command.
fn read(
    cx: &mut Context,
    command: &Command,
    arguments: &[OsString],
    locale: Locale,
) -> Result<Parameters, Ended> {
    // Options are split as bytes; their values are decoded afterwards.
    let arguments: Vec<String> =
        arguments.iter().map(|argument| from_file(argument.as_bytes())).collect();
    let parsed = getopt::parse(&command.options(), &arguments);
    for warning in &parsed.warnings {
        cx.streams.warn(warning);
    }
    if !parsed.warnings.is_empty() {
        return Err(Die::bad_request("unable to parse option\n").into());
    }
    let positional = parsed.positional.len();
    if positional < command.positional.len() {
        return Err(Die::bad_request("not enough arguments\n").into());
    }
    if positional > command.positional.len() {
        return Err(Die::bad_request("too many arguments\n").into());
    }
    let decode = |text: &String| locale.decode(&to_path(text));
    let mut given: Vec<(String, String)> = Vec::new();
    for (name, value) in command.positional.iter().zip(&parsed.positional) {
        given.push(((*name).to_owned(), decode(value)));
    }
    for (name, values) in &parsed.options {
        let values: Vec<String> = values.iter().map(decode).collect();
        given.push((name.clone(), values.join(",")));
    }
    let parameters = Parameters::check(command.parameters, given)?;
    if cx.settings.before_mount_maps {
        parameters.without_mount_maps()?;
    }
    cx.wide = parameters.wide();
    Ok(parameters)
}
