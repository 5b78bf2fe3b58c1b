//! One entry: what is to change, what that would cost, and the change itself.
//!
//! All of it on one open file. An entry is opened with `O_PATH`, which neither follows a link nor
//! wakes a fifo or a device; the stat that decides is of that fd, and so is the change, whatever
//! has the entry's name by then. `fchmod` does not take such an fd: its mode is set with
//! `fchmodat2`, or before Linux 6.6 through the magic link below `/proc`; either leads to the
//! same inode and to no other.

#![expect(clippy::inline_always, reason = "see `pctd_sys`, `call`: a `ret` after a system call")]

use std::ffi::{CStr, CString};
use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::LazyLock;

use pctd_core::acl::Acl;
use pctd_core::ids::HostIds;
use pctd_core::ownership::{Change, EntryKind, EntryStat, OwnershipRule, Place, mode_after_chown};
use pctd_sys::{chmod, xattr};
use rustix::fs::{
    AtFlags, CWD, Gid, Mode, OFlags, PROC_SUPER_MAGIC, ResolveFlags, Uid, chmodat, chownat,
    fstatfs, getxattr, getxattr_query, openat, openat2,
};
use rustix::io::Errno;
use rustix::path::DecInt;

use super::rule::WalkRule;
use crate::acl::{self, ACCESS};
use crate::stat::Stat;

/// Setuid.
const SET_UID: u32 = 0o4000;
/// Setgid.
const SET_GID: u32 = 0o2000;
/// Execute for anybody.
const EXECUTE: u32 = 0o111;

/// The longest ACL that is read whole; ext4 keeps some 500 entries, XFS 25 in its older format.
const LONGEST_ACL: usize = 64 * 1024;

/// What is to be done about one entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Finding<'r> {
    /// The change; none where only an ACL stands between the entry and its declared mode.
    pub(crate) change: Option<Change<'r>>,
    /// The mode it has.
    pub(super) mode: u32,
    /// Its mode is left alone because it carries an access ACL.
    pub(crate) acl: bool,
    /// It has other names, which change with it.
    pub(super) hard_link: bool,
    /// The change of owner takes setuid, setgid or capabilities away.
    pub(super) privileged: bool,
}

/// The file system would not let an entry be changed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Refusal {
    call: &'static str,
    errno: Errno,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.call, self.errno)
    }
}

/// What is to change, from one stat alone.
///
/// A chown takes setuid and setgid of a file away, and they stay away unless the declaration has
/// them: so where the owner is to change, the rule is asked about the mode that will be left.
pub(super) fn decide<'r>(
    rule: impl Into<WalkRule<'r>>,
    place: Place<'_>,
    stat: &EntryStat,
) -> Option<Change<'r>> {
    match rule.into() {
        WalkRule::Declared(rule) => as_declared(rule, place, stat),
        WalkRule::Shifted(shifting) => shifting.shift().decide(stat),
    }
}

fn as_declared<'r>(
    rule: &'r OwnershipRule,
    place: Place<'_>,
    stat: &EntryStat,
) -> Option<Change<'r>> {
    let mut change = rule.decide(place, stat)?;
    let left = mode_after_chown(stat);
    if change.owner.is_some() && left != stat.mode {
        change = rule.decide(place, &EntryStat { mode: left, ..*stat })?;
    } else if change.mode == Some(stat.mode) {
        change.mode = None;
    }
    Some(change)
}

/// What is to change of an open entry: besides, a directory is asked for its default ACL where one is
/// declared for it.
pub(super) fn decide_open<'r>(
    rule: impl Into<WalkRule<'r>>,
    place: Place<'_>,
    fd: impl AsFd,
    stat: &EntryStat,
) -> Result<Option<Change<'r>>, Errno> {
    let rule = rule.into();
    let change = decide(rule, place, stat);
    match rule.declared().and_then(|rule| rule.default_acl_for(place, stat)) {
        Some(acl) if !acl::is_default(fd, acl)? => {
            Ok(Some(Change { default_acl: Some(acl), ..change.unwrap_or_default() }))
        }
        _ => Ok(change),
    }
}

/// Whether the kernel sets the mode of an `O_PATH` fd by itself; it will not learn to meanwhile.
static HAS_FCHMODAT2: LazyLock<bool> = LazyLock::new(chmod::is_supported);

/// `/proc/thread-self/fd`, and what can only be reached through it.
///
/// Each thread has a directory of its own there, with the same fds in it. With one and the same for
/// all, each lookup would take the locks and the reference counts that the other threads take. It is
/// good as long as the thread is there that opened it.
#[derive(Debug)]
pub(crate) struct ProcFds {
    dir: OwnedFd,
    /// Whether modes are set without it: one call that looks up no name.
    by_fd: bool,
    /// Whether attributes are asked for in it: one name to look up instead of four.
    by_dir: bool,
}

