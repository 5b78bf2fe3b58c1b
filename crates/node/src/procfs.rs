//! What the kernel tells about containers: who holds a conf's flock, which ones run, under which
//! id map.
//!
//! Only looked at. A lock is never tried, not even without waiting: for that moment a `pct` of an
//! admin would find it held. Locks and sockets are read once for many containers.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use bstr::ByteSlice as _;
use pctd_core::idmap::IdMap;
use pctd_core::ids::Ctid;
use pctd_core::observed::Running;
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with, sockopt,
};
use rustix::process::geteuid;

use crate::mounts::MountTable;
use crate::paths::NodePaths;
use crate::process::{Own, Process};

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
///
/// They have no permissions, so that one is there says little: anybody can listen where a
/// container's monitor would. What it runs as is only taken from processes of the node.
#[derive(Debug, Default)]
pub struct Sockets {
    /// Each with the inode of the one that listens.
    names: BTreeMap<Vec<u8>, Option<u64>>,
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
        let Some(&listening) = self.names.get(&name) else { return Running::No };
        let found = listening.and_then(|inode| {
            let own = Own::read().ok()?;
            let monitor = monitor_of(&own, &name, inode)?;
            let is_simulated = !paths.prefix().as_os_str().is_empty();
            let init = init_below(&own, &monitor, is_simulated)?;
            let map = id_map_of(&init);
            // Its children were its own only if it was there all the time.
            monitor.has_socket(inode).is_ok_and(|has| has).then(|| (init.pid(), map))
        });
        match found {
            Some((init, map)) => Running::Yes { init: Some(init), map },
            None => Running::Yes { init: None, map: None },
        }
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

/// Reads `/proc/net/unix` for abstract names, without the `@` that stands for their NUL, each with
/// the inode of the stream socket that listens there.
fn parse_abstract_sockets(text: &[u8]) -> BTreeMap<Vec<u8>, Option<u64>> {
    /// Number, reference count, protocol, flags, type, state, inode.
    const FIELDS_BEFORE_PATH: usize = 7;
    /// `__SO_ACCEPTCON`, and `SOCK_STREAM`.
    const LISTENS: u32 = 0x10000;
    const STREAM: u32 = 1;
    let mut names = BTreeMap::new();
    for line in text.lines().skip(1) {
        let mut rest = line;
        let mut fields = [b"".as_slice(); FIELDS_BEFORE_PATH];
        for field in &mut fields {
            let found = rest.trim_ascii_start();
            (*field, rest) = found.split_at(found.find_byte(b' ').unwrap_or(found.len()));
        }
        // A name may hold blanks of its own.
        let Some(name) = rest.strip_prefix(b" @") else { continue };
        let hex = |field: &[u8]| u32::from_str_radix(field.to_str().ok()?, 16).ok();
        let listens = hex(fields[3]).is_some_and(|flags| flags & LISTENS != 0)
            && hex(fields[4]) == Some(STREAM);
        let inode = fields[6].to_str().ok().and_then(|inode| inode.parse().ok());
        // The monitor's ends of its connections have the name as well.
        let listening: &mut Option<u64> = names.entry(name.to_vec()).or_default();
        *listening = listening.or(inode.filter(|_| listens));
    }
    names
}

/// Returns the process that listens on a container's command socket: its `lxc-start`.
///
/// Proxmox runs it in the foreground. One that an admin started and that went to the background has
/// left the process behind which the kernel names; it says what it is in its title. Either way it
/// is a process of the node that has this very socket open, and was the node's when it began to
/// listen.
///
/// Asking costs the monitor one accept of a connection that says nothing.
fn monitor_of(own: &Own, name: &[u8], inode: u64) -> Option<Process> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).ok()?;
    connect(&socket, &SocketAddrUnix::new_abstract_name(name).ok()?).ok()?;
    let peer = sockopt::socket_peercred(&socket).ok()?;
    if peer.uid != geteuid() {
        return None;
    }
    let is_it = |process: &Process| {
        own.has(process).is_ok_and(|has| has) && process.has_socket(inode).is_ok_and(|has| has)
    };
    let listener = u32::try_from(peer.pid.as_raw_nonzero().get()).ok()?;
    if let Some(listener) = Process::open(listener).ok().filter(is_it) {
        return Some(listener);
    }
    let title = monitor_title(name)?;
    let has_title =
        |process: &Process| process.command_line().is_ok_and(|line| line == [title.as_slice()]);
    let mut found = Process::all().ok()?.flatten().filter(has_title).filter(is_it);
    let first = found.next()?;
    // Of several none is to be believed.
    found.next().is_none().then_some(first)
}

/// Returns the title of the monitor of the container with this command socket (lxc's
/// `lxcapi_start`): `[lxc monitor] /var/lib/lxc 100`.
fn monitor_title(socket: &[u8]) -> Option<Vec<u8>> {
    let (path, ctid) = socket.strip_suffix(b"/command")?.rsplit_once_str("/")?;
    Some([b"[lxc monitor] ", path, b" ", ctid].concat())
}

/// Returns the init of the container that a monitor started: its one child that is process 1 of a
/// pid namespace, in a user namespace that is pctd's own or was made in it.
///
/// Other children are hooks, before the start and after the stop, with the ids of the host. Where
/// the node is simulated, the first child stands for the init.
fn init_below(own: &Own, monitor: &Process, is_simulated: bool) -> Option<Process> {
    let mut children = monitor.children().ok()?;
    let inits = children.iter().filter(|child| is_init(child)).count();
    let at = match inits {
        1 => children.iter().position(is_init)?,
        0 if is_simulated && !children.is_empty() => 0,
        _ => return None,
    };
    Some(children.swap_remove(at)).filter(|init| own.is_parent_of(init).is_ok_and(|is| is))
}

