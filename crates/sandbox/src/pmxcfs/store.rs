//! What outlives the process that serves `/etc/pve`: plain files below `/var/lib/pve-cluster`,
//! where `pmxcfs` has its database.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::rules::{Cfs, Change};
use crate::file;

/// The directory with the files.
#[derive(Debug)]
pub(super) struct Store {
    dir: PathBuf,
}

impl Store {
    pub(super) const fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Puts everything that is stored into an empty `/etc/pve`.
    pub(super) fn load(&self, cfs: &mut Cfs) -> io::Result<()> {
        let mut dirs = vec![PathBuf::new()];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(self.dir.join(&dir))? {
                let entry = entry?;
                // The half of a file whose writer was killed.
                if entry.file_name().as_encoded_bytes().starts_with(b".") {
                    continue;
                }
                let path = dir.join(entry.file_name());
                let meta = entry.metadata()?;
                let mtime = u64::try_from(meta.mtime()).unwrap_or_default();
                if meta.is_dir() {
                    cfs.load(&path, None, mtime);
                    dirs.push(path);
                } else {
                    cfs.load(&path, Some(fs::read(entry.path())?), mtime);
                }
            }
        }
        Ok(())
    }

    /// Stores what has changed.
    pub(super) fn save(&self, cfs: &mut Cfs) -> io::Result<()> {
        for change in cfs.take_changes() {
            match change {
                Change::Content(path) => {
                    // What was removed meanwhile has a change of its own.
                    if let Some(content) = cfs.content(&path) {
                        file::replace(&self.dir.join(path), content)?;
                    }
                }
                Change::Dir(path) => fs::create_dir(self.dir.join(path))?,
                Change::Removed(path) => remove(&self.dir.join(path))?,
                Change::Renamed(from, to) => {
                    fs::rename(self.dir.join(from), self.dir.join(to))?;
                }
            }
        }
        Ok(())
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::IsADirectory => fs::remove_dir(path),
        other => other,
    }
}
