//! Conversions between privileged and unprivileged: both ways, running and stopped, and whatever
//! fails, is cut off or is killed on the way. A container is never lost, nor is anything in it.

#![expect(clippy::unwrap_used, reason = "what fails in a helper ends the test")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use pctd_sandbox::{Fault, FaultKind, Point, Timings};
use pctd_tests::daemon::{Daemon, eventually};
use pctd_tests::world::{HURRIED, UNPRIVILEGED, World, ctid, holds, own, skip};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

mod cut_off;
mod failures;
mod maps;
mod meanwhile;
mod refusals;

const PROGRAM: &str = env!("CARGO_BIN_EXE_pctd-tests");

/// A disk of 100 beside its root, of which backups have a copy.
const DISK: &str = "mp1: local:100/vm-100-disk-1.raw,mp=/data/v,backup=1,size=1G";

/// The volume that it shares with the host.
const BIND: &str = "mp0: /tank/data,mp=/data/bind";

/// What is in the root disk and in the other one, as the container sees the owners.
const FILES: [(&str, &str, u32); 4] = [
    ("local:100/vm-100-disk-0.raw", "etc/passwd", 0),
    ("local:100/vm-100-disk-0.raw", "tmp/of the web server", 33),
    ("local:100/vm-100-disk-1.raw", "root", 0),
    ("local:100/vm-100-disk-1.raw", "db/table", 999),
];

/// A node with container 100, which has files on two disks, and a volume of its root's; it is to be
/// converted to this. `None` where archives cannot be made.
fn world(timings: Timings, to_unprivileged: bool) -> Option<World> {
    let zstd = Command::new("zstd").arg("--version").output();
    if !zstd.is_ok_and(|output| output.status.success()) {
        skip("a conversion with a real archive", "there is no zstd");
        return None;
    }
    let world = World::with_timings(PROGRAM, timings)?;
    let base = if to_unprivileged { 0 } else { 100_000 };
    world.dir("/tank/data", base, 0o755);
    world.file("/tank/data/f", base, 0o644);
    let mut lines = vec![BIND, DISK, "onboot: 1", "lxc.cap.drop: sys_boot"];
    if !to_unprivileged {
        lines.push(UNPRIVILEGED);
    }
    world.node.create_volume("local:100/vm-100-disk-1.raw", 1 << 30).unwrap();
    world.container(100, &lines);
    for (volume, name, owner) in FILES {
        let path = world.node.volume_content(volume).join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, name).unwrap();
        own_all(&world.node.volume_content(volume), base);
        own(&path, base + owner, base + owner);
    }
    declare(&world, to_unprivileged, "", CONVERT);
    Some(world)
}

const CONVERT: &str = r#", "convert": {"backup_storage": "local"}"#;

fn declare(world: &World, unprivileged: bool, settings: &str, fields: &str) {
    world.config(&format!(
        r#"{{"settings": {{{HURRIED}, "restart_limit": "0s" {settings}}},
        "shared_volumes": {{"data": {{"host_path": "/tank/data", "owner": "container_root",
            "enforce": "always", "mounts": {{"100": "/data/bind"}}}}}},
        "lxc_configs": {{"100": {{"unprivileged": {unprivileged} {fields}}}}}}}"#
    ));
}

/// Gives a tree to the root of a container.
fn own_all(dir: &Path, base: u32) {
    own(dir, base, base);
    for entry in fs::read_dir(dir).unwrap().flatten() {
        if entry.path().is_dir() {
            own_all(&entry.path(), base);
        }
    }
}

fn start(world: &World) {
    let started = world.node.start_ct(ctid(100)).unwrap();
    assert!(started.is_success(), "{}", started.stderr_text());
}

/// Returns the lines of 100's conf.
fn lines(world: &World) -> Vec<String> {
    world.conf(100).lines().map(str::to_owned).collect()
}

fn is_unprivileged(world: &World) -> bool {
    lines(world).iter().any(|line| line == UNPRIVILEGED)
}

