//! A shift by a constant, as a walk makes it.

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pctd_core::ids::HostIds;
use pctd_core::shift::{Ranges, Shift};
use pctd_node::{Shifting, Walk, WalkMode};

use crate::support::adversary::{Adversary, Victim};
use crate::support::{Tree, ctime, ids, mode, rule, set_ids, set_mode};

fn shifting(from: u32, to: u32) -> Arc<Shifting> {
    let shift = Shift::new(Ranges { from, to, count: 65_536 }).unwrap();
    Arc::new(Shifting::new(shift, None))
}

#[test]
fn ids_of_the_range_become_others_and_nothing_else_changes() {
    let tree = Tree::new();
    let cases = [
        ("a/f", (200_033, 200_044), (100_033, 100_044)),
        ("a/half", (200_033, 7), (100_033, 7)),
        ("a/other", (5, 7), (5, 7)),
        ("a/done", (100_001, 100_002), (100_001, 100_002)),
        ("link", (265_535, 265_536), (165_535, 265_536)),
    ];
    for (name, (uid, gid), _) in cases {
        let path = if name == "link" { tree.at(name) } else { tree.file(name) };
        if name == "link" {
            symlink("/etc/passwd", &path).unwrap();
        }
        set_ids(path, HostIds::new(uid, gid));
    }
    set_mode(tree.at("a/f"), 0o4711);
    set_ids(tree.at(""), HostIds::new(200_000, 200_000));
    let (other, foreign) = (ctime(tree.at("a/other")), ctime("/etc/passwd"));
    let shift = shifting(200_000, 100_000);
    let audit = tree.walk_with(Walk::new(WalkMode::Audit, &shift)).audit;
    // Of the files "f" and "half", of the link, and of the root.
    assert_eq!((audit.changes, audit.owners, audit.modes, audit.privileges), (4, 4, 0, 1));
    let seen = shift.seen();
    assert_eq!((seen.in_target, seen.in_conflict, seen.examples.len()), (1, 0, 4));
    let repair = tree.walk_with(Walk::new(WalkMode::Repair, &shift));
    assert!(repair.is_complete() && repair.changed == 4, "{repair:?}");
    for (name, _, (uid, gid)) in cases {
        assert_eq!(ids(tree.at(name)), HostIds::new(uid, gid), "{name}");
    }
    assert_eq!(ids(tree.at("")), HostIds::new(100_000, 100_000));
    assert_eq!(mode(tree.at("a/f")), 0o711, "a chown takes setuid");
    assert_eq!((ctime(tree.at("a/other")), ctime("/etc/passwd")), (other, foreign));
    assert_eq!(tree.walk_with(Walk::new(WalkMode::Repair, &shift)).changed, 0);
}

#[test]
fn what_is_declared_otherwise_is_in_conflict() {
    let tree = Tree::new();
    for name in ["a", "b", "c"] {
        set_ids(tree.file(name), HostIds::new(200_000, 200_000));
    }
    // Everything is to be somebody else's than where it is shifted to.
    let shift = Shift::new(Ranges { from: 200_000, to: 300_000, count: 65_536 }).unwrap();
    let shift = Arc::new(Shifting::new(shift, Some(rule("keep", "keep"))));
    tree.walk_with(Walk::new(WalkMode::Audit, &shift));
    assert_eq!(shift.seen().in_conflict, 3);
}

/// The victim's ids are of the range, so whatever leads to it would shift it.
#[test]
fn swaps_during_a_shift_change_nothing_outside() {
    let tree = Tree::in_memory();
    let victim = Victim::make(tree.dir.path());
    fs::create_dir(tree.at("sub")).unwrap();
    for n in 0..20 {
        tree.file(&format!("sub/filler-{n}"));
    }
    let adversary = Adversary::against(&victim, &tree.at("sub"));
    let there_and_back = [shifting(0, 100_000), shifting(100_000, 0)];
    let begun = Instant::now();
    let mut shifted = 0;
    while begun.elapsed() < Duration::from_secs(2) || adversary.swaps() < 20_000 {
        for shift in &there_and_back {
            shifted += tree.walk_with(Walk::new(WalkMode::Repair, shift)).changed;
            assert_eq!(victim.harm(), None);
        }
    }
    println!("{} swaps, {shifted} entries shifted", adversary.swaps());
    assert!(shifted > 1000);
}
