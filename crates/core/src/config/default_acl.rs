//! `default_acl` of a volume as an admin writes it, and what it and the modes ask of each other.
//!
//! With a list that names anybody, the group bits of a mode are its mask: whoever sets the mode says
//! what all who are named have at most. So list and modes have to say the same, or each would take
//! back what the other gives.

use std::collections::BTreeMap;

use super::document::Node;
use super::owner;
use super::report::{Complaint, Report};
use super::text::shown;
use crate::acl::{Acl, Who};
use crate::modes::{ModeRule, Permissions};

/// What everybody may do, of a mode.
const ALL: u32 = 0o777;
/// Reading and writing for the group: what a new file can get of a default ACL unless it is a program.
const GROUP_DATA: u32 = 0o060;

/// The entries that are written; none: there is to be no list.
type Entries = BTreeMap<Who<String>, Permissions>;

/// Reads the entries of a text such as `g::rwX,g:media:rX`, as setfacl(1) takes them, or `none`.
pub(super) fn parse(text: &str) -> Result<Entries, Complaint> {
    let mut entries = Entries::new();
    if text == "none" {
        return Ok(entries);
    }
    for entry in text.split(',') {
        let (who, may) = one(entry)?;
        if entries.insert(who, may).is_some() {
            return Err(Complaint::new(format!("{} speaks twice of one", shown(text)))
                .or("keep one of the entries"));
        }
    }
    Ok(entries)
}

fn one(entry: &str) -> Result<(Who<String>, Permissions), Complaint> {
    let invalid = || {
        Complaint::new(format!("{} is no entry of a default ACL", shown(entry))).or(
            "write entries such as \"g::rwX\" or \"g:media:rwX\" with commas between, or \"none\"",
        )
    };
    let mut parts = entry.split(':');
    let (Some(tag), Some(name), Some(may), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(invalid());
    };
    let is_name = owner::is_name(name) || owner::id(name).is_some();
    let who = match (tag, name) {
        ("u" | "user", "") => Who::Owner,
        ("g" | "group", "") => Who::OwningGroup,
        ("o" | "other", "") => Who::Other,
        ("m" | "mask", "") => {
            return Err(Complaint::new(format!("{} is not to be declared", shown(entry)))
                .or("leave it out: the mask is what the group has by `dir_mode`"));
        }
        ("u" | "user", name) if is_name => Who::User(name.to_owned()),
        ("g" | "group", name) if is_name => Who::Group(name.to_owned()),
        _ => return Err(invalid()),
    };
    Ok((who, may.parse().map_err(|_| invalid())?))
}

/// Returns the whole list that a volume declares, and reports where its modes say something else.
pub(super) fn read(
    volume: &Node<'_>,
    dir_mode: &ModeRule,
    file_mode: &ModeRule,
    report: &mut Report<'_>,
) -> Option<Acl<String>> {
    let node = volume.get("default_acl")?;
    let entries = parse(node.text()?).ok()?;
    if entries.is_empty() {
        return Some(Acl::none());
    }
    match whole(entries, dir_mode, file_mode) {
        Ok(acl) => Some(acl),
        Err(complaint) => {
            report.problem(&node.spot, complaint);
            None
        }
    }
}

/// Adds what the mode of directories says of those who are not mentioned.
fn whole(
    mut entries: Entries,
    dir_mode: &ModeRule,
    file_mode: &ModeRule,
) -> Result<Acl<String>, Complaint> {
    let Some(mode) = dir_mode.settles(ALL, true) else {
        return Err(Complaint::new(format!(
            "`dir_mode` ({dir_mode}) leaves open what those have whom `default_acl` does not name"
        ))
        .or("write it in full, such as \"2775\""));
    };
    let of_mode = |shift: u32| Permissions::new(mode >> shift & 0o7).unwrap_or(Permissions::NONE);
    for (who, words, may) in [
        (Who::Owner, "the owner", of_mode(6)),
        (Who::OwningGroup, "the group", of_mode(3)),
        (Who::Other, "everybody else", of_mode(0)),
    ] {
        let is_named = entries.keys().any(|who| matches!(who, Who::User(_) | Who::Group(_)));
        let given = *entries.entry(who.clone()).or_insert(may);
        // Where others are named, the group of a mode is all of them together.
        if given != may && !(who == Who::OwningGroup && is_named) {
            return Err(disagree(words, given, dir_mode, may));
        }
    }
    let in_group_class =
        |who: &Who<String>| matches!(who, Who::User(_) | Who::Group(_) | Who::OwningGroup);
    let together = entries
        .iter()
        .filter(|(who, _)| in_group_class(who))
        .fold(Permissions::NONE, |all, (_, may)| all.or(*may));
    if together != of_mode(3) {
        return Err(disagree("the group and those it names", together, dir_mode, of_mode(3)));
    }
    let wanted = mode & GROUP_DATA;
    if let Some(files) = file_mode.settles(GROUP_DATA, false).filter(|files| *files != wanted) {
        let digit = |bits: u32| Permissions::new(bits >> 3).unwrap_or(Permissions::NONE);
        return Err(Complaint::new(format!(
            "gives new files {} for the group, and `file_mode` ({file_mode}) {}",
            digit(wanted),
            digit(files)
        ))
        .or("give the group the same in both, or take one of them out"));
    }
    Ok(Acl::new(entries))
}

