//! Running `pct`: one call, one mount, one answer.
//!
//! What a failed call says is a hint for the log and for how soon to try again, nothing more: its
//! exit code is a left-over errno, and a call that failed may have written the conf all the same
//! (Perl's `die`; `PVE::LXC::update_lxc_config` runs after the write). Whoever calls reads the conf
//! again in any case.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use pctd_core::ids::{Ctid, MpKey};
use pctd_core::ledger::Backup;
use pctd_core::plan::{CloneContainer, ConfigureContainer, CreateContainer};

pub use self::supervise::Limits;

pub(crate) use self::supervise::Deadline;

use self::supervise::{Ended, Stream, reap_later, supervise};

mod supervise;

/// Proxmox's programs are in the `sbin` directories, LXC's and the shell in the others.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// A call of `pct` that did not end well.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{argv}` {exit}: {message}")]
pub struct PctError {
    /// The command line, for people.
    pub argv: String,
    /// How it ended.
    pub exit: Exit,
    /// The line of its stderr that says most, or why there is none.
    pub message: String,
    /// What it looks like.
    pub class: PctClass,
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It was never started.
    NotStarted,
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// It has not, and cannot be made to.
    Stuck,
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotStarted => f.write_str("was not started"),
            Self::Code(code) => write!(f, "exited with {code}"),
            Self::Signal(signal) => write!(f, "was ended by signal {signal}"),
            Self::Stuck => f.write_str("does not end"),
        }
    }
}

/// What a failure looks like; a guess from its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PctClass {
    /// The conf changed since its digest was taken.
    Conflict,
    /// The container has a lock, or somebody holds its flock.
    Locked,
    /// The id is somebody's already, so nothing was made.
    Exists,
    /// `/etc/pve` cannot be written.
    NoQuorum,
    /// It took longer than it may.
    Timeout,
    /// There is no such program, or it could not be started.
    Spawn,
    /// Anything else.
    Failed,
}

/// How `pct` is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pct {
    /// The program.
    pub program: PathBuf,
    /// Variables it gets besides `PATH` and `LC_ALL`.
    pub env: Vec<(OsString, OsString)>,
    /// How long a call other than a reboot may take.
    pub timeout: Duration,
    /// How long it has to end after it was told to, before it is killed.
    pub grace: Duration,
}

/// What of a mount point is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RemoveWhat {
    /// The mount point; a running container keeps it until it stops.
    Mount,
    /// Only its change in `[pve:pending]`.
    Pending,
}

impl Pct {
    /// The default for [`Self::grace`]: `pct` passes the signal on to its worker, which cleans up.
    pub const GRACE: Duration = Duration::from_secs(15);

    /// Returns how to run `program`.
    pub fn new(program: impl AsRef<Path>, timeout: Duration) -> Self {
        let program = program.as_ref().to_owned();
        Self { program, env: Vec::new(), timeout, grace: Self::GRACE }
    }

    /// Sets one mount point, if the conf still has this digest.
    ///
    /// # Errors
    ///
    /// [`PctError`]; the conf may have been written nevertheless.
    pub fn set_mount(
        &self,
        ctid: Ctid,
        key: MpKey,
        value: &str,
        digest: &str,
    ) -> Result<(), PctError> {
        let (ctid, key) = (ctid.to_string(), format!("--{key}"));
        self.run(&["set", &ctid, &key, value, "--digest", digest], Deadline::After(self.timeout))
    }

    /// Deletes one mount point, or takes back what is pending of it, if the conf still has this digest.
    ///
    /// Two calls for one that is to go and has a pending value: `--delete` alone would make that value
    /// current (`PVE::LXC::Config::vmconfig_apply_pending`), and `pct` refuses both at once.
    ///
    /// # Errors
    ///
    /// [`PctError`]; the conf may have been written nevertheless.
    pub fn remove_mount(
        &self,
        ctid: Ctid,
        key: MpKey,
        what: RemoveWhat,
        digest: &str,
    ) -> Result<(), PctError> {
        let (ctid, key) = (ctid.to_string(), key.to_string());
        let option = match what {
            RemoveWhat::Mount => "--delete",
            RemoveWhat::Pending => "--revert",
        };
        let arguments = ["set", &ctid, option, &key, "--digest", digest];
        self.run(&arguments, Deadline::After(self.timeout))
    }

