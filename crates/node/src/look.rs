//! One entry by its path, looked at so that it can be explained; nothing is opened for reading.
//!
//! Reached component by component without following a link, as everything is here, but judged by
//! nobody: what is only looked at may be anybody's.

use std::ffi::CString;

use pctd_core::acl::Acl;
use pctd_core::observed::{FoundEntry, ObservedEntry};
use pctd_core::ownership::EntryKind;
use rustix::io::Errno;

use crate::acl::{ACCESS, DEFAULT};
use crate::paths::NodePaths;
use crate::reach::is_autofs;
use crate::stat::{Stat, open_path};
use crate::walk::entry::ProcFds;

/// Looks at what is `below` a directory of the node, `source`; nothing is below: at that itself.
pub(crate) fn at(paths: &NodePaths, source: &str, below: &str) -> ObservedEntry {
    let mut at = String::new();
    match follow(paths, source, below, &mut at) {
        Ok(found) => found,
        Err(Errno::NOENT) => ObservedEntry::Missing { at },
        Err(Errno::NOTDIR) => {
            ObservedEntry::Unreadable(format!("{at} is below what is no directory"))
        }
        Err(errno) => ObservedEntry::Unreadable(format!("{at}: {errno}")),
    }
}

fn follow(
    paths: &NodePaths,
    source: &str,
    below: &str,
    at: &mut String,
) -> Result<ObservedEntry, Errno> {
    let names = |path: &str| -> Vec<String> {
        path.split('/').filter(|name| !name.is_empty()).map(str::to_owned).collect()
    };
    let (above, below) = (names(source), names(below));
    let mut fd = open_path(paths.root(), c".")?;
    let mut stat = Stat::of(&fd)?;
    let (mut source_mount, mut below_mount) = (stat.mount, None);
    for (index, name) in above.iter().chain(&below).enumerate() {
        if stat.entry.kind == EntryKind::Symlink {
            return Ok(ObservedEntry::Link { at: at.clone() });
        }
        at.push('/');
        at.push_str(name);
        fd = open_path(&fd, &CString::new(name.as_str()).map_err(|_| Errno::INVAL)?)?;
        let mount = stat.mount;
        stat = Stat::of(&fd)?;
        if stat.mount != mount && is_autofs(stat.mount) {
            return Ok(ObservedEntry::Unreadable(format!(
                "{at} is an automount point that is not mounted"
            )));
        }
        if index < above.len() {
            source_mount = stat.mount;
        } else if stat.mount != source_mount && below_mount.is_none() {
            below_mount = Some(at.clone());
        }
    }
    let acl = |attribute, is_possible: bool| {
        if is_possible { ProcFds::open()?.acl(&fd, attribute) } else { Ok(Acl::none()) }
    };
    let is_dir = stat.is_dir();
    let default_acl = acl(DEFAULT, is_dir)?;
    let acl = acl(ACCESS, is_dir || stat.entry.kind == EntryKind::File)?;
    Ok(ObservedEntry::Found(FoundEntry { stat: stat.entry, acl, default_acl, below_mount }))
}
