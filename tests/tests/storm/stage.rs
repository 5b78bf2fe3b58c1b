//! The node of one sequence: what is declared on it, how events reach it, and how it comes to rest.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::process::ExitStatusExt as _;
use std::time::{Duration, Instant, SystemTime};

use fastrand::Rng;
use pctd_sandbox::Fault;
use pctd_tests::clock::Clock;
use pctd_tests::daemon::{Daemon, states, text};
use pctd_tests::disk::Disk;
use pctd_tests::world::{HURRIED, Tmpfs, UNPRIVILEGED, World, conf, ctid};
use rustix::fs::chmod;
use rustix::process::Signal;

use crate::events::{CONTAINERS, Event};
use crate::rules::{Sampler, Watched, wrong_calls, wrong_conf};

/// Lines of every conf that are not pctd's business.
const OTHERS: [&str; 2] = ["mp9: /srv/foreign,mp=/foreign", "tags: mine"];

/// A map with a hole: id 1000 is the host's own.
const CUSTOM: [&str; 6] = [
    "lxc.idmap: u 0 100000 1000",
    "lxc.idmap: g 0 100000 1000",
    "lxc.idmap: u 1000 1000 1",
    "lxc.idmap: g 1000 1000 1",
    "lxc.idmap: u 1001 101001 64535",
    "lxc.idmap: g 1001 101001 64535",
];

/// How long the node may take to come to rest.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is declared at the moment.
#[derive(Debug, Clone)]
struct Wanted {
    /// The id inside that owns volume `a`.
    a_uid: u32,
    a_read_only: bool,
    /// The mode of directories in volume `b`.
    b_mode: &'static str,
    /// The account of the host that owns volume `c`.
    c_uid: u32,
    /// Which containers mount which volume.
    mounts: BTreeMap<&'static str, BTreeSet<u32>>,
}

impl Wanted {
    fn new(random: &mut Rng) -> Self {
        let mut wanted = Self {
            a_uid: 0,
            a_read_only: false,
            b_mode: "0755",
            c_uid: 1234,
            mounts: BTreeMap::new(),
        };
        for (name, ctids) in [("a", [100, 101]), ("b", [102, 103]), ("c", [100, 103])] {
            wanted.mounts.insert(name, ctids.into_iter().filter(|_| random.u32(..4) > 0).collect());
        }
        // Whose map decides has to mount it, or nothing is declared of its owner.
        wanted.mounts.get_mut("a").unwrap().insert(100);
        wanted.mounts.get_mut("b").unwrap().insert(103);
        wanted
    }

    /// Changes one thing.
    fn change(&mut self, random: &mut Rng) {
        match random.u32(..6) {
            0 => self.a_uid = 33 - self.a_uid,
            1 => self.a_read_only = !self.a_read_only,
            2 => self.b_mode = if self.b_mode == "0755" { "0750" } else { "0755" },
            3 => self.c_uid = if self.c_uid == 1234 { 1235 } else { 1234 },
            _ => {
                // Only ever more: what is no longer declared stays where it is.
                let all: [(&str, u32); 3] = [("a", 101), ("b", 102), ("c", 103)];
                let (name, id) = all[random.usize(..all.len())];
                self.mounts.get_mut(name).unwrap().insert(id);
            }
        }
    }

    fn text(&self) -> String {
        let Self { a_uid, a_read_only, b_mode, c_uid, .. } = self;
        let mounts = |name: &str| -> String {
            let each = self.mounts[name].iter().map(|id| match name {
                "a" => format!(r#""{id}": {{"path": "/a", "read_only": {a_read_only}}}"#),
                _ => format!(r#""{id}": "/{name}""#),
            });
            each.collect::<Vec<_>>().join(",")
        };
        let (a, b, c) = (mounts("a"), mounts("b"), mounts("c"));
        format!(
            r#"{{"settings": {{{HURRIED}, "restart_timeout": "1s", "restart_limit": "1s",
                             "resync_interval": "2s"}},
            "shared_volumes": {{
              "a": {{"host_path": "/tank/a", "owner": "container:{a_uid}", "owner_ctid": "100",
                     "file_mode": "keep", "mounts": {{{a}}}}},
              "b": {{"host_path": "/tank/b", "owner": "container_root", "owner_ctid": "103",
                     "enforce": "always", "dir_mode": "{b_mode}", "file_mode": "0640", "mounts": {{{b}}},
                     "certificates": [{{"domain": "b.local", "days": 2, "renew_before": "12h"}}]}},
              "c": {{"host_path": "/tank/c", "owner": "{c_uid}:{c_uid}", "dir_mode": "0755",
                     "file_mode": "0644", "mounts": {{{c}}}}}}}}}"#
        )
    }
}

