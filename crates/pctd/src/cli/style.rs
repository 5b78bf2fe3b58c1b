//! Colours and columns: sparing, and none where nobody looks.

use std::fmt::{self, Display};
use std::io::IsTerminal;

use anstyle::{AnsiColor, Style};

/// Whether colours are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Palette {
    on: bool,
}

/// What a piece of text means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    /// A heading.
    Heading,
    /// Something is added, or good.
    Add,
    /// Something changes.
    Change,
    /// Something is held.
    Hold,
    /// Something is wrong.
    Bad,
    /// Less important.
    Dim,
}

impl Palette {
    /// Returns colours for standard output where it is a terminal and `NO_COLOR` is not set.
    pub(crate) fn for_stdout() -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { on: wanted && std::io::stdout().is_terminal() }
    }

    /// Returns no colours.
    #[cfg(test)]
    pub(crate) const fn none() -> Self {
        Self { on: false }
    }

    /// Returns `text` in the colours of `tone`.
    pub(crate) const fn paint<T: Display>(self, tone: Tone, text: T) -> Painted<T> {
        Painted { style: if self.on { style(tone) } else { Style::new() }, text }
    }
}

const fn style(tone: Tone) -> Style {
    let plain = Style::new();
    match tone {
        Tone::Heading => plain.bold(),
        Tone::Add => plain.fg_color(Some(anstyle::Color::Ansi(AnsiColor::Green))),
        Tone::Change => plain.fg_color(Some(anstyle::Color::Ansi(AnsiColor::Yellow))),
        Tone::Hold => plain.fg_color(Some(anstyle::Color::Ansi(AnsiColor::Magenta))),
        Tone::Bad => plain.fg_color(Some(anstyle::Color::Ansi(AnsiColor::Red))),
        Tone::Dim => plain.dimmed(),
    }
}

/// A text with its colours.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Painted<T> {
    style: Style,
    text: T,
}

impl<T: Display> Display for Painted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}{}", self.style.render(), self.text, self.style.render_reset())
    }
}
