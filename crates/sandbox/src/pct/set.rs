//! `pct set` and `pct unlock` (`PVE::API2::LXC::Config`, `update_vm`).

use pctd_core::conf::{Conf, schema};

use crate::context::{Context, check_lock, text};
use crate::lxc_config;
use crate::output::Die;
use crate::pct::parameters::Parameters;
use crate::pct::task::Ended;
use crate::update::{self, Change, State};

pub(super) fn run(cx: &mut Context, parameters: &Parameters) -> Result<(), Ended> {
    let ctid = parameters.ctid("vmid")?;
    if parameters.is_only(&["vmid", "digest"]) {
        return Err(Die::new("no options specified\n").exit(2).into());
    }
    let change = Change {
        set: parameters.properties(),
        delete: parameters.list("delete"),
        revert: parameters.list("revert"),
    };
    let change = clamped(change);
    cx.locked(ctid, |cx| {
        let mut conf = cx.load(ctid)?;
        check_lock(&conf)?;
        check_digest(&conf, parameters.get("digest"))?;
        check_names(&change)?;
        let state = if cx.is_running(ctid) { State::Running } else { State::Stopped };
        let errors = update::update(cx, ctid, &mut conf, state, &change)?;
        if !errors.is_empty() {
            return Err(Die::parameters(errors).exit(1));
        }
        cx.write(ctid, &conf)?;
        let conf = cx.load(ctid)?;
        lxc_config::update(cx, ctid, &conf)
    })?;
    Ok(())
}

/// Brings `cpuunits` into the range of cgroup v2 (`PVE::CGroup::clamp_cpu_shares`).
pub(super) fn clamped(mut change: Change) -> Change {
    if let Some(units) = change.set.get_mut("cpuunits") {
        let given: i64 = units.to_string().parse().unwrap_or(1);
        *units = given.clamp(1, 10_000).to_string().into();
    }
    change
}

/// `PVE::Tools::assert_if_modified`
fn check_digest(conf: &Conf, expected: Option<&str>) -> Result<(), Die> {
    let current = text(&conf.current, "digest").unwrap_or_else(|| conf.digest.to_string());
    match expected.filter(|expected| !matches!(*expected, "" | "0")) {
        Some(expected) if expected != current => {
            Err("detected modified configuration - file changed by other user? Try again.\n".into())
        }
        _ => Ok(()),
    }
}

/// Checks that the names to delete and to revert exist and contradict nothing.
fn check_names(change: &Change) -> Result<(), Die> {
    // The exit code is left over from nothing in particular here.
    let refuse = |parameter: &str, error: String| {
        Err(Die::parameters(vec![(parameter.to_owned(), error)]).exit(255))
    };
    for name in &change.revert {
        if schema::rule(name).is_none() {
            return refuse("revert", format!("unknown option '{name}'"));
        }
        if change.set.contains_key(name) {
            return refuse(
                "revert",
                format!("you can't use '-{name}' and '-revert {name}' at the same time"),
            );
        }
    }
    for name in &change.delete {
        if schema::rule(name).is_none() {
            return refuse("delete", format!("unknown option '{name}'"));
        }
        if change.set.contains_key(name) {
            return refuse(
                "delete",
                format!("you can't use '-{name}' and -delete {name}' at the same time"),
            );
        }
        if change.revert.contains(name) {
            return refuse(
                "delete",
                format!("you can't use '-delete {name}' and '-revert {name}' at the same time"),
            );
        }
    }
    Ok(())
}

pub(super) fn unlock(cx: &mut Context, parameters: &Parameters) -> Result<(), Ended> {
    let ctid = parameters.ctid("vmid")?;
    Ok(cx.remove_lock(ctid, None)?)
}
