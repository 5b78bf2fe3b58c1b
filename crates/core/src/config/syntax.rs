//! What the texts of a configuration may look like: names, ids, durations, modes.

use std::time::Duration;

use super::default_acl;
use super::disk_ids;
use super::owner;
use super::paths;
use super::report::Complaint;
use super::text::shown;
use crate::conf::RawLine;
use crate::ids::{Ctid, VolumeName};
use crate::modes::{FilePattern, ModeRule};

/// The longest duration: more is a slip, and far more could not be added to a point in time.
const LONGEST: Duration = Duration::from_hours(366 * 24);

/// The longest host name (RFC 1035) that leaves room for a suffix in the name of a file.
const MAX_DOMAIN_LEN: usize = 250;

/// The longest label of a host name (RFC 1035).
const MAX_LABEL_LEN: usize = 63;

/// What a text may look like.
#[derive(Debug)]
pub(super) struct Syntax {
    /// Completes "expected ...".
    pub(super) wanted: &'static str,
    /// A regular expression for editors; what it lets pass the check below may still refuse.
    pub(super) pattern: &'static str,
    pub(super) check: fn(&str) -> Result<(), Complaint>,
}

pub(super) static ANYTHING: Syntax = Syntax { wanted: "a text", pattern: "", check: |_| Ok(()) };

pub(super) static CTID: Syntax =
    Syntax { wanted: "a container id such as \"953\"", pattern: "^[1-9][0-9]{2,8}$", check: ctid };

/// A container id, or nothing at all, as other tools write where there is none.
pub(super) static CTID_OR_NONE: Syntax = Syntax {
    wanted: "a container id such as \"953\"",
    pattern: "^([1-9][0-9]{2,8})?$",
    check: |text| if text.is_empty() { Ok(()) } else { ctid(text) },
};

pub(super) static VOLUME_NAME: Syntax =
    Syntax { wanted: "a volume name", pattern: "^[A-Za-z][A-Za-z0-9._-]*$", check: volume_name };

pub(super) static HOST_PATH: Syntax = Syntax {
    wanted: "an absolute path on the host such as \"/tank/data\"",
    pattern: "^(/[^/,=]+)+$",
    check: paths::check_host_path,
};

pub(super) static MOUNT_POINT: Syntax = Syntax {
    wanted: "an absolute path on the host such as \"/tank\"",
    pattern: "^(/[^/]+)+$",
    check: paths::check_mount_point,
};

pub(super) static TARGET: Syntax = Syntax {
    wanted: "an absolute path in the container such as \"/data\"",
    pattern: "^/[^,]*[^/,][^,]*$",
    check: |text| paths::target(text).map(|_| ()),
};

pub(super) static OWNER: Syntax = Syntax {
    wanted: "an owner such as \"container_root\", \"container:1000\", \"www-data\" or \"keep\"",
    pattern: "^[A-Za-z0-9_][A-Za-z0-9_.:$-]*$",
    check: |text| owner::parse(text).map(|_| ()),
};

pub(super) static VOLUME_GROUP: Syntax = Syntax {
    wanted: "a group such as \"media\", \"110000\" or \"container:10000\"",
    pattern: "^(container:)?([A-Za-z_][A-Za-z0-9_.-]*[$]?|0|[1-9][0-9]*)$",
    check: |text| owner::group(text).map(|_| ()),
};

pub(super) static DEFAULT_ACL: Syntax = Syntax {
    wanted: "a default ACL such as \"g::rwX\" or \"g:media:rwX\", or \"none\"",
    pattern: "^(none|(u|user|g|group|o|other):[^:,]*:[rwxX-]+(,(u|user|g|group|o|other):[^:,]*:[rwxX-]+)*)$",
    check: |text| default_acl::parse(text).map(|_| ()),
};

