//! The storages of a node: directories with images named after their container
//! (`PVE::Storage::Plugin`, `PVE::Storage::BTRFSPlugin`).

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;

use crate::paths::Root;
use crate::settings::{Settings, Storage, StorageKind};

/// How many disks a container can have (`get_next_vm_diskname`).
const MAX_DISKS: u32 = 1_000_000;

/// The storages of one node.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Storages<'a> {
    root: &'a Root,
    settings: &'a Settings,
}

/// Splits `storage:name` (`PVE::Storage::parse_volume_id`).
pub(crate) fn split_volume_id(id: &str) -> Option<(&str, &str)> {
    let (storage, name) = id.split_once(':')?;
    let mut bytes = storage.bytes();
    let ok = bytes.next().is_some_and(|byte| byte.is_ascii_alphabetic())
        && storage.len() > 1
        && storage
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
        && storage.bytes().last().is_some_and(|byte| byte.is_ascii_alphanumeric());
    (ok && !name.is_empty() && !name.starts_with('\n')).then_some((storage, name))
}

/// Returns storage and size in GiB of a disk to be made, `storage:4` (`$NEW_DISK_RE`).
pub(crate) fn new_disk(id: &str) -> Option<(&str, f64)> {
    let (storage, size) = id.split_once(':')?;
    let (whole, fraction) =
        size.split_once('.').map_or((size, "0"), |(whole, fraction)| (whole, fraction));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let plain = !storage.is_empty() && !storage.contains(char::is_whitespace);
    (plain && digits(whole) && digits(fraction))
        .then(|| size.parse().ok())
        .flatten()
        .map(|size| (storage, size))
}

/// Returns the container a volume belongs to.
pub(crate) fn owner(volume: &str) -> Option<String> {
    let (_, name) = split_volume_id(volume)?;
    let (owner, _) = name.split_once('/')?;
    owner.bytes().all(|byte| byte.is_ascii_digit()).then(|| owner.to_owned())
}

impl<'a> Storages<'a> {
    pub(crate) const fn new(root: &'a Root, settings: &'a Settings) -> Self {
        Self { root, settings }
    }

