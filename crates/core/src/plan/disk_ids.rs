//! Whose ids stand on the disk below a mount: what `disk_ids` of a volume and `idmap` of a mount
//! come to for each container, or why they come to nothing.

use std::collections::BTreeSet;

use crate::conf::{Conf, MountClass, MountIdMap, MountLine, MountPoint, normalise_path};
use crate::desired::{Desired, DiskIds, Mechanism, Mount, MountIds, Volume};
use crate::idmap::IdMap;
use crate::ids::{Ctid, HostIds};
use crate::ledger::{DiskRoot, LedgerEntry, Memory};
use crate::mount_map::{self, NoOption};
use crate::observed::{MappingSupport, ObservedContainer, Presence, Snapshot, SourceState};
use crate::plan::container_map;
use crate::plan::hold::{Hold, NoMap, NotReady, Unmappable};
use crate::plan::source;

/// What is the same inside and on disk, in Proxmox's words.
const PASSTHROUGH: &str = "passthrough";

/// What the `idmap=` of a mount is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum MountIdmap {
    /// Nobody says anything of it; one that pctd wrote goes.
    NotDeclared,
    /// Whatever puts the container's ids where they are declared to be.
    Declared(DeclaredIdmap),
}

/// Where the ids of a container are to be on disk below one mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DeclaredIdmap {
    /// The container's map, as its conf has it: that is what Proxmox works with.
    own: IdMap,
    /// Where those ids are on disk, in normal form.
    image: IdMap,
    /// The option that puts them there; none: they are there without one.
    pub(crate) option: Option<String>,
    /// Whether root of the host is among those whose files the container can make.
    pub(crate) reaches_root: bool,
    /// Whether the container runs with another map until it restarts.
    pub(crate) is_stale: bool,
    /// In words, where ids are on disk; nothing for a mount without a map.
    pub(crate) words: Option<String>,
}

impl DeclaredIdmap {
    /// Returns whether a mount point has ids where they are to be, in whatever words.
    pub(crate) fn fits(&self, mp: &MountPoint) -> bool {
        match mp.idmap() {
            None => self.option.is_none(),
            Some(option) => mount_map::through(&self.own, &option) == self.image,
        }
    }
}

/// What is declared of the ids of one mount.
enum Declared<'a> {
    Nothing,
    Plain,
    Disk(&'a DiskIds),
}

fn declared<'a>(volume: &'a Volume, mount: &'a Mount) -> Declared<'a> {
    match (&mount.idmap, &volume.disk_ids) {
        (Some(MountIds::Plain), _) => Declared::Plain,
        (Some(MountIds::Disk(ids)), _) | (None, Some(ids)) => Declared::Disk(ids),
        (None, None) => Declared::Nothing,
    }
}

/// Returns the space of all containers of a volume where one is declared, or why it is not known.
pub(crate) fn space_of(
    desired: &Desired,
    snapshot: &Snapshot,
    volume: &Volume,
) -> Option<Result<IdMap, Hold>> {
    let ids = volume.disk_ids.as_ref()?;
    Some(space(desired, snapshot, volume, ids))
}

fn space(
    desired: &Desired,
    snapshot: &Snapshot,
    volume: &Volume,
    ids: &DiskIds,
) -> Result<IdMap, Hold> {
    match ids {
        // The map of a privileged container is the same.
        DiskIds::Passthrough => Ok(IdMap::privileged()),
        DiskIds::Ranges(space) => Ok(space.clone()),
        DiskIds::Owner => root_on_disk(snapshot, volume).map(DiskIds::from_root),
        DiskIds::Container(ctid) => {
            let map = match snapshot.containers.get(ctid) {
                Some(Presence::Here(container)) => container_map::of(desired, *ctid, container),
                Some(Presence::OnNode(_)) => match snapshot.elsewhere.get(ctid) {
                    Some(Ok(conf)) => container_map::elsewhere(desired, *ctid, conf),
                    Some(Err(_)) => Err(NotReady::Unknown),
                    None => Err(NotReady::NotHere),
                },
                Some(Presence::Unknown(_)) | None => Err(NotReady::Unknown),
                Some(Presence::Vm | Presence::Absent) => Err(NotReady::NotHere),
            };
            map.map_err(|why| Hold::IdmapNotReady { ctid: *ctid, why })
        }
    }
}

