//! The lock that lets one process at a time converge a node.

use std::fs::{File, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::ledger::make_dir;
use crate::paths::NodePaths;

/// How long a lock is waited for whose owner is gone: a child of a killed pctd shares its open files
/// until it executes its program.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often it is asked for meanwhile.
const TICK: Duration = Duration::from_millis(5);

/// Why this process may not converge the node.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another one does.
    #[error("another pctd is running{}", pid.map(|pid| format!(" (process {pid})")).unwrap_or_default())]
    Held {
        /// Its process id, as it wrote it down.
        pid: Option<u32>,
    },
    /// The lock file cannot be used.
    #[error("cannot lock {}", path.display())]
    Io {
        /// The lock file.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
}

/// The right to converge a node, held until this is dropped or the process ends.
#[derive(Debug)]
pub struct NodeLock {
    _file: File,
}

impl NodeLock {
    /// Takes the lock, or says who has it. One that a process left behind is waited for, 2 s at most.
    ///
    /// # Errors
    ///
    /// [`LockError`].
    pub fn acquire(paths: &NodePaths) -> Result<Self, LockError> {
        let path = paths.daemon_lock();
        take(&paths.run_dir(), &path).unwrap_or_else(|source| Err(LockError::Io { path, source }))
    }
}

fn take(dir: &Path, path: &Path) -> io::Result<Result<NodeLock, LockError>> {
    make_dir(dir)?;
    let mut options = File::options();
    // The file stays when the lock goes: removing it would let two processes lock two files.
    let mut file =
        options.read(true).write(true).create(true).truncate(false).mode(0o644).open(path)?;
    let begun = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let pid = owner(&mut file)?;
        if pid.is_some() || begun.elapsed() >= PATIENCE {
            return Ok(Err(LockError::Held { pid }));
        }
        thread::sleep(TICK);
    }
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())?;
    Ok(Ok(NodeLock { _file: file }))
}

/// Returns the process that wrote itself down, if it is still there. A new owner does so right after
/// it got the lock.
fn owner(file: &mut File) -> io::Result<Option<u32>> {
    let mut text = String::new();
    file.rewind()?;
    file.read_to_string(&mut text)?;
    let pid = text.trim().parse().ok();
    Ok(pid.filter(|pid: &u32| Path::new("/proc").join(pid.to_string()).exists()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> (tempfile::TempDir, NodePaths) {
        let dir = tempfile::tempdir().unwrap();
        let paths = NodePaths::new(Some(dir.path().into())).unwrap();
        (dir, paths)
    }

    #[test]
    fn a_second_process_learns_at_once_who_has_the_lock() {
        let (_dir, paths) = node();
        let lock = NodeLock::acquire(&paths).unwrap();
        let begun = Instant::now();
        let Err(LockError::Held { pid }) = NodeLock::acquire(&paths) else { panic!() };
        assert_eq!(pid, Some(std::process::id()));
        assert!(begun.elapsed() < PATIENCE);
        drop(lock);
        NodeLock::acquire(&paths).unwrap();
    }

    #[test]
    fn a_lock_whose_owner_is_gone_is_waited_for_but_not_for_ever() {
        let (_dir, paths) = node();
        let left = NodeLock::acquire(&paths).unwrap();
        // No process can have this id: the largest is 2^22 (proc_sys_kernel(5)).
        std::fs::write(paths.daemon_lock(), "4194305\n").unwrap();
        let held = NodeLock::acquire(&paths);
        assert!(matches!(held, Err(LockError::Held { pid: None })), "{held:?}");
        thread::scope(|scope| {
            let waits = scope.spawn(|| NodeLock::acquire(&paths));
            thread::sleep(Duration::from_millis(50));
            drop(left);
            waits.join().unwrap().unwrap();
        });
        let noted = std::fs::read_to_string(paths.daemon_lock()).unwrap();
        assert_eq!(noted, format!("{}\n", std::process::id()));
    }
}
