//! What a pass changed, so that it can be taken back: the record of it, and what is to be made of an
//! entry by that.
//!
//! A pass is what changes owners and modes of a volume: a walk, a shift, or what the watch puts right.
//! Before it changes an entry it notes what that was and what it will be; `format` has the bytes.
//! An undo believes none of it but compares: an entry that is no longer as the pass left it belongs
//! to whoever changed it since.

use serde::{Deserialize, Serialize};

use crate::ids::HostIds;
use crate::ownership::{Change, EntryKind, EntryStat, mode_after_chown};

mod format;

pub use format::{Block, END_BYTES, FRAME_BYTES, Frame, MAX_PAYLOAD};

/// Setuid and setgid.
const PRIVILEGES: u32 = 0o6000;

/// What made a pass.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum PassKind {
    /// A walk for what is declared.
    Walk,
    /// The watch, entry by entry.
    Drift,
    /// A shift by a constant.
    Shift,
}

/// What a pass was of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// What made it.
    pub kind: PassKind,
    /// When it began, in microseconds since 1970.
    pub begun: u64,
    /// A fingerprint of the rule it was for; a pass that was interrupted is gone on with by one for
    /// the same rule.
    pub rule: String,
    /// The file system of the volume ([`crate::observed::FileSystem::id`]).
    pub file_system: String,
    /// The root directory of the volume.
    pub root: Identity,
}

/// What tells an inode from all others of its file system, earlier and later ones included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Its number.
    pub inode: u64,
    /// What is left of when it was made: the numbers of inodes that are gone are given out anew. 0
    /// where the file system does not tell.
    pub birth: u32,
    /// Its file handle; empty where the file system has none.
    pub handle: Vec<u8>,
}

/// Entries of one directory that are about to be changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entries {
    /// When, in microseconds since 1970; later than those before.
    pub time: u64,
    /// The directory.
    pub directory: Directory,
    /// The entries, in the order in which they are changed.
    pub entries: Vec<Entry>,
}

/// How a directory is found again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Directory {
    /// By its file handle, wherever in the volume it is by then.
    Handle(Vec<u8>),
    /// By its path below the root of the volume, where the file system has no handles.
    Path(Vec<u8>),
}

/// One entry that is about to be changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name in the directory; `.` for the directory itself.
    pub name: Vec<u8>,
    /// Its inode number.
    pub inode: u64,
    /// As [`Identity::birth`].
    pub birth: u32,
    /// What it was.
    pub before: State,
    /// What it will be.
    pub after: State,
}

/// Owner and mode of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    /// Whose it is.
    pub ids: HostIds,
    /// Its mode bits.
    pub mode: u32,
}

/// What an undo makes of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    /// It is as the pass left it, and is to be changed so.
    Restore(Change<'static>),
    /// It is as it was before the pass.
    InPlace,
    /// Somebody changed it since.
    ChangedSince,
}

impl Entry {
    /// Returns the record of a change that is about to be made.
    pub fn of(name: &[u8], inode: u64, birth: u32, stat: &EntryStat, change: Change<'_>) -> Self {
        let left = if change.owner.is_some() { mode_after_chown(stat) } else { stat.mode };
        let before = State { ids: stat.ids, mode: stat.mode };
        let after =
            State { ids: change.owner.unwrap_or(stat.ids), mode: change.mode.unwrap_or(left) };
        Self { name: name.to_vec(), inode, birth, before, after }
    }

    /// Returns the mode that an undo gives back. Setuid and setgid of a file only where that is asked
    /// for: whoever the pass gave the file to may have written to it since.
    const fn wanted_mode(&self, kind: EntryKind, privileges: Privileges) -> u32 {
        match (kind, privileges) {
            (EntryKind::Directory, _) | (_, Privileges::GivenBack) => self.before.mode,
            _ => self.before.mode & !PRIVILEGES,
        }
    }

    /// Returns whether an undo leaves setuid or setgid out.
    pub const fn withholds(&self, kind: EntryKind, privileges: Privileges) -> bool {
        self.wanted_mode(kind, privileges) != self.before.mode
    }