/// A node in the middle of a sequence.
pub(crate) struct Stage {
    wanted: Wanted,
    daemon: Daemon,
    /// The processes that were the daemon so far.
    daemons: BTreeSet<u32>,
    /// What happened so far, for whoever has to understand a failure.
    story: Vec<String>,
    is_pmxcfs_up: bool,
    is_quorate: bool,
    sampler: Sampler,
    clock: Clock,
    /// Has volume `c`; dropped, as the next one, before the directory it is mounted in.
    disk: Disk,
    _ledger_disk: Tmpfs,
    world: World,
}

impl Stage {
    /// Makes a node with its containers and volumes, and starts the daemon.
    pub(crate) fn new(random: &mut Rng) -> Option<Self> {
        let world = World::new(env!("CARGO_BIN_EXE_pctd-tests"))?;
        let state = world.dir("/var/lib/pctd", 0, 0o755);
        let ledger_disk = Tmpfs::small(&state)?;
        let disk = Disk::mount(&world.dir("/tank/c", 0, 0o755))?;
        let clock = Clock::new(&world);
        world.node.update_settings(|settings| settings.timings.second_ms = 20).unwrap();
        world.dir("/srv/foreign", 0, 0o755);
        for name in ["a", "b", "c"] {
            world.dir(&format!("/tank/{name}"), 0, 0o755);
            world.file(&format!("/tank/{name}/old"), 0, 0o600);
            symlink("../secret", world.host(&format!("/tank/{name}/link"))).unwrap();
        }
        world.file("/tank/secret", 0, 0o600);
        world.file("/tank/a/service", 100_050, 0o600);
        for id in CONTAINERS {
            world.container(id, &lines(id));
        }
        world.pct(&["start", "101"]);
        world.pct(&["start", "103"]);
        let at = |path: &str, owners: &[u32], mode| Watched {
            path: world.host(path),
            owners: owners.iter().copied().collect(),
            mode,
        };
        let sampler = Sampler::start(vec![
            at("/tank/secret", &[0], Some(0o600)),
            at("/tank/a/service", &[100_050], Some(0o600)),
            at("/tank/a", &[0, 100_000, 100_033], None),
            at("/tank/a/old", &[0, 100_000, 100_033], Some(0o600)),
            at("/tank/a/link", &[0, 100_000, 100_033], None),
            at("/tank/b", &[0, 100_000], None),
            at("/tank/b/old", &[0, 100_000], None),
            at("/tank/c", &[0, 1234, 1235], None),
            at("/tank/c/old", &[0, 1234, 1235], None),
            at("/srv/foreign", &[0], Some(0o755)),
        ]);
        let wanted = Wanted::new(random);
        world.config(&wanted.text());
        let daemon = world.pctd.spawn(&clock.variables());
        daemon.wait_for("READY=1");
        Some(Self {
            wanted,
            daemons: BTreeSet::from([daemon.pid()]),
            daemon,
            story: Vec::new(),
            is_pmxcfs_up: true,
            is_quorate: true,
            sampler,
            clock,
            disk,
            _ledger_disk: ledger_disk,
            world,
        })
    }

