//! A walk that was interrupted is gone on with, not begun anew.

use std::fs;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use pctd_core::ids::HostIds;
use pctd_core::observed::Audit;
use pctd_core::ownership::OwnershipRule;
use pctd_node::{
    Bookmark, Node, NodeOptions, OpenVolume, Progress, Walk, WalkMode, WalkReport, WalkRequest,
    source, walk,
};

use crate::support::{OWNER, Tree, ids, rule, set_ids, set_mode};

const DIRECTORIES: u64 = 60;
const FILES: u64 = 20;
/// With the root and a file in it.
const ENTRIES: u64 = DIRECTORIES * (FILES + 1) + 2;
/// Through with about half of it.
const HALF: u64 = ENTRIES / 2;
const NEVER: u64 = u64::MAX;

/// A tree in which everything is wrong.
fn tree() -> Tree {
    let tree = Tree::new();
    for dir in 0..DIRECTORIES {
        for file in 0..FILES {
            tree.file(&format!("{dir}/{file}"));
        }
    }
    tree.file("file");
    tree
}

/// Walks with a bookmark, and is interrupted after so many entries.
fn until(tree: &Tree, rule: &OwnershipRule, mode: WalkMode, end: u64) -> WalkReport {
    on_threads(tree, rule, mode, end, 1)
}

fn on_threads(
    tree: &Tree,
    rule: &OwnershipRule,
    mode: WalkMode,
    end: u64,
    threads: usize,
) -> WalkReport {
    let (_, open) = source::open(&tree.paths, &tree.volume);
    let open = open.unwrap();
    let bookmark = Bookmark::open(&tree.paths, &tree.volume.name, &open, rule, mode).unwrap();
    walk_with(bookmark, &open, Walk::new(mode, rule), end, threads)
}

fn walk_with(
    bookmark: Bookmark,
    open: &OpenVolume,
    walk: Walk<'_>,
    end: u64,
    threads: usize,
) -> WalkReport {
    let cancel = AtomicBool::new(false);
    let progress = |now: Progress| {
        if now.entries >= end {
            cancel.store(true, Ordering::Relaxed);
        }
    };
    let walk = Walk {
        bookmark: Some(&bookmark),
        cancel: &cancel,
        progress: &progress,
        threads: NonZeroUsize::new(threads),
        ..walk
    };
    let report = walk::walk(open, walk).unwrap();
    bookmark.end(&report);
    report
}

/// Returns the bookmarks there are.
fn bookmarks(tree: &Tree) -> Vec<PathBuf> {
    let of = |kind: &str| fs::read_dir(tree.outside("var/lib/pctd/walks").join(kind));
    let all = ["audit", "repair"].into_iter().filter_map(|kind| of(kind).ok()).flatten();
    all.map(|entry| entry.unwrap().path()).collect()
}

fn looked_at(audit: &Audit) -> u64 {
    audit.entries - audit.believed
}

#[test]
fn an_audit_that_was_interrupted_finds_the_same_without_looking_at_all_again() {
    let (tree, rule) = (tree(), rule("0700", "0600"));
    let whole = tree.audit(&rule).audit;
    let first = until(&tree, &rule, WalkMode::Audit, HALF);
    assert!(first.cancelled && bookmarks(&tree).len() == 1, "{first:?}");
    let second = until(&tree, &rule, WalkMode::Audit, NEVER);
    assert!(!second.cancelled);
    let seen = looked_at(&second.audit);
    assert!(second.audit.believed >= HALF - 3 * FILES, "{second:?}");
    // Every directory, and the files of the other half.
    assert!((DIRECTORIES..=ENTRIES - HALF + DIRECTORIES + 3 * FILES).contains(&seen), "{seen}");
    assert_eq!(Audit { believed: 0, ..second.audit }, whole);
    // It came to its end, so there is nothing to go on with.
    assert_eq!(bookmarks(&tree), Vec::<PathBuf>::new());
    assert_eq!(until(&tree, &rule, WalkMode::Audit, NEVER).audit, whole);
}

