//! The longer messages of holds: each says what to do next.

use super::{MapChange, Missing, SourceLack};
use crate::conf::RawLine;
use crate::idmap::Moved;
use crate::ids::{Ctid, HostIds, MpKey};
use crate::ledger::Backup;

pub(super) fn mismatch(ctid: Ctid, wanted: bool, source: Option<Ctid>) -> String {
    let (is, wanted, flag) = (privilege(!wanted), privilege(wanted), u8::from(wanted));
    match source {
        Some(source) => format!(
            "container {ctid} is declared {wanted}, but its source {source} is {is} and a clone inherits that; declare {ctid} {is}, or another source"
        ),
        None => format!(
            "container {ctid} is {is} but is declared {wanted}; Proxmox cannot change that in place: stop it, back it up with `vzdump {ctid} --mode stop --compress zstd --stdexcludes 0 --storage STORAGE`, check that the backup has every disk, and restore it with `pct restore {ctid} BACKUP --force 1 --unprivileged {flag} --storage STORAGE_OF_ITS_DISKS`; pctd does so where it is given `\"convert\": {{\"backup_storage\": \"STORAGE\"}}`; or correct the declaration"
        ),
    }
}

/// How many moved ranges a message names.
pub(super) const NAMED_RANGES: usize = 4;

pub(super) fn map_change(ctid: Ctid, why: &MapChange) -> String {
    match why {
        MapChange::Moves { moved, foreign } => {
            let is_root = moved.iter().any(Moved::has_root);
            let root =
                if is_root { ", and its root would not own its root file system" } else { "" };
            let also = match foreign.as_slice() {
                [] => String::new(),
                lines => format!(" in place of lines that pctd did not write ({})", quoted(lines)),
            };
            let yes = if is_root || !foreign.is_empty() { " --yes" } else { "" };
            format!(
                "the declared id map gives other host ids to {} of container {ctid}, and files on its disks keep theirs: what belongs to these ids now would be nobody's{root}; change those files while it is stopped, or see that there are none, then `pctd apply {ctid}{yes}` writes the map{also}",
                ranges(moved)
            )
        }
        MapChange::Foreign(lines) => format!(
            "container {ctid} has lines of an id map that pctd did not write and that are not declared ({}); `pctd apply {ctid} --yes` puts the declared ones in their place",
            quoted(lines)
        ),
        MapChange::Unreadable(why) => format!(
            "the id map of container {ctid} is not the declared one and cannot be read: {why}; `pctd apply {ctid} --yes` puts the declared one in its place"
        ),
        MapChange::NoLine(why) => format!(
            "the id map of container {ctid} is not the declared one and cannot be replaced: {why}; take it out of the conf"
        ),
        MapChange::Unmakeable(moved) => format!(
            "container {ctid} is not made, because Proxmox unpacks or copies its root file system for other host ids of {} than are declared; declare an id map that leaves these as they are",
            ranges(moved)
        ),
    }
}

/// Returns how an edit is taken back.
pub(super) fn undo(added: &[RawLine], removed: &[RawLine]) -> String {
    let part = |verb: &str, lines: &[RawLine]| {
        (!lines.is_empty()).then(|| format!("{verb} {}", quoted(lines)))
    };
    let parts = [part("take out", added), part("put back", removed)];
    parts.into_iter().flatten().collect::<Vec<_>>().join(" and ")
}

pub(super) fn quoted(lines: &[RawLine]) -> String {
    let lines: Vec<String> = lines.iter().map(|line| format!("`{line}`")).collect();
    lines.join(", ")
}

/// Returns the first of these ids in words.
pub(in crate::plan) fn ranges(moved: &[Moved]) -> String {
    let named: Vec<String> = moved.iter().take(NAMED_RANGES).map(ToString::to_string).collect();
    let more = if moved.len() > NAMED_RANGES { " and others" } else { "" };
    named.join(", ") + more
}

/// Returns what to run after a restore that was killed: only its lock stands in the way of another.
pub(super) fn cut_off(
    ctid: Ctid,
    backup: &Backup,
    unprivileged: bool,
    is_locked: bool,
    is_whole: bool,
) -> String {
    let (flag, Backup { archive, disks }) = (u8::from(unprivileged), backup);
    if is_whole {
        // Not `pct restore --force`: that frees what the old conf names after it has made the new
        // disks, and those get the names that are free again.
        let unlock = if is_locked {
            format!("make sure that no task is at work with it, run `pct unlock {ctid}`, then look")
        } else {
            "look".to_owned()
        };
        return format!(
            "the restore of container {ctid}, which is being converted, was cut off, and the disks that its conf names may be gone; {unlock}: if `pvesm list {disks} --vmid {ctid}` shows all that `pct config {ctid}` names, `pctd apply {ctid}` or `pct start {ctid}` goes on; if not, take the conf away (`mv /etc/pve/lxc/{ctid}.conf /root/`), and pctd restores it from {archive}"
        );
    }
    format!(
        "the restore of container {ctid}, which is being converted, was cut off; make sure that no task is at work with it, then run `pct unlock {ctid}`, and pctd restores it from {archive} (by hand: `pct restore {ctid} {archive} --force 1 --unprivileged {flag} --storage {disks}`); free what `pvesm list {disks} --vmid {ctid}` shows and `pct config {ctid}` does not"
    )
}

