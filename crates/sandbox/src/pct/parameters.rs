//! The parameters of a command and their checks (`PVE::JSONSchema::validate`).

use std::collections::{BTreeMap, BTreeSet};

use bstr::BString;
use pctd_core::conf::{MountPoint, schema};
use pctd_core::ids::Ctid;

use crate::context;
use crate::output::{Die, Errors};
use crate::perl::{from_file, parse_boolean, split_list, to_file};
use crate::properties::is_numbered;

/// What a parameter must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Check {
    /// The id of a guest.
    Vmid,
    /// The name of a snapshot.
    SnapshotName,
    /// A list of names of settings.
    ConfigIds,
    /// A boolean.
    Boolean,
    /// A whole number.
    Count,
    /// A number.
    Number,
    /// Text of at most so many characters.
    Text(usize),
    /// A storage.
    Storage,
    /// What the property of this name may be.
    Property(&'static str),
}

/// The parameters of a command that are no properties of a container, each with its check.
pub(crate) type Checks = &'static [(&'static str, Check)];

/// Returns the check of a parameter that is no property of a container.
pub(crate) fn check_of(checks: Checks, name: &str) -> Option<Check> {
    checks.iter().find(|(known, _)| *known == name).map(|(_, check)| *check)
}

/// The parameters of a run that passed their checks.
#[derive(Debug, Default)]
pub(crate) struct Parameters {
    values: BTreeMap<String, String>,
    /// Those of the command.
    checks: Checks,
}