#[test]
fn a_repair_that_is_interrupted_again_and_again_ends_and_the_root_comes_last() {
    for threads in [1, 4] {
        let (tree, rule) = (tree(), rule("0700", "0600"));
        let (mut walks, mut seen, mut changed) = (0, 0, 0);
        loop {
            assert_eq!(ids(tree.at("")), HostIds::ROOT);
            // Each looks at no more than a fifth of it, besides what it believes.
            let believed = ENTRIES / 5 * walks;
            let report =
                on_threads(&tree, &rule, WalkMode::Repair, believed + ENTRIES / 5, threads);
            (walks, changed) = (walks + 1, changed + report.changed);
            seen += looked_at(&report.audit);
            if !report.cancelled {
                break;
            }
            assert!(walks < 20, "it never ends");
        }
        assert!(walks >= 4, "{walks}");
        assert_eq!(changed, ENTRIES);
        assert_eq!(ids(tree.at("")), OWNER);
        assert!(tree.audit(&rule).audit.changes == 0);
        // Begun anew each time, the first four alone would have seen twice as many as there are.
        println!("{threads} threads: {walks} walks looked at {seen} of {ENTRIES}");
        assert!(threads > 1 || seen < ENTRIES * 2, "{seen}");
        assert_eq!(bookmarks(&tree), Vec::<PathBuf>::new());
    }
}

#[test]
fn what_was_put_right_before_need_not_be_audited_again() {
    let (tree, rule) = (tree(), rule("0700", "0600"));
    until(&tree, &rule, WalkMode::Repair, HALF);
    let audit = until(&tree, &rule, WalkMode::Audit, NEVER).audit;
    assert!(audit.believed >= HALF - 3 * FILES, "{audit:?}");
    assert_eq!(audit.changes, tree.audit(&rule).audit.changes);
    // Nor is it looked at by the repair that follows.
    let repair = until(&tree, &rule, WalkMode::Repair, NEVER);
    assert_eq!((repair.audit.believed, repair.changed), (audit.believed, audit.changes));
    assert_eq!(tree.audit(&rule).audit.changes, 0);
}

#[test]
fn what_an_audit_found_wrong_is_no_reason_for_a_repair_to_leave_it() {
    let (tree, rule) = (tree(), rule("0700", "0600"));
    until(&tree, &rule, WalkMode::Audit, HALF);
    let repair = until(&tree, &rule, WalkMode::Repair, NEVER);
    assert_eq!((repair.audit.believed, repair.changed), (0, ENTRIES));
}

#[test]
fn a_directory_that_changed_meanwhile_is_looked_at_again() {
    let (tree, rule) = (tree(), rule("0700", "0600"));
    until(&tree, &rule, WalkMode::Repair, ENTRIES - FILES);
    let done: Vec<u64> =
        (0..DIRECTORIES).filter(|dir| ids(tree.at(&dir.to_string())) == OWNER).collect();
    let [made, moved, closed, untouched] = done[..4] else { panic!("{done:?}") };
    // A tick of the clock of files, which before Linux 6.13 is as fine as it gets.
    std::thread::sleep(std::time::Duration::from_millis(30));
    tree.file(&format!("{made}/new"));
    fs::rename(tree.file("outside"), tree.at(&format!("{moved}/outside"))).unwrap();
    set_mode(tree.at(&closed.to_string()), 0o777);
    // This leaves no trace in its directory; only a whole walk finds it.
    set_ids(tree.at(&format!("{untouched}/0")), HostIds::ROOT);
    until(&tree, &rule, WalkMode::Repair, NEVER);
    let left = tree.audit(&rule).audit;
    assert_eq!(left.changes, 1, "what only a whole walk finds");
    assert_eq!(ids(tree.at(&format!("{untouched}/0"))), HostIds::ROOT);
}

