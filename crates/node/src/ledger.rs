//! The ledger on disk.
//!
//! The file is replaced whole, on disk before the old one is gone. One that cannot be read is
//! never written over: it is set aside at the first write, and as long as it lies there the ledger
//! counts as lost, also after a restart: what is not in it may only have been forgotten.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pctd_core::ledger::{LEDGER_VERSION, Ledger, LedgerEntry, Memory};

use crate::paths::NodePaths;

/// The ledger names host paths and who owns what; only root needs to read it.
const FILE_MODE: u32 = 0o600;
/// As the package makes the directories.
const DIR_MODE: u32 = 0o755;

/// The ledger was not written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}", path.display())]
pub struct LedgerError {
    /// The file.
    pub path: PathBuf,
    /// What went wrong.
    pub source: io::Error,
}

/// The ledger and its file.
#[derive(Debug)]
pub struct LedgerStore {
    path: PathBuf,
    ledger: Arc<Ledger>,
    memory: Memory,
    /// The file there cannot be read and is to be kept.
    set_aside: bool,
}

impl LedgerStore {
    /// Reads the ledger; a missing one is empty.
    pub fn load(paths: &NodePaths) -> Self {
        let path = paths.ledger();
        let (ledger, problem) = match read(&path) {
            Ok(ledger) => (ledger, None),
            Err(reason) => (Ledger::default(), Some(format!("{}: {reason}", path.display()))),
        };
        let set_aside = problem.is_some();
        let earlier = || {
            let bad = numbered(&path).take_while(|bad| bad.exists()).last()?;
            Some(format!("{} was set aside; remove it when it is of no use", bad.display()))
        };
        let memory = problem.or_else(earlier).map_or(Memory::Whole, Memory::Lost);
        Self { path, ledger: Arc::new(ledger), memory, set_aside }
    }

    /// Returns what is remembered.
    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    /// Returns whether that is everything.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Makes changes and writes them; returns whether there was anything to write.
    ///
    /// # Errors
    ///
    /// [`LedgerError`]; the changes are not kept in memory either, so that they are made again.
    pub fn enter(
        &mut self,
        entries: impl IntoIterator<Item = LedgerEntry>,
    ) -> Result<bool, LedgerError> {
        let mut next = Ledger::clone(&self.ledger);
        let mut changed = false;
        for entry in entries {
            changed |= next.enter(entry);
        }
        if changed {
            self.write(&next).map_err(|source| LedgerError { path: self.path.clone(), source })?;
            self.ledger = Arc::new(next);
        }
        Ok(changed)
    }

    fn write(&mut self, ledger: &Ledger) -> io::Result<()> {
        let dir = self.path.parent().ok_or(io::ErrorKind::InvalidFilename)?;
        make_dir(dir)?;
        if self.set_aside {
            let free = numbered(&self.path).find(|bad| bad.symlink_metadata().is_err());
            fs::rename(&self.path, free.ok_or(io::ErrorKind::AlreadyExists)?)?;
            self.set_aside = false;
        }
        let mut text = serde_json::to_vec_pretty(ledger)?;
        text.push(b'\n');
        let tmp = self.path.with_extension("json.tmp");
        // Left over from a crash, or made by somebody else: never written through.
        match fs::remove_file(&tmp) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut options = File::options();
        let mut file = options.write(true).create_new(true).mode(FILE_MODE).open(&tmp)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&tmp, &self.path)?;
        File::open(dir)?.sync_all()
    }
}

fn read(path: &Path) -> Result<Ledger, String> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Ledger::default()),
        Err(error) => return Err(error.to_string()),
    };
    let ledger: Ledger = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
    if ledger.version == LEDGER_VERSION {
        Ok(ledger)
    } else {
        Err(format!("has version {}, this is version {LEDGER_VERSION}", ledger.version))
    }
}

/// Returns the names a bad ledger is set aside under.
fn numbered(path: &Path) -> impl Iterator<Item = PathBuf> {
    let path = path.to_owned();
    (1..=u16::MAX).map(move |n| path.with_extension(format!("json.bad-{n}")))
}

