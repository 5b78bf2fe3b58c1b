//! The process that serves `/etc/pve`, and what may be asked of it beside the kernel.
//!
//! It is the `pmxcfs` of a simulated node: ended by SIGTERM it leaves the bare mount point behind,
//! killed it leaves a mount that answers nothing, and started again it begins to count anew. What
//! the other nodes of the cluster do comes over a socket, past the kernel of this node.

use std::ffi::OsString;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{Config, MountOption, Session, SessionACL};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use serde::{Deserialize, Serialize};

use super::fuse::Kernel;
use super::rules::Cfs;
use super::store::Store;
use crate::file;
use crate::launch::READY;
use crate::paths::Root;
use crate::settings::Settings;

/// How often is looked whether the node still exists: a test may remove it.
const NODE_CHECK: Duration = Duration::from_millis(500);

/// What another node of the cluster does, or what becomes of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Request {
    /// The quorum is there, or is not.
    Quorum(bool),
    /// A file is written, whole.
    Write(PathBuf, Vec<u8>),
    /// A file is removed.
    Remove(PathBuf),
    /// A file is renamed.
    Rename(PathBuf, PathBuf),
    /// Opening this file fails until something else is said, as while somebody renames over it.
    Hide(Option<PathBuf>),
    /// Whatever the kernel asks is answered with `EIO`, or no longer.
    Fail(bool),
}

/// The number of the error, or none.
type Answer = Result<(), i32>;

/// What the kernel and the cluster work on.
#[derive(Debug)]
pub(super) struct Shared {
    cfs: Mutex<Cfs>,
    store: Store,
    /// Whether the kernel gets nothing but errors.
    pub(super) fails: AtomicBool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Cfs> {
        // A panic in one request is that request's alone.
        self.cfs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn ask<T>(&self, ask: impl FnOnce(&Cfs) -> Result<T, Errno>) -> Result<T, Errno> {
        ask(&self.lock())
    }

    /// Makes a change, and stores it before anybody hears of it.
    pub(super) fn change<T>(
        &self,
        change: impl FnOnce(&mut Cfs) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let mut cfs = self.lock();
        let changed = change(&mut cfs);
        if let Err(error) = self.store.save(&mut cfs) {
            eprintln!("pmxcfs: cannot store what changed: {error}");
            return Err(Errno::IO);
        }
        changed
    }

    fn serve(&self, request: Request) -> Answer {
        if let Request::Fail(fails) = request {
            self.fails.store(fails, Ordering::Relaxed);
            return Ok(());
        }
        let done = self.change(|cfs| match request {
            Request::Quorum(quorate) => {
                cfs.set_quorate(quorate);
                Ok(())
            }
            Request::Write(path, content) => cfs.peer_write(&path, content, now()),
            Request::Remove(path) => cfs.peer_remove(&path, now()),
            Request::Rename(from, to) => cfs.peer_rename(&from, &to, now()),
            Request::Hide(path) => {
                cfs.hide(path);
                Ok(())
            }
            Request::Fail(_) => Ok(()),
        });
        done.map_err(Errno::raw_os_error)
    }
}

/// Returns the time as the cluster file system has it.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn address(root: &Root) -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(root.path().join("run/pmxcfs").as_os_str().as_encoded_bytes())
}

/// Asks the process that serves a node's `/etc/pve`.
pub(super) fn ask(root: &Root, request: &Request) -> io::Result<()> {
    let mut stream = UnixStream::connect_addr(&address(root)?)?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    let answer: Answer = serde_json::from_str(&answer)?;
    answer.map_err(io::Error::from_raw_os_error)
}

/// Serves the `/etc/pve` of a node until it is told to stop; `arguments` are the root.
pub(crate) fn run(arguments: &[OsString]) -> ExitCode {
    let [root] = arguments else { return ExitCode::from(2) };
    match serve(&Root::new(root)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pmxcfs: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(root: &Root) -> io::Result<()> {
    // A session of its own: what stops the terminal of a test or a `serve` does not stop it.
    rustix::process::setsid()?;
    let settings = Settings::load(root).map_err(io::Error::other)?;
    let listener = UnixListener::bind_addr(&address(root)?)?;
    let store = Store::new(root.cluster_store());
    let mut cfs = Cfs::new(&settings.node, &settings.peers, start_time(root)?);
    store.load(&mut cfs)?;
    cfs.begin();
    let shared = Arc::new(Shared { cfs: Mutex::new(cfs), store, fails: AtomicBool::new(false) });
    let mount_point = root.etc_pve();
    // What a killed predecessor left mounted (`main` of pmxcfs); mostly there is nothing.
    let _nothing = unmount(&mount_point, UnmountFlags::DETACH);
    let mut config = Config::default();
    let name = MountOption::FSName("/dev/fuse".to_owned());
    config.mount_options = vec![name, MountOption::DefaultPermissions];
    config.acl = SessionACL::All;
    let session = Session::new(Kernel(Arc::clone(&shared)), &mount_point, &config)?;

    let mut signals = signal_hook::iterator::Signals::new([signal_hook::consts::SIGTERM])?;
    let (served, told) = (mount_point.clone(), Arc::clone(&shared));
    std::thread::spawn(move || {
        // Ends with the first one.
        let _term = signals.forever().next();
        leave(&served, &told);
    });
    let (node, told) = (root.settings(), Arc::clone(&shared));
    std::thread::spawn(move || {
        while node.exists() {
            std::thread::sleep(NODE_CHECK);
        }
        leave(&mount_point, &told);
    });
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || answer(stream, &shared));
        }
    });
    file::replace(&root.pmxcfs_pid(), format!("{}\n", std::process::id()).as_bytes())?;
    // Whoever started it may be gone already.
    let _told = writeln!(io::stdout(), "{READY}").and_then(|()| io::stdout().flush());
    session.run()
}

/// Ends the process between two changes, with the bare mount point left behind.
fn leave(mount_point: &Path, shared: &Shared) {
    let _between = shared.lock();
    // Somebody may have unmounted it already.
    let _unmounted = unmount(mount_point, UnmountFlags::DETACH);
    std::process::exit(0);
}

fn answer(stream: UnixStream, shared: &Shared) {
    let mut line = String::new();
    let mut reader = BufReader::new(stream);
    if reader.read_line(&mut line).is_err() {
        return;
    }
    let invalid = Errno::INVAL.raw_os_error();
    let answer = serde_json::from_str(&line).map_err(|_| invalid).and_then(|it| shared.serve(it));
    // Whoever asked may have gone away.
    let _told = serde_json::to_writer(reader.get_mut(), &answer);
}

/// Returns a start time that no earlier process of this node had: two starts may share a second.
fn start_time(root: &Root) -> io::Result<u64> {
    let path = root.state("pmxcfs-started");
    let last = file::read(&path)?.and_then(|text| String::from_utf8(text).ok()?.parse().ok());
    let time = last.map_or(now(), |last: u64| now().max(last + 1));
    file::replace(&path, time.to_string().as_bytes())?;
    Ok(time)
}
