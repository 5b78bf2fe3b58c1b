//! What `pmxcfs` lets whom do, and what it counts (proxmox's `pmxcfs.c`, `cfs-plug-memdb.c`,
//! `memdb.c`, `status.c`): a state and what changes it, without a kernel, a disk or a clock.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::lists::{self, Listed};
use super::tree::{Generated, Ino, Kind, ROOT, Tree};
use super::{KINDS, guest_id};

/// The largest file (`MEMDB_MAX_FILE_SIZE`).
pub(super) const MAX_FILE: u64 = 1 << 20;

/// The files whose changes `.version` counts, of those a sandbox has (`memdb_change_array`).
const COUNTED: [&str; 3] = ["corosync.conf", "storage.cfg", "datacenter.cfg"];

const GENERATED: [(&str, Generated); 3] = [
    (".version", Generated::Version),
    (".vmlist", Generated::Vmlist),
    (".members", Generated::Members),
];

/// What an inode shows of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Attributes {
    pub(super) ino: Ino,
    pub(super) sort: Sort,
    pub(super) mode: u32,
    pub(super) size: u64,
    /// Also the time of the last change of anything: there is no other.
    pub(super) mtime: u64,
}

/// The sorts of inodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sort {
    Dir,
    File,
    Link,
}

/// A change that has to outlive the process; paths are relative to `/etc/pve`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    Content(PathBuf),
    Dir(PathBuf),
    Removed(PathBuf),
    Renamed(PathBuf, PathBuf),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Guest {
    node: String,
    kind: &'static str,
    version: u64,
}

/// The cluster file system as one node has it.
#[derive(Debug)]
pub(super) struct Cfs {
    tree: Tree,
    node: String,
    peers: Vec<String>,
    quorate: bool,
    starttime: u64,
    clinfo: u64,
    vmlist: u64,
    guests: BTreeMap<u32, Guest>,
    counted: BTreeMap<&'static str, u64>,
    /// The file that cannot be opened at the moment, as if it were just being replaced.
    hidden: Option<PathBuf>,
    changes: Vec<Change>,
}

impl Cfs {
    /// Returns one of which only the generated names are there yet.
    pub(super) fn new(node: &str, peers: &[String], starttime: u64) -> Self {
        let mut tree = Tree::new(starttime);
        let link = |below: &str| Kind::Link(PathBuf::from(format!("nodes/{node}{below}")));
        let links =
            [("local", link("")), ("lxc", link("/lxc")), ("qemu-server", link("/qemu-server"))];
        let generated = GENERATED.map(|(name, what)| (name, Kind::Generated(what)));
        for (name, kind) in links.into_iter().chain(generated) {
            // Made with `/etc/pve` itself, and of 1970: none of these fails in an empty tree.
            let _made = tree.add(ROOT, name.as_ref(), kind, 0);
        }
        Self {
            tree,
            node: node.to_owned(),
            peers: peers.to_vec(),
            quorate: true,
            starttime,
            clinfo: 1,
            vmlist: 0,
            guests: BTreeMap::new(),
            counted: COUNTED.map(|name| (name, 1)).into(),
            hidden: None,
            changes: Vec::new(),
        }
    }

    /// Puts in what was stored by an earlier process; counted once it is all there.
    pub(super) fn load(&mut self, path: &Path, content: Option<Vec<u8>>, mtime: u64) {
        let kind = content.map_or_else(|| Kind::Dir(BTreeMap::new()), Kind::File);
        // What is stored was let in before; a name of `new` can only be in the store by hand.
        let _there = self.place(path).and_then(|(dir, name)| self.tree.add(dir, name, kind, mtime));
    }

    /// Begins to count: every list is at 1, as after every start (`memdb_recreate_vmlist`).
    pub(super) fn begin(&mut self) {
        self.vmlist = 0;
        self.recount();
    }

