//! The node of one sequence, and how events reach it.

mod settle;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::process::ExitStatusExt as _;
use std::time::Duration;

use fastrand::Rng;
use pctd_sandbox::Fault;
use pctd_tests::clock::Clock;
use pctd_tests::daemon::Daemon;
use pctd_tests::disk::Disk;
use pctd_tests::world::{Tmpfs, UNPRIVILEGED, World, conf, ctid};
use rustix::fs::chmod;
use rustix::process::Signal;

use crate::events::{CONTAINERS, Event};
use crate::rules::{Sampler, Watched, wrong_calls, wrong_conf};
use crate::wanted::Wanted;

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
