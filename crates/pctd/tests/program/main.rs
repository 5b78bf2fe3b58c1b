//! The built program as it is used from outside: what it prints, how it exits, and the unit it
//! runs under.
//!
//! Needs neither root nor a node. What needs `systemd-analyze` says that it is skipped, and fails
//! where `PCTD_REQUIRE_REAL` is set.

mod exit_codes;
mod generated;
mod support;
mod unit;
