//! Rules across volumes: one target, one source; one directory, one declaration.

use std::collections::BTreeMap;

use super::document::Spot;
use super::paths::is_within;
use super::report::{Complaint, Report};
use super::text::shown;
use super::volumes::Declared;
use crate::desired::{Mechanism, Mount, Owner, Volume};
use crate::ids::{Ctid, VolumeName};

/// The keys that say where a volume is and what becomes of its entries.
const DECLARATION: [&str; 10] = [
    "host_path",
    "owner",
    "group",
    "default_acl",
    "owner_ctid",
    "disk_ids",
    "dir_mode",
    "file_mode",
    "file_modes",
    "enforce",
];

/// Reports the volumes that contradict each other.
pub(super) fn check(volumes: &BTreeMap<VolumeName, Declared>, report: &mut Report<'_>) {
    check_targets(volumes, report);
    check_hidden(volumes, report);
    check_directories(volumes, report);
}

fn check_targets(volumes: &BTreeMap<VolumeName, Declared>, report: &mut Report<'_>) {
    let mut taken: BTreeMap<(Ctid, &str), Vec<(&Declared, &Spot)>> = BTreeMap::new();
    for (name, declared) in volumes {
        for (ctid, mount) in &declared.volume.mounts {
            let spot = declared.mount_spots.get(ctid).unwrap_or(&declared.spot);
            let before = taken.entry((*ctid, mount.target.as_str())).or_default();
            let meets = |(other, _): &&(&Declared, _)| meet(&other.volume, &declared.volume);
            let Some((other, first)) = before.iter().find(meets).copied() else {
                before.push((declared, spot));
                continue;
            };
            let first = report.place(first).position();
            report.problem(
                spot,
                Complaint::new(format!(
                    "the volumes `{}` ({first}) and `{name}` are both mounted at {} in the container {ctid}",
                    other.volume.name,
                    shown(&mount.target)
                ))
                .or("mount one of them at another path"),
            );
        }
    }
}

/// Returns whether there is a node on which both exist.
fn meet(a: &Volume, b: &Volume) -> bool {
    a.nodes.is_empty() || b.nodes.is_empty() || !a.nodes.is_disjoint(&b.nodes)
}

/// LXC mounts after Proxmox and in the order of its lines, so what lies below such a mount would be
/// hidden by it, or not, as the lines came about.
fn check_hidden(volumes: &BTreeMap<VolumeName, Declared>, report: &mut Report<'_>) {
    let all: Vec<(&Declared, Ctid, &Mount)> = volumes
        .values()
        .flat_map(|d| d.volume.mounts.iter().map(move |(ctid, mount)| (d, *ctid, mount)))
        .collect();
    let by_lxc = |mount: &Mount| matches!(mount.mechanism, Mechanism::Lxc { .. });
    for (outer, ctid, above) in all.iter().filter(|(_, _, mount)| by_lxc(mount)) {
        for (inner, _, mount) in all.iter().filter(|(_, other, _)| other == ctid) {
            if mount.target == above.target || !is_within(&mount.target, &above.target) {
                continue;
            }
            let spot = inner.mount_spots.get(ctid).unwrap_or(&inner.spot);
            report.problem(
                spot,
                Complaint::new(format!(
                    "the volume `{}`, which LXC mounts at {} in the container {ctid}, would hide this",
                    outer.volume.name,
                    shown(&above.target)
                ))
                .or("mount one of them elsewhere, or the outer one with \"mechanism\": \"pct\""),
            );
        }
    }
}

/// Two declarations that differ would undo each other's work for ever.
fn check_directories(volumes: &BTreeMap<VolumeName, Declared>, report: &mut Report<'_>) {
    // In this order everything below a directory follows it at once.
    let mut by_path: Vec<&Declared> =
        volumes.values().filter(|declared| report.is_sound(&declared.spot, &DECLARATION)).collect();
    by_path.sort_by_cached_key(|declared| {
        declared.volume.host_path.split('/').map(str::to_owned).collect::<Vec<_>>()
    });
    for (i, outer) in by_path.iter().enumerate() {
        let below = by_path[i + 1..]
            .iter()
            .take_while(|inner| is_within(&inner.volume.host_path, &outer.volume.host_path));
        for inner in below {
            check_pair(outer, inner, report);
        }
    }
}

