//! What the scenarios in `tests/tests` and the benchmarks in `tests/benches` share.

#![expect(
    clippy::missing_panics_doc,
    clippy::unwrap_used,
    reason = "a harness of tests: whatever is not as it should be ends the test"
)]

pub mod clock;
pub mod daemon;
pub mod disk;
pub mod guest;
pub mod machine;
pub mod statistics;
pub mod table;
pub mod town;
pub mod world;
