//! The tables of `PVE::LXC::Config`: `$confdesc` and the formats of its property strings.

use crate::conf::schema::format::Format;
use crate::conf::schema::rule::Rule;
use crate::conf::text::{is_digits, split_fields};

/// How many of each family there are (`$MAX_MOUNT_POINTS`, `$MAX_DEVICES`, `$MAX_LXC_NETWORKS`).
const FAMILIES: [(Rule, u16); 4] = [
    (Rule::text("mp", Format::Options(MOUNT_POINT)), 256),
    (Rule::text("unused", Format::Options(UNUSED)), 256),
    (Rule::text("dev", Format::Options(DEVICE)), 256),
    (Rule::text("net", Format::Options(NETWORK)), 32),
];

/// The properties there is one of (`$confdesc`).
const PROPERTIES: [Rule; 30] = [
    Rule::one_of("arch", &["amd64", "i386", "arm64", "armhf", "riscv32", "riscv64"]),
    Rule::one_of("cmode", &["shell", "console", "tty"]),
    Rule::boolean("console"),
    Rule::integer("cores").at_least(1).at_most(8192),
    Rule::number("cpulimit").at_least(0).at_most(8192),
    Rule::integer("cpuunits").at_least(0).at_most(500_000),
    Rule::boolean("debug"),
    Rule::text("description", Format::Any).no_longer_than(8192),
    Rule::matching("entrypoint", is_entrypoint),
    Rule::matching("env", is_environment),
    Rule::text("features", Format::Options(FEATURES)),
    Rule::text("hookscript", Format::VolumeId),
    Rule::text("hostname", Format::DnsName).no_longer_than(255),
    Rule::one_of(
        "lock",
        &[
            "backup",
            "create",
            "destroyed",
            "disk",
            "fstrim",
            "migrate",
            "mounted",
            "rollback",
            "snapshot",
            "snapshot-delete",
        ],
    ),
    Rule::integer("memory").at_least(16),
    Rule::text("nameserver", Format::Addresses),
    Rule::boolean("onboot"),
    Rule::one_of(
        "ostype",
        &[
            "debian",
            "devuan",
            "ubuntu",
            "centos",
            "fedora",
            "opensuse",
            "archlinux",
            "alpine",
            "gentoo",
            "nixos",
            "unmanaged",
        ],
    ),
    Rule::text("parent", Format::ConfigId).no_longer_than(40),
    Rule::boolean("protection"),
    Rule::text("rootfs", Format::Options(ROOTFS)),
    Rule::text("searchdomain", Format::DnsNames),
    Rule::integer("snaptime").at_least(0),
    Rule::text("startup", Format::StartupOrder),
    Rule::integer("swap").at_least(0),
    Rule::text("tags", Format::Tags),
    Rule::boolean("template"),
    Rule::text("timezone", Format::TimeZone),
    Rule::integer("tty").at_least(0).at_most(6),
    Rule::boolean("unprivileged"),
];

/// Returns the rule of a property, or `None` where Proxmox knows no such property.
pub fn rule(name: &str) -> Option<&'static Rule> {
    PROPERTIES.iter().find(|rule| rule.name == name).or_else(|| family(name))
}

fn family(name: &str) -> Option<&'static Rule> {
    let (rule, count) = FAMILIES.iter().find(|(rule, _)| {
        name.strip_prefix(rule.name).is_some_and(|index| is_digits(index.as_bytes()))
    })?;
    let index = name.strip_prefix(rule.name)?;
    let is_canonical = index == "0" || !index.starts_with('0');
    (is_canonical && index.parse::<u16>().is_ok_and(|index| index < *count)).then_some(rule)
}

const VOLUME: Rule = Rule::text("volume", Format::MountPath).required().by_default();
const TARGET: Rule = Rule::text("mp", Format::MountPath).required();
const SIZE: Rule = Rule::text("size", Format::DiskSize);
const MOUNT_OPTIONS: Rule = Rule::matching("mountoptions", is_mount_options);
const IDMAP: Rule = Rule::matching("idmap", is_mount_idmap);

/// `$rootfs_desc`.
pub(crate) const ROOTFS: &[Rule] = &[
    VOLUME,
    Rule::boolean("acl"),
    IDMAP,
    MOUNT_OPTIONS,
    Rule::boolean("quota"),
    Rule::boolean("replicate"),
    Rule::boolean("ro"),
    Rule::boolean("shared"),
    SIZE,
];

