//! Id maps: which host id stands behind an id inside a container, and back.
//!
//! Proxmox's rule (`PVE::LXC::parse_id_maps`): the `lxc.idmap` lines of the current section,
//! else 0 -> 100000 for 65536 ids when the container is unprivileged, else the host's own ids.
//! A map may have several ranges, differ between users and groups, and have holes.

use std::fmt;

use crate::ids::HostIds;

/// Whether a range maps users or groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IdKind {
    /// A `u` line.
    User,
    /// A `g` line.
    Group,
}

impl IdKind {
    /// Returns the letter that stands for it in an `lxc.idmap` line.
    pub const fn letter(self) -> char {
        match self {
            Self::User => 'u',
            Self::Group => 'g',
        }
    }
}

/// One line of an id map: `count` ids from `container` on are the host's from `host` on.
///
/// The numbers are as written; Proxmox does not bound them when it reads a conf.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct IdRange {
    /// Users or groups.
    pub kind: IdKind,
    /// The first id inside the container.
    pub container: u64,
    /// The first id on the host.
    pub host: u64,
    /// How many ids.
    pub count: u64,
}

impl IdRange {
    /// Returns where `id` goes when a range of `count` from `from` is moved to `to`.
    fn shift(id: u32, from: u64, to: u64, count: u64) -> Option<u32> {
        let offset = u64::from(id).checked_sub(from).filter(|offset| *offset < count)?;
        u32::try_from(to.checked_add(offset)?).ok()
    }
}

impl fmt::Display for IdRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} {}", self.kind.letter(), self.container, self.host, self.count)
    }
}

/// Ids of a container that are not where they were.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    /// Users or groups.
    pub kind: IdKind,
    /// The first of them.
    pub first: u64,
    /// The last of them.
    pub last: u64,
}

impl Moved {
    /// Returns whether the container's root is among them.
    pub const fn has_root(&self) -> bool {
        self.first == 0
    }
}

impl fmt::Display for Moved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            IdKind::User => "user",
            IdKind::Group => "group",
        };
        match (self.first, self.last) {
            (first, last) if first == last => write!(f, "{kind} {first}"),
            (first, last) => write!(f, "{kind}s {first}-{last}"),
        }
    }
}

/// The ids of a container in terms of the host's.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct IdMap {
    ranges: Vec<IdRange>,
}

impl IdMap {
    /// Returns the map of these ranges, in this order.
    pub const fn new(ranges: Vec<IdRange>) -> Self {
        Self { ranges }
    }

    /// Returns the map of an unprivileged container without `lxc.idmap` lines.
    ///
    /// Hard-coded in Proxmox, which does not read `/etc/subuid` for it.
    pub fn default_unprivileged() -> Self {
        Self::single(100_000, 65_536)
    }

    /// Returns the map of a privileged container: every id is the host's.
    pub fn privileged() -> Self {
        // As `/proc/PID/uid_map` shows it: the last id is the kernel's "no id".
        Self::single(0, u64::from(u32::MAX))
    }

    /// Reads the map in force for a process from the text of `/proc/PID/uid_map` and `gid_map`.
    ///
    /// Returns `None` for what the kernel does not write, which includes a map that is not set yet.
    pub fn from_proc(uid_map: &str, gid_map: &str) -> Option<Self> {
        let mut ranges = proc_ranges(IdKind::User, uid_map)?;
        ranges.extend(proc_ranges(IdKind::Group, gid_map)?);
        Some(Self::new(ranges))
    }

    fn single(host: u64, count: u64) -> Self {
        let range = |kind| IdRange { kind, container: 0, host, count };
        Self::new(vec![range(IdKind::User), range(IdKind::Group)])
    }

    /// Returns the ranges in the order they were written.
    pub fn ranges(&self) -> &[IdRange] {
        &self.ranges
    }

