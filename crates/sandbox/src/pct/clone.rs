//! `pct clone` (`PVE::API2::LXC`, `clone_vm`).
//!
//! The source has `lock: disk` meanwhile, the clone `lock: create`, first without its root file
//! system and then with it; both locks go at the end. The flock is held only in short pieces.

use bstr::{BString, ByteSlice};
use pctd_core::conf::{Conf, MountClass, MountPoint, Section};
use pctd_core::ids::Ctid;

use crate::context::Context;
use crate::network;
use crate::output::Die;
use crate::pct::create;
use crate::pct::parameters::Parameters;
use crate::pct::task::{Ended, task};
use crate::perl::from_file;
use crate::properties::{is_numbered, names, parse_volume, print_volume};

/// What of the source's state a clone does not have.
const DROPPED: &[&str] = &["digest", "lock", "parent", "snaptime", "snapstate", "template"];

/// A volume to copy.
struct Copied {
    name: String,
    mount: MountPoint,
    full: bool,
}

pub(super) fn run(cx: &mut Context, parameters: &Parameters) -> Result<(), Ended> {
    let (ctid, newid) = (parameters.ctid("vmid")?, parameters.ctid("newid")?);
    let storage = parameters.get("storage").map(str::to_owned);
    if let Some(storage) = &storage {
        cx.storages().get(storage)?;
    }
    cx.check_quorum()?;
    let source = cx.set_lock(ctid, "disk")?;
    if let Err(die) = create::reserve(cx, newid) {
        unlock_source(cx, ctid);
        return Err(die.into());
    }
    let running = cx.is_running(ctid);
    let prepared = prepare(cx, parameters, &source, running).and_then(|(section, volumes)| {
        let mut conf = create::empty(newid)?;
        conf.current = section;
        cx.locked(newid, |cx| {
            reloaded(cx, newid)?;
            cx.write(newid, &conf)
        })?;
        Ok(volumes)
    });
    let volumes = match prepared {
        Ok(volumes) => volumes,
        Err(die) => {
            unlock_source(cx, ctid);
            forget(cx, newid);
            return Err(die.exit(2).into());
        }
    };
    let snapshot = parameters.get("snapname").map(str::to_owned);
    task(cx, |cx| {
        cx.streams.print(&format!("creating a clone of container {ctid} with ID {newid}\n"));
        let mut made = Vec::new();
        let copied = copy(cx, newid, &volumes, storage.as_deref(), snapshot.as_deref(), &mut made);
        unlock_source(cx, ctid);
        if let Err(die) = copied {
            for volume in made {
                if let Err(error) = cx.storages().free(&volume) {
                    cx.streams.warn(&error);
                }
            }
            forget(cx, newid);
            return Err(die.prefixed("clone failed:"));
        }
        cx.remove_lock(newid, Some("create"))
    })
}

fn unlock_source(cx: &mut Context, ctid: Ctid) {
    if let Err(die) = cx.remove_lock(ctid, Some("disk")) {
        cx.streams.warn(&format!("Failed to remove source CT config lock - {}", die.render("")));
    }
}

/// Removes the conf of a clone that came to nothing.
fn forget(cx: &mut Context, newid: Ctid) {
    let removed = cx.locked(newid, |cx| {
        reloaded(cx, newid)?;
        cx.remove_conf(newid)
    });
    if let Err(die) = removed {
        cx.streams.warn(&format!("Failed to remove target CT config - {}", die.render("")));
    }
}

/// Loads the conf of the clone, which must still be ours (`$lock_and_reload`).
fn reloaded(cx: &mut Context, newid: Ctid) -> Result<Conf, Die> {
    let conf = cx.load(newid)?;
    if conf.lock().is_none_or(|lock| lock != "create") {
        return Err("Lost 'create' config lock, aborting.\n".into());
    }
    Ok(conf)
}

