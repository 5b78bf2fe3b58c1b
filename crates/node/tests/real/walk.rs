//! The ownership walk on what trees may hold.

use std::ffi::OsStr;
use std::fs;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use pctd_core::idmap::IdMap;
use pctd_core::ids::HostIds;
use pctd_core::modes::{FilePattern, ModeRule};
use pctd_core::ownership::{OwnershipRule, Scope};
use pctd_node::{FdBudget, Walk, WalkMode};
use rustix::fs::{AtFlags, CWD, FileType, IFlags, OFlags, XattrFlags, mknodat, openat};

use crate::support::{
    Mounted, OWNER, Tree, all_below, ctime, ids, mode, rule, set_ids, set_mode, skip,
};

fn make_node(path: &Path, kind: FileType) {
    let device = if kind == FileType::CharacterDevice { rustix::fs::makedev(1, 3) } else { 0 };
    mknodat(CWD, path, kind, rustix::fs::Mode::from_raw_mode(0o600), device).unwrap();
}

/// A tree with one of everything.
fn tree_of_everything() -> Tree {
    let tree = Tree::new();
    tree.file("file");
    tree.file("dir/sub/file");
    fs::create_dir(tree.at("empty")).unwrap();
    fs::write(tree.outside("secret"), "").unwrap();
    set_mode(tree.outside("secret"), 0o600);
    symlink("../secret", tree.at("link")).unwrap();
    symlink("/nonexistent", tree.at("dangling")).unwrap();
    symlink("dir", tree.at("link-to-dir")).unwrap();
    make_node(&tree.at("fifo"), FileType::Fifo);
    make_node(&tree.at("null"), FileType::CharacterDevice);
    make_node(&tree.at("socket"), FileType::Socket);
    tree
}

#[test]
fn every_entry_gets_its_owner_and_directories_and_files_their_modes() {
    let tree = tree_of_everything();
    let report = tree.repair(&rule("2770", "0640"));
    let all = all_below(&tree.at(""));
    assert_eq!(report.audit.entries, u64::try_from(all.len()).unwrap());
    assert_eq!(
        (report.audit.changes, report.changed),
        (report.audit.entries, report.audit.changes)
    );
    assert!(report.is_complete(), "{report:?}");
    for path in all {
        assert_eq!(ids(&path), OWNER, "{}", path.display());
        let metadata = fs::symlink_metadata(&path).unwrap();
        let expected = if metadata.is_dir() {
            0o2770
        } else if metadata.is_file() {
            0o640
        } else if metadata.is_symlink() {
            0o777
        } else {
            0o600
        };
        assert_eq!(mode(&path), expected, "{}", path.display());
    }
    assert_eq!(ids(tree.outside("secret")), HostIds::ROOT);
    assert_eq!(mode(tree.outside("secret")), 0o600);
}

#[test]
fn a_second_repair_writes_nothing() {
    let tree = tree_of_everything();
    let rule = rule("2770", "u=rwX,g=rX,o=");
    tree.repair(&rule);
    let all = all_below(&tree.at(""));
    let before: Vec<_> = all.iter().map(ctime).collect();
    let report = tree.repair(&rule);
    assert_eq!((report.audit.changes, report.changed), (0, 0));
    assert_eq!(all.iter().map(ctime).collect::<Vec<_>>(), before);
}

#[test]
fn an_audit_counts_what_a_repair_would_change_and_changes_nothing() {
    let tree = tree_of_everything();
    let rule = rule("0755", "0640");
    let all = all_below(&tree.at(""));
    let before: Vec<_> = all.iter().map(ctime).collect();
    let audit = tree.audit(&rule);
    assert_eq!(all.iter().map(ctime).collect::<Vec<_>>(), before);
    assert_eq!(audit.changed, 0);
    let repair = tree.repair(&rule);
    assert_eq!(audit.audit, repair.audit);
    assert_eq!(audit.audit.owners, audit.audit.entries);
    // The files; the directories have 0755 already.
    assert_eq!(audit.audit.modes, 2);
}

