//! Cases of raw lines: id maps, `lxc_options`, and what becomes of them.

use pctd_core::idmap::IdMap;
use pctd_core::ledger::{LedgerEntry, Making, Memory};
use pctd_core::observed::MapConsent::{Any, RootKept};
use pctd_core::observed::Removal;

use crate::cases::{Case, case};
use crate::world::{PRIVILEGED, SHIFTED, UNPRIVILEGED, World, ctid};

const HOLE: &str = r#""id_maps": [
    {"type": "uid", "container_id": 0, "host_id": 100000, "size": 1000},
    {"type": "uid", "container_id": 1000, "host_id": 1000, "size": 1},
    {"type": "uid", "container_id": 1001, "host_id": 101001, "size": 64535},
    {"type": "gid", "container_id": 0, "host_id": 100000, "size": 65536}]"#;

/// The same as Proxmox's default, and more ids behind it.
const LONGER: &str = r#""id_maps": [
    {"type": "uid", "container_id": 0, "host_id": 100000, "size": 100000},
    {"type": "gid", "container_id": 0, "host_id": 100000, "size": 100000}]"#;

const OTHER: &str = r#""id_maps": [
    {"type": "uid", "container_id": 0, "host_id": 200000, "size": 65536},
    {"type": "gid", "container_id": 0, "host_id": 200000, "size": 65536}]"#;

const HOLE_LINES: [&str; 4] = [
    "lxc.idmap: u 0 100000 1000",
    "lxc.idmap: u 1000 1000 1",
    "lxc.idmap: u 1001 101001 64535",
    "lxc.idmap: g 0 100000 65536",
];

const LONGER_LINES: [&str; 2] = ["lxc.idmap: u 0 100000 100000", "lxc.idmap: g 0 100000 100000"];

const OPTION: &str = r#""lxc_options": ["lxc.cap.drop = sys_module"]"#;

/// What is planned for the hole.
const WRITE_HOLE: &str = "100 edit lines: +lxc.idmap: u 0 100000 1000 +lxc.idmap: u 1000 1000 1 +lxc.idmap: u 1001 101001 64535 +lxc.idmap: g 0 100000 65536";

fn defined(settings: &str, fields: &str) -> World {
    let text = r#"{"settings": {"seed_defaults": false SETTINGS}, "shared_volumes": {},
        "lxc_configs": {"100": {FIELDS}}}"#;
    World::new(&text.replace("SETTINGS", settings).replace("FIELDS", fields))
}

/// A clone of 900, which mounts a volume as its user 1000.
fn cloned(fields: &str) -> World {
    let text = r#"{"settings": {"seed_defaults": false}, "shared_volumes": {"data": {
            "host_path": "/tank/data", "owner": "container:1000", "mounts": {"100": "/data"}}},
        "lxc_configs": {"100": {"clone_from_ctid": "900", FIELDS}}}"#;
    World::new(&text.replace("FIELDS", fields))
}

fn conf(lines: &[&str]) -> String {
    format!("{UNPRIVILEGED}{}\n", lines.join("\n"))
}

fn making(world: World) -> World {
    world.entered(LedgerEntry::MakeIntended { ctid: ctid(100), how: Making::Clone })
}

pub(crate) fn all() -> Vec<Case> {
    let mut cases = maps();
    cases.extend(made());
    cases.extend(options());
    cases.extend(restarts());
    cases.extend(leftovers());
    cases.extend(entries());
    cases
}

