//! `pct` of a simulated node.

use std::ffi::OsString;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    pctd_sandbox::program::pct(&arguments)
}