    /// Returns a storage, or Proxmox's error.
    pub(crate) fn get(&self, id: &str) -> Result<&'a Storage, String> {
        self.settings.storages.get(id).ok_or_else(|| format!("storage '{id}' does not exist\n"))
    }

    /// Returns the storage and the name of a volume, or Proxmox's error.
    pub(crate) fn split(&self, volume: &str) -> Result<(&'a Storage, String), String> {
        let (storage, name) = split_volume_id(volume)
            .ok_or_else(|| format!("unable to parse volume ID '{volume}'\n"))?;
        Ok((self.get(storage)?, name.to_owned()))
    }

    /// Returns the host path of the directory for backups, or Proxmox's error.
    pub(crate) fn dump_dir(&self, id: &str) -> Result<String, String> {
        Ok(format!("{}/dump", self.get(id)?.path.trim_end_matches('/')))
    }

    /// Returns the host path of a volume (`PVE::Storage::path`).
    pub(crate) fn host_path(&self, volume: &str) -> Result<String, String> {
        let (storage, name) = self.split(volume)?;
        let base = storage.path.trim_end_matches('/');
        Ok(match name.split_once('/') {
            Some(("vztmpl", file)) => format!("{base}/template/cache/{file}"),
            Some(("snippets", file)) => format!("{base}/snippets/{file}"),
            Some(("iso", file)) => format!("{base}/template/iso/{file}"),
            _ if storage.kind == StorageKind::Btrfs => {
                format!("{base}/images/{}/disk.raw", name.trim_end_matches(".raw"))
            }
            _ => format!("{base}/images/{name}"),
        })
    }

    /// Checks the name of an image (`parse_volname`, `parse_name_dir`).
    pub(crate) fn check_name(&self, volume: &str) -> Result<(), String> {
        let (_, name) = self.split(volume)?;
        let digits =
            |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let Some((_, file)) = name.split_once('/').filter(|(owner, _)| digits(owner)) else {
            return Err(format!("unable to parse directory volume name '{name}'\n"));
        };
        let number = ["vm-", "base-", "subvol-"].iter().find_map(|kind| file.strip_prefix(kind));
        let number = number.and_then(|rest| rest.split_once('-')).is_some_and(|(id, _)| digits(id));
        let format =
            [".raw", ".qcow2", ".vmdk", ".subvol"].iter().any(|format| file.ends_with(format));
        if number && format && !file.contains(char::is_whitespace) {
            return Ok(());
        }
        Err(format!("unable to parse volume filename '{file}'\n"))
    }

    /// Checks that a template is one, if it is named as a volume (`check_volume_access`).
    pub(crate) fn check_template(&self, template: &str) -> Result<(), String> {
        if split_volume_id(template).is_none() {
            return Ok(());
        }
        let (_, name) = self.split(template)?;
        if name.starts_with("vztmpl/") {
            return Ok(());
        }
        if ["iso/", "snippets/", "backup/"].iter().any(|kind| name.starts_with(kind)) {
            return Err(format!(
                "unable to use volume {template} - content type needs to be 'vztmpl'\n"
            ));
        }
        self.check_name(template)?;
        Err(format!("unable to use volume {template} - content type needs to be 'vztmpl'\n"))
    }

    fn path(&self, volume: &str) -> Result<PathBuf, String> {
        Ok(self.root.host(&self.host_path(volume)?))
    }

    /// Returns whether a volume is there.
    pub(crate) fn exists(&self, volume: &str) -> bool {
        self.path(volume).is_ok_and(|path| path.exists())
    }

    /// Returns the size of a volume in bytes, if it is there.
    pub(crate) fn size(&self, volume: &str) -> Option<u64> {
        fs::metadata(self.path(volume).ok()?).ok().map(|meta| meta.len())
    }

    /// Returns whether a volume can have snapshots.
    pub(crate) fn can_snapshot(&self, volume: &str) -> bool {
        self.split(volume).is_ok_and(|(storage, _)| storage.kind == StorageKind::Btrfs)
    }

    /// Makes an image for a container and returns its volume id (`PVE::Storage::vdisk_alloc`).
    pub(crate) fn allocate(&self, storage: &str, ctid: &str, bytes: u64) -> Result<String, String> {
        self.get(storage)?;
        let (prefix, suffix) = if bytes == 0 { ("subvol", "subvol") } else { ("vm", "raw") };
        let volume = (0..MAX_DISKS)
            .map(|index| format!("{storage}:{ctid}/{prefix}-{ctid}-disk-{index}.{suffix}"))
            .find(|volume| !self.exists(volume))
            .ok_or("no free disk name\n")?;
        self.make(&volume, bytes).map_err(|error| format!("unable to create image: {error}\n"))?;
        Ok(volume)
    }

    /// Makes the image with this volume id.
    pub(crate) fn make(&self, volume: &str, bytes: u64) -> io::Result<()> {
        let path = self.path(volume).map_err(io::Error::other)?;
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
        }
        if volume.ends_with(".subvol") {
            return fs::create_dir_all(path);
        }
        File::create(path)?.set_len(bytes)
    }

    /// Removes an image; one that is missing is no error.
    pub(crate) fn free(&self, volume: &str) -> Result<(), String> {
        let (storage, _) = self.split(volume)?;
        let path = self.path(volume)?;
        let target = match storage.kind {
            StorageKind::Btrfs => path.parent().map(PathBuf::from).unwrap_or(path),
            StorageKind::Dir => path,
        };
        // The snapshots of a btrfs image lie beside it and go with it.
        if storage.kind == StorageKind::Btrfs {
            let prefix = format!("{}@", target.file_name().unwrap_or_default().to_string_lossy());
            let beside = target.parent().map(names).unwrap_or_default();
            for copy in beside.iter().filter(|name| name.starts_with(&prefix)) {
                fs::remove_dir_all(target.with_file_name(copy))
                    .map_err(|error| format!("{error}\n"))?;
            }
        }
        // What was in it goes with it.
        match fs::remove_dir_all(crate::archive::content(self.root, volume)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(format!("{error}\n"));
            }
            _ => {}
        }
        let removed =
            if target.is_dir() { fs::remove_dir_all(&target) } else { fs::remove_file(&target) };
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(format!("unlink '{}' failed: {error}\n", target.display()))
            }
            _ => Ok(()),
        }
    }

    /// Checks that a snapshot of a volume can be read (`activate_volume`).
    pub(crate) fn check_snapshot(&self, volume: &str, name: &str) -> Result<(), String> {
        if !self.can_snapshot(volume) {
            return Err("can't snapshot this image format\n".into());
        }
        if volume.ends_with(".subvol") {
            return Err("cannot mount subvol snapshots for storage type 'btrfs'\n".into());
        }
        let (_, copy) = self.snapshot_paths(volume, name)?;
        if copy.exists() { Ok(()) } else { Err(format!("volume '{volume}' does not exist\n")) }
    }

    /// Takes a snapshot of a volume: btrfs keeps it beside the image as `NAME@SNAPSHOT`.
    pub(crate) fn snapshot(&self, volume: &str, name: &str) -> Result<(), String> {
        let (image, copy) = self.snapshot_paths(volume, name)?;
        let made = fs::create_dir_all(&copy)
            .and_then(|()| fs::metadata(&image))
            .and_then(|meta| File::create(copy.join("disk.raw"))?.set_len(meta.len()));
        made.map_err(|error| format!("snapshot of '{volume}' failed: {error}\n"))
    }

    /// Removes a snapshot of a volume.
    pub(crate) fn delete_snapshot(&self, volume: &str, name: &str) -> Result<(), String> {
        let (_, copy) = self.snapshot_paths(volume, name)?;
        fs::remove_dir_all(&copy).map_err(|error| format!("unable to delete snapshot: {error}\n"))
    }

    fn snapshot_paths(&self, volume: &str, name: &str) -> Result<(PathBuf, PathBuf), String> {
        let image = self.path(volume)?;
        let dir = image.parent().ok_or("no directory\n")?;
        let copy = format!("{}@{name}", dir.file_name().unwrap_or_default().to_string_lossy());
        let copy = dir.with_file_name(copy);
        Ok((image, copy))
    }

    /// Returns all images, a btrfs one as the name of its directory.
    pub(crate) fn list(&self) -> Vec<String> {
        let mut volumes = Vec::new();
        for (id, storage) in &self.settings.storages {
            let images = self.root.host(&storage.path).join("images");
            for owner in names(&images) {
                volumes.extend(
                    names(&images.join(&owner))
                        .into_iter()
                        .map(|name| format!("{id}:{owner}/{name}")),
                );
            }
        }
        volumes
    }
}

fn names(dir: &std::path::Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let mut names: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_id_needs_a_storage() {
        assert_eq!(split_volume_id("local:100/vm.raw"), Some(("local", "100/vm.raw")));
        for id in ["relative/x", "l:x", "local:", ":x", "loc_:x", "1local:x"] {
            assert_eq!(split_volume_id(id), None, "{id}");
        }
    }

    #[test]
    fn a_new_disk_is_a_size() {
        assert_eq!(new_disk("local:0.1"), Some(("local", 0.1)));
        assert_eq!(new_disk("bt:4"), Some(("bt", 4.0)));
        for id in ["local:100/vm.raw", "local:.5", "local:5.", "0.2"] {
            assert_eq!(new_disk(id), None, "{id}");
        }
    }
}