fn maps() -> Vec<Case> {
    let hole = || defined("", HOLE);
    let longer = || defined("", LONGER);
    vec![
        case("a map that is there is left", hole().here(100, &conf(&HOLE_LINES)), &[]),
        case(
            "the default map needs no lines, and lines that say the same are left",
            defined("", &LONGER.replace("100000}", "65536}")).here(100, UNPRIVILEGED),
            &[],
        ),
        case(
            "lines in another order and cut elsewhere say the same",
            hole().here(
                100,
                &conf(&[
                    "lxc.idmap = g\t0 100000 65536",
                    HOLE_LINES[2],
                    HOLE_LINES[1],
                    "lxc.idmap: u 0 100000 500",
                    "lxc.idmap: u 500 100500 500",
                ]),
            ),
            &[],
        ),
        case(
            "a map that gives ids to those that had none is written",
            longer().here(100, UNPRIVILEGED),
            &["100 edit lines: +lxc.idmap: u 0 100000 100000 +lxc.idmap: g 0 100000 100000"],
        ),
        case(
            "in a running container it waits for a restart",
            longer().here(100, UNPRIVILEGED).running_with(100, IdMap::default_unprivileged()),
            &[
                "100 edit lines: +lxc.idmap: u 0 100000 100000 +lxc.idmap: g 0 100000 100000 after restart",
            ],
        ),
        case(
            "files do not move with their ids",
            hole().here(100, UNPRIVILEGED),
            &["100 ! IdmapChange"],
        ),
        case(
            "unless an admin says so",
            hole().here(100, UNPRIVILEGED).consent(100, RootKept),
            &[WRITE_HOLE],
        ),
        case(
            "which an earlier request for something else does not",
            hole().here(100, UNPRIVILEGED).named(100),
            &["100 ! IdmapChange"],
        ),
        case(
            "a name is not enough where root would own nothing",
            defined("", OTHER).here(100, UNPRIVILEGED).consent(100, RootKept),
            &["100 ! IdmapChange"],
        ),
        case(
            "which takes a yes besides",
            defined("", OTHER).here(100, UNPRIVILEGED).consent(100, Any),
            &["100 edit lines: +lxc.idmap: u 0 200000 65536 +lxc.idmap: g 0 200000 65536"],
        ),
        case(
            "the files of a running container are those of its map in force",
            hole()
                .here(100, &conf(&LONGER_LINES))
                .running_with(
                    100,
                    pctd_core::conf::Conf::parse(ctid(100), conf(&HOLE_LINES).as_bytes())
                        .unwrap()
                        .effective_idmap()
                        .unwrap(),
                )
                .wrote_lines(100, &LONGER_LINES),
            &[
                "100 edit lines: -lxc.idmap: u 0 100000 100000 -lxc.idmap: g 0 100000 100000 +lxc.idmap: u 0 100000 1000 +lxc.idmap: u 1000 1000 1 +lxc.idmap: u 1001 101001 64535 +lxc.idmap: g 0 100000 65536 after restart",
            ],
        ),
        case(
            "lines of others are not replaced",
            longer()
                .here(100, &conf(&["lxc.idmap: u 0 100000 65536", "lxc.idmap: g 0 100000 65536"])),
            &["100 ! IdmapChange"],
        ),
        case(
            "nor because of a name",
            longer()
                .here(100, &conf(&["lxc.idmap: u 0 100000 65536", "lxc.idmap: g 0 100000 65536"]))
                .consent(100, RootKept),
            &["100 ! IdmapChange"],
        ),
        case(
            "but with a yes besides",
            longer()
                .here(100, &conf(&["lxc.idmap: u 0 100000 65536", LONGER_LINES[1]]))
                .consent(100, Any),
            &["100 edit lines: -lxc.idmap: u 0 100000 65536 +lxc.idmap: u 0 100000 100000"],
        ),
        case(
            "those of pctd are",
            longer()
                .here(100, &conf(&["lxc.idmap: u 0 100000 65536", LONGER_LINES[1]]))
                .wrote_lines(100, &["lxc.idmap: u 0 100000 65536"]),
            &["100 edit lines: -lxc.idmap: u 0 100000 65536 +lxc.idmap: u 0 100000 100000"],
        ),
        case(
            "a map that cannot be read is an admin's to replace",
            longer().here(100, &conf(&["lxc.idmap: b 0 100000 65536"])),
            &["100 ! IdmapNotReady", "100 ! IdmapChange"],
        ),
        case(
            "whom a name does not make",
            longer().here(100, &conf(&["lxc.idmap: b 0 100000 65536"])).consent(100, RootKept),
            &["100 ! IdmapNotReady", "100 ! IdmapChange"],
        ),
        case(
            "and is replaced when an admin says so",
            longer().here(100, &conf(&["lxc.idmap: b 0 100000 65536"])).consent(100, Any),
            &[
                "100 edit lines: -lxc.idmap: b 0 100000 65536 +lxc.idmap: u 0 100000 100000 +lxc.idmap: g 0 100000 100000",
                "100 ! IdmapNotReady",
            ],
        ),
        case(
            "ids that root may not map keep a container from starting",
            longer().here(100, UNPRIVILEGED).sub_ids("root:100000:65536\n"),
            &["100 ! SubIdsMissing"],
        ),
        case(
            "also when an admin means it",
            hole().here(100, UNPRIVILEGED).consent(100, Any).sub_ids("root:100000:65536\n"),
            &["100 ! SubIdsMissing"],
        ),
        case(
            "with the line for it in both files it is written",
            hole()
                .here(100, UNPRIVILEGED)
                .consent(100, RootKept)
                .sub_ids("root:100000:65536\nroot:1000:1\n"),
            &[WRITE_HOLE],
        ),
        case(
            "a privileged container has no map to be changed",
            longer().here(100, PRIVILEGED),
            &["100 ! UnprivilegedMismatch"],
        ),
        case(
            "a locked conf is not edited",
            longer().here(100, &conf(&["lock: backup"])),
            &["100 ! Locked"],
        ),
        case(
            "nor a protected one",
            longer().here(100, &conf(&["protection: 1"])),
            &["100 ! Protected"],
        ),
        case(
            "nor one that a task holds",
            longer().here(100, UNPRIVILEGED).flock(100),
            &["100 ! IdmapNotReady", "100 ! Busy"],
        ),
    ]
}

