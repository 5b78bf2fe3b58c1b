//! `pctd status`: the conditions, from the daemon.

use std::io::IsTerminal as _;
use std::time::Duration;

use pctd_core::ids::Key;
use pctd_core::report::{REPORT_VERSION, StatusReport};
use pctd_node::NodePaths;

use super::args::Global;
use super::{Ended, Failure, client, print, print_report, render};
use crate::controller::followers::Answer;
use crate::daemon::socket::{WireOp, WireRequest};

/// How often `--watch` asks.
const EVERY: Duration = Duration::from_secs(1);

pub(super) fn run(global: &Global, keys: &[Key], watch: bool) -> Result<Ended, Failure> {
    let socket = NodePaths::new(global.root.clone())?.socket();
    loop {
        let report = ask(&socket, keys)?;
        let terminal = std::io::stdout().is_terminal();
        if watch && terminal && global.output_format == super::OutputFormat::Text {
            // Home, and clear what the last table left behind.
            print("\x1b[H\x1b[J")?;
        }
        print_report(global, &report, |palette| render::status(&report, palette))?;
        if !watch {
            let converged = report.is_converged();
            return Ok(if converged { Ended::InSync } else { Ended::Differs });
        }
        std::thread::sleep(EVERY);
    }
}

fn ask(socket: &std::path::Path, keys: &[Key]) -> Result<StatusReport, Failure> {
    let request = WireRequest {
        version: REPORT_VERSION,
        op: WireOp::Status,
        keys: keys.to_vec(),
        follow: false,
        confirm: false,
        config: None,
    };
    match client::ask(socket, &request)? {
        Some(Answer::Status(report)) => Ok(*report),
        Some(Answer::Error { error, .. }) => Err(error.into()),
        Some(Answer::Plan(_)) => Err("the daemon answered something else".into()),
        None => Err(format!(
            "no daemon is running ({} does not answer): start it with `systemctl start pctd`, or \
             see what it would do with `pctd plan`",
            socket.display()
        )
        .into()),
    }
}
