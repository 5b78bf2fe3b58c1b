//! Scenarios across the crates; the tests themselves are in `tests/tests`.
