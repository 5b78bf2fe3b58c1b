//! A disk that fails when a test says so: a small file system in memory that answers `EIO`, now and
//! then to everything, or always to one call about one entry. And one that stands still when a test
//! says so: what it asks for happens between two requests, however fast the machine is.
//!
//! Its owners and modes are real to everybody who looks. While it fails it fails for others: what
//! the test itself does on it, and looks at, goes on.

mod tree;

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use fuser::{
    BackgroundSession, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem,
    FopenFlags, Generation, INodeNo, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, ReplyXattr, Request,
    Session, SessionACL, TimeOrNow, WriteFlags,
};

use self::tree::{ROOT, Tree};
use crate::world::skip;

/// The kernel believes nothing: it asks anew each time.
const TTL: Duration = Duration::ZERO;
const GENERATION: Generation = Generation(0);

/// What a program may want of one entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// Find it by its name.
    Find,
    /// Stat it once it is open.
    Stat,
    /// Read the names in it.
    List,
    /// Give it to somebody.
    Chown,
    /// Set its mode.
    Chmod,
    /// Ask for an extended attribute of it.
    Attribute,
}

/// The disk; unmounted when dropped.
#[derive(Debug)]
pub struct Disk {
    state: Arc<State>,
    _session: BackgroundSession,
}

impl Disk {
    /// Mounts an empty one, or says that this machine does not permit it.
    pub fn mount(at: &Path) -> Option<Self> {
        let state = Arc::new(State::default());
        let mut config = Config::default();
        config.mount_options =
            vec![MountOption::FSName("disk".to_owned()), MountOption::DefaultPermissions];
        config.acl = SessionACL::All;
        let session = Session::new(Kernel(Arc::clone(&state)), at, &config);
        match session.and_then(Session::spawn) {
            Ok(session) => Some(Self { state, _session: session }),
            Err(error) => {
                skip("a scenario with a disk that fails", &format!("FUSE: {error}"));
                None
            }
        }
    }

    /// Lets every n-th request of others fail from now on; with 0 none.
    pub fn fail(&self, every: u64) {
        self.state.every.store(every, Ordering::Relaxed);
    }

    /// Lets one call about one entry fail for others from now on, as a disk with one bad spot does;
    /// `path` is relative to its root.
    ///
    /// # Panics
    ///
    /// There is no such entry.
    pub fn spoil(&self, path: &str, call: Call) {
        let tree = lock(&self.state.tree);
        let below = |ino: u64, name: &str| tree.inodes[&ino].names[OsStr::new(name)];
        let ino = path.split('/').filter(|name| !name.is_empty()).fold(ROOT, below);
        *lock(&self.state.bad) = Some((ino, call));
    }

    /// Lets every call about every entry succeed again.
    pub fn heal(&self) {
        *lock(&self.state.bad) = None;
    }

    /// Lets something happen right before the n-th request of a program called `pctd`, counted from
    /// now; the request waits for it. What was asked for before and has not happened never does.
    pub fn meanwhile(&self, nth: u64, happen: impl FnOnce() + Send + 'static) {
        *lock(&self.state.meanwhile.0) = Some((nth, Box::new(happen)));
    }

    /// Returns whether what was to happen at a request has happened.
    pub fn has_happened(&self) -> bool {
        lock(&self.state.meanwhile.0).is_none()
    }

    /// Returns whether it fails at times.
    pub fn fails(&self) -> bool {
        self.state.every.load(Ordering::Relaxed) != 0
    }

    /// Returns how many requests of programs called `pctd` it failed so far.
    pub fn failed(&self) -> u64 {
        self.state.failed.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
struct State {
    tree: Mutex<Tree>,
    /// The entry and the call about it that fail.
    bad: Mutex<Option<(u64, Call)>>,
    /// Every which request fails.
    every: AtomicU64,
    asked: AtomicU64,
    failed: AtomicU64,
    meanwhile: Meanwhile,
}

/// What happens right before which of the next requests of pctd.
#[derive(Default)]
struct Meanwhile(Mutex<Option<(u64, Happen)>>);

type Happen = Box<dyn FnOnce() + Send>;

impl fmt::Debug for Meanwhile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Meanwhile").finish_non_exhaustive()
    }
}