    /// Returns the host id behind `id` inside the container, or `None` where there is a hole.
    ///
    /// Where two lines claim an id the later one counts, as it does for Proxmox's idea of root.
    pub fn host_id(&self, kind: IdKind, id: u32) -> Option<u32> {
        self.of(kind).rev().find_map(|r| IdRange::shift(id, r.container, r.host, r.count))
    }

    /// Returns the id inside the container that `host` appears as, or `None` for nobody.
    pub fn container_id(&self, kind: IdKind, host: u32) -> Option<u32> {
        self.of(kind).rev().find_map(|r| IdRange::shift(host, r.host, r.container, r.count))
    }

    /// Returns the host ids behind `uid` and `gid` inside the container.
    pub fn host_ids(&self, uid: u32, gid: u32) -> Option<HostIds> {
        Some(HostIds {
            uid: self.host_id(IdKind::User, uid)?,
            gid: self.host_id(IdKind::Group, gid)?,
        })
    }

    /// Returns whether a container with this map can own something with these host ids.
    pub fn can_own(&self, ids: HostIds) -> bool {
        self.container_id(IdKind::User, ids.uid).is_some()
            && self.container_id(IdKind::Group, ids.gid).is_some()
    }

    /// Returns whether both maps hold the same lines, in whatever order.
    pub fn same_mapping(&self, other: &Self) -> bool {
        let sorted = |map: &Self| {
            let mut ranges = map.ranges.clone();
            ranges.sort_by_key(|r| (r.kind, r.container, r.host, r.count));
            ranges
        };
        sorted(self) == sorted(other)
    }

    /// Returns the ids inside that have a host id here, and another one or none in `to`: files
    /// that belong to them would change their owner, though nothing on disk does.
    pub fn moved(&self, to: &Self) -> Vec<Moved> {
        let mut moved: Vec<Moved> = Vec::new();
        for kind in [IdKind::User, IdKind::Group] {
            // Between two of these all ids have one fate.
            let ends = |r: &IdRange| [r.container, r.container.saturating_add(r.count)];
            let mut bounds: Vec<u64> = self.of(kind).chain(to.of(kind)).flat_map(ends).collect();
            bounds.sort_unstable();
            bounds.dedup();
            for (first, end) in bounds.iter().zip(bounds.iter().skip(1)) {
                let Ok(id) = u32::try_from(*first) else { continue };
                let (was, is) = (self.host_id(kind, id), to.host_id(kind, id));
                if was.is_none() || was == is {
                    continue;
                }
                match moved.last_mut().filter(|m| m.kind == kind && m.last + 1 == *first) {
                    Some(before) => before.last = end - 1,
                    None => moved.push(Moved { kind, first: *first, last: end - 1 }),
                }
            }
        }
        moved
    }

    fn of(&self, kind: IdKind) -> impl DoubleEndedIterator<Item = &IdRange> {
        self.ranges.iter().filter(move |range| range.kind == kind)
    }
}

