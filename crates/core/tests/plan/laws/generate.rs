//! Worlds nobody thought of: configurations, confs, directories and ledgers, from few words each
//! so that what matters meets often.

#![expect(clippy::unwrap_used, reason = "a generated text that cannot be read is a mistake here")]

use std::sync::Arc;

use pctd_core::conf::Conf;
use pctd_core::config::{Strictness, load};
use pctd_core::desired::Desired;
use pctd_core::idmap::IdMap;
use pctd_core::ids::HostIds;
use pctd_core::ledger::{LedgerEntry, VolumeRecord};
use pctd_core::observed::{ObservedContainer, Presence, Running};
use pctd_core::ownership::{EntryKind, EntryStat};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Value, json};

use super::model::{Crash, Guest, Node, Source, running};
use crate::world::{PRIVILEGED, SHIFTED, UNPRIVILEGED, ctid, volume};

/// The containers of every world.
const CTIDS: [u32; 3] = [100, 101, 102];

/// The volumes of every world, each with its path and where it is mounted.
pub(crate) const VOLUMES: [(&str, &str, &str); 3] =
    [("a", "/tank/a", "/data"), ("b", "/tank/b", "/data/sub"), ("c", "/tank/c", "/x")];

/// Values of mount points: as desired, nearly so, and of others.
const MOUNTS: [&str; 18] = [
    "/tank/a,mp=/data",
    "/tank//a/,mp=data//",
    "/tank/a,mp=/data,backup=1,ro=1",
    "/tank/b,mp=/data/sub",
    "/tank/b,mp=/data/sub,mountoptions=nosuid;noatime,replicate=0",
    "/tank/a,mp=/data,idmap=u:0:5000:65536;g:0:5000:65536",
    "/tank/b,mp=/data/sub,idmap=passthrough,mountoptions=nosuid",
    "/tank/c,mp=/x,idmap=u:0:5000:1;g:0:5000:1",
    "/tank/c,mp=/x,ro=0",
    "/tank/c,mp=/data",
    "/srv/old,mp=/data",
    "/srv/old,mp=/x,ro=1",
    "local:1/v.raw,mp=/data/sub,size=1G",
    "local:1/v.raw,mp=/v,size=1G",
    "/srv/h1,mp=/h1,acl=1",
    "/srv/h2,mp=/data2",
    "/dev/sdb1,mp=/disk",
    "no mount point",
];

/// Lines that have nothing to do with mounts, and must come out of it unharmed.
const OTHER_LINES: [&str; 8] = [
    "hostname: ct",
    "#a note: 100%",
    "foo: bar",
    "memory: abc",
    "lxc.cap.drop: sys_admin",
    "lxc.mount.entry: /srv/z z none bind 0 0",
    "onboot: 1",
    "features: nesting=1",
];

/// What a container starts from.
const BASES: [&str; 8] = [
    UNPRIVILEGED,
    UNPRIVILEGED,
    UNPRIVILEGED,
    PRIVILEGED,
    SHIFTED,
    "rootfs: local:1/x.raw\nlxc.idmap: u 0 100000 33\nlxc.idmap: g 0 100000 65536\n",
    "rootfs: local:1/x.raw\nunprivileged: 1\nlxc.idmap: b 0 100000 65536\n",
    "unprivileged: 1\n",
];

/// A world as it was generated, for the report of a failure.
#[derive(Debug, Clone)]
pub(crate) struct Scenario {
    pub(crate) config: Value,
    guests: Vec<GuestSeed>,
    sources: Vec<SourceSeed>,
    moved: bool,
    verify: bool,
    /// What stands at `a.b` of the first volume: a pair of somebody else, or half of one.
    pair: (bool, bool),
    /// The order in which keys are first looked at.
    pub(crate) order: Vec<usize>,
}

