//! System calls, counted by strace.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use pctd_tests::table::{Style, Table};

use crate::peers::Peer;
use crate::tree::{State, Tree};

/// The calls that start a process; threads are started by one of them, too.
const CREATION: [&str; 4] = ["fork", "vfork", "clone", "clone3"];

/// Calls by name.
#[derive(Debug, Default)]
pub(crate) struct Calls(BTreeMap<String, u64>);

impl Calls {
    fn sum(&self, which: impl Fn(&str) -> bool) -> u64 {
        self.0.iter().filter(|(name, _)| which(name)).map(|(_, calls)| calls).sum()
    }

    /// Returns all of them for each entry.
    pub(crate) fn per_entry(&self, tree: &Tree) -> f64 {
        per(self.sum(|_| true), tree)
    }

    /// Returns how many change an owner, a mode, a time or an attribute.
    pub(crate) fn setattr(&self) -> u64 {
        self.sum(|name| {
            let name = name.trim_start_matches(['f', 'l']);
            ["chown", "chmod", "setxattr", "removexattr", "utime"]
                .iter()
                .any(|kind| name.starts_with(kind))
        })
    }
}

/// Returns whether there is a strace that works here.
pub(crate) fn is_available() -> bool {
    let traced = Command::new("strace").args(["-qqf", "-o", "/dev/null", "true"]).output();
    traced.is_ok_and(|output| output.status.success())
}

/// Counts the calls of some contenders on a tree that is in order, and prints them.
pub(crate) fn count(tree: &mut Tree, peers: &[Peer], style: Style) -> Vec<Calls> {
    let title = format!("System calls, no drift; {} entries", tree.entries());
    let headings =
        ["", "calls/entry", "stat/entry", "getdents/entry", "processes, threads", "setattr"];
    let mut table = Table::new(title, &headings);
    let each = |peer: &Peer| {
        if !tree.is(State::Right) {
            tree.bring_to(State::Right);
        }
        let calls = trace(*peer, tree.path());
        let stat = |name: &str| name.contains("stat") && !name.contains("statfs");
        table.row([
            peer.name(),
            format!("{:.3}", calls.per_entry(tree)),
            format!("{:.3}", per(calls.sum(stat), tree)),
            format!("{:.4}", per(calls.sum(|name| name.starts_with("getdents")), tree)),
            (1 + calls.sum(|name| CREATION.contains(&name))).to_string(),
            calls.setattr().to_string(),
        ]);
        calls
    };
    let counted = peers.iter().map(each).collect();
    table.print(style);
    counted
}

fn per(calls: u64, tree: &Tree) -> f64 {
    let float = |count: u64| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    float(calls) / float(tree.entries())
}

fn trace(peer: Peer, dir: &Path) -> Calls {
    let summary = tempfile::NamedTempFile::new().expect("a file can be made");
    let traced = peer.command(dir);
    let mut strace = Command::new("strace");
    strace.args(["-f", "-c", "-o"]).arg(summary.path()).arg("--").arg(traced.get_program());
    strace.args(traced.get_args()).stdin(Stdio::null()).stdout(Stdio::null());
    let status = strace.status().expect("strace worked before");
    assert!(status.success(), "{}: {status}", peer.name());
    parse(&std::fs::read_to_string(summary.path()).expect("strace wrote a summary"))
}

/// Reads strace's summary: share, seconds, microseconds, calls, perhaps errors, name.
fn parse(summary: &str) -> Calls {
    let mut calls = BTreeMap::new();
    for line in summary.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (Some(count), Some(name)) = (fields.get(3), fields.last()) else { continue };
        if let Ok(count) = count.parse::<u64>()
            && *name != "total"
        {
            *calls.entry((*name).to_owned()).or_default() += count;
        }
    }
    assert!(!calls.is_empty(), "strace counted nothing:\n{summary}");
    Calls(calls)
}
