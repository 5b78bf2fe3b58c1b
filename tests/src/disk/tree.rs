//! What is on a disk of the tests: entries by their numbers, with names, owners and modes.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::time::SystemTime;

use fuser::{Errno, FileAttr, FileType, INodeNo};

/// The number of the root directory.
pub(super) const ROOT: u64 = 1;

/// All entries; the root directory is there from the beginning.
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) inodes: BTreeMap<u64, Inode>,
    next: u64,
}

/// One entry.
#[derive(Debug, Clone)]
pub(super) struct Inode {
    pub(super) kind: FileType,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    changed: SystemTime,
    /// What a file holds, or where a link leads.
    pub(super) data: Vec<u8>,
    /// What a directory has.
    pub(super) names: BTreeMap<OsString, u64>,
}

impl Tree {
    pub(super) fn new() -> Self {
        let mut tree = Self { inodes: BTreeMap::new(), next: ROOT };
        tree.add(FileType::Directory, 0o755, Vec::new());
        tree
    }

    /// Adds what has no name yet; it is root's, as everything the tests make.
    pub(super) fn add(&mut self, kind: FileType, mode: u32, data: Vec<u8>) -> u64 {
        let ino = self.next;
        self.next += 1;
        let changed = SystemTime::now();
        let names = BTreeMap::new();
        self.inodes.insert(ino, Inode { kind, mode, uid: 0, gid: 0, changed, data, names });
        ino
    }

    pub(super) fn make(
        &mut self,
        parent: INodeNo,
        name: &OsStr,
        kind: FileType,
        mode: u32,
        data: Vec<u8>,
    ) -> Result<FileAttr, Errno> {
        if self.get(parent)?.names.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        let ino = self.add(kind, mode & 0o7777, data);
        let parent = self.change(parent)?;
        parent.names.insert(name.to_owned(), ino);
        self.attr(INodeNo(ino))
    }

    pub(super) fn get(&self, ino: INodeNo) -> Result<&Inode, Errno> {
        self.inodes.get(&ino.0).ok_or(Errno::ENOENT)
    }

    pub(super) fn change(&mut self, ino: INodeNo) -> Result<&mut Inode, Errno> {
        let inode = self.inodes.get_mut(&ino.0).ok_or(Errno::ENOENT)?;
        inode.changed = SystemTime::now();
        Ok(inode)
    }

    pub(super) fn lookup(&self, parent: INodeNo, name: &OsStr) -> Result<FileAttr, Errno> {
        let ino = self.get(parent)?.names.get(name).ok_or(Errno::ENOENT)?;
        self.attr(INodeNo(*ino))
    }

    pub(super) fn attr(&self, ino: INodeNo) -> Result<FileAttr, Errno> {
        let inode = self.get(ino)?;
        let size = u64::try_from(inode.data.len()).unwrap_or(u64::MAX);
        Ok(FileAttr {
            ino,
            size,
            blocks: size.div_ceil(512),
            atime: inode.changed,
            mtime: inode.changed,
            ctime: inode.changed,
            crtime: inode.changed,
            kind: inode.kind,
            perm: u16::try_from(inode.mode).unwrap_or_default(),
            nlink: if inode.kind == FileType::Directory { 2 } else { 1 },
            uid: inode.uid,
            gid: inode.gid,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }
}
