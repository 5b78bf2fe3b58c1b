//! What keeping a tree at its declared owner and modes costs, beside the least the kernel allows
//! and beside the ways a shell would do it.
//!
//! `cargo bench -p pctd-tests --bench ownership -- --help` lists the options; `--quick` is done in
//! a minute. Every contender is a process of its own, measured by wait4: its CPU (user and system,
//! children included) is the evidence, its wall time the context. Contenders take turns, forwards
//! and backwards, a first round is dropped, and ratios are made within a round, so that a machine
//! that does something else meanwhile disturbs all of them alike.
//!
//! - `floor`: one pass over a tree with as few system calls as there can be.
//! - `ours`: the walk of `pctd-node`, as a process.
//! - `tree`: the trees, and how they are brought out of order.
//! - `peers`: the contenders; `rounds` lets them take turns; `calls` counts system calls.
//! - `scenarios`: what is compared with what; `targets` are judged at the end.

mod calls;
mod floor;
mod ours;
mod peers;
mod rounds;
mod scenarios;
mod tree;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use pctd_tests::machine;
use pctd_tests::table::{Style, Targets};

use crate::scenarios::{Bench, Scenario};

/// Compares the ownership walk with its floor and its peers, on trees it makes.
///
/// It needs root, because it changes owners; the sizes below take about 25 minutes and 1.5 GiB.
#[derive(Debug, Parser)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
struct Options {
    /// Files of the big tree; the others are made in proportion.
    #[arg(long, default_value_t = 1_000_000)]
    files: u32,
    /// Rounds that count; one more comes first and is dropped.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// 20,000 files and 3 rounds: to see that it works, the figures are rough.
    #[arg(long)]
    quick: bool,
    /// Where the trees are made, and so the file system; the temporary directory if not given.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Threads of the parallel walk; as many as there are cores if not given.
    #[arg(long)]
    threads: Option<usize>,
    /// Only these comparisons.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Scenario>,
    /// Print tables as Markdown.
    #[arg(long)]
    markdown: bool,
    /// End with a failure if a target is missed.
    #[arg(long)]
    check: bool,
    /// What cargo passes.
    #[arg(long, hide = true)]
    bench: bool,
    #[command(subcommand)]
    contender: Option<Contender>,
}

/// What this program is when it is started by itself, to be measured.
#[derive(Debug, Subcommand)]
enum Contender {
    /// The floor.
    #[command(hide = true)]
    Floor {
        /// Read names and stat nothing.
        #[arg(long)]
        names_only: bool,
        dir: PathBuf,
    },
    /// The walk.
    #[command(hide = true)]
    Ours {
        #[arg(long)]
        threads: usize,
        dir: PathBuf,
    },
}

fn main() -> ExitCode {
    let options = Options::parse();
    match &options.contender {
        Some(Contender::Floor { names_only, dir }) => return floor::main(dir, *names_only),
        Some(Contender::Ours { threads, dir }) => return ours::main(dir, *threads),
        None => {}
    }
    // `cargo test` runs benches, too, as a check that they build.
    if !options.bench {
        return ExitCode::SUCCESS;
    }
    if !rustix::process::geteuid().is_root() {
        eprintln!("this needs root, because it changes owners of files");
        return ExitCode::FAILURE;
    }
    let style = if options.markdown { Style::Markdown } else { Style::Text };
    let (files, rounds) = if options.quick { (20_000, 3) } else { (options.files, options.rounds) };
    let threads = options.threads.unwrap_or_else(machine::cores);
    let mut below = tempfile::Builder::new();
    let dir = match &options.dir {
        Some(dir) => {
            std::path::absolute(dir).and_then(|dir| below.prefix("pctd-bench").tempdir_in(dir))
        }
        None => below.prefix("pctd-bench").tempdir(),
    };
    let dir = match dir {
        Ok(dir) => dir,
        Err(error) => {
            eprintln!("no place for the trees: {error}");
            return ExitCode::FAILURE;
        }
    };
    println!("{}", machine::describe(dir.path()));
    println!(
        "{files} files in the big tree, {rounds} rounds, {threads} threads in the parallel walk"
    );
    tree::raise_fd_limit();
    let targets = Targets::default();
    let mut bench = Bench { dir: dir.path().to_owned(), files, rounds, threads, style, targets };
    for scenario in Scenario::ALL {
        if options.only.is_empty() || options.only.contains(&scenario) {
            bench.run(scenario);
        }
    }
    let missed = bench.targets.print(style);
    if options.check && missed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
