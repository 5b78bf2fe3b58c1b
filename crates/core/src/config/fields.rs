//! Every key pctd knows: what it means, what it looks like, and what it is when not given.

use std::time::Duration;

use super::shape::{Field, Shape, Table, Unknown};
use super::syntax;

/// The shortest interval between two looks at the same thing; a shorter one would be a busy loop.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(10);

const SECOND: Duration = Duration::from_secs(1);

/// More reconciliations at once than containers a node runs help nobody.
const MOST_CONCURRENT: u64 = 1024;
/// A TiB: more than any node has for it.
const MOST_UNDO_MB: u64 = 1024 * 1024;
/// The most threads one walk may be given; more of them only get in each other's way.
const MOST_WALK_THREADS: u64 = 64;

/// The highest id but one: the highest tells `chown` to leave an id alone.
const HIGHEST_ID: u64 = 4_294_967_294;

/// A hundred years: more is a slip, and far more could not be written as a date.
const MOST_DAYS: u64 = 36_525;

/// The mount options Proxmox lets through (`pve-container`, `mountoptions`).
pub(super) const MOUNT_OPTIONS: [&str; 6] =
    ["discard", "lazytime", "noatime", "nodev", "noexec", "nosuid"];

/// What `settings.manage` may name; [`crate::desired::Field`].
const MANAGED_FIELDS: [&str; 9] = [
    "name",
    "memory_mb",
    "swap_mb",
    "cores",
    "start_at_boot",
    "boot_order",
    "boot_delay",
    "pct_options",
    "lxc_options",
];

const ANY_NUMBER: Shape = Shape::Whole(0, u64::MAX);
const ANY_TEXT: Shape = Shape::Text(&syntax::ANYTHING);
const TEXTS: Shape = Shape::List(&ANY_TEXT);
const ID: Shape = Shape::Whole(0, HIGHEST_ID);
const MODE: Shape = Shape::Text(&syntax::MODE);
const INTERVAL: Shape = Shape::Duration(SHORTEST_INTERVAL);

/// A whole file.
pub(super) static FILE: Table = Table {
    name: "configuration",
    doc: "What pctd keeps: directories of the host that containers share.",
    unknown: Unknown::Ignore,
    known_by: &[],
    fields: &[
        Field::new("settings", Shape::Object(&SETTINGS), "How pctd works."),
        Field::new(
            "shared_volumes",
            Shape::Map(&syntax::VOLUME_NAME, &Shape::Object(&VOLUME)),
            "Directories of the host, by name.",
        ),
        Field::new(
            "lxc_configs",
            Shape::Map(&syntax::CTID, &Shape::Object(&CONTAINER)),
            "Containers, by id.",
        ),
    ],
};

