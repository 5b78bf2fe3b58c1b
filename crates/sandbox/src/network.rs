//! Network interfaces of a container: their normal form, and the bridges they need.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};

use bstr::{BStr, BString};
use pctd_core::conf::{Section, schema};

use crate::context::{Context, text};
use crate::output::Die;
use crate::perl::{from_file, parse_boolean, to_file};
use crate::properties::is_numbered;

/// The bridge MTU of the model: what a bridge has unless told otherwise.
const BRIDGE_MTU: u32 = 1500;

/// Options of an interface that are booleans.
const BOOLEANS: [&str; 3] = ["firewall", "link_down", "host-managed"];

/// Reads the value of `netN` (`parse_property_string`).
fn parse(value: &BStr) -> Result<BTreeMap<String, String>, String> {
    schema::check("net0", value).map_err(|complaint| from_file(&complaint.0))?;
    let text = from_file(value);
    let options = text.split(',').filter_map(|part| part.split_once('=')).map(|(key, value)| {
        let word = BOOLEANS.contains(&key).then(|| parse_boolean(value)).flatten();
        let value = word.map_or(value, |word| if word { "1" } else { "0" });
        (key.to_owned(), value.to_owned())
    });
    Ok(options.collect())
}

/// Writes the value of `netN`: the name first, the rest sorted.
fn print(mut options: BTreeMap<String, String>) -> BString {
    let name = options.remove("name").unwrap_or_default();
    let rest = options.into_iter().map(|(key, value)| format!(",{key}={value}"));
    to_file(&format!("name={name}{}", rest.collect::<String>())).0
}

/// Returns the normal form of an interface: with its type and a hardware address
/// (`parse_lxc_network`, `print_lxc_network`).
pub(crate) fn normal(value: &BStr) -> Result<BString, String> {
    let mut options = parse(value)?;
    options.insert("type".into(), "veth".into());
    options.entry("hwaddr".into()).or_insert_with(random_hwaddr);
    Ok(print(options))
}

/// Returns the interface of a clone: the same with another hardware address.
pub(crate) fn renewed(value: &BStr) -> Result<BString, String> {
    let mut options = parse(value)?;
    options.insert("type".into(), "veth".into());
    options.insert("hwaddr".into(), random_hwaddr());
    Ok(print(options))
}

/// Returns a hardware address below Proxmox's prefix (`random_ether_addr`).
fn random_hwaddr() -> String {
    // A hasher of the standard library is keyed at random.
    let random = RandomState::new().hash_one(std::time::Instant::now());
    let [a, b, c, ..] = random.to_le_bytes();
    format!("BC:24:11:{a:02X}:{b:02X}:{c:02X}")
}

/// Checks an interface to be set.
pub(crate) fn check(cx: &Context, name: &str, value: &BStr) -> Result<(), Die> {
    let options = parse(value)?;
    if let Some(mtu) =
        options.get("mtu").and_then(|mtu| mtu.parse::<u32>().ok()).filter(|mtu| *mtu > 0)
    {
        check_mtu(cx, name, mtu, options.get("bridge"))?;
    }
    let on = |key: &str| options.get(key).is_some_and(|value| value == "1");
    if !on("link_down") && on("host-managed") && options.get("ip6").is_some_and(|ip| ip == "auto") {
        return Err(Die::new(format!(
            "{name}: SLAAC is not supported for host-managed network configuration.\n"
        )));
    }
    Ok(())
}

/// Checks that the bridges of all interfaces exist (`update_lxc_config`).
pub(crate) fn check_bridges(cx: &Context, section: &Section) -> Result<(), Die> {
    for name in section.properties().keys().filter(|name| is_numbered(name, "net")) {
        let value = text(section, name).unwrap_or_default();
        let options = parse(BStr::new(&to_file(&value).0))?;
        let mtu = options.get("mtu").and_then(|mtu| mtu.parse().ok()).unwrap_or(BRIDGE_MTU);
        check_mtu(cx, name, mtu, options.get("bridge"))?;
    }
    Ok(())
}

fn check_mtu(cx: &Context, name: &str, mtu: u32, bridge: Option<&String>) -> Result<(), Die> {
    let bridge = bridge.map_or("", String::as_str);
    if !cx.settings.bridges.contains(bridge) {
        // 2 is ENOENT, left over from reading its MTU.
        return Err(Die::new(format!("bridge '{bridge}' does not exist\n")).exit(2));
    }
    if mtu > BRIDGE_MTU {
        return Err(Die::new(format!(
            "{name}: MTU size '{mtu}' is bigger than bridge MTU '{BRIDGE_MTU}'\n"
        )));
    }
    Ok(())
}
