//! What passes changed, on disk, and how it is taken back.
//!
//! Below `/var/lib/pctd/undo/VOLUME` there is one file for each pass that changed something; its name
//! is when it began. What is in it is [`pctd_core::undo`]'s. Each record is written by one call that
//! has ended before the change is begun, so whenever the process is killed, nothing was changed that
//! is not on record. After a power failure the last seconds of a record may be missing, as the changes
//! may be; a pass that came to its end was synced.
//!
//! - `record`: noting what is about to be changed.
//! - `store`: the files: which there are, what is in them, how much room they have.
//! - `restore`: taking it back, in the order of `places`.

mod places;
mod record;
mod restore;
mod store;

pub use self::record::{RecordError, Recorder};
pub(crate) use self::restore::undo;
pub use self::restore::{UndoError, UndoRequest, Undone};
pub use self::store::{Pass, passes, volumes};
