//! Signals: SIGTERM and SIGINT stop, SIGHUP reloads, and a second SIGTERM or SIGINT ends at once.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::iterator::Signals;
use tokio::sync::mpsc;

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signal {
    /// End after the steps under way.
    Stop,
    /// Read the configuration again.
    Reload,
}

/// The exit code after a second SIGTERM: as if the signal had ended the process.
const KILLED: i32 = 128 + SIGTERM;

/// Starts listening.
///
/// # Errors
///
/// A handler cannot be installed.
pub(super) fn listen() -> io::Result<mpsc::Receiver<Signal>> {
    let stopping = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        // The order matters: the first signal finds the flag unset and then sets it.
        flag::register_conditional_shutdown(signal, KILLED, Arc::clone(&stopping))?;
        flag::register(signal, Arc::clone(&stopping))?;
    }
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    // A reload that waits makes further ones pointless; a stop always gets through.
    let (sender, receiver) = mpsc::channel(4);
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            let wanted = if signal == SIGHUP { Signal::Reload } else { Signal::Stop };
            if sender.blocking_send(wanted).is_err() {
                return;
            }
        }
    })?;
    Ok(receiver)
}
