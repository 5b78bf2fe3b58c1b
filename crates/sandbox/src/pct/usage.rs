//! The overview of all commands, as `pct` shows it for a wrong one.

/// Returns the overview.
pub(crate) fn all() -> String {
    ALL.to_owned()
}

/// Returns of what is said of `pct set` the part about mount points; `maps` where it knows maps of
/// single mounts.
pub(crate) fn set(maps: bool) -> String {
    let idmap = if maps {
        "             [,idmap=<type:container:disk:range-size[;type:container:disk:range-size;...]>]\n"
    } else {
        ""
    };
    format!(
        "USAGE: pct set <vmid> [OPTIONS]\n\n\
         \x20 -mp[n]     [volume=]<volume> ,mp=<Path> [,acl=<1|0>] [,backup=<1|0>]\n{idmap}\
         \x20            [,keepattrs=<1|0>] [,mountoptions=<opt[;opt...]>] [,quota=<1|0>]\n\
         \x20            [,replicate=<1|0>] [,ro=<1|0>] [,shared=<1|0>] [,size=<DiskSize>]\n"
    )
}

const ALL: &str = "\
USAGE: pct <COMMAND> [ARGS] [OPTIONS]\n\
\n\
\x20      pct clone <vmid> <newid> [OPTIONS]\n\
\x20      pct create <vmid> <ostemplate> [OPTIONS]\n\
\x20      pct destroy <vmid> [OPTIONS]\n\
\x20      pct list \n\
\x20      pct migrate <vmid> <target> [OPTIONS]\n\
\x20      pct move-volume <vmid> <volume> [<storage>] [<target-vmid>] [<target-volume>] [OPTIONS]\n\
\x20      pct pending <vmid>\n\
\x20      pct resize <vmid> <disk> <size> [OPTIONS]\n\
\x20      pct restore <vmid> <ostemplate> [OPTIONS]\n\
\x20      pct template <vmid>\n\
\n\
\x20      pct config <vmid> [OPTIONS]\n\
\x20      pct set <vmid> [OPTIONS]\n\
\n\
\x20      pct delsnapshot <vmid> <snapname> [OPTIONS]\n\
\x20      pct listsnapshot <vmid>\n\
\x20      pct rollback <vmid> <snapname> [OPTIONS]\n\
\x20      pct snapshot <vmid> <snapname> [OPTIONS]\n\
\n\
\x20      pct reboot <vmid> [OPTIONS]\n\
\x20      pct resume <vmid>\n\
\x20      pct shutdown <vmid> [OPTIONS]\n\
\x20      pct start <vmid> [OPTIONS]\n\
\x20      pct stop <vmid> [OPTIONS]\n\
\x20      pct suspend <vmid>\n\
\n\
\x20      pct console <vmid> [OPTIONS]\n\
\x20      pct cpusets \n\
\x20      pct df <vmid>\n\
\x20      pct enter <vmid> [OPTIONS]\n\
\x20      pct exec <vmid> [<extra-args>] [OPTIONS]\n\
\x20      pct fsck <vmid> [OPTIONS]\n\
\x20      pct fstrim <vmid> [OPTIONS]\n\
\x20      pct mount <vmid>\n\
\x20      pct pull <vmid> <path> <destination> [OPTIONS]\n\
\x20      pct push <vmid> <file> <destination> [OPTIONS]\n\
\x20      pct remote-migrate <vmid> [<target-vmid>] <target-endpoint> --target-bridge <string> --target-storage <string> [OPTIONS]\n\
\x20      pct rescan  [OPTIONS]\n\
\x20      pct status <vmid> [OPTIONS]\n\
\x20      pct unlock <vmid>\n\
\x20      pct unmount <vmid>\n\
\n\
\x20      pct help [<extra-args>] [OPTIONS]\n";
