//! Real containers: the daemon converges a node whose containers lxc runs, and what counts is what
//! is seen from inside.

#![expect(clippy::unwrap_used, reason = "what fails in a helper ends the test")]

use std::time::{Duration, Instant};

use pctd_sandbox::Timings;
use pctd_tests::daemon::{Daemon, eventually};
use pctd_tests::world::{HURRIED, Tmpfs, UNPRIVILEGED, World, ctid};

mod drift;
mod inside;
mod lines;
mod start;

/// A map with a hole: 1000 is the host's 1000, and nobody is the host's 101000.
const HOLE: [&str; 6] = [
    "lxc.idmap: u 0 100000 1000",
    "lxc.idmap: g 0 100000 1000",
    "lxc.idmap: u 1000 1000 1",
    "lxc.idmap: g 1000 1000 1",
    "lxc.idmap: u 1001 101001 64535",
    "lxc.idmap: g 1001 101001 64535",
];

/// A world with `/tank` on a file system of its own.
struct Real {
    world: World,
    _tank: Tmpfs,
}

impl Real {
    fn new(timings: Timings) -> Option<Self> {
        let world = World::with_containers(env!("CARGO_BIN_EXE_pctd-tests"), timings)?;
        let tank = Tmpfs::mount(&world.dir("/tank", 0, 0o755))?;
        world.dir("/tank/data", 0, 0o755);
        Some(Self { world, _tank: tank })
    }

    /// Declares `/tank/data` for container 100 with these fields.
    fn declare(&self, fields: &str) {
        self.world.config(&format!(
            r#"{{"settings": {{{HURRIED}}}, "shared_volumes": {{"data":
                {{"host_path": "/tank/data", "mounts": {{"100": "/data"}}, {fields}}}}}}}"#
        ));
    }

    /// Declares it, starts the daemon and waits until all is in place.
    fn converged(&self, fields: &str) -> Daemon {
        self.declare(fields);
        let daemon = self.world.pctd.start();
        daemon.until_all("Converged");
        daemon
    }

    fn start(&self) {
        self.world.pct(&["start", "100"]);
    }

    /// Runs a script inside, and returns what it prints.
    fn inside(&self, script: &str) -> String {
        let output = self.world.node.attach(ctid(100), script).unwrap();
        assert!(output.is_success(), "{script}: {}", output.stderr_text());
        output.stdout_text().trim().replace('\n', " ")
    }

    /// Returns owner and mode of files in `/data` as they are seen inside.
    fn seen(&self, files: &[&str]) -> Vec<String> {
        files.iter().map(|file| self.inside(&format!("stat -c '%u:%g %a' /data/{file}"))).collect()
    }
}
