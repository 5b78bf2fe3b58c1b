//! A big node over a long time: an edit every second, and whether the daemon grows.
//!
//! Memory, descriptors and threads are read every second. What counts is the last quarter of the
//! time beside the second one: a start is allowed to grow.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use pctd_sandbox::Node;
use pctd_tests::daemon::{Daemon, states};
use pctd_tests::machine::{cpu_ticked, describe, resident_kib};
use pctd_tests::statistics::{median, percentile};
use pctd_tests::world::{UNPRIVILEGED, bare_node, conf, ctid, own};

/// A daemon on a big node, over a long time.
#[derive(Debug, Clone, Parser)]
struct Options {
    /// For how many seconds it is edited.
    #[arg(long, default_value_t = 600)]
    seconds: u64,
    #[arg(long, default_value_t = 1000)]
    containers: u32,
    #[arg(long, default_value_t = 200)]
    volumes: u32,
    /// Files in all volumes together.
    #[arg(long, default_value_t = 2_000_000)]
    files: u32,
    /// Where the files are made.
    #[arg(long, default_value_os_t = std::env::temp_dir())]
    dir: PathBuf,
    /// Fail if the daemon grew.
    #[arg(long)]
    check: bool,
    /// As `cargo bench` passes it.
    #[arg(long, hide = true)]
    bench: bool,
}

/// How much more memory may be resident in the end: what an allocator does not give back.
const GROWTH_KIB: f64 = 4096.0;

/// Container root, as the default id map has it on the host.
const OWNER: u32 = 100_000;

/// As many keys are worked on at once, if nothing else is said (`max_concurrent`).
const POOL: f64 = 4.0;

/// The longest an edit may take.
const PATIENCE: Duration = Duration::from_mins(1);

fn main() -> ExitCode {
    let options = Options::parse();
    // `cargo test` runs benches, too, as a check that they build.
    if !options.bench {
        return ExitCode::SUCCESS;
    }
    if !rustix::process::geteuid().is_root() {
        eprintln!("this needs root, because pctd changes owners of files");
        return ExitCode::FAILURE;
    }
    println!("{}", describe(&options.dir));
    if soak(&options) || !options.check { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What the daemon has at one moment.
struct Sample {
    rss_kib: f64,
    fds: f64,
    threads: f64,
}

impl Sample {
    fn of(pid: u32) -> Self {
        let count = |what: &str| {
            let entries = fs::read_dir(format!("/proc/{pid}/{what}")).expect("the daemon runs");
            f64::from(u32::try_from(entries.count()).unwrap_or(u32::MAX))
        };
        let rss = u32::try_from(resident_kib(pid)).unwrap_or(u32::MAX);
        Self { rss_kib: f64::from(rss), fds: count("fd"), threads: count("task") }
    }
}

/// The node, and what of it changes.
struct Subject {
    node: Node,
    options: Options,
    /// Which volumes have the other mode of directories at the moment.
    closed: Vec<bool>,
}

impl Subject {
    fn volume(&self, n: u32) -> PathBuf {
        self.node.root().join(format!("tank/v{n}"))
    }

    fn configure(&self) {
        let Options { containers, volumes, .. } = self.options;
        let each = |n: u32| {
            let mode = if self.closed[usize::try_from(n).unwrap_or(0)] { "0750" } else { "0755" };
            let mounts = (0..containers).filter(|id| id % volumes == n || (id + 7) % volumes == n);
            let mounts = mounts.map(|id| format!(r#""{}": "/v{n}""#, 100 + id));
            format!(
                r#""v{n}": {{"host_path": "/tank/v{n}", "owner": "container_root", "dir_mode": "{mode}",
                    "mounts": {{{}}}}}"#,
                mounts.collect::<Vec<_>>().join(",")
            )
        };
        let volumes: Vec<String> = (0..volumes).map(each).collect();
        let text = format!(
            r#"{{"settings": {{"seed_defaults": false, "confirm_above": 1000000000}},
                "shared_volumes": {{{}}}}}"#,
            volumes.join(",")
        );
        let path = self.node.root().join("etc/pctd/config.json");
        let new = path.with_extension("new");
        fs::write(&new, text).and_then(|()| fs::rename(&new, &path)).expect("it can be written");
    }

    /// Makes the containers with their mounts, and the volumes with files of container root.
    fn fill(&self) {
        let Options { containers, volumes, files, .. } = self.options;
        for id in 0..containers {
            let mut at: Vec<u32> = vec![id % volumes, (id + 7) % volumes];
            at.sort_unstable();
            at.dedup();
            let mounts = at.iter().enumerate();
            let lines: Vec<String> =
                mounts.map(|(key, n)| format!("mp{key}: /tank/v{n},mp=/v{n}")).collect();
            let lines: Vec<&str> = lines.iter().map(String::as_str).chain([UNPRIVILEGED]).collect();
            let path = self.node.conf_path(ctid(100 + id)).expect("the node has a name");
            fs::write(path, conf(100 + id, &lines)).expect("the node can be written");
        }
        self.node.pmxcfs().refresh().expect("the node can be written");
        for n in 0..volumes {
            for dir in 0..(files / volumes).div_ceil(100) {
                let dir = self.volume(n).join(format!("d{dir}"));
                fs::create_dir_all(&dir).expect("the node can be written");
                own(&dir, OWNER, OWNER);
                for file in 0..100 {
                    let file = dir.join(format!("f{file}"));
                    fs::File::create(&file).expect("the node can be written");
                    own(&file, OWNER, OWNER);
                }
            }
            own(&self.volume(n), OWNER, OWNER);
        }
    }

    /// Makes one edit and returns how long it took until everything was as it says.
    fn edit(&mut self, turn: u32) -> Duration {
        let n = turn % self.options.volumes;
        let volume = self.volume(n);
        let begun = Instant::now();
        let mode = |path: &Path| fs::metadata(path).map_or(0, |stat| stat.permissions().mode());
        match turn % 4 {
            // The declaration of a volume, twice as often as anything else.
            0 | 2 => {
                let closed = &mut self.closed[usize::try_from(n).unwrap_or(0)];
                *closed = !*closed;
                let wanted = if *closed { 0o750 } else { 0o755 };
                self.configure();
                wait(begun, || mode(&volume) & 0o777 == wanted);
            }
            // Somebody takes a mount away.
            1 => {
                let id = (100 + turn % self.options.containers).to_string();
                let deleted = self.node.pct(["set", &id, "--delete", "mp0"]);
                assert!(deleted.is_ok_and(|output| output.is_success()), "mp0 of {id}");
                let path = self.node.conf_path(ctid(100 + turn % self.options.containers));
                let path = path.expect("the node has a name");
                wait(begun, || {
                    fs::read_to_string(&path).is_ok_and(|conf| conf.contains("\nmp0: "))
                });
            }
            // Somebody on the host makes a file.
            _ => {
                let file = volume.join(format!("made-{turn}"));
                fs::write(&file, "x").expect("the node can be written");
                wait(begun, || fs::metadata(&file).is_ok_and(|stat| stat.uid() == OWNER));
            }
        }
        begun.elapsed()
    }
}

