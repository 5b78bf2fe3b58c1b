//! pctd, the Proxmox container daemon: the loop and the face.
//!
//! ```text
//! daemon/     the sources of events: file watches, poll, signals, clients; what systemd is told
//!   |  Event ("look again")
//! controller/ the loop: a queue of keys, one run per key, backoff, the status board
//!   |  Reconciler (the seam: survey, reconcile)
//! engine/     observe -> plan (pctd-core, pure) -> one step (pctd-node) -> observe again
//!
//! cli/        the commands; `plan` and `apply` use the engine without the loop
//! ```
//!
//! Follow one edit of the configuration: `daemon::watch` sees the directory change, `daemon` reads
//! and validates the files, `controller` puts the new desired state in force and surveys the node,
//! keys that differ enter the queue, and for each `engine` plans and takes one step at a time until
//! a plan comes out empty. All knowledge of containers is in `pctd-core`, all effects are in
//! `pctd-node`, all time and retry is in `controller`.
//!
//! The crate is a library so that the simulated node can be `pctd`, too; `main.rs` only calls
//! [`main_with`].

use std::ffi::OsString;
use std::process::ExitCode;

#[macro_use]
mod log;
mod cli;
mod config_files;
mod controller;
mod daemon;
mod engine;
mod reconciler;

/// Runs pctd with these arguments, the program's name first; returns its exit code.
pub fn main_with(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    cli::run(arguments)
}
