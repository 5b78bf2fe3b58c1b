//! What a value must be, beyond its schema, to be set by `pct set` or `pct create`, and which
//! properties can be deleted (`update_pct_config`, its first half).

use std::collections::BTreeSet;

use bstr::{BStr, BString};
use pctd_core::conf::{Conf, MountClass, MountIdMap};
use pctd_core::ids::Ctid;

use crate::context::{Context, check_protection};
use crate::id_maps;
use crate::network;
use crate::output::Die;
use crate::perl::{from_file, split_list};
use crate::properties::{is_numbered, parse_volume};
use crate::storage::split_volume_id;

/// Checks that a property may be deleted.
pub(crate) fn deletion(conf: &Conf, ctid: Ctid, name: &str) -> Result<(), Die> {
    match name {
        "memory" | "rootfs" | "ostype" => {
            Err(Die::new(format!("unable to delete required option '{name}'\n")))
        }
        "unprivileged" => Err(Die::new(format!("unable to delete read-only option: '{name}'\n"))),
        _ if is_numbered(name, "mp") || is_numbered(name, "unused") => {
            check_protection(conf, &format!("can't remove CT {ctid} drive '{name}'"))
        }
        _ => Ok(()),
    }
}

/// Checks a value to be set and returns what goes to pending.
pub(crate) fn value(
    cx: &Context,
    ctid: Ctid,
    conf: &Conf,
    name: &str,
    given: &BStr,
) -> Result<BString, Die> {
    if name == "rootfs" || is_numbered(name, "mp") {
        check_protection(conf, &format!("can't update CT {ctid} drive '{name}'"))?;
        let mount = parse_volume(name, given)?;
        if mount.class == MountClass::Volume {
            let volume = from_file(&mount.volume);
            let (storage, _) = split_volume_id(&volume)
                .ok_or_else(|| format!("unable to parse volume ID '{volume}'\n"))?;
            cx.storages().get(storage)?;
        }
        let overlap = match mount.idmap() {
            Some(MountIdMap::Lines(lines)) => id_maps::overlap(&lines),
            _ => None,
        };
        return overlap
            .map_or(Ok(given.to_owned()), |message| Err(Die::new(format!("{message}\n"))));
    }
    match name {
        "hookscript" => check_hookscript(cx, &from_file(given))?,
        "nameserver" | "searchdomain" => return Ok(split_list(&from_file(given)).join(" ").into()),
        "unprivileged" => {
            return Err(Die::new(format!("unable to modify read-only option: '{name}'\n")));
        }
        "tags" => return Ok(unique_tags(&from_file(given)).into()),
        _ if is_numbered(name, "net") => network::check(cx, name, given)?,
        _ if is_numbered(name, "dev") => check_device(cx, given)?,
        _ => {}
    }
    Ok(given.to_owned())
}

fn check_hookscript(cx: &Context, volume: &str) -> Result<(), Die> {
    let path = cx.storages().host_path(volume)?;
    if !volume.contains(":snippets/") {
        return Err(Die::new(format!("'{volume}' is not in the snippets directory\n")));
    }
    if !cx.root.host(&path).is_file() {
        return Err(Die::new(format!("script '{volume}' does not exist\n")));
    }
    Ok(())
}

/// Checks that a device exists: below the root, or for want of it on the machine itself, which
/// has `/dev/null` and the like as any host.
fn check_device(cx: &Context, given: &BStr) -> Result<(), Die> {
    use std::os::unix::fs::FileTypeExt;
    let text = from_file(given);
    let path = text
        .split(',')
        .find_map(|part| {
            part.strip_prefix("path=").or_else(|| (!part.contains('=')).then_some(part))
        })
        .ok_or("Path has to be defined\n")?;
    let meta = std::fs::metadata(cx.root.host(path))
        .or_else(|_| std::fs::metadata(path))
        .map_err(|_| format!("Device {path} does not exist\n"))?;
    let kind = meta.file_type();
    if kind.is_block_device() || kind.is_char_device() {
        return Ok(());
    }
    Err(Die::new(format!("{path} is not a device\n")))
}

/// Sorts tags without regard to case and drops repeated ones (`get_unique_tags`).
fn unique_tags(tags: &str) -> String {
    let tags: BTreeSet<String> =
        split_list(tags).into_iter().map(|tag| tag.to_lowercase()).collect();
    tags.into_iter().collect::<Vec<_>>().join(";")
}
