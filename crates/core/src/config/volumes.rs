//! `shared_volumes`: from a checked value to a volume with all its defaults.

use std::collections::{BTreeMap, BTreeSet};

use super::document::{Node, Spot};
use super::fields::VOLUME;
use super::report::{Complaint, Report};
use super::seed;
use super::shape::ALWAYS_ALLOWED;
use super::text::shown;
use super::{certificates, default_acl, disk_ids, owner, paths, syntax};
use crate::desired::{Enforce, Mechanism, Mount, MountIds, Owner, RequireMount, Volume};
use crate::ids::{Ctid, VolumeName};
use crate::modes::{FilePattern, ModeRule};

/// A volume and where it was declared.
#[derive(Debug)]
pub(super) struct Declared {
    pub(super) volume: Volume,
    /// Where it begins.
    pub(super) spot: Spot,
    /// Where its `host_path` is.
    pub(super) path_spot: Spot,
    pub(super) mount_spots: BTreeMap<Ctid, Spot>,
    /// The keys whose values nobody wrote: they come from the seed's defaults.
    pub(super) seeded: BTreeSet<&'static str>,
}

/// Returns the volumes of all files, by name.
pub(super) fn read(
    roots: &[Node<'_>],
    seed_defaults: bool,
    report: &mut Report<'_>,
) -> BTreeMap<VolumeName, Declared> {
    let mut volumes = BTreeMap::new();
    let mut first_at: BTreeMap<&str, Spot> = BTreeMap::new();
    let sections = roots.iter().filter_map(|root| root.get("shared_volumes"));
    for (key, key_spot, node) in sections.flat_map(|section| section.members()) {
        if ALWAYS_ALLOWED.contains(&key) || !VOLUME.claims(&node) {
            continue;
        }
        if let Some(first) = first_at.get(key) {
            let first = report.place(first).position();
            report.problem(
                &key_spot,
                Complaint::new(format!(
                    "the volume {} is there twice, first at {first}",
                    shown(key)
                ))
                .or("keep one of them, or rename one"),
            );
            continue;
        }
        first_at.insert(key, key_spot.clone());
        let Ok(name) = key.parse::<VolumeName>() else { continue };
        if let Some(declared) = volume(name.clone(), key_spot, &node, seed_defaults, report) {
            volumes.insert(name, declared);
        }
    }
    volumes
}

/// Returns the volume, or `None` where too little of it has the right shape; that was reported.
fn volume(
    name: VolumeName,
    spot: Spot,
    node: &Node<'_>,
    seed_defaults: bool,
    report: &mut Report<'_>,
) -> Option<Declared> {
    let path = node.get("host_path")?;
    let host_path = path.text()?.to_owned();
    let disk_ids = match disk_ids::read(node.get("disk_ids").as_ref(), report) {
        Some(MountIds::Disk(ids)) => Some(ids),
        Some(MountIds::Plain) | None => None,
    };
    let group = node.get("group").and_then(|node| owner::group(node.text()?).ok());
    let declared_owner = node
        .get("owner")
        .and_then(|node| owner::parse(node.text()?).ok())
        // The seed's nobody:nogroup is in no container's space, and no owner for what a group shares:
        // nobody can have meant that.
        .or_else(|| (disk_ids.is_some() || group.is_some()).then_some(Owner::Keep));
    let by_lxc = is_lxc(node).unwrap_or(false);
    let mut mounts = BTreeMap::new();
    let mut mount_spots = BTreeMap::new();
    for (key, key_spot, node) in node.get("mounts").iter().flat_map(Node::members) {
        if let (Ok(ctid), Some(mount)) = (key.parse::<Ctid>(), mount(&node, by_lxc, report)) {
            mounts.insert(ctid, mount);
            mount_spots.insert(ctid, key_spot);
        }
    }
    let modes = Modes::read(node, &name, seed_defaults);
    let enforce = match node.get("enforce").and_then(|node| node.text()) {
        Some("adopt") => Enforce::Adopt,
        Some("once") => Enforce::Once,
        Some("always") => Enforce::Always,
        _ => default_enforce(declared_owner.as_ref(), seed_defaults, !modes.seeded.is_empty()),
    };
    let mut seeded = modes.seeded;
    if seed_defaults && declared_owner.is_none() {
        seeded.insert("owner");
    }
    if enforce == Enforce::Once && !node.has("enforce") {
        seeded.insert("enforce");
    }
    let undeclared_owner = || if seed_defaults { seed::owner() } else { Owner::Keep };
    let flag = |key| node.get(key).and_then(|node| node.boolean());
    let mut volume = Volume {
        host_path,
        owner_ctid: node.get("owner_ctid").as_ref().and_then(ctid),
        owner: declared_owner.unwrap_or_else(undeclared_owner),
        group,
        default_acl: default_acl::read(node, &modes.dir, &modes.file, report),
        disk_ids,
        dir_mode: modes.dir,
        file_mode: modes.file,
        file_modes: modes.patterns,
        enforce,
        recurse: flag("recurse").unwrap_or(true),
        create: flag("create").unwrap_or(true),
        require_mount: require_mount(node),
        nodes: nodes(node),
        shared: flag("shared"),
        mounts,
        certificates: certificates::read(node, report),
        name,
    };
    certificates::keep_keys_closed(&mut volume, node, report);
    check_owner_ctid(&volume, node, report);
    disk_ids::check(&volume, &mounting(node), node, report);
    check_require_mount(&volume, node, report);
    check_nodes(node, report);
    Some(Declared { volume, spot, path_spot: path.spot, mount_spots, seeded })
}

/// What a volume enforces that does not say so.
///
/// An owner of the host is declared for every entry; in a container, services own what they make.
/// What only comes from the seed's defaults is done once, as the seed did it on every run, and never
/// again behind the back of whoever changed it since.
fn default_enforce(declared: Option<&Owner>, seed_defaults: bool, modes_seeded: bool) -> Enforce {
    match declared {
        Some(Owner::Container { .. }) => Enforce::Adopt,
        Some(Owner::Keep) if modes_seeded => Enforce::Once,
        None if seed_defaults => Enforce::Once,
        Some(Owner::Host { .. } | Owner::Keep) | None => Enforce::Always,
    }
}

struct Modes {
    dir: ModeRule,
    file: ModeRule,
    /// Longest first, then in the order of the alphabet.
    patterns: Vec<(FilePattern, ModeRule)>,
    /// What of it comes from the seed.
    seeded: BTreeSet<&'static str>,
}

impl Modes {
    fn read(node: &Node<'_>, name: &VolumeName, seed_defaults: bool) -> Self {
        let mode = |node: Node<'_>| node.text().and_then(|text| syntax::mode(text).ok());
        let dir = node.get("dir_mode").and_then(mode);
        let file = node.get("file_mode").and_then(mode);
        let mut patterns: BTreeMap<FilePattern, ModeRule> = BTreeMap::new();
        for (key, _, node) in node.get("file_modes").iter().flat_map(Node::members) {
            if ALWAYS_ALLOWED.contains(&key) {
                continue;
            }
            if let (Some(pattern), Some(mode)) = (FilePattern::new(key), mode(node)) {
                patterns.insert(pattern, mode);
            }
        }
        let mut seeded = BTreeSet::new();
        let (mut seed_dir, mut seed_file) = (ModeRule::Keep, ModeRule::Keep);
        if seed_defaults {
            let seed = seed::modes(name.as_str());
            (seed_dir, seed_file) = (seed.dir, seed.file);
            if dir.is_none() {
                seeded.insert("dir_mode");
            }
            // The patterns keep keys from the mode of other files, so they go where that goes.
            if file.is_none() {
                seeded.extend(["file_mode", "file_modes"]);
                for (pattern, mode) in seed.patterns {
                    patterns.entry(pattern).or_insert(mode);
                }
            }
        }
        let mut patterns: Vec<_> = patterns.into_iter().collect();
        patterns.sort_by_key(|(pattern, _)| std::cmp::Reverse(pattern.as_str().len()));
        Self { dir: dir.unwrap_or(seed_dir), file: file.unwrap_or(seed_file), patterns, seeded }
    }
}

/// Returns whether `mechanism` says that LXC makes a mount, where it says anything.
fn is_lxc(node: &Node<'_>) -> Option<bool> {
    node.get("mechanism")?.text().map(|word| word == "lxc")
}

/// Returns the mount that a text or object in `mounts` describes; `by_lxc` where it does not say who
/// makes it.
fn mount(node: &Node<'_>, by_lxc: bool, report: &mut Report<'_>) -> Option<Mount> {
    if let Some(path) = node.text() {
        let target = paths::target(path).ok()?;
        let mechanism = if by_lxc { Mechanism::Lxc { recursive: false } } else { Mechanism::Pct };
        return Some(Mount {
            target,
            options: BTreeMap::new(),
            idmap: None,
            adopt: false,
            mechanism,
        });
    }
    let by_lxc = is_lxc(node).unwrap_or(by_lxc);
    let recursive = node.get("recursive").and_then(|node| node.boolean()).unwrap_or(false);
    let idle: &[&str] = if by_lxc { &["shared", "backup"] } else { &["recursive"] };
    for key in idle {
        if let Some(at) = node.get(key) {
            let who = if by_lxc { "lxc" } else { "pct" };
            report.warn(&at.spot, format!("no effect on a mount of the mechanism \"{who}\""));
        }
    }
    let target = paths::target(node.get("path")?.text()?).ok()?;
    let mut options = BTreeMap::new();
    for (key, option) in [("read_only", "ro"), ("shared", "shared"), ("backup", "backup")] {
        if let Some(value) = node.get(key).and_then(|node| node.boolean()) {
            options.insert(option.to_owned(), if value { "1" } else { "0" }.to_owned());
        }
    }
    if let Some(list) = node.get("mount_options") {
        let words: BTreeSet<&str> = list.items().filter_map(|item| item.text()).collect();
        let words: Vec<&str> = words.into_iter().collect();
        options.insert("mountoptions".to_owned(), words.join(";"));
    }
    let adopt = node.get("adopt").and_then(|node| node.boolean()).unwrap_or(false);
    let idmap = disk_ids::read(node.get("idmap").as_ref(), report);
    let mechanism = if by_lxc { Mechanism::Lxc { recursive } } else { Mechanism::Pct };
    if by_lxc {
        // They are Proxmox's, for its own mount points.
        options.retain(|name, _| !matches!(name.as_str(), "shared" | "backup"));
    }
    Some(Mount { target, options, idmap, adopt, mechanism })
}

fn require_mount(node: &Node<'_>) -> RequireMount {
    let Some(node) = node.get("require_mount") else {
        // What all nodes see is not on the root disk of one: there it is only not mounted.
        let is_shared = node.get("shared").and_then(|node| node.boolean()) == Some(true);
        return if is_shared { RequireMount::NotRoot } else { RequireMount::No };
    };
    match (node.boolean(), node.text()) {
        (Some(true), _) => RequireMount::NotRoot,
        (_, Some(path)) => RequireMount::At(path.to_owned()),
        _ => RequireMount::No,
    }
}

fn nodes(node: &Node<'_>) -> BTreeSet<String> {
    let names = node.get("nodes");
    let names = names.iter().flat_map(Node::items).filter_map(|item| item.text());
    names.map(str::to_owned).collect()
}

/// Reads a container id written as text or as a number.
pub(super) fn ctid(node: &Node<'_>) -> Option<Ctid> {
    match node.text() {
        Some(text) => text.parse().ok(),
        None => u32::try_from(node.whole()?).ok().and_then(Ctid::new),
    }
}

/// Returns the containers that mount a volume, as far as their ids are any.
fn mounting(node: &Node<'_>) -> Vec<Ctid> {
    let mounts = node.get("mounts");
    mounts.iter().flat_map(Node::members).filter_map(|(key, ..)| key.parse().ok()).collect()
}

fn check_owner_ctid(volume: &Volume, node: &Node<'_>, report: &mut Report<'_>) {
    let (Some(owner_ctid), Some(at)) = (volume.owner_ctid, node.get("owner_ctid")) else { return };
    let mounting = mounting(node);
    if !mounting.contains(&owner_ctid) {
        let mounting: Vec<String> = mounting.iter().map(|ctid| format!("\"{ctid}\"")).collect();
        let complaint =
            Complaint::new(format!("the container {owner_ctid} does not mount this volume"));
        report.problem(
            &at.spot,
            if mounting.is_empty() {
                complaint
            } else {
                complaint.or(format!("write one of {}", mounting.join(", ")))
            },
        );
    } else if !volume.is_relative() {
        report.warn(&at.spot, "no effect: the owner is not one inside the containers");
    }
}

fn check_nodes(node: &Node<'_>, report: &mut Report<'_>) {
    let Some(at) = node.get("nodes") else { return };
    if at.items().next().is_none() {
        report.problem(
            &at.spot,
            Complaint::new("no node is named, so the volume would exist nowhere".to_owned())
                .or("name the nodes, or leave the key out for all of them"),
        );
    }
}

fn check_require_mount(volume: &Volume, node: &Node<'_>, report: &mut Report<'_>) {
    let (RequireMount::At(path), Some(at)) = (&volume.require_mount, node.get("require_mount"))
    else {
        return;
    };
    if !paths::is_within(&volume.host_path, path) {
        report.problem(
            &at.spot,
            Complaint::new(format!("{} is not above {}", shown(path), shown(&volume.host_path)))
                .or("write host_path itself or a directory above it"),
        );
    }
}
