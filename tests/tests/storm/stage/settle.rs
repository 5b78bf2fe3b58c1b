//! How a node comes to rest once nothing stands in the way, and what has to be true of it then.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant, SystemTime};

use pctd_tests::daemon::{states, text};

use super::Stage;
use crate::events::CONTAINERS;

/// How long the node may take to come to rest.
const PATIENCE: Duration = Duration::from_secs(30);

impl Stage {
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

    pub(super) fn ask(&self) -> Option<serde_json::Value> {
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
}
