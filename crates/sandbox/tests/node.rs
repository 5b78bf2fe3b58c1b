//! A simulated node as the daemon meets it: through its directory and the program `pct`.

#![expect(clippy::unwrap_used, reason = "a test whose preparation fails shall end there")]

use std::fs;
use std::io::{Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use pctd_core::ids::Ctid;
use pctd_sandbox::{Fault, FaultKind, Guest, Node, NodeOptions, Output, Timings};
use rustix::process::{Pid, Signal, kill_process};

const CONF: &str = "arch: amd64\nhostname: web\nmemory: 512\nostype: debian\n\
                    rootfs: local:100/vm-100-disk-0.raw,size=102M\nswap: 512\nunprivileged: 1\n";

/// Nothing here takes this long unless something is wrong.
const PATIENCE: Duration = Duration::from_secs(10);

struct Fixture {
    node: Node,
    /// Removed last; containers that still run end with it.
    _dir: tempfile::TempDir,
}

fn ct() -> Ctid {
    Ctid::new(100).unwrap()
}

fn fixture_with(timings: &Timings) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let timings = Timings { second_ms: 50, ..timings.clone() };
    let node = Node::create(dir.path(), NodeOptions { timings, ..NodeOptions::default() }).unwrap();
    node.install_programs(env!("CARGO_BIN_EXE_pctd-sandbox")).unwrap();
    Fixture { node, _dir: dir }
}

/// Returns a node with container 100, whose disk exists.
fn fixture() -> Fixture {
    let fixture = fixture_with(&Timings::default());
    fixture.node.create_volume("local:100/vm-100-disk-0.raw", 102 << 20).unwrap();
    fixture.node.write_conf(ct(), CONF).unwrap();
    fixture
}

impl Fixture {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.node.root().join("usr/sbin/pct"));
        command.args(arguments).env_remove("PCTD_SANDBOX_ROOT").env("LC_ALL", "C.UTF-8");
        command
    }

    /// Runs the program.
    fn pct(&self, arguments: &[&str]) -> Output {
        let output = self.command(arguments).output().unwrap();
        let exit = u8::try_from(output.status.code().unwrap_or(255)).unwrap();
        Output { exit, stdout: output.stdout, stderr: output.stderr }
    }

    fn ok(&self, arguments: &[&str]) {
        let output = self.pct(arguments);
        assert!(
            output.is_success(),
            "{arguments:?}: {}{}",
            output.stdout_text(),
            output.stderr_text()
        );
    }

    fn spawn(&self, arguments: &[&str]) -> Child {
        self.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    fn conf(&self) -> String {
        String::from_utf8(self.node.read_conf(ct()).unwrap().unwrap_or_default()).unwrap()
    }

    fn version(&self) -> u64 {
        let text = fs::read_to_string(self.node.root().join("etc/pve/.vmlist")).unwrap();
        let list: serde_json::Value = serde_json::from_str(&text).unwrap();
        list["ids"]["100"]["version"].as_u64().unwrap_or_default()
    }

    fn flock_is_held(&self) -> bool {
        let file = fs::File::open(self.node.paths().flock("100")).unwrap();
        let lock = rustix::fs::FlockOperation::NonBlockingLockExclusive;
        rustix::fs::flock(&file, lock).is_err()
    }

    /// Finds the monitor of container 100 as the daemon does, and the child of its main thread.
    fn monitor(&self) -> Option<(i32, i32)> {
        let name = self.node.paths().command_socket("100");
        let address = SocketAddr::from_abstract_name(name.as_bytes()).unwrap();
        let stream = UnixStream::connect_addr(&address).ok()?;
        let monitor =
            rustix::net::sockopt::socket_peercred(&stream).unwrap().pid.as_raw_nonzero().get();
        let children =
            fs::read_to_string(format!("/proc/{monitor}/task/{monitor}/children")).unwrap();
        Some((monitor, children.trim().parse().ok()?))
    }
}

fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "not reached: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

#[test]
fn a_new_node_looks_like_one() {
    let Fixture { node, _dir } = fixture();
    let pve = node.root().join("etc/pve");
    assert_eq!(fs::read_link(pve.join("lxc")).unwrap(), Path::new("nodes/vm/lxc"));
    assert!(pve.join("lxc/100.conf").exists());
    for file in [".version", ".vmlist", ".members"] {
        let text = fs::read_to_string(pve.join(file)).unwrap();
        serde_json::from_str::<serde_json::Value>(&text).unwrap();
    }
    assert!(Node::create(node.root(), NodeOptions::default()).is_err());
}

