//! Who is at the other end of a connection, and how many there may be.
//!
//! The mode of the socket says who can connect at all: root, and the group that `status_group`
//! names. What a client may do is decided anew for each request, by what the kernel says of the
//! process that connected (`SO_PEERCRED`, unix(7)), whatever the mode of the socket is.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pctd_core::desired::Desired;
use pctd_core::request::Peer;
use rustix::fs::{AtFlags, CWD, Gid, Mode, Uid, chmodat, chownat};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::engine::Engine;

/// How many clients of root's are served at once; each may take a descriptor and a request.
const ROOT_CLIENTS: usize = 64;
/// How many others: they must not keep root out.
const GUESTS: usize = 16;
/// How many of those for one user: who follows the status keeps his place, and must not keep the
/// others out.
const GUESTS_OF_ONE: usize = GUESTS / 2;

/// Root alone.
const CLOSED: u32 = 0o600;
/// And the group.
const OPEN_TO_GROUP: u32 = 0o660;

/// Asks the kernel who connected.
///
/// # Errors
///
/// It does not know.
pub(super) fn of(stream: &UnixStream) -> io::Result<Peer> {
    let uid = stream.peer_cred()?.uid();
    let is_root = uid == 0 || uid == rustix::process::geteuid().as_raw();
    Ok(if is_root { Peer::Root } else { Peer::Guest(uid) })
}

/// The places for clients: how many each has, of those who have any.
#[derive(Debug, Clone, Default)]
pub(super) struct Places(Arc<Mutex<BTreeMap<Peer, usize>>>);

impl Places {
    /// Takes a place until what is returned is dropped; `None` where all are taken.
    pub(super) fn take(&self, peer: Peer) -> Option<Place> {
        let mut taken = self.taken();
        let own = taken.get(&peer).copied().unwrap_or(0);
        let is_free = match peer {
            Peer::Root => own < ROOT_CLIENTS,
            Peer::Guest(_) => {
                let guests = taken.iter().filter(|(peer, _)| **peer != Peer::Root);
                own < GUESTS_OF_ONE && guests.map(|(_, places)| places).sum::<usize>() < GUESTS
            }
        };
        is_free.then(|| {
            taken.insert(peer, own + 1);
            Place { peer, places: self.clone() }
        })
    }

    fn taken(&self) -> MutexGuard<'_, BTreeMap<Peer, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place that is taken; free again when dropped.
#[derive(Debug)]
pub(super) struct Place {
    peer: Peer,
    places: Places,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        if let Some(places) = taken.get_mut(&self.peer) {
            *places -= 1;
        }
        taken.retain(|_, places| *places > 0);
    }
}

/// Keeps the socket open to the group that the settings name, and to nobody else but root. What
/// fails is tried again whenever the configuration was read, and at the resync: a group may be made
/// after it was named.
pub(crate) async fn admit(
    engine: Arc<Engine>,
    mut desired: watch::Receiver<Arc<Desired>>,
    mut reloaded: watch::Receiver<()>,
) {
    // What the socket surely is; it was made closed. `None`: not known, since the last try failed.
    let mut admitted = Some(None);
    let mut said = None;
    loop {
        let (wanted, resync) = {
            let desired = desired.borrow_and_update();
            (desired.settings.status_group.clone(), desired.settings.resync_interval)
        };
        if admitted.as_ref() != Some(&wanted) {
            let (engine, group) = (Arc::clone(&engine), wanted.clone());
            // Files are read for it.
            let set = tokio::task::spawn_blocking(move || open_to(&engine, group.as_deref()));
            match set.await.unwrap_or_else(|panic| Err(panic.to_string())) {
                Ok(()) => {
                    if let Some(group) = &wanted {
                        info!("group {group} may ask for the status");
                    }
                    admitted = Some(wanted);
                    said = None;
                }
                Err(why) => {
                    if said.as_ref() != Some(&why) {
                        warn!("nobody but root may ask for the status: {why}");
                    }
                    admitted = None;
                    said = Some(why);
                }
            }
        }
        // Cancel-safe: a dropped `changed` is seen by the next one.
        let changed = tokio::select! {
            changed = desired.changed() => changed,
            changed = reloaded.changed() => changed,
            () = tokio::time::sleep(resync), if admitted.is_none() => Ok(()),
        };
        if changed.is_err() {
            return;
        }
    }
}

fn open_to(engine: &Engine, group: Option<&str>) -> Result<(), String> {
    let socket = engine.node().paths().socket();
    // Closed before it is another group's.
    let at = |error: io::Error| format!("{}: {error}", socket.display());
    set(&socket, Gid::ROOT, CLOSED).map_err(at)?;
    let Some(name) = group else { return Ok(()) };
    let gid = if let Ok(gid) = name.parse() {
        gid
    } else {
        let accounts = engine.node().accounts().map_err(|error| error.to_string())?;
        let known = accounts.groups.get(name).copied();
        known.ok_or_else(|| format!("there is no group {name}, which status_group names"))?
    };
    set(&socket, Gid::from_raw(gid), OPEN_TO_GROUP).map_err(at)
}

/// Sets both; the mode first where it takes away, last where it gives.
fn set(socket: &Path, gid: Gid, mode: u32) -> io::Result<()> {
    chmodat(CWD, socket, Mode::from_raw_mode(CLOSED), AtFlags::empty())?;
    chownat(CWD, socket, Some(Uid::from_raw(0)), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(chmodat(CWD, socket, Mode::from_raw_mode(mode), AtFlags::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_user_has_half_of_the_places_and_all_together_have_all() {
        let places = Places::default();
        let take =
            |uid| -> Vec<Place> { (0..100).map_while(|_| places.take(Peer::Guest(uid))).collect() };
        let (first, second) = (take(1), take(2));
        assert_eq!((first.len(), second.len()), (GUESTS_OF_ONE, GUESTS_OF_ONE));
        assert_eq!(take(3).len(), 0);
        drop(first);
        let third = take(3).split_off(1);
        assert_eq!(take(1).len(), 1);
        assert_eq!(take(2).len(), 0);
        let root: Vec<_> = (0..100).map_while(|_| places.take(Peer::Root)).collect();
        assert_eq!(root.len(), ROOT_CLIENTS);
        drop((second, third, root));
        assert!(places.taken().is_empty(), "{places:?}");
    }
}
