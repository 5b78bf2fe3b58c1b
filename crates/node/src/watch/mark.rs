//! Arming a volume: whether its file system tells of every change, and the mark that makes it.
//!
//! Asked, never assumed: where a call says no, the volume is walked from time to time instead,
//! and the status says why.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pctd_core::desired::RequireMount;
use pctd_core::observed::FileSystem;
use pctd_sys::fanotify::Group;
use pctd_sys::handle::{self, FileHandle};
use rustix::fs::fstatvfs;
use rustix::io::Errno;

use crate::answers::Answers;
use crate::file_system::file_system;
use crate::mounts::MountTable;
use crate::paths::NodePaths;
use crate::source;
use crate::stat::Stat;

/// File systems that others change without this kernel noticing.
const CHANGED_ELSEWHERE: [&str; 10] =
    ["nfs", "nfs4", "cifs", "smb3", "ceph", "9p", "afs", "glusterfs", "ocfs2", "gfs2"];

/// The top-level directory of any btrfs: `FILEID_BTRFS_WITHOUT_PARENT` and a `struct btrfs_fid` of
/// inode 256 in tree 5, of whatever generation (`fs/btrfs/export.c`). These are on disk and part
/// of NFS handles, so they stay.
const BTRFS_TOP: [u8; 24] = {
    let mut handle = [0; 24];
    (handle[0], handle[5], handle[12]) = (0x4d, 1, 5);
    handle
};

/// The root directory of a volume as it was when its file system was marked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Root {
    pub(super) host_path: String,
    pub(super) handle: FileHandle,
    /// The id that events of this file system carry.
    pub(super) file_system: u64,
    pub(super) mount: u64,
    through: Through,
    /// What it lies on, for messages of a walk.
    pub(super) on: FileSystem,
}

/// Which directory a file system is marked through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Through {
    /// The volume's own root.
    Root,
    /// The top level of a btrfs: a subvolume has an id of its own, and the kernel takes no mark for
    /// the whole through it (EXDEV), though events of subvolumes come with that mark.
    BtrfsTop,
}

impl Through {
    /// Opens it, where it is not the root itself.
    fn open(self, root: &OwnedFd) -> Result<Option<OwnedFd>, Errno> {
        match self {
            Self::Root => Ok(None),
            // By handle it need not be mounted anywhere; nothing but its id is asked for.
            Self::BtrfsTop => handle::open_dir(root, &BTRFS_TOP).map(Some),
        }
    }
}

/// The root directory of a volume, open for as long as there is work in it.
#[derive(Debug)]
pub(super) struct OpenRoot {
    pub(super) fd: OwnedFd,
    pub(super) stat: Stat,
}

/// Makes and takes back the marks.
#[derive(Debug)]
pub(super) struct Marks {
    group: Arc<Group>,
    answers: Answers,
    /// One at a time: a mark must not be taken back just when somebody else relies on it.
    turn: Mutex<()>,
}

impl Marks {
    pub(super) fn new(group: Arc<Group>) -> Self {
        Self { group, answers: Answers::default(), turn: Mutex::default() }
    }

    /// Marks the file system of a host path.
    ///
    /// # Errors
    ///
    /// In words, why its events cannot be had; also where the path does not answer.
    pub(super) fn arm(&self, paths: &NodePaths, host_path: &str) -> Result<Root, String> {
        let _turn = self.turn();
        let (group, paths, place) = (Arc::clone(&self.group), paths.clone(), host_path.to_owned());
        let armed = self.answers.ask(host_path, move || Root::arm(&paths, &group, &place));
        armed.unwrap_or_else(|error| Err(format!("{host_path}: {error}")))
    }

