//! The properties Proxmox knows in a container's conf, and what their values may be.
//!
//! From `PVE::LXC::Config` of pve-container 6.1. Two checks differ on purpose, as they do there:
//! [`check`] is what reading a conf does, which knows types and formats only; [`verify`] is what
//! `pct set` does with a parameter, which knows bounds and choices as well.

use bstr::BString;

use crate::conf::text::{is_digits, is_true, parse_boolean};

mod format;
mod property_string;
mod rule;
mod tables;

pub use format::Format;
pub(crate) use format::{is_config_id, is_volume_id};
pub(crate) use property_string::parse_property_string;
pub use rule::{Kind, Rule};
pub use tables::rule;
pub(crate) use tables::{MOUNT_POINT, ROOTFS};

/// What Proxmox says about a value it does not take, line feeds included.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", trimmed(.0))]
pub struct Complaint(pub BString);

fn trimmed(text: &BString) -> String {
    text.to_string().trim_end().to_owned()
}

impl Complaint {
    pub(crate) fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// Returns `before`, the value and `after` in one complaint.
    pub(crate) fn about(before: &str, value: &[u8], after: &str) -> Self {
        Self([before.as_bytes(), value, after.as_bytes()].concat().into())
    }
}

/// Returns the value of a property as Proxmox keeps it when it reads a conf
/// (`PVE::LXC::Config::check_type`).
///
/// # Errors
///
/// Returns what Proxmox warns with; it keeps the value as written then.
pub fn check(name: &str, value: &[u8]) -> Result<BString, Complaint> {
    let Some(rule) = rule(name) else {
        return Err(Complaint::about("unknown setting '", name.as_bytes(), "'\n"));
    };
    if value.iter().any(|b| matches!(b, b'\n' | b'\r')) {
        return Err(Complaint::new("property contains a line feed\n"));
    }
    let mistyped = |kind| {
        let before = format!("type check ('{kind}') failed - got '");
        Complaint::about(&before, value, "'\n")
    };
    match rule.kind {
        Kind::Boolean => parse_boolean(value)
            .map(|on| if on { "1".into() } else { "0".into() })
            .ok_or_else(|| mistyped("boolean")),
        Kind::Integer => super::Number::from_digits(value)
            .map(|number| number.to_string().into())
            .ok_or_else(|| mistyped("integer")),
        Kind::Number => {
            let mut parts = value.splitn(2, |b| *b == b'.');
            let number = parts.all(is_digits);
            number.then(|| value.into()).ok_or_else(|| mistyped("number"))
        }
        Kind::Text => rule.format.check(value, None).map(|()| value.into()),
    }
}

/// Returns the value of a parameter as `pct set` takes it: boolean words as `0` or `1`.
///
/// # Errors
///
/// Returns the complaint `pct` prints below `400 Parameter verification failed.`, with the names
/// it stands below and all line feeds. Proxmox prints several lines in no certain order.
pub fn verify(name: &str, value: &[u8]) -> Result<BString, Complaint> {
    let Some(rule) = rule(name) else {
        return Err(Complaint::about("unknown setting '", name.as_bytes(), "'\n"));
    };
    let word = if rule.kind == Kind::Boolean { parse_boolean(value) } else { None };
    let value: BString = word.map_or_else(|| value.into(), |on| if on { "1" } else { "0" }.into());
    match rule.complaints(name.as_bytes(), Some(value.as_ref())) {
        complaints if complaints.is_empty() => Ok(value),
        complaints => Err(Complaint(rule::lines(&complaints).into())),
    }
}

