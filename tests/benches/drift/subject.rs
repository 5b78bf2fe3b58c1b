//! The node under test: its daemon, its volumes, and whether an entry is as declared.

use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use pctd_sandbox::Node;
use pctd_tests::daemon::{Daemon, states};
use pctd_tests::machine::Threads;
use pctd_tests::world::{UNPRIVILEGED, bare_node, conf, ctid};
use rustix::fs::{CWD, FileType, Gid, Mode, OFlags, Uid, fchmod, fchown, fstat, mknodat, openat};
use tempfile::TempDir;

/// Owner and group where `enforce` is `always`.
pub(crate) const OWNER: u32 = 101_000;
/// The mode of files everywhere.
pub(crate) const FILE_MODE: u32 = 0o664;
/// Container root, as the default id map has it on the host; the owner where files are adopted.
pub(crate) const CONTAINER_ROOT: u32 = 100_000;
/// Nothing that is repaired as it happens takes this long.
const LIMIT: Duration = Duration::from_secs(5);
/// How long to look without a pause.
const SPIN: Duration = Duration::from_millis(1);
/// The pause after that; a repair that took longer is known that exactly.
const LOOK_AGAIN: Duration = Duration::from_micros(50);
/// How long a walk of a big volume may take.
const WALK_LIMIT: Duration = Duration::from_mins(10);

/// A node whose daemon runs.
#[derive(Debug)]
pub(crate) struct Subject {
    /// Stopped before its node goes.
    pub(crate) daemon: Daemon,
    node: Node,
    _dir: TempDir,
}

/// A volume that is declared: what it is called and what its `enforce` is.
pub(crate) type Declared<'a> = (&'a str, &'a str);

impl Subject {
    /// Makes a node with these volumes, fills them, and waits until all is in place.
    pub(crate) fn start(
        below: &Path,
        volumes: &[Declared<'_>],
        fill: impl FnOnce(&dyn Fn(&str) -> PathBuf),
    ) -> Result<Self, String> {
        let dir = tempfile::Builder::new().prefix("pctd-drift").tempdir_in(below);
        let dir = dir.map_err(|error| format!("{}: {error}", below.display()))?;
        let (node, pctd) = bare_node(&dir.path().join("n"), env!("CARGO_BIN_EXE_pctd-tests"));
        node.create_volume("local:100/vm-100-disk-0.raw", 1 << 30)
            .expect("the node can be written");
        node.write_conf(ctid(100), conf(100, &[UNPRIVILEGED])).expect("the node can be written");
        let path = |name: &str| node.root().join("tank").join(name);
        for (name, _) in volumes {
            fs::create_dir_all(path(name)).expect("the node can be written");
        }
        fill(&path);
        let declared: Vec<String> = volumes.iter().map(declare).collect();
        // Nothing but events may find drift here, and nothing else may wake the daemon.
        let config = format!(
            r#"{{"settings": {{"seed_defaults": false, "confirm_above": 1000000000, "poll_interval": "1h",
                "resync_interval": "1h", "verify_interval": "1d"}},
                "shared_volumes": {{{}}}}}"#,
            declared.join(", ")
        );
        fs::write(node.root().join("etc/pctd/config.json"), config)
            .expect("the node can be written");
        let subject = Self { daemon: pctd.start(), node, _dir: dir };
        subject.settle()?;
        Ok(subject)
    }

    /// Returns where a volume is.
    pub(crate) fn volume(&self, name: &str) -> PathBuf {
        self.node.root().join("tank").join(name)
    }

    /// Waits until everything is in place and the daemon has nothing left to do.
    fn settle(&self) -> Result<(), String> {
        let begun = Instant::now();
        loop {
            let status = self.daemon.status();
            if states(&status).all(|(_, state)| state == "Converged") {
                break;
            }
            if begun.elapsed() > WALK_LIMIT {
                return Err(format!("the volumes are not in place: {status:#}"));
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        // A verification in the background may go on.
        self.until_quiet()
    }

    /// Waits until the daemon has had next to no CPU for a while.
    pub(crate) fn until_quiet(&self) -> Result<(), String> {
        let begun = Instant::now();
        let mut quiet = 0;
        while quiet < 4 {
            let before = Threads::of(self.daemon.pid());
            std::thread::sleep(Duration::from_millis(500));
            let spent = Threads::of(self.daemon.pid()).since(&before).cpu;
            quiet = if spent < Duration::from_millis(5) { quiet + 1 } else { 0 };
            if begun.elapsed() > WALK_LIMIT {
                return Err("the daemon never comes to rest".into());
            }
        }
        Ok(())
    }

    /// Returns the condition `Watched` of a volume where it is not true.
    pub(crate) fn unwatched(&self, volume: &str) -> Option<String> {
        let condition = &self.daemon.status()["volumes"][volume]["conditions"]["Watched"];
        (condition["status"] != "True").then(|| condition.to_string())
    }

    /// Looks until an open file has this owner and mode; returns how long that took since `begun`.
    pub(crate) fn until_right(
        &self,
        volume: &str,
        file: impl AsFd,
        owner: u32,
        begun: Instant,
    ) -> Result<Duration, String> {
        while !is_right(&file, owner) {
            // A core that spins is one that the daemon and a hostile writer do not have.
            if begun.elapsed() > SPIN {
                std::thread::sleep(LOOK_AGAIN);
            }
            if begun.elapsed() > LIMIT {
                let why = self.unwatched(volume).unwrap_or_else(|| "it is watched".into());
                let seconds = LIMIT.as_secs();
                return Err(format!("{volume}: nothing repaired it within {seconds} s: {why}"));
            }
        }
        Ok(begun.elapsed())
    }
}

fn declare((name, enforce): &Declared<'_>) -> String {
    let owner =
        if *enforce == "adopt" { "container_root".into() } else { format!("{OWNER}:{OWNER}") };
    format!(
        r#""{name}": {{"host_path": "/tank/{name}", "owner": "{owner}", "enforce": "{enforce}",
            "dir_mode": "0775", "file_mode": "0664", "mounts": {{"100": "/{name}"}}}}"#
    )
}

