//! A group that all entries share, and default ACLs, on real files.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use pctd_core::acl::{Acl, Who};
use pctd_core::desired::Volume;
use pctd_core::ids::HostIds;
use pctd_core::observed::Watch;
use pctd_core::ownership::OwnershipRule;
use pctd_node::watch::Standing;
use pctd_node::{Node, NodeOptions, Watcher};
use rustix::fs::{XattrFlags, getxattr, removexattr, setxattr};
use rustix::io::Errno;

use crate::support::{
    Mounted, OWNER, Tree, all_below, ctime, ids, mode, rule, set_ids, set_mode, volume,
};

const GROUP: u32 = 110_000;
const DEFAULT: &str = "system.posix_acl_default";
const ACCESS: &str = "system.posix_acl_access";
/// Long enough for a machine that does other things as well.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn acl(entries: &[(Who<u32>, &str)]) -> Acl<u32> {
    Acl::new(entries.iter().map(|(who, may)| (who.clone(), may.parse().unwrap())))
}

/// What `g::rwX` and 2775 come to: no entry has an ACL of its own for it.
pub(crate) fn plain() -> Acl<u32> {
    acl(&[(Who::Owner, "rwx"), (Who::OwningGroup, "rwx"), (Who::Other, "r-x")])
}

/// One that names another group.
fn named() -> Acl<u32> {
    acl(&[
        (Who::Owner, "rwx"),
        (Who::OwningGroup, "rwx"),
        (Who::Group(7), "rwx"),
        (Who::Other, "r-x"),
    ])
}

/// Returns an ACL of a path; without entries where there is none.
pub(crate) fn acl_of(path: &Path, attribute: &str) -> Acl<u32> {
    let mut value = [0; 1024];
    match getxattr(path, attribute, &mut value[..]) {
        Ok(len) => Acl::from_bytes(&value[..len]).unwrap(),
        Err(Errno::NODATA) => Acl::none(),
        Err(errno) => panic!("{}: {errno}", path.display()),
    }
}

fn default_of(path: &Path) -> Acl<u32> {
    acl_of(path, DEFAULT)
}

fn set(path: &Path, attribute: &str, acl: &Acl<u32>) {
    setxattr(path, attribute, &acl.to_bytes(), XattrFlags::empty()).unwrap();
}

/// Owners are kept, everything has the group, directories hand it on and have this default ACL.
fn shared(default_acl: Acl<u32>) -> OwnershipRule {
    OwnershipRule {
        owner: None,
        group: Some(GROUP),
        default_acl: Some(default_acl),
        ..rule("0775", "0664")
    }
}

fn sh(dir: &Path, script: &str) {
    let output = Command::new("sh").arg("-euc").arg(script).current_dir(dir).output().unwrap();
    assert!(output.status.success(), "{script}: {output:?}");
}

/// A volume with directories and files of two users, and what leads out of it.
fn furnish() -> Tree {
    let tree = Tree::new();
    let [mine, theirs] = [HostIds::new(1000, 1000), HostIds::new(100_033, 100_033)];
    for (path, owner) in [("a/mine", mine), ("a/b/theirs", theirs)] {
        set_ids(tree.file(path), owner);
    }
    set_ids(tree.at("a"), mine);
    set_ids(tree.at("a/b"), theirs);
    let victim = tree.outside("victim");
    fs::create_dir(&victim).unwrap();
    fs::write(victim.join("file"), "").unwrap();
    symlink(&victim, tree.at("a/link")).unwrap();
    tree
}

