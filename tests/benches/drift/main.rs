//! How soon the daemon puts drift right that happens in a volume, and what it costs to be ready.
//!
//! `cargo bench -p pctd-tests --bench drift -- --help` lists the options; `--quick` is done in two
//! minutes. The real daemon runs on a simulated node; the files, their owners and the events of
//! the kernel are real.
//!
//! - `subject`: the node, its volumes, the daemon, and whether an entry is as declared.
//! - `latency`: from a change to the moment it is undone, a thousand times.
//! - `burst`: a hundred thousand wrong files at once.
//! - `hostile`: somebody who undoes every repair, for ten seconds.
//! - `idle`: a big volume in which nothing happens.

mod burst;
mod hostile;
mod idle;
mod latency;
mod subject;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use pctd_tests::machine;
use pctd_tests::table::{Style, Targets};

/// What a measurement needs to know.
#[derive(Debug)]
struct Bench {
    /// Where nodes are made.
    dir: PathBuf,
    /// Files of the volume in which nothing happens.
    files: u32,
    /// Files that are made at once.
    burst: u32,
    /// How often a latency is measured.
    samples: u32,
    style: Style,
    targets: Targets,
}

/// Why nothing was measured: what should have happened did not.
type Measured = Result<(), String>;

/// Measures how drift is repaired as it happens.
///
/// It needs root. With the sizes below it takes about five minutes.
#[derive(Debug, Parser)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
struct Options {
    /// Files of the volume in which nothing happens.
    #[arg(long, default_value_t = 1_000_000)]
    files: u32,
    /// Files that are made at once.
    #[arg(long, default_value_t = 100_000)]
    burst: u32,
    /// How often a latency is measured.
    #[arg(long, default_value_t = 2_000)]
    samples: u32,
    /// 20,000 files, a burst of 10,000, 1,000 samples.
    #[arg(long)]
    quick: bool,
    /// Where the volumes are made, and so the file system; the temporary directory if not given.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Only these measurements.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Measurement>,
    /// Print tables as Markdown.
    #[arg(long)]
    markdown: bool,
    /// End with a failure if a target is missed. If nothing is repaired at all it always does.
    #[arg(long)]
    check: bool,
    /// What cargo passes.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Measurement {
    Latency,
    Burst,
    Hostile,
    Idle,
}

impl Measurement {
    const ALL: [Self; 4] = [Self::Latency, Self::Burst, Self::Hostile, Self::Idle];
}

fn main() -> ExitCode {
    let options = Options::parse();
    // `cargo test` runs benches, too, as a check that they build.
    if !options.bench {
        return ExitCode::SUCCESS;
    }
    if !rustix::process::geteuid().is_root() {
        eprintln!("this needs root, because pctd changes owners of files");
        return ExitCode::FAILURE;
    }
    let dir = options.dir.clone().unwrap_or_else(std::env::temp_dir);
    let dir = match std::path::absolute(dir) {
        Ok(dir) if dir.is_dir() => dir,
        _ => {
            eprintln!("no place for the volumes: --dir is no directory");
            return ExitCode::FAILURE;
        }
    };
    println!("{}", machine::describe(&dir));
    let style = if options.markdown { Style::Markdown } else { Style::Text };
    let (files, burst, samples) = if options.quick {
        (20_000, 10_000, 1_000)
    } else {
        (options.files, options.burst, options.samples)
    };
    let mut bench = Bench { dir, files, burst, samples, style, targets: Targets::default() };
    let mut failed = false;
    for which in Measurement::ALL {
        if options.only.is_empty() || options.only.contains(&which) {
            let measured = match which {
                Measurement::Latency => latency::measure(&mut bench),
                Measurement::Burst => burst::measure(&mut bench),
                Measurement::Hostile => hostile::measure(&mut bench),
                Measurement::Idle => idle::measure(&mut bench),
            };
            if let Err(why) = measured {
                println!("\n{which:?} FAILED: {why}");
                failed = true;
            }
        }
    }
    let missed = bench.targets.print(style);
    if failed || (options.check && missed > 0) { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
