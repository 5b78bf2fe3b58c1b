//! Raw lines of a conf: `id_maps` and `lxc_options`, which only an edit of the file can write.

#![expect(clippy::unwrap_used, reason = "what fails in a helper ends the test")]

use std::fs;

use pctd_core::conf::Conf;
use pctd_sandbox::{Fault, FaultKind, Guest};
use pctd_tests::daemon::{Daemon, eventually};
use pctd_tests::world::{HURRIED, UNPRIVILEGED, World, conf, ctid, holds};
use serde_json::{Value, json};

const REBOOT: &str = "reboot 100 --timeout 3";

/// Proxmox's default, and more ids behind it.
const LONGER: [(&str, u32, u32, u32); 2] =
    [("uid", 0, 100_000, 100_000), ("gid", 0, 100_000, 100_000)];

const LONGER_LINES: [&str; 2] = ["lxc.idmap: u 0 100000 100000", "lxc.idmap: g 0 100000 100000"];

/// The usual map with a hole, for a user of the host.
const HOLE: [(&str, u32, u32, u32); 4] = [
    ("uid", 0, 100_000, 1000),
    ("uid", 1000, 1000, 1),
    ("uid", 1001, 101_001, 64_535),
    ("gid", 0, 100_000, 65_536),
];

/// One that moves everything.
const OTHER: [(&str, u32, u32, u32); 2] =
    [("uid", 0, 200_000, 65_536), ("gid", 0, 200_000, 65_536)];

const HOLE_LINES: [&str; 4] = [
    "lxc.idmap: u 0 100000 1000",
    "lxc.idmap: u 1000 1000 1",
    "lxc.idmap: u 1001 101001 64535",
    "lxc.idmap: g 0 100000 65536",
];

fn id_maps(ranges: &[(&str, u32, u32, u32)]) -> Value {
    let item = |(kind, container, host, size): &(&str, u32, u32, u32)| json!({"type": kind, "container_id": container, "host_id": host, "size": size});
    json!({"id_maps": ranges.iter().map(item).collect::<Vec<_>>()})
}

/// Declares containers with these definitions.
fn define(world: &World, settings: &str, containers: &Value) {
    world.config(&format!(
        r#"{{"settings": {{{HURRIED}, "restart_timeout": "3s" {settings}}}, "lxc_configs": {containers}}}"#
    ));
}

fn world(lines: &[&str]) -> Option<World> {
    let world = World::new(env!("CARGO_BIN_EXE_pctd-tests"))?;
    world.running(100, &[&[UNPRIVILEGED], lines].concat());
    Some(world)
}

/// Lets root map these ids of the host.
fn permit(world: &World, text: &str) {
    for file in ["subuid", "subgid"] {
        fs::write(world.host("/etc").join(file), text).unwrap();
    }
}

/// Whether 100 runs with another map than its conf has.
fn runs_with_another_map(world: &World) -> bool {
    world.plan().1["containers"]["100"]["notices"].to_string().contains("IdmapPendingRestart")
}

fn until_held(daemon: &Daemon, reason: &str) -> String {
    daemon.until(reason, |status| holds(status, "containers", "100") == [reason.to_owned()]);
    let status = daemon.status();
    status["containers"]["100"]["holds"][0]["message"].as_str().unwrap().to_owned()
}

#[test]
fn a_declared_id_map_is_written_line_by_line_and_in_force_after_one_restart() {
    // What Proxmox would not write like this stays like this.
    let odd = ["#note: 100%", "lxc.cap.drop=mknod  ", "tags: x"];
    let Some(world) = world(&odd) else { return };
    permit(&world, "root:100000:100000\n");
    let before = world.conf(100);
    define(&world, r#", "restart": "never""#, &json!({"100": id_maps(&LONGER)}));
    let daemon = world.pctd.start();
    let message = until_held(&daemon, "NeedsRestart");
    assert!(message.contains(LONGER_LINES[0]) && message.contains("`pct reboot 100`"), "{message}");
    // No pct has touched it yet: every other byte is where it was.
    let expected = format!("{before}{}\n", LONGER_LINES.join("\n"));
    assert_eq!((world.conf(100), world.calls()), (expected.clone(), Vec::<String>::new()));
    let names = fs::read_dir(world.host("/etc/pve/nodes/pve/lxc")).unwrap();
    let names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["100.conf"]);
    assert!(runs_with_another_map(&world));

    define(&world, "", &json!({"100": id_maps(&LONGER)}));
    daemon.until_all("Converged");
    assert_eq!(world.calls(), [REBOOT]);
    assert!(!runs_with_another_map(&world));
    // The hook of the stop has written the conf in Proxmox's own form.
    let written = Conf::parse(ctid(100), expected.as_bytes()).unwrap().rewritten().unwrap();
    assert_eq!(world.conf(100).as_bytes(), written);
    daemon.stop();
    // Nothing is left to do, for anybody.
    world.apply(&[], 0);
    assert_eq!(world.calls(), [REBOOT]);
}

