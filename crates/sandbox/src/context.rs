//! What every command of a run works with: the node, its streams, and the few operations that
//! all share (`PVE::AbstractConfig`): load, check the lock, hold the flock, write.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bstr::{BStr, BString, ByteSlice};
use pctd_core::conf::{Conf, Section};
use pctd_core::ids::Ctid;

use crate::error::NodeError;
use crate::faults::{FaultKind, Point};
use crate::flock::{self, FlockGuard, Locked};
use crate::output::{Die, Streams};
use crate::paths::Root;
use crate::perl::{WIDE_CHARACTER, from_file};
use crate::pmxcfs::Pmxcfs;
use crate::running;
use crate::settings::Settings;
use crate::storage::Storages;

/// How often a wait looks whether it was interrupted.
const TICK: Duration = Duration::from_millis(5);

/// One run of a command on a node.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) root: Root,
    pub(crate) settings: Settings,
    pub(crate) pmxcfs: Pmxcfs,
    pub(crate) streams: Streams,
    /// The program that holds a container, if there is one.
    pub(crate) program: Option<PathBuf>,
    /// Set by SIGTERM and the like.
    pub(crate) interrupted: Arc<AtomicBool>,
    /// What is to go wrong on the way.
    pub(crate) fault: Option<FaultKind>,
    /// The properties to be written that have a character no byte stands for.
    pub(crate) wide: BTreeSet<String>,
    /// What was parsed last: `cfs_read_file` parses a file again only when its version moved.
    parsed: BTreeMap<Ctid, Vec<u8>>,
}

/// An id from a command line that passed its check.
pub(crate) fn ctid(text: &str) -> Result<Ctid, Die> {
    text.parse().map_err(|_| Die::internal(&format!("got strange id '{text}'")))
}

impl Context {
    pub(crate) fn new(root: Root, streams: Streams) -> Result<Self, NodeError> {
        let settings = Settings::load(&root)?;
        Ok(Self {
            pmxcfs: Pmxcfs::new(root.clone()),
            program: settings.program.clone(),
            root,
            settings,
            streams,
            interrupted: Arc::default(),
            fault: None,
            wide: BTreeSet::new(),
            parsed: BTreeMap::new(),
        })
    }

    /// Returns the storages.
    pub(crate) const fn storages(&self) -> Storages<'_> {
        Storages::new(&self.root, &self.settings)
    }

    /// Returns whether a container runs.
    pub(crate) fn is_running(&self, ctid: Ctid) -> bool {
        running::is_running(&self.root, &ctid.to_string())
    }

    /// Reads a conf of this node; what is odd in it goes to stderr (`load_config`).
    pub(crate) fn load(&mut self, ctid: Ctid) -> Result<Conf, Die> {
        let path = self.root.conf(&self.settings.node, &ctid.to_string());
        let Ok(bytes) = std::fs::read(path) else {
            let name = format!("nodes/{}/lxc/{ctid}.conf", self.settings.node);
            return Err(Die::new(format!("Configuration file '{name}' does not exist\n")).exit(2));
        };
        let parsed = Conf::parse(ctid, &bytes);
        let warnings = match &parsed {
            Ok(conf) => &conf.warnings,
            Err(error) => &error.warnings,
        };
        if self.parsed.get(&ctid) != Some(&bytes) {
            for warning in warnings {
                self.streams.warn(&from_file(warning));
            }
        }
        self.parsed.insert(ctid, bytes);
        parsed.map_err(|error| Die::internal(&from_file(&error.cause.text())))
    }

    /// Writes a conf (`write_config`).
    pub(crate) fn write(&mut self, ctid: Ctid, conf: &Conf) -> Result<(), Die> {
        let mut bytes = conf.rewritten().map_err(|error| Die::new(format!("{error}\n")))?;
        if !self.wide.is_empty() {
            self.streams.warn(WIDE_CHARACTER);
            bytes = widened(&bytes, &self.wide);
        }
        self.parsed.remove(&ctid);
        let (node, id) = (self.settings.node.clone(), ctid.to_string());
        let gap = Duration::from_millis(self.settings.timings.rename_gap_ms);
        self.pmxcfs.write(&node, &id, &bytes, gap).map_err(|error| {
            let tmp = Pmxcfs::tmp_name(&node, &id);
            Die::new(format!("unable to open file '{tmp}' - {}\n", reason(&error))).exit(2)
        })
    }

    /// Removes a conf (`destroy_config`).
    pub(crate) fn remove_conf(&mut self, ctid: Ctid) -> Result<(), Die> {
        let id = ctid.to_string();
        if !self.pmxcfs.is_quorate(&self.settings.node) {
            return Err("failed to remove config file: Permission denied\n".into());
        }
        self.pmxcfs.remove(&self.settings.node, &id).map_err(|error| {
            Die::new(format!("failed to remove config file: {}\n", reason(&error)))
        })
    }

    /// Fails where the cluster has no quorum (`PVE::Cluster::check_cfs_quorum`).
    pub(crate) fn check_quorum(&self) -> Result<(), Die> {
        if self.pmxcfs.is_quorate(&self.settings.node) {
            return Ok(());
        }
        Err(Die::new("cluster not ready - no quorum?\n").exit(2))
    }

    /// Runs something while the flock of a conf is held (`lock_config`).
    pub(crate) fn locked<T>(
        &mut self,
        ctid: Ctid,
        run: impl FnOnce(&mut Self) -> Result<T, Die>,
    ) -> Result<T, Die> {
        let patience = Duration::from_millis(self.settings.timings.lock_ms);
        let _held = self.take_flock(ctid, patience)?;
        run(self)
    }

    /// Takes the flock of a conf.
    pub(crate) fn take_flock(&mut self, ctid: Ctid, patience: Duration) -> Result<FlockGuard, Die> {
        let path = self.root.flock(&ctid.to_string());
        let mut waited = false;
        let locked = flock::acquire(&path, patience, || waited = true);
        if waited {
            self.streams.warn("trying to acquire lock...\n");
        }
        match locked {
            Ok(Locked::Free(guard)) => Ok(guard),
            Ok(Locked::Waited(guard)) => {
                self.streams.warn(" OK\n");
                Ok(guard)
            }
            Ok(Locked::TimedOut) => Err(lock_timeout(ctid)),
            Err(error) => Err(Die::new(format!("can't open lock file - {}\n", reason(&error)))),
        }
    }

    /// Sets the property `lock` (`set_lock`) and returns the conf.
    pub(crate) fn set_lock(&mut self, ctid: Ctid, lock: &str) -> Result<Conf, Die> {
        self.locked(ctid, |this| {
            let mut conf = this.load(ctid)?;
            check_lock(&conf)?;
            conf.current.set("lock", lock);
            this.write(ctid, &conf)?;
            Ok(conf)
        })
    }

    /// Removes the property `lock` (`remove_lock`).
    pub(crate) fn remove_lock(&mut self, ctid: Ctid, lock: Option<&str>) -> Result<(), Die> {
        self.locked(ctid, |this| {
            let mut conf = this.load(ctid)?;
            let found = conf.lock().map(|found| from_file(found));
            match (found, lock) {
                (None, lock) => {
                    let which = lock.map_or_else(|| "any".to_owned(), |lock| format!("'{lock}' "));
                    Err(Die::new(format!("no lock found trying to remove {which} lock\n")))
                }
                (Some(found), Some(lock)) if found != lock => {
                    Err(Die::new(format!("found lock '{found}' trying to remove '{lock}' lock\n")))
                }
                _ => {
                    conf.current.remove("lock");
                    this.write(ctid, &conf)
                }
            }
        })
    }

    /// Returns whether something is to go wrong at this point.
    pub(crate) fn fails_at(&self, here: Point) -> bool {
        matches!(&self.fault, Some(FaultKind::FailsAt { point }) if *point == here)
    }

    /// Comes to a point at which the run may be told to fail or to be killed.
    pub(crate) fn reach(&self, here: Point) -> Result<(), Die> {
        if matches!(&self.fault, Some(FaultKind::KilledAt { point }) if *point == here) {
            let own = rustix::process::getpid();
            // Nothing goes on after it.
            let _ = rustix::process::kill_process(own, rustix::process::Signal::KILL);
        }
        if self.fails_at(here) { Err("no space left on device\n".into()) } else { Ok(()) }
    }

    /// Waits as long as something takes, unless the run is interrupted.
    pub(crate) fn pass(&self, millis: u64) -> Result<(), Die> {
        let end = Instant::now() + Duration::from_millis(millis);
        loop {
            if self.interrupted.load(Ordering::Relaxed) {
                return Err("received interrupt\n".into());
            }
            let now = Instant::now();
            if now >= end {
                return Ok(());
            }
            std::thread::sleep((end - now).min(TICK));
        }
    }
}