    /// Returns what has to be stored since the last call.
    pub(super) fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    /// Returns the content of a file, for the store.
    pub(super) fn content(&self, path: &Path) -> Option<&[u8]> {
        match &self.tree.get(self.tree.find(path).ok()?).ok()?.kind {
            Kind::File(content) => Some(content),
            _ => None,
        }
    }

    /// Gives this node its quorum, or takes it.
    pub(super) fn set_quorate(&mut self, quorate: bool) {
        self.clinfo += u64::from(self.quorate != quorate);
        self.quorate = quorate;
    }

    /// Lets every open of this file fail from now on, as one that comes while it is replaced.
    pub(super) fn hide(&mut self, path: Option<PathBuf>) {
        self.hidden = path;
    }

    // What the kernel asks.

    pub(super) fn lookup(&self, dir: Ino, name: &OsStr) -> Result<Attributes, Errno> {
        self.attributes(self.tree.lookup(dir, name)?)
    }

    pub(super) fn attributes(&self, ino: Ino) -> Result<Attributes, Errno> {
        let entry = self.tree.get(ino)?;
        let (sort, mode, size) = match &entry.kind {
            Kind::Dir(_) => (Sort::Dir, if self.is_private(ino) { 0o700 } else { 0o755 }, 0),
            Kind::File(content) => {
                (Sort::File, if self.is_private(ino) { 0o600 } else { 0o640 }, content.len())
            }
            Kind::Link(target) => (Sort::Link, 0o755, target.as_os_str().len()),
            Kind::Generated(what) => (Sort::File, 0o440, self.generate(*what).len()),
        };
        let mode = if self.quorate { mode } else { mode & !0o222 };
        let size = u64::try_from(size).unwrap_or(u64::MAX);
        Ok(Attributes { ino, sort, mode, size, mtime: entry.mtime })
    }

    pub(super) fn list(&self, dir: Ino) -> Result<Vec<(Ino, Sort, OsString)>, Errno> {
        let sort = |ino| self.attributes(ino).map_or(Sort::File, |attributes| attributes.sort);
        let names = self.tree.list(dir)?;
        Ok(names.iter().map(|(name, ino)| (*ino, sort(*ino), name.clone())).collect())
    }

    pub(super) fn link(&self, ino: Ino) -> Result<&Path, Errno> {
        match &self.tree.get(ino)?.kind {
            Kind::Link(target) => Ok(target),
            _ => Err(Errno::INVAL),
        }
    }

    /// Opens a file, also for writing without a quorum: only the write fails then.
    pub(super) fn open(&mut self, ino: Ino, writing: bool) -> Result<(), Errno> {
        // By path, so what lost its name meanwhile is not there any more.
        let path = self.tree.path(ino).ok_or(Errno::NOENT)?;
        if self.hidden.as_ref() == Some(&path) {
            return Err(Errno::NOENT);
        }
        if writing && matches!(self.tree.get(ino)?.kind, Kind::Generated(_)) {
            return Err(Errno::ACCESS);
        }
        self.tree.opened(ino)
    }

    pub(super) fn close(&mut self, ino: Ino) {
        self.tree.closed(ino);
    }

    pub(super) fn read(&self, ino: Ino, offset: u64, size: usize) -> Result<Vec<u8>, Errno> {
        let part = |content: &[u8]| {
            let from = usize::try_from(offset).map_or(content.len(), |at| at.min(content.len()));
            content[from..content.len().min(from.saturating_add(size))].to_vec()
        };
        match &self.tree.get(ino)?.kind {
            Kind::File(content) => Ok(part(content)),
            Kind::Generated(what) => Ok(part(self.generate(*what).as_bytes())),
            Kind::Dir(_) => Err(Errno::ISDIR),
            Kind::Link(_) => Err(Errno::INVAL),
        }
    }

