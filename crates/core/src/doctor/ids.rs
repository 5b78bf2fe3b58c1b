//! An id map in words.

use crate::idmap::{IdKind, IdMap, IdRange};

/// The highest id that containers commonly use; what lies above is rarely missed.
const COMMON: u64 = 65_535;

/// Returns which id inside is which on the host.
pub(super) fn words(map: &IdMap) -> String {
    let (users, groups) = (of(map, IdKind::User), of(map, IdKind::Group));
    if pairs(&users) == pairs(&groups) {
        return format!("container ids {}", list(&users));
    }
    format!("container uids {}; gids {}", list(&users), list(&groups))
}

/// Returns which ids below the highest of the map have none on the host.
pub(super) fn holes(map: &IdMap) -> Option<String> {
    let missing = |kind| {
        let mut next = 0;
        let mut holes = Vec::new();
        for range in of(map, kind) {
            if range.container > next && next <= COMMON {
                holes.push(span(next, range.container - next));
            }
            next = next.max(range.container.saturating_add(range.count));
        }
        if next <= COMMON {
            holes.push(span(next, COMMON + 1 - next));
        }
        holes.join(", ")
    };
    let (users, groups) = (missing(IdKind::User), missing(IdKind::Group));
    let nobody = "have no id on the host, and whatever would be theirs is nobody's";
    match (users.as_str(), groups.as_str()) {
        ("", "") => None,
        (users, groups) if users == groups => Some(format!("container ids {users} {nobody}")),
        (users, "") => Some(format!("container uids {users} {nobody}")),
        ("", groups) => Some(format!("container gids {groups} {nobody}")),
        (users, groups) => Some(format!("container uids {users} and gids {groups} {nobody}")),
    }
}

fn of(map: &IdMap, kind: IdKind) -> Vec<IdRange> {
    let mut ranges: Vec<IdRange> =
        map.ranges().iter().copied().filter(|range| range.kind == kind).collect();
    ranges.sort_by_key(|range| range.container);
    ranges
}

fn pairs(ranges: &[IdRange]) -> Vec<(u64, u64, u64)> {
    ranges.iter().map(|range| (range.container, range.host, range.count)).collect()
}

fn list(ranges: &[IdRange]) -> String {
    let one =
        |r: &IdRange| format!("{} = host {}", span(r.container, r.count), span(r.host, r.count));
    let all: Vec<String> = ranges.iter().map(one).collect();
    if all.is_empty() { "none".to_owned() } else { all.join(", ") }
}

fn span(first: u64, count: u64) -> String {
    match count {
        0 | 1 => first.to_string(),
        _ => format!("{first}-{}", first.saturating_add(count - 1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(ranges: &[(IdKind, u64, u64, u64)]) -> IdMap {
        let range = |&(kind, container, host, count): &_| IdRange { kind, container, host, count };
        IdMap::new(ranges.iter().map(range).collect())
    }

    #[test]
    fn ranges_and_their_holes_are_put_into_words() {
        let default = IdMap::default_unprivileged();
        assert_eq!(words(&default), "container ids 0-65535 = host 100000-165535");
        assert_eq!(holes(&default), None);
        let both = |container, host, count| {
            [IdKind::User, IdKind::Group].map(|kind| (kind, container, host, count))
        };
        let custom = [both(1000, 1000, 1), both(0, 100_000, 1000), both(1002, 101_002, 64_534)];
        let custom = map(&custom.concat());
        assert_eq!(
            words(&custom),
            "container ids 0-999 = host 100000-100999, 1000 = host 1000, 1002-65535 = host 101002-165535"
        );
        let nobody = "have no id on the host, and whatever would be theirs is nobody's";
        assert_eq!(holes(&custom), Some(format!("container ids 1001 {nobody}")));
        let odd = map(&[(IdKind::User, 0, 5, 10), (IdKind::Group, 0, 7, 65_536)]);
        assert_eq!(words(&odd), "container uids 0-9 = host 5-14; gids 0-65535 = host 7-65542");
        assert_eq!(holes(&odd), Some(format!("container uids 10-65535 {nobody}")));
    }
}
