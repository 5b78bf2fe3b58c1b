//! What the kernel tells about containers: who holds a conf's flock, which ones run, under which
//! id map.
//!
//! Only looked at. A lock is never tried, not even without waiting: for that moment a `pct` of an
//! admin would find it held. Locks and sockets are read once for many containers.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use bstr::ByteSlice as _;
use pctd_core::idmap::IdMap;
use pctd_core::ids::Ctid;
use pctd_core::observed::Running;
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with, sockopt,
};

use crate::mounts::MountTable;
use crate::paths::NodePaths;

/// The files some process holds a flock on, at one moment.
#[derive(Debug, Default)]
pub struct Locks {
    files: BTreeSet<LockedFile>,
    mounts: MountTable,
}

/// A file as `/proc/locks` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct LockedFile {
    device: (u32, u32),
    inode: u64,
}

impl Locks {
    /// Reads them all.
    ///
    /// # Errors
    ///
    /// `/proc` cannot be read.
    pub fn read() -> io::Result<Self> {
        let files = parse_locks(&std::fs::read("/proc/locks")?);
        Ok(Self { files, mounts: MountTable::read()? })
    }

    /// Returns whether some process holds the flock on a container's conf.
    ///
    /// # Errors
    ///
    /// The lock file is there and cannot be looked at.
    pub fn held(&self, paths: &NodePaths, ctid: Ctid) -> io::Result<bool> {
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        let mask = StatxFlags::INO | StatxFlags::MNT_ID;
        let st = match statx(CWD, paths.conf_lock(ctid), flags, mask) {
            Ok(st) => st,
            Err(Errno::NOENT) => return Ok(false),
            Err(errno) => return Err(errno.into()),
        };
        // The kernel names the super block's device, which stat(2) does not show on btrfs.
        let mount = self.mounts.get(st.stx_mnt_id);
        let device = mount.map_or((st.stx_dev_major, st.stx_dev_minor), |entry| entry.device);
        Ok(self.files.contains(&LockedFile { device, inode: st.stx_ino }))
    }
}

/// The abstract sockets there are, at one moment: every running container has one.
#[derive(Debug, Default)]
pub struct Sockets {
    names: BTreeSet<Vec<u8>>,
}

impl Sockets {
    /// Reads them all.
    ///
    /// # Errors
    ///
    /// `/proc` cannot be read.
    pub fn read() -> io::Result<Self> {
        Ok(Self { names: parse_abstract_sockets(&std::fs::read("/proc/net/unix")?) })
    }

    /// Returns whether a container runs, and as what.
    pub fn running(&self, paths: &NodePaths, ctid: Ctid) -> Running {
        let name = paths.command_socket(ctid);
        if !self.names.contains(&name) {
            return Running::No;
        }
        let init = monitor_of(&name).and_then(init_below);
        Running::Yes { init, map: init.and_then(id_map_of) }
    }
}

/// Reads `/proc/locks` (`proc_locks(5)`) for files with a flock; those who wait for one do not count.
fn parse_locks(text: &[u8]) -> BTreeSet<LockedFile> {
    let held = |line: &[u8]| {
        let line = line.to_str().ok()?;
        let mut fields = line.split_ascii_whitespace().skip(1);
        // A waiter's line has `->` here.
        if fields.next()? != "FLOCK" {
            return None;
        }
        let file = fields.nth(3)?;
        let mut parts = file.split(':');
        let mut hex = || u32::from_str_radix(parts.next()?, 16).ok();
        let device = (hex()?, hex()?);
        Some(LockedFile { device, inode: parts.next()?.parse().ok()? })
    };
    text.lines().filter_map(held).collect()
}

/// Reads `/proc/net/unix` for abstract names, without the `@` that stands for their NUL.
fn parse_abstract_sockets(text: &[u8]) -> BTreeSet<Vec<u8>> {
    /// Number, reference count, protocol, flags, type, state, inode.
    const FIELDS_BEFORE_PATH: usize = 7;
    let name = |line: &[u8]| {
        let mut rest = line;
        for _ in 0..FIELDS_BEFORE_PATH {
            let field = rest.trim_ascii_start();
            rest = &field[field.find_byte(b' ')?..];
        }
        // A name may hold blanks of its own.
        rest.strip_prefix(b" @").map(<[u8]>::to_vec)
    };
    text.lines().skip(1).filter_map(name).collect()
}

/// Returns the process that listens on a container's command socket: its `lxc-start`.
///
/// Proxmox runs it in the foreground. One that an admin started and that went to the background has
/// left the process behind which the kernel names; it says what it is in its title.
///
/// Asking costs the monitor one accept of a connection that says nothing.
fn monitor_of(name: &[u8]) -> Option<u32> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).ok()?;
    connect(&socket, &SocketAddrUnix::new_abstract_name(name).ok()?).ok()?;
    let peer = sockopt::socket_peercred(&socket).ok()?;
    let listener = u32::try_from(peer.pid.as_raw_nonzero().get()).ok()?;
    if Path::new(&format!("/proc/{listener}")).exists() {
        return Some(listener);
    }
    titled(&monitor_title(name)?)
}

/// Returns the title of the monitor of the container with this command socket (lxc's
/// `lxcapi_start`): `[lxc monitor] /var/lib/lxc 100`.
fn monitor_title(socket: &[u8]) -> Option<Vec<u8>> {
    let (path, ctid) = socket.strip_suffix(b"/command")?.rsplit_once_str("/")?;
    Some([b"[lxc monitor] ", path, b" ", ctid].concat())
}

