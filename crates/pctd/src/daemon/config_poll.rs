//! The poll of the configuration: on pmxcfs and NFS no event tells that another node wrote it.
//!
//! Times and sizes are no help there, so the files are read and compared. They are small, and apart
//! from the poll of `.vmlist`, so that a file system that does not answer holds up nothing else.

use std::sync::Arc;

use pctd_core::desired::Desired;
use tokio::sync::{mpsc, watch};
use tracing::debug;

use crate::config_files::{ConfigPaths, Files, chain};
use crate::daemon::watches::Seen;

/// What the files hold, or why they cannot be read.
pub(super) type Look = Result<Files, String>;

/// Reads the files.
pub(super) fn look(config: &ConfigPaths) -> Look {
    config.read().map_err(|error| chain(&error))
}

/// Looks again and again until nobody listens, and tells when the files are not as they were.
pub(super) async fn run(
    config: ConfigPaths,
    mut seen: Look,
    desired: watch::Receiver<Arc<Desired>>,
    found: mpsc::Sender<Seen>,
) {
    loop {
        let interval = desired.borrow().settings.poll_interval;
        tokio::time::sleep(interval).await;
        let files = config.clone();
        // On the blocking pool: a read of a dying pmxcfs can hang.
        let Ok(now) = tokio::task::spawn_blocking(move || look(&files)).await else { return };
        if now == seen {
            continue;
        }
        debug!("the configuration is not as it was");
        seen = now;
        if found.send(Seen::Config).await.is_err() {
            return;
        }
    }
}