pub(crate) fn make_dir(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(DIR_MODE).create(dir)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use pctd_core::ids::Ctid;

    use super::*;

    fn node() -> (tempfile::TempDir, NodePaths) {
        let dir = tempfile::tempdir().unwrap();
        let paths = NodePaths::new(Some(dir.path().into())).unwrap();
        (dir, paths)
    }

    fn seen(id: u32) -> [LedgerEntry; 1] {
        [LedgerEntry::Seen(Ctid::new(id).unwrap())]
    }

    #[test]
    fn what_was_entered_is_there_after_a_restart() {
        let (_dir, paths) = node();
        let mut store = LedgerStore::load(&paths);
        assert_eq!((&**store.ledger(), store.memory()), (&Ledger::default(), &Memory::Whole));
        assert!(!paths.ledger().exists());
        assert!(store.enter(seen(100)).unwrap());
        let again = LedgerStore::load(&paths);
        assert_eq!((again.ledger(), again.memory()), (store.ledger(), &Memory::Whole));
        let mode = fs::metadata(paths.ledger()).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, FILE_MODE);
    }

    #[test]
    fn nothing_new_writes_nothing() {
        let (_dir, paths) = node();
        let mut store = LedgerStore::load(&paths);
        store.enter(seen(100)).unwrap();
        let inode = || fs::metadata(paths.ledger()).unwrap().ino();
        let before = inode();
        assert!(!store.enter(seen(100)).unwrap());
        assert_eq!(inode(), before);
        assert!(store.enter(seen(101)).unwrap());
        assert_ne!(inode(), before);
    }

    #[test]
    fn a_ledger_that_cannot_be_read_is_kept_and_stays_lost() {
        for bad in ["", "{", r#"{"version":2}"#, r#"{"version":1,"new":{}}"#, "\0\0"] {
            let (_dir, paths) = node();
            fs::create_dir_all(paths.state_dir()).unwrap();
            fs::write(paths.ledger(), bad).unwrap();
            let mut store = LedgerStore::load(&paths);
            assert!(matches!(store.memory(), Memory::Lost(_)), "{bad}");
            assert_eq!(fs::read_to_string(paths.ledger()).unwrap(), bad, "only read so far");
            store.enter(seen(100)).unwrap();
            let aside = paths.state_dir().join("ledger.json.bad-1");
            assert_eq!(fs::read_to_string(&aside).unwrap(), bad);
            let again = LedgerStore::load(&paths);
            assert_eq!(again.ledger(), store.ledger());
            assert!(matches!(again.memory(), Memory::Lost(_)), "{bad}");
            fs::remove_file(aside).unwrap();
            assert_eq!(LedgerStore::load(&paths).memory(), &Memory::Whole);
        }
    }

    #[test]
    fn a_second_bad_ledger_does_not_replace_the_first() {
        let (_dir, paths) = node();
        fs::create_dir_all(paths.state_dir()).unwrap();
        for bad in ["first", "second"] {
            fs::write(paths.ledger(), bad).unwrap();
            LedgerStore::load(&paths).enter(seen(100)).unwrap();
        }
        for (n, bad) in [(1, "first"), (2, "second")] {
            let aside = paths.state_dir().join(format!("ledger.json.bad-{n}"));
            assert_eq!(fs::read_to_string(aside).unwrap(), bad);
        }
    }

    /// A crash leaves the old file, whatever of the new one was written.
    #[test]
    fn a_half_written_successor_is_ignored_and_replaced() {
        let (_dir, paths) = node();
        let mut store = LedgerStore::load(&paths);
        store.enter(seen(100)).unwrap();
        let tmp = paths.state_dir().join("ledger.json.tmp");
        fs::write(&tmp, r#"{"version":1,"se"#).unwrap();
        let mut again = LedgerStore::load(&paths);
        assert_eq!((again.ledger(), again.memory()), (store.ledger(), &Memory::Whole));
        again.enter(seen(101)).unwrap();
        assert!(!tmp.exists());
        assert_eq!(LedgerStore::load(&paths).ledger(), again.ledger());
    }

    #[test]
    fn a_write_that_fails_is_not_remembered() {
        let (dir, paths) = node();
        let mut store = LedgerStore::load(&paths);
        fs::create_dir_all(dir.path().join("var/lib")).unwrap();
        fs::write(paths.state_dir(), "in the way").unwrap();
        assert!(store.enter(seen(100)).is_err());
        assert_eq!(**store.ledger(), Ledger::default());
        fs::remove_file(paths.state_dir()).unwrap();
        assert!(store.enter(seen(100)).unwrap());
    }
}
