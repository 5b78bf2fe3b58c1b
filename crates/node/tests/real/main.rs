//! The node's effects on real files, as root, in directories of their own.
//!
//! What a machine does not permit (mounts, mostly) is skipped with a line that says so, or fails
//! where `PCTD_REQUIRE_REAL` is set.

#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

mod adversary;
mod certificate;
mod conf_edit;
mod file_systems;
mod going_on;
mod group;
mod hostile;
mod limits;
mod look;
mod observe;
mod shift;
mod source;
mod support;
mod threads;
mod trusted;
mod undo;
mod walk;
mod watch;
