//! What is at a path: whose it is on disk, whom the container sees, and what pctd would do about it.

use super::{Bind, Case, DoctorEntry, DoctorPath, DoctorReport, Located, MountMap};
use crate::desired::{Enforce, Owner, Volume};
use crate::idmap::{IdKind, IdMap};
use crate::ids::{HostIds, Key};
use crate::mount_map;
use crate::observed::{FoundEntry, ObservedEntry};
use crate::ownership::{Change, EntryKind, OwnershipRule, Place, Scope};
use crate::plan::space_of;

/// Explains a path.
pub(super) fn explain(
    report: &mut DoctorReport,
    case: &Case<'_>,
    map: Option<&IdMap>,
    located: &Located,
    found: &ObservedEntry,
) {
    let host = located.host();
    whereabouts(report, case, map, located, &host);
    let mut path = DoctorPath {
        asked: located.asked.clone(),
        host: host.clone(),
        inside: located.inside.clone(),
        mount: located.mount.as_ref().map(|bind| bind.by.to_string().replace('`', "")),
        volume: located.volume.clone(),
        entry: None,
    };
    let volume = located.volume.as_ref().and_then(|name| case.desired.volumes.get(name));
    match found {
        ObservedEntry::Found(found) => {
            let map = map.and_then(|map| match &located.mount {
                Some(bind) => bind.image(map),
                None => Some(map.clone()),
            });
            let mut entry = seen(report, case, map.as_ref(), located, found);
            let change = match volume {
                Some(volume) => declared(report, case, volume, located, found),
                None => None,
            };
            advise(report, map.as_ref(), (volume, change), &host, &entry);
            entry.new_owner = change.and_then(|change| change.owner);
            entry.new_mode = change.and_then(|change| change.mode).map(octal);
            let acl = change.and_then(|change| change.default_acl);
            entry.new_default_acl = acl.map(ToString::to_string);
            path.entry = Some(entry);
        }
        ObservedEntry::Missing { at } => {
            report.warn("PathMissing", format!("{at} does not exist on the host"));
        }
        ObservedEntry::Link { at } => {
            let what = format!(
                "{at} is a symbolic link, which is not followed here; ask about the path it leads to"
            );
            report.warn("PathUnsafe", what);
        }
        ObservedEntry::Unreadable(why) => report.warn("PathUnreadable", why.clone()),
    }
    if let Some(volume) = volume {
        for hold in case.plans.holds(&Key::Volume(volume.name.clone())) {
            report.held(&hold);
        }
    } else {
        let what =
            format!("{host} belongs to no volume of the configuration; pctd leaves it alone");
        report.say("NoVolume", what);
    }
    report.path = Some(path);
}

fn whereabouts(
    report: &mut DoctorReport,
    case: &Case<'_>,
    own: Option<&IdMap>,
    located: &Located,
    host: &str,
) {
    let ctid = case.ctid;
    match (&located.inside, &located.mount) {
        (Some(inside), Some(bind)) if bind.pending => {
            let what = format!(
                "{host} is {inside} in the container only after a restart, for which {} waits",
                bind.by
            );
            report.warn("MountPending", what);
        }
        (Some(inside), Some(bind)) => {
            let what = format!("{host} is {inside} in the container, through {}", bind.by);
            report.say("Mount", what);
        }
        _ => {
            let what =
                format!("container {ctid} does not see {host}: it is below none of its mounts");
            report.warn("NotMounted", what);
        }
    }
    if let (Some(bind), Some(own)) = (&located.mount, own) {
        map_of_mount(report, bind, own);
    }
}

/// Says what a map of the mount does to the ids of the container.
fn map_of_mount(report: &mut DoctorReport, bind: &Bind, own: &IdMap) {
    let by = &bind.by;
    match (&bind.map, bind.image(own)) {
        (MountMap::None, _) | (MountMap::Known(_), None) => {}
        (_, Some(_)) if own.same_mapping(&IdMap::privileged()) => {
            let what = match by.key() {
                Some(key) => format!("{key} has an id map (idmap=), which Proxmox ignores in a privileged container"),
                None => "the line has an id map (idmap=), with which a privileged container does not start".to_owned(),
            };
            report.warn("MountIdMap", what);
        }
        (_, Some(image)) => {
            let what = by.key().map_or_else(|| "the line".to_owned(), |key| key.to_string());
            let words = mount_map::describe(&image);
            let what = format!(
                "{what} has an id map of its own (idmap=), which counts for what is on disk: {words}"
            );
            report.say("MountIdMap", what);
        }
        (MountMap::Unknown(namespace), None) => {
            let what = format!(
                "the line takes its ids from the user namespace {namespace}, so whom the container sees is not known here"
            );
            report.warn("MountIdMap", what);
        }
    }
}

