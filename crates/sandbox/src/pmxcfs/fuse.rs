//! The kernel's side: every request is one question to [`Cfs`], and its answer.
//!
//! Attributes and names are good for a second, which is libfuse's default. Files are opened for
//! direct input and output, as `pmxcfs` does: reads always come here, and no file can be mapped
//! shared.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, LockOwner, OpenAccMode, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow,
    WriteFlags,
};

use super::rules::{Attributes, Cfs, Sort};
use super::server::{Shared, now};

/// How long the kernel may believe an answer.
const TTL: Duration = Duration::from_secs(1);

/// The group of the web interface (Debian's base-passwd).
pub(super) const WWW_DATA: u32 = 33;

const GENERATION: Generation = Generation(0);

/// What the kernel asks.
#[derive(Debug)]
pub(super) struct Kernel(pub(super) Arc<Shared>);

fn errno(errno: rustix::io::Errno) -> Errno {
    Errno::from_i32(errno.raw_os_error())
}

fn attr(of: Attributes) -> FileAttr {
    let time = UNIX_EPOCH + Duration::from_secs(of.mtime);
    let kind = file_type(of.sort);
    FileAttr {
        ino: INodeNo(of.ino),
        size: of.size,
        blocks: of.size.div_ceil(512),
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind,
        perm: u16::try_from(of.mode).unwrap_or_default(),
        nlink: if of.sort == Sort::Dir { 2 } else { 1 },
        uid: 0,
        gid: WWW_DATA,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

const fn file_type(sort: Sort) -> FileType {
    match sort {
        Sort::Dir => FileType::Directory,
        Sort::File => FileType::RegularFile,
        Sort::Link => FileType::Symlink,
    }
}

impl Kernel {
    /// Makes a change and stores it before it is answered.
    fn change<T>(
        &self,
        change: impl FnOnce(&mut Cfs) -> Result<T, rustix::io::Errno>,
    ) -> Result<T, Errno> {
        self.answers()?;
        self.0.change(change).map_err(errno)
    }

    fn ask<T>(&self, ask: impl FnOnce(&Cfs) -> Result<T, rustix::io::Errno>) -> Result<T, Errno> {
        self.answers()?;
        self.0.ask(ask).map_err(errno)
    }

    /// Fails where it is to answer with nothing but errors.
    fn answers(&self) -> Result<(), Errno> {
        if self.0.fails.load(Ordering::Relaxed) { Err(Errno::EIO) } else { Ok(()) }
    }
}

fn entry(answer: Result<Attributes, Errno>, reply: ReplyEntry) {
    match answer {
        Ok(of) => reply.entry(&TTL, &attr(of), GENERATION),
        Err(errno) => reply.error(errno),
    }
}

fn empty(answer: Result<(), Errno>, reply: ReplyEmpty) {
    match answer {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

impl Filesystem for Kernel {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        entry(self.ask(|cfs| cfs.lookup(parent.0, name)), reply);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.ask(|cfs| cfs.attributes(ino.0)) {
            Ok(of) => reply.attr(&TTL, &attr(of)),
            Err(errno) => reply.error(errno),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let answer = self.change(|cfs| {
            if let Some(mode) = mode {
                cfs.chmod(ino.0, mode)?;
            }
            if uid.is_some_and(|uid| uid != 0) || gid.is_some_and(|gid| gid != WWW_DATA) {
                return Err(rustix::io::Errno::PERM);
            }
            if let Some(size) = size {
                cfs.truncate(ino.0, size, now())?;
            } else if let Some(mtime) = mtime {
                let given = match mtime {
                    TimeOrNow::Now => now(),
                    TimeOrNow::SpecificTime(time) => {
                        time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
                    }
                };
                cfs.set_mtime(ino.0, given)?;
            }
            cfs.attributes(ino.0)
        });
        match answer {
            Ok(of) => reply.attr(&TTL, &attr(of)),
            Err(errno) => reply.error(errno),
        }
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        match self.ask(|cfs| cfs.link(ino.0).map(Path::to_owned)) {
            Ok(target) => reply.data(target.as_os_str().as_encoded_bytes()),
            Err(errno) => reply.error(errno),
        }
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        let made = self.change(|cfs| {
            let ino = cfs.mkdir(parent.0, name, now())?;
            cfs.attributes(ino)
        });
        entry(made, reply);
    }

    fn symlink(&self, _: &Request, _: INodeNo, _: &OsStr, _: &Path, reply: ReplyEntry) {
        reply.error(Errno::ENOSYS);
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(self.change(|cfs| cfs.remove(parent.0, name, now())), reply);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(self.change(|cfs| cfs.remove(parent.0, name, now())), reply);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if !flags.is_empty() {
            return reply.error(Errno::EINVAL);
        }
        let renamed =
            self.change(|cfs| cfs.rename((parent.0, name), (newparent.0, newname), now()));
        empty(renamed, reply);
    }

    fn open(&self, _: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let writing = flags.acc_mode() != OpenAccMode::O_RDONLY;
        match self.change(|cfs| cfs.open(ino.0, writing)) {
            Ok(()) => reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO),
            Err(errno) => reply.error(errno),
        }
    }

    fn release(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        empty(
            self.change(|cfs| {
                cfs.close(ino.0);
                Ok(())
            }),
            reply,
        );
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        match self.ask(|cfs| cfs.read(ino.0, offset, size)) {
            Ok(data) => reply.data(&data),
            Err(errno) => reply.error(errno),
        }
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let written = self.change(|cfs| cfs.write(ino.0, offset, data, now()));
        match written {
            Ok(()) => reply.written(u32::try_from(data.len()).unwrap_or(u32::MAX)),
            Err(errno) => reply.error(errno),
        }
    }

    fn readdir(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let names = match self.ask(|cfs| cfs.list(ino.0)) {
            Ok(names) => names,
            Err(errno) => return reply.error(errno),
        };
        let dots = [".", ".."].map(|name| (ino.0, Sort::Dir, name.into()));
        let all = dots.into_iter().chain(names).enumerate();
        for (at, (ino, sort, name)) in all.skip(usize::try_from(offset).unwrap_or(usize::MAX)) {
            let next = u64::try_from(at).unwrap_or(u64::MAX).saturating_add(1);
            if reply.add(INodeNo(ino), next, file_type(sort), name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        // 128 MiB, 256k names (`memdb_statfs`).
        reply.statfs(32_768, 32_768, 32_768, 262_144, 262_144, 4096, 256, 4096);
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        _: u32,
        _: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        let made = self.change(|cfs| {
            let ino = cfs.create(parent.0, name, now())?;
            cfs.attributes(ino)
        });
        match made {
            Ok(of) => {
                reply.created(&TTL, &attr(of), GENERATION, FileHandle(0), FopenFlags::empty());
            }
            Err(errno) => reply.error(errno),
        }
    }
}