/// Returns whether Perl takes the value of a property for true; absent ones are not.
pub(crate) fn truth(value: Option<&bstr::BStr>) -> bool {
    value.is_some_and(|value| is_true(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaint(name: &str, value: &str) -> String {
        check(name, value.as_bytes()).unwrap_err().0.to_string()
    }

    #[test]
    fn values_are_kept_in_their_canonical_form() {
        for (name, value, kept) in [
            ("onboot", "Yes", "1"),
            ("debug", "OFF", "0"),
            ("cores", "007", "7"),
            ("memory", "99999999999999999999", "1e+20"),
            ("cpulimit", "01.50", "01.50"),
            ("hostname", "a.b-c", "a.b-c"),
            ("lock", "anything", "anything"),
            ("mp255", "/srv/a,mp=/a,ro=yes", "/srv/a,mp=/a,ro=yes"),
            ("nameserver", "10.0.0.1 fe80::1%eth0;::1", "10.0.0.1 fe80::1%eth0;::1"),
            ("timezone", "Europe/Vienna", "Europe/Vienna"),
            ("startup", "order=1,up=2,down=3", "order=1,up=2,down=3"),
            (
                "net31",
                "name=eth0,hwaddr=BC:24:11:0A:1B:2C,ip=dhcp",
                "name=eth0,hwaddr=BC:24:11:0A:1B:2C,ip=dhcp",
            ),
        ] {
            assert_eq!(check(name, value.as_bytes()).unwrap(), kept, "{name}: {value}");
        }
    }

    #[test]
    fn complaints_are_those_of_proxmox() {
        for (name, value, text) in [
            ("foo", "1", "unknown setting 'foo'\n"),
            ("mp256", "/a,mp=/a", "unknown setting 'mp256'\n"),
            ("mp01", "/a,mp=/a", "unknown setting 'mp01'\n"),
            ("net32", "name=a", "unknown setting 'net32'\n"),
            ("arch", "a\rb", "property contains a line feed\n"),
            ("onboot", "2", "type check ('boolean') failed - got '2'\n"),
            ("cores", "-1", "type check ('integer') failed - got '-1'\n"),
            ("cpulimit", ".5", "type check ('number') failed - got '.5'\n"),
            ("cpulimit", "1.", "type check ('number') failed - got '1.'\n"),
            ("hostname", "a_b", "value does not look like a valid DNS name\n"),
            ("searchdomain", "a.b,c_d", "value does not look like a valid DNS name\n"),
            ("nameserver", "10.0.0.256", "value does not look like a valid IP address\n"),
            ("timezone", "Europe/Nowhere", "invalid time zone 'Europe/Nowhere'\n"),
            ("startup", "0", "unable to parse startup options\n"),
            ("tags", "a;-b", "invalid characters in tag\n"),
            ("parent", "a b", "invalid configuration ID 'a b'\n"),
            ("hookscript", "a:b", "unable to parse volume ID 'a:b'\n"),
            (
                "unused0",
                "x",
                "format error\nvolume: invalid format - unable to parse volume ID 'x'\n\n",
            ),
            (
                "features",
                "nesting",
                "value without key, but schema does not define a default key\n",
            ),
            (
                "dev0",
                "/dev/../x",
                "format error\npath: invalid format - /dev/../x is not a valid device path\n\n",
            ),
            (
                "net0",
                "name=eth0,tag=5000",
                "format error\ntag: value must have a maximum value of 4094\n",
            ),
            (
                "net0",
                "name=eth0,type=x",
                "format error\ntype: value 'x' does not have a value in the enumeration 'veth'\n",
            ),
        ] {
            assert_eq!(complaint(name, value), text, "{name}: {value}");
        }
    }

    #[test]
    fn a_parameter_is_held_to_its_bounds_as_well() {
        for (name, value, text) in [
            ("memory", "8", "memory: value must have a minimum value of 16\n"),
            (
                "lock",
                "x",
                "lock: value 'x' does not have a value in the enumeration 'backup, create, destroyed, disk, fstrim, migrate, mounted, rollback, snapshot, snapshot-delete'\n",
            ),
            (
                "hostname",
                "a_b",
                "hostname: invalid format - value does not look like a valid DNS name\n\n",
            ),
            (
                "mp0",
                "/srv/a,mp=/a,ro=maybe",
                "mp0: invalid format - format error\nmp0.ro: type check ('boolean') failed - got 'maybe'\n\n",
            ),
            (
                "mp0",
                "/a,/b",
                "mp0: invalid format - duplicate key in comma-separated list property: volume\n\n",
            ),
            ("cores", "x", "cores: type check ('integer') failed - got 'x'\n"),
        ] {
            assert_eq!(verify(name, value.as_bytes()).unwrap_err().0, text, "{name}: {value}");
        }
        assert_eq!(verify("onboot", b"yes").unwrap(), "1");
        assert_eq!(verify("cores", b"+2").unwrap(), "+2");
        let long = [b'a'; 256];
        let text = "hostname: value may only be 255 characters long\n";
        assert_eq!(verify("hostname", &long).unwrap_err().0, text);
        assert!(check("hostname", &long).is_ok());
    }
}