    /// Takes the mark of a file system back, unless one of these volumes lies on it.
    pub(super) fn disarm(
        &self,
        paths: &NodePaths,
        root: &Root,
        others: impl FnOnce() -> Vec<Root>,
    ) {
        let _turn = self.turn();
        if others().iter().any(|other| other.file_system == root.file_system) {
            return;
        }
        let (group, paths, root) = (Arc::clone(&self.group), paths.clone(), root.clone());
        let place = root.host_path.clone();
        // Where the directory is another one by now, or does not answer, its file system was mostly
        // unmounted, and the mark went with it. Else events come that concern nobody.
        let _taken_back = self.answers.ask(&place, move || {
            let open = root.open(&paths)?;
            let through = root.through.open(&open.fd).map_err(|errno| errno.to_string())?;
            group
                .unmark_file_system(through.as_ref().unwrap_or(&open.fd))
                .map_err(|errno| errno.to_string())
        });
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        // It guards no data.
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Root {
    /// Marks the file system of a host path.
    fn arm(paths: &NodePaths, group: &Group, host_path: &str) -> Result<Self, String> {
        let (fd, stat) = source::open_root(paths, host_path)?;
        let on = file_system(paths, &fd, &RequireMount::No)
            .map_err(|error| format!("{host_path}: {error}"))?;
        let kind = on.kind.as_str();
        if CHANGED_ELSEWHERE.contains(&kind) {
            return Err(format!("on {kind} others can change files without this node's knowing"));
        }
        let table = MountTable::read().map_err(|error| format!("{host_path}: {error}"))?;
        may_hang(&table.kinds_above(stat.mount)).map_or(Ok(()), Err)?;
        let cannot = |errno: Errno| explain(kind, errno);
        let handle = FileHandle::of(&fd).map_err(cannot)?;
        // A handle that cannot be opened again would make every event useless.
        handle::open_dir(&fd, handle.as_bytes()).map_err(cannot)?;
        let mark = |through: Through| {
            let marked = through.open(&fd)?;
            let marked = marked.as_ref().unwrap_or(&fd);
            group.mark_file_system(marked)?;
            Ok((through, fstatvfs(marked)?.f_fsid))
        };
        let (through, file_system) = match mark(Through::Root) {
            Err(Errno::XDEV) if kind == "btrfs" => mark(Through::BtrfsTop),
            result => result,
        }
        .map_err(cannot)?;
        let (host_path, mount) = (host_path.to_owned(), stat.mount);
        Ok(Self { host_path, handle, file_system, mount, through, on })
    }

    /// Opens the root directory, if it is still the one that was armed.
    ///
    /// # Errors
    ///
    /// In words, what became of it.
    pub(super) fn open(&self, paths: &NodePaths) -> Result<OpenRoot, String> {
        let (fd, stat) = source::open_root(paths, &self.host_path)?;
        let handle = FileHandle::of(&fd).map_err(|errno| errno.to_string())?;
        if handle != self.handle || stat.mount != self.mount {
            return Err(format!("{} is another directory now", self.host_path));
        }
        Ok(OpenRoot { fd, stat })
    }
}

/// Says which file system on the way to a volume may stop answering, if one may: the thread of the
/// watch goes that way by itself, and all volumes would wait with it.
fn may_hang(way: &[&str]) -> Option<String> {
    let remote = |kind: &&&str| CHANGED_ELSEWHERE.contains(kind) || kind.starts_with("fuse");
    let kind = way.iter().skip(1).find(remote)?;
    Some(format!("the way to it leads over {kind}, which may stop answering"))
}

/// Says why a file system cannot be watched.
fn explain(kind: &str, errno: Errno) -> String {
    match errno {
        Errno::OPNOTSUPP => format!("{kind} has no file handles, so it tells of no changes"),
        Errno::NODEV => format!("{kind} has no id, so it tells of no changes"),
        Errno::XDEV => format!("{kind} tells of changes only through its top level"),
        Errno::PERM => "the right to watch file systems (CAP_SYS_ADMIN) is missing".to_owned(),
        Errno::INVAL | Errno::NOSYS => "this kernel (before 5.17) cannot tell of moves".to_owned(),
        errno => format!("{kind} cannot be watched: {errno}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_behind_a_file_system_that_may_hang_is_not_watched() {
        let why = |kind| Some(format!("the way to it leads over {kind}, which may stop answering"));
        assert_eq!(may_hang(&["ext4", "xfs", "autofs", "ext4"]), None);
        assert_eq!(may_hang(&["ext4", "fuse.mergerfs", "ext4"]), why("fuse.mergerfs"));
        assert_eq!(may_hang(&["xfs", "nfs4", "ext4"]), why("nfs4"));
        // Its own has a word of its own.
        assert_eq!(may_hang(&["fuse", "ext4"]), None);
    }
}
