//! A container's root that swaps things while pctd works on them.
//!
//! Every test also shows that its adversary wins against the obvious way to do the same, so that
//! it would notice if pctd went that way.

use std::fs;
use std::num::NonZeroUsize;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use pctd_core::ids::HostIds;
use pctd_core::ownership::OwnershipRule;
use pctd_node::{FdBudget, Walk, WalkMode};

use crate::support::adversary::Adversary;
use crate::support::{OWNER, Tree, ids, mode, rule, set_mode};

/// How long an adversary has to do harm; it swaps some hundred thousand times in it.
const ATTACK: Duration = Duration::from_millis(1200);
/// How long the obvious way may survive before the adversary counts as too weak.
const NAIVE_LIMIT: Duration = Duration::from_secs(20);

const OTHER: HostIds = HostIds::new(200_000, 200_000);

/// Exchanges each pair over and over while `work` runs.
fn while_swapping<T>(pairs: &[(PathBuf, PathBuf)], work: impl FnOnce() -> T) -> T {
    let _adversary = Adversary::swapping(pairs.to_vec());
    work()
}

/// What is outside: a file and a directory with a file, for root alone. Links to them begin with `..`:
/// those from `/` on may lead over another mount, where nobody follows them anyway.
fn victims(tree: &Tree) -> [PathBuf; 3] {
    let dir = tree.outside("victim-dir");
    fs::create_dir(&dir).unwrap();
    let paths = [tree.outside("victim"), dir.clone(), dir.join("file")];
    fs::write(&paths[0], "secret").unwrap();
    fs::write(&paths[2], "secret").unwrap();
    harden(&paths);
    paths
}

fn harden(victims: &[PathBuf; 3]) {
    set_mode(&victims[0], 0o600);
    set_mode(&victims[1], 0o700);
    set_mode(&victims[2], 0o600);
}

fn untouched(victims: &[PathBuf; 3]) -> bool {
    victims.iter().all(|path| ids(path) == HostIds::ROOT)
        && victims.iter().map(mode).eq([0o600, 0o700, 0o600])
}

/// Two rules in turn, so that every pass has everything to do.
fn rules() -> [OwnershipRule; 2] {
    [rule("0777", "0666"), OwnershipRule { owner: Some(OTHER), ..rule("0755", "0644") }]
}

/// What `find -type f -exec chmod 666` does: look, then use the path again.
fn naive_pass(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().map_while(Result::ok) {
        let path = entry.path();
        match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_dir() => naive_pass(&path),
            Ok(metadata) if metadata.is_file() => {
                // Gone or something else by now; the next pass will see.
                let _ = rustix::fs::chmod(&path, 0o666.into());
            }
            _ => {}
        }
    }
}

/// Repairs once with as few fds as there can be, which makes the walk find its way back up, and
/// once on four threads, which hand each other directories.
fn repair_both_ways(tree: &Tree, rule: &OwnershipRule) {
    for (fds, threads) in [(2, 1), (16, 4)] {
        let (fds, threads) = (FdBudget::new(fds), NonZeroUsize::new(threads));
        tree.walk_with(Walk { fds, threads, ..Walk::new(WalkMode::Repair, rule) });
    }
}

/// Repairs for a while, then lets the obvious way try; returns whether the victims survived each.
fn attack(tree: &Tree, pairs: &[(PathBuf, PathBuf)], victims: &[PathBuf; 3]) -> (bool, bool) {
    let rules = rules();
    let end = Instant::now() + ATTACK;
    let mut passes = 0_u32;
    while_swapping(pairs, || {
        while Instant::now() < end {
            for rule in &rules {
                repair_both_ways(tree, rule);
                passes += 2;
            }
        }
    });
    assert!(passes > 10, "{passes} passes are no test");
    let survived_pctd = untouched(victims);
    harden(victims);
    let end = Instant::now() + NAIVE_LIMIT;
    while_swapping(pairs, || {
        while untouched(victims) && Instant::now() < end {
            naive_pass(&tree.at(""));
        }
    });
    (survived_pctd, untouched(victims))
}

#[test]
fn files_swapped_for_links_lead_nowhere() {
    let tree = Tree::in_memory();
    let victims = victims(&tree);
    for n in 0..20 {
        tree.file(&format!("filler-{n}"));
    }
    let file = tree.file("file");
    symlink("../victim", tree.at("link")).unwrap();
    let pairs = [(file, tree.at("link"))];
    assert_eq!(attack(&tree, &pairs, &victims), (true, false));
    assert!(ids(tree.at("filler-1")) == OWNER || ids(tree.at("filler-1")) == OTHER);
}

#[test]
fn directories_swapped_for_links_and_files_lead_nowhere() {
    let tree = Tree::in_memory();
    let victims = victims(&tree);
    tree.file("dir/file");
    tree.file("dir/sub/sub/file");
    let file = tree.file("file");
    symlink("../victim-dir", tree.at("link")).unwrap();
    let pairs = [
        (tree.at("dir"), tree.at("link")),
        (tree.at("link"), file.clone()),
        (tree.at("dir"), file),
    ];
    assert_eq!(attack(&tree, &pairs, &victims), (true, false));
}

/// The walk closes parents and finds them again by `..`: moves must not lead it out.
#[test]
fn directories_moved_up_and_down_lead_nowhere() {
    let tree = Tree::in_memory();
    let victims = victims(&tree);
    tree.file("a/b/c/d/e/file");
    tree.file("x/y/file");
    let pairs = [
        (tree.at("a/b/c"), tree.at("x/y")),
        (tree.at("a/b"), tree.at("x")),
        (tree.at("a"), tree.at("x")),
    ];
    let rules = rules();
    let end = Instant::now() + ATTACK;
    while_swapping(&pairs, || {
        while Instant::now() < end {
            for rule in &rules {
                repair_both_ways(&tree, rule);
            }
        }
    });
    assert!(untouched(&victims));
    assert_eq!(ids(tree.dir.path()), HostIds::ROOT);
    let report = tree.repair(&rules[0]);
    assert!(report.is_complete(), "{report:?}");
}

/// The volume itself swapped for a link, by whoever can write to the directory above.
#[test]
fn a_volume_swapped_for_a_link_is_not_followed() {
    let tree = Tree::in_memory();
    let victims = victims(&tree);
    tree.file("file");
    symlink("victim-dir", tree.outside("link")).unwrap();
    let pairs = [(tree.at("").join("../vol"), tree.outside("link"))];
    let rules = rules();
    let (mut walked, mut refused) = (0_u32, 0_u32);
    let end = Instant::now() + ATTACK;
    while_swapping(&pairs, || {
        while Instant::now() < end {
            for rule in &rules {
                let (_, open) = pctd_node::source::open(&tree.paths, &tree.volume);
                let Some(open) = open else {
                    refused += 1;
                    continue;
                };
                let walk = Walk::new(WalkMode::Repair, rule);
                pctd_node::walk::walk(&open, walk).unwrap();
                walked += 1;
            }
        }
    });
    assert!(walked > 0 && refused > 0, "{walked} walks, {refused} refusals: nothing was swapped");
    assert!(untouched(&victims));
    let end = Instant::now() + NAIVE_LIMIT;
    while_swapping(&pairs, || {
        while untouched(&victims) && Instant::now() < end {
            let is_dir =
                |path: &Path| fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir());
            let path = tree.outside("vol");
            if is_dir(&path) {
                let _ = rustix::fs::chmod(&path, 0o777.into());
            }
        }
    });
    assert!(!untouched(&victims), "the adversary is too weak");
}
