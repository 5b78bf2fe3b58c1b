//! Whose a volume is to be: the declared owner in terms of host ids, or why that cannot be told.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::acl::{Acl, Who};
use crate::conf::{Conf, MountLine};
use crate::desired::{Desired, Group, IdmapFallback, Mount, Owner, Volume};
use crate::idmap::{IdKind, IdMap};
use crate::ids::{Ctid, HostIds};
use crate::ledger::Memory;
use crate::observed::{ObservedContainer, Presence, Snapshot};
use crate::plan::container_map;
use crate::plan::convert;
use crate::plan::disk_ids::{self, InForce};
use crate::plan::hold::{Hold, NoMap, NotReady};
use crate::plan::lines;
use crate::plan::sharing;

/// `nobody:nogroup` of Debian, the seed's fallback.
const NOBODY: HostIds = HostIds::new(65_534, 65_534);

/// Whose a volume is to be, as far as anything is declared.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Whose {
    /// The owner; its group is the one below, where there is one.
    pub(crate) owner: Option<HostIds>,
    /// The group of every entry.
    pub(crate) group: Option<u32>,
    /// The default ACL of directories.
    pub(crate) default_acl: Option<Acl<u32>>,
}

/// Whether it is known whose a volume is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum OwnerDecision {
    /// It is.
    Known(Whose),
    /// Not known yet; waiting helps.
    Wait(Vec<Hold>),
    /// Not to be told; only a change of the declaration or of a container helps.
    Blocked(Hold),
    /// No container that counts for the volume exists, so there is nobody to own it for.
    NobodyHere,
}

impl OwnerDecision {
    /// Returns whose the volume is to be; nobody's in particular where nobody is here.
    ///
    /// # Errors
    ///
    /// Why that is not known.
    pub(super) fn known(self) -> Result<Whose, Vec<Hold>> {
        match self {
            Self::Known(whose) => Ok(whose),
            Self::NobodyHere => Ok(Whose::default()),
            Self::Wait(holds) => Err(holds),
            Self::Blocked(hold) => Err(vec![hold]),
        }
    }
}

/// Returns the maps of the containers that count for a volume, ready or not: those here that mount it,
/// and where all nodes see it, those of other nodes, by their confs.
pub(crate) fn maps_of(
    desired: &Desired,
    snapshot: &Snapshot,
    volume: &Volume,
) -> BTreeMap<Ctid, Result<IdMap, NotReady>> {
    let is_shared = sharing::is_shared(snapshot, volume);
    let mut maps = BTreeMap::new();
    for (ctid, mount) in &volume.mounts {
        match snapshot.containers.get(ctid) {
            // It will be back, with another map or this one, whatever is there of it now.
            Some(Presence::Here(_) | Presence::Absent)
                if convert::is_under_way(snapshot, *ctid) =>
            {
                maps.insert(*ctid, Err(NotReady::Converting));
            }
            Some(Presence::Here(container)) => {
                let map = container_map::written(desired, snapshot, *ctid, container);
                let mounted = || in_force_here(snapshot, *ctid, container, (volume, mount));
                let map = map.map(|map| {
                    disk_ids::declared_image(desired, snapshot, volume, mount, &map)
                        .unwrap_or_else(|| mounted().image(&map, &container.conf))
                });
                maps.insert(*ctid, map);
            }
            Some(Presence::OnNode(node)) if is_shared && volume.is_on(node) => {
                let map = match snapshot.elsewhere.get(ctid) {
                    Some(Ok(conf)) => container_map::elsewhere(desired, *ctid, conf).map(|map| {
                        disk_ids::declared_image(desired, snapshot, volume, mount, &map)
                            .unwrap_or_else(|| by_conf(conf, volume, mount).image(&map, conf))
                    }),
                    Some(Err(_)) | None => Err(NotReady::Unknown),
                };
                maps.insert(*ctid, map);
            }
            Some(Presence::Unknown(_)) | None => {
                maps.insert(*ctid, Err(NotReady::Unknown));
            }
            Some(Presence::OnNode(_) | Presence::Vm | Presence::Absent) => {}
        }
    }
    maps
}