    /// Returns what an undo makes of the entry as it is now.
    ///
    /// A change takes up to three calls, and a kill may come between any two, of the pass or of an
    /// earlier undo. What those leave counts as left by the pass.
    pub fn judge(&self, now: &EntryStat, privileges: Privileges) -> Judgement {
        let Self { before, after, .. } = self;
        let wanted = self.wanted_mode(now.kind, privileges);
        if now.ids == before.ids && (now.mode == before.mode || now.mode == wanted) {
            return Judgement::InPlace;
        }
        // As after a chown.
        let left = |mode| mode_after_chown(&EntryStat { mode, ..*now });
        let (on, back) = (before.mode & after.mode, after.mode & wanted);
        let half_way = [on, left(on), back, left(back)];
        let is_left_so = if before.ids == after.ids {
            now.ids == after.ids && now.mode == after.mode
        } else if now.ids == after.ids {
            now.mode == after.mode || half_way.contains(&now.mode)
        } else {
            // Setuid was withheld by an earlier undo, or is still to be set.
            now.ids == before.ids && (half_way.contains(&now.mode) || now.mode == left(before.mode))
        };
        if !is_left_so {
            return Judgement::ChangedSince;
        }
        let owner = (now.ids != before.ids).then_some(before.ids);
        let remains = if owner.is_some() { left(now.mode) } else { now.mode };
        Judgement::Restore(Change {
            owner,
            mode: (remains != wanted).then_some(wanted),
            default_acl: None,
        })
    }
}

/// What became of recorded entries.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Tally {
    /// How many were on record; one that was changed several times counts each time.
    pub entries: u64,
    /// They were as the pass left them and got their owner and mode back.
    pub restored: u64,
    /// They were as before the pass already.
    pub in_place: u64,
    /// How many entries somebody changed since; left alone.
    pub changed_since: u64,
    /// They are gone, or no longer where they were.
    pub gone: u64,
    /// Of those that were restored or in place, how many had setuid or setgid that was not given
    /// back.
    pub withheld: u64,
    /// Entries with an access ACL, which kept their mode.
    pub acls: u64,
    /// Entries that could not be restored.
    pub errors: u64,
    /// The first of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub first_errors: Vec<String>,
}

