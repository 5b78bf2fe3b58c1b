//! `pct restore` (`PVE::API2::LXC`, `create_vm` with `restore`).
//!
//! The order is the whole danger of it: `lock: create` in the old conf, new disks, then the old disks
//! and the old conf go, and only then is the archive unpacked. Whatever fails from the new disks on
//! takes the conf away; where the old disks were not freed yet, nothing names them any more.

use bstr::{BString, ByteSlice};
use pctd_core::conf::{Conf, IdLine, MountClass};
use pctd_core::idmap::IdRange;
use pctd_core::ids::Ctid;

use crate::archive;
use crate::context::{Context, check_lock};
use crate::faults::Point;
use crate::id_maps;
use crate::output::Die;
use crate::pct::parameters::Parameters;
use crate::pct::task::{Ended, task};
use crate::pct::{create, destroy};
use crate::perl::from_file;
use crate::properties::print_volume;
use crate::volumes;

/// The storage of all disks where none is named.
const DEFAULT_STORAGE: &str = "local";

/// What is asked for.
struct Plan {
    ctid: Ctid,
    archive: String,
    storage: String,
    unprivileged: Option<bool>,
    existed: bool,
}

pub(super) fn run(cx: &mut Context, parameters: &Parameters) -> Result<(), Ended> {
    cx.check_quorum()?;
    let ctid = parameters.ctid("vmid")?;
    let owner = cx.pmxcfs.owner(&ctid.to_string());
    let is_own = owner.as_ref().is_some_and(|(node, kind)| {
        *node == cx.settings.node && *kind == "lxc" && parameters.is_on("force")
    });
    if let Some((node, kind)) = owner.filter(|_| !is_own) {
        let kind = if kind == "qemu" { "VM" } else { "CT" };
        let taken = format!("{kind} {ctid} already exists on node '{node}'\n");
        return Err(Die::new(taken).exit(2).into());
    }
    let storage = parameters.get("storage").unwrap_or(DEFAULT_STORAGE).to_owned();
    cx.storages().get(&storage)?;
    let failed = format!("unable to restore CT {ctid} -");
    reserve(cx, ctid).map_err(|die| die.prefixed(&failed))?;
    let plan = Plan {
        ctid,
        archive: parameters.get("ostemplate").unwrap_or_default().to_owned(),
        storage,
        unprivileged: parameters.get("unprivileged").map(|value| value == "1"),
        existed: is_own,
    };
    task(cx, |cx| {
        let mut is_changed = !plan.existed;
        let result = cx.locked(ctid, |cx| restore(cx, &plan, &mut is_changed));
        if result.is_err() && !is_changed {
            cx.remove_lock(ctid, Some("create"))?;
        }
        result.map_err(|die| {
            // Proxmox says this one as it is.
            if die.render("").starts_with("can't overwrite") { die } else { die.prefixed(&failed) }
        })
    })
}

/// Adds `lock: create` to the conf that is there, or to a new one.
fn reserve(cx: &mut Context, ctid: Ctid) -> Result<(), Die> {
    let patience = std::time::Duration::from_millis(cx.settings.timings.reserve_lock_ms);
    let _held = cx.take_flock(ctid, patience)?;
    let mut conf = match cx.load(ctid) {
        Ok(conf) => conf,
        Err(_) => create::empty(ctid)?,
    };
    check_lock(&conf)?;
    crate::context::check_protection(&conf, "")
        .map_err(|_| Die::new("protection mode enabled\n"))?;
    conf.current.set("lock", "create");
    cx.write(ctid, &conf)
}

