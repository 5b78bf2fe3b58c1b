//! Whatever happens to a node, in whatever order: nothing is done that must never be done while it
//! happens, and once it stops everything comes to be as declared.
//!
//! A sequence of random events meets the real daemon on a simulated node: edits of the configuration
//! and of confs, locks, starts and stops, containers that go and come back, calls of `pct` that
//! fail, hang, lie or are killed, a full disk and one with errors, a clock that jumps, a cluster
//! file system that goes away, a lost quorum, drift, and kills of the daemon. `stage` is what is
//! declared and what has to hold, `events` what happens, `rules` what is looked at all the while.
//!
//! `PCTD_SEQUENCES=N` runs so many, `M-N` these, `PCTD_SEED=N` one of them alone.

#![expect(clippy::unwrap_used, reason = "what fails in a helper ends the test")]

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::ops::RangeInclusive;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use pctd_tests::statistics::counted;

use crate::events::Event;
use crate::stage::Stage;

mod events;
mod rules;
mod stage;
mod wanted;

/// How many sequences the ordinary test run takes; `.ci/run` asks for more.
const SEQUENCES: u64 = 40;

/// How many sequences run beside each other: they mostly wait.
const AT_ONCE: usize = 6;

/// How many events a sequence has.
const EVENTS: std::ops::Range<usize> = 6..16;

/// The longest pause between two events: as long as the daemon needs for a few steps.
const PAUSE_MS: u64 = 60;

/// What a sequence came to.
#[derive(Debug, Default)]
struct Tally {
    events: BTreeMap<&'static str, u64>,
    calls: usize,
    looks: u64,
    errors: u64,
    faults: u64,
}

/// Runs one sequence; `None` where this machine does not permit it.
fn sequence(seed: u64) -> Option<Tally> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut stage = Stage::new(&mut random)?;
    let mut tally = Tally::default();
    for _ in 0..random.usize(EVENTS) {
        let event = Event::any(&mut random);
        *tally.events.entry(event.name()).or_default() += 1;
        tally.faults += u64::from(event.is_fault());
        stage.happens(event, &mut random);
        std::thread::sleep(Duration::from_millis(random.u64(..PAUSE_MS)));
        stage.nothing_is_broken();
    }
    stage.settle();
    tally.calls = stage.calls();
    tally.looks = stage.looks();
    tally.errors = stage.errors();
    Some(tally)
}

/// Returns the seeds that are asked for.
fn seeds() -> RangeInclusive<u64> {
    let text = |name| std::env::var(name).ok();
    let number = |text: &str| text.parse::<u64>().expect("a number");
    if let Some(seed) = text("PCTD_SEED") {
        return number(&seed)..=number(&seed);
    }
    match text("PCTD_SEQUENCES") {
        Some(range) => match range.split_once('-') {
            Some((first, last)) => number(first)..=number(last),
            None => 1..=number(&range),
        },
        None => 1..=SEQUENCES,
    }
}

#[test]
fn whatever_happens_nothing_is_broken_and_all_is_as_declared_in_the_end() {
    let seeds = seeds();
    let next = AtomicU64::new(*seeds.start());
    let (all, failed) = (Mutex::new(Tally::default()), Mutex::new(Vec::new()));
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if !seeds.contains(&seed) {
                        return;
                    }
                    match catch_unwind(AssertUnwindSafe(|| sequence(seed))) {
                        Ok(Some(tally)) => {
                            let mut all = all.lock().unwrap();
                            for (name, count) in tally.events {
                                *all.events.entry(name).or_default() += count;
                            }
                            all.calls += tally.calls;
                            all.looks += tally.looks;
                            all.errors += tally.errors;
                            all.faults += tally.faults;
                        }
                        Ok(None) => return,
                        Err(_) => failed.lock().unwrap().push(seed),
                    }
                }
            });
        }
    });
    let (all, failed) = (all.into_inner().unwrap(), failed.into_inner().unwrap());
    let events: u64 = all.events.values().sum();
    // Past the harness, which shows what a test printed only when it fails.
    let _unwritable = writeln!(
        io::stderr(),
        "{} sequences, {events} events, {} calls of pct, {} errors of a disk, {} looks, in {:.0?}: {:?}",
        seeds.clone().count(),
        all.calls,
        all.errors,
        all.looks,
        begun.elapsed(),
        all.events
    );
    counted(&[
        (seeds.end() - seeds.start() + 1, "random sequences"),
        (events, "events in them"),
        (all.faults, "faults injected"),
        (all.errors, "errors of a disk"),
        (all.looks, "looks at what must never be seen"),
        (failed.len().try_into().unwrap(), "sequences in which something was lost or wrong"),
    ]);
    // Of one sequence alone the disk may have worked.
    assert!(all.errors > 0 || seeds.start() == seeds.end(), "no error of the disk was felt");
    assert_eq!(failed, Vec::<u64>::new(), "these seeds failed; PCTD_SEED=N repeats one");
}