    /// Lets something happen.
    pub(crate) fn happens(&mut self, event: Event, random: &mut Rng) {
        self.story.push(format!("{event:?}"));
        match event {
            Event::Edit => {
                self.wanted.change(random);
                self.world.config(&self.wanted.text());
            }
            Event::BadEdit => {
                let text = self.wanted.text();
                self.world.config(&text[..random.usize(1..text.len() - 1)]);
            }
            Event::OthersEdit(id) => self.others_edit(id, random),
            Event::Lock(id) => {
                if self.world.conf(id).contains("lock: ") {
                    self.try_pct(&["unlock", &id.to_string()]);
                } else {
                    self.try_pct(&["set", &id.to_string(), "--lock", "backup"]);
                }
            }
            Event::Power(id) => {
                let verb = if self.world.node.is_running(ctid(id)) { "stop" } else { "start" };
                self.try_pct(&[verb, &id.to_string()]);
            }
            Event::Existence(id) => self.existence(id),
            Event::Fault(what, skip) => {
                self.world.node.inject(Fault::next(what).after(skip)).unwrap();
            }
            Event::KillPct => self.kill_pct(random),
            Event::Kill => self.restart(true),
            Event::Restart => self.restart(false),
            // Told before it listens, it ends as any program does; systemd waits until it is ready.
            Event::Reload if self.daemon.log().contains("started") => {
                self.daemon.signal(Signal::HUP);
            }
            Event::Reload => {}
            Event::Pmxcfs => self.toggle_pmxcfs(),
            Event::Quorum => self.toggle_quorum(),
            Event::SpoiltList => {
                if self.is_pmxcfs_up {
                    self.world.node.spoil_vmlist().unwrap();
                }
            }
            Event::Drift => self.drift(random),
            Event::FullDisk => self.toggle_disk(),
            Event::BadDisk(every) => self.disk.fail(if self.disk.fails() { 0 } else { every }),
            Event::Clock(seconds) => self.clock.set(seconds),
        }
    }

    /// `pct` as somebody else runs it; it may be refused, and then that is what happens.
    fn try_pct(&self, arguments: &[&str]) {
        if self.is_pmxcfs_up {
            let _refused = self.world.node.pct(arguments);
        }
    }

    fn others_edit(&self, id: u32, random: &mut Rng) {
        let id = id.to_string();
        match random.u32(..3) {
            0 => self.try_pct(&["set", &id, "--memory", &random.u32(64..1024).to_string()]),
            1 => self.try_pct(&["set", &id, "--mp8", "/srv/foreign,mp=/other"]),
            _ => self.try_pct(&["set", &id, "--delete", "mp8"]),
        }
    }

    fn existence(&self, id: u32) {
        if !self.is_pmxcfs_up || !self.is_quorate {
            return;
        }
        if self.world.conf(id).is_empty() {
            self.make(id);
        } else {
            self.try_pct(&["stop", &id.to_string()]);
            self.try_pct(&["destroy", &id.to_string()]);
        }
    }

    /// Makes a container as `pct create` is seen to make one: the lock first, then all but the
    /// lock, then all.
    fn make(&self, id: u32) {
        let whole = conf(id, &lines(id));
        let node = &self.world.node;
        let flock = node.hold_flock(ctid(id)).unwrap();
        node.write_conf(ctid(id), "lock: create\n").unwrap();
        std::thread::sleep(Duration::from_millis(5));
        // Its image stays behind when somebody destroys it while it is made.
        let _there = node.create_volume(&format!("local:{id}/vm-{id}-disk-0.raw"), 1 << 30);
        let nearly = whole.lines().filter(|line| {
            !["memory", "swap", "tags", "mp9"].iter().any(|name| line.starts_with(name))
        });
        let nearly: String = nearly.fold(String::new(), |text, line| text + line + "\n");
        node.write_conf(ctid(id), nearly).unwrap();
        std::thread::sleep(Duration::from_millis(5));
        node.write_conf(ctid(id), whole).unwrap();
        drop(flock);
    }

    fn kill_pct(&self, random: &mut Rng) {
        let calls = self.world.node.pct_calls().unwrap();
        let open: Vec<_> = calls.iter().filter(|call| call.ended.is_none()).collect();
        let Some(call) = (!open.is_empty()).then(|| open[random.usize(..open.len())]) else {
            return;
        };
        self.world.signal_pct(call.pid, Signal::KILL);
    }

    fn restart(&mut self, kill: bool) {
        let signal = if kill { Signal::KILL } else { Signal::TERM };
        self.daemon.signal(signal);
        let status = self.daemon.wait();
        // Told before it listens, it ends as any program does.
        let is_early = status.signal() == Some(15) && !self.daemon.log().contains("ready");
        assert!(kill || status.success() || is_early, "{status}\n{}", self.context());
        self.daemon = self.world.pctd.spawn(&self.clock.variables());
        self.daemons.insert(self.daemon.pid());
    }