pub(super) fn lost(missing: &Missing, why: &str) -> String {
    match missing {
        Missing::Directory { volume, path } => format!(
            "{path} does not exist, and the ledger that may have known it was lost ({why}): is something not mounted? If it is to be made, run `pctd apply {volume}`"
        ),
        Missing::Container(ctid) => format!(
            "container {ctid} does not exist, and whether it was here before is not known, because the ledger was lost ({why}); `pctd apply {ctid}` makes it"
        ),
    }
}

/// Returns what keeps a source from being cloned, and what to do.
pub(super) fn lack(from: Ctid, why: &SourceLack) -> String {
    match why {
        SourceLack::Coming => "it is not there yet".to_owned(),
        SourceLack::Absent => {
            "it does not exist and nothing says how to make it; make it, or give it a `template`"
                .to_owned()
        }
        SourceLack::OnNode(node) => {
            format!("it is on node {node}; a clone is made where its source is")
        }
        SourceLack::Vm => "that id is a virtual machine's; declare another source".to_owned(),
        SourceLack::Unknown => "its state is unknown".to_owned(),
        SourceLack::Busy => "a task is at work with it".to_owned(),
        SourceLack::Locked(lock) => format!(
            "it is locked ({lock}); pctd goes on when the lock is gone (`pct unlock {from}` if its task is dead)"
        ),
        SourceLack::Running => {
            "it runs, and Proxmox clones a running container only from a snapshot; stop it, or name one as its `template_snapshot_name`".to_owned()
        }
        SourceLack::NoSnapshot(name) => {
            format!("it has no snapshot `{name}`; `pct snapshot {from} {name}` takes it")
        }
        SourceLack::HasMount { key, snapshot: None } => format!(
            "{key} is a bind mount or a device, which Proxmox does not clone; take a snapshot without it and name that as its `template_snapshot_name`"
        ),
        SourceLack::HasMount { key, snapshot: Some(name) } => format!(
            "{key} in its snapshot `{name}` is a bind mount or a device, which Proxmox does not clone; name a snapshot without it"
        ),
    }
}

/// Returns what to run after a creation that was cut off (Proxmox resumes none, and the conf may
/// not name the disk that was made).
pub(super) fn clean_up(ctid: Ctid, from: Option<Ctid>, is_locked: bool) -> String {
    let unlock = if is_locked { format!("`pct unlock {ctid}`, then ") } else { String::new() };
    let source = from.map_or_else(String::new, |from| {
        format!("; if {from} is still locked (disk), also `pct unlock {from}`")
    });
    format!(
        "make sure that no task is at work with it, then clean up: {unlock}`pct destroy {ctid}`, and free what `pvesm list STORAGE --vmid {ctid}` still shows{source}; pctd makes it again when it is gone"
    )
}

pub(super) const fn privilege(unprivileged: bool) -> &'static str {
    if unprivileged { "unprivileged" } else { "privileged" }
}

pub(super) fn list(keys: &[MpKey]) -> String {
    let names: Vec<String> = keys.iter().map(ToString::to_string).collect();
    names.join(", ")
}

pub(super) fn list_owners(owners: &[(Ctid, HostIds)]) -> String {
    let each: Vec<String> = owners.iter().map(|(ctid, ids)| format!("{ctid}: {ids}")).collect();
    each.join(", ")
}

/// Returns what an admin does instead where a file system does not let ids be mapped.
pub(super) fn mapping_advice(kind: &str) -> &'static str {
    match kind {
        "overlay" => "share a directory of the file system below it",
        "nfs" | "nfs4" => "map ids where it is exported",
        _ => "give its files to ids that the containers have, or set them in its mount options",
    }
}

/// Returns how a file system gets ACLs, or where they are to be had.
pub(super) fn acl_advice(kind: &str, mount_point: &str) -> String {
    match kind {
        "zfs" => format!(
            "enable them with `zfs set acltype=posixacl xattr=sa $(zfs list -Ho name {mount_point})`"
        ),
        "ext2" | "ext3" | "ext4" | "xfs" | "btrfs" | "f2fs" | "tmpfs" | "overlay" => {
            format!("mount it without `noacl` (`mount -o remount,acl {mount_point}`)")
        }
        "nfs" | "nfs4" | "cifs" | "smb3" => {
            "set them where it is exported (NFSv4 and SMB have other lists)".to_owned()
        }
        _ => "keep the directory on one that has them, such as ext4, xfs or ZFS".to_owned(),
    }
}

/// Returns what an admin does instead where a file system cannot change owners.
pub(super) fn ownership_advice(kind: &str) -> &'static str {
    match kind {
        "nfs" | "nfs4" => {
            "export it with no_root_squash, or map ids on the server and declare `\"owner\": \"keep\"`"
        }
        "cifs" | "smb3" => {
            "mount it with uid=, gid=, file_mode= and dir_mode=, and declare `\"owner\": \"keep\"`"
        }
        "vfat" | "exfat" | "ntfs" | "ntfs3" => {
            "mount it with uid=, gid= and umask=, and declare `\"owner\": \"keep\"`"
        }
        _ => {
            "set the owner where the file system is served or in its mount options, and declare `\"owner\": \"keep\"`"
        }
    }
}
