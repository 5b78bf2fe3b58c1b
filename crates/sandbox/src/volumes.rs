//! The volumes of a container: made, measured, kept as `unusedN`, freed (`PVE::LXC::create_disks`,
//! `delete_mountpoint_volume`, `PVE::AbstractConfig::add_unused_volume`).

use std::hash::{BuildHasher, RandomState};
use std::time::Instant;

use bstr::BStr;
use pctd_core::conf::{Conf, MountClass, MountPoint, Section};
use pctd_core::ids::Ctid;

use crate::context::{Context, text};

/// Adds the volume of a mount point with this value to the unused ones, if it is not in use.
///
/// Proxmox asks whether the whole value is in use, not the volume, and so finds a use only where
/// the value has no options.
pub(crate) fn keep_unused(conf: &mut Conf, value: &BStr, volume: &BStr) -> Result<(), String> {
    if is_in_use(conf, value) {
        return Ok(());
    }
    add_unused(&mut conf.current, volume)
}

/// Returns whether a volume is mounted: now, in a snapshot, or pending (`is_volume_in_use`).
fn is_in_use(conf: &Conf, volume: &BStr) -> bool {
    let uses = |section: &Section| {
        section
            .volumes()
            .any(|(_, mount)| mount.class == MountClass::Volume && mount.volume == volume)
    };
    uses(&conf.current) || conf.snapshots.values().any(uses) || uses(&conf.pending.section)
}

/// Keeps a volume under the lowest free `unusedN` (`add_unused_volume`).
fn add_unused(section: &mut Section, volume: &BStr) -> Result<(), String> {
    // `$MAX_UNUSED_DISKS`
    let keys: Vec<String> = (0..256).map(|index| format!("unused{index}")).collect();
    if keys.iter().any(|key| section.get(key).is_some_and(|unused| unused == volume)) {
        return Ok(());
    }
    let free = keys.iter().find(|key| section.get(key).is_none());
    let key = free.ok_or("Too many unused volumes - please delete them first.\n")?;
    section.set(key, volume);
    Ok(())
}

/// Frees an unused volume that is deleted.
pub(crate) fn delete_unused(
    cx: &mut Context,
    ctid: Ctid,
    conf: &Conf,
    name: &str,
) -> Result<(), String> {
    let Some(volume) = text(&conf.current, name) else { return Ok(()) };
    if is_in_use(conf, BStr::new(&volume)) {
        return Ok(());
    }
    free_volume(cx, ctid, &volume)
}

/// Frees a volume if it is the container's own (`delete_mountpoint_volume`).
pub(crate) fn free_volume(cx: &mut Context, ctid: Ctid, volume: &str) -> Result<(), String> {
    if MountClass::of(volume.as_bytes()) != MountClass::Volume {
        return Ok(());
    }
    cx.storages().split(volume)?;
    if crate::storage::owner(volume).is_some_and(|owner| owner == ctid.to_string()) {
        if !cx.storages().exists(volume) {
            let path = cx.storages().host_path(volume)?;
            cx.streams.warn(&format!("disk image '{path}' does not exist\n"));
        }
        return cx.storages().free(volume);
    }
    cx.streams.warn(&format!("ignore deletion of '{volume}', CT {ctid} isn't the owner!\n"));
    Ok(())
}

/// Makes a new disk and puts it into the mount point (`create_disks`).
pub(crate) fn allocate(
    cx: &mut Context,
    ctid: Ctid,
    storage: &str,
    gib: f64,
    mount: &mut MountPoint,
) -> Result<String, String> {
    let mib = whole(gib * 1024.0);
    let volume = cx.storages().allocate(storage, &ctid.to_string(), mib << 20)?;
    mount.volume = volume.as_str().into();
    mount.options.insert("size".into(), format!("{mib}M"));
    if mib > 0 {
        let path = cx.storages().host_path(&volume)?;
        let bytes = mib << 20;
        cx.streams.print(&format!("Formatting '{path}', fmt=raw size={bytes} preallocation=off\n"));
        cx.streams.print(&mkfs_report(mib));
    }
    Ok(volume)
}

/// Returns a number without its fraction (`int`).
fn whole(number: f64) -> u64 {
    format!("{:.0}", number.trunc()).parse().unwrap_or_default()
}

/// Returns what `mkfs.ext4` tells of a new file system (mke2fs.conf(5): type `small` below
/// 512 MiB).
fn mkfs_report(mib: u64) -> String {
    let (block, ratio, name) = if mib < 512 { (1024, 4096, "1k") } else { (4096, 16_384, "4k") };
    let blocks = (mib << 20) / block;
    // A bitmap of one block describes a group; small blocks leave the first one to the boot sector.
    let per_group = block * 8;
    let first = u64::from(block == 1024);
    let groups = (blocks - first).div_ceil(per_group);
    // A block holds so many inodes of 256 bytes; a group has whole bytes of bitmap.
    let inodes = ((mib << 20) / ratio).div_ceil(groups).next_multiple_of(block / 256) / 8 * 8;
    let sparse = |group: &u64| {
        let is_power_of = |base: u64| {
            let mut rest = *group;
            while rest.is_multiple_of(base) {
                rest /= base;
            }
            rest == 1
        };
        [3, 5, 7].into_iter().any(is_power_of)
    };
    let backups: Vec<String> =
        (1..groups).filter(sparse).map(|group| (group * per_group + first).to_string()).collect();
    let mut report = format!(
        "Creating filesystem with {blocks} {name} blocks and {} inodes\nFilesystem UUID: {}\n",
        inodes * groups,
        uuid()
    );
    if !backups.is_empty() {
        report.push_str("Superblock backups stored on blocks: \n");
    }
    if backups.len() > 1 {
        report.extend(["\t", &backups.join(", "), "\n"]);
    }
    report
}

/// Returns a random UUID (RFC 9562, version 4).
fn uuid() -> String {
    let random = || RandomState::new().hash_one(Instant::now());
    let (high, low) = (random(), random());
    format!(
        "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
        high >> 32,
        high >> 16 & 0xffff,
        high & 0xfff,
        low >> 48 & 0x3fff | 0x8000,
        low & 0xffff_ffff_ffff
    )
}

/// Takes the size of an existing volume from the volume (`$rescan_volume`).
pub(crate) fn rescan_size(cx: &mut Context, volume: &str, mount: &mut MountPoint) {
    let path = cx.storages().check_name(volume).and_then(|()| cx.storages().host_path(volume));
    let path = match path {
        Ok(path) => path,
        Err(error) => {
            cx.streams.warn(&format!("Could not rescan volume size - {error}\n"));
            return;
        }
    };
    if let Some(bytes) = cx.storages().size(volume) {
        mount.options.insert("size".into(), bytes.to_string());
    } else {
        cx.streams.warn(&format!("failed to stat '{path}'\n"));
        mount.options.remove("size");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_is_reported_as_mkfs_does() {
        let report = mkfs_report(102);
        assert!(report.starts_with("Creating filesystem with 104448 1k blocks and 26104 inodes\n"));
        let backups = "Superblock backups stored on blocks: \n\t8193, 24577, 40961, 57345, 73729\n";
        assert!(report.ends_with(backups), "{report}");
        let report = mkfs_report(1024);
        assert!(report.starts_with("Creating filesystem with 262144 4k blocks and 65536 inodes\n"));
        assert!(report.ends_with("\t32768, 98304, 163840, 229376\n"), "{report}");
    }
}
