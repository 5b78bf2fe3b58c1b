//! Holds: the reasons for which pctd deliberately does nothing.
//!
//! A hold is a result, not an error. Its name is stable and its message says what to do next.

use crate::conf::RawLine;
use crate::idmap::Moved;
use crate::ids::{Ctid, HostIds, MpKey, VolumeName};
use crate::ledger::Backup;
use crate::mount_map::NoOption;
use crate::plan::id_map;
use crate::plan::notice::acting;

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
    /// What pctd had changed was taken back.
    #[error(
        "what pctd had changed in {volume} was taken back with `pctd undo`, and is not done again until `pctd apply {volume}`, or until other owners or modes are declared for it"
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

/// What an id map lacks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotReady {
    /// The conf is empty or has no rootfs.
    #[error("its conf is not complete yet")]
    Incomplete,
    /// It is being created, cloned or restored.
    #[error("it is being created (lock: create)")]
    BeingCreated,
    /// A task holds its flock while it does not run.
    #[error("a task holds its lock")]
    Busy,
    /// It runs, and still with the host's ids.
    #[error("it is starting, or runs privileged until it is restarted")]
    Starting,
    /// It runs, and with which map cannot be told; the conf may have been edited since it started.
    #[error("it runs, and the map it runs with cannot be read")]
    InForceUnknown,
    /// There is a map, but Proxmox could not use it.
    #[error("{0}")]
    Invalid(String),
    /// `idmap_source` asks for explicit lines.
    #[error("it has no lxc.idmap line and `idmap_source` is \"explicit\"")]
    NotExplicit,
    /// It is declared unprivileged and is not.
    #[error("it is declared unprivileged and is privileged")]
    Privileged,
    /// It was just made, and its declared map is not in its conf yet.
    #[error("its declared id map is not in its conf yet")]
    NotWritten,
    /// It is being converted between privileged and unprivileged.
    #[error("it is being converted")]
    Converting,
    /// It is not on this node, though it is to decide the owner.
    #[error("it is not on this node")]
    NotHere,
    /// Its state is unknown.
    #[error("its state is unknown")]
    Unknown,
}

/// What stands against another id map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MapChange {
    /// These ids would be others on the host, and the files of a container stay as they are.
    Moves {
        /// The ids.
        moved: Vec<Moved>,
        /// The lines that would go and are not pctd's.
        foreign: Vec<RawLine>,
    },
    /// The lines that are there are not pctd's.
    Foreign(Vec<RawLine>),
    /// The lines that are there are none.
    Unreadable(String),
    /// A line that is there can be neither kept nor named.
    NoLine(String),
    /// The container would be made with a root file system that its root cannot own.
    Unmakeable(Vec<Moved>),
}

/// Why the declared ids cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoMap {
    /// Mounts of a privileged container have no map.
    #[error(
        "container {ctid} is privileged, so its ids are the same on disk and no mount of it can have others; declare `\"disk_ids\": \"passthrough\"`, or `\"idmap\": \"none\"` for this mount"
    )]
    Privileged {
        /// The container.
        ctid: Ctid,
    },
    /// LXC has no other map than the container's own.
    #[error(
        "a mount that LXC makes can only have the same ids on disk as inside, and those of container {ctid} at {target} are to be others there; declare `\"disk_ids\": \"passthrough\"`, or mount with `\"mechanism\": \"pct\"`"
    )]
    ByLxc {
        /// The container.
        ctid: Ctid,
        /// The target inside.
        target: String,
    },
    /// The ids do not fit.
    #[error(
        "container {ctid} cannot have the declared ids on disk at {target}: {why}; correct `disk_ids` so that it has one id on disk for every id inside"
    )]
    NoOption {
        /// The container.
        ctid: Ctid,
        /// The target inside.
        target: String,
        /// What does not fit.
        why: NoOption,
    },
    /// The declared owner has no place.
    #[error(
        "owner {uid}:{gid} inside has no id in `disk_ids`; extend that, or declare another owner"
    )]
    OwnerOutside {
        /// The user id inside.
        uid: u32,
        /// The group id inside.
        gid: u32,
    },
    /// The declared group has no place.
    #[error(
        "group {gid} of the host is none of the ids that the containers have on disk by `disk_ids`, so they could write to nothing that is in it; declare one that is, such as \"container:GID\""
    )]
    GroupOutside {
        /// The group id on the host.
        gid: u32,
    },
    /// There is no owner to count from.
    #[error(
        "`disk_ids` counts from the owner of {path}, which is not there; make it and give it to whoever root inside is to be on disk"
    )]
    NoOwner {
        /// The host path.
        path: String,
    },
    /// Nobody gave the directory away yet.
    #[error(
        "`disk_ids` counts from the owner of {path}, which belongs to the host's root or its group; give it to whoever root inside is to be on disk, or declare `\"disk_ids\": \"passthrough\"` if that is meant"
    )]
    HostsRoot {
        /// The host path.
        path: String,
    },
    /// It was counted from an owner before, and nobody knows from which.
    #[error(
        "from which owner of {path} `disk_ids` counted was lost with the ledger; declare it as a base, such as \"0 100000 65536\""
    )]
    OwnerForgotten {
        /// The host path.
        path: String,
    },
    /// The map of a container is not there yet.
    #[error("the mount at {target} waits for the id map of container {ctid}: {why}")]
    NotReady {
        /// The container.
        ctid: Ctid,
        /// The target inside.
        target: String,
        /// What is missing.
        why: NotReady,
    },
    /// The map of the container is about to change.
    #[error(
        "the id map of container {ctid} changes when it restarts, and the map of a mount depends on it; `pct reboot {ctid}` when it suits"
    )]
    Stale {
        /// The container.
        ctid: Ctid,
    },
}

