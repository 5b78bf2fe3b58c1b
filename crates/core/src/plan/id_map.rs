//! Whether an id map may take the place of another.
//!
//! A map says what the owners of files on a container's disks mean; changing it changes no file. So
//! a map is changed unasked only where no id that had a host id gets another one, or in a container
//! that pctd just made and that never ran. Naming a container says that more is meant, but only
//! `--yes` besides that its root file system is not its root's, or that lines of others go.

use crate::conf::{Conf, RawEdit, RawLine, Section};
use crate::desired::{ContainerDef, IdmapSource};
use crate::idmap::{IdMap, Moved};
use crate::ids::Ctid;
use crate::observed::{MapConsent, ObservedContainer, Running, Snapshot};
use crate::plan::hold::{Hold, MapChange};
use crate::plan::site::Site;

/// Returns the lines of a map.
pub(super) fn lines(map: &IdMap) -> Vec<RawLine> {
    map.ranges().iter().map(|range| RawLine::new(RawLine::IDMAP, range.to_string())).collect()
}

/// Returns whether a conf has this map, in whatever lines.
pub(super) fn is_in(conf: &Conf, map: &IdMap) -> bool {
    let is_same = |now: &IdMap| now.moved(map).is_empty() && map.moved(now).is_empty();
    conf.idmap_overlap().is_none() && conf.effective_idmap().as_ref().is_ok_and(is_same)
}

/// Returns the edit that gives a container the declared map, an empty one where it has it.
pub(super) fn plan(site: &Site<'_>, map: &IdMap) -> Result<RawEdit, Hold> {
    let conf = &site.container.conf;
    // One that is privileged has no map to be changed, and a hold of its own.
    if !conf.is_effectively_unprivileged() {
        return Ok(RawEdit::default());
    }
    let explicit = site.desired.settings.idmap_source == IdmapSource::Explicit;
    if is_in(conf, map) && (conf.has_custom_idmap() || !explicit) {
        return Ok(RawEdit::default());
    }
    let wanted = lines(map);
    let mut remove = Vec::new();
    for line in idmap_lines(&conf.current) {
        let line = line.map_err(|why| site.map_change(MapChange::NoLine(why)))?;
        if !wanted.contains(&line) {
            remove.push(line);
        }
    }
    let add = wanted.into_iter().filter(|line| !line.is_in(&conf.current)).collect();
    let edit = RawEdit { remove, add };
    judge(site, &edit, map)?;
    Ok(edit)
}

/// Judges an edit after which a container has this map.
pub(super) fn judge(site: &Site<'_>, edit: &RawEdit, map: &IdMap) -> Result<(), Hold> {
    let ctid = site.ctid;
    let consent = site.snapshot.requests.id_maps.get(&ctid);
    if consent != Some(&MapConsent::Any) {
        let now =
            of_files(site.container).map_err(|why| site.map_change(MapChange::Unreadable(why)))?;
        let moved = now.moved(map);
        let is_foreign =
            |line: &&RawLine| !site.is_fresh && !site.snapshot.ledger.is_own_line(ctid, line);
        let foreign: Vec<RawLine> = edit.remove.iter().filter(is_foreign).cloned().collect();
        let may_move = moved.is_empty() || site.is_fresh || consent.is_some();
        if !may_move || moved.iter().any(Moved::has_root) {
            return Err(site.map_change(MapChange::Moves { moved, foreign }));
        }
        if !foreign.is_empty() {
            return Err(site.map_change(MapChange::Foreign(foreign)));
        }
    }
    permitted(site.snapshot, ctid, map)
}

/// Returns why a container may not be made with its declared map, if so; `source` is what it would
/// be a clone of.
pub(super) fn unmakeable(
    snapshot: &Snapshot,
    def: &ContainerDef,
    source: Option<&Section>,
) -> Option<Hold> {
    let map = def.id_map.as_ref()?;
    // `pct create` unpacks for the default map, and a clone is a copy.
    let files = match source {
        Some(section) => section.effective_idmap().ok()?,
        None => IdMap::default_unprivileged(),
    };
    let moved = files.moved(map);
    if moved.iter().any(Moved::has_root) {
        return Some(Hold::IdmapChange { ctid: def.ctid, why: MapChange::Unmakeable(moved) });
    }
    permitted(snapshot, def.ctid, map).err()
}

/// Returns what of a map root may not map, if anything.
pub(super) fn permitted(snapshot: &Snapshot, ctid: Ctid, map: &IdMap) -> Result<(), Hold> {
    let missing = snapshot.sub_ids.missing(map);
    if missing.is_empty() { Ok(()) } else { Err(Hold::SubIdsMissing { ctid, missing }) }
}

/// Returns the map that the files of a container were made with: the one in force while it runs.
fn of_files(container: &ObservedContainer) -> Result<IdMap, String> {
    if let Running::Yes { map: Some(map), .. } = &container.running
        && !map.same_mapping(&IdMap::privileged())
    {
        return Ok(map.clone());
    }
    match container.conf.idmap_overlap() {
        Some(overlap) => Err(overlap),
        None => container.conf.effective_idmap().map_err(|error| error.to_string()),
    }
}

/// Returns the lines of the map in a section, or those that pctd cannot name.
pub(super) fn idmap_lines(
    section: &Section,
) -> impl Iterator<Item = Result<RawLine, String>> + use<'_> {
    section.lxc().iter().filter(|(key, _)| key == RawLine::IDMAP).map(|(key, value)| {
        let text = format!("{key}: {value}");
        text.parse().map_err(|_| format!("`{}` is none of its lines", text.escape_debug()))
    })
}
