//! The ledger: what pctd itself did, so that it can tell its own work from everybody else's.
//!
//! Only data here; `pctd-node` keeps it on disk, atomic and synced.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::conf::RawLine;
use crate::ids::{Ctid, HostIds, MpKey, VolumeName};

mod conversion;

pub use conversion::{Backup, Conversion, ConversionPhase};

/// The version of the file's format.
pub const LEDGER_VERSION: u32 = 1;

/// What pctd remembers across restarts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ledger {
    /// [`LEDGER_VERSION`].
    pub version: u32,
    /// The mounts pctd wrote, exactly as they stood in the conf afterwards.
    #[serde(default)]
    pub mounts: BTreeMap<Ctid, BTreeMap<MpKey, String>>,
    /// The mounts pctd was about to write when it was last heard of. What a crash leaves here may
    /// stand in the conf, or what `mounts` has may: both are pctd's own.
    #[serde(default)]
    pub intended: BTreeMap<Ctid, BTreeMap<MpKey, String>>,
    /// The mounts pctd wrote that were in force when it wrote another one at their key. A running
    /// container keeps them until it restarts, and a revert brings them back.
    #[serde(default)]
    pub replaced: BTreeMap<Ctid, BTreeMap<MpKey, String>>,
    /// The keys at which somebody else's mount stood and pctd only changed options of it. What is
    /// there is to be changed further, and never to be removed.
    #[serde(default)]
    pub borrowed: BTreeMap<Ctid, BTreeSet<MpKey>>,
    /// The raw lines pctd wrote into confs, or was about to.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub lines: BTreeMap<Ctid, BTreeSet<RawLine>>,
    /// What pctd changed of the raw lines of running containers, which only a start reads.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub edited: BTreeMap<Ctid, Edited>,
    /// The keys whose `idmap=` is pctd's: it goes when none is declared any more.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub mapped: BTreeMap<Ctid, BTreeSet<MpKey>>,
    /// Whose the directory of a volume was when its ids on disk were first counted from there
    /// (`"disk_ids": "owner"`). A container may give the directory to another of its ids since.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub disk_roots: BTreeMap<VolumeName, DiskRoot>,
    /// The volumes whose ownership was brought to the declaration.
    #[serde(default)]
    pub volumes: BTreeMap<VolumeName, VolumeRecord>,
    /// The volumes in which what pctd had changed was taken back, with what was declared for their
    /// entries then (`plan::declared`): as long as that is so, it is not done again.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub undone: BTreeMap<VolumeName, String>,
    /// The certificates pctd made, by volume and domain.
    #[serde(default)]
    pub certificates: BTreeMap<VolumeName, BTreeMap<String, CertificateRecord>>,
    /// Containers that were here once.
    #[serde(default)]
    pub seen: BTreeSet<Ctid>,
    /// When pctd last restarted a container, in seconds since 1970.
    #[serde(default)]
    pub restarted: BTreeMap<Ctid, u64>,
    /// Containers that pctd stops for a restart and has not seen running again.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub start_owed: BTreeSet<Ctid>,
    /// Containers that pctd is making, until each was seen with everything it is to have. What a
    /// crash leaves here is finished: a clone still has its source's address.
    #[serde(default)]
    pub making: BTreeMap<Ctid, Making>,
    /// Containers that pctd is converting; what a crash leaves here is gone on with or taken back.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub converting: BTreeMap<Ctid, Conversion>,
    /// Conversions that failed, with why. They are not tried again unasked: each try is an outage.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub convert_failed: BTreeMap<Ctid, String>,
    /// The backups that containers were converted from.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub converted: BTreeMap<Ctid, String>,
}

/// How pctd makes a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Making {
    /// From a template.
    Create,
    /// As a clone.
    Clone,
}

impl Default for Ledger {
    fn default() -> Self {
        Self {
            version: LEDGER_VERSION,
            mounts: BTreeMap::new(),
            intended: BTreeMap::new(),
            replaced: BTreeMap::new(),
            borrowed: BTreeMap::new(),
            lines: BTreeMap::new(),
            edited: BTreeMap::new(),
            mapped: BTreeMap::new(),
            disk_roots: BTreeMap::new(),
            volumes: BTreeMap::new(),
            undone: BTreeMap::new(),
            certificates: BTreeMap::new(),
            seen: BTreeSet::new(),
            restarted: BTreeMap::new(),
            start_owed: BTreeSet::new(),
            making: BTreeMap::new(),
            converting: BTreeMap::new(),
            convert_failed: BTreeMap::new(),
            converted: BTreeMap::new(),
        }
    }
}

