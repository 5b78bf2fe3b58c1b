//! Which directories of the host may become volumes, and where in a container they may appear.

use super::report::Complaint;
use super::text::shown;

/// Directories whose owners and modes the system itself depends on. Neither they nor anything below
/// may be a volume, and nothing above them: a pass over `/var` would reach `/var/lib/dpkg`.
///
/// From the file system hierarchy standard, and from where Debian, Proxmox VE and pctd keep state.
const SYSTEM: &[&str] = &[
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/lost+found",
    "/proc",
    "/run",
    "/sbin",
    "/sys",
    "/usr",
    "/var/backups",
    "/var/cache/apt",
    "/var/lib/apt",
    "/var/lib/ceph",
    "/var/lib/corosync",
    "/var/lib/dbus",
    "/var/lib/dpkg",
    "/var/lib/lxc",
    "/var/lib/lxcfs",
    "/var/lib/pctd",
    "/var/lib/polkit-1",
    "/var/lib/private",
    "/var/lib/pve-cluster",
    "/var/lib/pve-firewall",
    "/var/lib/pve-manager",
    "/var/lib/qemu-server",
    "/var/lib/rrdcached",
    "/var/lib/systemd",
    "/var/lib/ucf",
    "/var/lock",
    "/var/log/journal",
    "/var/log/pve",
    "/var/run",
    "/var/spool/cron",
];

/// The one place below a directory of [`SYSTEM`] that is the admin's own, but for the directories
/// of [`LOCAL_SYSTEM`] in it, which root's programs are found in.
const LOCAL: &str = "/usr/local";

const LOCAL_SYSTEM: &[&str] =
    &["bin", "etc", "games", "include", "lib", "lib32", "lib64", "libexec", "man", "sbin", "share"];

/// Directories that hold what belongs to many: a volume may lie below, but not be one of them.
const SHARED: &[&str] = &["/home", "/mnt/pve", "/opt", "/root", "/tmp", "/var/tmp"];

/// Checks a path that is to be a volume.
pub(super) fn check_host_path(text: &str) -> Result<(), Complaint> {
    check_characters(text, "the source of a mount", &[',', '='])?;
    check_normal(text, "/tank/data")?;
    check_location(text)
}

/// Checks a path of the host that something must be mounted at.
pub(super) fn check_mount_point(text: &str) -> Result<(), Complaint> {
    check_characters(text, "a mount point", &[])?;
    check_normal(text, "/tank")?;
    if text == "/" {
        return Err(Complaint::new("something is always mounted at `/`")
            .or("write true to require any file system but that one"));
    }
    Ok(())
}

/// Returns the normal form of a path inside a container: slashes collapsed, none at the end.
pub(super) fn target(text: &str) -> Result<String, Complaint> {
    check_characters(text, "the target of a mount", &[','])?;
    if !text.starts_with('/') {
        return Err(relative(text, "/data"));
    }
    if let Some(dots) = dots(text) {
        return Err(Complaint::new(format!("{} has a component `{dots}`", shown(text)))
            .or("write the path without it"));
    }
    let normal = normalised(text);
    if normal == "/" {
        return Err(Complaint::new("a mount at `/` would hide the container's whole root")
            .or("write a directory below it"));
    }
    Ok(normal)
}

