//! How a command ends, and the worker that does what takes long.

use crate::context::Context;
use crate::output::Die;

/// How a command that failed did so.
#[derive(Debug)]
pub(crate) enum Ended {
    /// Before or without a worker.
    Died(Die),
    /// In its worker.
    TaskFailed(Die),
}

impl<T: Into<Die>> From<T> for Ended {
    fn from(die: T) -> Self {
        Self::Died(die.into())
    }
}

/// Runs the rest of a command as a worker would: its streams are one.
pub(crate) fn task(
    cx: &mut Context,
    run: impl FnOnce(&mut Context) -> Result<(), Die>,
) -> Result<(), Ended> {
    cx.streams.enter_task(true);
    let result = run(cx);
    cx.streams.enter_task(false);
    result.map_err(Ended::TaskFailed)
}
