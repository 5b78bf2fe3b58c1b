//! A container as `lxc_configs` defines it: what it is made from, and the properties it is to have.

use std::collections::BTreeMap;
use std::fmt;

use crate::conf::RawLine;
use crate::idmap::IdMap;
use crate::ids::Ctid;

/// A container as `lxc_configs` defines it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerDef {
    /// Its id.
    pub ctid: Ctid,
    /// Its host name.
    pub name: Option<String>,
    /// Whether it is to be unprivileged; absent: not said.
    pub unprivileged: Option<bool>,
    /// The whole of its id map, where one is declared; it is unprivileged then.
    pub id_map: Option<IdMap>,
    /// How it may be converted where it is not as declared; absent: it is left as it is.
    pub convert: Option<Convert>,
    /// What it would be made from.
    pub source: Option<Source>,
    /// What it is to be like once it is made.
    pub definition: Definition,
}

/// How a container may be converted between privileged and unprivileged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Convert {
    /// The storage its backup is put on.
    pub backup_storage: String,
}

/// What an absent container is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A template archive.
    Template(String),
    /// Another container, from a snapshot of it when one is named.
    Clone {
        /// The container to clone.
        from: Ctid,
        /// `template_snapshot_name`.
        snapshot: Option<String>,
    },
}

/// What a container is to be like, in Proxmox's words; what is not given is left to Proxmox.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Definition {
    /// The node of a cluster that makes it.
    pub node: Option<String>,
    /// The storage of its root disk.
    pub storage: Option<String>,
    /// The size of its root disk in GiB.
    pub size_gb: Option<u64>,
    /// Plain properties by their names: `hostname`, `memory`, `swap`, `cores`, `onboot`, `nameserver`.
    pub plain: BTreeMap<Property, String>,
    /// `startup`, by the keys that are given (`order`, `up`).
    pub startup: BTreeMap<String, String>,
    /// `features`, by the keys that are given.
    pub features: BTreeMap<String, String>,
    /// `net0`.
    pub network: Option<Interface>,
    /// Raw lines, in the order given.
    pub lxc_options: Vec<RawLine>,
    /// Fields whose values Proxmox would not take, each with why. A container is not made with half
    /// of its definition.
    pub faults: Vec<String>,
}

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Interface {
    /// The options of `net0` that are given: `name`, `bridge`, `ip`, `gw`, `hwaddr`.
    pub options: BTreeMap<String, String>,
}

/// A property that is one plain value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Property {
    /// `cores`
    Cores,
    /// `hostname`
    Hostname,
    /// `memory`, in MiB.
    Memory,
    /// `nameserver`
    Nameserver,
    /// `onboot`
    Onboot,
    /// `swap`, in MiB.
    Swap,
}

impl Property {
    /// Returns its name in a conf.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cores => "cores",
            Self::Hostname => "hostname",
            Self::Memory => "memory",
            Self::Nameserver => "nameserver",
            Self::Onboot => "onboot",
            Self::Swap => "swap",
        }
    }
}

/// A field of a definition that `settings.manage` may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Field {
    /// `name`
    Name,
    /// `memory_mb`
    MemoryMb,
    /// `swap_mb`
    SwapMb,
    /// `cores`
    Cores,
    /// `start_at_boot`
    StartAtBoot,
    /// `boot_order`
    BootOrder,
    /// `boot_delay`
    BootDelay,
    /// `pct_options`
    PctOptions,
    /// `lxc_options`
    LxcOptions,
}

impl Field {
    /// Every field, with its name in the configuration.
    pub const ALL: [(Self, &'static str); 9] = [
        (Self::Name, "name"),
        (Self::MemoryMb, "memory_mb"),
        (Self::SwapMb, "swap_mb"),
        (Self::Cores, "cores"),
        (Self::StartAtBoot, "start_at_boot"),
        (Self::BootOrder, "boot_order"),
        (Self::BootDelay, "boot_delay"),
        (Self::PctOptions, "pct_options"),
        (Self::LxcOptions, "lxc_options"),
    ];

    /// Returns the field of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, known)| *known == name).map(|(field, _)| *field)
    }

    /// Returns its name in the configuration.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(field, _)| *field == self).map_or("", |(_, name)| name)
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Interface {
    /// Returns the value of `net0`, the name first as Proxmox writes it.
    pub fn value(&self) -> String {
        let name = self.options.get("name").map_or("eth0", String::as_str);
        let rest = self.options.iter().filter(|(key, _)| *key != "name");
        rest.fold(format!("name={name}"), |text, (key, value)| text + "," + key + "=" + value)
    }
}

/// Returns options as one value, `KEY=VALUE,...`.
pub(crate) fn listed(options: &BTreeMap<String, String>) -> String {
    let each: Vec<String> = options.iter().map(|(key, value)| format!("{key}={value}")).collect();
    each.join(",")
}
