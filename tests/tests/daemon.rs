//! The life of the daemon: start, signals, what systemd is told, what it does when `/etc/pve` or
//! the configuration is not what it should be.

#![expect(clippy::unwrap_used, reason = "a test whose node cannot be made ends")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use pctd_core::ids::Ctid;
use pctd_sandbox::{Node, NodeOptions};
use pctd_tests::daemon::{Daemon, Pctd, eventually, states};
use pctd_tests::world::{own, skip};
use rustix::fs::chmod;
use rustix::process::Signal;

const CONFIG: &str = r#"{
    "settings": {"seed_defaults": false, "poll_interval": "100ms"},
    "shared_volumes": {
        "data": {"host_path": "/tank/data", "owner": "container_root", "dir_mode": "0775",
                 "mounts": {"100": "/data"}}
    }
}"#;

const CONF: &str = "arch: amd64\nmemory: 512\nostype: debian\nrootfs: local:100/vm-100-disk-0.raw,size=1G\nswap: 512\nunprivileged: 1\n";

/// A node with container 100 and the configuration above.
struct House {
    node: Node,
    pctd: Pctd,
    /// Counts direct edits of confs, as pmxcfs does.
    served: Option<pctd_sandbox::Served>,
    _directory: tempfile::TempDir,
}

fn ctid(id: u32) -> Ctid {
    Ctid::new(id).unwrap()
}

impl House {
    /// Makes the house, or says that it takes root and skips.
    fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            skip("the life of the daemon", "owners can only be changed by root");
            return None;
        }
        let directory = tempfile::Builder::new().prefix("pctd").tempdir().unwrap();
        let node = Node::create(directory.path(), NodeOptions::default()).unwrap();
        node.install_programs(env!("CARGO_BIN_EXE_pctd-tests")).unwrap();
        node.create_volume("local:100/vm-100-disk-0.raw", 1 << 30).unwrap();
        node.write_conf(ctid(100), CONF).unwrap();
        let pctd = Pctd::new(node.root().join("usr/sbin/pctd"), node.root());
        let served = node.serve();
        let house = Self { node, pctd, served: Some(served), _directory: directory };
        house.configure(CONFIG);
        Some(house)
    }

    fn path(&self, path: &str) -> PathBuf {
        self.node.root().join(path.trim_start_matches('/'))
    }

    fn configure(&self, text: &str) {
        fs::create_dir_all(self.path("/etc/pctd")).unwrap();
        let path = self.path("/etc/pctd/config.json");
        fs::write(path.with_extension("new"), text).unwrap();
        fs::rename(path.with_extension("new"), path).unwrap();
    }

    fn calls(&self) -> usize {
        self.node.pct_calls().unwrap().len()
    }

    fn is_mounted(&self) -> bool {
        let conf = self.node.read_conf(ctid(100)).unwrap().unwrap_or_default();
        String::from_utf8_lossy(&conf).contains("mp0: /tank/data,mp=/data")
    }
}

fn converged(house: &House) -> Daemon {
    let daemon = house.pctd.start();
    daemon.until_all("Converged");
    daemon
}

#[test]
fn systemd_is_told_of_the_start_the_state_a_reload_and_the_end() {
    let Some(house) = House::new() else { return };
    let mut daemon = house.pctd.spawn(&[("WATCHDOG_USEC", "400000")]);
    daemon.wait_for("READY=1");
    daemon.wait_for("STATUS=2 of 2 in place");
    daemon.wait_for("WATCHDOG=1");
    daemon.signal(Signal::HUP);
    daemon.wait_for("RELOADING=1");
    daemon.wait_for("READY=1");
    daemon.signal(Signal::TERM);
    daemon.wait_for("STOPPING=1");
    assert!(daemon.wait().success());
    assert!(house.is_mounted());
}

#[test]
fn sigint_ends_it_too_and_leaves_no_socket_that_answers() {
    let Some(house) = House::new() else { return };
    let mut daemon = converged(&house);
    daemon.signal(Signal::INT);
    assert!(daemon.wait().success());
    let status = house.pctd.run(&["status"]);
    assert_eq!(status.code, 1);
    assert!(status.stderr.contains("no daemon is running"), "{status:?}");
}

