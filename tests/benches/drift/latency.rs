//! From a change to the `fstat` that shows it undone.

use std::fs;
use std::time::{Duration, Instant};

use pctd_tests::statistics::{percentile, range};
use pctd_tests::table::Bound::AtMost;
use pctd_tests::table::Table;
use rustix::fs::{Gid, Mode, Uid, fchmod, fchown};

use crate::subject::{CONTAINER_ROOT, OWNER, Subject, make_wrong};
use crate::{Bench, Measured};

/// Between two changes, so that the daemon is asleep when one comes.
const PAUSE: Duration = Duration::from_millis(2);

/// Upper ends of the histogram's columns, in milliseconds.
const COLUMNS: [f64; 8] = [0.1, 0.2, 0.5, 1.0, 2.0, 10.0, 50.0, f64::INFINITY];

pub(crate) fn measure(bench: &mut Bench) -> Measured {
    eprintln!("latency");
    let volumes = [("always", "always"), ("adopt", "adopt")];
    let subject = Subject::start(&bench.dir, &volumes, |_| {})?;
    let half = bench.samples / 2;
    let sampled = [
        ("always: a file is made", made(&subject, "always", OWNER, half)?),
        ("always: the mode is changed", undone(&subject, "always", OWNER, half, &close)?),
        ("adopt: a file of the host is made", made(&subject, "adopt", CONTAINER_ROOT, half)?),
        (
            "adopt: given to the host's root",
            undone(&subject, "adopt", CONTAINER_ROOT, half, &take)?,
        ),
    ];
    print(bench, &sampled);
    for (volume, kinds) in [("always", &sampled[..2]), ("adopt", &sampled[2..])] {
        let millis: Vec<f64> = kinds.iter().flat_map(|(_, millis)| millis).copied().collect();
        let (median, late) = (percentile(&millis, 50), percentile(&millis, 99));
        let judge = &mut bench.targets;
        judge.judge(
            &format!("drift in `{volume}` repaired, p50"),
            AtMost(1.0),
            " ms",
            Some(median),
        );
        judge.judge(&format!("drift in `{volume}` repaired, p99"), AtMost(50.0), " ms", Some(late));
    }
    subject.daemon.stop();
    Ok(())
}

/// Makes files that are wrong from the beginning.
pub(crate) fn made(
    subject: &Subject,
    volume: &str,
    owner: u32,
    samples: u32,
) -> Result<Vec<f64>, String> {
    let dir = subject.volume(volume);
    let one = |n| {
        std::thread::sleep(PAUSE);
        let path = dir.join(format!("made-{n}"));
        let begun = Instant::now();
        let file = make_wrong(&path);
        let took = subject.until_right(volume, &file, owner, begun)?;
        fs::remove_file(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(took.as_secs_f64() * 1e3)
    };
    (0..samples).map(one).collect()
}

/// Changes one file over and over that was right.
fn undone(
    subject: &Subject,
    volume: &str,
    owner: u32,
    samples: u32,
    change: &dyn Fn(&fs::File),
) -> Result<Vec<f64>, String> {
    let file = make_wrong(&subject.volume(volume).join("changed"));
    subject.until_right(volume, &file, owner, Instant::now())?;
    let one = |_| {
        std::thread::sleep(PAUSE);
        let begun = Instant::now();
        change(&file);
        let took = subject.until_right(volume, &file, owner, begun)?;
        Ok(took.as_secs_f64() * 1e3)
    };
    (0..samples).map(one).collect()
}

fn close(file: &fs::File) {
    fchmod(file, Mode::from_raw_mode(0o600)).expect("root may");
}

fn take(file: &fs::File) {
    fchown(file, Some(Uid::ROOT), Some(Gid::ROOT)).expect("root may");
}

fn print(bench: &Bench, sampled: &[(&str, Vec<f64>)]) {
    let title = "From a change to its repair, in milliseconds";
    let mut table = Table::new(title, &["", "samples", "p50", "p90", "p99", "max"]);
    for (what, millis) in sampled {
        let at = |percent| format!("{:.3}", percentile(millis, percent));
        let max = format!("{:.3}", range(millis).1);
        let count = millis.len().to_string();
        table.row([(*what).to_owned(), count, at(50), at(90), at(99), max]);
    }
    table.print(bench.style);
    let headings =
        ["", "<= 0.1", "<= 0.2", "<= 0.5", "<= 1", "<= 2", "<= 10", "<= 50", "more than 50"];
    let mut table = Table::new("The same as a histogram, milliseconds", &headings);
    for (what, millis) in sampled {
        let mut counts = [0_u32; COLUMNS.len()];
        for value in millis {
            let column = COLUMNS.iter().position(|end| value <= end).unwrap_or(0);
            counts[column] += 1;
        }
        let counts = counts.iter().map(u32::to_string);
        table.row(std::iter::once((*what).to_owned()).chain(counts).collect::<Vec<_>>());
    }
    table.print(bench.style);
}