/// Returns the volume that a mount point of 100 names.
fn volume_of(world: &World, key: &str) -> String {
    let prefix = format!("{key}: ");
    let value =
        lines(world).into_iter().find_map(|line| Some(line.strip_prefix(&prefix)?.to_owned()));
    value.unwrap().split(',').next().unwrap().to_owned()
}

/// Returns every file on the disks of 100 with its owner as the container sees it.
fn files(world: &World) -> BTreeMap<(&'static str, &'static str), (u32, u32)> {
    let base = if is_unprivileged(world) { 100_000 } else { 0 };
    let each = |(volume, name, _): (&'static str, &'static str, u32)| {
        let key = if volume.ends_with("0.raw") { "rootfs" } else { "mp1" };
        let path = world.node.volume_content(&volume_of(world, key)).join(name);
        let stat = fs::symlink_metadata(&path).ok()?;
        assert_eq!(fs::read_to_string(&path).unwrap(), name);
        Some(((key, name), (stat.uid() - base, stat.gid() - base)))
    };
    FILES.into_iter().filter_map(each).collect()
}

/// Expects 100 to be whole, and this much of it to be as it was.
fn is_whole(world: &World, unprivileged: bool) {
    let context = world.conf(100);
    assert_eq!(is_unprivileged(world), unprivileged, "{context}");
    for line in [BIND, "onboot: 1", "lxc.cap.drop: sys_boot", "hostname: ct100"] {
        assert!(lines(world).contains(&line.to_owned()), "{line} is not in\n{context}");
    }
    assert!(!context.contains("lock:"), "{context}");
    let expected = FILES.map(|(volume, name, owner)| {
        let key = if volume.ends_with("0.raw") { "rootfs" } else { "mp1" };
        ((key, name), (owner, owner))
    });
    assert_eq!(files(world), BTreeMap::from(expected));
    let data = if unprivileged { "100000:100000" } else { "0:0" };
    assert_eq!(world.owner("/tank/data/f"), format!("{data} 0644"));
}

/// Expects 100 to be converted, its backup to be there, and nothing to be left over.
fn is_converted(world: &World, unprivileged: bool) {
    is_whole(world, unprivileged);
    let ledger = ledger(world);
    let archive = ledger["converted"]["100"].as_str().unwrap().to_owned();
    assert!(world.host(&archive).is_file(), "{archive}");
    assert!(world.host(&format!("{archive}.protected")).is_file(), "it is nobody's to prune");
    assert_eq!((&ledger["converting"], &ledger["start_owed"]), (&Value::Null, &Value::Null));
    let (code, plan) = world.plan();
    assert_eq!(code, 0, "{plan:#}");
    let notice = plan["containers"]["100"]["notices"][0]["message"].as_str().unwrap();
    assert!(notice.contains(&archive), "{notice}");
}

/// Returns the disks of 100 that nothing names.
fn leaked(world: &World) -> Vec<String> {
    let volumes = world.node.volumes().unwrap().into_iter();
    let named = [volume_of(world, "rootfs"), volume_of(world, "mp1")];
    volumes.filter(|volume| volume.contains(":100/") && !named.contains(volume)).collect()
}