#[test]
fn a_second_sigterm_ends_it_at_once() {
    let Some(house) = House::new() else { return };
    // A `pct` that takes long keeps the first SIGTERM waiting.
    let fault = pctd_sandbox::FaultKind::Hang { millis: 10_000, holding_flock: false };
    house.node.inject(pctd_sandbox::Fault::next(fault).on("set")).unwrap();
    let mut daemon = house.pctd.start();
    eventually("pct runs", || house.calls() == 1);
    daemon.signal(Signal::TERM);
    daemon.wait_for("STOPPING=1");
    let begun = Instant::now();
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait().code(), Some(143));
    assert!(begun.elapsed() < Duration::from_secs(1));
}

#[test]
fn more_time_is_asked_for_while_a_step_goes_on_that_must_not_be_cut() {
    let Some(house) = House::new() else { return };
    let fault = pctd_sandbox::FaultKind::Hang { millis: 7_000, holding_flock: false };
    house.node.inject(pctd_sandbox::Fault::next(fault).on("set")).unwrap();
    let mut daemon = house.pctd.start();
    eventually("pct runs", || house.calls() == 1);
    daemon.signal(Signal::TERM);
    daemon.wait_for("STOPPING=1");
    // At once, and again after five seconds.
    daemon.wait_for("EXTEND_TIMEOUT_USEC=60000000");
    daemon.wait_for("EXTEND_TIMEOUT_USEC=60000000");
    assert!(daemon.wait().success());
    assert!(daemon.log().contains("which must not be cut"), "{}", daemon.log());
    let more = daemon.told().into_iter().filter(|told| told.starts_with("EXTEND"));
    assert_eq!(more.count(), 0, "nothing is asked for any more");
    assert!(house.is_mounted());
}

#[test]
fn a_second_daemon_refuses_to_run_and_names_the_first() {
    let Some(house) = House::new() else { return };
    let daemon = converged(&house);
    let second = house.pctd.run(&["run"]);
    assert_eq!(second.code, 1);
    assert!(second.stderr.contains(&daemon.pid().to_string()), "{second:?}");
    daemon.stop();
}

#[test]
fn a_killed_daemon_starts_again_over_its_old_socket_and_lock() {
    let Some(house) = House::new() else { return };
    let mut daemon = converged(&house);
    daemon.signal(Signal::KILL);
    daemon.wait();
    let calls = house.calls();
    converged(&house).stop();
    assert_eq!(house.calls(), calls, "what was done is not done again");
}

#[test]
fn only_root_can_reach_the_socket() {
    let Some(house) = House::new() else { return };
    let daemon = converged(&house);
    let socket = fs::metadata(house.path("/run/pctd/pctd.sock")).unwrap();
    assert_eq!(socket.permissions().mode() & 0o777, 0o600);
    daemon.stop();
}

#[test]
fn apply_goes_through_the_daemon_that_runs() {
    let Some(house) = House::new() else { return };
    let daemon = converged(&house);
    house.node.serve();
    assert!(house.node.pct(["set", "100", "--delete", "mp0"]).unwrap().is_success());
    let report = house.pctd.json(&["apply"]);
    assert_eq!(report["summary"]["holds"], 0, "{report:#}");
    assert!(house.is_mounted());
    let unknown = house.pctd.run(&["apply", "999"]);
    assert_eq!(unknown.code, 1);
    daemon.stop();
}

