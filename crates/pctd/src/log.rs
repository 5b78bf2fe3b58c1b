//! Logging: journald under systemd, else standard error; one event per fact.
//!
//! Fields are named as an admin filters for them: `journalctl -u pctd CTID=953 STEP=set_mount`.

use std::io::IsTerminal;

use tracing::level_filters::LevelFilter;
use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Emits an event about a key: with the field that names it, `CTID` or `VOLUME`, and with its name
/// at the head of the message, since a plain `journalctl` shows nothing but that.
macro_rules! log_with_key {
    ($level:ident, $key:expr, $message:expr $(; $name:ident = $value:expr)*) => {
        match $key {
            pctd_core::ids::Key::Container(ctid) => {
                tracing::$level!(CTID = %ctid, $($name = $value,)* "{ctid}: {}", $message)
            }
            pctd_core::ids::Key::Volume(volume) => {
                tracing::$level!(VOLUME = %volume, $($name = $value,)* "{volume}: {}", $message)
            }
        }
    };
}

/// Levels as syslog has them; the crate's own default makes a notice of what is information.
const PRIORITIES: PriorityMappings = PriorityMappings {
    error: Priority::Error,
    warn: Priority::Warning,
    info: Priority::Informational,
    debug: Priority::Debug,
    trace: Priority::Debug,
};

/// How much is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verbosity {
    /// Warnings and errors.
    Quiet,
    /// What changed on the node.
    Normal,
    /// What was observed and planned, too.
    Verbose,
}

/// Sets up logging for this process.
pub(crate) fn init(verbosity: Verbosity) {
    let level = match verbosity {
        Verbosity::Quiet => LevelFilter::WARN,
        Verbosity::Normal => LevelFilter::INFO,
        Verbosity::Verbose => LevelFilter::DEBUG,
    };
    let registry = tracing_subscriber::registry().with(level);
    let under_systemd = std::env::var_os("JOURNAL_STREAM").is_some();
    let journald = under_systemd.then(tracing_journald::layer).and_then(Result::ok);
    if let Some(layer) = journald {
        // Fields keep their names: `CTID`, not `F_CTID`.
        registry.with(layer.with_field_prefix(None).with_priority_mappings(PRIORITIES)).init();
        return;
    }
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let format = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(colour)
        .with_target(false);
    registry.with(format).init();
}
