//! Walks that begin below the root, end at a limit, or tell fresh drift from old.

use std::fs;
use std::os::fd::OwnedFd;
use std::time::{Duration, SystemTime};

use pctd_core::ids::HostIds;
use pctd_core::ownership::{OwnershipRule, Scope};
use pctd_node::{Node, NodeOptions, Walk, WalkMode, WalkReport, WalkRequest, source, walk};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;

use crate::support::{Mounted, OWNER, Tree, all_below, ctime, ids, mode, rule, set_ids};

fn open_dir(tree: &Tree, path: &str) -> OwnedFd {
    openat(CWD, tree.at(path), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap()
}

fn repair_below(tree: &Tree, path: &str, rule: &OwnershipRule) -> Result<WalkReport, Errno> {
    let volume = source::open(&tree.paths, &tree.volume).1.unwrap();
    let name = std::ffi::CString::new(path.rsplit('/').next().unwrap()).unwrap();
    let walk = Walk::new(WalkMode::Repair, rule);
    walk::walk_below(&volume, open_dir(tree, path), &name, walk)
}

#[test]
fn a_walk_below_puts_that_directory_right_and_nothing_beside_or_above_it() {
    let tree = Tree::new();
    let inside = [tree.at("a/in"), tree.at("a/in/deep"), tree.file("a/in/deep/file")];
    let outside = [tree.at(""), tree.at("a"), tree.file("a/beside"), tree.file("b/file")];
    let before = outside.each_ref().map(ctime);
    let rule = rule("0750", "0640");
    let report = repair_below(&tree, "a/in", &rule).unwrap();
    assert_eq!((report.audit.entries, report.changed), (3, 3));
    assert!(report.is_complete(), "{report:?}");
    for path in inside {
        assert_eq!(ids(&path), OWNER, "{}", path.display());
        assert_eq!(mode(&path), if path.is_dir() { 0o750 } else { 0o640 });
    }
    assert_eq!(outside.each_ref().map(ctime), before);
    assert_eq!(repair_below(&tree, "a/in", &rule).unwrap().changed, 0);
}

#[test]
fn a_walk_below_names_what_fails_from_its_directory_down() {
    let tree = Tree::new();
    fs::create_dir_all(tree.at("a/in/mount")).unwrap();
    let Some(_tmpfs) = Mounted::tmpfs(&tree.at("a/in/mount")) else { return };
    let report = repair_below(&tree, "a/in", &rule("0750", "0640")).unwrap();
    assert_eq!(report.audit.nested_mounts, ["in/mount"]);
}

#[test]
fn a_walk_below_begins_neither_at_the_root_nor_outside() {
    let tree = Tree::new();
    fs::create_dir_all(tree.at("mount")).unwrap();
    let rule = rule("0750", "0640");
    assert_eq!(repair_below(&tree, "", &rule), Err(Errno::INVAL));
    if let Some(_tmpfs) = Mounted::tmpfs(&tree.at("mount")) {
        assert_eq!(repair_below(&tree, "mount", &rule), Err(Errno::XDEV));
        assert_eq!(ids(tree.at("mount")), HostIds::ROOT);
    }
    assert_eq!(ids(tree.at("")), HostIds::ROOT);
    let nothing_below = OwnershipRule { scope: Scope::RootOnly, ..rule };
    let report = repair_below(&tree, "mount", &nothing_below).unwrap();
    assert_eq!((report.audit.entries, report.changed), (0, 0));
}

#[test]
fn a_repair_ends_before_it_changes_more_than_it_may() {
    let tree = Tree::new();
    for n in 0..20 {
        tree.file(&format!("{}/{n}", n % 4));
    }
    let changed = || all_below(&tree.at("")).iter().filter(|path| ids(path) == OWNER).count();
    let rule = rule("keep", "0640");
    let walk = Walk { max_changes: Some(7), ..Walk::new(WalkMode::Repair, &rule) };
    let report = tree.walk_with(walk);
    assert_eq!((report.changed, report.audit.changes), (7, 7));
    assert!(report.limited && !report.cancelled && !report.is_complete(), "{report:?}");
    assert_eq!(changed(), 7);
    assert_eq!(ids(tree.at("")), HostIds::ROOT);
    // An audit changes nothing, so nothing limits it.
    let audit = tree.walk_with(Walk { mode: WalkMode::Audit, ..walk });
    assert_eq!((audit.limited, audit.audit.changes), (false, 18));
    let rest = tree.walk_with(Walk { max_changes: Some(18), ..walk });
    assert_eq!((rest.changed, rest.limited), (18, false));
    assert!(rest.is_complete());
    let none = tree.walk_with(Walk { max_changes: Some(0), ..walk });
    assert!(none.is_complete(), "nothing differs, so nothing is in the way");
}

/// What an admin agreed to is a number, whatever a container adds between audit and repair.
#[test]
fn entries_that_appear_after_the_audit_are_not_changed_beyond_the_limit() {
    let tree = Tree::new();
    let node = Node::open(tree.paths.clone(), NodeOptions::default());
    tree.file("old");
    let rule = rule("keep", "keep");
    let request = WalkRequest::new(&tree.volume, &rule);
    let audit = node.audit(request).unwrap();
    assert_eq!(audit.changes, 2, "the root and the file");
    for n in 0..50 {
        tree.file(&format!("new-{n}"));
    }
    let max_changes = Some(audit.changes + 3);
    let report = node.repair(WalkRequest { max_changes, ..request }).unwrap();
    assert_eq!((report.changed, report.limited), (5, true));
    assert_eq!(ids(tree.at("")), HostIds::ROOT);
    assert_eq!(node.audit(request).unwrap().changes, 47);
}

#[test]
fn what_changed_after_a_moment_is_fresh() {
    let tree = Tree::new();
    let rule = rule("keep", "keep");
    let (old, touched) = (tree.file("old"), tree.file("touched"));
    tree.repair(&rule);
    set_ids(&old, HostIds::ROOT);
    // The clock of files is coarse: it may be as much as 10 ms behind (a tick of HZ=100).
    std::thread::sleep(Duration::from_millis(30));
    let since = SystemTime::now();
    std::thread::sleep(Duration::from_millis(30));
    set_ids(&touched, HostIds::ROOT);
    let new = tree.file("new");
    // The time of modification is anybody's to set, and says nothing.
    fs::File::open(&new).unwrap().set_modified(since - Duration::from_hours(1)).unwrap();
    std::thread::sleep(Duration::from_millis(30));
    let later = SystemTime::now();
    let count = |since| {
        let walk = Walk { since, ..Walk::new(WalkMode::Audit, &rule) };
        let audit = tree.walk_with(walk).audit;
        (audit.changes, audit.fresh)
    };
    assert_eq!(count(None), (3, 0));
    assert_eq!(count(Some(later)), (3, 0));
    assert_eq!(count(Some(since)), (3, 2), "the file that was changed before is old drift");
}

#[test]
fn what_changes_while_a_watched_volume_is_walked_is_the_watchs() {
    let tree = Tree::new();
    let rule = rule("keep", "keep");
    let old = tree.file("old");
    let changing = tree.file("b/changing");
    tree.repair(&rule);
    set_ids(&old, HostIds::ROOT);
    std::thread::sleep(Duration::from_millis(30));
    let count = |watched, mode| {
        let change = |_| {
            // Of the coarse clock again: not in the tick in which the walk began.
            std::thread::sleep(Duration::from_millis(30));
            set_ids(&changing, OWNER);
            set_ids(&changing, HostIds::ROOT);
        };
        set_ids(&changing, HostIds::ROOT);
        std::thread::sleep(Duration::from_millis(30));
        let threads = std::num::NonZeroUsize::new(1);
        let walk = Walk { watched, threads, progress: &change, ..Walk::new(mode, &rule) };
        tree.walk_with(walk).audit.changes
    };
    assert_eq!(count(false, WalkMode::Audit), 2);
    assert_eq!(count(true, WalkMode::Audit), 1, "what was wrong before");
    assert_eq!(count(true, WalkMode::Repair), 2, "a repair leaves nothing");
}
