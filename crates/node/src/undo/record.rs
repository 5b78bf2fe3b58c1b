//! Noting what is about to be changed.
//!
//! The file of a pass is made with its first record: a pass that changes nothing leaves nothing. One
//! that was interrupted is gone on with by the next one of its kind for the same rule, so that both are
//! one for whoever takes them back. All passes of a volume share the room it has; the oldest goes
//! first. Where there is none left, or nothing can be written, nothing is changed either.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use pctd_core::conf::Digest;
use pctd_core::ids::VolumeName;
use pctd_core::undo::{Block, Directory, Entries, Entry, Header, Identity, PassKind};
use pctd_sys::handle::FileHandle;
use rustix::io::Errno;

use super::store::{self, Frames, Kept};
use crate::paths::NodePaths;
use crate::source::OpenVolume;
use crate::stat::Stat;

/// Only root need know who owned what.
const FILE_MODE: u32 = 0o600;
const DIR_MODE: u32 = 0o700;
/// More passes than these are not kept; a few a day would be many.
const MOST_PASSES: usize = 256;
/// After so many bytes it is looked again how much room there is.
const STRIDE: u64 = 1 << 20;
/// What the watch put right is kept in files of this share of the room, so that the oldest can go.
const DRIFT_SHARE: u64 = 8;

/// Why something was not recorded.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The directory it is in has no handle.
    #[error("a directory cannot be noted: {0}")]
    Directory(Errno),
    /// The file cannot be written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file, or the directory it is to be in.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// This pass alone needs more than there is.
    #[error("it takes more than the {} MiB of `undo_mb`", limit >> 20)]
    Full {
        /// How many bytes there may be.
        limit: u64,
    },
}

/// Notes what one pass is about to change. Any thread of the pass may do so.
pub struct Recorder {
    dir: PathBuf,
    limit: u64,
    state: Mutex<State>,
}

struct State {
    header: Header,
    open: Option<Open>,
    resting: Option<Resting>,
}

/// A file that is not written to for now, and not kept open for that.
struct Resting {
    path: PathBuf,
    len: u64,
    time: u64,
}

/// The file that is written to.
struct Open {
    file: File,
    path: PathBuf,
    len: u64,
    /// When something was last recorded in it.
    time: u64,
    /// Up to this length there is room.
    checked: u64,
}

impl Recorder {
    /// Returns a recorder of a pass over an open volume; `rule` is what it brings entries to, and
    /// `limit` how many bytes all records of the volume may take.
    ///
    /// # Errors
    ///
    /// The root directory cannot be looked at.
    pub fn new(
        paths: &NodePaths,
        volume: &VolumeName,
        open: &OpenVolume,
        (kind, rule): (PassKind, String),
        limit: u64,
    ) -> io::Result<Self> {
        let rule = Digest::of(rule.as_bytes()).to_string();
        let file_system = open.file_system().id.clone();
        let header = Header { kind, begun: 0, rule, file_system, root: identity(open)? };
        let state = Mutex::new(State { header, open: None, resting: None });
        Ok(Self { dir: store::dir_of(paths, volume), limit, state })
    }

    /// Notes entries of one directory; they may be changed once this has returned.
    ///
    /// # Errors
    ///
    /// [`RecordError`]; then they must not be changed.
    pub(crate) fn record(
        &self,
        directory: Directory,
        entries: Vec<Entry>,
    ) -> Result<(), RecordError> {
        let mut state = self.state();
        let State { header, open, resting } = &mut *state;
        let is_full =
            |open: &mut Open| header.kind == PassKind::Drift && open.len > self.limit / DRIFT_SHARE;
        if let Some(full) = open.take_if(is_full) {
            full.close().map_err(|source| RecordError::Io { path: self.dir.clone(), source })?;
        }
        let open = match open {
            Some(open) => open,
            none => none.insert(match resting.take().map(Resting::wake) {
                Some(Ok(Some(awake))) => awake,
                None | Some(Ok(None)) => self.begin(header)?,
                Some(Err(source)) => {
                    return Err(RecordError::Io { path: self.dir.clone(), source });
                }
            }),
        };
        open.time = now().max(open.time + 1);
        let block = Block::Entries(Entries { time: open.time, directory, entries });
        self.append(open, &block)
    }

    /// Keeps nothing open until something is to be noted again: the watch has a pass for each volume,
    /// and most volumes are at rest.
    pub fn rest(&self) {
        let mut state = self.state();
        if let Some(Open { path, len, time, .. }) = state.open.take() {
            state.resting = Some(Resting { path, len, time });
        }
    }