fn is_init(process: &Process) -> bool {
    // Its id here, and in a namespace right below.
    process.status("NSpid").is_ok_and(|ids| ids.len() == 2 && ids[1] == "1")
}

fn id_map_of(init: &Process) -> Option<IdMap> {
    let read = |file| {
        let text = init.text(file).ok()?;
        // Empty between the making of the namespace and the writing of the map.
        (!text.trim().is_empty()).then_some(text)
    };
    IdMap::from_proc(&read("uid_map")?, &read("gid_map")?)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::fs::File;
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::ffi::OsStrExt as _;
    use std::os::unix::net::{SocketAddr, UnixListener};
    use std::os::unix::process::CommandExt as _;
    use std::process::{Child, Command, Stdio};

    use rustix::process::{Pid, Signal, kill_process};

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
              0000000000000000: 00000003 00000000 00000000 0001 03   420 @/a b/c\n\
              0000000000000000: 00000002 00000000 00010000 0001 01   419 @/a b/c\n\
              0000000000000000: 00000002 00000000 00010000 0005 01   421 @/seqpacket\n\
              0000000000000000: 00000002 00000000 00000000 0001 01     0 @/\n\
              0000000000000000: 0000",
        );
        let expected = [
            ("/var/lib/lxc/100/command", Some(26317)),
            ("/a b/c", Some(419)),
            ("/seqpacket", None),
            ("/", None),
        ];
        assert_eq!(sockets, expected.map(|(name, inode)| (name.into(), inode)).into());
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

    /// A process that listens where a monitor would, with a child that sleeps.
    ///
    /// It is `user`'s, and began to listen as another.
    struct Listener(Child);

    impl Listener {
        fn start(user: u32, listens_as: u32, name: &[u8]) -> Self {
            const LISTEN: &str = r#"use Socket;
                socket(my $socket, PF_UNIX, SOCK_STREAM, 0) or die;
                bind($socket, pack_sockaddr_un("\0$ARGV[0]")) or die;
                $> = $ARGV[1];
                listen($socket, 9) or die;
                $> = 0;
                my $child = fork;
                if (!$child) { exec "sleep", "60" }
                $| = 1;
                print "$child\n";
                waitpid $child, 0;"#;
            let mut perl = Command::new("perl");
            perl.arg("-e").arg(LISTEN).arg(OsStr::from_bytes(name)).arg(listens_as.to_string());
            let mut perl = perl.uid(user).stdout(Stdio::piped()).spawn().unwrap();
            let mut line = String::new();
            let stdout = perl.stdout.take().unwrap();
            io::BufRead::read_line(&mut io::BufReader::new(stdout), &mut line).unwrap();
            assert!(line.trim().parse::<u32>().is_ok(), "{line}");
            Self(perl)
        }

        fn process(&self) -> Process {
            Process::open(self.0.id()).unwrap()
        }
    }

    impl Drop for Listener {
        fn drop(&mut self) {
            for child in self.process().children().unwrap() {
                let pid = Pid::from_raw(i32::try_from(child.pid()).unwrap()).unwrap();
                kill_process(pid, Signal::KILL).unwrap();
            }
            self.0.wait().unwrap();
        }
    }

    #[test]
    fn the_map_in_force_is_that_of_the_monitors_child() {
        let (_dir, paths) = node();
        let listener = Listener::start(0, 0, &paths.command_socket(ctid()));
        let running = Sockets::read().unwrap().running(&paths, ctid());
        let child = listener.process().children().unwrap()[0].pid();
        let Running::Yes { init, map: Some(map) } = running else { panic!("{running:?}") };
        assert_eq!(init, Some(child));
        assert!(map.host_ids(0, 0).is_some());
    }

    #[test]
    fn the_map_of_another_user_who_listens_there_is_not_in_force() {
        let (_dir, paths) = node();
        // Also one that handed the socket on to root.
        for (user, listens_as) in [(65_534, 65_534), (0, 65_534)] {
            let _listener = Listener::start(user, listens_as, &paths.command_socket(ctid()));
            let running = Sockets::read().unwrap().running(&paths, ctid());
            let unknown = Running::Yes { init: None, map: None };
            assert_eq!(running, unknown, "{user} {listens_as}");
        }
    }

    #[test]
    fn a_hook_of_a_monitor_is_no_init() {
        let (_dir, paths) = node();
        let own = Own::read().unwrap();
        let listener = Listener::start(0, 0, &paths.command_socket(ctid()));
        assert!(init_below(&own, &listener.process(), true).is_some());
        assert!(init_below(&own, &listener.process(), false).is_none());
    }

    #[test]
    fn a_monitor_has_its_socket_open() {
        let (_dir, paths) = node();
        let name = paths.command_socket(ctid());
        let listener = Listener::start(0, 0, &name);
        let inode = Sockets::read().unwrap().names[&name].unwrap();
        let own = Own::read().unwrap();
        let found = |inode| monitor_of(&own, &name, inode).map(|found| found.pid());
        assert_eq!(found(inode), Some(listener.process().pid()));
        // As if another process had got its id.
        assert_eq!(found(inode + 1), None);
    }
}