#[test]
fn everything_has_the_group_and_directories_hand_it_on_whatever_the_umask() {
    let tree = furnish();
    let outside = [tree.outside("victim"), tree.outside("victim/file")];
    let before = outside.each_ref().map(ctime);
    let rule = shared(plain());
    let audit = tree.audit(&rule).audit;
    let counts = (audit.entries, audit.changes, audit.owners, audit.modes, audit.default_acls);
    assert_eq!(counts, (6, 6, 6, 5, 3), "{audit:?}");
    let report = tree.repair(&rule);
    assert!(report.is_complete() && report.changed == 6, "{report:?}");
    for path in all_below(&tree.at("")) {
        assert_eq!(ids(&path).gid, GROUP, "{}", path.display());
        if fs::symlink_metadata(&path).unwrap().is_dir() {
            assert_eq!((mode(&path), default_of(&path)), (0o2775, plain()));
        }
    }
    assert_eq!(ids(tree.at("a/mine")).uid, 1000);
    assert_eq!(ids(tree.at("a/b/theirs")).uid, 100_033);
    assert_eq!(outside.each_ref().map(ctime), before, "a link was followed");
    // As the kernel makes it in such a directory, without pctd.
    sh(&tree.at("a/b"), "umask 077; mkdir -p new/sub; echo x > new/sub/file");
    assert_eq!(
        (ids(tree.at("a/b/new/sub/file")).gid, mode(tree.at("a/b/new/sub/file"))),
        (GROUP, 0o664)
    );
    let paths = all_below(&tree.at(""));
    let stamps = || paths.iter().map(ctime).collect::<Vec<_>>();
    let before = stamps();
    let again = tree.repair(&rule);
    assert_eq!((again.changed, again.audit.changes), (0, 0), "{again:?}");
    assert_eq!(stamps(), before, "what is right was written");
}

#[test]
fn a_default_acl_that_somebody_changed_is_set_again_and_none_is_taken_away() {
    let tree = furnish();
    tree.repair(&shared(plain()));
    set(&tree.at("a"), DEFAULT, &named());
    removexattr(tree.at("a/b"), DEFAULT).unwrap();
    let report = tree.repair(&shared(plain()));
    assert_eq!((report.changed, report.audit.default_acls), (2, 2), "{report:?}");
    assert_eq!([default_of(&tree.at("a")), default_of(&tree.at("a/b"))], [plain(), plain()]);
    let none = tree.repair(&shared(Acl::none()));
    assert_eq!((none.changed, none.audit.default_acls), (3, 3), "{none:?}");
    assert!(
        [tree.at(""), tree.at("a"), tree.at("a/b")].iter().all(|dir| default_of(dir).is_none())
    );
    assert_eq!(tree.repair(&shared(Acl::none())).changed, 0);
    // Where none is declared, whatever is there stays.
    set(&tree.at("a"), DEFAULT, &named());
    let undeclared = OwnershipRule { default_acl: None, ..shared(plain()) };
    assert_eq!(tree.repair(&undeclared).changed, 0);
    assert_eq!(default_of(&tree.at("a")), named());
}

#[test]
fn an_acl_that_comes_from_the_declared_one_keeps_no_mode_and_others_do() {
    let tree = furnish();
    let rule = shared(named());
    tree.repair(&rule);
    sh(
        &tree.at("a"),
        "umask 077; mkdir -m 700 inherited; echo x > inherited/file; chmod 600 inherited/file",
    );
    let own = tree.file("a/foreign");
    set_mode(&own, 0o600);
    let theirs = acl(&[
        (Who::Owner, "rw-"),
        (Who::OwningGroup, "---"),
        (Who::User(8), "r--"),
        (Who::Other, "---"),
    ]);
    set(&own, ACCESS, &theirs);
    let report = tree.repair(&rule);
    assert_eq!((report.changed, report.audit.acls), (2, 1), "{report:?}");
    assert_eq!(mode(tree.at("a/inherited")), 0o2775);
    assert_eq!(mode(tree.at("a/inherited/file")), 0o664);
    // The bits of the group are the mask, so whoever is named may what the mode says.
    let file = acl_of(&tree.at("a/inherited/file"), ACCESS);
    assert!(named().is_source_of(&file), "{file}");
    assert_eq!(acl_of(&own, ACCESS), theirs);
    assert_eq!(tree.repair(&rule).changed, 0);
}