#[derive(Debug, Clone)]
struct GuestSeed {
    presence: Option<&'static str>,
    conf: String,
    running: bool,
    /// Whether it runs with the default map, whatever its conf says by now.
    other_map: bool,
    flock: bool,
    /// What the ledger says pctd wrote, by index of the key.
    written: Vec<(u8, &'static str)>,
}

#[derive(Debug, Clone)]
enum SourceSeed {
    Missing,
    File,
    Directory { root: (HostIds, u32), entries: Vec<EntryStat> },
}

fn any_ids() -> impl Strategy<Value = HostIds> {
    let ids =
        [(0, 0), (100_000, 100_000), (100_033, 100_033), (200_000, 200_000), (65_534, 65_534)];
    select(ids.map(|(uid, gid)| HostIds::new(uid, gid)).to_vec())
}

fn any_entry() -> impl Strategy<Value = EntryStat> {
    let kinds = vec![EntryKind::Directory, EntryKind::File, EntryKind::Symlink, EntryKind::Special];
    let modes = vec![0o755, 0o644, 0o4755, 0o600, 0o2775];
    (select(kinds), any_ids(), select(modes)).prop_map(|(kind, ids, mode)| EntryStat {
        kind,
        ids,
        mode,
    })
}

fn any_source() -> impl Strategy<Value = SourceSeed> {
    let root = (any_ids(), select(vec![0o755, 0o700, 0o775, 0o2775]));
    let entries = prop::collection::vec(any_entry(), 0..4);
    prop_oneof![
        1 => Just(SourceSeed::Missing),
        1 => Just(SourceSeed::File),
        6 => (root, entries).prop_map(|(root, entries)| SourceSeed::Directory { root, entries }),
    ]
}

fn any_conf() -> impl Strategy<Value = String> {
    let mount = || select(MOUNTS.to_vec());
    // Keys are few, so that the same one is met in force, pending and in the ledger.
    let mounts = prop::collection::btree_map(0u8..5, mount(), 0..4);
    let pending = prop::collection::btree_map(0u8..5, mount(), 0..2);
    let deletes = option::weighted(0.15, select(vec!["mp0", "mp1 swap", "cores"]));
    let others = prop::collection::vec(select(OTHER_LINES.to_vec()), 0..3);
    let pending_others = option::weighted(0.2, select(vec!["cores: 2", "features: fuse=1"]));
    let state = option::weighted(
        0.15,
        select(vec!["lock: backup", "lock: create", "protection: 1", "template: 1"]),
    );
    let base = select(BASES.to_vec());
    let parts = (base, state, others, mounts, pending, deletes, pending_others, any::<bool>());
    parts.prop_map(|(base, state, others, mounts, pending, deletes, pending_others, snapshot)| {
        let mut text = base.to_owned();
        let mounts = mounts.into_iter().map(|(index, value)| format!("mp{index}: {value}"));
        let lines = state.into_iter().chain(others).map(str::to_owned).chain(mounts);
        for line in lines {
            text = text + &line + "\n";
        }
        let pending = pending.into_iter().map(|(index, value)| format!("mp{index}: {value}"));
        let deletes = deletes.map(|names| format!("delete: {names}"));
        let pending: Vec<String> =
            pending.chain(deletes).chain(pending_others.map(str::to_owned)).collect();
        if !pending.is_empty() {
            text = text + "[pve:pending]\n" + &pending.join("\n") + "\n";
        }
        if snapshot {
            text += "[before]\nmp0: /tank/a,mp=/data\nmp9: /srv/then,mp=/then\nsnaptime: 1\n";
        }
        text
    })
}

fn any_guest() -> impl Strategy<Value = GuestSeed> {
    let presence = option::weighted(0.15, select(vec!["absent", "vm", "on_node", "unknown"]));
    let written = prop::collection::vec((0u8..5, select(MOUNTS.to_vec())), 0..4);
    // Half of the time pctd wrote what stands there, else the ledger would seldom matter.
    let true_ledger = prop::collection::vec(0u8..5, 0..4);
    let flock = prop::bool::weighted(0.1);
    let parts = (
        presence,
        any_conf(),
        any::<bool>(),
        prop::bool::weighted(0.2),
        flock,
        written,
        true_ledger,
    );
    parts.prop_map(|(presence, conf, running, other_map, flock, mut written, true_ledger)| {
        for index in true_ledger {
            let prefix = format!("mp{index}: ");
            let current = conf.split("[before]").next().unwrap_or_default();
            let values = current.lines().filter_map(|line| line.strip_prefix(&prefix));
            let known = values.filter_map(|v| MOUNTS.into_iter().find(|mount| *mount == v));
            written.extend(known.map(|value| (index, value)));
        }
        GuestSeed { presence, conf, running, other_map, flock, written }
    })
}

fn any_mount(target: &'static str) -> impl Strategy<Value = Value> {
    let options = (
        option::of(any::<bool>()),
        option::of(select(vec![json!(["nodev"]), json!(["noatime", "nosuid"])])),
        prop::bool::weighted(0.3),
        option::weighted(0.3, select(vec!["none", "passthrough", "0 5000 65536"])),
    );
    prop_oneof![
        2 => Just(json!(target)),
        1 => options.prop_map(move |(read_only, mount_options, adopt, idmap)| {
            let mut mount = json!({"path": target, "adopt": adopt});
            if let Some(read_only) = read_only {
                mount["read_only"] = json!(read_only);
            }
            if let Some(options) = mount_options {
                mount["mount_options"] = options;
            }
            if let Some(idmap) = idmap {
                mount["idmap"] = json!(idmap);
            }
            mount
        }),
    ]
}

fn any_volume(path: &'static str, target: &'static str) -> impl Strategy<Value = Value> {
    let owners = vec![
        "container_root",
        "container_root",
        "container:33",
        "container:70000:1",
        "keep",
        "nobody:nogroup",
        "alice",
        "0:0",
    ];
    let enforce = option::of(select(vec!["adopt", "once", "always"]));
    let modes =
        option::of(select(vec![("0775", "0664"), ("u=rwX,g=rX", "u=rw"), ("2770", "0660")]));
    let mounts = prop::collection::btree_map(
        select(CTIDS.map(|id| id.to_string()).to_vec()),
        any_mount(target),
        0..4,
    );
    let flags = (prop::bool::weighted(0.8), prop::bool::weighted(0.8));
    let decider = option::weighted(0.2, any::<Index>());
    let disk_ids = vec![
        json!("passthrough"),
        json!("0 100000 65536"),
        json!(["u 0 100000 65536", "g 0 7000 65536"]),
        json!("0 5000 100"),
        json!("owner"),
        json!("container:"),
    ];
    let disk_ids = option::weighted(0.4, select(disk_ids));
    let groups = vec!["nogroup", "110000", "100033", "container:33", "container:70000", "gone"];
    let group = option::weighted(0.3, select(groups));
    let domains = prop::collection::btree_set(select(vec!["a.b", "c.d"]), 0..3);
    let parts = (
        option::weighted(0.9, select(owners)),
        enforce,
        modes,
        mounts,
        flags,
        (decider, disk_ids, group),
        prop_oneof![2 => Just(std::collections::BTreeSet::new()), 1 => domains],
        // One that LXC makes may not lie above another.
        prop::bool::weighted(if target == "/data" { 0.0 } else { 0.3 }),
    );
    parts.prop_map(
        move |(owner, enforce, modes, mounts, (create, recurse), ids, domains, by_lxc)| {
            let (decider, disk_ids, group) = ids;
            let mut volume = json!({"host_path": path, "create": create, "recurse": recurse});
            let of_container = owner.is_some_and(|owner| owner.starts_with("container"));
            let deciders: Vec<&String> = mounts.keys().collect();
            if let Some(at) = decider.filter(|_| of_container && !deciders.is_empty()) {
                volume["owner_ctid"] = json!(at.get(&deciders));
            }
            match (disk_ids, mounts.keys().next_back()) {
                (Some(ids), Some(ctid)) if ids == "container:" => {
                    volume["disk_ids"] = json!(format!("container:{ctid}"));
                }
                (Some(ids), _) if ids != "container:" => volume["disk_ids"] = ids,
                _ => {}
            }
            let certificates = domains.into_iter().map(|domain| json!({"domain": domain}));
            volume["certificates"] = certificates.collect();
            if by_lxc {
                volume["mechanism"] = json!("lxc");
            }
            volume["mounts"] = json!(mounts);
            if let Some(owner) = owner {
                volume["owner"] = json!(owner);
            }
            if let Some(group) = group {
                volume["group"] = json!(group);
            }
            if let Some(enforce) = enforce {
                volume["enforce"] = json!(enforce);
            }
            if let Some((dir, file)) = modes {
                volume["dir_mode"] = json!(dir);
                volume["file_mode"] = json!(file);
                volume["file_modes"] = json!({"*.key": "0640"});
            }
            volume
        },
    )
}

fn any_config() -> impl Strategy<Value = Value> {
    let settings = (
        prop::bool::weighted(0.3),
        option::weighted(0.3, Just("never")),
        option::weighted(0.2, Just(2)),
        option::weighted(0.1, Just("explicit")),
        option::weighted(0.3, Just("nobody")),
        any::<bool>(),
    );
    let settings = settings.prop_map(|(seed, restart, above, source, fallback, prune)| {
        let mut settings = json!({"seed_defaults": seed, "prune": prune});
        if let Some(word) = restart {
            settings["restart"] = json!(word);
        }
        if let Some(number) = above {
            settings["confirm_above"] = json!(number);
        }
        if let Some(word) = source {
            settings["idmap_source"] = json!(word);
        }
        if let Some(word) = fallback {
            settings["idmap_fallback"] = json!(word);
        }
        settings
    });
    let map = |ranges: &[(u32, u32, u32)]| -> Value {
        let of = |kind: &'static str| {
            ranges.iter().map(move |(container, host, size)| {
                json!({"type": kind, "container_id": container, "host_id": host, "size": size})
            })
        };
        of("uid").chain(of("gid")).collect()
    };
    let maps = option::weighted(
        0.5,
        select(vec![
            map(&[(0, 100_000, 65_536)]),
            map(&[(0, 100_000, 1000), (1000, 1000, 1), (1001, 101_001, 64_535)]),
            map(&[(0, 100_000, 100_000)]),
            map(&[(0, 200_000, 65_536)]),
        ]),
    );
    let options =
        option::weighted(0.4, Just(json!(["lxc.cap.drop: sys_admin", "lxc.cap.keep: x"])));
    let raw = (maps, options, any::<bool>());
    let [a, b, c] = VOLUMES.map(|(_, path, target)| any_volume(path, target).boxed());
    let source = option::of(select(vec![
        json!({"template": "local:vztmpl/x", "memory_mb": 256}),
        json!({"template": "local:vztmpl/x", "start_at_boot": true, "boot_order": 3}),
        json!({"clone_from_ctid": "102", "name": "copy",
            "network_config": {"bridge": "vmbr0", "ip": "10.0.0.5/24", "gw": "10.0.0.1"}}),
    ]));
    let declared = option::weighted(
        0.4,
        (
            select(CTIDS.to_vec()),
            option::weighted(0.6, any::<bool>()),
            source,
            raw,
            prop::bool::weighted(0.5),
        ),
    );
    (settings, option::of(a), option::of(b), c, declared).prop_map(
        |(settings, a, b, c, declared)| {
            let mut config = json!({"settings": settings, "shared_volumes": {"c": c}});
            if let Some(a) = a {
                config["shared_volumes"]["a"] = a;
            }
            if let Some(b) = b {
                config["shared_volumes"]["b"] = b;
            }
            if let Some((id, unprivileged, source, (map, options, manage), convert)) = declared {
                // 102 would be a clone of itself.
                let mut definition = source.filter(|_| id != 102).unwrap_or_else(|| json!({}));
                if let Some(unprivileged) = unprivileged {
                    definition["unprivileged"] = json!(unprivileged);
                }
                if let Some(map) = map.filter(|_| unprivileged != Some(false)) {
                    definition["id_maps"] = map;
                }
                if let Some(options) = options {
                    definition["lxc_options"] = options;
                    if manage {
                        config["settings"]["manage"] = json!(["lxc_options"]);
                    }
                }
                if convert {
                    definition["convert"] = json!({"backup_storage": "local"});
                }
                config["lxc_configs"] = json!({id.to_string(): definition});
            }
            config
        },
    )
}

