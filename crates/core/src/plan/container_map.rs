//! The id map of one container: the one it uses, or what that lacks.
//!
//! Whatever is owned or mounted through a map that is not there, or that will not stay, is done with
//! wrong ids. So every doubt is a [`NotReady`] here, and nothing is guessed.

use crate::conf::Conf;
use crate::desired::{Desired, IdmapSource};
use crate::idmap::IdMap;
use crate::ids::Ctid;
use crate::observed::{ObservedContainer, Running, Snapshot};
use crate::plan::hold::NotReady;
use crate::plan::id_map;

/// Returns the id map a container uses, or what it lacks.
///
/// The map in force wins over the conf while the container runs: files are created with it.
pub(crate) fn of(
    desired: &Desired,
    ctid: Ctid,
    container: &ObservedContainer,
) -> Result<IdMap, NotReady> {
    let conf = &container.conf;
    let stopped = container.running == Running::No;
    whole(conf)?;
    // `pct create` drops the lock line while it still works; only its flock tells (PROXMOX.md 7).
    if stopped && container.flock_held {
        return Err(NotReady::Busy);
    }
    let declared = declared_map(desired, ctid, conf)?;
    match &container.running {
        // While a container starts, its monitor's children still have the host's ids. Taking those
        // for the container's would give its volumes to the host's root.
        Running::Yes { map: Some(map), .. }
            if conf.is_effectively_unprivileged() && map.same_mapping(&IdMap::privileged()) =>
        {
            Err(NotReady::Starting)
        }
        Running::Yes { map: Some(map), .. } => Ok(map.clone()),
        Running::Yes { map: None, .. } => Err(NotReady::InForceUnknown),
        Running::No => Ok(declared),
    }
}

/// Returns the map a container uses; one that was just made and does not have its declared map yet
/// has none: what is owned through another one would be owned twice.
pub(super) fn written(
    desired: &Desired,
    snapshot: &Snapshot,
    ctid: Ctid,
    container: &ObservedContainer,
) -> Result<IdMap, NotReady> {
    let map = of(desired, ctid, container)?;
    let declared = desired.containers.get(&ctid).and_then(|def| def.id_map.as_ref());
    let is_fresh = snapshot.ledger.making.contains_key(&ctid) && container.running == Running::No;
    if is_fresh && declared.is_some_and(|declared| !id_map::is_in(&container.conf, declared)) {
        return Err(NotReady::NotWritten);
    }
    Ok(map)
}

/// Returns the map of a container of another node, by its conf.
pub(super) fn elsewhere(desired: &Desired, ctid: Ctid, conf: &Conf) -> Result<IdMap, NotReady> {
    whole(conf)?;
    declared_map(desired, ctid, conf)
}

/// Returns whether a conf is no longer being made.
fn whole(conf: &Conf) -> Result<(), NotReady> {
    if conf.lock().is_some_and(|lock| *lock == "create") {
        return Err(NotReady::BeingCreated);
    }
    if !conf.has_rootfs() {
        return Err(NotReady::Incomplete);
    }
    Ok(())
}

/// Returns the id map that a conf declares.
fn declared_map(desired: &Desired, ctid: Ctid, conf: &Conf) -> Result<IdMap, NotReady> {
    let wants_unprivileged =
        desired.containers.get(&ctid).and_then(|def| def.unprivileged).unwrap_or(false);
    if wants_unprivileged && !conf.is_effectively_unprivileged() {
        return Err(NotReady::Privileged);
    }
    if desired.settings.idmap_source == IdmapSource::Explicit && !conf.has_custom_idmap() {
        return Err(NotReady::NotExplicit);
    }
    let declared = conf.effective_idmap().map_err(|error| NotReady::Invalid(error.to_string()))?;
    match conf.idmap_overlap() {
        Some(overlap) => Err(NotReady::Invalid(overlap)),
        None => Ok(declared),
    }
}

/// Returns whether a running container still uses another map than its conf holds.
pub(crate) fn waits_for_restart(container: &ObservedContainer) -> bool {
    let Running::Yes { map: Some(in_force), .. } = &container.running else { return false };
    container.conf.effective_idmap().is_ok_and(|declared| !in_force.same_mapping(&declared))
}
