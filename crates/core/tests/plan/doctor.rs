//! What `doctor` says of a container and of a path, word for word.

use pctd_core::acl::{Acl, Who};
use pctd_core::doctor::{Case, DoctorReport, diagnose, locate};
use pctd_core::idmap::IdMap;
use pctd_core::ids::HostIds;
use pctd_core::observed::{FoundEntry, ObservedEntry, Presence, SourceState};
use pctd_core::ownership::{EntryKind, EntryStat};

use crate::world::{World, ctid};

const CONF: &str = "rootfs: local:100/a.raw\nunprivileged: 1\nmp0: /tank/data,mp=/data\n";

fn world() -> World {
    World::one_mount().here(100, CONF).settle()
}

fn found(kind: EntryKind, uid: u32, gid: u32, mode: u32) -> FoundEntry {
    let ids = HostIds::new(uid, gid);
    FoundEntry {
        stat: EntryStat { kind, ids, mode },
        acl: Acl::none(),
        default_acl: Acl::none(),
        below_mount: None,
    }
}

/// An ACL that names a group.
fn shared() -> Acl<u32> {
    let entries = [(Who::Owner, "rw-"), (Who::OwningGroup, "r-x"), (Who::Group(7), "rwx")];
    Acl::new(entries.map(|(who, may)| (who, may.parse().unwrap())))
}

fn file(uid: u32, gid: u32) -> ObservedEntry {
    ObservedEntry::Found(found(EntryKind::File, uid, gid, 0o644))
}

fn ask(world: &World, path: Option<(&str, &ObservedEntry)>) -> DoctorReport {
    let locate = |path| locate(&world.desired, &world.snapshot, ctid(100), path).unwrap();
    let located = path.map(|(path, _)| locate(path));
    let plans = world.plans();
    diagnose(&Case {
        desired: &world.desired,
        config_error: None,
        snapshot: &world.snapshot,
        plans: &plans,
        ctid: ctid(100),
        path: located.as_ref().zip(path.map(|(_, found)| found)),
    })
}

/// Returns each sentence with its name, problems marked.
fn says(world: &World, path: Option<(&str, ObservedEntry)>) -> Vec<String> {
    let report = match path {
        Some((path, found)) => ask(world, Some((path, &found))),
        None => ask(world, None),
    };
    let findings = report.findings.into_iter();
    let line = |f: pctd_core::doctor::Finding| {
        format!("{}{}: {}", if f.problem { "! " } else { "" }, f.reason, f.message)
    };
    findings.map(line).collect()
}

const DEFAULT: &str = "IdMap: container 100 is unprivileged, with Proxmox's default id map: container ids 0-65535 = host 100000-165535";
const MOUNT: &str = "Mount: /tank/data/x is /data/x in the container, through mp0";
const VOLUME: &str = "Volume: it belongs to volume data (/tank/data): owner container_root, directories keep, files keep, enforce adopt";

#[test]
fn a_container_in_order_has_its_map_and_its_mounts() {
    let report = ask(&world(), None);
    assert!(report.is_well(), "{report:#?}");
    assert_eq!(says(&world(), None), [DEFAULT]);
    let mount = &report.mounts[0];
    assert_eq!(mount.volume.as_ref().map(ToString::to_string).as_deref(), Some("data"));
    assert!(!mount.pending && !mount.going && !mount.own_idmap);
}

#[test]
fn an_entry_that_the_container_sees_as_nobodys_would_be_adopted() {
    let expected = [
        DEFAULT,
        MOUNT,
        "! SeesNobody: /tank/data/x (file, mode 0644) is 1000:1000 on the host, so container 100 sees nobody",
        VOLUME,
        "! Differs: `pctd apply data` would give it to 100000:100000",
    ];
    // The same entry by its path on the host and in the container.
    for path in ["/tank/data/x", "/data/x", "//data//x/"] {
        assert_eq!(says(&world(), Some((path, file(1000, 1000)))), expected, "{path}");
    }
    let report = ask(&world(), Some(("/data/x", &file(1000, 1000))));
    let entry = report.path.unwrap().entry.unwrap();
    assert_eq!((entry.uid_inside, entry.new_owner), (None, Some(HostIds::new(100_000, 100_000))));
}

