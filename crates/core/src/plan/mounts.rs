//! Matching the mounts a container should have with the mount points its conf holds.
//!
//! Matched by normalised target, never by a pattern: `/data` is not `/data2`.

use std::collections::{BTreeMap, BTreeSet};

use crate::conf::{Conf, MountClass, MountEntry, MountPoint, normalise_path};
use crate::desired::{Mount, Volume};
use crate::ids::{Ctid, MpKey};
use crate::ledger::{Ledger, LedgerEntry};
use crate::plan::disk_ids::MountIdmap;
use crate::plan::hold::{Hold, NoMap};
use crate::plan::step::{Effective, SetMount};

/// What one desired mount needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum MountPlan {
    /// Nothing: it is there with every managed option.
    InPlace,
    /// It is there in `[pve:pending]`, put there by pctd.
    WaitsForRestart(MpKey),
    /// This mount has to be written.
    Set(SetMount),
    /// It may not be written.
    Held(Hold),
}

/// A mount that is wanted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub(crate) volume: &'a Volume,
    pub(crate) mount: &'a Mount,
    pub(crate) idmap: &'a MountIdmap,
}

/// The mount points of one conf, as the planner sees them while it hands out free keys.
#[derive(Debug)]
pub(crate) struct MountTable<'a> {
    ctid: Ctid,
    conf: &'a Conf,
    running: bool,
    ledger: &'a Ledger,
    taken: BTreeSet<MpKey>,
    /// What the ledger has to know before the steps are taken.
    records: Vec<LedgerEntry>,
}

impl<'a> MountTable<'a> {
    pub(crate) fn new(ctid: Ctid, conf: &'a Conf, running: bool, ledger: &'a Ledger) -> Self {
        let taken = conf.mount_keys_in_use();
        Self { ctid, conf, running, ledger, taken, records: Vec::new() }
    }

    /// Returns what to enter into the ledger, now that every mount is planned.
    pub(crate) fn into_records(self) -> Vec<LedgerEntry> {
        self.records
    }

    /// Plans one desired mount; a key it hands out is taken for the mounts planned after it.
    pub(crate) fn plan(&mut self, wanted: Wanted<'_>) -> MountPlan {
        let keys = self.keys_at(&wanted.mount.target);
        let plan = match keys.as_slice() {
            [] => self.add(wanted),
            [key] => self.compare(*key, wanted),
            several => MountPlan::Held(Hold::DuplicateMount {
                keys: several.to_vec(),
                target: wanted.mount.target.clone(),
            }),
        };
        match (&plan, wanted.idmap) {
            // Proxmox makes the map of a mount from the conf, not from what is in force.
            (MountPlan::Set(_), MountIdmap::Declared(map)) if map.is_stale => {
                MountPlan::Held(Hold::IdmapImpossible { why: NoMap::Stale { ctid: self.ctid } })
            }
            _ => plan,
        }
    }

    /// Returns the options to be managed where `found` stands at the key now, if anything does.
    fn options(
        &self,
        key: MpKey,
        found: Option<&MountEntry>,
        wanted: Wanted<'_>,
    ) -> BTreeMap<String, String> {
        let mut options = wanted.mount.options.clone();
        let mp = found.and_then(|entry| entry.parsed.as_ref().ok());
        match wanted.idmap {
            MountIdmap::Declared(map) => {
                if !mp.is_some_and(|mp| map.fits(mp)) {
                    options.insert("idmap".to_owned(), map.option.clone().unwrap_or_default());
                }
                if map.reaches_root && !options.contains_key("mountoptions") {
                    let kept = mp.and_then(|mp| mp.options.get("mountoptions"));
                    options
                        .insert("mountoptions".to_owned(), with_nosuid(kept.map(String::as_str)));
                }
            }
            MountIdmap::NotDeclared => {
                let is_own = |entry: &MountEntry| {
                    self.ledger.is_mapped(self.ctid, key) && self.is_written(key, entry)
                };
                if found.is_some_and(is_own) {
                    options.insert("idmap".to_owned(), String::new());
                }
            }
        }
        options
    }

    /// Notes that pctd is about to write an `idmap=`, or that there is none of its any more.
    fn note_map(&mut self, key: MpKey, mapped: bool) {
        let ctid = self.ctid;
        if self.ledger.is_mapped(ctid, key) != mapped {
            self.records.push(LedgerEntry::MountMapped { ctid, key, mapped });
        }
    }

