//! Whether ids can be mapped for single mounts here: by Proxmox, and by the file system of a volume.
//!
//! All of it is found out before anything is written: a container whose mount cannot be mapped does
//! not start. Nothing is tried on a mount that anybody sees.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bstr::ByteSlice as _;
use pctd_core::mount_map::is_known_to;
use pctd_core::observed::{FileSystem, MappingFacts, MappingSupport};
use pctd_sys::idmapped;
use rustix::io::Errno;

use crate::paths::NodePaths;

/// What a mount is tried with: ids that exist in every kernel, of whoever they are.
const TRIAL_MAP: &str = "0 100000 65536\n";

/// What is known already.
#[derive(Debug, Default)]
pub(crate) struct Mapping {
    /// By the name of a file system. Its driver does not change while this process runs.
    file_systems: Mutex<BTreeMap<String, MappingSupport>>,
    /// What the list of packages said, and the file that was read: it has megabytes.
    proxmox: Mutex<Option<(Stamp, MappingSupport)>>,
}

/// Inode, size and time of the last change: a package manager writes a new file each time.
type Stamp = (u64, u64, i64, i64);

impl Mapping {
    /// Returns what is known of the node.
    pub(crate) fn facts(&self, paths: &NodePaths) -> MappingFacts {
        MappingFacts { proxmox: self.proxmox(paths) }
    }

    fn proxmox(&self, paths: &NodePaths) -> MappingSupport {
        let list = paths.host("/var/lib/dpkg/status");
        let stamp = std::fs::metadata(&list).map_or((0, 0, 0, 0), |meta| {
            (meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec())
        });
        let mut known = lock(&self.proxmox);
        match &*known {
            Some((then, support)) if *then == stamp => support.clone(),
            _ => {
                let support = installed(&list);
                *known = Some((stamp, support.clone()));
                support
            }
        }
    }

    /// Returns whether a directory can be mounted with mapped ids.
    pub(crate) fn of(&self, dir: BorrowedFd<'_>, on: &FileSystem) -> MappingSupport {
        if let Some(known) = lock(&self.file_systems).get(&on.id) {
            return known.clone();
        }
        let support = match try_on(dir) {
            Ok(()) => MappingSupport::Yes,
            Err(error) => {
                let support = MappingSupport::No(error.to_string());
                let is_final = matches!(
                    Errno::from_io_error(&error),
                    Some(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP)
                );
                if !is_final {
                    // A lack of something else, such as of fds, may pass.
                    return support;
                }
                support
            }
        };
        lock(&self.file_systems).insert(on.id.clone(), support.clone());
        support
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is kept is replaced whole, so a panic elsewhere leaves nothing half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Maps the ids of a mount that is never attached.
fn try_on(dir: BorrowedFd<'_>) -> io::Result<()> {
    let mount = idmapped::detached_clone(dir)?;
    let namespace = idmapped::user_namespace(TRIAL_MAP, TRIAL_MAP)?;
    Ok(idmapped::map_ids(mount, namespace)?)
}

/// Reads from dpkg's list (deb-status(5)) whether the installed Proxmox knows maps of mounts.
fn installed(list: &Path) -> MappingSupport {
    let text = match std::fs::read(list) {
        Ok(text) => text,
        Err(error) => return MappingSupport::No(format!("{}: {error}", list.display())),
    };
    match version(&text) {
        None => MappingSupport::No(format!("no pve-container in {}", list.display())),
        Some(version) => match is_known_to(&version) {
            Some(true) => MappingSupport::Yes,
            Some(false) => MappingSupport::No(format!("pve-container is {version}")),
            None => MappingSupport::No(format!("pve-container is of no known version: {version}")),
        },
    }
}

/// Returns the version of pve-container that is installed.
fn version(status: &[u8]) -> Option<String> {
    let mut stanzas = status.split_str("\n\n");
    let is_it = |stanza: &&[u8]| stanza.lines().any(|line| line == b"Package: pve-container");
    let fields = stanzas.find(is_it)?;
    let field = |name: &[u8]| fields.lines().find_map(|line| line.strip_prefix(name));
    // Removed packages with conf files stay in the list.
    field(b"Status: ").filter(|status| status.ends_with(b" installed"))?;
    field(b"Version: ").map(|version| version.trim_ascii().to_str_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &[u8] = b"Package: pve-cluster\nStatus: install ok installed\nVersion: 9.1.6\n\n\
Package: pve-container\nStatus: install ok installed\nPriority: optional\nVersion: 6.1.10\nDescription: x\n Version: 1\n\n\
Package: zlib1g\nStatus: install ok installed\nVersion: 1\n";

    #[test]
    fn the_installed_version_is_found_among_the_packages() {
        assert_eq!(version(STATUS).as_deref(), Some("6.1.10"));
        let removed =
            STATUS.replace("install ok installed\nPriority", "deinstall ok config-files\nPriority");
        assert_eq!(version(&removed), None);
        assert_eq!(version(b""), None);
    }
}
