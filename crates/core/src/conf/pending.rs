//! The section `[pve:pending]`: changes and deletions that wait for the container to stop.

use std::collections::BTreeMap;

use bstr::{BStr, BString, ByteSlice};

use crate::conf::section::Section;
use crate::conf::text::{is_space, is_true};

/// What waits for the container to stop.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pending {
    /// The properties that change.
    pub section: Section,
    delete: Option<BString>,
}

/// Whether a deletion is to go through whatever stands against it (`!` before the name).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Force {
    /// As usual.
    #[default]
    No,
    /// Forced.
    Yes,
}

impl Pending {
    /// Returns the `delete` line as written.
    pub fn delete_line(&self) -> Option<&BStr> {
        self.delete.as_ref().map(|list| list.as_bstr())
    }

    /// Replaces the `delete` line.
    pub fn set_delete_line(&mut self, list: Option<BString>) {
        self.delete = list;
    }

    /// Returns the names of the properties to delete (`parse_pending_delete`).
    pub fn deletes(&self) -> BTreeMap<BString, Force> {
        let list = self.delete_line().filter(|list| is_true(list)).unwrap_or_default();
        let entries = list.split(|b| is_space(*b) || matches!(b, b',' | b';'));
        entries
            .filter(|entry| !entry.is_empty())
            .map(|entry| match entry.strip_prefix(b"!") {
                Some(name) => (name.into(), Force::Yes),
                None => (entry.into(), Force::No),
            })
            .collect()
    }

    /// Returns whether a property is to be deleted.
    pub fn is_deleted(&self, name: &str) -> bool {
        self.deletes().contains_key(name.as_bytes().as_bstr())
    }

    /// Adds a property to the list (`add_to_pending_delete`).
    pub fn add_delete(&mut self, name: &str, force: Force) {
        let mut deletes = self.deletes();
        deletes.insert(name.into(), force);
        self.write_deletes(&deletes);
    }

    /// Takes a property off the list (`remove_from_pending_delete`).
    pub fn remove_delete(&mut self, name: &str) {
        let mut deletes = self.deletes();
        if deletes.remove(name.as_bytes().as_bstr()).is_some() {
            self.write_deletes(&deletes);
        }
    }

    /// Keeps only the deletions for which `keep` holds, and writes the list in its normal form.
    pub fn retain_deletes(&mut self, mut keep: impl FnMut(&BStr) -> bool) {
        let mut deletes = self.deletes();
        deletes.retain(|name, _| keep(name.as_bstr()));
        self.write_deletes(&deletes);
    }

    /// Writes the list by name with commas between, or no list (`print_pending_delete`).
    fn write_deletes(&mut self, deletes: &BTreeMap<BString, Force>) {
        let entry = |(name, force): (&BString, &Force)| match force {
            Force::Yes => [b"!", name.as_slice()].concat(),
            Force::No => name.to_vec(),
        };
        let entries: Vec<Vec<u8>> = deletes.iter().map(entry).collect();
        self.delete = (!entries.is_empty()).then(|| entries.join(&b","[..]).into());
    }

    /// Returns whether nothing waits, so that no header is written.
    pub fn is_empty(&self) -> bool {
        self.delete.is_none() && self.section.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending(list: &str) -> Pending {
        Pending { section: Section::default(), delete: Some(list.into()) }
    }

    #[test]
    fn deletions_are_separated_in_any_way() {
        let deletes = pending("onboot;!unused0  ,mp3 mp4").deletes();
        let expected = [
            ("mp3", Force::No),
            ("mp4", Force::No),
            ("onboot", Force::No),
            ("unused0", Force::Yes),
        ];
        assert_eq!(deletes, expected.map(|(name, force)| (name.into(), force)).into());
        assert!(pending("0").deletes().is_empty());
        assert!(pending(" ").deletes().is_empty());
    }

    #[test]
    fn a_changed_list_is_written_in_normal_form() {
        let mut pending = pending("swap !b");
        pending.add_delete("mp0", Force::No);
        assert_eq!(pending.delete_line(), Some(BStr::new("!b,mp0,swap")));
        pending.remove_delete("absent");
        pending.remove_delete("b");
        pending.remove_delete("mp0");
        pending.remove_delete("swap");
        assert!(pending.is_empty());
    }
}
