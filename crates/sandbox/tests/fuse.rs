//! `/etc/pve` as a file system of its own: what a program on the node meets through the kernel,
//! which is what the real `pmxcfs` was seen to do.

#![expect(clippy::unwrap_used, reason = "a test whose node cannot be made ends")]

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;

use pctd_core::ids::Ctid;
use pctd_sandbox::{Node, NodeOptions};
use rustix::fs::inotify::{self, WatchFlags};
use rustix::fs::{
    AtFlags, CWD, FileType, FlockOperation, Gid, Mode, OFlags, RenameFlags, Uid, XattrFlags,
};
use rustix::io::Errno;

const CONF: &str = "arch: amd64\nhostname: web\nmemory: 512\nostype: debian\n\
                    rootfs: local:100/vm-100-disk-0.raw,size=102M\nswap: 512\nunprivileged: 1\n";

/// A node whose `/etc/pve` is served by a process.
struct Fixture {
    node: Node,
    _dir: tempfile::TempDir,
}

impl Drop for Fixture {
    fn drop(&mut self) {
        // Stopped or killed by the test it has nothing to end.
        let _stopped = self.node.stop_pmxcfs();
        let _unmounted = self.node.unmount_pmxcfs();
    }
}

fn ct() -> Ctid {
    Ctid::new(100).unwrap()
}