/// Says whose the entry is, and whom the container sees.
fn seen(
    report: &mut DoctorReport,
    case: &Case<'_>,
    map: Option<&IdMap>,
    located: &Located,
    found: &FoundEntry,
) -> DoctorEntry {
    let (stat, host) = (&found.stat, located.host());
    let kind = match stat.kind {
        EntryKind::Directory => "directory",
        EntryKind::File => "file",
        EntryKind::Symlink => "symlink",
        EntryKind::Special => "special",
    };
    let mode = octal(stat.mode);
    let inside = |kind, id| map.and_then(|map| map.container_id(kind, id));
    let entry = DoctorEntry {
        kind: kind.to_owned(),
        ids: stat.ids,
        uid_inside: inside(IdKind::User, stat.ids.uid),
        gid_inside: inside(IdKind::Group, stat.ids.gid),
        new_owner: None,
        new_mode: None,
        default_acl: (!found.default_acl.is_none()).then(|| found.default_acl.to_string()),
        new_default_acl: None,
        mode,
    };
    let is = format!("{host} ({kind}, mode {}) is {} on the host", entry.mode, stat.ids);
    let is_whole = located.mount.as_ref().is_some_and(|bind| bind.recursive);
    if let Some(at) = found.below_mount.as_ref().filter(|_| !is_whole) {
        let what = format!(
            "{at} is a mount of its own, which is not mounted along: the container sees the \
             directory underneath, and pctd does not enter it"
        );
        report.say("Entry", is);
        report.warn("NestedMountInvisible", what);
    } else if map.is_none() {
        report.say("Entry", is);
    } else if let (Some(uid), Some(gid)) = (entry.uid_inside, entry.gid_inside) {
        report.say("SeesOwner", format!("{is}, which container {} sees as {uid}:{gid}", case.ctid));
    } else {
        let name = |id: Option<u32>| id.map_or_else(|| "nobody".to_owned(), |id| id.to_string());
        let (uid, gid) = (name(entry.uid_inside), name(entry.gid_inside));
        let sees = if uid == gid { uid } else { format!("{uid}:{gid}") };
        report.warn("SeesNobody", format!("{is}, so container {} sees {sees}", case.ctid));
    }
    entry
}

/// Says what the volume declares for the entry; returns what pctd would change.
fn declared<'r>(
    report: &mut DoctorReport,
    case: &Case<'r>,
    volume: &Volume,
    located: &Located,
    found: &FoundEntry,
) -> Option<Change<'r>> {
    let name = &volume.name;
    let group = volume.group.as_ref().map(|group| format!(", group {group} (setgid)"));
    let acl = volume.default_acl.as_ref().map(|acl| format!(", default ACL {acl}"));
    report.say(
        "Volume",
        format!(
            "it belongs to volume {name} ({}): owner {}{}, directories {}, files {}{}, enforce {}",
            volume.host_path,
            owner(&volume.owner),
            group.unwrap_or_default(),
            volume.dir_mode,
            volume.file_mode,
            acl.unwrap_or_default(),
            enforce(volume.enforce),
        ),
    );
    match space_of(case.desired, case.snapshot, volume) {
        Some(Ok(space)) => {
            let words = mount_map::describe(&space);
            report
                .say("DiskIds", format!("its `disk_ids` are those of all its containers: {words}"));
        }
        Some(Err(hold)) => report.held(&hold),
        None => {}
    }
    let rule = case.plans.volumes.get(name).and_then(|plan| plan.rule.as_ref())?;
    let host = located.host();
    let below = host.strip_prefix(&volume.host_path).unwrap_or_default().trim_start_matches('/');
    let place = match below.rsplit('/').next() {
        None | Some("") => Place::Root,
        Some(name) => Place::Below(name.as_bytes()),
    };
    if place != Place::Root && found.below_mount.is_some() {
        return None;
    }
    if place != Place::Root && !rule.looks_below() {
        report.say("LeftAlone", why_not_below(rule).to_owned());
        return None;
    }
    let default_acl =
        rule.default_acl_for(place, &found.stat).filter(|acl| **acl != found.default_acl);
    let change = rule.decide(place, &found.stat).unwrap_or_default();
    // What a chown takes and is given again is no difference.
    let mode = change.mode.filter(|mode| *mode != found.stat.mode);
    let change = Change { mode, default_acl, ..change };
    if change == Change::default() {
        in_place(report, rule, place, found);
        return None;
    }
    let change = if change.mode.is_some() && rule.keeps_mode(&found.acl) {
        report.say("AclKeepsMode", "it has an access ACL, so its mode is left alone");
        Change { mode: None, ..change }
    } else {
        change
    };
    let what = would(change)?;
    report.warn("Differs", format!("`pctd apply {name}` would {what}"));
    Some(change)
}

