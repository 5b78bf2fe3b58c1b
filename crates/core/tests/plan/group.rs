//! Cases of a group that the entries of a volume share, and of default ACLs.

use pctd_core::idmap::IdMap;
use pctd_core::ids::HostIds;
use pctd_core::observed::{Audit, SourceState};
use pctd_core::ownership::{OwnershipRule, Scope};
use pctd_core::plan::{Hold, Notice, Step};

use crate::cases::{Case, case};
use crate::world::{SHIFTED, UNPRIVILEGED, World, ctid, file_system, volume};

/// A volume mounted in 900, with Proxmox's map, and 901, shifted to 200000; a group of the host.
fn shared(fields: &str) -> World {
    let text = r#"{"settings": {"seed_defaults": false}, "shared_volumes": {"data": {
        "host_path": "/tank/data", FIELDS "mounts": {"900": "/data", "901": "/data"}}}}"#;
    World::new(&text.replace("FIELDS", fields))
        .here(900, &format!("{UNPRIVILEGED}mp0: /tank/data,mp=/data\n"))
        .here(901, &format!("{SHIFTED}mp0: /tank/data,mp=/data\n"))
        .with(|world| {
            let groups = [("media".to_owned(), 110_000), ("users".to_owned(), 100)];
            world.snapshot.accounts.groups.extend(groups);
        })
}

/// The directory is as declared, and a walk found nothing.
fn in_place(world: World, gid: u32) -> World {
    world.dir("data", |dir| {
        dir.ids = HostIds::new(100_000, gid);
        dir.mode = 0o2775;
    })
}

const MEDIA: &str = r#""group": "media", "dir_mode": "0775", "file_mode": "0664","#;
const ACL: &str = r#""default_acl": "g::rwX","#;

fn with_acl() -> World {
    in_place(shared(&format!("{MEDIA}{ACL}")), 110_000)
}

fn no_acl(world: World) -> World {
    world.with(|world| {
        let data = world.snapshot.volumes.get_mut(&volume("data")).unwrap();
        data.no_acl = Some("Operation not supported".to_owned());
    })
}

fn found(world: World, audit: Audit) -> World {
    world.audit("data", Some(Audit { entries: 10, ..audit }))
}