    /// Takes note that the pass came to its end.
    pub fn end(self) {
        if let Some(open) = self.state().open.take() {
            // One that is not known to be whole is only gone on with.
            let _ended = open.close();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic while it was locked ends the pass; what was written is checked when it is read.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the file of the pass: the one it goes on with, or a new one.
    fn begin(&self, header: &mut Header) -> Result<Open, RecordError> {
        let failed = |source| RecordError::Io { path: self.dir.clone(), source };
        let mut kept = store::kept(&self.dir).map_err(failed)?;
        if let Some(open) = go_on(&kept, header).map_err(failed)? {
            return Ok(open);
        }
        while kept.len() >= MOST_PASSES {
            // One that is written to stays, and the next oldest goes.
            remove(&kept.remove(0).path).map_err(failed)?;
        }
        let mut open = create(&self.dir, header).map_err(failed)?;
        let begun = self.append(&mut open, &Block::Header(header.clone()));
        if begun.is_err() {
            // Empty; whoever reads it takes it for none.
            let _removed = fs::remove_file(&open.path);
        }
        begun.map(|()| open)
    }

    fn append(&self, open: &mut Open, block: &Block) -> Result<(), RecordError> {
        let failed = |path: &Path, source| RecordError::Io { path: path.to_owned(), source };
        let too_long = || io::Error::from(io::ErrorKind::InvalidData);
        let frame = block.to_frame().ok_or_else(|| failed(&open.path, too_long()))?;
        let len = u64::try_from(frame.len()).unwrap_or(u64::MAX);
        self.make_room(open, len)?;
        if let Err(error) = open.file.write_all(&frame) {
            // What was written of it is not whole, and what follows has to be.
            let back = open.file.set_len(open.len);
            let _at = back.and_then(|()| open.file.seek(SeekFrom::Start(open.len)));
            return Err(failed(&open.path, error));
        }
        open.len += len;
        Ok(())
    }

    /// Lets the oldest passes go until there is room for so many bytes more.
    fn make_room(&self, open: &mut Open, len: u64) -> Result<(), RecordError> {
        let failed = |source| RecordError::Io { path: self.dir.clone(), source };
        // Others of the volume may grow as well, but not by much.
        if open.len + len <= open.checked {
            return Ok(());
        }
        let mut kept = store::kept(&self.dir).map_err(failed)?;
        kept.retain(|kept| kept.path != open.path);
        loop {
            let others: u64 = kept.iter().map(|kept| kept.bytes).sum();
            let free = self.limit.saturating_sub(others).saturating_sub(open.len);
            if len <= free {
                open.checked = open.len + len + (free - len).min(STRIDE);
                return Ok(());
            }
            if kept.is_empty() {
                return Err(RecordError::Full { limit: self.limit });
            }
            remove(&kept.remove(0).path).map_err(failed)?;
        }
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl Resting {
    /// Opens it again; none where somebody made room of it, took it back or writes to it.
    fn wake(self) -> io::Result<Option<Open>> {
        let Self { path, len, time } = self;
        let mut file = match OpenOptions::new().write(true).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        if !store::lock(&file)? || file.metadata()?.len() != len {
            return Ok(None);
        }
        file.seek(SeekFrom::Start(len))?;
        Ok(Some(Open { file, path, len, time, checked: 0 }))
    }
}

impl Open {
    /// Writes down that the pass came to its end, and sees it on the disk.
    fn close(mut self) -> io::Result<()> {
        let end = Block::End(now().max(self.time + 1)).to_frame();
        self.file.write_all(&end.ok_or(io::ErrorKind::InvalidData)?)?;
        self.file.sync_data()
    }
}

/// Returns the file of the last pass of this kind where it was interrupted, and for the same.
fn go_on(kept: &[Kept], header: &mut Header) -> io::Result<Option<Open>> {
    // What the watch does goes on beside all others, and what they did is not gone on with over others.
    let is_of_kind = |of: PassKind| (of == PassKind::Drift) == (header.kind == PassKind::Drift);
    let last = kept.iter().rev().find(|kept| is_of_kind(kept.header.kind));
    let Some(Kept { path, header: earlier, .. }) = last else { return Ok(None) };
    header.begun = earlier.begun;
    if header != earlier {
        return Ok(None);
    }
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    if !store::lock(&file)? || store::is_ended(&file)? {
        return Ok(None);
    }
    let mut frames = Frames::of(file.try_clone()?);
    let mut time = earlier.begun;
    while let Some((_, block)) = frames.next()? {
        if let Block::Entries(entries) = block {
            time = time.max(entries.time);
        }
    }
    let len = frames.end();
    let mut file = file;
    file.set_len(len)?;
    file.seek(SeekFrom::Start(len))?;
    Ok(Some(Open { file, path: path.clone(), len, time, checked: 0 }))
}

/// Makes the file of a pass that begins now.
fn create(dir: &Path, header: &mut Header) -> io::Result<Open> {
    DirBuilder::new().recursive(true).mode(DIR_MODE).create(dir)?;
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(FILE_MODE);
    let mut begun = now();
    let (file, path) = loop {
        let path = store::path_of(dir, begun);
        match options.open(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => begun += 1,
            file => break (file?, path),
        }
    };
    store::lock(&file)?;
    header.begun = begun;
    Ok(Open { file, path, len: 0, time: begun, checked: 0 })
}

/// Removes a file of records, unless somebody writes to it.
fn remove(path: &Path) -> io::Result<()> {
    if store::lock(&File::open(path)?)? { fs::remove_file(path) } else { Ok(()) }
}

/// Returns what tells the root of a volume from all other directories.
pub(super) fn identity(open: &OpenVolume) -> io::Result<Identity> {
    let stat = Stat::of(open)?;
    let handle = match FileHandle::of(open) {
        Ok(handle) => handle.as_bytes().to_vec(),
        Err(Errno::OPNOTSUPP) => Vec::new(),
        Err(errno) => return Err(errno.into()),
    };
    Ok(Identity { inode: stat.identity.inode, birth: stat.birth, handle })
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
