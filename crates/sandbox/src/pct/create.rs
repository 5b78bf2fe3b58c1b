//! `pct create` (`PVE::API2::LXC`, `create_vm`).
//!
//! What others see meanwhile: first a conf with nothing but `lock: create`; then, with the disk
//! made and the template unpacked, a nearly complete one without that lock; then the final one.
//! The flock is held throughout, but for a moment after the first.

use std::collections::BTreeMap;

use bstr::{BString, ByteSlice};
use pctd_core::conf::{Conf, IdLine, MountClass};
use pctd_core::idmap::IdRange;
use pctd_core::ids::Ctid;

use crate::context::{Context, check_lock, value};
use crate::id_maps;
use crate::mounting::Site;
use crate::output::Die;
use crate::pct::parameters::Parameters;
use crate::pct::task::{Ended, task};
use crate::pct::{power, set};
use crate::perl::from_file;
use crate::properties::{is_numbered, parse_volume, print_volume};
use crate::storage::new_disk;
use crate::update::{self, Change, State};
use crate::volumes;

/// The storage used where none is named.
const DEFAULT_STORAGE: &str = "local";

/// Size in GiB of a root file system that is not described at all.
const DEFAULT_SIZE: &str = "4";

/// What is asked for, sorted into what belongs to disks and what does not.
struct Plan {
    ctid: Ctid,
    template: String,
    /// Values of `rootfs` and `mpN`.
    mounts: BTreeMap<String, BString>,
    start: bool,
}

pub(super) fn run(cx: &mut Context, parameters: &Parameters) -> Result<(), Ended> {
    cx.check_quorum()?;
    let ctid = parameters.ctid("vmid")?;
    if parameters.is_on("restore") {
        return Err(Die::new("the sandbox restores with `pct restore`\n").into());
    }
    check_unused(cx, ctid).map_err(|die| die.exit(2))?;
    let template = parameters.get("ostemplate").unwrap_or_default().to_owned();
    cx.storages().check_template(&template)?;
    let storage = parameters.get("storage").unwrap_or(DEFAULT_STORAGE).to_owned();
    let mut properties = parameters.properties();
    let unprivileged = properties.remove("unprivileged").is_none_or(|value| value != "0");
    let mut mounts = BTreeMap::new();
    for name in properties.keys().cloned().collect::<Vec<_>>() {
        if is_numbered(&name, "unused") {
            cx.streams
                .warn(&format!("ignoring '{name}', cannot create/restore with unused volume\n"));
            properties.remove(&name);
        } else if name == "rootfs" || is_numbered(&name, "mp") {
            let value = properties.remove(&name).unwrap_or_default();
            // A bare number is a size on the default storage.
            let full = format!("{storage}:{value}");
            let is_size = value.iter().all(|byte| byte.is_ascii_digit() || *byte == b'.')
                && new_disk(&full).is_some();
            mounts.insert(name, if is_size { full.into() } else { value });
        }
    }
    if !mounts.is_empty() && !mounts.contains_key("rootfs") {
        return Err(Die::new("mount points configured, but 'rootfs' not set - aborting\n").into());
    }
    for (name, value) in &mounts {
        let mount = parse_volume(name, value.as_bstr())?;
        if mount.class == MountClass::Volume {
            cx.storages().split(&from_file(&mount.volume))?;
        }
    }
    if mounts.is_empty() {
        cx.storages().get(&storage)?;
        mounts.insert("rootfs".to_owned(), format!("{storage}:{DEFAULT_SIZE}").into());
    }
    let mut conf = empty(ctid)?;
    let change = set::clamped(Change { set: properties, ..Change::default() });
    // Errors of single options are warned about and otherwise not looked at.
    let _ = update::update(cx, ctid, &mut conf, State::Stopped, &change)?;
    if unprivileged {
        conf.current.set("unprivileged", "1");
    }
    let failed = format!("unable to create CT {ctid} -");
    reserve(cx, ctid).map_err(|die| die.prefixed(&failed))?;
    let plan = Plan { ctid, template, mounts, start: parameters.is_on("start") };
    task(cx, |cx| {
        cx.locked(ctid, |cx| make(cx, &plan, conf).map_err(|die| die.prefixed(&failed)))?;
        if plan.start {
            cx.locked(ctid, |cx| power::checked_start(cx, ctid, false))?;
        }
        Ok(())
    })
}

/// Returns a conf with nothing in it.
pub(super) fn empty(ctid: Ctid) -> Result<Conf, Die> {
    Conf::parse(ctid, b"").map_err(|error| Die::internal(&error.to_string()))
}

/// Fails where the id is taken, on any node and by any kind (`PVE::Cluster::check_vmid_unused`).
fn check_unused(cx: &Context, ctid: Ctid) -> Result<(), Die> {
    match cx.pmxcfs.owner(&ctid.to_string()) {
        Some((node, kind)) => {
            let kind = if kind == "qemu" { "VM" } else { "CT" };
            Err(Die::new(format!("{kind} {ctid} already exists on node '{node}'\n")))
        }
        None => Ok(()),
    }
}

