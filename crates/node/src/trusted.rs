//! Files that decide what root does, read only where nobody but root can have written them.
//!
//! As sudo and sshd do with theirs: the file and every directory on the way to it must be root's,
//! and nobody else may be able to write to them. Each component is opened relative to the one
//! before it without following a link, and what is judged of the file is judged on the very
//! descriptor it is read from. A link is taken where it leads, whose way is judged the same: an
//! admin may keep the configuration in `/etc/pve`, or exchange it by a link.

use std::collections::VecDeque;
use std::ffi::{CString, OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Component, Path, PathBuf};

use pctd_core::ownership::EntryKind;
use rustix::fs::{CWD, Dir, Mode, OFlags, openat, readlinkat};
use rustix::io::Errno;

use crate::paths::NodePaths;
use crate::stat::{Stat, open_for_reading, open_path};

/// How many links a path may have, as the kernel counts (`MAXSYMLINKS`).
const MAX_LINKS: usize = 40;

/// Who may write besides the owner.
const BY_GROUP: u32 = 0o020;
const BY_ALL: u32 = 0o002;
/// Only owners may rename or remove what lies in the directory.
const STICKY: u32 = 0o1000;

/// Something on the way to a file through which others could change what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flaw {
    /// The file, directory or link.
    pub path: PathBuf,
    /// What is wrong with it.
    pub what: Exposure,
}

/// What others can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exposure {
    /// It is theirs.
    Owner {
        /// Whose it is.
        uid: u32,
    },
    /// A group may write to it, or somebody whom an ACL names.
    Group {
        /// The group.
        gid: u32,
        /// The mode.
        mode: u32,
    },
    /// Everybody may write to it.
    Everybody {
        /// The mode.
        mode: u32,
    },
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match self.what {
            Exposure::Owner { uid } => {
                write!(f, "{path} belongs to uid {uid}; run `chown -h root {path}`")
            }
            Exposure::Group { gid, mode } => {
                write!(
                    f,
                    "group {gid} may write to {path} (mode {mode:04o}); run `chmod g-w {path}`"
                )
            }
            Exposure::Everybody { mode } => {
                write!(
                    f,
                    "everybody may write to {path} (mode {mode:04o}); run `chmod go-w {path}`"
                )
            }
        }
    }
}

/// What was read, and what speaks against believing it.
#[derive(Debug, Default)]
pub struct Reading {
    /// Every file with its bytes, in the order they were read.
    pub files: Vec<(PathBuf, Vec<u8>)>,
    /// Each once, in the order they were found; none: nobody but root can have written the files.
    pub flaws: Vec<Flaw>,
}

/// A file or directory could not be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {}", path.display())]
pub struct ReadError {
    /// Which.
    pub path: PathBuf,
    /// What the kernel said.
    pub source: io::Error,
}

impl ReadError {
    /// Returns whether `path` itself is not there, and not something in it, or behind it: what a link
    /// leads to, as on a pmxcfs that is down, is only not there now.
    pub fn is_missing(&self, path: &Path) -> bool {
        self.path == path
            && self.source.kind() == io::ErrorKind::NotFound
            && std::fs::symlink_metadata(path).is_err()
    }
}

impl Reading {
    /// Reads one file, or those of a directory whose names end as `suffix` says, in their order.
    ///
    /// Below the root of `paths` the way is judged from there on, elsewhere from `/`.
    ///
    /// # Errors
    ///
    /// What cannot be read, as the kernel says; flaws are none.
    pub fn add(&mut self, paths: &NodePaths, path: &Path, suffix: &str) -> Result<(), ReadError> {
        let failed = |path: &Path| {
            let path = path.to_path_buf();
            move |source: io::Error| ReadError { path, source }
        };
        match self.reach(paths, path).map_err(failed(path))? {
            End::File { dir, name } => self.file(&dir, &name, path).map_err(failed(path)),
            End::Directory(dir) => {
                let names = names_in(&dir, suffix).map_err(failed(path))?;
                for name in names {
                    // From the start again: nobody could have exchanged the way, or it has a flaw.
                    let file = path.join(name);
                    match self.reach(paths, &file).map_err(failed(&file))? {
                        End::File { dir, name } => self.file(&dir, &name, &file),
                        End::Directory(_) => Err(Errno::ISDIR.into()),
                    }
                    .map_err(failed(&file))?;
                }
                Ok(())
            }
        }
    }

    fn file(&mut self, dir: &Place, name: &OsStr, shown: &Path) -> io::Result<()> {
        // Not to wait for the other end of a pipe; what is no file is refused below.
        let flags =
            OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let mut file = File::from(openat(&dir.fd, name, flags, Mode::empty())?);
        let stat = Stat::of(&file)?;
        if stat.entry.kind != EntryKind::File {
            return Err(no_file());
        }
        self.judge(&dir.path.join(name), &stat, Writers::None);
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        self.files.push((shown.to_path_buf(), bytes));
        Ok(())
    }

