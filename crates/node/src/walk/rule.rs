//! What the entries of a volume are to be, and whether they are brought to it.

use std::sync::Arc;

use pctd_core::ownership::OwnershipRule;
use pctd_core::undo::PassKind;

use super::shifting::Shifting;

/// Whether entries are only compared with the rule or also brought to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WalkMode {
    /// Change nothing.
    Audit,
    /// Change what differs.
    Repair,
}

/// What entries are to be.
#[derive(Debug, Clone, Copy)]
pub enum WalkRule<'a> {
    /// As is declared for them.
    Declared(&'a OwnershipRule),
    /// Their own, with other ids.
    Shifted(&'a Arc<Shifting>),
}

impl<'a> WalkRule<'a> {
    /// Returns whether entries below the root need to be looked at at all.
    pub(crate) const fn looks_below(self) -> bool {
        match self {
            Self::Declared(rule) => rule.looks_below(),
            Self::Shifted(_) => true,
        }
    }

    /// Returns what is declared, where the walk is for that.
    pub(crate) const fn declared(self) -> Option<&'a OwnershipRule> {
        match self {
            Self::Declared(rule) => Some(rule),
            Self::Shifted(_) => None,
        }
    }

    /// Returns what tells the rule from others.
    pub(crate) fn text(self) -> String {
        match self {
            Self::Declared(rule) => format!("{rule:?}"),
            Self::Shifted(shifting) => format!("{:?}", shifting.shift()),
        }
    }

    /// Returns what makes a pass with it.
    pub(crate) const fn kind(self) -> PassKind {
        match self {
            Self::Declared(_) => PassKind::Walk,
            Self::Shifted(_) => PassKind::Shift,
        }
    }
}

impl<'a> From<&'a OwnershipRule> for WalkRule<'a> {
    fn from(rule: &'a OwnershipRule) -> Self {
        Self::Declared(rule)
    }
}

impl<'a> From<&'a Arc<Shifting>> for WalkRule<'a> {
    fn from(shifting: &'a Arc<Shifting>) -> Self {
        Self::Shifted(shifting)
    }
}
