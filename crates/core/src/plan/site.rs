//! The container whose raw lines are planned, for all that plan some of them: its definition, the
//! mounts that LXC makes, its id map.

use crate::conf::RawEdit;
use crate::desired::{ContainerDef, Desired};
use crate::ids::Ctid;
use crate::ledger::Making;
use crate::observed::{ObservedContainer, Running, Snapshot};
use crate::plan::hold::{Hold, MapChange};
use crate::plan::step::EditConf;

/// A container whose raw lines are planned.
#[derive(Debug, Clone, Copy)]
pub(super) struct Site<'a> {
    pub(super) desired: &'a Desired,
    pub(super) snapshot: &'a Snapshot,
    pub(super) ctid: Ctid,
    pub(super) container: &'a ObservedContainer,
    /// How pctd makes it, as long as it does.
    pub(super) making: Option<Making>,
    /// Whether pctd just made it, and it does not run.
    pub(super) is_fresh: bool,
}

impl<'a> Site<'a> {
    /// Returns a container that is here as a place for lines.
    pub(super) fn new(
        desired: &'a Desired,
        snapshot: &'a Snapshot,
        ctid: Ctid,
        container: &'a ObservedContainer,
    ) -> Self {
        let making = snapshot.ledger.making.get(&ctid).copied();
        let is_fresh = making.is_some() && container.running == Running::No;
        Self { desired, snapshot, ctid, container, making, is_fresh }
    }

    /// Returns why its id map stays as it is.
    pub(super) fn map_change(&self, why: MapChange) -> Hold {
        Hold::IdmapChange { ctid: self.ctid, why }
    }

    /// Returns what is declared of the container itself.
    pub(super) fn definition(&self) -> Option<&'a ContainerDef> {
        self.desired.containers.get(&self.ctid)
    }

    /// Returns whether it has lines in force that an edit does not reach.
    pub(super) fn is_running(&self) -> bool {
        self.container.running != Running::No
    }

    /// Returns the step that makes an edit; none where there is nothing in it.
    pub(super) fn step(&self, edit: RawEdit) -> Option<EditConf> {
        let RawEdit { remove, add } = edit;
        if remove.is_empty() && add.is_empty() {
            return None;
        }
        let after_restart = self.is_running();
        Some(EditConf { remove, add, after_restart, finishes: self.making, ..EditConf::default() })
    }
}