/// Returns how a volume is mounted in a container here; that mount may have a map of its own.
fn in_force_here(
    snapshot: &Snapshot,
    ctid: Ctid,
    container: &ObservedContainer,
    (volume, mount): (&Volume, &Mount),
) -> InForce {
    let lines = lines::mounts_in_force(snapshot, ctid, container);
    disk_ids::in_force(&container.conf, lines, volume, mount)
}

/// Returns how a volume is mounted by a conf.
fn by_conf(conf: &Conf, volume: &Volume, mount: &Mount) -> InForce {
    let lines = MountLine::of(&conf.current).map(|(line, _)| line);
    disk_ids::in_force(conf, lines, volume, mount)
}

/// Returns the maps of everybody who may have files of their own below a volume: of the containers
/// as their mounts are declared to be, and as they are in force until then. None while one is not
/// known.
pub(crate) fn owning_maps(
    desired: &Desired,
    snapshot: &Snapshot,
    volume: &Volume,
) -> Option<Vec<IdMap>> {
    let mut all = Vec::new();
    for (ctid, map) in maps_of(desired, snapshot, volume) {
        let mount = volume.mounts.get(&ctid)?;
        let (conf, own, mounted) = match snapshot.containers.get(&ctid) {
            Some(Presence::Here(container)) => {
                let mounted = in_force_here(snapshot, ctid, container, (volume, mount));
                (&container.conf, container_map::of(desired, ctid, container), mounted)
            }
            Some(Presence::OnNode(_)) => {
                let conf = snapshot.elsewhere.get(&ctid)?.as_ref().ok()?;
                (conf, container_map::elsewhere(desired, ctid, conf), by_conf(conf, volume, mount))
            }
            _ => return None,
        };
        let is_declared = disk_ids::is_declared(volume, mount);
        let is_mounted = mounted != InForce::NotMounted;
        match map {
            Ok(map) => {
                all.push(map);
                if is_declared && is_mounted {
                    all.push(mounted.image(&own.ok()?, conf));
                }
            }
            // One that never had it mounted has nothing in it.
            Err(_) if is_declared && !is_mounted => {}
            Err(_) => return None,
        }
    }
    if all.is_empty() {
        all.extend(disk_ids::space_of(desired, snapshot, volume).and_then(Result::ok));
    }
    Some(all)
}

/// Decides whose a volume is to be.
pub(crate) fn decide(desired: &Desired, snapshot: &Snapshot, volume: &Volume) -> OwnerDecision {
    whose(desired, snapshot, volume).map_or_else(|not_known| not_known, OwnerDecision::Known)
}

/// Returns whose a volume is to be, or the decision that this is not known.
fn whose(desired: &Desired, snapshot: &Snapshot, volume: &Volume) -> Result<Whose, OwnerDecision> {
    if (volume.owner != Owner::Keep || volume.group.is_some())
        && let Some(hold) = disk_ids::blocked(desired, snapshot, volume)
    {
        return Err(OwnerDecision::Blocked(hold));
    }
    // What is declared of it as inside the containers, as one pair: all of them have to agree on both.
    let inside = match (&volume.owner, &volume.group) {
        (Owner::Container { uid, .. }, Some(Group::Container(gid)))
        | (Owner::Container { uid, gid }, _) => Some((*uid, *gid)),
        // Root is in every map.
        (Owner::Keep | Owner::Host { .. }, Some(Group::Container(gid))) => Some((0, *gid)),
        (Owner::Keep | Owner::Host { .. }, _) => None,
    };
    let inside = match inside {
        Some((uid, gid)) => Some(mapped(desired, snapshot, volume, HostIds::new(uid, gid))?),
        None => None,
    };
    let owner = match &volume.owner {
        Owner::Keep => None,
        Owner::Host { user, group } => Some(host_owner(snapshot, user, group.as_deref())?),
        Owner::Container { .. } => inside,
    };
    let group = match &volume.group {
        None => None,
        Some(Group::Container(_)) => inside.map(|ids| ids.gid),
        Some(Group::Host(name)) => Some(host_group(desired, snapshot, volume, name)?),
    };
    let owner = owner.map(|HostIds { uid, gid }| HostIds { uid, gid: group.unwrap_or(gid) });
    let default_acl = match &volume.default_acl {
        None => None,
        Some(acl) => Some(acl.resolve(|who, name| match who {
            Who::User(_) => user_id(snapshot, name),
            _ => group_id(snapshot, name),
        })?),
    };
    Ok(Whose { owner, group, default_acl })
}