    pub(super) fn write(
        &mut self,
        ino: Ino,
        offset: u64,
        data: &[u8],
        now: u64,
    ) -> Result<(), Errno> {
        if !self.quorate {
            return Err(Errno::IO);
        }
        let length = u64::try_from(data.len()).map_err(|_| Errno::FBIG)?;
        let end = offset.checked_add(length).filter(|end| *end <= MAX_FILE).ok_or(Errno::FBIG)?;
        let (from, end) = (index(offset)?, index(end)?);
        let content = self.file(ino)?;
        if content.len() < end {
            content.resize(end, 0);
        }
        content[from..end].copy_from_slice(data);
        self.written(ino, now)
    }

    pub(super) fn truncate(&mut self, ino: Ino, size: u64, now: u64) -> Result<(), Errno> {
        self.may_write()?;
        if size > MAX_FILE {
            return Err(Errno::FBIG);
        }
        let size = index(size)?;
        self.file(ino)?.resize(size, 0);
        self.written(ino, now)
    }

    pub(super) fn set_mtime(&mut self, ino: Ino, mtime: u64) -> Result<(), Errno> {
        self.may_write()?;
        self.tree.get_mut(ino)?.mtime = mtime;
        Ok(())
    }

    /// Changes nothing, and is refused unless it asks for what is anyway (`cfs_fuse_chmod`).
    pub(super) fn chmod(&self, ino: Ino, mode: u32) -> Result<(), Errno> {
        self.tree.get(ino)?;
        let only = if self.is_private(ino) { 0o600 } else { 0o640 };
        if mode & 0o7777 == only { Ok(()) } else { Err(Errno::PERM) }
    }

    pub(super) fn create(&mut self, dir: Ino, name: &OsStr, now: u64) -> Result<Ino, Errno> {
        self.may_write()?;
        let path = self.tree.path(dir).ok_or(Errno::NOENT)?.join(name);
        self.is_free(&path, None)?;
        let ino = self.tree.add(dir, name, Kind::File(Vec::new()), now)?;
        self.tree.opened(ino)?;
        self.count(&path);
        self.changes.push(Change::Content(path));
        Ok(ino)
    }

    pub(super) fn mkdir(&mut self, dir: Ino, name: &OsStr, now: u64) -> Result<Ino, Errno> {
        self.may_write()?;
        let path = self.tree.path(dir).ok_or(Errno::NOENT)?.join(name);
        let ino = self.tree.add(dir, name, Kind::Dir(BTreeMap::new()), now)?;
        self.changes.push(Change::Dir(path));
        Ok(ino)
    }

    /// Removes a file, or a directory with nothing in it.
    pub(super) fn remove(&mut self, dir: Ino, name: &OsStr, now: u64) -> Result<(), Errno> {
        self.may_write()?;
        let ino = self.tree.lookup(dir, name)?;
        let path = self.tree.path(ino).ok_or(Errno::NOENT)?;
        let directory = match &self.tree.get(ino)?.kind {
            Kind::Dir(names) if !names.is_empty() => return Err(Errno::NOTEMPTY),
            Kind::Dir(_) => true,
            Kind::File(_) => false,
            Kind::Link(_) | Kind::Generated(_) => return Err(Errno::ACCESS),
        };
        self.tree.detach(ino, now)?;
        self.changes.push(Change::Removed(path.clone()));
        if directory {
            // Moves the list although no guest changed.
            self.recount();
        } else {
            self.count(&path);
        }
        Ok(())
    }

