//! What the scenarios in `tests/tests` share.

#![expect(
    clippy::missing_panics_doc,
    clippy::unwrap_used,
    reason = "a harness of tests: whatever is not as it should be ends the test"
)]

pub mod daemon;
pub mod world;
