//! Raw lines written into a conf: under the lock of its writers, only what was decided on, or not
//! at all.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileTypeExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use pctd_core::conf::{Digest, RawEdit};
use pctd_core::ids::Ctid;
use pctd_node::{ConfEditError, Node, NodeOptions};
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat, open};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::support::{Tree, skip};

const CONF: &str = "#note\nmp1:  /a,mp=/a \nlxc.cap.drop=x\n\n[snap]\nlxc.cap.drop: x\n";

struct Place {
    _tree: Tree,
    node: Node,
    dir: PathBuf,
    conf: PathBuf,
}

fn place() -> Place {
    let tree = Tree::new();
    let pve = tree.outside("etc/pve");
    let dir = pve.join("nodes/vm/lxc");
    fs::create_dir_all(&dir).unwrap();
    symlink("nodes/vm", pve.join("local")).unwrap();
    fs::write(pve.join(".version"), r#"{"starttime":1,"vmlist":3}"#).unwrap();
    let vmlist = r#"{"version":3,"ids":{"100":{"node":"vm","type":"lxc","version":2}}}"#;
    fs::write(pve.join(".vmlist"), vmlist).unwrap();
    let conf = dir.join("100.conf");
    fs::write(&conf, CONF).unwrap();
    let node = Node::open(tree.paths.clone(), NodeOptions::default());
    Place { _tree: tree, node, dir, conf }
}

fn ctid() -> Ctid {
    Ctid::new(100).unwrap()
}

fn edit(node: &Node, on: &str) -> Result<(), ConfEditError> {
    let edit = RawEdit {
        remove: vec!["lxc.cap.drop: x".parse().unwrap()],
        add: vec!["lxc.idmap: u 0 5 6".parse().unwrap()],
    };
    node.edit_conf(ctid(), Digest::of(on.as_bytes()), &edit)
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn only_the_lines_change_and_nothing_is_left_beside_the_conf() {
    let place = place();
    // What a process with this id left behind when it was killed.
    let left = place.dir.join(format!("100.conf.tmp.{}", std::process::id()));
    fs::write(left, "half").unwrap();
    edit(&place.node, CONF).unwrap();
    let expected = "#note\nmp1:  /a,mp=/a \nlxc.idmap: u 0 5 6\n\n[snap]\nlxc.cap.drop: x\n";
    assert_eq!(fs::read_to_string(&place.conf).unwrap(), expected);
    assert_eq!(names(&place.dir), ["100.conf"]);
    // The lock is free again, and its file stays, as Proxmox leaves it.
    let lock = File::open(place.node.paths().conf_lock(ctid())).unwrap();
    lock.try_lock().unwrap();
}

#[test]
fn what_is_not_what_was_decided_on_is_left() {
    let place = place();
    assert!(matches!(edit(&place.node, "other\n"), Err(ConfEditError::Changed { .. })));
    let locked = format!("lock: backup\n{CONF}");
    fs::write(&place.conf, &locked).unwrap();
    let error = edit(&place.node, &locked).unwrap_err();
    assert_eq!(error.to_string(), "container 100 is locked (backup)");
    fs::write(&place.conf, "arch: amd64\n").unwrap();
    let error = edit(&place.node, "arch: amd64\n").unwrap_err();
    assert!(error.to_string().ends_with("`lxc.cap.drop: x` is not there any more"), "{error}");
    fs::remove_file(&place.conf).unwrap();
    assert!(matches!(edit(&place.node, CONF), Err(ConfEditError::Changed { .. })));
    assert_eq!(names(&place.dir), [""; 0]);
}

/// An editor takes no lock, so the conf is compared once more after its successor was written. A FIFO
/// stands for the conf, so that each time it is read it says what it is told to.
#[test]
fn what_is_changed_while_its_successor_is_written_is_left() {
    let place = place();
    fs::remove_file(&place.conf).unwrap();
    mknodat(CWD, &place.conf, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let successor = place.dir.join(format!("100.conf.tmp.{}", std::process::id()));
    // Nobody can open it for writing before somebody reads it.
    let say = |text: &str| {
        let flags = OFlags::WRONLY | OFlags::NONBLOCK;
        let fifo = open(&place.conf, flags, Mode::empty()).map(File::from);
        fifo.is_ok_and(|mut fifo| fifo.write_all(text.as_bytes()).is_ok())
    };
    let edited = thread::scope(|scope| {
        let edited = scope.spawn(|| edit(&place.node, CONF));
        let until = |is_so: &dyn Fn() -> bool| {
            while !is_so() && !edited.is_finished() {
                thread::sleep(Duration::from_millis(1));
            }
        };
        until(&|| say(CONF));
        until(&|| successor.exists());
        until(&|| say("other\n"));
        edited.join().unwrap()
    });
    assert!(matches!(edited, Err(ConfEditError::Changed { .. })), "{edited:?}");
    assert!(fs::symlink_metadata(&place.conf).unwrap().file_type().is_fifo());
    assert_eq!(names(&place.dir), ["100.conf"]);
}

#[test]
fn a_lock_that_is_held_is_waited_for_only_so_long() {
    let place = place();
    let path = place.node.paths().conf_lock(ctid());
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let lock = File::create(&path).unwrap();
    lock.lock().unwrap();
    let begun = Instant::now();
    let error = edit(&place.node, CONF).unwrap_err();
    assert!(matches!(error, ConfEditError::Busy { .. }), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(fs::read_to_string(&place.conf).unwrap(), CONF);
    // One that is released in time is got.
    let release = thread::spawn(move || {
        thread::sleep(Duration::from_millis(100));
        drop(lock);
    });
    edit(&place.node, CONF).unwrap();
    release.join().unwrap();
}

#[test]
fn a_link_in_place_of_the_lock_or_the_conf_is_not_followed() {
    let place = place();
    let path = place.node.paths().conf_lock(ctid());
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let elsewhere = place.dir.join("elsewhere");
    symlink(&elsewhere, &path).unwrap();
    assert!(matches!(edit(&place.node, CONF), Err(ConfEditError::Io { .. })));
    assert!(!elsewhere.exists());
    fs::remove_file(&path).unwrap();
    fs::rename(&place.conf, &elsewhere).unwrap();
    symlink(&elsewhere, &place.conf).unwrap();
    assert!(matches!(edit(&place.node, CONF), Err(ConfEditError::Io { .. })));
    assert_eq!(fs::read_to_string(&elsewhere).unwrap(), CONF);
}

/// What pmxcfs does without quorum: every write is refused, to root, too.
#[test]
fn a_file_system_that_refuses_writes_is_a_lost_quorum() {
    let place = place();
    let immutable = |sign: &str| {
        let done = Command::new("chattr").arg(sign).arg(&place.dir).status();
        done.is_ok_and(|status| status.success())
    };
    if !immutable("+i") {
        return skip("chattr +i", Errno::OPNOTSUPP);
    }
    let error = edit(&place.node, CONF);
    assert!(immutable("-i"));
    let error = error.unwrap_err();
    assert!(matches!(error, ConfEditError::NoQuorum { .. }), "{error}");
    assert!(error.to_string().contains("no quorum"), "{error}");
    assert_eq!(fs::read_to_string(&place.conf).unwrap(), CONF);
    assert_eq!(names(&place.dir), ["100.conf"]);
}

/// A file system whose program never reads a request keeps everybody waiting in the kernel.
#[test]
fn a_file_system_that_hangs_is_left_behind() {
    let place = place();
    let program = File::options().read(true).write(true).open("/dev/fuse");
    let mounted = program.and_then(|program| {
        let fd = program.as_raw_fd();
        let data = format!("fd={fd},rootmode=40000,user_id=0,group_id=0");
        let data = std::ffi::CString::new(data)?;
        mount("dead", &place.dir, "fuse", MountFlags::empty(), data.as_c_str())?;
        Ok(program)
    });
    let program = match mounted {
        Ok(program) => program,
        Err(error) => {
            let errno = error.raw_os_error().map_or(Errno::NOTSUP, Errno::from_raw_os_error);
            return skip("FUSE", errno);
        }
    };
    let begun = Instant::now();
    let first = edit(&place.node, CONF);
    let took = begun.elapsed();
    let again = Instant::now();
    let second = edit(&place.node, CONF);
    let took_again = again.elapsed();
    // Everybody who waits gets an error; only then can it be unmounted.
    drop(program);
    unmount(&place.dir, UnmountFlags::DETACH).unwrap();
    assert!(matches!(first, Err(ConfEditError::NoAnswer { .. })), "{first:?}");
    assert!(matches!(second, Err(ConfEditError::NoAnswer { .. })), "{second:?}");
    assert!(took < Duration::from_secs(20) && took_again < Duration::from_secs(1), "{took:?}");
}