    pub(super) fn rename(
        &mut self,
        from: (Ino, &OsStr),
        to: (Ino, &OsStr),
        now: u64,
    ) -> Result<(), Errno> {
        self.may_write()?;
        let ino = self.tree.lookup(from.0, from.1)?;
        let source = self.tree.path(ino).ok_or(Errno::NOENT)?;
        let target = self.tree.path(to.0).ok_or(Errno::NOENT)?.join(to.1);
        if !matches!(self.tree.get(ino)?.kind, Kind::Dir(_) | Kind::File(_)) {
            return Err(Errno::ACCESS);
        }
        if self.tree.is_below(to.0, ino) {
            return Err(Errno::INVAL);
        }
        self.is_free(&target, Some(&source))?;
        match self.tree.lookup(to.0, to.1) {
            Ok(same) if same == ino => return Ok(()),
            Ok(over) => {
                let over_dir = self.tree.list(over).is_ok();
                let is_dir = self.tree.list(ino).is_ok();
                match (is_dir, over_dir) {
                    (true, false) => return Err(Errno::NOTDIR),
                    (false, true) => return Err(Errno::ISDIR),
                    (true, true) if !self.tree.list(over)?.is_empty() => {
                        return Err(Errno::NOTEMPTY);
                    }
                    _ => self.tree.detach(over, now)?,
                }
            }
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
        self.tree.rename(ino, to.0, to.1, now)?;
        self.renamed(source, target);
        Ok(())
    }

    // What other nodes of the cluster do: the same state, but nobody asks this node's kernel,
    // which is why no watch on this node sees it.

    /// Writes a file on another node: a temporary one, renamed.
    pub(super) fn peer_write(
        &mut self,
        path: &Path,
        content: Vec<u8>,
        now: u64,
    ) -> Result<(), Errno> {
        self.may_write()?;
        self.is_free(path, None)?;
        if let Ok(ino) = self.tree.find(path) {
            *self.file(ino)? = content;
            return self.written(ino, now);
        }
        let (dir, name) = self.place(path)?;
        self.tree.add(dir, name, Kind::File(content), now)?;
        self.count(path);
        self.changes.push(Change::Content(path.to_owned()));
        Ok(())
    }

    /// Removes a file on another node.
    pub(super) fn peer_remove(&mut self, path: &Path, now: u64) -> Result<(), Errno> {
        let name = path.file_name().ok_or(Errno::INVAL)?;
        let (dir, _) = self.place(path)?;
        self.remove(dir, name, now)
    }

    /// Renames a file on another node, as a migration does to a conf.
    pub(super) fn peer_rename(&mut self, from: &Path, to: &Path, now: u64) -> Result<(), Errno> {
        let name = |path: &Path| path.file_name().map(OsStr::to_owned).ok_or(Errno::INVAL);
        let (from_dir, to_dir) = (self.place(from)?.0, self.place(to)?.0);
        self.rename((from_dir, &name(from)?), (to_dir, &name(to)?), now)
    }

    // What is the same for all of them.

    fn may_write(&self) -> Result<(), Errno> {
        if self.quorate { Ok(()) } else { Err(Errno::ACCESS) }
    }

    /// Returns the directory and the name that a path stands for.
    fn place<'a>(&self, path: &'a Path) -> Result<(Ino, &'a OsStr), Errno> {
        let dir = path.parent().ok_or(Errno::INVAL)?;
        Ok((self.tree.find(dir)?, path.file_name().ok_or(Errno::INVAL)?))
    }

    fn file(&mut self, ino: Ino) -> Result<&mut Vec<u8>, Errno> {
        match &mut self.tree.get_mut(ino)?.kind {
            Kind::File(content) => Ok(content),
            Kind::Dir(_) => Err(Errno::ISDIR),
            Kind::Link(_) | Kind::Generated(_) => Err(Errno::ACCESS),
        }
    }

    /// Notes that a file has other content; one that lost its name is nobody's business.
    fn written(&mut self, ino: Ino, now: u64) -> Result<(), Errno> {
        self.tree.get_mut(ino)?.mtime = now;
        if let Some(path) = self.tree.path(ino) {
            self.count(&path);
            self.changes.push(Change::Content(path));
        }
        Ok(())
    }

    fn renamed(&mut self, from: PathBuf, to: PathBuf) {
        if self.tree.find(&to).is_ok_and(|ino| self.tree.list(ino).is_ok()) {
            self.recount();
        } else {
            self.count(&from);
            self.count(&to);
        }
        self.changes.push(Change::Renamed(from, to));
    }