impl Meanwhile {
    fn one_more(&self) {
        let mut slot = lock(&self.0);
        match slot.take() {
            Some((0 | 1, happen)) => happen(),
            Some((left, happen)) => *slot = Some((left - 1, happen)),
            None => {}
        }
    }
}

impl Default for State {
    fn default() -> Self {
        let tree = Mutex::new(Tree::new());
        let [every, asked, failed] = [0; 3].map(AtomicU64::new);
        let meanwhile = Meanwhile::default();
        Self { tree, bad: Mutex::default(), every, asked, failed, meanwhile }
    }
}

impl State {
    /// Returns the tree for a request, or that it fails.
    fn tree(&self, request: &Request) -> Result<MutexGuard<'_, Tree>, Errno> {
        if is_pctd(request) {
            self.meanwhile.one_more();
        }
        let every = self.every.load(Ordering::Relaxed);
        if every != 0 && !is_own(request) {
            let turn = self.asked.fetch_add(1, Ordering::Relaxed);
            if turn.is_multiple_of(every) {
                return Err(self.failure(request));
            }
        }
        Ok(lock(&self.tree))
    }

    /// Returns that this call about this entry fails, where it does.
    fn meets(&self, request: &Request, ino: INodeNo, call: Call) -> Result<(), Errno> {
        let is_bad = *lock(&self.bad) == Some((ino.0, call));
        if is_bad && !is_own(request) { Err(self.failure(request)) } else { Ok(()) }
    }

    fn failure(&self, request: &Request) -> Errno {
        if is_pctd(request) {
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
        Errno::EIO
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns whether a thread of this process asks.
fn is_own(request: &Request) -> bool {
    Path::new("/proc/self/task").join(request.pid().to_string()).exists()
}

fn is_pctd(request: &Request) -> bool {
    let argv = fs::read(format!("/proc/{}/cmdline", request.pid())).unwrap_or_default();
    argv.split(|byte| *byte == 0).next().is_some_and(|program| program.ends_with(b"/pctd"))
}

/// What the kernel asks.
#[derive(Debug)]
struct Kernel(Arc<State>);

impl Kernel {
    fn ask<T>(
        &self,
        request: &Request,
        ask: impl FnOnce(&mut Tree) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        ask(&mut *self.0.tree(request)?)
    }
}

fn entry(answer: Result<FileAttr, Errno>, reply: ReplyEntry) {
    match answer {
        Ok(attr) => reply.entry(&TTL, &attr, GENERATION),
        Err(errno) => reply.error(errno),
    }
}

fn attributes(answer: Result<FileAttr, Errno>, reply: ReplyAttr) {
    match answer {
        Ok(attr) => reply.attr(&TTL, &attr),
        Err(errno) => reply.error(errno),
    }
}

impl Filesystem for Kernel {
    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.ask(request, |tree| tree.lookup(parent, name));
        let found = found.and_then(|attr| {
            self.0.meets(request, attr.ino, Call::Find)?;
            Ok(attr)
        });
        entry(found, reply);
    }

    fn getattr(&self, request: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let looked = self.0.meets(request, ino, Call::Stat);
        attributes(looked.and_then(|()| self.ask(request, |tree| tree.attr(ino))), reply);
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let calls = [(mode.is_some(), Call::Chmod), (uid.is_some() || gid.is_some(), Call::Chown)];
        let mut due = calls.into_iter().filter(|(is_made, _)| *is_made);
        let met = due.try_for_each(|(_, call)| self.0.meets(request, ino, call));
        let changed = met.and_then(|()| {
            self.ask(request, |tree| {
                let inode = tree.change(ino)?;
                inode.mode = mode.map_or(inode.mode, |mode| mode & 0o7777);
                inode.uid = uid.unwrap_or(inode.uid);
                inode.gid = gid.unwrap_or(inode.gid);
                if let Some(size) = size {
                    inode.data.resize(usize::try_from(size).unwrap_or(0), 0);
                }
                tree.attr(ino)
            })
        });
        attributes(changed, reply);
    }

    fn readlink(&self, request: &Request, ino: INodeNo, reply: ReplyData) {
        match self.ask(request, |tree| tree.get(ino).map(|inode| inode.data.clone())) {
            Ok(target) => reply.data(&target),
            Err(errno) => reply.error(errno),
        }
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let (kind, mode) = (FileType::Directory, mode & !umask);
        entry(self.ask(request, |tree| tree.make(parent, name, kind, mode, Vec::new())), reply);
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let target = target.as_os_str().as_bytes().to_vec();
        let kind = FileType::Symlink;
        entry(self.ask(request, |tree| tree.make(parent, name, kind, 0o777, target)), reply);
    }

    fn open(&self, request: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.ask(request, |tree| tree.get(ino).map(|_| ())) {
            Ok(()) => reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO),
            Err(errno) => reply.error(errno),
        }
    }

    fn read(
        &self,
        request: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let read = self.ask(request, |tree| {
            let data = &tree.get(ino)?.data;
            let from = usize::try_from(offset).unwrap_or(usize::MAX).min(data.len());
            let to = from.saturating_add(usize::try_from(size).unwrap_or(0)).min(data.len());
            Ok(data[from..to].to_vec())
        });
        match read {
            Ok(data) => reply.data(&data),
            Err(errno) => reply.error(errno),
        }
    }

    fn write(
        &self,
        request: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let written = self.ask(request, |tree| {
            let inode = tree.change(ino)?;
            let from = usize::try_from(offset).map_err(|_| Errno::EFBIG)?;
            let to = from.checked_add(data.len()).ok_or(Errno::EFBIG)?;
            let length = inode.data.len().max(to);
            inode.data.resize(length, 0);
            inode.data[from..to].copy_from_slice(data);
            Ok(())
        });
        match written {
            Ok(()) => reply.written(u32::try_from(data.len()).unwrap_or(u32::MAX)),
            Err(errno) => reply.error(errno),
        }
    }

    fn flush(&self, request: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        match self.ask(request, |_| Ok(())) {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    fn readdir(
        &self,
        request: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let met = self.0.meets(request, ino, Call::List);
        let listed = met.and_then(|()| {
            self.ask(request, |tree| {
                let dots =
                    [".", ".."].map(|name| (ino.0, FileType::Directory, OsString::from(name)));
                let mut all = dots.to_vec();
                for (name, ino) in &tree.get(ino)?.names {
                    all.push((*ino, tree.get(INodeNo(*ino))?.kind, name.clone()));
                }
                Ok(all)
            })
        });
        let all = match listed {
            Ok(all) => all,
            Err(errno) => return reply.error(errno),
        };
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        for (at, (ino, kind, name)) in (1..).zip(all).skip(from) {
            if reply.add(INodeNo(ino), at, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn getxattr(&self, request: &Request, ino: INodeNo, _: &OsStr, _: u32, reply: ReplyXattr) {
        let met = self.0.meets(request, ino, Call::Attribute);
        // There are none.
        let answer = met.and_then(|()| self.ask(request, |tree| tree.get(ino).map(|_| ())));
        reply.error(answer.err().unwrap_or(Errno::ENODATA));
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        let (kind, mode) = (FileType::RegularFile, mode & !umask);
        match self.ask(request, |tree| tree.make(parent, name, kind, mode, Vec::new())) {
            Ok(attr) => {
                let flags = FopenFlags::FOPEN_DIRECT_IO;
                reply.created(&TTL, &attr, GENERATION, FileHandle(0), flags);
            }
            Err(errno) => reply.error(errno),
        }
    }
}
