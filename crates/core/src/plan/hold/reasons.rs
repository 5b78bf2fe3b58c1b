//! The name of every hold, and when to look again.

use super::{Hold, NotReady, SourceLack};

/// When a hold is worth another look without an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recheck {
    /// With backoff, as for failures: it should pass soon.
    Backoff,
    /// At the calm interval of holds.
    Calm,
}

impl Hold {
    /// Returns whether some task is at work, as with every `pct` that an admin runs.
    pub const fn is_busy(&self) -> bool {
        matches!(
            self,
            Self::Busy { .. }
                | Self::IdmapNotReady { why: NotReady::Busy, .. }
                | Self::CloneSourceNotReady { why: SourceLack::Busy, .. }
        )
    }

    /// Returns whether nobody needs to be told of it for this key: some task is at work, or a volume
    /// or the node is held up, which has been said once for all.
    pub const fn is_passing(&self) -> bool {
        self.is_busy()
            || matches!(
                self,
                Self::VolumeHeld { .. }
                    | Self::NodeUnknown { .. }
                    | Self::CloneSourceNotReady { why: SourceLack::Coming, .. }
            )
    }

    /// Returns whether the map of a container is missing, which will turn up.
    pub(in crate::plan) const fn waits_for_map(&self) -> bool {
        matches!(self, Self::IdmapNotReady { .. })
    }
}

/// Says once, for every hold, its name and when to look again, so that no list can miss one.
macro_rules! reasons {
    ($($variant:ident: $recheck:ident,)+) => {
        impl Hold {
            /// The names of all holds.
            pub const REASONS: &[&str] = &[$(stringify!($variant)),+];

            /// Returns the stable name of the reason.
            pub const fn reason(&self) -> &'static str {
                match self {
                    $(Self::$variant { .. } => stringify!($variant),)+
                }
            }

            /// Returns when to look again if nothing is heard before.
            pub const fn recheck(&self) -> Recheck {
                match self {
                    $(Self::$variant { .. } => Recheck::$recheck,)+
                }
            }
        }
    };
}

reasons! {
    NodeUnknown: Backoff,
    ContainerUnknown: Backoff,
    NotDefined: Calm,
    Gone: Calm,
    NodeNotNamed: Calm,
    DefinitionInvalid: Calm,
    TemplateMissing: Calm,
    TemplateUnreadable: Calm,
    CloneSourceNotReady: Calm,
    CreateInterrupted: Calm,
    IdTakenByVm: Calm,
    Locked: Calm,
    Busy: Backoff,
    Protected: Calm,
    NoQuorum: Calm,
    OtherNodeActs: Backoff,
    UnprivilegedMismatch: Calm,
    IdmapChange: Calm,
    SubIdsMissing: Calm,
    ConvertUnsafe: Calm,
    ConvertWaits: Calm,
    ConvertFailed: Calm,
    ConvertInterrupted: Calm,
    IdmapNotReady: Backoff,
    OwnerConflict: Calm,
    IdUnmapped: Calm,
    IdmapImpossible: Calm,
    IdmapUnsupported: Calm,
    UnknownAccount: Calm,
    ConfirmationRequired: Calm,
    OwnershipUnsupported: Calm,
    UndoUnavailable: Calm,
    Undone: Calm,
    AclUnsupported: Calm,
    WalkIncomplete: Calm,
    SourceMissing: Calm,
    LedgerLost: Calm,
    SourceNotDirectory: Calm,
    SourceUnreadable: Calm,
    PathUnsafe: Calm,
    SourceNotMounted: Calm,
    SourceChanged: Calm,
    CertificateBlocked: Calm,
    ForeignMount: Calm,
    DuplicateMount: Calm,
    NestedMount: Calm,
    TargetTaken: Calm,
    PendingForeign: Calm,
    NoFreeKey: Calm,
    VolumeHeld: Calm,
    ConfigUnsettled: Calm,
    ObserveOnly: Calm,
    StartOwed: Backoff,
    NotStarted: Calm,
    NeedsRestart: Calm,
}