/// Writes `lock: create` under an id nobody has (`create_and_lock_config`).
pub(super) fn reserve(cx: &mut Context, ctid: Ctid) -> Result<(), Die> {
    let patience = std::time::Duration::from_millis(cx.settings.timings.reserve_lock_ms);
    let _held = cx.take_flock(ctid, patience)?;
    check_unused(cx, ctid)?;
    let mut conf = empty(ctid)?;
    check_lock(&conf)?;
    conf.current.set("lock", "create");
    cx.write(ctid, &conf)
}

/// Makes the container; whatever fails, nothing stays.
fn make(cx: &mut Context, plan: &Plan, mut conf: Conf) -> Result<(), Die> {
    cx.load(plan.ctid)?;
    let mut made = Vec::new();
    let result = fill(cx, plan, &mut conf, &mut made);
    if result.is_err() {
        for volume in made {
            if let Err(error) = cx.storages().free(&volume) {
                cx.streams.warn(&error);
            }
        }
        if let Err(error) = cx.remove_conf(plan.ctid) {
            cx.streams.warn(&error.render(""));
        }
    }
    result
}

fn fill(cx: &mut Context, plan: &Plan, conf: &mut Conf, made: &mut Vec<String>) -> Result<(), Die> {
    let ctid = plan.ctid;
    let timings = cx.settings.timings.clone();
    create_disks(cx, plan, conf, made)?;
    cx.pass(timings.create_unpack_ms)?;
    let map: Vec<IdRange> =
        conf.current.idmap_lines().unwrap_or_default().iter().map(IdLine::range).collect();
    mount_all(cx, conf, &map)?;
    unpack(cx, &plan.template, &map)?;
    for (name, detected) in [("arch", "amd64"), ("ostype", "debian")] {
        if conf.current.get(name).is_none() {
            conf.current.set(name, detected);
        }
    }
    cx.write(ctid, conf)?;
    for key in ["ecdsa", "rsa", "ed25519"] {
        cx.streams.print(&format!(
            "Creating SSH host key 'ssh_host_{key}_key' - this may take some time ...\n"
        ));
    }
    cx.pass(timings.create_setup_ms)?;
    let missing = |name: &str| {
        value(&conf.current, name).is_none_or(|value| matches!(value.as_slice(), b"" | b"0"))
    };
    let defaults = [("hostname", format!("CT{ctid}")), ("memory", "512".to_owned())];
    for (name, default) in
        defaults.into_iter().filter(|(name, _)| missing(name)).collect::<Vec<_>>()
    {
        conf.current.set(name, default);
    }
    // A swap of 0 is one.
    if conf.current.get("swap").is_none() {
        conf.current.set("swap", "512");
    }
    cx.write(ctid, conf)
}

/// Makes the disks and sets the mount points (`create_disks`).
fn create_disks(
    cx: &mut Context,
    plan: &Plan,
    conf: &mut Conf,
    made: &mut Vec<String>,
) -> Result<(), Die> {
    let keys =
        std::iter::once("rootfs".to_owned()).chain((0..256).map(|index| format!("mp{index}")));
    for name in keys {
        let Some(value) = plan.mounts.get(&name) else { continue };
        let mut mount = parse_volume(&name, value.as_bstr())?;
        let volume = from_file(&mount.volume);
        if let Some((storage, size)) =
            new_disk(&volume).filter(|_| mount.class == MountClass::Volume)
        {
            made.push(volumes::allocate(cx, plan.ctid, storage, size, &mut mount)?);
        }
        conf.current.set(&name, print_volume(&name, &mount));
    }
    Ok(())
}

/// Mounts everything to unpack into it (`mount_all`).
fn mount_all(cx: &mut Context, conf: &Conf, map: &[IdRange]) -> Result<(), Die> {
    for (name, mount) in conf.current.volumes() {
        let mut warnings = String::new();
        let site = Site { root: &cx.root, storages: cx.storages(), own: map };
        let mounted = site.mount(&name, mount, &mut warnings);
        cx.streams.warn(&warnings);
        if let Err(error) = mounted {
            cx.streams.warn("mounting container failed\n");
            return Err(error.into());
        }
    }
    Ok(())
}

/// Unpacks the template with the ids of the container (`restore_archive`).
fn unpack(cx: &mut Context, template: &str, map: &[IdRange]) -> Result<(), Die> {
    let path = if template.starts_with('/') {
        template.to_owned()
    } else {
        cx.storages().host_path(template)?
    };
    if !cx.root.host(&path).is_file() {
        let missing = format!("volume '{template}' does not exist\n");
        cx.streams.warn(&missing);
        return Err(missing.into());
    }
    cx.streams.print(&format!("extracting archive '{path}'\n"));
    if map.is_empty() {
        return Ok(());
    }
    id_maps::install(&cx.root, map).map_err(|refused| {
        cx.streams.warn(&refused.output);
        let option = |range: &IdRange| {
            let IdRange { kind, container, host, count } = range;
            format!("-m {}:{container}:{host}:{count}", kind.letter())
        };
        let options = map.iter().map(option).collect::<Vec<_>>().join(" ");
        format!("command 'lxc-usernsexec {options} -- tar xpf - ...' failed: exit code 1\n").into()
    })
}
