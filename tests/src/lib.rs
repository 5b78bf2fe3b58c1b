//! What the scenarios in `tests/tests` share.

pub mod daemon;
pub mod world;