fn restore(cx: &mut Context, plan: &Plan, is_changed: &mut bool) -> Result<(), Die> {
    let ctid = plan.ctid;
    let old = cx.load(ctid)?;
    if cx.is_running(ctid) {
        return Err("can't overwrite running container\n".into());
    }
    cx.streams.print(&format!("recovering backed-up configuration from '{}'\n", plan.archive));
    let real = cx.root.host(&plan.archive);
    let text = archive::conf(&real).map_err(|said| {
        cx.streams.warn(&said);
        Die::new("command 'tar xpOf ...' failed: exit code 2\n")
    })?;
    let mut conf = Conf::parse(ctid, &text).map_err(|error| Die::internal(&error.to_string()))?;
    match plan.unprivileged {
        Some(true) => conf.current.set("unprivileged", "1"),
        Some(false) => drop(conf.current.remove("unprivileged")),
        None => {}
    }
    *is_changed = true;
    let mut made = Vec::new();
    let result = fill(cx, plan, &old, &mut conf, &mut made);
    if result.is_err() {
        for volume in made {
            if let Err(error) = cx.storages().free(&volume) {
                cx.streams.warn(&error);
            }
        }
        if let Err(die) = cx.remove_conf(ctid) {
            cx.streams.warn(&die.render(""));
        }
    }
    result
}

fn fill(
    cx: &mut Context,
    plan: &Plan,
    old: &Conf,
    conf: &mut Conf,
    made: &mut Vec<String>,
) -> Result<(), Die> {
    let ctid = plan.ctid;
    cx.pass(cx.settings.timings.restore_disks_ms)?;
    cx.reach(Point::Allocate)?;
    let volumes: Vec<(String, pctd_core::conf::MountPoint)> =
        conf.current.volumes().map(|(name, mount)| (name, mount.clone())).collect();
    for (name, mut mount) in volumes.into_iter().filter(|(_, m)| m.class == MountClass::Volume) {
        let bytes = cx.storages().size(&from_file(&mount.volume)).or_else(|| stated_size(&mount));
        let bytes = bytes.ok_or_else(|| {
            format!("unable to detect disk size - please specify {name} (size)\n")
        })?;
        let gib = format!("{bytes}").parse::<f64>().unwrap_or_default() / f64::from(1 << 30);
        made.push(volumes::allocate(cx, ctid, &plan.storage, gib, &mut mount)?);
        conf.current.set(&name, print_volume(&name, &mount));
    }
    if old.current.properties().len() > 1 {
        destroy::free_volumes(cx, ctid, old);
        let mut left = create::empty(ctid)?;
        left.current.set("lock", "create");
        cx.write(ctid, &left)?;
    }
    cx.streams.print(&format!("restoring '{}' now..\n", plan.archive));
    cx.streams.print(&format!("extracting archive '{}'\n", plan.archive));
    cx.pass(cx.settings.timings.restore_extract_ms)?;
    cx.reach(Point::Extract)?;
    let map: Vec<IdRange> =
        conf.current.idmap_lines().unwrap_or_default().iter().map(IdLine::range).collect();
    let command =
        if map.is_empty() { "tar xpf - --zstd ..." } else { "lxc-usernsexec ... tar xpf ..." };
    if !map.is_empty() {
        id_maps::install(&cx.root, &map).map_err(|refused| {
            cx.streams.warn(&refused.output);
            Die::new(format!("command '{command}' failed: exit code 1\n"))
        })?;
    }
    archive::unpack(&cx.root, conf, &cx.root.host(&plan.archive)).map_err(|(said, how)| {
        cx.streams.warn(&said);
        Die::new(format!("command '{command}' failed: {how}\n"))
    })?;
    cx.streams.print("merging backed-up and given configuration..\n");
    cx.reach(Point::Merge)?;
    cx.write(ctid, conf)
}

/// Returns the size that the conf says a disk has.
fn stated_size(mount: &pctd_core::conf::MountPoint) -> Option<u64> {
    let size: BString = mount.options.get("size")?.as_str().into();
    let digits = size.len() - size.iter().rev().take_while(|byte| !byte.is_ascii_digit()).count();
    let (number, unit) = size.split_at(digits);
    let number: u64 = number.to_str().ok()?.parse().ok()?;
    let shift = match unit {
        b"" => 0,
        b"K" => 10,
        b"M" => 20,
        b"G" => 30,
        b"T" => 40,
        _ => return None,
    };
    number.checked_shl(shift)
}