#[test]
fn only_the_root_is_held_to_the_rule_where_nothing_below_is() {
    let tree = Tree::new();
    let file = tree.file("file");
    let report = tree.repair(&OwnershipRule { scope: Scope::RootOnly, ..rule("0700", "0600") });
    assert_eq!((report.audit.entries, report.changed), (1, 1));
    assert_eq!(ids(tree.at("")), OWNER);
    assert_eq!(ids(file), HostIds::ROOT);
}

#[test]
fn what_the_container_can_own_is_its_own() {
    let tree = Tree::new();
    let (foreign, own) = (tree.file("foreign"), tree.file("dir/own"));
    let service = HostIds::new(100_033, 100_033);
    set_ids(&own, service);
    let scope = Scope::Foreign(vec![IdMap::default_unprivileged()]);
    let report = tree.repair(&OwnershipRule { scope, ..rule("0700", "0600") });
    assert_eq!(report.audit.changes, 3, "the root, the directory, the foreign file");
    assert_eq!((ids(&own), mode(&own)), (service, 0o644));
    assert_eq!((ids(&foreign), mode(&foreign)), (OWNER, 0o600));
}

#[test]
fn names_may_be_any_bytes() {
    let tree = Tree::new();
    let names: [&[u8]; 5] = [b"\xff\xfe", b"new\nline", b"-rf", b" ", "ä\u{301}".as_bytes()];
    for name in names {
        let dir = tree.at("").join(OsStr::from_bytes(name));
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join(OsStr::from_bytes(&[name, b".key"].concat())), "").unwrap();
    }
    let pattern = FilePattern::new("*.key").unwrap();
    let mut rule = rule("0755", "0644");
    rule.file_modes.push((pattern, "0600".parse().unwrap()));
    let report = tree.repair(&rule);
    assert_eq!(report.changed, 11);
    assert!(report.is_complete(), "{report:?}");
    for path in all_below(&tree.at("")) {
        assert_eq!(ids(&path), OWNER);
        assert_eq!(mode(&path), if path.is_file() { 0o600 } else { 0o755 });
    }
}

#[test]
fn a_directory_nobody_may_enter_is_entered() {
    let tree = Tree::new();
    let file = tree.file("closed/file");
    set_mode(tree.at("closed"), 0);
    let report = tree.repair(&rule("keep", "0600"));
    assert!(report.is_complete(), "{report:?}");
    assert_eq!(mode(tree.at("closed")), 0);
    assert_eq!(ids(&file), OWNER);
}

#[test]
fn other_names_of_a_file_are_counted_and_change_with_it() {
    let tree = Tree::new();
    let file = tree.file("file");
    fs::hard_link(&file, tree.outside("other-name")).unwrap();
    fs::hard_link(tree.file("twice"), tree.at("twice-2")).unwrap();
    let report = tree.repair(&rule("0755", "0600"));
    // `twice` is right by the time its second name comes.
    assert_eq!(report.audit.hard_links, 2);
    assert_eq!(ids(tree.outside("other-name")), OWNER);
}

#[test]
fn setuid_goes_with_the_owner_unless_it_is_declared() {
    for (declared, before, after, privileges) in [
        ("keep", 0o4755, 0o755, 1),
        ("keep", 0o2755, 0o755, 1),
        ("g+w", 0o6755, 0o775, 1),
        ("4755", 0o4755, 0o4755, 1),
        ("2755", 0o644, 0o2755, 0),
        ("u=rwX", 0o4711, 0o711, 1),
        ("keep", 0o644, 0o644, 0),
    ] {
        let tree = Tree::new();
        let file = tree.file("file");
        set_mode(&file, before);
        let rule = rule("keep", declared);
        let report = tree.repair(&rule);
        assert_eq!(mode(&file), after, "{declared} on {before:o}");
        assert_eq!(report.audit.privileges, privileges, "{declared} on {before:o}");
        assert_eq!(tree.audit(&rule).audit.changes, 0, "{declared} on {before:o}");
    }
}

#[test]
fn setgid_of_a_directory_stays() {
    let tree = Tree::new();
    fs::create_dir(tree.at("dir")).unwrap();
    set_mode(tree.at("dir"), 0o2755);
    let report = tree.repair(&rule("keep", "keep"));
    assert_eq!((mode(tree.at("dir")), report.audit.privileges), (0o2755, 0));
}