#[test]
fn a_map_that_root_may_not_write_is_held_and_names_the_line_that_is_missing() {
    let Some(world) = world(&[]) else { return };
    let before = world.conf(100);
    define(&world, "", &json!({"100": id_maps(&LONGER)}));
    let daemon = world.pctd.start();
    let message = until_held(&daemon, "SubIdsMissing");
    assert!(
        message.ends_with(
            "add `root:100000:100000` in /etc/subuid and `root:100000:100000` in /etc/subgid"
        ),
        "{message}"
    );
    assert_eq!((world.conf(100), world.calls()), (before, Vec::<String>::new()));
    permit(&world, "root:100000:100000\n");
    daemon.until_all("Converged");
    assert_eq!(world.calls(), [REBOOT]);
}

#[test]
fn a_map_that_moves_ids_of_files_is_written_only_when_an_admin_says_so() {
    let Some(world) = world(&[]) else { return };
    let before = world.conf(100);
    define(&world, "", &json!({"100": id_maps(&HOLE)}));
    let report = world.apply(&[], 3);
    assert_eq!(holds(&report, "containers", "100"), ["IdmapChange"]);
    let message = report["containers"]["100"]["holds"][0]["message"].as_str().unwrap();
    assert!(message.contains("user 1000 of container 100"), "{message}");
    assert_eq!((world.conf(100), world.calls()), (before, Vec::<String>::new()));
    let report = world.apply(&["100"], 0);
    let steps: Vec<&str> = report["containers"]["100"]["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| step["step"].as_str().unwrap())
        .collect();
    assert_eq!(steps, ["edit_conf", "reboot_container"]);
    assert!(world.conf(100).contains(HOLE_LINES[1]) && !runs_with_another_map(&world));
    // It goes with prune, and that moves ids as well.
    define(&world, r#", "prune": true"#, &json!({}));
    let report = world.apply(&["--yes"], 3);
    assert_eq!(holds(&report, "containers", "100"), ["IdmapChange"]);
    world.pct(&["stop", "100"]);
    world.apply(&["100"], 0);
    assert_eq!(world.conf(100), conf(100, &[UNPRIVILEGED]));
}

#[test]
fn a_map_that_takes_the_root_file_system_from_root_is_written_only_with_a_yes_besides() {
    let Some(world) = world(&[]) else { return };
    permit(&world, "root:100000:65536\nroot:200000:65536\n");
    let before = world.conf(100);
    define(&world, "", &json!({"100": id_maps(&OTHER)}));
    // Also where the name is an answer to something else.
    for asked in [&["100"][..], &["--yes"]] {
        let report = world.apply(asked, 3);
        assert_eq!(holds(&report, "containers", "100"), ["IdmapChange"]);
        let message = report["containers"]["100"]["holds"][0]["message"].as_str().unwrap();
        assert!(message.contains("`pctd apply 100 --yes`"), "{message}");
    }
    assert_eq!((world.conf(100), world.calls()), (before, Vec::<String>::new()));
    let daemon = world.pctd.start();
    until_held(&daemon, "IdmapChange");
    world.apply(&["100"], 3);
    world.apply(&["100", "--yes"], 0);
    assert!(world.conf(100).contains("lxc.idmap: u 0 200000 65536"));
    assert_eq!(world.calls(), [REBOOT]);
}

#[test]
fn a_container_is_made_with_its_map_and_its_volumes_are_owned_through_it_once() {
    let Some(world) = World::new(env!("CARGO_BIN_EXE_pctd-tests")) else { return };
    world.dir("/tank/data", 0, 0o755);
    let mut definition = id_maps(&HOLE);
    definition["template"] = json!("local:vztmpl/tiny.tar.gz");
    definition["storage_pool"] = json!("local");
    definition["storage_size_gb"] = json!(1);
    definition["lxc_options"] = json!(["lxc.cap.drop = sys_module"]);
    world.config(&format!(
        r#"{{"settings": {{{HURRIED}}}, "lxc_configs": {{"100": {definition}}}, "shared_volumes": {{
            "data": {{"host_path": "/tank/data", "owner": "container:1000", "mounts": {{"100": "/data"}}}}}}}}"#
    ));
    let daemon = world.pctd.start();
    daemon.until_all("Converged");
    let raw: Vec<String> =
        world.conf(100).lines().filter(|l| l.starts_with("lxc.")).map(str::to_owned).collect();
    assert_eq!(raw, [&HOLE_LINES[..], &["lxc.cap.drop: sys_module"]].concat());
    // 101000 would have been the owner through the map it was unpacked with.
    assert_eq!(world.owner("/tank/data"), "1000:101000 0755");
    let log = daemon.log();
    let owned = log.lines().filter(|line| line.contains("set owner")).count();
    assert_eq!(owned, 1, "{log}");
    let commands: Vec<String> =
        world.calls().iter().map(|call| call.split(' ').next().unwrap().to_owned()).collect();
    assert_eq!(commands, ["create", "set"], "nothing was restarted");
}

