//! A direct edit of a conf, as Proxmox's own commands write one: under the flock of its writers,
//! only what it was decided on, beside it and then renamed over it.
//!
//! Everything else goes through `pct`; this is the only way for raw lines (PROXMOX.md 3, 5). An
//! editor and the hook that runs when a container stops take no flock, so the conf is compared once
//! more right before the rename, and whoever called looks at it again: what was lost all the same,
//! the next plan finds.
//!
//! On a node that just lost its quorum a write to pmxcfs hangs for some seconds and then fails
//! (PROXMOX.md 8), so all of it happens on a thread that can be left behind.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use pctd_core::conf::{Conf, Digest, EditError, RawEdit};
use pctd_core::ids::Ctid;
use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;

use crate::answers::NoAnswer;
use crate::paths::NodePaths;

/// How long the flock is waited for. `pct` waits ten seconds; here the next plan sees who has it.
const FLOCK_PATIENCE: Duration = Duration::from_secs(2);

/// How often it is asked for meanwhile.
const FLOCK_TICK: Duration = Duration::from_millis(10);

/// How long the whole may take: longer than a write hangs on a node that just lost its quorum
/// (6.6 s were seen), so that it is told from a file system that does not answer at all.
pub(crate) const WRITE_PATIENCE: Duration = Duration::from_secs(10);

/// As `PVE::Tools::file_set_contents` makes files; pmxcfs does not heed it.
const MODE: u32 = 0o644;

/// Why a conf was not edited.
#[derive(Debug, thiserror::Error)]
pub enum ConfEditError {
    /// The lock of the writers was not to be had.
    #[error("{path} is held by a task")]
    Busy {
        /// The lock file.
        path: PathBuf,
    },
    /// The conf carries a lock.
    #[error("container {ctid} is locked ({lock})")]
    Locked {
        /// The container.
        ctid: Ctid,
        /// The value of `lock`.
        lock: String,
    },
    /// The conf is not the one that was decided on.
    #[error("{path} was changed by somebody else meanwhile")]
    Changed {
        /// The conf.
        path: PathBuf,
    },
    /// The edit cannot be made in this conf.
    #[error("{path}: {source}")]
    Edit {
        /// The conf.
        path: PathBuf,
        /// What stands against it.
        source: EditError,
    },
    /// pmxcfs refuses every write.
    #[error("{path} cannot be written ({source}): this node has no quorum; bring the others back")]
    NoQuorum {
        /// What was to be written.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A file could not be used.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The time was over before it could be written; it was not.
    #[error("{path} was not written in time")]
    TooLate {
        /// The conf.
        path: PathBuf,
    },
    /// pmxcfs does not answer; whether it was written is not known.
    #[error("{path} cannot be written")]
    NoAnswer {
        /// The conf.
        path: PathBuf,
        /// How long it was waited for.
        source: NoAnswer,
    },
}

/// An edit, and the conf it was decided on.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) paths: NodePaths,
    pub(crate) node: String,
    pub(crate) ctid: Ctid,
    pub(crate) digest: Digest,
    pub(crate) edit: RawEdit,
}

/// Makes an edit, unless nobody waits for it any more.
pub(crate) fn make(request: &Request, abandoned: &AtomicBool) -> Result<(), ConfEditError> {
    let Request { paths, node, ctid, digest, edit } = request;
    let conf = paths.conf(node, *ctid);
    let _held = Held::take(&paths.conf_lock(*ctid))?;
    let bytes = read(&conf)?;
    let changed = || ConfEditError::Changed { path: conf.clone() };
    if Digest::of(&bytes) != *digest {
        return Err(changed());
    }
    let unusable = |source: EditError| ConfEditError::Edit { path: conf.clone(), source };
    let parsed = Conf::parse(*ctid, &bytes).map_err(|error| unusable(error.into()))?;
    if let Some(lock) = parsed.lock() {
        return Err(ConfEditError::Locked { ctid: *ctid, lock: lock.to_string() });
    }
    let edited = edit.apply(*ctid, &bytes).map_err(unusable)?;
    let new = Successor::write(&conf, &edited)?;
    if Digest::of(&read(&conf)?) != *digest {
        return Err(changed());
    }
    if abandoned.load(Ordering::Acquire) {
        return Err(ConfEditError::TooLate { path: conf });
    }
    new.take_its_place(&conf)
}

fn read(path: &Path) -> Result<Vec<u8>, ConfEditError> {
    let mut bytes = Vec::new();
    let read = OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)
        .and_then(|mut file| file.read_to_end(&mut bytes));
    match read {
        Ok(_) => Ok(bytes),
        // Another writer renames over it just now, or it went to another node.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(ConfEditError::Changed { path: path.to_owned() })
        }
        Err(source) => Err(ConfEditError::Io { path: path.to_owned(), source }),
    }
}

/// A write to pmxcfs that failed.
fn refused(path: &Path, source: io::Error) -> ConfEditError {
    let path = path.to_owned();
    let errno = source.raw_os_error().map(Errno::from_raw_os_error);
    match errno {
        // Not by rights, for root has them: this is how pmxcfs says it.
        Some(Errno::PERM | Errno::ACCESS | Errno::IO | Errno::ROFS) => {
            ConfEditError::NoQuorum { path, source }
        }
        _ => ConfEditError::Io { path, source },
    }
}

/// The new conf beside the old one; removed when dropped.
struct Successor {
    path: PathBuf,
    is_there: bool,
}

impl Successor {
    /// Writes it under the name Proxmox's commands give it, `ID.conf.tmp.PID`.
    fn write(conf: &Path, bytes: &[u8]) -> Result<Self, ConfEditError> {
        let mut name = conf.as_os_str().to_owned();
        name.push(format!(".tmp.{}", std::process::id()));
        let path = PathBuf::from(name);
        let create = || OpenOptions::new().write(true).create_new(true).mode(MODE).open(&path);
        let mut file = match create() {
            // No other process has this id: a former one left it behind.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                fs::remove_file(&path).and_then(|()| create())
            }
            result => result,
        }
        .map_err(|source| refused(&path, source))?;
        let new = Self { path, is_there: true };
        file.write_all(bytes).map_err(|source| refused(&new.path, source))?;
        Ok(new)
    }

    /// Renames it over the conf. Flags of renameat2 are not for pmxcfs.
    fn take_its_place(mut self, conf: &Path) -> Result<(), ConfEditError> {
        fs::rename(&self.path, conf).map_err(|source| refused(conf, source))?;
        self.is_there = false;
        Ok(())
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        if self.is_there {
            // Proxmox takes no notice of a file of this name; there is nobody to tell.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The held flock of a conf's writers.
struct Held(File);

impl Held {
    fn take(path: &Path) -> Result<Self, ConfEditError> {
        let io = |source: io::Error| ConfEditError::Io { path: path.to_owned(), source };
        // As `PVE::LXC::Config` does: the directory is made where it is missing, and the file stays.
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).map_err(io)?;
        }
        // The directory above may be everybody's: no link is followed.
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(MODE)
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
            .open(path)
            .map_err(io)?;
        let deadline = Instant::now() + FLOCK_PATIENCE;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Self(file)),
                Err(Errno::WOULDBLOCK | Errno::INTR) if Instant::now() < deadline => {
                    thread::sleep(FLOCK_TICK);
                }
                Err(Errno::WOULDBLOCK | Errno::INTR) => {
                    return Err(ConfEditError::Busy { path: path.to_owned() });
                }
                Err(errno) => return Err(io(errno.into())),
            }
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // Closing is not enough: a child that was forked just now has the file open until it
        // executes its program. If this fails, closing is all there is.
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}