    fn toggle_pmxcfs(&mut self) {
        if self.is_pmxcfs_up {
            self.world.node.stop_pmxcfs().unwrap();
        } else {
            self.world.node.start_pmxcfs().unwrap();
        }
        self.is_pmxcfs_up = !self.is_pmxcfs_up;
    }

    fn toggle_quorum(&mut self) {
        if self.is_pmxcfs_up {
            self.is_quorate = !self.is_quorate;
            self.world.node.set_quorum(self.is_quorate).unwrap();
        }
    }

    fn drift(&self, random: &mut Rng) {
        let name = ["a", "b", "c"][random.usize(..3)];
        let file = format!("/tank/{name}/new-{}", random.u32(..5));
        self.world.file(&file, 0, 0o600);
        if name == "c" {
            chmod(self.world.host("/tank/c/old"), 0o777.into()).unwrap();
        }
    }

    fn toggle_disk(&self) {
        let filler = self.world.host("/var/lib/pctd/filler");
        if filler.exists() {
            fs::remove_file(filler).unwrap();
        } else {
            // Until there is no room left, which is what it is for.
            let _full = fs::File::create(&filler)
                .and_then(|mut file| std::io::copy(&mut std::io::repeat(0), &mut file));
        }
    }

    /// Looks whether anything happened that must never happen.
    pub(crate) fn nothing_is_broken(&self) {
        let mut wrong = self.sampler.wrong();
        for id in CONTAINERS.into_iter().filter(|_| self.is_pmxcfs_up) {
            let path = self.world.node.conf_path(ctid(id)).unwrap();
            let text = fs::read_to_string(&path).unwrap_or_default();
            wrong = wrong.or_else(|| wrong_conf(&path, &text));
        }
        let calls = self.world.node.pct_calls().unwrap();
        wrong = wrong.or_else(|| wrong_calls(&calls, &self.daemons));
        if let Some(wrong) = wrong {
            panic!("{wrong}\n{}", self.context());
        }
    }

    /// Ends everything that stands in the way, and waits until all is as declared.
    pub(crate) fn settle(&mut self) {
        if !self.is_pmxcfs_up {
            self.toggle_pmxcfs();
        }
        self.is_quorate = true;
        let node = &self.world.node;
        node.set_quorum(true).unwrap();
        node.clear_faults().unwrap();
        let _gone = fs::remove_file(self.world.host("/var/lib/pctd/filler"));
        self.disk.fail(0);
        self.clock.set(0);
        for id in CONTAINERS {
            self.try_pct(&["unlock", &id.to_string()]);
            if self.world.conf(id).is_empty() {
                self.make(id);
            }
        }
        // Any change makes a list anew that was cut off.
        self.try_pct(&["set", "102", "--memory", "512"]);
        // A change of others that waits is theirs to put in force.
        for id in CONTAINERS.into_iter().filter(|id| self.world.conf(*id).contains("[pve:pending]"))
        {
            self.try_pct(&["set", &id.to_string(), "--revert", "mp8"]);
        }
        self.world.config(&self.wanted.text());
        let begun = Instant::now();
        while self.ask().is_none() {
            assert!(begun.elapsed() < PATIENCE, "the daemon is not there\n{}", self.context());
            std::thread::sleep(Duration::from_millis(20));
        }
        let _held = self.world.pctd.run(&["apply"]);
        let begun = Instant::now();
        while !self.is_at_rest() {
            assert!(begun.elapsed() < PATIENCE, "it does not come to rest\n{}", self.context());
            self.try_restarts_again();
            std::thread::sleep(Duration::from_millis(20));
        }
        self.nothing_is_broken();
        self.is_as_declared();
        self.is_valid();
    }

    /// A restart that failed, maybe one that began before all was well again, is tried again when
    /// somebody says so, and only then.
    fn try_restarts_again(&self) {
        let status = self.ask().unwrap_or_default();
        for id in CONTAINERS.map(|id| id.to_string()) {
            let holds = status["containers"][&id]["holds"].as_array().cloned().unwrap_or_default();
            let asks_for_it = format!("`pctd apply {id}` tries again");
            let says = |hold: &serde_json::Value| hold["message"].to_string();
            if holds.iter().any(|hold| says(hold).contains(&asks_for_it)) {
                let _held = self.world.pctd.run(&["apply", &id]);
            }
        }
    }