#[test]
fn every_change_of_a_conf_moves_its_version() {
    let fixture = fixture();
    let mut last = fixture.version();
    let mut moved = |what: &str| {
        let version = fixture.version();
        assert_ne!(version, last, "{what}");
        last = version;
    };
    fixture.ok(&["set", "100", "--tags", "x"]);
    moved("pct set");
    fixture.ok(&["set", "100", "--tags", "x"]);
    moved("pct set of the same value");
    fixture.node.write_conf(ct(), CONF).unwrap();
    moved("a client of the library");
    fs::write(fixture.node.conf_path(ct()).unwrap(), format!("{CONF}#edited\n")).unwrap();
    assert!(fixture.node.pmxcfs().refresh().unwrap());
    moved("an editor");
    let _served = fixture.node.serve();
    fs::write(fixture.node.conf_path(ct()).unwrap(), CONF).unwrap();
    let before = last;
    wait_for("the watcher counts an edit", || fixture.version() != before);
}

#[test]
fn a_running_container_has_a_socket_a_monitor_and_an_init_with_its_ids() {
    let fixture = fixture();
    fixture.node.create_host_dir("/srv/h1").unwrap();
    fixture.ok(&["set", "100", "--mp0", "/srv/h1,mp=/data,ro=1"]);
    fixture.ok(&["start", "100"]);
    let (monitor, init) = fixture.monitor().unwrap();
    assert_eq!(fixture.node.running().into_iter().collect::<Vec<_>>(), [ct()]);
    assert_eq!(fixture.node.mounts(ct())[0].target, "/data");
    let map = |name: &str| {
        let text = fs::read_to_string(format!("/proc/{init}/{name}")).unwrap();
        text.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    if rustix::process::geteuid().is_root() && map("uid_map")[1] != "0" {
        assert_eq!(map("uid_map"), ["0", "100000", "65536"]);
        assert_eq!(map("gid_map"), ["0", "100000", "65536"]);
    }
    fixture.ok(&["stop", "100"]);
    assert!(fixture.monitor().is_none());
    wait_for("the monitor is gone", || !Path::new(&format!("/proc/{monitor}/status")).exists());
    assert!(fixture.node.mounts(ct()).is_empty());
}

#[test]
fn a_stop_rewrites_the_conf_although_the_flock_is_held() {
    let fixture = fixture();
    fixture.ok(&["start", "100"]);
    fixture
        .node
        .write_conf(ct(), format!("{CONF}garbage\n\n[pve:pending]\nfeatures: nesting=1\n"))
        .unwrap();
    let version = fixture.version();
    let _held = fixture.node.hold_flock(ct()).unwrap();
    let (_, init) = fixture.monitor().unwrap();
    kill_process(Pid::from_raw(init).unwrap(), Signal::KILL).unwrap();
    wait_for("the hook has written", || fixture.version() != version);
    assert_eq!(fixture.conf(), CONF.replace("hostname", "features: nesting=1\nhostname"));
    wait_for("the container is gone", || !fixture.node.is_running(ct()));
}

#[test]
fn a_reboot_applies_what_is_pending_and_kills_a_deaf_guest() {
    let fixture = fixture();
    for dir in ["/srv/h1", "/srv/h2"] {
        fixture.node.create_host_dir(dir).unwrap();
    }
    fixture.ok(&["set", "100", "--mp0", "/srv/h1,mp=/data"]);
    fixture.ok(&["start", "100"]);
    fixture.ok(&["set", "100", "--mp0", "/srv/h2,mp=/data"]);
    fixture.node.set_guest(ct(), Guest::Deaf).unwrap();
    let before = fixture.monitor().unwrap();
    let shutdown = fixture.pct(&["shutdown", "100", "--timeout", "1"]);
    assert_eq!(shutdown.stderr_text(), "container did not stop\n");
    fixture.ok(&["reboot", "100", "--timeout", "1"]);
    assert_ne!(fixture.monitor().unwrap(), before);
    assert_eq!(fixture.node.mounts(ct())[0].source, "/srv/h2");
    assert!(!fixture.conf().contains("pending"));
}

#[test]
fn a_start_that_fails_leaves_the_container_stopped() {
    let fixture = fixture();
    let failed = "unable to get PID for CT 100 (not running?)\n";
    for line in [
        "mp0: /srv/missing,mp=/data",
        "lxc.idmap: u 0 100000 65536",
        "lxc.idmap: u 0 200000 65536\nlxc.idmap: g 0 200000 65536",
        "lxc.idmap: b 0 100000 65536",
        "lxc.idmap: u 0 100000 65536\nlxc.idmap: g 0 100000 65536\nlxc.idmap: u 1000 1000 1",
    ] {
        fixture.node.write_conf(ct(), format!("{CONF}{line}\n")).unwrap();
        let output = fixture.pct(&["start", "100"]);
        assert_eq!((output.exit, output.stderr_text().as_str()), (255, failed), "{line}");
        assert!(!fixture.node.is_running(ct()), "{line}");
    }
}

#[test]
fn faults_hit_the_runs_they_are_meant_for() {
    let fixture = fixture();
    let fail = FaultKind::Fail { exit: 5, stderr: "no".into() };
    fixture.node.inject(Fault::next(fail).on("set").after(1)).unwrap();
    let spoil = FaultKind::FailAfterwards { exit: 2, stderr: "too late".into() };
    fixture.node.inject(Fault::next(spoil).with_argument("--swap")).unwrap();
    fixture
        .node
        .inject(Fault::next(FaultKind::Locked { lock: "backup".into() }).on("reboot"))
        .unwrap();
    // The library is neither hit nor counted.
    assert!(fixture.node.pct(["set", "100", "--tags", "a"]).unwrap().is_success());
    fixture.ok(&["set", "100", "--tags", "b"]);
    let output = fixture.pct(&["set", "100", "--tags", "c"]);
    assert_eq!((output.exit, output.stderr_text().as_str()), (5, "no\n"));
    fixture.ok(&["set", "100", "--tags", "d"]);
    let output = fixture.pct(&["set", "100", "--swap", "1"]);
    assert_eq!((output.exit, output.stderr_text().as_str()), (2, "too late\n"));
    assert!(fixture.conf().contains("swap: 1\ntags: d\n"));
    assert_eq!(fixture.pct(&["reboot", "100"]).stderr_text(), "CT is locked (backup)\n");
    assert!(fixture.node.clear_faults().unwrap().is_empty());
    let calls = fixture.node.pct_calls().unwrap();
    let exits: Vec<_> = calls.iter().map(|call| call.exit.unwrap()).collect();
    assert_eq!(exits, [0, 5, 0, 2, 255]);
    assert_eq!(calls[0].argv, ["set", "100", "--tags", "b"]);
}

#[test]
fn a_hanging_run_can_hold_the_flock() {
    let fixture = fixture();
    let hang = FaultKind::Hang { millis: 60_000, holding_flock: true };
    fixture.node.inject(Fault::next(hang)).unwrap();
    fixture.node.update_settings(|settings| settings.timings.lock_ms = 30).unwrap();
    let mut child = fixture.spawn(&["set", "100", "--tags", "x"]);
    wait_for("it hangs", || fixture.node.paths().flock("100").exists() && fixture.flock_is_held());
    let output = fixture.pct(&["set", "100", "--tags", "y"]);
    let text = "trying to acquire lock...\ncan't lock file '/run/lock/lxc/pve-config-100.lock' - got timeout\n";
    assert_eq!((output.exit, output.stderr_text().as_str()), (4, text));
    signal(&child, Signal::KILL);
    child.wait().unwrap();
    fixture.ok(&["set", "100", "--tags", "y"]);
    assert_eq!(fixture.node.pct_calls().unwrap()[0].ended, None);
}

#[test]
fn concurrent_sets_are_all_applied() {
    let fixture = fixture();
    let indices: Vec<String> = (0..5).map(|index| index.to_string()).collect();
    let children: Vec<Child> = indices
        .iter()
        .map(|index| {
            fixture.spawn(&["set", "100", &format!("--mp{index}"), &format!("/srv/a,mp=/m{index}")])
        })
        .collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    for index in indices {
        assert!(fixture.conf().contains(&format!("mp{index}: /srv/a,mp=/m{index}\n")));
    }
}

#[test]
fn a_create_is_seen_in_stages() {
    let timings = Timings { create_unpack_ms: 150, create_setup_ms: 150, ..Timings::default() };
    let fixture = fixture_with(&timings);
    let child =
        fixture.spawn(&["create", "100", "local:vztmpl/tiny.tar.gz", "--rootfs", "local:0.1"]);
    wait_for("reserved", || fixture.conf() == "lock: create\n");
    wait_for("nearly complete", || fixture.conf().contains("rootfs: "));
    assert!(!fixture.conf().contains("lock:") && !fixture.conf().contains("memory:"));
    assert!(fixture.flock_is_held());
    assert!(child.wait_with_output().unwrap().status.success());
    assert!(fixture.conf().contains("memory: 512\n"));
    assert!(!fixture.flock_is_held());
}

#[test]
fn a_killed_create_stays_locked_and_a_terminated_one_cleans_up() {
    for (how, stays) in [(Signal::KILL, true), (Signal::TERM, false)] {
        let fixture = fixture_with(&Timings { create_unpack_ms: 60_000, ..Timings::default() });
        let mut child =
            fixture.spawn(&["create", "100", "local:vztmpl/tiny.tar.gz", "--rootfs", "local:0.1"]);
        wait_for("the disk is made", || !fixture.node.volumes().unwrap().is_empty());
        signal(&child, how);
        assert!(!child.wait().unwrap().success());
        assert_eq!(fixture.conf(), if stays { "lock: create\n" } else { "" });
        assert_eq!(fixture.node.volumes().unwrap().is_empty(), !stays);
        if stays {
            assert_eq!(fixture.pct(&["destroy", "100"]).stderr_text(), "CT is locked (create)\n");
            fixture.ok(&["unlock", "100"]);
            fixture.ok(&["destroy", "100"]);
        }
    }
}

#[test]
fn a_clone_locks_both_meanwhile() {
    let fixture = fixture();
    fixture.node.update_settings(|settings| settings.timings.clone_copy_ms = 150).unwrap();
    let child = fixture.spawn(&["clone", "100", "101"]);
    let clone = || {
        let conf = fixture.node.read_conf(Ctid::new(101).unwrap()).unwrap().unwrap_or_default();
        String::from_utf8(conf).unwrap()
    };
    wait_for("both are locked", || {
        fixture.conf().contains("lock: disk") && clone().contains("hostname: web\nlock: create")
    });
    assert!(!clone().contains("rootfs"));
    assert!(child.wait_with_output().unwrap().status.success());
    assert_eq!(fixture.conf(), CONF);
    assert_eq!(clone(), CONF.replace("local:100/vm-100", "local:101/vm-101"));
}

#[test]
fn without_a_quorum_nothing_is_written() {
    let fixture = fixture();
    fixture.node.set_quorum(false).unwrap();
    assert_eq!(fixture.node.local_mode().unwrap(), 0o555);
    let output = fixture.pct(&["set", "100", "--tags", "x"]);
    assert!(output.stderr_text().ends_with("' - Permission denied\n"), "{}", output.stderr_text());
    assert_eq!(fixture.pct(&["start", "100"]).stderr_text(), "cluster not ready - no quorum?\n");
    assert_eq!(fixture.conf(), CONF);
    fixture.ok(&["config", "100"]);
    fixture.node.set_quorum(true).unwrap();
    fixture.ok(&["set", "100", "--tags", "x"]);
}

#[test]
fn a_stopped_pmxcfs_is_an_empty_directory() {
    let fixture = fixture();
    let version =
        || fs::read_to_string(fixture.node.root().join("etc/pve/.version")).unwrap_or_default();
    let before = version();
    fixture.node.stop_pmxcfs().unwrap();
    assert_eq!(fs::read_dir(fixture.node.root().join("etc/pve")).unwrap().count(), 0);
    let output = fixture.pct(&["list"]);
    assert_eq!(output.exit, 111);
    fixture.node.start_pmxcfs().unwrap();
    assert_ne!(version(), before);
    fixture.ok(&["status", "100"]);
    fixture.node.spoil_vmlist().unwrap();
    let list = fs::read(fixture.node.root().join("etc/pve/.vmlist")).unwrap();
    assert!(serde_json::from_slice::<serde_json::Value>(&list).is_err());
}

#[test]
fn a_container_can_move_to_another_node() {
    let dir = tempfile::tempdir().unwrap();
    let options = NodeOptions { peers: vec!["other".into()], ..NodeOptions::default() };
    let node = Node::create(dir.path(), options).unwrap();
    node.write_conf(ct(), CONF).unwrap();
    node.move_to(ct(), "other").unwrap();
    let list = fs::read_to_string(dir.path().join("etc/pve/.vmlist")).unwrap();
    assert!(list.contains("\"node\": \"other\""), "{list}");
    assert_eq!(node.pct(["status", "100"]).unwrap().exit, 2);
    assert!(node.write_conf(ct(), CONF).is_err());
    let create =
        node.pct(["create", "100", "local:vztmpl/tiny.tar.gz", "--rootfs", "local:0.1"]).unwrap();
    assert_eq!(create.stderr_text(), "CT 100 already exists on node 'other'\n");
}

#[test]
fn the_program_without_a_node_says_so() {
    let output = Command::new(env!("CARGO_BIN_EXE_pct"))
        .arg("list")
        .env_remove("PCTD_SANDBOX_ROOT")
        .output()
        .unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("PCTD_SANDBOX_ROOT"));
}

#[test]
fn the_socket_may_be_held_open_without_a_word() {
    let fixture = fixture();
    fixture.ok(&["start", "100"]);
    let name = fixture.node.paths().command_socket("100");
    let address = SocketAddr::from_abstract_name(name.as_bytes()).unwrap();
    let mut silent = UnixStream::connect_addr(&address).unwrap();
    let mut odd = UnixStream::connect_addr(&address).unwrap();
    odd.write_all(b"\x00\xff\n").unwrap();
    assert!(fixture.node.is_running(ct()));
    fixture.ok(&["stop", "100"]);
    assert_eq!(silent.read(&mut [0; 1]).unwrap_or(0), 0);
}