impl ProcFds {
    /// Opens it, making sure that it is the kernel's.
    pub(crate) fn open() -> Result<Self, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let proc = openat(CWD, "/proc", flags, Mode::empty())?;
        if fstatfs(&proc)?.f_type != PROC_SUPER_MAGIC {
            return Err(Errno::NODEV);
        }
        let resolve = ResolveFlags::NO_XDEV | ResolveFlags::BENEATH;
        let dir = openat2(&proc, "thread-self/fd", flags, Mode::empty(), resolve)?;
        Ok(Self { dir, by_fd: *HAS_FCHMODAT2, by_dir: xattr::is_supported() })
    }

    #[inline(always)]
    fn chmod(&self, fd: impl AsFd, mode: u32) -> Result<(), Errno> {
        if self.by_fd {
            return chmod::chmod_fd(fd, mode);
        }
        let name = DecInt::from_fd(&fd);
        chmodat(&self.dir, name.as_c_str(), Mode::from_raw_mode(mode), AtFlags::empty())
    }

    /// Returns whether an open file has an extended attribute.
    #[inline(always)]
    fn has_xattr(&self, fd: impl AsFd, attribute: &CStr) -> Result<bool, Errno> {
        let name = DecInt::from_fd(&fd);
        if self.by_dir {
            return xattr::has_at(&self.dir, name.as_c_str(), attribute);
        }
        match getxattr_query(magic_link(fd)?.as_c_str(), attribute) {
            Ok(_) => Ok(true),
            Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(false),
            Err(errno) => Err(errno),
        }
    }

    /// Returns an ACL of an open file; without entries where it has none.
    #[inline(always)]
    pub(crate) fn acl(&self, fd: impl AsFd, attribute: &CStr) -> Result<Acl<u32>, Errno> {
        if !self.has_xattr(&fd, attribute)? {
            return Ok(Acl::none());
        }
        let mut value = vec![0; LONGEST_ACL];
        match getxattr(magic_link(fd)?.as_c_str(), attribute, value.as_mut_slice()) {
            Ok(len) => value.get(..len).and_then(Acl::from_bytes).ok_or(Errno::INVAL),
            Err(Errno::NODATA) => Ok(Acl::none()),
            Err(errno) => Err(errno),
        }
    }
}

/// Returns the link of the kernel's that leads to an open file, whatever has its name. Only to be used
/// where `/proc` is known to be the kernel's ([`ProcFds::open`]).
fn magic_link(fd: impl AsFd) -> Result<CString, Errno> {
    let link = format!("/proc/self/fd/{}", DecInt::from_fd(fd).as_str());
    CString::new(link).map_err(|_| Errno::INVAL)
}

/// Looks closer at an entry that differs, by the declared rule where it is by one; `fd` is open on what `stat` describes.
#[inline(always)]
pub(crate) fn examine<'r>(
    procfs: &ProcFds,
    fd: impl AsFd,
    stat: &Stat,
    (rule, change): (Option<&OwnershipRule>, Change<'r>),
) -> Result<Finding<'r>, Errno> {
    let keeps_mode = |acl: &Acl<u32>| rule.map_or(!acl.is_none(), |rule| rule.keeps_mode(acl));
    let acl = change.mode.is_some() && keeps_mode(&procfs.acl(&fd, ACCESS)?);
    let change = Change { mode: change.mode.filter(|_| !acl), ..change };
    let mode = stat.entry.mode;
    let file = stat.entry.kind == EntryKind::File;
    let privileged = change.owner.is_some()
        && file
        && (mode_after_chown(&stat.entry) != mode
            // Capabilities are of no use to a file that cannot be executed.
            || (mode & EXECUTE != 0 && procfs.has_xattr(&fd, c"security.capability")?));
    Ok(Finding {
        change: (change != Change::default()).then_some(change),
        mode,
        acl,
        hard_link: !stat.is_dir() && stat.links > 1,
        privileged,
    })
}

/// How a change went.
#[derive(Debug)]
pub(crate) enum Applied {
    /// It was made.
    Done,
    /// The file system does not do this.
    Refused(Refusal),
    /// A call failed; the text names it.
    Failed(String),
}

/// Makes a change on the open file that `stat` describes.
///
/// In the order of systemd-tmpfiles' `fd_set_perms`: at no moment does anybody have more rights
/// than before or after. A default ACL comes first: where there is none to be had nothing else is
/// changed, and an entry that has its owner may not be held to the rule any more.
#[inline(always)]
pub(crate) fn apply(procfs: &ProcFds, fd: impl AsFd, stat: &Stat, change: Change<'_>) -> Applied {
    let default_acl = change.default_acl.map_or(Ok(()), |acl| acl::set_default(&fd, acl));
    let result = default_acl
        .map_err(|errno| Refusal { call: "setting the default ACL", errno })
        .and_then(|()| set(procfs, fd, stat.entry.mode, change));
    match result {
        Ok(()) => Applied::Done,
        Err(refusal) if refusal.errno == Errno::PERM && stat.frozen => {
            Applied::Failed(format!("{refusal} (it is immutable or append-only)"))
        }
        Err(refusal) => match refusal.errno {
            Errno::PERM | Errno::ROFS | Errno::OPNOTSUPP => Applied::Refused(refusal),
            _ => Applied::Failed(refusal.to_string()),
        },
    }
}

