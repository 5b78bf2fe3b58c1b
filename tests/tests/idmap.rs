//! Id maps that are late, odd or at odds: an owner is right or not touched, never wrong.

#![expect(clippy::unwrap_used, reason = "what fails in a helper ends the test")]

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pctd_sandbox::Timings;
use pctd_tests::daemon::eventually;
use pctd_tests::disk::Disk;
use pctd_tests::world::{UNPRIVILEGED, World, conf, ctid, holds};
use serde_json::Value;

/// How soon after a map is there its owner has to be.
const SOON: Duration = Duration::from_secs(2);

/// Nothing but events may wake a daemon with these settings within a test.
const EVENTS_ONLY: &str = r#""seed_defaults": false, "poll_interval": "1h",
    "retry_initial": "1h", "retry_max": "1h", "hold_interval": "1h""#;

fn world() -> Option<World> {
    World::new(env!("CARGO_BIN_EXE_pctd-tests"))
}

/// Looks at the owner of a path every millisecond, and keeps every one it saw, in order.
struct Lookout {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<String>>,
}

impl Lookout {
    fn over(world: &World, path: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (told, at) = (Arc::clone(&stop), world.host(path));
        let thread = std::thread::spawn(move || {
            use std::os::unix::fs::MetadataExt as _;
            let mut seen: Vec<String> = Vec::new();
            while !told.load(Ordering::Relaxed) {
                if let Ok(stat) = fs::symlink_metadata(&at) {
                    let owner = format!("{}:{}", stat.uid(), stat.gid());
                    if seen.last() != Some(&owner) {
                        seen.push(owner);
                    }
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            seen
        });
        Self { stop, thread }
    }

    fn seen(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// A daemon's world with a volume of container 960, whose files are root's.
fn late_volume(world: &World, settings: &str) {
    world.dir("/tank/late", 0, 0o755);
    world.file("/tank/late/file", 0, 0o644);
    world.config(&format!(
        r#"{{"settings": {{{settings}}}, "shared_volumes": {{"late": {{
            "host_path": "/tank/late", "owner": "container_root", "mounts": {{"960": "/data"}}}}}}}}"#
    ));
}

