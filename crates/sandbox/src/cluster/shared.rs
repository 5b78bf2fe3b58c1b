//! What the nodes of a cluster have in common: who reaches whom, and one order of all changes.
//!
//! `pmxcfs` hands a change to every node before the call that made it returns. Here whoever makes a
//! change holds one lock and makes it in the view of every node it reaches, its own first, the content
//! before the counters. A node that reaches no majority hangs in the call for as long as it has not
//! noticed, and is refused after that.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::file;
use crate::paths::Root;
use crate::pmxcfs::Pmxcfs;

/// How often a change that hangs looks whether it may go on.
const HANG: Duration = Duration::from_millis(5);

/// A node of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) root: PathBuf,
    /// Members of one side reach each other.
    pub(crate) side: u32,
}

/// Where a guest went, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Moved {
    /// Milliseconds since the epoch.
    pub(crate) at: u64,
    pub(crate) id: String,
    /// None: it was removed.
    pub(crate) node: Option<String>,
}

/// The state that all nodes share, in a directory of its own.
#[derive(Debug, Clone)]
pub(crate) struct Shared {
    dir: PathBuf,
}

impl Shared {
    pub(crate) const fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Returns the state that a node shares with others, if it is in a cluster.
    pub(crate) fn of(root: &Root) -> io::Result<Option<Self>> {
        let dir = file::read(&root.state("cluster"))?;
        let dir = dir.and_then(|dir| String::from_utf8(dir).ok());
        Ok(dir.map(|dir| Self { dir: dir.into() }))
    }

    /// Makes a node one of this cluster.
    pub(crate) fn join(&self, root: &Root) -> io::Result<()> {
        file::replace(&root.state("cluster"), self.dir.as_os_str().as_encoded_bytes())
    }

    /// Keeps every other change out until it is dropped.
    pub(crate) fn lock(&self) -> io::Result<std::fs::File> {
        file::exclusive(&self.dir.join("lock"))
    }

    pub(crate) fn members(&self) -> io::Result<Vec<Member>> {
        let state = file::read(&self.dir.join("members.json"))?.unwrap_or_default();
        serde_json::from_slice(&state).map_err(io::Error::other)
    }

    pub(crate) fn set_members(&self, members: &[Member]) -> io::Result<()> {
        let state = serde_json::to_vec(members).map_err(io::Error::other)?;
        file::replace(&self.dir.join("members.json"), &state)
    }

    /// Makes a change from one node in every view that it reaches, and counts it there for `guest`.
    pub(crate) fn change(
        &self,
        node: &str,
        guest: Option<&str>,
        make: &dyn Fn(&Root) -> io::Result<()>,
    ) -> io::Result<()> {
        loop {
            let held = self.lock()?;
            let members = self.members()?;
            let own = members.iter().find(|m| m.name == node).ok_or(io::ErrorKind::NotFound)?;
            let pmxcfs = |member: &Member| Pmxcfs::new(Root::new(&member.root));
            if has_majority(&members, own.side) {
                let mut reached: Vec<&Member> = members
                    .iter()
                    .filter(|member| member.side == own.side && pmxcfs(member).is_up())
                    .collect();
                // What is wrong with the change is found where it is made, and reaches nobody else.
                reached.sort_by_key(|member| member.name != node);
                for member in reached {
                    make(&Root::new(&member.root))?;
                    if let Some(guest) = guest {
                        pmxcfs(member).touched(guest).map_err(io::Error::other)?;
                    }
                }
                return Ok(());
            }
            if !pmxcfs(own).is_quorate(node) {
                return Err(io::ErrorKind::PermissionDenied.into());
            }
            drop(held);
            std::thread::sleep(HANG);
        }
    }

    /// Notes where a guest is from now on.
    pub(crate) fn note(&self, id: &str, node: Option<&str>) -> io::Result<()> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let at = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        let moved = Moved { at, id: id.to_owned(), node: node.map(str::to_owned) };
        let mut line = serde_json::to_vec(&moved).map_err(io::Error::other)?;
        line.push(b'\n');
        let path = self.dir.join("moves.jsonl");
        OpenOptions::new().append(true).create(true).open(path)?.write_all(&line)
    }

    /// Returns where guests went so far, in order.
    pub(crate) fn moves(&self) -> io::Result<Vec<Moved>> {
        let text = file::read(&self.dir.join("moves.jsonl"))?.unwrap_or_default();
        let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| serde_json::from_slice(line).map_err(io::Error::other)).collect()
    }
}

/// Returns whether one side is more than half of the cluster.
pub(crate) fn has_majority(members: &[Member], side: u32) -> bool {
    members.iter().filter(|member| member.side == side).count() * 2 > members.len()
}

/// Makes what all nodes share in one view as it is in another.
pub(crate) fn copy_view(from: &Path, to: &Path) -> io::Result<()> {
    let mut dirs = vec![PathBuf::from("nodes"), PathBuf::from("pctd")];
    while let Some(dir) = dirs.pop() {
        let (from, to) = (from.join(&dir), to.join(&dir));
        let Ok(wanted) = std::fs::read_dir(&from) else { continue };
        std::fs::create_dir_all(&to)?;
        let mut names = Vec::new();
        for entry in wanted {
            let entry = entry?;
            let name = entry.file_name();
            if entry.file_type()?.is_dir() {
                dirs.push(dir.join(&name));
            } else {
                let content = std::fs::read(entry.path())?;
                if file::read(&to.join(&name))?.as_ref() != Some(&content) {
                    file::replace(&to.join(&name), &content)?;
                }
            }
            names.push(name);
        }
        for entry in std::fs::read_dir(&to)? {
            let entry = entry?;
            if entry.file_type()?.is_file() && !names.contains(&entry.file_name()) {
                std::fs::remove_file(entry.path())?;
            }
        }
    }
    Ok(())
}