#[test]
fn a_walk_on_threads_and_with_few_fds_counts_and_sets_the_same() {
    let tree = Tree::new();
    for n in 0..40 {
        tree.file(&format!("{}/{n}/{}/file", n % 3, n % 2));
    }
    let rule = shared(plain());
    let walk = |threads, mode| {
        let fds = pctd_node::FdBudget::new(16);
        let threads = std::num::NonZeroUsize::new(threads);
        tree.walk_with(pctd_node::Walk { threads, fds, ..pctd_node::Walk::new(mode, &rule) })
    };
    let one = walk(1, pctd_node::WalkMode::Audit).audit;
    let many = walk(4, pctd_node::WalkMode::Audit).audit;
    assert_eq!((one.default_acls, many.default_acls), (84, 84));
    assert!(walk(4, pctd_node::WalkMode::Repair).is_complete());
    let dirs = all_below(&tree.at("")).into_iter().filter(|path| path.is_dir());
    assert!(dirs.into_iter().all(|dir| default_of(&dir) == plain()));
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn the_watch_sets_what_is_missing_and_does_not_answer_itself() {
    let tree = Tree::in_memory();
    let watcher = Watcher::start(tree.paths.clone(), |_| {}).unwrap();
    let rule = shared(plain());
    watcher.begin_walk(&tree.volume, &rule);
    tree.repair(&rule);
    let standing =
        Standing { rule: Some(rule), cpu_percent: 100, confirm_above: 100, undo_limit: 0 };
    watcher.hold(&tree.volume, standing);
    let repaired = || match watcher.state(&tree.volume.name) {
        Watch::Events(drift) => (drift.repaired, drift.events),
        Watch::Walks(why) => panic!("not watched: {why}"),
    };
    // What the kernel makes right needs nobody.
    sh(&tree.at(""), "umask 077; mkdir -p a/b; echo x > a/b/file");
    eventually("seen", || repaired().1 >= 3);
    std::thread::sleep(Duration::from_millis(200));
    let (after_making, seen) = repaired();
    assert_eq!(after_making, 0, "the kernel had done it");
    // A tree from elsewhere has nothing of it.
    sh(&tree.outside(""), "mkdir -p elsewhere/sub; mv elsewhere vol/a/moved");
    for dir in ["a/moved", "a/moved/sub"] {
        let dir = tree.at(dir);
        let is_right = || (ids(&dir).gid, mode(&dir), default_of(&dir)) == (GROUP, 0o2775, plain());
        eventually(&dir.display().to_string(), is_right);
    }
    std::thread::sleep(Duration::from_millis(200));
    let settled = repaired();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(repaired(), settled, "its own changes brought it to look again and again");
    assert!(settled.1 > seen && settled.0 == 2, "{settled:?}");
}

#[test]
fn a_file_system_without_acls_says_so_before_anything_is_done() {
    let mut tree = Tree::new();
    fs::create_dir(tree.at("ramfs")).unwrap();
    let nothing = Path::new("none");
    let Some(_mounted) = Mounted::mount("ramfs", "mode=755", nothing, &tree.at("ramfs")) else {
        return;
    };
    let names = Acl::new([(Who::OwningGroup, "rwx".parse().unwrap())]);
    let declared = |path: &str| Volume { default_acl: Some(names.clone()), ..volume(path) };
    let node = Node::open(tree.paths.clone(), NodeOptions::default());
    let volumes = [
        declared("/vol"),
        declared("/vol/ramfs"),
        declared("/vol/ramfs/to/be/made"),
        declared("/vol/to/be/made"),
        volume("/vol/ramfs"),
        Volume { default_acl: Some(Acl::none()), ..volume("/vol/ramfs") },
    ];
    let lacks: Vec<bool> =
        node.observe_volumes(&volumes).into_iter().map(|found| found.no_acl.is_some()).collect();
    assert_eq!(lacks, [false, true, true, false, false, false]);
    // And where it says so only then: nothing else of the entry is changed.
    tree.volume = volume("/vol/ramfs");
    fs::create_dir(tree.at("ramfs/dir")).unwrap();
    let before = ctime(tree.at("ramfs/dir"));
    let report = tree.repair(&OwnershipRule { owner: Some(OWNER), ..shared(plain()) });
    assert!(report.unsupported.is_some() && report.changed == 0, "{report:?}");
    assert_eq!(ctime(tree.at("ramfs/dir")), before);
}
