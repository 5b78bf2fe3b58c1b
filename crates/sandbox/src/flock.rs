//! The flock that serialises the writers of a conf on one node.
//!
//! `PVE::Tools::lock_file_full`: the file is opened for append and stays behind; who does not
//! get the lock at once says so on stderr and waits up to a time. Plain `flock(2)`, so the
//! daemon, an editor script and this program exclude each other.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;

/// How often the lock is asked for again; Proxmox blocks in the system call until an alarm.
const RETRY: Duration = Duration::from_millis(2);

/// A held flock, released when dropped.
#[derive(Debug)]
pub struct FlockGuard {
    file: File,
}

impl Drop for FlockGuard {
    fn drop(&mut self) {
        // Closing is not enough: a process that another thread just forked has the file open as
        // well until it executes its program, and keeps the lock so long. There is nothing to do
        // if it cannot be released; the file is closed next.
        let _ = rustix::fs::flock(&self.file, FlockOperation::Unlock);
    }
}

/// How the lock was got.
#[derive(Debug)]
pub(crate) enum Locked {
    /// At once.
    Free(FlockGuard),
    /// After another one released it.
    Waited(FlockGuard),
    /// Not within the time.
    TimedOut,
}

fn open(path: &Path) -> io::Result<File> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    OpenOptions::new().append(true).create(true).open(path)
}

fn try_lock(file: &File) -> io::Result<bool> {
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Takes the lock, waiting at most this long; `waiting` is told once when it is not free.
pub(crate) fn acquire(
    path: &Path,
    patience: Duration,
    waiting: impl FnOnce(),
) -> io::Result<Locked> {
    let file = open(path)?;
    if try_lock(&file)? {
        return Ok(Locked::Free(FlockGuard { file }));
    }
    waiting();
    let deadline = Instant::now() + patience;
    while Instant::now() < deadline {
        std::thread::sleep(RETRY);
        if try_lock(&file)? {
            return Ok(Locked::Waited(FlockGuard { file }));
        }
    }
    Ok(Locked::TimedOut)
}

/// Takes the lock as another process would, for a test that wants it held.
pub(crate) fn hold(path: &Path) -> io::Result<FlockGuard> {
    let file = open(path)?;
    rustix::io::retry_on_intr(|| rustix::fs::flock(&file, FlockOperation::LockExclusive))?;
    Ok(FlockGuard { file })
}
