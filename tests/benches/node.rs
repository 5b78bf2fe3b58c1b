//! What the daemon costs on a big node, and how soon it acts on an id map that appears late.
//!
//! `cargo bench -p pctd-tests` prints each figure beside its target. CPU is that of the daemon's
//! own process from `/proc`; nothing here is judged by wall time but the latency, which is one.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use pctd_core::ids::Ctid;
use pctd_sandbox::Node;
use pctd_tests::daemon::Pctd;
use pctd_tests::machine::{cpu_ticked, resident_kib};
use pctd_tests::statistics::percentile;
use pctd_tests::world::bare_node;

const CONTAINERS: u32 = 2000;
const MOUNTS: u32 = 5;

/// What `systemd/pctd.service` sets for the daemon.
const AS_THE_UNIT: [(&str, &str); 1] = [("MALLOC_ARENA_MAX", "1")];

fn main() {
    // `cargo test` runs benches, too, as a check that they build.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    if !rustix::process::geteuid().is_root() {
        eprintln!("this needs root, because pctd changes owners of files");
        return;
    }
    println!("{:<58} {:>10} {:>10}", "", "measured", "target");
    scale();
    late_id_map();
}

fn row(what: &str, measured: &str, target: &str) {
    println!("{what:<58} {measured:>10} {target:>10}");
}

fn node(directory: &Path) -> (Node, Pctd) {
    bare_node(directory, env!("CARGO_BIN_EXE_pctd-tests"))
}

fn configure(node: &Node, text: &str) {
    fs::write(node.root().join("etc/pctd/config.json"), text).expect("the node can be written");
}

/// 2,000 containers that mount 5 volumes each, and nothing to do.
fn scale() {
    let directory = tempfile::Builder::new().prefix("pctd").tempdir().expect("a directory");
    let (node, pctd) = node(directory.path());
    let mounts: Vec<String> = (0..MOUNTS).map(|n| format!("mp{n}: /tank/v{n},mp=/v{n}")).collect();
    let mounts = mounts.join("\n");
    let conf = format!(
        "arch: amd64\nhostname: c\nmemory: 512\n{mounts}\nostype: debian\nrootfs: local:x,size=1G\nswap: 512\nunprivileged: 1\n"
    );
    let lxc = node.root().join("etc/pve/nodes/vm/lxc");
    for id in 100..100 + CONTAINERS {
        fs::write(lxc.join(format!("{id}.conf")), &conf).expect("the node can be written");
    }
    node.pmxcfs().refresh().expect("the node can be written");
    let targets = |n: u32| {
        let each = (100..100 + CONTAINERS).map(|id| format!("\"{id}\": \"/v{n}\""));
        each.collect::<Vec<_>>().join(", ")
    };
    let volumes: Vec<String> = (0..MOUNTS)
        .map(|n| {
            format!(
                "\"v{n}\": {{\"host_path\": \"/tank/v{n}\", \"owner\": \"container_root\", \"mounts\": {{{}}}}}",
                targets(n)
            )
        })
        .collect();
    let config = |settings: &str| {
        format!(
            "{{\"settings\": {{\"seed_defaults\": false{settings}}}, \"shared_volumes\": {{{}}}}}",
            volumes.join(", ")
        )
    };

    let keys = CONTAINERS + MOUNTS;
    let all_in_place = format!("STATUS={keys} of {keys} in place");
    configure(&node, &config(""));
    let daemon = pctd.spawn(&AS_THE_UNIT);
    // Not by asking it: thousands of statuses are no idle daemon.
    daemon.wait_for(&all_in_place);
    std::thread::sleep(Duration::from_secs(2));
    let idle_time = Duration::from_secs(20);
    let before = cpu_ticked(daemon.pid());
    std::thread::sleep(idle_time);
    let idle = cpu_ticked(daemon.pid()).saturating_sub(before);
    let percent = 100.0 * idle.as_secs_f64() / idle_time.as_secs_f64();
    row("2,000 containers x 5 mounts: idle CPU, of a core", &format!("{percent:.2} %"), "< 0.5 %");
    row("  resident memory", &format!("{} MB", resident_kib(daemon.pid()) / 1024), "< 40 MB");
    daemon.stop();

    configure(&node, &config(", \"resync_interval\": \"1s\", \"poll_interval\": \"1h\""));
    let daemon = pctd.spawn(&AS_THE_UNIT);
    daemon.wait_for(&all_in_place);
    std::thread::sleep(Duration::from_secs(2));
    let resyncs = 10;
    let before = cpu_ticked(daemon.pid());
    std::thread::sleep(Duration::from_secs(resyncs));
    let spent = cpu_ticked(daemon.pid()).saturating_sub(before);
    let each = spent.as_secs_f64() * 1000.0 / f64::from(u32::try_from(resyncs).unwrap_or(1));
    row("  CPU of a full resync (observe and plan)", &format!("{each:.0} ms"), "< 300 ms");
    row(
        "  resident memory after it",
        &format!("{} MB", resident_kib(daemon.pid()) / 1024),
        "< 40 MB",
    );
    daemon.stop();
    let daemon = pctd.spawn(&AS_THE_UNIT);
    daemon.wait_for(&all_in_place);
    daemon.until_all("Converged");
    row(
        "  resident memory after a status of all",
        &format!("{} MB", resident_kib(daemon.pid()) / 1024),
        "",
    );
    daemon.stop();
    let calls = node.pct_calls().expect("the calls are there").len();
    row("  pct processes", &calls.to_string(), "0");
}

