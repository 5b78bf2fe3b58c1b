//! Changing a conf: what `pct set` does to it, and what is applied at a stop or a start.
//!
//! `PVE::LXC::Config::update_pct_config`, `vmconfig_hotplug_pending`, `vmconfig_apply_pending`,
//! `apply_pending_mountpoint`; nothing here writes a conf.

use std::collections::{BTreeMap, BTreeSet};

use bstr::{BStr, BString, ByteSlice};
use pctd_core::conf::{Conf, Force, IdLine, MountClass, MountPoint};
use pctd_core::ids::Ctid;

use crate::accept;
use crate::context::{Context, value};
use crate::mounting::Site;
use crate::network;
use crate::output::{Die, Errors};
use crate::perl::from_file;
use crate::properties::{is_numbered, names, parse_volume, print_volume};
use crate::real;
use crate::running;
use crate::storage::{new_disk, split_volume_id};
use crate::volumes::{allocate, delete_unused, keep_unused, rescan_size};

/// What a command asks to change.
#[derive(Debug, Default)]
pub(crate) struct Change {
    /// Properties to set.
    pub(crate) set: BTreeMap<String, BString>,
    /// Properties to delete, in the order given.
    pub(crate) delete: Vec<String>,
    /// Pending changes to take back.
    pub(crate) revert: Vec<String>,
}

/// Whether the container runs while its conf changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// What can be done at once is, the rest waits.
    Running,
    /// Everything is done at once.
    Stopped,
}

/// What needs no restart (`$LXC_FASTPLUG_OPTIONS`).
const FASTPLUG: &[&str] = &[
    "description",
    "onboot",
    "startup",
    "protection",
    "hostname",
    "hookscript",
    "cores",
    "tags",
    "lock",
];

/// Which keys to apply; none is all.
type Selection<'a> = Option<&'a BTreeSet<String>>;

/// Why one option was not applied: it has to wait, or it failed.
enum NotApplied {
    Skip,
    Failed(String),
}

impl From<String> for NotApplied {
    fn from(error: String) -> Self {
        Self::Failed(error)
    }
}

/// Changes a conf as `pct set` does (`update_pct_config`); the errors, if any, keep it from being
/// written.
pub(crate) fn update(
    cx: &mut Context,
    ctid: Ctid,
    conf: &mut Conf,
    state: State,
    change: &Change,
) -> Result<Errors, Die> {
    for name in &change.revert {
        conf.pending.section.remove(name);
        conf.pending.remove_delete(name);
    }
    let mut modified = BTreeSet::new();
    for name in &change.delete {
        if conf.current.get(name).is_none() && conf.pending.section.get(name).is_none() {
            cx.streams
                .warn(&format!("cannot delete '{name}' - not set in current configuration!\n"));
            continue;
        }
        modified.insert(name.clone());
        accept::deletion(conf, ctid, name)?;
        add_pending_delete(conf, name);
    }
    for (name, given) in &change.set {
        modified.insert(name.clone());
        let given = accept::value(cx, ctid, conf, name, given.as_bstr())?;
        conf.pending.section.set(name, given);
        conf.pending.remove_delete(name);
    }
    cleanup_pending(conf);
    let mut errors = Errors::new();
    match state {
        State::Running => hotplug(cx, ctid, conf, &modified, &mut errors),
        State::Stopped => apply(cx, ctid, conf, Some(&modified), &mut errors),
    }
    Ok(errors)
}

/// Adds to the pending delete list; a pending change of the same key stays beside it.
fn add_pending_delete(conf: &mut Conf, name: &str) {
    let mut deletes = conf.pending.deletes();
    deletes.insert(name.into(), Force::No);
    let entries: Vec<Vec<u8>> = deletes
        .iter()
        .map(|(name, force)| match force {
            Force::Yes => [b"!", name.as_slice()].concat(),
            Force::No => name.to_vec(),
        })
        .collect();
    conf.pending.set_delete_line(Some(entries.join(&b","[..]).into()));
}

