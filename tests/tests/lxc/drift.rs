//! Drift, by the host's root and by a writer inside, put right within a second.

use super::*;

use std::fs;
use std::io::Write as _;
use std::process::Stdio;

use pctd_tests::statistics::percentile;

const SECOND: Duration = Duration::from_secs(1);

/// How many files a writer makes.
const SAMPLES: usize = 200;

const WATCHED: &str = r#""owner": "container_root", "dir_mode": "0775", "file_mode": "0664""#;

fn until_watched(daemon: &Daemon) {
    daemon.until("watched", |status| {
        status["volumes"]["data"]["conditions"]["Watched"]["reason"] == "Events"
    });
}

#[test]
fn what_the_hosts_root_makes_is_the_containers_within_a_second() {
    let Some(this) = Real::new(Timings::default()) else { return };
    this.world.running(100, &[UNPRIVILEGED]);
    let daemon = this.converged(WATCHED);
    until_watched(&daemon);
    for name in ["one", "two", "three"] {
        // Comes in whole: one that is changed step by step may be right in between.
        let outside = this.world.file(&format!("/tank/{name}"), 0, 0o600);
        let begun = Instant::now();
        fs::rename(outside, this.world.host(&format!("/tank/data/{name}"))).unwrap();
        let path = format!("/data/{name}");
        let right = format!("[ $(stat -c %u:%g:%a {path}) = 0:0:664 ]");
        this.inside(&format!(
            "n=0; until {right}; do n=$((n + 1)); [ $n -lt 200 ]; sleep 0.01; done"
        ));
        assert!(begun.elapsed() < SECOND, "{:?}", begun.elapsed());
        this.inside(&format!("echo x >> {path}"));
    }
    daemon.stop();
}

#[test]
fn a_writer_inside_is_seen_by_the_watch_and_put_right() {
    let Some(this) = Real::new(Timings::default()) else { return };
    this.world.running(100, &[UNPRIVILEGED]);
    let daemon = this.converged(&format!(r#"{WATCHED}, "enforce": "always""#));
    until_watched(&daemon);
    let script = "cd /data; while read name; do : > $name; chown 1000:1000 $name; done";
    let mut writer = this.world.node.inside(ctid(100), script);
    let mut writer = writer.stdin(Stdio::piped()).spawn().unwrap();
    let mut orders = writer.stdin.take().unwrap();
    let mut millis = Vec::new();
    for n in 0..SAMPLES {
        let path = format!("/tank/data/{n}");
        let begun = Instant::now();
        writeln!(orders, "{n}").unwrap();
        // It is wrong twice, and right in between if the watch is faster than the writer.
        eventually("right", || this.world.owner(&path) == "100000:100000 0664");
        millis.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    drop(orders);
    assert!(writer.wait().unwrap().success());
    let (median, late) = (percentile(&millis, 50), percentile(&millis, 99));
    println!(
        "{SAMPLES} files of a writer inside, from the order to write to what is right: \
         {median:.1} ms p50, {late:.1} ms p99"
    );
    assert!(late < 1000.0, "{millis:?}");
    daemon.until("counted", |status| {
        let repaired = status["volumes"]["data"]["drift"]["repaired"].as_u64();
        repaired.is_some_and(|repaired| repaired >= u64::try_from(SAMPLES).unwrap())
    });
    eventually("all of them, and for good", || {
        this.world.owners("/tank/data").iter().all(|(name, owner)| {
            owner == "100000:100000 0664" || name.is_empty() && owner == "100000:100000 0775"
        })
    });
    daemon.stop();
}
