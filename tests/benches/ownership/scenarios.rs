//! What is compared with what, and what each comparison has to show.

use std::path::PathBuf;

use clap::ValueEnum;
use pctd_tests::table::Bound::{AtLeast, AtMost};
use pctd_tests::table::{Style, Targets};

use crate::calls;
use crate::peers::Peer;
use crate::rounds::{Cache, Cost, Measured, Turn, alternate, can_be_cold};
use crate::tree::{Shape, State, Tree};

/// Threads of the walk that hide a disk's latency.
const OVERSUBSCRIBED: usize = 8;

/// One comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scenario {
    /// Nothing is out of order, and everything in memory.
    NoDrift,
    /// As `no-drift`, with caches dropped before each turn.
    Cold,
    /// One entry of a hundred is out of order.
    Drift,
    /// Everything is.
    Fix,
    /// All in one directory; a tenth of the files.
    Flat,
    /// A thousand directories inside one another; a tenth of the files.
    Deep,
    /// Beside the script before pctd, which starts a process for each entry; 20,000 files at most,
    /// or a tenth.
    Seed,
    /// System calls for each entry; 20,000 files at most.
    Calls,
}

impl Scenario {
    pub(crate) const ALL: [Self; 8] = [
        Self::NoDrift,
        Self::Cold,
        Self::Drift,
        Self::Fix,
        Self::Flat,
        Self::Deep,
        Self::Seed,
        Self::Calls,
    ];
}

/// A run of the benchmark.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) dir: PathBuf,
    pub(crate) files: u32,
    pub(crate) rounds: usize,
    pub(crate) threads: usize,
    pub(crate) style: Style,
    pub(crate) targets: Targets,
}

const ONE: Peer = Peer::Ours(1);

fn right(peer: Peer) -> Turn {
    Turn { peer, state: State::Right }
}

fn cpu(cost: &Cost) -> f64 {
    cost.cpu
}

fn wall(cost: &Cost) -> f64 {
    cost.wall
}

/// The contenders with the walk at its end, with each of these numbers of threads.
fn contenders(peers: &[Peer], state: State, threads: &[usize]) -> Vec<Turn> {
    let ours = threads.iter().map(|threads| Peer::Ours(*threads));
    let mut turns: Vec<Turn> = Vec::new();
    for peer in peers.iter().copied().chain(ours) {
        let turn = Turn { peer, state };
        if !turns.contains(&turn) {
            turns.push(turn);
        }
    }
    turns
}

impl Bench {
    /// Makes the trees of one comparison, measures, prints and judges.
    pub(crate) fn run(&mut self, scenario: Scenario) {
        match scenario {
            Scenario::NoDrift => self.no_drift(),
            Scenario::Cold => self.cold(),
            Scenario::Drift => self.drift(),
            Scenario::Fix => self.fix(),
            Scenario::Flat => self.flat(),
            Scenario::Deep => self.deep(),
            Scenario::Seed => self.seed(),
            Scenario::Calls => self.calls(),
        }
    }

    fn tree(&self, shape: Shape, files: u32) -> Tree {
        Tree::make(&self.dir, shape, files)
    }

    fn small(&self) -> u32 {
        self.files.min(20_000)
    }

    fn tenth(&self) -> u32 {
        (self.files / 10).max(self.small())
    }

    /// The walk with several threads; with one where that is all there are.
    fn many(&self) -> Peer {
        Peer::Ours(self.threads)
    }

    fn is_parallel(&self) -> bool {
        self.threads > 1
    }

    fn measure(&self, tree: &mut Tree, title: &str, turns: &[Turn], cache: Cache) -> Measured {
        self.measure_for(self.rounds, tree, title, turns, cache)
    }

    fn measure_for(
        &self,
        rounds: usize,
        tree: &mut Tree,
        title: &str,
        turns: &[Turn],
        cache: Cache,
    ) -> Measured {
        eprintln!("{title}");
        let measured = alternate(tree, turns, cache, rounds);
        let ours = turns.iter().find(|turn| turn.peer == ONE).expect("the walk always takes part");
        measured.print(title, *ours, self.style);
        measured
    }