#[test]
fn what_a_service_owns_is_left_to_it_and_what_root_owns_is_as_declared() {
    let seen = |whose: &str| format!("SeesOwner: /tank/data/x (file, mode 0644) is {whose}");
    let theirs = seen("100033:100033 on the host, which container 100 sees as 33:33");
    let left = "LeftAlone: it belongs to an id of a container that mounts the volume, and that is left alone";
    assert_eq!(
        says(&world(), Some(("/data/x", file(100_033, 100_033)))),
        [DEFAULT, MOUNT, &theirs, VOLUME, left]
    );
    let own = seen("100000:100000 on the host, which container 100 sees as 0:0");
    let left = "LeftAlone: it is as declared; what containers do to its mode is left alone";
    assert_eq!(
        says(&world(), Some(("/data/x", file(100_000, 100_000)))),
        [DEFAULT, MOUNT, &own, VOLUME, left]
    );
}

#[test]
fn a_hole_of_the_map_and_half_of_an_owner_are_named() {
    let conf = format!(
        "{CONF}lxc.idmap: u 0 100000 1000\nlxc.idmap: u 1000 1000 1\nlxc.idmap: u 1001 101001 64535\nlxc.idmap: g 0 100000 65536\n"
    );
    let world = World::one_mount().here(100, &conf).settle();
    let said = says(&world, Some(("/data/x", file(1000, 101_000))));
    assert_eq!(
        said[0],
        "IdMap: container 100 is unprivileged, with an id map of its own (lxc.idmap): container uids 0-999 = host 100000-100999, 1000 = host 1000, 1001-65535 = host 101001-165535; gids 0-65535 = host 100000-165535"
    );
    assert!(said[2].ends_with("which container 100 sees as 1000:1000"), "{said:#?}");
    let said = says(&world, Some(("/data/x", file(101_000, 101_000))));
    assert!(said[2].ends_with("so container 100 sees nobody:1000"), "{said:#?}");

    let holey = format!("{CONF}lxc.idmap: u 0 100000 1000\nlxc.idmap: g 0 100000 1000\n");
    let said = says(&World::one_mount().here(100, &holey).settle(), None);
    assert_eq!(
        said[1],
        "IdMapHoles: container ids 1000-65535 have no id on the host, and whatever would be theirs is nobody's"
    );
}

#[test]
fn a_privileged_container_sees_everything_as_it_is() {
    let conf = CONF.replace("unprivileged: 1\n", "");
    let world = World::one_mount().here(100, &conf);
    let said = says(&world, Some(("/data/x", file(1000, 1000))));
    assert_eq!(said[0], "IdMap: container 100 is privileged: its ids are the host's");
    assert!(said[2].ends_with("which container 100 sees as 1000:1000"), "{said:#?}");
}

#[test]
fn the_map_of_the_mount_counts_for_what_is_on_disk_behind_it() {
    let conf = CONF.replace("mp=/data", "mp=/data,idmap=u:1000:5000:1;g:1000:5000:1");
    let world = World::one_mount().here(100, &conf);
    let said = says(&world, Some(("/data/x", file(5000, 5000))));
    assert_eq!(
        said[2],
        "MountIdMap: mp0 has an id map of its own (idmap=), which counts for what is on disk: root inside is 100000:100000 on disk, 33 is 100033:100033, 1000 is 5000:5000"
    );
    assert!(said[3].ends_with("which container 100 sees as 1000:1000"), "{said:#?}");
    let conf = CONF.replace("mp=/data", "mp=/data,idmap=passthrough");
    let world = World::one_mount().here(100, &conf);
    let said = says(&world, Some(("/data/x", file(5000, 5000))));
    assert!(said[3].ends_with("which container 100 sees as 5000:5000"), "{said:#?}");
}

/// A world in which LXC mounts the volume, with this line in the conf of 100.
fn by_lxc(fields: &str, line: &str) -> World {
    let config = r#"{"settings": {"seed_defaults": false}, "shared_volumes": {"data": {
        "host_path": "/tank/data", "owner": "container_root", "mechanism": "lxc", FIELDS
        "mounts": {"100": {"path": "/data", "recursive": true}}}}}"#;
    let conf = format!("{}{line}\n", CONF.replace("mp0: /tank/data,mp=/data\n", ""));
    World::new(&config.replace("FIELDS", fields)).here(100, &conf)
}

const SAME: &str =
    "lxc.mount.entry: /tank/data data none rbind,nosuid,create=dir,idmap=container 0 0";

