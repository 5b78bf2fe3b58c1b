//! Starts and ends that somebody else decides on: a boot, a stop in the middle, a watchdog, a kill.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use pctd_sandbox::{Fault, FaultKind};
use pctd_tests::world::UNPRIVILEGED;
use rustix::process::{Signal, kill_process};

use crate::machine::{Machine, until};

const CONFIG: &str = r#"{
    "settings": {"seed_defaults": false, "poll_interval": "100ms"},
    "shared_volumes": {
        "data": {"host_path": "/tank/data", "owner": "container_root", "dir_mode": "0750",
                 "mounts": {"953": "/data"}}
    }
}
"#;

/// Root inside of container 953.
const OWNER: u32 = 100_000;

fn installed() -> Option<Machine> {
    let machine = Machine::node()?;
    machine.container(953, &[UNPRIVILEGED]);
    machine.boot_and_install();
    Some(machine)
}

/// Configures the machine and waits until `pct` is at work: for two seconds, and whatever tells it
/// to end meanwhile keeps it from what it is to do.
fn until_pct_works(machine: &Machine) {
    let long = FaultKind::Hang { millis: 2000, holding_flock: false };
    machine.pve().inject(Fault::next(long)).unwrap();
    machine.configure(CONFIG);
    until("pct is at work", || !machine.pve().pct_calls().unwrap().is_empty());
}

/// Returns the mounts in the conf of 953.
fn mounts(machine: &Machine) -> Vec<String> {
    let conf = machine.conf(953);
    conf.lines().filter(|line| line.starts_with("mp")).map(str::to_owned).collect()
}

#[test]
fn a_stop_waits_for_the_pct_that_is_at_work() {
    let Some(machine) = installed() else { return };
    until_pct_works(&machine);
    assert_eq!(mounts(&machine), [""; 0], "it has not written yet");
    machine.ok("systemctl stop pctd");
    assert_eq!(machine.show("Result"), "success");
    assert_eq!(mounts(&machine), ["mp0: /tank/data,mp=/data"]);
    let exits = |machine: &Machine| -> Vec<Option<u8>> {
        machine.pve().pct_calls().unwrap().iter().map(|call| call.exit).collect()
    };
    assert_eq!(exits(&machine), [Some(0)]);
    machine.ok("systemctl start pctd");
    machine.until_converged();
    assert_eq!(exits(&machine), [Some(0)], "the next start finds it done");
}

#[test]
fn a_kill_in_the_middle_of_a_change_is_made_good_after_the_restart() {
    let Some(machine) = installed() else { return };
    until_pct_works(&machine);
    // systemd takes the pct with it, where a stop does not.
    machine.ok("systemctl kill --kill-whom=main --signal=KILL pctd");
    until("started again", || machine.show("NRestarts") == "1");
    machine.until_converged();
    assert_eq!(mounts(&machine), ["mp0: /tank/data,mp=/data"]);
    assert_eq!(machine.show("ActiveState"), "active");
}

#[test]
fn a_daemon_that_stands_still_is_ended_by_the_watchdog_and_replaced() {
    let Some(machine) = Machine::node() else { return };
    machine.container(953, &[UNPRIVILEGED]);
    // The only thing that differs from the unit as shipped: it would take a minute.
    machine.write("/etc/systemd/system/pctd.service.d/soon.conf", "[Service]\nWatchdogSec=2s\n");
    machine.boot_and_install();
    machine.configure(CONFIG);
    machine.until_converged();
    // It is fed meanwhile: what follows is no watchdog that nobody feeds.
    machine.ok("sleep 5");
    assert_eq!(machine.show("NRestarts"), "0");

    let stopped = machine.show("MainPID");
    machine.ok("systemctl kill --kill-whom=main --signal=STOP pctd");
    until("started again", || machine.show("NRestarts") == "1");
    until("active", || machine.show("ActiveState") == "active");
    assert_ne!(machine.show("MainPID"), stopped);
    let entries = machine.journal("--grep 'Watchdog timeout'");
    assert_eq!(entries.len(), 1, "{entries:?}");
    machine.ok("pct set 953 --delete mp0");
    machine.until_converged();
    until("it works again", || mounts(&machine) == ["mp0: /tank/data,mp=/data"]);
}

/// Makes a volume of many files that are root's, and returns them.
fn many_files(volume: &Path) -> Vec<PathBuf> {
    let paths = (0..100).flat_map(|directory| (0..300).map(move |file| (directory, file)));
    let paths = paths.map(|(directory, file)| volume.join(format!("{directory}/{file}")));
    let make = |path: PathBuf| {
        fs::create_dir_all(path.parent()?).ok()?;
        fs::write(&path, "").ok()?;
        Some(path)
    };
    paths.map(|path| make(path).unwrap()).collect()
}

#[test]
fn a_stop_in_the_middle_of_a_walk_leaves_the_root_for_the_next_start() {
    let Some(machine) = installed() else { return };
    let volume = machine.path("/tank/data");
    let files = many_files(&volume);
    let is_done = |path: &Path| fs::metadata(path).unwrap().uid() == OWNER;
    let done = || files.iter().filter(|path| is_done(path)).count();
    let main = machine.main_process();
    machine.configure(&CONFIG.replace("{\"seed", "{\"confirm_above\": 100000, \"seed"));
    // The first of every directory: one of them is among the first that are done.
    let begun = || files.iter().step_by(300).any(|path| is_done(path));
    while !begun() {
        assert_eq!(machine.main_process(), main, "it runs");
    }
    // It stands still until systemd tells it to go on, after it was told to end.
    kill_process(main, Signal::STOP).unwrap();
    assert!((1..files.len()).contains(&done()), "{} are done", done());
    machine.ok("systemctl stop pctd");
    assert_eq!(machine.show("Result"), "success");
    assert!(done() < files.len(), "it did not finish the walk");
    assert!(!is_done(&volume), "the directory itself comes last");

    machine.ok("systemctl start pctd");
    machine.until_converged();
    assert_eq!((done(), is_done(&volume)), (files.len(), true));
}

#[test]
fn guests_start_after_the_first_look_and_that_after_the_cluster_file_system() {
    let Some(machine) = installed() else { return };
    let unit = |name: &str, script: &str| {
        let text = format!("[Service]\nType=oneshot\nExecStart=/bin/sh -c '{script}'\n");
        machine.write(&format!("/etc/systemd/system/{name}.service"), &text);
    };
    // As slow as on a node that waits for its cluster.
    unit("pve-cluster", "sleep 1; systemctl show -p ActiveState pctd > /var/log/cluster-saw");
    unit("pve-guests", "systemctl show -p ActiveState pctd > /var/log/guests-saw");
    machine.ok("systemctl add-wants multi-user.target pve-cluster pve-guests");
    machine.configure(CONFIG);
    machine.until_converged();
    machine.cut_power();
    machine.boot();
    assert_eq!(machine.read("/var/log/cluster-saw"), "ActiveState=inactive\n");
    assert_eq!(machine.read("/var/log/guests-saw"), "ActiveState=active\n");
    machine.until_converged();
    assert_eq!(machine.pve().pct_calls().unwrap().len(), 1, "the boot found all in place");
}
