//! Raw lines of a conf: those that are declared, those that pctd added and nobody declares any more,
//! and those that a running container does not have yet.
//!
//! Only lines are added that are not there, and only lines removed that pctd added. The others and
//! their order are left alone.

use std::collections::BTreeSet;

use bstr::BString;

use crate::conf::{MountLine, RawEdit, RawLine};
use crate::desired::Field;
use crate::ids::Ctid;
use crate::ledger::{Edited, LedgerEntry, Making};
use crate::observed::{ObservedContainer, Removal, Running, Snapshot};
use crate::plan::entries;
use crate::plan::hold::{Hold, MapChange};
use crate::plan::id_map;
use crate::plan::notice::Notice;
use crate::plan::planned::{ContainerPlan, FieldDrift};
use crate::plan::prune::why_kept;
use crate::plan::site::Site;
use crate::plan::step::{EditConf, Step};

/// What of its definition a container lacks in raw lines.
#[derive(Debug)]
pub(super) struct Defined {
    /// The edit that adds it.
    pub(super) step: Option<EditConf>,
    /// Whether it is not as defined and does not run: one that was just made is not done.
    pub(super) is_open: bool,
}

/// Plans the id map and the raw lines of a definition.
pub(super) fn definition(plan: &mut ContainerPlan, site: &Site<'_>) -> Defined {
    let Some(def) = site.definition() else { return Defined { step: None, is_open: false } };
    let mut edit = RawEdit::default();
    let mut is_held = false;
    if let Some(map) = &def.id_map {
        match id_map::plan(site, map) {
            Ok(change) => edit = change,
            Err(hold) => {
                plan.holds.push(hold);
                is_held = true;
            }
        }
    }
    edit.remove.extend(of_source(site));
    let current = &site.container.conf.current;
    let options = &def.definition.lxc_options;
    let missing: Vec<RawLine> =
        options.iter().filter(|line| !line.is_in(current)).cloned().collect();
    if site.making.is_some() || site.desired.settings.manage.contains(&Field::LxcOptions) {
        edit.add.extend(missing);
    } else if !missing.is_empty() {
        let declared: Vec<String> = missing.iter().map(ToString::to_string).collect();
        let (field, property) = (Field::LxcOptions, "lxc");
        let declared = declared.join(", ");
        plan.drift.push(FieldDrift { field, property, declared, found: None });
    }
    let step = site.step(edit);
    Defined { is_open: (step.is_some() || is_held) && !site.is_running(), step }
}

/// Returns what a clone has of its source's mounts that pctd wrote there: it would mount the same
/// directories, and nobody declared that.
fn of_source(site: &Site<'_>) -> Vec<RawLine> {
    let from = site.desired.source_of(site.ctid).filter(|_| site.making == Some(Making::Clone));
    let Some(own) = from.and_then(|from| site.snapshot.ledger.lines.get(&from)) else {
        return Vec::new();
    };
    let targets = targets(site);
    let is_left = |line: &&RawLine| {
        line.key() == RawLine::MOUNT_ENTRY
            && line.is_in(&site.container.conf.current)
            && !is_at(line, &targets)
    };
    own.iter().filter(is_left).cloned().collect()
}

/// Returns where LXC is to mount something.
fn targets(site: &Site<'_>) -> BTreeSet<BString> {
    entries::declared(site).map(|(_, mount, _)| mount.target.as_str().into()).collect()
}

/// Returns whether a line mounts at one of these targets.
fn is_at(line: &RawLine, targets: &BTreeSet<BString>) -> bool {
    MountLine::made_by(line).is_some_and(|mount| targets.contains(&mount.target))
}

/// Plans what pctd added and is no longer declared.
pub(super) fn prune(plan: &mut ContainerPlan, site: &Site<'_>) {
    let Site { desired, snapshot, ctid, container, .. } = *site;
    let Some(own) = snapshot.ledger.lines.get(&ctid) else { return };
    let current = &container.conf.current;
    let (there, gone): (Vec<&RawLine>, Vec<&RawLine>) =
        own.iter().partition(|line| line.is_in(current));
    let declared = declared(site);
    // What went from a running container may be put back as long as that has not been restarted.
    let edited = snapshot.ledger.edited.get(&ctid);
    let may_return = |line: &RawLine| edited.is_some_and(|edited| edited.removed.contains(line));
    let forgotten: Vec<RawLine> = gone
        .into_iter()
        .filter(|line| !declared.contains(line) && !may_return(line))
        .cloned()
        .collect();
    if !forgotten.is_empty() {
        // Gone, by whoever: the same line later is not pctd's because of it.
        plan.records.push(LedgerEntry::LinesForgotten { ctid, lines: forgotten });
    }
    // Lines of a declared map are for the map to settle, and those at the target of a mount for that.
    let targets = targets(site);
    let has_map = site.definition().is_some_and(|def| def.id_map.is_some());
    let is_settled = |line: &RawLine| {
        declared.contains(line)
            || (has_map && line.key() == RawLine::IDMAP)
            || is_at(line, &targets)
    };
    let mut left: Vec<RawLine> = there.into_iter().filter(|l| !is_settled(l)).cloned().collect();
    if left.is_empty() {
        return;
    }
    if let Some(why) = why_kept(desired, snapshot) {
        plan.notices.extend(left.into_iter().map(|line| Notice::PrunableLine { line, why }));
        return;
    }
    if snapshot.requests.removal != Removal::Allowed {
        let what = left.iter().map(ToString::to_string).collect();
        plan.holds.push(Hold::ConfigUnsettled { ctid, what });
        return;
    }
    if left.iter().any(|line| line.key() == RawLine::IDMAP)
        && let Err(hold) = without_map(site, &left)
    {
        plan.holds.push(hold);
        left.retain(|line| line.key() != RawLine::IDMAP);
    }
    // Each as often as it is there.
    let all = left.iter().flat_map(|line| std::iter::repeat_n(line, line.count_in(current)));
    let edit = RawEdit { remove: all.cloned().collect(), add: Vec::new() };
    plan.steps.extend(site.step(edit).map(Step::EditConf));
}

