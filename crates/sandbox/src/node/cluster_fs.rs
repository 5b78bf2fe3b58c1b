//! The cluster file system of a simulated node: its quorum, its outages, what other nodes write.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, Mode, RenameFlags, renameat_with};
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Signal, kill_process, test_kill_process};

use super::Node;
use crate::error::NodeError;
use crate::pmxcfs::Request;

/// How often the watcher looks for confs that were edited directly.
const WATCH_INTERVAL: Duration = Duration::from_millis(20);

/// How long a process may take to end once it is told to.
const PATIENCE: Duration = Duration::from_secs(5);

impl Node {
    /// Takes the quorum away, or gives it back: `.members`, and the `w` bits Proxmox goes by.
    ///
    /// `pct` refuses to write without it. A process of root that writes directly is kept from it
    /// only by a file system of its own, as the real one is.
    pub fn set_quorum(&self, quorate: bool) -> Result<(), NodeError> {
        if self.pmxcfs().is_served() {
            return self.pmxcfs().ask(&Request::Quorum(quorate));
        }
        let peers = if quorate { Vec::new() } else { self.settings()?.peers };
        self.show_quorum(quorate, &peers.into_iter().collect())
    }

    /// Shows whether there is a quorum, and which nodes are not reached.
    pub(crate) fn show_quorum(
        &self,
        quorate: bool,
        offline: &BTreeSet<String>,
    ) -> Result<(), NodeError> {
        let settings = self.settings()?;
        self.pmxcfs().publish_members(&settings, quorate, offline)?;
        let (dirs, files) = if quorate { (0o755, 0o640) } else { (0o555, 0o440) };
        for node in std::iter::once(&settings.node).chain(&settings.peers) {
            let mut paths = vec![self.root.etc_pve().join("nodes").join(node)];
            for kind in ["lxc", "qemu-server"] {
                let dir = self.root.guests(node, kind);
                let confs = fs::read_dir(&dir).map_err(|error| NodeError::io(&dir, error))?;
                paths.extend(confs.flatten().map(|entry| entry.path()));
                paths.push(dir);
            }
            for path in paths {
                let file = match File::open(&path) {
                    Ok(file) => file,
                    // The temporary file of somebody who is just writing a conf.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    Err(error) => return Err(NodeError::io(&path, error)),
                };
                let is_dir = file.metadata().is_ok_and(|meta| meta.is_dir());
                let mode = Mode::from_raw_mode(if is_dir { dirs } else { files });
                rustix::fs::fchmod(&file, mode)
                    .map_err(|error| NodeError::io(&path, error.into()))?;
            }
        }
        Ok(())
    }

    /// Stops the cluster file system: `/etc/pve` is an empty local directory then.
    pub fn stop_pmxcfs(&self) -> Result<(), NodeError> {
        if self.pmxcfs().is_served() {
            return self.end_pmxcfs(Signal::TERM);
        }
        let (pve, aside) = (self.root.etc_pve(), self.aside());
        fs::rename(&pve, &aside).map_err(|error| NodeError::io(&pve, error))?;
        self.make_mount_point()
    }

    /// Kills the process that serves the cluster file system: nothing below `/etc/pve` answers
    /// until it is unmounted, or the process is started again.
    pub fn kill_pmxcfs(&self) -> Result<(), NodeError> {
        self.end_pmxcfs(Signal::KILL)
    }

    /// Unmounts what a killed process left behind, and leaves the bare mount point.
    pub fn unmount_pmxcfs(&self) -> Result<(), NodeError> {
        let pve = self.root.etc_pve();
        unmount(&pve, UnmountFlags::DETACH).map_err(|errno| NodeError::io(&pve, errno.into()))
    }

    fn end_pmxcfs(&self, signal: Signal) -> Result<(), NodeError> {
        let pid = self.root.pmxcfs_pid();
        let gone = || NodeError::Conflict("no process serves /etc/pve".into());
        let server = self.pmxcfs().server().ok_or_else(gone)?;
        kill_process(server, signal).map_err(|errno| NodeError::io(&pid, errno.into()))?;
        let deadline = Instant::now() + PATIENCE;
        while test_kill_process(server).is_ok() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        fs::remove_file(&pid).map_err(|error| NodeError::io(&pid, error))
    }

