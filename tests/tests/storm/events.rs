//! What may happen to a node.

use fastrand::Rng;
use pctd_sandbox::FaultKind;

/// The containers there are.
pub(crate) const CONTAINERS: [u32; 4] = [100, 101, 102, 103];

/// One thing that happens.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    /// An edit of the configuration that changes what is declared.
    Edit,
    /// An edit that is refused.
    BadEdit,
    /// Somebody changes something of a container that is not pctd's business.
    OthersEdit(u32),
    /// A task takes the lock of a conf, or gives it back.
    Lock(u32),
    /// It is started, or stopped if it runs.
    Power(u32),
    /// It is destroyed, or made again in parts as `pct create` does.
    Existence(u32),
    /// A call of `pct` goes wrong.
    Fault(FaultKind, u32),
    /// A call of `pct` that is at work is killed.
    KillPct,
    /// The daemon is killed, and started again.
    Kill,
    /// The daemon is stopped as systemd does it, and started again.
    Restart,
    /// The daemon is told to read its configuration.
    Reload,
    /// The cluster file system goes away, or comes back.
    Pmxcfs,
    /// The quorum is lost, or found.
    Quorum,
    /// Its lists are cut off in the middle until the next change.
    SpoiltList,
    /// Somebody on the host makes a file in a volume, or takes one over.
    Drift,
    /// The disk that has the ledger is full, or has room again.
    FullDisk,
    /// The disk that a volume lies on answers every n-th request with an error, or works again.
    BadDisk(u64),
    /// The clock is so many seconds off from now on.
    Clock(i64),
}

impl Event {
    /// Returns one of them.
    pub(crate) fn any(random: &mut Rng) -> Self {
        let ctid = CONTAINERS[random.usize(..CONTAINERS.len())];
        match random.u32(..42) {
            0..8 => Self::Edit,
            8 => Self::BadEdit,
            9..12 => Self::OthersEdit(ctid),
            12 | 13 => Self::Lock(ctid),
            14..17 => Self::Power(ctid),
            17 | 18 => Self::Existence(ctid),
            19..24 => Self::Fault(fault(random), random.u32(..2)),
            24 => Self::KillPct,
            25..27 => Self::Kill,
            27 => Self::Restart,
            28 => Self::Reload,
            29 => Self::Pmxcfs,
            30 => Self::Quorum,
            31 => Self::SpoiltList,
            32 | 33 => Self::FullDisk,
            34..37 => Self::BadDisk([1, 2, 7][random.usize(..3)]),
            37..40 => Self::Clock(random.i64(-50..=50) * 60 * 60 + random.i64(0..60)),
            _ => Self::Drift,
        }
    }

    /// Returns whether something goes wrong, and not only otherwise than before.
    pub(crate) const fn is_fault(&self) -> bool {
        match self {
            Self::Edit
            | Self::OthersEdit(_)
            | Self::Lock(_)
            | Self::Power(_)
            | Self::Existence(_)
            | Self::Restart
            | Self::Reload
            | Self::Drift => false,
            Self::BadEdit
            | Self::Fault(..)
            | Self::KillPct
            | Self::Kill
            | Self::Pmxcfs
            | Self::Quorum
            | Self::SpoiltList
            | Self::FullDisk
            | Self::BadDisk(_)
            | Self::Clock(_) => true,
        }
    }

    /// Returns its name, for the table at the end.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Edit => "edits",
            Self::BadEdit => "bad edits",
            Self::OthersEdit(_) => "edits by others",
            Self::Lock(_) => "locks",
            Self::Power(_) => "starts and stops",
            Self::Existence(_) => "destroyed or made",
            Self::Fault(..) => "faults of pct",
            Self::KillPct => "kills of pct",
            Self::Kill => "kills",
            Self::Restart => "restarts",
            Self::Reload => "reloads",
            Self::Pmxcfs => "pmxcfs",
            Self::Quorum => "quorum",
            Self::SpoiltList => "spoilt lists",
            Self::Drift => "drift",
            Self::FullDisk => "full disks",
            Self::BadDisk(_) => "bad disks",
            Self::Clock(_) => "clock jumps",
        }
    }
}

fn fault(random: &mut Rng) -> FaultKind {
    let stderr = String::from("something went wrong");
    match random.u32(..7) {
        0 => FaultKind::Fail { exit: 255, stderr },
        1 => FaultKind::FailAfterwards { exit: 2, stderr },
        2 => FaultKind::Hang { millis: random.u64(..150), holding_flock: random.bool() },
        3 => FaultKind::Locked { lock: "backup".into() },
        4 => FaultKind::LockTimeout,
        5 => FaultKind::Killed { signal: 9 },
        _ => FaultKind::Killed { signal: 15 },
    }
}
