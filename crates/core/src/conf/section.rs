//! One section of a conf: the current one, `[pve:pending]`, or a snapshot.

use std::collections::BTreeMap;

use bstr::{BStr, BString, ByteSlice};

use crate::conf::idmap::{self, IdLine, IdMapError, RootIds};
use crate::conf::mount::{MountEntry, MountPoint};
use crate::conf::schema::truth;
use crate::conf::text::{NotAReference, is_true, split_fields};
use crate::idmap::IdMap;
use crate::ids::MpKey;

/// The key of a raw line that maps ids.
const IDMAP_KEY: &str = "lxc.idmap";

/// The name of the property that takes the place of the raw lines; see [`NotAReference`].
pub(crate) const RAW_LINES: &str = "lxc";

/// What stands in one section.
///
/// Values are as Proxmox keeps them in memory: canonical where it could check them, as written
/// where it could not. Mount points are read as properties are set.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Section {
    properties: BTreeMap<String, BString>,
    description: Option<BString>,
    env: Option<BString>,
    lxc: Vec<(String, BString)>,
    mounts: BTreeMap<MpKey, MountEntry>,
    rootfs: Option<MountEntry>,
}

impl Section {
    /// Returns the value of a property; `description` and `env` are properties as well.
    pub fn get(&self, name: &str) -> Option<&BStr> {
        match name {
            "description" => self.description.as_ref(),
            "env" => self.env.as_ref(),
            _ => self.properties.get(name),
        }
        .map(|value| value.as_bstr())
    }

    /// Sets a property to a value, which is not checked.
    pub fn set(&mut self, name: &str, value: impl Into<BString>) {
        let value = value.into();
        match name {
            "description" => self.description = Some(value),
            "env" => self.env = Some(value),
            _ => {
                if let Ok(key) = name.parse::<MpKey>() {
                    self.mounts.insert(key, MountEntry::mount_point(&value));
                } else if name == "rootfs" {
                    self.rootfs = Some(MountEntry::rootfs(&value));
                } else if name == RAW_LINES {
                    self.lxc.clear();
                }
                self.properties.insert(name.to_owned(), value);
            }
        }
    }

    /// Removes a property and returns its value.
    pub fn remove(&mut self, name: &str) -> Option<BString> {
        match name {
            "description" => self.description.take(),
            "env" => self.env.take(),
            _ => {
                if let Ok(key) = name.parse::<MpKey>() {
                    self.mounts.remove(&key);
                } else if name == "rootfs" {
                    self.rootfs = None;
                }
                self.properties.remove(name)
            }
        }
    }

    /// Returns the properties but `description` and `env`, by name.
    pub const fn properties(&self) -> &BTreeMap<String, BString> {
        &self.properties
    }

    /// Returns the description, decoded: UTF-8 unless it was written to be none.
    pub fn description(&self) -> Option<&BStr> {
        self.get("description").filter(|text| !text.is_empty())
    }

    /// Returns the variables of the `lxc.environment.runtime` lines.
    pub fn env(&self) -> Vec<&BStr> {
        let list = self.get("env").unwrap_or_default();
        split_fields(list, 0).into_iter().map(ByteSlice::as_bstr).collect()
    }

    pub(crate) fn push_env(&mut self, variable: &[u8]) {
        match &mut self.env {
            None => self.env = Some(variable.into()),
            Some(list) => list.extend_from_slice(&[b"\0", variable].concat()),
        }
    }

    /// Returns the raw `lxc.*` lines, key and value, in order.
    pub fn lxc(&self) -> &[(String, BString)] {
        &self.lxc
    }

    /// Replaces the raw lines.
    pub fn set_lxc(&mut self, lines: Vec<(String, BString)>) {
        self.properties.remove(RAW_LINES);
        self.lxc = lines;
    }

    pub(crate) fn push_lxc(&mut self, key: &str, value: &[u8]) -> Result<(), NotAReference> {
        self.lxc_in_the_way()?;
        self.lxc.push((key.to_owned(), value.into()));
        Ok(())
    }

    /// Fails where a property stands in the way of the raw lines.
    fn lxc_in_the_way(&self) -> Result<(), NotAReference> {
        match self.properties.get(RAW_LINES) {
            Some(value) => Err(NotAReference::array(value)),
            None => Ok(()),
        }
    }

    /// Returns the mount points `mp0` to `mp255`.
    pub const fn mounts(&self) -> &BTreeMap<MpKey, MountEntry> {
        &self.mounts
    }

    /// Returns the root file system.
    pub const fn rootfs(&self) -> Option<&MountEntry> {
        self.rootfs.as_ref()
    }

    /// Returns the volumes with their names in the order Proxmox visits them; those that cannot
    /// be read it skips (`foreach_volume`).
    pub fn volumes(&self) -> impl Iterator<Item = (String, &MountPoint)> {
        let rootfs = self.rootfs.iter().map(|entry| ("rootfs".to_owned(), entry));
        let mounts = self.mounts.iter().map(|(key, entry)| (key.to_string(), entry));
        rootfs.chain(mounts).filter_map(|(name, entry)| Some((name, entry.parsed.as_ref().ok()?)))
    }

    /// Returns whether a boolean property is true for Proxmox, or `None` where it is absent.
    ///
    /// Any text but `0` is true, also one that is no boolean.
    pub fn flag(&self, name: &str) -> Option<bool> {
        self.get(name).map(|value| is_true(value))
    }

    /// Returns whether there is an `lxc.idmap` line.
    pub fn has_custom_idmap(&self) -> bool {
        self.idmap_values().next().is_some()
    }

    fn idmap_values(&self) -> impl Iterator<Item = &BStr> {
        self.lxc.iter().filter(|(key, _)| key == IDMAP_KEY).map(|(_, value)| value.as_bstr())
    }

    /// Returns the lines of the id map in force, none for the host's own ids.
    ///
    /// # Errors
    ///
    /// Fails where Proxmox dies: at the first line that is none.
    pub fn idmap_lines(&self) -> Result<Vec<IdLine>, IdMapError> {
        self.lxc_in_the_way().map_err(IdMapError::NoLines)?;
        idmap::lines_in_force(self.idmap_values(), truth(self.get("unprivileged")))
    }

    /// Returns the id map in force.
    ///
    /// # Errors
    ///
    /// See [`Section::idmap_lines`].
    pub fn effective_idmap(&self) -> Result<IdMap, IdMapError> {
        let lines = self.idmap_lines()?;
        if lines.is_empty() {
            return Ok(IdMap::privileged());
        }
        Ok(IdMap::new(lines.iter().map(IdLine::range).collect()))
    }

    /// Returns the host's ids of the container's root as Proxmox computes them.
    ///
    /// # Errors
    ///
    /// See [`Section::idmap_lines`].
    pub fn root_ids_as_proxmox(&self) -> Result<RootIds, IdMapError> {
        self.idmap_lines().map(|lines| RootIds::of(&lines))
    }

    /// Returns Proxmox's message about lines of the id map that overlap, which it starts a
    /// container with but the kernel does not.
    pub fn idmap_overlap(&self) -> Option<String> {
        idmap::overlap(&self.idmap_lines().ok()?)
    }

    /// Returns whether the section is not even worth its header: there is nothing at all in it.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
