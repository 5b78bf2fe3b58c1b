//! `lxc_configs`: definitions of containers, and the volumes their `mount_points` stand for.

use std::collections::{BTreeMap, BTreeSet};

use super::definition;
use super::document::{Node, Spot};
use super::id_maps;
use super::paths;
use super::report::{Complaint, Report};
use super::volumes::{Declared, ctid as read_ctid};
use crate::desired::{
    ContainerDef, Convert, Enforce, Mechanism, Mount, Owner, RequireMount, Source, Volume,
};
use crate::ids::{Ctid, VolumeName};
use crate::modes::ModeRule;

/// A container and where it was defined.
#[derive(Debug)]
pub(super) struct Defined<'t> {
    pub(super) container: ContainerDef,
    pub(super) spot: Spot,
    node: Node<'t>,
}

/// Returns the containers of all files, by id.
pub(super) fn read<'t>(roots: &[Node<'t>], report: &mut Report<'_>) -> BTreeMap<Ctid, Defined<'t>> {
    let mut containers: BTreeMap<Ctid, Defined<'t>> = BTreeMap::new();
    let sections = roots.iter().filter_map(|root| root.get("lxc_configs"));
    for (key, spot, node) in sections.flat_map(|section| section.members()) {
        let Ok(ctid) = key.parse::<Ctid>() else { continue };
        if let Some(first) = containers.get(&ctid) {
            let first = report.place(&first.spot).position();
            report.problem(
                &spot,
                Complaint::new(format!("the container {ctid} is there twice, first at {first}"))
                    .or("keep one of them"),
            );
            continue;
        }
        let text = |key| node.get(key).and_then(|node| node.text()).filter(|text| !text.is_empty());
        let id_map = id_maps::read(&node, report);
        let unprivileged = node.get("unprivileged").and_then(|node| node.boolean());
        let container = ContainerDef {
            ctid,
            name: text("name").map(str::to_owned),
            // Only one that is unprivileged has a map.
            unprivileged: unprivileged.or_else(|| id_map.as_ref().map(|_| true)),
            id_map,
            convert: convert(&node, report),
            source: text("template").map(|template| Source::Template(template.to_owned())),
            definition: definition::read(&node),
        };
        containers.insert(ctid, Defined { container, spot, node });
    }
    set_clone_sources(&mut containers, report);
    containers
}

/// Returns how the container may be converted.
fn convert(node: &Node<'_>, report: &mut Report<'_>) -> Option<Convert> {
    let at = node.get("convert")?;
    let storage = at.get("backup_storage")?.text()?.to_owned();
    if !node.has("unprivileged") {
        report.warn(
            &at.spot,
            "there is nothing to convert to: `unprivileged` says what the container is to be",
        );
    }
    Some(Convert { backup_storage: storage })
}

/// Resolves `clone_from_ctid`, for which the source's own definition may name the snapshot.
fn set_clone_sources(containers: &mut BTreeMap<Ctid, Defined<'_>>, report: &mut Report<'_>) {
    let sources: BTreeMap<Ctid, Ctid> = containers
        .iter()
        .filter_map(|(ctid, defined)| {
            Some((*ctid, read_ctid(&defined.node.get("clone_from_ctid")?)?))
        })
        .collect();
    for (&ctid, &from) in &sources {
        let snapshot = containers
            .get(&from)
            .and_then(|source| source.node.get("template_snapshot_name")?.text())
            .filter(|name| !name.is_empty())
            .map(str::to_owned);
        let Some(defined) = containers.get_mut(&ctid) else { continue };
        let Some(at) = defined.node.get("clone_from_ctid") else { continue };
        if let Some(Source::Template(_)) = &defined.container.source {
            report.warn(
                &at.spot,
                "both a template and a container to clone: the template is not used",
            );
        }
        defined.container.source = Some(Source::Clone { from, snapshot });
        if clones_itself(ctid, &sources) {
            report.problem(
                &at.spot,
                Complaint::new(format!("the container {ctid} would be a clone of itself"))
                    .or("clone one of them from another container or a template"),
            );
        }
    }
}

fn clones_itself(ctid: Ctid, sources: &BTreeMap<Ctid, Ctid>) -> bool {
    let mut seen = BTreeSet::new();
    let mut at = ctid;
    while let Some(&from) = sources.get(&at) {
        if from == ctid {
            return true;
        }
        if !seen.insert(from) {
            return false;
        }
        at = from;
    }
    false
}

/// An object of `mount_points`.
struct MountPoint {
    ctid: Ctid,
    index: usize,
    host_path: String,
    owner: Owner,
    target: String,
    spot: Spot,
    path_spot: Spot,
    target_spot: Spot,
}

