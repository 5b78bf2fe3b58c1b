//! `pctd undo`: what pctd changed in a volume, and taking it back.

use pctd_core::ids::VolumeName;
use pctd_core::order::{Order, OrderReport, UndoOrder};
use pctd_core::report::UndoReport;
use pctd_node::NodePaths;

use super::args::Global;
use super::{Ended, Failure, order, print_report, render};
use crate::engine::undo::passes;

/// Shows the passes that can be taken back; needs no daemon and no configuration.
pub(super) fn list(global: &Global, volume: &VolumeName) -> Result<Ended, Failure> {
    let paths = NodePaths::new(global.root.clone())?;
    let report = UndoReport::new(volume.clone(), passes(&paths, volume)?, None);
    print_report(global, &report, |palette| render::undo(&report, palette))?;
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