#[test]
fn what_was_looked_at_for_another_rule_is_not_believed() {
    let (tree, one, two) = (tree(), rule("0700", "0600"), rule("0700", "0640"));
    for mode in [WalkMode::Audit, WalkMode::Repair] {
        until(&tree, &one, mode, HALF);
    }
    assert_eq!(until(&tree, &two, WalkMode::Audit, HALF).audit.believed, 0);
    // Nor is anything after that: entries may have been changed for the other one.
    assert_eq!(until(&tree, &one, WalkMode::Audit, HALF).audit.believed, 0);
    assert_eq!(until(&tree, &one, WalkMode::Repair, NEVER).audit.believed, 0);
}

#[test]
fn a_directory_with_an_entry_that_could_not_be_dealt_with_is_looked_at_again() {
    let (tree, rule) = (tree(), rule("0700", "0600"));
    let first = until(&tree, &rule, WalkMode::Repair, HALF);
    // What a limit left is nothing the walk was through with.
    let (_, open) = source::open(&tree.paths, &tree.volume);
    let name = &tree.volume.name;
    let open = open.unwrap();
    let bookmark = Bookmark::open(&tree.paths, name, &open, &rule, WalkMode::Repair).unwrap();
    let walk = Walk {
        bookmark: Some(&bookmark),
        max_changes: Some(30),
        ..Walk::new(WalkMode::Repair, &rule)
    };
    let limited = walk::walk(&open, walk).unwrap();
    assert!(limited.limited);
    // As if it had been killed there.
    drop(bookmark);
    let rest = until(&tree, &rule, WalkMode::Repair, NEVER);
    assert_eq!(first.changed + limited.changed + rest.changed, ENTRIES);
    assert_eq!(tree.audit(&rule).audit.changes, 0);
}

#[test]
fn two_walks_do_not_share_a_bookmark() {
    let (tree, rule) = (tree(), rule("0700", "0600"));
    let (_, open) = source::open(&tree.paths, &tree.volume);
    let open = open.unwrap();
    let begin = || Bookmark::open(&tree.paths, &tree.volume.name, &open, &rule, WalkMode::Audit);
    let walk =
        |bookmark, end| walk_with(bookmark, &open, Walk::new(WalkMode::Audit, &rule), end, 1);
    // Whoever has something to write first has it, and the other leaves it alone.
    let (first, second, third) = (begin().unwrap(), begin().unwrap(), begin().unwrap());
    assert!(walk(first, HALF).cancelled);
    let left = bookmarks(&tree);
    let length = || fs::metadata(&left[0]).unwrap().len();
    let before = length();
    assert!(walk(second, HALF).cancelled);
    assert!(!walk(third, NEVER).cancelled);
    assert_eq!((bookmarks(&tree), length()), (left.clone(), before));
    let holder = begin().unwrap();
    begin().unwrap_err();
    drop(holder);
    assert!(!walk(begin().unwrap(), NEVER).cancelled);
    assert_eq!(bookmarks(&tree), Vec::<PathBuf>::new());
}

#[test]
fn only_a_walk_that_is_to_go_on_has_to_do_with_bookmarks() {
    let (tree, rule) = (tree(), rule("0700", "0600"));
    let node = Node::open(tree.paths.clone(), NodeOptions::default());
    until(&tree, &rule, WalkMode::Audit, HALF);
    for (goes_on, left) in [(false, 1), (true, 0)] {
        let request = WalkRequest { goes_on, ..WalkRequest::new(&tree.volume, &rule) };
        let audit = node.audit(request).unwrap();
        assert_eq!((audit.believed > 0, bookmarks(&tree).len()), (goes_on, left));
    }
    until(&tree, &rule, WalkMode::Audit, HALF);
    assert_eq!(bookmarks(&tree).len(), 1);
    pctd_node::forget_others(&tree.paths, &[].into());
    assert_eq!(bookmarks(&tree), Vec::<PathBuf>::new());
}

#[test]
fn a_walk_that_ends_at_once_writes_nothing() {
    let tree = Tree::new();
    tree.file("dir/file");
    let rule = rule("0700", "0600");
    for mode in [WalkMode::Audit, WalkMode::Repair] {
        assert!(!until(&tree, &rule, mode, NEVER).cancelled);
        assert!(!tree.outside("var/lib/pctd/walks").exists());
    }
}