/// Returns from which owner the ids of a volume are counted: the first that was seen.
///
/// Not that of an empty mount point whose disk is not there, nor the host's root, whom a directory
/// belongs to before anybody gave it away: every container would act with the host's ids. Nor, after
/// the ledger was lost, the one it has now, which may be of pctd's own making.
fn root_on_disk(snapshot: &Snapshot, volume: &Volume) -> Result<HostIds, Hold> {
    if let Some(root) = remembered(snapshot, volume) {
        return Ok(root.ids);
    }
    let impossible =
        |why: fn(String) -> NoMap| Hold::IdmapImpossible { why: why(volume.host_path.clone()) };
    let source = snapshot.volumes.get(&volume.name).map(|observed| &observed.source);
    let Some(SourceState::Directory(dir)) = source else {
        return Err(impossible(|path| NoMap::NoOwner { path }));
    };
    if let Some(hold) = source::unfit(snapshot, volume, &dir.file_system) {
        return Err(hold);
    }
    if snapshot.memory != Memory::Whole {
        return Err(impossible(|path| NoMap::OwnerForgotten { path }));
    }
    if dir.ids.uid == 0 || dir.ids.gid == 0 {
        return Err(impossible(|path| NoMap::HostsRoot { path }));
    }
    Ok(dir.ids)
}

fn remembered<'a>(snapshot: &'a Snapshot, volume: &Volume) -> Option<&'a DiskRoot> {
    let root = snapshot.ledger.disk_roots.get(&volume.name)?;
    (root.path == volume.host_path).then_some(root)
}

/// Returns whether ids of a volume or of one of its mounts are counted from its owner.
pub(crate) fn counts_from_owner(volume: &Volume) -> bool {
    let of_mount = |mount: &Mount| mount.idmap == Some(MountIds::Disk(DiskIds::Owner));
    volume.disk_ids == Some(DiskIds::Owner) || volume.mounts.values().any(of_mount)
}

/// Returns what to remember of the owner of a volume, before anything rests on it.
pub(crate) fn record(snapshot: &Snapshot, volume: &Volume) -> Option<LedgerEntry> {
    let name = &volume.name;
    if !counts_from_owner(volume) {
        let is_known = snapshot.ledger.disk_roots.contains_key(name);
        return is_known.then(|| LedgerEntry::DiskRootForgotten(name.clone()));
    }
    if remembered(snapshot, volume).is_some() {
        return None;
    }
    let ids = root_on_disk(snapshot, volume).ok()?;
    let root = DiskRoot { path: volume.host_path.clone(), ids };
    Some(LedgerEntry::DiskRootSeen { volume: name.clone(), root })
}

/// Returns where a container has its ids on disk by the declaration, for owners: none where nothing
/// is declared, and where nothing comes of it.
pub(crate) fn declared_image(
    desired: &Desired,
    snapshot: &Snapshot,
    volume: &Volume,
    mount: &Mount,
    own: &IdMap,
) -> Option<IdMap> {
    match declared(volume, mount) {
        Declared::Nothing => None,
        Declared::Plain => Some(mount_map::normal(own)),
        Declared::Disk(ids) => {
            let space = space(desired, snapshot, volume, ids).ok()?;
            mount_map::image(own, &space).ok()
        }
    }
}

/// Returns whether anything is declared of the ids of a mount.
pub(crate) fn is_declared(volume: &Volume, mount: &Mount) -> bool {
    !matches!(declared(volume, mount), Declared::Nothing)
}

