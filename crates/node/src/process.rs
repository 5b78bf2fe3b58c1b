//! Processes, and which of them are the node's own.
//!
//! What a process says of itself, its title and its arguments, anybody can say: a user of the
//! host, and the root of a container, whose processes all show in the host's `/proc`. So whoever
//! is believed has to be a process of the node: of root alone, in pctd's own namespaces, and not
//! one of the programs that lend root to users, who choose what such a program is called.

use std::fs::{DirEntry, File};
use std::io::{self, Read as _};
use std::os::fd::{AsFd, OwnedFd};

use bstr::ByteSlice as _;
use pctd_sys::namespace;
use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, fstat, openat, readlinkat, statat};
use rustix::io::Errno;
use rustix::process::geteuid;

/// A process, by its directory in `/proc`. Once it has ended nothing more is read of it, also
/// where another process got its id.
#[derive(Debug)]
pub(crate) struct Process {
    pid: u32,
    dir: OwnedFd,
}

impl Process {
    pub(crate) fn open(pid: u32) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { pid, dir: openat(CWD, format!("/proc/{pid}"), flags, Mode::empty())? })
    }

    /// Returns all there are, one by one.
    pub(crate) fn all() -> io::Result<impl Iterator<Item = io::Result<Self>>> {
        let numbered = |entry: io::Result<DirEntry>| match entry {
            Ok(entry) => Self::open(entry.file_name().to_str()?.parse().ok()?).map_or_else(
                |error| (!is_gone(&error)).then_some(Err(error)),
                |process| Some(Ok(process)),
            ),
            Err(error) => Some(Err(error)),
        };
        Ok(std::fs::read_dir("/proc")?.filter_map(numbered))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    fn open_file(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        Ok(openat(&self.dir, name, flags, Mode::empty())?.into())
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.open_file(name)?.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Reads one of its text files.
    pub(crate) fn text(&self, name: &str) -> io::Result<String> {
        String::from_utf8(self.read(name)?).map_err(io::Error::other)
    }

    /// Returns its command line, or the title it put there.
    pub(crate) fn command_line(&self) -> io::Result<Vec<Vec<u8>>> {
        let line = self.read("cmdline")?;
        Ok(line.split_str("\0").filter(|word| !word.is_empty()).map(Vec::from).collect())
    }

    /// Returns the words of a line of its status.
    pub(crate) fn status(&self, field: &str) -> io::Result<Vec<String>> {
        // The name of a program may be any bytes, but for a line break.
        let text = self.read("status")?;
        let prefix = format!("{field}:");
        let line = text.lines().find_map(|line| line.strip_prefix(prefix.as_bytes()));
        let line = line.unwrap_or_default().to_str_lossy();
        Ok(line.split_ascii_whitespace().map(str::to_owned).collect())
    }

    /// Returns the processes its first thread started that are still there.
    pub(crate) fn children(&self) -> io::Result<Vec<Self>> {
        let text = self.text(&format!("task/{}/children", self.pid))?;
        let pids = text.split_ascii_whitespace().filter_map(|pid| pid.parse().ok());
        let parent = [self.pid.to_string()];
        // The id may be another's by now.
        let is_child = |child: &Self| child.status("PPid").is_ok_and(|found| found == parent);
        Ok(pids.filter_map(|pid| Self::open(pid).ok()).filter(is_child).collect())
    }

    /// Returns whether it has a socket open.
    pub(crate) fn has_socket(&self, inode: u64) -> io::Result<bool> {
        let expected = format!("socket:[{inode}]");
        let fds = self.open_file("fd")?;
        for entry in Dir::read_from(&fds)? {
            let entry = entry?;
            // One that was closed meanwhile, or `.`.
            let Ok(target) = readlinkat(&fds, entry.file_name(), Vec::new()) else { continue };
            if target.to_bytes() == expected.as_bytes() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Returns whether an error says that a process has ended.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOENT | Errno::SRCH))
}

/// A namespace, as its file is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Namespace {
    device: u64,
    inode: u64,
}

impl Namespace {
    fn of(process: &Process, kind: &str) -> io::Result<Self> {
        Self::at(process.open_file(&format!("ns/{kind}"))?)
    }

    fn at(fd: impl AsFd) -> io::Result<Self> {
        let stat = fstat(fd)?;
        Ok(Self { device: stat.st_dev, inode: stat.st_ino })
    }
}

/// What tells processes of the node: pctd's own namespaces.
#[derive(Debug)]
pub(crate) struct Own {
    user: Namespace,
    pid: Namespace,
}

impl Own {
    pub(crate) fn read() -> io::Result<Self> {
        let pctd = Process::open(std::process::id())?;
        let of = |kind| Namespace::of(&pctd, kind);
        Ok(Self { user: of("user")?, pid: of("pid")? })
    }

