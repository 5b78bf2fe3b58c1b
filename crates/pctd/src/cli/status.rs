//! `pctd status`: the conditions, from the daemon.

use std::io::{self, BufRead as _, BufReader, ErrorKind, IsTerminal as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pctd_core::ids::Key;
use pctd_core::report::{REPORT_VERSION, StatusReport};
use pctd_core::request::{WireOp, WireRequest};
use pctd_node::NodePaths;
use signal_hook::consts::{SIGINT, SIGTERM};

use super::args::Global;
use super::{Ended, Failure, OutputFormat, client, print, print_report, render, style};
use crate::controller::followers::Answer;

/// How soon an interrupt or another size of the terminal is noticed.
const NOTICE: Duration = Duration::from_millis(200);

/// The terminal's second page, without a cursor; and back.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";

pub(super) fn run(global: &Global, keys: &[Key], watch: bool) -> Result<Ended, Failure> {
    let socket = NodePaths::new(global.root.clone())?.socket();
    let report = if watch { follow(global, &socket, keys)? } else { ask(&socket, keys)? };
    if !watch {
        print_report(global, &report, |palette| render::status(&report, palette))?;
    }
    Ok(if report.is_converged() { Ended::InSync } else { Ended::Differs })
}

/// Shows the status whenever it is another one, until interrupted; returns the last.
fn follow(global: &Global, socket: &Path, keys: &[Key]) -> Result<StatusReport, Failure> {
    let mut last = ask(socket, keys)?;
    let ended = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&ended))?;
    }
    let stream = client::follow(socket, &request(keys, true))?.ok_or("the daemon has ended")?;
    stream.set_read_timeout(Some(NOTICE))?;
    let is_table = io::stdout().is_terminal() && global.output_format == OutputFormat::Text;
    if is_table {
        print(ENTER)?;
    }
    let shown = show(global, is_table, &ended, BufReader::new(stream), &mut last);
    if is_table {
        print(LEAVE)?;
    }
    shown.map(|()| last)
}

fn show(
    global: &Global,
    is_table: bool,
    ended: &AtomicBool,
    mut stream: BufReader<UnixStream>,
    last: &mut StatusReport,
) -> Result<(), Failure> {
    let (mut line, mut size) = (Vec::new(), None);
    while !ended.load(Ordering::Relaxed) {
        match stream.read_until(b'\n', &mut line) {
            Ok(0) => return Err("the daemon has ended".into()),
            Ok(_) => {}
            // What came of a line so far stays in it.
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                if is_table && size.is_some() && size != terminal() {
                    size = terminal();
                    print(&render::page(last, style::Palette::for_stdout(), size))?;
                }
                continue;
            }
            Err(error) => return Err(error.into()),
        }
        match serde_json::from_slice(&std::mem::take(&mut line))? {
            Answer::Status(report) => *last = *report,
            Answer::Error { error, .. } => return Err(error.into()),
            Answer::Plan(_) | Answer::Order(_) => {
                return Err("the daemon answered something else".into());
            }
        }
        if is_table {
            size = terminal();
            print(&render::page(last, style::Palette::for_stdout(), size))?;
        } else {
            print_report(global, last, |palette| render::status(last, palette))?;
        }
    }
    Ok(())
}

/// Returns the columns and rows of the terminal.
fn terminal() -> Option<(usize, usize)> {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
    (size.ws_col > 0 && size.ws_row > 1).then(|| (size.ws_col.into(), size.ws_row.into()))
}

fn request(keys: &[Key], follow: bool) -> WireRequest {
    WireRequest {
        version: REPORT_VERSION,
        op: WireOp::Status,
        keys: keys.to_vec(),
        follow,
        confirm: false,
        yes: false,
        config: None,
        read: None,
        order: None,
    }
}

/// Asks the daemon for the status of these keys, or of all.
///
/// # Errors
///
/// There is none, or it does not know a key.
pub(super) fn ask(socket: &Path, keys: &[Key]) -> Result<StatusReport, Failure> {
    match client::ask(socket, &request(keys, false))? {
        Some(Answer::Status(report)) => Ok(*report),
        Some(Answer::Error { error, .. }) => Err(error.into()),
        Some(Answer::Plan(_) | Answer::Order(_)) => {
            Err("the daemon answered something else".into())
        }
        None => Err(format!(
            "no daemon is running ({} does not answer): start it with `systemctl start pctd`, or \
             see what it would do with `pctd plan`",
            socket.display()
        )
        .into()),
    }
}
