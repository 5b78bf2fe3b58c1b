//! `pctd apply`: converge once, through the daemon if one runs, else here.

use std::collections::BTreeSet;
use std::sync::Arc;

use pctd_core::desired::Desired;
use pctd_core::ids::{Key, VolumeName};
use pctd_core::plan::{Reason, Step};
use pctd_core::report::{KeyReport, PlanReport};
use pctd_core::request::{Asked, WireOp, WireRequest};
use pctd_node::{NodeLock, NodePaths};

use super::args::Global;
use super::{
    Ended, Failure, client, config_paths, open_engine, print_report, progress, render, status,
};
use crate::config_files::{ConfigError, chain};
use crate::controller::followers::Answer;
use crate::engine::Engine;
use crate::reconciler::{Job, Outcome, Reconciler as _, Verdict, View};

/// A conflict means that somebody else wrote in between: this often it is tried anew.
const TRIES: usize = 5;

pub(super) fn run(global: &Global, keys: &[Key], yes: bool) -> Result<Ended, Failure> {
    let config = config_paths(global)?;
    let (loaded, read) = config.load().map_err(|error| refused(global, &error))?;
    let confirm = yes || !keys.is_empty();
    let asked = Asked::of(confirm, yes, keys);
    let engine = open_engine(global)?;
    super::check_keys(&engine.keys(&loaded.desired), keys)?;
    let socket = engine.node().paths().socket();
    let request = WireRequest {
        version: pctd_core::report::REPORT_VERSION,
        op: WireOp::Reconcile,
        keys: keys.to_vec(),
        follow: false,
        confirm,
        yes: yes && !keys.is_empty(),
        config: None,
        read: Some(read),
        order: None,
    };
    let line = || progress::of_daemon(&socket, keys);
    let report = match progress::shown(line, || client::ask(&socket, &request))? {
        Some(Answer::Plan(report)) => report,
        Some(Answer::Error { error, .. }) => return Err(error.into()),
        Some(Answer::Status(_) | Answer::Order(_)) => {
            return Err("the daemon answered something else".into());
        }
        None => {
            let _lock = NodeLock::acquire(engine.node().paths())?;
            engine.node().reload_ledger();
            converge(&engine, &loaded.desired, keys, asked)
        }
    };
    print_report(global, &report, |palette| render::plan(&report, render::Tense::Done, palette))?;
    let summary = report.summary;
    Ok(match (summary.errors, summary.holds) {
        (0, 0) => Ended::InSync,
        (0, _) => Ended::Differs,
        _ => Ended::Bad,
    })
}

/// Says what is wrong with the configuration, and that a daemon goes on with another.
fn refused(global: &Global, error: &ConfigError) -> Failure {
    let error = chain(error);
    let socket = NodePaths::new(global.root.clone()).map(|paths| paths.socket());
    // Whatever keeps it from answering, nothing is known of it then.
    let in_force = socket.ok().and_then(|socket| status::ask(&socket, &[]).ok());
    match in_force.map(|status| status.config.generation) {
        None | Some(0) => error.into(),
        Some(_) => format!(
            "{error}\nnothing is applied, and the daemon goes on with the last good configuration"
        )
        .into(),
    }
}

/// Brings every key to what is desired: volumes first, because containers wait for them.
fn converge(engine: &Engine, desired: &Desired, keys: &[Key], asked: Asked) -> PlanReport {
    let wanted: BTreeSet<Key> =
        if keys.is_empty() { engine.keys(desired) } else { keys.iter().cloned().collect() };
    let is_volume = |key: &&Key| matches!(key, Key::Volume(_));
    let volumes = wanted.iter().filter(is_volume);
    let containers = wanted.iter().filter(|key| !is_volume(key));
    let mut report = PlanReport::empty();
    // Sources before their clones, and these before the clones of clones.
    let mut containers: Vec<&Key> = containers.collect();
    containers.sort_by_key(|key| ancestors(desired, key));
    for key in volumes.chain(containers) {
        let (mut taken, mut last) = bring(engine, desired, key, asked);
        let is_converted = taken.iter().any(|step| matches!(step, Step::ConvertContainer(_)));
        if (last.verdict == Verdict::Waiting || is_converted)
            && let Key::Container(ctid) = key
        {
            // It was just made, so that its volumes had nobody to be owned for until now; or it was
            // converted, so that they had another owner.
            for volume in desired.mounts_of(*ctid).map(|(volume, _)| volume) {
                let own = Key::Volume(volume.name.clone());
                if wanted.contains(&own) {
                    bring_again(engine, desired, &own, asked, &mut report);
                }
            }
            let (more, end) = bring(engine, desired, key, asked);
            taken.extend(more);
            last = end;
        }
        report.insert(key.clone(), entry(taken, last));
    }
    report.count();
    report
}