#[test]
fn while_a_container_is_created_its_volume_has_no_wrong_owner_and_then_the_right_one() {
    let timings = Timings { create_unpack_ms: 250, create_setup_ms: 250, ..Timings::default() };
    let program = env!("CARGO_BIN_EXE_pctd-tests");
    let Some(world) = World::with_timings(program, timings) else { return };
    late_volume(&world, r#""seed_defaults": false"#);
    let daemon = world.pctd.start();
    let (root, file) =
        (Lookout::over(&world, "/tank/late"), Lookout::over(&world, "/tank/late/file"));
    let mut create = Command::new(world.host("/usr/sbin/pct"))
        .args(["create", "960", "local:vztmpl/tiny.tar.gz", "--rootfs", "local:0.1"])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut stages = Vec::new();
    let mut owned_at_stage = None;
    let begun = Instant::now();
    while create.try_wait().unwrap().is_none() {
        assert!(begun.elapsed() < Duration::from_secs(10));
        let conf = world.conf(960);
        let stage = match (conf.contains("lock: create"), conf.contains("swap:")) {
            _ if conf.is_empty() => "empty or missing",
            (true, _) => "locked",
            (false, false) => "nearly complete",
            (false, true) => "complete",
        };
        if stages.last() != Some(&stage) {
            stages.push(stage);
        }
        if owned_at_stage.is_none() && world.owner("/tank/late").starts_with("100000:") {
            owned_at_stage = Some(stage);
        }
    }
    // The stages were there to be mistaken for a finished container, and were not.
    assert!(stages.windows(2).any(|w| w == ["locked", "nearly complete"]), "{stages:?}");
    assert!(owned_at_stage.is_none_or(|stage| stage == "complete"), "{owned_at_stage:?}");
    let ended = Instant::now();
    let is_owned = || world.owner("/tank/late") == "100000:100000 0755";
    eventually("the volume is owned", is_owned);
    assert!(ended.elapsed() < SOON, "{:?}", ended.elapsed());
    eventually("the mount is there", || world.conf(960).contains("mp0: /tank/late,mp=/data\n"));
    daemon.until_all("Converged");
    assert_eq!(root.seen(), ["0:0", "100000:100000"]);
    assert_eq!(file.seen(), ["0:0", "100000:100000"]);
}

#[test]
fn a_conf_written_late_and_in_parts_counts_only_when_it_is_whole() {
    let Some(world) = world() else { return };
    late_volume(&world, EVENTS_ONLY);
    let daemon = world.pctd.start();
    let root = Lookout::over(&world, "/tank/late");
    let is_held = |status: &Value| holds(status, "volumes", "late") == ["IdmapNotReady"];
    let late = ctid(960);
    world.node.write_conf(late, "").unwrap();
    daemon.until("an empty conf is no map", is_held);
    world.node.write_conf(late, "arch: amd64\nmemory: 512\nunprivileged: 1\n").unwrap();
    std::thread::sleep(Duration::from_millis(150));
    daemon.until("a conf without rootfs is no map", is_held);
    world.node.write_conf(late, format!("{}lock: create\n", conf(960, &[UNPRIVILEGED]))).unwrap();
    std::thread::sleep(Duration::from_millis(150));
    daemon.until("a container that is being made has no map", is_held);
    assert_eq!(world.owner("/tank/late"), "0:0 0755");
    assert_eq!(world.calls(), Vec::<String>::new());
    let broken = [UNPRIVILEGED, "lxc.idmap: u 0 100000 65536", "lxc.idmap: g 0 100000"];
    world.node.write_conf(late, conf(960, &broken)).unwrap();
    std::thread::sleep(Duration::from_millis(150));
    daemon.until("a map that cannot be read is no map", is_held);
    world.node.write_conf(late, conf(960, &[UNPRIVILEGED])).unwrap();
    let took = eventually("owned", || world.owner("/tank/late") == "100000:100000 0755");
    assert!(took < SOON, "{took:?}");
    daemon.until_all("Converged");
    assert_eq!(root.seen(), ["0:0", "100000:100000"]);
}

#[test]
fn nothing_happens_under_a_held_lock_and_its_release_is_noticed_though_no_conf_changes() {
    let Some(world) = world() else { return };
    late_volume(&world, EVENTS_ONLY);
    let daemon = world.pctd.start();
    let root = Lookout::over(&world, "/tank/late");
    let held = world.node.hold_flock(ctid(960)).unwrap();
    // Complete, but whoever made it is still at it: only the lock tells.
    world.container(960, &[UNPRIVILEGED]);
    daemon.until("the map is not ready", |status| {
        holds(status, "volumes", "late") == ["IdmapNotReady"]
    });
    std::thread::sleep(Duration::from_millis(400));
    assert_eq!(world.owner("/tank/late"), "0:0 0755");
    let before = world.conf(960);
    drop(held);
    let took = eventually("owned", || world.owner("/tank/late") == "100000:100000 0755");
    assert!(took < SOON, "{took:?}");
    daemon.until_all("Converged");
    assert_eq!(world.conf(960), format!("{before}mp0: /tank/late,mp=/data\n").sorted());
    assert_eq!(root.seen(), ["0:0", "100000:100000"]);
}

trait Sorted {
    fn sorted(self) -> String;
}

impl Sorted for String {
    /// Returns the lines of a conf without `lxc` lines in Proxmox's order.
    fn sorted(self) -> String {
        let lines: BTreeSet<&str> = self.lines().collect();
        lines.into_iter().fold(Self::new(), |text, line| text + line + "\n")
    }
}

const SHIFTED: [&str; 3] =
    [UNPRIVILEGED, "lxc.idmap: u 0 200000 65536", "lxc.idmap: g 0 200000 65536"];

fn shared(fields: &str) -> String {
    format!(
        r#""data": {{"host_path": "/tank/data", "owner": "container_root", {fields}
            "mounts": {{"900": "/data", "901": "/data"}}}}"#
    )
}

