//! How far a long walk is, on one line of the terminal that goes away again.

use std::io::{self, IsTerminal as _, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use pctd_core::ids::Key;
use pctd_core::report::{ProgressReport, REPORT_VERSION, StatusReport};
use pctd_core::request::{WireOp, WireRequest};

use super::client;
use crate::controller::followers::Answer;

/// A walk shorter than this shows no progress.
const PATIENCE: Duration = Duration::from_millis(500);
/// How often the line is written anew.
const EVERY: Duration = Duration::from_millis(200);

/// Does some work, and meanwhile shows what `line` says, where anybody can see it.
pub(super) fn shown<T>(line: impl Fn() -> Option<String> + Send, work: impl FnOnce() -> T) -> T {
    if !io::stderr().is_terminal() {
        return work();
    }
    std::thread::scope(|scope| {
        let (end, ended) = channel();
        scope.spawn(move || show(&mut io::stderr(), PATIENCE, EVERY, &ended, line));
        let done = work();
        // The thread sees that it is over, and what it wrote is gone before anything else is printed.
        drop(end);
        done
    })
}

/// Returns the line for one walk of this process.
pub(super) fn of(what: impl std::fmt::Display, now: ProgressReport) -> Option<String> {
    (now.entries > 0).then(|| format!("{what}: {now}"))
}

/// Returns the line for what the daemon walks of these keys, or of all.
pub(super) fn of_daemon(socket: &Path, keys: &[Key]) -> Option<String> {
    let request = WireRequest {
        version: REPORT_VERSION,
        op: WireOp::Status,
        keys: keys.to_vec(),
        follow: false,
        confirm: false,
        yes: false,
        config: None,
        read: None,
        order: None,
    };
    match client::ask(socket, &request) {
        Ok(Some(Answer::Status(report))) => of_status(&report),
        // Whoever waits for the work itself is told of what is wrong.
        _ => None,
    }
}

fn of_status(report: &StatusReport) -> Option<String> {
    let walks = report.volumes.iter().filter_map(|(name, status)| of(name, status.progress?));
    let walks: Vec<String> = walks.collect();
    (!walks.is_empty()).then(|| walks.join("; "))
}

fn show(
    out: &mut impl Write,
    patience: Duration,
    every: Duration,
    ended: &Receiver<()>,
    line: impl Fn() -> Option<String>,
) {
    let (mut wait, mut is_shown) = (patience, false);
    // Nobody reads it if it cannot be written.
    while ended.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
        wait = every;
        if let Some(line) = line() {
            let _unwritable = write!(out, "\r\x1b[K{line}").and_then(|()| out.flush());
            is_shown = true;
        }
    }
    if is_shown {
        let _unwritable = write!(out, "\r\x1b[K").and_then(|()| out.flush());
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn report(entries: u64) -> ProgressReport {
        ProgressReport { entries, changes: 2, rate: 3 }
    }

    /// Returns what is written while work is done that ends after this many looks at it.
    fn written(looks: u64) -> String {
        let (end, ended) = channel();
        let (end, at) = (Cell::new(Some(end)), Cell::new(0));
        let line = || {
            at.set(at.get() + 1);
            if at.get() >= looks {
                drop(end.take());
            }
            of("data", report(at.get() - 1))
        };
        if looks == 0 {
            drop(end.take());
        }
        let mut out = Vec::new();
        show(&mut out, Duration::ZERO, Duration::ZERO, &ended, line);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_walk_is_shown_on_one_line_that_goes_away() {
        let first = "\r\x1b[Kdata: 1 entries, 2 differ, 3/s";
        let second = "\r\x1b[Kdata: 2 entries, 2 differ, 3/s";
        assert_eq!(written(3), format!("{first}{second}\r\x1b[K"));
        // Work that is over at once, or looked at nothing, shows nothing.
        assert_eq!((written(0), written(1)), (String::new(), String::new()));
    }
}
