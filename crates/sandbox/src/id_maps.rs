//! Id maps as `newuidmap` and the kernel judge them, and the map of a single mount.
//!
//! `PVE::LXC::resolve_mountpoint_idmap`; shadow's `newuidmap`/`newgidmap`, which want every host
//! range in `/etc/subuid` and `/etc/subgid`, root's too; and the kernel, which takes no
//! overlapping ranges.

use bstr::BString;
use pctd_core::conf::{IdLine, MountIdMap, Section};
use pctd_core::idmap::{IdKind, IdRange};

use crate::file;
use crate::paths::Root;

/// Returns Proxmox's message about entries that overlap (`validate_id_maps`).
pub(crate) fn overlap(lines: &[IdLine]) -> Option<String> {
    let mut section = Section::default();
    let line = |line: &IdLine| ("lxc.idmap".to_owned(), BString::from(line.to_string()));
    section.set_lxc(lines.iter().map(line).collect());
    section.idmap_overlap()
}

/// Returns the map for `mount_setattr`: ids on disk to ids of the host.
///
/// For every range of the container's own map: ids that the mount names are moved, all others
/// stay where they are.
pub(crate) fn resolve(container: &[IdRange], mount: &MountIdMap) -> Result<Vec<IdRange>, String> {
    let lines = match mount {
        MountIdMap::Passthrough => return Ok(container.to_vec()),
        MountIdMap::Lines(lines) => lines,
    };
    if let Some(message) = overlap(lines) {
        return Err(format!("{message}\n"));
    }
    let mut resolved = Vec::new();
    for kind in [IdKind::User, IdKind::Group] {
        let mut exceptions: Vec<IdRange> =
            lines.iter().map(IdLine::range).filter(|range| range.kind == kind).collect();
        exceptions.sort_by_key(|range| range.container);
        for own in container.iter().filter(|range| range.kind == kind) {
            resolve_range(own, &exceptions, &mut resolved);
        }
    }
    Ok(resolved)
}

fn resolve_range(own: &IdRange, exceptions: &[IdRange], resolved: &mut Vec<IdRange>) {
    let end = own.container.saturating_add(own.count);
    let host = |id: u64| own.host.saturating_add(id - own.container);
    let stay = |from: u64, to: u64| IdRange {
        kind: own.kind,
        container: host(from),
        host: host(from),
        count: to - from,
    };
    let mut next = own.container;
    for moved in exceptions {
        let moved_end = moved.container.saturating_add(moved.count);
        if moved.container >= end || moved_end <= own.container {
            continue;
        }
        let (first, last) = (moved.container.max(own.container), moved_end.min(end));
        if next < first {
            resolved.push(stay(next, first));
        }
        let disk = moved.host.saturating_add(first - moved.container);
        resolved.push(IdRange {
            kind: own.kind,
            container: disk,
            host: host(first),
            count: last - first,
        });
        next = last;
    }
    if next < end {
        resolved.push(stay(next, end));
    }
}

/// What became of making a user namespace with a map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused {
    /// What the tool says on stderr.
    pub(crate) output: String,
    /// The error of the command that was run.
    pub(crate) error: String,
}

/// Writes a map into a user namespace as `newgidmap` and `newuidmap` would, groups first
/// (`PVE::LXC::Namespaces::new_userns`).
pub(crate) fn install(root: &Root, map: &[IdRange]) -> Result<(), Refused> {
    let tools = [
        (IdKind::Group, "newgidmap", "gid", "etc/subgid"),
        (IdKind::User, "newuidmap", "uid", "etc/subuid"),
    ];
    for (kind, tool, name, allowed) in tools {
        let ranges: Vec<&IdRange> = map.iter().filter(|range| range.kind == kind).collect();
        if let Err(output) = judge(&ranges, tool, name, &sub_ids(root, allowed)) {
            let numbers: Vec<String> = ranges
                .iter()
                .map(|range| format!("{} {} {}", range.container, range.host, range.count))
                .collect();
            let (pid, numbers) = (std::process::id(), numbers.join(" "));
            let error = format!("command '{tool} {pid} {numbers}' failed: exit code 1\n");
            return Err(Refused { output, error });
        }
    }
    Ok(())
}

