//! What a backup of a container and a restore with the other privilege would lose, or may for all that
//! is known.

use std::collections::BTreeSet;

use crate::conf::{Conf, MountClass, MountLine, MountPoint};
use crate::idmap::IdMap;
use crate::ids::Ctid;
use crate::observed::{ObservedContainer, Running, Snapshot};
use crate::plan::hold::ranges;

/// Returns everything that a backup and a restore with the other privilege would lose.
pub(super) fn of(
    snapshot: &Snapshot,
    ctid: Ctid,
    container: &ObservedContainer,
    to_unprivileged: bool,
) -> Vec<String> {
    let conf = &container.conf;
    let mut losses = of_conf(ctid, conf, to_unprivileged);
    for (name, entry) in conf
        .current
        .rootfs()
        .map(|entry| ("rootfs".to_owned(), entry))
        .into_iter()
        .chain(conf.mounts().iter().map(|(key, entry)| (key.to_string(), entry)))
    {
        losses.extend(match &entry.parsed {
            Ok(mount) => of_mount(ctid, &name, mount, to_unprivileged),
            Err(_) => Some(format!("{name} cannot be read")),
        });
    }
    // What is pending is in no backup. A stop applies it, but what others changed is theirs to apply.
    let is_own = |name: &String| {
        name.parse().is_ok_and(|key| {
            let waits = conf.pending_mounts().get(&key).or_else(|| conf.mounts().get(&key));
            waits.is_some_and(|mount| snapshot.ledger.is_own_mount(ctid, key, &mount.raw))
        })
    };
    let pending = conf.pending_names();
    let stopped = container.running == Running::No;
    let lost: Vec<String> = pending.into_iter().filter(|name| stopped || !is_own(name)).collect();
    if !lost.is_empty() {
        losses.push(format!(
            "changes that wait for a restart ({}): restart it, or `pct set {ctid} --revert NAME`",
            lost.join(", ")
        ));
    }
    match snapshot.converting.get(&ctid) {
        Some(facts) => losses.extend(facts.obstacles.iter().map(ToString::to_string)),
        // Planned beside another key, for which nobody looked.
        None => losses.push("what else stands against it was not looked at".to_owned()),
    }
    losses
}

/// Returns the ids whose files a container with this map would lose: `pct restore` unpacks for the
/// default map where the conf has no lines, and those of a privileged container has none.
pub(super) fn of_map(map: &IdMap) -> Option<String> {
    let moved = IdMap::default_unprivileged().moved(map);
    (!moved.is_empty()).then(|| {
        format!(
            "the owners of the files of {}: a restore unpacks for other host ids than `id_maps` gives them; leave `id_maps` out until it is converted",
            ranges(&moved)
        )
    })
}

fn of_conf(ctid: Ctid, conf: &Conf, to_unprivileged: bool) -> Vec<String> {
    let mut losses = Vec::new();
    if !conf.snapshots.is_empty() {
        let names: Vec<&str> = conf.snapshots.keys().map(String::as_str).collect();
        losses.push(format!("its snapshots ({})", names.join(", ")));
    }
    let unused = conf.current.properties().keys().filter(|name| name.starts_with("unused"));
    losses.extend(unused.map(|name| format!("the disk {name}, which would be deleted")));
    let storages = storages(conf);
    if storages.len() > 1 {
        let names: Vec<String> = storages.into_iter().collect();
        losses.push(format!(
            "its disks are on several storages ({}), and a restore would put all on one",
            names.join(", ")
        ));
    }
    if conf.is_template() {
        losses.push("it is a template, and what was cloned from it may need its disk".to_owned());
    }
    if conf.is_protected() {
        losses.push(format!("it is protected (`pct set {ctid} --protection 0`)"));
    }
    let mapped = MountLine::of(&conf.current).find(|(line, _)| line.is_mapped());
    if let (false, Some((_, line))) = (to_unprivileged, mapped) {
        losses.push(format!(
            "its mount `{line}`, with which a privileged container does not start; take the map of ids out of it, by `\"idmap\": \"none\"` where it is declared"
        ));
    }
    if !to_unprivileged && conf.has_custom_idmap() {
        losses.push(
            "its lxc.idmap lines, which keep it unprivileged whatever is restored; take them out of its conf"
                .to_owned(),
        );
    }
    losses
}

/// Returns what a backup loses of a mount. Bind mounts are restored as they stand in the conf.
fn of_mount(ctid: Ctid, name: &str, mount: &MountPoint, to_unprivileged: bool) -> Option<String> {
    let volume = mount.volume.to_string();
    match mount.class {
        MountClass::Bind => None,
        MountClass::Device => {
            Some(format!("what is on the device {name}, whose owners a restore does not change"))
        }
        MountClass::Volume => {
            let (base, owner) = names_in(&volume);
            if name != "rootfs" && !mount.is_on("backup") {
                Some(format!(
                    "the disk {name} ({volume}), which is in no backup and would be empty afterwards; set its option backup=1"
                ))
            } else if let Some(base) = base {
                Some(format!("{name} is a linked clone of {base}, and would be a full copy"))
            } else if owner.is_some_and(|owner| owner != ctid) {
                Some(format!("{name} ({volume}) is another container's disk"))
            } else if mount.size().is_none() {
                Some(format!("the size of {name} is not in the conf (`pct rescan --vmid {ctid}`)"))
            } else if to_unprivileged && mount.is_on("quota") {
                Some(format!("the quotas of {name}, with which no unprivileged container starts"))
            } else if mount.options.contains_key("idmap") {
                Some(format!(
                    "the id map of {name}, which the other privilege gives another meaning"
                ))
            } else {
                None
            }
        }
    }
}

/// Returns the storages a container has disks on.
pub(super) fn storages(conf: &Conf) -> BTreeSet<String> {
    let disks = conf.current.volumes().filter(|(_, mount)| mount.class == MountClass::Volume);
    let storage = |volume: String| volume.split(':').next().unwrap_or_default().to_owned();
    disks.map(|(_, mount)| storage(mount.volume.to_string())).collect()
}

/// Returns the base image a volume is a linked clone of, and the container whose disk it is, as far
/// as its name tells (`PVE::Storage::Plugin::parse_name_dir`: `base-ID-disk-N`, `vm-ID-disk-N`).
fn names_in(volume: &str) -> (Option<String>, Option<Ctid>) {
    let name = volume.split_once(':').map_or(volume, |(_, name)| name);
    let mut parts: Vec<&str> = name.split('/').collect();
    let own = parts.pop().unwrap_or_default();
    let is_base = |part: &&&str| part.starts_with("base-") || part.starts_with("basevol-");
    let base = parts.iter().find(is_base).map(|part| (*part).to_owned());
    let disk =
        ["vm-", "subvol-", "base-", "basevol-"].iter().find_map(|kind| own.strip_prefix(kind));
    let owner = disk.and_then(|rest| rest.split('-').next()?.parse().ok());
    (base, owner)
}