fn made() -> Vec<Case> {
    let finish_hole = "100 finish lines: +lxc.idmap: u 0 100000 1000 +lxc.idmap: u 1000 1000 1 +lxc.idmap: u 1001 101001 64535 +lxc.idmap: g 0 100000 65536";
    let template = format!(r#""template": "local:vztmpl/x", {HOLE}, {OPTION}"#);
    vec![
        case(
            "the plan of a container that is made ends with its raw lines",
            defined("", &template),
            &[
                "100 create from local:vztmpl/x:",
                "100 finish lines: +lxc.idmap: u 0 100000 1000 +lxc.idmap: u 1000 1000 1 +lxc.idmap: u 1001 101001 64535 +lxc.idmap: g 0 100000 65536 +lxc.cap.drop: sys_module",
            ],
        ),
        case(
            "none is made that its root could not own",
            defined("", &format!(r#""template": "local:vztmpl/x", {OTHER}"#)),
            &["100 ! IdmapChange"],
        ),
        case(
            "nor one that could not start",
            defined("", &template).sub_ids("root:100000:65536\n"),
            &["100 ! SubIdsMissing"],
        ),
        case(
            "a clone has its source's files",
            cloned(OTHER).here(900, SHIFTED),
            &["100 clone 900"],
        ),
        case(
            "and its source's lines, which are not its own",
            cloned(&format!("{HOLE}, {OPTION}")).here(900, &conf(&LONGER_LINES)),
            &[
                "100 clone 900",
                "100 finish lines: -lxc.idmap: u 0 100000 100000 -lxc.idmap: g 0 100000 100000 +lxc.idmap: u 0 100000 1000 +lxc.idmap: u 1000 1000 1 +lxc.idmap: u 1001 101001 64535 +lxc.idmap: g 0 100000 65536 +lxc.cap.drop: sys_module",
            ],
        ),
        case(
            "one that was just made gets its map, and its volume waits for that",
            making(cloned(HOLE).here(900, UNPRIVILEGED).here(100, UNPRIVILEGED)),
            &["data ! IdmapNotReady", finish_hole, "100 waits for data"],
        ),
        case(
            "lines of its source go with that",
            making(cloned(HOLE).here(900, UNPRIVILEGED).here(100, &conf(&LONGER_LINES))),
            &[
                "data ! IdmapNotReady",
                "100 finish lines: -lxc.idmap: u 0 100000 100000 -lxc.idmap: g 0 100000 100000 +lxc.idmap: u 0 100000 1000 +lxc.idmap: u 1000 1000 1 +lxc.idmap: u 1001 101001 64535 +lxc.idmap: g 0 100000 65536",
                "100 waits for data",
            ],
        ),
        case(
            "what it is to have besides comes first",
            making(
                cloned(&format!(r#""cores": 2, {OPTION}"#))
                    .here(900, UNPRIVILEGED)
                    .here(100, UNPRIVILEGED),
            ),
            &[
                "100 finish: cores=2",
                "100 finish lines: +lxc.cap.drop: sys_module",
                "100 +mp0: /tank/data,mp=/data",
            ],
        ),
        case(
            "one that somebody started meanwhile is one like any other",
            making(cloned(HOLE).here(900, UNPRIVILEGED).here(100, UNPRIVILEGED).running(100)),
            &["100 +mp0: /tank/data,mp=/data now", "100 ! IdmapChange"],
        ),
    ]
}

fn options() -> Vec<Case> {
    let managed = || defined(r#", "manage": ["lxc_options"]"#, OPTION);
    vec![
        case(
            "raw lines that are not managed are not written",
            defined("", OPTION).here(100, UNPRIVILEGED),
            &[],
        ),
        case(
            "those that are managed are, where they are missing",
            managed().here(100, &conf(&["lxc.cap.drop: mknod"])),
            &["100 edit lines: +lxc.cap.drop: sys_module"],
        ),
        case(
            "in whatever form they are there",
            managed().here(100, &conf(&["lxc.cap.drop=sys_module", "lxc.cap.drop: mknod"])),
            &[],
        ),
    ]
}

fn restarts() -> Vec<Case> {
    let there = || {
        defined(r#", "manage": ["lxc_options"]"#, OPTION)
            .here(100, &conf(&["lxc.cap.drop: sys_module"]))
            .wrote_lines(100, &["lxc.cap.drop: sys_module"])
    };
    let waits = |world: World| world.edited(100, 1, &["lxc.cap.drop: sys_module"], &[]);
    let reboot = "100 reboot for [] `lxc.cap.drop: sys_module`, also []";
    vec![
        case("what only a start reads waits for one", waits(there()).running(100), &[reboot]),
        case(
            "a line that went waits as well",
            there().edited(100, 1, &[], &["lxc.cap.drop: old"]).running(100),
            &["100 reboot for [] `lxc.cap.drop: old`, also []"],
        ),
        case(
            "one that was started since has it",
            there().edited(100, 9, &["lxc.cap.drop: sys_module"], &[]).running(100),
            &[],
        ),
        case(
            "also one that was started after the host was",
            waits(there()).running(100).with(|w| "another".clone_into(&mut w.snapshot.boot)),
            &[],
        ),
        case("one that does not run is not started", waits(there()), &["100 ! NotStarted"]),
        case(
            "also after the host was",
            waits(there()).with(|w| "another".clone_into(&mut w.snapshot.boot)),
            &["100 ! NotStarted"],
        ),
        case(
            "what was undone while it was stopped needs no start",
            waits(defined("", "").here(100, UNPRIVILEGED)),
            &[],
        ),
        case("but one that pctd stopped is", waits(there()).start_owed(100), &["100 start"]),
        case(
            "what somebody undid waits for nothing",
            waits(defined("", "").here(100, UNPRIVILEGED)).running(100),
            &[],
        ),
        case(
            "no restart into a map that root may not write",
            waits(there().here(100, &conf(&["lxc.cap.drop: sys_module", HOLE_LINES[1]])))
                .running(100)
                .sub_ids("root:100000:65536\n"),
            &["100 ! NeedsRestart"],
        ),
        case(
            "a restart that failed is not tried again with the same lines",
            defined(r#", "manage": ["lxc_options"]"#, OPTION)
                .here(100, UNPRIVILEGED)
                .running(100)
                .restart_failed(100),
            &["100 ! NeedsRestart"],
        ),
    ]
}

fn leftovers() -> Vec<Case> {
    let line = "lxc.cap.drop: old";
    let left = |prune: &str| {
        defined(prune, "").settled().here(100, &conf(&[line, "lxc.cap.drop: theirs", line]))
    };
    let pruned = || left(r#", "prune": true"#).wrote_lines(100, &[line]);
    let undeclared = || {
        let text = r#"{"settings": {"prune": true}, "shared_volumes": {}}"#;
        World::new(text).settled().here(100, &conf(&LONGER_LINES)).wrote_lines(100, &LONGER_LINES)
    };
    vec![
        case(
            "lines of pctd's that nobody declares go",
            pruned(),
            &["100 edit lines: -lxc.cap.drop: old -lxc.cap.drop: old"],
        ),
        case("with prune off they stay", left("").wrote_lines(100, &[line]), &[]),
        case("those of others stay", left(r#", "prune": true"#), &[]),
        case(
            "they stay while the configuration may lack a file",
            pruned().with(|w| w.snapshot.requests.removal = Removal::Unsettled),
            &["100 ! ConfigUnsettled"],
        ),
        case(
            "and after the ledger was lost",
            pruned().with(|w| w.snapshot.memory = Memory::Lost("it was".to_owned())),
            &[],
        ),
        case(
            "a map goes only where no id gets another one by that",
            undeclared(),
            &["100 ! IdmapChange"],
        ),
        case(
            "or where an admin says so",
            undeclared().consent(100, RootKept),
            &["100 edit lines: -lxc.idmap: g 0 100000 100000 -lxc.idmap: u 0 100000 100000"],
        ),
        case(
            "the default map in lines of pctd's goes",
            {
                let lines = ["lxc.idmap: u 0 100000 65536", "lxc.idmap: g 0 100000 65536"];
                let text = r#"{"settings": {"prune": true}, "shared_volumes": {}}"#;
                World::new(text).settled().here(100, &conf(&lines)).wrote_lines(100, &lines)
            },
            &["100 edit lines: -lxc.idmap: g 0 100000 65536 -lxc.idmap: u 0 100000 65536"],
        ),
    ]
}

/// One volume at /tank/data that LXC mounts at /data in 100.
fn by_lxc(settings: &str, mount: &str) -> World {
    let text = r#"{"settings": {"seed_defaults": false SETTINGS}, "shared_volumes": {"data": {
        "host_path": "/tank/data", "owner": "container_root", "mechanism": "lxc",
        "mounts": {"100": MOUNT}}}}"#;
    World::new(&text.replace("SETTINGS", settings).replace("MOUNT", mount))
}

const ENTRY: &str = "lxc.mount.entry: /tank/data data none bind,create=dir 0 0";

fn entries() -> Vec<Case> {
    let plain = || by_lxc("", r#""/data""#);
    let written =
        |world: World, lines: &[&str]| world.here(100, &conf(lines)).wrote_lines(100, lines);
    vec![
        case(
            "a mount that LXC makes is a raw line",
            plain().here(100, UNPRIVILEGED),
            &["100 edit lines: +lxc.mount.entry: /tank/data data none bind,create=dir 0 0"],
        ),
        case(
            "a running container has it after a restart, and once its volume is owned",
            plain().here(100, UNPRIVILEGED).running(100).drift("data", 3),
            &[
                "data own 100000:100000 3/10",
                "100 edit lines: +lxc.mount.entry: /tank/data data none bind,create=dir 0 0 after restart after volume",
            ],
        ),
        case("one that is there is left", written(plain(), &[ENTRY]), &[]),
        case(
            "also one of others that does the same",
            plain().here(100, &conf(&["lxc.mount.entry = /tank//data data/ none nosuid,bind 0 0"])),
            &[],
        ),
        case(
            "options are those of the mount",
            by_lxc(
                "",
                r#"{"path": "/my data", "read_only": true, "recursive": true,
                    "mount_options": ["nosuid", "noatime", "discard"]}"#,
            )
            .here(100, UNPRIVILEGED),
            &[
                "100 edit lines: +lxc.mount.entry: /tank/data my\\040data none rbind,ro,noatime,nosuid,create=dir 0 0",
            ],
        ),
        case(
            "a line of pctd's is changed, and one of others is not",
            written(by_lxc("", r#"{"path": "/data", "read_only": true}"#), &[ENTRY]),
            &[
                "100 edit lines: -lxc.mount.entry: /tank/data data none bind,create=dir 0 0 +lxc.mount.entry: /tank/data data none bind,ro,create=dir 0 0",
            ],
        ),
        case(
            "a line of others that does something else is left",
            plain().here(100, &conf(&["lxc.mount.entry: /srv/x data none bind 0 0"])),
            &["100 ! TargetTaken"],
        ),
        case(
            "unless it is to be taken over",
            by_lxc("", r#"{"path": "/data", "adopt": true}"#)
                .here(100, &conf(&["lxc.mount.entry: /srv/x data none bind 0 0"])),
            &[
                "100 edit lines: -lxc.mount.entry: /srv/x data none bind 0 0 +lxc.mount.entry: /tank/data data none bind,create=dir 0 0",
            ],
        ),
        case(
            "a mount point at the target is in the way",
            plain().here(100, &conf(&["mp3: /tank/data,mp=/data"])),
            &["100 ! TargetTaken"],
        ),
        case(
            "one of pctd's goes first, with prune",
            by_lxc(r#", "prune": true"#, r#""/data""#)
                .settled()
                .here(100, &conf(&["mp3: /tank/data,mp=/data"]))
                .wrote(100, "mp3", "/tank/data,mp=/data"),
            &["100 -mp3: /tank/data,mp=/data", "100 ! TargetTaken"],
        ),
        case(
            "and one that goes with the next stop is not in the way",
            by_lxc(r#", "prune": true"#, r#""/data""#)
                .settled()
                .here(100, &conf(&["mp3: /tank/data,mp=/data\n[pve:pending]\ndelete: mp3"]))
                .wrote(100, "mp3", "/tank/data,mp=/data")
                .running(100),
            &[
                "100 edit lines: +lxc.mount.entry: /tank/data data none bind,create=dir 0 0 after restart",
            ],
        ),
        case(
            "nor does pct mount where LXC does",
            World::one_mount().here(100, &conf(&[ENTRY])),
            &["100 ! TargetTaken"],
        ),
        case(
            "a line that nobody declares goes with prune",
            written(defined(r#", "prune": true"#, ""), &[ENTRY]).settled(),
            &["100 edit lines: -lxc.mount.entry: /tank/data data none bind,create=dir 0 0"],
        ),
        case(
            "a clone does not keep what pctd mounts in its source",
            making(cloned(r#""cores": 2"#))
                .here(900, &conf(&["lxc.mount.entry: /srv/theirs x none bind 0 0", ENTRY]))
                .wrote_lines(900, &[ENTRY])
                .here(
                    100,
                    &conf(&["cores: 2", "lxc.mount.entry: /srv/theirs x none bind 0 0", ENTRY]),
                ),
            &[
                "100 finish lines: -lxc.mount.entry: /tank/data data none bind,create=dir 0 0",
                "100 ! TargetTaken",
            ],
        ),
    ]
}
