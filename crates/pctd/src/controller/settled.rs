//! How long the set of configuration files has stood, so that something may be concluded from what
//! it does not say.
//!
//! A file that is missing for a moment, because somebody moves it, restores it or has not mounted it
//! yet, must not look like the wish to remove what it declares. That entries go from a file that
//! stays is how an admin takes something back, and counts at once.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

/// Since when the configuration may be taken for all there is.
#[derive(Debug, Default)]
pub(super) struct Settled {
    files: BTreeSet<String>,
    /// None while it is not known or invalid.
    since: Option<Instant>,
}

impl Settled {
    /// Notes a valid set of files; `is_empty` where they declare nothing.
    pub(super) fn accept(&mut self, files: BTreeSet<String>, is_empty: bool, now: Instant) {
        let has_shrunk = !self.files.is_subset(&files);
        if has_shrunk || is_empty || files.is_empty() {
            self.since = Some(now);
        }
        self.since.get_or_insert(now);
        self.files = files;
    }

    /// Notes an invalid set: what was in force stays so, and is no longer what the admin says.
    pub(super) const fn reject(&mut self) {
        self.since = None;
    }

    /// Returns whether it has stood for this long.
    pub(super) fn is(&self, interval: Duration, now: Instant) -> bool {
        self.since.is_some_and(|since| now.saturating_duration_since(since) >= interval)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_mins(10);

    type History<'a> = &'a [Option<&'a [&'a str]>];

    /// Whether it counts right after the last of these, each a set of files or none where they are
    /// invalid, with an hour between them; and an interval later.
    fn settled(history: History<'_>) -> (bool, bool) {
        let mut settled = Settled::default();
        let mut now = Instant::now();
        for files in history {
            now += Duration::from_hours(1);
            match files {
                Some(files) => {
                    let names = files.iter().map(ToString::to_string).collect();
                    settled.accept(names, files.contains(&"empty"), now);
                }
                None => settled.reject(),
            }
        }
        (settled.is(INTERVAL, now), settled.is(INTERVAL, now + INTERVAL))
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_set_of_files_that_stands_or_grows_counts_at_once() {
        let at_once = (true, true);
        let later = (false, true);
        let cases: [(History<'_>, (bool, bool)); 9] = [
            (&[], (false, false)),
            (&[Some(&["a"])], later),
            (&[Some(&["a"]), Some(&["a"])], at_once),
            (&[Some(&["a"]), Some(&["a", "b"])], at_once),
            (&[Some(&["a", "b"]), Some(&["a"])], later),
            (&[Some(&["a"]), Some(&["b"])], later),
            (&[Some(&["a"]), None], (false, false)),
            (&[Some(&["a"]), None, Some(&["a"])], later),
            (&[Some(&["empty"]), Some(&["empty"])], later),
        ];
        for (history, expected) in cases {
            assert_eq!(settled(history), expected, "{history:?}");
        }
    }
}
