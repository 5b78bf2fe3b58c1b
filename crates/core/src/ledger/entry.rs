//! One change of the ledger, and what it does.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    CertificateRecord, Conversion, DiskRoot, Edited, Ledger, Making, PairRecord, VolumeRecord,
};
use crate::conf::RawLine;
use crate::ids::{Ctid, MpKey, VolumeName};

/// A change of the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LedgerEntry {
    /// pctd is about to write this mount. Entered before the call, so that a crash in between
    /// cannot make its own work look like somebody else's.
    MountIntended {
        /// The container.
        ctid: Ctid,
        /// The key.
        key: MpKey,
        /// The value, in the normal form Proxmox stores.
        value: String,
    },
    /// pctd wrote this mount, and saw it in the conf.
    MountWritten {
        /// The container.
        ctid: Ctid,
        /// The key.
        key: MpKey,
        /// The value, in the normal form Proxmox stores.
        value: String,
    },
    /// What pctd meant to write did not get there; what stood there before still does.
    MountNotWritten {
        /// The container.
        ctid: Ctid,
        /// The key.
        key: MpKey,
    },
    /// What pctd wrote was taken back, or is gone.
    MountForgotten {
        /// The container.
        ctid: Ctid,
        /// The key.
        key: MpKey,
    },
    /// pctd is about to write another mount over one of its own.
    MountReplaced {
        /// The container.
        ctid: Ctid,
        /// The key.
        key: MpKey,
        /// The value in force, as it stands in the conf.
        value: String,
    },
    /// pctd is about to change options of a mount that somebody else made.
    MountBorrowed {
        /// The container.
        ctid: Ctid,
        /// The key.
        key: MpKey,
    },
    /// A mount that somebody else made counts as pctd's own from now on (`adopt`).
    MountAdopted {
        /// The container.
        ctid: Ctid,
        /// The key.
        key: MpKey,
    },
    /// pctd is about to add these raw lines. Entered before the edit, so that a crash in between
    /// cannot make its own work look like somebody else's.
    LinesIntended {
        /// The container.
        ctid: Ctid,
        /// The lines.
        lines: Vec<RawLine>,
    },
    /// These raw lines of pctd's are gone, or never got there.
    LinesForgotten {
        /// The container.
        ctid: Ctid,
        /// The lines.
        lines: Vec<RawLine>,
    },
    /// This is what a running container does not have yet of pctd's edits, if anything.
    EditWaits {
        /// The container.
        ctid: Ctid,
        /// What came and went.
        edited: Option<Edited>,
    },
    /// pctd is about to write a mount with an `idmap=` of its own, or has taken that out.
    MountMapped {
        /// The container.
        ctid: Ctid,
        /// The key.
        key: MpKey,
        /// Whether it is there.
        mapped: bool,
    },
    /// Ids on disk are counted from this owner, from now on.
    DiskRootSeen {
        /// The volume.
        volume: VolumeName,
        /// The owner.
        root: DiskRoot,
    },
    /// Ids of this volume are no longer counted from its owner.
    DiskRootForgotten(VolumeName),
    /// A volume was found to be as declared after a complete walk.
    VolumeDone {
        /// The volume.
        volume: VolumeName,
        /// What to remember of it.
        record: VolumeRecord,
    },
    /// What pctd changed in a volume is about to be taken back.
    Undone {
        /// The volume.
        volume: VolumeName,
        /// What is declared for its entries.
        declared: String,
    },
    /// It may be done again.
    UndoneEnded(VolumeName),
    /// pctd is about to put this pair in place; entered before the files.
    CertificateIntended {
        /// The volume.
        volume: VolumeName,
        /// The domain.
        domain: String,
        /// The pair.
        pair: PairRecord,
    },
    /// Both files of this pair are in place.
    CertificateMade {
        /// The volume.
        volume: VolumeName,
        /// The domain.
        domain: String,
        /// The pair.
        pair: PairRecord,
    },
    /// A container is here.
    Seen(Ctid),
    /// pctd is about to make a container. Entered before the call, so that what a crash leaves is
    /// finished and not taken for somebody else's; takes back that it was seen before.
    MakeIntended {
        /// The container.
        ctid: Ctid,
        /// How.
        how: Making,
    },
    /// A container that pctd made has all it is to have, or what is there is not pctd's.
    MakeEnded(Ctid),
    /// pctd restarts a container.
    Restarted {
        /// The container.
        ctid: Ctid,
        /// When, in seconds since 1970.
        at: u64,
    },
    /// pctd is about to stop a container that it has to start again, whatever comes in between.
    StartOwed(Ctid),
    /// It runs again, or is no longer pctd's to start.
    StartSettled(Ctid),
    /// pctd is about to begin a phase of a conversion.
    Converting {
        /// The container.
        ctid: Ctid,
        /// The conversion with that phase.
        conversion: Conversion,
    },
    /// `vzdump` has made a backup for a conversion; nobody knows yet whether it is good.
    BackedUp {
        /// The container.
        ctid: Ctid,
        /// Where it is, as a path of the node.
        archive: String,
    },
    /// A container was converted.
    Converted {
        /// The container.
        ctid: Ctid,
        /// The backup it was restored from, as a path of the node.
        archive: String,
    },
    /// A conversion failed, and the container is as it was.
    ConvertFailed {
        /// The container.
        ctid: Ctid,
        /// What it failed of.
        why: String,
    },
    /// There is nothing to convert (any more), and nothing was.
    ConvertEnded(Ctid),
}