/// Returns whether `path` is `base` or lies below it; both are normalised.
pub(super) fn is_within(path: &str, base: &str) -> bool {
    base == "/"
        || path.strip_prefix(base).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Refuses what Proxmox cannot write into a conf or read back.
///
/// A comma ends the value and cannot be quoted; `=` in a source makes the whole conf unreadable;
/// what is beyond ASCII is written as Latin-1 in part.
fn check_characters(text: &str, what: &str, refused: &[char]) -> Result<(), Complaint> {
    if text.is_empty() {
        return Err(Complaint::new("an empty path"));
    }
    let bad = text.chars().find(|c| !matches!(c, ' '..='~') || refused.contains(c));
    bad.map_or(Ok(()), |bad| {
        let character = if bad.is_control() {
            "a control character".to_owned()
        } else {
            shown(&bad.to_string())
        };
        Err(Complaint::new(format!("{} holds {character}, which {what} cannot have", shown(text)))
            .or("rename the directory"))
    })
}

fn check_normal(text: &str, example: &str) -> Result<(), Complaint> {
    if !text.starts_with('/') {
        return Err(relative(text, example));
    }
    match dots(text) {
        // What `..` leads to depends on symbolic links, so the path meant cannot be told from here.
        Some("..") => {
            return Err(Complaint::new(format!("{} has a component `..`", shown(text)))
                .or("write where it leads"));
        }
        Some(_) => {
            let without: Vec<&str> = text.split('/').filter(|part| *part != ".").collect();
            let normal = normalised(&without.join("/"));
            return Err(Complaint::new(format!("{} has a component `.`", shown(text)))
                .or(format!("write \"{normal}\"")));
        }
        None => {}
    }
    let normal = normalised(text);
    if normal == text {
        return Ok(());
    }
    Err(Complaint::new(format!("{} has slashes to spare", shown(text)))
        .or(format!("write \"{normal}\"")))
}

fn check_location(path: &str) -> Result<(), Complaint> {
    let elsewhere = |message: String| {
        Err(Complaint::new(message)
            .or("use a directory of its own, such as one in /srv or on a pool"))
    };
    if let Some(name) = path.strip_prefix(LOCAL).and_then(|rest| rest.strip_prefix('/')) {
        let first = name.split('/').next().unwrap_or(name);
        if !LOCAL_SYSTEM.contains(&first) {
            return Ok(());
        }
    }
    for system in SYSTEM {
        if path == *system {
            return elsewhere(format!("`{path}` belongs to the system"));
        }
        if is_within(path, system) {
            return elsewhere(format!(
                "{} lies in `{system}`, which belongs to the system",
                shown(path)
            ));
        }
        if is_within(system, path) {
            return elsewhere(format!("`{path}` contains `{system}`, which belongs to the system"));
        }
    }
    // Keys and start-up files of the host's root: whoever may write them is root.
    if path.starts_with("/root/.") {
        return elsewhere(format!("{} belongs to the host's root", shown(path)));
    }
    if SHARED.contains(&path) {
        return elsewhere(format!("`{path}` holds what belongs to others"));
    }
    Ok(())
}

fn relative(text: &str, example: &str) -> Complaint {
    let complaint = Complaint::new(format!("{} is not absolute", shown(text)));
    complaint.or(format!("write the path from the root, such as \"{example}\""))
}

fn dots(text: &str) -> Option<&str> {
    let mut parts = text.split('/');
    // `..` first: with it in the path, the normal form is not known.
    if parts.clone().any(|part| part == "..") {
        Some("..")
    } else {
        parts.find(|part| *part == ".")
    }
}

fn normalised(text: &str) -> String {
    let parts: Vec<&str> = text.split('/').filter(|part| !part.is_empty()).collect();
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_of_their_own_may_be_volumes() {
        for path in [
            "/srv",
            "/srv/x",
            "/mnt",
            "/mnt/x",
            "/mnt/pve/nas/x",
            "/tank",
            "/tank/x/y",
            "/opt/x",
            "/home/user",
            "/home/user/x",
            "/var/www",
            "/var/lib/vz",
            "/var/lib/vz/x",
            "/root/x",
            "/var/lib/docker-data",
            "/var/lib/lxc-data",
            "/etcetera",
            "/usr/local/phoenix/x",
            "/tmp/x",
            "/data with space/x",
            "/a:b",
            "/quick-shared-prod-data/ssl",
            "/x/..y",
            "/x/.y",
        ] {
            assert_eq!(check_host_path(path), Ok(()), "{path}");
        }
    }

    #[test]
    fn directories_of_the_system_may_not() {
        for path in [
            "/",
            "/etc",
            "/etc/foo",
            "/etc/pve/lxc",
            "/usr",
            "/usr/x",
            "/usr/local",
            "/usr/local/bin",
            "/usr/local/bin/x",
            "/var",
            "/var/lib",
            "/var/lib/lxc",
            "/var/lib/lxc/100",
            "/var/lib/pctd",
            "/var/log",
            "/var/spool",
            "/var/cache",
            "/boot/x",
            "/proc/x",
            "/sys",
            "/dev/shm",
            "/run/x",
            "/bin",
            "/sbin/x",
            "/lib64",
            "/home",
            "/root",
            "/root/.ssh",
            "/tmp",
            "/opt",
            "/mnt/pve",
        ] {
            assert!(check_host_path(path).is_err(), "{path}");
        }
    }

    #[test]
    fn a_path_that_is_not_normal_is_refused_with_the_normal_one() {
        for (path, remedy) in [
            ("/tank/", "write \"/tank\""),
            ("//tank///x", "write \"/tank/x\""),
            ("/tank/./x/.", "write \"/tank/x\""),
            ("/tank/../etc", "write where it leads"),
            ("tank", "write the path from the root, such as \"/tank/data\""),
            ("./tank", "write the path from the root, such as \"/tank/data\""),
        ] {
            assert_eq!(
                check_host_path(path).unwrap_err().remedy.as_deref(),
                Some(remedy),
                "{path}"
            );
        }
    }

    #[test]
    fn paths_that_a_conf_cannot_hold_are_refused() {
        for path in ["", "/a,b", "/a=b", "/a\nb", "/a\0", "/ä", "/a\u{7f}"] {
            assert!(check_host_path(path).is_err(), "{path:?}");
        }
        for path in ["", "/a,b", "/a\nb", "/ü", "data", "/", "//", "/a/../b", "/a/./b", "/.."] {
            assert!(target(path).is_err(), "{path:?}");
        }
    }

    #[test]
    fn targets_are_normalised() {
        for (path, normal) in [("/data", "/data"), ("//data//x/", "/data/x"), ("/a=b c", "/a=b c")]
        {
            assert_eq!(target(path).as_deref(), Ok(normal));
        }
    }
}
