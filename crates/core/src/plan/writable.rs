//! Whether the conf of a container may be written now: not without a quorum, not under a lock or while
//! a task is at work with it, and under protection not its mounts.

use crate::ids::Ctid;
use crate::observed::{Cluster, ObservedContainer};
use crate::plan::hold::Hold;
use crate::plan::planned::ContainerPlan;
use crate::plan::step::Step;

/// Returns why the conf may not be written now, if so.
pub(super) fn hold(ctid: Ctid, container: &ObservedContainer, cluster: &Cluster) -> Option<Hold> {
    if !cluster.quorate {
        Some(Hold::NoQuorum)
    } else if let Some(lock) = container.conf.lock() {
        Some(Hold::Locked { ctid, lock: lock.to_string() })
    } else if container.flock_held {
        Some(Hold::Busy { ctid })
    } else {
        None
    }
}

/// Holds the steps of a container that may not be taken now.
pub(super) fn restrict(
    plan: &mut ContainerPlan,
    cluster: &Cluster,
    ctid: Ctid,
    container: &ObservedContainer,
) {
    if !plan.steps.is_empty()
        && let Some(hold) = hold(ctid, container, cluster)
    {
        plan.steps.clear();
        plan.holds.push(hold);
    }
    let protects =
        |step: &Step| !matches!(step, Step::ConfigureContainer(_) | Step::StartContainer {});
    if container.conf.is_protected() && plan.steps.iter().any(protects) {
        // Protection keeps disks and mounts; it comes off a clone before those are written.
        let comes_off = plan.steps.iter().any(|step| {
            matches!(step, Step::ConfigureContainer(c) if c.delete.iter().any(|n| n == "protection"))
        });
        if !comes_off {
            plan.steps.retain(|step| !protects(step));
            plan.holds.push(Hold::Protected { ctid });
        }
    }
}