#[inline(always)]
fn set(procfs: &ProcFds, fd: impl AsFd, old: u32, change: Change<'_>) -> Result<(), Refusal> {
    let set_mode = |mode| procfs.chmod(&fd, mode).map_err(|errno| Refusal { call: "chmod", errno });
    let reduced = match change {
        Change { owner: Some(_), mode: Some(new), .. } => old & new,
        _ => old,
    };
    if reduced != old {
        set_mode(reduced)?;
    }
    if let Some(owner) = change.owner
        && let Err(refusal) = chown(&fd, owner)
    {
        if reduced != old {
            // The entry keeps its owner, who must not lose rights for nothing.
            set_mode(old)?;
        }
        return Err(refusal);
    }
    match change.mode {
        // What the chown took must be given again.
        Some(new) if new != reduced || new & (SET_UID | SET_GID) != 0 => set_mode(new),
        _ => Ok(()),
    }
}

#[inline(always)]
fn chown(fd: impl AsFd, owner: HostIds) -> Result<(), Refusal> {
    let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
    chownat(fd, c"", Some(uid), Some(gid), AtFlags::EMPTY_PATH)
        .map_err(|errno| Refusal { call: "chown", errno })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, symlink};
    use std::path::Path;

    use super::*;

    const OWNER: HostIds = HostIds::new(100_000, 100_001);

    fn mode_of(path: &Path) -> u32 {
        std::fs::symlink_metadata(path).unwrap().mode() & 0o7777
    }

    /// With the calls of newer kernels, where there are any, and through `/proc`.
    fn both_ways() -> [ProcFds; 2] {
        let old = ProcFds { by_fd: false, by_dir: false, ..ProcFds::open().unwrap() };
        [old, ProcFds::open().unwrap()]
    }

    #[test]
    fn both_ways_see_the_attributes_of_the_open_file() {
        let dir = tempfile::tempdir().unwrap();
        let [name, moved] = ["name", "moved"].map(|n| dir.path().join(n));
        std::fs::write(&name, "").unwrap();
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(CWD, &name, flags, Mode::empty()).unwrap();
        std::fs::rename(&name, &moved).unwrap();
        std::fs::write(&name, "").unwrap();
        let none = rustix::fs::XattrFlags::empty();
        if let Err(errno) = rustix::fs::setxattr(&moved, "trusted.pctd", b"1", none) {
            assert!(matches!(errno, Errno::PERM | Errno::OPNOTSUPP), "{errno}");
            return;
        }
        for procfs in both_ways() {
            assert_eq!(procfs.has_xattr(&fd, c"trusted.pctd"), Ok(true), "{procfs:?}");
            assert_eq!(procfs.has_xattr(&fd, c"trusted.other"), Ok(false), "{procfs:?}");
        }
    }

    #[test]
    fn both_ways_change_the_open_file_whatever_has_its_name_by_now() {
        for procfs in both_ways() {
            let dir = tempfile::tempdir().unwrap();
            let [name, moved, victim] = ["name", "moved", "victim"].map(|n| dir.path().join(n));
            for path in [&name, &victim] {
                std::fs::write(path, "").unwrap();
                rustix::fs::chmod(path, Mode::from_raw_mode(0o600)).unwrap();
            }
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let fd = openat(CWD, &name, flags, Mode::empty()).unwrap();
            let stat = Stat::of(&fd).unwrap();
            std::fs::rename(&name, &moved).unwrap();
            symlink(&victim, &name).unwrap();
            let change = Change { owner: Some(OWNER), mode: Some(0o6711), default_acl: None };
            let applied = apply(&procfs, &fd, &stat, change);
            assert!(matches!(applied, Applied::Done), "{procfs:?}: {applied:?}");
            let metadata = std::fs::metadata(&moved).unwrap();
            assert_eq!(HostIds::new(metadata.uid(), metadata.gid()), OWNER);
            assert_eq!((mode_of(&moved), mode_of(&victim)), (0o6711, 0o600));
        }
    }

    #[test]
    fn both_ways_report_what_the_kernel_says() {
        for procfs in both_ways() {
            let fd = openat(CWD, "/proc/self/stat", OFlags::PATH, Mode::empty()).unwrap();
            assert_eq!(procfs.chmod(&fd, 0o777), Err(Errno::PERM), "{procfs:?}");
        }
    }
}
