//! The raw `lxc.*` keys Proxmox lets through (`PVE::LXC::Config::is_valid_lxc_conf_key`).

/// What becomes of a line with a raw key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Kept.
    Valid,
    /// Kept with a warning: the key has this new name.
    Renamed(&'static str),
    /// Kept with a warning: an `lxc.limit.*`.
    OldLimit,
    /// Kept with a warning: an `lxc.cgroup.*`.
    OldCgroup,
    /// Dropped with this warning.
    Refused(&'static str),
    /// Dropped.
    Unknown,
}

/// Keys allowed as they are (`$valid_lxc_conf_keys`).
const VALID: [&str; 61] = [
    "lxc.apparmor.profile",
    "lxc.apparmor.allow_incomplete",
    "lxc.apparmor.allow_nesting",
    "lxc.apparmor.raw",
    "lxc.selinux.context",
    "lxc.include",
    "lxc.arch",
    "lxc.uts.name",
    "lxc.signal.halt",
    "lxc.signal.reboot",
    "lxc.signal.stop",
    "lxc.init.cmd",
    "lxc.init.cwd",
    "lxc.init.uid",
    "lxc.init.gid",
    "lxc.init.groups",
    "lxc.pty.max",
    "lxc.console.logfile",
    "lxc.console.path",
    "lxc.tty.max",
    "lxc.devtty.dir",
    "lxc.hook.autodev",
    "lxc.autodev",
    "lxc.kmsg",
    "lxc.mount.fstab",
    "lxc.mount.entry",
    "lxc.mount.auto",
    "lxc.rootfs.mount",
    "lxc.cap.drop",
    "lxc.cap.keep",
    "lxc.seccomp.profile",
    "lxc.seccomp.notify.proxy",
    "lxc.seccomp.notify.cookie",
    "lxc.idmap",
    "lxc.hook.pre-start",
    "lxc.hook.pre-mount",
    "lxc.hook.mount",
    "lxc.hook.start",
    "lxc.hook.stop",
    "lxc.hook.post-stop",
    "lxc.hook.clone",
    "lxc.hook.destroy",
    "lxc.hook.version",
    "lxc.log.level",
    "lxc.log.file",
    "lxc.start.auto",
    "lxc.start.delay",
    "lxc.start.order",
    "lxc.group",
    "lxc.environment",
    "lxc.environment.runtime",
    "lxc.environment.hooks",
    "lxc.sysctl.fs.mqueue",
    "lxc.sysctl.kernel.msgmax",
    "lxc.sysctl.kernel.msgmnb",
    "lxc.sysctl.kernel.msgmni",
    "lxc.sysctl.kernel.sem",
    "lxc.sysctl.kernel.shmall",
    "lxc.sysctl.kernel.shmmax",
    "lxc.sysctl.kernel.shmmni",
    "lxc.sysctl.kernel.shm_rmid_forced",
];

/// Keys of LXC before 3.0 and what they became (`$deprecated_lxc_conf_keys`).
const RENAMED: [(&str, &str); 29] = [
    ("lxc.aa_profile", "lxc.apparmor.profile"),
    ("lxc.aa_allow_incomplete", "lxc.apparmor.allow_incomplete"),
    ("lxc.console", "lxc.console.path"),
    ("lxc.devttydir", "lxc.tty.dir"),
    ("lxc.haltsignal", "lxc.signal.halt"),
    ("lxc.rebootsignal", "lxc.signal.reboot"),
    ("lxc.stopsignal", "lxc.signal.stop"),
    ("lxc.id_map", "lxc.idmap"),
    ("lxc.init_cmd", "lxc.init.cmd"),
    ("lxc.loglevel", "lxc.log.level"),
    ("lxc.logfile", "lxc.log.file"),
    ("lxc.mount", "lxc.mount.fstab"),
    ("lxc.network.type", "lxc.net.INDEX.type"),
    ("lxc.network.flags", "lxc.net.INDEX.flags"),
    ("lxc.network.link", "lxc.net.INDEX.link"),
    ("lxc.network.mtu", "lxc.net.INDEX.mtu"),
    ("lxc.network.name", "lxc.net.INDEX.name"),
    ("lxc.network.hwaddr", "lxc.net.INDEX.hwaddr"),
    ("lxc.network.ipv4", "lxc.net.INDEX.ipv4.address"),
    ("lxc.network.ipv4.gateway", "lxc.net.INDEX.ipv4.gateway"),
    ("lxc.network.ipv6", "lxc.net.INDEX.ipv6.address"),
    ("lxc.network.ipv6.gateway", "lxc.net.INDEX.ipv6.gateway"),
    ("lxc.network.script.up", "lxc.net.INDEX.script.up"),
    ("lxc.network.script.down", "lxc.net.INDEX.script.down"),
    ("lxc.pts", "lxc.pty.max"),
    ("lxc.se_context", "lxc.selinux.context"),
    ("lxc.seccomp", "lxc.seccomp.profile"),
    ("lxc.tty", "lxc.tty.max"),
    ("lxc.utsname", "lxc.uts.name"),
];

/// Beginnings of keys that are allowed whatever follows.
const VALID_PREFIXES: [&str; 3] = ["lxc.cgroup2.", "lxc.prlimit.", "lxc.net."];

/// Returns what becomes of a line with this key.
pub(crate) fn verdict(key: &str) -> Verdict {
    if key.starts_with("lxc.limit.") {
        Verdict::OldLimit
    } else if let Some((_, name)) = RENAMED.iter().find(|(old, _)| *old == key) {
        Verdict::Renamed(name)
    } else if VALID.contains(&key) {
        Verdict::Valid
    } else if key == "lxc.rootfs.path" {
        Verdict::Refused("lxc.rootfs.path is auto generated from rootfs")
    } else if key == "lxc.rootfs.options" {
        Verdict::Refused(
            "lxc.rootfs.options is not supported, please use mount point options in the \
             \"rootfs\" key",
        )
    } else if key.starts_with("lxc.cgroup.") {
        Verdict::OldCgroup
    } else if VALID_PREFIXES.iter().any(|prefix| key.starts_with(prefix)) {
        Verdict::Valid
    } else {
        Verdict::Unknown
    }
}
