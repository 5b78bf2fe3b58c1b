//! What it takes to serve a second container, with another id map, from a volume of a million files:
//! a map of its mount, beside `chown -R`, which takes the files away from the first one.
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
use pctd_tests::statistics::median;
use rustix::fs::{AtFlags, CWD, statat};

/// The ids that the files have on disk: those of the first container.
const FIRST: u32 = 100_000;
/// Where the ids of the second one begin.
const SECOND: u32 = 200_000;
const COUNT: u64 = 65_536;
const FILES_IN_DIR: u64 = 1000;
const ROUNDS: usize = 101;
/// What the work for a second container may take, whatever the size of the volume.
const TARGET: Duration = Duration::from_millis(1);

#[derive(Debug, Parser)]
struct Options {
    /// Files of the volume.
    #[arg(long, default_value_t = 1_000_000)]
    files: u64,
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
    chown(FIRST, volume.path());
    println!("{} files, owned from {FIRST} on\n", options.files);
    println!("{:<58} {:>12} {:>16}", "", "time", "inodes written");

    let mark = mark();
    let served: Vec<f64> = (0..ROUNDS).map(|_| serve(volume.path()).as_secs_f64()).collect();
    let median = Duration::from_secs_f64(median(&served));
    let written = written_since(volume.path(), mark);
    row("a second container, through a map of its mount", median, written);

    let begun = Instant::now();
    chown(SECOND, volume.path());
    let time = begun.elapsed();
    let rewritten = written_since(volume.path(), mark);
    row("a second container, with chown -R (the first one sees nobody)", time, rewritten);

    let missed = median > TARGET || written > 0;
    println!("\ntarget: {TARGET:?} and no inode: {}", if missed { "MISSED" } else { "met" });
    if missed && options.check { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn row(what: &str, time: Duration, inodes: usize) {
    println!("{what:<58} {:>12} {inodes:>16}", format!("{time:.2?}"));
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

/// All that is done for one more container: its option is planned, the file system is asked whether
/// it can, and the mount is made as Proxmox makes it. Returns how long it took; that it serves is
/// checked afterwards.
fn serve(volume: &Path) -> Duration {
    let both = |host: u32| {
        let range = |kind| IdRange { kind, container: 0, host: host.into(), count: COUNT };
        IdMap::new(vec![range(IdKind::User), range(IdKind::Group)])
    };
    let begun = Instant::now();
    let (own, space) = (both(SECOND), both(FIRST));
    let image = mount_map::image(&own, &space).expect("the ids fit");
    let option = mount_map::option(&own, &image).expect("it can be said");
    let dir = File::open(volume).expect("the volume");
    // Once to find out, once to do it: a node asks only the first time.
    let map = format!("{FIRST} {SECOND} {COUNT}\n");
    let made = [(), ()].map(|()| {
        let mount = detached_clone(&dir).expect("a mount");
        map_ids(&mount, user_namespace(&map, &map).expect("a namespace")).expect("mapped ids");
        mount
    });
    let time = begun.elapsed();
    assert_eq!(option.as_deref(), Some("u:0:100000:65536;g:0:100000:65536"));
    let seen = statat(&made[1], "0/0", AtFlags::SYMLINK_NOFOLLOW).expect("the first file");
    assert_eq!((seen.st_uid, seen.st_gid), (SECOND, SECOND), "root of the second container");
    let on_disk = statat(CWD, volume.join("0/0"), AtFlags::SYMLINK_NOFOLLOW).expect("it is there");
    assert_eq!(on_disk.st_uid, FIRST);
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