fn would(change: Change<'_>) -> Option<String> {
    let owner = change.owner.map(|ids| format!("give it to {ids}"));
    let mode = change.mode.map(|mode| format!("set mode {}", octal(mode)));
    let acl = change.default_acl.map(|acl| format!("set its default ACL to {acl}"));
    let parts: Vec<String> = owner.into_iter().chain(mode).chain(acl).collect();
    (!parts.is_empty()).then(|| parts.join(" and "))
}

const fn why_not_below(rule: &OwnershipRule) -> &'static str {
    if rule.recurse {
        "nothing below the volume's directory is judged while an id map is unknown"
    } else {
        "`recurse` is false: only the volume's directory itself is kept as declared"
    }
}

fn in_place(report: &mut DoctorReport, rule: &OwnershipRule, place: Place<'_>, found: &FoundEntry) {
    let ids = found.stat.ids;
    let is_foreign = rule.ids_for(ids) != ids;
    let is_theirs = |maps: &[IdMap]| maps.iter().any(|map| rule.can_own(map, ids));
    match &rule.scope {
        Scope::Foreign(maps) if place != Place::Root && is_theirs(maps) => {
            let whose = if is_foreign {
                "it belongs to an id of a container that mounts the volume, and that is left alone"
            } else {
                "it is as declared; what containers do to its mode is left alone"
            };
            report.say("LeftAlone", whose);
        }
        _ => report.say("InPlace", "it is as declared"),
    }
}

/// Says what helps where nobody is seen and pctd does nothing about it.
fn advise(
    report: &mut DoctorReport,
    map: Option<&IdMap>,
    (volume, change): (Option<&Volume>, Option<Change<'_>>),
    host: &str,
    entry: &DoctorEntry,
) {
    let Some(map) = map else { return };
    let sees_nobody = entry.uid_inside.is_none() || entry.gid_inside.is_none();
    if !sees_nobody || change.is_some_and(|change| change.owner.is_some()) {
        return;
    }
    let HostIds { uid, gid } = entry.ids;
    if let Some(meant) = map.host_ids(uid, gid) {
        let how = match volume {
            None => ", or a volume that declares its owner",
            Some(volume) if volume.disk_ids.is_none() => {
                "; `disk_ids` of the volume changes nothing on disk and makes all its ids those of its containers"
            }
            Some(_) => "",
        };
        report.say(
            "Advice",
            format!("{uid}:{gid} in the container is {meant} on the host: `chown -h {meant} {host}` would make it so{how}"),
        );
    }
}

fn owner(owner: &Owner) -> String {
    match owner {
        Owner::Keep => "keep".to_owned(),
        Owner::Container { uid: 0, gid: 0 } => "container_root".to_owned(),
        Owner::Container { uid, gid } => format!("container:{uid}:{gid}"),
        Owner::Host { user, group: Some(group) } => format!("{user}:{group}"),
        Owner::Host { user, group: None } => user.clone(),
    }
}

const fn enforce(enforce: Enforce) -> &'static str {
    match enforce {
        Enforce::Adopt => "adopt",
        Enforce::Once => "once",
        Enforce::Always => "always",
    }
}

fn octal(mode: u32) -> String {
    format!("{mode:04o}")
}
