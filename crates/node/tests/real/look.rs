//! One entry by its path, as `doctor` looks at it.

use std::fs;
use std::os::unix::fs::symlink;

use pctd_core::observed::{FoundEntry, ObservedEntry};
use pctd_core::ownership::EntryKind;
use pctd_node::{Node, NodeOptions};
use rustix::fs::{XattrFlags, setxattr};

use crate::support::{Mounted, OWNER, Tree, ctime, set_ids, set_mode};

fn found(entry: ObservedEntry) -> FoundEntry {
    match entry {
        ObservedEntry::Found(found) => found,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_entry_is_seen_as_it_is_and_nothing_is_followed() {
    let tree = Tree::new();
    fs::create_dir(tree.at("dir")).unwrap();
    fs::write(tree.at("dir/file"), "").unwrap();
    set_ids(tree.at("dir/file"), OWNER);
    set_mode(tree.at("dir/file"), 0o640);
    symlink("dir", tree.at("link")).unwrap();
    let node = Node::open(tree.paths.clone(), NodeOptions::default());
    let before = ctime(tree.at("dir/file"));

    let file = found(node.look_at("/vol", "dir/file"));
    assert_eq!((file.stat.kind, file.stat.ids, file.stat.mode), (EntryKind::File, OWNER, 0o640));
    assert!(file.acl.is_none() && file.default_acl.is_none() && file.below_mount.is_none());
    assert_eq!(found(node.look_at("/vol", "")).stat.kind, EntryKind::Directory);
    assert_eq!(found(node.look_at("/", "vol/dir")).stat.kind, EntryKind::Directory);
    assert_eq!(found(node.look_at("/vol", "link")).stat.kind, EntryKind::Symlink);
    let link = ObservedEntry::Link { at: "/vol/link".to_owned() };
    assert_eq!(node.look_at("/vol", "link/file"), link);
    let missing = ObservedEntry::Missing { at: "/vol/no".to_owned() };
    assert_eq!(node.look_at("/vol", "no/file"), missing);
    let below_file = node.look_at("/vol", "dir/file/x");
    assert!(matches!(&below_file, ObservedEntry::Unreadable(_)), "{below_file:?}");
    assert_eq!(ctime(tree.at("dir/file")), before);
}

#[test]
fn an_acl_is_seen() {
    let tree = Tree::new();
    let path = tree.file("file");
    let node = Node::open(tree.paths.clone(), NodeOptions::default());
    // user::rw-, user:1000:r--, group::r--, mask::r--, other::r-- (acl(5), `posix_acl_xattr`).
    let nobody = u32::MAX;
    let entries = [(1, 6, nobody), (2, 4, 1000), (4, 4, nobody), (16, 4, nobody), (32, 4, nobody)];
    let mut acl = 2_u32.to_le_bytes().to_vec();
    for (tag, rights, id) in entries {
        let (tag, rights): (u16, u16) = (tag, rights);
        acl.extend([&tag.to_le_bytes()[..], &rights.to_le_bytes(), &id.to_le_bytes()].concat());
    }
    match setxattr(&path, "system.posix_acl_access", &acl, XattrFlags::empty()) {
        Ok(()) => {
            let seen = found(node.look_at("/vol", "file"));
            assert_eq!((seen.acl.to_bytes(), seen.default_acl.is_none()), (acl.clone(), true));
        }
        Err(errno) => return crate::support::skip("an ACL", errno),
    }
    setxattr(tree.at(""), "system.posix_acl_default", &acl, XattrFlags::empty()).unwrap();
    let dir = found(node.look_at("/vol", ""));
    assert_eq!((dir.acl.is_none(), dir.default_acl.to_bytes()), (true, acl));
}

#[test]
fn a_mount_on_the_way_below_the_source_is_named_and_one_above_is_not() {
    let tree = Tree::new();
    fs::create_dir_all(tree.at("sub")).unwrap();
    let Some(_mounted) = Mounted::tmpfs(&tree.at("sub")) else { return };
    fs::create_dir(tree.at("sub/dir")).unwrap();
    let node = Node::open(tree.paths.clone(), NodeOptions::default());
    let nested = found(node.look_at("/vol", "sub/dir"));
    assert_eq!(nested.below_mount.as_deref(), Some("/vol/sub"));
    assert_eq!(found(node.look_at("/vol/sub", "dir")).below_mount, None);
}
