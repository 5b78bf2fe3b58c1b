//! The map of ids for one mount: from what is wanted on disk to Proxmox's `idmap=`, and back.
//!
//! Proxmox's rule (`PVE::LXC::resolve_mountpoint_idmap`): ids that the option names are on disk
//! where it says, all others where the container's own map has them; `passthrough` is the same id
//! inside and on disk. What the option names beyond the container's ids is cut off without a word.

use std::fmt::Write as _;

use crate::conf::{IdLine, MountIdMap};
use crate::idmap::{IdKind, IdMap, IdRange};

/// One more than the greatest id; `newuidmap` refuses what ends beyond, whatever its host id.
const END: u64 = 4_294_967_295;
/// The most lines the kernel takes for a map (`UID_GID_MAP_MAX_EXTENTS`).
const MOST_LINES: usize = 340;
/// A map is written in one write, which must be shorter than a page (`user_namespaces(7)`).
const MOST_BYTES: usize = 4095;

/// Why no option makes ids stand on disk as they should.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoOption {
    /// The container has ids that have no place on disk.
    #[error("{} {first} to {last} inside have no id on disk", plural(*.kind))]
    Outside {
        /// Users or groups.
        kind: IdKind,
        /// The first such id inside.
        first: u64,
        /// The last before one that has a place.
        last: u64,
    },
    /// Two ids would be one on disk.
    #[error("{} of different ids inside would be one id on disk", plural(*.0))]
    NotUnique(IdKind),
    /// An id on disk would be none.
    #[error("{} would have ids on disk above 4294967294", plural(*.0))]
    TooHigh(IdKind),
    /// More lines than the kernel takes.
    #[error("the map has more lines than the kernel takes (340, and 4095 bytes)")]
    TooLong,
}

const fn plural(kind: IdKind) -> &'static str {
    match kind {
        IdKind::User => "users",
        IdKind::Group => "groups",
    }
}

/// A part of a container's ids: where they are on disk by some lines, if those name them.
struct Part<'a> {
    first: u64,
    count: u64,
    line: Option<&'a IdRange>,
}

/// Cuts the ids of a range into parts that one line names, or none.
fn cut<'a>(own: &IdRange, lines: &[&'a IdRange]) -> Vec<Part<'a>> {
    let end = own.container.saturating_add(own.count).min(END);
    let mut parts = Vec::new();
    let mut first = own.container;
    while first < end {
        let line_end = |line: &IdRange| line.container.saturating_add(line.count);
        let here = lines.iter().find(|l| l.container <= first && first < line_end(l)).copied();
        let to = match here {
            Some(line) => line_end(line),
            None => lines.iter().map(|l| l.container).filter(|c| *c > first).min().unwrap_or(end),
        };
        let count = to.min(end) - first;
        parts.push(Part { first, count, line: here });
        first += count;
    }
    parts
}

fn of(map: &IdMap, kind: IdKind) -> Vec<&IdRange> {
    let mut ranges: Vec<&IdRange> =
        map.ranges().iter().filter(|r| r.kind == kind && r.count > 0).collect();
    ranges.sort_by_key(|range| range.container);
    ranges
}

/// The ids of `first` on, `count` many, where a line has them.
fn moved(line: &IdRange, first: u64, count: u64) -> IdRange {
    let host = line.host.saturating_add(first - line.container);
    IdRange { kind: line.kind, container: first, host, count }
}

/// Adds a range, to the one before where it goes on with that.
fn join(ranges: &mut Vec<IdRange>, next: IdRange) {
    match ranges.last_mut() {
        Some(last)
            if last.kind == next.kind
                && last.container + last.count == next.container
                && last.host.saturating_add(last.count) == next.host =>
        {
            last.count += next.count;
        }
        _ => ranges.push(next),
    }
}

/// Returns the same map in the order of the ids inside, users first, with as few ranges as there can be.
pub fn normal(map: &IdMap) -> IdMap {
    let mut ranges = Vec::new();
    for kind in [IdKind::User, IdKind::Group] {
        for range in of(map, kind) {
            join(&mut ranges, *range);
        }
    }
    IdMap::new(ranges)
}

/// Returns where a container's ids are on disk below a mount with this option, in normal form.
///
/// What other ids displace there is no longer anybody's: only ids that the container can own are
/// in it.
pub fn through(own: &IdMap, option: &MountIdMap) -> IdMap {
    let lines = match option {
        MountIdMap::Passthrough => {
            own.ranges().iter().map(|r| IdRange { host: r.container, ..*r }).collect()
        }
        MountIdMap::Lines(lines) => lines.iter().map(IdLine::range).collect(),
    };
    let lines = IdMap::new(lines);
    let mut ranges = Vec::new();
    for kind in [IdKind::User, IdKind::Group] {
        let named = of(&lines, kind);
        for range in of(own, kind) {
            for part in cut(range, &named) {
                join(&mut ranges, moved(part.line.unwrap_or(range), part.first, part.count));
            }
        }
    }
    IdMap::new(ranges)
}