/// Fails where a conf has a `lock:` (`check_lock`).
pub(crate) fn check_lock(conf: &Conf) -> Result<(), Die> {
    match conf.lock() {
        Some(lock) => Err(Die::new(format!("CT is locked ({})\n", from_file(lock)))),
        None => Ok(()),
    }
}

/// Fails where a conf is protected (`check_protection`).
pub(crate) fn check_protection(conf: &Conf, what: &str) -> Result<(), Die> {
    if conf.is_protected() {
        return Err(Die::new(format!("{what} - protection mode enabled\n")));
    }
    Ok(())
}

/// Returns what a lock that is not released in time leads to.
pub(crate) fn lock_timeout(ctid: Ctid) -> Die {
    // 4 is EINTR, left over from the alarm.
    Die::new(format!("can't lock file '/run/lock/lxc/pve-config-{ctid}.lock' - got timeout\n"))
        .exit(4)
}

/// Returns the value of a property as text.
pub(crate) fn text(section: &Section, name: &str) -> Option<String> {
    section.get(name).map(|value: &BStr| from_file(value))
}

/// Returns a copy of a value.
pub(crate) fn value(section: &Section, name: &str) -> Option<BString> {
    section.get(name).map(ToOwned::to_owned)
}

/// Returns the words of `strerror` for an error.
pub(crate) fn reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::PermissionDenied => "Permission denied".into(),
        std::io::ErrorKind::AlreadyExists => "File exists".into(),
        std::io::ErrorKind::NotFound => "No such file or directory".into(),
        _ => error.to_string(),
    }
}

/// Writes a conf of which some values are UTF-8 already as Perl writes a string with a wide
/// character: all of it in UTF-8, so that the bytes above 127 of other lines become two each.
fn widened(bytes: &[u8], wide: &BTreeSet<String>) -> Vec<u8> {
    let lines = bytes.split_inclusive(|byte| *byte == b'\n').map(|line| {
        let name = line.split_once_str(": ").and_then(|(name, _)| name.to_str().ok());
        let is_wide = name.is_some_and(|name| wide.contains(name));
        if is_wide { line.to_vec() } else { from_file(line).into_bytes() }
    });
    lines.collect::<Vec<_>>().concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_wide_character_makes_two_bytes_of_every_other_odd_one() {
        let wide = BTreeSet::from(["mp0".to_owned()]);
        let conf = "mp0: /\u{2192},mp=/a\n".as_bytes();
        assert_eq!(widened(conf, &wide), conf);
        assert_eq!(widened(b"mp1: /\xfc\n", &wide), "mp1: /\u{fc}\n".as_bytes());
    }
}
