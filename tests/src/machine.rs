//! The machine a benchmark runs on, and what a process takes of it, from `/proc`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// Returns how many cores this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Describes the machine, its kernel, its load and the file system of `dir` in one line.
pub fn describe(dir: &Path) -> String {
    let value = |path: &str, key: &str| {
        let text = fs::read_to_string(path).unwrap_or_default();
        let line = text.lines().find_map(|line| Some(line.strip_prefix(key)?.to_owned()));
        line.unwrap_or_default().trim_matches([' ', '\t', ':']).to_owned()
    };
    let kib = value("/proc/meminfo", "MemTotal:");
    let memory: u64 = kib.trim_end_matches(" kB").parse().unwrap_or(0);
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    format!(
        "{} cores of {}, {} GiB, Linux {}, {}, load {}",
        cores(),
        value("/proc/cpuinfo", "model name"),
        memory.div_ceil(1024 * 1024),
        fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim(),
        file_system(dir),
        load.split(' ').next().unwrap_or_default(),
    )
}

/// Returns the type of the file system a directory is on, as in mountinfo.
fn file_system(dir: &Path) -> String {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mounts = text.lines().filter_map(|line| {
        let (mount, rest) = line.split_once(" - ")?;
        Some((mount.split(' ').nth(4)?, rest.split(' ').next()?))
    });
    let over = mounts.filter(|(point, _)| dir.starts_with(point));
    over.max_by_key(|(point, _)| point.len()).map_or("?", |(_, kind)| kind).to_owned()
}

/// Returns the most memory this process ever had resident, in KiB.
pub fn peak_kib() -> u64 {
    kib_of("self", "VmHWM:")
}

/// Returns the memory a process has resident, in KiB.
pub fn resident_kib(pid: u32) -> u64 {
    kib_of(&pid.to_string(), "VmRSS:")
}

fn kib_of(pid: &str, key: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(key));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// What a thread or a process has had.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spent {
    /// Time on a core, to the nanosecond (`schedstat`).
    pub cpu: Duration,
    /// How often a thread went to sleep of its own accord, and so was woken.
    pub sleeps: u64,
}

/// What each thread of a process has had until some moment.
#[derive(Debug, Clone, Default)]
pub struct Threads(BTreeMap<OsString, Spent>);

impl Threads {
    /// Looks at the threads that a process has now.
    pub fn of(pid: u32) -> Self {
        let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("the process is there");
        let each = |thread: fs::DirEntry| {
            // Of a thread that has just ended nothing is to be read any more.
            let read = |name| fs::read_to_string(thread.path().join(name)).unwrap_or_default();
            let nanos = read("schedstat").split(' ').next().and_then(|field| field.parse().ok());
            let status = read("status");
            let line =
                status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            let sleeps = line.and_then(|line| line.trim().parse().ok()).unwrap_or(0);
            let cpu = Duration::from_nanos(nanos.unwrap_or(0));
            (thread.file_name(), Spent { cpu, sleeps })
        };
        Self(threads.map_while(Result::ok).map(each).collect())
    }

    /// Returns what its threads had since `before`; without those that ended meanwhile, which take
    /// what they had with them and must not be taken off what the others had.
    pub fn since(&self, before: &Self) -> Spent {
        self.0.iter().fold(Spent::default(), |sum, (thread, now)| {
            let then = before.0.get(thread).copied().unwrap_or_default();
            Spent {
                cpu: sum.cpu + now.cpu.saturating_sub(then.cpu),
                sleeps: sum.sleeps + now.sleeps.saturating_sub(then.sleeps),
            }
        })
    }
}

/// Returns the CPU time of a process, user and system, threads that ended included; to a tick.
pub fn cpu_ticked(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process is there");
    // The fields after the name, which is in brackets: utime and stime are the 12th and 13th.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second())
}
