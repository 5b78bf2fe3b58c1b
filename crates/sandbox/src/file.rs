//! Small files that several processes write: whole or not at all, one writer at a time.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use rustix::fs::FlockOperation;

/// Replaces a file in one step, without ever showing a half of it.
pub(crate) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let dir = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    fs::create_dir_all(dir)?;
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy();
    let tmp = dir.join(format!(".{name}.{}.{:?}", std::process::id(), std::thread::current().id()));
    let written = File::create(&tmp).and_then(|mut file| file.write_all(content));
    let result = written.and_then(|()| fs::rename(&tmp, path));
    if result.is_err() {
        // The error to report is the first one; a temporary file that stays harms nobody.
        let _ = fs::remove_file(&tmp);
    }
    result
}

/// Holds a lock of the sandbox's own (never one of Proxmox's) while a file is read and replaced.
pub(crate) fn exclusive(path: &Path) -> io::Result<File> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    let file = OpenOptions::new().append(true).create(true).open(path)?;
    rustix::io::retry_on_intr(|| rustix::fs::flock(&file, FlockOperation::LockExclusive))?;
    Ok(file)
}

/// Reads a file, or `None` if there is none.
pub(crate) fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