/// `settings`.
pub(super) static SETTINGS: Table = Table {
    name: "settings section",
    doc: "How pctd works. Every key may be left out.",
    unknown: Unknown::Refuse,
    known_by: &[],
    fields: &[
        Field::new(
            "mode",
            Shape::Choice(&["enforce", "observe"]),
            "Whether steps are taken; \"observe\" plans and reports only.",
        )
        .default("\"enforce\""),
        Field::new(
            "seed_defaults",
            Shape::Boolean,
            "Whether a volume that does not say otherwise gets an owner (nobody:nogroup) and modes (by its name). \
             false leaves alone what is not declared.",
        )
        .default("true"),
        Field::new(
            "confirm_above",
            ANY_NUMBER,
            "A pass that would change more entries of a volume than this waits for `pctd apply VOLUME`.",
        )
        .default("10000"),
        Field::new("resync_interval", INTERVAL, "How often everything is observed anew.")
            .default("\"10m\""),
        Field::new("verify_interval", INTERVAL, "How often every volume is walked in full.")
            .default("\"6h\""),
        Field::new(
            "poll_interval",
            INTERVAL,
            "How often the list of containers is read, for changes that raise no event.",
        )
        .default("\"2s\""),
        Field::new("retry_initial", INTERVAL, "The first delay after a failure; it doubles.")
            .default("\"500ms\""),
        Field::new("retry_max", INTERVAL, "The longest delay after failures.").default("\"2m\""),
        Field::new("hold_interval", INTERVAL, "How often something that is held is looked at again.")
            .default("\"15s\""),
        Field::new(
            "idmap_source",
            Shape::Choice(&["effective", "explicit"]),
            "Where id maps come from: Proxmox's rule, or lxc.idmap lines in the conf only.",
        )
        .default("\"effective\""),
        Field::new(
            "idmap_timeout",
            Shape::Duration(Duration::ZERO),
            "How long a volume waits for the id maps of all its containers.",
        )
        .default("\"2m\""),
        Field::new(
            "idmap_fallback",
            Shape::Choice(&["wait", "nobody"]),
            "What happens after that: wait on, or nobody:nogroup for a volume that never was owned.",
        )
        .default("\"wait\""),
        Field::new(
            "restart",
            Shape::Choice(&["if_pending", "never"]),
            "Whether a container is rebooted when a change of pctd's waits for it.",
        )
        .default("\"if_pending\""),
        Field::new(
            "restart_timeout",
            Shape::Duration(SECOND),
            "How long a guest may take to shut down before Proxmox kills it; at least a second.",
        )
        .default("\"60s\""),
        Field::new(
            "restart_limit",
            Shape::Duration(Duration::ZERO),
            "The least time between two reboots of one container.",
        )
        .default("\"10m\""),
        Field::new(
            "create_containers",
            Shape::Boolean,
            "Whether absent containers of lxc_configs with a template or clone_from_ctid are made.",
        )
        .default("true"),
        Field::new(
            "prune",
            Shape::Boolean,
            "Whether mounts that pctd added are removed when they are no longer wanted.",
        )
        .default("false"),
        Field::new(
            "watch_cpu",
            Shape::Whole(0, 100),
            "How much of one core it may take to put the drift of one volume right as it happens, in percent; 0: drift is found by walks only.",
        )
        .default("25"),
        Field::new(
            "undo_mb",
            Shape::Whole(0, MOST_UNDO_MB),
            "How much room the records of what pctd changed in one volume may take, in MiB, for `pctd undo`; the oldest go first. 0: nothing is recorded.",
        )
        .default("512"),
        Field::new(
            "max_concurrent",
            Shape::Whole(1, MOST_CONCURRENT),
            "How many containers and volumes are worked on at once.",
        )
        .default("4"),
        Field::new(
            "walk_threads",
            Shape::Whole(0, MOST_WALK_THREADS),
            "How many threads walk a volume. 0: as many as there are cores, and more (up to 8) where the file system lets them wait.",
        )
        .default("0"),
        Field::new(
            "manage",
            Shape::List(&Shape::Choice(&MANAGED_FIELDS)),
            "The fields of lxc_configs that are kept as declared in containers that exist; others are only shown.",
        )
        .default("[]"),
        Field::new(
            "pct_timeout",
            Shape::Duration(SECOND),
            "How long a call of pct may take; reboots, creations and clones have times of their own.",
        )
        .default("\"10m\""),
        Field::new(
            "create_timeout",
            Shape::Duration(SECOND),
            "How long the creation, the cloning or the backup of a container may take.",
        )
        .default("\"6h\""),
        Field::new(
            "node",
            Shape::Text(&syntax::NODE),
            "The name of this node, if not what /etc/pve/local says.",
        ),
        Field::new(
            "status_group",
            Shape::Text(&syntax::GROUP),
            "A group of the host, by name or number, that may ask the daemon for the status; without it only root may.",
        ),
        Field::new(
            "metrics_file",
            Shape::Text(&syntax::METRICS_FILE),
            "A file that metrics are written to for node_exporter's textfile collector, such as /var/lib/prometheus/node-exporter/pctd.prom; without it there are none.",
        ),
    ],
};

