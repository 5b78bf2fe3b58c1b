//! What planning one container or one volume comes to, as data.

use crate::desired::Field;
use crate::ids::VolumeName;
use crate::ledger::LedgerEntry;
use crate::observed::Assurance;
use crate::ownership::OwnershipRule;
use crate::plan::hold::Hold;
use crate::plan::notice::Notice;
use crate::plan::step::Step;

/// What is to be done for a container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ContainerPlan {
    /// The steps, in the order they are to be taken.
    pub steps: Vec<Step>,
    /// Why what differs is left.
    pub holds: Vec<Hold>,
    /// What an admin should know though nothing differs.
    pub notices: Vec<Notice>,
    /// What to enter into the ledger, since it was seen to be in place.
    pub records: Vec<LedgerEntry>,
    /// Volumes whose own holds keep a mount of this container from being written.
    pub waits_for: Vec<VolumeName>,
    /// Fields of its definition that differ and are not managed.
    pub drift: Vec<FieldDrift>,
}

/// A field of a definition that a container does not have as declared, and that is not managed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldDrift {
    /// The field.
    pub field: Field,
    /// The property of the conf.
    pub property: &'static str,
    /// What is declared.
    pub declared: String,
    /// What is there.
    pub found: Option<String>,
}

/// What is to be done for a volume, and what that means for the containers that mount it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumePlan {
    /// The steps, in the order they are to be taken.
    pub steps: Vec<Step>,
    /// Why what differs is left.
    pub holds: Vec<Hold>,
    /// What an admin should know though nothing differs.
    pub notices: Vec<Notice>,
    /// What to enter into the ledger, since it was seen to be in place.
    pub records: Vec<LedgerEntry>,
    /// Whether containers may mount it.
    pub readiness: Readiness,
    /// The rule for its entries, once it is known whose they are to be.
    pub rule: Option<OwnershipRule>,
    /// The rule that entries are held to as they change, where the volume was in place already.
    pub standing: Option<OwnershipRule>,
    /// Whether a read-only walk is needed before more can be said.
    pub needs_audit: bool,
    /// What its ownership rests on.
    pub basis: Basis,
}

/// Whether a volume may be mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// It is as declared, or differs for a reason that waiting will not cure.
    Ready,
    /// It will be once its own steps are taken.
    Soon,
    /// Not before a hold is gone.
    Held,
}

/// What a volume's condition `Owned` rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Basis {
    /// Nothing is declared of it, or there is nobody to own it for.
    NotManaged,
    /// A walk of every entry in this very observation.
    Walk,
    /// The root directory, and what is known from before.
    Before(Assurance),
    /// The root directory; another node of the cluster looks after the rest.
    OtherNode,
    /// It is not in place, or not known to be.
    None,
}

impl VolumePlan {
    pub(super) fn new(readiness: Readiness, basis: Basis) -> Self {
        Self {
            steps: Vec::new(),
            holds: Vec::new(),
            notices: Vec::new(),
            records: Vec::new(),
            readiness,
            rule: None,
            standing: None,
            needs_audit: false,
            basis,
        }
    }

    pub(super) fn held(hold: Hold) -> Self {
        Self { holds: vec![hold], ..Self::new(Readiness::Held, Basis::None) }
    }

    /// Returns the plan of a volume of which it is not known whose it is to be.
    pub(super) fn undecided(holds: Vec<Hold>) -> Self {
        // A missing map will turn up; a conflict will not, and need not keep services down.
        let is_waiting = holds.iter().any(Hold::waits_for_map);
        let readiness = if is_waiting { Readiness::Held } else { Readiness::Ready };
        Self { holds, ..Self::new(readiness, Basis::None) }
    }
}
