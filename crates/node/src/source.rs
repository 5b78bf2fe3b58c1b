//! The host path of a volume: looked at, opened once, made where it is missing.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use pctd_core::desired::{RequireMount, Volume};
use pctd_core::observed::{FileSystem, SourceDir, SourceState};
use rustix::fs::{Mode, StatVfsMountFlags, fchmod, fchown, fstatvfs, fsync, mkdirat};
use rustix::io::Errno;

use crate::answers::NoAnswer;
use crate::file_system::file_system;
use crate::paths::NodePaths;
use crate::reach::{Reached, reach};
use crate::stat::{Identity, Stat, open_for_reading, open_path};

/// Modes of directories that are made on the way to a volume.
const ANCESTOR_MODE: u32 = 0o755;
/// The mode of a new root directory until its ownership is set: nobody's but root's.
const FRESH_MODE: u32 = 0o700;

/// The root directory of a volume, open; what happens to the volume happens through it.
#[derive(Debug)]
pub struct OpenVolume {
    fd: OwnedFd,
    identity: Identity,
    mount: u64,
    file_system: FileSystem,
}

impl AsFd for OpenVolume {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl OpenVolume {
    /// Takes a root directory that is known to be on this file system.
    pub(crate) fn new(fd: OwnedFd, stat: &Stat, file_system: FileSystem) -> Self {
        Self { fd, identity: stat.identity, mount: stat.mount, file_system }
    }

