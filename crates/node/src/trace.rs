//! The trace of a walk: every directory of a volume, and when it last changed.
//!
//! A directory changes (its ctime does) when an entry is made in it, moved or removed, and nobody
//! can set that time. So after a restart, directories that are as the last complete walk left
//! them hold no entry that walk did not see: a look at each directory, and not at each entry.
//! Owners and modes of entries may have changed all the same; only a walk tells.
//!
//! Directories are named by file handle, so none is searched for. One file per volume below
//! `/var/lib/pctd/directories`: 40 bytes that say what the walk was of, then for each directory
//! its time (12 bytes), the length of its handle (1) and the handle.

use std::fs::{self, DirBuilder, File};
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use pctd_core::conf::Digest;
use pctd_core::ids::VolumeName;
use pctd_core::ledger::VolumeRecord;
use pctd_sys::handle::FileHandle;
use rustix::fs::{AtFlags, CWD, OFlags, linkat, openat};
use rustix::path::DecInt;

use crate::paths::NodePaths;

/// The length of what the walk was of: a SHA-1 in hex.
const TAG_LEN: usize = 40;
/// Only root need know what there is on the node.
const FILE_MODE: u32 = 0o600;
const DIR_MODE: u32 = 0o700;

/// When a directory last changed: seconds and nanoseconds, as `stx_ctime`.
pub(crate) type Changed = (i64, u32);

/// A trace that is being written, to a file without a name: without [`Trace::keep`] nothing is left
/// of it, however the process ends.
#[derive(Debug)]
pub struct Trace {
    /// `None` once something could not be written: half a trace would be a lie.
    file: Mutex<Option<BufWriter<File>>>,
    path: PathBuf,
}

impl Trace {
    /// Begins the trace of a walk of a volume.
    ///
    /// # Errors
    ///
    /// Its file cannot be made.
    pub fn begin(paths: &NodePaths, volume: &VolumeName) -> io::Result<Self> {
        let path = path_of(paths, volume);
        let dir = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
        DirBuilder::new().recursive(true).mode(DIR_MODE).create(dir)?;
        let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
        let mut file = BufWriter::new(File::from(openat(CWD, dir, flags, FILE_MODE.into())?));
        file.write_all(&[0; TAG_LEN])?;
        Ok(Self { file: Mutex::new(Some(file)), path })
    }

    /// Notes a directory with what its stat said before any entry of it was read.
    pub(crate) fn note(&self, dir: impl AsFd, changed: Changed) {
        let handle = FileHandle::of(dir);
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let written = match (&mut *file, handle) {
            (Some(file), Ok(handle)) => write_one(file, &handle, changed).is_ok(),
            _ => false,
        };
        if !written {
            *file = None;
        }
    }

    /// Puts it in the place of the last one: the walk came to its end and found everything to be
    /// as this record says.
    ///
    /// # Errors
    ///
    /// It could not be written; the last one stays.
    pub fn keep(&self, record: &VolumeRecord) -> io::Result<()> {
        let file = self.file.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut file = file.ok_or_else(|| io::Error::other("it was not written whole"))?;
        file.seek(SeekFrom::Start(0))?;
        file.write_all(tag(record).as_bytes())?;
        // Not synced: after a power failure an old one, or none, costs a walk.
        let file = file.into_inner()?;
        let new = self.path.with_added_extension("new");
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let own = format!("/proc/self/fd/{}", DecInt::from_fd(&file).as_str());
        linkat(CWD, own, CWD, &new, AtFlags::SYMLINK_FOLLOW)?;
        fs::rename(&new, &self.path)
    }
}

/// Reads the trace of the last complete walk of a volume, if that was of this record.
pub(crate) fn read(
    paths: &NodePaths,
    volume: &VolumeName,
    record: &VolumeRecord,
) -> Option<impl Iterator<Item = io::Result<(FileHandle, Changed)>>> {
    let mut file = BufReader::new(File::open(path_of(paths, volume)).ok()?);
    let mut found = [0; TAG_LEN];
    file.read_exact(&mut found).ok()?;
    (found == tag(record).as_bytes())
        .then(|| std::iter::from_fn(move || read_one(&mut file).transpose()))
}

/// Returns where traces are kept.
pub(crate) fn dir(paths: &NodePaths) -> PathBuf {
    paths.state_dir().join("directories")
}

fn path_of(paths: &NodePaths, volume: &VolumeName) -> PathBuf {
    // Names of volumes are plain words, so this is one component.
    dir(paths).join(volume.to_string())
}