impl Fixture {
    /// Makes one with container 100 and a peer, where this machine has FUSE for us.
    fn new() -> Option<Self> {
        if let Err(error) = File::options().read(true).write(true).open("/dev/fuse") {
            assert!(std::env::var_os("PCTD_REQUIRE_REAL").is_none(), "/dev/fuse: {error}");
            eprintln!("skipped: /etc/pve as a file system of its own: /dev/fuse: {error}");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let peers = vec!["far".to_owned()];
        let options = NodeOptions { peers, fuse: true, ..NodeOptions::default() };
        let node = Node::create(dir.path(), options).unwrap();
        node.install_programs(env!("CARGO_BIN_EXE_pctd-sandbox")).unwrap();
        node.start_pmxcfs().unwrap();
        node.create_volume("local:100/vm-100-disk-0.raw", 102 << 20).unwrap();
        node.write_conf(ct(), CONF).unwrap();
        Some(Self { node, _dir: dir })
    }

    fn path(&self, below: &str) -> PathBuf {
        self.node.root().join("etc/pve").join(below)
    }

    fn conf(&self) -> PathBuf {
        self.path("lxc/100.conf")
    }

    fn json(&self, name: &str) -> serde_json::Value {
        serde_json::from_slice(&fs::read(self.path(name)).unwrap()).unwrap()
    }
}

fn mode(path: PathBuf) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

fn errno(result: io::Result<impl Sized>) -> Option<Errno> {
    result.err().and_then(|error| Errno::from_io_error(&error))
}

#[test]
fn what_pmxcfs_does_not_offer_fails_as_it_does_there() {
    let Some(fixture) = Fixture::new() else { return };
    let (conf, new) = (fixture.conf(), fixture.path("lxc/new"));
    let open = File::options().read(true).write(true).open(&conf).unwrap();
    let owner = |uid, gid| {
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        rustix::fs::chownat(CWD, &conf, uid, gid, AtFlags::empty())
    };
    assert_eq!(owner(0, 33), Ok(()));
    assert_eq!(owner(1000, 33), Err(Errno::PERM));
    assert_eq!(owner(0, 0), Err(Errno::PERM));
    assert_eq!(rustix::fs::fchmod(&open, Mode::from_raw_mode(0o640)), Ok(()));
    assert_eq!(rustix::fs::fchmod(&open, Mode::from_raw_mode(0o600)), Err(Errno::PERM));
    assert_eq!(rustix::fs::symlink("x", &new), Err(Errno::NOSYS));
    assert_eq!(rustix::fs::link(&conf, &new), Err(Errno::PERM));
    let fifo = rustix::fs::mknodat(CWD, &new, FileType::Fifo, Mode::RUSR, 0);
    assert_eq!(fifo, Err(Errno::NOSYS));
    let xattr = rustix::fs::setxattr(&conf, "user.x", b"", XattrFlags::empty());
    assert_eq!(xattr, Err(Errno::OPNOTSUPP));
    let flags = OFlags::TMPFILE | OFlags::RDWR;
    let unnamed = rustix::fs::open(fixture.path("lxc/"), flags, Mode::RUSR);
    assert_eq!(unnamed.err(), Some(Errno::OPNOTSUPP));
    let flags = RenameFlags::NOREPLACE;
    assert_eq!(rustix::fs::renameat_with(CWD, &conf, CWD, &new, flags), Err(Errno::INVAL));
    let elsewhere = fixture.node.root().join("etc/x");
    assert_eq!(rustix::fs::rename(&conf, elsewhere), Err(Errno::XDEV));
    // What it does offer.
    File::create_new(&new).unwrap().sync_all().unwrap();
    rustix::fs::flock(&open, FlockOperation::NonBlockingLockExclusive).unwrap();
    assert_eq!(errno(File::create_new(&new)), Some(Errno::EXIST));
    fs::rename(&new, &conf).unwrap();
    assert_eq!(fs::read(&conf).unwrap(), b"");
    open.set_len(3).unwrap();
}

#[test]
fn owners_modes_and_times_are_those_of_pmxcfs() {
    let Some(fixture) = Fixture::new() else { return };
    fs::create_dir(fixture.path("priv")).unwrap();
    fs::write(fixture.path("priv/key"), "x").unwrap();
    let modes = ["", "nodes/vm/lxc", "lxc/100.conf", "local", ".vmlist", "priv", "priv/key"];
    let modes = modes.map(|path| mode(fixture.path(path)));
    assert_eq!(modes, [0o755, 0o755, 0o640, 0o755, 0o440, 0o700, 0o600]);
    let stat = fs::metadata(fixture.conf()).unwrap();
    assert_eq!((stat.uid(), stat.gid(), stat.mtime_nsec(), stat.ctime_nsec()), (0, 33, 0, 0));
    assert_eq!(stat.mtime(), stat.ctime());
    for (link, target) in [("lxc", "nodes/vm/lxc"), ("local", "nodes/vm")] {
        assert_eq!(fs::read_link(fixture.path(link)).unwrap(), PathBuf::from(target));
        assert_eq!(fs::symlink_metadata(fixture.path(link)).unwrap().mtime(), 0);
    }
    let inode = || fs::metadata(fixture.conf()).unwrap().ino();
    let before = inode();
    File::options().append(true).open(fixture.conf()).unwrap().write_all(b"#x\n").unwrap();
    assert_eq!(inode(), before, "written in place");
    fixture.node.write_conf(ct(), CONF).unwrap();
    assert_ne!(inode(), before, "renamed over");
    let mut names: Vec<_> = fs::read_dir(fixture.path("")).unwrap().flatten().collect();
    names.sort_by_key(fs::DirEntry::file_name);
    let names: Vec<_> = names.iter().map(fs::DirEntry::file_name).collect();
    let expected =
        [".members", ".version", ".vmlist", "local", "lxc", "nodes", "priv", "qemu-server"];
    assert_eq!(names, [&expected[..], &["storage.cfg"]].concat());
}

#[test]
fn the_real_rules_of_pct_work_on_it_and_are_counted() {
    let Some(fixture) = Fixture::new() else { return };
    let version = || fixture.json(".vmlist")["ids"]["100"]["version"].as_u64().unwrap();
    let before = version();
    let program = fixture.node.root().join("usr/sbin/pct");
    let set = |tags: &str| {
        std::process::Command::new(&program).args(["set", "100", "--tags", tags]).output().unwrap()
    };
    assert!(set("x").status.success());
    assert_eq!(version(), before + 1);
    assert!(fs::read_to_string(fixture.conf()).unwrap().contains("tags: x"));
    fixture.node.set_quorum(false).unwrap();
    let refused = set("y");
    let stderr = String::from_utf8(refused.stderr).unwrap();
    assert!(stderr.contains("Permission denied"), "{stderr}");
    assert_eq!(refused.status.code(), Some(2));
    fixture.node.stop_pmxcfs().unwrap();
    assert_eq!(set("z").status.code(), Some(111));
    fixture.node.start_pmxcfs().unwrap();
    assert!(set("z").status.success());
}

#[test]
fn without_a_quorum_reads_go_on_and_every_write_fails_in_its_own_way() {
    let Some(fixture) = Fixture::new() else { return };
    let mut open = File::options().append(true).open(fixture.conf()).unwrap();
    fixture.node.set_quorum(false).unwrap();
    assert_eq!(errno(open.write_all(b"x")), Some(Errno::IO));
    let mut reopened = File::options().append(true).open(fixture.conf()).unwrap();
    assert_eq!(errno(reopened.write_all(b"x")), Some(Errno::IO));
    assert_eq!(errno(File::create(fixture.path("lxc/x"))), Some(Errno::ACCESS));
    assert_eq!(errno(File::create(fixture.conf())), Some(Errno::ACCESS), "truncation");
    let renamed = fs::rename(fixture.conf(), fixture.path("lxc/x"));
    assert_eq!(errno(renamed), Some(Errno::ACCESS));
    assert_eq!(fs::read_to_string(fixture.conf()).unwrap(), CONF);
    assert_eq!(fixture.json(".members")["cluster"]["quorate"], 0);
    // The kernel may believe old modes for a second.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    assert_eq!(mode(fixture.path("local")), 0o555);
    assert_eq!(mode(fixture.conf()), 0o440);
    fixture.node.set_quorum(true).unwrap();
    open.write_all(b"#x\n").unwrap();
}

#[test]
fn stopped_it_is_an_empty_directory_killed_it_answers_nothing_and_both_times_all_is_back() {
    let Some(fixture) = Fixture::new() else { return };
    fixture.node.write_conf(ct(), CONF).unwrap();
    let start = || fixture.json(".version")["starttime"].as_u64().unwrap();
    let counters = || {
        let list = fixture.json(".vmlist");
        (list["version"].as_u64().unwrap(), list["ids"]["100"]["version"].as_u64().unwrap())
    };
    assert!(counters().0 > 1);
    let (first, mtime) = (start(), fs::metadata(fixture.conf()).unwrap().mtime());

    fixture.node.stop_pmxcfs().unwrap();
    assert_eq!(fs::read_dir(fixture.path("")).unwrap().count(), 0);
    let bare = fs::metadata(fixture.path("")).unwrap();
    assert_eq!((bare.mode() & 0o7777, bare.gid()), (0o750, 0));
    fixture.node.start_pmxcfs().unwrap();
    let second = start();
    assert_ne!(second, first);
    assert_eq!(counters(), (1, 1), "the counters begin anew");
    assert_eq!(fs::read_to_string(fixture.conf()).unwrap(), CONF);
    assert_eq!(fs::metadata(fixture.conf()).unwrap().mtime(), mtime);

    fixture.node.kill_pmxcfs().unwrap();
    assert_eq!(errno(fs::read(fixture.conf())), Some(Errno::NOTCONN));
    assert_eq!(errno(fs::read_dir(fixture.path(""))), Some(Errno::NOTCONN));
    assert_eq!(fixture.node.pct(["list"]).unwrap().exit, 111);
    fixture.node.unmount_pmxcfs().unwrap();
    assert_eq!(fs::read_dir(fixture.path("")).unwrap().count(), 0);
    fixture.node.start_pmxcfs().unwrap();
    fixture.node.kill_pmxcfs().unwrap();
    // Started over the dead mount.
    fixture.node.start_pmxcfs().unwrap();
    assert_eq!(fs::read_to_string(fixture.conf()).unwrap(), CONF);
    assert_ne!(start(), second);
}

#[test]
fn what_another_node_writes_is_there_and_counted_and_no_watch_sees_it() {
    let Some(fixture) = Fixture::new() else { return };
    let watch = inotify::init(inotify::CreateFlags::NONBLOCK).unwrap();
    let flags = WatchFlags::CREATE | WatchFlags::MODIFY | WatchFlags::MOVE | WatchFlags::DELETE;
    inotify::add_watch(&watch, fixture.path("lxc/"), flags).unwrap();
    let mut events = File::from(watch);
    let mut heard = || events.read(&mut [0; 4096]).is_ok();
    let version = || fixture.json(".vmlist")["version"].as_u64().unwrap();
    let before = version();
    fixture.node.peer_write("nodes/vm/lxc/100.conf", "memory: 1\n").unwrap();
    assert_eq!(fs::read_to_string(fixture.conf()).unwrap(), "memory: 1\n");
    fixture.node.peer_write("nodes/vm/lxc/101.conf", "memory: 2\n").unwrap();
    assert!(fixture.path("lxc/101.conf").exists());
    fixture.node.peer_rename("nodes/vm/lxc/101.conf", "nodes/far/lxc/101.conf").unwrap();
    assert_eq!(fixture.json(".vmlist")["ids"]["101"]["node"], "far");
    fixture.node.peer_remove("nodes/far/lxc/101.conf").unwrap();
    assert_eq!(version(), before + 5, "a move counts twice");
    assert!(!heard());
    fixture.node.write_conf(ct(), CONF).unwrap();
    assert!(heard());
}

#[test]
fn a_file_that_is_too_large_is_cut_off_and_an_id_is_used_once() {
    let Some(fixture) = Fixture::new() else { return };
    let big = fixture.path("big");
    fs::write(&big, vec![b'x'; 1 << 20]).unwrap();
    let more = File::options().append(true).open(&big).unwrap().write_all(b"x");
    assert_eq!(errno(more), Some(Errno::FBIG));
    assert_eq!(fs::metadata(&big).unwrap().len(), 1 << 20);
    for taken in ["nodes/far/lxc/100.conf", "qemu-server/100.conf"] {
        assert_eq!(errno(File::create(fixture.path(taken))), Some(Errno::EXIST), "{taken}");
    }
    fs::rename(fixture.conf(), fixture.path("nodes/far/lxc/100.conf")).unwrap();
    assert_eq!(fixture.json(".vmlist")["ids"]["100"]["node"], "far");
}
