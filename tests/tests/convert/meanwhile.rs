//! What others do with a container between the end of its backup and its restore.

use std::path::PathBuf;

use super::*;

/// Holds the check of a backup up until it is opened. Nothing locks the container then.
struct Gate {
    dir: PathBuf,
    path: String,
}

impl Gate {
    fn new(world: &World) -> Self {
        let dir = world.host("/gate");
        fs::create_dir(&dir).unwrap();
        let script = format!(
            "#!/bin/sh\ncase \"$*\" in *-tvf*)\n  : >{0}/reached\n  while ! [ -e {0}/open ]; do sleep 0.02; done\nesac\nexec /usr/bin/tar \"$@\"\n",
            dir.display()
        );
        fs::write(dir.join("tar"), script).unwrap();
        rustix::fs::chmod(dir.join("tar"), 0o755.into()).unwrap();
        let path = format!("{}:{}", dir.display(), std::env::var("PATH").unwrap());
        Self { dir, path }
    }

    fn start(&self, world: &World) -> Daemon {
        world.pctd.spawn(&[("PATH", &self.path)])
    }

    fn until_reached(&self) {
        eventually("the backup is checked", || self.dir.join("reached").exists());
    }

    fn open(&self) {
        fs::write(self.dir.join("open"), "").unwrap();
    }
}

#[test]
fn what_a_container_wrote_during_the_check_of_its_backup_is_kept() {
    let Some(world) = world(Timings::default(), true) else { return };
    let gate = Gate::new(&world);
    let daemon = gate.start(&world);
    gate.until_reached();
    let before = world.conf(100);
    start(&world);
    let disk = world.node.volume_content(&volume_of(&world, "rootfs"));
    fs::write(disk.join("etc/new"), "new").unwrap();
    world.pct(&["stop", "100"]);
    assert_eq!(world.conf(100), before, "it ends as it was");
    gate.open();
    eventually("it is converted", || is_unprivileged(&world));
    daemon.until_all("Converged");
    daemon.stop();
    assert_eq!(commands(&world), ["vzdump", "vzdump", "restore"]);
    let disk = world.node.volume_content(&volume_of(&world, "rootfs"));
    assert_eq!(fs::read_to_string(disk.join("etc/new")).unwrap(), "new");
    is_converted(&world, true);
}
