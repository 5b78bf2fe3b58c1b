//! The `pctd` program.

fn main() -> std::process::ExitCode {
    pctd::main_with(std::env::args_os())
}
