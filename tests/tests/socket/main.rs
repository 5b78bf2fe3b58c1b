//! The daemon's socket, and clients that mean it no good: none of them changes anything unless it
//! is root, holds anything up, or leaves anything behind.

#![expect(clippy::unwrap_used, reason = "a test whose node cannot be made ends")]

use std::fs;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use pctd_tests::daemon::{Daemon, PATIENCE, eventually};
use pctd_tests::world::{UNPRIVILEGED, World};
use rustix::fs::{Gid, Uid};
use rustix::thread::{set_thread_gid, set_thread_groups, set_thread_uid};
use serde_json::Value;

mod clients;
mod follow;
mod guests;
mod requests;

const STATUS: &[u8] = b"{\"version\":1,\"op\":\"status\"}\n";
const RECONCILE: &[u8] = b"{\"version\":1,\"op\":\"reconcile\",\"confirm\":true}\n";
const FOLLOW: &[u8] = b"{\"version\":1,\"op\":\"status\",\"follow\":true}\n";

const DATA: &str =
    r#""data": {"host_path": "/tank/data", "owner": "container_root", "mounts": {"100": "/data"}}"#;

/// A group that nobody has.
const GROUP: u32 = 4711;
const GUEST: u32 = 4712;
const OTHER_GUEST: u32 = 4713;

/// Places for clients of root's, and for all others; each is a descriptor.
const CLIENTS: usize = 64 + 16;
/// Of the latter, for those of one user.
const GUESTS_OF_ONE: usize = 8;

fn world() -> Option<World> {
    let world = World::new(env!("CARGO_BIN_EXE_pctd-tests"))?;
    world.container(100, &[UNPRIVILEGED]);
    world.volumes("", DATA);
    Some(world)
}

fn socket(world: &World) -> PathBuf {
    world.host("/run/pctd/pctd.sock")
}

fn connect(socket: &Path) -> UnixStream {
    let stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Runs something as [`GUEST`], who is in one group.
fn as_guest<T: Send + 'static>(gid: u32, work: impl FnOnce() -> T + Send + 'static) -> T {
    as_user(GUEST, gid, work)
}

/// Runs something as another user, who is in one group.
fn as_user<T: Send + 'static>(uid: u32, gid: u32, work: impl FnOnce() -> T + Send + 'static) -> T {
    let guest = move || {
        // Of this thread alone, which ends with it.
        set_thread_groups(&[]).unwrap();
        set_thread_gid(Gid::from_raw(gid)).unwrap();
        set_thread_uid(Uid::from_raw(uid)).unwrap();
        work()
    };
    thread::spawn(guest).join().unwrap()
}

/// Sends these bytes and returns the line that comes back; empty where the connection ends.
fn ask(stream: UnixStream, bytes: &[u8]) -> String {
    // The daemon may have said what it thinks of them before they are all sent.
    let _cut = (&stream).write_all(bytes);
    line(&mut BufReader::new(stream))
}

fn line(reader: &mut BufReader<UnixStream>) -> String {
    let mut answer = String::new();
    match reader.read_line(&mut answer) {
        Ok(_) => answer,
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => answer,
        Err(error) => panic!("no answer: {error}"),
    }
}

fn error_of(answer: &str) -> String {
    let answer: Value = serde_json::from_str(answer).unwrap_or_else(|_| panic!("{answer:?}"));
    answer["error"].as_str().unwrap_or_default().to_owned()
}

/// What the daemon holds.
#[derive(Debug, Clone, Copy)]
struct Held {
    fds: usize,
    kib: u64,
}

fn held(daemon: &Daemon) -> Held {
    let proc = PathBuf::from(format!("/proc/{}", daemon.pid()));
    let status = fs::read_to_string(proc.join("status")).unwrap();
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let kib = rss.trim().trim_end_matches(" kB").parse().unwrap();
    Held { fds: fs::read_dir(proc.join("fd")).unwrap().count(), kib }
}

/// Waits until the daemon has no more open than before.
fn assert_let_go(daemon: &Daemon, before: Held) {
    let mut now = held(daemon);
    let begun = Instant::now();
    while now.fds > before.fds {
        assert!(begun.elapsed() < PATIENCE, "still {now:?}, before {before:?}");
        thread::sleep(Duration::from_millis(20));
        now = held(daemon);
    }
}