/// `$mp_desc`.
pub(crate) const MOUNT_POINT: &[Rule] = &[
    VOLUME,
    TARGET,
    Rule::boolean("acl"),
    Rule::boolean("backup"),
    IDMAP,
    Rule::boolean("keepattrs"),
    MOUNT_OPTIONS,
    Rule::boolean("quota"),
    Rule::boolean("replicate"),
    Rule::boolean("ro"),
    Rule::boolean("shared"),
    SIZE,
];

/// `$unused_desc`.
const UNUSED: &[Rule] = &[Rule::text("volume", Format::VolumeId).required().by_default()];

/// `$dev_desc`.
const DEVICE: &[Rule] = &[
    Rule::text("path", Format::DevicePath).by_default(),
    Rule::boolean("deny-write"),
    Rule::integer("gid").at_least(0),
    Rule::matching("mode", is_mode),
    Rule::integer("uid").at_least(0),
];

/// `$features_desc`.
const FEATURES: &[Rule] = &[
    Rule::boolean("force_rw_sys"),
    Rule::boolean("fuse"),
    Rule::boolean("keyctl"),
    Rule::boolean("mknod"),
    Rule::matching("mount", is_file_systems),
    Rule::boolean("nesting"),
];

/// `$netconf_desc`.
const NETWORK: &[Rule] = &[
    Rule::matching("name", is_word).required(),
    Rule::matching("bridge", is_word),
    Rule::boolean("firewall"),
    Rule::text("gw", Format::Ipv4),
    Rule::text("gw6", Format::Ipv6),
    Rule::boolean("host-managed"),
    Rule::text("hwaddr", Format::MacAddress),
    Rule::text("ip", Format::Ipv4Config),
    Rule::text("ip6", Format::Ipv6Config),
    Rule::boolean("link_down"),
    Rule::integer("mtu").at_least(64).at_most(65535),
    Rule::number("rate"),
    Rule::integer("tag").at_least(1).at_most(4094),
    Rule::matching("trunks", is_vlans),
    Rule::one_of("type", &["veth"]),
];

/// `(discard|lazytime|noatime|nodev|noexec|nosuid)`, several with `;` between.
fn is_mount_options(text: &[u8]) -> bool {
    text.split(|b| *b == b';').all(|option| {
        matches!(option, b"discard" | b"lazytime" | b"noatime" | b"nodev" | b"noexec" | b"nosuid")
    })
}

/// `passthrough`, or `[ug]:<container>:<disk>:<count>`, several with `;` between.
fn is_mount_idmap(text: &[u8]) -> bool {
    text == b"passthrough"
        || text.split(|b| *b == b';').all(|entry| {
            let fields: Vec<&[u8]> = entry.split(|b| *b == b':').collect();
            matches!(fields.as_slice(), [kind, container, disk, count]
                if matches!(*kind, b"u" | b"g")
                    && is_digits(container)
                    && is_digits(disk)
                    && is_digits(count)
                    && !count.starts_with(b"0"))
        })
}

fn is_mode(text: &[u8]) -> bool {
    text.len() == 4 && text[0] == b'0' && text.iter().all(|b| matches!(b, b'0'..=b'7'))
}

fn is_file_systems(text: &[u8]) -> bool {
    let allowed = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b';' | b' ');
    !text.is_empty() && text.iter().all(allowed)
}

fn is_word(text: &[u8]) -> bool {
    let allowed = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    !text.is_empty() && text.iter().all(allowed)
}

fn is_vlans(text: &[u8]) -> bool {
    text.split(|b| *b == b';').all(is_digits)
}

/// Neither control characters nor nothing; a tab is fine.
fn is_entrypoint(text: &[u8]) -> bool {
    !text.is_empty() && is_printable(text)
}

fn is_printable(text: &[u8]) -> bool {
    text.iter().all(|b| *b == b'\t' || !b.is_ascii_control())
}

/// `NAME=value`, several with NUL between.
fn is_environment(text: &[u8]) -> bool {
    let is_variable = |variable: &[u8]| {
        let name = variable.iter().take_while(|b| b.is_ascii_alphanumeric() || **b == b'_').count();
        name > 0 && variable.get(name) == Some(&b'=') && is_printable(&variable[name..])
    };
    split_fields(text, 0).into_iter().all(is_variable) && !text.is_empty()
}