/// What a mount with an id map of its own lacks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unmappable {
    /// Proxmox does not know them.
    #[error(
        "this Proxmox cannot map ids for one mount ({why}); upgrade pve-container to 6.1.6 or later, or take `disk_ids` out"
    )]
    Proxmox {
        /// What was found.
        why: String,
    },
    /// LXC does not know them.
    #[error(
        "this LXC cannot map ids for one mount ({why}); upgrade lxc-pve to 5.0 or later, or take `disk_ids` out"
    )]
    Lxc {
        /// What was found.
        why: String,
    },
    /// Something below does not let its ids be mapped, and is to be included.
    #[error(
        "what is mounted below {path} does not all let ids be mapped ({why}), and a container that mounts it so would not start; mount it with `\"mechanism\": \"pct\"`, which leaves that out, or take `disk_ids` out"
    )]
    Whole {
        /// The host path.
        path: String,
        /// What the kernel said.
        why: String,
    },
    /// The file system does not let its ids be mapped.
    #[error(
        "{path} is on {kind}, which does not let ids be mapped ({why}), and a container that mounts it so would not start; take `disk_ids` out, and {}", mapping_advice(.kind)
    )]
    FileSystem {
        /// The host path.
        path: String,
        /// The type of the file system.
        kind: String,
        /// What the kernel said.
        why: String,
    },
    /// Root of the host may not hand on the ids.
    #[error("root may not hand on the ids of container {ctid}, without which its mount has no map: add {}", .missing.join(" and "))]
    SubIds {
        /// The container.
        ctid: Ctid,
        /// What is missing, each with its file.
        missing: Vec<String>,
    },
}

/// What a lost ledger may have known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Missing {
    /// The host path of a volume.
    Directory {
        /// The volume.
        volume: VolumeName,
        /// Its path.
        path: String,
    },
    /// A container that is defined.
    Container(Ctid),
}

/// What keeps a container from being cloned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceLack {
    /// It is made, or will be.
    Coming,
    /// It does not exist, and its definition does not say what it is made from.
    Absent,
    /// It is on this node of the cluster instead of here.
    OnNode(String),
    /// The id is a virtual machine's.
    Vm,
    /// Its state is unknown.
    Unknown,
    /// A task, such as another clone of it, is at work.
    Busy,
    /// Its conf carries this lock.
    Locked(String),
    /// It runs, and no snapshot is named.
    Running,
    /// It has no snapshot of this name.
    NoSnapshot(String),
    /// A bind mount or a device is in the way.
    HasMount {
        /// Its key.
        key: String,
        /// The snapshot it is in; none: it is in force.
        snapshot: Option<String>,
    },
}

/// When a hold is worth another look without an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recheck {
    /// With backoff, as for failures: it should pass soon.
    Backoff,
    /// At the calm interval of holds.
    Calm,
}

impl Hold {
    /// Returns whether some task is at work, as with every `pct` that an admin runs.
    pub const fn is_busy(&self) -> bool {
        matches!(
            self,
            Self::Busy { .. }
                | Self::IdmapNotReady { why: NotReady::Busy, .. }
                | Self::CloneSourceNotReady { why: SourceLack::Busy, .. }
        )
    }

    /// Returns whether nobody needs to be told of it for this key: some task is at work, or a volume
    /// or the node is held up, which has been said once for all.
    pub const fn is_passing(&self) -> bool {
        self.is_busy()
            || matches!(
                self,
                Self::VolumeHeld { .. }
                    | Self::NodeUnknown { .. }
                    | Self::CloneSourceNotReady { why: SourceLack::Coming, .. }
            )
    }
}

/// Says once, for every hold, its name and when to look again, so that no list can miss one.
macro_rules! reasons {
    ($($variant:ident: $recheck:ident,)+) => {
        impl Hold {
            /// The names of all holds.
            pub const REASONS: &[&str] = &[$(stringify!($variant)),+];

            /// Returns the stable name of the reason.
            pub const fn reason(&self) -> &'static str {
                match self {
                    $(Self::$variant { .. } => stringify!($variant),)+
                }
            }

            /// Returns when to look again if nothing is heard before.
            pub const fn recheck(&self) -> Recheck {
                match self {
                    $(Self::$variant { .. } => Recheck::$recheck,)+
                }
            }
        }
    };
}

