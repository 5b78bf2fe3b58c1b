//! What a walk with a bookmark keeps of a directory until it is through with it.

use std::os::fd::AsFd;

use crate::bookmark::{Bookmark, Counts};
use crate::stat::Stat;

/// See the module. It is about entries that are no directories; those have accounts of their own.
#[derive(Debug, Clone, Copy)]
pub(super) struct Account {
    /// When the directory was changed before any entry of it was read, and when its content was.
    changed: (i64, u32),
    modified: (i64, u32),
    /// Whether its entries are believed to be as an earlier walk saw them.
    pub(super) believed: bool,
    counted: Counted,
}

/// What was counted, and how many loose ends there are.
pub(super) type Counted = (Counts, u64);

impl Account {
    /// Begins to keep account of a directory, `stat` being older than any look at its entries.
    pub(super) fn begin(bookmark: &Bookmark, dir: impl AsFd, stat: &Stat) -> Self {
        let Stat { changed, modified, .. } = *stat;
        let believed = bookmark.knows(dir, changed);
        Self { changed, modified, believed, counted: (Counts::default(), 0) }
    }

    /// Returns it with what was counted from `before` to `after`.
    pub(super) fn with(mut self, before: Counted, after: Counted) -> Self {
        self.counted.0.add(after.0.since(before.0));
        self.counted.1 += after.1 - before.1;
        self
    }

    /// Notes in the bookmark that the walk is through with the directory; `is_own_change` where
    /// the walk itself has changed it since.
    pub(super) fn close(self, bookmark: &Bookmark, dir: impl AsFd, is_own_change: bool) {
        let (counts, loose_ends) = self.counted;
        if self.believed || loose_ends > 0 || counts.entries() == 0 {
            // Noted already, not to be believed, or nothing to spare anybody a look at.
            return;
        }
        let changed = if is_own_change {
            // Where something was made in it as well, its content changed, too.
            let same = |stat: &Stat| stat.modified == self.modified;
            Stat::of(&dir).ok().filter(same).map(|stat| stat.changed)
        } else {
            Some(self.changed)
        };
        if let Some(changed) = changed {
            bookmark.note(dir, changed, counts);
        }
    }
}