/// Returns the conf of the clone without its volumes, and the volumes.
fn prepare(
    cx: &Context,
    parameters: &Parameters,
    source: &Conf,
    running: bool,
) -> Result<(Section, Vec<Copied>), Die> {
    let storage = parameters.get("storage");
    let full = parameters.get("full").map_or_else(|| !source.is_template(), |full| full == "1");
    if storage.is_some() && !full {
        return Err("parameter 'storage' not allowed for linked clones\n".into());
    }
    let snapshot = parameters.get("snapname");
    let section = match snapshot {
        Some(name) => source
            .snapshots
            .get(name)
            .ok_or_else(|| format!("snapshot '{name}' does not exist\n"))?,
        None => &source.current,
    };
    let mut copy = Section::default();
    copy.set_lxc(section.lxc().to_vec());
    let mut volumes = Vec::new();
    for name in names(section).into_iter().filter(|name| !is_numbered(name, "unused")) {
        let value: BString = section.get(&name).unwrap_or_default().to_owned();
        if name == "rootfs" || is_numbered(&name, "mp") {
            let mount = parse_volume(&name, value.as_bstr())?;
            if mount.class != MountClass::Volume {
                let class = mount.class.as_str();
                return Err(Die::new(format!(
                    "unable to clone mountpoint '{name}' (type {class})\n"
                )));
            }
            let volume = from_file(&mount.volume);
            let id = cx.storages().split(&volume).map(drop);
            storage.map_or(id, |storage| cx.storages().get(storage).map(drop))?;
            if full && running && snapshot.is_none() {
                return Err(
                    "Full clone of a running container is only possible from a snapshot\n".into()
                );
            }
            // A directory could only make a qcow2 image, which no container takes.
            if !full && !cx.storages().can_snapshot(&volume) {
                return Err(Die::new(format!(
                    "Linked clone feature for '{volume}' is not available\n"
                )));
            }
            volumes.push(Copied { name, mount, full });
        } else if is_numbered(&name, "net") {
            copy.set(&name, network::renewed(value.as_bstr())?);
        } else if !DROPPED.contains(&name.as_str()) {
            copy.set(&name, value);
        }
    }
    copy.set("lock", "create");
    for name in ["hostname", "description"] {
        if let Some(value) = parameters.get(name).filter(|value| !matches!(*value, "" | "0")) {
            copy.set(name, value);
        }
    }
    Ok((copy, volumes))
}

/// Copies the volumes and enters each into the conf of the clone.
fn copy(
    cx: &mut Context,
    newid: Ctid,
    volumes: &[Copied],
    storage: Option<&str>,
    snapshot: Option<&str>,
    made: &mut Vec<String>,
) -> Result<(), Die> {
    let millis = cx.settings.timings.clone_copy_ms;
    for Copied { name, mount, full } in volumes {
        let old = from_file(&mount.volume);
        let manner = if *full { "full clone of mountpoint" } else { "linked clone of mount point" };
        cx.streams.print(&format!("create {manner} {name} ({old})\n"));
        if let Some(snapshot) = snapshot {
            cx.storages().check_snapshot(&old, snapshot)?;
        }
        let Some(bytes) = cx.storages().size(&old) else {
            return Err(Die::new(format!("volume '{old}' does not exist\n")));
        };
        cx.pass(millis)?;
        let own = old.split(':').next().unwrap_or_default();
        let new = cx.storages().allocate(storage.unwrap_or(own), &newid.to_string(), bytes)?;
        made.push(new.clone());
        let mut mount = mount.clone();
        mount.volume = new.into();
        mount.options.insert("size".into(), bytes.to_string());
        cx.locked(newid, |cx| {
            let mut conf = reloaded(cx, newid)?;
            conf.current.set(name, print_volume(name, &mount));
            cx.write(newid, &conf)
        })?;
    }
    // The setup of the guest's files, for which the conf is loaded again.
    cx.locked(newid, |cx| reloaded(cx, newid).map(drop))
}
