//! One `statx` in the words of the rest of the crate, and the opens that never leave their place.

#![expect(clippy::inline_always, reason = "see `pctd_sys`, `call`: a `ret` after a system call")]

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use pctd_core::ids::HostIds;
use pctd_core::modes::MODE_BITS;
use pctd_core::ownership::{EntryKind, EntryStat};
use pctd_sys::handle::FileHandle;
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, StatxAttributes, StatxFlags, openat, openat2,
    statx,
};
use rustix::io::Errno;

/// How often an open that lost a race against a rename is tried again.
///
/// The kernel gives up on a scoped lookup with EAGAIN when a rename ran anywhere meanwhile
/// (openat2(2)); cap-std tries four times.
const RACE_RETRIES: usize = 8;

/// What is asked of every entry.
const WANTED: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::MNT_ID);

/// What names one file for as long as somebody holds it open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The device, major and minor.
    pub(crate) device: (u32, u32),
    /// The inode.
    pub(crate) inode: u64,
}

/// What one `statx` says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stat {
    pub(crate) entry: EntryStat,
    pub(crate) identity: Identity,
    pub(crate) mount: u64,
    pub(crate) links: u32,
    /// What is left of when it was made (`stx_btime`), which nobody can set: the number of an inode
    /// that is gone is given to another. 0 where the file system does not tell, and in a look by name.
    pub(crate) birth: u32,
    /// When the inode was last changed (ctime: seconds and nanoseconds since 1970). Unlike the
    /// time of modification nobody can set it.
    pub(crate) changed: (i64, u32),
    /// When its content was last changed (mtime, likewise).
    pub(crate) modified: (i64, u32),
    /// Whether not even root may change it (`chattr +i`, `+a`).
    pub(crate) frozen: bool,
    /// Whether it is the root of a mount.
    pub(crate) mount_root: bool,
}

impl Stat {
    /// Looks at an open file; with `O_PATH` too.
    #[inline(always)]
    pub(crate) fn of(fd: impl AsFd) -> Result<Self, Errno> {
        Self::new(fd, c"", AtFlags::EMPTY_PATH, WANTED | StatxFlags::BTIME)
    }

    /// Looks at a name in an open directory, without following or mounting anything.
    ///
    /// Takes the attributes that are cached: a network file system is asked anew before anything
    /// is done about them. Not when it was made, which ext4 keeps far from the rest of an inode: in a
    /// walk that finds nothing that line of memory is a tenth of the cost.
    #[inline(always)]
    pub(crate) fn at(dir: impl AsFd, name: &CStr) -> Result<Self, Errno> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
        Self::new(dir, name, flags, WANTED)
    }

    #[inline(always)]
    fn new(fd: impl AsFd, name: &CStr, flags: AtFlags, wanted: StatxFlags) -> Result<Self, Errno> {
        let st = statx(fd, name, flags, wanted)?;
        let raw_mode = u32::from(st.stx_mode);
        let kind = match FileType::from_raw_mode(raw_mode) {
            FileType::Directory => EntryKind::Directory,
            FileType::RegularFile => EntryKind::File,
            FileType::Symlink => EntryKind::Symlink,
            _ => EntryKind::Special,
        };
        let ids = HostIds::new(st.stx_uid, st.stx_gid);
        Ok(Self {
            entry: EntryStat { kind, ids, mode: raw_mode & MODE_BITS },
            identity: Identity { device: (st.stx_dev_major, st.stx_dev_minor), inode: st.stx_ino },
            mount: st.stx_mnt_id,
            links: st.stx_nlink,
            birth: if (wanted.bits() & st.stx_mask) & StatxFlags::BTIME.bits() == 0 {
                0
            } else {
                folded(st.stx_btime.tv_sec, st.stx_btime.tv_nsec)
            },
            changed: (st.stx_ctime.tv_sec, st.stx_ctime.tv_nsec),
            modified: (st.stx_mtime.tv_sec, st.stx_mtime.tv_nsec),
            frozen: st
                .stx_attributes
                .intersects(StatxAttributes::IMMUTABLE | StatxAttributes::APPEND),
            mount_root: st.stx_attributes.contains(StatxAttributes::MOUNT_ROOT),
        })
    }

    pub(crate) fn is_dir(&self) -> bool {
        self.entry.kind == EntryKind::Directory
    }
}

/// Returns a time in 32 bits, never as 0.
fn folded(seconds: i64, nanos: u32) -> u32 {
    let time = seconds.cast_unsigned().wrapping_mul(1_000_000_000).wrapping_add(nanos.into());
    let half = (time ^ (time >> 32)) & u64::from(u32::MAX);
    u32::try_from(half).unwrap_or(u32::MAX).max(1)
}

