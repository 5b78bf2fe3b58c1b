//! Whether LXC can mount a directory of the host by a raw line: a container does not start where one
//! of its lines cannot be mounted.
//!
//! LXC does so from within the container's user namespace, in which the mounts of the host are
//! locked together (`mount_namespaces(7)`): a bind mount that leaves out what is mounted below is
//! refused, and one that is to be mapped is mapped whole.

use std::os::fd::{AsFd, AsRawFd as _};
use std::os::unix::ffi::OsStrExt as _;

use bstr::ByteSlice as _;
use pctd_core::conf::MountLine;
use pctd_core::observed::BadSource;
use rustix::fs::{CWD, Mode, OFlags, openat};

use crate::mapping;
use crate::mounts::MountTable;
use crate::paths::NodePaths;
use crate::stat::Stat;

/// Returns the first mount below an open directory that is at `path` on the node.
pub(crate) fn nested(dir: impl AsFd, path: &str) -> Option<String> {
    let stat = Stat::of(&dir).ok()?;
    let at = format!("/proc/self/fd/{}", dir.as_fd().as_raw_fd());
    let at = std::fs::read_link(at).ok()?;
    let table = MountTable::read().ok()?;
    let rest = table.first_below(stat.mount, at.as_os_str().as_bytes())?;
    Some(format!("{}/{}", path.trim_end_matches('/'), rest.to_str_lossy()))
}

/// Returns why a container would not start with a line whose source is on the host.
pub(crate) fn fault(
    paths: &NodePaths,
    line: &MountLine,
    is_unprivileged: bool,
) -> Option<BadSource> {
    let path = line.source.to_string();
    // LXC mounts files as well, and follows links.
    let Ok(at) = openat(CWD, paths.host(&path), OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
    else {
        return line.needs_source().then_some(BadSource::Missing(path));
    };
    let left_out = is_unprivileged && !line.is_recursive();
    if let Some(below) = left_out.then(|| nested(&at, &path)).flatten() {
        return Some(BadSource::Nested { path, below });
    }
    let why = line.is_mapped().then(|| mapping::refusal(at.as_fd(), line.is_recursive())).flatten();
    why.map(|why| BadSource::Unmappable { path, why })
}
