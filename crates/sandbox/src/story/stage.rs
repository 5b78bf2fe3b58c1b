//! What is printed: aligned, sparing colour, real times.

use std::io::IsTerminal as _;

/// A claim of the story that does not hold, or the means to check it failed.
#[derive(Debug)]
pub(super) struct Broken(pub(super) String);

impl<E: std::error::Error> From<E> for Broken {
    fn from(error: E) -> Self {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        Self(text)
    }
}

/// Holds the story to a claim.
pub(super) fn expect(holds: bool, claim: impl FnOnce() -> String) -> Result<(), Broken> {
    if holds { Ok(()) } else { Err(Broken(format!("this should hold and does not: {}", claim()))) }
}

/// Where the story is told.
#[derive(Debug)]
pub(super) struct Stage {
    colour: bool,
}

impl Stage {
    pub(super) fn new() -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { colour: wanted && std::io::stdout().is_terminal() }
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// Prints the title.
    pub(super) fn title(&self, text: &str) {
        println!("{}", self.paint("1", text));
    }

    /// Begins a chapter.
    pub(super) fn chapter(&self, text: &str) {
        println!("\n{}", self.paint("1;36", text));
    }

    /// Prints a line as it is.
    #[expect(clippy::unused_self, reason = "all that is printed goes through the stage")]
    pub(super) fn say(&self, text: &str) {
        println!("{text}");
    }

    /// Prints one thing and what it is like.
    pub(super) fn row(&self, name: &str, what: &str) {
        self.say(&format!("  {name:<26} {what}"));
    }

    /// Prints a text of several lines, set off.
    pub(super) fn quote(&self, text: &str) {
        for line in text.lines() {
            println!("  {} {line}", self.paint("2", "|"));
        }
    }

    /// Prints something that was checked and holds.
    pub(super) fn holds(&self, text: &str) {
        println!("  {} {text}", self.paint("32", "ok"));
    }

    /// Prints what ended the story.
    pub(super) fn broken(&self, what: &str) {
        eprintln!("\n{} {what}", self.paint("1;31", "broken:"));
    }
}