    /// Starts it again: everything is back, the counters begin anew.
    pub fn start_pmxcfs(&self) -> Result<(), NodeError> {
        if self.pmxcfs().is_served() {
            let none = || NodeError::Conflict("install the programs of the node first".into());
            let program = self.settings()?.program.ok_or_else(none)?;
            return self.pmxcfs().launch(&program);
        }
        let (pve, aside) = (self.root.etc_pve(), self.aside());
        // A program that was about to write may have left something in the bare directory; a mount
        // would hide it.
        renameat_with(CWD, &aside, CWD, &pve, RenameFlags::EXCHANGE)
            .map_err(io::Error::from)
            .and_then(|()| fs::remove_dir_all(&aside))
            .map_err(|error| NodeError::io(&pve, error))?;
        self.pmxcfs().restart()
    }

    /// Writes a file below `/etc/pve` on another node of the cluster: nothing on this node is told.
    ///
    /// As the rest of what another node does, only where `/etc/pve` is a file system of its own.
    pub fn peer_write(&self, path: &str, content: impl Into<Vec<u8>>) -> Result<(), NodeError> {
        self.pmxcfs().ask(&Request::Write(path.into(), content.into()))
    }

    /// Removes a file below `/etc/pve` on another node.
    pub fn peer_remove(&self, path: &str) -> Result<(), NodeError> {
        self.pmxcfs().ask(&Request::Remove(path.into()))
    }

    /// Renames a file below `/etc/pve` on another node.
    pub fn peer_rename(&self, from: &str, to: &str) -> Result<(), NodeError> {
        self.pmxcfs().ask(&Request::Rename(from.into(), to.into()))
    }

    /// Lets every open of a file below `/etc/pve` fail with "no such file" until it is shown
    /// again: what a reader may meet for some milliseconds while somebody renames over it.
    pub fn hide_from_open(&self, path: Option<&str>) -> Result<(), NodeError> {
        self.pmxcfs().ask(&Request::Hide(path.map(Into::into)))
    }

    /// Lets everything below `/etc/pve` fail with an input/output error, or no longer.
    pub fn fail_pmxcfs(&self, fails: bool) -> Result<(), NodeError> {
        self.pmxcfs().ask(&Request::Fail(fails))
    }

    pub(crate) fn aside(&self) -> PathBuf {
        self.root.path().join("etc/.pve-stopped")
    }

    /// Makes `.vmlist` unreadable as JSON until the next change.
    pub fn spoil_vmlist(&self) -> Result<(), NodeError> {
        let path = self.root.etc_pve().join(".vmlist");
        crate::file::replace(&path, b"{\n\"version\": 1,\n\"ids\": {\n")
            .map_err(|error| NodeError::io(&path, error))
    }

    /// Counts direct edits of confs as long as the guard lives, as `pmxcfs` would at once.
    ///
    /// There is nothing to do where a process serves `/etc/pve`: it counts them.
    pub fn serve(&self) -> Served {
        if self.pmxcfs().is_served() {
            return Served { stop: Arc::default(), thread: None };
        }
        let stop = Arc::new(AtomicBool::new(false));
        let (pmxcfs, told) = (self.pmxcfs(), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                // A conf that vanishes while it is read is seen at the next look.
                let _ = pmxcfs.refresh();
                std::thread::sleep(WATCH_INTERVAL);
            }
        });
        Served { stop, thread: Some(thread) }
    }

    /// Returns the mode of the directory by which Proxmox tells a quorum.
    pub fn local_mode(&self) -> Result<u32, NodeError> {
        let path = self.root.etc_pve().join("local");
        let meta = fs::metadata(&path).map_err(|error| NodeError::io(&path, error))?;
        Ok(meta.permissions().mode() & 0o7777)
    }
}

/// A node whose direct edits are counted; see [`Node::serve`].
#[derive(Debug)]
pub struct Served {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It has nothing to say, and a panic in it was reported already.
            let _ = thread.join();
        }
    }
}
