//! What a run of `pct` prints and how it ends.
//!
//! A task (create, clone, start, ...) is a worker process in Proxmox whose stdout and stderr both
//! come out on pct's stdout; only its last error goes to stderr, on one line.

use std::io::Write;

use crate::perl::{WIDE_CHARACTER, to_file};
/// The errors of a check: where, and what is wrong. Their order means nothing in Proxmox, whose come
/// out of a hash.
pub(crate) type Errors = Vec<(String, String)>;

/// The result of a run of `pct`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Output {
    /// The exit code.
    pub exit: u8,
    /// What was printed.
    pub stdout: Vec<u8>,
    /// What was complained of.
    pub stderr: Vec<u8>,
}

impl Output {
    /// Returns whether the run succeeded.
    pub const fn is_success(&self) -> bool {
        self.exit == 0
    }

    /// Returns stdout as text.
    pub fn stdout_text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Returns stderr as text.
    pub fn stderr_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }
}

/// Where a run prints to: kept for the caller, or the streams of this process as well.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    output: Output,
    live: bool,
    in_task: bool,
}

impl Streams {
    pub(crate) fn new(live: bool) -> Self {
        Self { live, ..Self::default() }
    }

    /// Prints to stdout.
    pub(crate) fn print(&mut self, text: &str) {
        let (bytes, wide) = to_file(text);
        if wide {
            self.warn(WIDE_CHARACTER);
        }
        if self.live {
            // A closed stdout is the reader's business.
            let _ = std::io::stdout().write_all(&bytes).and_then(|()| std::io::stdout().flush());
        }
        self.output.stdout.extend_from_slice(&bytes);
    }

    /// Prints to stderr, which in a task is stdout.
    pub(crate) fn warn(&mut self, text: &str) {
        if self.in_task {
            let bytes = to_file(text).0;
            self.print(&crate::perl::from_file(&bytes));
        } else {
            self.error(text);
        }
    }

    /// Prints to the real stderr.
    pub(crate) fn error(&mut self, text: &str) {
        let bytes = to_file(text).0;
        if self.live {
            // There is nowhere else to report it to.
            let _ = std::io::stderr().write_all(&bytes);
        }
        self.output.stderr.extend_from_slice(&bytes);
    }

    /// Says that a worker does the rest; returns whether one did before.
    pub(crate) fn enter_task(&mut self, in_task: bool) -> bool {
        std::mem::replace(&mut self.in_task, in_task)
    }

    /// Returns what was printed, with the exit code.
    pub(crate) fn finish(mut self, exit: u8) -> Output {
        self.output.exit = exit;
        self.output
    }
}

/// A Perl exception: the command ends with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Die {
    text: String,
    errors: Errors,
    /// Whether the usage line follows (`is_param_exc`).
    usage: bool,
    /// Proxmox exits with whatever `errno` was left over, else 255.
    exit: u8,
}

impl Die {
    /// Returns an exception with this text, which ends with a line feed.
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), errors: Errors::new(), usage: false, exit: 255 }
    }

    /// Returns one that Perl ends with where it was thrown, having no line feed.
    pub(crate) fn internal(text: &str) -> Self {
        Self::new(format!("{text} at /usr/share/perl5/PVE/LXC.pm line 1.\n"))
    }

    /// Returns one for wrong parameters (`raise_param_exc`).
    pub(crate) fn parameters(errors: Errors) -> Self {
        Self { errors, ..Self::bad_request("Parameter verification failed.\n") }
    }

    /// Returns one that shows the usage.
    pub(crate) fn bad_request(text: &str) -> Self {
        Self { text: format!("400 {text}"), errors: Errors::new(), usage: true, exit: 2 }
    }

    /// Adds errors by place.
    pub(crate) fn with_errors(mut self, errors: Errors) -> Self {
        self.errors = errors;
        self
    }

    /// Sets the exit code.
    pub(crate) const fn exit(mut self, exit: u8) -> Self {
        self.exit = exit;
        self
    }

    /// Puts a text before it.
    pub(crate) fn prefixed(self, prefix: &str) -> Self {
        let text = format!("{prefix} {}", self.render(""));
        Self { text, errors: Errors::new(), usage: false, exit: self.exit }
    }

    pub(crate) const fn code(&self) -> u8 {
        self.exit
    }

    /// Returns the whole text (`PVE::Exception::stringify`).
    pub(crate) fn render(&self, usage: &str) -> String {
        let mut text = self.text.clone();
        for (place, error) in &self.errors {
            text.extend([place, ": ", error, "\n"]);
        }
        if self.usage {
            text.push_str(usage);
        }
        text
    }

    /// Returns the line a failed worker leaves: line feeds folded.
    pub(crate) fn folded(&self) -> String {
        format!("{}\n", self.render("").trim_end_matches('\n').replace('\n', " "))
    }
}

impl From<String> for Die {
    fn from(text: String) -> Self {
        Self::new(text)
    }
}

impl From<&str> for Die {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}
