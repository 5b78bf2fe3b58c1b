//! A node in a temporary directory, with one volume; `adversary` is whoever attacks it.

pub(crate) mod adversary;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use pctd_core::desired::{Enforce, Owner, RequireMount, Volume};
use pctd_core::ids::HostIds;
use pctd_core::modes::ModeRule;
use pctd_core::ownership::{OwnershipRule, Scope};
use pctd_node::{FdBudget, NodePaths, Progress, Walk, WalkMode, WalkReport, source};
use rustix::fs::{AtFlags, CWD, Gid, Uid, chmod, chownat};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// Ids that nobody has.
pub(crate) const OWNER: HostIds = HostIds::new(100_000, 100_001);

/// A node with a volume at `/vol`.
pub(crate) struct Tree {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) paths: NodePaths,
    pub(crate) volume: Volume,
}

impl Tree {
    pub(crate) fn new() -> Self {
        Self::in_dir(tempfile::tempdir().unwrap())
    }

    /// A tree in memory, for many files.
    pub(crate) fn in_memory() -> Self {
        let shm = Path::new("/dev/shm");
        Self::in_dir(if shm.is_dir() {
            tempfile::tempdir_in(shm).unwrap()
        } else {
            tempfile::tempdir().unwrap()
        })
    }

    fn in_dir(dir: tempfile::TempDir) -> Self {
        fs::create_dir(dir.path().join("vol")).unwrap();
        let paths = NodePaths::new(Some(dir.path().into())).unwrap();
        Self { dir, paths, volume: volume("/vol") }
    }

    /// A path outside of the volume.
    pub(crate) fn outside(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    /// A path in the volume.
    pub(crate) fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join("vol").join(path)
    }

    pub(crate) fn file(&self, path: &str) -> PathBuf {
        let path = self.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "content").unwrap();
        path
    }

    pub(crate) fn repair(&self, rule: &OwnershipRule) -> WalkReport {
        self.walk(rule, WalkMode::Repair, FdBudget::default(), &|_| {})
    }

    pub(crate) fn audit(&self, rule: &OwnershipRule) -> WalkReport {
        self.walk(rule, WalkMode::Audit, FdBudget::default(), &|_| {})
    }

    pub(crate) fn walk(
        &self,
        rule: &OwnershipRule,
        mode: WalkMode,
        fds: FdBudget,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> WalkReport {
        self.walk_with(Walk { progress, fds, ..Walk::new(mode, rule) })
    }

    pub(crate) fn walk_with(&self, walk: Walk<'_>) -> WalkReport {
        walk_volume(&self.paths, &self.volume, walk)
    }
}

/// Walks a volume of any node.
pub(crate) fn walk_volume(paths: &NodePaths, volume: &Volume, walk: Walk<'_>) -> WalkReport {
    assert!(
        rustix::process::geteuid().is_root(),
        "this changes owners: run the tests as root, or as root of a user namespace \
         (`unshare --map-auto --map-root-user cargo test --workspace`)"
    );
    let (state, open) = source::open(paths, volume);
    let open = open.unwrap_or_else(|| panic!("{state:?}"));
    pctd_node::walk::walk(&open, walk).unwrap()
}

pub(crate) fn volume(host_path: &str) -> Volume {
    Volume {
        name: "test".parse().unwrap(),
        host_path: host_path.into(),
        owner: Owner::Keep,
        group: None,
        default_acl: None,
        owner_ctid: None,
        disk_ids: None,
        dir_mode: ModeRule::Keep,
        file_mode: ModeRule::Keep,
        file_modes: Vec::new(),
        enforce: Enforce::Always,
        recurse: true,
        create: true,
        require_mount: RequireMount::No,
        nodes: BTreeSet::new(),
        shared: None,
        mounts: BTreeMap::new(),
        certificates: Vec::new(),
    }
}

/// Every entry is to be [`OWNER`]'s, with these modes.
pub(crate) fn rule(dir_mode: &str, file_mode: &str) -> OwnershipRule {
    OwnershipRule {
        owner: Some(OWNER),
        group: None,
        default_acl: None,
        scope: Scope::All,
        dir_mode: dir_mode.parse().unwrap(),
        file_mode: file_mode.parse().unwrap(),
        file_modes: Vec::new(),
        recurse: true,
    }
}

pub(crate) fn ids(path: impl AsRef<Path>) -> HostIds {
    let metadata = fs::symlink_metadata(path).unwrap();
    HostIds::new(metadata.uid(), metadata.gid())
}

pub(crate) fn mode(path: impl AsRef<Path>) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

pub(crate) fn ctime(path: impl AsRef<Path>) -> (i64, i64) {
    let metadata = fs::symlink_metadata(path).unwrap();
    (metadata.ctime(), metadata.ctime_nsec())
}

pub(crate) fn set_mode(path: impl AsRef<Path>, mode: u32) {
    chmod(path.as_ref(), mode.into()).unwrap();
}

