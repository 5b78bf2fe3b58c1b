//! What it costs to be ready while nothing happens: wake-ups, CPU and system calls of the daemon
//! with a big volume, beside those of a daemon without volumes.

use std::process::{Command, Stdio};
use std::time::Duration;

use pctd_tests::machine::{Spent, Threads};
use pctd_tests::table::Bound::AtMost;
use pctd_tests::table::Table;

use crate::subject::{Declared, FILE_MODE, OWNER, Subject, make_files};
use crate::{Bench, Measured};

const WINDOW: Duration = Duration::from_secs(10);

#[derive(Debug)]
struct Idle {
    spent: Spent,
    /// Where there is no strace: not known.
    calls: Option<u64>,
    /// What is not watched costs nothing, which is no merit.
    unwatched: Option<String>,
}

pub(crate) fn measure(bench: &mut Bench) -> Measured {
    eprintln!("idle");
    let without = idle(bench, &[])?;
    let with = idle(bench, &[("big", "always")])?;
    let title = format!("Nothing happens for {} s", WINDOW.as_secs());
    let big = format!("a volume of {} files", bench.files);
    let mut table = Table::new(title, &["", "no volume", &big]);
    let sleeps = |idle: &Idle| idle.spent.sleeps.to_string();
    table.row(["wake-ups of all threads".into(), sleeps(&without), sleeps(&with)]);
    let micros = |idle: &Idle| format!("{} us", idle.spent.cpu.as_micros());
    table.row(["CPU".into(), micros(&without), micros(&with)]);
    let calls = |idle: &Idle| idle.calls.map_or("-".into(), |calls| calls.to_string());
    table.row(["system calls (strace)".into(), calls(&without), calls(&with)]);
    table.print(bench.style);
    if let Some(condition) = with.unwatched {
        return Err(format!("drift in the volume is not repaired as it happens: {condition}"));
    }
    let more = with.spent.sleeps.saturating_sub(without.spent.sleeps);
    let more = f64::from(u32::try_from(more).unwrap_or(u32::MAX));
    let what = "idle: wake-ups that a volume causes";
    bench.targets.judge(what, AtMost(0.0), "", Some(more));
    Ok(())
}

fn idle(bench: &Bench, volumes: &[Declared<'_>]) -> Result<Idle, String> {
    let files = bench.files;
    let subject = Subject::start(&bench.dir, volumes, |path| {
        for (name, _) in volumes {
            drop(make_files(&path(name), files, OWNER, FILE_MODE));
        }
    })?;
    let pid = subject.daemon.pid();
    let before = Threads::of(pid);
    std::thread::sleep(WINDOW);
    let spent = Threads::of(pid).since(&before);
    let calls = count_calls(pid);
    let unwatched = volumes.iter().find_map(|(name, _)| subject.unwatched(name));
    subject.daemon.stop();
    Ok(Idle { spent, calls, unwatched })
}

/// Counts the system calls of a process, all threads, for as long as the window lasts.
fn count_calls(pid: u32) -> Option<u64> {
    let summary = tempfile::NamedTempFile::new().expect("a file can be made");
    let mut strace = Command::new("timeout");
    strace.args(["--signal=INT", &WINDOW.as_secs().to_string(), "strace", "-f", "-qq", "-o"]);
    strace.arg(summary.path()).args(["-p", &pid.to_string()]);
    let traced = strace.stdin(Stdio::null()).stderr(Stdio::null()).status().ok()?;
    // 124 is how timeout says that it had to end it, as it should.
    (traced.code() == Some(124)).then_some(())?;
    let lines = std::fs::read_to_string(summary.path()).ok()?;
    // Those that began in the window: not the ones that were under way, nor their ends.
    let began = |line: &&str| line.contains('(') && !line.contains("restart_syscall");
    u64::try_from(lines.lines().filter(began).count()).ok()
}
