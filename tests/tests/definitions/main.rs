//! Definitions: containers that do not exist are made, in order, whole, once, and never with the
//! address of the container they were cloned from; whatever is killed on the way.

#![expect(clippy::unwrap_used, reason = "what fails in a helper ends the test")]

use std::time::{Duration, Instant};

use pctd_sandbox::{Fault, FaultKind, Timings};
use pctd_tests::daemon::{Daemon, eventually};
use pctd_tests::statistics::counted;
use pctd_tests::world::{HURRIED, UNPRIVILEGED, World, ctid, holds};
use rustix::process::Signal;
use serde_json::Value;

mod cut_off;
mod fleet;

const PROGRAM: &str = env!("CARGO_BIN_EXE_pctd-tests");

const TEMPLATE: &str = "local:vztmpl/tiny.tar.zst";

/// What a source has and a clone must not keep.
const OF_THE_SOURCE: [&str; 4] = [
    "net0: name=eth0,bridge=vmbr0,gw=10.0.0.1,hwaddr=BC:24:11:00:00:01,ip=10.0.0.100/24,type=veth",
    "onboot: 1",
    "startup: order=1",
    UNPRIVILEGED,
];

/// The network of a container at this address.
fn network(last: u32) -> String {
    format!(
        r#""network_config": {{"name": "eth0", "bridge": "vmbr0", "ip": "10.0.0.{last}/24", "gw": "10.0.0.1"}}"#
    )
}

fn define(world: &World, settings: &str, definitions: &str) {
    let comma = if settings.is_empty() { "" } else { "," };
    world.config(&format!(
        r#"{{"settings": {{{HURRIED}{comma} {settings}}}, "lxc_configs": {{{definitions}}}}}"#
    ));
}