/// Returns where a container's ids are in `space`, in normal form.
///
/// # Errors
///
/// An id of the container that has no place there, or no place of its own.
pub fn image(own: &IdMap, space: &IdMap) -> Result<IdMap, NoOption> {
    let mut ranges = Vec::new();
    for kind in [IdKind::User, IdKind::Group] {
        let lines = of(space, kind);
        for range in of(own, kind) {
            for part in cut(range, &lines) {
                let Some(line) = part.line else {
                    let (first, last) = (part.first, part.first + part.count - 1);
                    return Err(NoOption::Outside { kind, first, last });
                };
                join(&mut ranges, moved(line, part.first, part.count));
            }
        }
    }
    let image = IdMap::new(ranges);
    for kind in [IdKind::User, IdKind::Group] {
        let mut by_disk = of(&image, kind);
        if by_disk.iter().any(|range| range.host.saturating_add(range.count) > END) {
            return Err(NoOption::TooHigh(kind));
        }
        by_disk.sort_by_key(|range| range.host);
        if by_disk.windows(2).any(|pair| pair[0].host + pair[0].count > pair[1].host) {
            return Err(NoOption::NotUnique(kind));
        }
    }
    Ok(image)
}

/// Returns the shortest option with which a container's ids are on disk as in `image`; none where
/// they are without one. `image` is what [`image`] made of `own`.
///
/// Users and groups are always named together: what has an owner on disk and no group is written
/// by nobody.
///
/// # Errors
///
/// A map that the kernel would not take.
pub fn option(own: &IdMap, image: &IdMap) -> Result<Option<String>, NoOption> {
    if normal(own) == *image {
        return Ok(None);
    }
    if image.ranges().iter().all(|range| range.container == range.host) {
        return Ok(Some("passthrough".to_owned()));
    }
    let mut texts = Vec::new();
    for kind in [IdKind::User, IdKind::Group] {
        let whole = of(image, kind);
        let differing = differing(&of(own, kind), &whole);
        let (short, text) = (render(&differing), render(whole.iter().copied()));
        let is_shorter = !short.is_empty() && short.len() < text.len();
        let (named, text) =
            if is_shorter { (differing.iter().collect(), short) } else { (whole, text) };
        check_size(&of(own, kind), &named)?;
        texts.push(text);
    }
    Ok(Some(texts.join(";")))
}

/// Returns what of an image is elsewhere on disk than without an option.
fn differing(own: &[&IdRange], image: &[&IdRange]) -> Vec<IdRange> {
    let mut ranges = Vec::new();
    for range in own {
        for part in cut(range, image) {
            let Some(line) = part.line else { continue };
            let there = moved(line, part.first, part.count);
            if there.host != moved(range, part.first, part.count).host {
                join(&mut ranges, there);
            }
        }
    }
    ranges
}

fn render<'a>(ranges: impl IntoIterator<Item = &'a IdRange>) -> String {
    let mut text = String::new();
    for IdRange { kind, container, host, count } in ranges {
        let semicolon = if text.is_empty() { "" } else { ";" };
        // Writing to a text cannot fail.
        let _ = write!(text, "{semicolon}{}:{container}:{host}:{count}", kind.letter());
    }
    text
}

/// Checks that the kernel takes the map that Proxmox makes of these lines: from ids on disk to the
/// host's, with a line for every part of a range that is named, or is not.
fn check_size(own: &[&IdRange], named: &[&IdRange]) -> Result<(), NoOption> {
    let (mut lines, mut bytes) = (0, 0);
    for range in own {
        for part in cut(range, named) {
            let host = moved(range, part.first, part.count).host;
            let disk = moved(part.line.unwrap_or(range), part.first, part.count).host;
            lines += 1;
            bytes += format!("{disk} {host} {}\n", part.count).len();
        }
    }
    if lines > MOST_LINES || bytes > MOST_BYTES { Err(NoOption::TooLong) } else { Ok(()) }
}

/// Returns whether a version of pve-container knows the option; none for what is no version.
pub fn is_known_to(version: &str) -> Option<bool> {
    is_at_least(version, &[6, 1, 6])
}

/// Returns whether a version of LXC knows `idmap=` in a raw line; none for what is no version.
pub fn is_known_to_lxc(version: &str) -> Option<bool> {
    is_at_least(version, &[5])
}

/// Returns whether the properties of a mount point have the option, by what `pct help set` says of
/// them; none where it says nothing.
pub fn is_known_by(help: &str) -> Option<bool> {
    // The text is broken into lines between options, never in one.
    let (_, of_mount) = help.split_once(",mp=")?;
    let (properties, _) = of_mount.split_once(",size=")?;
    Some(properties.contains("[,idmap="))
}

fn is_at_least(version: &str, least: &[u64]) -> Option<bool> {
    let upstream = version.split_once(':').map_or(version, |(_epoch, rest)| rest);
    let upstream = upstream.split(['-', '+', '~']).next().unwrap_or_default();
    let parts: Option<Vec<u64>> = upstream.split('.').map(|part| part.parse().ok()).collect();
    Some(parts?.as_slice() >= least)
}

/// Returns in words where ids are on disk, for the ids an admin knows: those of root, of `www-data`
/// and of the first user that is made.
pub fn describe(image: &IdMap) -> String {
    if image.ranges().iter().all(|range| range.container == range.host) {
        return "every id inside is the same on disk".to_owned();
    }
    let at = |id: u32| Some((id, image.host_ids(id, id)?));
    let known = [0, 33, 1000].into_iter().filter_map(at);
    let each = known.map(|(id, ids)| match id {
        0 => format!("root inside is {ids} on disk"),
        id => format!("{id} is {ids}"),
    });
    each.collect::<Vec<_>>().join(", ")
}
