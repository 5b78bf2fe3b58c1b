//! Holds: the reasons for which pctd deliberately does nothing.
//!
//! A hold is a result, not an error. Its name is stable and its message says what to do next.

use crate::conf::RawLine;
use crate::ids::{Ctid, HostIds, MpKey, VolumeName};
use crate::ledger::Backup;
use crate::plan::notice::acting;

mod reasons;
mod why;
mod words;

pub use reasons::Recheck;
pub use why::{MapChange, Missing, NoMap, NotReady, SourceLack, Unmappable};
pub(super) use words::ranges;

use words::{
    acl_advice, clean_up, cut_off, lack, list, list_owners, lost, map_change, mismatch,
    ownership_advice, undo,
};

/// Why something that differs is left as it is for now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Hold {
    /// `/etc/pve` cannot be read or believed.
    #[error("the state of /etc/pve is unknown: {why}; nothing is done until it is back")]
    NodeUnknown {
        /// What was met.
        why: String,
    },
    /// The container is neither surely here nor surely away.
    #[error("the state of this container is unknown: {why}; it is left alone until that is clear")]
    ContainerUnknown {
        /// What was met.
        why: String,
    },
    /// Defined, but nowhere in the cluster, and pctd is not to make it.
    #[error(
        "container {ctid} is defined but does not exist, and `create_containers` is false; make it with `pct create` or `pct clone`"
    )]
    NotDefined {
        /// The container.
        ctid: Ctid,
    },
    /// It was here before and is nowhere in the cluster now.
    #[error(
        "container {ctid} was here and is gone: destroyed, or about to be restored; `pctd apply {ctid}` makes it again"
    )]
    Gone {
        /// The container.
        ctid: Ctid,
    },
    /// No node of the cluster is to make it.
    #[error(
        "container {ctid} is defined but does not exist, and its definition names no node of the cluster to make it on; add `\"node\": \"NAME\"`"
    )]
    NodeNotNamed {
        /// The container.
        ctid: Ctid,
    },
    /// Proxmox would not take what is defined.
    #[error(
        "container {ctid} is not made, because Proxmox would not take its definition: {}; correct it in lxc_configs", .faults.join("; ")
    )]
    DefinitionInvalid {
        /// The container.
        ctid: Ctid,
        /// The fields, each with what is wrong.
        faults: Vec<String>,
    },
    /// The template is nowhere.
    #[error(
        "the template `{template}` is not there: looked for {}; put it there, or correct the path", .looked.join(" and ")
    )]
    TemplateMissing {
        /// The template as declared.
        template: String,
        /// The paths that were looked for.
        looked: Vec<String>,
    },
    /// Whether the template is there is not known.
    #[error("the template `{template}` cannot be looked at: {why}")]
    TemplateUnreadable {
        /// The template as declared.
        template: String,
        /// What was met.
        why: String,
    },
    /// The container it is to be cloned from cannot be cloned now.
    #[error("container {ctid} waits for its source {from}: {}", lack(*.from, .why))]
    CloneSourceNotReady {
        /// The container.
        ctid: Ctid,
        /// The source.
        from: Ctid,
        /// What it lacks.
        why: SourceLack,
    },
    /// A creation was cut off and will not go on.
    #[error("the creation of container {ctid} was cut off and nothing goes on with it; {}", clean_up(*.ctid, *.from, *.is_locked))]
    CreateInterrupted {
        /// The container.
        ctid: Ctid,
        /// The container it was cloned from, if so.
        from: Option<Ctid>,
        /// Whether it is locked.
        is_locked: bool,
    },
    /// The id belongs to a virtual machine.
    #[error("id {ctid} belongs to a virtual machine; give the container another id")]
    IdTakenByVm {
        /// The id.
        ctid: Ctid,
    },
    /// The conf carries a lock.
    #[error(
        "container {ctid} is locked ({lock}); pctd goes on when the lock is gone (`pct unlock {ctid}` if its task is dead)"
    )]
    Locked {
        /// The container.
        ctid: Ctid,
        /// The value of `lock`.
        lock: String,
    },
    /// A process holds the flock on the conf.
    #[error("a task is changing container {ctid}; pctd goes on when it is done")]
    Busy {
        /// The container.
        ctid: Ctid,
    },
    /// `protection: 1` refuses every change of a mount.
    #[error(
        "container {ctid} is protected; `pct set {ctid} --protection 0` lets its mounts change"
    )]
    Protected {
        /// The container.
        ctid: Ctid,
    },
    /// The cluster is without quorum.
    #[error(
        "this node has no quorum, so confs cannot be written and shared storage is left alone; ownership of local directories goes on"
    )]
    NoQuorum,
    /// Another node is to set the owners and modes of a volume that all nodes see, and has not.
    #[error("{}, and has not yet; see `pctd status` there", acting(.node, *.ctid, *.offline))]
    OtherNodeActs {
        /// The lowest container that mounts the volume.
        ctid: Ctid,
        /// The node it is on.
        node: String,
        /// Whether that node is known to be down.
        offline: bool,
    },
    /// The conf is privileged and the declaration is not, or the other way round.
    #[error("{}", mismatch(*.ctid, *.wanted_unprivileged, *.clone_of))]
    UnprivilegedMismatch {
        /// The container.
        ctid: Ctid,
        /// Whether it is declared unprivileged.
        wanted_unprivileged: bool,
        /// The container it is to be cloned from, where it is that one which differs.
        clone_of: Option<Ctid>,
    },
    /// The declared id map may not take the place of the one that is there.
    #[error("{}", map_change(*.ctid, .why))]
    IdmapChange {
        /// The container.
        ctid: Ctid,
        /// What stands against it.
        why: MapChange,
    },
    /// Root may not map what the declared id map says.
    #[error(
        "the id map of container {ctid} is not written, because it could not start with it: add {}", .missing.join(" and ")
    )]
    SubIdsMissing {
        /// The container.
        ctid: Ctid,
        /// What is missing, each with its file.
        missing: Vec<String>,
    },
    /// A backup and a restore would lose something, or it cannot be told that they would not.
    #[error(
        "container {ctid} is not converted, because something would be lost: {}; put that right, or convert it by hand", .losses.join("; ")
    )]
    ConvertUnsafe {
        /// The container.
        ctid: Ctid,
        /// What would be lost, or is not known.
        losses: Vec<String>,
    },
    /// A conversion would stop a container that may not be stopped now.
    #[error("container {ctid} is to be converted, for which it has to stop: {why}")]
    ConvertWaits {
        /// The container.
        ctid: Ctid,
        /// Why not now.
        why: String,
    },
    /// A conversion failed, and the container is as it was.
    #[error(
        "the conversion of container {ctid} failed and it is as it was: {why}; put that right, then `pctd apply {ctid}` tries again"
    )]
    ConvertFailed {
        /// The container.
        ctid: Ctid,
        /// What was met.
        why: String,
    },
    /// The restore of a conversion was killed: its lock keeps everybody out, or nobody knows whether
    /// the disks that the conf names are still there.
    #[error("{}", cut_off(*.ctid, .backup, *.unprivileged, *.is_locked, *.is_whole))]
    ConvertInterrupted {
        /// The container.
        ctid: Ctid,
        /// What it is restored from.
        backup: Backup,
        /// What it was to be.
        unprivileged: bool,
        /// Whether its lock is left.
        is_locked: bool,
        /// Whether its conf names disks, which may be gone.
        is_whole: bool,
    },
    /// The id map of a container is not there yet.
    #[error("the id map of container {ctid} is not ready: {why}")]
    IdmapNotReady {
        /// The container.
        ctid: Ctid,
        /// What is missing.
        why: NotReady,
    },
    /// The containers of a volume have different ids behind the declared owner.
    #[error("the containers of this volume map the owner differently ({}); name the one that decides with `owner_ctid`, or give all of them the same ids on disk with `disk_ids`", list_owners(.owners))]
    OwnerConflict {
        /// Who says what.
        owners: Vec<(Ctid, HostIds)>,
    },
    /// The declared owner has no id outside the container.
    #[error(
        "id {uid}:{gid} inside container {ctid} is outside its id map; declare an owner that the map holds, or extend the map"
    )]
    IdUnmapped {
        /// The container.
        ctid: Ctid,
        /// The user id inside.
        uid: u32,
        /// The group id inside.
        gid: u32,
    },
    /// No id map of the mount puts the ids of a container where they are declared to be.
    #[error("{why}")]
    IdmapImpossible {
        /// What stands in the way, and what to declare instead.
        why: NoMap,
    },
    /// The mount cannot have an id map of its own here, and with one the container would not start.
    #[error("{why}")]
    IdmapUnsupported {
        /// What lacks, and what to do about it.
        why: Unmappable,
    },
    /// The declared owner is no account of this host.
    #[error("there is no {what} `{name}` on this host; create it or declare a number")]
    UnknownAccount {
        /// `user` or `group`.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// More would change than an admin wants changed unasked.
    #[error(
        "{changes} of {entries} entries would change, more than `confirm_above` ({limit}); check the path, then run `pctd apply {volume}`"
    )]
    ConfirmationRequired {
        /// The volume.
        volume: VolumeName,
        /// How many would change.
        changes: u64,
        /// Of how many.
        entries: u64,
        /// The limit.
        limit: u64,
    },
    /// The file system refuses to change owners.
    #[error("{kind} refuses to change owners here ({why}); {}", ownership_advice(.kind))]
    OwnershipUnsupported {
        /// The type of the file system.
        kind: String,
        /// What the kernel said.
        why: String,
    },
    /// What would be changed cannot be recorded.
    #[error(
        "what is changed in {volume} cannot be recorded, so nothing is: {why}; make room, raise `undo_mb`, or set `\"undo_mb\": 0` to do without `pctd undo`"
    )]
    UndoUnavailable {
        /// The volume.
        volume: VolumeName,
        /// What was met.
        why: String,
    },
    /// What pctd had changed was taken back, or is being so.
    #[error(
        "an undo of {volume} was begun, so owners and modes in it are left as they are until `pctd apply {volume}`, or until other ones are declared for it; if it was interrupted, `pctd undo {volume}` goes on"
    )]
    Undone {
        /// The volume.
        volume: VolumeName,
    },
    /// The file system keeps no default ACLs.
    #[error("{path} is on {kind}, which keeps no ACLs there ({why}); {}, or take `default_acl` out", acl_advice(.kind, .mount_point))]
    AclUnsupported {
        /// The host path.
        path: String,
        /// The type of the file system.
        kind: String,
        /// Where it is mounted.
        mount_point: String,
        /// What the kernel said.
        why: String,
    },
    /// Some entries of the volume could not be looked at or changed.
    #[error("{errors} entries could not be looked at or changed: {}", .first.join("; "))]
    WalkIncomplete {
        /// How many.
        errors: u64,
        /// The first few.
        first: Vec<String>,
    },
    /// The host path is not there and is not to be made.
    #[error("{path} does not exist; make it, or let pctd make it with `\"create\": true`")]
    SourceMissing {
        /// The path.
        path: String,
    },
    /// Something is not there, and whether it ever was is not remembered.
    #[error("{}", lost(.missing, .why))]
    LedgerLost {
        /// What is not there.
        missing: Missing,
        /// Why the ledger is not whole.
        why: String,
    },
    /// The host path is something else.
    #[error("{path} is not a directory; Proxmox binds directories only")]
    SourceNotDirectory {
        /// The path.
        path: String,
    },
    /// The host path could not be looked at.
    #[error("{path} cannot be read: {why}")]
    SourceUnreadable {
        /// The path.
        path: String,
        /// What the kernel said.
        why: String,
    },
    /// The host path cannot be reached without trusting a link or everybody.
    #[error("{why}")]
    PathUnsafe {
        /// What is unsafe, and what to write instead.
        why: String,
    },
    /// What `require_mount` asks for is not mounted.
    #[error("{path} is on {on}, but {wanted}; mount it first")]
    SourceNotMounted {
        /// The volume's path.
        path: String,
        /// The mount point it is on.
        on: String,
        /// What the declaration asks for.
        wanted: String,
    },
    /// The host path lies on another file system than when the volume was first done.
    #[error(
        "{path} is on {is} but was on {was} before: is something not mounted? If the change is meant, run `pctd apply {volume}`"
    )]
    SourceChanged {
        /// The volume.
        volume: VolumeName,
        /// Its path.
        path: String,
        /// The file system then.
        was: String,
        /// The file system now.
        is: String,
    },
    /// Half of a pair is there, or something that is no file.
    #[error("no certificate is made for {domain}: {why}")]
    CertificateBlocked {
        /// The domain.
        domain: String,
        /// What is in the way, and what to do about it.
        why: String,
    },
    /// Somebody else's mount stands at the target.
    #[error(
        "{key} already mounts {source_path} at {target}, and pctd did not put it there; remove it with `pct set {ctid} --delete {key}`, or declare that source"
    )]
    ForeignMount {
        /// The container.
        ctid: Ctid,
        /// The key.
        key: MpKey,
        /// What it mounts.
        source_path: String,
        /// Where.
        target: String,
    },
    /// Something is mounted below a directory that LXC is to mount without it.
    #[error(
        "{below} is mounted below {path}, and container {ctid} does not start with a mount of LXC's that leaves it out; include it with `\"recursive\": true`, or mount with `\"mechanism\": \"pct\"`"
    )]
    NestedMount {
        /// The container.
        ctid: Ctid,
        /// The host path.
        path: String,
        /// The first mount below it.
        below: String,
    },
    /// Something else is mounted at the target of a mount, by the other mechanism or by somebody.
    #[error(
        "{by} already mounts at {target} in container {ctid}, so nothing else is mounted there; remove it, or declare that mount with the mechanism it has"
    )]
    TargetTaken {
        /// The container.
        ctid: Ctid,
        /// What mounts there: a key, or a raw line.
        by: String,
        /// Where.
        target: String,
    },
    /// Several mounts stand at the target.
    #[error("{} all mount at {target}, and only the last is seen; delete all but one", list(.keys))]
    DuplicateMount {
        /// The keys.
        keys: Vec<MpKey>,
        /// Where.
        target: String,
    },
    /// Somebody else's change of the mount waits for a restart.
    #[error(
        "{key} has a pending change that is not pctd's; restart the container to apply it or take it back with `pct set {ctid} --revert {key}`"
    )]
    PendingForeign {
        /// The container.
        ctid: Ctid,
        /// The key.
        key: MpKey,
    },
    /// All 256 keys are taken.
    #[error(
        "container {ctid} has no free mount point key left for {target}; delete one that is not used"
    )]
    NoFreeKey {
        /// The container.
        ctid: Ctid,
        /// What could not be mounted.
        target: String,
    },
    /// A volume that is to be mounted is held itself.
    #[error("volume {volume} is held, so its mount is not written; see `pctd status {volume}`")]
    VolumeHeld {
        /// The volume.
        volume: VolumeName,
    },
    /// What is to be removed waits until the configuration has proved to be meant.
    #[error("{} of container {ctid} are no longer declared and go once the configuration has stood for `resync_interval`; `pctd apply {ctid}` removes them now", .what.join(", "))]
    ConfigUnsettled {
        /// The container.
        ctid: Ctid,
        /// What would be removed: keys of mount points and raw lines.
        what: Vec<String>,
    },
    /// `mode` is `observe`: what would be done is only reported.
    #[error("what is planned is not done, because `mode` is \"observe\": {steps} to take")]
    ObserveOnly {
        /// How many steps.
        steps: usize,
    },
    /// A container that pctd stopped for a restart cannot be started yet.
    #[error(
        "container {ctid} did not come back from a restart that pctd made, and cannot be started: {why}; pctd starts it when that is over"
    )]
    StartOwed {
        /// The container.
        ctid: Ctid,
        /// What stands in the way.
        why: String,
    },
    /// A container was edited while it ran, and somebody stopped it since.
    #[error(
        "container {ctid} was not seen running since pctd edited its conf; if it does not start with that, correct the declaration and {} in /etc/pve/lxc/{ctid}.conf", undo(.added, .removed)
    )]
    NotStarted {
        /// The container.
        ctid: Ctid,
        /// The lines that came.
        added: Vec<RawLine>,
        /// The lines that went.
        removed: Vec<RawLine>,
    },
    /// A change waits for a restart that pctd does not make (now).
    #[error("{} of container {ctid} wait for a restart; {why}", .what.join(", "))]
    NeedsRestart {
        /// The container.
        ctid: Ctid,
        /// What waits: keys of mount points and raw lines.
        what: Vec<String>,
        /// Why pctd does not restart it.
        why: String,
    },
}
