//! The walk on several threads.

use std::collections::BTreeSet;
use std::fs;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};
use std::thread::ThreadId;
use std::time::Duration;

use pctd_core::ids::HostIds;
use pctd_node::{FdBudget, Progress, Walk, WalkMode};
use rustix::fs::{CWD, OFlags, openat};
use rustix::process::getpriority_process;

use crate::support::{Mounted, OWNER, Tree, all_below, ctime, ids, rule, set_ids};
use crate::walk::{fds_below, make_chain, make_file, remove_chain};

/// How long a thread waits for others at each directory; hundreds of directories make it long.
const PATIENCE: Duration = Duration::from_millis(20);

/// Holds every thread of a walk up for a moment until this many have come by. Only for a moment:
/// the first offers work to the others after its first directory.
struct Gathering {
    seen: Mutex<BTreeSet<String>>,
    news: Condvar,
    expected: usize,
}

impl Gathering {
    fn of(expected: usize) -> Self {
        Self { seen: Mutex::default(), news: Condvar::new(), expected }
    }

    fn come(&self) {
        let id: ThreadId = std::thread::current().id();
        let mut seen = self.seen.lock().unwrap();
        if seen.insert(format!("{id:?}")) {
            self.news.notify_all();
        }
        let few = |seen: &mut BTreeSet<String>| seen.len() < self.expected;
        drop(self.news.wait_timeout_while(seen, PATIENCE, few).unwrap());
    }

    fn count(self) -> usize {
        self.seen.into_inner().unwrap().len()
    }
}

fn threads(number: usize) -> Option<NonZeroUsize> {
    NonZeroUsize::new(number)
}

/// Wide and deep at once: some 1500 entries in 310 directories.
fn bushy() -> Tree {
    let tree = Tree::in_memory();
    for a in 0..10 {
        for b in 0..30 {
            for c in 0..4 {
                tree.file(&format!("{a}/{b}/{c}"));
            }
        }
    }
    tree
}

#[test]
fn any_number_of_threads_finds_and_does_the_same() {
    let tree = bushy();
    fs::hard_link(tree.at("1/1/1"), tree.at("twice")).unwrap();
    fs::create_dir(tree.at("2/mount")).unwrap();
    let tmpfs = Mounted::tmpfs(&tree.at("2/mount"));
    let rule = rule("0750", "0640");
    let audit = |number| {
        let walk = Walk { threads: threads(number), ..Walk::new(WalkMode::Audit, &rule) };
        tree.walk_with(walk)
    };
    let one = audit(1);
    assert!(one.audit.entries > 1500 && one.audit.changes == one.audit.entries, "{one:?}");
    for number in [0, 2, 3, 8, 64] {
        assert_eq!(audit(number), one, "{number} threads");
    }
    let walk = Walk { threads: threads(4), ..Walk::new(WalkMode::Repair, &rule) };
    let repair = tree.walk_with(walk);
    assert!(repair.is_complete(), "{repair:?}");
    assert_eq!(audit(4).audit.changes, 0);
    let paths = all_below(&tree.at(""));
    let wrong = paths.iter().filter(|path| ids(path) != OWNER);
    assert_eq!(wrong.count(), usize::from(tmpfs.is_some()));
    let before: Vec<_> = paths.iter().map(ctime).collect();
    assert_eq!(tree.walk_with(walk).changed, 0);
    assert_eq!(paths.iter().map(ctime).collect::<Vec<_>>(), before);
}

#[test]
fn directories_are_shared_among_all_threads() {
    let tree = bushy();
    let gathering = Gathering::of(4);
    let rule = rule("0750", "0640");
    let progress = |_| gathering.come();
    let walk = Walk::new(WalkMode::Repair, &rule);
    let report = tree.walk_with(Walk { threads: threads(4), progress: &progress, ..walk });
    assert!(report.is_complete(), "{report:?}");
    assert_eq!(gathering.count(), 4);
}