/// An entry of `shared_volumes`.
pub(super) static VOLUME: Table = Table {
    name: "volume",
    doc: "A directory of the host, whose it is, and where it is mounted.",
    unknown: Unknown::Refuse,
    known_by: &["host_path", "mounts"],
    fields: &[
        Field::new(
            "host_path",
            Shape::Text(&syntax::HOST_PATH),
            "The directory on the host: absolute, normalised, ASCII, none of the system's.",
        )
        .required(),
        Field::new(
            "owner",
            Shape::Text(&syntax::OWNER),
            "Whose it is: \"container_root\", \"container:UID[:GID]\" (ids inside the containers), \"USER\", \
             \"USER:GROUP\", \"UID:GID\" (on the host) or \"keep\".",
        ),
        Field::new(
            "group",
            Shape::Text(&syntax::VOLUME_GROUP),
            "The group of every entry, whoever owns it: \"GROUP\" or \"GID\" (on the host), or \"container:GID\" (inside \
             the containers). Directories are setgid, so that new entries have it as well.",
        ),
        Field::new(
            "default_acl",
            Shape::Text(&syntax::DEFAULT_ACL),
            "What new entries of a directory get, whatever the umask, as setfacl takes it: \"g::rwX\" (the owning \
             group), \"g:GROUP:rwX\", \"u:USER:rX\" (on the host). Agrees with dir_mode and file_mode. \"none\": no list.",
        ),
        Field::new(
            "owner_ctid",
            CTID,
            "The container whose id map counts when the mounting containers disagree.",
        ),
        Field::new(
            "disk_ids",
            DISK_IDS,
            "How ids inside the containers stand on the disk, for all of them alike: \"passthrough\", a range \
             \"INSIDE DISK COUNT\" or a list of them (also \"u ...\" and \"g ...\"), \"owner\" or \"container:CTID\".",
        ),
        Field::new("dir_mode", MODE, "The mode of directories."),
        Field::new("file_mode", MODE, "The mode of regular files."),
        Field::new(
            "file_modes",
            Shape::Map(&syntax::FILE_PATTERN, &MODE),
            "Modes by file name; of the patterns that match, the longest wins.",
        ),
        Field::new(
            "enforce",
            Shape::Choice(&["adopt", "once", "always"]),
            "Which entries are touched: only those no container can own, all when the declaration changes, or all.",
        ),
        Field::new(
            "mechanism",
            MECHANISM,
            "Who mounts it: Proxmox, or LXC by a raw line, which does not stand in the way of snapshots and clones and is seen after a restart only.",
        )
        .default("\"pct\""),
        Field::new(
            "recurse",
            Shape::Boolean,
            "Whether anything below the directory itself is touched.",
        )
        .default("true"),
        Field::new("create", Shape::Boolean, "Whether the directory is made when it is missing.")
            .default("true"),
        Field::new(
            "require_mount",
            Shape::Either(&[Shape::Boolean, Shape::Text(&syntax::MOUNT_POINT)]),
            "Whether host_path must not be on the root file system; or a path that must be a mount point. \
             Without it true for what is declared \"shared\", else false.",
        ),
        Field::new(
            "nodes",
            Shape::List(&Shape::Text(&syntax::NODE)),
            "The nodes of a cluster it exists on; without it, all.",
        ),
        Field::new(
            "shared",
            Shape::Boolean,
            "Whether it is one directory that all nodes see, of which one node sets owners and modes: the one with the \
             lowest container that mounts it. Without it, what the type of the file system says (NFS, CIFS, CephFS, ...).",
        ),
        Field::new(
            "mounts",
            Shape::Map(
                &syntax::CTID,
                &Shape::Either(&[Shape::Text(&syntax::TARGET), Shape::Object(&MOUNT)]),
            ),
            "Where it is mounted, by container: the path inside, or an object.",
        ),
        Field::new(
            "certificates",
            Shape::List(&Shape::Object(&CERTIFICATE)),
            "Self-signed certificates kept in the volume.",
        ),
    ],
};

