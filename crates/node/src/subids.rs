//! What `newuidmap` and `newgidmap` would let root map.

use std::io;

use pctd_core::subids::{SubIds, SubRanges};

use crate::paths::NodePaths;

/// Reads `/etc/subuid` and `/etc/subgid`, where somebody asks them.
pub(crate) fn read(paths: &NodePaths) -> SubIds {
    let of = |program: &str, file: &str| {
        // Without the program LXC writes maps itself, and root may write any.
        if !paths.host(program).exists() {
            return SubRanges::NotAsked;
        }
        match std::fs::read(paths.host(file)) {
            Ok(text) => SubRanges::parse(&text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => SubRanges::Listed(Vec::new()),
            Err(error) => SubRanges::Unknown(error.to_string()),
        }
    };
    SubIds {
        users: of("/usr/bin/newuidmap", "/etc/subuid"),
        groups: of("/usr/bin/newgidmap", "/etc/subgid"),
    }
}
