//! The rule for one entry of a volume: given one `fstat`, what is to change, if anything.
//!
//! Pure, so that the walk only reads, asks and acts; and so that every case stands in a table.

use crate::idmap::IdMap;
use crate::ids::HostIds;
use crate::modes::{FilePattern, MODE_BITS, ModeRule};

/// What kind of thing an entry is, as far as ownership cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// A symbolic link; never followed, its own owner counts.
    Symlink,
    /// A socket, fifo or device node; never opened, only its owner counts.
    Special,
}

/// What one `fstat` says of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryStat {
    /// What it is.
    pub kind: EntryKind,
    /// Whose it is.
    pub ids: HostIds,
    /// Its mode bits, without the file type.
    pub mode: u32,
}

/// Which entries below the root are held to the declaration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// Every entry.
    All,
    /// Entries that none of these maps can own.
    Foreign(Vec<IdMap>),
    /// None: only the root directory is held to it.
    RootOnly,
}

/// Everything that decides what an entry of a volume is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnershipRule {
    /// The owner; absent: left alone.
    pub owner: Option<HostIds>,
    /// Which entries below the root directory.
    pub scope: Scope,
    /// The mode of directories.
    pub dir_mode: ModeRule,
    /// The mode of regular files.
    pub file_mode: ModeRule,
    /// Modes by file name, longest pattern first.
    pub file_modes: Vec<(FilePattern, ModeRule)>,
    /// Whether anything below the root directory is looked at.
    pub recurse: bool,
}

/// What is to change on one entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// The new owner, where it differs.
    pub owner: Option<HostIds>,
    /// The new mode, where it differs once the owner has been set.
    pub mode: Option<u32>,
}

/// Where in a volume an entry stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place<'a> {
    /// The root directory of the volume.
    Root,
    /// Anywhere below, under this name (bytes, never a path).
    Below(&'a [u8]),
}

impl OwnershipRule {
    /// Returns what is to change on an entry, or `None` where it is as declared.
    pub fn decide(&self, place: Place<'_>, stat: &EntryStat) -> Option<Change> {
        if let Place::Below(_) = place
            && !self.holds(stat.ids)
        {
            return None;
        }
        let owner = self.owner.filter(|owner| *owner != stat.ids);
        let mode = self.mode_for(place, stat).filter(|mode| {
            // A chown clears setuid and setgid of a file; what the declaration wants of them must
            // be set afterwards even where the mode looked right before.
            *mode != stat.mode & MODE_BITS || (owner.is_some() && mode & 0o6000 != 0)
        });
        (owner.is_some() || mode.is_some()).then_some(Change { owner, mode })
    }

    /// Returns whether entries below the root need to be looked at at all.
    pub const fn looks_below(&self) -> bool {
        self.recurse && !matches!(self.scope, Scope::RootOnly)
    }

    fn holds(&self, ids: HostIds) -> bool {
        match &self.scope {
            Scope::All => true,
            Scope::Foreign(maps) => {
                // What already has the declared owner was either put right by an earlier pass or is
                // the container's own; its mode may have been chosen by a service since.
                self.owner != Some(ids) && !maps.iter().any(|map| map.can_own(ids))
            }
            Scope::RootOnly => false,
        }
    }

    fn mode_for(&self, place: Place<'_>, stat: &EntryStat) -> Option<u32> {
        let rule = match stat.kind {
            EntryKind::Directory => &self.dir_mode,
            EntryKind::File => self.file_rule(place),
            EntryKind::Symlink | EntryKind::Special => return None,
        };
        let is_dir = stat.kind == EntryKind::Directory;
        (!rule.is_keep()).then(|| rule.apply(stat.mode & MODE_BITS, is_dir))
    }

    fn file_rule(&self, place: Place<'_>) -> &ModeRule {
        let Place::Below(name) = place else { return &self.file_mode };
        let named = self.file_modes.iter().find(|(pattern, _)| pattern.matches(name));
        named.map_or(&self.file_mode, |(_, rule)| rule)
    }
}
