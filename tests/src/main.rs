//! The programs the scenarios run, in one binary: `pctd`, `pct` and a container's monitor, told
//! apart by the name they are called by.

fn main() -> std::process::ExitCode {
    pctd_sandbox::program::main()
}
