//! The way to a path of the host: component by component, judged on the way.
//!
//! Every component is opened relative to the one before it, never following a link, so that what
//! was judged is what is used. A path is given up as soon as somebody other than root could point
//! it elsewhere. Nothing is mounted on the way either: an automount point ends the way.

use std::ffi::CString;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use pctd_core::observed::SourceState;
use pctd_core::ownership::EntryKind;
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2, readlinkat};
use rustix::io::Errno;

use crate::mounts::MountTable;
use crate::paths::NodePaths;
use crate::stat::{Stat, open_path};

/// Anybody may pass through a directory.
const PASSABLE_BY_ALL: u32 = 0o001;
/// Anybody may write.
const WRITABLE_BY_ALL: u32 = 0o002;
/// Only owners may rename or remove what lies in the directory.
const STICKY: u32 = 0o1000;

/// How far a path could be followed.
pub(crate) struct Reached {
    /// The last directory that is there; `O_PATH`.
    pub(crate) dir: OwnedFd,
    pub(crate) stat: Stat,
    /// The components that are not.
    pub(crate) missing: Vec<CString>,
    /// Whether everybody may pass through it and all above it.
    pub(crate) is_open_to_all: bool,
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
pub(crate) fn reach(paths: &NodePaths, path: &str) -> Result<Reached, SourceState> {
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
