//! `pctd plan`: what would be done, with drift counted by really walking. Writes nothing.

use pctd_core::ids::Key;
use pctd_core::observed::Requests;
use pctd_core::report::PlanReport;

use super::args::Global;
use super::{Ended, Failure, config_paths, open_engine, print_report, render};
use crate::controller::board::keys_of;
use crate::engine::{Depth, Scope};
use crate::reconciler::Job;

pub(super) fn run(global: &Global, keys: &[Key]) -> Result<Ended, Failure> {
    let (loaded, _) = config_paths(global)?.load()?;
    let desired = loaded.desired;
    super::check_keys(&desired, keys)?;
    let engine = open_engine(global)?;
    let scope = if keys.is_empty() { Scope::all(&desired) } else { Scope::of_keys(&desired, keys) };
    let (_, plans) =
        engine.look(&desired, &scope, Depth::Walk, Requests::default(), &Job::default())?;
    let report = match &plans.node {
        // Nothing is planned, and a document without a hold would read as in sync.
        Some(hold) if keys.is_empty() => PlanReport::all_held(keys_of(&desired), hold),
        Some(hold) => PlanReport::all_held(keys.iter().cloned(), hold),
        None => PlanReport::of_plans(&plans, keys),
    };
    print_report(global, &report, |palette| render::plan(&report, render::Tense::Plan, palette))?;
    let in_sync = report.summary.steps == 0 && report.summary.holds == 0;
    Ok(if in_sync { Ended::InSync } else { Ended::Differs })
}