/// Brings a volume once more, and adds what was done to what the report has of it.
fn bring_again(
    engine: &Engine,
    desired: &Desired,
    key: &Key,
    asked: Asked,
    report: &mut PlanReport,
) {
    let Key::Volume(name) = key else { return };
    let (taken, last) = bring(engine, desired, key, asked);
    let before = report.volumes.get(name).map_or(&[][..], |entry| &entry.steps);
    let taken = before.iter().cloned().chain(taken).collect();
    report.insert(key.clone(), entry(taken, last));
}

fn entry(taken: Vec<Step>, last: Outcome) -> KeyReport {
    let mut holds: Vec<Reason> = last.view.holds.iter().map(Reason::from).collect();
    let error = match &last.verdict {
        Verdict::Converged | Verdict::Held | Verdict::Cancelled => None,
        Verdict::Waiting => {
            let waits = waits_for(&last.view);
            let unjudged = waits.is_empty();
            holds.extend(waits);
            unjudged.then(|| "it could not be looked at to the end; try again".to_owned())
        }
        Verdict::Conflict(why) | Verdict::Failed(why) => Some(why.clone()),
    };
    KeyReport { steps: taken, holds, notices: last.view.notices, unmanaged: Vec::new(), error }
}

/// Returns the volumes a container waits for, whose own steps are not part of its run.
fn waits_for(view: &View) -> Vec<Reason> {
    let mounts = view.steps.iter().filter_map(|step| match step {
        Step::SetMount(set) if set.after_volume => Some(&set.volume),
        _ => None,
    });
    if view.steps.iter().any(|step| matches!(step, Step::ConvertContainer(_))) {
        return vec![Reason {
            reason: "VolumeHeld".to_owned(),
            message: "it is started once its volumes are owned; run `pctd apply`".to_owned(),
        }];
    }
    let volumes: BTreeSet<&VolumeName> = mounts.collect();
    let held = |volume: &VolumeName| Reason {
        reason: "VolumeHeld".to_owned(),
        message: format!("it waits for volume {volume}; run `pctd apply {volume}`, too"),
    };
    volumes.into_iter().map(held).collect()
}

/// Returns how many containers one is cloned from, one after the other.
fn ancestors(desired: &Desired, key: &Key) -> usize {
    let Key::Container(ctid) = key else { return 0 };
    let sources = std::iter::successors(desired.source_of(*ctid), |from| desired.source_of(*from));
    // The configuration refuses a container that would be a clone of itself; a bound all the same.
    sources.take(desired.containers.len()).count()
}

fn bring(engine: &Engine, desired: &Desired, key: &Key, asked: Asked) -> (Vec<Step>, Outcome) {
    let mut job = Job { verify: true, asked, goes_on: true, ..Job::default() };
    let mut taken = Vec::new();
    let walked = Arc::clone(&job.progress);
    let line = || progress::of(key, walked.report());
    let outcome = progress::shown(line, || {
        let mut tries = 1;
        loop {
            let outcome = engine.reconcile(desired, key, &job);
            taken.extend(outcome.taken.iter().cloned());
            // What is in place in part because of a walk that was interrupted is looked at whole.
            let is_half_known = outcome.verdict == Verdict::Converged && outcome.view.believed;
            let again = is_half_known || matches!(outcome.verdict, Verdict::Conflict(_));
            if !again || tries == TRIES {
                break outcome;
            }
            job.asked = job.asked.later();
            tries += 1;
        }
    });
    (taken, outcome)
}
