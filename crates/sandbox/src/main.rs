//! The simulated node (under construction).
fn main() {}
