//! Somebody in a container who undoes every repair as fast as it can: the daemon keeps to its
//! budget, and other volumes are served.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use pctd_tests::machine::cpu_ticked;
use pctd_tests::statistics::{percentile, range};
use pctd_tests::table::Bound::AtMost;
use pctd_tests::table::Table;

use crate::subject::{OWNER, Subject, give, is_right, make_wrong};
use crate::{Bench, Measured, latency};

const FILES: u32 = 500;
const ATTACK: Duration = Duration::from_secs(10);
/// What a volume has saved up is let through at first; only then does its share show.
const SPENT: Duration = Duration::from_secs(6);
/// What one volume may take of a core unless something else is configured, in percent.
const BUDGET: f64 = 25.0;
/// What the repairs in the other volume may take besides.
const OTHERS: f64 = 3.0;
/// Latencies measured elsewhere meanwhile, in one go.
const SAMPLES: u32 = 50;

pub(crate) fn measure(bench: &mut Bench) -> Measured {
    eprintln!("hostile");
    let volumes = [("busy", "always"), ("always", "always")];
    let subject = Subject::start(&bench.dir, &volumes, |_| {})?;
    let dir = subject.volume("busy");
    let files: Vec<_> = (0..FILES).map(|n| make_wrong(&dir.join(format!("file-{n}")))).collect();
    for file in &files {
        subject.until_right("busy", file, OWNER, Instant::now())?;
    }
    subject.until_quiet()?;
    let (stop, changes) = (AtomicBool::new(false), AtomicU64::new(0));
    let (millis, share) = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for file in &files {
                    give(file, 0, 0o600);
                    changes.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        std::thread::sleep(SPENT);
        let before = cpu_ticked(subject.daemon.pid());
        let begun = Instant::now();
        let mut millis = Vec::new();
        let measured = loop {
            match latency::made(&subject, "always", OWNER, SAMPLES) {
                Ok(more) => millis.extend(more),
                Err(why) => break Err(why),
            }
            if begun.elapsed() >= ATTACK {
                break Ok(millis);
            }
        };
        let spent = cpu_ticked(subject.daemon.pid()).saturating_sub(before);
        let share = spent.as_secs_f64() / begun.elapsed().as_secs_f64();
        stop.store(true, Ordering::Relaxed);
        measured.map(|millis| (millis, share))
    })
    .map_err(|why| format!("in the other volume: {why}"))?;
    let after = Instant::now();
    while !files.iter().all(|file| is_right(file, OWNER)) {
        if after.elapsed() > Duration::from_mins(1) {
            return Err("what the writer left is not put right within a minute".into());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let mut table =
        Table::new("A writer that undoes every repair, 10 s of it after the first 6", &["", ""]);
    let changes = changes.into_inner();
    table.row(["its changes".into(), changes.to_string()]);
    table.row(["CPU of the daemon, of a core".into(), format!("{:.1} %", share * 100.0)]);
    let at = |percent| format!("{:.3} ms", percentile(&millis, percent));
    table.row([format!("another volume, {} repairs, p50", millis.len()), at(50)]);
    table.row(["another volume, p99".into(), at(99)]);
    table.row(["another volume, worst".into(), format!("{:.3} ms", range(&millis).1)]);
    let seconds = after.elapsed().as_secs_f64();
    table.row(["its own volume right after it stops".into(), format!("{seconds:.2} s")]);
    table.print(bench.style);
    let judge = &mut bench.targets;
    judge.judge(
        "hostile writer: CPU of the daemon",
        AtMost(BUDGET + OTHERS),
        " %",
        Some(share * 100.0),
    );
    let late = percentile(&millis, 99);
    judge.judge("hostile writer: another volume, p99", AtMost(50.0), " ms", Some(late));
    subject.daemon.stop();
    Ok(())
}
