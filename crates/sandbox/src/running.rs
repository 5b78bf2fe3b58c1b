//! Running containers, seen from outside: the command socket in the abstract namespace, as
//! `lxc-start` binds it, tells that one runs; words on it tell its monitor what to do.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::file;
use crate::paths::Root;

/// How often is looked whether a socket of a process that ends is gone.
const RELEASE_POLL: Duration = Duration::from_millis(1);

/// How long that may take; longer only if the container was started anew meanwhile.
const RELEASE_PATIENCE: Duration = Duration::from_secs(1);

/// What a monitor is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Word {
    /// Send the guest its halt signal.
    Halt,
    /// Kill it.
    Kill,
}

impl Word {
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::Halt => "halt",
            Self::Kill => "kill",
        }
    }
}

/// A mount inside a running container.
///
/// Nothing is really mounted: this is what a look into the container would show.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mounted {
    /// The directory of the host.
    pub source: String,
    /// Where it is inside the container.
    pub target: String,
    /// Whether it is read-only.
    pub ro: bool,
    /// Further options, in the kernel's order; `idmapped` among them.
    pub options: Vec<String>,
}

/// Returns the address of a container's command socket.
pub(crate) fn address(root: &Root, ctid: &str) -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(root.command_socket(ctid).as_bytes())
}

/// Returns the ids of the running containers (`PVE::LXC::list_active_containers`).
pub(crate) fn list(root: &Root) -> BTreeSet<String> {
    let prefix = format!("@{}/", root.path().join("var/lib/lxc").display());
    let Ok(sockets) = fs::read("/proc/net/unix") else { return BTreeSet::new() };
    String::from_utf8_lossy(&sockets)
        .lines()
        .filter_map(|line| {
            let name = &line[line.find(&prefix)? + prefix.len()..];
            name.strip_suffix("/command").filter(|id| !id.contains('/')).map(str::to_owned)
        })
        .collect()
}

/// Returns whether a container runs (`PVE::LXC::check_running`).
pub(crate) fn is_running(root: &Root, ctid: &str) -> bool {
    list(root).contains(ctid)
}

/// A connection to a container's monitor; it is closed when the container is gone.
#[derive(Debug)]
pub(crate) struct Connection<'a> {
    stream: UnixStream,
    root: &'a Root,
    ctid: &'a str,
}

/// Opens the command socket of a container; `None` if it does not run.
pub(crate) fn connect<'a>(root: &'a Root, ctid: &'a str) -> io::Result<Option<Connection<'a>>> {
    match UnixStream::connect_addr(&address(root, ctid)?) {
        Ok(stream) => Ok(Some(Connection { stream, root, ctid })),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(None),
        Err(error) => Err(error),
    }
}

impl Connection<'_> {
    /// Tells the monitor something.
    pub(crate) fn say(&mut self, word: Word) -> io::Result<()> {
        writeln!(self.stream, "{}", word.text())
    }

    /// Waits until the container is gone, at most for a time; returns whether it is.
    pub(crate) fn wait_gone(&mut self, patience: Option<Duration>) -> io::Result<bool> {
        if patience.is_some_and(|patience| patience.is_zero()) {
            return Ok(false);
        }
        self.stream.set_read_timeout(patience)?;
        loop {
            match self.stream.read(&mut [0; 16]) {
                Ok(0) => return Ok(self.wait_released()),
                Ok(_) => {}
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                    ) =>
                {
                    return Ok(false);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // A monitor that dies with words unread resets the connection.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                    return Ok(self.wait_released());
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits for the name of the socket to go as well: the kernel closes what a process had open
    /// one by one.
    fn wait_released(&self) -> bool {
        let deadline = Instant::now() + RELEASE_PATIENCE;
        while is_running(self.root, self.ctid) && Instant::now() < deadline {
            std::thread::sleep(RELEASE_POLL);
        }
        true
    }
}

fn mounts_file(root: &Root, ctid: &str) -> std::path::PathBuf {
    root.lxc(ctid).join("mounts.json")
}

/// Returns what is mounted inside a container, in mount order; none if it does not run.
pub(crate) fn mounts(root: &Root, ctid: &str) -> Vec<Mounted> {
    let content = file::read(&mounts_file(root, ctid)).ok().flatten();
    content.and_then(|content| serde_json::from_slice(&content).ok()).unwrap_or_default()
}

/// Records what is mounted inside a container.
pub(crate) fn set_mounts(root: &Root, ctid: &str, mounts: &[Mounted]) -> io::Result<()> {
    let content = serde_json::to_vec_pretty(mounts).map_err(io::Error::other)?;
    file::replace(&mounts_file(root, ctid), &content)
}

/// Forgets what was mounted.
pub(crate) fn clear_mounts(root: &Root, ctid: &str) {
    // It may not be there: a start that failed has none.
    let _ = fs::remove_file(mounts_file(root, ctid));
}