/// Adds the volumes that `mount_points` stand for.
///
/// One directory with the same owner in several containers is one volume, as it is one tree to
/// walk; a second mount of it in one container needs a volume of its own.
pub(super) fn add_mount_points(
    containers: &BTreeMap<Ctid, Defined<'_>>,
    volumes: &mut BTreeMap<VolumeName, Declared>,
    report: &mut Report<'_>,
) {
    let mut points = Vec::new();
    for (ctid, defined) in containers {
        let list = defined.node.get("mount_points");
        for (index, item) in list.iter().flat_map(Node::items).enumerate() {
            points.extend(mount_point(*ctid, index, &item, report));
        }
    }
    let declared: Vec<VolumeName> = volumes.keys().cloned().collect();
    let mut made: Vec<VolumeName> = Vec::new();
    for point in points {
        if is_declared_already(&point, &declared, volumes, report) {
            continue;
        }
        let joins = made.iter().find(|name| {
            volumes.get(name).is_some_and(|other| {
                other.volume.host_path == point.host_path
                    && other.volume.owner == point.owner
                    && !other.volume.mounts.contains_key(&point.ctid)
            })
        });
        let name = match joins {
            Some(name) => name.clone(),
            None => match free_name(&point, volumes) {
                Some(name) => {
                    made.push(name.clone());
                    volumes.insert(name.clone(), declare(&point, name.clone()));
                    name
                }
                None => continue,
            },
        };
        if let Some(declared) = volumes.get_mut(&name) {
            let (target, options) = (point.target, BTreeMap::new());
            let mechanism = Mechanism::Pct;
            let mount = Mount { target, options, idmap: None, adopt: false, mechanism };
            declared.volume.mounts.insert(point.ctid, mount);
            declared.mount_spots.insert(point.ctid, point.target_spot);
        }
    }
}

fn mount_point(
    ctid: Ctid,
    index: usize,
    node: &Node<'_>,
    report: &mut Report<'_>,
) -> Option<MountPoint> {
    let id = |key| {
        let node: Option<Node<'_>> = node.get(key);
        node.and_then(|node| u32::try_from(node.whole()?).ok())
    };
    let owner = match (id("owner_uid"), id("owner_gid")) {
        (Some(uid), gid) => Owner::Container { uid, gid: gid.unwrap_or(uid) },
        (None, None) => Owner::Keep,
        (None, Some(gid)) => {
            if let Some(at) = node.get("owner_gid").filter(|_| !node.has("owner_uid")) {
                report.problem(
                    &at.spot,
                    Complaint::new("a group without a user")
                        .or(format!("add \"owner_uid\", such as {gid}")),
                );
            }
            return None;
        }
    };
    let (path, target) = (node.get("host_path")?, node.get("container_path")?);
    Some(MountPoint {
        ctid,
        index,
        owner,
        host_path: path.text()?.to_owned(),
        target: paths::target(target.text()?).ok()?,
        spot: node.spot.clone(),
        path_spot: path.spot,
        target_spot: target.spot,
    })
}

/// Returns whether a shared volume has this very mount, which then counts; a mount point that
/// contradicts it is reported.
fn is_declared_already(
    point: &MountPoint,
    declared: &[VolumeName],
    volumes: &BTreeMap<VolumeName, Declared>,
    report: &mut Report<'_>,
) -> bool {
    let same = declared.iter().filter_map(|name| volumes.get(name)).find(|other| {
        other.volume.host_path == point.host_path
            && other.volume.mounts.get(&point.ctid).is_some_and(|m| m.target == point.target)
    });
    let Some(other) = same else { return false };
    if point.owner != Owner::Keep && point.owner != other.volume.owner {
        let place = report.place(&other.spot).position();
        report.problem(
            &point.path_spot,
            Complaint::new(format!(
                "the volume `{}` ({place}) mounts this at the same path, for another owner",
                other.volume.name
            ))
            .or("leave one of them out, or give both the same owner"),
        );
    }
    true
}

/// Returns `ct<ctid>-<index>`, with a number behind it where a volume has that name; one more name
/// than there are volumes is tried, so that one is free.
fn free_name(point: &MountPoint, volumes: &BTreeMap<VolumeName, Declared>) -> Option<VolumeName> {
    let base = format!("ct{}-{}", point.ctid, point.index);
    std::iter::once(base.clone())
        .chain((2..volumes.len() + 3).map(|n| format!("{base}-{n}")))
        .filter_map(|name| name.parse().ok())
        .find(|name| !volumes.contains_key(name))
}

fn declare(point: &MountPoint, name: VolumeName) -> Declared {
    let enforce = match point.owner {
        Owner::Container { .. } => Enforce::Adopt,
        Owner::Keep | Owner::Host { .. } => Enforce::Always,
    };
    let volume = Volume {
        name,
        host_path: point.host_path.clone(),
        owner: point.owner.clone(),
        group: None,
        default_acl: None,
        owner_ctid: None,
        disk_ids: None,
        dir_mode: ModeRule::Keep,
        file_mode: ModeRule::Keep,
        file_modes: Vec::new(),
        enforce,
        recurse: true,
        create: true,
        require_mount: RequireMount::No,
        nodes: BTreeSet::new(),
        shared: None,
        mounts: BTreeMap::new(),
        certificates: Vec::new(),
    };
    Declared {
        volume,
        spot: point.spot.clone(),
        path_spot: point.path_spot.clone(),
        mount_spots: BTreeMap::new(),
        seeded: BTreeSet::new(),
    }
}