/// Whether an undo gives setuid and setgid of files back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Privileges {
    /// It does not.
    #[default]
    Withheld,
    /// It does.
    GivenBack,
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: HostIds = HostIds::new(0, 0);
    const NEW: HostIds = HostIds::new(100_000, 100_000);
    const OTHER: HostIds = HostIds::new(33, 33);
    const FILE: EntryKind = EntryKind::File;

    fn entry(before: (HostIds, u32), after: (HostIds, u32)) -> Entry {
        let state = |(ids, mode)| State { ids, mode };
        let name = b"f".to_vec();
        Entry { name, inode: 1, birth: 1, before: state(before), after: state(after) }
    }

    fn now(ids: HostIds, mode: u32) -> EntryStat {
        EntryStat { kind: FILE, ids, mode }
    }

    fn restore(owner: Option<HostIds>, mode: Option<u32>) -> Judgement {
        Judgement::Restore(Change { owner, mode, default_acl: None })
    }

    #[test]
    fn what_is_as_the_pass_left_it_is_restored_and_nothing_else() {
        let both = entry((OLD, 0o640), (NEW, 0o664));
        let owner = entry((OLD, 0o640), (NEW, 0o640));
        let mode = entry((OLD, 0o640), (OLD, 0o664));
        let cases = [
            ("as left", &both, now(NEW, 0o664), restore(Some(OLD), Some(0o640))),
            ("owner alone", &owner, now(NEW, 0o640), restore(Some(OLD), None)),
            ("mode alone", &mode, now(OLD, 0o664), restore(None, Some(0o640))),
            ("never changed", &both, now(OLD, 0o640), Judgement::InPlace),
            ("another owner since", &both, now(OTHER, 0o664), Judgement::ChangedSince),
            (
                "another group since",
                &both,
                now(HostIds::new(100_000, 0), 0o664),
                Judgement::ChangedSince,
            ),
            ("another mode since", &both, now(NEW, 0o600), Judgement::ChangedSince),
            (
                "given back by others, with another mode",
                &both,
                now(OLD, 0o600),
                Judgement::ChangedSince,
            ),
            ("another mode since, mode alone", &mode, now(OLD, 0o600), Judgement::ChangedSince),
            ("killed between chown and chmod", &both, now(NEW, 0o640), restore(Some(OLD), None)),
        ];
        for (name, entry, now, expected) in cases {
            assert_eq!(entry.judge(&now, Privileges::Withheld), expected, "{name}");
        }
    }

    #[test]
    fn setuid_is_given_back_only_where_that_is_asked_for() {
        let entry = entry((OLD, 0o4755), (NEW, 0o755));
        let (no, yes) = (Privileges::Withheld, Privileges::GivenBack);
        assert!(entry.withholds(FILE, no) && !entry.withholds(FILE, yes));
        assert_eq!(entry.judge(&now(NEW, 0o755), no), restore(Some(OLD), None));
        assert_eq!(entry.judge(&now(OLD, 0o755), no), Judgement::InPlace);
        assert_eq!(entry.judge(&now(OLD, 0o755), yes), restore(None, Some(0o4755)));
        assert_eq!(entry.judge(&now(NEW, 0o755), yes), restore(Some(OLD), Some(0o4755)));
        assert_eq!(entry.judge(&now(OLD, 0o4755), no), Judgement::InPlace);
        let dir = EntryStat { kind: EntryKind::Directory, ids: NEW, mode: 0o775 };
        let setgid = self::entry((OLD, 0o2750), (NEW, 0o775));
        assert_eq!(setgid.judge(&dir, no), restore(Some(OLD), Some(0o2750)));
        assert!(!setgid.withholds(EntryKind::Directory, no));
    }

    /// As `walk::entry` changes an entry, with a kill after every call.
    fn stages(from: EntryStat, change: Change<'_>) -> Vec<EntryStat> {
        let mut at = from;
        let mut all = vec![at];
        if let (Some(_), Some(new)) = (change.owner, change.mode) {
            at.mode &= new;
            all.push(at);
        }
        if let Some(owner) = change.owner {
            at = EntryStat { ids: owner, mode: mode_after_chown(&at), ..at };
            all.push(at);
        }
        if let Some(mode) = change.mode {
            at.mode = mode;
            all.push(at);
        }
        all
    }

    #[test]
    fn whenever_the_pass_and_the_undo_are_killed_the_next_undo_restores() {
        let modes = [0o600, 0o644, 0o755, 0o4755, 0o2755, 0o2644, 0o6711, 0o777];
        for kind in [FILE, EntryKind::Directory] {
            for (old, new) in modes.iter().flat_map(|old| modes.map(|new| (*old, new))) {
                let before = EntryStat { kind, ids: OLD, mode: old };
                for change in [
                    Change { owner: Some(NEW), mode: Some(new), default_acl: None },
                    Change { owner: Some(NEW), mode: None, default_acl: None },
                    Change { owner: None, mode: Some(new), default_acl: None },
                ] {
                    let entry = Entry::of(b"f", 1, 1, &before, change);
                    for privileges in [Privileges::Withheld, Privileges::GivenBack] {
                        let wanted = entry.wanted_mode(kind, privileges);
                        for stage in stages(before, change) {
                            check(&entry, stage, privileges, wanted);
                        }
                    }
                }
            }
        }
    }

    fn check(entry: &Entry, stage: EntryStat, privileges: Privileges, wanted: u32) {
        let Judgement::Restore(back) = entry.judge(&stage, privileges) else {
            assert_eq!(entry.judge(&stage, privileges), Judgement::InPlace, "{entry:?} {stage:?}");
            return;
        };
        let undone = stages(stage, back);
        for half in &undone {
            assert_ne!(
                entry.judge(half, privileges),
                Judgement::ChangedSince,
                "{entry:?} {stage:?} {half:?}"
            );
        }
        let end = undone.last().unwrap();
        assert_eq!((end.ids, end.mode), (entry.before.ids, wanted), "{entry:?} {stage:?}");
    }
}
