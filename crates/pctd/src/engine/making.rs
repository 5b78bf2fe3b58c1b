//! Making containers: the call, what came of it, and what a clone must not keep of its source.
//!
//! The ledger is marked before the call and the mark stays until the container was seen with all
//! it is to have. A clone is configured in the very step that made it, so that neither a stop nor
//! an edit of the configuration comes in between; what a crash leaves, the mark finishes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use pctd_core::desired::{Desired, Source};
use pctd_core::ids::{Ctid, Key};
use pctd_core::ledger::{Ledger, LedgerEntry, Making};
use pctd_core::observed::{MakingFacts, ObservedContainer, Presence, Snapshot};
use pctd_core::plan::{CloneContainer, ConfigureContainer, CreateContainer, Step};
use pctd_node::{Exit, Limits, PctClass, PctError};
use tracing::{info, warn};

use super::{Depth, Engine, Scope, StepEnd};
use crate::reconciler::Job;

impl Engine {
    /// Makes a container from a template.
    pub(super) fn create(
        &self,
        desired: &Desired,
        ctid: Ctid,
        container: &CreateContainer,
        job: &Job,
    ) -> StepEnd {
        let from = container.template.as_str();
        self.make(desired, ctid, Making::Create, from, job, |limits| {
            self.node.pct().create(ctid, container, limits)
        })
    }

    /// Makes a container as a clone, and takes from it what is its source's.
    pub(super) fn clone_container(
        &self,
        desired: &Desired,
        ctid: Ctid,
        clone: &CloneContainer,
        job: &Job,
    ) -> StepEnd {
        // Proxmox locks the source for as long as it is cloned; the next plan says so.
        let Some(_only) = Cloning::begin(self, clone.from) else { return StepEnd::Refused };
        let from = clone.from.to_string();
        let end = self.make(desired, ctid, Making::Clone, &from, job, |limits| {
            self.node.pct().clone_container(ctid, clone, limits)
        });
        if !matches!(end, StepEnd::Done) {
            return end;
        }
        let key = Key::Container(ctid);
        let scope = Scope::of(desired, &key);
        let requests = self.requests(job, Some(&key));
        let (snapshot, plans) = match self.look(desired, &scope, Depth::Surface, requests, job) {
            Ok(found) => found,
            Err(error) => return StepEnd::Failed(error),
        };
        if matches!(snapshot.containers.get(&ctid), Some(Presence::Here(now)) if is_running(now)) {
            warn!(CTID = %ctid, "{ctid}: somebody started it before it was configured");
        }
        match plans.steps(&key).first() {
            Some(Step::ConfigureContainer(configure)) => self.configure(&snapshot, ctid, configure),
            _ => StepEnd::Done,
        }
    }