    fn no_drift(&mut self) {
        let mut tree = self.tree(Shape::Spread, self.files);
        let peers = [Peer::Names, Peer::Floor, Peer::Find, Peer::ChownR, Peer::Sane];
        let turns = contenders(&peers, State::Right, &[1, self.threads]);
        let measured = self.measure(&mut tree, "No drift, warm, four levels", &turns, Cache::Warm);
        let one = right(ONE);
        let many = self.is_parallel().then(|| right(self.many()));
        let cpu_of = |of, to| measured.ratio(right(of), right(to), cpu);
        let judge = &mut self.targets;
        judge.judge("no drift: CPU to the floor's", AtMost(1.15), "x", cpu_of(ONE, Peer::Floor));
        judge.judge("no drift: CPU to find's", AtMost(1.0), "x", cpu_of(ONE, Peer::Find));
        let less = cpu_of(Peer::Sane, ONE);
        judge.judge("no drift: CPU less than the sane script's", AtLeast(5.0), "x", less);
        judge.judge("no drift: memory above idle", AtMost(16.0), " MiB", measured.mib(one));
        let wall_of = |of| measured.ratio(of, many?, wall);
        let more = many.and_then(|many| measured.ratio(many, right(Peer::Floor), cpu));
        judge.judge("no drift, parallel: CPU to the floor's", AtMost(1.15), "x", more);
        let memory = many.and_then(|many| measured.mib(many));
        judge.judge("no drift, parallel: memory above idle", AtMost(16.0), " MiB", memory);
        judge.judge("no drift, parallel: faster than 1 thread", AtLeast(1.6), "x", wall_of(one));
        let faster = wall_of(right(Peer::Sane));
        judge.judge("no drift, parallel: faster than the sane script", AtLeast(8.0), "x", faster);
        let faster = wall_of(right(Peer::Find));
        judge.judge("no drift, parallel: faster than find", AtLeast(2.0), "x", faster);
    }

    fn cold(&mut self) {
        if !can_be_cold() {
            println!("\ncold: left out, this machine does not let its caches be dropped");
            return;
        }
        let mut tree = self.tree(Shape::Spread, self.files);
        let threads = [1, self.threads, OVERSUBSCRIBED];
        let turns = contenders(&[Peer::Floor, Peer::Find], State::Right, &threads);
        let measured = self.measure(&mut tree, "No drift, cold", &turns, Cache::Cold);
        let faster = measured.ratio(right(ONE), right(Peer::Ours(OVERSUBSCRIBED)), wall);
        let what = "cold, 8 threads: faster than 1 thread";
        self.targets.judge(what, AtLeast(2.0), "x", faster);
    }

    fn drift(&mut self) {
        let mut tree = self.tree(Shape::Spread, self.files);
        let drifted = |peer| Turn { peer, state: State::Drifted };
        let mut turns = vec![right(ONE), drifted(ONE), right(Peer::Floor), drifted(Peer::Sane)];
        if self.is_parallel() {
            turns.extend([right(self.many()), drifted(self.many())]);
        }
        let measured = self.measure(&mut tree, "1 % drift, warm", &turns, Cache::Warm);
        let ratio = measured.ratio(drifted(ONE), right(ONE), cpu);
        self.targets.judge("1 % drift: CPU to that of no drift", AtMost(1.15), "x", ratio);
    }

    fn fix(&mut self) {
        let mut tree = self.tree(Shape::Spread, self.files);
        let peers = [Peer::ChownR, Peer::Sane];
        let turns = contenders(&peers, State::Wrong, &[1, self.threads]);
        let measured = self.measure(&mut tree, "Everything wrong, warm", &turns, Cache::Warm);
        let wrong = |peer| Turn { peer, state: State::Wrong };
        let ratio = |of, to, what| measured.ratio(wrong(of), wrong(to), what);
        let less = ratio(Peer::Sane, ONE, cpu);
        let many = self.many();
        let faster = if self.is_parallel() { ratio(Peer::Sane, many, wall) } else { None };
        let judge = &mut self.targets;
        judge.judge("everything wrong: CPU less than the sane script's", AtLeast(1.1), "x", less);
        let what = "everything wrong, parallel: faster than the sane script";
        judge.judge(what, AtLeast(2.0), "x", faster);
    }