/// Returns the host ids behind ids inside the containers.
fn mapped(
    desired: &Desired,
    snapshot: &Snapshot,
    volume: &Volume,
    inside: HostIds,
) -> Result<HostIds, OwnerDecision> {
    let HostIds { uid, gid } = inside;
    match disk_ids::space_of(desired, snapshot, volume) {
        None => container_owner(desired, snapshot, volume, inside),
        Some(Ok(space)) => {
            space.host_ids(uid, gid).ok_or(OwnerDecision::Blocked(Hold::IdmapImpossible {
                why: NoMap::OwnerOutside { uid, gid },
            }))
        }
        Some(Err(hold @ Hold::IdmapNotReady { .. })) => Err(OwnerDecision::Wait(vec![hold])),
        Some(Err(hold)) => Err(OwnerDecision::Blocked(hold)),
    }
}

fn host_owner(
    snapshot: &Snapshot,
    user: &str,
    group: Option<&str>,
) -> Result<HostIds, OwnerDecision> {
    let accounts = &snapshot.accounts;
    let uid = user_id(snapshot, user)?;
    let gid = match group {
        Some(name) => group_id(snapshot, name)?,
        // The group of the user's name, else the primary group: what `chown user:user` meant.
        None => accounts
            .groups
            .get(user)
            .copied()
            .or_else(|| accounts.users.get(user).map(|ids| ids.gid))
            .or_else(|| user.parse().ok())
            .ok_or_else(|| unknown("group", user))?,
    };
    Ok(HostIds::new(uid, gid))
}

/// Returns the id of the group that a volume names on the host.
///
/// Where ids on disk are those of a space, no container could write to what is in a group outside of
/// it (`HAS_UNMAPPED_ID` of the kernel).
fn host_group(
    desired: &Desired,
    snapshot: &Snapshot,
    volume: &Volume,
    name: &str,
) -> Result<u32, OwnerDecision> {
    let gid = group_id(snapshot, name)?;
    match disk_ids::space_of(desired, snapshot, volume) {
        Some(Ok(space)) if space.container_id(IdKind::Group, gid).is_none() => {
            Err(OwnerDecision::Blocked(Hold::IdmapImpossible { why: NoMap::GroupOutside { gid } }))
        }
        _ => Ok(gid),
    }
}

fn user_id(snapshot: &Snapshot, user: &str) -> Result<u32, OwnerDecision> {
    let known = snapshot.accounts.users.get(user).map(|ids| ids.uid);
    user.parse().ok().or(known).ok_or_else(|| unknown("user", user))
}

fn group_id(snapshot: &Snapshot, group: &str) -> Result<u32, OwnerDecision> {
    let known = snapshot.accounts.groups.get(group).copied();
    group.parse().ok().or(known).ok_or_else(|| unknown("group", group))
}

fn unknown(what: &'static str, name: &str) -> OwnerDecision {
    OwnerDecision::Blocked(Hold::UnknownAccount { what, name: name.to_owned() })
}

