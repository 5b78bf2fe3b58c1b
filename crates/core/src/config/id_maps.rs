//! `id_maps` of a definition: the whole id map of a container.
//!
//! A mistake in a map keeps a container from starting, so whatever the kernel or `newuidmap` would
//! refuse is refused here, with its place.

use std::collections::BTreeMap;

use super::document::{Node, Spot};
use super::report::{Complaint, Report};
use crate::idmap::{IdKind, IdMap, IdRange};

/// One more than the highest id there is: the highest 32-bit number is the kernel's "no id".
const END_OF_IDS: u64 = 4_294_967_295;

/// Where a range ends, the first id behind it.
const fn end(first: u64, range: &IdRange) -> u64 {
    first.saturating_add(range.count)
}

/// Returns the map, users first, each kind in the order of the ids inside; `None` where none is
/// declared, or something is wrong with it.
pub(super) fn read(definition: &Node<'_>, report: &mut Report<'_>) -> Option<IdMap> {
    let list = definition.get("id_maps")?;
    let items: Vec<Node<'_>> = list.items().collect();
    if items.is_empty() {
        return None;
    }
    if definition.get("unprivileged").and_then(|node| node.boolean()) == Some(false) {
        report.problem(
            &list.spot,
            Complaint::new("a privileged container has no id map")
                .or("leave one of \"id_maps\" and \"unprivileged\": false out"),
        );
        return None;
    }
    // Of an item with the wrong shape enough has been said, and nothing follows from the others.
    let ranges: Vec<(IdRange, Spot)> =
        items.iter().map(|item| Some((range(item)?, item.spot.clone()))).collect::<Option<_>>()?;
    let mut by_kind: BTreeMap<IdKind, Vec<(IdRange, Spot)>> = BTreeMap::new();
    for (range, spot) in ranges {
        by_kind.entry(range.kind).or_default().push((range, spot));
    }
    let mut sound = true;
    let mut complain = |spot: &Spot, complaint: Complaint| {
        sound = false;
        report.problem(spot, complaint);
    };
    for (kind, word) in [(IdKind::User, "uid"), (IdKind::Group, "gid")] {
        let Some(ranges) = by_kind.get_mut(&kind) else {
            let missing = Complaint::new(format!("no {word} is mapped"));
            complain(&list.spot, missing.or(format!("add entries with \"type\": \"{word}\"")));
            continue;
        };
        ranges.sort_by_key(|(range, _)| range.container);
        check(word, ranges, &mut complain);
    }
    let ranges = by_kind.into_values().flatten().map(|(range, _)| range).collect();
    sound.then(|| IdMap::new(ranges))
}

fn range(item: &Node<'_>) -> Option<IdRange> {
    let number = |key: &str| item.get(key)?.whole();
    let kind = match item.get("type")?.text()? {
        "uid" => IdKind::User,
        "gid" => IdKind::Group,
        _ => return None,
    };
    let (container, host) = (number("container_id")?, number("host_id")?);
    let count = number("size").filter(|count| *count > 0)?;
    Some(IdRange { kind, container, host, count })
}

/// Checks the ranges of one kind, which are sorted by the ids inside.
fn check(word: &str, ranges: &[(IdRange, Spot)], complain: &mut impl FnMut(&Spot, Complaint)) {
    for (range, spot) in ranges {
        for (side, first) in [("container_id", range.container), ("host_id", range.host)] {
            if end(first, range) > END_OF_IDS {
                let last = end(first, range) - 1;
                let message = format!("{word} {last} does not exist ({side} and size)");
                complain(spot, Complaint::new(message).or("make \"size\" smaller"));
            }
        }
    }
    if let Some((first, spot)) = ranges.first().filter(|(first, _)| first.container != 0) {
        let missing = gap(word, 0, first.container);
        complain(spot, Complaint::new(missing).or("map the ids of the container from 0 on"));
    }
    for pair in ranges.windows(2) {
        let [(before, _), (range, spot)] = pair else { continue };
        let next = end(before.container, before);
        if range.container > next {
            complain(spot, Complaint::new(gap(word, next, range.container)).or("map them as well"));
        } else if range.container < next {
            complain(spot, twice(word, "in the container", range.container, before));
        }
    }
    let mut by_host: Vec<&(IdRange, Spot)> = ranges.iter().collect();
    by_host.sort_by_key(|(range, _)| range.host);
    for pair in by_host.windows(2) {
        let [(before, _), (range, spot)] = pair else { continue };
        if range.host < end(before.host, before) {
            complain(spot, twice(word, "of the host", range.host, before));
        }
    }
}

fn gap(word: &str, first: u64, end: u64) -> String {
    match end - first {
        1 => format!("{word} {first} of the container is not mapped"),
        _ => format!("{word} {first} to {} of the container are not mapped", end - 1),
    }
}

fn twice(word: &str, side: &str, id: u64, other: &IdRange) -> Complaint {
    let IdRange { container, host, count, .. } = other;
    Complaint::new(format!(
        "{word} {id} {side} is mapped twice, also by the entry with container_id {container}, host_id {host} \
         and size {count}"
    ))
    .or("make one of them shorter")
}