    fn flat(&mut self) {
        let mut tree = self.tree(Shape::Flat, self.tenth());
        let peers = [Peer::Floor, Peer::Find, Peer::ChownR, Peer::Sane];
        let turns = contenders(&peers, State::Right, &[1, self.threads]);
        let measured = self.measure(&mut tree, "No drift, one directory", &turns, Cache::Warm);
        let ratio = measured.ratio(right(ONE), right(Peer::Floor), cpu);
        let memory = measured.mib(right(self.many()));
        let judge = &mut self.targets;
        judge.judge("one directory: CPU to the floor's", AtMost(1.15), "x", ratio);
        judge.judge("one directory: memory above idle", AtMost(16.0), " MiB", memory);
    }

    /// Beside a tree of the usual shape, measured in the same run.
    fn deep(&mut self) {
        let files = self.tenth();
        let mut shallow = self.tree(Shape::Spread, files);
        let turns = contenders(&[Peer::Floor], State::Right, &[1]);
        let title = "No drift, four levels";
        let usual = self.measure(&mut shallow, title, &turns, Cache::Warm).micros(right(ONE));
        drop(shallow);
        let mut tree = self.tree(Shape::Deep, files);
        let peers = [Peer::Floor, Peer::Find, Peer::ChownR, Peer::Sane];
        let turns = contenders(&peers, State::Right, &[1, self.threads]);
        let measured = self.measure(&mut tree, "No drift, a thousand levels", &turns, Cache::Warm);
        let deep = measured.micros(right(ONE));
        let ratio = deep.zip(usual).map(|(deep, usual)| deep / usual);
        let what = "a thousand levels: CPU per entry to that of four";
        self.targets.judge(what, AtMost(2.5), "x", ratio);
        let memory = measured.mib(right(self.many()));
        self.targets.judge("a thousand levels: memory above idle", AtMost(16.0), " MiB", memory);
    }

    fn seed(&mut self) {
        let mut tree = self.tree(Shape::Spread, (self.files / 10).clamp(2_000, 20_000));
        let turns =
            contenders(&[Peer::Floor, Peer::Sane, Peer::Seed], State::Right, &[1, self.threads]);
        let title = "No drift, beside the seed's script, small tree";
        // It takes half a minute for 20,000 entries.
        let rounds = self.rounds.min(3);
        let measured = self.measure_for(rounds, &mut tree, title, &turns, Cache::Warm);
        let less = measured.ratio(right(Peer::Seed), right(ONE), cpu);
        let what = "CPU per entry less than the seed's script's (small tree, extrapolated)";
        self.targets.judge(what, AtLeast(300.0), "x", less);
        if let Some(micros) = measured.micros(right(Peer::Seed)) {
            println!(
                "\nThe seed's script: {micros:.0} us CPU per entry; so many seconds for a million \
                 (extrapolated: nobody waited for it)."
            );
        }
    }

    fn calls(&mut self) {
        if !calls::is_available() {
            println!("\nsystem calls: left out, there is no strace here");
            return;
        }
        let mut tree = self.tree(Shape::Spread, self.small());
        let mut peers = vec![ONE, Peer::Floor, Peer::Find, Peer::ChownR, Peer::Sane];
        if self.is_parallel() {
            peers.push(self.many());
        }
        let counted = calls::count(&mut tree, &peers, self.style);
        let setattr = f64::from(u32::try_from(counted[0].setattr()).unwrap_or(u32::MAX));
        let each = counted[0].per_entry(&tree);
        let judge = &mut self.targets;
        judge.judge("no drift: system calls per entry", AtMost(1.10), "", Some(each));
        judge.judge("no drift: calls that change an entry", AtMost(0.0), "", Some(setattr));
        // Some 125 calls and a process for each entry: a smaller tree shows the same.
        drop(tree);
        let mut tree = self.tree(Shape::Spread, self.small().min(1_000));
        calls::count(&mut tree, &[Peer::Seed], self.style);
    }
}
