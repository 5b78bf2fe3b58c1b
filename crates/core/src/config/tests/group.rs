//! A group of a volume, its default ACL, and what they and other keys ask of each other.

use super::*;
use crate::desired::Group;

fn text(settings: &str, fields: &str) -> String {
    format!(
        r#"{{"settings": {{{settings}}}, "shared_volumes": {{"v": {{
        "host_path": "/tank/v", {fields} "mounts": {{"101": "/a"}}}}}}}}"#
    )
}

const PLAIN: &str = r#""seed_defaults": false"#;

#[test]
fn a_group_without_an_owner_keeps_owners() {
    let loaded = good(&[&text(PLAIN, r#""group": "media", "dir_mode": "2775","#)]);
    let found = volume(&loaded, "v");
    let seen = (found.owner.clone(), found.group.clone(), found.enforce);
    assert_eq!(seen, (Owner::Keep, Some(Group::Host("media".to_owned())), Enforce::Always));
    assert_eq!(found.default_acl, None);
    // Not the seed's nobody:nogroup; of its modes there is nothing to say.
    let loaded = good(&[&text("", r#""group": "container:10000","#)]);
    let found = volume(&loaded, "v");
    let seen = (found.owner.clone(), found.group.clone(), found.enforce);
    assert_eq!(seen, (Owner::Keep, Some(Group::Container(10_000)), Enforce::Once));
    assert_eq!(found.dir_mode, ModeRule::Exact(0o775));
}

#[test]
fn a_default_acl_is_whole_by_the_mode_of_directories() {
    for (settings, fields, whole) in [
        (PLAIN, r#""dir_mode": "2775", "default_acl": "g::rwX","#, "u::rwx,g::rwx,o::r-x"),
        ("", r#""default_acl": "g::rwX","#, "u::rwx,g::rwx,o::r-x"),
        (
            PLAIN,
            r#""dir_mode": "2770", "file_mode": "0660", "default_acl": "g:media:rwX","#,
            "u::rwx,g::rwx,g:media:rwx,o::---",
        ),
        (PLAIN, r#""default_acl": "none","#, "none"),
    ] {
        let loaded = good(&[&text(settings, fields)]);
        let acl = volume(&loaded, "v").default_acl.as_ref().map(ToString::to_string);
        assert_eq!(acl.as_deref(), Some(whole), "{fields}");
    }
}

#[test]
fn what_a_group_and_an_acl_cannot_mean_is_said_at_its_place() {
    let near = |problem: &str| problem.split(": ").skip(1).collect::<Vec<_>>().join(": ");
    for (fields, problem) in [
        (
            r#""group": "container:media","#,
            "shared_volumes.v.group: `container:media` is no group; write \"GROUP\" or \"GID\" of the host, or \"container:GID\" for one inside the containers",
        ),
        (
            r#""group": "media", "default_acl": "g::rwX","#,
            "shared_volumes.v.default_acl: `dir_mode` (keep) leaves open what those have whom `default_acl` does not name; write it in full, such as \"2775\"",
        ),
        (
            r#""dir_mode": "2755", "default_acl": "g:media:rwX","#,
            "shared_volumes.v.default_acl: gives the group and those it names rwx, and `dir_mode` (2755) r-x; write the same in both",
        ),
        (
            r#""dir_mode": "2775", "file_mode": "0644", "default_acl": "g::rwX","#,
            "shared_volumes.v.default_acl: gives new files rw- for the group, and `file_mode` (0644) r--; give the group the same in both, or take one of them out",
        ),
        (
            r#""dir_mode": "2775", "default_acl": "media:rwX","#,
            "shared_volumes.v.default_acl: `media:rwX` is no entry of a default ACL; write entries such as \"g::rwX\" or \"g:media:rwX\" with commas between, or \"none\"",
        ),
    ] {
        let found = problems(&[&text(PLAIN, fields)]);
        assert_eq!(found.iter().map(|p| near(p)).collect::<Vec<_>>(), [problem], "{fields}");
    }
}

#[test]
fn owner_ctid_may_decide_about_a_group_alone() {
    let decided = |group: &str| {
        let fields = format!(r#""group": "{group}", "owner_ctid": "101","#);
        warnings(&good(&[&text(PLAIN, &fields)])).len()
    };
    assert_eq!((decided("container:5"), decided("media")), (0, 1));
}

#[test]
fn volumes_of_one_directory_agree_on_group_and_acl() {
    let two = |first: &str, second: &str| {
        format!(
            r#"{{{PLAIN_SETTINGS}, "shared_volumes": {{
            "a": {{"host_path": "/tank/x", {first} "mounts": {{"100": "/a"}}}},
            "b": {{"host_path": "/tank/x/y", {second} "mounts": {{"100": "/b"}}}}}}}}"#
        )
    };
    let acl = r#""dir_mode": "2775", "default_acl": "g::rwX","#;
    for (first, second, differing) in [
        (r#""group": "media","#, r#""group": "media","#, None),
        (r#""group": "media","#, r#""group": "users","#, Some("group")),
        (r#""group": "media","#, r#""owner": "1:1","#, Some("group")),
        (r#""group": "media","#, r#""dir_mode": "0775","#, Some("group")),
        (r#""group": "media","#, r#""file_mode": "0664","#, None),
        (acl, acl, None),
        (acl, r#""dir_mode": "2775","#, None),
        (acl, r#""dir_mode": "2775", "default_acl": "none","#, Some("default_acl")),
    ] {
        let text = two(first, second);
        match differing {
            None => drop(good(&[&text])),
            Some(key) => {
                let found = problems(&[&text]);
                let what = format!("and their {key} differ");
                assert!(found.iter().any(|p| p.contains(&what)), "{second}: {found:?}");
            }
        }
    }
}

const PLAIN_SETTINGS: &str = r#""settings": {"seed_defaults": false}"#;
