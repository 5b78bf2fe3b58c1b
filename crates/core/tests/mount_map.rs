//! The option of a mount against a model of Proxmox's rule, id by id.

#![expect(clippy::unwrap_used, reason = "what cannot be made in a test ends it")]

use std::collections::BTreeSet;

use pctd_core::conf::MountPoint;
use pctd_core::idmap::{IdKind, IdMap, IdRange};
use pctd_core::mount_map::{NoOption, describe, image, is_known_to, normal, option, through};
use proptest::prelude::*;

const KINDS: [IdKind; 2] = [IdKind::User, IdKind::Group];
/// Ids are looked at one by one, so there are few: what holds of ranges holds of larger ones.
const IDS: u32 = 48;

fn map(lines: &[&str]) -> IdMap {
    let range = |line: &&str| {
        let (kind, numbers) = line.split_once(' ').unwrap();
        let kind = if kind == "u" { IdKind::User } else { IdKind::Group };
        let numbers: Vec<u64> = numbers.split(' ').map(|n| n.parse().unwrap()).collect();
        IdRange { kind, container: numbers[0], host: numbers[1], count: numbers[2] }
    };
    IdMap::new(lines.iter().map(range).collect())
}

/// A map for users and groups alike.
fn both(lines: &[&str]) -> IdMap {
    let of = |kind: &str| lines.iter().map(|line| format!("{kind} {line}")).collect::<Vec<_>>();
    let all = [of("u"), of("g")].concat();
    map(&all.iter().map(String::as_str).collect::<Vec<_>>())
}

/// What Proxmox makes of an option for one id of a container (`resolve_mountpoint_idmap`), read
/// from the text and not with the code under test.
fn on_disk(own: &IdMap, option: Option<&str>, kind: IdKind, id: u32) -> Option<u32> {
    let host = own.host_id(kind, id)?;
    let Some(option) = option else { return Some(host) };
    if option == "passthrough" {
        return Some(id);
    }
    let named = option.split(';').find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let number = |index: usize| fields[index].parse::<u32>().unwrap();
        let (first, disk, count) = (number(1), number(2), number(3));
        let is_it = fields[0] == kind.letter().to_string() && (first..first + count).contains(&id);
        is_it.then(|| disk + (id - first))
    });
    Some(named.unwrap_or(host))
}

/// Checks that Proxmox takes an option for a container, and that none of it is cut off.
fn check_accepted(own: &IdMap, option: &str) {
    if option == "passthrough" {
        return;
    }
    let value = format!("/a,mp=/a,idmap={option}");
    assert_eq!(MountPoint::parse(value.as_bytes()).unwrap().render(), value);
    for kind in KINDS {
        let letter = kind.letter().to_string();
        let lines: Vec<Vec<u32>> = option
            .split(';')
            .filter(|line| line.starts_with(&letter))
            .map(|line| line.split(':').skip(1).map(|n| n.parse().unwrap()).collect())
            .collect();
        assert!(!lines.is_empty(), "no {kind:?} in {option}");
        let mut seen = BTreeSet::new();
        for id in lines.iter().flat_map(|line| line[0]..line[0] + line[2]) {
            assert!(own.host_id(kind, id).is_some(), "{id} of {option} would be cut off");
            assert!(seen.insert(id), "{id} is twice in {option}");
        }
        // `newuidmap` and the kernel take no id of the disk twice.
        let disk: Vec<u32> =
            (0..IDS).filter_map(|id| on_disk(own, Some(option), kind, id)).collect();
        let unique: BTreeSet<&u32> = disk.iter().collect();
        assert_eq!(unique.len(), disk.len(), "{option} for {own:?}");
    }
}

/// Ranges of one kind; those that overlap with one before are left out.
fn any_ranges(kind: IdKind) -> impl Strategy<Value = Vec<IdRange>> {
    // Few numbers, so that ranges meet, touch and continue one another.
    let range = (0..8u64, 0..8u64, 1..6u64, any::<bool>());
    prop::collection::vec(range, 1..6).prop_map(move |ranges| {
        let mut taken: Vec<IdRange> = Vec::new();
        for (container, host, count, near) in ranges {
            let (container, host) = (container * 3, if near { host * 3 } else { 100 + host * 3 });
            let overlap = |a: u64, b: u64, other: u64| a < b + other && b < a + count;
            let is_free = taken.iter().all(|r| {
                !overlap(container, r.container, r.count) && !overlap(host, r.host, r.count)
            });
            if is_free {
                taken.push(IdRange { kind, container, host, count });
            }
        }
        taken
    })
}

