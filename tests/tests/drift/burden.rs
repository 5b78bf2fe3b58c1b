//! What the watch costs: bursts, writers without an end, and nothing at all.

use pctd_tests::daemon::text;
use pctd_tests::world::holds;

use super::*;

#[test]
fn a_burst_of_100_000_wrong_files_leaves_none_wrong() {
    let Some(this) = Drifting::new() else { return };
    let daemon = this.watched("", ALWAYS);
    let burst = "for d in 1 2 3 4; do (mkdir $d; cd $d; seq 25000 | xargs touch) & done; wait";
    sh(&this.world.host("/tank/data"), burst);
    let took = eventually("none is wrong", || wrong(&this.world.host("/tank/data")).is_empty());
    println!(
        "none is wrong {took:?} after the last was made: {}",
        daemon.status()["volumes"]["data"]["drift"]
    );
    daemon.stop();
}

#[test]
fn an_endless_writer_gets_its_share_and_no_more_and_others_are_served() {
    let Some(this) = Drifting::new() else { return };
    this.world.dir("/tank/calm", 0, 0o755);
    let volume = |name: &str| {
        format!(
            r#""{name}": {{"host_path": "/tank/{name}", "mounts": {{"100": "/{name}"}}, {ALWAYS}}}"#
        )
    };
    let settings = format!(r#"{CALM}, "watch_cpu": 10"#);
    this.world.volumes(&settings, &[volume("data"), volume("calm")].join(", "));
    let daemon = this.world.pctd.start();
    until_watched(&daemon);
    daemon.until("both", |status| {
        status["volumes"]["calm"]["conditions"]["Watched"]["reason"] == "Events"
    });
    let writer =
        "while :; do for n in 1 2 3 4 5 6 7 8 9; do : > $n; chmod 600 $n; done; rm -f ?; done";
    let mut writer = Command::new("sh")
        .args(["-c", writer])
        .current_dir(this.world.host("/tank/data"))
        .spawn()
        .unwrap();
    // Past the burst that is let through.
    std::thread::sleep(Duration::from_secs(3));
    let (before, begun) = (cpu_ticks(daemon.pid()), Instant::now());
    let mut slowest = Duration::ZERO;
    for n in 0..20 {
        let path = format!("/tank/calm/{n}");
        this.world.file(&path, 0, 0o600);
        let took = eventually("served", || this.world.owner(&path) == "4242:4242 0664");
        slowest = slowest.max(took);
        std::thread::sleep(Duration::from_millis(100));
    }
    let ticks = cpu_ticks(daemon.pid()) - before;
    // A tick is a hundredth of a second (`USER_HZ`).
    let percent = u128::from(ticks) * 1000 / begun.elapsed().as_millis();
    writer.kill().unwrap();
    writer.wait().unwrap();
    println!("{percent} % of a core; slowest of the other volume: {slowest:?}");
    // Its ten percent, what taking events in costs, and the walks that doubts ask for.
    assert!(percent < 50, "{percent}");
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    daemon.stop();
}

/// Somebody who writes for as long as this lives.
struct Writer(std::process::Child);

impl Drop for Writer {
    fn drop(&mut self) {
        // One that ended is none that goes on.
        let _ended = self.0.kill().and_then(|()| self.0.wait());
    }
}

#[test]
fn whoever_writes_beside_all_volumes_or_in_one_that_is_held_takes_no_more_either() {
    let Some(this) = Drifting::new() else { return };
    this.world.dir("/tank/beside", 0, 0o755);
    this.world.dir("/tank/held", 0, 0o755);
    for n in 0..5 {
        this.world.file(&format!("/tank/held/{n}"), 0, 0o600);
    }
    let volume = |name: &str| {
        format!(
            r#""{name}": {{"host_path": "/tank/{name}", "mounts": {{"100": "/{name}"}}, {ALWAYS}}}"#
        )
    };
    let settings = format!(r#"{CALM}, "watch_cpu": 10, "confirm_above": 3"#);
    this.world.volumes(&settings, &[volume("data"), volume("held")].join(", "));
    let daemon = this.world.pctd.start();
    until_watched(&daemon);
    daemon.until("held", |status| {
        holds(status, "volumes", "held").contains(&"ConfirmationRequired".to_owned())
    });
    for dir in ["/tank/beside", "/tank/held/dir"] {
        this.world.dir(dir, 0, 0o755);
        // Some 300,000 events a second, none of which is the same as one that waits.
        let script = "for (1..3000) { open my $f, '>', $_ } \
                      for (;;) { chmod 0600, 1..3000; chmod 0640, 1..3000 }";
        let mut writer = Command::new("perl");
        let writer = writer.args(["-e", script]).current_dir(this.world.host(dir));
        let writer = Writer(writer.spawn().unwrap());
        // What was saved up before is spent first, which takes longer where others have the cores.
        let mut shares = Vec::new();
        eventually("its share twice in a row", || {
            let (before, begun) = (cpu_ticks(daemon.pid()), Instant::now());
            std::thread::sleep(Duration::from_secs(2));
            let ticks = cpu_ticks(daemon.pid()) - before;
            shares.push(u128::from(ticks) * 1000 / begun.elapsed().as_millis());
            println!("{dir}: {} % of a core", shares[shares.len() - 1]);
            // Ten percent, or a quarter for what is nobody's; without a budget it is 80.
            shares.len() > 1 && shares[shares.len() - 2..].iter().all(|percent| *percent < 35)
        });
        // The volume that is in place is served meanwhile.
        this.world.file("/tank/data/f", 0, 0o600);
        this.becomes("/tank/data/f", "4242:4242 0664");
        drop(writer);
    }
    daemon.stop();
}

/// Returns the processor time a process has used, in hundredths of a second.
fn cpu_ticks(pid: u32) -> u64 {
    let stat = text(Path::new(&format!("/proc/{pid}/stat")));
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn nothing_wakes_the_watch_while_nothing_is_written() {
    let Some(this) = Drifting::new() else { return };
    let daemon = this.watched("", ALWAYS);
    this.world.file("/tank/data/f", 0, 0o600);
    this.becomes("/tank/data/f", "4242:4242 0664");
    std::thread::sleep(QUIET);
    // What other tests mount meanwhile wakes it too; so one quiet second must be found.
    eventually("a second without waking up", || {
        let before = wakeups(daemon.pid());
        // Reading is not writing.
        sh(&this.world.host("/tank/data"), "cat f > /dev/null; ls > /dev/null");
        std::thread::sleep(Duration::from_secs(1));
        wakeups(daemon.pid()) == before
    });
    // And nothing is open below it, nor the record of what was put right.
    let kept = [this.world.host("/tank"), this.world.host("/var/lib/pctd/undo")];
    let open: Vec<_> = fs::read_dir(format!("/proc/{}/fd", daemon.pid()))
        .unwrap()
        .filter_map(|fd| fs::read_link(fd.unwrap().path()).ok())
        .filter(|path| kept.iter().any(|dir| path.starts_with(dir)))
        .collect();
    assert_eq!(open, Vec::<std::path::PathBuf>::new());
    daemon.stop();
}

/// Returns how often the thread of the watch went to sleep so far.
fn wakeups(pid: u32) -> String {
    let of_watch = |task: &fs::DirEntry| text(&task.path().join("comm")).trim() == "watch";
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let watch = tasks.map(|task| task.unwrap()).find(of_watch).unwrap();
    let status = text(&watch.path().join("status"));
    status.lines().find(|line| line.starts_with("voluntary_ctxt_switches")).unwrap().to_owned()
}
