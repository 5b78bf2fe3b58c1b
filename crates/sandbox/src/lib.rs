//! A simulated Proxmox VE node: a model of Proxmox's rules behind a program called `pct`, and a
//! directory that looks like a node to `pctd --root DIR`.
//!
//! - [`Node`] makes such a directory and does to it what an admin, an editor, a cluster or a
//!   test would: confs, locks, quorum, faults, running containers.
//! - [`program`] is what a process does that is run as `pct` or `vzdump`.
//! - The rules themselves are in `pct` (the commands, in the order of `PVE::API2`), `update`
//!   (what a change of a conf does), `mounting` and `id_maps` (what a start or a hot-plug fails
//!   of); confs are read and written by [`pctd_core::conf`].
//! - `vzdump` makes backups and `pct restore` unpacks them: real archives of what is said to be in
//!   a disk (`archive`).
//! - `monitor` holds a running container: a process with lxc's command socket and one child in
//!   a user namespace of its own. Mounts are recorded, not made; `real` has lxc run it instead, with
//!   its mounts.
//!
//! ```
//! use pctd_sandbox::{Fault, FaultKind, Node, NodeOptions};
//!
//! let dir = tempfile::tempdir()?;
//! let node = Node::create(dir.path(), NodeOptions::default())?;
//! let made = node.pct(["create", "100", "local:vztmpl/tiny.tar.gz", "--rootfs", "local:1"])?;
//! assert!(made.is_success());
//! let refused = node.pct(["set", "100", "--unprivileged", "0"])?;
//! assert_eq!(refused.stderr_text(), "unable to modify read-only option: 'unprivileged'\n");
//! // The next `pct set` that the daemon under test runs is applied, but fails.
//! let fault = FaultKind::FailAfterwards { exit: 2, stderr: "bridge 'x' does not exist".into() };
//! node.inject(Fault::next(fault).on("set"))?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The facts are those of pve-container 6.1, compared with recordings of the real program in
//! `tests/tests/pct_transcripts.rs`.

mod accept;
mod archive;
mod calls;
mod cluster;
mod command;
mod context;
mod error;
mod faults;
mod file;
mod flock;
mod getopt;
mod id_maps;
mod launch;
mod lxc_config;
mod monitor;
mod mounting;
mod network;
mod node;
mod output;
mod paths;
mod pct;
mod perl;
mod pmxcfs;
pub mod program;
mod properties;
mod real;
mod running;
mod settings;
mod storage;
mod story;
mod update;
mod volumes;
mod vzdump;

pub use calls::PctCall;
pub use cluster::{Cluster, Place};
pub use error::NodeError;
pub use faults::{Fault, FaultKind, Point};
pub use flock::FlockGuard;
pub use node::{Node, NodeOptions, Served};
pub use output::Output;
pub use paths::{ROOT_VARIABLE, Root, RootUnknown};
pub use pmxcfs::Pmxcfs;
pub use running::Mounted;
pub use settings::{Guest, Settings, Storage, StorageKind, Timings};