fn wait(begun: Instant, mut done: impl FnMut() -> bool) {
    while !done() {
        assert!(begun.elapsed() < PATIENCE, "an edit did not converge in a minute");
        std::thread::sleep(Duration::from_micros(500));
    }
}

/// Returns whether the daemon stayed as it was.
fn soak(options: &Options) -> bool {
    let dir = tempfile::Builder::new().prefix("pctd-soak").tempdir_in(&options.dir);
    let dir = dir.expect("a directory can be made");
    let (node, pctd) = bare_node(&dir.path().join("n"), env!("CARGO_BIN_EXE_pctd-tests"));
    let closed = vec![false; usize::try_from(options.volumes).unwrap_or(0)];
    let mut subject = Subject { node, options: options.clone(), closed };
    subject.fill();
    subject.configure();
    let _served = subject.node.serve();
    // As the unit sets it.
    let daemon = pctd.spawn(&[("MALLOC_ARENA_MAX", "1")]);
    let begun = Instant::now();
    let keys = options.volumes + options.containers;
    daemon.wait_for("READY=1");
    converge(&daemon, begun);
    println!("{keys} keys, {} files: all in place after {:.1?}", options.files, begun.elapsed());
    let (mut samples, mut latencies) = (Vec::new(), Vec::new());
    let (begun, cpu) = (Instant::now(), cpu_ticked(daemon.pid()));
    for turn in 0.. {
        if begun.elapsed() >= Duration::from_secs(options.seconds) {
            break;
        }
        let took = subject.edit(turn);
        latencies.push(took.as_secs_f64() * 1000.0);
        std::thread::sleep(Duration::from_secs(1).saturating_sub(took));
        samples.push(Sample::of(daemon.pid()));
    }
    let spent = cpu_ticked(daemon.pid()).saturating_sub(cpu).as_secs_f64();
    converge(&daemon, Instant::now());
    daemon.stop();
    println!(
        "{} edits in {:.0?}; edit to converged: p50 {:.0} ms, p99 {:.0} ms, worst {:.0} ms; CPU {:.1} % of a core",
        latencies.len(),
        begun.elapsed(),
        percentile(&latencies, 50),
        percentile(&latencies, 99),
        percentile(&latencies, 100),
        100.0 * spent / begun.elapsed().as_secs_f64(),
    );
    report(&samples)
}

/// Waits until everything is in place; with the patience a first walk of everything needs.
fn converge(daemon: &Daemon, begun: Instant) {
    while !states(&daemon.status()).all(|(_, state)| state == "Converged") {
        assert!(begun.elapsed() < Duration::from_mins(20), "it did not converge");
        std::thread::sleep(Duration::from_secs(1));
    }
}

fn report(samples: &[Sample]) -> bool {
    let quarter = samples.len() / 4;
    if quarter == 0 {
        println!("too short to tell whether it grows");
        return false;
    }
    let (early, late) = (&samples[quarter..2 * quarter], &samples[samples.len() - quarter..]);
    let of = |samples: &[Sample], what: fn(&Sample) -> f64| {
        median(&samples.iter().map(what).collect::<Vec<_>>())
    };
    let mut is_steady = true;
    let mut row = |name: &str, what: fn(&Sample) -> f64, may_grow: f64| {
        let (then, now) = (of(early, what), of(late, what));
        let is_fine = now <= then + may_grow;
        is_steady &= is_fine;
        let word = if is_fine { "steady" } else { "GROWS" };
        println!("{name:<24} second quarter {then:>8.0}, last quarter {now:>8.0}: {word}");
    };
    row("resident memory, KiB", |sample| sample.rss_kib, GROWTH_KIB);
    row("descriptors", |sample| sample.fds, 1.0);
    // Those of the pool end when they had nothing to do for a while.
    row("threads", |sample| sample.threads, POOL);
    is_steady
}
