//! What only looks: `pct config`, `pending`, `status` and `list`.

use std::collections::{BTreeMap, BTreeSet};

use bstr::ByteSlice;
use pctd_core::conf::text::encode_text;
use pctd_core::conf::{Conf, Section, schema};
use pctd_core::ids::Ctid;

use crate::context::{Context, text};
use crate::output::{Die, Errors};
use crate::pct::parameters::Parameters;
use crate::pct::parameters::verify_property;
use crate::pct::task::Ended;
use crate::perl::from_file;
use crate::pmxcfs::guest_id;
use crate::properties::{names, parse_volume};
use crate::running;

const MIB: u64 = 1 << 20;

/// What a root file system without a size is taken for (`PVE::LXC::vmstatus`).
const DEFAULT_DISK: u64 = 4 << 30;

/// What an absent `memory` is.
const DEFAULT_MEMORY: u64 = 512;

pub(super) fn config(cx: &mut Context, parameters: &Parameters) -> Result<(), Ended> {
    let ctid = parameters.ctid("vmid")?;
    let snapshot = parameters.get("snapshot");
    if snapshot.is_some() && parameters.is_on("current") {
        let error = "cannot use 'snapshot' parameter with 'current'";
        let errors = ["current", "snapshot"].map(|name| (name.to_owned(), error.to_owned()));
        return Err(Die::parameters(errors.into()).into());
    }
    let mut conf = cx.load(ctid)?;
    let section = match snapshot {
        Some(name) => conf
            .snapshots
            .remove(name)
            .ok_or_else(|| format!("snapshot '{name}' does not exist\n"))?,
        None if parameters.is_on("current") => conf.current,
        None => merged(conf),
    };
    verify_result(&section)?;
    let mut printed = Vec::new();
    for name in
        names(&section).into_iter().filter(|name| !matches!(name.as_str(), "digest" | "lxc"))
    {
        printed.push(format!("{name}: {}\n", shown(&section, &name)));
    }
    for (key, value) in section.lxc() {
        printed.push(format!("{key}: {}\n", from_file(value)));
    }
    cx.streams.print(&printed.concat());
    Ok(())
}

/// Returns a value as it is printed: a description encoded, on one line.
fn shown(section: &Section, name: &str) -> String {
    let value = section.get(name).unwrap_or_default();
    if name == "description" { encode_text(value) } else { from_file(value) }
}

/// Returns the conf as it will be after a restart (`load_current_config`).
fn merged(conf: Conf) -> Section {
    let Conf { mut current, pending, .. } = conf;
    for name in names(&pending.section) {
        if let Some(value) = pending.section.get(&name) {
            current.set(&name, value.to_owned());
        }
    }
    for name in pending.deletes().into_keys() {
        let name = from_file(&name);
        if current.flag(&name) == Some(true) {
            current.remove(&name);
        }
    }
    current
}

/// Checks the values as an output of the API, where they have limits.
fn verify_result(section: &Section) -> Result<(), Die> {
    let mut errors = Errors::new();
    for name in names(section) {
        // Not among the properties of the result: their names are not checked.
        if matches!(name.as_str(), "parent" | "snaptime") || schema::rule(&name).is_none() {
            continue;
        }
        // The schema of the output knows 0 and 1 only, which reading made of every other word.
        let value = text(section, &name).unwrap_or_default();
        errors.extend(verify_property(&name, &name, &value).err());
    }
    if errors.is_empty() {
        return Ok(());
    }
    Err(Die::bad_request("Result verification failed\n").with_errors(errors).exit(255))
}

pub(super) fn pending(cx: &mut Context, parameters: &Parameters) -> Result<(), Ended> {
    let conf = cx.load(parameters.ctid("vmid")?)?;
    let deletes: BTreeSet<String> =
        conf.pending.deletes().into_keys().map(|name| from_file(&name)).collect();
    let waiting = &conf.pending.section;
    let all: BTreeSet<String> = names(&conf.current).into_iter().chain(names(waiting)).collect();
    let mut printed = Vec::new();
    for name in all.iter().filter(|name| *name != "digest") {
        let current = conf.current.get(name).map(|_| shown(&conf.current, name));
        let new = waiting.get(name).map(|_| shown(waiting, name));
        match (current, new) {
            (Some(current), _) if deletes.contains(name) => {
                printed.push(format!("del {name}: {current}\n"));
            }
            (Some(current), Some(new)) => {
                printed.push(format!("cur {name}: {current}\nnew {name}: {new}\n"));
            }
            (Some(current), None) => printed.push(format!("cur {name}: {current}\n")),
            (None, Some(new)) => printed.push(format!("new {name}: {new}\n")),
            (None, None) => {}
        }
    }
    cx.streams.print(&printed.concat());
    Ok(())
}

