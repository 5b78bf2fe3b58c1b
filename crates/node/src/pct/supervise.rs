//! The time a call has, what it says meanwhile, and how it is ended: told to, never killed.

use std::io;
use std::os::fd::OwnedFd;
use std::process::{Child, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use rustix::time::Timespec;

/// How much of each of its streams is kept; the rest is read and dropped, so that it never blocks.
const KEPT_BYTES: usize = 64 * 1024;

/// How long a call that makes a container may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits<'a> {
    /// Its time.
    pub timeout: Duration,
    /// How long it may clean up after it was told to end.
    pub grace: Duration,
    /// Set when pctd is to stop, which does not wait for a copy that takes hours.
    pub stop: &'a AtomicBool,
}

impl<'a> Limits<'a> {
    /// The default for [`Self::grace`]: the disks that were made are removed in it.
    pub const GRACE: Duration = Duration::from_mins(2);

    /// Returns the limits of a call with this time.
    pub const fn new(timeout: Duration, stop: &'a AtomicBool) -> Self {
        Self { timeout, grace: Self::GRACE, stop }
    }
}

/// When a call is to be ended.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Deadline<'a> {
    /// After this time.
    After(Duration),
    /// After a time, or when pctd stops.
    Limits(Limits<'a>),
    /// Never.
    Never,
}

/// How often a call that pctd's own stop is to end looks whether it should.
const LOOK: Duration = Duration::from_millis(200);

/// How a call ended.
pub(super) struct Ended {
    /// None where it did not.
    pub(super) status: Option<ExitStatus>,
    pub(super) timed_out: bool,
}

/// What is done next if the program does not end by itself.
#[derive(Debug, Clone, Copy)]
enum Next {
    Terminate,
    GiveUp,
}

/// Waits for a program, reads what it says, and ends it when its time is over.
///
/// Ends with the program, not with its streams: something it started may keep those open.
pub(super) fn supervise(
    child: &mut Child,
    streams: &mut [Stream; 2],
    deadline: Deadline<'_>,
    grace: Duration,
) -> io::Result<Ended> {
    let pid = Pid::from_child(child);
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    let mut timed_out = false;
    let mut next = match deadline {
        Deadline::After(time) | Deadline::Limits(Limits { timeout: time, .. }) => {
            Instant::now().checked_add(time).map(|at| (at, Next::Terminate))
        }
        Deadline::Never => None,
    };
    let mut stop = match deadline {
        Deadline::Limits(limits) => Some(limits.stop),
        Deadline::After(_) | Deadline::Never => None,
    };
    loop {
        if stop.is_some_and(|stop| stop.load(Ordering::Relaxed)) {
            next = Some((Instant::now(), Next::Terminate));
            stop = None;
        }
        let mut left = next.map(|(at, _)| at.saturating_duration_since(Instant::now()));
        if stop.is_some() {
            left = Some(left.map_or(LOOK, |left| left.min(LOOK)));
        }
        let ended = wait(&pidfd, streams, left)?;
        for stream in streams.iter_mut() {
            stream.drain();
        }
        if ended {
            return Ok(Ended { status: Some(child.wait()?), timed_out });
        }
        let Some((at, action)) = next.filter(|(at, _)| Instant::now() >= *at) else { continue };
        timed_out = true;
        if matches!(action, Next::GiveUp) {
            return Ok(Ended { status: None, timed_out });
        }
        // Nobody has waited for it yet, so the group cannot be another program's.
        // Never SIGKILL: its worker would stay behind with half a change and no clean-up.
        match kill_process_group(pid, Signal::TERM) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(errno) => return Err(errno.into()),
        }
        next = Some((at + grace, Next::GiveUp));
        stop = None;
    }
}

/// Waits until the program ended or said something, or the time is over; returns whether it ended.
fn wait(pidfd: &OwnedFd, streams: &[Stream; 2], left: Option<Duration>) -> io::Result<bool> {
    let mut fds = vec![PollFd::new(pidfd, PollFlags::IN)];
    fds.extend(
        streams
            .iter()
            .filter_map(|stream| stream.pipe.as_ref())
            .map(|pipe| PollFd::new(pipe, PollFlags::IN)),
    );
    // A time that does not fit is as good as none.
    let left = left.and_then(|left| Timespec::try_from(left).ok());
    match poll(&mut fds, left.as_ref()) {
        Ok(_) => Ok(!fds[0].revents().is_empty()),
        Err(Errno::INTR) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// One stream of a program: the beginning of what it says.
pub(super) struct Stream {
    /// None once it was closed.
    pipe: Option<OwnedFd>,
    pub(super) kept: Vec<u8>,
}

impl Stream {
    /// Returns stdout and stderr of a program.
    pub(super) fn of(child: &mut Child) -> io::Result<[Self; 2]> {
        Ok([Self::new(child.stdout.take())?, Self::new(child.stderr.take())?])
    }

    fn new(pipe: Option<impl Into<OwnedFd>>) -> io::Result<Self> {
        let pipe: Option<OwnedFd> = pipe.map(Into::into);
        if let Some(pipe) = &pipe {
            fcntl_setfl(pipe, fcntl_getfl(pipe)? | OFlags::NONBLOCK)?;
        }
        Ok(Self { pipe, kept: Vec::new() })
    }

    /// Reads what there is, and keeps what there is room for.
    fn drain(&mut self) {
        let mut buffer = [0; 4096];
        while let Some(pipe) = &self.pipe {
            match rustix::io::read(pipe, &mut buffer) {
                Ok(0) => self.pipe = None,
                Ok(read) => {
                    let room = KEPT_BYTES - self.kept.len();
                    self.kept.extend_from_slice(&buffer[..read.min(room)]);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                // Nothing more will come; how the program ends still counts.
                Err(_) => self.pipe = None,
            }
        }
    }
}

/// Takes the exit status of a program that nobody waits for any more, whenever it comes.
pub(super) fn reap_later(mut child: Child) {
    std::thread::spawn(move || child.wait());
}