#[test]
fn containers_that_disagree_leave_the_owner_alone_until_one_is_named_to_decide() {
    let Some(world) = world() else { return };
    world.container(900, &[UNPRIVILEGED]);
    world.container(901, &SHIFTED);
    world.dir("/tank/data", 4321, 0o750);
    world.file("/tank/data/file", 4321, 0o640);
    world.volumes("", &shared(""));
    let daemon = world.pctd.start();
    let conflicts = |status: &Value| holds(status, "volumes", "data") == ["OwnerConflict"];
    // In one look: while pctd sets the mounts, the volume waits for the lock of a container at times.
    daemon.until("the conflict is seen, and who disagrees", |status| {
        let message = status["volumes"]["data"]["holds"][0]["message"].as_str();
        let parts = ["900: 100000:100000", "901: 200000:200000", "owner_ctid"];
        conflicts(status)
            && message.is_some_and(|said| parts.iter().all(|part| said.contains(part)))
    });
    let before = world.stamps_of("/tank");
    let root = Lookout::over(&world, "/tank/data");
    let begun = Instant::now();
    for round in 0.. {
        world.pct(&["set", "900", "--tags", &format!("t{round}")]);
        world.node.write_conf(ctid(901), world.conf(901)).unwrap();
        if round % 4 == 0 {
            daemon.signal(rustix::process::Signal::HUP);
            world.pctd.run(&["apply", "--yes"]);
        }
        std::thread::sleep(Duration::from_millis(20));
        if begun.elapsed() > Duration::from_secs(1) {
            break;
        }
    }
    daemon.until("the conflict stays", conflicts);
    assert_eq!(root.seen(), ["4321:4321"]);
    assert_eq!(world.stamps_of("/tank"), before);
    // Services are not kept down for it: waiting would not cure a conflict.
    assert!(world.conf(900).contains("mp0: /tank/data,mp=/data\n"));

    let root = Lookout::over(&world, "/tank/data");
    world.volumes("", &shared(r#""owner_ctid": "901","#));
    daemon.until_all("Converged");
    assert_eq!(world.owner("/tank/data/file"), "200000:200000 0640");
    let seen = root.seen();
    assert!(seen == ["4321:4321", "200000:200000"] || seen == ["200000:200000"], "{seen:?}");
}

/// A run looks at the locks before its walk and after it. At each request that it makes of the disk, a
/// lock is released in one run and taken in another.
#[test]
fn what_is_said_to_be_in_place_was_walked_whenever_a_lock_comes_or_goes() {
    let Some(world) = world() else { return };
    let Some(disk) = Disk::mount(&world.dir("/tank/late", 0, 0o755)) else { return };
    late_volume(&world, r#""seed_defaults": false"#);
    world.container(960, &[UNPRIVILEGED]);
    world.apply(&[], 0);
    for (command, comes) in [("plan", false), ("plan", true), ("apply", false), ("apply", true)] {
        let ends = ends_at_each_request(&world, &disk, command, comes);
        let case = format!("{command}, the lock comes: {comes}: {ends:?}");
        // Nothing says that what differs is in place.
        let is_wrong = |end: &End| end.code == 0 && end.owner != "100000:100000 0644";
        assert!(!ends.iter().any(is_wrong), "{case}");
        // The first is under the lock all the time and the last never, or the other way round.
        let [first, .., last] = ends.as_slice() else { panic!("{case}") };
        assert_eq!((first.waits, last.waits), (comes, !comes), "{case}");
    }
}

/// How a run ended.
#[derive(Debug)]
struct End {
    code: i32,
    /// It says that it waits for the lock.
    waits: bool,
    owner: String,
}

/// Runs a command on a volume with one wrong file until the lock came, or went, at each request that
/// it makes, and once at none.
fn ends_at_each_request(world: &World, disk: &Disk, command: &str, comes: bool) -> Vec<End> {
    let mut ends = Vec::new();
    for nth in 1..1000 {
        world.file("/tank/late/file", 0, 0o644);
        let (node, lock) = (world.node.clone(), Arc::new(Mutex::new(None)));
        let hold = move || node.hold_flock(ctid(960)).unwrap();
        let slot = Arc::clone(&lock);
        if comes {
            disk.meanwhile(nth, move || *slot.lock().unwrap() = Some(hold()));
        } else {
            *lock.lock().unwrap() = Some(hold());
            disk.meanwhile(nth, move || *slot.lock().unwrap() = None);
        }
        let ran = world.pctd.run(&[command, "late"]);
        let waits = ran.stdout.contains("IdmapNotReady");
        ends.push(End { code: ran.code, waits, owner: world.owner("/tank/late/file") });
        if !disk.has_happened() {
            return ends;
        }
    }
    panic!("{command} never ends: {ends:?}")
}

#[test]
fn a_map_with_a_hole_is_looked_up_id_by_id() {
    let Some(world) = world() else { return };
    let map = [
        UNPRIVILEGED,
        "lxc.idmap: u 0 100000 1000",
        "lxc.idmap: g 0 100000 1000",
        "lxc.idmap: u 1000 1000 1",
        "lxc.idmap: g 1000 1000 1",
        "lxc.idmap: u 1001 101001 64535",
        "lxc.idmap: g 1001 101001 64535",
    ];
    world.container(100, &map);
    // Whose each is inside: nobody's (changed), 1000, 0, 999, nobody's (the hole), 1001, 65535, ...
    let files = [
        (0, 1000),
        (1000, 1000),
        (100_000, 100_000),
        (100_999, 100_999),
        (101_000, 1000),
        (101_001, 101_001),
        (165_535, 165_535),
        (165_536, 1000),
    ];
    world.dir("/tank/data", 0, 0o755);
    for (before, _) in files {
        world.file(&format!("/tank/data/{before}"), before, 0o600);
    }
    let volume = |owner: &str| {
        format!(
            r#""data": {{"host_path": "/tank/data", "owner": "{owner}", "mounts": {{"100": "/data"}}}}"#
        )
    };
    world.volumes("", &volume("container:1000"));
    world.apply(&[], 0);
    assert_eq!(world.owner("/tank/data"), "1000:1000 0755");
    for (before, after) in files {
        assert_eq!(world.owner(&format!("/tank/data/{before}")), format!("{after}:{after} 0600"));
    }
    for (owner, root) in [
        ("container_root", "100000:100000"),
        ("container:999:1000", "100999:1000"),
        ("container:1001", "101001:101001"),
        ("container:65535:0", "165535:100000"),
    ] {
        world.volumes("", &volume(owner));
        world.apply(&[], 0);
        assert_eq!(world.owner("/tank/data"), format!("{root} 0755"), "{owner}");
    }
    let before = world.stamps_of("/tank");
    world.volumes("", &volume("container:65536"));
    let report = world.apply(&[], 3);
    assert_eq!(holds(&report, "volumes", "data"), ["IdUnmapped"]);
    assert_eq!(world.stamps_of("/tank"), before);
}

#[test]
fn the_root_of_a_privileged_container_is_root() {
    let Some(world) = world() else { return };
    world.container(100, &[]);
    world.dir("/tank/data", 100_000, 0o755);
    // A privileged container can own every id, so nothing in it is a stranger's.
    world.file("/tank/data/file", 100_000, 0o600);
    world.volumes(
        "",
        r#""data": {"host_path": "/tank/data", "owner": "container_root", "mounts": {"100": "/data"}}"#,
    );
    world.apply(&[], 0);
    assert_eq!(world.owner("/tank/data"), "0:0 0755");
    assert_eq!(world.owner("/tank/data/file"), "100000:100000 0600");
    assert_eq!(world.plan().0, 0);
}

#[test]
fn a_container_declared_unprivileged_that_is_not_keeps_its_volume_waiting() {
    let Some(world) = world() else { return };
    world.container(100, &[]);
    world.dir("/tank/data", 4321, 0o755);
    world.config(
        r#"{"settings": {"seed_defaults": false}, "lxc_configs": {"100": {"unprivileged": true}},
            "shared_volumes": {"data": {"host_path": "/tank/data", "owner": "container_root",
                "mounts": {"100": "/data"}}}}"#,
    );
    let before = (world.stamps_of("/tank"), world.conf(100));
    let report = world.apply(&["--yes"], 3);
    let held = holds(&report, "containers", "100");
    assert_eq!(held, ["UnprivilegedMismatch", "VolumeHeld"], "{report:#}");
    assert_eq!(holds(&report, "volumes", "data"), ["IdmapNotReady"], "{report:#}");
    assert_eq!((world.stamps_of("/tank"), world.conf(100)), before);
    assert_eq!(world.calls(), Vec::<String>::new());
}

#[test]
fn the_map_in_force_wins_until_the_container_restarts() {
    let Some(world) = world() else { return };
    for file in ["/etc/subuid", "/etc/subgid"] {
        fs::write(world.host(file), "root:100000:65536\nroot:200000:65536\n").unwrap();
    }
    world.running(100, &[UNPRIVILEGED]);
    world.dir("/tank/data", 0, 0o755);
    world.file("/tank/data/file", 0, 0o600);
    world.volumes(
        "",
        r#""data": {"host_path": "/tank/data", "owner": "container_root", "mounts": {"100": "/data"}}"#,
    );
    let daemon = world.pctd.start();
    daemon.until_all("Converged");
    let root = Lookout::over(&world, "/tank/data");
    let lines = ["mp0: /tank/data,mp=/data", SHIFTED[0], SHIFTED[1], SHIFTED[2]];
    world.node.write_conf(ctid(100), conf(100, &lines)).unwrap();
    daemon.until("the difference is reported", |status| {
        status["containers"]["100"]["notices"][0]["reason"] == "IdmapPendingRestart"
    });
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(world.owner("/tank/data/file"), "100000:100000 0600");
    world.pct(&["reboot", "100", "--timeout", "2"]);
    let took = eventually("owned anew", || world.owner("/tank/data/file").starts_with("200000:"));
    assert!(took < SOON, "{took:?}");
    daemon.until_all("Converged");
    assert_eq!(root.seen(), ["100000:100000", "200000:200000"]);
}
