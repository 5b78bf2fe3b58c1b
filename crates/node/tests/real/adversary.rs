//! Sweeps back to back while somebody exchanges, moves and mounts what they are walking over, and
//! trees that are made to be awkward.
//!
//! `hostile` has one kind of race to a test; here all of them come at once and long enough to
//! meet the rarest, and the same adversary has to win against `find -exec chmod`.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use pctd_core::acl::Acl;
use pctd_core::ids::HostIds;
use pctd_core::ownership::OwnershipRule;
use pctd_node::{FdBudget, NodePaths, Walk, WalkMode};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, mkdirat, mknodat, openat, unlinkat};
use rustix::mount::{UnmountFlags, mount_bind, unmount};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::group::plain;
use crate::support::adversary::{Adversary, Victim, find_exec_chmod_until_harm};
use crate::support::{Mounted, OWNER, Tree, ctime, ids, mode, rule, set_mode, volume, walk_volume};

/// What the project promises to survive.
const SWAPS: u64 = 40_000;
/// Long enough for some thousand sweeps.
const ATTACK: Duration = Duration::from_secs(5);
/// How long the adversary has to win against `find`; it takes a few sweeps.
const PATIENCE: Duration = Duration::from_secs(30);

/// Two rules in turn, so that every sweep has everything to do.
fn rules() -> [OwnershipRule; 2] {
    let other = HostIds::new(200_000, 200_000);
    let grouped = OwnershipRule {
        group: Some(OWNER.gid),
        default_acl: Some(plain()),
        ..rule("0775", "0664")
    };
    let none = Some(Acl::none());
    [grouped, OwnershipRule { owner: Some(other), default_acl: none, ..rule("0755", "0644") }]
}

/// Repairs back to back for a while, looking at the victim after each sweep.
fn sweep_for(
    tree: &Tree,
    victim: &Victim,
    time: Duration,
    mut enough: impl FnMut() -> bool,
) -> u32 {
    let rules = rules();
    let begun = Instant::now();
    let mut sweeps = 0;
    while begun.elapsed() < time || !enough() {
        assert!(begun.elapsed() < PATIENCE + time, "the adversary is too slow for a test");
        for (rule, fds) in rules.iter().zip([FdBudget::new(2), FdBudget::default()]) {
            tree.walk(rule, WalkMode::Repair, fds, &|_| {});
            sweeps += 1;
            let harm = victim.harm();
            assert_eq!(harm, None, "sweep {sweeps} changed what is outside of the volume");
        }
    }
    sweeps
}

#[test]
fn tens_of_thousands_of_swaps_change_nothing_outside() {
    let tree = Tree::in_memory();
    let victim = Victim::make(tree.dir.path());
    for n in 0..20 {
        tree.file(&format!("filler-{n}"));
    }
    fs::create_dir(tree.at("sub")).unwrap();
    let adversary = Adversary::against(&victim, &tree.at("sub"));
    let sweeps = sweep_for(&tree, &victim, ATTACK, || adversary.swaps() >= SWAPS);
    let swaps = adversary.swaps();
    println!("{swaps} swaps during {sweeps} sweeps");
    assert!(swaps >= SWAPS && sweeps >= 100, "{swaps} swaps, {sweeps} sweeps");
    // The same adversary, in the same place, against the usual way.
    let times = find_exec_chmod_until_harm(&tree.at(""), &victim, PATIENCE);
    println!("find -exec chmod: the victim was changed by sweep {times:?}");
    assert!(times.is_some(), "the adversary is too weak: find -exec chmod survived it");
    drop(adversary);
    // Nobody is in the way any more, and what is in the volume can be put right.
    assert!(tree.repair(&rules()[0]).is_complete());
    assert_eq!((ids(tree.at("filler-1")), mode(tree.at("filler-1"))), (OWNER, 0o664));
}

