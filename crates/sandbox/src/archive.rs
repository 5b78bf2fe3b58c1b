//! What is inside the disks of a container, and the archives `vzdump` makes of it.
//!
//! An image of the model is empty, but it may have a directory that stands for what is in it, with
//! the ids the host would see. It goes where the image goes: into an archive, out of it with the
//! ids of another map, and away when the image is freed. The archives are real (`tar`, `zstd`).

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use bstr::ByteSlice;
use pctd_core::conf::{Conf, MountClass, normalise_path};
use rustix::fs::{AtFlags, CWD, Gid, Uid, chownat};

use crate::paths::Root;
use crate::perl::from_file;

/// How many ids a default map has.
const IDS: u32 = 65_536;

/// Where the conf is in an archive.
pub(crate) const CONF: &str = "./etc/vzdump/pct.conf";

/// Returns the directory that stands for what is in a volume.
pub(crate) fn content(root: &Root, volume: &str) -> PathBuf {
    root.state("content").join(volume.replace(['/', ':'], "_"))
}

/// Returns the id of the host that a container's root is.
fn base(conf: &Conf) -> u32 {
    let map = conf.effective_idmap().ok();
    map.and_then(|map| map.host_ids(0, 0)).map_or(0, |ids| ids.uid)
}

/// Returns the volumes of a container with their targets, the deepest last.
fn disks(conf: &Conf) -> Vec<(String, String, bool)> {
    let volumes = conf.current.volumes().filter(|(_, mount)| mount.class == MountClass::Volume);
    let disk = |(name, mount): (String, &pctd_core::conf::MountPoint)| {
        let is_in = name == "rootfs" || mount.is_on("backup");
        let target = normalise_path(&mount.target).to_string();
        (from_file(&mount.volume), target.trim_start_matches('/').to_owned(), is_in)
    };
    let mut disks: Vec<_> = volumes.map(disk).collect();
    disks.sort_by(|(_, a, _), (_, b, _)| a.cmp(b));
    disks
}

/// Copies a tree with its owners and modes.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    let status = Command::new("cp").arg("-a").arg(from.join(".")).arg(to).status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("cp: {status}"))) }
}

/// Gives everything in a tree other ids.
fn shift(dir: &Path, id: &dyn Fn(u32) -> u32) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let meta = fs::symlink_metadata(&path)?;
        let (uid, gid) = (Uid::from_raw(id(meta.uid())), Gid::from_raw(id(meta.gid())));
        chownat(CWD, &path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        if meta.is_dir() {
            shift(&path, id)?;
        }
    }
    Ok(())
}

/// Makes an archive of a container in this place, through a directory that is removed again.
pub(crate) fn pack(root: &Root, conf: &Conf, text: &[u8], archive: &Path) -> io::Result<()> {
    let stage = tempfile::tempdir_in(stages(root)?)?;
    let (meta, tree) = (stage.path().join("meta"), stage.path().join("tree"));
    fs::create_dir_all(meta.join("etc/vzdump"))?;
    fs::write(meta.join(CONF), text)?;
    fs::create_dir_all(&tree)?;
    for (volume, target, is_in) in disks(conf) {
        let inside = content(root, &volume);
        fs::create_dir_all(tree.join(&target))?;
        if is_in && inside.is_dir() {
            copy(&inside, &tree.join(&target))?;
        }
    }
    let base = base(conf);
    // What the container does not own belongs to nobody in it.
    shift(&tree, &|id| id.checked_sub(base).unwrap_or(65_534))?;
    let dir = archive.parent().ok_or(io::ErrorKind::InvalidInput)?;
    fs::create_dir_all(dir)?;
    let tar = Command::new("tar")
        .args(["--zstd", "--numeric-owner", "-cf"])
        .arg(archive)
        .arg("-C")
        .arg(&meta)
        .arg(CONF)
        .arg("-C")
        .arg(&tree)
        .arg(".")
        .output()?;
    if tar.status.success() { Ok(()) } else { Err(io::Error::other(tar.stderr.to_str_lossy())) }
}

/// Returns the conf in an archive (`PVE::LXC::Create::recover_config`).
pub(crate) fn conf(archive: &Path) -> Result<Vec<u8>, String> {
    let tar = Command::new("tar")
        .args(["--zstd", "--occurrence=1", "-xOf"])
        .arg(archive)
        .arg(CONF)
        .stdin(Stdio::null())
        .output();
    match tar {
        Ok(output) if output.status.success() || !output.stdout.is_empty() => Ok(output.stdout),
        Ok(output) => Err(output.stderr.to_str_lossy().into_owned()),
        Err(error) => Err(format!("tar: {error}\n")),
    }
}

/// Unpacks an archive into the volumes of a new conf; the error is what `tar` says and how it ended.
pub(crate) fn unpack(root: &Root, conf: &Conf, archive: &Path) -> Result<(), (String, String)> {
    let failed = |error: io::Error| (String::new(), error.to_string());
    let stage = stages(root).and_then(tempfile::tempdir_in).map_err(failed)?;
    let tar = Command::new("tar")
        .args(["--zstd", "--numeric-owner", "-xpf"])
        .arg(archive)
        .arg("-C")
        .arg(stage.path())
        .stdin(Stdio::null())
        .output()
        .map_err(failed)?;
    if !tar.status.success() {
        let code = tar.status.code().unwrap_or_default();
        return Err((tar.stderr.to_str_lossy().into_owned(), format!("exit code {code}")));
    }
    let base = base(conf);
    // A process in a user namespace can give nothing to an id that its map lacks.
    if base > 0 && has_high_ids(stage.path()).map_err(failed)? {
        let said = "tar: ./: Cannot change ownership to uid: Invalid argument\n".to_owned();
        return Err((said, "exit code 2".to_owned()));
    }
    shift(stage.path(), &|id| id.saturating_add(base)).map_err(failed)?;
    fs::remove_dir_all(stage.path().join("etc/vzdump")).map_err(failed)?;
    // The deepest first, so that what is mounted inside is taken out of its surroundings.
    for (volume, target, _) in disks(conf).into_iter().rev() {
        let from = stage.path().join(&target);
        let to = content(root, &volume);
        if from.is_dir() {
            copy(&from, &to).map_err(failed)?;
            if !target.is_empty() {
                fs::remove_dir_all(&from).map_err(failed)?;
            }
        }
    }
    Ok(())
}

fn has_high_ids(dir: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let meta = fs::symlink_metadata(&path)?;
        if meta.uid() >= IDS || meta.gid() >= IDS || meta.is_dir() && has_high_ids(&path)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn stages(root: &Root) -> io::Result<PathBuf> {
    let dir = root.state("stages");
    fs::create_dir_all(&dir)?;
    Ok(dir)
}