    /// Returns the keys whose mount point is at `target` now or will be after a restart.
    fn keys_at(&self, target: &str) -> Vec<MpKey> {
        let at_target = |entry: &MountEntry| {
            entry.parsed.as_ref().is_ok_and(|mp| normalise_path(&mp.target) == target.as_bytes())
        };
        let current = self.conf.mounts().iter().filter(|(_, entry)| at_target(entry));
        let pending = self.conf.pending_mounts().iter().filter(|(_, entry)| at_target(entry));
        let keys: BTreeSet<MpKey> = current.chain(pending).map(|(key, _)| *key).collect();
        keys.into_iter().collect()
    }

    fn add(&mut self, wanted: Wanted<'_>) -> MountPlan {
        let Wanted { volume, mount, .. } = wanted;
        let Some(key) = MpKey::all().find(|key| !self.taken.contains(key)) else {
            let target = mount.target.clone();
            return MountPlan::Held(Hold::NoFreeKey { ctid: self.ctid, target });
        };
        self.taken.insert(key);
        if self.ledger.is_borrowed(self.ctid, key) {
            // Whoever's mount stood there took it away.
            self.records.push(LedgerEntry::MountForgotten { ctid: self.ctid, key });
        }
        let options = self.options(key, None, wanted);
        self.note_map(key, options.get("idmap").is_some_and(|map| !map.is_empty()));
        let value =
            MountPoint::bind(&volume.host_path, &mount.target, &options).render().to_string();
        let effective = if self.running { Effective::Now } else { Effective::NextStart };
        MountPlan::Set(set(key, value, None, wanted, effective))
    }

    fn compare(&mut self, key: MpKey, wanted: Wanted<'_>) -> MountPlan {
        let (ctid, mount) = (self.ctid, wanted.mount);
        let foreign = || MountPlan::Held(Hold::PendingForeign { ctid, key });
        if self.conf.pending_delete(key) {
            return foreign();
        }
        match (self.conf.pending_mounts().get(&key), self.conf.mounts().get(&key)) {
            (Some(pending), _) if !self.is_written(key, pending) => foreign(),
            (Some(pending), _) => match self.fit(key, pending, wanted) {
                Fit::Same => MountPlan::WaitsForRestart(key),
                Fit::OptionsDiffer | Fit::OtherSource => self.change(key, pending, wanted),
            },
            (None, Some(current)) => match self.fit(key, current, wanted) {
                Fit::Same => {
                    if !has_idmap(current) {
                        self.note_map(key, false);
                    }
                    if mount.adopt {
                        self.adopt(key, Some(current));
                    }
                    MountPlan::InPlace
                }
                Fit::OptionsDiffer => {
                    self.remember(key, current, mount);
                    self.change(key, current, wanted)
                }
                Fit::OtherSource if self.is_written(key, current) || may_take(current, mount) => {
                    self.remember(key, current, mount);
                    self.change(key, current, wanted)
                }
                Fit::OtherSource => MountPlan::Held(self.foreign_mount(key, current, mount)),
            },
            // `keys_at` only returns keys of one of the two.
            (None, None) => foreign(),
        }
    }

    fn change(&mut self, key: MpKey, from: &MountEntry, wanted: Wanted<'_>) -> MountPlan {
        let Wanted { volume, mount, .. } = wanted;
        let kept = from.parsed.as_ref().ok().filter(|mp| is_same(mp, volume, mount));
        let options = self.options(key, kept.map(|_| from), wanted);
        if options.get("idmap").is_some_and(|map| !map.is_empty()) {
            self.note_map(key, true);
        }
        let value = match kept {
            Some(mp) => mp.with_options(&options).render().to_string(),
            None => {
                MountPoint::bind(&volume.host_path, &mount.target, &options).render().to_string()
            }
        };
        let was = Some(from.raw.to_string());
        let effective = if self.running { Effective::AfterRestart } else { Effective::NextStart };
        MountPlan::Set(set(key, value, was, wanted, effective))
    }

    /// Notes whose the mount in force is, before another value is written over it.
    fn remember(&mut self, key: MpKey, current: &MountEntry, mount: &Mount) {
        let ctid = self.ctid;
        if mount.adopt {
            self.adopt(key, None);
        } else if self.is_written(key, current) {
            let value = current.raw.to_string();
            if self.running && !self.ledger.is_borrowed(ctid, key) {
                self.records.push(LedgerEntry::MountReplaced { ctid, key, value });
            }
        } else if !self.ledger.is_borrowed(ctid, key) {
            self.records.push(LedgerEntry::MountBorrowed { ctid, key });
        }
    }

