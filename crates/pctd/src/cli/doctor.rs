//! `pctd doctor`: whose ids are whose, in a container and at a path. Changes nothing and needs no
//! daemon.

use pctd_core::desired::Desired;
use pctd_core::doctor::{self, Case};
use pctd_core::ids::{Ctid, Key};
use pctd_core::observed::NodeState;

use super::args::Global;
use super::{Ended, Failure, config_paths, open_engine, print_report, render};
use crate::config_files::chain;
use crate::engine::{Depth, Scope};
use crate::reconciler::Job;

pub(super) fn run(global: &Global, ctid: Ctid, path: Option<&str>) -> Result<Ended, Failure> {
    let engine = open_engine(global)?;
    // Without a configuration there still is a container to explain.
    let (desired, config_error) = match config_paths(global)?.load() {
        Ok((loaded, _)) => (loaded.desired, None),
        Err(error) => (Desired::default(), Some(chain(&error))),
    };
    let job = Job::default();
    let look = |keys: &[Key]| {
        let scope = Scope::of_keys(&desired, keys);
        engine.look(&desired, &scope, Depth::Surface, engine.requests(&job, None), &job)
    };
    let (mut snapshot, mut plans) = look(&[Key::Container(ctid)])?;
    if let NodeState::Unknown(why) = &snapshot.node {
        return Err(format!("/etc/pve is not usable: {why}").into());
    }
    let locate = |path| doctor::locate(&desired, &snapshot, ctid, path);
    let located = path.map(locate).transpose()?;
    let volume = located.as_ref().and_then(|located| located.volume.clone());
    if let Some(volume) = volume.filter(|volume| !plans.volumes.contains_key(volume)) {
        // One that this container does not mount.
        (snapshot, plans) = look(&[Key::Container(ctid), Key::Volume(volume)])?;
    }
    let found = located.as_ref().map(|at| engine.node().look_at(&at.source, &at.below));
    let report = doctor::diagnose(&Case {
        desired: &desired,
        config_error: config_error.as_deref(),
        snapshot: &snapshot,
        plans: &plans,
        ctid,
        path: located.as_ref().zip(found.as_ref()),
    });
    print_report(global, &report, |palette| render::doctor(&report, palette))?;
    Ok(if report.is_well() { Ended::InSync } else { Ended::Differs })
}
