//! What the kernel really reports, on a tmpfs of the test's own. As root only.

#![expect(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use pctd_sys::fanotify::{Entry, Event, Events, Group, Queue};
use pctd_sys::handle::{self, FileHandle};
use rustix::fs::{CWD, Mode, OFlags, fstatvfs, openat};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// A tmpfs that goes away with the test.
struct Tmpfs {
    dir: tempfile::TempDir,
}

impl Tmpfs {
    fn new() -> Self {
        assert!(rustix::process::geteuid().is_root(), "run it as root: it mounts a file system");
        let dir = tempfile::tempdir().unwrap();
        mount("tmpfs", dir.path(), "tmpfs", MountFlags::empty(), None).unwrap();
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn open(&self) -> OwnedFd {
        open(self.dir.path())
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _gone = unmount(self.dir.path(), UnmountFlags::DETACH);
    }
}

fn open(path: &Path) -> OwnedFd {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, path, flags, Mode::empty()).unwrap()
}

/// One event in words: what, the inode of its directory, its name.
fn told(root: &OwnedFd, entry: &Entry<'_>) -> String {
    let place = |place: &pctd_sys::fanotify::Place<'_>| {
        let dir = handle::open_dir(root, place.directory).unwrap();
        let inode = rustix::fs::fstat(&dir).unwrap().st_ino;
        format!("{inode}/{}", place.name.to_str().unwrap())
    };
    let what = match (entry.is_new, entry.from.is_some()) {
        (true, _) => "new",
        (false, true) => "moved",
        (false, false) => "changed",
    };
    let kind = if entry.is_dir { "dir" } else { "entry" };
    let from = entry.from.as_ref().map_or(String::new(), |from| format!(" from {}", place(from)));
    format!("{what} {kind} {}{from}", place(&entry.place))
}

fn all(group: &Group, root: &OwnedFd) -> BTreeSet<String> {
    let mut buffer = vec![0; 64 * 1024];
    let mut told_all = BTreeSet::new();
    loop {
        let events: Vec<_> = group.read(&mut buffer).unwrap().collect();
        if events.is_empty() {
            return told_all;
        }
        for event in events {
            let Event::Entry(entry) = event else { panic!("{event:?}") };
            assert_eq!(entry.pid, i32::try_from(std::process::id()).unwrap());
            assert_eq!(entry.place.file_system, fstatvfs(root).unwrap().f_fsid);
            told_all.insert(told(root, &entry));
        }
    }
}

#[test]
fn every_way_an_entry_comes_to_be_wrong_is_told_by_directory_and_name() {
    let fs_ = Tmpfs::new();
    let root = fs_.open();
    let group = Group::new(Queue::Bounded).unwrap();
    fs::create_dir(fs_.path("a")).unwrap();
    fs::write(fs_.path("a/old"), "").unwrap();
    group.mark_file_system(&root).unwrap();
    group.mark_file_system(&root).unwrap();
    let inode = |path: &str| fs::metadata(fs_.path(path)).unwrap().ino();
    let (top, a) = (inode(""), inode("a"));
    let mode = |path: &str, mode| {
        #[expect(clippy::disallowed_methods, reason = "a path of the test's own")]
        fs::set_permissions(fs_.path(path), fs::Permissions::from_mode(mode)).unwrap();
    };
    let check = |what: &str, expected: &[String]| {
        assert_eq!(all(&group, &root), expected.iter().cloned().collect(), "{what}");
    };

    fs::write(fs_.path("a/f"), "").unwrap();
    check("a file", &[format!("new entry {a}/f")]);
    mode("a/old", 0o600);
    check("a mode", &[format!("changed entry {a}/old")]);
    std::os::unix::fs::symlink("/etc/shadow", fs_.path("a/l")).unwrap();
    check("a link", &[format!("new entry {a}/l")]);
    fs::hard_link(fs_.path("a/old"), fs_.path("h")).unwrap();
    check("a name more", &[format!("new entry {top}/h")]);
    fs::create_dir(fs_.path("a/d")).unwrap();
    check("a directory", &[format!("new dir {a}/d")]);
    mode("a", 0o700);
    check("a directory's own mode", &[format!("changed dir {a}/.")]);
    mode("", 0o700);
    check("the top's own mode", &[format!("changed dir {top}/.")]);
    fs::rename(fs_.path("a/d"), fs_.path("e")).unwrap();
    check("a move", &[format!("moved dir {top}/e from {a}/d")]);
    fs::write(fs_.path("a/old"), "more").unwrap();
    fs::remove_file(fs_.path("a/l")).unwrap();
    let quiet = all(&group, &root);
    assert!(quiet.iter().all(|event| !event.contains("/l")), "{quiet:?}");
    group.unmark_file_system(&root).unwrap();
    mode("h", 0o644);
    check("nothing without a mark", &[]);
    assert_eq!(group.unmark_file_system(&root), Err(Errno::NOENT));
}

