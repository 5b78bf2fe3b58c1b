//! Drift is put right as it happens: by the running daemon, on real file systems, whoever writes.
//!
//! No walk is due within any of these scenarios (`verify_interval` is hours), so what is put right
//! was put right by an event, or by the walk that a lost one asked for.

#![expect(clippy::unwrap_used, reason = "what fails in a helper ends the test")]

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use pctd_tests::daemon::{Daemon, eventually, text};
use pctd_tests::world::{Tmpfs, UNPRIVILEGED, World, holds, own, skip};
use rustix::fs::chmod;
use serde_json::Value;

#[path = "../../crates/node/tests/real/support/adversary.rs"]
mod adversary;

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
    let inner = format!(
        "read go; exec setpriv --reuid 0 --regid 0 --clear-groups sh -euc '\
         mount --bind . /mnt; cd /mnt; {script}'"
    );
    let mut child = Command::new("unshare")
        .args(["--user", "--keep-caps", "--mount", "sh", "-euc", &inner])
        .current_dir(dir)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let own_namespace = fs::read_link("/proc/self/ns/user").unwrap();
    let of_child = format!("/proc/{}", child.id());
    eventually("a namespace of its own", || {
        fs::read_link(format!("{of_child}/ns/user")).is_ok_and(|its| its != own_namespace)
    });
    for map in ["uid_map", "gid_map"] {
        if let Err(error) = fs::write(format!("{of_child}/{map}"), "0 100000 65536") {
            child.kill().and_then(|()| child.wait()).unwrap();
            skip("a writer in a user namespace", &error.to_string());
            return None;
        }
    }
    child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    assert!(child.wait().unwrap().success(), "{script}");
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
fn a_volume_that_is_held_is_not_touched_by_events_either() {
    let Some(this) = Drifting::new() else { return };
    for n in 0..5 {
        this.world.file(&format!("/tank/data/{n}"), 0, 0o600);
    }
    this.declare(r#""confirm_above": 3"#, ALWAYS);
    let daemon = this.world.pctd.start();
    daemon.until("held", |status| {
        holds(status, "volumes", "data").contains(&"ConfirmationRequired".to_owned())
    });
    this.world.file("/tank/data/0", 0, 0o640);
    this.world.file("/tank/data/new", 0, 0o640);
    std::thread::sleep(QUIET);
    assert_eq!(this.world.owner("/tank/data/0"), "0:0 0640");
    assert_eq!(this.world.owner("/tank/data/new"), "0:0 0640");
    assert_eq!(watched(&daemon.status())["reason"], "Armed");
    this.world.apply(&["data", "--yes"], 0);
    until_watched(&daemon);
    // Kept since it was armed, or seen by the pass.
    this.becomes("/tank/data/new", "4242:4242 0664");
    daemon.stop();
}

#[test]
fn an_edit_of_the_declaration_is_what_counts_from_then_on() {
    let Some(this) = Drifting::new() else { return };
    let daemon = this.watched("", ALWAYS);
    this.declare("", &ALWAYS.replace("4242", "5353"));
    this.becomes("/tank/data", "5353:5353 0775");
    until_watched(&daemon);
    this.world.file("/tank/data/f", 0, 0o600);
    this.becomes("/tank/data/f", "5353:5353 0664");
    // Observed only: nothing is changed by anything.
    this.declare(r#""mode": "observe""#, ALWAYS);
    daemon.until("observing", |status| watched(status)["reason"] == "PeriodicVerify");
    this.world.file("/tank/data/f", 0, 0o600);
    std::thread::sleep(QUIET);
    assert_eq!(this.world.owner("/tank/data/f"), "0:0 0600");
    // Not declared any more: left alone.
    this.declare("", ALWAYS);
    this.becomes("/tank/data/f", "4242:4242 0664");
    this.world.volumes(CALM, "");
    daemon.until("nothing declared", |status| status["volumes"].as_object().unwrap().is_empty());
    this.world.file("/tank/data/f", 0, 0o600);
    std::thread::sleep(QUIET);
    assert_eq!(this.world.owner("/tank/data/f"), "0:0 0600");
    daemon.stop();
}

#[test]
fn an_edit_that_would_change_many_is_asked_about_however_young_they_are() {
    let Some(this) = Drifting::new() else { return };
    let daemon = this.watched(r#""confirm_above": 10"#, ALWAYS);
    for n in 0..30 {
        this.world.file(&format!("/tank/data/{n}"), 0, 0o600);
    }
    this.becomes("/tank/data/29", "4242:4242 0664");
    eventually("none is wrong", || wrong(&this.world.host("/tank/data")).is_empty());
    // All of them changed since the volume is watched; that makes a typing error no drift.
    let is_held = |status: &Value| {
        holds(status, "volumes", "data").contains(&"ConfirmationRequired".to_owned())
    };
    this.declare(r#""confirm_above": 10"#, &ALWAYS.replace("4242:4242", "5353:5353"));
    daemon.until("held", is_held);
    this.declare(r#""confirm_above": 10"#, ALWAYS);
    until_watched(&daemon);
    // Nor does another path, with young entries of its own.
    this.world.dir("/tank/precious", 0, 0o755);
    for n in 0..30 {
        this.world.file(&format!("/tank/precious/{n}"), 7, 0o600);
    }
    let precious = r#""data": {"host_path": "/tank/precious", "mounts": {"100": "/data"},"#;
    let settings = format!(r#"{CALM}, "confirm_above": 10"#);
    this.world.volumes(&settings, &format!("{precious} {ALWAYS}}}"));
    daemon.until("held", is_held);
    assert_eq!(this.world.owner("/tank/precious/7"), "7:7 0600");
    assert_eq!(this.world.owner("/tank/data/7"), "4242:4242 0664");
    daemon.stop();
}

#[test]
fn a_walk_that_an_edit_ended_brings_its_old_rule_not_back() {
    let Some(this) = Drifting::new() else { return };
    let dir = this.world.host("/tank/data");
    sh(
        &dir,
        "seq 600 | xargs mkdir; for f in 1 2 3 4 5; do seq 600 | sed s,$,/$f, | xargs touch; done",
    );
    let one_thread = r#""walk_threads": 1, "confirm_above": 100000"#;
    let daemon = this.watched(one_thread, ALWAYS);
    // A verify that an admin asks for, and in the middle of it another declaration, which is held.
    let pctd = this.world.pctd.clone();
    for n in 0..5 {
        let asked = std::thread::spawn({
            let pctd = pctd.clone();
            move || pctd.run(&["apply", "data"])
        });
        let walks = this.world.host("/var/lib/pctd/walks/audit/data");
        eventually("a walk", || walks.exists() || asked.is_finished());
        let other = ALWAYS.replace("4242", "5353");
        this.declare(r#""walk_threads": 1, "confirm_above": 10"#, &other);
        daemon.until("held", |status| {
            holds(status, "volumes", "data").contains(&"ConfirmationRequired".to_owned())
        });
        this.world.file("/tank/data/f", 0, 0o600);
        std::thread::sleep(QUIET);
        assert_eq!(this.world.owner("/tank/data/f"), "0:0 0600", "{n}");
        this.declare(one_thread, ALWAYS);
        asked.join().unwrap();
        this.becomes("/tank/data/f", "4242:4242 0664");
        until_watched(&daemon);
    }
    daemon.stop();
}

#[test]
fn once_means_once() {
    let Some(this) = Drifting::new() else { return };
    this.world.file("/tank/data/before", 100_999, 0o600);
    let daemon = this.watched("", &ADOPT.replacen("owner", r#"enforce": "once", "owner"#, 1));
    assert_eq!(this.world.owner("/tank/data/before"), "100000:100000 0664");
    own(&this.world.host("/tank/data/before"), 100_999, 100_999);
    // Whole at once: a mode that is set after the watch gave it to the container is the container's.
    let outside = this.world.file("/tank/nobodys", 0, 0o600);
    fs::rename(outside, this.world.host("/tank/data/nobodys")).unwrap();
    this.becomes("/tank/data/nobodys", "100000:100000 0664");
    std::thread::sleep(QUIET);
    assert_eq!(this.world.owner("/tank/data/before"), "100999:100999 0664");
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

#[test]
fn a_moved_in_tree_of_many_needs_a_confirmation_like_any_other() {
    let Some(this) = Drifting::new() else { return };
    let daemon = this.watched(r#""confirm_above": 10"#, ALWAYS);
    this.world.dir("/tank/other", 0, 0o700);
    for n in 0..30 {
        this.world.file(&format!("/tank/other/{n}"), 0, 0o600);
    }
    // Older than the watch of the volume is what counts as no drift of it.
    daemon.stop();
    let daemon = this.watched(r#""confirm_above": 10"#, ALWAYS);
    fs::rename(this.world.host("/tank/other"), this.world.host("/tank/data/other")).unwrap();
    daemon.until("held", |status| {
        holds(status, "volumes", "data").contains(&"ConfirmationRequired".to_owned())
    });
    let wrong =
        (0..30).filter(|n| this.world.owner(&format!("/tank/data/other/{n}")) == "0:0 0600");
    assert!(wrong.count() >= 20);
    daemon.stop();
}

#[test]
fn a_burst_of_100_000_wrong_files_leaves_none_wrong() {
    let Some(this) = Drifting::new() else { return };
    let daemon = this.watched("", ALWAYS);
    let burst = "for d in 1 2 3 4; do (mkdir $d; cd $d; seq 25000 | xargs touch) & done; wait";
    sh(&this.world.host("/tank/data"), burst);
    let took = eventually("none is wrong", || wrong(&this.world.host("/tank/data")).is_empty());
    println!(
        "none is wrong {took:?} after the last was made: {}",
        daemon.status()["volumes"]["data"]["drift"]
    );
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
fn an_endless_writer_gets_its_share_and_no_more_and_others_are_served() {
    let Some(this) = Drifting::new() else { return };
    this.world.dir("/tank/calm", 0, 0o755);
    let volume = |name: &str| {
        format!(
            r#""{name}": {{"host_path": "/tank/{name}", "mounts": {{"100": "/{name}"}}, {ALWAYS}}}"#
        )
    };
    let settings = format!(r#"{CALM}, "watch_cpu": 10"#);
    this.world.volumes(&settings, &[volume("data"), volume("calm")].join(", "));
    let daemon = this.world.pctd.start();
    until_watched(&daemon);
    daemon.until("both", |status| {
        status["volumes"]["calm"]["conditions"]["Watched"]["reason"] == "Events"
    });
    let writer =
        "while :; do for n in 1 2 3 4 5 6 7 8 9; do : > $n; chmod 600 $n; done; rm -f ?; done";
    let mut writer = Command::new("sh")
        .args(["-c", writer])
        .current_dir(this.world.host("/tank/data"))
        .spawn()
        .unwrap();
    // Past the burst that is let through.
    std::thread::sleep(Duration::from_secs(3));
    let (before, begun) = (cpu_ticks(daemon.pid()), Instant::now());
    let mut slowest = Duration::ZERO;
    for n in 0..20 {
        let path = format!("/tank/calm/{n}");
        this.world.file(&path, 0, 0o600);
        let took = eventually("served", || this.world.owner(&path) == "4242:4242 0664");
        slowest = slowest.max(took);
        std::thread::sleep(Duration::from_millis(100));
    }
    let ticks = cpu_ticks(daemon.pid()) - before;
    // A tick is a hundredth of a second (`USER_HZ`).
    let percent = u128::from(ticks) * 1000 / begun.elapsed().as_millis();
    writer.kill().unwrap();
    writer.wait().unwrap();
    println!("{percent} % of a core; slowest of the other volume: {slowest:?}");
    // Its ten percent, what taking events in costs, and the walks that doubts ask for.
    assert!(percent < 50, "{percent}");
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    daemon.stop();
}

/// Somebody who writes for as long as this lives.
struct Writer(std::process::Child);

impl Drop for Writer {
    fn drop(&mut self) {
        // One that ended is none that goes on.
        let _ended = self.0.kill().and_then(|()| self.0.wait());
    }
}

#[test]
fn whoever_writes_beside_all_volumes_or_in_one_that_is_held_takes_no_more_either() {
    let Some(this) = Drifting::new() else { return };
    this.world.dir("/tank/beside", 0, 0o755);
    this.world.dir("/tank/held", 0, 0o755);
    for n in 0..5 {
        this.world.file(&format!("/tank/held/{n}"), 0, 0o600);
    }
    let volume = |name: &str| {
        format!(
            r#""{name}": {{"host_path": "/tank/{name}", "mounts": {{"100": "/{name}"}}, {ALWAYS}}}"#
        )
    };
    let settings = format!(r#"{CALM}, "watch_cpu": 10, "confirm_above": 3"#);
    this.world.volumes(&settings, &[volume("data"), volume("held")].join(", "));
    let daemon = this.world.pctd.start();
    until_watched(&daemon);
    daemon.until("held", |status| {
        holds(status, "volumes", "held").contains(&"ConfirmationRequired".to_owned())
    });
    for dir in ["/tank/beside", "/tank/held/dir"] {
        this.world.dir(dir, 0, 0o755);
        // Some 300,000 events a second, none of which is the same as one that waits.
        let script = "for (1..3000) { open my $f, '>', $_ } \
                      for (;;) { chmod 0600, 1..3000; chmod 0640, 1..3000 }";
        let mut writer = Command::new("perl");
        let writer = writer.args(["-e", script]).current_dir(this.world.host(dir));
        let writer = Writer(writer.spawn().unwrap());
        // Until what was saved up before is spent.
        std::thread::sleep(Duration::from_secs(8));
        let (before, begun) = (cpu_ticks(daemon.pid()), Instant::now());
        std::thread::sleep(Duration::from_secs(2));
        let ticks = cpu_ticks(daemon.pid()) - before;
        let percent = u128::from(ticks) * 1000 / begun.elapsed().as_millis();
        // The volume that is in place is served meanwhile.
        this.world.file("/tank/data/f", 0, 0o600);
        this.becomes("/tank/data/f", "4242:4242 0664");
        drop(writer);
        println!("{dir}: {percent} % of a core");
        // Ten percent, or a quarter for what is nobody's; without a budget it is 80.
        assert!(percent < 35, "{dir}: {percent}");
    }
    daemon.stop();
}

/// Returns the processor time a process has used, in hundredths of a second.
fn cpu_ticks(pid: u32) -> u64 {
    let stat = text(Path::new(&format!("/proc/{pid}/stat")));
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn nothing_wakes_the_watch_while_nothing_is_written() {
    let Some(this) = Drifting::new() else { return };
    let daemon = this.watched("", ALWAYS);
    this.world.file("/tank/data/f", 0, 0o600);
    this.becomes("/tank/data/f", "4242:4242 0664");
    std::thread::sleep(QUIET);
    // What other tests mount meanwhile wakes it too; so one quiet second must be found.
    eventually("a second without waking up", || {
        let before = wakeups(daemon.pid());
        // Reading is not writing.
        sh(&this.world.host("/tank/data"), "cat f > /dev/null; ls > /dev/null");
        std::thread::sleep(Duration::from_secs(1));
        wakeups(daemon.pid()) == before
    });
    // And nothing is open below it.
    let open: Vec<_> = fs::read_dir(format!("/proc/{}/fd", daemon.pid()))
        .unwrap()
        .filter_map(|fd| fs::read_link(fd.unwrap().path()).ok())
        .filter(|path| path.starts_with(this.world.host("/tank")))
        .collect();
    assert_eq!(open, Vec::<std::path::PathBuf>::new());
    daemon.stop();
}

/// Returns how often the thread of the watch went to sleep so far.
fn wakeups(pid: u32) -> String {
    let of_watch = |task: &fs::DirEntry| text(&task.path().join("comm")).trim() == "watch";
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let watch = tasks.map(|task| task.unwrap()).find(of_watch).unwrap();
    let status = text(&watch.path().join("status"));
    status.lines().find(|line| line.starts_with("voluntary_ctxt_switches")).unwrap().to_owned()
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

#[test]
fn after_a_restart_directories_tell_what_changed_before_the_walk_does() {
    let Some(this) = Drifting::new() else { return };
    this.world.dir("/tank/data/a/b", 4242, 0o775);
    this.world.file("/tank/data/a/b/old", 4242, 0o664);
    let assured = |daemon: &Daemon, wanted: &str| {
        let what = format!("in place because of {wanted}");
        daemon.until(&what, |status| status["volumes"]["data"]["assurance"] == wanted);
    };
    let daemon = this.watched("", ALWAYS);
    assured(&daemon, "Walk");
    // Written as well: the trace of the walk.
    daemon.stop();
    let dir = this.world.host("/tank/data");
    sh(&dir, "mkdir -p new/tree; echo x > new/tree/f; echo x > a/b/new; chmod 600 a/b/old");
    let log = {
        let daemon = this.world.pctd.spawn(&[("RUST_LOG", "debug")]);
        for path in ["new/tree/f", "a/b/new", "a/b/old"] {
            this.becomes(&format!("/tank/data/{path}"), "4242:4242 0664");
        }
        assured(&daemon, "Walk");
        let log = daemon.log();
        daemon.stop();
        log
    };
    // The root and a/b changed; a did not.
    let compared = log.lines().find(|line| line.contains("compared the directories"));
    let compared = compared.unwrap_or_else(|| panic!("{log}"));
    assert!(compared.contains("DIRECTORIES=3") && compared.contains("CHANGED=2"), "{compared}");
    // Another declaration is another matter: what was noted was not of it.
    this.declare("", &ALWAYS.replace("4242", "5353"));
    let daemon = this.world.pctd.spawn(&[("RUST_LOG", "debug")]);
    this.becomes("/tank/data/a/b/old", "5353:5353 0664");
    assured(&daemon, "Walk");
    assert!(!daemon.log().contains("compared the directories"), "{}", daemon.log());
    daemon.stop();
}

#[test]
fn after_a_restart_another_directory_under_the_path_is_believed_nothing() {
    let Some(this) = Drifting::new() else { return };
    let daemon = this.watched("", ALWAYS);
    daemon.until("walked", |status| status["volumes"]["data"]["assurance"] == "Walk");
    daemon.stop();
    // With the right owner and mode, so that nothing but the walk can tell.
    fs::rename(this.world.host("/tank/data"), this.world.host("/tank/old")).unwrap();
    this.world.dir("/tank/data/a", 4242, 0o775);
    this.world.dir("/tank/data", 4242, 0o775);
    this.world.file("/tank/data/a/f", 7, 0o600);
    let daemon = this.world.pctd.start();
    this.becomes("/tank/data/a/f", "4242:4242 0664");
    assert!(!daemon.log().contains("compared the directories"), "{}", daemon.log());
    daemon.stop();
}
