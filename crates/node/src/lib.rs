//! The effects of pctd on a Proxmox VE node: everything that reads or changes the machine.
//!
//! Blocking code: the daemon calls it from its blocking pool. What is decided here is only what
//! has to be decided at the moment of the system call; what is wanted and what follows from it is
//! `pctd-core`'s.
//!
//! - [`paths`]: where everything lies, below `--root`.
//! - [`pve`]: `/etc/pve`: whether pmxcfs can be believed, where a container is, its conf.
//! - `process`: processes, and which of them are the node's own.
//! - [`procfs`]: held flocks, running containers, their id maps in force.
//! - [`accounts`]: the host's users and groups.
//! - `acl`: ACLs of open files.
//! - [`backup`]: a backup for a conversion: what stands against it, made with `vzdump`, read to its end.
//! - `conf_edit`: raw lines of a conf, written without `pct`; `subids`: what root may map.
//! - [`making`]: what has to be known before a container is made.
//! - `mapping`: whether ids can be mapped for single mounts.
//! - `storages`: the storages of Proxmox that are directories.
//! - `mounts`: the table of mounts; `file_system`: what an open directory lies on.
//! - `reach`: the way to a path of the host, which nobody can point elsewhere.
//! - [`source`]: the host path of a volume, opened once, made where missing.
//! - `look`: one entry by its path, for an explanation.
//! - `answers`: asking about a host path without waiting for ever.
//! - [`certificate`]: certificates in a volume, looked at, made and put in place.
//! - [`walk`](mod@walk): the ownership of everything in a volume, looked at or repaired; `walks`:
//!   without waiting for ever.
//! - `bookmark`: where a walk was that was interrupted, so that the next one goes on from there.
//! - [`trace`]: what a walk leaves behind, to tell after a restart what it need not look at first.
//! - `kept`: what of these is of volumes that are no more.
//! - [`undo`]: what was changed in a volume, on record, and taken back.
//! - [`watch`]: drift below a volume, noticed and put right as it happens.
//! - [`textfile`]: a file for other programs, replaced whole.
//! - [`trusted`]: files that decide what root does, read where nobody else can have written them.
//! - [`pct`]: the `pct` program.
//! - [`ledger`]: what pctd did, on disk; `node_lock`: one process at a time converges the node.
//!
//! [`Node`] ties them together (`node`; what it looks at is in `observe`); it is what the daemon
//! holds. Every method reads the node anew and remembers nothing but the ledger. No file of a volume
//! stays open between calls: an admin must be able to unmount it.

pub mod accounts;
mod acl;
mod answers;
pub mod backup;
mod bookmark;
pub mod certificate;
mod conf_edit;
mod file_system;
mod kept;
pub mod ledger;
mod look;
pub mod making;
mod mapping;
mod mounts;
mod node;
mod node_lock;
mod observe;
pub mod paths;
pub mod pct;
mod process;
pub mod procfs;
pub mod pve;
mod raw_source;
mod reach;
pub mod source;
mod stat;
mod storages;
mod subids;
pub mod textfile;
pub mod trace;
pub mod trusted;
pub mod undo;
pub mod walk;
mod walks;
pub mod watch;

pub use crate::answers::{NoAnswer, PATIENCE};
pub use crate::backup::{BackupError, Made, Vzdump};
pub use crate::bookmark::Bookmark;
pub use crate::certificate::{CertificateError, NewPair};
pub use crate::conf_edit::ConfEditError;
pub use crate::kept::forget_others;
pub use crate::ledger::{LedgerError, LedgerStore};
pub use crate::node::{InstallError, InstallRequest, Node, NodeOptions};
pub use crate::node_lock::{LockError, NodeLock};
pub use crate::paths::NodePaths;
pub use crate::pct::{Exit, Limits, Pct, PctClass, PctError, RemoveWhat};
pub use crate::pve::ConfVersion;
pub use crate::source::{CreateError, Created, FreshMode, OpenVolume};
pub use crate::trace::Trace;
pub use crate::undo::{Recorder, UndoError, UndoRequest, Undone};
pub use crate::walk::{
    FdBudget, Progress, Shifting, Unsupported, Walk, WalkMode, WalkReport, WalkRule,
};
pub use crate::walks::{WalkError, WalkRequest};
pub use crate::watch::{News, Watcher};
