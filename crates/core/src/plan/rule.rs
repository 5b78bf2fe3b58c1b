//! The rule for the entries of a volume on this node: whose each is to be and with which mode, and
//! how many of them that is asked of (`enforce`).
//!
//! What a container can own is its own, unless `enforce` asks for every entry. What may have been set
//! before counts as set where nobody remembers.

use std::collections::BTreeSet;

use crate::conf::Digest;
use crate::desired::{Desired, Enforce, Volume};
use crate::idmap::IdMap;
use crate::ledger::Memory;
use crate::observed::Snapshot;
use crate::ownership::{EntryStat, OwnershipRule, Scope};
use crate::plan::owner::{self, Whose};
use crate::plan::sharing;

/// Returns the rule for the entries of a volume whose owner is known, and whose root directory is so.
pub(super) fn of(
    desired: &Desired,
    snapshot: &Snapshot,
    volume: &Volume,
    whose: Whose,
    root: Option<&EntryStat>,
) -> OwnershipRule {
    let Whose { owner, group, default_acl } = whose;
    let mut rule = OwnershipRule {
        owner,
        group,
        default_acl,
        scope: Scope::All,
        dir_mode: volume.dir_mode.clone(),
        file_mode: volume.file_mode.clone(),
        file_modes: volume.file_modes.clone(),
        recurse: volume.recurse,
    };
    let all = match volume.enforce {
        Enforce::Always => true,
        Enforce::Adopt => false,
        Enforce::Once => once(snapshot, volume, &rule, root) == Once::Due,
    };
    if !all {
        rule.scope = foreign_scope(desired, snapshot, volume);
    }
    rule
}

/// Returns whether the rule says anything at all.
pub(super) const fn is_managed(rule: &OwnershipRule) -> bool {
    rule.owner.is_some()
        || rule.group.is_some()
        || rule.default_acl.is_some()
        || !rule.dir_mode.is_keep()
        || !rule.file_mode.is_keep()
        || !rule.file_modes.is_empty()
}

/// Returns the rule that single entries are held to as they drift, once all were as declared.
pub(super) fn standing(
    desired: &Desired,
    snapshot: &Snapshot,
    volume: &Volume,
    rule: &OwnershipRule,
) -> Option<OwnershipRule> {
    let standing = match volume.enforce {
        Enforce::Always | Enforce::Adopt => rule.clone(),
        Enforce::Once => {
            OwnershipRule { scope: foreign_scope(desired, snapshot, volume), ..rule.clone() }
        }
    };
    // While it is not known what containers can own, nothing below is judged: neither is it
    // right then, nor must what changes be taken for looked at.
    let is_judged = !standing.recurse || standing.scope != Scope::RootOnly;
    is_judged.then_some(standing)
}

/// Returns whether every entry of a volume may have been set once, and nobody remembers: then only
/// what no container can own is.
pub(super) fn is_assumed(
    snapshot: &Snapshot,
    volume: &Volume,
    rule: &OwnershipRule,
    root: &EntryStat,
) -> bool {
    once(snapshot, volume, rule, Some(root)) == Once::Assumed
}

/// Where a volume with `enforce: once` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Once {
    /// Every entry is to be set.
    Due,
    /// Every entry was set.
    Done,
    /// The ledger was lost, or another node had the volume: every entry may have been set, and what
    /// services made since is theirs.
    Assumed,
}

fn once(
    snapshot: &Snapshot,
    volume: &Volume,
    rule: &OwnershipRule,
    root: Option<&EntryStat>,
) -> Once {
    if volume.enforce != Enforce::Once {
        return Once::Done;
    }
    let state = match snapshot.ledger.volumes.get(&volume.name) {
        None if snapshot.memory == Memory::Whole
            && !sharing::may_be_done(snapshot, volume, rule, root) =>
        {
            Once::Due
        }
        None => Once::Assumed,
        Some(record) if record.declaration != declaration(volume, rule) => Once::Due,
        Some(record) if record.assumed => Once::Assumed,
        Some(_) => Once::Done,
    };
    match state {
        Once::Assumed if snapshot.requests.confirmed.contains(&volume.name) => Once::Due,
        state => state,
    }
}

/// Returns what lies outside the maps of every container that counts for the volume.
fn foreign_scope(desired: &Desired, snapshot: &Snapshot, volume: &Volume) -> Scope {
    match owner::owning_maps(desired, snapshot, volume) {
        // While one map is unknown, so is what its container owns.
        None => Scope::RootOnly,
        Some(maps) if maps.is_empty() => Scope::RootOnly,
        Some(mut maps) => {
            maps.sort_by_key(|map| {
                map.ranges().iter().map(ToString::to_string).collect::<Vec<_>>()
            });
            maps.dedup();
            Scope::Foreign(maps)
        }
    }
}

/// Returns a fingerprint of everything that decides what a volume's entries are to be.
///
/// The scope takes no part for `once`: whether the declaration changed decides the scope there.
pub(super) fn declaration(volume: &Volume, rule: &OwnershipRule) -> String {
    let owner = rule.owner.map_or_else(|| "keep".to_owned(), |ids| ids.to_string());
    let mut text = format!(
        "{}\n{owner}\n{}\n{}\n{:?}\n{}\n",
        volume.host_path, rule.dir_mode, rule.file_mode, volume.enforce, rule.recurse
    );
    // Nothing where they are not declared: what was done before there were any is done.
    if let Some(group) = rule.group {
        text.extend(["group ", &group.to_string(), "\n"]);
    }
    if let Some(acl) = &rule.default_acl {
        text.extend(["default_acl ", &acl.to_string(), "\n"]);
    }
    for (pattern, mode) in &rule.file_modes {
        text.extend([pattern.as_str(), "=", &mode.to_string(), "\n"]);
    }
    if volume.enforce == Enforce::Adopt
        && let Scope::Foreign(maps) = &rule.scope
    {
        text.push_str(&text_of(maps));
    }
    Digest::of(text.as_bytes()).to_string()
}

/// Returns a fingerprint of the maps that decide which entries are put right once all were set.
///
/// Apart from the declaration: other maps are no reason to set every entry again. While they are not
/// known, those of before are taken to be still in force.
pub(super) fn maps(desired: &Desired, snapshot: &Snapshot, volume: &Volume) -> String {
    if volume.enforce != Enforce::Once {
        return String::new();
    }
    match foreign_scope(desired, snapshot, volume) {
        Scope::Foreign(maps) => Digest::of(text_of(&maps).as_bytes()).to_string(),
        Scope::All | Scope::RootOnly => {
            snapshot.ledger.volumes.get(&volume.name).map(|r| r.maps.clone()).unwrap_or_default()
        }
    }
}

fn text_of(maps: &[IdMap]) -> String {
    let ranges = maps.iter().flat_map(|map| map.ranges().iter().map(ToString::to_string));
    let ranges: BTreeSet<String> = ranges.collect();
    ranges.into_iter().map(|range| range + "\n").collect()
}
