//! Definitions: containers that do not exist are made, in order, whole, once, and never with the
//! address of the container they were cloned from; whatever is killed on the way.

#![expect(clippy::unwrap_used, reason = "what fails in a helper ends the test")]

use std::time::{Duration, Instant};

use pctd_sandbox::{Fault, FaultKind, Timings};
use pctd_tests::daemon::{Daemon, eventually};
use pctd_tests::world::{HURRIED, UNPRIVILEGED, World, ctid, holds};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

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
fn at_work(world: &World, command: &str) -> Pid {
    let mut found = None;
    eventually("pct is at work", || {
        let calls = world.node.pct_calls().unwrap();
        let open = calls.iter().find(|call| call.ended.is_none() && call.argv[0] == command);
        found = open.and_then(|call| Pid::from_raw(i32::try_from(call.pid).unwrap()));
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
    assert!(message(&world, "900").contains("`pct restore 900 BACKUP --force 1 --unprivileged 1`"));
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
fn a_daemon_killed_while_a_container_is_created_leaves_one_container() {
    for phase in 0..3 {
        let Some(world) = World::with_timings(PROGRAM, slow()) else { return };
        define(&world, "", &format!(r#""100": {{"template": "{TEMPLATE}", "swap_mb": 0}}"#));
        let daemon = world.pctd.start();
        at_work(&world, "create");
        match phase {
            0 => {}
            1 => drop(eventually("it is reserved", || world.conf(100).contains("lock: create"))),
            _ => drop(eventually("it is nearly complete", || world.conf(100).contains("rootfs"))),
        }
        kill(daemon);
        let daemon = world.pctd.start();
        daemon.until_all("Converged");
        daemon.stop();
        assert_eq!(commands(&world), ["create", "set"], "phase {phase}");
        assert_eq!(property(&world, 100, "swap").as_deref(), Some("0"), "phase {phase}");
        assert_eq!(world.node.volumes().unwrap(), ["local:100/vm-100-disk-0.raw"]);
    }
}

#[test]
fn a_daemon_killed_while_a_container_is_cloned_finishes_it_before_guests_start() {
    let hang = |millis| FaultKind::Hang { millis, holding_flock: false };
    // Before the clone begins, while it copies, and before it is configured.
    for phase in 0..3 {
        let Some(world) = clone_world(slow()) else { return };
        if phase == 0 {
            world.node.inject(Fault::next(hang(300)).on("clone")).unwrap();
        }
        if phase == 2 {
            world
                .node
                .inject(
                    Fault::next(FaultKind::Hang { millis: 60_000, holding_flock: false }).on("set"),
                )
                .unwrap();
        }
        let daemon = world.pctd.start();
        let pct = at_work(&world, if phase == 2 { "set" } else { "clone" });
        if phase == 1 {
            eventually("it copies", || world.conf(901).contains("lock: create"));
        }
        kill(daemon);
        if phase == 2 {
            kill_process(pct, Signal::KILL).unwrap();
            assert!(net0(&world, 901).contains(&"ip=10.0.0.100/24".to_owned()));
            assert_eq!(property(&world, 901, "onboot").as_deref(), Some("1"));
        }
        // Ready is when systemd starts the guests of the node.
        let daemon = world.pctd.start();
        if phase == 2 {
            assert!(net0(&world, 901).contains(&"ip=10.0.0.5/24".to_owned()), "{}", daemon.log());
        }
        daemon.until_all("Converged");
        daemon.stop();
        is_a_clone_of_its_own(&world);
        assert_eq!(commands(&world).iter().filter(|c| *c == "clone").count(), 1, "phase {phase}");
    }
}

#[test]
fn a_clone_whose_configuration_fails_is_configured_as_soon_as_that_works() {
    let Some(world) = clone_world(Timings::default()) else { return };
    let fail = FaultKind::Fail { exit: 255, stderr: "something went wrong".into() };
    world.node.inject(Fault::next(fail).on("set").times(3)).unwrap();
    let daemon = world.pctd.start();
    daemon.until_all("Converged");
    daemon.stop();
    is_a_clone_of_its_own(&world);
    assert_eq!(commands(&world), ["clone", "set", "set", "set", "set"]);
}

#[test]
fn a_pct_that_is_killed_leaves_a_container_that_is_reported_and_made_again_once_cleaned_up() {
    for (command, clone) in [("create", false), ("clone", true)] {
        let Some(world) = clone_world(slow()) else { return };
        let id = if clone { 901 } else { 100 };
        if !clone {
            define(&world, "", &format!(r#""100": {{"template": "{TEMPLATE}"}}"#));
        }
        let daemon = world.pctd.start();
        let pct = at_work(&world, command);
        eventually("it is reserved", || world.conf(id).contains("lock: create"));
        kill_process(pct, Signal::KILL).unwrap();
        held(&daemon, &id.to_string(), "CreateInterrupted");
        let message = message(&world, &id.to_string());
        assert!(
            message.contains(&format!("`pct unlock {id}`, then `pct destroy {id}`")),
            "{message}"
        );
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(commands(&world), [command], "it is left to an admin");
        world.pct(&["unlock", &id.to_string()]);
        world.pct(&["destroy", &id.to_string()]);
        if clone {
            assert!(message.contains("also `pct unlock 900`"), "{message}");
            held(&daemon, "901", "CloneSourceNotReady");
            world.pct(&["unlock", "900"]);
        }
        daemon.until_all("Converged");
        daemon.stop();
        if clone {
            is_a_clone_of_its_own(&world);
        }
        assert_eq!(commands(&world)[..2], [command, command]);
    }
}

#[test]
fn a_creation_that_is_cut_off_after_its_conf_was_written_is_not_taken_for_whole() {
    let Some(world) = World::with_timings(PROGRAM, slow()) else { return };
    define(&world, "", &format!(r#""100": {{"template": "{TEMPLATE}", "memory_mb": 256}}"#));
    let daemon = world.pctd.start();
    let pct = at_work(&world, "create");
    eventually("it looks complete", || {
        world.conf(100).contains("rootfs") && !world.conf(100).contains("lock:")
    });
    kill_process(pct, Signal::KILL).unwrap();
    held(&daemon, "100", "CreateInterrupted");
    world.pct(&["destroy", "100"]);
    daemon.until_all("Converged");
    assert_eq!(commands(&world), ["create", "create"]);
}

#[test]
fn a_pct_that_is_terminated_cleans_up_and_the_container_is_made_again() {
    let Some(world) = clone_world(slow()) else { return };
    let daemon = world.pctd.start();
    let pct = at_work(&world, "clone");
    eventually("it copies", || world.conf(901).contains("lock: create"));
    kill_process(pct, Signal::TERM).unwrap();
    daemon.until_all("Converged");
    daemon.stop();
    is_a_clone_of_its_own(&world);
    assert_eq!(commands(&world), ["clone", "clone", "set"]);
}

#[test]
fn a_stop_does_not_wait_for_a_long_clone_and_leaves_nothing_of_it() {
    let timings = Timings { clone_copy_ms: 60_000, ..Timings::default() };
    let Some(world) = clone_world(timings) else { return };
    let daemon = world.pctd.start();
    at_work(&world, "clone");
    eventually("it copies", || world.conf(901).contains("lock: create"));
    let begun = Instant::now();
    daemon.stop();
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(world.conf(901), "");
    assert_eq!(property(&world, 900, "lock"), None);
    world.node.update_settings(|settings| settings.timings.clone_copy_ms = 0).unwrap();
    world.apply(&[], 0);
    is_a_clone_of_its_own(&world);
}

#[test]
fn a_container_that_somebody_else_makes_at_the_same_moment_stays_theirs() {
    let Some(world) = clone_world(Timings::default()) else { return };
    let hang = FaultKind::Hang { millis: 300, holding_flock: false };
    world.node.inject(Fault::next(hang).on("clone")).unwrap();
    let daemon = world.pctd.start();
    at_work(&world, "clone");
    let theirs = "name=eth0,bridge=vmbr0,hwaddr=BC:24:11:00:00:09,ip=10.0.0.77/24,type=veth";
    world.pct(&["create", "901", TEMPLATE, "--net0", theirs]);
    daemon.until_all("Converged");
    assert!(net0(&world, 901).contains(&"ip=10.0.0.77/24".to_owned()));
    assert_eq!(commands(&world), ["clone"]);
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

/// How many seeds the ordinary test run takes; `PCTD_SEEDS` asks for others.
const SEEDS: u64 = 6;

/// Numbers that depend on a seed alone (xorshift64*).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % limit
    }
}

/// One container of the fleet, as it is to come out.
struct Member {
    id: u32,
    from: Option<u32>,
    /// The snapshot of it that its clones are made from.
    snapshot: Option<&'static str>,
}

/// Thirty containers of the author's shape: templates, clones of them, clones of clones, some of
/// them from snapshots that somebody takes once a container is there.
fn fleet() -> Vec<Member> {
    let member = |id, from, snapshot| Member { id, from, snapshot };
    let mut fleet = vec![
        member(900, None, Some("base-snapshot")),
        member(901, Some(900), Some("docker-snapshot")),
        member(902, Some(900), None),
        member(903, None, None),
    ];
    for (id, from) in (910..920).zip([903, 900, 901, 902].into_iter().cycle()) {
        fleet.push(member(id, Some(from), None));
    }
    // 910 and 911 are clones themselves.
    for (id, from) in (920..936).zip([901, 910, 911, 903, 902].into_iter().cycle()) {
        fleet.push(member(id, Some(from), None));
    }
    assert_eq!(fleet.len(), 30);
    fleet
}

/// Every third of the last ones mounts a directory; nothing is cloned from those.
fn mounts(id: u32) -> bool {
    id >= 920 && id.is_multiple_of(3)
}

fn fleet_config(fleet: &[Member]) -> String {
    let definition = |member: &Member| {
        let id = member.id;
        let source = match member.from {
            Some(from) => format!(r#""clone_from_ctid": "{from}""#),
            None => {
                format!(r#""template": "{TEMPLATE}", "storage_pool": "bt", "storage_size_gb": 1"#)
            }
        };
        let snapshot = member
            .snapshot
            .map_or_else(String::new, |name| format!(r#""template_snapshot_name": "{name}","#));
        format!(
            r#""{id}": {{"name": "ct{id}", "memory_mb": {}, "swap_mb": {}, "cores": 2, "unprivileged": true,
            "start_at_boot": {}, "boot_order": {}, {snapshot} {}, {source}}}"#,
            512 + id,
            id % 2 * 256,
            id.is_multiple_of(2),
            id % 7,
            network(id - 890),
        )
    };
    let definitions: Vec<String> = fleet.iter().map(definition).collect();
    let targets = fleet.iter().filter(|member| mounts(member.id));
    let targets: Vec<String> = targets.map(|m| format!(r#""{}": "/data""#, m.id)).collect();
    format!(
        r#"{{"settings": {{{HURRIED}}}, "lxc_configs": {{{}}}, "shared_volumes": {{"data": {{
        "host_path": "/tank/data", "owner": "container:33", "mounts": {{{}}}}}}}}}"#,
        definitions.join(","),
        targets.join(",")
    )
}

/// Expects a container to be exactly what its definition says.
fn is_as_defined(world: &World, member: &Member, context: &str) {
    let id = member.id;
    let conf = world.conf(id);
    let own = |name| property(world, id, name).unwrap_or_default();
    let context = format!("{context}, {id}:\n{conf}");
    assert_eq!(own("hostname"), format!("ct{id}"), "{context}");
    assert_eq!(own("memory"), (512 + id).to_string(), "{context}");
    assert_eq!(own("swap"), (id % 2 * 256).to_string(), "{context}");
    assert_eq!(own("onboot") == "1", id.is_multiple_of(2), "{context}");
    assert_eq!(own("startup"), format!("order={}", id % 7), "{context}");
    assert_eq!((own("unprivileged"), own("lock")), ("1".to_owned(), String::new()), "{context}");
    let net = net0(world, id);
    assert!(net.contains(&format!("ip=10.0.0.{}/24", id - 890)), "{context}");
    assert!(own("rootfs").starts_with(&format!("bt:{id}/vm-{id}-disk-")), "{context}");
    let mounted: Vec<&str> = conf.lines().filter(|line| line.starts_with("mp")).collect();
    let expected: &[&str] = if mounts(id) { &["mp0: /tank/data,mp=/data"] } else { &[] };
    assert_eq!(mounted, expected, "{context}");
}

/// Says what is wrong with a clone that anybody could start now: one that has an address which is
/// not its own, and that nobody knows to be unfinished.
fn foreign_address(world: &World, id: u32) -> Option<String> {
    let conf = world.conf(id);
    let own = format!("ip=10.0.0.{}/24", id - 890);
    if conf.is_empty() || conf.contains("lock: ") || net0(world, id).contains(&own) {
        return None;
    }
    let ledger =
        std::fs::read_to_string(world.host("/var/lib/pctd/ledger.json")).unwrap_or_default();
    let ledger: Value = serde_json::from_str(&ledger).unwrap_or_default();
    let is_marked = !ledger["making"][id.to_string()].is_null();
    (!is_marked && world.conf(id) == conf)
        .then(|| format!("{id} is nobody's to finish:\n{conf}\n{ledger:#}"))
}

/// What the admin and the other tools of the author do: take snapshots of what is finished, and
/// clean up what is reported as cut off.
fn attend(world: &World, fleet: &[Member], status: &Value) {
    for member in fleet {
        let id = member.id.to_string();
        let state = &status["containers"][&id];
        if let Some(name) = member.snapshot
            && state["state"] == "Converged"
            && !world.conf(member.id).contains(&format!("[{name}]"))
        {
            // Somebody else's task may be at work with it; then it is for the next time.
            let _busy = world.node.pct(["snapshot", &id, name]);
        }
        if holds(status, "containers", &id).contains(&"CreateInterrupted".to_owned()) {
            // It was reported; it may be cleaned up already. One that is not locked is refused.
            let _unlocked = world.node.pct(["unlock", &id]);
            let _destroyed = world.node.pct(["destroy", &id]);
        }
        let message = state["holds"][0]["message"].as_str().unwrap_or_default();
        if let (Some(from), true) = (member.from, message.contains("it is locked (disk)")) {
            let at_work = world.node.pct_calls().unwrap().iter().any(|call| {
                call.ended.is_none()
                    && std::path::Path::new(&format!("/proc/{}", call.pid)).exists()
                    && call.argv[0] == "clone"
                    && call.argv[1] == from.to_string()
            });
            if !at_work {
                let _unlocked = world.node.pct(["unlock", &from.to_string()]);
            }
        }
    }
}

/// Lets the fleet come about while pctd and pct are killed, and returns how many kills there were.
fn converge_under_fire(seed: u64) -> Option<(u32, u32)> {
    let timings = Timings {
        create_unpack_ms: 15,
        create_setup_ms: 15,
        clone_copy_ms: 10,
        ..Timings::default()
    };
    let world = World::with_timings(PROGRAM, timings)?;
    let fleet = fleet();
    world.config(&fleet_config(&fleet));
    let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let context = format!("seed {seed} (PCTD_SEED={seed} runs it alone)");
    let (mut of_pctd, mut of_pct) = (0, 0);
    let mut daemon = world.pctd.spawn(&[]);
    let begun = Instant::now();
    let kills = 6 + random.below(6);
    let mut made = 0;
    let mut next_kill = begun + Duration::from_millis(random.below(150));
    loop {
        assert!(
            begun.elapsed() < Duration::from_mins(1),
            "{context}:\n{:#}\n{}",
            daemon.status(),
            daemon.log()
        );
        for member in &fleet {
            if let Some(wrong) = foreign_address(&world, member.id) {
                panic!("{context}: {wrong}\n{}", daemon.log());
            }
        }
        if made < kills && Instant::now() >= next_kill {
            made += 1;
            next_kill = Instant::now() + Duration::from_millis(20 + random.below(250));
            let calls = world.node.pct_calls().unwrap();
            let open: Vec<_> = calls.iter().filter(|call| call.ended.is_none()).collect();
            if !open.is_empty() && random.below(2) == 0 {
                let among = u64::try_from(open.len()).unwrap();
                let call = open[usize::try_from(random.below(among)).unwrap()];
                let signal = if random.below(4) == 0 { Signal::TERM } else { Signal::KILL };
                // It may have ended by now.
                let _ended =
                    kill_process(Pid::from_raw(i32::try_from(call.pid).unwrap()).unwrap(), signal);
                of_pct += 1;
            } else {
                kill(daemon);
                daemon = world.pctd.spawn(&[]);
                of_pctd += 1;
            }
        }
        let ran = world.pctd.run(&["status", "--output-format", "json"]);
        // Not there yet, or not any more.
        let Ok(status) = serde_json::from_str::<Value>(&ran.stdout) else { continue };
        attend(&world, &fleet, &status);
        let all =
            fleet.iter().all(|m| status["containers"][m.id.to_string()]["state"] == "Converged");
        if all && made == kills && status["volumes"]["data"]["state"] == "Converged" {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    daemon.stop();
    let mut addresses = std::collections::BTreeSet::new();
    for member in &fleet {
        is_as_defined(&world, member, &context);
        let net = net0(&world, member.id);
        let hwaddr = net.iter().find(|option| option.starts_with("hwaddr=")).cloned();
        assert!(addresses.insert(hwaddr), "{context}: two with one hardware address");
    }
    assert_eq!(world.owner("/tank/data"), "100033:100033 0755", "{context}");
    assert_eq!(world.plan().0, 0, "{context}");
    Some((of_pctd, of_pct))
}

#[test]
fn thirty_containers_of_the_authors_shape_come_about_whatever_is_killed_on_the_way() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds: Vec<u64> = match number("PCTD_SEED") {
        Some(seed) => vec![seed],
        None => (1..=number("PCTD_SEEDS").unwrap_or(SEEDS)).collect(),
    };
    let next = std::sync::atomic::AtomicUsize::new(0);
    let failed = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    let Some(seed) = seeds.get(at) else { return };
                    let begun = Instant::now();
                    match std::panic::catch_unwind(|| converge_under_fire(*seed)) {
                        Ok(kills) => eprintln!("seed {seed}: {kills:?} in {:?}", begun.elapsed()),
                        Err(_) => failed.lock().unwrap().push(*seed),
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert_eq!(failed, Vec::<u64>::new(), "these seeds failed");
}
