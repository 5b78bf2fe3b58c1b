//! A shift: ids of a range on disk become those of another range, each the same distance away.
//!
//! For a tree that was made for one id space and is to be read in another. What owns what stays as it
//! is: unlike a pass that gives everything to one owner, a shift keeps apart whom the entries belong to.

use serde::{Deserialize, Serialize};

use crate::ids::HostIds;
use crate::ownership::{Change, EntryStat};

/// So many ids there are: the highest number tells `chown` to leave an id alone.
const IDS: u64 = 4_294_967_295;

/// Which ids become which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(try_from = "Ranges", into = "Ranges")]
#[schemars(with = "Ranges")]
pub struct Shift(Ranges);

/// The ranges as they are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Ranges {
    /// The first id that is changed.
    pub from: u32,
    /// What it becomes.
    pub to: u32,
    /// How many ids follow on each.
    pub count: u32,
}

/// Why ranges are no shift.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoShift {
    /// There is nothing in them.
    #[error("a range of no ids cannot be shifted")]
    Empty,
    /// There are not so many ids.
    #[error("ids end at 4294967294: {0} and {1} more are too many")]
    TooHigh(u32, u32),
    /// An id that was shifted would be shifted again.
    #[error(
        "{from} to {} and {to} to {} overlap, so that a shift that was interrupted could not tell what it had shifted; shift to a range that is free, and from there", from + (count - 1), to + (count - 1)
    )]
    Overlap {
        /// The first id of the one.
        from: u32,
        /// The first id of the other.
        to: u32,
        /// How many each has.
        count: u32,
    },
}

impl Shift {
    /// Returns the shift of these ranges.
    ///
    /// # Errors
    ///
    /// [`NoShift`].
    pub fn new(ranges: Ranges) -> Result<Self, NoShift> {
        let Ranges { from, to, count } = ranges;
        if count == 0 {
            return Err(NoShift::Empty);
        }
        for first in [from, to] {
            if u64::from(first) + u64::from(count) > IDS {
                return Err(NoShift::TooHigh(first, count));
            }
        }
        if from.abs_diff(to) < count {
            return Err(NoShift::Overlap { from, to, count });
        }
        Ok(Self(ranges))
    }

    /// Returns its ranges.
    pub const fn ranges(self) -> Ranges {
        self.0
    }

    /// Returns what an id becomes; none where it stays.
    const fn id(self, id: u32) -> Option<u32> {
        let Ranges { from, to, count } = self.0;
        match id.checked_sub(from) {
            Some(at) if at < count => Some(to + at),
            _ => None,
        }
    }

    /// Returns whether an id is one that others become.
    const fn is_target(self, id: u32) -> bool {
        let Ranges { to, count, .. } = self.0;
        matches!(id.checked_sub(to), Some(at) if at < count)
    }

    /// Returns whether a user or a group of these is in the range that others become.
    pub const fn reaches(self, ids: HostIds) -> bool {
        self.is_target(ids.uid) || self.is_target(ids.gid)
    }

    /// Returns whose something is after the shift.
    pub fn ids(self, ids: HostIds) -> HostIds {
        HostIds::new(self.id(ids.uid).unwrap_or(ids.uid), self.id(ids.gid).unwrap_or(ids.gid))
    }

    /// Returns what is to change on an entry: its owner, never its mode. (A chown takes setuid, setgid
    /// and capabilities of a file away, here as in any other pass.)
    pub fn decide(self, stat: &EntryStat) -> Option<Change<'static>> {
        let owner = self.ids(stat.ids);
        (owner != stat.ids).then_some(Change { owner: Some(owner), ..Change::default() })
    }
}

impl TryFrom<Ranges> for Shift {
    type Error = NoShift;

    fn try_from(ranges: Ranges) -> Result<Self, NoShift> {
        Self::new(ranges)
    }
}

impl From<Shift> for Ranges {
    fn from(shift: Shift) -> Self {
        shift.0
    }
}

impl std::fmt::Display for Shift {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Ranges { from, to, count } = self.0;
        write!(f, "{from}-{} to {to}-{}", from + (count - 1), to + (count - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ownership::EntryKind;

    fn shift(from: u32, to: u32, count: u32) -> Result<Shift, NoShift> {
        Shift::new(Ranges { from, to, count })
    }

    #[test]
    fn ids_of_the_range_are_shifted_and_no_others() {
        let shift = shift(200_000, 100_000, 65_536).unwrap();
        let cases = [
            ((200_000, 200_000), Some((100_000, 100_000))),
            ((200_033, 265_535), Some((100_033, 165_535))),
            ((200_033, 0), Some((100_033, 0))),
            ((5, 200_001), Some((5, 100_001))),
            ((199_999, 265_536), None),
            ((100_033, 100_033), None),
            ((0, 0), None),
            ((u32::MAX - 1, 0), None),
        ];
        for ((uid, gid), expected) in cases {
            for (kind, mode) in [(EntryKind::File, 0o4755), (EntryKind::Directory, 0o2750)] {
                let stat = EntryStat { kind, ids: HostIds::new(uid, gid), mode };
                let owner = expected.map(|(uid, gid)| HostIds::new(uid, gid));
                let change = owner.map(|_| Change { owner, ..Change::default() });
                assert_eq!(shift.decide(&stat), change, "{uid}:{gid}");
                let after = EntryStat { ids: shift.ids(stat.ids), ..stat };
                assert_eq!(shift.decide(&after), None, "shifted twice");
            }
        }
        assert!(shift.reaches(HostIds::new(100_000, 7)) && shift.reaches(HostIds::new(7, 165_535)));
        assert!(!shift.reaches(HostIds::new(99_999, 165_536)));
        assert_eq!(shift.to_string(), "200000-265535 to 100000-165535");
    }

    #[test]
    fn ranges_that_could_not_be_told_apart_are_refused() {
        let highest = u32::MAX - 1;
        assert_eq!(shift(1, 2, 0), Err(NoShift::Empty));
        assert_eq!(shift(highest, 0, 2), Err(NoShift::TooHigh(highest, 2)));
        assert_eq!(shift(0, highest, 2), Err(NoShift::TooHigh(highest, 2)));
        shift(highest, 0, 1).unwrap();
        shift(0, 10, 10).unwrap();
        shift(10, 0, 10).unwrap();
        for (from, to) in [(0, 9), (9, 0), (5, 5)] {
            assert_eq!(shift(from, to, 10), Err(NoShift::Overlap { from, to, count: 10 }));
            let text = shift(from, to, 10).unwrap_err().to_string();
            assert!(text.contains("overlap"), "{text}");
        }
    }

    #[test]
    fn nothing_that_is_no_shift_is_read_as_one() {
        let text = r#"{"from":0,"to":100000,"count":65536}"#;
        let read: Shift = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), text);
        serde_json::from_str::<Shift>(r#"{"from":0,"to":1,"count":65536}"#).unwrap_err();
    }
}
