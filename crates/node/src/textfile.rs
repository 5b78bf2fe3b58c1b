//! A small file for other programs to read, replaced whole: they see the old one or the new one.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, fchmod, openat, renameat, unlinkat};
use rustix::io::Errno;

/// Anybody may read it.
const MODE: u32 = 0o644;

/// Replaces the file at `path`. What is written first has another name in the same directory, which
/// is made anew and never followed: the directory may be another program's.
///
/// # Errors
///
/// What the kernel says; the old file stays then.
pub fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = openat(CWD, directory, flags, Mode::empty())?;
    let mut new = std::ffi::OsString::from(".");
    new.push(name);
    new.push(".new");
    match unlinkat(&dir, &new, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno.into()),
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(openat(&dir, &new, flags, Mode::from_raw_mode(MODE))?);
    let written = fchmod(&file, Mode::from_raw_mode(MODE))
        .map_err(io::Error::from)
        .and_then(|()| file.write_all(text))
        .and_then(|()| Ok(renameat(&dir, &new, &dir, name)?));
    if written.is_err() {
        // Not to be left behind half-written; that it cannot be removed either changes nothing.
        let _left = unlinkat(&dir, &new, AtFlags::empty());
    }
    written
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, symlink};

    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_no_link_is_written_through() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("a.prom"), dir.path().join("other"));
        fs::write(&other, "other").unwrap();
        symlink(&other, &path).unwrap();
        symlink(&other, dir.path().join(".a.prom.new")).unwrap();
        for text in ["one\n", "two\n"] {
            replace(&path, text.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
            let stat = fs::symlink_metadata(&path).unwrap();
            assert!(stat.is_file() && stat.mode() & 0o7777 == 0o644);
        }
        assert_eq!(fs::read_to_string(&other).unwrap(), "other");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "nothing is left behind");
        assert!(replace(&dir.path().join("no/a.prom"), b"").is_err());
    }
}