/// From the moment the conf is complete and its flock free to the right owner.
fn late_id_map() {
    let directory = tempfile::Builder::new().prefix("pctd").tempdir().expect("a directory");
    let (node, pctd) = node(directory.path());
    let rounds: u32 = 60;
    let volumes: Vec<String> = (0..rounds)
        .map(|n| {
            let id = 100 + n;
            format!("\"v{n}\": {{\"host_path\": \"/tank/v{n}\", \"owner\": \"container_root\", \"mounts\": {{\"{id}\": \"/v\"}}}}")
        })
        .collect();
    configure(
        &node,
        &format!(
            "{{\"settings\": {{\"seed_defaults\": false}}, \"shared_volumes\": {{{}}}}}",
            volumes.join(", ")
        ),
    );
    let _served = node.serve();
    let daemon = pctd.start();
    daemon.until_all("Converged");
    let millis: Vec<f64> = (0..rounds).map(|n| one_late_map(&node, n)).collect();
    let at = |percent: usize| format!("{:.1} ms", percentile(&millis, percent));
    row("late id map: flock free -> right owner, median of 60", &at(50), "< 200 ms");
    row("  90th percentile", &at(90), "");
    row("  worst", &at(100), "< 2 s");
    daemon.stop();
}

fn one_late_map(node: &Node, n: u32) -> f64 {
    let ctid = Ctid::new(100 + n).expect("an id");
    let root = node.root().join(format!("tank/v{n}"));
    let flock = node.hold_flock(ctid).expect("the flock is free");
    // As `pct create` goes on: locked, nearly complete without a lock, complete; the flock held.
    node.write_conf(ctid, "lock: create\n").expect("the node can be written");
    std::thread::sleep(Duration::from_millis(120));
    let conf = "arch: amd64\nrootfs: local:x,size=1G\nunprivileged: 1\n";
    node.write_conf(ctid, conf).expect("the node can be written");
    std::thread::sleep(Duration::from_millis(130));
    let early = fs::metadata(&root).is_ok_and(|stat| stat.uid() != 0);
    assert!(!early, "nothing is owned while the flock is held");
    let begun = Instant::now();
    drop(flock);
    while !fs::metadata(&root).is_ok_and(|stat| stat.uid() == 100_000) {
        assert!(begun.elapsed() < Duration::from_secs(20), "v{n} was never owned");
        std::thread::sleep(Duration::from_micros(100));
    }
    begun.elapsed().as_secs_f64() * 1000.0
}