/// Decides on the `idmap=` of one mount.
///
/// # Errors
///
/// Why the mount may not be written; a container that does not start is worse than `nobody`.
pub(crate) fn decide(
    desired: &Desired,
    snapshot: &Snapshot,
    volume: &Volume,
    (ctid, mount): (Ctid, &Mount),
    container: &ObservedContainer,
) -> Result<MountIdmap, Hold> {
    let ids = match declared(volume, mount) {
        Declared::Nothing => return Ok(MountIdmap::NotDeclared),
        Declared::Plain => None,
        Declared::Disk(ids) => Some(ids),
    };
    let waits_for = |ctid, why| Hold::IdmapImpossible {
        why: NoMap::NotReady { ctid, target: mount.target.clone(), why },
    };
    let not_ready = |why| waits_for(ctid, why);
    container_map::written(desired, snapshot, ctid, container).map_err(not_ready)?;
    let conf = &container.conf;
    let own =
        conf.effective_idmap().map_err(|error| not_ready(NotReady::Invalid(error.to_string())))?;
    let is_stale = container_map::waits_for_restart(container);
    let plain = |words| DeclaredIdmap {
        image: mount_map::normal(&own),
        own: own.clone(),
        option: None,
        reaches_root: false,
        is_stale,
        words,
    };
    let Some(ids) = ids else { return Ok(MountIdmap::Declared(plain(None))) };
    let space = space(desired, snapshot, volume, ids).map_err(|hold| match hold {
        Hold::IdmapNotReady { ctid, why } => waits_for(ctid, why),
        hold => hold,
    })?;
    if !conf.is_effectively_unprivileged() {
        // Proxmox ignores the option there: ids on disk are what they are inside.
        return if space.ranges().iter().all(|range| range.container == range.host) {
            let words = mount_map::describe(&own);
            Ok(MountIdmap::Declared(plain(Some(words))))
        } else {
            Err(Hold::IdmapImpossible { why: NoMap::Privileged { ctid } })
        };
    }
    let impossible = |why: NoOption| Hold::IdmapImpossible {
        why: NoMap::NoOption { ctid, target: mount.target.clone(), why },
    };
    let image = mount_map::image(&own, &space).map_err(impossible)?;
    let option = mount_map::option(&own, &image).map_err(impossible)?;
    if let Some(option) = &option {
        if option != PASSTHROUGH && mount.mechanism != Mechanism::Pct {
            let why = NoMap::ByLxc { ctid, target: mount.target.clone() };
            return Err(Hold::IdmapImpossible { why });
        }
        if let Some(why) = unsupported(snapshot, volume, mount.mechanism) {
            return Err(Hold::IdmapUnsupported { why });
        }
        // The container's own map serves for that word, without any tool.
        let missing = snapshot.sub_ids.missing(&own);
        if option != PASSTHROUGH && !missing.is_empty() {
            return Err(Hold::IdmapUnsupported { why: Unmappable::SubIds { ctid, missing } });
        }
    }
    let words = Some(mount_map::describe(&image));
    let reaches_root = image.ranges().iter().any(|range| range.host == 0);
    Ok(MountIdmap::Declared(DeclaredIdmap { own, image, option, reaches_root, is_stale, words }))
}

/// Returns what stands in the way of any `idmap=` on mounts of a volume that are made so.
fn unsupported(snapshot: &Snapshot, volume: &Volume, by: Mechanism) -> Option<Unmappable> {
    let lacks = |support: Option<&MappingSupport>| match support {
        Some(MappingSupport::Yes) => None,
        Some(MappingSupport::No(why)) => Some(why.clone()),
        Some(MappingSupport::NotAsked) | None => Some("nobody looked yet".to_owned()),
    };
    let of_maker = match by {
        Mechanism::Pct => {
            lacks(Some(&snapshot.mapping.proxmox)).map(|why| Unmappable::Proxmox { why })
        }
        Mechanism::Lxc { .. } => {
            lacks(Some(&snapshot.mapping.lxc)).map(|why| Unmappable::Lxc { why })
        }
    };
    let observed = snapshot.volumes.get(&volume.name);
    let of_file_system = || {
        let why = lacks(observed.map(|observed| &observed.mapping))?;
        let file_system = observed.and_then(|observed| observed.source.file_system());
        let kind = file_system.map_or("the file system", |found| found.kind.as_str());
        let path = volume.host_path.clone();
        Some(Unmappable::FileSystem { path, kind: kind.to_owned(), why })
    };
    let of_whole = || {
        let is_whole = by == Mechanism::Lxc { recursive: true };
        let nested = observed.filter(|observed| is_whole && observed.nested.is_some())?;
        let why = lacks(Some(&nested.mapping_whole))?;
        Some(Unmappable::Whole { path: volume.host_path.clone(), why })
    };
    of_maker.or_else(of_file_system).or_else(of_whole)
}