/// What is mounted for a moment is not the volume's, whenever that moment is.
#[test]
fn a_mount_that_comes_and_goes_is_never_entered() {
    let tree = Tree::in_memory();
    let victim = Victim::make(tree.dir.path());
    for n in 0..30 {
        tree.file(&format!("dir-{n}/sub/file"));
    }
    let point = tree.at("dir-7/sub");
    let Some(probe) = Mounted::bind(victim.dir(), &point) else { return };
    drop(probe);
    let (source, at) = (victim.dir().to_owned(), point.clone());
    let mounting = Adversary::doing(move || {
        mount_bind(&source, &at).unwrap();
        // Long enough for a sweep to begin before it and end after it, or the other way round.
        std::thread::sleep(Duration::from_micros(300));
        unmount(&at, UnmountFlags::DETACH).unwrap();
        std::thread::sleep(Duration::from_micros(300));
        1
    });
    let sweeps = sweep_for(&tree, &victim, Duration::from_secs(2), || mounting.swaps() >= 500);
    println!("{} mounts during {sweeps} sweeps", mounting.swaps());
    let times = find_exec_chmod_until_harm(&tree.at(""), &victim, PATIENCE);
    assert!(times.is_some(), "nothing was ever mounted: find -exec chmod did not enter it");
}

/// A mount that appears when the walk has read the name already and not yet gone in.
#[test]
fn a_mount_that_appears_in_the_middle_is_reported_and_left_alone() {
    const DIRS: u32 = 100;
    let tree = Tree::in_memory();
    let victim = Victim::make(tree.dir.path());
    for n in 0..DIRS {
        tree.file(&format!("dir-{n}/file"));
    }
    fs::create_dir(tree.outside("probe")).unwrap();
    let Some(probe) = Mounted::bind(victim.dir(), &tree.outside("probe")) else { return };
    drop(probe);
    let mounted = std::sync::Mutex::new(Vec::new());
    let progress = |_| {
        let mut mounted = mounted.lock().unwrap();
        if mounted.is_empty() {
            // All that were not walked yet: their names are read, their turn has not come.
            let paths = (0..DIRS).map(|n| tree.at(&format!("dir-{n}")));
            let later = paths.filter(|path| ids(path.join("file")) == HostIds::ROOT);
            mounted.extend(later.map(|at| Mounted::bind(victim.dir(), &at).unwrap()));
        }
    };
    let report = tree.walk(&rule("0750", "0640"), WalkMode::Repair, FdBudget::new(2), &progress);
    let count = mounted.into_inner().unwrap().len();
    assert!(count > 0, "the walk was over before anything was mounted");
    // With several threads a directory may be open already when it is mounted over.
    assert!(!report.audit.nested_mounts.is_empty(), "{report:?}");
    assert!(report.audit.nested_mounts.len() <= count, "{report:?}");
    assert_eq!(victim.harm(), None);
}

/// Out of the volume, back in, out again: what it passes on the way is nobody's business.
#[test]
fn a_directory_that_moves_out_and_in_leads_nowhere() {
    let tree = Tree::in_memory();
    let victim = Victim::make(tree.dir.path());
    tree.file("a/b/c/d/e/file");
    for n in 0..20 {
        tree.file(&format!("a/b/filler-{n}/file"));
    }
    let outside = tree.outside("outside");
    fs::create_dir_all(outside.join("deep")).unwrap();
    for stray in ["stray", "deep/stray"] {
        fs::write(outside.join(stray), "").unwrap();
        set_mode(outside.join(stray), 0o600);
    }
    let (within, without) = (tree.at("a/b/c"), outside.join("deep/c"));
    let moving = Adversary::doing(move || {
        fs::rename(&within, &without).unwrap();
        fs::rename(&without, &within).unwrap();
        2
    });
    let sweeps = sweep_for(&tree, &victim, Duration::from_secs(2), || moving.swaps() >= 5_000);
    println!("{} moves during {sweeps} sweeps", moving.swaps());
    drop(moving);
    for path in ["", "stray", "deep", "deep/stray"] {
        assert_eq!(ids(outside.join(path)), HostIds::ROOT, "{path}");
    }
    for stray in ["stray", "deep/stray"] {
        assert_eq!(mode(outside.join(stray)), 0o600, "{stray}");
    }
    assert_eq!(ids(tree.dir.path()), HostIds::ROOT);
    assert!(tree.repair(&rules()[0]).is_complete());
    assert_eq!(ids(tree.at("a/b/c/d/e/file")), OWNER);
}

