//! The names things go by: container ids, volume names, mount point keys, host ids.
//!
//! Every one is a type of its own that can only hold a valid value, so no function below the
//! configuration has to check one again.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The id of a container, 100 to 999999999 (Proxmox: `pve-vmid`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ctid(u32);

impl Ctid {
    /// Returns the id, or `None` outside of the range Proxmox allows.
    pub const fn new(id: u32) -> Option<Self> {
        if id >= 100 && id <= 999_999_999 { Some(Self(id)) } else { None }
    }

    /// Returns the id as a number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Ctid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A text that is not the name of what was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {wanted}")]
pub struct InvalidName {
    text: String,
    wanted: &'static str,
}

impl InvalidName {
    fn new(text: &str, wanted: &'static str) -> Self {
        Self { text: text.to_owned(), wanted }
    }
}

impl FromStr for Ctid {
    type Err = InvalidName;

    /// Reads a container id without leading zeros, sign or blanks, as Proxmox names its files.
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let digits = text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
        digits
            .then(|| text.parse().ok().and_then(Self::new))
            .flatten()
            .ok_or_else(|| InvalidName::new(text, "a container id (100 to 999999999)"))
    }
}

/// The name of a shared volume: a letter, then letters, digits, `.`, `_` or `-`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VolumeName(String);

impl VolumeName {
    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for VolumeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for VolumeName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let mut bytes = text.bytes();
        let ok = bytes.next().is_some_and(|b| b.is_ascii_alphabetic())
            && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
        if ok {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidName::new(
                text,
                "a volume name (a letter, then letters, digits, `.`, `_` or `-`)",
            ))
        }
    }
}

/// The key of a mount point in a conf: `mp0` to `mp255` (Proxmox: `MAX_MOUNT_POINTS`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MpKey(u8);

impl MpKey {
    /// Returns the key with this index.
    pub const fn new(index: u8) -> Self {
        Self(index)
    }

    /// Returns the index behind `mp`.
    pub const fn index(self) -> u8 {
        self.0
    }

    /// Returns all 256 keys, lowest first.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..=u8::MAX).map(Self)
    }
}

impl fmt::Display for MpKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mp{}", self.0)
    }
}

impl FromStr for MpKey {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let index = text.strip_prefix("mp").filter(|digits| {
            digits.bytes().all(|b| b.is_ascii_digit())
                && (*digits == "0" || !digits.starts_with('0'))
        });
        index
            .and_then(|digits| digits.parse().ok())
            .map(Self)
            .ok_or_else(|| InvalidName::new(text, "a mount point key (mp0 to mp255)"))
    }
}

/// What is reconciled on its own: one container or one volume.
///
/// The unit of work, of ordering, of backoff and of status.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// A container.
    Container(Ctid),
    /// A shared volume.
    Volume(VolumeName),
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Container(ctid) => ctid.fmt(f),
            Self::Volume(name) => name.fmt(f),
        }
    }
}

impl FromStr for Key {
    type Err = InvalidName;

    /// Reads a key as typed on a command line: digits are a container, all else is a volume.
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        if text.bytes().all(|b| b.is_ascii_digit()) {
            text.parse().map(Self::Container)
        } else {
            text.parse().map(Self::Volume)
        }
    }
}

/// A pair of ids as the host's kernel sees them.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    schemars::JsonSchema,
)]
pub struct HostIds {
    /// The user id.
    pub uid: u32,
    /// The group id.
    pub gid: u32,
}

impl HostIds {
    /// The host's root.
    pub const ROOT: Self = Self { uid: 0, gid: 0 };

    /// Returns the pair of these two ids.
    pub const fn new(uid: u32, gid: u32) -> Self {
        Self { uid, gid }
    }
}

impl fmt::Display for HostIds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.uid, self.gid)
    }
}

/// Lets a name be written as a JSON string and read back with its check.
macro_rules! serde_as_text {
    ($($name:ty),+) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }

        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
                String::json_schema(generator)
            }
        }
    )+};
}

serde_as_text!(Ctid, VolumeName, MpKey, Key);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_proxmox_would_refuse_are_refused() {
        for text in ["", "99", "0120", "1000000000", "+100", " 100", "12a"] {
            assert!(text.parse::<Ctid>().is_err(), "{text:?}");
        }
        for text in ["", "mp", "mp256", "mp03", "mp-1", "rootfs", "mp+1"] {
            assert!(text.parse::<MpKey>().is_err(), "{text:?}");
        }
        for text in ["", "953", "-x", "a b", "ä", ".a"] {
            assert!(text.parse::<VolumeName>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_key_of_digits_is_a_container() {
        assert_eq!("953".parse(), Ok(Key::Container(Ctid(953))));
        assert_eq!("ssl_certs".parse(), Ok(Key::Volume(VolumeName("ssl_certs".into()))));
        assert!("12".parse::<Key>().is_err());
    }
}
