//! Contenders take turns, and each turn is measured.

use std::fs;
use std::io::Read as _;
use std::process::Stdio;
use std::time::Instant;

use pctd_tests::statistics::{median, range};
use pctd_tests::table::{Style, Table, figure};
use wait4::Wait4 as _;

use crate::peers::Peer;
use crate::tree::{State, Tree};

/// What one turn of a contender cost.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost {
    /// User and system time of it and all its children, in seconds.
    pub(crate) cpu: f64,
    /// In seconds.
    pub(crate) wall: f64,
    /// By how much the peak of its memory grew, in KiB; only pctd tells.
    pub(crate) kib: u64,
}

/// Whether the tree is in memory when a turn begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cache {
    Warm,
    /// Nothing of any file system is; a hypervisor may still have it.
    Cold,
}

/// A contender and the state it finds the tree in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Turn {
    pub(crate) peer: Peer,
    pub(crate) state: State,
}

/// What all turns cost, in the order of the rounds.
#[derive(Debug)]
pub(crate) struct Measured {
    entries: f64,
    turns: Vec<(Turn, Vec<Cost>)>,
}

/// Lets contenders take turns, first to last and then last to first, once more than `rounds`: the
/// first round is dropped.
pub(crate) fn alternate(tree: &mut Tree, turns: &[Turn], cache: Cache, rounds: usize) -> Measured {
    let mut costs: Vec<Vec<Cost>> = vec![Vec::new(); turns.len()];
    for round in 0..=rounds {
        let forwards = 0..turns.len();
        let order: Vec<usize> =
            if round % 2 == 0 { forwards.collect() } else { forwards.rev().collect() };
        eprintln!("  round {round} of {rounds}");
        for index in order {
            let cost = one(tree, turns[index], cache);
            if round > 0 {
                costs[index].push(cost);
            }
        }
    }
    let entries = f64::from(u32::try_from(tree.entries()).expect("a tree of millions"));
    Measured { entries, turns: turns.iter().copied().zip(costs).collect() }
}

fn one(tree: &mut Tree, turn: Turn, cache: Cache) -> Cost {
    if !tree.is(turn.state) {
        tree.bring_to(turn.state);
    }
    tree.settle();
    if cache == Cache::Cold {
        fs::write(DROP_CACHES, "3").expect("caches could be dropped before");
    }
    let cost = measure(turn.peer, tree);
    if turn.peer.repairs() && turn.state != State::Right {
        tree.was_repaired_by(&turn.peer.name());
    } else if !turn.peer.only_looks() && turn.state != State::Right {
        tree.bring_to(State::Right);
    }
    cost
}

const DROP_CACHES: &str = "/proc/sys/vm/drop_caches";

/// Returns whether this machine lets its caches be dropped.
pub(crate) fn can_be_cold() -> bool {
    fs::OpenOptions::new().write(true).open(DROP_CACHES).is_ok()
}

fn measure(peer: Peer, tree: &Tree) -> Cost {
    let mut command = peer.command(tree.path());
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let begun = Instant::now();
    let mut child = command.spawn().expect("a contender can be started");
    let mut said = String::new();
    // Until it has said all: all of them say little, but for `find` on a tree out of order.
    let read = child.stdout.take().map(|mut stdout| stdout.read_to_string(&mut said));
    read.expect("its output is a pipe").expect("names are UTF-8");
    let used = child.wait4().expect("a contender can be waited for");
    let wall = begun.elapsed().as_secs_f64();
    assert!(used.status.success(), "{}: {}", peer.name(), used.status);
    let mut kib = 0;
    if peer.reports() {
        let counts: Vec<u64> = said.split_whitespace().filter_map(|n| n.parse().ok()).collect();
        let &[entries, _, grown] = &counts[..] else { panic!("{}: {said}", peer.name()) };
        assert_eq!(entries, tree.entries(), "{} did not see every entry", peer.name());
        kib = grown;
    }
    let cpu = (used.rusage.utime + used.rusage.stime).as_secs_f64();
    Cost { cpu, wall, kib }
}

impl Measured {
    fn of(&self, turn: Turn) -> Option<&[Cost]> {
        let found = self.turns.iter().find(|(other, _)| *other == turn);
        found.map(|(_, costs)| costs.as_slice())
    }

    /// Returns the median CPU for an entry, in microseconds.
    pub(crate) fn micros(&self, turn: Turn) -> Option<f64> {
        let cpu: Vec<f64> = self.of(turn)?.iter().map(|cost| cost.cpu).collect();
        Some(median(&cpu) * 1e6 / self.entries)
    }

    /// Returns the largest growth of memory, in MiB.
    pub(crate) fn mib(&self, turn: Turn) -> Option<f64> {
        let kib = self.of(turn)?.iter().map(|cost| cost.kib).max()?;
        Some(f64::from(u32::try_from(kib).ok()?) / 1024.0)
    }

    /// Returns how many times `of` costs what `to` costs: the median of the rounds' ratios.
    pub(crate) fn ratio(&self, of: Turn, to: Turn, what: fn(&Cost) -> f64) -> Option<f64> {
        Some(median(&self.ratios(of, to, what)?))
    }

    fn ratios(&self, of: Turn, to: Turn, what: fn(&Cost) -> f64) -> Option<Vec<f64>> {
        let pairs = self.of(of)?.iter().zip(self.of(to)?);
        Some(pairs.map(|(of, to)| what(of) / what(to)).collect())
    }

    /// Prints a row for each contender; CPU and wall also as multiples of `to`.
    pub(crate) fn print(&self, title: &str, to: Turn, style: Style) {
        let to_name = to.peer.name();
        let headings =
            ["", "CPU s", "us/entry", "CPU, ratio", "[rounds]", "wall s", "[best]", "wall, ratio"];
        let title = format!("{title}; {} entries; ratios to: {to_name}", self.entries);
        let mut table = Table::new(title, &headings);
        let mixed = self.turns.iter().any(|(turn, _)| turn.state != to.state);
        for (turn, costs) in &self.turns {
            let cpu: Vec<f64> = costs.iter().map(|cost| cost.cpu).collect();
            let wall: Vec<f64> = costs.iter().map(|cost| cost.wall).collect();
            let ratios = self.ratios(*turn, to, |cost| cost.cpu).unwrap_or_default();
            let walls = self.ratio(*turn, to, |cost| cost.wall).unwrap_or_default();
            let (low, high) = range(&ratios);
            let state =
                if mixed { format!(", {:?}", turn.state).to_lowercase() } else { String::new() };
            table.row([
                turn.peer.name() + &state,
                format!("{:.3}", median(&cpu)),
                format!("{:.2}", median(&cpu) * 1e6 / self.entries),
                format!("{}x", figure(median(&ratios))),
                format!("{}..{}", figure(low), figure(high)),
                format!("{:.3}", median(&wall)),
                format!("{:.3}", range(&wall).0),
                format!("{}x", figure(walls)),
            ]);
        }
        table.print(style);
    }
}