fn disagree(words: &str, given: Permissions, dir_mode: &ModeRule, may: Permissions) -> Complaint {
    Complaint::new(format!("gives {words} {given}, and `dir_mode` ({dir_mode}) {may}"))
        .or("write the same in both")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(text: &str, dir_mode: &str, file_mode: &str) -> Result<String, String> {
        let (dir, file) = (dir_mode.parse().unwrap(), file_mode.parse().unwrap());
        let acl = parse(text).and_then(|entries| whole(entries, &dir, &file));
        acl.map(|acl| acl.to_string()).map_err(Complaint::into_line)
    }

    #[test]
    fn what_is_not_mentioned_has_what_the_mode_of_directories_says() {
        for (text, dir, file, whole) in [
            ("g::rwX", "2775", "0664", "u::rwx,g::rwx,o::r-x"),
            ("g::rwx,u::rwx,o::r-X", "0775", "keep", "u::rwx,g::rwx,o::r-x"),
            ("g:media:rwX", "2770", "0660", "u::rwx,g::rwx,g:media:rwx,o::---"),
            ("g::rX,g:media:rwX", "2775", "g+rw", "u::rwx,g::r-x,g:media:rwx,o::r-x"),
            (
                "user:alice:rX,group:105:wX",
                "0770",
                "0660",
                "u::rwx,u:alice:r-x,g::rwx,g:105:-wx,o::---",
            ),
            ("g::rwX", "u=rwX,g=rwXs,o=rX", "u=rwX,g=rwX,o=rX", "u::rwx,g::rwx,o::r-x"),
        ] {
            assert_eq!(acl(text, dir, file).as_deref(), Ok(whole), "{text}");
        }
    }

    #[test]
    fn a_list_and_modes_that_disagree_are_refused() {
        for (text, dir, file, starts) in [
            ("g::rwX", "keep", "0664", "`dir_mode` (keep) leaves open"),
            ("g::rwX", "g+w", "0664", "`dir_mode` (g+w) leaves open"),
            ("g::rwX", "2755", "0664", "gives the group rwx, and `dir_mode` (2755) r-x"),
            ("g::rw", "2775", "0664", "gives the group rw-, and `dir_mode` (2775) rwx"),
            ("u::rX", "2775", "0664", "gives the owner r-x, and `dir_mode` (2775) rwx"),
            ("o::X", "2775", "0664", "gives everybody else --x, and `dir_mode` (2775) r-x"),
            (
                "g:media:rwX",
                "2755",
                "0644",
                "gives the group and those it names rwx, and `dir_mode` (2755) r-x",
            ),
            ("g::rX,g:media:rX", "2775", "0664", "gives the group and those it names r-x"),
            (
                "g::rwX",
                "2775",
                "0644",
                "gives new files rw- for the group, and `file_mode` (0644) r--",
            ),
            (
                "g::rX",
                "2755",
                "0660",
                "gives new files r-- for the group, and `file_mode` (0660) rw-",
            ),
        ] {
            let message = acl(text, dir, file).unwrap_err();
            assert!(message.starts_with(starts), "{text}: {message}");
        }
    }

    #[test]
    fn what_is_no_list_is_refused() {
        assert_eq!(parse("none"), Ok(Entries::new()));
        for text in [
            "",
            "g",
            "g:rwX",
            "g::",
            "g::7",
            "d:g::rwX",
            "g:a b:r",
            "x::r",
            "o:alice:r",
            "g::r,",
            "g::r,g::w",
            "m::rwx",
            "g:007:r",
            "g:container:5:r",
            "None",
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }
}