/// Returns what the tool complains of, if it does.
fn judge(ranges: &[&IdRange], tool: &str, name: &str, subids: &[(u64, u64)]) -> Result<(), String> {
    let end = |first: u64, range: &IdRange| first.saturating_add(range.count);
    if ranges.iter().any(|range| end(range.container, range) > u64::from(u32::MAX)) {
        return Err(format!("{tool}: sub{name} overflow detected.\n"));
    }
    for range in ranges {
        // A process may always map its own id.
        let own = range.count == 1 && range.host == 0;
        if !own && !is_listed(range, subids) {
            let (inside, outside) = (range.container, range.host);
            return Err(format!(
                "{tool}: {name} range [{inside}-{}) -> [{outside}-{}) not allowed\n",
                end(inside, range),
                end(outside, range)
            ));
        }
    }
    let lines: Vec<IdLine> = ranges
        .iter()
        .map(|range| IdLine {
            kind: range.kind,
            container: range.container.to_string(),
            host: range.host.to_string(),
            count: range.count.to_string(),
        })
        .collect();
    if lines.is_empty() || overlap(&lines).is_some() {
        return Err(format!("{tool}: write to {name}_map failed: Invalid argument\n"));
    }
    Ok(())
}

/// Returns whether every id of the host in a range is listed, in one line or in several that follow
/// each other (`have_range`).
fn is_listed(range: &IdRange, subids: &[(u64, u64)]) -> bool {
    let end = range.host.saturating_add(range.count);
    let mut next = range.host;
    while next < end {
        let holds = |(first, count): &&(u64, u64)| (*first..first + count).contains(&next);
        let Some((first, count)) = subids.iter().find(holds) else { return false };
        next = first + count;
    }
    true
}

/// Returns root's ranges in a `subuid(5)` file as first id and count.
fn sub_ids(root: &Root, name: &str) -> Vec<(u64, u64)> {
    let content = file::read(&root.path().join(name)).ok().flatten().unwrap_or_default();
    String::from_utf8_lossy(&content)
        .lines()
        .filter_map(|line| {
            let mut fields = line.trim().split(':');
            matches!(fields.next()?, "root" | "0").then_some(())?;
            Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use pctd_core::conf::MountPoint;

    fn range(text: &str) -> IdRange {
        let fields: Vec<&str> = text.split(' ').collect();
        let kind = if fields[0] == "u" { IdKind::User } else { IdKind::Group };
        let number = |index: usize| fields[index].parse().unwrap();
        IdRange { kind, container: number(1), host: number(2), count: number(3) }
    }

    fn ranges(texts: &[&str]) -> Vec<IdRange> {
        texts.iter().map(|text| range(text)).collect()
    }

    fn resolved(own: &[&str], mount: &str) -> Result<Vec<String>, String> {
        let mount = MountPoint::parse(format!("/a,mp=/a,idmap={mount}").as_bytes()).unwrap();
        let map = resolve(&ranges(own), &mount.idmap().unwrap())?;
        Ok(map.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn ids_a_mount_does_not_name_stay() {
        let own = ["u 0 100000 65536", "g 0 100000 65536"];
        assert_eq!(
            resolved(&own, "u:5:200000:1;g:0:5000:70000").unwrap(),
            [
                "u 100000 100000 5",
                "u 200000 100005 1",
                "u 100006 100006 65530",
                "g 5000 100000 65536"
            ]
        );
        assert_eq!(resolved(&own, "passthrough").unwrap(), own);
        assert_eq!(
            resolved(&own, "u:0:5000:1;u:33:5000:1").unwrap_err(),
            "invalid map entry 'u 33 5000 1': host uid 5000 is also mapped by entry 'u 0 5000 1'\n"
        );
    }

    #[test]
    fn the_tools_want_listed_ids_and_the_kernel_no_overlap() {
        let subids = [(100_000, 65_536), (1000, 1)];
        let judge = |texts: &[&str]| {
            let ranges = ranges(texts);
            judge(&ranges.iter().collect::<Vec<_>>(), "newgidmap", "gid", &subids).err()
        };
        assert_eq!(judge(&["g 0 100000 65536"]), None);
        assert_eq!(
            judge(&["g 5000 200000 1"]).as_deref(),
            Some("newgidmap: gid range [5000-5001) -> [200000-200001) not allowed\n")
        );
        assert_eq!(
            judge(&["g 100005 100000 1", "g 100001 100001 65535"]).as_deref(),
            Some("newgidmap: write to gid_map failed: Invalid argument\n")
        );
        assert_eq!(
            judge(&["g 4294967295 100000 1"]).as_deref(),
            Some("newgidmap: subgid overflow detected.\n")
        );
        assert!(judge(&[]).is_some());
    }
}
