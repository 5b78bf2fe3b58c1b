//! The names and files of the cluster file system, without any rule of who may change them.
//!
//! An inode stands for a name, as libfuse has it: what another node puts in the place of a file
//! keeps the inode this node's kernel knows the name by.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// The number of an inode; none is used twice.
pub(super) type Ino = u64;

/// The directory `/etc/pve` itself (`FUSE_ROOT_ID`).
pub(super) const ROOT: Ino = 1;

/// What is generated whenever it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Generated {
    Version,
    Vmlist,
    Members,
}

/// What an inode is.
#[derive(Debug)]
pub(super) enum Kind {
    Dir(BTreeMap<OsString, Ino>),
    File(Vec<u8>),
    Link(PathBuf),
    Generated(Generated),
}

/// An inode.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) kind: Kind,
    /// In seconds, and the only time there is.
    pub(super) mtime: u64,
    parent: Ino,
    name: OsString,
    /// Whether it still has its name; one that is open outlives it.
    linked: bool,
    opens: u32,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Tree {
    entries: BTreeMap<Ino, Entry>,
    next: Ino,
}

impl Tree {
    /// Returns an empty `/etc/pve`.
    pub(super) fn new(now: u64) -> Self {
        let root = Entry {
            kind: Kind::Dir(BTreeMap::new()),
            mtime: now,
            parent: ROOT,
            name: OsString::new(),
            linked: true,
            opens: 0,
        };
        Self { entries: BTreeMap::from([(ROOT, root)]), next: ROOT + 1 }
    }

    pub(super) fn get(&self, ino: Ino) -> Result<&Entry, Errno> {
        self.entries.get(&ino).ok_or(Errno::NOENT)
    }

    pub(super) fn get_mut(&mut self, ino: Ino) -> Result<&mut Entry, Errno> {
        self.entries.get_mut(&ino).ok_or(Errno::NOENT)
    }

    /// Returns the names in a directory.
    pub(super) fn list(&self, dir: Ino) -> Result<&BTreeMap<OsString, Ino>, Errno> {
        match &self.get(dir)?.kind {
            Kind::Dir(names) => Ok(names),
            _ => Err(Errno::NOTDIR),
        }
    }

    fn list_mut(&mut self, dir: Ino) -> Result<&mut BTreeMap<OsString, Ino>, Errno> {
        match &mut self.get_mut(dir)?.kind {
            Kind::Dir(names) => Ok(names),
            _ => Err(Errno::NOTDIR),
        }
    }

    pub(super) fn lookup(&self, dir: Ino, name: &OsStr) -> Result<Ino, Errno> {
        self.list(dir)?.get(name).copied().ok_or(Errno::NOENT)
    }

    /// Finds a path relative to `/etc/pve`, without following links.
    pub(super) fn find(&self, path: &Path) -> Result<Ino, Errno> {
        path.iter().try_fold(ROOT, |dir, name| self.lookup(dir, name))
    }

    /// Returns the path of an inode relative to `/etc/pve`; `None` where it has lost its name.
    pub(super) fn path(&self, ino: Ino) -> Option<PathBuf> {
        let mut names = Vec::new();
        let mut at = ino;
        while at != ROOT {
            let entry = self.entries.get(&at).filter(|entry| entry.linked)?;
            names.push(entry.name.as_os_str());
            at = entry.parent;
        }
        Some(names.into_iter().rev().collect())
    }

    /// Adds a name that is not there yet.
    pub(super) fn add(
        &mut self,
        dir: Ino,
        name: &OsStr,
        kind: Kind,
        now: u64,
    ) -> Result<Ino, Errno> {
        let ino = self.next;
        let names = self.list_mut(dir)?;
        if names.contains_key(name) {
            return Err(Errno::EXIST);
        }
        names.insert(name.to_owned(), ino);
        self.next += 1;
        let name = name.to_owned();
        let entry = Entry { kind, mtime: now, parent: dir, name, linked: true, opens: 0 };
        self.entries.insert(ino, entry);
        self.changed(dir, now);
        Ok(ino)
    }

    /// Takes the name from an inode, which is gone with it unless it is open.
    pub(super) fn detach(&mut self, ino: Ino, now: u64) -> Result<(), Errno> {
        let entry = self.get_mut(ino)?;
        entry.linked = false;
        let (dir, name, open) = (entry.parent, entry.name.clone(), entry.opens > 0);
        self.list_mut(dir)?.remove(&name);
        if !open {
            self.entries.remove(&ino);
        }
        self.changed(dir, now);
        Ok(())
    }

    /// Gives an inode another name, which must be free.
    pub(super) fn rename(
        &mut self,
        ino: Ino,
        dir: Ino,
        name: &OsStr,
        now: u64,
    ) -> Result<(), Errno> {
        self.list(dir)?;
        let entry = self.get_mut(ino)?;
        let (from, old) = (entry.parent, std::mem::replace(&mut entry.name, name.to_owned()));
        entry.parent = dir;
        self.list_mut(from)?.remove(&old);
        self.list_mut(dir)?.insert(name.to_owned(), ino);
        self.changed(from, now);
        self.changed(dir, now);
        Ok(())
    }

    /// Returns whether `dir` is `ino` or lies below it.
    pub(super) fn is_below(&self, dir: Ino, ino: Ino) -> bool {
        let up = |at: &Ino| self.entries.get(at).map(|entry| entry.parent).filter(|up| up != at);
        std::iter::successors(Some(dir), up).any(|at| at == ino)
    }

    pub(super) fn opened(&mut self, ino: Ino) -> Result<(), Errno> {
        self.get_mut(ino)?.opens += 1;
        Ok(())
    }

    pub(super) fn closed(&mut self, ino: Ino) {
        let Ok(entry) = self.get_mut(ino) else { return };
        entry.opens = entry.opens.saturating_sub(1);
        if entry.opens == 0 && !entry.linked {
            self.entries.remove(&ino);
        }
    }

    fn changed(&mut self, dir: Ino, now: u64) {
        if let Some(entry) = self.entries.get_mut(&dir) {
            entry.mtime = now;
        }
    }
}
