//! The files of records: which there are, and what is in them.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use pctd_core::ids::VolumeName;
use pctd_core::undo::{Block, END_BYTES, FRAME_BYTES, Frame, Header, PassKind};
use rustix::fs::{FlockOperation, flock};

use crate::paths::NodePaths;

/// A pass as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pass {
    /// When it began, in microseconds since 1970; no other pass of the volume has the same.
    pub begun: u64,
    /// What made it.
    pub kind: PassKind,
    /// How many entries it recorded.
    pub entries: u64,
    /// Whether it came to its end.
    pub is_whole: bool,
    /// The size of its file.
    pub bytes: u64,
}

/// Returns the passes of a volume that can be taken back, oldest first.
///
/// # Errors
///
/// They cannot be read.
pub fn passes(paths: &NodePaths, volume: &VolumeName) -> io::Result<Vec<Pass>> {
    let pass = |kept: Kept| -> io::Result<Pass> {
        let (mut entries, mut is_whole) = (0, false);
        let mut frames = Frames::open(&kept.path)?;
        while let Some((_, block)) = frames.next()? {
            match block {
                Block::Header(_) => {}
                Block::Entries(of) => entries += u64::try_from(of.entries.len()).unwrap_or(0),
                Block::End(_) => is_whole = true,
            }
        }
        let Header { begun, kind, .. } = kept.header;
        Ok(Pass { begun, kind, entries, is_whole, bytes: kept.bytes })
    };
    kept(&dir_of(paths, volume))?.into_iter().map(pass).collect()
}

/// Returns the volumes that anything is on record of, whether they are declared or not.
///
/// # Errors
///
/// They cannot be listed.
pub fn volumes(paths: &NodePaths) -> io::Result<BTreeSet<VolumeName>> {
    let listed = match fs::read_dir(paths.state_dir().join("undo")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        listed => listed?,
    };
    let mut volumes = BTreeSet::new();
    for entry in listed {
        let entry = entry?;
        // What has no name of a volume is not pctd's.
        let name = entry.file_name().to_str().and_then(|name| name.parse().ok());
        if let Some(name) = name
            && !kept(&entry.path())?.is_empty()
        {
            volumes.insert(name);
        }
    }
    Ok(volumes)
}

/// Returns where the records of a volume are.
pub(super) fn dir_of(paths: &NodePaths, volume: &VolumeName) -> PathBuf {
    // Names of volumes are plain words, so this is one component.
    paths.state_dir().join("undo").join(volume.to_string())
}

/// A file of records.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) path: PathBuf,
    pub(super) header: Header,
    pub(super) bytes: u64,
}

/// Returns the files in a directory, oldest first. What is no record is not pctd's.
pub(super) fn kept(dir: &Path) -> io::Result<Vec<Kept>> {
    let listed = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        listed => listed?,
    };
    let mut all = Vec::new();
    for entry in listed {
        let path = entry?.path();
        let Some(begun) = begun_of(&path) else { continue };
        let file = match File::open(&path) {
            // Another pass made room meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            file => file?,
        };
        let bytes = file.metadata()?.len();
        if let Some((_, Block::Header(header))) = Frames::of(file).next()?
            && header.begun == begun
        {
            all.push(Kept { path, header, bytes });
        }
    }
    all.sort_by_key(|kept| kept.header.begun);
    Ok(all)
}

/// Returns the file of a pass that began then.
pub(super) fn path_of(dir: &Path, begun: u64) -> PathBuf {
    dir.join(begun.to_string())
}

fn begun_of(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.parse().ok()
}

/// Takes the right to change a file of records; none where somebody writes to it.
pub(super) fn lock(file: &File) -> io::Result<bool> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Returns whether a file ends as that of a whole pass does.
pub(super) fn is_ended(file: &File) -> io::Result<bool> {
    let len = u64::try_from(END_BYTES).unwrap_or(u64::MAX);
    let Some(at) = file.metadata()?.len().checked_sub(len) else { return Ok(false) };
    let mut end = [0; END_BYTES];
    file.read_exact_at(&mut end, at)?;
    Ok(matches!(Block::read(&end[FRAME_BYTES..]), Some(Block::End(_))))
}

/// The frames of a file, up to where it is no longer whole.
#[derive(Debug)]
pub(super) struct Frames<R> {
    from: BufReader<R>,
    at: u64,
}

impl Frames<File> {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self::of(File::open(path)?))
    }

    pub(super) fn of(file: File) -> Self {
        Self { from: BufReader::with_capacity(64 * 1024, file), at: 0 }
    }

    /// As [`Frames::open`], for single frames here and there: most are of a few hundred bytes.
    pub(super) fn open_at_random(path: &Path) -> io::Result<Self> {
        Ok(Self { from: BufReader::with_capacity(2 * 1024, File::open(path)?), at: 0 })
    }

    /// Reads the frame at this place next.
    pub(super) fn go_to(&mut self, at: u64) -> io::Result<()> {
        self.from.seek(SeekFrom::Start(at))?;
        self.at = at;
        Ok(())
    }
}

impl<R: Read> Frames<R> {
    /// Reads the next frame; returns where it began.
    pub(super) fn next(&mut self) -> io::Result<Option<(u64, Block)>> {
        let mut head = [0; FRAME_BYTES];
        if !fill(&mut self.from, &mut head)? {
            return Ok(None);
        }
        let Some(Frame { len }) = Frame::read(head) else { return Ok(None) };
        let mut rest = vec![0; len];
        if !fill(&mut self.from, &mut rest)? {
            return Ok(None);
        }
        let Some(block) = Block::read(&rest) else { return Ok(None) };
        let at = self.at;
        self.at += u64::try_from(FRAME_BYTES + len).unwrap_or(u64::MAX);
        Ok(Some((at, block)))
    }

    /// Returns where the last frame that was read ended.
    pub(super) const fn end(&self) -> u64 {
        self.at
    }
}

/// Reads so many bytes; returns whether there were so many.
fn fill(from: &mut impl Read, bytes: &mut [u8]) -> io::Result<bool> {
    match from.read_exact(bytes) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        result => result.map(|()| true),
    }
}