/// Opens a name as it is, a symbolic link included, without reading it or mounting anything.
///
/// Without `O_DIRECTORY` on purpose: with it the kernel triggers automounts (`path_openat`).
pub(crate) fn open_path(dir: impl AsFd, name: &CStr) -> Result<OwnedFd, Errno> {
    openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// As [`open_path`], but fails with EXDEV where the name is a mount point.
#[inline(always)]
pub(crate) fn open_path_here(dir: impl AsFd, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    racing(|| openat2(&dir, name, flags, Mode::empty(), below(name)))
}

/// Opens a directory for reading; fails with EXDEV where the name is a mount point.
pub(crate) fn open_dir_here(dir: impl AsFd, name: &CStr) -> Result<OwnedFd, Errno> {
    open_reading(dir, name, below(name))
}

/// Opens the directory above, on the same mount.
pub(crate) fn open_parent(dir: impl AsFd) -> Result<OwnedFd, Errno> {
    open_reading(dir, c"..", inside())
}

/// Opens for reading the directory that an `O_PATH` fd stands for.
pub(crate) fn open_for_reading(dir: impl AsFd) -> Result<OwnedFd, Errno> {
    open_reading(dir, c".", inside())
}

/// Returns whether a directory lies below the one with this handle, on the same mount.
pub(crate) fn is_below(dir: BorrowedFd<'_>, root: &FileHandle) -> Result<bool, Errno> {
    let mut held: OwnedFd;
    let mut at = dir;
    let mut own = FileHandle::of(at)?;
    loop {
        let above = match open_parent(at) {
            // The top of the mount, and the volume was not on the way.
            Err(Errno::XDEV | Errno::NOENT) => return Ok(false),
            result => result?,
        };
        let handle = FileHandle::of(&above)?;
        if handle == *root {
            return Ok(true);
        }
        if handle == own {
            return Ok(false);
        }
        own = handle;
        held = above;
        at = held.as_fd();
    }
}

/// What keeps a lookup below the directory it begins in.
///
/// A name without a slash leads to an entry of that directory and nowhere else, unless it is `..`. For
/// any other the kernel has to prove it, and for that takes a lock that is one for the whole machine
/// (`path_is_under`, `mount_lock`): that costs each entry of a walk, and the more so with two of them.
fn below(name: &CStr) -> ResolveFlags {
    match name.to_bytes() {
        b".." => inside() | ResolveFlags::BENEATH,
        bytes if bytes.contains(&b'/') => inside() | ResolveFlags::BENEATH,
        _ => inside(),
    }
}

fn inside() -> ResolveFlags {
    ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS
}

fn open_reading(dir: impl AsFd, name: &CStr, resolve: ResolveFlags) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = |flags| racing(|| openat2(&dir, name, flags, Mode::empty(), resolve));
    match open(flags | OFlags::NOATIME) {
        // Network file systems grant O_NOATIME to the owner only.
        Err(Errno::PERM) => open(flags),
        result => result,
    }
}

#[inline(always)]
fn racing<T>(mut open: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    let mut result = open();
    for _ in 0..RACE_RETRIES {
        match result {
            Err(Errno::AGAIN | Errno::INTR) => result = open(),
            _ => break,
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rustix::fs::CWD;

    use super::*;

    #[test]
    fn no_name_leads_out_of_the_directory_it_is_looked_up_in() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("in/side")).unwrap();
        fs::write(root.path().join("out"), "").unwrap();
        let inside = root.path().join("in");
        std::os::unix::fs::symlink("../out", inside.join("link")).unwrap();
        let dir = openat(CWD, &inside, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        for name in [c"..", c"../out", c"side/../../out", c"/out", c"side/../.."] {
            assert_eq!(open_path_here(&dir, name).err(), Some(Errno::XDEV), "{name:?}");
            assert_eq!(open_dir_here(&dir, name).err(), Some(Errno::XDEV), "{name:?}");
        }
        std::os::unix::fs::symlink("../in", inside.join("link-to-dir")).unwrap();
        let link = open_path_here(&dir, c"link").and_then(Stat::of).unwrap();
        assert_eq!(link.entry.kind, EntryKind::Symlink);
        assert_eq!(open_path_here(&dir, c"link/x").err(), Some(Errno::LOOP));
        for name in [c"link", c"link-to-dir"] {
            assert_eq!(open_dir_here(&dir, name).err(), Some(Errno::NOTDIR), "{name:?}");
        }
        for name in [c"side", c"side/.", c"side/../side"] {
            assert!(open_dir_here(&dir, name).is_ok(), "{name:?}");
        }
    }
}
