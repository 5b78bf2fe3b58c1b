//! Drift is put right as it happens: by the running daemon, on real file systems, whoever writes.
//!
//! No walk is due within any of these scenarios (`verify_interval` is hours), so what is put right
//! was put right by an event, or by the walk that a lost one asked for.

#![expect(clippy::unwrap_used, reason = "what fails in a helper ends the test")]

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use pctd_tests::daemon::{Daemon, eventually};
use pctd_tests::guest;
use pctd_tests::world::{Tmpfs, UNPRIVILEGED, World, own};
use rustix::fs::chmod;
use serde_json::Value;

#[path = "../../../crates/node/tests/real/support/adversary.rs"]
mod adversary;
mod burden;
mod declared;
mod restart;

use adversary::{Adversary, Victim, find_exec_chmod_until_harm};

/// Long enough for what must not happen to happen.
const QUIET: Duration = Duration::from_millis(400);

/// Nothing but an event brings the daemon to look again.
const CALM: &str = r#""resync_interval": "2h", "verify_interval": "6h""#;

/// A world with one container and `/tank` on a file system of its own.
struct Drifting {
    world: World,
    _tank: Tmpfs,
}

impl Drifting {
    fn new() -> Option<Self> {
        let world = World::new(env!("CARGO_BIN_EXE_pctd-tests"))?;
        world.container(100, &[UNPRIVILEGED]);
        let tank = Tmpfs::mount(&world.dir("/tank", 0, 0o755))?;
        world.dir("/tank/data", 0, 0o755);
        Some(Self { world, _tank: tank })
    }

    /// Starts a daemon with the volume `data` at `/tank/data`, and waits until it is watched.
    fn watched(&self, settings: &str, fields: &str) -> Daemon {
        self.declare(settings, fields);
        let daemon = self.world.pctd.start();
        until_watched(&daemon);
        daemon
    }

    fn declare(&self, settings: &str, fields: &str) {
        let comma = if settings.is_empty() { "" } else { "," };
        self.world.volumes(
            &format!("{CALM}{comma} {settings}"),
            &format!(
                r#""data": {{"host_path": "/tank/data", "mounts": {{"100": "/data"}}, {fields}}}"#
            ),
        );
    }

    /// Waits until a path of the node has this owner and mode.
    fn becomes(&self, path: &str, wanted: &str) {
        eventually(&format!("{path} {wanted}"), || self.world.owner(path) == wanted);
    }
}

const ALWAYS: &str =
    r#""owner": "4242:4242", "enforce": "always", "dir_mode": "0775", "file_mode": "0664""#;
const ADOPT: &str = r#""owner": "container_root", "dir_mode": "0775", "file_mode": "0664""#;

fn until_watched(daemon: &Daemon) {
    daemon.until("watched", |status| watched(status)["reason"] == "Events");
}

fn watched(status: &Value) -> &Value {
    &status["volumes"]["data"]["conditions"]["Watched"]
}

/// Runs a script as another process, in the host's namespaces.
fn sh(dir: &Path, script: &str) {
    let status = Command::new("sh").arg("-euc").arg(script).current_dir(dir).status().unwrap();
    assert!(status.success(), "{script}");
}

/// Runs a script as root of an unprivileged container: in a user and a mount namespace of its own,
/// with the default map. `None` where this machine has no such namespaces for us.
fn as_container_root(dir: &Path, script: &str) -> Option<()> {
    let script = format!(
        "exec setpriv --reuid 0 --regid 0 --clear-groups sh -euc '\
         mount --bind . /mnt; cd /mnt; {script}'"
    );
    let ran = guest::run(dir, &["--mount"], &script)?;
    assert!(ran.status.success(), "{script}: {ran:?}");
    Some(())
}

#[test]
fn what_others_write_is_put_right_without_a_walk() {
    let Some(this) = Drifting::new() else { return };
    let daemon = this.watched("", ALWAYS);
    sh(&this.world.host("/tank/data"), "mkdir -p a/b; echo x > a/b/f; chmod 600 a/b/f; mkfifo a/p");
    this.becomes("/tank/data/a", "4242:4242 0775");
    this.becomes("/tank/data/a/b", "4242:4242 0775");
    this.becomes("/tank/data/a/b/f", "4242:4242 0664");
    own(&this.world.host("/tank/data/a/b/f"), 0, 0);
    chmod(this.world.host("/tank/data"), 0o700.into()).unwrap();
    this.becomes("/tank/data/a/b/f", "4242:4242 0664");
    this.becomes("/tank/data", "4242:4242 0775");
    daemon
        .until("told", |status| status["volumes"]["data"]["drift"]["repaired"].as_u64() >= Some(6));
    eventually("logged", || daemon.log().contains("put right what had drifted"));
    // Not one line for each of many.
    let lines = daemon.log().lines().filter(|line| line.contains("drifted")).count();
    assert!(lines <= 3, "{}", daemon.log());
    daemon.stop();
}