fn any_map() -> impl Strategy<Value = IdMap> {
    (any_ranges(IdKind::User), any_ranges(IdKind::Group))
        .prop_map(|(users, groups)| IdMap::new([users, groups].concat()))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn every_id_is_on_disk_where_it_is_declared_or_there_is_no_option(
        own in any_map(),
        space in prop_oneof![any_map(), Just(IdMap::privileged()), Just(both(&["0 1000 48"]))],
    ) {
        let outside = KINDS.iter().any(|kind| {
            (0..IDS).any(|id| {
                own.host_id(*kind, id).is_some() && space.host_id(*kind, id).is_none()
            })
        });
        let image = match image(&own, &space) {
            Ok(image) => image,
            Err(error) => {
                let is_outside = matches!(error, NoOption::Outside { .. });
                prop_assert!(is_outside && outside, "{}", error);
                return Ok(());
            }
        };
        prop_assert!(!outside);
        let option = option(&own, &image).unwrap();
        for kind in KINDS {
            for id in (0..IDS).filter(|id| own.host_id(kind, *id).is_some()) {
                let declared = space.host_id(kind, id);
                prop_assert_eq!(on_disk(&own, option.as_deref(), kind, id), declared, "{:?}", option);
                prop_assert_eq!(image.host_id(kind, id), declared);
            }
        }
        let differs = KINDS.iter().any(|kind| {
            (0..IDS).any(|id| {
                own.host_id(*kind, id).is_some_and(|host| space.host_id(*kind, id) != Some(host))
            })
        });
        prop_assert_eq!(option.is_some(), differs, "an option where none is needed, or none");
        if let Some(option) = option {
            check_accepted(&own, &option);
            let value = format!("/a,mp=/a,idmap={option}");
            let parsed = MountPoint::parse(value.as_bytes()).unwrap().idmap().unwrap();
            prop_assert_eq!(through(&own, &parsed), image);
        }
    }

    #[test]
    fn whatever_an_option_says_is_read_as_proxmox_reads_it(own in any_map(), lines in any_map()) {
        let text = lines.ranges().iter().map(|r| {
            format!("{}:{}:{}:{}", r.kind.letter(), r.container, r.host, r.count)
        });
        let text = text.collect::<Vec<_>>().join(";");
        let value = format!("/a,mp=/a,idmap={text}");
        let parsed = MountPoint::parse(value.as_bytes()).unwrap().idmap().unwrap();
        let read = through(&own, &parsed);
        for (kind, id) in KINDS.into_iter().flat_map(|kind| (0..IDS).map(move |id| (kind, id))) {
            prop_assert_eq!(read.host_id(kind, id), on_disk(&own, Some(&text), kind, id));
        }
    }
}

#[test]
fn the_option_is_the_shortest_that_says_it() {
    let default = IdMap::default_unprivileged();
    let shifted = both(&["0 200000 65536"]);
    let hole = both(&["0 100000 1000", "1000 1000 1", "1001 101001 64535"]);
    let cases = [
        (&default, "0 100000 65536", None),
        (&shifted, "0 100000 65536", Some("u:0:100000:65536;g:0:100000:65536")),
        (&default, "0 5000 65536", Some("u:0:5000:65536;g:0:5000:65536")),
        (&shifted, "0 0 65536", Some("passthrough")),
        (&hole, "0 0 65536", Some("passthrough")),
        // What differs is the hole alone.
        (&hole, "0 100000 65536", Some("u:1000:101000:1;g:1000:101000:1")),
        // One range over all of its ranges.
        (&hole, "0 5000 65536", Some("u:0:5000:65536;g:0:5000:65536")),
        // More than the container has is not named.
        (&hole, "0 0 4294967295", Some("passthrough")),
        (&default, "0 5000 70000", Some("u:0:5000:65536;g:0:5000:65536")),
    ];
    for (own, space, expected) in cases {
        let image = image(own, &both(&[space])).unwrap();
        assert_eq!(option(own, &image).unwrap().as_deref(), expected, "{space}");
    }
    // Where groups are right as they are, they are named all the same.
    let users = map(&["u 0 5000 65536", "g 0 100000 65536"]);
    let image = image(&default, &users).unwrap();
    let both = "u:0:5000:65536;g:0:100000:65536";
    assert_eq!(option(&default, &image).unwrap().as_deref(), Some(both));
}

#[test]
fn what_cannot_be_mapped_says_why() {
    let default = IdMap::default_unprivileged();
    let refused = |own: &IdMap, space: &IdMap| image(own, space).unwrap_err().to_string();
    assert_eq!(
        refused(&default, &both(&["0 5000 1"])),
        "users 1 to 65535 inside have no id on disk"
    );
    let hole = both(&["0 5000 1000", "2000 7000 63536"]);
    assert_eq!(refused(&default, &hole), "users 1000 to 1999 inside have no id on disk");
    let groups = map(&["u 0 5000 65536", "g 0 5000 100"]);
    assert_eq!(refused(&default, &groups), "groups 100 to 65535 inside have no id on disk");
    assert_eq!(
        refused(&default, &both(&["0 4294901761 65536"])),
        "users would have ids on disk above 4294967294"
    );
    assert_eq!(
        refused(&default, &both(&["0 5000 1000", "1000 5999 64536"])),
        "users of different ids inside would be one id on disk"
    );
    // A range for every second id.
    let lines: Vec<String> = (0..400).map(|n| format!("{} {} 1", 2 * n, 10_000 + n)).collect();
    let own: Vec<String> = (0..400).map(|n| format!("{} {} 1", 2 * n, 100_000 + n)).collect();
    let texts = |lines: &[String]| both(&lines.iter().map(String::as_str).collect::<Vec<_>>());
    let (own, space) = (texts(&own), texts(&lines));
    let placed = image(&own, &space).unwrap();
    assert_eq!(option(&own, &placed), Err(NoOption::TooLong));
}

#[test]
fn a_map_is_told_by_the_ids_an_admin_knows() {
    let default = IdMap::default_unprivileged();
    assert_eq!(
        describe(&normal(&default)),
        "root inside is 100000:100000 on disk, 33 is 100033:100033, 1000 is 101000:101000"
    );
    assert_eq!(describe(&IdMap::privileged()), "every id inside is the same on disk");
    let odd = map(&["u 0 5000 100", "g 0 7000 65536"]);
    assert_eq!(describe(&odd), "root inside is 5000:7000 on disk, 33 is 5033:7033");
}

#[test]
fn the_option_came_with_a_version() {
    for (version, expected) in [
        ("6.1.10", Some(true)),
        ("6.1.6", Some(true)),
        ("7.0", Some(true)),
        ("6.2-1+pmx1", Some(true)),
        ("1:6.1.5", Some(false)),
        ("6.1", Some(false)),
        ("5.3.0", Some(false)),
        ("", None),
        ("six", None),
    ] {
        assert_eq!(is_known_to(version), expected, "{version}");
    }
}