#[test]
fn a_bad_edit_is_refused_and_the_last_good_configuration_stays_in_force() {
    let Some(house) = House::new() else { return };
    let daemon = converged(&house);
    for bad in [
        "{",
        r#"{"shared_volumes": {"data": {"host_path": "/etc", "mounts": {}}}}"#,
        r#"{"settings": {"poll_interval": "1s", "poll_interval": "2s"}}"#,
    ] {
        house.configure(bad);
        let why = |status: &serde_json::Value| {
            status["config"]["valid"] == false
                && status["config"]["error"].as_str().is_some_and(|e| e.contains("config.json:1:"))
        };
        daemon.until("the edit is refused", why);
        assert!(house.node.pct(["set", "100", "--delete", "mp0"]).unwrap().is_success());
        eventually("the old configuration is still enforced", || house.is_mounted());
    }
    fs::remove_file(house.path("/etc/pctd/config.json")).unwrap();
    daemon.until("a missing file is refused", |status| status["config"]["valid"] == false);
    assert!(house.is_mounted());
    house.configure(CONFIG);
    daemon.until("the good one is accepted", |status| status["config"]["valid"] == true);
    assert_eq!(daemon.status()["config"]["generation"], 1, "an equal one is no new generation");
    daemon.stop();
}

#[test]
fn a_configuration_that_others_could_change_is_refused_and_the_last_good_one_stays() {
    let Some(house) = House::new() else { return };
    let daemon = converged(&house);
    let (dir, file) = (house.path("/etc/pctd"), house.path("/etc/pctd/config.json"));
    let refused = |said: &str| {
        daemon.until("it is refused", |status| {
            let error = status["config"]["error"].as_str();
            status["config"]["valid"] == false && error.is_some_and(|error| error.contains(said))
        });
        assert!(house.node.pct(["set", "100", "--delete", "mp0"]).unwrap().is_success());
        eventually("the old configuration is still enforced", || house.is_mounted());
    };
    let accepted = || daemon.until("accepted", |status| status["config"]["valid"] == true);

    chmod(&file, 0o664.into()).unwrap();
    refused("group 0 may write to");
    chmod(&file, 0o644.into()).unwrap();
    accepted();
    chmod(&dir, 0o777.into()).unwrap();
    refused("everybody may write to");
    chmod(&dir, 0o755.into()).unwrap();
    accepted();
    own(&file, 1000, 0);
    refused("belongs to uid 1000; run `chown -h root ");
    own(&file, 0, 0);
    accepted();
    assert_eq!(daemon.status()["config"]["generation"], 1, "an equal one is no new generation");

    // What somebody else may have written is not in force until the admin says that it is meant.
    chmod(&file, 0o666.into()).unwrap();
    let written = CONFIG.replace("/data\"}}", "/elsewhere\"}}");
    assert_ne!(written, CONFIG);
    fs::write(&file, written).unwrap();
    refused("everybody may write to");
    chmod(&file, 0o644.into()).unwrap();
    daemon.until("accepted", |status| status["config"]["generation"] == 2);
    daemon.stop();
}

