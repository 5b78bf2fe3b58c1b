//! What systemd is told: READY, STATUS, RELOADING, STOPPING and the watchdog.
//!
//! Without `NOTIFY_SOCKET` every call here does nothing.

use std::time::Duration;

use pctd_core::ids::Key;
use sd_notify::NotifyState;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::debug;

use crate::controller::Event;
use crate::controller::followers::{Op, Request};

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        debug!("systemd could not be told: {error}");
    }
}

/// Says that the first configuration is in force and the node was looked at.
pub(super) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// Says that the configuration is being read again.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        // systemd 253 and newer insist on the time.
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(_) => tell(&[NotifyState::Reloading]),
    }
}

/// Says that the service is ending.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Passes on the summary when it changes, and feeds the watchdog while the loop answers.
pub(super) async fn report(mut summary: watch::Receiver<String>, events: mpsc::Sender<Event>) {
    let watchdog = sd_notify::watchdog_enabled().map(|timeout| timeout / 2);
    // Without a watchdog the timer only has to exist.
    let mut alive = tokio::time::interval(watchdog.unwrap_or(Duration::from_secs(3600)));
    loop {
        // Cancel-safe: a dropped `changed` is seen by the next one, a dropped `tick` is due again.
        tokio::select! {
            changed = summary.changed() => {
                if changed.is_err() {
                    return;
                }
                let text = summary.borrow_and_update().clone();
                tell(&[NotifyState::Status(&text)]);
            }
            _ = alive.tick(), if watchdog.is_some() => {
                if answers(&events).await {
                    tell(&[NotifyState::Watchdog]);
                }
            }
        }
    }
}

/// Returns whether the loop takes an event and answers it: a sign of life that cannot be faked by
/// a task beside it.
async fn answers(events: &mpsc::Sender<Event>) -> bool {
    let (reply, answer) = oneshot::channel();
    // A key that nobody declares, so that the answer is small.
    let nobody = "a".parse().map(Key::Volume);
    let request = Request { op: Op::Status(nobody.into_iter().collect()), reply };
    events.send(Event::Client(request)).await.is_ok() && answer.await.is_ok()
}