/// Judges the map that is left when these lines go.
fn without_map(site: &Site<'_>, left: &[RawLine]) -> Result<(), Hold> {
    let conf = &site.container.conf;
    let unreadable = |why: String| site.map_change(MapChange::Unreadable(why));
    let mut rest = Vec::new();
    for line in id_map::idmap_lines(&conf.current) {
        let line = line.map_err(|why| site.map_change(MapChange::NoLine(why)))?;
        if !left.contains(&line) {
            rest.push((line.key().to_owned(), line.value().into()));
        }
    }
    let mut after = conf.current.clone();
    after.set_lxc(rest);
    let map = after.effective_idmap().map_err(|error| unreadable(error.to_string()))?;
    let remove = left.iter().filter(|line| line.key() == RawLine::IDMAP).cloned().collect();
    id_map::judge(site, &RawEdit { remove, add: Vec::new() }, &map)
}

/// Returns every raw line that is declared for a container.
fn declared(site: &Site<'_>) -> BTreeSet<RawLine> {
    let mut lines = BTreeSet::new();
    if let Some(def) = site.definition() {
        lines.extend(def.definition.lxc_options.iter().cloned());
        lines.extend(def.id_map.iter().flat_map(id_map::lines));
    }
    lines
}

/// Returns the lines that wait for a restart: those of pctd's that came or went since the container
/// was started. While it is stopped they wait for its start, which may fail because of them.
pub(super) fn waiting(plan: &mut ContainerPlan, site: &Site<'_>) -> Vec<RawLine> {
    let Site { snapshot, ctid, container, .. } = *site;
    let Some(edited) = snapshot.ledger.edited.get(&ctid) else { return Vec::new() };
    let current = &container.conf.current;
    let mut lines: Vec<RawLine> =
        edited.added.iter().filter(|line| line.is_in(current)).cloned().collect();
    lines.extend(edited.removed.iter().filter(|line| !line.is_in(current)).cloned());
    if container.running == Running::No && snapshot.ledger.start_owed.contains(&ctid) {
        // It may not start with them, and then they are taken back.
        return Vec::new();
    }
    if !may_wait(edited, snapshot, container) || lines.is_empty() {
        // It was started since, or somebody undid the edit.
        plan.records.push(LedgerEntry::EditWaits { ctid, edited: None });
        return Vec::new();
    }
    lines
}

/// Returns the mounts that a container has by raw lines: while it runs with those it was started with,
/// what pctd edited since does not count.
pub(crate) fn mounts_in_force(
    snapshot: &Snapshot,
    ctid: Ctid,
    container: &ObservedContainer,
) -> Vec<MountLine> {
    let current = MountLine::of(&container.conf.current).map(|(line, _)| line);
    let edited =
        snapshot.ledger.edited.get(&ctid).filter(|edited| {
            container.running != Running::No && may_wait(edited, snapshot, container)
        });
    let Some(edited) = edited else { return current.collect() };
    let made_by = |lines: &[RawLine]| lines.iter().filter_map(MountLine::made_by).collect();
    let (added, removed): (Vec<MountLine>, Vec<MountLine>) =
        (made_by(&edited.added), made_by(&edited.removed));
    current.filter(|line| !added.contains(line)).chain(removed).collect()
}

/// Returns whether a container was not seen to run since the run in which it was edited. An init that
/// could not be found may be the same.
fn may_wait(edited: &Edited, snapshot: &Snapshot, container: &ObservedContainer) -> bool {
    match container.running {
        Running::No => true,
        Running::Yes { init, .. } => {
            let is_same = |(then, now)| then == now;
            edited.boot == snapshot.boot && edited.init.zip(init).is_none_or(is_same)
        }
    }
}