/// A clone 901 of the stopped container 900, on a node where this takes some time.
fn clone_world(timings: Timings) -> Option<World> {
    let world = World::with_timings(PROGRAM, timings)?;
    world.container(900, &OF_THE_SOURCE);
    define(
        &world,
        "",
        &format!(r#""901": {{"clone_from_ctid": "900", "name": "web", {}}}"#, network(5)),
    );
    Some(world)
}

fn slow() -> Timings {
    Timings {
        create_unpack_ms: 150,
        create_setup_ms: 150,
        clone_copy_ms: 300,
        ..Timings::default()
    }
}

/// A node on which what is to be cut off takes for ever, until [`hurry`]: the test may be late.
fn endless(unpack: bool) -> Timings {
    let timings = Timings { clone_copy_ms: 60_000, ..Timings::default() };
    if unpack {
        Timings { create_unpack_ms: 60_000, ..timings }
    } else {
        Timings { create_setup_ms: 60_000, ..timings }
    }
}

/// Lets everything that begins from now on be immediate.
fn hurry(world: &World) {
    world.node.update_settings(|settings| settings.timings = Timings::default()).unwrap();
}

/// Returns a property of a container's conf.
fn property(world: &World, id: u32, name: &str) -> Option<String> {
    let conf = world.conf(id);
    let current = conf.split("\n[").next().unwrap_or_default();
    let prefix = format!("{name}: ");
    current.lines().find_map(|line| line.strip_prefix(&prefix)).map(str::to_owned)
}

/// Returns the options of an interface.
fn net0(world: &World, id: u32) -> Vec<String> {
    let value = property(world, id, "net0").unwrap_or_default();
    value.split(',').map(str::to_owned).collect()
}

/// Expects 901 to be a clone with its own address, and nothing else of the source's.
fn is_a_clone_of_its_own(world: &World) {
    let net = net0(world, 901);
    assert!(net.contains(&"ip=10.0.0.5/24".to_owned()), "{net:?}");
    assert!(!net.contains(&"hwaddr=BC:24:11:00:00:01".to_owned()), "{net:?}");
    let own = |name| property(world, 901, name);
    assert_eq!((own("onboot"), own("startup"), own("lock")), (None, None, None));
    assert_eq!(own("hostname").as_deref(), Some("web"));
    assert_eq!(property(world, 900, "lock"), None);
    // The source is as it was.
    assert!(world.conf(900).contains(OF_THE_SOURCE[0]), "{}", world.conf(900));
    let ledger = std::fs::read_to_string(world.host("/var/lib/pctd/ledger.json")).unwrap();
    let ledger: Value = serde_json::from_str(&ledger).unwrap();
    assert_eq!(ledger["making"], serde_json::json!({}), "{ledger:#}");
    assert_eq!(world.plan().0, 0);
}

/// Waits for a run of this command that has not ended, and returns its process.
fn at_work(world: &World, command: &str) -> u32 {
    let mut found = None;
    eventually("pct is at work", || {
        let calls = world.node.pct_calls().unwrap();
        let open = calls.iter().find(|call| call.ended.is_none() && call.argv[0] == command);
        found = open.map(|call| call.pid);
        found.is_some()
    });
    found.unwrap()
}

/// Kills a daemon as the kernel does when memory runs out.
fn kill(mut daemon: Daemon) {
    daemon.signal(Signal::KILL);
    daemon.wait();
}

fn held(daemon: &Daemon, id: &str, reason: &str) {
    daemon.until(&format!("{id} is held: {reason}"), |status| {
        holds(status, "containers", id).iter().any(|hold| hold == reason)
    });
}

fn message(world: &World, id: &str) -> String {
    world.plan().1["containers"][id]["holds"][0]["message"].as_str().unwrap_or_default().to_owned()
}

fn commands(world: &World) -> Vec<String> {
    let first = |call: String| call.split(' ').next().unwrap_or_default().to_owned();
    world.calls().into_iter().map(first).collect()
}

#[test]
fn a_container_is_created_from_its_template_as_it_is_defined_and_mounts_its_volumes() {
    let Some(world) = World::new(PROGRAM) else { return };
    world.config(&format!(
        r#"{{"settings": {{{HURRIED}}},
        "shared_volumes": {{"data": {{"host_path": "/tank/data", "owner": "container_root", "mounts": {{"100": "/data"}}}}}},
        "lxc_configs": {{"100": {{"template": "{TEMPLATE}", "name": "web", "memory_mb": 2048, "swap_mb": 0,
        "cores": 2, "storage_pool": "bt", "storage_size_gb": 1, "unprivileged": true, "start_at_boot": true,
        "boot_order": 2, "boot_delay": 10, "pct_options": ["nesting=1"], "mac_address": "52:54:00:67:89:B0", {}}}}}}}"#,
        network(9)
    ));
    let report = world.apply(&[], 0);
    let steps: Vec<&str> = report["containers"]["100"]["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| step["step"].as_str().unwrap())
        .collect();
    assert_eq!(steps, ["create_container", "configure_container", "set_mount"], "{report:#}");
    let conf = world.conf(100);
    for line in [
        "cores: 2",
        "features: nesting=1",
        "hostname: web",
        "memory: 2048",
        "mp0: /tank/data,mp=/data",
        "net0: name=eth0,bridge=vmbr0,gw=10.0.0.1,hwaddr=52:54:00:67:89:B0,ip=10.0.0.9/24,type=veth",
        "onboot: 1",
        "startup: order=2,up=10",
        "swap: 0",
        "unprivileged: 1",
    ] {
        assert!(conf.lines().any(|found| found == line), "{line}:\n{conf}");
    }
    assert!(conf.contains("rootfs: bt:100/"), "{conf}");
    assert_eq!(world.owner("/tank/data"), "100000:100000 0755");
    let calls = world.calls();
    assert_eq!(world.plan().0, 0);
    world.apply(&[], 0);
    assert_eq!(world.calls(), calls, "nothing is left to do");
}

