//! A hostile root of a container: it exchanges files, links and directories under names that
//! somebody else works on, as fast as the kernel lets it.
//!
//! It needs nothing but a directory it may write to and something outside that it wants changed,
//! so that any test can let it loose: on a sweep here, or on a live daemon in a test of another
//! crate that takes this file as a module by its path.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Component, Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, Mode, RenameFlags, chmod, renameat_with};

/// What lies outside of the volume, root's alone: a directory with a file, and a file.
#[derive(Debug)]
pub(crate) struct Victim {
    paths: [PathBuf; 3],
    before: [Look; 3],
}

/// Owner, mode and time of the last change of one entry. The time tells of changes that were
/// taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Look {
    ids: (u32, u32),
    mode: u32,
    changed: (i64, i64),
}

impl Look {
    fn at(path: &Path) -> Self {
        let stat = fs::symlink_metadata(path).unwrap();
        let changed = (stat.ctime(), stat.ctime_nsec());
        Self { ids: (stat.uid(), stat.gid()), mode: stat.mode(), changed }
    }
}

impl Victim {
    /// Makes one in a directory that is no part of a volume.
    pub(crate) fn make(outside: &Path) -> Self {
        let dir = outside.join("victim-dir");
        fs::create_dir(&dir).unwrap();
        // The names that the adversary's own directory has, so that a path leads to them.
        let paths = [outside.join("victim"), dir.join("inner"), dir];
        for path in &paths[..2] {
            fs::write(path, "secret").unwrap();
            chmod(path, Mode::from_raw_mode(0o600)).unwrap();
        }
        chmod(&paths[2], Mode::from_raw_mode(0o700)).unwrap();
        let before = paths.each_ref().map(|path| Look::at(path));
        Self { paths, before }
    }

    /// Returns the file.
    pub(crate) fn file(&self) -> &Path {
        &self.paths[0]
    }

    /// Returns the directory.
    pub(crate) fn dir(&self) -> &Path {
        &self.paths[2]
    }

    /// Returns what was done to it, if anything ever was.
    pub(crate) fn harm(&self) -> Option<String> {
        let now = self.paths.each_ref().map(|path| Look::at(path));
        (now != self.before).then(|| format!("{:?} became {now:?}", self.before))
    }
}

/// Returns the way from one directory to a path; both are absolute.
fn relative(from: &Path, to: &Path) -> PathBuf {
    let common = from.components().zip(to.components()).take_while(|(a, b)| a == b).count();
    let up = from.components().skip(common).map(|_| Component::ParentDir);
    up.chain(to.components().skip(common)).collect()
}

/// Exchanges what some names stand for, over and over, on a thread of its own.
#[derive(Debug)]
pub(crate) struct Adversary {
    stop: Arc<AtomicBool>,
    swaps: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Adversary {
    /// Puts a file, a directory with a file, and links to the victim's file and directory into
    /// `dir`, and lets every one of them take every other one's name.
    pub(crate) fn against(victim: &Victim, dir: &Path) -> Self {
        let [file, inner, to_file, to_dir] =
            ["swap-file", "swap-dir", "swap-link", "swap-link-to-dir"].map(|name| dir.join(name));
        fs::write(&file, "").unwrap();
        fs::create_dir(&inner).unwrap();
        fs::write(inner.join("inner"), "").unwrap();
        // Not from `/` on: that could be another mount, on which nobody arrives anyway.
        symlink(relative(dir, victim.file()), &to_file).unwrap();
        symlink(relative(dir, victim.dir()), &to_dir).unwrap();
        let pair = |a: &PathBuf, b: &PathBuf| (a.clone(), b.clone());
        Self::swapping(vec![
            pair(&file, &to_file),
            pair(&inner, &to_dir),
            pair(&file, &inner),
            pair(&to_file, &to_dir),
            pair(&file, &to_dir),
            pair(&inner, &to_file),
        ])
    }

    /// Exchanges the two of each pair, one pair after the other.
    pub(crate) fn swapping(pairs: Vec<(PathBuf, PathBuf)>) -> Self {
        Self::doing(move || {
            // A name may be on its way somewhere else at the moment.
            let swap = |(a, b): &(PathBuf, PathBuf)| {
                renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE).is_ok()
            };
            pairs.iter().map(|pair| u64::from(swap(pair))).sum()
        })
    }

    /// Does something else over and over; `once` returns how often that worked.
    pub(crate) fn doing(mut once: impl FnMut() -> u64 + Send + 'static) -> Self {
        let (stop, swaps) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (told, count) = (Arc::clone(&stop), Arc::clone(&swaps));
        let thread = std::thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                count.fetch_add(once(), Ordering::Relaxed);
            }
        });
        Self { stop, swaps, thread: Some(thread) }
    }

    /// Returns how many exchanges there were.
    pub(crate) fn swaps(&self) -> u64 {
        self.swaps.load(Ordering::Relaxed)
    }
}

impl Drop for Adversary {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !std::thread::panicking()
        {
            panic!("the adversary failed");
        }
    }
}

/// Runs `find DIR -type f -exec chmod 664 {} +` until the victim was changed; returns how many
/// times that took, or `None` if `limit` was not enough.
pub(crate) fn find_exec_chmod_until_harm(
    dir: &Path,
    victim: &Victim,
    limit: Duration,
) -> Option<u32> {
    let end = Instant::now() + limit;
    for times in 1.. {
        let mut find = Command::new("find");
        find.arg(dir).args(["-type", "f", "-exec", "chmod", "664", "{}", "+"]);
        // Names that are gone by then are errors to it, and do not stop it.
        find.output().unwrap();
        if victim.harm().is_some() {
            return Some(times);
        }
        if Instant::now() > end {
            break;
        }
    }
    None
}