    /// Returns whether a process is the node's own; see the module.
    pub(crate) fn has(&self, process: &Process) -> io::Result<bool> {
        const LENDS: u32 = 0o6000;
        // Real, effective, saved and that of the file system.
        let root = geteuid().as_raw().to_string();
        let uids = process.status("Uid")?;
        Ok(uids.len() == 4
            && uids.iter().all(|uid| *uid == root)
            && Namespace::of(process, "user")? == self.user
            && Namespace::of(process, "pid")? == self.pid
            && statat(&process.dir, "exe", AtFlags::empty())?.st_mode & LENDS == 0)
    }

    /// Returns whether the user namespace of a process is pctd's own or one that was made in it:
    /// below that a container's root can make one with a map of its own choice.
    pub(crate) fn is_parent_of(&self, process: &Process) -> io::Result<bool> {
        let user = process.open_file("ns/user")?;
        Ok(Namespace::at(&user)? == self.user
            || Namespace::at(namespace::parent(&user)?)? == self.user)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::copy;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt as _;
    use std::process::{Child, Command};
    use std::time::Duration;

    use super::*;

    /// A child that is killed in the end.
    struct Sleeper(Child);

    impl Sleeper {
        /// Starts one, and waits until it has become what it is to be.
        fn start(command: &mut Command, program: &str) -> Self {
            let child = Command::spawn(command).unwrap();
            let sleeper = Self(child);
            // Its arguments are there last.
            let is_it = |process: &Process| {
                process.status("Name").unwrap() == [program]
                    && !process.command_line().unwrap().is_empty()
            };
            while !is_it(&sleeper.process()) {
                std::thread::sleep(Duration::from_millis(1));
            }
            sleeper
        }

        fn process(&self) -> Process {
            Process::open(self.0.id()).unwrap()
        }
    }

    impl Drop for Sleeper {
        fn drop(&mut self) {
            self.0.kill().unwrap();
            self.0.wait().unwrap();
        }
    }

    fn sleep(prefix: &[&str]) -> Command {
        let words = [prefix, &["sleep", "60"]].concat();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        command
    }

    #[test]
    fn only_a_process_of_root_in_pctds_own_namespaces_is_the_nodes() {
        let own = Own::read().unwrap();
        let has = |sleeper: &Sleeper| own.has(&sleeper.process()).unwrap();
        assert!(has(&Sleeper::start(&mut sleep(&[]), "sleep")));
        assert!(!has(&Sleeper::start(sleep(&[]).uid(65_534), "sleep")));
        let root = ["setpriv", "--reuid=0"];
        assert!(has(&Sleeper::start(&mut sleep(&root), "sleep")));
        // What a user becomes who starts a program that lends root.
        let lent = ["setpriv", "--ruid=65534", "--euid=0"];
        assert!(!has(&Sleeper::start(&mut sleep(&lent), "sleep")));
        let in_user = ["unshare", "--user", "--map-root-user"];
        assert!(!has(&Sleeper::start(&mut sleep(&in_user), "sleep")));
        let dir = tempfile::tempdir().unwrap();
        let lender = dir.path().join("lender");
        copy("/bin/sleep", &lender).unwrap();
        for (mode, expected) in [(0o755, true), (0o4755, false)] {
            let file = File::open(&lender).unwrap();
            file.set_permissions(PermissionsExt::from_mode(mode)).unwrap();
            drop(file);
            let sleeper = Sleeper::start(Command::new(&lender).arg("60"), "lender");
            assert_eq!(has(&sleeper), expected, "{mode:o}");
        }
    }

    #[test]
    fn a_process_in_a_pid_namespace_of_its_own_is_not_the_nodes() {
        let own = Own::read().unwrap();
        let outer = ["unshare", "--pid", "--fork", "--kill-child"];
        let outer = Sleeper::start(&mut sleep(&outer), "unshare");
        let inner = loop {
            let mut children = outer.process().children().unwrap();
            if let Some(inner) = children.pop() {
                break inner;
            }
        };
        assert!(own.has(&outer.process()).unwrap());
        assert!(!own.has(&inner).unwrap());
    }

    #[test]
    fn a_user_namespace_made_in_a_containers_is_not_the_containers() {
        let own = Own::read().unwrap();
        let in_user = ["unshare", "--user", "--map-root-user"];
        let one = Sleeper::start(&mut sleep(&in_user), "sleep");
        let two = Sleeper::start(&mut sleep(&[in_user, in_user].concat()), "sleep");
        let none = Sleeper::start(&mut sleep(&[]), "sleep");
        let is_parent_of = |sleeper: &Sleeper| own.is_parent_of(&sleeper.process()).unwrap();
        assert!(is_parent_of(&none) && is_parent_of(&one));
        assert!(!is_parent_of(&two));
    }

    #[test]
    fn nothing_is_read_of_a_process_that_ended() {
        let sleeper = Sleeper::start(&mut sleep(&[]), "sleep");
        let process = sleeper.process();
        assert_eq!(process.command_line().unwrap(), [b"sleep".to_vec(), b"60".to_vec()]);
        drop(sleeper);
        assert!(is_gone(&process.command_line().unwrap_err()));
    }
}
