//! The walk and the watch on file systems that are made for the test, in a file.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use pctd_core::desired::Volume;
use pctd_core::ids::HostIds;
use pctd_core::observed::Watch;
use pctd_core::ownership::OwnershipRule;
use pctd_node::watch::Standing;
use pctd_node::{NodePaths, Walk, WalkMode, Watcher};

use crate::group::acl_of;
use crate::support::{
    Mounted, OWNER, Tree, device_of_mount, ids, marks_of, mode, rule, volume, walk_volume,
};
use crate::undo::is_taken_back;

/// Long enough for a machine that does other things as well.
const PATIENCE: Duration = Duration::from_secs(10);

/// A node on a file system of its own, which is mounted at `/fs`.
fn node_on(kind: &str) -> Option<(Tree, Mounted)> {
    let tree = Tree::new();
    let (image, at) = (tree.outside("image"), tree.outside("fs"));
    // The smallest that any of them takes.
    fs::File::create(&image).unwrap().set_len(320 << 20).unwrap();
    fs::create_dir(&at).unwrap();
    Mounted::image(kind, &image, &at).map(|mounted| (tree, mounted))
}

fn sh(dir: &Path, script: &str) {
    let output = Command::new("sh").arg("-euc").arg(script).current_dir(dir).output().unwrap();
    assert!(output.status.success(), "{script}: {output:?}");
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn is(path: &Path, wanted_mode: u32) -> bool {
    path.symlink_metadata().is_ok() && (ids(path), mode(path)) == (OWNER, wanted_mode)
}

/// Repairs a volume, watches it, and lets somebody else change what is in it.
fn is_walked_and_watched(paths: &NodePaths, volume: &Volume, at: &Path, watcher: &Watcher) {
    let default_acl = Some(crate::group::plain());
    let rule = OwnershipRule { default_acl: default_acl.clone(), ..rule("0755", "0640") };
    sh(at, "mkdir -p a/b; echo x > a/b/f; ln -s /etc/shadow a/l; chmod 600 a/b/f");
    watcher.begin_walk(volume, &rule);
    let repaired = walk_volume(paths, volume, Walk::new(WalkMode::Repair, &rule));
    assert_eq!((repaired.audit.entries, repaired.changed), (5, 5), "{repaired:?}");
    assert!(repaired.is_complete());
    let again = walk_volume(paths, volume, Walk::new(WalkMode::Repair, &rule));
    assert_eq!(again.changed, 0, "{again:?}");
    watcher.hold(
        volume,
        Standing { rule: Some(rule), cpu_percent: 100, confirm_above: 10, undo_limit: 0 },
    );
    sh(at, "mkdir -p a/c; echo x > a/c/new; chown 7:7 a/b/f; chmod 777 .");
    eventually("a new file", || is(&at.join("a/c/new"), 0o640));
    eventually("another owner", || is(&at.join("a/b/f"), 0o640));
    eventually("the root", || is(at, 0o755));
    let acls = ["", "a/b", "a/c"].map(|dir| acl_of(&at.join(dir), "system.posix_acl_default"));
    assert!(acls.into_iter().all(|acl| Some(acl) == default_acl));
    match watcher.state(&volume.name) {
        Watch::Events(drift) => assert!(drift.doubt.is_none() && drift.repaired > 0, "{drift:?}"),
        Watch::Walks(why) => panic!("not watched: {why}"),
    }
    // By this process, so that the watch takes none of it for drift.
    is_taken_back(paths, volume, at);
}

#[test]
fn xfs_is_walked_and_watched() {
    let Some((tree, _mounted)) = node_on("xfs") else { return };
    let watcher = Watcher::start(tree.paths.clone(), |_| {}).unwrap();
    is_walked_and_watched(&tree.paths, &volume("/fs"), &tree.outside("fs"), &watcher);
}

#[test]
fn ext4_is_walked_and_watched() {
    let Some((tree, _mounted)) = node_on("ext4") else { return };
    fs::create_dir(tree.outside("fs/data")).unwrap();
    let watcher = Watcher::start(tree.paths.clone(), |_| {}).unwrap();
    is_walked_and_watched(&tree.paths, &volume("/fs/data"), &tree.outside("fs/data"), &watcher);
}

#[test]
fn overlayfs_is_watched_where_it_has_file_handles() {
    let tree = Tree::new();
    let (layers, at) = (tree.outside("layers"), tree.outside("merged"));
    fs::create_dir(&layers).unwrap();
    fs::create_dir(&at).unwrap();
    let Some(_layers) = Mounted::tmpfs(&layers) else { return };
    sh(&layers, "mkdir lower upper work");
    let dirs = format!("lowerdir={0}/lower,upperdir={0}/upper,workdir={0}/work", layers.display());
    let options = format!("{dirs},index=on,nfs_export=on");
    let Some(_merged) = Mounted::mount("overlay", &options, Path::new("none"), &at) else { return };
    fs::create_dir(at.join("data")).unwrap();
    let watcher = Watcher::start(tree.paths.clone(), |_| {}).unwrap();
    is_walked_and_watched(&tree.paths, &volume("/merged/data"), &at.join("data"), &watcher);
}

#[test]
fn btrfs_is_watched_through_its_top_level_wherever_the_volume_is() {
    let Some((tree, mounted)) = node_on("btrfs") else { return };
    let top = tree.outside("fs");
    let named =
        |name: &str, host_path: &str| Volume { name: name.parse().unwrap(), ..volume(host_path) };
    sh(&top, "mkdir plain; btrfs -q subvolume create sub; mkdir sub/dir");
    let watcher = Watcher::start(tree.paths.clone(), |_| {}).unwrap();
    for (name, path) in [("plain", "fs/plain"), ("sub", "fs/sub/dir")] {
        let volume = named(name, &format!("/{path}"));
        is_walked_and_watched(&tree.paths, &volume, &tree.outside(path), &watcher);
    }
    drop(watcher);
    // And where nothing of it is mounted that leads to the top level.
    let alone = tree.outside("alone");
    fs::create_dir(&alone).unwrap();
    let Some(_alone) = mounted.also(&alone, "subvol=sub") else { return };
    drop(mounted);
    fs::create_dir(alone.join("more")).unwrap();
    let watcher = Watcher::start(tree.paths.clone(), |_| {}).unwrap();
    let more = named("more", "/alone/more");
    is_walked_and_watched(&tree.paths, &more, &alone.join("more"), &watcher);
    // What changes beside it is no reason for anything.
    let Some(_top) = Mounted::also_at(&alone, &top, "subvolid=5") else { return };
    sh(&top, "echo x > plain/new; mkdir sub/elsewhere; echo x > sub/elsewhere/f");
    sh(&top, "echo x > sub/more/late");
    eventually("through another mount", || is(&alone.join("more/late"), 0o640));
    assert_eq!(ids(top.join("sub/elsewhere/f")), HostIds::ROOT);
    match watcher.state(&more.name) {
        Watch::Events(drift) => assert_eq!(drift.doubt, None),
        Watch::Walks(why) => panic!("not watched: {why}"),
    }
    // No mark is left when nobody wants it.
    assert_eq!(marks_of(device_of_mount(&alone)), 1);
    watcher.keep(&[].into());
    assert_eq!(marks_of(device_of_mount(&alone)), 0);
}

#[test]
fn a_btrfs_subvolume_in_a_volume_is_not_entered_by_walk_or_watch() {
    let Some((tree, _mounted)) = node_on("btrfs") else { return };
    let (at, rule) = (tree.outside("fs"), rule("0755", "0640"));
    sh(&at, "echo x > f; btrfs -q subvolume create nested; mkdir nested/d; echo x > nested/d/f");
    let volume = volume("/fs");
    let watcher = Watcher::start(tree.paths.clone(), |_| {}).unwrap();
    watcher.begin_walk(&volume, &rule);
    let report = walk_volume(&tree.paths, &volume, Walk::new(WalkMode::Repair, &rule));
    assert_eq!(report.audit.nested_mounts, ["nested"]);
    assert_eq!((report.audit.entries, report.changed), (2, 2));
    watcher.hold(
        &volume,
        Standing { rule: Some(rule), cpu_percent: 100, confirm_above: 10, undo_limit: 0 },
    );
    sh(&at, "echo x > nested/d/new; chmod 600 nested/d/f; chmod 700 nested/d nested; echo x > g");
    eventually("what is in the volume", || is(&at.join("g"), 0o640));
    std::thread::sleep(Duration::from_millis(200));
    for path in ["nested", "nested/d", "nested/d/f", "nested/d/new"] {
        assert_eq!(ids(at.join(path)), HostIds::ROOT, "{path}");
    }
    assert_eq!((mode(at.join("nested")), mode(at.join("nested/d/f"))), (0o700, 0o600));
}