pub(crate) fn any_scenario() -> impl Strategy<Value = Scenario> {
    let guests = prop::collection::vec(any_guest(), CTIDS.len());
    let sources = prop::collection::vec(any_source(), VOLUMES.len());
    let order = prop::collection::vec(0usize..16, 0..12);
    let half = || prop::bool::weighted(0.3);
    let flags =
        (prop::bool::weighted(0.1), any::<bool>(), (half(), half()), prop::bool::weighted(0.8));
    (any_config(), guests, sources, flags, order).prop_map(
        |(config, mut guests, sources, (moved, verify, pair, convertible), order)| {
            for (id, guest) in CTIDS.iter().zip(&mut guests).filter(|_| convertible) {
                let definition = &config["lxc_configs"][id.to_string()];
                if let (Some(_), Some(wanted)) =
                    (definition.get("convert"), definition["unprivileged"].as_bool())
                {
                    guest.presence = None;
                    guest.conf = convertible_conf(&guest.conf, !wanted);
                }
            }
            Scenario { config, guests, sources, moved, verify, pair, order }
        },
    )
}

/// Returns a conf with this privilege that loses nothing in a backup; few are so by chance.
fn convertible_conf(conf: &str, unprivileged: bool) -> String {
    let current = conf.split('[').next().unwrap_or_default();
    let is_kept = |line: &&str| {
        let lost = ["unprivileged", "lxc.idmap", "local:1/v", "/dev/", "no mount", "protection"];
        !lost.iter().any(|lost| line.contains(lost)) && !line.starts_with("template")
    };
    let mut lines: Vec<&str> = current.lines().filter(is_kept).collect();
    if unprivileged {
        lines.push("unprivileged: 1");
    }
    lines.join("\n") + "\n"
}