    /// Reboots a container; Proxmox kills the guest after `timeout`.
    ///
    /// Returns only when `pct` has ended by itself. It is never signalled: its worker would stay
    /// behind with the flock held, and without a timeout, or with 0, it would wait for ever
    /// (`PVE::LXC::vm_stop`).
    ///
    /// # Errors
    ///
    /// [`PctError`]; the container may be stopped.
    pub fn reboot(&self, ctid: Ctid, timeout: Duration) -> Result<(), PctError> {
        let seconds = whole_seconds(timeout);
        self.run(&["reboot", &ctid.to_string(), "--timeout", &seconds], Deadline::Never)
    }

    /// Stops a container; Proxmox kills the guest after `timeout`.
    ///
    /// It is not signalled, as [`Self::reboot`] is not.
    ///
    /// # Errors
    ///
    /// [`PctError`]; one that does not run is one.
    pub fn shutdown(&self, ctid: Ctid, timeout: Duration) -> Result<(), PctError> {
        let (ctid, seconds) = (ctid.to_string(), whole_seconds(timeout));
        let args = ["shutdown", &ctid, "--timeout", &seconds, "--forceStop", "1"];
        self.run(&args, Deadline::Never)
    }

    /// Restores a container from its backup, over what there is of it.
    ///
    /// Returns only when `pct` has ended by itself: the old disks are gone before the archive is
    /// unpacked, and a signal in between takes back the new ones as well (PROXMOX.md 7).
    ///
    /// # Errors
    ///
    /// [`PctError`]; nothing but the backup may be left.
    pub fn restore(&self, ctid: Ctid, backup: &Backup, unprivileged: bool) -> Result<(), PctError> {
        let (ctid, flag) = (ctid.to_string(), if unprivileged { "1" } else { "0" });
        let Backup { archive, disks } = backup;
        let args = ["restore", &ctid, archive, "--force", "1", "--unprivileged", flag];
        self.run(&[&args[..], &["--storage", disks]].concat(), Deadline::Never)
    }

    /// Starts a container.
    ///
    /// # Errors
    ///
    /// [`PctError`]; a container that runs already is one.
    pub fn start(&self, ctid: Ctid) -> Result<(), PctError> {
        self.run(&["start", &ctid.to_string()], Deadline::After(self.timeout))
    }

    /// Makes a container from a template.
    ///
    /// # Errors
    ///
    /// [`PctError`]; a call that was cut off leaves half a container.
    pub fn create(
        &self,
        ctid: Ctid,
        container: &CreateContainer,
        limits: Limits<'_>,
    ) -> Result<(), PctError> {
        let CreateContainer { template, unprivileged, rootfs, storage, set } = container;
        let unprivileged = if *unprivileged { "1" } else { "0" };
        let mut args = strings(["create", &ctid.to_string(), template]);
        args.extend(option("rootfs", rootfs.as_deref()));
        args.extend(option("storage", storage.as_deref()));
        args.extend(option("unprivileged", Some(unprivileged)));
        args.extend(set.iter().flat_map(|(name, value)| option(name, Some(value))));
        self.make(&args, limits)
    }

    /// Makes a container as a clone.
    ///
    /// # Errors
    ///
    /// As [`Self::create`].
    pub fn clone_container(
        &self,
        ctid: Ctid,
        clone: &CloneContainer,
        limits: Limits<'_>,
    ) -> Result<(), PctError> {
        let CloneContainer { from, snapshot, hostname, storage } = clone;
        let mut args = strings(["clone", &from.to_string(), &ctid.to_string()]);
        args.extend(option("hostname", hostname.as_deref()));
        args.extend(option("snapname", snapshot.as_deref()));
        // Only a full clone can have another storage.
        args.extend(option("full", storage.as_ref().map(|_| "1")));
        args.extend(option("storage", storage.as_deref()));
        self.make(&args, limits)
    }

    /// Sets properties of a container in one call, if the conf still has this digest.
    ///
    /// # Errors
    ///
    /// [`PctError`]; the conf may have been written nevertheless.
    pub fn configure(
        &self,
        ctid: Ctid,
        container: &ConfigureContainer,
        digest: &str,
    ) -> Result<(), PctError> {
        let mut args = strings(["set", &ctid.to_string()]);
        args.extend(container.set.iter().flat_map(|(name, value)| option(name, Some(value))));
        let delete = container.delete.join(",");
        args.extend(option("delete", Some(delete.as_str()).filter(|names| !names.is_empty())));
        args.extend(option("digest", Some(digest)));
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        self.run(&args, Deadline::After(self.timeout))
    }

