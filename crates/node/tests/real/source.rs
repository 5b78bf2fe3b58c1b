//! The way to a volume: what is judged on it, and what is made at its end.

use std::fs;
use std::os::unix::fs::symlink;

use pctd_core::desired::{RequireMount, Volume};
use pctd_core::ids::HostIds;
use pctd_core::observed::{SourceDir, SourceState};
use pctd_node::{CreateError, Created, FreshMode, source};

use crate::support::{Mounted, OWNER, Tree, ids, mode, set_ids, set_mode, volume};

fn observe(tree: &Tree, host_path: &str) -> SourceState {
    source::observe(&tree.paths, &volume(host_path))
}

fn missing_on(tree: &Tree, host_path: &str) -> String {
    match observe(tree, host_path) {
        SourceState::Missing { file_system } => file_system.id,
        state => panic!("{state:?}"),
    }
}

fn create(tree: &Tree, host_path: &str) -> Result<Created, CreateError> {
    source::create(&tree.paths, host_path, &missing_on(tree, "/nowhere"), FreshMode::Closed)
}

#[test]
fn a_directory_is_described_with_its_file_system() {
    let tree = Tree::new();
    set_mode(tree.at(""), 0o2750);
    set_ids(tree.at(""), OWNER);
    let SourceState::Directory(SourceDir { ids, mode, file_system, .. }) = observe(&tree, "/vol")
    else {
        panic!()
    };
    assert_eq!((ids, mode), (OWNER, 0o2750));
    assert!(file_system.is_root);
    assert_eq!(file_system.required_mounted, None);
}

#[test]
fn links_on_the_way_are_named_with_where_they_lead() {
    let tree = Tree::new();
    fs::create_dir_all(tree.at("real/dir")).unwrap();
    symlink("real", tree.at("relative")).unwrap();
    symlink("/vol/real", tree.at("absolute")).unwrap();
    symlink("nowhere", tree.at("dangling")).unwrap();
    symlink("vol", tree.outside("top")).unwrap();
    symlink("loop", tree.at("loop")).unwrap();
    symlink("../../../../etc", tree.at("up")).unwrap();
    for (path, link, resolved) in [
        ("/vol/relative", "/vol/relative", Some("/vol/real")),
        ("/vol/relative/dir", "/vol/relative", Some("/vol/real/dir")),
        ("/vol/absolute/dir", "/vol/absolute", Some("/vol/real/dir")),
        ("/top/real/dir", "/top", Some("/vol/real/dir")),
        ("/top/relative/dir", "/top", Some("/vol/real/dir")),
        ("/vol/dangling", "/vol/dangling", None),
        ("/vol/loop", "/vol/loop", None),
        // Below the root there is no `etc`.
        ("/vol/up", "/vol/up", None),
    ] {
        let resolved = resolved.map(str::to_owned);
        assert_eq!(observe(&tree, path), SourceState::Symlink { link: link.into(), resolved });
    }
}

#[test]
fn a_file_in_the_way_is_no_directory() {
    let tree = Tree::new();
    tree.file("file");
    for path in ["/vol/file", "/vol/file/below"] {
        assert_eq!(observe(&tree, path), SourceState::NotDirectory, "{path}");
    }
}

#[test]
fn what_anybody_could_swap_is_refused() {
    let tree = Tree::new();
    fs::create_dir_all(tree.at("open/dir/deep")).unwrap();
    set_mode(tree.at("open"), 0o777);
    let refused = SourceState::WritableByAll { ancestor: "/vol/open".into() };
    for path in ["/vol/open/dir", "/vol/open/dir/deep", "/vol/open/missing", "/vol/open/missing/b"]
    {
        assert_eq!(observe(&tree, path), refused, "{path}");
    }
    // Its own mode is what a volume is declared to have, not what leads to it.
    assert!(matches!(observe(&tree, "/vol/open"), SourceState::Directory(_)));
    set_mode(tree.at("open"), 0o1777);
    assert!(matches!(observe(&tree, "/vol/open/dir"), SourceState::Directory(_)));
    // The root that was named is trusted.
    set_mode(tree.dir.path(), 0o777);
    assert!(matches!(observe(&tree, "/vol"), SourceState::Directory(_)));
}

#[test]
fn a_mount_is_another_file_system_and_a_missing_one_is_noticed() {
    let tree = Tree::new();
    let mut volume = volume("/vol/disk/data");
    volume.require_mount = RequireMount::At("/vol/disk".into());
    fs::create_dir_all(tree.at("disk/data")).unwrap();
    let on = |volume: &Volume| match source::observe(&tree.paths, volume) {
        SourceState::Directory(SourceDir { file_system, .. })
        | SourceState::Missing { file_system } => file_system,
        state => panic!("{state:?}"),
    };
    let before = on(&volume);
    assert_eq!((before.is_root, before.required_mounted), (true, Some(false)));
    let Some(mounted) = Mounted::tmpfs(&tree.at("disk")) else { return };
    let after = on(&volume);
    assert_eq!((after.is_root, after.required_mounted), (false, Some(true)));
    assert_eq!(after.kind, "tmpfs");
    assert_ne!(before.id, after.id);
    assert_eq!(after.mount_point, tree.at("disk").display().to_string());

    // The plan was made before the disk was mounted.
    let error =
        source::create(&tree.paths, &volume.host_path, &before.id, FreshMode::Closed).unwrap_err();
    assert!(matches!(error, CreateError::FileSystemChanged { .. }), "{error}");
    assert!(!tree.at("disk/data").exists());
    drop(mounted);
    symlink("disk", tree.at("link")).unwrap();
    volume.require_mount = RequireMount::At("/vol/link".into());
    assert_eq!(on(&volume).required_mounted, Some(false));
}

#[test]
fn a_missing_path_is_made_with_roots_directories_on_the_way() {
    let tree = Tree::new();
    set_mode(tree.at(""), 0o2775);
    set_ids(tree.at(""), HostIds::new(0, 1000));
    assert_eq!(create(&tree, "/vol/a/b/c").unwrap(), Created::Made);
    for (path, expected) in [("a", 0o755), ("a/b", 0o755), ("a/b/c", 0o700)] {
        assert_eq!((ids(tree.at(path)), mode(tree.at(path))), (HostIds::ROOT, expected), "{path}");
    }
    set_mode(tree.at("a/b/c"), 0o750);
    assert_eq!(create(&tree, "/vol/a/b/c").unwrap(), Created::AlreadyThere);
    assert_eq!(mode(tree.at("a/b/c")), 0o750);
}

#[test]
fn nothing_is_made_through_links_or_in_anybodys_directory() {
    let tree = Tree::new();
    fs::create_dir(tree.at("open")).unwrap();
    set_mode(tree.at("open"), 0o777);
    symlink("open", tree.at("link")).unwrap();
    tree.file("file");
    for path in ["/vol/open/new", "/vol/link/new", "/vol/file/new", "/vol/../new"] {
        let error = create(&tree, path).unwrap_err();
        assert!(matches!(error, CreateError::Refused { .. }), "{path}: {error}");
    }
    assert_eq!(fs::read_dir(tree.at("open")).unwrap().count(), 0);
    assert!(!tree.outside("new").exists());
}