pub(crate) fn set_ids(path: impl AsRef<Path>, ids: HostIds) {
    let (uid, gid) = (Uid::from_raw(ids.uid), Gid::from_raw(ids.gid));
    chownat(CWD, path.as_ref(), Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// All paths below `dir`, itself included.
pub(crate) fn all_below(dir: &Path) -> Vec<PathBuf> {
    let mut all = vec![dir.to_owned()];
    let mut next = 0;
    while let Some(path) = all.get(next).cloned() {
        next += 1;
        if fs::symlink_metadata(&path).unwrap().is_dir() {
            all.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    all
}

/// Returns how many marks this process has on a file system, by its device number.
pub(crate) fn marks_of(device: u64) -> usize {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    // As the kernel keeps it (`show_mark_fhandle`): 20 bits for the minor number.
    let line = format!("fanotify sdev:{:x} ", major << 20 | minor);
    let of = |fd: fs::DirEntry| {
        let info = Path::new("/proc/self/fdinfo").join(fd.file_name());
        let text = fs::read_to_string(info).unwrap_or_default();
        text.lines().filter(|found| found.starts_with(&line)).count()
    };
    fs::read_dir("/proc/self/fd").unwrap().map(|fd| of(fd.unwrap())).sum()
}

/// Returns the device of what is mounted at a path, as the table of mounts has it: on btrfs another
/// one than that of the files.
pub(crate) fn device_of_mount(at: &Path) -> u64 {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mut fields = table.lines().map(|line| line.split(' ').collect::<Vec<_>>()).rev();
    let own = fields.find(|fields| Path::new(fields[4]) == at).unwrap();
    let (major, minor) = own[2].split_once(':').unwrap();
    rustix::fs::makedev(major.parse().unwrap(), minor.parse().unwrap())
}

/// Something mounted for the time of a test.
pub(crate) struct Mounted(PathBuf);

impl Mounted {
    /// Mounts an empty tmpfs, or says that this machine does not permit it.
    pub(crate) fn tmpfs(at: &Path) -> Option<Self> {
        Self::done(at, mount("tmpfs", at, "tmpfs", MountFlags::empty(), None))
    }

    /// Makes a file system of this kind in a file and mounts it, or says that this machine has or
    /// permits none.
    pub(crate) fn image(kind: &str, image: &Path, at: &Path) -> Option<Self> {
        let made = Command::new(format!("mkfs.{kind}")).arg("-q").arg(image).output();
        match made {
            Ok(made) => assert!(made.status.success(), "mkfs.{kind}: {made:?}"),
            Err(error) => {
                let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
                skip(&format!("mkfs.{kind}"), errno);
                return None;
            }
        }
        Self::mount(kind, "loop", image, at)
    }

    /// Mounts the file system that is mounted at `from` once more.
    pub(crate) fn also_at(from: &Path, at: &Path, options: &str) -> Option<Self> {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let line =
            |line: &&str| line.split(' ').nth(4).is_some_and(|point| Path::new(point) == from);
        let own = table.lines().rev().find(line).unwrap();
        let mut of = own.split_once(" - ").unwrap().1.split(' ');
        let (kind, source) = (of.next().unwrap(), of.next().unwrap());
        Self::mount(kind, options, Path::new(source), at)
    }

    /// Mounts it once more.
    pub(crate) fn also(&self, at: &Path, options: &str) -> Option<Self> {
        Self::also_at(&self.0, at, options)
    }

    pub(crate) fn mount(kind: &str, options: &str, what: &Path, at: &Path) -> Option<Self> {
        let mut command = Command::new("mount");
        command.args(["-t", kind, "-o", options]).args([what, at]);
        let mounted = command.output().unwrap();
        if !mounted.status.success() {
            println!("{}", String::from_utf8_lossy(&mounted.stderr));
            skip(&format!("mounts of {kind}"), Errno::NODEV);
            return None;
        }
        Some(Self(at.to_owned()))
    }

    /// Shows `from` at `at` as well.
    pub(crate) fn bind(from: &Path, at: &Path) -> Option<Self> {
        Self::done(at, rustix::mount::mount_bind(from, at))
    }

    pub(crate) fn make_read_only(&self) {
        let flags = MountFlags::BIND | MountFlags::RDONLY;
        rustix::mount::mount_remount(&self.0, flags, "").unwrap();
    }

    fn done(at: &Path, result: rustix::io::Result<()>) -> Option<Self> {
        result.map(|()| Self(at.to_owned())).map_err(|errno| skip("mounts", errno)).ok()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // The directory goes with its test; a mount that stays behind would only be in the way.
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

/// Says that a test cannot do its work here.
pub(crate) fn skip(what: &str, errno: Errno) {
    assert!(std::env::var_os("PCTD_REQUIRE_REAL").is_none(), "{what}: {errno}");
    println!("skipped: this machine does not permit {what}: {errno}");
}
