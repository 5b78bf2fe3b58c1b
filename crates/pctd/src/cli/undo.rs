//! `pctd undo`: what pctd changed in a volume, and taking it back.

use pctd_core::ids::VolumeName;
use pctd_core::order::{Order, OrderReport, UndoOrder};
use pctd_core::report::UndoReport;
use pctd_node::{NodePaths, undo};

use super::args::Global;
use super::{Ended, Failure, config_paths, order, print_report, render};
use crate::engine::undo::passes;

/// Shows the passes that can be taken back; needs no daemon and no configuration.
pub(super) fn list(global: &Global, volume: &VolumeName) -> Result<Ended, Failure> {
    let paths = NodePaths::new(global.root.clone())?;
    let report = UndoReport::new(volume.clone(), passes(&paths, volume)?, None);
    print_report(global, &report, |palette| render::undo(&report, palette))?;
    Ok(Ended::InSync)
}

/// Shows them of every volume. What is not in the configuration is told where that can be read.
pub(super) fn list_all(global: &Global) -> Result<Ended, Failure> {
    let paths = NodePaths::new(global.root.clone())?;
    let declared = config_paths(global)?.load().ok().map(|(loaded, _)| loaded.desired.volumes);
    let volumes = undo::volumes(&paths);
    let volumes = volumes.map_err(|error| format!("the records cannot be listed: {error}"))?;
    let report = |volume: VolumeName| {
        let passes = passes(&paths, &volume)?;
        let undeclared = declared.as_ref().is_some_and(|known| !known.contains_key(&volume));
        Ok(UndoReport { undeclared, ..UndoReport::new(volume, passes, None) })
    };
    let reports: Vec<UndoReport> =
        volumes.into_iter().map(report).collect::<Result<_, String>>()?;
    print_report(global, &reports, |palette| match reports.as_slice() {
        [] => "nothing that pctd changed is on record\n".to_owned(),
        some => some.iter().map(|report| render::undo(report, palette)).collect(),
    })?;
    Ok(Ended::InSync)
}

pub(super) fn run(global: &Global, undo: UndoOrder) -> Result<Ended, Failure> {
    let OrderReport::Undo(report) = order::carry_out(global, &Order::Undo(undo))? else {
        return Err("the daemon answered something else".into());
    };
    print_report(global, &report, |palette| render::undo(&report, palette))?;
    Ok(ended(&report))
}

fn ended(report: &UndoReport) -> Ended {
    let Some(undone) = &report.undone else { return Ended::InSync };
    let tally = &undone.tally;
    let would = if undone.dry_run { tally.restored } else { 0 };
    if undone.cancelled || tally.errors > 0 {
        Ended::Bad
    } else if tally.changed_since + tally.withheld + tally.acls + would > 0 {
        Ended::Differs
    } else {
        Ended::InSync
    }
}
