//! The writer: a conf as Proxmox writes it back (`PVE::LXC::Config::write_pct_config`).

use std::collections::BTreeSet;

use bstr::{BStr, ByteSlice};

use crate::conf::mount::MountClass;
use crate::conf::parse::{PENDING, RUNTIME_ENVIRONMENT, SNAPSHOTS};
use crate::conf::section::{RAW_LINES, Section};
use crate::conf::text::{NotAReference, encode_text, is_true, split_fields};
use crate::conf::{Conf, schema};

/// Properties that are never written.
const NOT_WRITTEN: [&str; 5] = ["digest", PENDING, SNAPSHOTS, "snapname", RAW_LINES];

/// A conf that Proxmox cannot write back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RewriteError {
    /// A value would span lines.
    #[error("detected invalid newline inside property '{0}'")]
    LineFeed(String),
    /// A property has taken the place of a table.
    #[error(transparent)]
    NoTable(#[from] NotAReference),
}

/// Writes a conf.
pub(crate) fn write(conf: &Conf) -> Result<Vec<u8>, RewriteError> {
    let used = used_volumes(&conf.current);
    let is_used = |name: &str, value: &BStr| name.starts_with("unused") && used.contains(value);
    let mut text = Vec::new();
    write_section(&mut text, &conf.current, None, is_used)?;
    if let Some(value) = conf.current.get(PENDING) {
        return Err(NotAReference::hash(value).into());
    }
    if !conf.pending.is_empty() {
        text.extend_from_slice(b"\n[pve:pending]\n");
        let delete = conf.pending.delete_line();
        write_section(&mut text, &conf.pending.section, delete, |_, _| false)?;
    }
    if let Some(value) = conf.current.get(SNAPSHOTS) {
        return Err(NotAReference::hash(value).into());
    }
    for (name, section) in &conf.snapshots {
        text.extend_from_slice(format!("\n[{name}]\n").as_bytes());
        write_section(&mut text, section, None, |_, _| false)?;
    }
    Ok(text)
}

/// Returns the volumes of storages that are mounted; they cannot be unused (`get_vm_volumes`).
fn used_volumes(section: &Section) -> BTreeSet<&BStr> {
    let volumes = section.volumes().map(|(_, mount_point)| mount_point);
    volumes
        .filter(|mount_point| mount_point.class == MountClass::Volume)
        .map(|mount_point| mount_point.volume.as_bstr())
        .filter(|volume| schema::is_volume_id(volume))
        .collect()
}

/// Writes one section: description, properties by name, environment, raw lines.
fn write_section(
    text: &mut Vec<u8>,
    section: &Section,
    delete: Option<&BStr>,
    skips: impl Fn(&str, &BStr) -> bool,
) -> Result<(), RewriteError> {
    let description = section.get("description").filter(|text| is_true(text));
    for line in split_fields(description.unwrap_or_default(), b'\n') {
        text.extend_from_slice(format!("#{}\n", encode_text(line)).as_bytes());
    }
    let mut write = |name: &str, value: &BStr| {
        if value.contains(&b'\n') {
            return Err(RewriteError::LineFeed(name.to_owned()));
        }
        text.extend_from_slice(&[name.as_bytes(), b": ", value, b"\n"].concat());
        Ok(())
    };
    let properties = section.properties().iter().map(|(name, value)| (name.as_str(), value.as_bstr()));
    let mut properties: Vec<(&str, &BStr)> = properties
        .filter(|(name, value)| !NOT_WRITTEN.contains(name) && !skips(name, value))
        .collect();
    if let Some(list) = delete {
        let at = properties.partition_point(|(name, _)| *name < "delete");
        properties.insert(at, ("delete", list));
    }
    for (name, value) in properties {
        write(name, value)?;
    }
    for variable in environment(section) {
        write(RUNTIME_ENVIRONMENT, variable)?;
    }
    if let Some(value) = section.get(RAW_LINES).filter(|value| is_true(value)) {
        return Err(NotAReference::array(value).into());
    }
    for (key, value) in section.lxc() {
        write(key, value.as_bstr())?;
    }
    Ok(())
}

/// Returns the variables to write; NULs in a row separate as one does.
fn environment(section: &Section) -> Vec<&BStr> {
    let list = section.get("env").filter(|list| is_true(list)).unwrap_or_default();
    let mut variables: Vec<&BStr> = Vec::new();
    for (at, variable) in split_fields(list, 0).into_iter().enumerate() {
        if at == 0 || !variable.is_empty() {
            variables.push(variable.as_bstr());
        }
    }
    variables
}