    fn ask(&self) -> Option<serde_json::Value> {
        let ran = self.world.pctd.run(&["status", "--output-format", "json"]);
        serde_json::from_str(&ran.stdout).ok()
    }

    fn is_at_rest(&self) -> bool {
        let mounting: BTreeSet<u32> = self.wanted.mounts.values().flatten().copied().collect();
        let keys = mounting.len() + self.wanted.mounts.len();
        self.ask().is_some_and(|status| {
            states(&status).filter(|(_, state)| state == "Converged").count() == keys
        }) && self.world.plan().0 == 0
    }

    fn is_as_declared(&self) {
        let wanted = &self.wanted;
        for (name, ctids) in &wanted.mounts {
            for id in ctids {
                let conf = self.world.conf(*id);
                let mount = format!(": /tank/{name},mp=/{name}");
                let current = conf.split("\n[").next().unwrap_or_default();
                let lines: Vec<_> = current.lines().filter(|line| line.contains(&mount)).collect();
                assert_eq!(lines.len(), 1, "{id} mounts {name}\n{}", self.context());
                let is_read_only = lines[0].contains("ro=1");
                assert_eq!(is_read_only, *name == "a" && wanted.a_read_only, "{}", self.context());
            }
        }
        let owner = |path: &str| self.world.owner(path);
        let a = 100_000 + wanted.a_uid;
        let c = wanted.c_uid;
        let expected = [
            ("/tank/a", format!("{a}:{a} 0755")),
            ("/tank/b", format!("100000:100000 {}", wanted.b_mode)),
            ("/tank/c", format!("{c}:{c} 0755")),
            ("/tank/c/old", format!("{c}:{c} 0644")),
            ("/tank/a/service", "100050:100050 0600".to_owned()),
            ("/tank/secret", "0:0 0600".to_owned()),
        ];
        for (path, expected) in expected {
            assert_eq!(owner(path), expected, "{path}\n{}", self.context());
        }
        for name in ["a", "b", "c"] {
            for (path, owner) in self.world.owners(&format!("/tank/{name}")) {
                let is_roots = owner.starts_with("0:0 ");
                assert!(!is_roots, "{name}/{path} is {owner}\n{}", self.context());
            }
        }
    }

    /// The certificate is one of now, whatever the clock was when it was made.
    fn is_valid(&self) {
        let ledger = text(&self.world.host("/var/lib/pctd/ledger.json"));
        let ledger: serde_json::Value = serde_json::from_str(&ledger).unwrap();
        let expires = ledger["certificates"]["b"]["b.local"]["made"]["expires"].as_u64();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let left = expires.unwrap().saturating_sub(now) / (60 * 60);
        assert!((12..=49).contains(&left), "{left} h\n{}", self.context());
    }

    /// Returns how many requests of pctd the disk failed.
    pub(crate) fn errors(&self) -> u64 {
        self.disk.failed()
    }

    /// Returns how many calls of `pct` the daemon made.
    pub(crate) fn calls(&self) -> usize {
        self.world.node.pct_calls().unwrap().len()
    }

    /// Returns how often it was looked.
    pub(crate) fn looks(&self) -> u64 {
        self.sampler.looks()
    }

    fn context(&self) -> String {
        let confs = CONTAINERS.map(|id| format!("--- {id}\n{}", self.world.conf(id))).join("");
        let calls: Vec<_> = self.world.node.pct_calls().unwrap();
        let calls = calls.iter().map(|call| format!("{:?} {:?}", call.argv, call.exit));
        let status = self.ask().map_or_else(String::new, |status| format!("{status:#}"));
        format!(
            "it happened: {:#?}\ncalls: {:#?}\n{confs}\n{status}\nlog:\n{}",
            self.story,
            calls.collect::<Vec<_>>(),
            self.daemon.log()
        )
    }
}

/// Returns the lines of a container's conf that are particular to it.
fn lines(id: u32) -> Vec<&'static str> {
    let own: &[&str] = match id {
        102 => &[],
        103 => &CUSTOM,
        _ => &[UNPRIVILEGED],
    };
    [&OTHERS[..], own].concat()
}
