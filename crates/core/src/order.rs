//! What an admin orders for one volume besides what is declared, and what came of it.

use crate::ids::VolumeName;
use crate::report::{ShiftReport, UndoReport};
use crate::shift::Shift;
use serde::{Deserialize, Serialize};

/// An order. It is carried out by whoever has the lock of the node, in place of a run over the volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Take back what was changed.
    Undo(UndoOrder),
    /// Give entries other ids, by a constant.
    Shift(ShiftOrder),
}

impl Order {
    /// Returns the volume it is for.
    pub const fn volume(&self) -> &VolumeName {
        match self {
            Self::Undo(order) => &order.volume,
            Self::Shift(order) => &order.volume,
        }
    }
}

/// See [`Order::Undo`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UndoOrder {
    /// The volume.
    pub volume: VolumeName,
    /// The pass to go back to; none: the last one that was no drift.
    pub back_to: Option<u64>,
    /// Whether setuid and setgid of files are given back.
    pub setuid: bool,
    /// Whether it is only counted.
    pub dry_run: bool,
}

/// See [`Order::Shift`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShiftOrder {
    /// The volume.
    pub volume: VolumeName,
    /// Which ids become which.
    pub shift: Shift,
    /// Whether it is only counted.
    pub dry_run: bool,
    /// Whether containers that mount it may run meanwhile.
    pub live: bool,
}

/// What came of an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum OrderReport {
    /// Of [`Order::Shift`].
    Shift(ShiftReport),
    /// Of [`Order::Undo`].
    Undo(UndoReport),
}