impl Ledger {
    /// Enters a change; returns whether it changed anything.
    pub fn enter(&mut self, entry: LedgerEntry) -> bool {
        match entry {
            LedgerEntry::MountIntended { ctid, key, value } => {
                let intended = self.intended.entry(ctid).or_default();
                intended.insert(key, value.clone()) != Some(value)
            }
            LedgerEntry::MountWritten { ctid, key, value } => {
                let meant = take(&mut self.intended, ctid, key);
                let mounts = self.mounts.entry(ctid).or_default();
                mounts.insert(key, value.clone()) != Some(value) || meant
            }
            LedgerEntry::MountNotWritten { ctid, key } => take(&mut self.intended, ctid, key),
            LedgerEntry::MountForgotten { ctid, key } => {
                let all = [&mut self.intended, &mut self.replaced, &mut self.mounts];
                let taken = all.map(|mounts| take(mounts, ctid, key)).contains(&true);
                let was_borrowed = take_key(&mut self.borrowed, ctid, key);
                take_key(&mut self.mapped, ctid, key) || was_borrowed || taken
            }
            LedgerEntry::MountReplaced { ctid, key, value } => {
                let replaced = self.replaced.entry(ctid).or_default();
                replaced.insert(key, value.clone()) != Some(value)
            }
            LedgerEntry::MountBorrowed { ctid, key } => {
                self.borrowed.entry(ctid).or_default().insert(key)
            }
            LedgerEntry::MountAdopted { ctid, key } => take_key(&mut self.borrowed, ctid, key),
            LedgerEntry::MountMapped { ctid, key, mapped: true } => {
                self.mapped.entry(ctid).or_default().insert(key)
            }
            LedgerEntry::MountMapped { ctid, key, mapped: false } => {
                take_key(&mut self.mapped, ctid, key)
            }
            LedgerEntry::DiskRootSeen { volume, root } => {
                self.disk_roots.insert(volume, root.clone()) != Some(root)
            }
            LedgerEntry::DiskRootForgotten(volume) => self.disk_roots.remove(&volume).is_some(),
            LedgerEntry::LinesIntended { ctid, lines } => {
                let own = self.lines.entry(ctid).or_default();
                let before = own.len();
                own.extend(lines);
                own.len() != before
            }
            LedgerEntry::LinesForgotten { ctid, lines } => self.forget_lines(ctid, &lines),
            LedgerEntry::EditWaits { ctid, edited } => {
                let is = edited.clone();
                let was = match edited {
                    Some(edited) => self.edited.insert(ctid, edited),
                    None => self.edited.remove(&ctid),
                };
                was != is
            }
            LedgerEntry::VolumeDone { volume, record } => {
                self.volumes.insert(volume, record.clone()) != Some(record)
            }
            LedgerEntry::Undone { volume, declared } => {
                if let Some(record) = self.volumes.get_mut(&volume) {
                    // Not every entry is as it was set once.
                    record.assumed = true;
                }
                self.undone.insert(volume, declared.clone()) != Some(declared)
            }
            LedgerEntry::UndoneEnded(volume) => self.undone.remove(&volume).is_some(),
            LedgerEntry::CertificateIntended { volume, domain, pair } => {
                let record = self.certificates.entry(volume).or_default().entry(domain);
                record.or_default().making.push(pair);
                true
            }
            LedgerEntry::CertificateMade { volume, domain, pair } => {
                let record = CertificateRecord { made: Some(pair), making: Vec::new() };
                let records = self.certificates.entry(volume).or_default();
                records.insert(domain, record.clone()) != Some(record)
            }
            LedgerEntry::Seen(ctid) => self.seen.insert(ctid),
            LedgerEntry::StartOwed(ctid) => self.start_owed.insert(ctid),
            LedgerEntry::StartSettled(ctid) => self.start_owed.remove(&ctid),
            LedgerEntry::MakeIntended { ctid, how } => {
                let forgotten = self.forget_container(ctid);
                self.making.insert(ctid, how) != Some(how) || forgotten
            }
            LedgerEntry::MakeEnded(ctid) => self.making.remove(&ctid).is_some(),
            LedgerEntry::Restarted { ctid, at } => self.restarted.insert(ctid, at) != Some(at),
            LedgerEntry::Converting { ctid, conversion } => {
                let failed = self.convert_failed.remove(&ctid).is_some();
                self.converting.insert(ctid, conversion.clone()) != Some(conversion) || failed
            }
            LedgerEntry::BackedUp { ctid, archive } => {
                self.backups.entry(ctid).or_default().insert(archive)
            }
            LedgerEntry::Converted { ctid, archive } => {
                let ended = self.forget_conversion(ctid);
                self.converted_from(ctid, &archive) || ended
            }
            LedgerEntry::ConvertFailed { ctid, why } => {
                let ended = self.converting.remove(&ctid).is_some();
                self.convert_failed.insert(ctid, why.clone()) != Some(why) || ended
            }
            LedgerEntry::ConvertEnded(ctid) => self.forget_conversion(ctid),
        }
    }
}

/// Takes a key out; returns whether it was there.
fn take_key(keys: &mut BTreeMap<Ctid, BTreeSet<MpKey>>, ctid: Ctid, key: MpKey) -> bool {
    let Some(of_container) = keys.get_mut(&ctid) else { return false };
    let was_there = of_container.remove(&key);
    if of_container.is_empty() {
        keys.remove(&ctid);
    }
    was_there
}

/// Takes a mount out; returns whether it was there.
fn take(mounts: &mut BTreeMap<Ctid, BTreeMap<MpKey, String>>, ctid: Ctid, key: MpKey) -> bool {
    let Some(of_container) = mounts.get_mut(&ctid) else { return false };
    let was_there = of_container.remove(&key).is_some();
    if of_container.is_empty() {
        mounts.remove(&ctid);
    }
    was_there
}