pub(super) static GROUP: Syntax = Syntax {
    wanted: "a group of the host such as \"adm\"",
    pattern: "^([A-Za-z_][A-Za-z0-9_.-]*[$]?|0|[1-9][0-9]*)$",
    check: |text| {
        if owner::is_name(text) || owner::id(text).is_some() {
            Ok(())
        } else {
            Err(Complaint::new(format!("{} is no group", shown(text))))
        }
    },
};

pub(super) static DISK_IDS: Syntax = Syntax {
    wanted: "ids on disk such as \"0 100000 65536\", \"passthrough\", \"owner\" or \"container:953\"",
    pattern: "^(passthrough|owner|container:[1-9][0-9]{2,8}|[0-9]+ +[0-9]+ +[0-9]+)$",
    check: |text| disk_ids::parse(text).map(|_| ()),
};

/// As [`DISK_IDS`], and a word for a mount without a map.
pub(super) static MOUNT_IDS: Syntax = Syntax {
    wanted: "ids on disk such as \"0 100000 65536\", \"passthrough\", \"owner\", \"container:953\" or \"none\"",
    pattern: "^(none|passthrough|owner|container:[1-9][0-9]{2,8}|[0-9]+ +[0-9]+ +[0-9]+)$",
    check: |text| disk_ids::parse_mount(text).map(|_| ()),
};

pub(super) static DISK_RANGE: Syntax = Syntax {
    wanted: "a range such as \"0 100000 65536\" or \"u 0 100000 65536\"",
    pattern: "^([ug] +)?[0-9]+ +[0-9]+ +[0-9]+$",
    check: |text| disk_ids::range(text).map(|_| ()),
};

/// `node_exporter` reads files with this suffix and no others.
pub(super) static METRICS_FILE: Syntax = Syntax {
    wanted: "an absolute path that ends in \".prom\"",
    pattern: "^(/[^/]+)+[.]prom$",
    check: |text| {
        let is_plain = |part: &str| !part.is_empty() && part != "." && part != "..";
        let is_read = text.strip_suffix(".prom").is_some_and(|name| !name.ends_with('/'));
        let is_normal = text.strip_prefix('/').is_some_and(|rest| rest.split('/').all(is_plain));
        if is_normal && is_read && !text.contains('\0') {
            Ok(())
        } else {
            Err(Complaint::new(format!("{} is no file for metrics", shown(text))).or(
                "write an absolute path that ends in \".prom\", which is what node_exporter reads",
            ))
        }
    },
};

pub(super) static MODE: Syntax = Syntax {
    wanted: "a mode such as \"0775\", \"u=rwX,g=rX,o=\" or \"keep\"",
    pattern: "^(keep|[0-7]{3,5}|[ugoa]*([-+=][rwxXst]*)+(,[ugoa]*([-+=][rwxXst]*)+)*)$",
    check: |text| mode(text).map(|_| ()),
};

pub(super) static FILE_PATTERN: Syntax = Syntax {
    wanted: "a pattern for file names such as \"*.key\"",
    pattern: "^[^/]+$",
    check: |text| match FilePattern::new(text) {
        Some(_) => Ok(()),
        None => Err(Complaint::new(format!("{} matches no file name", shown(text)))
            .or("write a pattern for names, without a slash, such as \"*.key\"")),
    },
};

pub(super) static NODE: Syntax = Syntax {
    wanted: "the name of a node",
    pattern: "^[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?$",
    check: |text| {
        if is_label(text) {
            Ok(())
        } else {
            Err(Complaint::new(format!("{} is no name of a node", shown(text))))
        }
    },
};

/// The id of a storage: it is an argument of `vzdump`.
pub(super) static STORAGE: Syntax = Syntax {
    wanted: "the id of a storage such as \"local\"",
    pattern: "^[A-Za-z][A-Za-z0-9._-]*[A-Za-z0-9]$",
    check: |text| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        let ends = text.len() > 1
            && text.starts_with(|first: char| first.is_ascii_alphabetic())
            && text.ends_with(|last: char| last.is_ascii_alphanumeric());
        if ends && text.bytes().all(plain) {
            Ok(())
        } else {
            Err(Complaint::new(format!("{} is no id of a storage", shown(text))))
        }
    },
};