    /// Runs what makes a container. It is told to end when its time is over or pctd stops, and then
    /// cleans up, for which it gets more time than others.
    fn make(&self, args: &[String], limits: Limits<'_>) -> Result<(), PctError> {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let pct = Self { grace: self.grace.max(limits.grace), ..self.clone() };
        pct.run(&args, Deadline::Limits(limits))
    }

    fn run(&self, args: &[&str], deadline: Deadline<'_>) -> Result<(), PctError> {
        self.call(args, deadline).0
    }

    /// Runs the program; returns what came of it, and the beginning of its stdout.
    pub(crate) fn call(
        &self,
        args: &[&str],
        deadline: Deadline<'_>,
    ) -> (Result<(), PctError>, String) {
        let error = |exit, message: String, class, stdout: String| {
            let line = format!("{} {}", self.program.display(), args.join(" "));
            (Err(PctError { argv: line, exit, message, class }), stdout)
        };
        let mut child = match self.spawn(args) {
            Ok(child) => child,
            Err(e) => {
                return error(Exit::NotStarted, e.to_string(), PctClass::Spawn, String::new());
            }
        };
        let ended = Stream::of(&mut child).and_then(|mut streams| {
            let ended = supervise(&mut child, &mut streams, deadline, self.grace)?;
            Ok((ended, streams))
        });
        let (Ended { status, timed_out }, [stdout, stderr]) = match ended {
            Ok(ended) => ended,
            Err(e) => {
                reap_later(child);
                return error(Exit::Stuck, e.to_string(), PctClass::Failed, String::new());
            }
        };
        let printed = String::from_utf8_lossy(&stdout.kept).into_owned();
        let exit = match status {
            Some(status) if status.success() => return (Ok(()), printed),
            Some(status) => status
                .code()
                .map_or_else(|| Exit::Signal(status.signal().unwrap_or_default()), Exit::Code),
            None => {
                reap_later(child);
                Exit::Stuck
            }
        };
        // What a task printed on its way is no part of the error and yet all there is of its log.
        tracing::debug!(?args, %exit, stdout = printed, "pct failed");
        let text = String::from_utf8_lossy(&stderr.kept);
        let class = if timed_out { PctClass::Timeout } else { classify(&text) };
        error(exit, summary(&text), class, printed)
    }

    fn spawn(&self, args: &[&str]) -> io::Result<Child> {
        let mut command = Command::new(&self.program);
        command.args(args).env_clear().env("PATH", PATH).env("LC_ALL", "C.UTF-8");
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A ^C at the terminal is for pctd, which ends after the step.
        command.process_group(0).spawn()
    }
}

/// Returns the seconds of a `--timeout`: 0 would wait for ever.
fn whole_seconds(timeout: Duration) -> String {
    let whole = timeout.as_secs() + u64::from(timeout.subsec_nanos() > 0);
    whole.max(1).to_string()
}

fn strings<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.map(str::to_owned).to_vec()
}

/// Returns an option as words of a command line, where it has a value.
fn option(name: &str, value: Option<&str>) -> Vec<String> {
    value.map_or_else(Vec::new, |value| vec![format!("--{name}"), value.to_owned()])
}

/// Returns what a failure looks like from what was said.
fn classify(stderr: &str) -> PctClass {
    let says = |text| stderr.contains(text);
    if says("detected modified configuration") {
        PctClass::Conflict
    } else if says("can't lock file") || says("CT is locked") {
        PctClass::Locked
    } else if says("already exists on node") {
        PctClass::Exists
    } else if says("no quorum")
        || (says("/etc/pve/") && (says("Permission denied") || says("Operation not permitted")))
    {
        PctClass::NoQuorum
    } else {
        PctClass::Failed
    }
}

/// Returns the line that says most.
///
/// Waiting for the flock is reported on stderr even where it succeeds, and a refused parameter is
/// named only in the lines after the first, in the order of a Perl hash.
fn summary(stderr: &str) -> String {
    let mut lines = stderr.lines().map(str::trim).filter(|line| {
        !line.is_empty() && *line != "OK" && !line.starts_with("trying to acquire lock")
    });
    let Some(first) = lines.next() else { return "said nothing on stderr".into() };
    if !first.starts_with("400 Parameter verification failed") {
        return first.to_owned();
    }
    lines.min().map_or_else(|| first.to_owned(), |detail| format!("{first} {detail}"))
}

#[cfg(test)]
mod tests;
