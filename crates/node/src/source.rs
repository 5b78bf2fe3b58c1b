//! The host path of a volume: reached component by component, judged on the way, opened once.
//!
//! Every component is opened relative to the one before it, never following a link, so that what
//! was judged is what is used. A path is given up as soon as somebody other than root could point
//! it elsewhere. Nothing is mounted on the way either: an automount point ends the way.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use pctd_core::desired::{RequireMount, Volume};
use pctd_core::observed::{FileSystem, SourceDir, SourceState};
use pctd_core::ownership::EntryKind;
use rustix::fs::{
    Mode, OFlags, ResolveFlags, StatVfsMountFlags, fchmod, fchown, fstatvfs, fsync, mkdirat,
    openat2, readlinkat,
};
use rustix::io::Errno;

use crate::answers::NoAnswer;
use crate::mounts::{self, MountTable};
use crate::paths::NodePaths;
use crate::stat::{Identity, Stat, open_for_reading, open_path};

/// Modes of directories that are made on the way to a volume.
const ANCESTOR_MODE: u32 = 0o755;
/// The mode of a new root directory until its ownership is set: nobody's but root's.
const FRESH_MODE: u32 = 0o700;
/// Anybody may pass through a directory.
const PASSABLE_BY_ALL: u32 = 0o001;
/// Anybody may write.
const WRITABLE_BY_ALL: u32 = 0o002;
/// Only owners may rename or remove what lies in the directory.
const STICKY: u32 = 0o1000;

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
    let file_system = mounts::file_system(paths, &reached.dir, require_mount)?;
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

/// Returns whether a path of the node is a directory that is reached without a link.
///
/// Proxmox does not mind a parent that everybody may write to; it refuses links only.
pub(crate) fn is_directory(paths: &NodePaths, path: &str) -> bool {
    follow(paths, path, Ancestors::AsTheyAre).is_ok_and(|reached| reached.missing.is_empty())
}

/// Returns whether a path of the node is where something is mounted.
///
/// What cannot be reached safely is not.
pub(crate) fn is_mount_point(paths: &NodePaths, path: &str) -> bool {
    reach(paths, path).is_ok_and(|reached| reached.missing.is_empty() && reached.stat.mount_root)
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
    let found = mounts::file_system(paths, &reached.dir, &RequireMount::No).map_err(io)?.id;
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

/// How far a path could be followed.
struct Reached {
    /// The last directory that is there; `O_PATH`.
    dir: OwnedFd,
    stat: Stat,
    /// The components that are not.
    missing: Vec<CString>,
    /// Whether everybody may pass through it and all above it.
    is_open_to_all: bool,
}

/// What is asked of the directories on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ancestors {
    /// Nobody but root may be able to exchange what lies in them.
    Judged,
    /// Nothing: Proxmox asks nothing of them either.
    AsTheyAre,
}

/// Follows a path of the node from the trusted root, judging every directory it passes.
fn reach(paths: &NodePaths, path: &str) -> Result<Reached, SourceState> {
    follow(paths, path, Ancestors::Judged)
}

/// Follows a path of the node from the trusted root.
fn follow(paths: &NodePaths, path: &str, ancestors: Ancestors) -> Result<Reached, SourceState> {
    let unreadable =
        |at: &str, error: &dyn std::fmt::Display| SourceState::Unreadable(format!("{at}: {error}"));
    let names: Vec<&str> =
        path.split('/').filter(|name| !name.is_empty() && *name != ".").collect();
    if names.contains(&"..") {
        return Err(unreadable(path, &"has a `..` component"));
    }
    let mut dir = open_path(paths.root(), c".").map_err(|errno| unreadable("/", &errno))?;
    let mut stat = Stat::of(&dir).map_err(|errno| unreadable("/", &errno))?;
    let passes = |stat: &Stat| stat.entry.mode & PASSABLE_BY_ALL != 0;
    let mut is_open_to_all = passes(&stat);
    let mut at = String::new();
    for (index, name) in names.iter().enumerate() {
        let open_to_all = stat.entry.mode & (WRITABLE_BY_ALL | STICKY) == WRITABLE_BY_ALL;
        // The root itself is trusted, whatever its mode.
        if index > 0 && open_to_all && ancestors == Ancestors::Judged {
            return Err(SourceState::WritableByAll { ancestor: at });
        }
        let above = stat.mount;
        let name_c = CString::new(*name).map_err(|error| unreadable(path, &error))?;
        at.push('/');
        at.push_str(name);
        let next = match open_path(&dir, &name_c) {
            Ok(next) => next,
            Err(Errno::NOENT) => {
                let missing = names[index..].iter().map(|name| CString::new(*name));
                let missing =
                    missing.collect::<Result<_, _>>().map_err(|error| unreadable(path, &error))?;
                return Ok(Reached { dir, stat, missing, is_open_to_all });
            }
            Err(errno) => return Err(unreadable(&at, &errno)),
        };
        stat = Stat::of(&next).map_err(|errno| unreadable(&at, &errno))?;
        match stat.entry.kind {
            EntryKind::Directory => {}
            EntryKind::Symlink => {
                return Err(SourceState::Symlink { link: at, resolved: resolve(paths, path) });
            }
            EntryKind::File | EntryKind::Special => return Err(SourceState::NotDirectory),
        }
        if stat.mount != above && is_autofs(stat.mount) {
            return Err(unreadable(&at, &"is an automount point that is not mounted"));
        }
        is_open_to_all &= passes(&stat);
        dir = next;
    }
    Ok(Reached { dir, stat, missing: Vec::new(), is_open_to_all })
}

pub(crate) fn is_autofs(mount: u64) -> bool {
    let table = MountTable::read().unwrap_or_default();
    table.get(mount).is_some_and(|entry| entry.kind == "autofs")
}

/// Returns where a path leads once its links are followed, as a path of the node; for a message.
fn resolve(paths: &NodePaths, path: &str) -> Option<String> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let below = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let fd = openat2(paths.root(), path, flags, Mode::empty(), below).ok()?;
    let (full, root) = (path_of(fd.as_fd())?, path_of(paths.root())?);
    let inside = Path::new(&full).strip_prefix(&root).ok()?;
    Some(format!("/{}", inside.display()))
}

fn path_of(fd: BorrowedFd<'_>) -> Option<String> {
    let link = format!("/proc/self/fd/{}", rustix::path::DecInt::from_fd(fd).as_str());
    readlinkat(rustix::fs::CWD, link, Vec::new()).ok()?.into_string().ok()
}