#[test]
fn a_template_is_found_by_path_by_volume_and_by_dataset_and_a_missing_one_is_named() {
    let Some(world) = World::new(PROGRAM) else { return };
    world.dir("/bulk/iso/template/cache", 0, 0o755);
    world.file("/bulk/iso/template/cache/t.tar.zst", 0, 0o644);
    define(
        &world,
        "",
        &format!(
            r#""100": {{"template": "/bulk/iso/template/cache/t.tar.zst"}},
            "101": {{"template": "{TEMPLATE}"}},
            "102": {{"template": "bulk/iso/template/cache/t.tar.zst"}},
            "103": {{"template": "bulk/iso/template/cache/nosuch.tar.zst"}}"#
        ),
    );
    let report = world.apply(&[], 3);
    assert_eq!(holds(&report, "containers", "103"), ["TemplateMissing"]);
    assert!(message(&world, "103").contains("looked for /bulk/iso/template/cache/nosuch.tar.zst"));
    for id in [100, 101, 102] {
        assert!(world.conf(id).contains("rootfs: "), "{id}");
    }
    assert_eq!(commands(&world), ["create"; 3]);
}

#[test]
fn a_clone_gets_its_own_address_and_does_not_start_with_the_node() {
    let Some(world) = clone_world(Timings::default()) else { return };
    let daemon = world.pctd.start();
    daemon.until_all("Converged");
    daemon.stop();
    is_a_clone_of_its_own(&world);
    let calls = world.calls();
    assert_eq!(calls[0], "clone 900 901 --hostname web");
    assert!(calls[1].starts_with("set 901 --net0 "), "{calls:?}");
    assert_eq!(calls.len(), 2, "{calls:?}");
}

#[test]
fn a_clone_is_made_from_the_snapshot_that_its_source_names_once_it_is_there() {
    let Some(world) = World::new(PROGRAM) else { return };
    define(
        &world,
        "",
        &format!(
            r#""900": {{"template": "{TEMPLATE}", "storage_pool": "bt", "storage_size_gb": 1,
            "template_snapshot_name": "base"}}, "901": {{"clone_from_ctid": "900"}}"#
        ),
    );
    let daemon = world.pctd.start();
    held(&daemon, "901", "CloneSourceNotReady");
    eventually("900 is made", || property(&world, 900, "swap").is_some());
    eventually("the snapshot is asked for", || {
        message(&world, "901").contains("`pct snapshot 900 base` takes it")
    });
    world.pct(&["snapshot", "900", "base"]);
    // From now on it may run, and mount what is never cloned.
    daemon.until_all("Converged");
    assert_eq!(world.calls().last().unwrap(), "clone 900 901 --snapname base");
}

#[test]
fn a_chain_of_clones_is_made_in_its_order_by_the_daemon_and_by_apply() {
    for daemon in [true, false] {
        let Some(world) = World::new(PROGRAM) else { return };
        // Against the order of the ids.
        let definitions = format!(
            r#""930": {{"template": "{TEMPLATE}"}}, "920": {{"clone_from_ctid": "930"}},
            "910": {{"clone_from_ctid": "920"}}, "911": {{"clone_from_ctid": "920"}}"#
        );
        define(&world, "", &definitions);
        if daemon {
            let daemon = world.pctd.start();
            daemon.until_all("Converged");
            let log = daemon.log();
            assert!(!log.contains("failed, will retry"), "{log}");
            daemon.stop();
        } else {
            world.apply(&[], 0);
        }
        let mut calls = world.calls();
        calls[2..].sort();
        assert_eq!(calls[0], format!("create 930 {TEMPLATE} --unprivileged 1"));
        assert_eq!(calls[1..], ["clone 930 920", "clone 920 910", "clone 920 911"]);
    }
}

#[test]
fn a_source_with_bind_mounts_and_no_snapshot_without_them_is_a_hold_that_says_why() {
    let Some(world) = clone_world(Timings::default()) else { return };
    world.dir("/srv/x", 0, 0o755);
    world.pct(&["set", "900", "--mp0", "/srv/x,mp=/x"]);
    let report = world.apply(&[], 3);
    assert_eq!(holds(&report, "containers", "901"), ["CloneSourceNotReady"]);
    assert!(message(&world, "901").contains("mp0 is a bind mount"), "{}", message(&world, "901"));
    assert_eq!(world.calls(), Vec::<String>::new());
    assert_eq!(world.conf(901), "");
}