/// Whoever gets the volume's name while a walk is on its way does not get the walk.
#[test]
fn a_root_that_is_replaced_in_the_middle_stays_as_it_came() {
    let tree = Tree::in_memory();
    for n in 0..20 {
        tree.file(&format!("dir-{n}/file"));
    }
    let other = tree.outside("other");
    for n in 0..20 {
        fs::create_dir_all(other.join(format!("dir-{n}"))).unwrap();
        fs::write(other.join(format!("dir-{n}/file")), "").unwrap();
    }
    // Being renamed is a change of the directory itself, so not its time is compared but what is in it.
    let before: Vec<_> = (0..20).map(|n| ctime(other.join(format!("dir-{n}/file")))).collect();
    let replaced = AtomicU32::new(0);
    let progress = |_| {
        if replaced.fetch_add(1, Ordering::Relaxed) == 0 {
            fs::rename(tree.at(""), tree.outside("gone")).unwrap();
            fs::rename(&other, tree.outside("vol")).unwrap();
        }
    };
    let report = tree.walk(&rule("0750", "0640"), WalkMode::Repair, FdBudget::new(2), &progress);
    assert!(replaced.into_inner() > 1, "the walk was over before its root was replaced");
    let after: Vec<_> = (0..20).map(|n| ctime(tree.at(&format!("dir-{n}/file")))).collect();
    assert_eq!(after, before);
    assert_eq!((ids(tree.at("")), mode(tree.at("")) & 0o777), (HostIds::ROOT, 0o755));
    // What was opened as the volume was walked to its end, wherever it is called now.
    assert!(report.is_complete(), "{report:?}");
    assert_eq!((report.changed, ids(tree.outside("gone"))), (41, OWNER));
}

/// A fifo that nobody writes to, a device without a driver, a disk, a hole of a TiB: owners and
/// modes are all a walk may touch, and it opens none of them.
#[test]
fn nothing_special_is_opened_and_no_hole_is_filled() {
    let tree = Tree::new();
    fs::create_dir(tree.at("dir")).unwrap();
    let no_driver = rustix::fs::makedev(4095, 1_048_575);
    let kinds = [
        ("fifo", FileType::Fifo, 0),
        ("socket", FileType::Socket, 0),
        ("character", FileType::CharacterDevice, no_driver),
        ("disk", FileType::BlockDevice, no_driver),
    ];
    for (name, kind, device) in kinds {
        let path = tree.at("dir").join(name);
        mknodat(CWD, &path, kind, Mode::from_raw_mode(0o604), device).unwrap();
    }
    symlink("fifo", tree.at("dir/link")).unwrap();
    let sparse = fs::File::create(tree.at("dir/sparse")).unwrap();
    sparse.set_len(1 << 40).unwrap();
    drop(sparse);
    set_mode(tree.at("dir"), 0);
    let names = ["fifo", "socket", "character", "disk", "link", "sparse"];
    let stamps = || {
        names.map(|name| {
            let stat = fs::symlink_metadata(tree.at("dir").join(name)).unwrap();
            (stat.atime_nsec(), stat.mtime_nsec(), stat.rdev(), stat.size(), stat.blocks())
        })
    };
    let before = stamps();
    let report = tree.repair(&rule("0750", "0640"));
    assert!(report.is_complete(), "{report:?}");
    assert_eq!((report.audit.entries, report.changed), (8, 8));
    assert_eq!(stamps(), before);
    let modes = names.map(|name| mode(tree.at("dir").join(name)));
    assert_eq!(modes, [0o604, 0o604, 0o604, 0o604, 0o777, 0o640]);
    for name in names {
        assert_eq!(ids(tree.at("dir").join(name)), OWNER, "{name}");
    }
}

