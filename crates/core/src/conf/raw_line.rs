//! Raw `lxc.*` lines as pctd writes them: only those that Proxmox's own reader keeps.

use std::fmt;
use std::str::FromStr;

use bstr::BStr;
use serde::{Deserialize, Serialize};

use crate::conf::lxc_key::{self, Verdict};
use crate::conf::parse::{self, RUNTIME_ENVIRONMENT};
use crate::conf::section::Section;

/// A raw line in the form in which Proxmox writes it back, `KEY: VALUE`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RawLine {
    key: String,
    value: String,
}

/// Why a text is no raw line to be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RawLineError {
    /// It has not the form of one.
    #[error("`{0}` is no raw line; write \"lxc.KEY: VALUE\" or \"lxc.KEY = VALUE\"")]
    NoLine(String),
    /// It would be more than one line, or none that an editor shows.
    #[error("`{0}` has a control character")]
    Control(String),
    /// Proxmox would drop it the next time it writes the conf.
    #[error("Proxmox drops `{0}`: it is no key of a container's conf")]
    UnknownKey(String),
    /// Proxmox drops it, and says why.
    #[error("Proxmox drops it: {0}")]
    Refused(&'static str),
    /// A name of LXC before 3.0, which LXC does not know any more.
    #[error("`{0}` is the old name of `{1}`; write that")]
    Renamed(String, &'static str),
    /// Proxmox keeps it as a property of its own.
    #[error("Proxmox keeps `{0}` as the property `env`; set that with pct")]
    Property(String),
}

impl RawLine {
    /// The key of a line of the id map.
    pub const IDMAP: &str = "lxc.idmap";
    /// The key of a mount.
    pub const MOUNT_ENTRY: &str = "lxc.mount.entry";

    /// Returns the line with this key, which Proxmox has to know, and this value of one line.
    pub(crate) fn new(key: &str, value: impl Into<String>) -> Self {
        Self { key: key.to_owned(), value: value.into() }
    }

    /// Returns the key.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Returns the value, without blanks at either end.
    pub fn value(&self) -> &str {
        &self.value
    }

    /// Returns whether this is what stands in a conf.
    pub(crate) fn is(&self, key: &str, value: &BStr) -> bool {
        self.key == key && *value == self.value.as_str()
    }

    /// Returns whether a section has it.
    pub fn is_in(&self, section: &Section) -> bool {
        self.count_in(section) > 0
    }

    /// Returns how often a section has it.
    pub(crate) fn count_in(&self, section: &Section) -> usize {
        section.lxc().iter().filter(|(key, value)| self.is(key, value.as_ref())).count()
    }
}

impl FromStr for RawLine {
    type Err = RawLineError;

    fn from_str(text: &str) -> Result<Self, RawLineError> {
        if text.bytes().any(|byte| byte.is_ascii_control() && byte != b'\t') {
            return Err(RawLineError::Control(text.escape_default().to_string()));
        }
        let (key, value) = parse::raw_line(text.trim().as_bytes())
            .ok_or_else(|| RawLineError::NoLine(text.to_owned()))?;
        match lxc_key::verdict(key) {
            Verdict::Valid if key == RUNTIME_ENVIRONMENT => {
                return Err(RawLineError::Property(key.to_owned()));
            }
            // Without effect where only cgroup v2 is, but kept.
            Verdict::Valid | Verdict::OldCgroup => {}
            Verdict::Renamed(name) => return Err(RawLineError::Renamed(key.to_owned(), name)),
            Verdict::OldLimit => {
                return Err(RawLineError::Renamed(key.to_owned(), "lxc.prlimit.*"));
            }
            Verdict::Refused(why) => return Err(RawLineError::Refused(why)),
            Verdict::Unknown => return Err(RawLineError::UnknownKey(key.to_owned())),
        }
        // A part of a valid text, cut at ASCII characters.
        Ok(Self::new(key, String::from_utf8_lossy(value)))
    }
}

impl TryFrom<String> for RawLine {
    type Error = RawLineError;

    fn try_from(text: String) -> Result<Self, RawLineError> {
        text.parse()
    }
}

impl From<RawLine> for String {
    fn from(line: RawLine) -> Self {
        line.to_string()
    }
}

impl fmt::Display for RawLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.value)
    }
}

impl schemars::JsonSchema for RawLine {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        String::schema_name()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        String::json_schema(generator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_one_line() {
        for text in [
            "lxc.cgroup2.devices.allow: c 195:* rwm",
            "lxc.cgroup2.devices.allow = c 195:* rwm",
            " lxc.cgroup2.devices.allow=c 195:* rwm ",
        ] {
            let line: RawLine = text.parse().unwrap();
            assert_eq!(line.to_string(), "lxc.cgroup2.devices.allow: c 195:* rwm");
            assert_eq!(line.to_string().parse(), Ok(line));
        }
        let empty: RawLine = "lxc.cap.drop:".parse().unwrap();
        assert_eq!((empty.key(), empty.value()), ("lxc.cap.drop", ""));
    }

    #[test]
    fn what_proxmox_would_drop_or_take_for_something_else_is_refused() {
        for (text, message) in [
            ("memory: 5", "`memory: 5` is no raw line"),
            ("lxc.idmap : u 0 1 2", "`lxc.idmap : u 0 1 2` is no raw line"),
            ("lxc.bogus: 1", "Proxmox drops `lxc.bogus`"),
            ("lxc.rootfs.path = /x", "Proxmox drops it: lxc.rootfs.path is auto generated"),
            ("lxc.id_map: u 0 1 2", "`lxc.id_map` is the old name of `lxc.idmap`"),
            ("lxc.limit.nofile: 1", "`lxc.limit.nofile` is the old name of `lxc.prlimit.*`"),
            ("lxc.environment.runtime: A=1", "Proxmox keeps `lxc.environment.runtime`"),
            ("lxc.cap.drop: a\nonboot: 1", "`lxc.cap.drop: a\\nonboot: 1` has a control character"),
        ] {
            let error = text.parse::<RawLine>().unwrap_err().to_string();
            assert!(error.starts_with(message), "{text}: {error}");
        }
    }
}