    fn make(
        &self,
        desired: &Desired,
        ctid: Ctid,
        how: Making,
        from: &str,
        job: &Job,
        call: impl FnOnce(Limits<'_>) -> Result<(), PctError>,
    ) -> StepEnd {
        let was_marked = self.node.ledger().ledger().making.contains_key(&ctid);
        if let Err(error) = self.enter([LedgerEntry::MakeIntended { ctid, how }]) {
            return StepEnd::Failed(error);
        }
        let (step, done) = match how {
            Making::Create => ("create_container", "created from"),
            Making::Clone => ("clone_container", "cloned from"),
        };
        let begun = Instant::now();
        let called = call(Limits::new(desired.settings.create_timeout, &job.stop));
        let now = self.node.observe_containers(&BTreeSet::from([ctid])).remove(&ctid);
        let is_whole = matches!(&now, Some(Presence::Here(now)) if is_whole(now, how));
        // A call that ended by itself and failed took back what it had begun: what stands there now
        // is somebody else's, and is not to be configured as if it were pctd's.
        let by_itself = |error: &PctError| matches!(error.exit, Exit::Code(_));
        // Unless a call of before a crash was faster: then it is pctd's own all the same.
        let is_foreign = !was_marked
            && called.as_ref().err().is_some_and(|error| {
                error.class == PctClass::Exists || by_itself(error) && is_whole
            });
        let came_to_nothing = called.as_ref().err().is_some_and(|error| error.exit != Exit::Stuck)
            && matches!(now, Some(Presence::Absent));
        if (is_foreign || came_to_nothing)
            && let Err(error) = self.enter([LedgerEntry::MakeEnded(ctid)])
        {
            return StepEnd::Failed(error);
        }
        match called {
            Ok(()) if is_whole => {
                info!(
                    CTID = %ctid,
                    STEP = step,
                    VALUE = from,
                    ELAPSED_MS = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
                    "{ctid}: {done} {from}"
                );
                StepEnd::Done
            }
            Ok(()) => StepEnd::Failed(format!("{ctid} is not there, or not whole, after pct")),
            Err(error) => StepEnd::Failed(error.to_string()),
        }
    }

    /// Sets properties of a container.
    pub(super) fn configure(
        &self,
        snapshot: &Snapshot,
        ctid: Ctid,
        step: &ConfigureContainer,
    ) -> StepEnd {
        let Some(Presence::Here(container)) = snapshot.containers.get(&ctid) else {
            return StepEnd::Refused;
        };
        let digest = container.conf.digest.to_string();
        let begun = Instant::now();
        let called = self.node.pct().configure(ctid, step, &digest);
        let Some(now) = self.observe_one(ctid) else {
            return StepEnd::Failed(format!("{ctid} could not be read after pct set"));
        };
        if let Err(error) = &called
            && !step.is_in(&now.conf)
        {
            return match error.class {
                PctClass::Conflict => StepEnd::Conflict(error.to_string()),
                _ => StepEnd::Failed(error.to_string()),
            };
        }
        let names: Vec<&str> = step.set.keys().chain(&step.delete).map(String::as_str).collect();
        let names = names.join(", ");
        info!(
            CTID = %ctid,
            STEP = "configure_container",
            VALUE = names,
            ELAPSED_MS = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
            "{ctid}: configured {names}"
        );
        if let Err(error) = called {
            let what = "pct reported a failure after it had written the conf";
            info!(CTID = %ctid, "{ctid}: {what}: {error}");
        }
        StepEnd::Done
    }

    /// Returns what matters for making the containers of a snapshot, and looks again at those that
    /// seem to have been left half made.
    pub(super) fn making_facts(
        &self,
        desired: &Desired,
        ledger: &Ledger,
        containers: &mut BTreeMap<Ctid, Presence>,
    ) -> MakingFacts {
        let making = &ledger.making;
        let templates: BTreeSet<&str> = containers
            .iter()
            .filter(|(_, presence)| matches!(presence, Presence::Absent))
            .filter_map(|(ctid, _)| match &desired.containers.get(ctid)?.source {
                Some(Source::Template(template)) => Some(template.as_str()),
                Some(Source::Clone { .. }) | None => None,
            })
            .collect();
        let is_suspect = |(ctid, presence): &(&Ctid, &Presence)| match presence {
            Presence::Here(now) => {
                let locked = now.conf.lock().is_some_and(|lock| *lock == "create");
                // A restore that was killed and unlocked leaves an empty conf.
                let emptied = ledger.converting.contains_key(ctid) && !now.conf.has_rootfs();
                !now.flock_held && (locked || emptied || making.contains_key(ctid))
            }
            Presence::Absent => making.contains_key(ctid) || ledger.converting.contains_key(ctid),
            _ => false,
        };
        let suspects: BTreeSet<Ctid> =
            containers.iter().filter(is_suspect).map(|(ctid, _)| *ctid).collect();
        let facts = self.node.making_facts(templates, &suspects);
        // A task may have ended between the look at its conf and the look for it. What still says
        // the same now is left over.
        let idle: BTreeSet<Ctid> = suspects.difference(&facts.at_work).copied().collect();
        if !idle.is_empty() {
            containers.extend(self.node.observe_containers(&idle));
        }
        MakingFacts { cloning: self.memory().cloning.clone(), ..facts }
    }
}

fn is_running(container: &ObservedContainer) -> bool {
    container.running != pctd_core::observed::Running::No
}

/// Returns whether a container is no longer being made.
fn is_whole(container: &ObservedContainer, how: Making) -> bool {
    let conf = &container.conf;
    // Only the last write of a creation has a swap line.
    let finished = how == Making::Clone || conf.current.get("swap").is_some();
    conf.lock().is_none() && conf.has_rootfs() && finished
}

/// The right to clone one source, until this is dropped.
struct Cloning<'e> {
    engine: &'e Engine,
    from: Ctid,
}

impl<'e> Cloning<'e> {
    fn begin(engine: &'e Engine, from: Ctid) -> Option<Self> {
        let begun = engine.memory().cloning.insert(from);
        // Made only where it has begun: what is dropped ends it.
        begun.then(|| Self { engine, from })
    }
}

impl Drop for Cloning<'_> {
    fn drop(&mut self) {
        self.engine.memory().cloning.remove(&self.from);
    }
}
