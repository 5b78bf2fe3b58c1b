//! The poll of the configuration: on pmxcfs and NFS no event tells that another node wrote it.
//!
//! Times and sizes are no help there, so the files are read and compared. They are small, and they
//! and the watches of their directories are apart from the poll of `.vmlist`, so that a file system
//! that does not answer holds up nothing else.

use std::sync::Arc;

use pctd_core::desired::Desired;
use tokio::sync::{mpsc, watch};
use tracing::debug;

use crate::config_files::{ConfigPaths, Files, chain};
use crate::daemon::watches::{Role, Seen, Watches};

/// What the files hold, or why they cannot be read.
pub(super) type Look = Result<Files, String>;

/// Reads the files.
pub(super) fn look(config: &ConfigPaths) -> Look {
    config.read().map_err(|error| chain(&error))
}

/// Looks again and again until nobody listens, and tells when the files are not as they were; keeps
/// their directories watched besides.
pub(super) async fn run(
    config: ConfigPaths,
    mut seen: Look,
    desired: watch::Receiver<Arc<Desired>>,
    found: mpsc::Sender<Seen>,
) {
    let mut watches = None;
    loop {
        let (files, events) = (config.clone(), found.clone());
        // On the blocking pool: a read of a dying pmxcfs can hang.
        let looked = tokio::task::spawn_blocking(move || {
            let mut watches = watches.or_else(|| watch(&files, events));
            // Watched first: what changes after the look is then told.
            if let Some(watches) = &mut watches {
                watches.renew(None);
            }
            (look(&files), watches)
        });
        let Ok((now, back)) = looked.await else { return };
        watches = back;
        if now != seen {
            debug!("the configuration is not as it was");
            seen = now;
            if found.send(Seen::Config).await.is_err() {
                return;
            }
        }
        let interval = desired.borrow().settings.poll_interval;
        tokio::time::sleep(interval).await;
    }
}

fn watch(config: &ConfigPaths, found: mpsc::Sender<Seen>) -> Option<Watches> {
    let directories = config.watched_directories();
    let wanted = directories.into_iter().map(|path| (path, Role::Config)).collect();
    let watches = Watches::new(wanted, found);
    watches.map_err(|error| debug!("cannot watch the configuration: {error}; it is polled")).ok()
}