reasons! {
    NodeUnknown: Backoff,
    ContainerUnknown: Backoff,
    NotDefined: Calm,
    Gone: Calm,
    NodeNotNamed: Calm,
    DefinitionInvalid: Calm,
    TemplateMissing: Calm,
    TemplateUnreadable: Calm,
    CloneSourceNotReady: Calm,
    CreateInterrupted: Calm,
    IdTakenByVm: Calm,
    Locked: Calm,
    Busy: Backoff,
    Protected: Calm,
    NoQuorum: Calm,
    OtherNodeActs: Backoff,
    UnprivilegedMismatch: Calm,
    IdmapChange: Calm,
    SubIdsMissing: Calm,
    ConvertUnsafe: Calm,
    ConvertWaits: Calm,
    ConvertFailed: Calm,
    ConvertInterrupted: Calm,
    IdmapNotReady: Backoff,
    OwnerConflict: Calm,
    IdUnmapped: Calm,
    IdmapImpossible: Calm,
    IdmapUnsupported: Calm,
    UnknownAccount: Calm,
    ConfirmationRequired: Calm,
    OwnershipUnsupported: Calm,
    UndoUnavailable: Calm,
    Undone: Calm,
    AclUnsupported: Calm,
    WalkIncomplete: Calm,
    SourceMissing: Calm,
    LedgerLost: Calm,
    SourceNotDirectory: Calm,
    SourceUnreadable: Calm,
    PathUnsafe: Calm,
    SourceNotMounted: Calm,
    SourceChanged: Calm,
    CertificateBlocked: Calm,
    ForeignMount: Calm,
    DuplicateMount: Calm,
    NestedMount: Calm,
    TargetTaken: Calm,
    PendingForeign: Calm,
    NoFreeKey: Calm,
    VolumeHeld: Calm,
    ConfigUnsettled: Calm,
    ObserveOnly: Calm,
    StartOwed: Backoff,
    NotStarted: Calm,
    NeedsRestart: Calm,
}

fn mismatch(ctid: Ctid, wanted: bool, source: Option<Ctid>) -> String {
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
const NAMED_RANGES: usize = 4;

fn map_change(ctid: Ctid, why: &MapChange) -> String {
    match why {
        MapChange::Moves { moved, foreign } => {
            let is_root = id_map::moves_root(moved);
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
fn undo(added: &[RawLine], removed: &[RawLine]) -> String {
    let part = |verb: &str, lines: &[RawLine]| {
        (!lines.is_empty()).then(|| format!("{verb} {}", quoted(lines)))
    };
    let parts = [part("take out", added), part("put back", removed)];
    parts.into_iter().flatten().collect::<Vec<_>>().join(" and ")
}

fn quoted(lines: &[RawLine]) -> String {
    let lines: Vec<String> = lines.iter().map(|line| format!("`{line}`")).collect();
    lines.join(", ")
}

/// Returns the first of these ids in words.
pub(super) fn ranges(moved: &[Moved]) -> String {
    let named: Vec<String> = moved.iter().take(NAMED_RANGES).map(ToString::to_string).collect();
    let more = if moved.len() > NAMED_RANGES { " and others" } else { "" };
    named.join(", ") + more
}

/// Returns what to run after a restore that was killed: only its lock stands in the way of another.
fn cut_off(
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

fn lost(missing: &Missing, why: &str) -> String {
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
fn lack(from: Ctid, why: &SourceLack) -> String {
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
fn clean_up(ctid: Ctid, from: Option<Ctid>, is_locked: bool) -> String {
    let unlock = if is_locked { format!("`pct unlock {ctid}`, then ") } else { String::new() };
    let source = from.map_or_else(String::new, |from| {
        format!("; if {from} is still locked (disk), also `pct unlock {from}`")
    });
    format!(
        "make sure that no task is at work with it, then clean up: {unlock}`pct destroy {ctid}`, and free what `pvesm list STORAGE --vmid {ctid}` still shows{source}; pctd makes it again when it is gone"
    )
}

const fn privilege(unprivileged: bool) -> &'static str {
    if unprivileged { "unprivileged" } else { "privileged" }
}

fn list(keys: &[MpKey]) -> String {
    let names: Vec<String> = keys.iter().map(ToString::to_string).collect();
    names.join(", ")
}

fn list_owners(owners: &[(Ctid, HostIds)]) -> String {
    let each: Vec<String> = owners.iter().map(|(ctid, ids)| format!("{ctid}: {ids}")).collect();
    each.join(", ")
}

/// Returns what an admin does instead where a file system does not let ids be mapped.
fn mapping_advice(kind: &str) -> &'static str {
    match kind {
        "overlay" => "share a directory of the file system below it",
        "nfs" | "nfs4" => "map ids where it is exported",
        _ => "give its files to ids that the containers have, or set them in its mount options",
    }
}

/// Returns how a file system gets ACLs, or where they are to be had.
fn acl_advice(kind: &str, mount_point: &str) -> String {
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
fn ownership_advice(kind: &str) -> &'static str {
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
