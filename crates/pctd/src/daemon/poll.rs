//! The poll: finds what no event tells of, such as the writes of other nodes of the cluster.

use std::sync::Arc;

use pctd_core::desired::Desired;
use pctd_core::observed::NodeState;
use pctd_core::vmlist::Fingerprint;
use tokio::sync::{mpsc, watch};
use tracing::debug;

use crate::controller::{Event, News};
use crate::daemon::watches::Watches;
use crate::engine::Engine;

/// When more confs than this changed at once, looking at everything once is cheaper.
const MANY: usize = 32;

/// Compares `/etc/pve` with what it was, again and again.
pub(super) struct Poller {
    engine: Arc<Engine>,
    desired: watch::Receiver<Arc<Desired>>,
    events: mpsc::Sender<Event>,
}

impl Poller {
    pub(super) const fn new(
        engine: Arc<Engine>,
        desired: watch::Receiver<Arc<Desired>>,
        events: mpsc::Sender<Event>,
    ) -> Self {
        Self { engine, desired, events }
    }

    /// Polls until the loop is gone, and keeps the watches in line with the directories.
    pub(super) async fn run(self, mut watches: Watches) {
        let mut last: Option<Polled> = None;
        // Of the last poll that was answered: what moves while none is, has moved all the same.
        let mut known: Option<(String, Fingerprint)> = None;
        loop {
            let engine = Arc::clone(&self.engine);
            // On the blocking pool: a read of a dying pmxcfs can hang.
            let polled = tokio::task::spawn_blocking(move || {
                let renewed = watches.renew();
                (poll(&engine), renewed, watches)
            });
            let Ok((now, renewed, back)) = polled.await else { return };
            watches = back;
            let sent = self.compare(last.as_ref(), &now, renewed).await;
            if sent.is_err() || self.tell_moved(known.as_ref(), &now).await.is_err() {
                return;
            }
            if let Ok(now) = &now {
                known = Some(now.clone());
            }
            last = Some(now);
            let interval = self.desired.borrow().settings.poll_interval;
            tokio::time::sleep(interval).await;
        }
    }

    async fn compare(
        &self,
        last: Option<&Polled>,
        now: &Polled,
        renewed: bool,
    ) -> Result<(), mpsc::error::SendError<Event>> {
        match (last, now) {
            // The loop begins with a look at everything.
            (None, _) => Ok(()),
            (Some(Ok((_, last))), Ok((_, now))) => {
                let changed = last.changed(now);
                if renewed {
                    self.events.send(Event::All("a watch was renewed")).await
                } else if changed.len() > MANY {
                    self.events.send(Event::All("many confs changed")).await
                } else {
                    for ctid in changed {
                        self.events.send(Event::Container(ctid, News::Vmlist)).await?;
                    }
                    Ok(())
                }
            }
            (Some(Err(last)), Err(now)) if last == now => Ok(()),
            (Some(_), Err(why)) => {
                debug!("{why}");
                self.events.send(Event::All("/etc/pve does not answer")).await
            }
            (Some(Err(_)), Ok(_)) => self.events.send(Event::All("/etc/pve answers again")).await,
        }
    }

    /// Tells of the containers that came to this node or left it.
    async fn tell_moved(
        &self,
        known: Option<&(String, Fingerprint)>,
        now: &Polled,
    ) -> Result<(), mpsc::error::SendError<Event>> {
        let (Some((_, known)), Ok((node, now))) = (known, now) else { return Ok(()) };
        for ctid in known.moved(now, node) {
            self.events.send(Event::Container(ctid, News::Moved)).await?;
        }
        Ok(())
    }
}

/// What a poll finds: the name of this node, and what to compare at the next one; or why nothing is
/// known.
type Polled = Result<(String, Fingerprint), String>;

fn poll(engine: &Engine) -> Polled {
    match engine.node().cluster() {
        (NodeState::Up(cluster), Some(fingerprint)) => Ok((cluster.node, fingerprint)),
        (NodeState::Unknown(why), _) => Err(why),
        (NodeState::Up(_), None) => Err("no fingerprint".to_owned()),
    }
}