/// Reads the lines of one kind: id inside, id outside, count (`user_namespaces(7)`).
fn proc_ranges(kind: IdKind, text: &str) -> Option<Vec<IdRange>> {
    let range = |line: &str| {
        let numbers: Vec<u64> =
            line.split_ascii_whitespace().map(|n| n.parse().ok()).collect::<Option<_>>()?;
        let &[container, host, count] = numbers.as_slice() else { return None };
        Some(IdRange { kind, container, host, count })
    };
    let ranges: Vec<IdRange> = text.lines().map(range).collect::<Option<_>>()?;
    (!ranges.is_empty()).then_some(ranges)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(kind: IdKind, container: u64, host: u64, count: u64) -> IdRange {
        IdRange { kind, container, host, count }
    }

    #[test]
    fn a_hole_has_no_host_id_and_its_neighbours_do() {
        let map = IdMap::new(vec![
            range(IdKind::User, 1001, 101_001, 64_535),
            range(IdKind::User, 0, 100_000, 1000),
            range(IdKind::Group, 0, 100_000, 65_536),
        ]);
        assert_eq!(map.host_id(IdKind::User, 999), Some(100_999));
        assert_eq!(map.host_id(IdKind::User, 1000), None);
        assert_eq!(map.host_id(IdKind::User, 1001), Some(101_001));
        assert_eq!(map.container_id(IdKind::User, 101_000), None);
        assert_eq!(map.host_ids(0, 0), Some(HostIds::new(100_000, 100_000)));
        assert_eq!(map.host_ids(1000, 0), None);
    }

    #[test]
    fn ids_that_move_are_named_and_those_that_come_are_not() {
        let both = |ranges: &[(u64, u64, u64)]| {
            let of = |kind| ranges.iter().map(move |(c, h, n)| range(kind, *c, *h, *n));
            IdMap::new(of(IdKind::User).chain(of(IdKind::Group)).collect())
        };
        let moved = |from: &IdMap, to: &IdMap| -> Vec<String> {
            from.moved(to).iter().map(ToString::to_string).collect()
        };
        let default = IdMap::default_unprivileged();
        let hole = both(&[(0, 100_000, 1000), (1000, 1000, 1), (1001, 101_001, 64_535)]);
        assert_eq!(moved(&default, &hole), ["user 1000", "group 1000"]);
        assert_eq!(moved(&hole, &default), ["user 1000", "group 1000"]);
        let split = both(&[(0, 100_000, 40_000), (40_000, 140_000, 25_536)]);
        assert_eq!(moved(&default, &split), [""; 0]);
        let longer = both(&[(0, 100_000, 100_000)]);
        assert_eq!(moved(&default, &longer), [""; 0]);
        assert_eq!(moved(&longer, &default), ["users 65536-99999", "groups 65536-99999"]);
        let other = both(&[(0, 200_000, 1000), (1000, 201_000, 64_536)]);
        assert_eq!(moved(&default, &other), ["users 0-65535", "groups 0-65535"]);
        let users = IdMap::new(vec![range(IdKind::User, 0, 100_000, 65_536)]);
        assert_eq!(moved(&default, &users), ["groups 0-65535"]);
        assert_eq!(moved(&IdMap::privileged(), &default)[0], "users 0-4294967294");
    }

    #[test]
    fn the_last_line_for_root_decides() {
        let map = IdMap::new(vec![
            range(IdKind::User, 0, 100_000, 65_536),
            range(IdKind::User, 0, 200_000, 1),
        ]);
        assert_eq!(map.host_id(IdKind::User, 0), Some(200_000));
        assert_eq!(map.host_id(IdKind::User, 1), Some(100_001));
    }

    #[test]
    fn ranges_beyond_the_id_space_map_nothing_there() {
        let map = IdMap::new(vec![range(IdKind::User, 0, u64::MAX, u64::MAX)]);
        assert_eq!(map.host_id(IdKind::User, 1), None);
        let map = IdMap::new(vec![range(IdKind::User, 0, u64::from(u32::MAX), 10)]);
        assert_eq!(map.host_id(IdKind::User, 0), Some(u32::MAX));
        assert_eq!(map.host_id(IdKind::User, 1), None);
    }

    #[test]
    fn a_privileged_container_can_own_anything() {
        assert!(IdMap::privileged().can_own(HostIds::new(0, u32::MAX - 1)));
        assert!(!IdMap::default_unprivileged().can_own(HostIds::ROOT));
    }

    #[test]
    fn the_map_of_a_process_is_read() {
        let uid_map = "         0     100000       1000\n      1000       1000          1\n";
        let gid_map = "         0          0 4294967295\n";
        let map = IdMap::from_proc(uid_map, gid_map).unwrap();
        assert_eq!(map.host_ids(1000, 7), Some(HostIds::new(1000, 7)));
        assert_eq!(map.ranges().len(), 3);
        for bad in ["", "0 1\n", "0 0 x\n", "0 0 1 2\n", "\n"] {
            assert_eq!(IdMap::from_proc(uid_map, bad), None, "{bad:?}");
            assert_eq!(IdMap::from_proc(bad, gid_map), None, "{bad:?}");
        }
    }
}