#[test]
fn a_clone_gets_a_map_of_its_own_before_it_is_done() {
    let Some(world) = World::new(env!("CARGO_BIN_EXE_pctd-tests")) else { return };
    permit(&world, "root:100000:100000\nroot:1000:1\n");
    world.container(900, &[&[UNPRIVILEGED], &LONGER_LINES[..]].concat());
    let mut definition = id_maps(&HOLE);
    definition["clone_from_ctid"] = json!("900");
    define(&world, "", &json!({"100": definition}));
    world.apply(&[], 0);
    let conf = world.conf(100);
    let raw: Vec<&str> = conf.lines().filter(|line| line.starts_with("lxc.")).collect();
    assert_eq!(raw, HOLE_LINES);
    let ledger = pctd_tests::daemon::text(&world.host("/var/lib/pctd/ledger.json"));
    let ledger: Value = serde_json::from_str(&ledger).unwrap();
    assert_eq!(ledger["making"], json!({}));
}

/// A line that Proxmox keeps and that no container starts with (PROXMOX.md 11).
const DEADLY: &str = "lxc.mount.entry: /srv /mnt none bind,create=dir 0 0";

#[test]
fn lines_with_which_a_container_does_not_start_are_taken_back_and_not_written_again() {
    let Some(world) = world(&["lxc.cap.drop: theirs"]) else { return };
    let before = world.conf(100);
    let managed = r#", "manage": ["lxc_options"]"#;
    define(&world, managed, &json!({"100": {"lxc_options": [DEADLY]}}));
    let daemon = world.pctd.start();
    let message = until_held(&daemon, "NeedsRestart");
    assert!(message.contains("`pctd apply 100` tries again"), "{message}");
    assert_eq!(world.calls(), [REBOOT, "start 100"]);
    assert_eq!(world.conf(100), before);
    assert!(world.node.is_running(ctid(100)));
    let log = daemon.log();
    assert!(log.contains("its old raw lines were put back and it was started"), "{log}");
    // Corrected, it is written; the failed restart was one, so an admin asks for the next.
    let fine = json!({"100": {"lxc_options": ["lxc.cap.drop: mine"]}});
    define(&world, &format!(r#"{managed}, "restart_limit": "0s""#), &fine);
    daemon.until("the edit is in force", |status| status["config"]["generation"] == 2);
    world.apply(&["100"], 0);
    daemon.until_all("Converged");
    assert_eq!(world.conf(100), format!("{before}lxc.cap.drop: mine\n"));
}

#[test]
fn a_line_that_was_taken_back_and_that_the_hook_of_the_stop_brings_back_is_still_pctds() {
    let Some(world) = world(&["lxc.cap.drop: theirs"]) else { return };
    let before = world.conf(100);
    let managed = r#", "manage": ["lxc_options"]"#;
    define(&world, managed, &json!({"100": {"lxc_options": [DEADLY]}}));
    let daemon = world.pctd.start();
    until_held(&daemon, "NeedsRestart");
    daemon.stop();
    assert_eq!(world.conf(100), before);
    // It had read the conf before, and heeds no lock.
    world.node.write_conf(ctid(100), format!("{before}{DEADLY}\n")).unwrap();
    let settings = format!(r#"{managed}, "prune": true, "restart": "never""#);
    define(&world, &settings, &json!({"100": {"lxc_options": []}}));
    // A restart is still to be made, by whoever likes.
    world.pctd.run(&["apply", "100"]);
    assert_eq!(world.conf(100), before);
}

#[test]
fn lines_that_keep_a_container_stopped_after_a_restart_of_others_are_named_until_it_runs() {
    let Some(world) = world(&[]) else { return };
    let before = world.conf(100);
    let settings = r#", "manage": ["lxc_options"], "restart": "never""#;
    define(&world, settings, &json!({"100": {"lxc_options": [DEADLY]}}));
    let daemon = world.pctd.start();
    until_held(&daemon, "NeedsRestart");
    world.pct(&["stop", "100"]);
    let message = until_held(&daemon, "NotStarted");
    let advice = format!("take out `{DEADLY}` in /etc/pve/lxc/100.conf");
    assert!(message.ends_with(&advice), "{message}");
    // Nobody but its admin starts it.
    assert!(!world.calls().iter().any(|call| call.starts_with("start")));
    define(&world, settings, &json!({"100": {"lxc_options": []}}));
    daemon.until("the edit is in force", |status| status["config"]["generation"] == 2);
    world.node.write_conf(ctid(100), &before).unwrap();
    world.pct(&["start", "100"]);
    daemon.until_all("Converged");
    assert!(world.node.is_running(ctid(100)));
    assert_eq!(world.conf(100), before);
}

#[test]
fn a_daemon_killed_during_a_restart_that_fails_takes_the_lines_back_later() {
    let Some(world) = world(&[]) else { return };
    let before = world.conf(100);
    world.node.set_guest(ctid(100), Guest::Slow(400)).unwrap();
    let deadly = json!({"100": {"lxc_options": [DEADLY]}});
    define(&world, r#", "manage": ["lxc_options"]"#, &deadly);
    let mut daemon = world.pctd.start();
    eventually("the reboot has begun", || world.calls() == [REBOOT]);
    daemon.signal(rustix::process::Signal::KILL);
    daemon.wait();
    eventually("the reboot has ended", || {
        world.node.pct_calls().unwrap().iter().all(|call| call.ended.is_some())
    });
    assert!(!world.node.is_running(ctid(100)));
    let daemon = world.pctd.start();
    eventually("the container is back", || world.node.is_running(ctid(100)));
    until_held(&daemon, "NeedsRestart");
    assert_eq!(world.conf(100), before);
}

#[test]
fn a_line_that_somebody_removes_comes_back_and_those_of_others_stay_in_order() {
    let Some(world) = World::new(env!("CARGO_BIN_EXE_pctd-tests")) else { return };
    world.container(100, &[UNPRIVILEGED, "lxc.cap.drop: b", "lxc.cap.drop: a"]);
    let wanted = json!({"100": {"lxc_options": ["lxc.cap.drop: a", "lxc.cap.drop: c"]}});
    define(&world, r#", "manage": ["lxc_options"]"#, &wanted);
    let daemon = world.pctd.start();
    daemon.until_all("Converged");
    let whole = world.conf(100);
    let raw: Vec<&str> = whole.lines().filter(|line| line.starts_with("lxc.")).collect();
    assert_eq!(raw, ["lxc.cap.drop: b", "lxc.cap.drop: a", "lxc.cap.drop: c"]);
    world.node.write_conf(ctid(100), whole.replace("lxc.cap.drop: c\n", "")).unwrap();
    eventually("it is back", || world.conf(100) == whole);
    daemon.until_all("Converged");
    daemon.stop();
    // Undeclared, only what pctd added goes.
    define(&world, r#", "prune": true"#, &json!({}));
    world.apply(&["100"], 0);
    assert_eq!(world.conf(100), conf(100, &[UNPRIVILEGED, "lxc.cap.drop: b", "lxc.cap.drop: a"]));
}

#[test]
fn a_removed_line_that_the_hook_of_a_stop_brings_back_is_removed_again() {
    let Some(world) = World::new(env!("CARGO_BIN_EXE_pctd-tests")) else { return };
    world.container(100, &[UNPRIVILEGED]);
    let wanted = json!({"100": {"lxc_options": ["lxc.cap.drop: c"]}});
    define(&world, r#", "manage": ["lxc_options"]"#, &wanted);
    world.apply(&[], 0);
    let (with, without) = (world.conf(100), conf(100, &[UNPRIVILEGED]));
    assert_eq!(with, format!("{without}lxc.cap.drop: c\n"));
    define(&world, r#", "prune": true"#, &json!({}));
    world.apply(&["100"], 0);
    assert_eq!(world.conf(100), without);
    // It had read the conf before, and heeds no lock.
    world.node.write_conf(ctid(100), &with).unwrap();
    world.apply(&["100"], 0);
    assert_eq!(world.conf(100), without);
    // Seen to be gone, it is nobody's; the same line later is its writer's.
    world.apply(&["100"], 0);
    world.node.write_conf(ctid(100), &with).unwrap();
    world.apply(&["--yes"], 0);
    assert_eq!(world.conf(100), with);
}

#[test]
fn an_edit_waits_for_the_lock_of_a_task_and_nothing_is_lost_between_them() {
    let Some(world) = World::new(env!("CARGO_BIN_EXE_pctd-tests")) else { return };
    world.container(100, &[UNPRIVILEGED]);
    let held = world.node.hold_flock(ctid(100)).unwrap();
    let wanted = json!({"100": {"lxc_options": ["lxc.cap.drop: c"]}});
    define(&world, r#", "manage": ["lxc_options"]"#, &wanted);
    let daemon = world.pctd.start();
    daemon.until("a task is at work", |status| {
        holds(status, "containers", "100").contains(&"Busy".to_owned())
    });
    assert_eq!(world.conf(100), conf(100, &[UNPRIVILEGED]));
    drop(held);
    daemon.until_all("Converged");
    // Writers of Proxmox's and pctd's edits at once: every change of both is there in the end.
    let world = &world;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..20 {
                world.pct(&["set", "100", &format!("--mp{n}"), &format!("/srv,mp=/m{n}")]);
            }
        });
        for n in 0..20 {
            let lines: Vec<String> = (0..=n).map(|n| format!("lxc.cap.drop: c{n}")).collect();
            define(
                world,
                r#", "manage": ["lxc_options"]"#,
                &json!({"100": {"lxc_options": lines}}),
            );
            let last = format!("lxc.cap.drop: c{n}\n");
            eventually("the line is there", || world.conf(100).contains(&last));
        }
    });
    let text = world.conf(100);
    assert_eq!(text.lines().filter(|line| line.starts_with("mp")).count(), 20, "{text}");
    assert_eq!(text.lines().filter(|line| line.starts_with("lxc.cap.drop: c")).count(), 21);
}

#[test]
fn without_quorum_no_conf_is_edited() {
    let Some(world) = World::new(env!("CARGO_BIN_EXE_pctd-tests")) else { return };
    world.container(100, &[UNPRIVILEGED]);
    world.node.set_quorum(false).unwrap();
    let wanted = json!({"100": {"lxc_options": ["lxc.cap.drop: c"]}});
    define(&world, r#", "manage": ["lxc_options"]"#, &wanted);
    let daemon = world.pctd.start();
    until_held(&daemon, "NoQuorum");
    assert_eq!(world.conf(100), conf(100, &[UNPRIVILEGED]));
    world.node.set_quorum(true).unwrap();
    daemon.until_all("Converged");
}

#[test]
fn raw_lines_that_are_not_managed_are_shown_and_left_alone() {
    let Some(world) = world(&[]) else { return };
    let before = world.conf(100);
    define(&world, "", &json!({"100": {"lxc_options": ["lxc.cap.drop: c"]}}));
    world.apply(&[], 0);
    assert_eq!(world.conf(100), before);
    let ran = world.pctd.run(&["plan", "-v"]);
    assert!(
        ran.stdout
            .contains("lxc_options is not managed: declared lxc: lxc.cap.drop: c, found nothing"),
        "{ran:?}"
    );
}

#[test]
fn a_reboot_that_is_refused_leaves_what_waits_waiting() {
    let Some(world) = world(&[]) else { return };
    let fault = FaultKind::Fail { exit: 255, stderr: "no".into() };
    world.node.inject(Fault::next(fault).on("reboot").times(2)).unwrap();
    let settings = r#", "restart_limit": "0s", "manage": ["lxc_options"]"#;
    define(&world, settings, &json!({"100": {"lxc_options": ["lxc.cap.drop: c"]}}));
    let daemon = world.pctd.start();
    daemon.until_all("Converged");
    assert_eq!(world.calls(), [REBOOT; 3]);
    assert!(world.conf(100).contains("lxc.cap.drop: c\n"));
}
