//! What it takes to serve a second container, with another id map, from a volume of a million files:
//! a map of its mount, beside `chown -R`, which takes the files away from the first one. They take turns.
//!
//! `cargo bench -p pctd-tests --bench disk_ids -- --files 100000`

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant, SystemTime};

use clap::Parser;
use pctd_core::idmap::{IdKind, IdMap, IdRange};
use pctd_core::mount_map;
use pctd_sys::idmapped::{detached_clone, map_ids, user_namespace};
use pctd_tests::machine;
use pctd_tests::statistics::{median, range};
use rustix::fs::{AtFlags, CWD, statat};

/// Where the ids of the two containers begin; the files have those of one of them.
const BASES: [u32; 2] = [100_000, 200_000];
const COUNT: u64 = 65_536;
const FILES_IN_DIR: u64 = 1000;
/// How often a container is served in a turn: one time is too short to be measured by itself.
const SERVINGS: usize = 51;
/// What the work for a second container may take, whatever the size of the volume.
const TARGET: Duration = Duration::from_millis(1);

#[derive(Debug, Parser)]
struct Options {
    /// Files of the volume.
    #[arg(long, default_value_t = 1_000_000)]
    files: u64,
    /// Turns of each that count; one before them is dropped.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Where it is made, and so the file system; the temporary directory if not given.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// End with a failure if a target is missed.
    #[arg(long)]
    check: bool,
    /// What cargo passes.
    #[arg(long, hide = true)]
    bench: bool,
}

/// What one turn came to.
struct Turn {
    seconds: f64,
    inodes: usize,
}

fn main() -> ExitCode {
    let options = Options::parse();
    // `cargo test` runs benches, too, as a check that they build.
    if !options.bench {
        return ExitCode::SUCCESS;
    }
    if !rustix::process::geteuid().is_root() {
        eprintln!("this needs root, because it mounts and changes owners");
        return ExitCode::FAILURE;
    }
    let dir = options.dir.clone().unwrap_or_else(std::env::temp_dir);
    let volume = tempfile::tempdir_in(dir).expect("a place for the files");
    println!("{}", machine::describe(volume.path()));
    make(volume.path(), options.files);
    chown(BASES[0], volume.path());
    println!("{} files, {} rounds\n", options.files, options.rounds);
    let (mut maps, mut chowns) = (Vec::new(), Vec::new());
    for round in 0..=options.rounds {
        // `chown -R` gives the files to the other container, so the map is for the one before.
        let on_disk = |turn: usize| BASES[turn % 2];
        let map = |on_disk| {
            turn(volume.path(), |volume| {
                let other = if on_disk == BASES[0] { BASES[1] } else { BASES[0] };
                let served: Vec<f64> =
                    (0..SERVINGS).map(|_| serve(volume, on_disk, other).as_secs_f64()).collect();
                median(&served)
            })
        };
        let chown = |to| {
            turn(volume.path(), |volume| {
                let begun = Instant::now();
                chown(to, volume);
                begun.elapsed().as_secs_f64()
            })
        };
        // They take turns, and each comes first in every other round.
        let (mapped, chowned) = if round % 2 == 0 {
            let mapped = map(on_disk(round));
            (mapped, chown(on_disk(round + 1)))
        } else {
            let chowned = chown(on_disk(round + 1));
            (map(on_disk(round + 1)), chowned)
        };
        if round > 0 {
            maps.push(mapped);
            chowns.push(chowned);
        }
    }
    report(&options, &maps, &chowns)
}

