//! What a report says of a hold or a notice: its name, and its message.

use serde::Serialize;

use crate::plan::hold::Hold;
use crate::plan::notice::Notice;

/// A hold or a notice as JSON shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize, schemars::JsonSchema)]
pub struct Reason {
    /// The stable name.
    pub reason: String,
    /// What it means here, and what to do next.
    pub message: String,
}

impl From<&Notice> for Reason {
    fn from(notice: &Notice) -> Self {
        Self { reason: notice.reason().to_owned(), message: notice.to_string() }
    }
}

impl From<&Hold> for Reason {
    fn from(hold: &Hold) -> Self {
        Self { reason: hold.reason().to_owned(), message: hold.to_string() }
    }
}