#[test]
fn capabilities_that_a_chown_takes_are_counted() {
    let tree = Tree::new();
    let file = tree.file("ping");
    set_mode(&file, 0o755);
    // Version 2, cap_net_raw permitted and effective (`struct vfs_cap_data`).
    let mut capability = [0; 20];
    capability[..8].copy_from_slice(&[1, 0, 0, 2, 0, 0x20, 0, 0]);
    let set = rustix::fs::setxattr(&file, "security.capability", &capability, XattrFlags::empty());
    if let Err(errno) = set {
        return skip("file capabilities", errno);
    }
    let report = tree.repair(&rule("keep", "keep"));
    assert_eq!(report.audit.privileges, 1);
    let left = rustix::fs::getxattr(&file, "security.capability", &mut [0; 64][..]);
    assert_eq!(left, Err(rustix::io::Errno::NODATA));
}

/// An access ACL: the owner rw, user 1000 rw, the group r, mask rw, others nothing
/// (`struct posix_acl_xattr_header`, `posix_acl_xattr_entry`).
fn access_acl() -> Vec<u8> {
    const NO_ID: u32 = u32::MAX;
    let entries: [(u16, u16, u32); 5] =
        [(1, 6, NO_ID), (2, 6, 1000), (4, 4, NO_ID), (16, 6, NO_ID), (32, 0, NO_ID)];
    let mut blob = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        blob.extend(tag.to_le_bytes());
        blob.extend(permissions.to_le_bytes());
        blob.extend(id.to_le_bytes());
    }
    blob
}

#[test]
fn an_entry_with_an_acl_keeps_its_mode() {
    let tree = Tree::new();
    let (plain, with_acl) = (tree.file("plain"), tree.file("with-acl"));
    let set =
        |path: &Path, name| rustix::fs::setxattr(path, name, &access_acl(), XattrFlags::empty());
    if let Err(errno) = set(&with_acl, "system.posix_acl_access") {
        return skip("ACLs", errno);
    }
    fs::create_dir(tree.at("dir")).unwrap();
    set(&tree.at("dir"), "system.posix_acl_default").unwrap();
    let rule = rule("0750", "0600");
    let report = tree.repair(&rule);
    assert_eq!(report.audit.acls, 1, "a default ACL does not stand in the way");
    assert_eq!((ids(&with_acl), mode(&with_acl)), (OWNER, 0o660));
    assert_eq!((ids(&plain), mode(&plain)), (OWNER, 0o600));
    let mut left = [0; 128];
    let size = rustix::fs::getxattr(&with_acl, "system.posix_acl_access", &mut left[..]).unwrap();
    assert_eq!(&left[..size], access_acl());
    let again = tree.audit(&rule).audit;
    assert_eq!((again.changes, again.acls), (0, 1));
}

#[test]
fn an_immutable_file_is_an_error_and_not_an_unsupported_file_system() {
    let tree = Tree::new();
    let file = tree.file("dir/immutable");
    let rest = tree.file("dir/rest");
    let fd = openat(CWD, &file, OFlags::RDONLY, rustix::fs::Mode::empty()).unwrap();
    if let Err(errno) = rustix::fs::ioctl_setflags(&fd, IFlags::IMMUTABLE) {
        return skip("immutable files", errno);
    }
    let report = tree.repair(&rule("0755", "0600"));
    rustix::fs::ioctl_setflags(&fd, IFlags::empty()).unwrap();
    assert_eq!((report.audit.errors, &report.unsupported), (1, &None));
    let error = &report.audit.first_errors[0];
    assert!(error.starts_with("dir/immutable: ") && error.contains("immutable or"), "{error}");
    assert_eq!((ids(&file), mode(&file)), (HostIds::ROOT, 0o644));
    assert_eq!(ids(&rest), OWNER);
    assert!(!report.is_complete());
}

