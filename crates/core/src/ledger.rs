//! The ledger: what pctd itself did, so that it can tell its own work from everybody else's.
//!
//! Only data here; `pctd-node` keeps it on disk, atomic and synced.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::conf::RawLine;
use crate::ids::{Ctid, MpKey, VolumeName};

mod conversion;
mod entry;
mod records;

pub use conversion::{Backup, Conversion, ConversionPhase};
pub use entry::LedgerEntry;
pub use records::{CertificateRecord, DiskRoot, Edited, Making, PairRecord, VolumeRecord};

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
    /// Other backups that were made to convert containers, from when `vzdump` has made them: of
    /// conversions that were cut off, failed or began anew, and of earlier ones.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub backups: BTreeMap<Ctid, BTreeSet<String>>,
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
            backups: BTreeMap::new(),
        }
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

/// A certificate counts from a little earlier than it was made, for clocks that are a little behind.
pub const BACKDATED: Duration = Duration::from_hours(1);

impl PairRecord {
    /// Returns from when on it is valid, in seconds since 1970.
    pub fn valid_from(&self) -> u64 {
        let before = Duration::from_hours(24) * self.days + BACKDATED;
        self.expires.saturating_sub(before.as_secs())
    }
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
            | self.backups.remove(&ctid).is_some()
            | self.forget_conversion(ctid)
    }

    /// Takes note of the backup a container was converted from, in place of another; returns whether
    /// that was new.
    fn converted_from(&mut self, ctid: Ctid, archive: &str) -> bool {
        let mut others = self.backups.remove(&ctid).unwrap_or_default();
        others.remove(archive);
        let before = self.converted.insert(ctid, archive.to_owned());
        let changed = before.as_deref() != Some(archive);
        others.extend(before.filter(|_| changed));
        if !others.is_empty() {
            self.backups.insert(ctid, others);
        }
        changed
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
    fn every_backup_of_a_conversion_is_known_until_its_container_is_another() {
        let ctid: Ctid = "953".parse().unwrap();
        let mut ledger = Ledger::default();
        let backed_up = |archive: &str| LedgerEntry::BackedUp { ctid, archive: archive.to_owned() };
        let converted =
            |archive: &str| LedgerEntry::Converted { ctid, archive: archive.to_owned() };
        let mut after = |entry: LedgerEntry| {
            let changed = ledger.enter(entry);
            let left = ledger.backups.get(&ctid).into_iter().flatten().cloned().collect::<Vec<_>>();
            (changed, ledger.converted.get(&ctid).cloned(), left.join(" "))
        };
        let from = |archive: &str| Some(archive.to_owned());
        for (entry, expected) in [
            (backed_up("a"), (true, None, "a".to_owned())),
            (backed_up("a"), (false, None, "a".to_owned())),
            (LedgerEntry::ConvertEnded(ctid), (false, None, "a".to_owned())),
            (backed_up("b"), (true, None, "a b".to_owned())),
            (converted("b"), (true, from("b"), "a".to_owned())),
            (converted("b"), (false, from("b"), "a".to_owned())),
            (backed_up("c"), (true, from("b"), "a c".to_owned())),
            (converted("c"), (true, from("c"), "a b".to_owned())),
            (LedgerEntry::MakeIntended { ctid, how: Making::Create }, (true, None, String::new())),
        ] {
            assert_eq!(after(entry.clone()), expected, "{entry:?}");
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
