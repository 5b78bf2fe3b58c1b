//! The subcommands of `pctd-sandbox` itself.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::error::chain;
use crate::node::{Node, NodeOptions};
use crate::story;

const USAGE: &str = "\
usage: pctd-sandbox [new DIR | serve [--fuse] DIR]

  (nothing)  tells a story: the real pctd converges a simulated node, in under 20 s
  serve DIR  makes a node in DIR if there is none, and runs pctd on it until interrupted;
             with --fuse its /etc/pve is a file system of its own, as on a real node
  new DIR    makes a simulated node in DIR, with its programs in DIR/usr/sbin
";

/// Runs a subcommand; `arguments` are those of the process, the program first.
pub(crate) fn run(arguments: &[OsString]) -> ExitCode {
    let words: Vec<&OsString> = arguments.iter().skip(1).collect();
    match words[..] {
        [command, dir] if command == "new" => new(dir),
        [command, dir] if command == "serve" => story::serve(Path::new(dir), &own_program(), false),
        [command, fuse, dir] if command == "serve" && fuse == "--fuse" => {
            story::serve(Path::new(dir), &own_program(), true)
        }
        [] => story::tell(&own_program()),
        _ => usage("unknown command or wrong arguments"),
    }
}

/// Returns this very program, which can be run as any program of a node.
fn own_program() -> PathBuf {
    std::env::current_exe().unwrap_or_else(|_| "pctd-sandbox".into())
}

/// Says how it should have been run.
pub(crate) fn usage(complaint: &str) -> ExitCode {
    eprint!("pctd-sandbox: {complaint}\n\n{USAGE}");
    ExitCode::from(2)
}

fn new(dir: &OsString) -> ExitCode {
    let made = Node::create(dir, NodeOptions::default()).and_then(|node| {
        node.install_programs(own_program())?;
        Ok(node)
    });
    match made {
        Ok(node) => {
            println!("{}", node.root().display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("pctd-sandbox: {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}
