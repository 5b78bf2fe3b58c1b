//! The least a full look at a tree can cost: names with `getdents64`, one `statx` for each.
//!
//! It decides nothing, counts nothing else, closes nothing early and trusts everything; whoever
//! looks at every entry cannot do with less. The same loop makes and checks the trees.

use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;
use std::process::ExitCode;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RawDir, StatxFlags, openat, statx};
use rustix::io::Errno;

/// What glibc's `readdir` takes.
const BUFFER: usize = 32 * 1024;

pub(crate) fn main(dir: &Path, names_only: bool) -> ExitCode {
    let mut entries: u64 = 1;
    let walked = if names_only {
        each(dir, |_, _, _| {
            entries += 1;
            Ok(())
        })
    } else {
        each(dir, |dir, name, _| {
            entries += 1;
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            statx(dir, name, flags, StatxFlags::BASIC_STATS).map(|stat| {
                std::hint::black_box(&stat);
            })
        })
    };
    match walked {
        Ok(()) => {
            println!("{entries} 0 0");
            ExitCode::SUCCESS
        }
        Err(errno) => {
            eprintln!("{}: {errno}", dir.display());
            ExitCode::FAILURE
        }
    }
}

/// Calls `look` for everything below `root`, directories before what is in them.
pub(crate) fn each(
    root: &Path,
    mut look: impl FnMut(BorrowedFd<'_>, &CStr, FileType) -> Result<(), Errno>,
) -> Result<(), Errno> {
    let mut buffer = vec![MaybeUninit::uninit(); BUFFER];
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = openat(CWD, root, flags | OFlags::NOATIME, Mode::empty())?;
    below(root.as_fd(), &mut buffer, &mut look)
}

fn below(
    dir: BorrowedFd<'_>,
    buffer: &mut [MaybeUninit<u8>],
    look: &mut impl FnMut(BorrowedFd<'_>, &CStr, FileType) -> Result<(), Errno>,
) -> Result<(), Errno> {
    let mut directories: Vec<CString> = Vec::new();
    let mut names = RawDir::new(dir, buffer);
    while let Some(entry) = names.next() {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let kind = entry.file_type();
        look(dir, name, kind)?;
        if kind == FileType::Directory {
            directories.push(name.to_owned());
        }
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    for name in directories {
        let dir = openat(dir, name, flags | OFlags::NOATIME, Mode::empty())?;
        below(dir.as_fd(), buffer, look)?;
    }
    Ok(())
}