/// Returns the one process with this title; of several none is to be believed.
fn titled(title: &[u8]) -> Option<u32> {
    let pids = std::fs::read_dir("/proc").ok()?.flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let has_it = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.trim_end_with(|byte| byte == '\0') == title
    };
    let mut found = pids.filter(has_it);
    let first = found.next()?;
    found.next().is_none().then_some(first)
}

/// Returns the init of the container that a monitor started: its child that is process 1 of its
/// own pid namespace, else its first child.
fn init_below(monitor: u32) -> Option<u32> {
    let path = format!("/proc/{monitor}/task/{monitor}/children");
    let text = std::fs::read_to_string(path).ok()?;
    let children: Vec<u32> =
        text.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect();
    children.iter().copied().find(|pid| is_init(*pid)).or_else(|| children.first().copied())
}

fn is_init(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    let ids: Vec<_> = ids.unwrap_or_default().split_ascii_whitespace().collect();
    ids.len() > 1 && ids.last() == Some(&"1")
}

fn id_map_of(pid: u32) -> Option<IdMap> {
    let read = |file| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/{file}")).ok()?;
        // Empty between the making of the namespace and the writing of the map.
        (!text.trim().is_empty()).then_some(text)
    };
    IdMap::from_proc(&read("uid_map")?, &read("gid_map")?)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixListener};

    use super::*;

    fn node() -> (tempfile::TempDir, NodePaths) {
        let dir = tempfile::tempdir().unwrap();
        let paths = NodePaths::new(Some(dir.path().into())).unwrap();
        (dir, paths)
    }

    fn ctid() -> Ctid {
        Ctid::new(100).unwrap()
    }

    #[test]
    fn locks_of_holders_count_and_those_of_waiters_do_not() {
        let locks = parse_locks(
            b"1: FLOCK  ADVISORY  WRITE 812 00:1a:1234 0 EOF\n\
              1: -> FLOCK  ADVISORY  WRITE 900 00:1a:1234 0 EOF\n\
              2: POSIX  ADVISORY  WRITE 812 00:1a:77 0 EOF\n\
              3: -> FLOCK  ADVISORY  WRITE 900 fe:00:55 0 EOF\n\
              4: FLOCK  ADVISORY  READ 812 fe:01:99 0 EOF\ngarbage\n",
        );
        let file = |major, minor, inode| LockedFile { device: (major, minor), inode };
        assert_eq!(locks, [file(0, 0x1a, 1234), file(0xfe, 1, 99)].into());
    }

    #[test]
    fn abstract_names_are_read_with_their_blanks() {
        let sockets = parse_abstract_sockets(
            b"Num       RefCount Protocol Flags    Type St Inode Path\n\
              0000000000000000: 00000002 00000000 00010000 0001 01 26317 @/var/lib/lxc/100/command\n\
              0000000000000000: 00000003 00000000 00000000 0001 03   417\n\
              0000000000000000: 00000002 00000000 00010000 0001 01   418 /run/x.sock\n\
              0000000000000000: 00000002 00000000 00010000 0001 01   419 @/a b/c\n",
        );
        assert_eq!(sockets, [b"/var/lib/lxc/100/command".to_vec(), b"/a b/c".to_vec()].into());
    }

    #[test]
    fn a_held_flock_is_seen_without_taking_it() {
        let (_dir, paths) = node();
        std::fs::create_dir_all(paths.conf_lock_dir()).unwrap();
        let held = |paths| Locks::read().unwrap().held(paths, ctid()).unwrap();
        assert!(!held(&paths));
        let file = File::create(paths.conf_lock(ctid())).unwrap();
        assert!(!held(&paths));
        file.lock().unwrap();
        assert!(held(&paths));
        file.unlock().unwrap();
        file.lock_shared().unwrap();
        assert!(held(&paths));
        drop(file);
        assert!(!held(&paths));
    }

    #[test]
    fn a_container_runs_while_its_command_socket_is_there() {
        let (_dir, paths) = node();
        let running = || Sockets::read().unwrap().running(&paths, ctid());
        assert_eq!(running(), Running::No);
        let name = SocketAddr::from_abstract_name(paths.command_socket(ctid())).unwrap();
        let listener = UnixListener::bind_addr(&name).unwrap();
        assert!(matches!(running(), Running::Yes { .. }));
        drop(listener);
        assert_eq!(running(), Running::No);
    }

    #[test]
    fn the_init_is_the_monitors_child_and_its_map_is_read() {
        let (_dir, paths) = node();
        let name = paths.command_socket(ctid());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let _listener = UnixListener::bind_addr(&address).unwrap();
        assert_eq!(monitor_of(&name), Some(std::process::id()));
        // Children are listed by the thread that made them.
        let mut shell = std::process::Command::new("/bin/sh");
        let mut monitor = shell.arg("-c").arg("sleep 60 & echo $!; wait");
        monitor = monitor.stdout(std::process::Stdio::piped());
        let mut monitor = monitor.spawn().unwrap();
        let mut line = String::new();
        let stdout = monitor.stdout.take().unwrap();
        io::BufRead::read_line(&mut io::BufReader::new(stdout), &mut line).unwrap();
        let child: u32 = line.trim().parse().unwrap();
        assert_eq!(init_below(monitor.id()), Some(child));
        assert!(id_map_of(child).is_some());
        let pid = rustix::process::Pid::from_raw(i32::try_from(child).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        monitor.wait().unwrap();
        assert_eq!(init_below(monitor.id()), None);
    }
}