const DISK_IDS: Shape = Shape::Either(&[
    Shape::Text(&syntax::DISK_IDS),
    Shape::List(&Shape::Text(&syntax::DISK_RANGE)),
]);

const MECHANISM: Shape = Shape::Choice(&["pct", "lxc"]);

const CTID: Shape = Shape::Either(&[Shape::Text(&syntax::CTID), Shape::Whole(100, 999_999_999)]);

/// An object in `mounts`.
pub(super) static MOUNT: Table = Table {
    name: "mount",
    doc: "How a volume is mounted. Only the options that are given are managed.",
    unknown: Unknown::Refuse,
    known_by: &[],
    fields: &[
        Field::new("path", Shape::Text(&syntax::TARGET), "The path inside the container.")
            .required(),
        Field::new("read_only", Shape::Boolean, "Whether the container cannot write to it."),
        Field::new("mechanism", MECHANISM, "Who makes this mount, if not as the volume says."),
        Field::new(
            "recursive",
            Shape::Boolean,
            "Whether what is mounted below the directory is mounted as well; only by LXC.",
        ),
        Field::new(
            "shared",
            Shape::Boolean,
            "Whether the directory is there on every node, so that the container can migrate.",
        ),
        Field::new(
            "backup",
            Shape::Boolean,
            "Proxmox's backup flag; it has no effect on bind mounts.",
        ),
        Field::new(
            "mount_options",
            Shape::List(&Shape::Choice(&MOUNT_OPTIONS)),
            "Options of the file system layer.",
        ),
        Field::new(
            "idmap",
            Shape::Either(&[
                Shape::Text(&syntax::MOUNT_IDS),
                Shape::List(&Shape::Text(&syntax::DISK_RANGE)),
            ]),
            "As disk_ids of the volume, for this mount alone; \"none\": without a map.",
        ),
        Field::new(
            "adopt",
            Shape::Boolean,
            "Whether a bind mount that somebody else made at the path is taken over. A disk of a storage never is.",
        )
        .default("false"),
    ],
};

/// An object in `certificates`.
pub(super) static CERTIFICATE: Table = Table {
    name: "certificate",
    doc: "A self-signed key and certificate, DOMAIN.key and DOMAIN.crt.",
    unknown: Unknown::Refuse,
    known_by: &[],
    fields: &[
        Field::new("domain", Shape::Text(&syntax::DOMAIN), "The host name it is for.").required(),
        Field::new(
            "subject_alt_names",
            Shape::List(&Shape::Text(&syntax::ALT_NAME)),
            "Further host names, also \"*.example.org\", and IP addresses it is for.",
        ),
        Field::new("days", Shape::Whole(1, MOST_DAYS), "For how many days it is made.")
            .default("365"),
        Field::new(
            "renew_before",
            Shape::Duration(Duration::ZERO),
            "How long before it expires it is made anew; less than `days`.",
        )
        .default("\"30d\""),
    ],
};

