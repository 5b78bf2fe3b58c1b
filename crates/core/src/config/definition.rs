//! What a container is to be like: fields of `lxc_configs` in Proxmox's words.
//!
//! Values are checked against Proxmox's own schema, so that a mistake is known before anything is
//! made. It is no mistake of the file: the container may be there, and the field another tool's.

use std::collections::BTreeMap;

use super::document::Node;
use crate::conf::{RawLine, schema};
use crate::desired::definition::Property;
use crate::desired::{Definition, Interface};

/// What a field is in Proxmox's words, or that it is not given, or why it cannot be used.
type Read<T> = Result<Option<T>, String>;

/// Reads the definition of a container.
pub(super) fn read(node: &Node<'_>) -> Definition {
    let mut faults = Vec::new();
    let mut plain = BTreeMap::new();
    let number = |key: &str| whole(node, key).map(|value| value.map(|value| value.to_string()));
    let onboot = boolean(node, "start_at_boot");
    let given = [
        (Property::Hostname, "name", text(node, "name")),
        (Property::Memory, "memory_mb", number("memory_mb")),
        (Property::Swap, "swap_mb", number("swap_mb")),
        (Property::Cores, "cores", number("cores")),
        (Property::Onboot, "start_at_boot", onboot.map(|on| on.map(|on| u8::from(on).to_string()))),
        (Property::Nameserver, "network_config.nameservers", Ok(nameservers(node))),
    ];
    for (property, field, value) in given {
        let value = value.and_then(|value| verified(property.name(), value));
        if let Some(value) = kept(field, value, &mut faults) {
            plain.insert(property, value);
        }
    }
    let startup = startup(node, &mut faults);
    let features = kept("pct_options", features(node), &mut faults).unwrap_or_default();
    let network = kept("network_config", interface(node), &mut faults).flatten();
    Definition {
        node: kept("node", text(node, "node"), &mut faults),
        storage: kept("storage_pool", storage(node), &mut faults),
        size_gb: kept("storage_size_gb", whole(node, "storage_size_gb"), &mut faults),
        plain,
        startup,
        features,
        network,
        lxc_options: raw_lines(node),
        faults,
    }
}

fn kept<T>(field: &str, value: Read<T>, faults: &mut Vec<String>) -> Option<T> {
    value.unwrap_or_else(|why| {
        faults.push(format!("{field}: {why}"));
        None
    })
}

/// Returns a value that `pct` would take for this property.
fn verified(property: &str, value: Option<String>) -> Read<String> {
    let Some(value) = value else { return Ok(None) };
    match schema::verify(property, value.as_bytes()) {
        Ok(_) => Ok(Some(value)),
        Err(complaint) => Err(complaint.to_string()),
    }
}

fn text(node: &Node<'_>, key: &str) -> Read<String> {
    match node.get(key) {
        None => Ok(None),
        Some(value) => match value.text() {
            Some(text) => Ok((!text.is_empty()).then(|| text.to_owned())),
            None => Err("expected a text".to_owned()),
        },
    }
}

fn whole(node: &Node<'_>, key: &str) -> Read<u64> {
    match node.get(key) {
        None => Ok(None),
        Some(value) => value.whole().map(Some).ok_or_else(|| "expected a whole number".to_owned()),
    }
}

fn boolean(node: &Node<'_>, key: &str) -> Read<bool> {
    match node.get(key) {
        None => Ok(None),
        Some(value) => value.boolean().map(Some).ok_or_else(|| "expected true or false".to_owned()),
    }
}

/// A storage's id ends up in `STORAGE:SIZE`, so nothing else may be in it.
fn storage(node: &Node<'_>) -> Read<String> {
    let Some(storage) = text(node, "storage_pool")? else { return Ok(None) };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if storage.starts_with(|first: char| first.is_ascii_alphabetic()) && storage.bytes().all(plain)
    {
        return Ok(Some(storage));
    }
    Err("not the id of a storage".to_owned())
}

fn startup(node: &Node<'_>, faults: &mut Vec<String>) -> BTreeMap<String, String> {
    let fields = [("boot_order", "order"), ("boot_delay", "up")];
    let given = fields.into_iter().filter_map(|(field, key)| {
        let value = kept(field, whole(node, field), faults)?;
        Some((key.to_owned(), value.to_string()))
    });
    given.collect()
}

/// Returns the raw lines, each once; what is none was reported.
fn raw_lines(node: &Node<'_>) -> Vec<RawLine> {
    let mut lines: Vec<RawLine> = Vec::new();
    for item in node.get("lxc_options").iter().flat_map(Node::items) {
        if let Some(Ok(line)) = item.text().map(str::parse)
            && !lines.contains(&line)
        {
            lines.push(line);
        }
    }
    lines
}

/// Returns `net0` of `network_config` and `mac_address`.
fn interface(node: &Node<'_>) -> Read<Option<Interface>> {
    let Some(network) = node.get("network_config") else { return Ok(None) };
    let mut options = BTreeMap::new();
    for key in ["name", "bridge", "ip", "gw"] {
        if let Some(value) = text(&network, key)? {
            options.insert(key.to_owned(), value);
        }
    }
    if let Some(hwaddr) = text(node, "mac_address")? {
        options.insert("hwaddr".to_owned(), hwaddr.to_ascii_uppercase());
    }
    if options.is_empty() {
        return Ok(None);
    }
    options.entry("name".to_owned()).or_insert_with(|| "eth0".to_owned());
    // A gateway is that of a fixed address; with DHCP it comes with the lease.
    if options.get("ip").is_none_or(|ip| !ip.contains('/')) {
        options.remove("gw");
    }
    let interface = Interface { options };
    verified("net0", Some(interface.value()))?;
    Ok(Some(Some(interface)))
}

fn nameservers(node: &Node<'_>) -> Option<String> {
    let at = node.get("network_config")?.get("nameservers")?;
    let listed: Vec<&str> = match at.text() {
        Some(text) => vec![text],
        None => at.items().filter_map(|item| item.text()).collect(),
    };
    let joined = listed.join(" ");
    let words: Vec<&str> = joined.split([' ', ',', ';', '\t']).filter(|w| !w.is_empty()).collect();
    (!words.is_empty()).then(|| words.join(" "))
}

/// Returns the features of `pct_options`, each `KEY=VALUE`.
fn features(node: &Node<'_>) -> Read<BTreeMap<String, String>> {
    let mut features = BTreeMap::new();
    let list = node.get("pct_options");
    for item in list.iter().flat_map(Node::items) {
        let text = item.text().ok_or("expected a list of texts")?;
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (key, value) =
                part.split_once('=').ok_or_else(|| format!("`{part}` is not KEY=VALUE"))?;
            features.insert(key.to_owned(), value.to_owned());
        }
    }
    if !features.is_empty() {
        verified("features", Some(crate::desired::definition::listed(&features)))?;
    }
    Ok(Some(features))
}