    /// Fails where a path would be a guest that is another one already: an id is used once in a
    /// cluster, whatever the node and the kind (`vmlist_different_vm_exists`).
    fn is_free(&self, path: &Path, moved: Option<&Path>) -> Result<(), Errno> {
        let Some((id, node, kind)) = guest(path) else { return Ok(()) };
        let Some(there) = self.guests.get(&id) else { return Ok(()) };
        let same = there.node == node && there.kind == kind;
        let itself = moved.and_then(guest).is_some_and(|(moved, _, _)| moved == id);
        if same || itself { Ok(()) } else { Err(Errno::EXIST) }
    }

    /// Counts a change of one path, if it is one that is counted.
    fn count(&mut self, path: &Path) {
        if let Some(count) = path.to_str().and_then(|name| self.counted.get_mut(name)) {
            *count += 1;
        }
        let Some((id, node, kind)) = guest(path) else { return };
        let here = self.guests.get(&id).is_some_and(|there| there.node == node);
        if self.tree.find(path).is_ok() {
            self.vmlist += 1;
            self.guests.insert(id, Guest { node, kind, version: self.vmlist });
        } else if here {
            self.vmlist += 1;
            self.guests.remove(&id);
        }
    }

    /// Makes the list of guests anew.
    fn recount(&mut self) {
        self.vmlist += 1;
        let mut guests = BTreeMap::new();
        let nodes = self.tree.find("nodes".as_ref()).and_then(|nodes| self.tree.list(nodes));
        for (node, ino) in nodes.into_iter().flatten() {
            for (dir, kind) in KINDS {
                let dir = self.tree.lookup(*ino, dir.as_ref());
                let names = dir.and_then(|dir| self.tree.list(dir));
                for name in names.into_iter().flat_map(BTreeMap::keys) {
                    let Some(id) = conf_id(name) else { continue };
                    let node = node.to_string_lossy().into_owned();
                    let before = self.guests.get(&id).map_or(1, |guest| guest.version);
                    guests.insert(id, Guest { node, kind, version: before });
                }
            }
        }
        self.guests = guests;
    }

    /// Returns whether only root may see it (`path_is_private`).
    fn is_private(&self, ino: Ino) -> bool {
        let path = self.tree.path(ino).unwrap_or_default();
        let names: Vec<&OsStr> = path.iter().collect();
        matches!(names[..], [first, ..] if first == "priv")
            || matches!(names[..], [first, _, third, ..] if first == "nodes" && third == "priv")
    }

    fn generate(&self, what: Generated) -> String {
        match what {
            Generated::Version => lists::version(
                self.starttime,
                self.clinfo,
                self.vmlist,
                self.counted.iter().map(|(name, count)| (*name, *count)),
            ),
            Generated::Vmlist => lists::vmlist(
                self.vmlist,
                self.guests.iter().map(|(id, guest)| Listed {
                    id: *id,
                    node: &guest.node,
                    kind: guest.kind,
                    version: guest.version,
                }),
            ),
            Generated::Members => {
                let missing = self.peers.iter().filter(|_| !self.quorate);
                lists::members(&self.node, &self.peers, self.quorate, &missing.cloned().collect())
            }
        }
    }
}

/// Returns which guest of which node the conf of that path is (`path_is_vm_config`).
fn guest(path: &Path) -> Option<(u32, String, &'static str)> {
    let names: Vec<&OsStr> = path.iter().collect();
    let [nodes, node, dir, name] = names[..] else { return None };
    let (_, kind) = KINDS.into_iter().find(|(name, _)| *name == dir)?;
    (nodes == "nodes").then_some(())?;
    Some((conf_id(name)?, node.to_str()?.to_owned(), kind))
}

fn conf_id(name: &OsStr) -> Option<u32> {
    guest_id(name.to_str()?.strip_suffix(".conf")?)
}

fn index(size: u64) -> Result<usize, Errno> {
    usize::try_from(size).map_err(|_| Errno::FBIG)
}

#[cfg(test)]
mod tests;