#[test]
fn a_source_with_the_other_privilege_is_not_cloned_and_an_existing_container_says_the_remedy() {
    let Some(world) = World::new(PROGRAM) else { return };
    world.container(900, &[]);
    define(
        &world,
        "",
        r#""900": {"unprivileged": true}, "901": {"clone_from_ctid": "900", "unprivileged": true}"#,
    );
    let report = world.apply(&[], 3);
    for id in ["900", "901"] {
        assert_eq!(holds(&report, "containers", id), ["UnprivilegedMismatch"], "{report:#}");
    }
    assert!(
        message(&world, "900")
            .contains("`pct restore 900 BACKUP --force 1 --unprivileged 1 --storage")
    );
    assert!(message(&world, "901").contains("its source 900 is privileged"));
    assert_eq!(world.calls(), Vec::<String>::new());
}

#[test]
fn nothing_is_made_under_an_id_of_a_virtual_machine_of_another_node_or_without_quorum() {
    let Some(world) = World::new(PROGRAM) else { return };
    let ids = ["100", "101", "102", "103"]
        .map(|id| format!(r#""{id}": {{"template": "{TEMPLATE}", "node": "pve"}}"#));
    let elsewhere = format!(r#""104": {{"template": "{TEMPLATE}", "node": "other"}}"#);
    let unnamed = format!(r#""105": {{"template": "{TEMPLATE}"}}"#);
    define(&world, "", &[&ids[..], &[elsewhere, unnamed]].concat().join(","));
    for kind in ["lxc", "qemu-server"] {
        world.dir(&format!("/etc/pve/nodes/other/{kind}"), 0, 0o755);
    }
    world.node.update_settings(|settings| settings.peers.push("other".into())).unwrap();
    world.node.write_vm_conf(ctid(100), "name: vm\n").unwrap();
    world.container(101, &[UNPRIVILEGED]);
    world.node.move_to(ctid(101), "other").unwrap();
    world.node.set_quorum(false).unwrap();
    let report = world.apply(&[], 3);
    let of = |report: &Value, id: &str| holds(report, "containers", id);
    assert_eq!(of(&report, "100"), ["IdTakenByVm"]);
    assert_eq!(of(&report, "101"), Vec::<String>::new());
    assert_eq!(
        (of(&report, "102"), of(&report, "103")),
        (vec!["NoQuorum".into()], vec!["NoQuorum".into()])
    );
    assert_eq!(world.calls(), Vec::<String>::new());
    world.node.set_quorum(true).unwrap();
    let report = world.apply(&[], 3);
    assert_eq!(of(&report, "104"), Vec::<String>::new());
    assert_eq!(of(&report, "105"), ["NodeNotNamed"]);
    let calls: Vec<String> = world.calls().iter().map(|call| call[..10].to_owned()).collect();
    assert_eq!(calls, ["create 102", "create 103"]);
}

#[test]
fn nothing_is_made_while_pmxcfs_is_stopped() {
    let Some(world) = World::new(PROGRAM) else { return };
    define(&world, "", &format!(r#""100": {{"template": "{TEMPLATE}"}}"#));
    world.node.stop_pmxcfs().unwrap();
    let daemon = world.pctd.start();
    held(&daemon, "100", "NodeUnknown");
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(world.calls(), Vec::<String>::new());
    world.node.start_pmxcfs().unwrap();
    daemon.until_all("Converged");
}

#[test]
fn a_container_that_is_gone_is_made_again_only_by_an_apply_that_names_it() {
    let Some(world) = World::new(PROGRAM) else { return };
    let definition = format!(r#""100": {{"template": "{TEMPLATE}"}}"#);
    define(&world, "", &definition);
    let daemon = world.pctd.start();
    daemon.until_all("Converged");
    world.pct(&["destroy", "100"]);
    held(&daemon, "100", "Gone");
    world.apply(&[], 3);
    world.apply(&["--yes"], 3);
    assert_eq!(commands(&world), ["create"]);
    world.apply(&["100"], 0);
    assert_eq!(commands(&world), ["create", "create"]);
    // The next time it is gone it is gone again, also for another process, and for one without a daemon.
    daemon.until_all("Converged");
    daemon.stop();
    world.pct(&["destroy", "100"]);
    world.apply(&["--yes"], 3);
    assert_eq!(commands(&world).len(), 2);
    world.apply(&["100"], 0);
    assert_eq!(commands(&world).len(), 3);
}

#[test]
fn a_container_that_was_there_before_pctd_and_is_destroyed_is_not_made_again() {
    let Some(world) = World::new(PROGRAM) else { return };
    world.container(100, &[UNPRIVILEGED]);
    define(&world, "", &format!(r#""100": {{"template": "{TEMPLATE}"}}"#));
    let daemon = world.pctd.start();
    daemon.until_all("Converged");
    world.pct(&["destroy", "100"]);
    held(&daemon, "100", "Gone");
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(world.calls(), Vec::<String>::new());
}

#[test]
fn nothing_is_made_while_the_ledger_is_lost() {
    let Some(world) = World::new(PROGRAM) else { return };
    define(&world, "", &format!(r#""100": {{"template": "{TEMPLATE}"}}"#));
    world.dir("/var/lib/pctd", 0, 0o755);
    std::fs::write(world.host("/var/lib/pctd/ledger.json"), "{").unwrap();
    let report = world.apply(&[], 3);
    assert_eq!(holds(&report, "containers", "100"), ["LedgerLost"]);
    world.apply(&["100"], 0);
    assert_eq!(commands(&world), ["create"]);
}

#[test]
fn a_definition_is_only_reported_when_creation_is_switched_off() {
    let Some(world) = World::new(PROGRAM) else { return };
    let definition = format!(r#""100": {{"template": "{TEMPLATE}"}}"#);
    define(&world, r#""create_containers": false"#, &definition);
    assert_eq!(holds(&world.apply(&[], 3), "containers", "100"), ["NotDefined"]);
    define(&world, r#""mode": "observe""#, &definition);
    assert_eq!(holds(&world.apply(&[], 3), "containers", "100"), ["ObserveOnly"]);
    assert_eq!(world.calls(), Vec::<String>::new());
}

#[test]
fn fields_that_are_managed_converge_and_others_are_shown_by_a_verbose_plan() {
    let Some(world) = World::new(PROGRAM) else { return };
    world.running(100, &["cores: 1", "onboot: 1", "startup: order=9,down=5", UNPRIVILEGED]);
    let definition = r#""100": {"name": "web", "memory_mb": 1024, "cores": 2, "boot_order": 3,
        "start_at_boot": false, "pct_options": ["nesting=1"]}"#;
    define(&world, "", definition);
    assert_eq!(world.plan().0, 0, "nothing is managed");
    let quiet = world.pctd.run(&["plan"]).stdout;
    assert!(!quiet.contains("memory"), "{quiet}");
    let told = world.pctd.run(&["plan", "-v"]).stdout;
    assert!(
        told.contains("memory_mb is not managed: declared memory: 1024, found memory: 512"),
        "{told}"
    );
    assert!(told.contains("name is not managed"), "{told}");
    let manage =
        r#""manage": ["memory_mb", "cores", "boot_order", "start_at_boot", "pct_options"]"#;
    define(&world, manage, definition);
    let daemon = world.pctd.start();
    daemon.until_all("Converged");
    let own = |name| property(&world, 100, name);
    assert_eq!((own("memory").as_deref(), own("cores").as_deref()), (Some("1024"), Some("2")));
    assert_eq!(
        (own("onboot").as_deref(), own("startup").as_deref()),
        (Some("0"), Some("down=5,order=3"))
    );
    assert_eq!(own("hostname").as_deref(), Some("ct100"), "the name is not managed");
    // Features wait for a restart, which is somebody's to make.
    let pending = world.conf(100);
    assert!(pending.contains("[pve:pending]\nfeatures: nesting=1\n"), "{pending}");
    let notices = daemon.status()["containers"]["100"]["notices"].to_string();
    assert!(notices.contains("PropertyPendingRestart"), "{notices}");
    assert_eq!(commands(&world), ["set"]);
    world.pct(&["set", "100", "--memory", "256"]);
    eventually("the drift is put right", || own("memory").as_deref() == Some("1024"));
    assert_eq!(commands(&world), ["set", "set"]);
}