/// Raw lines that came and went while a container ran, and as what it ran then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Edited {
    /// The boot of the host (`/proc/sys/kernel/random/boot_id`).
    pub boot: String,
    /// The process id of the container's init, where it could be found.
    pub init: Option<u32>,
    /// The lines that came, in their order.
    pub added: Vec<RawLine>,
    /// The lines that went, in their order.
    pub removed: Vec<RawLine>,
}

impl Edited {
    /// Returns what both edits of one run of the container come to; the later one counts for what
    /// the earlier one undid.
    #[must_use]
    pub fn then(self, later: Self) -> Self {
        if (&self.boot, self.init) != (&later.boot, later.init) {
            return later;
        }
        let without = |lines: &[RawLine], others: &[RawLine]| -> Vec<RawLine> {
            lines.iter().filter(|line| !others.contains(line)).cloned().collect()
        };
        let mut added = without(&self.added, &later.removed);
        let mut removed = without(&self.removed, &later.added);
        for (all, first, more) in
            [(&mut added, &self.removed, &later.added), (&mut removed, &self.added, &later.removed)]
        {
            for line in without(more, first) {
                if !all.contains(&line) {
                    all.push(line);
                }
            }
        }
        Self { added, removed, ..later }
    }
}

/// What is known of the past.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Memory {
    /// Everything that was ever written.
    Whole,
    /// Not everything, for this reason; nothing may be concluded from what is missing.
    Lost(String),
}

/// The owner of a directory from which ids on disk are counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskRoot {
    /// The host path of the volume then; another directory is counted anew.
    pub path: String,
    /// The ids that root inside the containers has on disk.
    pub ids: HostIds,
}

/// A volume that was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeRecord {
    /// The declaration and the maps it was done for (`plan::declaration`).
    pub declaration: String,
    /// The owner that was set, if one was declared.
    pub owner: Option<HostIds>,
    /// The file system it was on ([`crate::observed::FileSystem::id`]).
    pub file_system: String,
    /// Whether the ledger had been lost before, so that for `enforce: once` it is only taken for
    /// granted that every entry was set once; an admin's confirmation sets them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub assumed: bool,
}

/// What pctd made for one domain.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateRecord {
    /// The pair that was put in place last.
    pub made: Option<PairRecord>,
    /// The pairs that were about to be. Each crash in the middle leaves one more, until one is done.
    #[serde(default)]
    pub making: Vec<PairRecord>,
}

/// A key and its certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PairRecord {
    /// The SHA-256 of the key file.
    pub key: String,
    /// The SHA-256 of the certificate file.
    pub certificate: String,
    /// What it is for, the first name being the domain.
    pub names: Vec<String>,
    /// For how many days it was made.
    pub days: u32,
    /// When it expires, in seconds since 1970.
    pub expires: u64,
}

/// A certificate counts from a little earlier than it was made, for clocks that are a little behind.
pub const BACKDATED: Duration = Duration::from_hours(1);