/// Returns why owners may not be set by the ids of a volume, if so: below mounts that cannot have a
/// map they would be nobody's in the containers that need one.
pub(crate) fn blocked(desired: &Desired, snapshot: &Snapshot, volume: &Volume) -> Option<Hold> {
    let holds = volume.mounts.iter().filter_map(|(ctid, mount)| {
        let Some(Presence::Here(container)) = snapshot.containers.get(ctid) else { return None };
        decide(desired, snapshot, volume, (*ctid, mount), container).err()
    });
    let is_of_volume = |hold: &Hold| {
        // The other kind is one container's.
        let Hold::IdmapUnsupported { why } = hold else { return false };
        !matches!(why, Unmappable::SubIds { .. })
    };
    holds.into_iter().find(is_of_volume)
}

/// Returns the unprivileged containers here whose root can make files of the host's root below a
/// volume.
pub(crate) fn reaching_root(
    desired: &Desired,
    snapshot: &Snapshot,
    volume: &Volume,
) -> BTreeSet<Ctid> {
    let reaches = |ctid: &Ctid, mount: &Mount| {
        let Some(Presence::Here(container)) = snapshot.containers.get(ctid) else { return false };
        let decided = decide(desired, snapshot, volume, (*ctid, mount), container);
        matches!(decided, Ok(MountIdmap::Declared(map)) if map.reaches_root)
    };
    volume
        .mounts
        .iter()
        .filter(|(ctid, mount)| reaches(ctid, mount))
        .map(|(ctid, _)| *ctid)
        .collect()
}

/// How a volume is mounted at its declared target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum InForce {
    /// It is not.
    NotMounted,
    /// With this map of ids, if with any.
    Mounted(Option<MountIdMap>),
}

impl InForce {
    /// Returns where the ids of a container with this map are on disk.
    pub(crate) fn image(&self, own: &IdMap, conf: &Conf) -> IdMap {
        match self {
            // Proxmox ignores it in privileged containers.
            Self::Mounted(Some(option)) if conf.is_effectively_unprivileged() => {
                mount_map::through(own, option)
            }
            Self::Mounted(_) | Self::NotMounted => own.clone(),
        }
    }
}

/// Returns how a volume is mounted in a container by a mount point of its conf, or by one of these
/// lines.
pub(crate) fn in_force(
    conf: &Conf,
    lines: impl IntoIterator<Item = MountLine>,
    volume: &Volume,
    mount: &Mount,
) -> InForce {
    let is_it = |mp: &&MountPoint| {
        mp.class == MountClass::Bind
            && normalise_path(&mp.volume) == volume.host_path.as_bytes()
            && normalise_path(&mp.target) == mount.target.as_bytes()
    };
    let mut mounts = conf.mounts().values().filter_map(|entry| entry.parsed.as_ref().ok());
    if let Some(mp) = mounts.find(is_it) {
        return InForce::Mounted(mp.idmap());
    }
    let is_line = |line: &MountLine| {
        line.source == volume.host_path.as_str() && line.target == mount.target.as_str()
    };
    let line = lines.into_iter().find(is_line);
    line.map_or(InForce::NotMounted, |line| InForce::Mounted(line.idmap()))
}
