//! `disk_ids` of a volume and `idmap` of a mount as an admin writes them.

use super::document::Node;
use super::report::{Complaint, Report};
use super::text::{nearest, shown};
use crate::desired::{DiskIds, MountIds, Volume};
use crate::idmap::{IdKind, IdMap, IdRange};
use crate::ids::Ctid;

/// The words that are no ranges.
const WORDS: [&str; 2] = ["passthrough", "owner"];
/// One more than the greatest id: the last number is the kernel's "no id".
const END: u64 = 4_294_967_295;

/// Returns what a text says of the ids on disk.
pub(super) fn parse(text: &str) -> Result<DiskIds, Complaint> {
    match text {
        "passthrough" => return Ok(DiskIds::Passthrough),
        "owner" => return Ok(DiskIds::Owner),
        _ => {}
    }
    if let Some(ctid) = text.strip_prefix("container:") {
        let ctid = ctid.parse::<Ctid>().map_err(|_| {
            Complaint::new(format!("{} names no container", shown(text)))
                .or("write \"container:CTID\", such as \"container:953\"")
        })?;
        return Ok(DiskIds::Container(ctid));
    }
    if let Some(word) = nearest(text, WORDS) {
        return Err(Complaint::new(format!("{} says nothing of ids on disk", shown(text)))
            .or(format!("did you mean \"{word}\"?")));
    }
    Ok(DiskIds::Ranges(whole(vec![range(text)?])?))
}

/// Returns what a text says of one mount.
pub(super) fn parse_mount(text: &str) -> Result<MountIds, Complaint> {
    if text == "none" { Ok(MountIds::Plain) } else { parse(text).map(MountIds::Disk) }
}

/// Reads one range, for users and groups alike where it names neither.
pub(super) fn range(text: &str) -> Result<Vec<IdRange>, Complaint> {
    let invalid = || {
        Complaint::new(format!("{} is no range of ids", shown(text))).or(
            "write \"INSIDE DISK COUNT\" such as \"0 100000 65536\", with \"u \" or \"g \" before it for users or groups alone",
        )
    };
    let mut words: Vec<&str> = text.split_ascii_whitespace().collect();
    let kinds: &[IdKind] = match words.first() {
        Some(&"u") => &[IdKind::User],
        Some(&"g") => &[IdKind::Group],
        _ => &[IdKind::User, IdKind::Group],
    };
    if kinds.len() == 1 {
        words.remove(0);
    }
    let number = |word: &&str| {
        let plain =
            word.bytes().all(|b| b.is_ascii_digit()) && (*word == "0" || !word.starts_with('0'));
        plain.then(|| word.parse::<u64>().ok()).flatten()
    };
    let numbers: Option<Vec<u64>> = words.iter().map(number).collect();
    let Some(&[container, host, count]) = numbers.as_deref() else { return Err(invalid()) };
    let is_beyond = |first: u64| first.checked_add(count).is_none_or(|end| end > END);
    if count == 0 || is_beyond(container) || is_beyond(host) {
        return Err(Complaint::new(format!("{} is outside of what ids there are", shown(text)))
            .or("write at least one id, and none above 4294967294"));
    }
    Ok(kinds.iter().map(|kind| IdRange { kind: *kind, container, host, count }).collect())
}

/// Returns the space of these ranges: users and groups, and no id twice on either side.
fn whole(ranges: Vec<Vec<IdRange>>) -> Result<IdMap, Complaint> {
    let ranges: Vec<IdRange> = ranges.into_iter().flatten().collect();
    for (kind, what) in [(IdKind::User, "user"), (IdKind::Group, "group")] {
        let of_kind: Vec<&IdRange> = ranges.iter().filter(|range| range.kind == kind).collect();
        if of_kind.is_empty() {
            // A file whose owner has a place and whose group has none can be written by nobody.
            return Err(Complaint::new(format!("no {what} has an id on disk"))
                .or("name ranges for users and groups, or leave the letter out"));
        }
        for (i, one) in of_kind.iter().enumerate() {
            for other in &of_kind[i + 1..] {
                let overlap = |a: u64, b: u64| a < b + other.count && b < a + one.count;
                let side = if overlap(one.container, other.container) {
                    "inside"
                } else if overlap(one.host, other.host) {
                    "on disk"
                } else {
                    continue;
                };
                return Err(Complaint::new(format!(
                    "\"{one}\" and \"{other}\" have a {what} in common {side}"
                ))
                .or("give every id one place"));
            }
        }
    }
    Ok(IdMap::new(ranges))
}