#[test]
fn with_a_bad_configuration_at_the_start_it_is_ready_and_does_nothing() {
    let Some(house) = House::new() else { return };
    house.configure(r#"{"shared_volumes": {"data": {"host_path": "relative", "mounts": {}}}}"#);
    let daemon = house.pctd.start();
    let status = daemon.status();
    assert_eq!(status["config"]["valid"], false);
    assert_eq!(status["config"]["generation"], 0);
    let error = status["config"]["error"].as_str().unwrap();
    assert!(error.contains("shared_volumes.data.host_path"), "{error}");
    assert!(daemon.log().contains(error), "{}", daemon.log());
    assert_eq!(house.calls(), 0);
    house.configure(CONFIG);
    eventually("what is put right converges", || house.is_mounted());
    daemon.stop();
}

#[test]
fn what_cannot_be_known_is_unknown_and_nothing_is_done() {
    let Some(mut house) = House::new() else { return };
    // It would take the confs that are moved away below for deleted, and say so in .vmlist.
    house.served = None;
    let daemon = converged(&house);
    let calls = house.calls();
    let lxc = house.path("/etc/pve/nodes/vm/lxc");
    let aside = house.path("/etc/pve/aside");
    let unknown = |status: &serde_json::Value| {
        states(status).all(|(_, state)| state == "Held" || state == "Unknown")
            && status["containers"]["100"]["conditions"]["Defined"]["status"] == "Unknown"
    };

    // The directory of confs is gone while .vmlist lists a container in it.
    fs::rename(&lxc, &aside).unwrap();
    daemon.signal(Signal::HUP);
    daemon.until("no directory of confs", unknown);
    fs::create_dir(&lxc).unwrap();
    daemon.until("an empty directory of confs", unknown);
    fs::remove_dir(&lxc).unwrap();
    fs::rename(&aside, &lxc).unwrap();
    daemon.until_all("Converged");

    // .vmlist cannot be parsed.
    house.node.spoil_vmlist().unwrap();
    daemon.until("a spoilt .vmlist", unknown);
    assert_ne!(daemon.status()["daemon"]["node"], "up");
    house.node.write_conf(ctid(100), house.node.read_conf(ctid(100)).unwrap().unwrap()).unwrap();
    daemon.until_all("Converged");

    // pmxcfs is stopped: /etc/pve is an empty directory.
    house.node.stop_pmxcfs().unwrap();
    daemon.until("a stopped pmxcfs", unknown);
    let plan = house.pctd.run(&["plan"]);
    assert_eq!(plan.code, 3, "a plan of nothing known is not in sync: {plan:?}");
    assert!(plan.stdout.contains("NodeUnknown"), "{plan:?}");
    house.node.start_pmxcfs().unwrap();
    daemon.until_all("Converged");

    assert_eq!(house.calls(), calls, "nothing was done meanwhile");
    daemon.stop();
}

#[test]
fn without_quorum_no_conf_is_written_and_ownership_goes_on() {
    let Some(house) = House::new() else { return };
    house.node.set_quorum(false).unwrap();
    let daemon = house.pctd.start();
    daemon.until("no quorum", |status| {
        status["containers"]["100"]["holds"][0]["reason"] == "NoQuorum"
            && status["volumes"]["data"]["state"] == "Converged"
    });
    assert_eq!(house.calls(), 0);
    house.node.set_quorum(true).unwrap();
    daemon.signal(Signal::HUP);
    daemon.until_all("Converged");
    daemon.stop();
}

#[test]
fn a_converged_node_is_left_alone_and_nothing_is_logged() {
    let Some(house) = House::new() else { return };
    converged(&house).stop();
    let calls = house.calls();
    let daemon = house.pctd.start();
    daemon.until_all("Converged");
    for _ in 0..3 {
        daemon.signal(Signal::HUP);
        assert_eq!(house.pctd.run(&["apply"]).code, 0);
    }
    assert_eq!(house.calls(), calls);
    let log = daemon.log();
    daemon.stop();
    let loud: Vec<&str> = log.lines().filter(|line| !line.contains("DEBUG")).collect();
    assert_eq!(loud.len(), 2, "only the start and the configuration: {loud:#?}");
}

#[test]
fn a_conf_that_another_node_changed_is_found_by_the_poll() {
    let Some(house) = House::new() else { return };
    let daemon = converged(&house);
    // As on a cluster: the content and .vmlist change, and no event is raised. The watch of the
    // daemon sees the rename here; what is shown is that the poll alone would do.
    assert!(house.node.pct(["set", "100", "--delete", "mp0"]).unwrap().is_success());
    eventually("the mount is back", || house.is_mounted());
    eventually("the poll saw it as well", || daemon.log().contains("news=Vmlist"));
    daemon.stop();
}

#[test]
fn a_stop_in_the_middle_of_a_walk_leaves_the_root_for_the_next_start() {
    let Some(house) = House::new() else { return };
    let root = house.path("/tank/data");
    for directory in 0..150 {
        let directory = root.join(directory.to_string());
        fs::create_dir_all(&directory).unwrap();
        for file in 0..50 {
            fs::write(directory.join(file.to_string()), "").unwrap();
        }
    }
    let daemon = house.pctd.start();
    daemon.stop();
    converged(&house).stop();
    let wrong = std::process::Command::new("find")
        .arg(&root)
        .args(["-not", "-uid", "100000"])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&wrong.stdout), "", "every entry is owned in the end");
}