/// An entry of `lxc_configs`.
pub(super) static CONTAINER: Table = Table {
    name: "container definition",
    doc: "A container. Keys that pctd does not know belong to other tools.",
    unknown: Unknown::Ignore,
    known_by: &[],
    fields: &[
        Field::new("name", ANY_TEXT, "Its host name."),
        Field::new("unprivileged", Shape::Boolean, "Whether it is to be unprivileged."),
        Field::new(
            "convert",
            Shape::Object(&CONVERT),
            "Lets pctd convert it where it is not as `unprivileged` says: it is stopped, backed up, and restored from that backup.",
        ),
        Field::new("template", ANY_TEXT, "The archive it is made from."),
        Field::new(
            "clone_from_ctid",
            Shape::Either(&[Shape::Text(&syntax::CTID_OR_NONE), Shape::Whole(100, 999_999_999)]),
            "The container it is cloned from.",
        ),
        Field::new(
            "template_snapshot_name",
            ANY_TEXT,
            "The snapshot of this container that clones are made from.",
        ),
        Field::new(
            "mount_points",
            Shape::List(&Shape::Object(&MOUNT_POINT)),
            "Directories of the host for this container.",
        ),
        Field::new("node", ANY_TEXT, "The node of a cluster that makes it.").lenient(),
        Field::new("memory_mb", ANY_NUMBER, "Its memory in MiB.").lenient(),
        Field::new("swap_mb", ANY_NUMBER, "Its swap in MiB.").lenient(),
        Field::new("cores", ANY_NUMBER, "Its number of processor cores.").lenient(),
        Field::new("storage_pool", ANY_TEXT, "The storage of its root disk.").lenient(),
        Field::new("storage_size_gb", ANY_NUMBER, "The size of its root disk in GiB.").lenient(),
        Field::new("network_config", Shape::Object(&NETWORK), "Its network interface.").lenient(),
        Field::new("mac_address", ANY_TEXT, "The hardware address of that interface.").lenient(),
        Field::new("start_at_boot", Shape::Boolean, "Whether it starts with the node.").lenient(),
        Field::new("boot_order", ANY_NUMBER, "Its place in the order of starting.").lenient(),
        Field::new("boot_delay", ANY_NUMBER, "The seconds before the next one starts.").lenient(),
        Field::new("pct_options", TEXTS, "Features such as \"nesting=1\".").lenient(),
        Field::new(
            "lxc_options",
            Shape::List(&Shape::Text(&syntax::RAW_LINE)),
            "Raw lines of its conf, \"lxc.KEY: VALUE\" or \"lxc.KEY = VALUE\".",
        ),
        Field::new(
            "id_maps",
            Shape::List(&Shape::Object(&ID_MAP)),
            "The whole of its id map: users and groups, from 0 on, without gaps.",
        ),
    ],
};

/// `convert`.
pub(super) static CONVERT: Table = Table {
    name: "conversion",
    doc: "How a container is converted between privileged and unprivileged.",
    unknown: Unknown::Refuse,
    known_by: &[],
    fields: &[Field::new(
        "backup_storage",
        Shape::Text(&syntax::STORAGE),
        "The storage of Proxmox that its backup is put on; one that keeps backups as files. The backup is not removed.",
    )
    .required()],
};

/// An object in `mount_points`.
pub(super) static MOUNT_POINT: Table = Table {
    name: "mount point",
    doc: "A directory of the host for one container.",
    unknown: Unknown::Warn,
    known_by: &[],
    fields: &[
        Field::new("host_path", Shape::Text(&syntax::HOST_PATH), "The directory on the host.")
            .required(),
        Field::new(
            "container_path",
            Shape::Text(&syntax::TARGET),
            "The path inside the container.",
        )
        .required(),
        Field::new("owner_uid", ID, "The user it belongs to, as seen in the container."),
        Field::new("owner_gid", ID, "The group it belongs to, as seen in the container."),
    ],
};

/// `network_config`.
pub(super) static NETWORK: Table = Table {
    name: "network configuration",
    doc: "A network interface.",
    unknown: Unknown::Ignore,
    known_by: &[],
    fields: &[
        Field::new("name", ANY_TEXT, "Its name in the container."),
        Field::new("bridge", ANY_TEXT, "The bridge of the host it is on."),
        Field::new("ip", ANY_TEXT, "Its address with the prefix length, or \"dhcp\"."),
        Field::new("gw", ANY_TEXT, "The gateway."),
        Field::new("nameservers", Shape::Either(&[ANY_TEXT, TEXTS]), "The name servers."),
    ],
};

/// An object in `id_maps`.
pub(super) static ID_MAP: Table = Table {
    name: "mapping",
    doc: "A range of ids of the container and of the host.",
    unknown: Unknown::Warn,
    known_by: &[],
    fields: &[
        Field::new("type", Shape::Choice(&["uid", "gid"]), "User ids or group ids.").required(),
        Field::new("host_id", ID, "The first id on the host.").required(),
        Field::new("container_id", ID, "The first id in the container.").required(),
        Field::new("size", Shape::Whole(1, HIGHEST_ID + 1), "How many ids.").required(),
    ],
};