pub(super) static DOMAIN: Syntax = Syntax {
    wanted: "a host name such as \"portainer.example.org\"",
    pattern: "^[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?([.][A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*$",
    check: |text| {
        // The name becomes the name of a file: nothing but labels and dots may pass.
        if text.len() <= MAX_DOMAIN_LEN && text.split('.').all(is_label) {
            Ok(())
        } else {
            Err(Complaint::new(format!("{} is no host name", shown(text))))
        }
    },
};

/// What a certificate may be for besides its domain.
pub(super) static ALT_NAME: Syntax = Syntax {
    wanted: "a host name such as \"*.example.org\" or an IP address",
    pattern: "^([*][.])?[A-Za-z0-9:]([A-Za-z0-9.:-]*[A-Za-z0-9:])?$",
    check: |text| {
        let name = text.strip_prefix("*.").unwrap_or(text);
        let is_name = text.len() <= MAX_DOMAIN_LEN && name.split('.').all(is_label);
        if is_name || text.parse::<std::net::IpAddr>().is_ok() {
            Ok(())
        } else {
            Err(Complaint::new(format!("{} is neither a host name nor an IP address", shown(text))))
        }
    },
};

pub(super) static RAW_LINE: Syntax = Syntax {
    wanted: "a raw line such as \"lxc.cgroup2.devices.allow: c 195:* rwm\"",
    pattern: "^ *lxc[.][a-z0-9_.-]+(:| *=).*$",
    check: |text| match text.parse::<RawLine>() {
        Ok(line) if line.key() == RawLine::IDMAP => {
            Err(Complaint::new(format!("`{line}` is part of the id map"))
                .or("declare the whole map as \"id_maps\""))
        }
        Ok(_) => Ok(()),
        Err(error) => Err(Complaint::new(error.to_string())),
    },
};

/// Returns the duration, refusing one shorter than `least`.
pub(super) fn duration(text: &str, least: Duration) -> Result<Duration, Complaint> {
    let invalid = || {
        Complaint::new(format!("{} is no duration", shown(text)))
            .or("write a number and a unit, such as \"500ms\" or \"10m\"")
    };
    let duration = humantime::parse_duration(text).map_err(|_| {
        let bare = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        if bare { invalid().or(format!("add the unit, such as \"{text}s\"")) } else { invalid() }
    })?;
    if duration < least {
        let least = humantime::format_duration(least);
        return Err(Complaint::new(format!("{} is too short", shown(text)))
            .or(format!("write at least \"{least}\"")));
    }
    if duration > LONGEST {
        return Err(
            Complaint::new(format!("{} is too long", shown(text))).or("write at most \"1y\"")
        );
    }
    Ok(duration)
}

/// Returns the mode.
pub(super) fn mode(text: &str) -> Result<ModeRule, Complaint> {
    text.parse().map_err(|_| {
        Complaint::new(format!("{} is no mode", shown(text)))
            .or("write octal (\"0775\"), symbolic (\"u=rwX,g=rX,o=\") or \"keep\"")
    })
}

fn ctid(text: &str) -> Result<(), Complaint> {
    match text.parse::<Ctid>() {
        Ok(_) => Ok(()),
        Err(_) => Err(Complaint::new(format!("{} is no container id", shown(text)))
            .or("container ids are 100 to 999999999")),
    }
}

fn volume_name(text: &str) -> Result<(), Complaint> {
    match text.parse::<VolumeName>() {
        Ok(_) => Ok(()),
        Err(_) => Err(Complaint::new(format!("{} cannot name a volume", shown(text)))
            .or("write a letter, then letters, digits, `.`, `_` or `-`")),
    }
}

fn is_label(text: &str) -> bool {
    (1..=MAX_LABEL_LEN).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}
