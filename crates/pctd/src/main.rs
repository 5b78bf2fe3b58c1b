//! The `pctd` program.
fn main() {}