#[test]
fn a_mark_keeps_no_file_system_mounted() {
    let fs_ = Tmpfs::new();
    let group = Group::new(Queue::Bounded).unwrap();
    group.mark_file_system(fs_.open()).unwrap();
    unmount(fs_.dir.path(), UnmountFlags::empty()).unwrap();
    assert_eq!(group.read(&mut [0; 4096]).unwrap().count(), 0);
}

#[test]
fn what_was_lost_is_told() {
    let fs_ = Tmpfs::new();
    let group = Group::new(Queue::Bounded).unwrap();
    group.mark_file_system(fs_.open()).unwrap();
    let limit = fs::read_to_string("/proc/sys/fs/fanotify/max_queued_events").unwrap();
    for n in 0..limit.trim().parse::<u32>().unwrap() + 10 {
        fs::File::create(fs_.path(&n.to_string())).unwrap();
    }
    let mut buffer = vec![0; 1 << 20];
    let mut seen = 0;
    loop {
        let events: Vec<_> = group.read(&mut buffer).unwrap().collect();
        assert!(!events.is_empty(), "{seen} events and no overflow");
        seen += events.len();
        if events.contains(&Event::Overflow) {
            return;
        }
    }
}

#[test]
fn a_handle_finds_its_file_under_any_name_and_not_when_it_is_gone() {
    let fs_ = Tmpfs::new();
    fs::create_dir(fs_.path("a")).unwrap();
    let handle = FileHandle::of(open(&fs_.path("a"))).unwrap();
    let inode = fs::metadata(fs_.path("a")).unwrap().ino();
    fs::rename(fs_.path("a"), fs_.path("b")).unwrap();
    let found = handle::open_dir(fs_.open(), handle.as_bytes()).unwrap();
    assert_eq!(rustix::fs::fstat(&found).unwrap().st_ino, inode);
    drop(found);
    fs::remove_dir(fs_.path("b")).unwrap();
    assert_eq!(handle::open_dir(fs_.open(), handle.as_bytes()).unwrap_err(), Errno::STALE);
}

#[test]
fn bytes_that_are_no_handle_are_refused() {
    let root = open(Path::new("/tmp"));
    for bytes in [&[][..], &[1, 2, 3], &[1; 8], &[7; 300]] {
        assert!(handle::open_dir(&root, bytes).is_err(), "{bytes:?}");
    }
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_it_panic_or_go_on_for_ever(bytes: Vec<u8>) {
        let len = bytes.len();
        proptest::prop_assert!(Events::parse(&bytes).count() <= len);
    }

    #[test]
    fn cut_or_spoilt_events_are_unknown_never_wrong(at in 0_usize..80, byte: u8, cut in 0_usize..=80) {
        let mut bytes = [0; 80];
        bytes[..4].copy_from_slice(&80_u32.to_ne_bytes());
        bytes[4] = 3;
        bytes[6..8].copy_from_slice(&24_u16.to_ne_bytes());
        bytes[24] = 2;
        bytes[26..28].copy_from_slice(&56_u16.to_ne_bytes());
        bytes[36..40].copy_from_slice(&8_u32.to_ne_bytes());
        bytes[52..55].copy_from_slice(b"abc");
        bytes[at] = byte;
        for event in Events::parse(&bytes[..cut]) {
            if let Event::Entry(entry) = event {
                proptest::prop_assert!(entry.place.directory.len() <= 56);
            }
        }
    }
}