/// Returns what a walk was of: a declaration, an owner and a file system.
fn tag(record: &VolumeRecord) -> String {
    let owner = record.owner.map_or_else(|| "keep".to_owned(), |ids| ids.to_string());
    let text = format!("{}\n{owner}\n{}\n", record.declaration, record.file_system);
    Digest::of(text.as_bytes()).to_string()
}

fn write_one(file: &mut impl Write, handle: &FileHandle, changed: Changed) -> io::Result<()> {
    let bytes = handle.as_bytes();
    let len = u8::try_from(bytes.len()).map_err(io::Error::other)?;
    file.write_all(&changed.0.to_le_bytes())?;
    file.write_all(&changed.1.to_le_bytes())?;
    file.write_all(&[len])?;
    file.write_all(bytes)
}

fn read_one(file: &mut impl Read) -> io::Result<Option<(FileHandle, Changed)>> {
    let mut seconds = [0; 8];
    match file.read(&mut seconds[..1])? {
        0 => return Ok(None),
        _ => file.read_exact(&mut seconds[1..])?,
    }
    let (mut nanos, mut len) = ([0; 4], [0; 1]);
    file.read_exact(&mut nanos)?;
    file.read_exact(&mut len)?;
    let mut handle = vec![0; usize::from(len[0])];
    file.read_exact(&mut handle)?;
    let changed = (i64::from_le_bytes(seconds), u32::from_le_bytes(nanos));
    Ok(Some((FileHandle::from_bytes(&handle), changed)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::kept;

    fn record(declaration: &str) -> VolumeRecord {
        let file_system = "tmpfs:/".to_owned();
        VolumeRecord {
            declaration: declaration.to_owned(),
            owner: None,
            file_system,
            assumed: false,
            maps: String::new(),
        }
    }

    fn all(paths: &NodePaths, record: &VolumeRecord) -> Option<Vec<(FileHandle, Changed)>> {
        read(paths, &"data".parse().unwrap(), record)?.collect::<io::Result<_>>().ok()
    }

    #[test]
    fn what_was_kept_is_read_again_and_only_for_what_it_was_of() {
        let dir = tempfile::tempdir().unwrap();
        let paths = NodePaths::new(Some(dir.path().into())).unwrap();
        let volume: VolumeName = "data".parse().unwrap();
        let noted: Vec<_> = [("a", (1, 2)), ("b", (-3, 999_999_999))]
            .map(|(name, changed)| {
                let path = dir.path().join(name);
                fs::create_dir(&path).unwrap();
                (File::open(path).unwrap(), changed)
            })
            .into();
        let begin = || Trace::begin(&paths, &volume).unwrap();
        let write = |trace: &Trace| noted.iter().for_each(|(fd, at)| trace.note(fd, *at));
        assert_eq!(all(&paths, &record("one")), None);
        let trace = begin();
        write(&trace);
        trace.keep(&record("one")).unwrap();
        drop(trace);
        let expected: Vec<_> =
            noted.iter().map(|(fd, at)| (FileHandle::of(fd).unwrap(), *at)).collect();
        assert_eq!(all(&paths, &record("one")), Some(expected.clone()));
        assert_eq!(all(&paths, &record("two")), None);
        // One that is not kept leaves the last one alone, and nothing of itself.
        let other = begin();
        other.note(&noted[0].0, (7, 7));
        drop(other);
        assert_eq!(all(&paths, &record("one")), Some(expected));
        let left: Vec<_> = fs::read_dir(paths.state_dir().join("directories")).unwrap().collect();
        assert_eq!(left.len(), 1);
        kept::forget_others(&paths, &BTreeSet::from([volume.clone()]));
        assert!(all(&paths, &record("one")).is_some());
        kept::forget_others(&paths, &BTreeSet::new());
        assert_eq!(all(&paths, &record("one")), None);
    }

    #[test]
    fn one_that_was_cut_short_is_an_error_and_no_shorter_trace() {
        let mut bytes = Vec::new();
        let handle = FileHandle::from_bytes(b"12345678");
        write_one(&mut bytes, &handle, (5, 6)).unwrap();
        for len in 1..bytes.len() {
            assert!(read_one(&mut &bytes[..len]).is_err(), "{len}");
        }
        assert_eq!(read_one(&mut &bytes[..]).unwrap(), Some((handle, (5, 6))));
        assert!(read_one(&mut &bytes[..0]).unwrap().is_none());
    }
}
