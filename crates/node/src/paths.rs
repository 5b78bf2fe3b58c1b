//! Where everything lies on the node, below the directory that `--root` names.
//!
//! The root directory is opened once and trusted; nothing above it is judged or looked at again.
//! Paths made here are Proxmox's and pctd's own. Host paths of volumes, which others can write
//! to, are never opened through these strings: [`crate::source`] walks them from the root's fd.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pctd_core::ids::Ctid;
use rustix::fs::{CWD, Mode, OFlags, openat};

/// The paths of one node.
///
/// ```
/// let paths = pctd_node::NodePaths::new(None)?;
/// assert_eq!(paths.local(), std::path::Path::new("/etc/pve/local"));
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct NodePaths {
    /// What stands before every path: nothing in production.
    prefix: PathBuf,
    root: Arc<OwnedFd>,
}

impl NodePaths {
    /// Opens the node below `root`, or the machine itself.
    ///
    /// # Errors
    ///
    /// Where `root` is no directory that can be opened.
    pub fn new(root: Option<PathBuf>) -> io::Result<Self> {
        let prefix = match root {
            // Purely textual: also drops a slash at the end, which would end up in socket names.
            Some(root) => std::path::absolute(&root)?.components().collect(),
            None => PathBuf::new(),
        };
        let prefix = if prefix == Path::new("/") { PathBuf::new() } else { prefix };
        let top = if prefix.as_os_str().is_empty() { Path::new("/") } else { &prefix };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, top, flags, Mode::empty())?;
        Ok(Self { prefix, root: Arc::new(root) })
    }

    /// Returns the directory everything lies below.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Returns what stands before every path of the node; empty for the machine itself.
    pub(crate) fn prefix(&self) -> &Path {
        &self.prefix
    }

    /// Returns where a path of the node (`/etc/pve`) is found, for messages and for trusted paths.
    pub fn host(&self, path: &str) -> PathBuf {
        let below = path.trim_start_matches('/');
        if self.prefix.as_os_str().is_empty() {
            Path::new("/").join(below)
        } else {
            self.prefix.join(below)
        }
    }

    /// Returns `/etc/pve`, where pmxcfs is mounted.
    pub fn pve(&self) -> PathBuf {
        self.host("/etc/pve")
    }

    /// Returns pmxcfs's list of guests.
    pub fn vmlist(&self) -> PathBuf {
        self.host("/etc/pve/.vmlist")
    }

    /// Returns pmxcfs's counters.
    pub fn version(&self) -> PathBuf {
        self.host("/etc/pve/.version")
    }

    /// Returns pmxcfs's view of the cluster.
    pub fn members(&self) -> PathBuf {
        self.host("/etc/pve/.members")
    }

    /// Returns the link to this node's directory.
    pub fn local(&self) -> PathBuf {
        self.host("/etc/pve/local")
    }

    /// Returns the directory of `node`.
    pub fn node_dir(&self, node: &str) -> PathBuf {
        self.host("/etc/pve/nodes").join(node)
    }

    /// Returns the directory of `node`'s container confs; the real one, for a watch.
    pub fn lxc_dir(&self, node: &str) -> PathBuf {
        self.node_dir(node).join("lxc")
    }

    /// Returns the conf of a container on `node`.
    pub fn conf(&self, node: &str, ctid: Ctid) -> PathBuf {
        self.lxc_dir(node).join(format!("{ctid}.conf"))
    }

    /// Returns the file whose flock serialises writers of a conf (`PVE::LXC::Config::config_file_lock`).
    pub fn conf_lock(&self, ctid: Ctid) -> PathBuf {
        self.host("/run/lock/lxc").join(format!("pve-config-{ctid}.lock"))
    }

    /// Returns the directory of the lock files of confs.
    pub fn conf_lock_dir(&self) -> PathBuf {
        self.host("/run/lock/lxc")
    }

    /// Returns the abstract name of a running container's command socket, without the leading NUL.
    pub fn command_socket(&self, ctid: Ctid) -> Vec<u8> {
        let mut name = self.prefix.as_os_str().as_bytes().to_vec();
        name.extend_from_slice(format!("/var/lib/lxc/{ctid}/command").as_bytes());
        name
    }

    /// Returns what pctd keeps across reboots.
    pub fn state_dir(&self) -> PathBuf {
        self.host("/var/lib/pctd")
    }

    /// Returns the ledger's file.
    pub fn ledger(&self) -> PathBuf {
        self.host("/var/lib/pctd/ledger.json")
    }

    /// Returns what pctd keeps while it runs.
    pub fn run_dir(&self) -> PathBuf {
        self.host("/run/pctd")
    }

    /// Returns the lock that one converging process holds.
    pub fn daemon_lock(&self) -> PathBuf {
        self.host("/run/pctd/pctd.lock")
    }

    /// Returns the daemon's socket.
    pub fn socket(&self) -> PathBuf {
        self.host("/run/pctd/pctd.sock")
    }

    /// Returns pctd's configuration directory.
    pub fn config_dir(&self) -> PathBuf {
        self.host("/etc/pctd")
    }

    /// Returns the `pct` program.
    pub fn pct(&self) -> PathBuf {
        self.host("/usr/sbin/pct")
    }

    /// Returns the `vzdump` program.
    pub fn vzdump(&self) -> PathBuf {
        self.host("/usr/bin/vzdump")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_the_machine_have_no_prefix() {
        let paths = NodePaths::new(None).unwrap();
        let ctid = Ctid::new(953).unwrap();
        assert_eq!(paths.conf("vm", ctid), Path::new("/etc/pve/nodes/vm/lxc/953.conf"));
        assert_eq!(paths.command_socket(ctid), b"/var/lib/lxc/953/command");
        assert_eq!(paths.pct(), Path::new("/usr/sbin/pct"));
    }

    #[test]
    fn a_root_goes_before_everything_and_loses_its_last_slash() {
        let dir = tempfile::tempdir().unwrap();
        let with_slash = dir.path().join("");
        let paths = NodePaths::new(Some(with_slash)).unwrap();
        let ctid = Ctid::new(953).unwrap();
        assert_eq!(paths.vmlist(), dir.path().join("etc/pve/.vmlist"));
        let socket = format!("{}/var/lib/lxc/953/command", dir.path().display());
        assert_eq!(paths.command_socket(ctid), socket.as_bytes());
    }

    #[test]
    fn a_root_that_is_not_there_is_an_error() {
        assert!(NodePaths::new(Some("/nonexistent-root".into())).is_err());
    }
}
