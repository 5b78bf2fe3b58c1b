//! `pctd plan`: what would be done, with drift counted by really walking. Writes nothing.

use pctd_core::ids::Key;
use pctd_core::observed::Removal;
use pctd_core::report::PlanReport;

use super::args::Global;
use super::{Ended, Failure, config_paths, open_engine, print_report, progress, render};
use crate::engine::{Depth, Scope};
use crate::reconciler::Job;

pub(super) fn run(global: &Global, keys: &[Key]) -> Result<Ended, Failure> {
    let (loaded, _) = config_paths(global)?.load()?;
    let desired = loaded.desired;
    let engine = open_engine(global)?;
    let all = engine.keys(&desired);
    super::check_keys(&all, keys)?;
    let scope = match keys {
        [] => Scope::of_keys(&desired, &all),
        keys => Scope::of_keys(&desired, keys),
    };
    // These files are what the admin wants planned, however new they are.
    let job = Job { removal: Removal::Allowed, ..Job::default() };
    let requests = engine.requests(&job, None);
    let line = || progress::of("walking", job.progress.report());
    let look = || engine.look(&desired, &scope, Depth::Walk, requests, &job);
    let (_, plans) = progress::shown(line, look)?;
    let mut report = match &plans.node {
        // Nothing is planned, and a document without a hold would read as in sync.
        Some(hold) if keys.is_empty() => PlanReport::all_held(all, hold),
        Some(hold) => PlanReport::all_held(keys.iter().cloned(), hold),
        None => PlanReport::of_plans(&plans, keys),
    };
    if global.verbose {
        report.add_unmanaged(&plans);
    }
    print_report(global, &report, |palette| render::plan(&report, render::Tense::Plan, palette))?;
    let in_sync = report.summary.steps == 0 && report.summary.holds == 0;
    Ok(if in_sync { Ended::InSync } else { Ended::Differs })
}