impl Parameters {
    /// Checks all parameters at once.
    pub(crate) fn check(checks: Checks, given: Vec<(String, String)>) -> Result<Self, Die> {
        let mut values = BTreeMap::new();
        let mut errors = Errors::new();
        for (name, mut value) in given {
            let check = check_of(checks, &name);
            if is_boolean(check, &name) {
                let word = if value.is_empty() { Some(true) } else { parse_boolean(&value) };
                let Some(word) = word else {
                    return Err(Die::bad_request("unable to parse boolean option\n"));
                };
                value = if word { "1" } else { "0" }.into();
            }
            match check {
                Some(check) => errors
                    .extend(verify(check, &name, &value).err().map(|error| (name.clone(), error))),
                None => errors.extend(verify_property(&name, &name, &value).err()),
            }
            values.insert(name, value);
        }
        if errors.is_empty() { Ok(Self { values, checks }) } else { Err(Die::parameters(errors)) }
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// Returns whether a flag is given and on.
    pub(crate) fn is_on(&self, name: &str) -> bool {
        self.get(name) == Some("1")
    }

    /// Returns a parameter that is an id.
    pub(crate) fn ctid(&self, name: &str) -> Result<Ctid, Die> {
        context::ctid(self.get(name).unwrap_or_default())
    }

    /// Returns a number of seconds.
    pub(crate) fn seconds(&self, name: &str) -> Option<u64> {
        self.get(name)?.trim_start_matches('+').parse().ok()
    }

    /// Returns a parameter that is a list.
    pub(crate) fn list(&self, name: &str) -> Vec<String> {
        self.get(name).map(split_list).unwrap_or_default()
    }

    /// Returns the properties of a container among the parameters, in the form of a conf.
    pub(crate) fn properties(&self) -> BTreeMap<String, BString> {
        let properties =
            self.values.iter().filter(|(name, _)| check_of(self.checks, name).is_none());
        properties
            .map(|(name, value)| {
                // A description is kept in UTF-8, which its encoding is taken from.
                let bytes =
                    if name == "description" { value.as_str().into() } else { to_file(value).0 };
                (name.clone(), bytes)
            })
            .collect()
    }

    /// Returns the properties that have a character no byte stands for; a description is encoded
    /// before it is written.
    pub(crate) fn wide(&self) -> BTreeSet<String> {
        let properties =
            self.values.iter().filter(|(name, _)| check_of(self.checks, name).is_none());
        let wide = properties.filter(|(name, value)| *name != "description" && to_file(value).1);
        wide.map(|(name, _)| name.clone()).collect()
    }

    /// Refuses maps of single mounts, as a Proxmox does that does not know them.
    pub(crate) fn without_mount_maps(&self) -> Result<(), Die> {
        let mut errors = Errors::new();
        for (name, value) in self.properties() {
            let has_map = MountPoint::parse(&value).is_ok_and(|mount| mount.idmap().is_some());
            if has_map && (name == "rootfs" || is_numbered(&name, "mp")) {
                let unknown = "property is not defined in schema and the schema does not allow additional properties";
                errors.push((name.clone(), "invalid format - format error".to_owned()));
                errors.push((format!("{name}.idmap"), format!("{unknown}\n")));
            }
        }
        if errors.is_empty() { Ok(()) } else { Err(Die::parameters(errors)) }
    }

    /// Returns whether there is none but these.
    pub(crate) fn is_only(&self, names: &[&str]) -> bool {
        self.values.keys().all(|name| names.contains(&name.as_str()))
    }
}

/// Returns whether a parameter takes its value only if one follows.
pub(crate) fn is_boolean(check: Option<Check>, name: &str) -> bool {
    match check {
        Some(check) => check == Check::Boolean,
        None => schema::rule(name).is_some_and(|rule| rule.kind == schema::Kind::Boolean),
    }
}

/// Returns what is wrong with a value.
fn verify(check: Check, name: &str, value: &str) -> Result<(), String> {
    let digits = value.strip_prefix(['+', '-']).unwrap_or(value);
    let is_integer = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    match check {
        Check::Vmid | Check::Count if !is_integer => Err(mistyped("integer", value)),
        Check::Vmid => {
            let ok = value.parse::<Ctid>().is_ok();
            if ok {
                Ok(())
            } else {
                Err("invalid format - value does not look like a valid VM ID\n".into())
            }
        }
        Check::SnapshotName => {
            check_config_id(value)?;
            too_long(value, 40)
        }
        Check::ConfigIds => split_list(value).iter().try_for_each(|id| check_config_id(id)),
        Check::Count if value.starts_with('-') => {
            Err("value must have a minimum value of 0".into())
        }
        Check::Count | Check::Boolean => Ok(()),
        Check::Number => {
            if value.parse::<f64>().is_ok() {
                Ok(())
            } else {
                Err(mistyped("number", value))
            }
        }
        Check::Text(limit) => too_long(value, limit),
        Check::Storage => {
            let plain = crate::storage::split_volume_id(&format!("{value}:x")).is_some();
            if plain {
                Ok(())
            } else {
                Err(format!("invalid format - storage ID '{value}' contains illegal characters\n"))
            }
        }
        Check::Property(property) => {
            verify_property(property, name, value).map_err(|(_, error)| error)
        }
    }
}

fn mistyped(kind: &str, value: &str) -> String {
    format!("type check ('{kind}') failed - got '{value}'")
}

fn too_long(value: &str, limit: usize) -> Result<(), String> {
    if value.chars().count() > limit {
        return Err(format!("value may only be {limit} characters long"));
    }
    Ok(())
}

/// `pve-configid`
fn check_config_id(value: &str) -> Result<(), String> {
    let mut bytes = value.bytes();
    let ok = bytes.next().is_some_and(|byte| byte.is_ascii_alphabetic())
        && value.len() > 1
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
    if ok { Ok(()) } else { Err(format!("invalid format - invalid configuration ID '{value}'\n")) }
}

/// Checks the value of a property as `pct set` does; the error comes with the name it stands
/// below.
pub(crate) fn verify_property(
    property: &str,
    name: &str,
    value: &str,
) -> Result<(), (String, String)> {
    match schema::verify(property, &to_file(value).0) {
        Ok(_) => Ok(()),
        Err(complaint) => {
            // `NAME: TEXT`, ended by a line feed that the block adds itself.
            let text = from_file(&complaint.0);
            let text = text.strip_suffix('\n').unwrap_or(&text);
            let text = text.strip_prefix(&format!("{property}: ")).unwrap_or(text);
            Err((name.to_owned(), text.to_owned()))
        }
    }
}