/// Returns what `disk_ids` of a volume or `idmap` of a mount says, and reports a list whose ranges
/// do not go together; everything else was reported.
pub(super) fn read(node: Option<&Node<'_>>, report: &mut Report<'_>) -> Option<MountIds> {
    let node = node?;
    if let Some(text) = node.text() {
        return parse_mount(text).ok();
    }
    let ranges: Option<Vec<_>> = node.items().map(|item| range(item.text()?).ok()).collect();
    match whole(ranges?) {
        Ok(space) => Some(MountIds::Disk(DiskIds::Ranges(space))),
        Err(complaint) => {
            report.problem(&node.spot, complaint);
            None
        }
    }
}

/// Reports what the ids on disk of a volume and its mounts contradict; these containers mount it.
pub(super) fn check(volume: &Volume, mounting: &[Ctid], node: &Node<'_>, report: &mut Report<'_>) {
    let check_one = |ids: &DiskIds, at: &Node<'_>, report: &mut Report<'_>| {
        let DiskIds::Container(ctid) = ids else { return };
        if !mounting.contains(ctid) {
            report.problem(
                &at.spot,
                Complaint::new(format!("the container {ctid} does not mount this volume"))
                    .or("name one that does, or write its ids as a range"),
            );
        }
    };
    if let (Some(ids), Some(at)) = (&volume.disk_ids, node.get("disk_ids")) {
        check_one(ids, &at, report);
    }
    for (key, _, mount) in node.get("mounts").iter().flat_map(Node::members) {
        let declared = key.parse().ok().and_then(|ctid: Ctid| volume.mounts.get(&ctid));
        if let (Some(MountIds::Disk(ids)), Some(at)) =
            (declared.and_then(|mount| mount.idmap.as_ref()), mount.get("idmap"))
        {
            check_one(ids, &at, report);
        }
    }
    if let (Some(_), Some(at)) = (&volume.disk_ids, node.get("owner_ctid")) {
        report.warn(&at.spot, "no effect: disk_ids says for all containers which ids are on disk");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both(container: u64, host: u64, count: u64) -> Vec<IdRange> {
        let range = |kind| IdRange { kind, container, host, count };
        vec![range(IdKind::User), range(IdKind::Group)]
    }

    #[test]
    fn ids_on_disk_are_read_as_the_manual_says() {
        let ctid = Ctid::new(953).unwrap();
        for (text, ids) in [
            ("passthrough", DiskIds::Passthrough),
            ("owner", DiskIds::Owner),
            ("container:953", DiskIds::Container(ctid)),
            ("0 100000 65536", DiskIds::Ranges(IdMap::new(both(0, 100_000, 65_536)))),
            ("0  0\t4294967295", DiskIds::Ranges(IdMap::new(both(0, 0, END)))),
        ] {
            assert_eq!(parse(text), Ok(ids), "{text}");
        }
        assert_eq!(parse_mount("none"), Ok(MountIds::Plain));
    }

    #[test]
    fn what_says_nothing_of_ids_on_disk_is_refused() {
        for text in [
            "",
            "none",
            "Passthrough",
            "passthru",
            "container:",
            "container:99",
            "u 0 100000 65536",
            "0 100000",
            "0 100000 65536 1",
            "0 100000 0",
            "0 00 1",
            "-1 0 1",
            "b 0 100000 65536",
            "0 4294967295 1",
            "4294967290 0 6",
            "0 18446744073709551615 2",
            "0:100000:65536",
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn ranges_have_users_and_groups_and_no_id_twice() {
        let space = |texts: &[&str]| {
            whole(texts.iter().map(|text| range(text).unwrap()).collect()).map(|_| ())
        };
        let message = |texts: &[&str]| space(texts).unwrap_err().into_line();
        assert_eq!(space(&["u 0 100000 65536", "g 0 5000 1000", "g 1000 7000 64536"]), Ok(()));
        assert!(message(&["u 0 100000 65536"]).starts_with("no group has an id on disk"));
        assert!(message(&[]).starts_with("no user has an id on disk"));
        assert!(
            message(&["0 100000 1000", "u 999 5000 1"]).starts_with(
                "\"u 0 100000 1000\" and \"u 999 5000 1\" have a user in common inside"
            )
        );
        assert!(
            message(&["0 100000 1000", "g 1000 100999 1"]).contains("a group in common on disk")
        );
    }
}
