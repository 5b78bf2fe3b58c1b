//! A booted Debian: systemd as the first process of a privileged LXC container, with a file system
//! of its own. Nothing of the host reaches into it but this harness.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use pctd_sandbox::{Node, NodeOptions, Served};
use pctd_tests::daemon::Ran;
use pctd_tests::world;
use rustix::process::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::{image, package, said};

/// Nothing here takes this long unless something is wrong; two processors boot several machines.
const PATIENCE: Duration = Duration::from_mins(1);

/// How often is looked whether something came about.
const LOOK: Duration = Duration::from_millis(100);

/// What a container of this kind needs, besides its name and its root.
const CONFIG: &str = "
lxc.include = /usr/share/lxc/config/common.conf
lxc.net.0.type = empty
lxc.apparmor.profile = unconfined
# It refuses open_by_handle_at, by which the watch reaches what changed.
lxc.seccomp.profile =
";

/// A machine with the package under test beside it; killed and removed when dropped.
pub(crate) struct Machine {
    /// Its simulated node; none is a Debian without Proxmox.
    node: Option<(Node, Served)>,
    /// The package under test.
    pub(crate) deb: PathBuf,
    name: String,
    /// Unmounted before its directory is removed.
    _root: image::Root,
    dir: TempDir,
}

impl Machine {
    /// Lays out a Debian; `None` where these tests were not asked for.
    pub(crate) fn debian() -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let Some(deb) = package::built() else {
            package::not_asked_for();
            return None;
        };
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("pctd-systemd-{}-{count}", std::process::id());
        let dir = tempfile::Builder::new().prefix("pctd-systemd").tempdir_in("/tmp").unwrap();
        let root = image::Root::mount(dir.path());
        let machine = Self { node: None, deb, name, _root: root, dir };
        let (root, lxc) = (machine.path("/"), machine.lxc().join(&machine.name));
        fs::create_dir_all(&lxc).unwrap();
        let root = root.display();
        let config = format!("{CONFIG}lxc.rootfs.path = dir:{root}\nlxc.uts.name = pve\n");
        fs::write(lxc.join("config"), config).unwrap();
        Some(machine)
    }

    /// Lays out a Debian that is a node: with `/etc/pve` and a `pct`, where they always are.
    pub(crate) fn node() -> Option<Self> {
        let mut machine = Self::debian()?;
        let program = Some("/usr/sbin/pct".into());
        let options = NodeOptions { name: "pve".into(), program, ..Default::default() };
        let node = Node::create(machine.path("/"), options).unwrap();
        fs::copy(env!("CARGO_BIN_EXE_pctd-tests"), machine.path("/usr/sbin/pct")).unwrap();
        // As pve-container does.
        machine.write("/etc/tmpfiles.d/pve.conf", "d /run/lock/lxc\nd /run/pve\n");
        let served = node.serve();
        machine.node = Some((node, served));
        Some(machine)
    }

    /// Starts the machine and waits until systemd has started everything.
    pub(crate) fn boot(&self) {
        let log = self.dir.path().join("lxc.log");
        said(self.lxc_command("lxc-start").arg("--logfile").arg(log));
        until("booted", || {
            let ran = self.run("systemctl is-system-running");
            assert_ne!(ran.stdout, "degraded\n", "{}", self.ok("systemctl --failed"));
            ran.stdout == "running\n"
        });
    }

    /// Turns it off without telling it.
    pub(crate) fn cut_power(&self) {
        said(self.lxc_command("lxc-stop").arg("--kill"));
    }

    /// Boots, and installs the package under test.
    pub(crate) fn boot_and_install(&self) {
        self.boot();
        self.install(&self.deb);
    }

    /// Installs a package, as an admin does who has it as a file.
    pub(crate) fn install(&self, deb: &Path) {
        fs::copy(deb, self.path("/root/pctd.deb")).unwrap();
        let said = self.ok("dpkg -i /root/pctd.deb");
        assert!(!said.contains("warning"), "{said}");
    }

    /// Returns its simulated node.
    pub(crate) fn pve(&self) -> &Node {
        &self.node.as_ref().expect("a machine that is a node").0
    }

    /// Makes a stopped container of the node; see [`world::conf`].
    pub(crate) fn container(&self, id: u32, lines: &[&str]) {
        let (node, ctid) = (self.pve(), world::ctid(id));
        node.create_volume(&format!("local:{id}/vm-{id}-disk-0.raw"), 1 << 30).unwrap();
        node.write_conf(ctid, world::conf(id, lines)).unwrap();
    }

    /// Returns a container's conf.
    pub(crate) fn conf(&self, id: u32) -> String {
        let conf = self.pve().read_conf(world::ctid(id)).unwrap();
        String::from_utf8(conf.expect("a container that is there")).unwrap()
    }

    /// Returns a package like the one under test, with a higher version.
    pub(crate) fn newer_package(&self) -> PathBuf {
        package::newer(&self.deb, self.dir.path())
    }

    /// Returns the daemon's process, as the host numbers it.
    pub(crate) fn main_process(&self) -> Pid {
        let init = said(self.lxc_command("lxc-info").args(["--pid", "--no-humanize"]));
        let space = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        let own = space(init.trim()).expect("the machine runs");
        let runs_pctd = |pid: &String| {
            fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| line == b"/usr/sbin/pctd\0run\0")
        };
        let all = fs::read_dir("/proc").unwrap().flatten();
        let mut all = all.filter_map(|entry| entry.file_name().into_string().ok());
        let found = all.find(|pid| runs_pctd(pid) && space(pid).is_some_and(|space| space == own));
        let pid = found.and_then(|pid| pid.parse().ok()).and_then(Pid::from_raw);
        pid.expect("the daemon runs")
    }

    /// Returns where a path of it is on the host.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join("root").join(path.trim_start_matches('/'))
    }

    fn lxc(&self) -> PathBuf {
        self.dir.path().join("lxc")
    }

    fn lxc_command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.arg("--name").arg(&self.name).arg("--lxcpath").arg(self.lxc());
        command.stdin(Stdio::null());
        command
    }

    /// Writes a file, and makes the directories above it.
    pub(crate) fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().expect("a file is in a directory")).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Reads a file.
    pub(crate) fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap()
    }

    /// Runs a line of shell in it, as root.
    pub(crate) fn run(&self, line: &str) -> Ran {
        let path = "PATH=/usr/sbin:/usr/bin:/sbin:/bin";
        let mut attach = self.lxc_command("lxc-attach");
        attach.args(["--clear-env", "--set-var", path, "--set-var", "NO_COLOR=1"]);
        Ran::from(attach.args(["--", "sh", "-c", line]).output().expect("LXC is installed"))
    }

    /// Runs a line of shell that has to succeed; returns what it printed, on both ways.
    pub(crate) fn ok(&self, line: &str) -> String {
        let ran = self.run(&format!("{{ {line}\n}} 2>&1"));
        assert_eq!(ran.code, 0, "{line}: {}{}", ran.stdout, ran.stderr);
        ran.stdout
    }

    /// Returns a property of the service.
    pub(crate) fn show(&self, property: &str) -> String {
        self.ok(&format!("systemctl show --value -p {property} pctd")).trim_end().to_owned()
    }

    /// Returns entries of the journal; `filter` as for journalctl.
    pub(crate) fn journal(&self, filter: &str) -> Vec<Value> {
        let lines = self.ok(&format!("journalctl -q -u pctd -o json {filter}"));
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Waits for entries of the journal, which is written beside everything else.
    pub(crate) fn until_logged(&self, filter: &str) -> Vec<Value> {
        until(filter, || !self.journal(filter).is_empty());
        self.journal(filter)
    }

    /// Writes the configuration as an editor does.
    pub(crate) fn configure(&self, text: &str) {
        self.write("/etc/pctd/config.json.new", text);
        let new = self.path("/etc/pctd/config.json.new");
        fs::rename(new, self.path("/etc/pctd/config.json")).unwrap();
    }

    /// Waits until the daemon has looked at every key, whatever came of it.
    pub(crate) fn until_looked(&self) {
        until("looked at", || {
            let report: Value =
                serde_json::from_str(&self.run("pctd status --output-format json").stdout)
                    .unwrap_or_default();
            let keys = |section: &str| report[section].as_object().cloned().unwrap_or_default();
            let all: Vec<Value> =
                keys("volumes").into_iter().chain(keys("containers")).map(|(_, key)| key).collect();
            !all.is_empty()
                && all.iter().all(|key| matches!(key["state"].as_str(), Some("Held" | "Converged")))
        });
    }

    /// Waits until the daemon says that everything that is declared, and something is, is in place.
    pub(crate) fn until_converged(&self) {
        until("converged", || {
            let ran = self.run("pctd status --output-format json");
            let report: Value = serde_json::from_str(&ran.stdout).unwrap_or_default();
            ran.code == 0 && report["volumes"].as_object().is_some_and(|all| !all.is_empty())
        });
    }
}

/// Waits until something is so.
pub(crate) fn until(what: &str, mut wanted: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !wanted() {
        assert!(begun.elapsed() < PATIENCE, "not reached: {what}");
        std::thread::sleep(LOOK);
    }
}
impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let ran =
                self.run("systemctl status pctd; journalctl -u pctd -n 60 -o short-monotonic");
            eprintln!("{}: {}{}", self.name, ran.stdout, ran.stderr);
        }
        // It may not have been started.
        let _killed = self.lxc_command("lxc-stop").arg("--kill").output();
    }
}
