//! The owner of a volume as an admin writes it.

use super::report::Complaint;
use super::text::{nearest, shown};
use crate::desired::{Group, Owner};

/// The words that are no user names.
const WORDS: [&str; 2] = ["keep", "container_root"];

/// Returns the owner that `text` names.
pub(super) fn parse(text: &str) -> Result<Owner, Complaint> {
    match text {
        "keep" => return Ok(Owner::Keep),
        "container_root" => return Ok(Owner::CONTAINER_ROOT),
        _ => {}
    }
    if let Some(ids) = text.strip_prefix("container:") {
        return container(ids).ok_or_else(|| {
            Complaint::new(format!("{} names no ids in the container", shown(text)))
                .or("write \"container:UID\" or \"container:UID:GID\" with numbers")
        });
    }
    // A slip here would hand the volume to a user of the host, or fail only when it is chowned.
    if let Some(word) = nearest(text, WORDS) {
        return Err(Complaint::new(format!("{} is no owner", shown(text)))
            .or(format!("did you mean \"{word}\"?")));
    }
    if text == "container" {
        return Err(Complaint::new("\"container\" alone is no owner")
            .or("write \"container_root\" or \"container:UID\""));
    }
    host(text).ok_or_else(|| {
        Complaint::new(format!("{} is no owner", shown(text))).or(
            "write \"container_root\", \"container:UID[:GID]\", \"USER\", \"USER:GROUP\", \"UID:GID\" or \"keep\"",
        )
    })
}

/// Returns the group that `text` names.
pub(super) fn group(text: &str) -> Result<Group, Complaint> {
    let group = match text.strip_prefix("container:") {
        Some(gid) => id(gid).map(Group::Container),
        None if WORDS.contains(&text) || nearest(text, WORDS).is_some() => None,
        None => (is_name(text) || id(text).is_some()).then(|| Group::Host(text.to_owned())),
    };
    group.ok_or_else(|| {
        Complaint::new(format!("{} is no group", shown(text)))
            .or("write \"GROUP\" or \"GID\" of the host, or \"container:GID\" for one inside the containers")
    })
}

fn container(ids: &str) -> Option<Owner> {
    let (uid, gid) = ids.split_once(':').unwrap_or((ids, ids));
    Some(Owner::Container { uid: id(uid)?, gid: id(gid)? })
}

fn host(text: &str) -> Option<Owner> {
    let is_host = |word: &str| is_name(word) || id(word).is_some();
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        // A number has no group of its name; the same number is what an admin means by it.
        None => (text, id(text).map(|_| text)),
    };
    (is_host(user) && group.is_none_or(is_host))
        .then(|| Owner::Host { user: user.to_owned(), group: group.map(str::to_owned) })
}

/// Reads an id; 4294967295 is none, it tells `chown` to leave one alone.
pub(super) fn id(text: &str) -> Option<u32> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    let plain = digits && (text == "0" || !text.starts_with('0'));
    plain.then(|| text.parse().ok()).flatten().filter(|id| *id != u32::MAX)
}

/// Returns whether `useradd` would take the name, with the capitals and dots of directory services.
pub(super) fn is_name(text: &str) -> bool {
    let text = text.strip_suffix('$').unwrap_or(text);
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on_host(user: &str, group: Option<&str>) -> Owner {
        Owner::Host { user: user.to_owned(), group: group.map(str::to_owned) }
    }

    #[test]
    fn owners_are_read_as_the_manual_says() {
        for (text, owner) in [
            ("keep", Owner::Keep),
            ("container_root", Owner::Container { uid: 0, gid: 0 }),
            ("container:1000", Owner::Container { uid: 1000, gid: 1000 }),
            ("container:33:0", Owner::Container { uid: 33, gid: 0 }),
            ("www-data", on_host("www-data", None)),
            ("nobody:nogroup", on_host("nobody", Some("nogroup"))),
            ("1000", on_host("1000", Some("1000"))),
            ("100000:33", on_host("100000", Some("33"))),
            ("0:users", on_host("0", Some("users"))),
            ("PC01$", on_host("PC01$", None)),
        ] {
            assert_eq!(parse(text), Ok(owner), "{text}");
        }
    }

    #[test]
    fn what_is_no_owner_is_refused() {
        for text in [
            "",
            ":",
            "root:",
            ":root",
            "a:b:c",
            "container",
            "container:",
            "container:root",
            "container:1:2:3",
            "container:4294967295",
            "container_rot",
            "container-root",
            "Keep",
            "007",
            "4294967295",
            "4294967296",
            "-1",
            "a b",
            "jörg",
            "a/b",
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_group_is_one_of_the_host_or_of_the_containers() {
        for (text, expected) in [
            ("media", Group::Host("media".to_owned())),
            ("110000", Group::Host("110000".to_owned())),
            ("container:10000", Group::Container(10_000)),
        ] {
            assert_eq!(group(text), Ok(expected), "{text}");
        }
        for text in ["", "keep", "container_root", "container:", "container:media", "a:b", "07"] {
            assert!(group(text).is_err(), "{text:?}");
        }
    }
}
