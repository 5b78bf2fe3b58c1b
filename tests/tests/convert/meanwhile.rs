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

#[test]
fn a_backup_whose_check_was_cut_off_is_named_beside_the_one_that_was_restored() {
    let Some(world) = world(Timings::default(), true) else { return };
    let gate = Gate::new(&world);
    let daemon = gate.start(&world);
    gate.until_reached();
    kill(daemon);
    gate.open();
    let [first] = archives(&world).try_into().unwrap();
    let daemon = world.pctd.start();
    eventually("it is converted", || is_unprivileged(&world));
    daemon.until_all("Converged");
    let status = daemon.status();
    daemon.stop();
    is_converted(&world, true);
    let archives = archives(&world);
    assert_eq!((archives.len(), &archives[0]), (2, &first));
    let notices = status["containers"]["100"]["notices"].as_array().unwrap();
    let named: Vec<_> = notices.iter().map(|notice| &notice["reason"]).collect();
    assert_eq!(named, ["ConvertBackup", "BackupLeft"], "{notices:#?}");
    let message = notices[1]["message"].as_str().unwrap();
    assert!(message.contains(&first), "{message}");
}

/// Returns the backups of 100, the oldest first.
fn archives(world: &World) -> Vec<String> {
    let entries = fs::read_dir(world.host("/var/lib/vz/dump")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut archives: Vec<_> = names.filter(|name| name.ends_with(".tar.zst")).collect();
    archives.sort();
    archives
}
