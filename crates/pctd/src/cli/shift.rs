//! `pctd shift`: other ids for the entries of a volume, by a constant.

use pctd_core::order::{Order, OrderReport, ShiftOrder};
use pctd_core::report::ShiftReport;

use super::args::Global;
use super::{Ended, Failure, order, print_report, render};

pub(super) fn run(global: &Global, shift: ShiftOrder) -> Result<Ended, Failure> {
    let OrderReport::Shift(report) = order::carry_out(global, &Order::Shift(shift))? else {
        return Err("the daemon answered something else".into());
    };
    print_report(global, &report, |palette| render::shift(&report, palette))?;
    Ok(ended(&report))
}

const fn ended(report: &ShiftReport) -> Ended {
    if report.cancelled || report.errors > 0 {
        Ended::Bad
    } else if report.dry_run && report.to_shift > 0 {
        Ended::Differs
    } else {
        Ended::InSync
    }
}
