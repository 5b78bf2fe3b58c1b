//! Volumes in which what pctd had done was taken back: it is not done again by itself.

use crate::conf::Digest;
use crate::desired::{Owner, Volume};
use crate::ids::{Ctid, VolumeName};
use crate::ledger::{Ledger, LedgerEntry};
use crate::observed::Snapshot;

/// Returns whether what had been done was taken back, and nobody has asked for it since.
pub(super) fn is_undone(snapshot: &Snapshot, volume: &Volume) -> bool {
    let as_it_is = |was: &String| *was == declared(volume);
    snapshot.ledger.undone.get(&volume.name).is_some_and(as_it_is)
        && !snapshot.requests.confirmed.contains(&volume.name)
}

/// Returns a fingerprint of what the configuration says of a volume's entries, whatever that comes to
/// on this node.
pub fn declared(volume: &Volume) -> String {
    let owner = match &volume.owner {
        Owner::Keep => "keep".to_owned(),
        Owner::Container { uid, gid } => format!("container:{uid}:{gid}"),
        Owner::Host { user, group } => format!("{user}:{}", group.as_deref().unwrap_or_default()),
    };
    let mut text = format!(
        "{}\n{owner}\n{:?}\n{:?}\n{:?}\n{:?}\n{}\n{}\n{:?}\n{}\n",
        volume.host_path,
        volume.group,
        volume.default_acl.as_ref().map(ToString::to_string),
        volume.owner_ctid.map(Ctid::get),
        volume.disk_ids,
        volume.dir_mode,
        volume.file_mode,
        volume.enforce,
        volume.recurse
    );
    for (pattern, mode) in &volume.file_modes {
        text.extend([pattern.as_str(), "=", &mode.to_string(), "\n"]);
    }
    Digest::of(text.as_bytes()).to_string()
}

/// Returns what makes the ledger again what it was before an undo was entered, for one of which came
/// nothing. What an earlier undo took back stays so.
pub fn not_undone(before: &Ledger, volume: &VolumeName) -> Vec<LedgerEntry> {
    let undone = match before.undone.get(volume).cloned() {
        Some(declared) => LedgerEntry::Undone { volume: volume.clone(), declared },
        None => LedgerEntry::UndoneEnded(volume.clone()),
    };
    // It counts as done as it did; only this tells `once` that every entry was set.
    let record = before.volumes.get(volume).cloned();
    let done = record.map(|record| LedgerEntry::VolumeDone { volume: volume.clone(), record });
    [undone].into_iter().chain(done).collect()
}

/// Returns what ends that, where it is over.
pub(super) fn record(snapshot: &Snapshot, volume: &Volume) -> Option<LedgerEntry> {
    let is_over = snapshot.ledger.undone.contains_key(&volume.name);
    is_over.then(|| LedgerEntry::UndoneEnded(volume.name.clone()))
}
