//! The formats of values: addresses, names, paths (`PVE::JSONSchema::register_format`).

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::conf::number::Number;
use crate::conf::schema::Complaint;
use crate::conf::schema::property_string::parse_property_string;
use crate::conf::schema::rule::Rule;
use crate::conf::text::{is_digits, is_space, is_true, split_fields, split_list};

/// The time zones of `/usr/share/zoneinfo/zone.tab` (tzdata), which Proxmox reads; one a line.
const ZONES: &str = include_str!("../zones.txt");

/// The least and most characters of an interface name after its first (`pve-iface`).
const IFACE_TAIL: std::ops::RangeInclusive<usize> = 1..=20;

/// The format of a text.
#[derive(Debug, Clone, Copy)]
pub enum Format {
    /// No format.
    Any,
    /// `pve-configid`.
    ConfigId,
    /// `dns-name`.
    DnsName,
    /// `dns-name-list`.
    DnsNames,
    /// `lxc-ip-with-ll-iface-list`.
    Addresses,
    /// `pve-ct-timezone`.
    TimeZone,
    /// `pve-startup-order`.
    StartupOrder,
    /// `pve-volume-id`.
    VolumeId,
    /// `pve-tag-list`.
    Tags,
    /// `mac-addr`.
    MacAddress,
    /// `pve-ipv4-config`.
    Ipv4Config,
    /// `pve-ipv6-config`.
    Ipv6Config,
    /// `ipv4`.
    Ipv4,
    /// `ipv6`.
    Ipv6,
    /// `disk-size`.
    DiskSize,
    /// `pve-lxc-mp-string`.
    MountPath,
    /// `pve-lxc-dev-string`.
    DevicePath,
    /// A property string of these options.
    Options(&'static [Rule]),
}

impl Format {
    /// Checks a value; `path` is where it stands, for the names in complaints.
    pub(crate) fn check(self, value: &[u8], path: Option<&[u8]>) -> Result<(), Complaint> {
        let each = |valid: fn(&[u8]) -> bool, complaint: &str| {
            demand(split_list(value).into_iter().all(valid), complaint)
        };
        match self {
            Self::ConfigId => quote(is_config_id(value), "invalid configuration ID '", value),
            Self::DnsName => {
                demand(is_dns_name(value), "value does not look like a valid DNS name\n")
            }
            Self::DnsNames => each(is_dns_name, "value does not look like a valid DNS name\n"),
            Self::Addresses => each(is_address, "value does not look like a valid IP address\n"),
            Self::TimeZone => quote(is_time_zone(value), "invalid time zone '", value),
            Self::StartupOrder => {
                demand(is_startup_order(value), "unable to parse startup options\n")
            }
            Self::VolumeId => quote(is_volume_id(value), "unable to parse volume ID '", value),
            Self::Tags => each(is_tag, "invalid characters in tag\n"),
            Self::MacAddress => demand(
                is_mac_address(value),
                "value does not look like a valid unicast MAC address\n",
            ),
            Self::Ipv4Config => demand(
                matches!(value, b"dhcp" | b"manual") || is_network(value, is_ipv4, 32),
                "value does not look like a valid ipv4 network configuration\n",
            ),
            Self::Ipv6Config => demand(
                matches!(value, b"auto" | b"dhcp" | b"manual") || is_network(value, is_ipv6, 128),
                "value does not look like a valid ipv6 network configuration\n",
            ),
            Self::Ipv4 => demand(is_ipv4(value), "value does not look like a valid IPv4 address\n"),
            Self::Ipv6 => demand(is_ipv6(value), "value does not look like a valid IPv6 address\n"),
            Self::DiskSize if Number::from_size(value).is_none() => {
                Err(Complaint::about("value does not look like a valid disk size: ", value, "\n"))
            }
            Self::MountPath if !is_mount_path(value) => {
                Err(Complaint::about("", value, " contains illegal character sequences\n"))
            }
            Self::DevicePath if !is_device_path(value) => {
                Err(Complaint::about("", value, " is not a valid device path\n"))
            }
            Self::Any | Self::DiskSize | Self::MountPath | Self::DevicePath => Ok(()),
            Self::Options(rules) => parse_property_string(rules, value, path).map(|_| ()),
        }
    }
}

fn demand(valid: bool, complaint: &str) -> Result<(), Complaint> {
    if valid { Ok(()) } else { Err(Complaint::new(complaint)) }
}

fn quote(valid: bool, before: &str, value: &[u8]) -> Result<(), Complaint> {
    if valid { Ok(()) } else { Err(Complaint::about(before, value, "'\n")) }
}

/// `[a-z][a-z0-9_-]+` in any case.
pub(crate) fn is_config_id(text: &[u8]) -> bool {
    let is_tail = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
    text.len() >= 2 && text[0].is_ascii_alphabetic() && text[1..].iter().all(is_tail)
}

fn is_dns_name(name: &[u8]) -> bool {
    name.split(|b| *b == b'.').all(|label| {
        let ends = label.first().zip(label.last());
        ends.is_some_and(|(a, b)| a.is_ascii_alphanumeric() && b.is_ascii_alphanumeric())
            && label.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-')
    })
}

fn is_ipv4(text: &[u8]) -> bool {
    std::str::from_utf8(text).is_ok_and(|text| text.parse::<Ipv4Addr>().is_ok())
}

fn is_ipv6(text: &[u8]) -> bool {
    std::str::from_utf8(text).is_ok_and(|text| text.parse::<Ipv6Addr>().is_ok())
}

/// An address, or a link-local one with its interface.
fn is_address(text: &[u8]) -> bool {
    if is_ipv4(text) || is_ipv6(text) {
        return true;
    }
    let percent = text.iter().position(|b| *b == b'%');
    percent.is_some_and(|at| {
        text.starts_with(b"fe80:") && is_ipv6(&text[..at]) && is_interface(&text[at + 1..])
    })
}

/// `[a-z][a-z0-9_]{1,20}` in any case, with a number after `:` or `.` or without.
fn is_interface(text: &[u8]) -> bool {
    let end = text.iter().position(|b| matches!(b, b':' | b'.')).unwrap_or(text.len());
    let (name, suffix) = text.split_at(end);
    let is_tail = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_';
    let Some((first, tail)) = name.split_first() else { return false };
    first.is_ascii_alphabetic()
        && IFACE_TAIL.contains(&tail.len())
        && tail.iter().all(is_tail)
        && (suffix.is_empty() || is_digits(&suffix[1..]))
}

/// An address and a prefix length above 7.
fn is_network(text: &[u8], is_host: fn(&[u8]) -> bool, longest: u64) -> bool {
    let Some(slash) = text.iter().position(|b| *b == b'/') else { return false };
    let length = Number::from_digits(&text[slash + 1..]).and_then(Number::as_u64);
    is_host(&text[..slash]) && length.is_some_and(|length| length > 7 && length <= longest)
}

fn is_time_zone(text: &[u8]) -> bool {
    matches!(text, b"host" | b"UTC") || ZONES.lines().any(|zone| zone.as_bytes() == text)
}

fn is_startup_order(text: &[u8]) -> bool {
    is_true(text)
        && split_fields(text, b',').into_iter().all(|part| {
            let number = [&b"order="[..], b"up=", b"down="]
                .into_iter()
                .find_map(|name| part.strip_prefix(name))
                .unwrap_or(part);
            part.iter().all(|b| is_space(*b)) || is_digits(number)
        })
}

/// A storage and a volume on it (`PVE::Storage::Plugin::parse_volume_id`).
pub(crate) fn is_volume_id(text: &[u8]) -> bool {
    let Some(colon) = text.iter().position(|b| *b == b':') else { return false };
    let (storage, name) = (&text[..colon], &text[colon + 1..]);
    let is_inner = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    storage.len() >= 2
        && storage[0].is_ascii_alphabetic()
        && storage[storage.len() - 1].is_ascii_alphanumeric()
        && storage.iter().all(is_inner)
        && !name.is_empty()
}

fn is_tag(text: &[u8]) -> bool {
    let is_first = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_';
    text.first().is_some_and(is_first)
        && text.iter().all(|b| is_first(b) || matches!(b, b'-' | b'+' | b'.'))
}

/// Six bytes in hexadecimal, without the bit of group addresses.
fn is_mac_address(text: &[u8]) -> bool {
    let mut parts = text.split(|b| *b == b':');
    let is_byte = |part: &[u8]| part.len() == 2 && part.iter().all(u8::is_ascii_hexdigit);
    let low = text.get(1).and_then(|b| char::from(*b).to_digit(16));
    low.is_some_and(|digit| digit % 2 == 0) && parts.all(is_byte) && text.len() == 17
}

/// No `.` or `..` after a slash, no `../` in front; what [`Format::MountPath`] demands.
fn is_mount_path(path: &[u8]) -> bool {
    let dots = |part: &[u8]| matches!(part, b"." | b"..");
    !path.starts_with(b"../") && !path.split(|b| *b == b'/').skip(1).any(dots)
}

fn is_device_path(path: &[u8]) -> bool {
    let dots = |part: &[u8]| matches!(part, b"." | b"..");
    path.starts_with(b"/dev/") && !path.split(|b| *b == b'/').any(dots)
}