#[test]
fn one_huge_directory_is_shared_among_threads() {
    const FILES: u64 = 100_000;
    let tree = Tree::in_memory();
    let dir = openat(CWD, tree.at(""), OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
    for n in 0..FILES {
        let flags = OFlags::CREATE | OFlags::WRONLY;
        let mode = rustix::fs::Mode::from_raw_mode(0o640);
        drop(openat(&dir, format!("file-{n:06}"), flags, mode).unwrap());
    }
    tree.file("dir/file");
    let gathering = Gathering::of(2);
    let rule = rule("0750", "0640");
    let most = AtomicUsize::new(0);
    let progress = |_| {
        most.fetch_max(fds_below(tree.dir.path()), Ordering::Relaxed);
        gathering.come();
    };
    let walk = Walk { threads: threads(2), ..Walk::new(WalkMode::Repair, &rule) };
    let report = tree.walk_with(Walk { progress: &progress, fds: FdBudget::new(8), ..walk });
    assert!(report.is_complete(), "{report:?}");
    assert_eq!((report.audit.entries, report.changed), (FILES + 3, FILES + 3));
    assert_eq!(gathering.count(), 2);
    assert!(most.into_inner() <= 8 + 2);
    assert_eq!(tree.walk_with(walk).audit.changes, 0);
}

#[test]
fn threads_share_the_fds_and_close_them_all() {
    const BUDGET: usize = 16;
    /// The volume itself, once as it was opened and once to be read; and for each of the four
    /// threads what it opens at the moment.
    const BESIDES: usize = 2 + 4;
    let tree = Tree::new();
    for branch in 0..8 {
        let path = format!("{branch}/{}", "d/".repeat(60));
        tree.file(&format!("{path}file"));
    }
    let most = AtomicUsize::new(0);
    let gathering = Gathering::of(4);
    let progress = |_| {
        gathering.come();
        most.fetch_max(fds_below(tree.dir.path()), Ordering::Relaxed);
    };
    let rule = rule("0750", "0640");
    let walk = Walk { threads: threads(9), ..Walk::new(WalkMode::Repair, &rule) };
    let report = tree.walk_with(Walk { fds: FdBudget::new(BUDGET), progress: &progress, ..walk });
    assert!(report.is_complete(), "{report:?}");
    assert_eq!(gathering.count(), 4, "as many as the fds suffice for");
    let most = most.into_inner();
    assert!((4..=BUDGET + BESIDES).contains(&most), "{most}");
    assert_eq!(fds_below(&tree.at("")), 0, "an admin could not unmount it");
}

#[test]
fn the_root_comes_last_on_threads_too() {
    let tree = bushy();
    let rule = rule("0750", "0640");
    let early = AtomicBool::new(false);
    let progress = |progress: Progress| {
        let is_last = progress.entries == 1511;
        early.fetch_or(!is_last && ids(tree.at("")) == OWNER, Ordering::Relaxed);
    };
    let walk = Walk { threads: threads(4), ..Walk::new(WalkMode::Repair, &rule) };
    let report = tree.walk_with(Walk { progress: &progress, ..walk });
    assert_eq!(report.audit.entries, 1511);
    assert!(!early.into_inner());
    assert_eq!(ids(tree.at("")), OWNER);
}

#[test]
fn a_cancelled_or_limited_walk_ends_on_every_thread() {
    let tree = bushy();
    let rule = rule("0750", "0640");
    let cancel = AtomicBool::new(false);
    let gathering = Gathering::of(4);
    let progress = |progress: Progress| {
        gathering.come();
        cancel.store(progress.changes > 20, Ordering::Relaxed);
    };
    let walk = Walk { threads: threads(4), ..Walk::new(WalkMode::Repair, &rule) };
    let report = tree.walk_with(Walk { cancel: &cancel, progress: &progress, ..walk });
    assert!(report.cancelled && report.changed < 500, "{report:?}");
    assert_eq!(ids(tree.at("")), HostIds::ROOT);
    let limited = tree.walk_with(Walk { max_changes: Some(100), ..walk });
    assert_eq!((limited.changed, limited.limited), (100, true));
    assert_eq!(ids(tree.at("")), HostIds::ROOT);
    let rest = tree.walk_with(walk);
    assert_eq!(report.changed + limited.changed + rest.changed, 1511);
    assert!(rest.is_complete());
}

#[test]
fn a_panic_on_one_thread_ends_the_walk_for_all() {
    let tree = bushy();
    let rule = rule("0750", "0640");
    let caller = std::thread::current().id();
    for on_the_callers in [true, false] {
        let gathering = Gathering::of(3);
        let progress = |_| {
            gathering.come();
            let here = std::thread::current().id() == caller;
            assert!(here != on_the_callers, "a panic on purpose");
        };
        let walk = Walk { threads: threads(3), ..Walk::new(WalkMode::Repair, &rule) };
        let walk = Walk { progress: &progress, ..walk };
        assert!(catch_unwind(AssertUnwindSafe(|| tree.walk_with(walk))).is_err());
        assert_eq!(ids(tree.at("")), HostIds::ROOT);
        assert_eq!(fds_below(&tree.at("")), 0);
    }
}

#[test]
fn a_walk_in_the_background_steps_back_and_its_caller_does_not() {
    let tree = bushy();
    let rule = rule("0750", "0640");
    let nice = || getpriority_process(None).unwrap();
    let before = nice();
    let others = AtomicBool::new(false);
    let gathering = Gathering::of(2);
    let progress = |_| {
        gathering.come();
        others.fetch_or(nice() != 19, Ordering::Relaxed);
    };
    let walk = Walk { threads: threads(2), background: true, ..Walk::new(WalkMode::Repair, &rule) };
    let report = tree.walk_with(Walk { progress: &progress, ..walk });
    assert!(report.is_complete(), "{report:?}");
    assert!(!others.into_inner());
    assert_eq!((nice(), gathering.count()), (before, 2));
    let one = tree.walk_with(Walk { threads: threads(1), ..walk });
    assert_eq!((one.audit.changes, nice()), (0, before));
}

/// Not a test by itself: what [`a_walk_does_with_64_fds`] runs.
#[test]
#[ignore = "run by another test, with a limit of its own"]
fn walks_under_a_limit() {
    let tree = Tree::in_memory();
    make_chain(&tree, 5000);
    for n in 0..40 {
        fs::create_dir(tree.at(&format!("{n}"))).unwrap();
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let at = tree.at(&format!("{n}"));
        make_file(&openat(CWD, at, flags, rustix::fs::Mode::empty()).unwrap());
    }
    let rule = rule("0750", "0640");
    for number in [0, 1, 8] {
        set_ids(tree.at("0"), HostIds::ROOT);
        let walk = Walk { threads: threads(number), ..Walk::new(WalkMode::Repair, &rule) };
        let report = tree.walk_with(walk);
        assert!(report.is_complete(), "{number} threads: {report:?}");
        assert_eq!(report.audit.entries, 10_081);
    }
    remove_chain(&tree);
}

#[test]
fn a_walk_does_with_64_fds() {
    let program = std::env::current_exe().unwrap();
    let script = r#"ulimit -n 64 && exec "$0" --exact --ignored threads::walks_under_a_limit"#;
    let output = Command::new("sh").args(["-c", script]).arg(program).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}
