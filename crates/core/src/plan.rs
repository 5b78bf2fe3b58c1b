//! The planner: from what is wanted and what is there to the steps between them. Pure.
//!
//! [`plan`] takes one snapshot and plans every volume and container in it. Volumes come first,
//! because a container may only mount what is owned ([`Readiness`]). A plan without
//! steps and holds is what *converged* means; nothing else is.
//!
//! Files import one another in one direction: from a plan to what it rests on, and all to what comes
//! out.
//!
//! - What comes out: [`step`]: what may be done. [`hold`]: why something is not done. [`notice`]: what
//!   else to know. `reason`: what a report says of the latter two. `planned`: what it comes to for one
//!   container or volume.
//! - What plans of volumes rest on: `source`: whether the host path can be used at all. `sharing`: which
//!   node acts on a directory that all nodes of a cluster see. `container_map`: the id map that a container
//!   uses. `owner`: whose a volume is to be, through the maps of its containers; `disk_ids`: through maps
//!   of their mounts. `rule`: what its entries are to be. `undone`: whether that was taken back.
//! - Plans of volumes: `volume`: directory, owner and modes; `certificate`: what is kept in it.
//!   `other_node`: one that another node looks after.
//! - What plans of containers rest on: `writable`: whether the conf may be written now. `restart`: whether
//!   and when one is restarted. `site`: one whose raw lines are planned. `id_map`: whether a map may take
//!   the place of another.
//! - Plans of containers: `container`: all of one. `mounts`: its mount points; `entries`: mounts that LXC
//!   makes; `lines`: its raw lines; `prune`: what is no longer declared. `definition`: those that are absent
//!   or just made; `fields`: what of a definition drifts. `convert`: those with another privilege than
//!   declared, which may be converted.

use std::collections::BTreeMap;

use crate::desired::{Desired, Mode};
use crate::ids::{Ctid, Key, VolumeName};
use crate::observed::{NodeState, Snapshot};

mod certificate;
mod container;
pub(crate) mod container_map;
mod convert;
mod definition;
mod disk_ids;
mod entries;
mod fields;
pub mod hold;
mod id_map;
mod lines;
mod mounts;
pub mod notice;
mod other_node;
mod owner;
mod planned;
mod prune;
mod reason;
mod restart;
mod rule;
mod sharing;
mod site;
mod source;
pub mod step;
mod undone;
mod volume;
mod writable;

pub(crate) use disk_ids::space_of;
pub(crate) use lines::mounts_in_force;

pub use hold::{Hold, MapChange, Missing, NoMap, NotReady, Recheck, SourceLack, Unmappable};
pub use notice::{Notice, WhyKept};
pub use planned::{Basis, ContainerPlan, FieldDrift, Readiness, VolumePlan};
pub use reason::Reason;
pub use step::{
    CloneContainer, ConfigureContainer, ConvertContainer, ConvertPhase, CreateCertificate,
    CreateContainer, EditConf, Effective, RemoveMount, SetMount, SetOwnership, Step,
};
pub use undone::{declared, not_undone};

/// The plans of everything in a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plans {
    /// Why nothing at all is planned, if so.
    pub node: Option<Hold>,
    /// By container.
    pub containers: BTreeMap<Ctid, ContainerPlan>,
    /// By volume.
    pub volumes: BTreeMap<VolumeName, VolumePlan>,
}

impl Plans {
    /// Returns the steps of one key.
    pub fn steps(&self, key: &Key) -> &[Step] {
        match key {
            Key::Container(ctid) => self.containers.get(ctid).map_or(&[], |plan| &plan.steps),
            Key::Volume(name) => self.volumes.get(name).map_or(&[], |plan| &plan.steps),
        }
    }

    /// Returns what holds one key up; the state of the node holds up every key, and a volume that is
    /// held holds up the containers that are to mount it.
    pub fn holds(&self, key: &Key) -> Vec<Hold> {
        let (own, volumes): (&[Hold], &[VolumeName]) = match key {
            Key::Container(ctid) => self
                .containers
                .get(ctid)
                .map_or((&[], &[]), |plan| (plan.holds.as_slice(), plan.waits_for.as_slice())),
            Key::Volume(name) => {
                (self.volumes.get(name).map_or(&[], |plan| plan.holds.as_slice()), &[])
            }
        };
        let held = volumes.iter().map(|volume| Hold::VolumeHeld { volume: volume.clone() });
        self.node.iter().chain(own).cloned().chain(held).collect()
    }

    /// Returns every key that was planned, volumes first: the order in which steps make sense.
    pub fn keys(&self) -> impl Iterator<Item = Key> {
        let volumes = self.volumes.keys().cloned().map(Key::Volume);
        volumes.chain(self.containers.keys().copied().map(Key::Container))
    }
}

/// Plans everything in `snapshot`.
pub fn plan(desired: &Desired, snapshot: &Snapshot) -> Plans {
    let mut plans = Plans::default();
    let cluster = match &snapshot.node {
        NodeState::Up(cluster) => cluster,
        NodeState::Unknown(why) => {
            // Unknown is never "nothing there": no step may follow from it.
            plans.node = Some(Hold::NodeUnknown { why: why.clone() });
            return plans;
        }
    };
    for name in snapshot.volumes.keys() {
        let Some(wanted) = desired.volumes.get(name) else { continue };
        let planned = if wanted.is_on(&cluster.node) {
            volume::plan(desired, snapshot, cluster, wanted)
        } else {
            let notices = vec![Notice::OfOtherNodes { nodes: wanted.nodes.clone() }];
            VolumePlan { notices, ..VolumePlan::new(Readiness::Ready, Basis::NotManaged) }
        };
        plans.volumes.insert(name.clone(), planned);
    }
    // For its containers it is as if nobody had declared it.
    let desired = &*desired.on_node(&cluster.node);
    for ctid in snapshot.containers.keys() {
        let planned = container::plan(desired, snapshot, cluster, &plans.volumes, *ctid);
        plans.containers.insert(*ctid, planned);
    }
    if desired.settings.mode == Mode::Observe {
        let of_volumes = plans.volumes.values_mut().map(|plan| (&plan.steps, &mut plan.holds));
        let of_containers =
            plans.containers.values_mut().map(|plan| (&plan.steps, &mut plan.holds));
        for (steps, holds) in of_volumes.chain(of_containers).filter(|(steps, _)| !steps.is_empty())
        {
            holds.push(Hold::ObserveOnly { steps: steps.len() });
        }
    }
    plans
}

/// Returns in words which host ids stand behind a container's root, or why its map is not ready.
pub fn owner_of(
    desired: &Desired,
    snapshot: &Snapshot,
    ctid: Ctid,
    container: &crate::observed::ObservedContainer,
) -> Result<String, NotReady> {
    if convert::is_under_way(snapshot, ctid) {
        return Err(NotReady::Converting);
    }
    let map = container_map::of(desired, ctid, container)?;
    Ok(match map.host_ids(0, 0) {
        Some(ids) => format!("container root is {ids} on the host"),
        None => "container root has no id on the host".to_owned(),
    })
}