#[test]
fn errors_are_counted_and_only_the_first_few_kept() {
    let tree = Tree::new();
    let open = |path| openat(CWD, path, OFlags::RDONLY, rustix::fs::Mode::empty()).unwrap();
    let fds: Vec<OwnedFd> = (0..9).map(|n| open(tree.file(&format!("{n}")))).collect();
    for fd in &fds {
        if let Err(errno) = rustix::fs::ioctl_setflags(fd, IFlags::IMMUTABLE) {
            return skip("immutable files", errno);
        }
    }
    let report = tree.repair(&rule("keep", "keep"));
    for fd in &fds {
        rustix::fs::ioctl_setflags(fd, IFlags::empty()).unwrap();
    }
    assert_eq!((report.audit.errors, report.audit.first_errors.len()), (9, 5));
}

/// Makes `depth` directories inside one another, with a file in each; no path is that long.
pub(crate) fn make_chain(tree: &Tree, depth: u32) {
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let mut dir = openat(CWD, tree.at(""), flags, rustix::fs::Mode::empty()).unwrap();
    for _ in 0..depth {
        rustix::fs::mkdirat(&dir, "d", rustix::fs::Mode::RWXU).unwrap();
        dir = openat(&dir, "d", flags, rustix::fs::Mode::empty()).unwrap();
        make_file(&dir);
    }
}

pub(crate) fn make_file(dir: &OwnedFd) {
    let flags = OFlags::CREATE | OFlags::WRONLY;
    drop(openat(dir, "f", flags, rustix::fs::Mode::from_raw_mode(0o644)).unwrap());
}

/// Removes what [`make_chain`] made, from the bottom: recursive removal would run out of stack or
/// of fds.
pub(crate) fn remove_chain(tree: &Tree) {
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let open = |dir: &OwnedFd, name| openat(dir, name, flags, rustix::fs::Mode::empty());
    let mut dir = openat(CWD, tree.at(""), flags, rustix::fs::Mode::empty()).unwrap();
    let mut depth = 0;
    while let Ok(next) = open(&dir, "d") {
        dir = next;
        depth += 1;
    }
    for _ in 0..depth {
        rustix::fs::unlinkat(&dir, "f", AtFlags::empty()).unwrap();
        dir = open(&dir, "..").unwrap();
        rustix::fs::unlinkat(&dir, "d", AtFlags::REMOVEDIR).unwrap();
    }
}

#[test]
fn a_deep_chain_needs_few_fds() {
    const DEPTH: u32 = 5000;
    let tree = Tree::in_memory();
    make_chain(&tree, DEPTH);
    let rule = rule("0750", "0640");
    let report = tree.walk(&rule, WalkMode::Repair, FdBudget::new(16), &|_| {});
    assert!(report.is_complete(), "{report:?}");
    assert_eq!(report.audit.entries, u64::from(2 * DEPTH + 1));
    assert_eq!(report.changed, report.audit.entries);
    let audit = tree.walk(&rule, WalkMode::Audit, FdBudget::new(2), &|_| {}).audit;
    assert_eq!((audit.entries, audit.changes), (u64::from(2 * DEPTH + 1), 0));
    remove_chain(&tree);
}

#[test]
fn no_more_directories_are_open_than_the_budget_has() {
    const BUDGET: usize = 16;
    /// The volume itself, once as it was opened and once to be read.
    const ROOT: usize = 2;
    let tree = Tree::new();
    make_chain(&tree, 100);
    let most = AtomicUsize::new(0);
    let progress = |_| {
        most.fetch_max(fds_below(tree.dir.path()), Ordering::Relaxed);
    };
    let (fds, threads) = (FdBudget::new(BUDGET), NonZeroUsize::new(1));
    let rule = rule("0750", "0640");
    let walk = Walk::new(WalkMode::Repair, &rule);
    tree.walk_with(Walk { fds, threads, progress: &progress, ..walk });
    assert_eq!(most.into_inner(), BUDGET + ROOT);
    assert_eq!(fds_below(&tree.at("")), 0, "an admin could not unmount it");
    remove_chain(&tree);
}

pub(crate) fn fds_below(dir: &Path) -> usize {
    let fds = fs::read_dir("/proc/self/fd").unwrap().map_while(Result::ok);
    let links = fds.filter_map(|fd| fs::read_link(fd.path()).ok());
    links.filter(|link| link.starts_with(dir) && link != dir).count()
}

