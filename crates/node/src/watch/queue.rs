//! The entries of one volume that wait to be looked at: by directory, each once, not too many.
//!
//! However often an entry changes, it waits once. Names are kept by directory because reaching a
//! directory is what costs most. When there are too many, they are given up and the volume is
//! walked instead: memory stays bounded whatever anybody writes.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ffi::{CStr, CString};

use pctd_sys::handle::FileHandle;

/// What is to be looked at under a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Look {
    /// The entry itself.
    Entry,
    /// A directory that came from elsewhere, with everything in it.
    Tree,
}

/// Names of one directory.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Slice {
    pub(super) directory: FileHandle,
    pub(super) names: Vec<(CString, Look)>,
}

impl Slice {
    /// Returns each name with its directory.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&FileHandle, &CStr, Look)> {
        self.names.iter().map(|(name, look)| (&self.directory, name.as_c_str(), *look))
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Queue {
    /// Directories in the order they came up.
    order: VecDeque<FileHandle>,
    names: HashMap<FileHandle, BTreeMap<CString, Look>>,
    len: usize,
    /// How many of them are trees.
    trees: usize,
    limit: usize,
}

impl Queue {
    /// Returns an empty queue for this many entries.
    pub(super) fn new(limit: usize) -> Self {
        Self { order: VecDeque::new(), names: HashMap::new(), len: 0, trees: 0, limit }
    }

    /// Adds an entry; where there is no room any more, all are given up and it returns false.
    pub(super) fn push(&mut self, directory: &[u8], name: &CStr, look: Look) -> bool {
        if self.len >= self.limit {
            self.clear();
            return false;
        }
        if !self.names.contains_key(directory) {
            let handle = FileHandle::from_bytes(directory);
            self.order.push_back(handle.clone());
            self.names.insert(handle, BTreeMap::new());
        }
        let Some(names) = self.names.get_mut(directory) else { return true };
        match names.entry(name.to_owned()) {
            Entry::Vacant(entry) => {
                entry.insert(look);
                self.len += 1;
                self.trees += usize::from(look == Look::Tree);
            }
            Entry::Occupied(mut entry) => {
                let before = *entry.get();
                self.trees += usize::from(before == Look::Entry && look == Look::Tree);
                entry.insert(look.max(before));
            }
        }
        true
    }

    /// Takes up to `limit` names of the directory that waits longest; what is left of it goes to
    /// the end, so that a busy directory holds up no other.
    pub(super) fn take(&mut self, limit: usize) -> Option<Slice> {
        let directory = self.order.pop_front()?;
        let waiting = self.names.get_mut(&directory)?;
        let mut names = Vec::with_capacity(waiting.len().min(limit));
        while names.len() < limit
            && let Some(next) = waiting.pop_first()
        {
            self.trees -= usize::from(next.1 == Look::Tree);
            names.push(next);
        }
        if waiting.is_empty() {
            self.names.remove(&directory);
        } else {
            self.order.push_back(directory.clone());
        }
        self.len -= names.len();
        Some(Slice { directory, names })
    }

    /// Gives up everything that waits.
    pub(super) fn clear(&mut self) {
        // Gives the memory back, too: a burst must not be paid for ever after.
        *self = Self::new(self.limit);
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Returns whether a directory waits that came from elsewhere.
    pub(super) fn has_trees(&self) -> bool {
        self.trees > 0
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(slice: &Slice) -> Vec<&str> {
        slice.names.iter().map(|(name, _)| name.to_str().unwrap()).collect()
    }

    #[test]
    fn an_entry_waits_once_and_directories_take_turns() {
        let mut queue = Queue::new(100);
        for name in [c"a", c"b", c"c", c"a"] {
            assert!(queue.push(b"one", name, Look::Entry));
        }
        assert!(queue.push(b"two", c"x", Look::Entry));
        assert_eq!(queue.len(), 4);
        assert_eq!(names(&queue.take(2).unwrap()), ["a", "b"]);
        let second = queue.take(2).unwrap();
        assert_eq!((second.directory.as_bytes(), names(&second)), (&b"two"[..], vec!["x"]));
        assert_eq!(names(&queue.take(2).unwrap()), ["c"]);
        assert_eq!(queue.take(2), None);
        assert!(queue.is_empty());
    }

    #[test]
    fn a_tree_stays_a_tree_whatever_comes_after() {
        let mut queue = Queue::new(100);
        for look in [Look::Entry, Look::Tree, Look::Entry] {
            queue.push(b"one", c"a", look);
        }
        assert!(queue.has_trees());
        assert_eq!(queue.take(9).unwrap().names, [(c"a".to_owned(), Look::Tree)]);
        assert!(!queue.has_trees());
    }

    #[test]
    fn too_many_are_given_up_at_once() {
        let mut queue = Queue::new(2);
        assert!(queue.push(b"one", c"a", Look::Entry));
        assert!(queue.push(b"two", c"a", Look::Entry));
        assert!(!queue.push(b"two", c"b", Look::Entry));
        assert!(queue.is_empty());
        assert_eq!(queue.take(9), None);
        assert!(queue.push(b"two", c"b", Look::Entry));
    }

    proptest::proptest! {
        #[test]
        fn everything_that_was_taken_in_comes_out_once(
            pushes in proptest::collection::vec((0_u8..4, 0_u8..6), 0..60),
            limit in 1_usize..5,
        ) {
            let mut queue = Queue::new(1000);
            for (dir, name) in &pushes {
                let name = CString::new(vec![b'a' + name]).unwrap();
                queue.push(&[*dir], &name, Look::Entry);
            }
            let expected: std::collections::BTreeSet<_> = pushes.iter().copied().collect();
            proptest::prop_assert_eq!(queue.len(), expected.len());
            let mut out = Vec::new();
            while let Some(slice) = queue.take(limit) {
                proptest::prop_assert!((1..=limit).contains(&slice.names.len()));
                let dir = slice.directory.as_bytes()[0];
                out.extend(slice.names.iter().map(|(name, _)| (dir, name.as_bytes()[0] - b'a')));
            }
            proptest::prop_assert_eq!(out.len(), expected.len());
            proptest::prop_assert_eq!(out.into_iter().collect::<std::collections::BTreeSet<_>>(), expected);
        }
    }
}
