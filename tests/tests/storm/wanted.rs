//! What is declared in one sequence, and how that changes.

use std::collections::{BTreeMap, BTreeSet};

use fastrand::Rng;
use pctd_tests::world::HURRIED;

/// What is declared at the moment.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    /// The id inside that owns volume `a`.
    pub(crate) a_uid: u32,
    pub(crate) a_read_only: bool,
    /// The mode of directories in volume `b`.
    pub(crate) b_mode: &'static str,
    /// The account of the host that owns volume `c`.
    pub(crate) c_uid: u32,
    /// Which containers mount which volume.
    pub(crate) mounts: BTreeMap<&'static str, BTreeSet<u32>>,
}

impl Wanted {
    pub(crate) fn new(random: &mut Rng) -> Self {
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
    pub(crate) fn change(&mut self, random: &mut Rng) {
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

    pub(crate) fn text(&self) -> String {
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