#[test]
fn a_hundred_thousand_entries_in_one_directory_are_all_walked() {
    const FILES: u64 = 100_000;
    let tree = Tree::in_memory();
    let dir = openat(CWD, tree.at(""), OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
    for n in 0..FILES {
        let mode = Mode::from_raw_mode(0o600);
        mknodat(&dir, format!("file-{n}"), FileType::RegularFile, mode, 0).unwrap();
    }
    let rule = rule("0750", "0640");
    let report = tree.repair(&rule);
    assert!(report.is_complete(), "{report:?}");
    assert_eq!((report.audit.entries, report.changed), (FILES + 1, FILES + 1));
    let again = tree.audit(&rule).audit;
    assert_eq!((again.entries, again.changes), (FILES + 1, 0));
}

const DEPTH: u64 = 5_000;
/// Where the process with few fds finds the tree that was made for it.
const FEW_FDS: &str = "PCTD_TEST_FEW_FDS";

/// As with `ulimit -n 64`, in a process of its own: the limit is the whole process's.
#[test]
fn five_thousand_levels_are_walked_with_sixty_four_fds() {
    if let Some(dir) = std::env::var_os(FEW_FDS) {
        return walk_with_few_fds(Path::new(&dir));
    }
    let tree = Tree::in_memory();
    make_chain(&tree.at(""));
    let mut child = Command::new(std::env::current_exe().unwrap());
    let name = "adversary::five_thousand_levels_are_walked_with_sixty_four_fds";
    child.args([name, "--exact", "--nocapture"]).env(FEW_FDS, tree.dir.path());
    let output = child.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    remove_chain(&tree.at(""));
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("1 passed") && said.contains("walked with 64 fds"), "{said}");
}

fn walk_with_few_fds(dir: &Path) {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(64), ..limit }).unwrap();
    let paths = NodePaths::new(Some(dir.into())).unwrap();
    let rule = rule("0750", "0640");
    for (changed, mode) in [(2 * DEPTH + 1, WalkMode::Repair), (0, WalkMode::Audit)] {
        let report = walk_volume(&paths, &volume("/vol"), Walk::new(mode, &rule));
        assert!(report.is_complete(), "{report:?}");
        assert_eq!((report.audit.entries, report.audit.changes), (2 * DEPTH + 1, changed));
    }
    println!("walked with 64 fds");
}

/// Makes directories inside one another, with a file in each; no path is that long.
fn make_chain(at: &Path) {
    let mut dir = open_dir(CWD, at);
    for _ in 0..DEPTH {
        mkdirat(&dir, "d", Mode::RWXU).unwrap();
        dir = open_dir(&dir, "d");
        mknodat(&dir, "f", FileType::RegularFile, Mode::from_raw_mode(0o600), 0).unwrap();
    }
}

/// Removes them from the bottom: recursive removal would run out of stack or of fds.
fn remove_chain(at: &Path) {
    let mut dir = open_dir(CWD, at);
    for _ in 0..DEPTH {
        dir = open_dir(&dir, "d");
    }
    for _ in 0..DEPTH {
        unlinkat(&dir, "f", AtFlags::empty()).unwrap();
        dir = open_dir(&dir, "..");
        unlinkat(&dir, "d", AtFlags::REMOVEDIR).unwrap();
    }
}

fn open_dir(dir: impl std::os::fd::AsFd, path: impl rustix::path::Arg) -> OwnedFd {
    openat(dir, path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap()
}