/// Returns the containers here that have no id for the group of a volume, so that nobody in them can
/// be in it.
pub(crate) fn outside_of_group(
    desired: &Desired,
    snapshot: &Snapshot,
    volume: &Volume,
    gid: u32,
) -> Vec<Ctid> {
    let maps = maps_of(desired, snapshot, volume).into_iter();
    let lacks = |map: Result<IdMap, NotReady>| {
        map.is_ok_and(|map| map.container_id(IdKind::Group, gid).is_none())
    };
    maps.filter_map(|(ctid, map)| lacks(map).then_some(ctid)).collect()
}

fn container_owner(
    desired: &Desired,
    snapshot: &Snapshot,
    volume: &Volume,
    inside: HostIds,
) -> Result<HostIds, OwnerDecision> {
    let mut maps = maps_of(desired, snapshot, volume);
    if let Some(decider) = volume.owner_ctid {
        let map = maps.remove(&decider).unwrap_or(Err(NotReady::NotHere));
        let map = map
            .map_err(|why| OwnerDecision::Wait(vec![Hold::IdmapNotReady { ctid: decider, why }]))?;
        return map
            .host_ids(inside.uid, inside.gid)
            .ok_or_else(|| OwnerDecision::Blocked(unmapped(decider, inside)));
    }
    if maps.is_empty() {
        return Err(OwnerDecision::NobodyHere);
    }
    let mut owners: Vec<(Ctid, HostIds)> = Vec::new();
    let mut waits: Vec<(Ctid, NotReady)> = Vec::new();
    for (ctid, map) in maps {
        match map {
            Err(why) => waits.push((ctid, why)),
            Ok(map) => match map.host_ids(inside.uid, inside.gid) {
                Some(ids) => owners.push((ctid, ids)),
                None => return Err(OwnerDecision::Blocked(unmapped(ctid, inside))),
            },
        }
    }
    if owners.windows(2).any(|pair| pair[0].1 != pair[1].1) {
        return Err(OwnerDecision::Blocked(Hold::OwnerConflict { owners }));
    }
    // A conversion takes as long as it takes, and pctd itself knows when it is over.
    let timed_out = waits
        .iter()
        .all(|(ctid, why)| *why != NotReady::Converting && waited_out(desired, snapshot, *ctid));
    match owners.first() {
        Some((_, ids)) if waits.is_empty() || timed_out => Ok(*ids),
        None if timed_out && may_fall_back(desired, snapshot, volume, &waits) => Ok(NOBODY),
        _ => Err(OwnerDecision::Wait(
            waits.into_iter().map(|(ctid, why)| Hold::IdmapNotReady { ctid, why }).collect(),
        )),
    }
}

fn unmapped(ctid: Ctid, inside: HostIds) -> Hold {
    Hold::IdUnmapped { ctid, uid: inside.uid, gid: inside.gid }
}

fn waited_out(desired: &Desired, snapshot: &Snapshot, ctid: Ctid) -> bool {
    let waited = snapshot.waited.get(&ctid).copied().unwrap_or(Duration::ZERO);
    waited >= desired.settings.idmap_timeout
}

/// Returns whether the seed's `nobody:nogroup` may stand in for maps that do not turn up.
///
/// Never for a volume that was owned before, or may have been for all that is remembered: its
/// services would lose their files.
fn may_fall_back(
    desired: &Desired,
    snapshot: &Snapshot,
    volume: &Volume,
    waits: &[(Ctid, NotReady)],
) -> bool {
    desired.settings.idmap_fallback == IdmapFallback::Nobody
        // There is nothing to share with nobody's group.
        && volume.group.is_none()
        && snapshot.memory == Memory::Whole
        && !snapshot.ledger.volumes.contains_key(&volume.name)
        && waits.iter().all(|(ctid, why)| {
            let present = match snapshot.containers.get(ctid) {
                Some(Presence::Here(container)) => container.conf.lock().is_none(),
                _ => false,
            };
            present && !matches!(why, NotReady::Busy | NotReady::Incomplete)
        })
}