pub(super) fn status(cx: &mut Context, parameters: &Parameters) -> Result<(), Ended> {
    let ctid = parameters.ctid("vmid")?;
    cx.load(ctid)?;
    let status = guest_status(cx, ctid, cx.is_running(ctid))?;
    if !parameters.is_on("verbose") {
        cx.streams.print(&format!("status: {}\n", status["status"]));
        return Ok(());
    }
    let lines = status.iter().map(|(key, value)| format!("{key}: {value}\n"));
    cx.streams.print(&lines.collect::<Vec<_>>().concat());
    Ok(())
}

/// Returns what the API tells of one container (`PVE::LXC::vmstatus`).
fn guest_status(
    cx: &mut Context,
    ctid: Ctid,
    running: bool,
) -> Result<BTreeMap<&'static str, String>, Die> {
    let conf = cx.load(ctid)?;
    let section = &conf.current;
    let number = |name: &str| text(section, name).and_then(|value| value.parse::<u64>().ok());
    let rootfs = section
        .get("rootfs")
        .map(|value| parse_volume("rootfs", value.as_bstr()))
        .transpose()
        .ok()
        .flatten();
    let disk = rootfs
        .and_then(|rootfs| rootfs.size()?.as_u64())
        .filter(|size| *size > 0)
        .unwrap_or(DEFAULT_DISK);
    let cpus = number("cores").filter(|cores| *cores > 0).unwrap_or_else(|| {
        let all = std::thread::available_parallelism();
        all.map_or(1, |all| u64::try_from(all.get()).unwrap_or(1))
    });
    let memory = number("memory").filter(|memory| *memory > 0).unwrap_or(DEFAULT_MEMORY);
    let name = text(section, "hostname").filter(|name| !matches!(name.as_str(), "" | "0"));
    let name = name.unwrap_or_else(|| format!("CT{ctid}")).replace(crate::perl::is_space, "");
    let zero = || "0".to_owned();
    let mut status = BTreeMap::from([
        ("cpus", cpus.to_string()),
        ("disk", zero()),
        ("diskread", zero()),
        ("diskwrite", zero()),
        ("maxdisk", disk.to_string()),
        ("maxmem", (memory * MIB).to_string()),
        ("maxswap", (number("swap").unwrap_or(0) * MIB).to_string()),
        ("mem", zero()),
        ("name", name),
        ("netin", zero()),
        ("netout", zero()),
        ("status", if running { "running" } else { "stopped" }.to_owned()),
        ("swap", zero()),
        ("type", "lxc".to_owned()),
        ("uptime", zero()),
        ("vmid", ctid.to_string()),
    ]);
    if let Some(lock) = conf.lock() {
        status.insert("lock", from_file(lock));
    }
    if conf.is_template() {
        status.insert("template", "1".to_owned());
    }
    if let Some(tags) = text(section, "tags") {
        status.insert("tags", tags);
    }
    Ok(status)
}

pub(super) fn list(cx: &mut Context, _parameters: &Parameters) -> Result<(), Ended> {
    let active = running::list(&cx.root);
    let dir = cx.root.guests(&cx.settings.node, "lxc");
    let entries = std::fs::read_dir(dir)
        .map(|entries| entries.flatten().collect::<Vec<_>>())
        .unwrap_or_default();
    let mut ids: Vec<u32> = entries
        .iter()
        .filter_map(|entry| guest_id(entry.file_name().to_str()?.strip_suffix(".conf")?))
        .collect();
    ids.sort_unstable();
    let mut printed = Vec::new();
    let mut errors = Errors::new();
    for (index, id) in ids.iter().enumerate() {
        let Some(ctid) = Ctid::new(*id) else {
            let error = "invalid format - value does not look like a valid VM ID\n";
            errors.push((format!("[{index}].vmid"), error.to_owned()));
            continue;
        };
        let status = guest_status(cx, ctid, active.contains(&ctid.to_string()))?;
        let lock = status.get("lock").map_or("", String::as_str);
        if printed.is_empty() {
            printed.push(row("VMID", "Status", "Lock", "Name"));
        }
        printed.push(row(&ctid.to_string(), &status["status"], lock, &status["name"]));
    }
    if !errors.is_empty() {
        return Err(Die::bad_request("Result verification failed\n")
            .with_errors(errors)
            .exit(255)
            .into());
    }
    cx.streams.print(&printed.concat());
    Ok(())
}

fn row(id: &str, status: &str, lock: &str, name: &str) -> String {
    format!("{id:<10} {status:<10} {lock:<12} {name:<20}\n")
}