#[test]
fn what_a_service_owns_is_left_and_what_the_container_cannot_own_is_adopted() {
    let Some(this) = Drifting::new() else { return };
    let daemon = this.watched("", ADOPT);
    let dir = this.world.host("/tank/data");
    sh(&dir, "umask 077; echo x > theirs; chown 100999:100999 theirs; echo x > nobodys");
    this.becomes("/tank/data/nobodys", "100000:100000 0664");
    // Its owner was root's for a moment; whichever came first, its service has it in the end.
    eventually("the service has it", || {
        own(&this.world.host("/tank/data/theirs"), 100_999, 100_999);
        chmod(this.world.host("/tank/data/theirs"), 0o600.into()).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        this.world.owner("/tank/data/theirs") == "100999:100999 0600"
    });
    std::thread::sleep(QUIET);
    assert_eq!(this.world.owner("/tank/data/theirs"), "100999:100999 0600");
    daemon.stop();
}

#[test]
fn a_writer_in_another_user_and_mount_namespace_is_seen() {
    let Some(this) = Drifting::new() else { return };
    let fields = r#""owner": "container:33", "enforce": "always", "file_mode": "0640""#;
    let daemon = this.watched("", fields);
    let dir = this.world.host("/tank/data");
    // The container root may write there, as its own services may.
    chmod(&dir, 0o777.into()).unwrap();
    let script = "umask 077; mkdir d; for n in 1 2 3; do echo x > d/$n; done; chown 1000:1000 d/1";
    let Some(()) = as_container_root(&dir, script) else { return };
    for path in ["/tank/data/d/1", "/tank/data/d/2", "/tank/data/d/3"] {
        this.becomes(path, "100033:100033 0640");
    }
    daemon.stop();
}

#[test]
fn a_tree_that_is_moved_in_is_looked_at_whole() {
    let Some(this) = Drifting::new() else { return };
    let daemon = this.watched("", ALWAYS);
    this.world.dir("/tank/other/a/b", 0, 0o700);
    this.world.file("/tank/other/a/b/f", 7, 0o600);
    fs::rename(this.world.host("/tank/other"), this.world.host("/tank/data/other")).unwrap();
    this.becomes("/tank/data/other/a/b/f", "4242:4242 0664");
    this.becomes("/tank/data/other/a", "4242:4242 0775");
    daemon.stop();
}

/// Returns what is not as [`ALWAYS`] says, as `find` sees it.
fn wrong(dir: &Path) -> String {
    let script =
        "find . -not '(' -uid 4242 -gid 4242 '(' -type d -perm 775 -o -type f -perm 664 ')' ')'";
    let found = Command::new("sh").args(["-c", script]).current_dir(dir).output().unwrap();
    assert!(found.status.success());
    String::from_utf8(found.stdout).unwrap()
}

#[test]
fn whatever_is_exchanged_meanwhile_nothing_outside_changes() {
    let Some(this) = Drifting::new() else { return };
    let dir = this.world.host("/tank/data");
    let victim = Victim::make(&this.world.dir("/tank/outside", 0, 0o755));
    let daemon = this.watched("", ALWAYS);
    let adversary = Adversary::against(&victim, &dir);
    let begun = Instant::now();
    let mut walks = 0;
    // Each exchange is an event for both names; what they stand for is made wrong now and then.
    while adversary.swaps() < 40_000 || begun.elapsed() < Duration::from_secs(3) {
        for name in ["swap-file", "swap-dir", "swap-link", "swap-link-to-dir"] {
            own_if_there(&dir.join(name));
        }
        // And sweeps while the events come in.
        let ran = this.world.pctd.run(&["apply", "data", "--yes"]);
        assert!(matches!(ran.code, 0 | 1 | 3), "{ran:?}");
        walks += 1;
        assert_eq!(victim.harm(), None);
        assert!(begun.elapsed() < Duration::from_mins(1), "{} swaps", adversary.swaps());
    }
    let swaps = adversary.swaps();
    drop(adversary);
    eventually("all in place", || wrong_owners(&dir).is_empty());
    let drift = daemon.status()["volumes"]["data"]["drift"].clone();
    println!("{swaps} swaps, {walks} walks: {drift}");
    assert!(drift["repaired"].as_u64() > Some(0), "{drift}");
    assert_eq!(victim.harm(), None);
    daemon.stop();

    // The same against what admins use, so that there was harm to be done.
    let _adversary = Adversary::against(&victim, &this.world.dir("/tank/other", 0, 0o755));
    let times = find_exec_chmod_until_harm(
        &this.world.host("/tank/other"),
        &victim,
        Duration::from_secs(20),
    );
    assert!(times.is_some(), "find did no harm, so this adversary shows nothing");
}

/// Gives something to root, whatever the name stands for at the moment.
fn own_if_there(path: &Path) {
    let root = (Some(rustix::fs::Uid::ROOT), Some(rustix::fs::Gid::ROOT));
    let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
    // It may be on its way somewhere else.
    let _gone = rustix::fs::chownat(rustix::fs::CWD, path, root.0, root.1, flags);
}

/// Returns what is not 4242's, links included.
fn wrong_owners(dir: &Path) -> String {
    let found = Command::new("find").arg(dir).args(["-not", "-uid", "4242"]).output().unwrap();
    String::from_utf8(found.stdout).unwrap()
}

#[test]
fn the_status_says_where_drift_can_only_be_walked_for() {
    let Some(this) = Drifting::new() else { return };
    this.declare(r#""watch_cpu": 0"#, ALWAYS);
    let daemon = this.world.pctd.start();
    daemon.until_all("Converged");
    let is = watched(&daemon.status()).clone();
    assert_eq!(is["reason"], "PeriodicVerify");
    assert!(is["message"].as_str().unwrap().ends_with("it is switched off"), "{is}");
    daemon.stop();
}