    /// Follows a path to its end, judging everything it passes.
    fn reach(&mut self, paths: &NodePaths, path: &Path) -> io::Result<End> {
        let (top, mut left) = begin(paths, &std::path::absolute(path)?)?;
        let mut way = vec![top];
        let mut links = 0;
        while let Some(name) = left.pop_front() {
            let on = way.last().ok_or(Errno::NOENT)?;
            if name == ".." {
                if way.len() > 1 {
                    way.pop();
                }
                continue;
            }
            let fd = open_path(&on.fd, &CString::new(name.as_bytes())?)?;
            let stat = Stat::of(&fd)?;
            let path = on.path.join(&name);
            match stat.entry.kind {
                EntryKind::Directory => {
                    // In a sticky directory others can exchange only what is theirs, and that is
                    // a flaw of the next component. What is listed must be nobody else's to add to.
                    let writers = if left.is_empty() { Writers::None } else { Writers::Sticky };
                    self.judge(&path, &stat, writers);
                    way.push(Place { fd, path });
                }
                EntryKind::Symlink => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Errno::LOOP.into());
                    }
                    self.judge(&path, &stat, Writers::Meaningless);
                    let target = readlinkat(&fd, c"", Vec::new())?.into_bytes();
                    let target = PathBuf::from(OsString::from_vec(target));
                    let ahead = if target.is_absolute() {
                        let (top, ahead) = begin(paths, &target)?;
                        way = vec![top];
                        ahead
                    } else {
                        components(&target)
                    };
                    left = ahead.into_iter().chain(left).collect();
                }
                EntryKind::File if left.is_empty() => {
                    let dir = way.pop().ok_or(Errno::NOENT)?;
                    return Ok(End::File { dir, name });
                }
                EntryKind::File => return Err(Errno::NOTDIR.into()),
                // Opening a device does something.
                EntryKind::Special => return Err(no_file()),
            }
        }
        way.pop().map(End::Directory).ok_or_else(|| Errno::NOENT.into())
    }

    fn judge(&mut self, path: &Path, stat: &Stat, writers: Writers) {
        let (ids, mode) = (stat.entry.ids, stat.entry.mode);
        // Who runs this could change it anyway; ssh trusts its user likewise.
        if ids.uid != 0 && ids.uid != rustix::process::geteuid().as_raw() {
            self.flaw(path, Exposure::Owner { uid: ids.uid });
        }
        let counts = match writers {
            Writers::None => true,
            Writers::Sticky => mode & STICKY == 0,
            Writers::Meaningless => false,
        };
        if counts && mode & BY_ALL != 0 {
            self.flaw(path, Exposure::Everybody { mode });
        } else if counts && mode & BY_GROUP != 0 {
            self.flaw(path, Exposure::Group { gid: ids.gid, mode });
        }
    }

    fn flaw(&mut self, path: &Path, what: Exposure) {
        let flaw = Flaw { path: path.to_path_buf(), what };
        if !self.flaws.contains(&flaw) {
            self.flaws.push(flaw);
        }
    }
}

/// Who else may be able to write where something is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Writers {
    /// None.
    None,
    /// In a sticky directory those who cannot exchange what is not theirs.
    Sticky,
    /// A link cannot be written to, whatever its mode.
    Meaningless,
}

/// A directory on the way.
#[derive(Debug)]
struct Place {
    fd: OwnedFd,
    path: PathBuf,
}

/// Where a way ends.
#[derive(Debug)]
enum End {
    Directory(Place),
    /// What was a regular file a moment ago.
    File {
        dir: Place,
        name: OsString,
    },
}

/// Returns where the way to an absolute path begins, and its components.
fn begin(paths: &NodePaths, path: &Path) -> io::Result<(Place, VecDeque<OsString>)> {
    let climbs = path.components().any(|component| component == Component::ParentDir);
    if let Some(below) = path.strip_prefix(paths.prefix()).ok().filter(|_| !climbs) {
        let fd = paths.root().try_clone_to_owned()?;
        return Ok((Place { fd, path: paths.host("/") }, components(below)));
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = openat(CWD, "/", flags, Mode::empty())?;
    Ok((Place { fd, path: PathBuf::from("/") }, components(path)))
}

fn components(path: &Path) -> VecDeque<OsString> {
    let named = path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    });
    named.collect()
}

/// Returns the names in a directory that end as `suffix` says, in their order.
fn names_in(dir: &Place, suffix: &str) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in Dir::new(open_for_reading(&dir.fd)?)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        // As `Path::extension` has it: a file that is only called `.json` has none.
        if name.len() > suffix.len() && name.ends_with(suffix.as_bytes()) {
            names.push(OsStr::from_bytes(name).to_owned());
        }
    }
    names.sort();
    Ok(names)
}

fn no_file() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "neither a file nor a directory")
}
