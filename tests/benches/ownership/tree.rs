//! The trees, and the ways in which they are out of order.

use std::ffi::CStr;
use std::fs;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, StatxFlags, Uid, chmodat, chownat, mkdirat, mknodat,
    openat, statx, syncfs,
};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::floor;

/// Owner and group that everything is to have: container user 1000 of the default map.
pub(crate) const OWNER: u32 = 101_000;
/// The mode directories are to have.
pub(crate) const DIR_MODE: u32 = 0o775;
/// The mode files are to have.
pub(crate) const FILE_MODE: u32 = 0o664;

/// One entry of this many is out of order in [`State::Drifted`].
const DRIFT: u64 = 100;
/// Files in each directory of [`Shape::Spread`].
const FILES_IN_DIR: u32 = 100;
/// Directories inside one another in [`Shape::Deep`], each with one file.
const DEPTH: u32 = 1000;

/// How the files of a tree lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// A hundred to a directory, four directories down.
    Spread,
    /// All in one directory.
    Flat,
    /// One to a directory, a thousand directories down.
    Deep,
}

/// Which entries are as declared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// All.
    Right,
    /// All but one in a hundred, which has another owner or another mode.
    Drifted,
    /// None.
    Wrong,
}

/// A tree of empty files.
#[derive(Debug)]
pub(crate) struct Tree {
    path: PathBuf,
    entries: u64,
    state: State,
}

impl Tree {
    /// Makes a tree that is in order.
    pub(crate) fn make(below: &Path, shape: Shape, files: u32) -> Self {
        let path = below.join(format!("{shape:?}-{files}").to_lowercase());
        fs::create_dir(&path).expect("a directory can be made");
        eprintln!("making {}", path.display());
        let made = match shape {
            Shape::Spread => spread(&path, files),
            Shape::Flat => fill(&open(&path), files),
            Shape::Deep => deep(&path, files),
        };
        made.expect("a tree can be made");
        let mut tree = Self { path, entries: 0, state: State::Wrong };
        tree.bring_to(State::Right);
        tree
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns how many entries it has, itself included.
    pub(crate) fn entries(&self) -> u64 {
        self.entries
    }

    /// Returns whether it is known to be in this state.
    pub(crate) fn is(&self, state: State) -> bool {
        self.state == state
    }

    /// Brings it into a state, whatever state it is in, and onto the disk.
    pub(crate) fn bring_to(&mut self, state: State) {
        let mut entries: u64 = 0;
        let walked = floor::each(&self.path, |dir, name, kind| {
            entries += 1;
            let out_of_order = match state {
                State::Right => None,
                State::Wrong => Some(Aspect::Both),
                State::Drifted if !entries.is_multiple_of(DRIFT) => None,
                State::Drifted if entries.is_multiple_of(2 * DRIFT) => Some(Aspect::Owner),
                State::Drifted => Some(Aspect::Mode),
            };
            Wanted::of(kind, out_of_order).give(dir, name)
        });
        walked.expect("a tree can be changed");
        let root = Wanted::of(FileType::Directory, (state == State::Wrong).then_some(Aspect::Both));
        root.give(open(&self.path).as_fd(), c".").expect("a tree can be changed");
        (self.entries, self.state) = (entries + 1, state);
        self.settle();
    }

    /// Notes that somebody claims to have repaired it, and expects that to be true.
    pub(crate) fn was_repaired_by(&mut self, who: &str) {
        let mut wrong = 0_u64;
        let mut check = |dir: BorrowedFd<'_>, name: &CStr, kind| {
            wrong += u64::from(!Wanted::of(kind, None).is_met(dir, name)?);
            Ok(())
        };
        check(open(&self.path).as_fd(), c".", FileType::Directory).expect("a tree can be read");
        floor::each(&self.path, check).expect("a tree can be read");
        assert_eq!(wrong, 0, "{who} left entries of {} out of order", self.path.display());
        self.state = State::Right;
    }

    /// Writes everything to the disk, so that nobody pays for what another one did.
    pub(crate) fn settle(&self) {
        syncfs(open(&self.path)).expect("a file system can be synced");
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        // It goes with its directory at the latest; room is what this is about.
        let _left = fs::remove_dir_all(&self.path);
    }
}

/// What of an entry is not as declared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Aspect {
    Owner,
    Mode,
    Both,
}

#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    owner: u32,
    mode: u32,
}

impl Wanted {
    fn of(kind: FileType, out_of_order: Option<Aspect>) -> Self {
        let (right, wrong) =
            if kind == FileType::Directory { (DIR_MODE, 0o700) } else { (FILE_MODE, 0o600) };
        let (owner, mode) = match out_of_order {
            None => (OWNER, right),
            Some(Aspect::Owner) => (0, right),
            Some(Aspect::Mode) => (OWNER, wrong),
            Some(Aspect::Both) => (0, wrong),
        };
        Self { owner, mode }
    }

    fn is_met(&self, dir: BorrowedFd<'_>, name: &CStr) -> Result<bool, Errno> {
        let stat = statx(dir, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS)?;
        let mode = u32::from(stat.stx_mode) & 0o7777;
        Ok((stat.stx_uid, stat.stx_gid, mode) == (self.owner, self.owner, self.mode))
    }

    fn give(&self, dir: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
        if self.is_met(dir, name)? {
            return Ok(());
        }
        let (uid, gid) = (Uid::from_raw(self.owner), Gid::from_raw(self.owner));
        chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        chmodat(dir, name, Mode::from_raw_mode(self.mode), AtFlags::empty())
    }
}

/// Lets a thousand directories be open at once, which the floor, and removing a tree, take.
pub(crate) fn raise_fd_limit() {
    let limit = getrlimit(Resource::Nofile);
    // Where that is refused, the deep tree says so.
    let _refused = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

fn open(path: &Path) -> OwnedFd {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, path, flags, Mode::empty()).expect("the tree is there")
}

fn fill(dir: &OwnedFd, files: u32) -> Result<(), Errno> {
    (0..files).try_for_each(|n| {
        let mode = Mode::from_raw_mode(FILE_MODE);
        mknodat(dir, format!("file-{n:06}"), FileType::RegularFile, mode, 0)
    })
}

fn spread(path: &Path, files: u32) -> Result<(), Errno> {
    let leaves = files.div_ceil(FILES_IN_DIR);
    let fan_out =
        (1..u32::from(u8::MAX)).find(|n| n.pow(4) >= leaves).unwrap_or(u32::from(u8::MAX));
    for leaf in 0..leaves {
        let mut dir = path.to_owned();
        for level in (0..4).rev() {
            dir.push(format!("dir-{}", leaf / fan_out.pow(level) % fan_out));
        }
        fs::create_dir_all(&dir)
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        fill(&open(&dir), FILES_IN_DIR.min(files - leaf * FILES_IN_DIR))?;
    }
    Ok(())
}

fn deep(path: &Path, files: u32) -> Result<(), Errno> {
    for chain in 0..files.div_ceil(DEPTH) {
        let mut dir = open(path);
        for level in 0..DEPTH.min(files - chain * DEPTH) {
            let name = if level == 0 { format!("chain-{chain}") } else { "d".to_owned() };
            mkdirat(&dir, &name, Mode::from_raw_mode(DIR_MODE))?;
            dir = openat(&dir, &name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
            fill(&dir, 1)?;
        }
    }
    Ok(())
}