    /// Returns the file system the directory lies on.
    pub fn file_system(&self) -> &FileSystem {
        &self.file_system
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub(crate) fn identity(&self) -> Identity {
        self.identity
    }

    pub(crate) fn mount(&self) -> u64 {
        self.mount
    }
}

/// Why no directory was made.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// The way there is not what a directory may be made on.
    #[error("{path}: the way there is not usable: {state:?}")]
    Refused {
        /// The host path.
        path: String,
        /// What it is instead.
        state: SourceState,
    },
    /// Another file system than the one the step was planned for: something was mounted or
    /// unmounted meanwhile.
    #[error("{path} would be made on {found} instead of {expected}")]
    FileSystemChanged {
        /// The host path.
        path: String,
        /// The file system that was planned for.
        expected: String,
        /// The one that is there now.
        found: String,
    },
    /// It may be made yet.
    #[error("{path}: {source}")]
    NoAnswer {
        /// The host path.
        path: String,
        /// Since when.
        source: NoAnswer,
    },
    /// A system call failed.
    #[error("cannot make {path}")]
    Io {
        /// The host path.
        path: String,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Whether there was anything to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// It was made now.
    Made,
    /// It was there.
    AlreadyThere,
}

/// Looks at a volume's host path.
pub fn observe(paths: &NodePaths, volume: &Volume) -> SourceState {
    open(paths, volume).0
}

/// Looks at a volume's host path and keeps it open where it is a directory.
pub fn open(paths: &NodePaths, volume: &Volume) -> (SourceState, Option<OpenVolume>) {
    open_at(paths, &volume.host_path, &volume.require_mount)
}

/// As [`open`], of a host path and what must be mounted there.
pub(crate) fn open_at(
    paths: &NodePaths,
    host_path: &str,
    require_mount: &RequireMount,
) -> (SourceState, Option<OpenVolume>) {
    match reach(paths, host_path) {
        Err(state) => (state, None),
        Ok(reached) => settle(paths, require_mount, &reached).unwrap_or_else(|error| {
            (SourceState::Unreadable(format!("{host_path}: {error}")), None)
        }),
    }
}

fn settle(
    paths: &NodePaths,
    require_mount: &RequireMount,
    reached: &Reached,
) -> io::Result<(SourceState, Option<OpenVolume>)> {
    let file_system = file_system(paths, &reached.dir, require_mount)?;
    if !reached.missing.is_empty() {
        return Ok((SourceState::Missing { file_system }, None));
    }
    let fd = open_for_reading(&reached.dir)?;
    let stat = Stat::of(&fd)?;
    let is_nosuid = fstatvfs(&fd)?.f_flag.contains(StatVfsMountFlags::NOSUID);
    let state = SourceState::Directory(SourceDir {
        ids: stat.entry.ids,
        mode: stat.entry.mode,
        exposed: reached.is_open_to_all && !is_nosuid,
        file_system: file_system.clone(),
    });
    let open = OpenVolume { fd, identity: stat.identity, mount: stat.mount, file_system };
    Ok((state, Some(open)))
}

/// Opens a volume's root directory, reached and judged as always, without asking what it lies on.
///
/// # Errors
///
/// In words, why it cannot be used.
pub(crate) fn open_root(paths: &NodePaths, host_path: &str) -> Result<(OwnedFd, Stat), String> {
    let reached = reach(paths, host_path)
        .map_err(|state| format!("{host_path} cannot be used: {state:?}"))?;
    if !reached.missing.is_empty() {
        return Err(format!("{host_path} is missing"));
    }
    let open = open_for_reading(&reached.dir).and_then(|fd| Ok((Stat::of(&fd)?, fd)));
    let (stat, fd) = open.map_err(|errno| format!("{host_path}: {errno}"))?;
    Ok((fd, stat))
}

/// Returns the last directory on the way to a host path that is there.
pub(crate) fn nearest(paths: &NodePaths, host_path: &str) -> Option<OwnedFd> {
    reach(paths, host_path).ok().map(|reached| reached.dir)
}

/// The mode a new directory has until its ownership is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FreshMode {
    /// Root's alone, because another mode is declared and will be set.
    Closed,
    /// What `mkdir` gives, because nobody declares another.
    Ordinary,
}

/// Makes a volume's host path, if the place for it is still on the file system `expected`.
///
/// Directories on the way are root's and readable, the last one is root's alone until its
/// ownership is set. Each is on disk when this returns.
///
/// # Errors
///
/// [`CreateError`]; directories made before the failure stay.
pub fn create(
    paths: &NodePaths,
    host_path: &str,
    expected: &str,
    fresh: FreshMode,
) -> Result<Created, CreateError> {
    let path = || host_path.to_owned();
    let reached =
        reach(paths, host_path).map_err(|state| CreateError::Refused { path: path(), state })?;
    if reached.missing.is_empty() {
        return Ok(Created::AlreadyThere);
    }
    let io = |source| CreateError::Io { path: path(), source };
    let found = file_system(paths, &reached.dir, &RequireMount::No).map_err(io)?.id;
    if found != expected {
        return Err(CreateError::FileSystemChanged {
            path: path(),
            expected: expected.to_owned(),
            found,
        });
    }
    let mut dir = reached.dir;
    let mut created = Created::AlreadyThere;
    for (index, name) in reached.missing.iter().enumerate() {
        let last = index + 1 == reached.missing.len();
        let mode = match fresh {
            FreshMode::Closed if last => FRESH_MODE,
            FreshMode::Closed | FreshMode::Ordinary => ANCESTOR_MODE,
        };
        let (next, is_new) =
            make_one(&dir, name, mode, reached.stat.mount).map_err(|errno| io(errno.into()))?;
        dir = next;
        if is_new {
            created = Created::Made;
        }
    }
    Ok(created)
}

/// Makes one directory, or takes the one that somebody made meanwhile.
fn make_one(
    parent: &OwnedFd,
    name: &CString,
    mode: u32,
    mount: u64,
) -> Result<(OwnedFd, bool), Errno> {
    let is_new = match mkdirat(parent, name.as_c_str(), Mode::from_raw_mode(FRESH_MODE)) {
        Ok(()) => true,
        Err(Errno::EXIST) => false,
        Err(errno) => return Err(errno),
    };
    let path_fd = open_path(parent, name)?;
    let stat = Stat::of(&path_fd)?;
    if !stat.is_dir() {
        return Err(Errno::NOTDIR);
    }
    if stat.mount != mount {
        return Err(Errno::XDEV);
    }
    if !is_new {
        return Ok((path_fd, false));
    }
    let fd = open_for_reading(&path_fd)?;
    // The umask, a setgid parent and a default ACL all have their say in what mkdir makes.
    if stat.entry.ids != pctd_core::ids::HostIds::ROOT {
        let (uid, gid) = (rustix::fs::Uid::ROOT, rustix::fs::Gid::ROOT);
        fchown(&fd, Some(uid), Some(gid))?;
    }
    fchmod(&fd, Mode::from_raw_mode(mode))?;
    fsync(&fd)?;
    fsync(open_for_reading(parent)?)?;
    Ok((path_fd, true))
}