/// Drops what is pending but would change nothing.
fn cleanup_pending(conf: &mut Conf) {
    let Conf { current, pending, .. } = conf;
    for name in names(&pending.section) {
        if pending.section.get(&name).is_some_and(|value| current.get(&name) == Some(value)) {
            pending.section.remove(&name);
        }
    }
    pending.retain_deletes(|name| current.get(&from_file(name)).is_some());
}

/// Applies to a running container what it can take (`vmconfig_hotplug_pending`).
fn hotplug(
    cx: &mut Context,
    ctid: Ctid,
    conf: &mut Conf,
    selection: &BTreeSet<String>,
    errors: &mut Errors,
) {
    for name in
        names(&conf.pending.section).into_iter().filter(|name| FASTPLUG.contains(&name.as_str()))
    {
        if selection.contains(&name) {
            make_current(conf, &name);
        }
    }
    let mut failed = |name: &str, error: &str| {
        errors.push((name.to_owned(), format!("unable to hotplug {name}: {error}")));
    };
    for name in deletes(conf).into_iter().filter(|name| selection.contains(name)) {
        let result = if FASTPLUG.contains(&name.as_str()) {
            Ok(())
        } else if is_numbered(&name, "unused") {
            delete_unused(cx, ctid, conf, &name)
        } else if matches!(name.as_str(), "swap" | "cpulimit" | "cpuunits")
            // One digit: Proxmox unplugs no more than the first ten.
            || (is_numbered(&name, "net") && name.len() == "net0".len())
        {
            Ok(())
        } else {
            continue;
        };
        match result {
            Ok(()) => {
                conf.current.remove(&name);
                conf.pending.remove_delete(&name);
            }
            Err(error) => failed(&name, &error),
        }
    }
    for name in names(&conf.pending.section).into_iter().filter(|name| selection.contains(name)) {
        match hotplug_one(cx, ctid, conf, &name) {
            Ok(()) => make_current(conf, &name),
            Err(NotApplied::Skip) => {}
            Err(NotApplied::Failed(error)) => failed(&name, &error),
        }
    }
}

fn hotplug_one(
    cx: &mut Context,
    ctid: Ctid,
    conf: &mut Conf,
    name: &str,
) -> Result<(), NotApplied> {
    match name {
        "cpulimit" | "cpuunits" | "memory" | "swap" => Ok(()),
        _ if is_numbered(name, "net") => {
            let given = value(&conf.pending.section, name).unwrap_or_default();
            conf.pending.section.set(name, network::normal(given.as_bstr())?);
            Ok(())
        }
        _ if is_numbered(name, "mp") && conf.current.get(name).is_none() => {
            apply_mount(cx, ctid, conf, name, State::Running)
        }
        _ if is_numbered(name, "dev") && conf.current.get(name).is_none() => Ok(()),
        _ => Err(NotApplied::Skip),
    }
}

/// Moves a property from pending to current.
fn make_current(conf: &mut Conf, name: &str) {
    if let Some(value) = conf.pending.section.remove(name) {
        conf.current.set(name, value);
    }
}

fn deletes(conf: &Conf) -> Vec<String> {
    conf.pending.deletes().into_keys().map(|name| from_file(&name)).collect()
}

/// Applies what is pending to a stopped container (`vmconfig_apply_pending`).
pub(crate) fn apply(
    cx: &mut Context,
    ctid: Ctid,
    conf: &mut Conf,
    selection: Selection<'_>,
    errors: &mut Errors,
) {
    let selected = |name: &String| selection.is_none_or(|selection| selection.contains(name));
    let failed = |cx: &mut Context, name: &str, error: &str, errors: &mut Errors| {
        let message = format!("unable to apply pending change {name} : {error}");
        cx.streams.warn(&message);
        errors.push((name.to_owned(), message));
    };
    for name in deletes(conf).into_iter().filter(selected) {
        let result = if is_numbered(&name, "mp") {
            release_mount(cx, conf, &name)
        } else if is_numbered(&name, "unused") {
            delete_unused(cx, ctid, conf, &name)
        } else {
            Ok(())
        };
        match result {
            Ok(()) => {
                conf.current.remove(&name);
                conf.pending.remove_delete(&name);
            }
            Err(error) => failed(cx, &name, &error, errors),
        }
    }
    cleanup_pending(conf);
    for name in names(&conf.pending.section).into_iter().filter(selected) {
        let result = if is_numbered(&name, "mp") {
            apply_mount(cx, ctid, conf, &name, State::Stopped)
        } else if is_numbered(&name, "net") {
            let given = value(&conf.pending.section, &name).unwrap_or_default();
            network::normal(given.as_bstr()).map_err(NotApplied::Failed).map(|normal| {
                conf.pending.section.set(&name, normal);
            })
        } else {
            Ok(())
        };
        match result {
            Ok(()) | Err(NotApplied::Skip) => make_current(conf, &name),
            Err(NotApplied::Failed(error)) => failed(cx, &name, &error, errors),
        }
    }
}