/// Returns whether an open file has this owner and the declared mode.
pub(crate) fn is_right(file: impl AsFd, owner: u32) -> bool {
    let stat = fstat(file).expect("an open file can be looked at");
    (stat.st_uid, stat.st_gid, stat.st_mode & 0o7777) == (owner, owner, FILE_MODE)
}

/// Makes files in directories of a thousand each, with this owner and mode; returns the
/// directories.
pub(crate) fn make_files(below: &Path, files: u32, owner: u32, mode: u32) -> Vec<(fs::File, u32)> {
    const IN_DIR: u32 = 1_000;
    let mut dirs = Vec::new();
    for dir in 0..files.div_ceil(IN_DIR) {
        let path = below.join(format!("dir-{dir}"));
        let is_new = fs::create_dir(&path).is_ok();
        let dir_fd = fs::File::open(&path).expect("it was made");
        if is_new {
            give(&dir_fd, owner, 0o775);
        }
        let count = IN_DIR.min(files - dir * IN_DIR);
        for n in 0..count {
            let name = format!("file-{n}");
            mknodat(&dir_fd, &name, FileType::RegularFile, Mode::from_raw_mode(mode), 0)
                .expect("a file can be made");
            if owner != 0 {
                let flags = OFlags::WRONLY | OFlags::CLOEXEC;
                let file = openat(&dir_fd, &name, flags, Mode::empty()).expect("it was made");
                give(&file, owner, mode);
            }
        }
        dirs.push((dir_fd, count));
    }
    dirs
}

/// Sets owner and mode of an open file.
pub(crate) fn give(file: impl AsFd, owner: u32, mode: u32) {
    fchown(&file, Some(Uid::from_raw(owner)), Some(Gid::from_raw(owner))).expect("root may");
    fchmod(&file, Mode::from_raw_mode(mode)).expect("root may");
}

/// Makes an empty file that is root's alone, which is wrong in every volume here.
pub(crate) fn make_wrong(path: &Path) -> fs::File {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let fd = openat(CWD, path, flags, Mode::from_raw_mode(0o600)).expect("a file can be made");
    fs::File::from(fd)
}
