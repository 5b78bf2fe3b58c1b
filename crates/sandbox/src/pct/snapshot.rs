//! `pct snapshot` (`PVE::AbstractConfig::snapshot_create`).

use std::time::{SystemTime, UNIX_EPOCH};

use bstr::ByteSlice;
use pctd_core::conf::{MountClass, Section};
use pctd_core::ids::Ctid;

use crate::context::{Context, check_lock};
use crate::output::Die;
use crate::pct::parameters::Parameters;
use crate::pct::task::{Ended, task};
use crate::perl::from_file;
use crate::properties::{is_numbered, names};

/// What a snapshot does not take over (`__snapshot_copy_config`).
const NOT_COPIED: &[&str] = &["snapstate", "snaptime", "vmstate", "lock", "digest", "description"];

pub(super) fn run(cx: &mut Context, parameters: &Parameters) -> Result<(), Ended> {
    let ctid = parameters.ctid("vmid")?;
    let name = parameters.get("snapname").unwrap_or_default().to_owned();
    if matches!(name.as_str(), "current" | "vzdump") {
        return Err(
            Die::new(format!("unable to use snapshot name '{name}' (reserved name)\n")).into()
        );
    }
    let description = parameters.get("description").map(str::to_owned);
    task(cx, |cx| {
        prepare(cx, ctid, &name, description.as_deref())?;
        let conf = cx.load(ctid)?;
        let taken = conf.snapshots.get(&name).map(volumes).unwrap_or_default();
        for volume in &taken {
            if let Err(error) = cx.storages().snapshot(volume, &name) {
                undo(cx, ctid, &name, &taken)?;
                return Err(error.into());
            }
        }
        commit(cx, ctid, &name)
    })
}

fn volumes(section: &Section) -> Vec<String> {
    let volumes = section.volumes().filter(|(_, mount)| mount.class == MountClass::Volume);
    volumes.map(|(_, mount)| from_file(&mount.volume)).collect()
}

fn prepare(cx: &mut Context, ctid: Ctid, name: &str, description: Option<&str>) -> Result<(), Die> {
    cx.locked(ctid, |cx| {
        let mut conf = cx.load(ctid)?;
        if conf.is_template() {
            return Err("you can't take a snapshot if it's a template\n".into());
        }
        check_lock(&conf)?;
        if conf.snapshots.contains_key(name) {
            return Err(Die::new(format!("snapshot name '{name}' already used\n")));
        }
        let possible = conf
            .current
            .volumes()
            .all(|(_, mount)| cx.storages().can_snapshot(&from_file(&mount.volume)));
        if !possible {
            return Err("snapshot feature is not available\n".into());
        }
        for (other, section) in &mut conf.snapshots {
            if section.get("parent").is_some_and(|parent| parent == name) {
                let what = "reference from";
                let text = format!(
                    "deleting parent '{name}' {what} '{other}' to avoid bogus snapshot cycle.\n"
                );
                cx.streams.warn(&text);
                section.remove("parent");
            }
        }
        let mut section = copied(&conf.current);
        section.set("snapstate", "prepare");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        section.set("snaptime", now.to_string());
        if let Some(description) = description.filter(|text| !matches!(*text, "" | "0")) {
            section.set("description", description);
        }
        conf.snapshots.insert(name.to_owned(), section);
        conf.current.set("lock", "snapshot");
        cx.write(ctid, &conf)
    })
}

/// Returns what a snapshot keeps of a section.
fn copied(section: &Section) -> Section {
    let mut copy = Section::default();
    copy.set_lxc(section.lxc().to_vec());
    for name in names(section) {
        if !NOT_COPIED.contains(&name.as_str()) && !is_numbered(&name, "unused") {
            copy.set(&name, section.get(&name).unwrap_or_default().as_bytes());
        }
    }
    copy
}

fn commit(cx: &mut Context, ctid: Ctid, name: &str) -> Result<(), Die> {
    cx.locked(ctid, |cx| {
        let mut conf = cx.load(ctid)?;
        if conf.lock().is_none_or(|lock| lock != "snapshot") {
            return Err("missing snapshot lock\n".into());
        }
        let section = conf
            .snapshots
            .get_mut(name)
            .ok_or_else(|| format!("snapshot '{name}' does not exist\n"))?;
        if section.get("snapstate").is_none_or(|state| state != "prepare") {
            return Err("wrong snapshot state\n".into());
        }
        section.remove("snapstate");
        conf.current.remove("lock");
        conf.current.set("parent", name);
        cx.write(ctid, &conf)
    })
}

/// Takes a half-made snapshot back.
fn undo(cx: &mut Context, ctid: Ctid, name: &str, taken: &[String]) -> Result<(), Die> {
    cx.streams.warn("snapshot create failed: starting cleanup\n");
    for volume in taken {
        // Those after the failed one were never taken.
        let _ = cx.storages().delete_snapshot(volume, name);
    }
    cx.locked(ctid, |cx| {
        let mut conf = cx.load(ctid)?;
        conf.snapshots.remove(name);
        conf.current.remove("lock");
        cx.write(ctid, &conf)
    })
}
