//! `/etc/subuid` and `/etc/subgid`: which ids of the host root may give to containers.
//!
//! LXC writes the map of a container with `newuidmap` and `newgidmap` where they are installed, and
//! those ask these files even for root (subuid(5); PROXMOX.md 3). A range that is not in them keeps
//! the container from starting.

use bstr::ByteSlice as _;

use crate::idmap::{IdKind, IdMap, IdRange};

/// What root may map.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SubIds {
    /// Users.
    pub users: SubRanges,
    /// Groups.
    pub groups: SubRanges,
}

/// What one of the files says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum SubRanges {
    /// The program that reads it is not installed, so nobody asks.
    #[default]
    NotAsked,
    /// Root's ranges, first id and count.
    Listed(Vec<(u64, u64)>),
    /// It could not be read, for this reason.
    Unknown(String),
}

impl SubRanges {
    /// Reads root's ranges, `OWNER:FIRST:COUNT`, from the text of a file.
    pub fn parse(text: &[u8]) -> Self {
        let range = |line: &[u8]| {
            let line = line.to_str().ok()?;
            let mut fields = line.trim().split(':');
            matches!(fields.next()?, "root" | "0").then_some(())?;
            Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
        };
        Self::Listed(text.lines().filter_map(range).collect())
    }

    /// Returns whether root may map this range of the host's ids.
    fn permit(&self, range: &IdRange) -> bool {
        let Self::Listed(listed) = self else { return *self == Self::NotAsked };
        // A process may always map its own id, and this is root's.
        if range.host == 0 && range.count == 1 {
            return true;
        }
        let end = range.host.saturating_add(range.count);
        let mut next = range.host;
        // Ranges that follow each other count as one (`have_range` of shadow).
        while let Some((first, count)) = listed
            .iter()
            .find(|(first, count)| (*first..first.saturating_add(*count)).contains(&next))
        {
            next = first.saturating_add(*count);
            if next >= end {
                return true;
            }
        }
        false
    }
}

impl SubIds {
    /// Returns the lines that a map needs and that are not there, each with its file, or why that
    /// is not known.
    pub fn missing(&self, map: &IdMap) -> Vec<String> {
        let of = |range: &IdRange| {
            let (file, ranges) = match range.kind {
                IdKind::User => ("/etc/subuid", &self.users),
                IdKind::Group => ("/etc/subgid", &self.groups),
            };
            match ranges {
                ranges if ranges.permit(range) => None,
                SubRanges::Unknown(why) => Some(format!("what {file} says ({why})")),
                _ => Some(format!("`root:{}:{}` in {file}", range.host, range.count)),
            }
        };
        let mut missing: Vec<String> = map.ranges().iter().filter_map(of).collect();
        missing.dedup();
        missing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(lines: &[(IdKind, u64, u64, u64)]) -> IdMap {
        let range = |(kind, container, host, count): &(IdKind, u64, u64, u64)| IdRange {
            kind: *kind,
            container: *container,
            host: *host,
            count: *count,
        };
        IdMap::new(lines.iter().map(range).collect())
    }

    #[test]
    fn the_line_that_is_missing_is_named() {
        let users = SubRanges::parse(b"root:100000:65536\n# note\nalice:1000:1\n0:7:1\nroot:x:1\n");
        assert_eq!(users, SubRanges::Listed(vec![(100_000, 65_536), (7, 1)]));
        let ids = SubIds { users, groups: SubRanges::parse(b"") };
        let (user, group) = (IdKind::User, IdKind::Group);
        assert_eq!(ids.missing(&map(&[(user, 0, 100_000, 65_536), (user, 7, 7, 1)])), [""; 0]);
        assert_eq!(
            ids.missing(&map(&[(user, 1000, 1000, 1), (group, 0, 100_000, 65_536)])),
            ["`root:1000:1` in /etc/subuid", "`root:100000:65536` in /etc/subgid"]
        );
        assert_eq!(
            ids.missing(&map(&[(user, 0, 100_000, 65_537)])),
            ["`root:100000:65537` in /etc/subuid"]
        );
        // Root's own id needs no line.
        assert_eq!(ids.missing(&map(&[(user, 5, 0, 1), (group, 5, 0, 1)])), [""; 0]);
    }

    #[test]
    fn ranges_that_follow_each_other_are_one() {
        let users = SubRanges::parse(b"root:100000:10\nroot:100010:10\n");
        let ids = SubIds { users, ..SubIds::default() };
        assert_eq!(ids.missing(&map(&[(IdKind::User, 0, 100_005, 15)])), [""; 0]);
        assert_eq!(ids.missing(&map(&[(IdKind::User, 0, 100_005, 16)])).len(), 1);
    }

    #[test]
    fn a_file_that_nobody_asks_permits_all_and_one_that_is_unreadable_nothing() {
        assert_eq!(SubIds::default().missing(&IdMap::default_unprivileged()), [""; 0]);
        let unknown = || SubRanges::Unknown("permission denied".to_owned());
        let ids = SubIds { users: unknown(), groups: unknown() };
        assert_eq!(
            ids.missing(&IdMap::default_unprivileged()),
            [
                "what /etc/subuid says (permission denied)",
                "what /etc/subgid says (permission denied)"
            ]
        );
    }
}