pub(crate) fn all() -> Vec<Case> {
    let mine = || shared(r#""group": "container:10000","#);
    let wrong = Audit { changes: 3, owners: 2, default_acls: 3, ..Audit::default() };
    let acls_wrong = || Audit { changes: 3, default_acls: 3, ..Audit::default() };
    let refused = |world: World| {
        world.with(|world| {
            let why = "setting the default ACL: Operation not supported".to_owned();
            world.snapshot.requests.refused.insert(volume("data"), why);
        })
    };
    let missing = |world: World| {
        world.source("data", SourceState::Missing { file_system: file_system("ext4:1") })
    };
    vec![
        case("a group that all entries have", in_place(shared(MEDIA), 110_000), &[]),
        case(
            "one that they have not",
            found(shared(MEDIA), Audit { changes: 4, owners: 4, modes: 1, ..Audit::default() }),
            &["data own keep:110000 4/10"],
        ),
        case(
            "with an owner it takes the place of the owner's group",
            found(
                shared(&format!("\"owner\": \"container_root\", \"owner_ctid\": \"900\", {MEDIA}")),
                Audit { changes: 1, owners: 1, ..Audit::default() },
            ),
            &["data own 100000:110000 1/10"],
        ),
        case("no such group", shared(r#""group": "gone","#), &["data ! UnknownAccount"]),
        case(
            "no such group in an ACL",
            shared(r#""dir_mode": "2775", "default_acl": "g:gone:rwX","#),
            &["data ! UnknownAccount"],
        ),
        case("a group inside that is two on the host", mine(), &["data ! OwnerConflict"]),
        case(
            "one of them decides",
            in_place(shared(r#""group": "container:10000", "owner_ctid": "900","#), 110_000),
            &[],
        ),
        case(
            "one outside of the map",
            shared(r#""group": "container:70000", "owner_ctid": "900","#),
            &["data ! IdUnmapped"],
        ),
        case(
            "nobody here to say what it is",
            mine()
                .presence(900, pctd_core::observed::Presence::Absent)
                .presence(901, pctd_core::observed::Presence::Absent),
            &[],
        ),
        case(
            "with ids on disk it is one for all",
            in_place(
                shared(r#""group": "container:10000", "disk_ids": "0 100000 65536","#),
                110_000,
            ),
            &["901 ~mp0: /tank/data,mp=/data,idmap=u:0:100000:65536;g:0:100000:65536"],
        ),
        case(
            "and has to be among them",
            shared(r#""group": "users", "disk_ids": "0 100000 65536","#),
            &[
                "data ! IdmapImpossible",
                "901 ~mp0: /tank/data,mp=/data,idmap=u:0:100000:65536;g:0:100000:65536",
            ],
        ),
        case("a default ACL that all directories have", with_acl(), &[]),
        case("one that they have not", found(with_acl(), wrong), &["data own keep:110000 3/10"]),
        case(
            "a file system without ACLs: nothing is done",
            no_acl(found(with_acl(), Audit { changes: 4, owners: 4, ..Audit::default() })),
            &["data ! AclUnsupported"],
        ),
        case(
            "one that only says so when an ACL is set",
            refused(found(with_acl(), acls_wrong())),
            &["data ! AclUnsupported"],
        ),
        case(
            "one that refuses owners as well",
            refused(found(with_acl(), Audit { changes: 5, owners: 5, ..Audit::default() })),
            &["data ! OwnershipUnsupported"],
        ),
        case(
            "a directory that is made",
            missing(with_acl()),
            &["data mkdir /tank/data", "data own keep:110000 1/1"],
        ),
        case(
            "one that would be made where there are no ACLs",
            no_acl(missing(with_acl())),
            &["data mkdir /tank/data", "data ! AclUnsupported"],
        ),
        case(
            "an ACL alone is something to keep",
            found(shared(&format!("\"dir_mode\": \"2775\", {ACL}")), acls_wrong())
                .dir("data", |dir| dir.mode = 0o2775),
            &["data own keep 3/10"],
        ),
    ]
}

fn rule(world: &World) -> OwnershipRule {
    world.plans().volumes.remove(&volume("data")).unwrap().rule.unwrap()
}

#[test]
fn without_an_owner_every_entry_has_the_group() {
    let rule = rule(&shared(MEDIA));
    assert_eq!((rule.owner, rule.group, rule.scope), (None, Some(110_000), Scope::All));
}

#[test]
fn an_acl_has_ids_in_the_place_of_names() {
    let declared =
        r#""dir_mode": "2770", "file_mode": "0660", "default_acl": "g:media:rwX,u:nobody:rX","#;
    let acl = rule(&shared(declared)).default_acl.unwrap();
    assert_eq!(acl.to_string(), "u::rwx,u:65534:r-x,g::rwx,g:110000:rwx,o::---");
}

#[test]
fn a_group_that_nobody_inside_can_be_in_is_said() {
    let said = |world: World| -> Vec<Notice> {
        world.plans().volumes.remove(&volume("data")).unwrap().notices
    };
    let outside = |gid, containers: &[u32]| Notice::GroupOutside {
        gid,
        containers: containers.iter().map(|id| ctid(*id)).collect(),
    };
    assert_eq!(said(shared(r#""group": "users","#)), [outside(100, &[900, 901])]);
    assert_eq!(said(shared(MEDIA)), [outside(110_000, &[901])]);
    let mapped = shared(r#""group": "media", "disk_ids": "0 100000 65536","#);
    assert_eq!(said(mapped), []);
}

#[test]
fn what_was_done_before_there_were_groups_is_done() {
    // Of a version without them; what it rests on may not change where none is declared.
    let declared = r#""owner": "100000:100000", "dir_mode": "0755", "file_mode": "0644","#;
    let plan = shared(declared).plans().volumes.remove(&volume("data")).unwrap();
    let records = format!("{:?}", plan.records);
    assert!(records.contains("d0baf9b85b3a0540057268309750fc53ec329fe0"), "{records}");
}

#[test]
fn what_changes_the_declaration_is_known_as_another_one() {
    let declared = |fields: &str| {
        let world = shared(fields);
        format!("{:?}", world.plans().volumes.remove(&volume("data")).unwrap().records)
    };
    let dirs = r#""dir_mode": "2775","#;
    let all = [
        declared(dirs),
        declared(&format!("{dirs}\"group\": \"users\",")),
        declared(&format!("{dirs}\"group\": \"100000\",")),
        declared(&format!("{dirs}{ACL}")),
        declared(&format!("{dirs}\"default_acl\": \"none\",")),
    ];
    for (at, one) in all.iter().enumerate() {
        assert!(all[at + 1..].iter().all(|other| other != one), "{one}");
    }
}

#[test]
fn a_file_system_says_how_it_gets_acls() {
    let message = |kind: &str| {
        let world =
            no_acl(with_acl()).dir("data", |dir| kind.clone_into(&mut dir.file_system.kind));
        match world.plans().volumes[&volume("data")].holds.as_slice() {
            [hold @ Hold::AclUnsupported { .. }] => hold.to_string(),
            other => panic!("{other:?}"),
        }
    };
    let zfs = message("zfs");
    assert!(
        zfs.contains("`zfs set acltype=posixacl xattr=sa $(zfs list -Ho name /tank)`"),
        "{zfs}"
    );
    assert!(message("ext4").contains("`mount -o remount,acl /tank`"));
    assert!(message("nfs4").contains("where it is exported"));
    assert!(message("vfat").contains("such as ext4, xfs or ZFS"));
}

#[test]
fn a_step_says_what_it_sets() {
    let wrong = Audit { changes: 1, owners: 1, default_acls: 1, ..Audit::default() };
    let plans = found(with_acl(), wrong).plans();
    let Some(Step::SetOwnership(set)) = plans.volumes[&volume("data")].steps.first() else {
        panic!("{plans:?}");
    };
    assert_eq!((set.owner, set.group, set.default_acls), (None, Some(110_000), 1));
    assert_eq!(set.default_acl.as_deref(), Some("u::rwx,g::rwx,o::r-x"));
}

#[test]
fn with_adopt_what_services_made_in_the_group_is_theirs() {
    let adopt = rule(&shared(r#""group": "users", "enforce": "adopt","#));
    assert!(matches!(&adopt.scope, Scope::Foreign(maps) if maps.len() == 2));
    assert!(adopt.can_own(&IdMap::default_unprivileged(), HostIds::new(100_033, 100)));
    assert!(!adopt.can_own(&IdMap::default_unprivileged(), HostIds::new(100_033, 7)));
}