fn check_pair(outer: &Declared, inner: &Declared, report: &mut Report<'_>) {
    let same_path = outer.volume.host_path == inner.volume.host_path;
    let (a, b) = (&outer.volume, &inner.volume);
    let shared = shared(a, b);
    if shared.is_empty() || (!same_path && !a.recurse) || !meet(a, b) {
        return;
    }
    let relation = if same_path { "is" } else { "lies in" };
    let place = report.place(&outer.path_spot).position();
    let related = format!(
        "{} {relation} the directory of the volume `{}` ({place})",
        shown(&b.host_path),
        a.name
    );
    let differs = |(key, differs): &(&'static str, bool)| differs.then_some(*key);
    let differing: Vec<&str> = shared.iter().filter_map(differs).collect();
    if differing.is_empty() {
        let relative = shared.iter().any(|(key, _)| *key == "owner_ctid") && a.is_relative();
        let is_settled = a.owner_ctid.is_some() || a.disk_ids.is_some();
        if relative && !is_settled && !a.mounts.keys().eq(b.mounts.keys()) {
            report.warn(
                &inner.path_spot,
                format!(
                    "{related} but is mounted in other containers: if their id maps differ, each undoes the \
                     other's owner"
                ),
            );
        }
        return;
    }
    let complaint = Complaint::new(format!("{related}, and their {} differ", differing.join(", ")));
    let complaint = if same_path {
        complaint.or("declare both alike, or make them one volume")
    } else {
        complaint.or(format!("declare both alike, or write \"recurse\": false for `{}`", a.name))
    };
    // What nobody wrote is no contradiction yet: files from before pctd must go on working.
    let seeded = |key: &&str| outer.seeded.contains(key) || inner.seeded.contains(key);
    if differing.iter().all(seeded) {
        report.warn(&inner.path_spot, complaint.into_line());
    } else {
        report.problem(&inner.path_spot, complaint);
    }
}

/// Returns the keys that both volumes declare, each with whether they do so differently; where one of
/// them keeps what is there, neither undoes the other.
fn shared(a: &Volume, b: &Volume) -> Vec<(&'static str, bool)> {
    let both = |sets: fn(&Volume) -> bool| sets(a) && sets(b);
    let sets_owner = |volume: &Volume| volume.owner != Owner::Keep;
    let sets_group = |volume: &Volume| volume.owner != Owner::Keep || volume.group.is_some();
    // A group is in the mode of directories as well.
    let sets_dirs = |volume: &Volume| !volume.dir_mode.is_keep() || volume.group.is_some();
    let sets_files = |volume: &Volume| {
        let keeps_named = volume.file_modes.iter().all(|(_, mode)| mode.is_keep());
        !volume.file_mode.is_keep() || !keeps_named
    };
    let is_grouped = a.group.is_some() || b.group.is_some();
    let mut keys = Vec::new();
    if both(sets_owner) {
        keys.push(("owner", a.owner != b.owner));
    }
    if is_grouped && (both(sets_group) || both(sets_dirs)) {
        keys.push(("group", a.group != b.group));
    }
    if !keys.is_empty() {
        keys.push(("owner_ctid", a.owner_ctid != b.owner_ctid));
        keys.push(("disk_ids", a.disk_ids != b.disk_ids));
    }
    if both(|volume| volume.default_acl.is_some()) {
        keys.push(("default_acl", a.default_acl != b.default_acl));
    }
    if both(|volume| !volume.dir_mode.is_keep()) {
        keys.push(("dir_mode", a.dir_mode != b.dir_mode));
    }
    if both(sets_files) {
        keys.push(("file_mode", a.file_mode != b.file_mode));
        keys.push(("file_modes", a.file_modes != b.file_modes));
    }
    if !keys.is_empty() {
        keys.push(("enforce", a.enforce != b.enforce));
    }
    keys
}