impl PairRecord {
    /// Returns from when on it is valid, in seconds since 1970.
    pub fn valid_from(&self) -> u64 {
        let before = Duration::from_hours(24) * self.days + BACKDATED;
        self.expires.saturating_sub(before.as_secs())
    }
}

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
    /// Returns whether pctd itself put this value there.
    pub fn is_own_mount(&self, ctid: Ctid, key: MpKey, value: &[u8]) -> bool {
        [&self.mounts, &self.intended, &self.replaced].into_iter().any(|mounts| {
            let own = mounts.get(&ctid).and_then(|mounts| mounts.get(&key));
            own.is_some_and(|own| own.as_bytes() == value)
        })
    }

    /// Returns whether pctd itself wrote this raw line.
    pub fn is_own_line(&self, ctid: Ctid, line: &RawLine) -> bool {
        self.lines.get(&ctid).is_some_and(|lines| lines.contains(line))
    }

    /// Returns whether pctd only changed options of what somebody else mounts there.
    pub fn is_borrowed(&self, ctid: Ctid, key: MpKey) -> bool {
        self.borrowed.get(&ctid).is_some_and(|keys| keys.contains(&key))
    }

    /// Returns whether the `idmap=` there is pctd's.
    pub fn is_mapped(&self, ctid: Ctid, key: MpKey) -> bool {
        self.mapped.get(&ctid).is_some_and(|keys| keys.contains(&key))
    }

    /// Returns what pctd made for a domain of a volume.
    pub fn certificate(&self, volume: &VolumeName, domain: &str) -> Option<&CertificateRecord> {
        self.certificates.get(volume)?.get(domain)
    }

    /// Returns the keys of a container at which pctd wrote something.
    pub fn mount_keys(&self, ctid: Ctid) -> BTreeSet<MpKey> {
        let all = [&self.mounts, &self.intended, &self.replaced];
        let of_container = all.into_iter().filter_map(|mounts| mounts.get(&ctid));
        of_container.flat_map(BTreeMap::keys).copied().collect()
    }

    /// Returns the containers in whose confs something of pctd's may stand.
    pub fn mounting(&self) -> BTreeSet<Ctid> {
        let all = [&self.mounts, &self.intended, &self.replaced];
        let lines = self.lines.keys().chain(self.edited.keys());
        all.into_iter().flat_map(BTreeMap::keys).chain(lines).copied().collect()
    }

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
            LedgerEntry::Converted { ctid, archive } => {
                let ended = self.forget_conversion(ctid);
                self.converted.insert(ctid, archive.clone()) != Some(archive) || ended
            }
            LedgerEntry::ConvertFailed { ctid, why } => {
                let ended = self.converting.remove(&ctid).is_some();
                self.convert_failed.insert(ctid, why.clone()) != Some(why) || ended
            }
            LedgerEntry::ConvertEnded(ctid) => self.forget_conversion(ctid),
        }
    }

    /// Forgets all of a container that is gone, since nothing of it is true of one that is made anew:
    /// what stood in its conf, the start it was owed. Returns whether there was anything.
    fn forget_container(&mut self, ctid: Ctid) -> bool {
        let mounts = [&mut self.mounts, &mut self.intended, &mut self.replaced];
        let keys = [&mut self.borrowed, &mut self.mapped];
        mounts.map(|mounts| mounts.remove(&ctid).is_some()).contains(&true)
            | keys.map(|keys| keys.remove(&ctid).is_some()).contains(&true)
            | self.lines.remove(&ctid).is_some()
            | self.edited.remove(&ctid).is_some()
            | self.seen.remove(&ctid)
            | self.start_owed.remove(&ctid)
            | self.converted.remove(&ctid).is_some()
            | self.forget_conversion(ctid)
    }

    /// Forgets a conversion that is under way or failed; returns whether there was one.
    fn forget_conversion(&mut self, ctid: Ctid) -> bool {
        let began = self.converting.remove(&ctid).is_some();
        self.convert_failed.remove(&ctid).is_some() || began
    }

    /// Forgets raw lines; returns whether any of them was known.
    fn forget_lines(&mut self, ctid: Ctid, lines: &[RawLine]) -> bool {
        let Some(own) = self.lines.get_mut(&ctid) else { return false };
        let before = own.len();
        own.retain(|line| !lines.contains(line));
        let changed = own.len() != before;
        if own.is_empty() {
            self.lines.remove(&ctid);
        }
        changed
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

#[cfg(test)]
mod tests {
    use super::*;

    fn edited(init: u32, added: &[&str], removed: &[&str]) -> Edited {
        let lines = |texts: &[&str]| -> Vec<RawLine> {
            texts.iter().map(|text| format!("lxc.cap.drop: {text}").parse().unwrap()).collect()
        };
        Edited {
            boot: "b".to_owned(),
            init: Some(init),
            added: lines(added),
            removed: lines(removed),
        }
    }

    #[test]
    fn two_edits_of_one_run_come_to_what_differs_from_its_start() {
        let first = edited(1, &["new"], &["old"]);
        for (later, both) in [
            (edited(1, &["newer"], &["new"]), edited(1, &["newer"], &["old"])),
            (edited(1, &["old"], &["new"]), edited(1, &[], &[])),
            (edited(1, &["new"], &["old"]), first.clone()),
            (edited(1, &["x"], &[]), edited(1, &["new", "x"], &["old"])),
            // It was started in between.
            (edited(2, &["x"], &["new"]), edited(2, &["x"], &["new"])),
        ] {
            assert_eq!(first.clone().then(later), both);
        }
    }
}
