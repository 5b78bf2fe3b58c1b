//! The properties of a conf by their names, and the two kinds of them that are volumes.

use bstr::{BStr, BString};
use pctd_core::conf::{MountPoint, Section};

use crate::perl::from_file;

/// Returns the names of all properties of a section, sorted.
pub(crate) fn names(section: &Section) -> Vec<String> {
    let others = ["description", "env"].into_iter().filter(|name| section.get(name).is_some());
    let mut names: Vec<String> =
        section.properties().keys().cloned().chain(others.map(str::to_owned)).collect();
    names.sort();
    names
}

/// Reads a value of `rootfs` or `mpN`.
pub(crate) fn parse_volume(name: &str, value: &BStr) -> Result<MountPoint, String> {
    let parsed =
        if name == "rootfs" { MountPoint::parse_rootfs(value) } else { MountPoint::parse(value) };
    parsed.map_err(|error| from_file(&error.0.0))
}

/// Writes a value of `rootfs` or `mpN`.
pub(crate) fn print_volume(name: &str, mount: &MountPoint) -> BString {
    if name == "rootfs" { mount.render_rootfs() } else { mount.render() }
}

/// Returns whether a name is a prefix and a number.
pub(crate) fn is_numbered(name: &str, prefix: &str) -> bool {
    let digits = |rest: &str| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit());
    name.strip_prefix(prefix).is_some_and(digits)
}
