//! Faults that a test or a demonstration asks for: which run of `pct` goes wrong, and how.
//!
//! They are part of the settings, so that they reach a `pct` that the daemon under test starts.
//! Only such runs count: what a test does through the library is neither hit nor counted.

use serde::{Deserialize, Serialize};

/// Something that goes wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// What goes wrong.
    pub what: FaultKind,
    /// The command it hits, e.g. `set`; any if absent.
    #[serde(default)]
    pub command: Option<String>,
    /// Arguments the run must have, each as a whole.
    #[serde(default)]
    pub arguments: Vec<String>,
    /// How many matching runs are spared first.
    #[serde(default)]
    pub skip: u32,
    /// How many runs it hits.
    #[serde(default = "once")]
    pub times: u32,
}

/// The kinds of faults.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// Fails before anything is done.
    Fail {
        /// The exit code.
        exit: u8,
        /// The error.
        stderr: String,
    },
    /// Does what it should, and then fails, as a `set` does whose bridge is missing.
    FailAfterwards {
        /// The exit code.
        exit: u8,
        /// The error.
        stderr: String,
    },
    /// Hangs before anything is done.
    Hang {
        /// For how long.
        millis: u64,
        /// Whether the flock of the container is held meanwhile, as when `pmxcfs` blocks.
        holding_flock: bool,
    },
    /// Finds the container locked.
    Locked {
        /// The value of `lock:`.
        lock: String,
    },
    /// Does not get the flock.
    LockTimeout,
    /// Is killed before anything is done, by this signal.
    Killed {
        /// The number of the signal.
        signal: i32,
    },
    /// Fails at a point on its way, and cleans up as Proxmox does.
    FailsAt {
        /// Where.
        point: Point,
    },
    /// Is killed at a point on its way, and cleans nothing up.
    KilledAt {
        /// Where.
        point: Point,
    },
}

/// A point on the way of a backup or a restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Point {
    /// `vzdump`: before the archive is made.
    Dump,
    /// `vzdump`: the archive is cut in half, and nothing says so.
    Truncate,
    /// `vzdump`: every disk is left out, as with `backup=0`.
    LeaveOut,
    /// `restore`: before the new disks are made; the old ones are still there.
    Allocate,
    /// `restore`: before the archive is unpacked; the old disks are gone.
    Extract,
    /// `restore`: before the final conf is written.
    Merge,
}

const fn once() -> u32 {
    1
}

impl Fault {
    /// Returns a fault that hits the next run.
    pub const fn next(what: FaultKind) -> Self {
        Self { what, command: None, arguments: Vec::new(), skip: 0, times: 1 }
    }

    /// Restricts it to one command.
    #[must_use]
    pub fn on(mut self, command: &str) -> Self {
        self.command = Some(command.to_owned());
        self
    }

    /// Restricts it to runs with this argument.
    #[must_use]
    pub fn with_argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// Spares this many matching runs first.
    #[must_use]
    pub const fn after(mut self, skip: u32) -> Self {
        self.skip = skip;
        self
    }

    /// Hits this many runs.
    #[must_use]
    pub const fn times(mut self, times: u32) -> Self {
        self.times = times;
        self
    }

    fn matches(&self, argv: &[String]) -> bool {
        let command = self.command.as_ref().is_none_or(|command| argv.first() == Some(command));
        command && self.arguments.iter().all(|argument| argv.contains(argument))
    }
}

/// Takes the fault that hits a run with these arguments, and counts it.
pub(crate) fn take(faults: &mut Vec<Fault>, argv: &[String]) -> Option<FaultKind> {
    let mut hit = None;
    for fault in faults.iter_mut().filter(|fault| fault.matches(argv)) {
        if fault.skip > 0 {
            fault.skip -= 1;
        } else if hit.is_none() && fault.times > 0 {
            fault.times -= 1;
            hit = Some(fault.what.clone());
        }
    }
    faults.retain(|fault| fault.times > 0);
    hit
}
