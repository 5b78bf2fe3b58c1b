//! The real daemon over an `/etc/pve` that is a file system of its own and behaves as pmxcfs does:
//! it stops, is killed, starts anew, loses its quorum, changes without an event.
//!
//! What holds through all of it: what is not known is unknown and never absent, nothing is done
//! meanwhile, nobody spins, and what was wanted meanwhile comes about afterwards.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use pctd_tests::daemon::{Daemon, eventually};
use pctd_tests::machine::Threads;
use pctd_tests::world::{HURRIED, Tmpfs, UNPRIVILEGED, World};
use serde_json::Value;

mod cluster;
mod outage;

/// As on a real node, but for the poll, which is what a watch is told from.
const UNHURRIED: &str = r#""seed_defaults": false, "poll_interval": "1s""#;

/// Where the conf of container 100 is, below `/etc/pve`.
const CONF: &str = "nodes/pve/lxc/100.conf";

/// A world with container 100 and `/tank/data` for it.
struct Served {
    world: World,
    /// Of its own, so that the watch is not woken by what others write on this machine.
    _tank: Tmpfs,
}

impl Served {
    fn new() -> Option<Self> {
        let world = World::on_fuse(env!("CARGO_BIN_EXE_pctd-tests"))?;
        world.container(100, &[UNPRIVILEGED]);
        let tank = Tmpfs::mount(&world.dir("/tank", 0, 0o755))?;
        world.dir("/tank/data", 0, 0o755);
        Some(Self { world, _tank: tank })
    }

    /// Declares the mount of `/tank/data`, and what else comes with it.
    fn declare(&self, settings: &str, mounts: &str, definitions: &str) {
        self.world.config(&format!(
            r#"{{"settings": {{{settings}}},
                "shared_volumes": {{"data": {{"host_path": "/tank/data",
                    "owner": "container_root", "mounts": {{{mounts}}}}}}},
                "lxc_configs": {{{definitions}}}}}"#
        ));
    }

    /// Starts a daemon with these settings, and waits until all is as declared.
    fn converged(&self, settings: &str) -> Daemon {
        self.declare(settings, r#""100": "/data""#, "");
        let daemon = self.world.pctd.start();
        daemon.until_all("Converged");
        assert!(self.is_mounted());
        daemon
    }

    fn is_mounted(&self) -> bool {
        self.world.conf(100).contains("mp0: /tank/data,mp=/data")
    }

    /// Takes the mount out of the conf as an editor on this node does.
    fn unmount(&self) {
        self.world.container(100, &[UNPRIVILEGED]);
    }
}

/// Waits until nothing is known of container 100.
fn until_unknown(daemon: &Daemon) {
    daemon.until("unknown", |status| defined(status) == "Unknown");
}

fn defined(status: &Value) -> String {
    let container = &status["containers"]["100"]["conditions"]["Defined"]["status"];
    container.as_str().unwrap_or("none").to_owned()
}

/// Asks for some time what the daemon takes container 100 for, and returns every answer.
fn beliefs(daemon: &Daemon, time: Duration) -> BTreeSet<String> {
    let end = Instant::now() + time;
    let mut all = BTreeSet::new();
    while Instant::now() < end {
        all.insert(defined(&daemon.status()));
        std::thread::sleep(Duration::from_millis(5));
    }
    all
}

/// Fails if the daemon does more in a second than look now and then.
///
/// Most of what a thread goes to sleep for is an answer of the file system, several for each look.
/// A loop that does not wait in between sleeps tens of thousands of times, or never.
fn does_not_spin(daemon: &Daemon) {
    let (before, begun) = (Threads::of(daemon.pid()), Instant::now());
    std::thread::sleep(Duration::from_secs(1));
    let spent = Threads::of(daemon.pid()).since(&before);
    // On a machine that is busy the sleep takes longer.
    let (cpu, time) = (spent.cpu, begun.elapsed());
    println!("{} sleeps and {cpu:?} of a core in {time:?} of it", spent.sleeps);
    let millis = u64::try_from(time.as_millis()).expect("it is about a second");
    let allowed = 400 * millis / 1000;
    assert!((1..=allowed).contains(&spent.sleeps), "{spent:?} in {time:?}");
    assert!(cpu <= time / 10, "{spent:?} in {time:?}");
}

/// Waits until the daemon has had nothing to say for a while: no look is due any more.
fn until_quiet(daemon: &Daemon) {
    let (mut since, mut length) = (Instant::now(), 0);
    eventually("quiet", || {
        let now = daemon.log().len();
        if now != length {
            (since, length) = (Instant::now(), now);
        }
        since.elapsed() > Duration::from_millis(300)
    });
}

/// What the log says from now on.
struct Log<'a> {
    daemon: &'a Daemon,
    from: usize,
}

impl<'a> Log<'a> {
    fn from_now(daemon: &'a Daemon) -> Self {
        Self { daemon, from: daemon.log().len() }
    }

    fn has(&self, text: &str) -> bool {
        self.daemon.log()[self.from..].contains(text)
    }
}

/// Edits the conf on this node, and expects that the watch sees it before the poll could.
fn an_edit_is_seen_at_once(served: &Served, daemon: &Daemon) {
    until_quiet(daemon);
    let log = Log::from_now(daemon);
    served.unmount();
    eventually("the mount is back", || served.is_mounted());
    assert!(log.has("news=Conf"), "seen by the poll only:\n{}", &daemon.log()[log.from..]);
}