fn report(options: &Options, maps: &[Turn], chowns: &[Turn]) -> ExitCode {
    let seconds = |turns: &[Turn]| turns.iter().map(|turn| turn.seconds).collect::<Vec<f64>>();
    let inodes = |turns: &[Turn]| turns.iter().map(|turn| turn.inodes).max().unwrap_or_default();
    println!("{:<58} {:>10} {:>23} {:>15}", "", "median", "range", "inodes written");
    for (what, turns) in [
        ("one more container, through a map of its mount", maps),
        ("one more container, with chown -R (others see nobody)", chowns),
    ] {
        let all = seconds(turns);
        let (least, most) = range(&all);
        let of = |seconds| format!("{:.2?}", Duration::from_secs_f64(seconds));
        let spread = format!("{} to {}", of(least), of(most));
        println!("{what:<58} {:>10} {spread:>23} {:>15}", of(median(&all)), inodes(turns));
    }
    let ratios: Vec<f64> = maps.iter().zip(chowns).map(|(a, b)| b.seconds / a.seconds).collect();
    let (least, most) = range(&ratios);
    println!("\nchown -R takes {:.0} times as long ({least:.0} to {most:.0})", median(&ratios));
    let missed = median(&seconds(maps)) > TARGET.as_secs_f64() || inodes(maps) > 0;
    println!("target: {TARGET:?} and no inode: {}", if missed { "MISSED" } else { "met" });
    if missed && options.check { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Takes a turn, with everything before it on the disk, and counts the inodes it wrote.
fn turn(volume: &Path, work: impl FnOnce(&Path) -> f64) -> Turn {
    rustix::fs::syncfs(File::open(volume).expect("the volume")).expect("it is written");
    let mark = mark();
    let seconds = work(volume);
    Turn { seconds, inodes: written_since(volume, mark) }
}

fn make(volume: &Path, files: u64) {
    for n in 0..files {
        let dir = volume.join((n / FILES_IN_DIR).to_string());
        if n % FILES_IN_DIR == 0 {
            fs::create_dir(&dir).expect("a directory");
        }
        File::create(dir.join(n.to_string())).expect("a file");
    }
}

fn chown(owner: u32, volume: &Path) {
    let owner = format!("{owner}:{owner}");
    let status = Command::new("chown").args(["-R", &owner]).arg(volume).status();
    assert!(status.expect("chown runs").success());
}

/// All that is done for one more container, whose ids begin at `own`: its option is planned, the file
/// system is asked whether it can, and the mount is made as Proxmox makes it. Returns how long it took;
/// that it serves is checked afterwards.
fn serve(volume: &Path, on_disk: u32, own: u32) -> Duration {
    let both = |host: u32| {
        let range = |kind| IdRange { kind, container: 0, host: host.into(), count: COUNT };
        IdMap::new(vec![range(IdKind::User), range(IdKind::Group)])
    };
    let begun = Instant::now();
    let (map, space) = (both(own), both(on_disk));
    let image = mount_map::image(&map, &space).expect("the ids fit");
    let option = mount_map::option(&map, &image).expect("it can be said");
    let dir = File::open(volume).expect("the volume");
    // Once to find out, once to do it: a node asks only the first time.
    let map = format!("{on_disk} {own} {COUNT}\n");
    let made = [(), ()].map(|()| {
        let mount = detached_clone(&dir).expect("a mount");
        map_ids(&mount, user_namespace(&map, &map).expect("a namespace")).expect("mapped ids");
        mount
    });
    let time = begun.elapsed();
    assert_eq!(option, Some(format!("u:0:{on_disk}:{COUNT};g:0:{on_disk}:{COUNT}")));
    let seen = statat(&made[1], "0/0", AtFlags::SYMLINK_NOFOLLOW).expect("the first file");
    assert_eq!((seen.st_uid, seen.st_gid), (own, own), "root of the second container");
    let there = statat(CWD, volume.join("0/0"), AtFlags::SYMLINK_NOFOLLOW).expect("it is there");
    assert_eq!(there.st_uid, on_disk);
    time
}

/// Returns a moment between what was done before and what is done afterwards. The clock of the file
/// system is a coarse one.
fn mark() -> (i64, i64) {
    const TICK: Duration = Duration::from_millis(50);
    std::thread::sleep(TICK);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    std::thread::sleep(TICK);
    (i64::try_from(now.as_secs()).expect("a time"), now.subsec_nanos().into())
}

/// Counts the inodes that were written since. Nothing is kept of them: a process with much memory takes
/// longer to make the one that a namespace begins with.
fn written_since(dir: &Path, mark: (i64, i64)) -> usize {
    let is_new = |path: &Path| {
        let stat = fs::symlink_metadata(path).expect("it is there");
        usize::from((stat.ctime(), stat.ctime_nsec()) > mark)
    };
    let below = fs::read_dir(dir).expect("a directory").map(|entry| {
        let entry = entry.expect("an entry");
        if entry.file_type().expect("a type").is_dir() {
            written_since(&entry.path(), mark)
        } else {
            is_new(&entry.path())
        }
    });
    is_new(dir) + below.sum::<usize>()
}