#[test]
fn wide_directories_are_walked_whole() {
    const FILES: u64 = 20_000;
    const DIRS: u64 = 3_000;
    let tree = Tree::in_memory();
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let dir = openat(CWD, tree.at(""), flags, rustix::fs::Mode::empty()).unwrap();
    for n in 0..FILES {
        let name = format!("file-with-a-name-of-some-length-{n}");
        let flags = OFlags::CREATE | OFlags::WRONLY;
        drop(openat(&dir, name, flags, rustix::fs::Mode::RUSR).unwrap());
    }
    for n in 0..DIRS {
        let name = format!("directory-with-a-name-of-some-length-{n}");
        rustix::fs::mkdirat(&dir, &name, rustix::fs::Mode::RWXU).unwrap();
        make_file(&openat(&dir, name, flags, rustix::fs::Mode::empty()).unwrap());
    }
    let rule = rule("0750", "0640");
    let report = tree.walk(&rule, WalkMode::Repair, FdBudget::new(2), &|_| {});
    assert_eq!(report.audit.entries, FILES + 2 * DIRS + 1);
    assert_eq!(report.changed, report.audit.entries);
    assert_eq!(tree.audit(&rule).audit.changes, 0);
}

/// A tree whose directories are all wide must come out whole when parents are closed while they
/// are only half read.
#[test]
fn a_parent_that_was_closed_is_read_on_from_where_it_was() {
    const WIDTH: u64 = 1500;
    let tree = Tree::new();
    let mut path = String::new();
    for _ in 0..4 {
        path.push_str("down/");
        for n in 0..WIDTH {
            tree.file(&format!("{path}a-file-with-quite-a-long-name-{n}"));
        }
        for n in 0..20 {
            tree.file(&format!("{path}dir-{n}/sub/file"));
        }
    }
    let expected = u64::try_from(all_below(&tree.at("")).len()).unwrap();
    let rule = rule("0750", "0640");
    let report = tree.walk(&rule, WalkMode::Repair, FdBudget::new(2), &|_| {});
    assert_eq!((report.audit.entries, report.changed), (expected, expected));
    assert!(report.is_complete(), "{report:?}");
}

#[test]
fn other_mounts_are_reported_and_left_alone() {
    let tree = Tree::new();
    let file = tree.file("dir/file");
    fs::create_dir(tree.at("dir/nested")).unwrap();
    let Some(_tmpfs) = Mounted::tmpfs(&tree.at("dir/nested")) else { return };
    fs::write(tree.at("dir/nested/inside"), "").unwrap();
    fs::write(tree.outside("other"), "").unwrap();
    tree.file("file-mount");
    let Some(_bind) = Mounted::bind(&tree.outside("other"), &tree.at("file-mount")) else { return };
    fs::create_dir(tree.outside("other-dir")).unwrap();
    fs::create_dir(tree.at("same-file-system")).unwrap();
    let same = Mounted::bind(&tree.outside("other-dir"), &tree.at("same-file-system"));
    let Some(_same) = same else { return };

    let report = tree.repair(&rule("0750", "0640"));
    let expected = ["dir/nested", "file-mount", "same-file-system"];
    assert_eq!(report.audit.nested_mounts, expected);
    assert_eq!((report.audit.entries, report.audit.errors), (3, 0));
    for path in ["dir/nested", "dir/nested/inside", "file-mount", "same-file-system"] {
        assert_eq!(ids(tree.at(path)), HostIds::ROOT, "{path}");
    }
    assert_eq!(ids(file), OWNER);
}

#[test]
fn a_cancelled_repair_leaves_the_root_alone() {
    let tree = Tree::new();
    for n in 0..50 {
        tree.file(&format!("{n}/file"));
    }
    let cancel = AtomicBool::new(false);
    let rule = rule("0750", "0640");
    let progress = |progress: pctd_node::Progress| {
        assert_eq!(ids(tree.at("")), HostIds::ROOT);
        cancel.store(progress.changes > 20, Ordering::Relaxed);
    };
    let walk = Walk::new(WalkMode::Repair, &rule);
    let report = tree.walk_with(Walk { cancel: &cancel, progress: &progress, ..walk });
    assert!(report.cancelled && !report.is_complete());
    assert!((20..60).contains(&report.changed), "{}", report.changed);
    assert_eq!(ids(tree.at("")), HostIds::ROOT);
    let rest = tree.repair(&rule);
    assert_eq!(rest.changed + report.changed, 101);
    assert_eq!(ids(tree.at("")), OWNER);
}

