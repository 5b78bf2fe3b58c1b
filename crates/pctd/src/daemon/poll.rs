//! The poll: finds what no event tells of, such as the writes of other nodes of the cluster.

use std::sync::Arc;

use pctd_core::desired::Desired;
use pctd_core::observed::{Cluster, NodeState};
use pctd_core::vmlist::Fingerprint;
use tokio::sync::{mpsc, watch};
use tracing::debug;

use crate::controller::{Event, News};
use crate::daemon::watches::Watches;
use crate::engine::Engine;

/// When more confs than this changed at once, looking at everything once is cheaper.
const MANY: usize = 32;

/// What a poll finds, or why nothing is known.
type Polled = Result<Seen, String>;

/// What is compared at the next poll.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    /// Which nodes are reached, and whether there is a quorum: nothing else tells of their return what
    /// waits for it, and who acts on shared storage follows from it.
    cluster: Cluster,
    fingerprint: Fingerprint,
}

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
        let mut known: Option<Seen> = None;
        loop {
            let engine = Arc::clone(&self.engine);
            // On the blocking pool: a read of a dying pmxcfs can hang.
            let polled = tokio::task::spawn_blocking(move || {
                // Read first: what changes before a watch is made shows at the next poll.
                let now = poll(&engine);
                let starttime = now.as_ref().ok().map(|now| now.fingerprint.starttime);
                let renewed = watches.renew(starttime);
                (now, renewed, watches)
            });
            let Ok((now, renewed, back)) = polled.await else { return };
            watches = back;
            if last.as_ref().is_some_and(is_aboard)
                && !is_aboard(&now)
                && self.events.send(Event::Adrift).await.is_err()
            {
                return;
            }
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
            (Some(Ok(last)), Ok(now)) => {
                let changed = last.fingerprint.changed(&now.fingerprint);
                if renewed {
                    self.events.send(Event::All("a watch was renewed")).await
                } else if last.cluster != now.cluster {
                    self.events.send(Event::All("a node or the quorum came or went")).await
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
        known: Option<&Seen>,
        now: &Polled,
    ) -> Result<(), mpsc::error::SendError<Event>> {
        let (Some(known), Ok(now)) = (known, now) else { return Ok(()) };
        for ctid in known.fingerprint.moved(&now.fingerprint, &now.cluster.node) {
            self.events.send(Event::Container(ctid, News::Moved)).await?;
        }
        Ok(())
    }
}

/// Returns whether this node surely is where the cluster is.
fn is_aboard(polled: &Polled) -> bool {
    polled.as_ref().is_ok_and(|seen| seen.cluster.quorate)
}

fn poll(engine: &Engine) -> Polled {
    match engine.node().cluster() {
        (NodeState::Up(cluster), Some(fingerprint)) => Ok(Seen { cluster, fingerprint }),
        (NodeState::Unknown(why), _) => Err(why),
        (NodeState::Up(_), None) => Err("no fingerprint".to_owned()),
    }
}