fn ledger(world: &World) -> Value {
    let text = fs::read_to_string(world.host("/var/lib/pctd/ledger.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn inject(world: &World, command: &str, what: FaultKind, times: u32) {
    world.node.inject(Fault::next(what).on(command).times(times)).unwrap();
}

/// Returns the first words of what pctd ran.
fn commands(world: &World) -> Vec<String> {
    let first = |call: String| call.split(' ').next().unwrap_or_default().to_owned();
    world.calls().into_iter().map(first).collect()
}

fn held(daemon: &Daemon, reason: &str) {
    daemon.until(&format!("100 is held: {reason}"), |status| {
        holds(status, "containers", "100").iter().any(|hold| hold == reason)
    });
}

/// Returns the message of the first hold of 100.
fn message(world: &World) -> String {
    let plan = world.plan().1;
    plan["containers"]["100"]["holds"][0]["message"].as_str().unwrap_or_default().to_owned()
}

/// Waits for a run of this command that has not ended, and returns its process.
fn at_work(world: &World, command: &str) -> Pid {
    let mut found = None;
    eventually("it is at work", || {
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

#[test]
fn a_stopped_container_is_converted_either_way_with_everything_in_it() {
    for unprivileged in [true, false] {
        let Some(world) = world(Timings::default(), unprivileged) else { return };
        let report = world.apply(&[], 0);
        let steps = report["containers"]["100"]["steps"].as_array().unwrap();
        assert_eq!(steps.len(), 1, "{report:#}");
        assert_eq!(steps[0]["phase"], "replace");
        let calls = world.calls();
        assert_eq!(
            calls[0],
            "vzdump 100 --storage local --mode stop --compress zstd --stdexcludes 0 --remove 0 --protected 1"
        );
        let flag = u8::from(unprivileged);
        assert!(calls[1].starts_with("restore 100 /var/lib/vz/dump/vzdump-lxc-100-"), "{calls:?}");
        assert!(calls[1].ends_with(&format!("--force 1 --unprivileged {flag} --storage local")));
        assert_eq!(calls.len(), 2, "{calls:?}");
        assert!(!world.node.is_running(ctid(100)), "one that was stopped stays stopped");
        is_converted(&world, unprivileged);
        assert_eq!(leaked(&world), [""; 0]);
        // And nothing is left to do.
        world.apply(&[], 0);
        assert_eq!(world.calls(), calls);
    }
}

#[test]
fn a_running_container_is_stopped_and_started_once_its_volume_has_its_new_owner() {
    for unprivileged in [true, false] {
        let Some(world) = world(Timings::default(), unprivileged) else { return };
        start(&world);
        let daemon = world.pctd.start();
        daemon.until("it is converted", |_| is_unprivileged(&world) == unprivileged);
        daemon.until_all("Converged");
        assert_eq!(commands(&world), ["shutdown", "vzdump", "restore", "start"]);
        assert!(world.calls()[0].contains("--timeout 60"), "gracefully: {:?}", world.calls());
        assert!(world.node.is_running(ctid(100)));
        let log = daemon.log();
        let at = |what: &str| log.find(what).unwrap_or_else(|| panic!("{what} is not in\n{log}"));
        assert!(at("data: set owner") < at("100: started again"), "{log}");
        daemon.stop();
        is_converted(&world, unprivileged);
    }
}

#[test]
fn it_may_be_converted_back_and_the_backup_of_before_stays() {
    let Some(world) = world(Timings::default(), true) else { return };
    world.apply(&[], 0);
    let first = ledger(&world)["converted"]["100"].as_str().unwrap().to_owned();
    declare(&world, false, "", CONVERT);
    world.apply(&[], 0);
    is_converted(&world, false);
    assert!(world.host(&first).is_file(), "pctd removes no backup");
}

#[test]
fn nobody_else_acts_on_a_container_that_is_being_converted() {
    let timings = Timings { vzdump_ms: 400, restore_extract_ms: 400, ..Timings::default() };
    let Some(world) = world(timings, true) else { return };
    declare(&world, true, "", &format!(r#"{CONVERT}, "template": "local:vztmpl/tiny.tar.zst""#));
    // Its mount is gone, and would be put back.
    world.pct(&["set", "100", "--delete", "mp0"]);
    let daemon = world.pctd.start();
    for command in ["vzdump", "restore"] {
        at_work(&world, command);
        daemon.until("its volume waits for it", |status| {
            holds(status, "volumes", "data") == ["IdmapNotReady"]
        });
        assert_eq!(world.owner("/tank/data/f"), "0:0 0644", "during {command}");
        assert!(!world.conf(100).contains("mp0"), "during {command}");
    }
    daemon.until_all("Converged");
    daemon.stop();
    assert_eq!(commands(&world), ["vzdump", "restore", "set"]);
    is_converted(&world, true);
}