/// Keeps the volume of a mount point that goes as `unusedN`.
fn release_mount(cx: &mut Context, conf: &mut Conf, name: &str) -> Result<(), String> {
    let Some(old) = value(&conf.current, name) else {
        // Perl reads an empty value, in which everything is missing.
        return parse_volume(name, BStr::new("")).map(drop);
    };
    let mount = parse_volume(name, old.as_bstr())?;
    if mount.class != MountClass::Volume {
        return Ok(());
    }
    let volume = from_file(&mount.volume);
    let storage = split_volume_id(&volume).map(|(storage, _)| storage.to_owned());
    let storage = storage.ok_or_else(|| format!("unable to parse volume ID '{volume}'\n"))?;
    if cx.storages().get(&storage).is_err() {
        let lost = format!(
            "storage '{storage}' no longer exists, volume '{volume}' will be removed from config"
        );
        cx.streams.warn(&format!("WARN: {lost}\n"));
        return Ok(());
    }
    keep_unused(conf, old.as_bstr(), mount.volume.as_bstr())
}

/// Applies a mount point: makes its disk, mounts it where the container runs, and brings its
/// value into normal form (`apply_pending_mountpoint`).
fn apply_mount(
    cx: &mut Context,
    ctid: Ctid,
    conf: &mut Conf,
    name: &str,
    state: State,
) -> Result<(), NotApplied> {
    let given = value(&conf.pending.section, name).unwrap_or_default();
    let mut mount = parse_volume(name, given.as_bstr())?;
    let old = value(&conf.current, name);
    let volume = from_file(&mount.volume);
    let mut made = None;
    if let Some((storage, size)) = new_disk(&volume).filter(|_| mount.class == MountClass::Volume) {
        let allocated = allocate(cx, ctid, storage, size, &mut mount)?;
        made = Some(allocated);
    } else if mount.class == MountClass::Volume {
        rescan_size(cx, &volume, &mut mount);
    }
    let plugged = if state == State::Running { plug(cx, ctid, conf, name, &mount) } else { Ok(()) };
    if let Err(error) = plugged {
        if let Some(made) = made {
            cx.storages().free(&made)?;
        }
        return Err(NotApplied::Failed(error));
    }
    conf.pending.section.set(name, print_volume(name, &mount));
    if let Some(old) = old {
        let before = parse_volume(name, old.as_bstr())?;
        if before.class == MountClass::Volume {
            keep_unused(conf, old.as_bstr(), before.volume.as_bstr())?;
        }
    }
    Ok(())
}

/// Mounts into a running container (`mountpoint_hotplug`).
fn plug(
    cx: &mut Context,
    ctid: Ctid,
    conf: &Conf,
    name: &str,
    mount: &MountPoint,
) -> Result<(), String> {
    let lines = conf.current.idmap_lines().map_err(|error| format!("{error}\n"))?;
    let own: Vec<_> = lines.iter().map(IdLine::range).collect();
    let mut warnings = String::new();
    let mounted = Site { root: &cx.root, storages: cx.storages(), own: &own }.mount(
        name,
        mount,
        &mut warnings,
    );
    cx.streams.warn(&warnings);
    if let Some(mounted) = mounted? {
        if cx.settings.real_containers {
            real::plug(cx, ctid, conf, &mounted)?;
        }
        let id = ctid.to_string();
        let mut mounts = running::mounts(&cx.root, &id);
        mounts.push(mounted);
        running::set_mounts(&cx.root, &id, &mounts).map_err(|error| format!("{error}\n"))?;
    }
    Ok(())
}