    /// Makes the mount at a key pctd's own; `current` where it stays as it is.
    fn adopt(&mut self, key: MpKey, current: Option<&MountEntry>) {
        let ctid = self.ctid;
        if self.ledger.is_borrowed(ctid, key) {
            self.records.push(LedgerEntry::MountAdopted { ctid, key });
        }
        if let Some(current) = current.filter(|current| !self.is_written(key, current)) {
            let value = current.raw.to_string();
            self.records.push(LedgerEntry::MountWritten { ctid, key, value });
        }
    }

    fn fit(&self, key: MpKey, entry: &MountEntry, wanted: Wanted<'_>) -> Fit {
        let is_same = |mp: &&MountPoint| is_same(mp, wanted.volume, wanted.mount);
        let Some(mp) = entry.parsed.as_ref().ok().filter(is_same) else {
            return Fit::OtherSource;
        };
        let same = self.options(key, Some(entry), wanted).iter().all(|(name, value)| {
            let actual = mp.options.get(name).map(String::as_str);
            canonical_option(name, actual) == canonical_option(name, Some(value))
        });
        if same { Fit::Same } else { Fit::OptionsDiffer }
    }

    fn is_written(&self, key: MpKey, entry: &MountEntry) -> bool {
        self.ledger.is_own_mount(self.ctid, key, &entry.raw)
    }

    fn foreign_mount(&self, key: MpKey, entry: &MountEntry, mount: &Mount) -> Hold {
        let source_path = match &entry.parsed {
            Ok(mp) => mp.volume.to_string(),
            Err(_) => entry.raw.to_string(),
        };
        Hold::ForeignMount { ctid: self.ctid, key, source_path, target: mount.target.clone() }
    }
}

/// Returns whether another mount at the target is to be taken over. One of a storage is not: its
/// data would leave the container and stay behind as an unused disk.
fn may_take(current: &MountEntry, mount: &Mount) -> bool {
    let is_bind = |mp: &MountPoint| mp.class == MountClass::Bind;
    mount.adopt && current.parsed.as_ref().is_ok_and(is_bind)
}

fn set(
    key: MpKey,
    value: String,
    was: Option<String>,
    wanted: Wanted<'_>,
    effective: Effective,
) -> SetMount {
    let ids = match wanted.idmap {
        MountIdmap::Declared(map) => map.words.clone(),
        MountIdmap::NotDeclared => None,
    };
    let volume = wanted.volume.name.clone();
    SetMount { key, value, was, volume, ids, effective, after_volume: false }
}

/// Returns a list of mount options with `nosuid` in it.
fn with_nosuid(list: Option<&str>) -> String {
    let given = list.unwrap_or_default().split(';').filter(|word| !word.is_empty());
    let words: BTreeSet<&str> = given.chain(["nosuid"]).collect();
    words.into_iter().collect::<Vec<_>>().join(";")
}

fn has_idmap(entry: &MountEntry) -> bool {
    entry.parsed.as_ref().is_ok_and(|mp| mp.options.contains_key("idmap"))
}

/// How a mount point compares with a desired mount at the same target.
enum Fit {
    Same,
    OptionsDiffer,
    OtherSource,
}

/// Returns whether this source is mounted at this target; what waits at a key may have another
/// target than what is in force there.
fn is_same(mp: &MountPoint, volume: &Volume, mount: &Mount) -> bool {
    mp.class == MountClass::Bind
        && normalise_path(&mp.volume) == volume.host_path.as_bytes()
        && normalise_path(&mp.target) == mount.target.as_bytes()
}

/// Returns an option in a form in which equal meanings are equal: absent is Proxmox's default,
/// and lists have no order.
fn canonical_option<'v>(name: &str, value: Option<&'v str>) -> BTreeSet<&'v str> {
    let default = if name == "replicate" { "1" } else { "0" };
    match (name, value) {
        ("mountoptions", Some(list)) => list.split(';').filter(|item| !item.is_empty()).collect(),
        ("mountoptions", None) => BTreeSet::new(),
        // None is what an empty one stands for.
        ("idmap", value) => value.into_iter().filter(|map| !map.is_empty()).collect(),
        (_, value) => BTreeSet::from([value.unwrap_or(default)]),
    }
}
