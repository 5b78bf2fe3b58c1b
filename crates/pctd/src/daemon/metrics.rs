//! Metrics for `node_exporter`'s textfile collector: written when they change, every few seconds at
//! most, and at every resync. Where `metrics_file` is not set nothing here ever wakes.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pctd_core::desired::Desired;
use pctd_node::{NodePaths, textfile};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::warn;

use crate::controller::Event;

mod text;

/// How often the file may be written.
const EVERY: Duration = Duration::from_secs(5);

/// Writes the file until `stop` turns true, or nobody answers.
pub(super) async fn run(
    paths: NodePaths,
    mut desired: watch::Receiver<Arc<Desired>>,
    events: mpsc::Sender<Event>,
    mut stop: watch::Receiver<bool>,
) {
    let mut last: Option<(PathBuf, String, Instant)> = None;
    let mut said = None;
    loop {
        let (path, resync) = {
            let desired = desired.borrow_and_update();
            (path_of(&paths, &desired), desired.settings.resync_interval)
        };
        let Some(path) = path else {
            // Cancel-safe: a dropped `changed` is seen by the next one.
            tokio::select! {
                changed = desired.changed() => if changed.is_err() {
                    return;
                },
                _ = stop.changed() => return,
            }
            continue;
        };
        let (reply, measures) = oneshot::channel();
        if events.send(Event::Measure(reply)).await.is_err() {
            return;
        }
        let Ok(measures) = measures.await else { return };
        let text = text::render(&measures);
        let is_old = last.as_ref().is_none_or(|(at, written, when)| {
            *at != path || *written != text || when.elapsed() >= resync
        });
        if is_old {
            let error = write(path.clone(), text.clone()).await.err();
            if let Some(error) = error.as_ref().filter(|error| said.as_ref() != Some(*error)) {
                warn!("metrics cannot be written to {}: {error}", path.display());
            }
            if error.is_none() {
                last = Some((path, text, Instant::now()));
            }
            said = error;
        }
        // Cancel-safe: a dropped `changed` is seen by the next one. Ended: the loop has, too.
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            changed = desired.changed() => if changed.is_err() {
                return;
            },
            _ = stop.changed() => return,
        }
    }
}

/// Writes that nobody measures any more.
pub(super) async fn stopped(paths: &NodePaths, desired: &Desired) {
    if let Some(path) = path_of(paths, desired) {
        // It said so while it ran where it cannot be written.
        let _said = write(path, text::STOPPED.to_owned()).await;
    }
}

fn path_of(paths: &NodePaths, desired: &Desired) -> Option<PathBuf> {
    desired.settings.metrics_file.as_ref().map(|path| paths.host(path))
}

async fn write(path: PathBuf, text: String) -> Result<(), String> {
    let write = move || textfile::replace(&path, text.as_bytes()).map_err(|e| e.to_string());
    // On the blocking pool: the directory may be anywhere.
    tokio::task::spawn_blocking(write).await.unwrap_or_else(|panic| Err(panic.to_string()))
}
