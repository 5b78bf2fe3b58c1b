//! Which volume a directory lies in, remembered by file handle.
//!
//! This only filters: a file system mark brings the events of everything on it, most of which
//! concerns no volume. Before anything is changed, the way up from the open directory is followed
//! anew ([`super::repair`]), so an answer that has grown old costs a look at most.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use pctd_core::ids::VolumeName;
use pctd_sys::handle::FileHandle;

/// How many directories are remembered at most; a few MiB.
const LIMIT: usize = 16 * 1024;

/// The volumes that a directory lies in; mostly one or none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Location(Arc<[VolumeName]>);

impl Location {
    /// Returns the volumes, each once.
    pub(super) fn iter(&self) -> impl Iterator<Item = &VolumeName> {
        self.0.iter()
    }
}

impl FromIterator<VolumeName> for Location {
    fn from_iter<I: IntoIterator<Item = VolumeName>>(names: I) -> Self {
        let each_once: BTreeSet<VolumeName> = names.into_iter().collect();
        Self(each_once.into_iter().collect())
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Directories {
    /// By file system: handles of different file systems may have equal bytes.
    known: HashMap<u64, HashMap<FileHandle, Location>>,
    len: usize,
}

impl Directories {
    /// Returns what is remembered.
    pub(super) fn get(&self, file_system: u64, directory: &[u8]) -> Option<&Location> {
        self.known.get(&file_system)?.get(directory)
    }

    /// Remembers an answer.
    pub(super) fn remember(&mut self, file_system: u64, directory: FileHandle, at: Location) {
        if self.len >= LIMIT {
            // Simpler than telling which was used last, and the common ones are back at once.
            self.clear();
        }
        let known = self.known.entry(file_system).or_default();
        if known.insert(directory, at).is_none() {
            self.len += 1;
        }
    }

    /// Forgets everything: a directory was moved, or volumes came or went.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_kept_by_file_system_and_never_too_many() {
        let media = Location::from_iter(["media".parse().unwrap()]);
        let mut known = Directories::default();
        known.remember(1, FileHandle::from_bytes(b"a"), media.clone());
        known.remember(2, FileHandle::from_bytes(b"a"), Location::default());
        assert_eq!(known.get(1, b"a"), Some(&media));
        assert_eq!(known.get(2, b"a"), Some(&Location::default()));
        assert_eq!(known.get(3, b"a"), None);
        for n in 0..2 * LIMIT {
            known.remember(3, FileHandle::from_bytes(&n.to_ne_bytes()), Location::default());
        }
        assert!(known.len <= LIMIT);
        assert_eq!(known.known.values().map(HashMap::len).sum::<usize>(), known.len);
    }
}
