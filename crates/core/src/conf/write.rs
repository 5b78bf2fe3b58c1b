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
    let properties =
        section.properties().iter().map(|(name, value)| (name.as_str(), value.as_bstr()));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conf::Force;
    use crate::ids::Ctid;

    fn rewritten(text: &str) -> String {
        let conf = Conf::parse(Ctid::new(100).unwrap(), text.as_bytes()).unwrap();
        String::from_utf8(conf.rewritten().unwrap()).unwrap()
    }

    #[test]
    fn sections_are_written_in_order_and_their_contents_by_name() {
        let text = "mp10: b\nlxc.b = 1\n#one\nmp2: a\n[z1]\n\n[a1]\nx: y\n[pve:pending]\nf: g\ndelete: e\n\
                    lxc.environment: 2\nlxc.environment.runtime: A=1\n#two";
        let written = "#one\nmp10: b\nmp2: a\n\n[pve:pending]\n#two\ndelete: e\nf: g\n\
                       lxc.environment.runtime: A=1\nlxc.environment: 2\n\n[a1]\nx: y\n\n[z1]\n";
        assert_eq!(rewritten(text), written);
    }

    #[test]
    fn a_mounted_volume_is_not_unused_any_more() {
        let text = "mp0: local:1/a.raw,mp=/a\nunused0: local:1/a.raw\nunused1: local:1/b.raw\n";
        let written = "mp0: local:1/a.raw,mp=/a\nunused1: local:1/b.raw\n";
        assert_eq!(rewritten(text), written);
        // Only what stands in the current section counts, and only there.
        let other =
            "unused0: local:1/a.raw\n\n[s1]\nmp0: local:1/a.raw,mp=/a\nunused0: local:1/a.raw\n";
        assert_eq!(rewritten(other), other);
    }

    #[test]
    fn changes_show_in_what_is_written() {
        let mut conf = Conf::parse(Ctid::new(100).unwrap(), b"mp0: /a,mp=/a\nswap: 1\n").unwrap();
        let value = conf.current.remove("mp0").unwrap();
        assert!(conf.mounts().is_empty());
        conf.pending.section.set("mp1", value);
        assert_eq!(conf.pending_mounts().len(), 1);
        conf.pending.add_delete("swap", Force::Yes);
        conf.current.set("description", "x\ny");
        conf.current.set_lxc(vec![("lxc.idmap".into(), "u 0 1 2".into())]);
        let written =
            "#x\n#y\nswap: 1\nlxc.idmap: u 0 1 2\n\n[pve:pending]\ndelete: !swap\nmp1: /a,mp=/a\n";
        assert_eq!(conf.rewritten().unwrap().as_bstr(), written);
        conf.current.set("tags", "a\nb");
        assert_eq!(conf.rewritten(), Err(RewriteError::LineFeed("tags".into())));
    }
}
