//! `pctd-sandbox`: makes simulated nodes, and stands for the programs of one.

use std::process::ExitCode;

fn main() -> ExitCode {
    pctd_sandbox::program::main()
}
