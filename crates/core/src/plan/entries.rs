//! Mounts that LXC makes itself (`"mechanism": "lxc"`), as raw `lxc.mount.entry` lines.
//!
//! They do not stand in the way of snapshots and clones, and are seen by a start only. Nothing is
//! written where something else is mounted already, or whose source is not there.

use std::collections::BTreeMap;

use crate::conf::{Conf, MountLine, RawEdit, RawLine, normalise_path};
use crate::desired::{Mechanism, Mount, Volume};
use crate::ids::{Ctid, VolumeName};
use crate::plan::disk_ids::{self, MountIdmap};
use crate::plan::hold::Hold;
use crate::plan::planned::{ContainerPlan, Readiness, VolumePlan};
use crate::plan::site::Site;
use crate::plan::step::{EditConf, Step};

/// Plans the mounts of a container that LXC makes.
pub(super) fn plan(
    plan: &mut ContainerPlan,
    site: &Site<'_>,
    volumes: &BTreeMap<VolumeName, VolumePlan>,
) {
    let mut mounts: Vec<_> = declared(site).collect();
    mounts.sort_by(|(_, a, _), (_, b, _)| a.target.cmp(&b.target));
    for (volume, mount, recursive) in mounts {
        let (edit, ids) = match one(site, volume, mount, recursive) {
            Ok(planned) => planned,
            Err(hold) => {
                if !plan.holds.contains(&hold) {
                    plan.holds.push(hold);
                }
                continue;
            }
        };
        if disk_ids::counts_from_owner(volume) {
            plan.records.extend(disk_ids::record(site.snapshot, volume));
        }
        let Some(step) = site.step(edit) else { continue };
        let readiness = volumes.get(&volume.name).map_or(Readiness::Held, |v| v.readiness);
        if readiness == Readiness::Held {
            if !plan.waits_for.contains(&volume.name) {
                plan.waits_for.push(volume.name.clone());
            }
            continue;
        }
        let after_volume = readiness == Readiness::Soon;
        plan.steps.push(Step::EditConf(EditConf { ids, after_volume, ..step }));
    }
}

/// Returns the mounts that LXC makes, each with whether it includes what is mounted below.
pub(super) fn declared<'a>(
    site: &Site<'a>,
) -> impl Iterator<Item = (&'a Volume, &'a Mount, bool)> + use<'a> {
    site.desired.mounts_of(site.ctid).filter_map(|(volume, mount)| match mount.mechanism {
        Mechanism::Lxc { recursive } => Some((volume, mount, recursive)),
        Mechanism::Pct => None,
    })
}

/// Returns a line at this target that keeps `pct` from mounting there, as a hold.
pub(super) fn in_the_way(conf: &Conf, ctid: Ctid, target: &str) -> Option<Hold> {
    let (_, line) = MountLine::of(&conf.current).find(|(at, _)| at.target == target)?;
    Some(Hold::TargetTaken { ctid, by: format!("`{line}`"), target: target.to_owned() })
}

/// Returns the edit that a mount needs, and in words which ids inside are which on disk.
fn one(
    site: &Site<'_>,
    volume: &Volume,
    mount: &Mount,
    recursive: bool,
) -> Result<(RawEdit, Option<String>), Hold> {
    let Site { desired, snapshot, ctid, container, .. } = *site;
    let (conf, target) = (&container.conf, mount.target.as_str());
    let taken = |by: String| Hold::TargetTaken { ctid, by, target: target.to_owned() };
    if let Some(key) = key_at(conf, target) {
        return Err(taken(key));
    }
    let idmap = disk_ids::decide(desired, snapshot, volume, (ctid, mount), container)?;
    if let Some(below) = nested(site, volume).filter(|_| !recursive) {
        let path = volume.host_path.clone();
        return Err(Hold::NestedMount { ctid, path, below: below.clone() });
    }
    let wanted = wanted(volume, mount, recursive, &idmap);
    let there: Vec<(MountLine, String)> =
        MountLine::of(&conf.current).filter(|(line, _)| line.target == target).collect();
    let mut remove = Vec::new();
    for (line, text) in there {
        let raw = text.parse::<RawLine>().ok();
        let is_own = raw.as_ref().is_some_and(|raw| snapshot.ledger.is_own_line(ctid, raw));
        if is_own && raw.as_ref() == Some(&wanted.line())
            || !is_own && fits(&line, &wanted, mount, &idmap)
        {
            return Ok((RawEdit::default(), None));
        }
        match raw {
            Some(raw) if is_own || mount.adopt || site.is_fresh => remove.push(raw),
            Some(_) | None => return Err(taken(format!("`{text}`"))),
        }
    }
    let ids = match idmap {
        MountIdmap::Declared(map) => map.words,
        MountIdmap::NotDeclared => None,
    };
    Ok((RawEdit { remove, add: vec![wanted.line()] }, ids))
}

/// Returns what is mounted below a volume, where LXC cannot leave that out: in a user namespace the
/// kernel locks mounts together (`mount_namespaces(7)`), and the container would not start.
fn nested<'a>(site: &Site<'a>, volume: &Volume) -> Option<&'a String> {
    let observed = site.snapshot.volumes.get(&volume.name)?;
    let is_locked = site.container.conf.is_effectively_unprivileged();
    observed.nested.as_ref().filter(|_| is_locked)
}

/// Returns the key of a mount point at a target, unless it goes with the next stop.
fn key_at(conf: &Conf, target: &str) -> Option<String> {
    let current = conf.mounts().iter().filter(|(key, _)| !conf.pending_delete(**key));
    let all = current.chain(conf.pending_mounts());
    let at = |entry: &crate::conf::MountEntry| {
        entry.parsed.as_ref().is_ok_and(|mp| normalise_path(&mp.target) == target)
    };
    all.into_iter().find(|(_, entry)| at(entry)).map(|(key, _)| key.to_string())
}

fn wanted(volume: &Volume, mount: &Mount, recursive: bool, idmap: &MountIdmap) -> MountLine {
    let option = |name: &str| mount.options.get(name).map(String::as_str);
    let mut options = vec![if recursive { "rbind" } else { "bind" }.to_owned()];
    if option("ro") == Some("1") {
        options.push("ro".to_owned());
    }
    // Those of a file system mean nothing to a bind mount.
    let of_mount = |word: &&str| !matches!(*word, "" | "discard" | "lazytime");
    let words = option("mountoptions").unwrap_or_default().split(';').filter(of_mount);
    options.extend(words.map(str::to_owned));
    if let MountIdmap::Declared(map) = idmap
        && map.reaches_root
        && option("mountoptions").is_none()
    {
        options.push("nosuid".to_owned());
    }
    options.push("create=dir".to_owned());
    if matches!(idmap, MountIdmap::Declared(map) if map.option.is_some()) {
        options.push(MountLine::IDMAP.to_owned());
    }
    let (source, target) = (volume.host_path.as_str().into(), mount.target.as_str().into());
    MountLine { source, target, options }
}

/// Returns whether a line of somebody else does what is declared; what is not given is not managed.
fn fits(line: &MountLine, wanted: &MountLine, mount: &Mount, idmap: &MountIdmap) -> bool {
    let same = |option: &str| line.has(option) == wanted.has(option);
    let same_ids = line.is_mapped() == wanted.is_mapped() && line.idmap() == wanted.idmap();
    line.source == wanted.source
        && line.is_recursive() == wanted.is_recursive()
        && (*idmap == MountIdmap::NotDeclared || same_ids)
        && (!mount.options.contains_key("ro") || same("ro"))
        && wanted.options.iter().filter(|option| *option != "create=dir").all(|o| line.has(o))
}