pub(crate) fn any_crash() -> impl Strategy<Value = Crash> {
    select(vec![Crash::BeforeStep, Crash::Midway, Crash::AfterStep])
}

/// Reads a configuration, which has to be valid.
pub(crate) fn desired_of(text: &str) -> Desired {
    let files = [("config.json".to_owned(), text.as_bytes().to_vec())];
    load(&files, Strictness::Lenient).map_err(|error| format!("{error}\n{text}")).unwrap().desired
}

impl Scenario {
    pub(crate) fn node(&self) -> Node {
        let mut node = Node::new(Arc::new(desired_of(&self.config.to_string())));
        node.verify = self.verify;
        for (id, seed) in CTIDS.into_iter().zip(&self.guests) {
            let ctid = ctid(id);
            let guest = match seed.presence {
                None => Guest::Here(Box::new(seed.container(id))),
                Some("absent") => Guest::Away(Presence::Absent),
                Some("vm") => Guest::Away(Presence::Vm),
                Some("on_node") => Guest::Away(Presence::OnNode("pve2".to_owned())),
                Some(_) => Guest::Away(Presence::Unknown("its conf is not there".to_owned())),
            };
            node.guests.insert(ctid, guest);
            for (index, value) in &seed.written {
                let (key, value) = (pctd_core::ids::MpKey::new(*index), (*value).to_owned());
                node.ledger.enter(LedgerEntry::MountWritten { ctid, key, value });
            }
        }
        for ((name, _, _), seed) in VOLUMES.into_iter().zip(&self.sources) {
            node.sources.insert(volume(name), seed.source());
        }
        let theirs = |there: bool| there.then(|| "theirs".to_owned());
        let found = (theirs(self.pair.0), theirs(self.pair.1));
        node.pairs.insert((volume("a"), "a.b".to_owned()), found);
        if self.moved {
            let declaration = "another".to_owned();
            let file_system = "zfs:9".to_owned();
            let record = VolumeRecord {
                declaration,
                owner: None,
                file_system,
                assumed: false,
                maps: String::new(),
            };
            node.ledger.enter(LedgerEntry::VolumeDone { volume: volume("a"), record });
        }
        node
    }
}

impl GuestSeed {
    fn container(&self, id: u32) -> ObservedContainer {
        let conf = Conf::parse(ctid(id), self.conf.as_bytes()).unwrap();
        let in_force = self.other_map.then(IdMap::default_unprivileged);
        let running = if self.running { running(&conf, in_force) } else { Running::No };
        ObservedContainer { conf, flock_held: self.flock, running }
    }
}

impl SourceSeed {
    fn source(&self) -> Source {
        match self {
            Self::Missing => Source::Missing,
            Self::File => Source::File,
            Self::Directory { root: (ids, mode), entries } => {
                let root = EntryStat { kind: EntryKind::Directory, ids: *ids, mode: *mode };
                let names = ["a.key", "b", "c.pem", "d"];
                Source::Directory {
                    root,
                    entries: names.into_iter().zip(entries.clone()).collect(),
                }
            }
        }
    }
}