#[test]
fn the_root_comes_last() {
    let tree = Tree::new();
    tree.file("a/b/c");
    let rule = rule("0750", "0640");
    let seen = AtomicU64::new(0);
    let progress = |progress: pctd_node::Progress| {
        let root = ids(tree.at(""));
        let below = all_below(&tree.at("a")).iter().all(|path| ids(path) == OWNER);
        assert!(root != OWNER || below, "the root was right before what is below");
        seen.store(progress.entries, Ordering::Relaxed);
    };
    tree.walk(&rule, WalkMode::Repair, FdBudget::default(), &progress);
    assert_eq!(seen.into_inner(), 4);
}

/// With the way back up gone the walk must neither act elsewhere nor stay silent.
#[test]
fn a_directory_that_is_moved_away_ends_its_branch_with_an_error() {
    let tree = Tree::new();
    tree.file("a/b/c/d/e/file");
    let after = tree.file("last/file");
    fs::create_dir_all(tree.outside("moved/deep")).unwrap();
    let stray = tree.outside("moved/stray");
    fs::write(&stray, "").unwrap();
    let moved = AtomicBool::new(false);
    let rule = rule("0750", "0640");
    let progress = |_| {
        let at_the_bottom = fs::symlink_metadata(tree.at("a/b/c/d/e/file"))
            .is_ok_and(|metadata| std::os::unix::fs::MetadataExt::uid(&metadata) == OWNER.uid);
        if at_the_bottom && !moved.swap(true, Ordering::Relaxed) {
            fs::rename(tree.at("a/b/c"), tree.outside("moved/deep/c")).unwrap();
        }
    };
    let report = tree.walk(&rule, WalkMode::Repair, FdBudget::new(2), &progress);
    assert!(moved.into_inner());
    assert_eq!(report.audit.errors, 2, "{report:?}");
    for (error, path) in report.audit.first_errors.iter().zip(["a/b: ", "a: "]) {
        assert!(error.starts_with(path) && error.contains("the way back"), "{error}");
    }
    for path in [stray, tree.outside("moved"), tree.outside("moved/deep"), tree.at("a/b")] {
        assert_eq!(ids(&path), HostIds::ROOT, "{}", path.display());
    }
    assert_eq!((ids(after), ids(tree.at(""))), (OWNER, OWNER));
    assert!(tree.repair(&rule).is_complete());
    assert_eq!(ids(tree.at("a/b")), OWNER);
}

#[test]
fn a_file_system_that_refuses_is_told_from_errors() {
    let tree = Tree::new();
    for n in 0..30 {
        tree.file(&format!("{n}"));
    }
    let Some(mounted) = Mounted::bind(&tree.at(""), &tree.at("")) else { return };
    mounted.make_read_only();
    let report = tree.repair(&rule("0750", "0600"));
    let unsupported = report.unsupported.as_ref().unwrap();
    assert!(unsupported.message.contains("Read-only file system"), "{unsupported:?}");
    assert!(!unsupported.kind.is_empty());
    assert!(unsupported.entries < 30, "it goes on for ever");
    assert_eq!((report.changed, report.audit.errors), (0, 0));
    assert!(!report.is_complete());
    let audit = tree.audit(&rule("0750", "0600"));
    assert_eq!((audit.unsupported, audit.audit.changes), (None, 31));
}

#[test]
fn a_rule_without_owner_sets_modes_only() {
    let tree = Tree::new();
    let file = tree.file("file");
    let rule =
        OwnershipRule { owner: None, file_mode: ModeRule::Exact(0o600), ..rule("keep", "keep") };
    let report = tree.repair(&rule);
    assert_eq!((report.audit.owners, report.audit.modes, report.changed), (0, 1, 1));
    assert_eq!((ids(&file), mode(&file)), (HostIds::ROOT, 0o600));
}