#[test]
fn raw_lines_are_mounts_as_well_and_so_are_their_maps() {
    let world = by_lxc(r#""disk_ids": "passthrough","#, SAME).wrote_lines(100, &[SAME]).settle();
    let world = world.dir("data", |dir| dir.ids = HostIds::new(0, 0));
    let report = ask(&world, None);
    assert_eq!(says(&world, None), [DEFAULT]);
    let mount = &report.mounts[0];
    assert_eq!((mount.key, mount.line.as_deref(), mount.own_idmap), (None, Some(SAME), true));
    assert_eq!(mount.ids.as_deref(), Some("every id inside is the same on disk"));
    let said = says(&world, Some(("/data/x", file(33, 33))));
    assert_eq!(
        said,
        [
            DEFAULT.to_owned(),
            format!("Mount: /tank/data/x is /data/x in the container, through `{SAME}`"),
            "MountIdMap: the line has an id map of its own (idmap=), which counts for what is on disk: every id inside is the same on disk".to_owned(),
            "SeesOwner: /tank/data/x (file, mode 0644) is 33:33 on the host, which container 100 sees as 33:33".to_owned(),
            VOLUME.to_owned(),
            "DiskIds: its `disk_ids` are those of all its containers: every id inside is the same on disk".to_owned(),
            "LeftAlone: it belongs to an id of a container that mounts the volume, and that is left alone".to_owned(),
        ]
    );
    let report = ask(&world, Some(("/data/x", &file(33, 33))));
    assert_eq!(report.path.unwrap().mount.as_deref(), Some(SAME));
    // What is mounted below is there, too.
    let below = Some("/tank/data/sub".to_owned());
    let nested = FoundEntry { below_mount: below, ..found(EntryKind::File, 33, 33, 0o644) };
    let said = says(&world, Some(("/data/sub/x", ObservedEntry::Found(nested))));
    assert!(said[3].starts_with("SeesOwner: "), "{said:#?}");
}

#[test]
fn a_line_of_somebody_else_counts_by_its_own_map_and_one_that_waits_not_yet() {
    let foreign = SAME.replace("rbind,", "bind,").replace("/tank/data data", "/srv/x srv/x");
    let theirs = |line: &str| World::one_mount().here(100, &format!("{CONF}{line}\n"));
    let said = says(&theirs(&foreign), Some(("/srv/x/y", file(33, 33))));
    assert!(said[3].ends_with("which container 100 sees as 33:33"), "{said:#?}");
    let plain = foreign.replace(",idmap=container", "");
    let said = says(&theirs(&plain), Some(("/srv/x/y", file(100_033, 100_033))));
    assert!(said[2].ends_with("which container 100 sees as 33:33"), "{said:#?}");
    let unknown = foreign.replace("=container", "=/run/ns");
    let said = says(&theirs(&unknown), Some(("/srv/x/y", file(33, 33))));
    assert_eq!(
        said[2..4],
        [
            "! MountIdMap: the line takes its ids from the user namespace /run/ns, so whom the container sees is not known here",
            "Entry: /srv/x/y (file, mode 0644) is 33:33 on the host",
        ]
    );
    let privileged = theirs(&foreign).container(100, |container| {
        let conf = CONF.replace("unprivileged: 1\n", "") + &foreign + "\n";
        container.conf = pctd_core::conf::Conf::parse(ctid(100), conf.as_bytes()).unwrap();
    });
    let said = says(&privileged, Some(("/srv/x/y", file(33, 33))));
    assert!(said[2].ends_with("with which a privileged container does not start"), "{said:#?}");
    // A running container has what it was started with.
    let before = SAME.replace("nosuid,create=dir,idmap=container", "create=dir");
    let world = by_lxc(r#""disk_ids": "passthrough","#, SAME)
        .wrote_lines(100, &[SAME, &before])
        .running(100)
        .edited(100, 1, &[SAME], &[&before]);
    let report = ask(&world, None);
    let states: Vec<(bool, bool, bool)> =
        report.mounts.iter().map(|mount| (mount.pending, mount.going, mount.own_idmap)).collect();
    assert_eq!(states, [(false, true, false), (true, false, true)]);
    let said = says(&world, Some(("/data/x", file(100_033, 100_033))));
    assert!(
        said.iter().any(|line| line.ends_with("which container 100 sees as 33:33")),
        "{said:#?}"
    );
}

#[test]
fn a_mount_that_lxc_is_to_make_and_has_not_is_said_with_its_ids() {
    let world = by_lxc(r#""disk_ids": "passthrough","#, "").settle();
    let said = says(&world, None);
    assert_eq!(
        said[1],
        format!(
            "! MountDiffers: /tank/data is not mounted as declared: `pctd apply 100` would add `{SAME}`; then every id inside is the same on disk"
        )
    );
    let refused = by_lxc(r#""disk_ids": "0 5000 65536","#, "");
    let said = says(&refused, None);
    assert!(said[1].starts_with("! IdmapImpossible: a mount that LXC makes can only"), "{said:#?}");
}

#[test]
fn a_map_that_waits_for_a_restart_is_said_and_the_one_in_force_counts() {
    let world = world().running_with(100, IdMap::privileged());
    // Running with the host's ids while its conf is unprivileged: it is starting, or is restarted soon.
    let said = says(&world, None);
    assert!(said[0].starts_with("! IdmapNotReady: "), "{said:#?}");
    let shifted = "lxc.idmap: u 0 200000 65536\nlxc.idmap: g 0 200000 65536\n";
    let world = World::one_mount().here(100, &format!("{CONF}{shifted}"));
    let world = world.running_with(100, IdMap::default_unprivileged());
    let said = says(&world, None);
    assert_eq!(said[0], DEFAULT);
    assert!(said[1].starts_with("! IdmapPendingRestart: "), "{said:#?}");
    assert!(
        said[1].ends_with("; after that: container ids 0-65535 = host 200000-265535"),
        "{said:#?}"
    );
}

#[test]
fn what_is_below_no_mount_or_waits_for_one_is_not_seen() {
    let said = says(&world(), Some(("/srv/x", file(1000, 1000))));
    assert_eq!(
        said[1..],
        [
            "! NotMounted: container 100 does not see /srv/x: it is below none of its mounts",
            "! SeesNobody: /srv/x (file, mode 0644) is 1000:1000 on the host, so container 100 sees nobody",
            "Advice: 1000:1000 in the container is 101000:101000 on the host: `chown -h 101000:101000 /srv/x` would make it so, or a volume that declares its owner",
            "NoVolume: /srv/x belongs to no volume of the configuration; pctd leaves it alone",
        ]
    );
    // `/data2` is not below `/data`.
    let said = says(&world(), Some(("/data2/x", file(0, 0))));
    assert!(said[1].starts_with("! NotMounted: "), "{said:#?}");

    let pending =
        "rootfs: local:100/a.raw\nunprivileged: 1\n[pve:pending]\nmp0: /tank/data,mp=/data\n";
    let said = says(&World::one_mount().here(100, pending), Some(("/data/x", file(0, 0))));
    let what = "! MountPending: /tank/data/x is /data/x in the container only after a restart, for which mp0 waits";
    assert!(said.iter().any(|line| line == what), "{said:#?}");

    let none = "rootfs: local:100/a.raw\nunprivileged: 1\n";
    let said = says(&World::one_mount().here(100, none).settle(), None);
    let what = "! MountDiffers: volume data is not mounted as declared: `pctd apply 100` would set mp0: /tank/data,mp=/data";
    assert_eq!(said, [DEFAULT, what]);
}

#[test]
fn holds_are_said_of_the_container_and_of_the_volume() {
    let foreign = CONF.replace("/tank/data", "/srv/other");
    let said = says(&World::one_mount().here(100, &foreign), None);
    assert!(said[1].starts_with("! ForeignMount: "), "{said:#?}");
    let world = world().source("data", SourceState::Unreadable("dead".to_owned()));
    let said = says(&world, Some(("/data/x", ObservedEntry::Unreadable("dead".to_owned()))));
    assert_eq!(said[2], "! PathUnreadable: dead");
    assert!(said[3].starts_with("! SourceUnreadable: "), "{said:#?}");
}

#[test]
fn what_is_not_judged_by_the_volume_is_said() {
    let config = |more: &str| {
        format!(
            r#"{{"settings": {{"seed_defaults": false}}, "shared_volumes": {{"data": {{
                "host_path": "/tank/data", "owner": "container_root", "dir_mode": "0775", "file_mode": "0664", {more}
                "mounts": {{"100": "/data"}}}}}}}}"#
        )
    };
    let last = |world: &World, found: FoundEntry| {
        says(world, Some(("/data/x", ObservedEntry::Found(found)))).pop().unwrap()
    };
    let theirs = found(EntryKind::File, 1000, 1000, 0o600);
    let adopt = World::new(&config("")).here(100, CONF).settle();
    let both = "! Differs: `pctd apply data` would give it to 100000:100000 and set mode 0664";
    assert_eq!(last(&adopt, theirs.clone()), both);
    let with_acl = says(
        &adopt,
        Some(("/data/x", ObservedEntry::Found(FoundEntry { acl: shared(), ..theirs.clone() }))),
    );
    let owner = "! Differs: `pctd apply data` would give it to 100000:100000";
    let acl = "AclKeepsMode: it has an access ACL, so its mode is left alone";
    assert_eq!(with_acl[4..], [acl, owner]);

    let flat = World::new(&config(r#""recurse": false,"#)).here(100, CONF).settle();
    let said = says(&flat, Some(("/data/x", ObservedEntry::Found(theirs.clone()))));
    let left =
        "LeftAlone: `recurse` is false: only the volume's directory itself is kept as declared";
    assert_eq!(said[4], left);
    assert!(
        said[5].starts_with("Advice: 1000:1000 in the container is 101000:101000"),
        "{said:#?}"
    );

    let always = World::new(&config(r#""enforce": "always","#)).here(100, CONF).settle();
    let service = found(EntryKind::File, 100_033, 100_033, 0o664);
    assert_eq!(last(&always, service), owner);
    let in_place = found(EntryKind::File, 100_000, 100_000, 0o664);
    assert_eq!(last(&always, in_place), "InPlace: it is as declared");

    let nested = FoundEntry { below_mount: Some("/tank/data/sub".to_owned()), ..theirs };
    let said = says(&adopt, Some(("/data/sub/x", ObservedEntry::Found(nested))));
    assert!(
        said[3].starts_with("! NestedMountInvisible: /tank/data/sub is a mount of its own"),
        "{said:#?}"
    );
    assert!(!said.iter().any(|line| line.contains("Differs")), "{said:#?}");
}

#[test]
fn a_path_that_leads_nowhere_is_named_and_nonsense_refused() {
    let at = || "/tank/data/x".to_owned();
    let said = says(&world(), Some(("/data/x/y", ObservedEntry::Missing { at: at() })));
    assert_eq!(said[2], "! PathMissing: /tank/data/x does not exist on the host");
    let said = says(&world(), Some(("/data/x/y", ObservedEntry::Link { at: at() })));
    assert!(said[2].starts_with("! PathUnsafe: /tank/data/x is a symbolic link"), "{said:#?}");
    for path in ["", "x", "data/x", "/data/../etc", ".."] {
        let world = world();
        assert!(locate(&world.desired, &world.snapshot, ctid(100), path).is_err(), "{path}");
    }
}

#[test]
fn a_container_that_is_not_here_is_said_to_be_elsewhere() {
    for (presence, said) in [
        (Presence::Absent, "! NotHere: there is no container 100"),
        (Presence::Vm, "! NotHere: 100 is a virtual machine"),
        (Presence::OnNode("b".to_owned()), "! NotHere: container 100 is on node b"),
    ] {
        let world = World::one_mount().presence(100, presence);
        assert_eq!(says(&world, None)[0], said);
    }
}

#[test]
fn a_group_and_a_default_acl_are_explained() {
    let world = World::new(
        r#"{"settings": {"seed_defaults": false}, "shared_volumes": {"data": {
            "host_path": "/tank/data", "group": "110000", "dir_mode": "2775", "file_mode": "0664",
            "default_acl": "g:7:rwX", "mounts": {"100": "/data"}}}}"#,
    )
    .here(100, CONF)
    .settle();
    let declared = world.plans().volumes.into_values().next().unwrap().rule.unwrap();
    let acl = declared.default_acl.unwrap();
    let says = |found: FoundEntry| says(&world, Some(("/data/x", ObservedEntry::Found(found))));
    let dir = |gid, default_acl| {
        let found = found(EntryKind::Directory, 100_033, gid, 0o2775);
        FoundEntry { default_acl, ..found }
    };
    let said = says(dir(100_033, Acl::none()));
    assert_eq!(
        said[3..],
        [
            "Volume: it belongs to volume data (/tank/data): owner keep, group 110000 (setgid), \
             directories 2775, files 0664, default ACL u::rwx,g::rwx,g:7:rwx,o::r-x, enforce always",
            "! Differs: `pctd apply data` would give it to 100033:110000 and set its default ACL to \
             u::rwx,g::rwx,g:7:rwx,o::r-x",
        ]
    );
    assert_eq!(says(dir(110_000, acl.clone())).last().unwrap(), "InPlace: it is as declared");

    // Of two files with an ACL, the one that has it from its directory is held to the declared mode.
    let with = |acl| FoundEntry { acl, ..found(EntryKind::File, 100_033, 110_000, 0o600) };
    let differs = "! Differs: `pctd apply data` would set mode 0664";
    assert_eq!(says(with(acl)).last().unwrap(), differs);
    let kept = says(with(shared()));
    assert!(kept.last().unwrap().starts_with("AclKeepsMode"), "{kept:#?}");
}
