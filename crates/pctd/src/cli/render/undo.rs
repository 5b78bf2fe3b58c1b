//! What can be taken back, and what was.

use pctd_core::report::{PassReport, UndoReport, UndoneReport};
use pctd_core::undo::PassKind;

use super::{count_u64, line};
use crate::cli::style::{Palette, Tone};

/// Returns passes, or what became of their entries, as text.
pub(crate) fn undo(report: &UndoReport, palette: Palette) -> String {
    let mut text = String::new();
    let title = format!("volume {}", report.volume);
    line(&mut text, format_args!("{}", palette.paint(Tone::Heading, title)));
    match &report.undone {
        None if report.passes.is_empty() => {
            line(&mut text, format_args!("  nothing that pctd changed is on record"));
        }
        None => {
            for pass in &report.passes {
                line(&mut text, format_args!("  {}", row(pass)));
            }
            if report.undeclared {
                let text = &mut text;
                let volume = &report.volume;
                line(
                    text,
                    format_args!(
                        "  {volume} is not in the configuration; once it is again, with the same host_path, `pctd undo {volume}` takes them back, and `rm -r /var/lib/pctd/undo/{volume}` forgets them"
                    ),
                );
            }
        }
        Some(undone) => came_of_it(&mut text, report, undone, palette),
    }
    text
}

fn row(pass: &PassReport) -> String {
    let goes_on = if pass.whole { "" } else { ", open" };
    let PassReport { pass, begun, by, entries, .. } = pass;
    let by = match by {
        PassKind::Walk => "walk",
        PassKind::Drift => "drift",
        PassKind::Shift => "shift",
    };
    format!("{pass}  {begun}  {by:<5}  {}{goes_on}", count_u64(*entries, "change"))
}

fn came_of_it(text: &mut String, report: &UndoReport, undone: &UndoneReport, palette: Palette) {
    let (verb, tally) = (if undone.dry_run { "would take" } else { "took" }, &undone.tally);
    for pass in &report.passes {
        line(text, format_args!("  {verb} back {}", row(pass)));
    }
    let mut number = |tone, number: u64, what: &str| {
        if number > 0 {
            let number = palette.paint(tone, format!("{number:>9}"));
            line(text, format_args!("  {number} {what}"));
        }
    };
    number(Tone::Add, tally.restored, if undone.dry_run { "to be restored" } else { "restored" });
    number(Tone::Dim, tally.in_place, "as they were already");
    number(Tone::Change, tally.changed_since, "changed by others since, and left alone");
    number(Tone::Change, tally.gone, "gone, or no longer where they were");
    number(Tone::Hold, tally.acls, "with an access ACL, which keep their mode");
    number(Tone::Hold, tally.withheld, "had setuid or setgid, which only `--setuid` gives back");
    number(Tone::Bad, tally.errors, "could not be restored");
    for error in &tally.first_errors {
        line(text, format_args!("    {error}"));
    }
    let volume = &report.volume;
    if undone.cancelled {
        line(text, format_args!("  ended before it was through; `pctd undo {volume}` goes on"));
    } else if !undone.dry_run && (tally.errors == 0 || tally.restored > 0) {
        line(text, format_args!("  not done again until `pctd apply {volume}`"));
    }
}

#[cfg(test)]
mod tests {
    use pctd_core::undo::Tally;

    use super::*;

    fn report(undone: Option<UndoneReport>) -> UndoReport {
        let begun = "2026-01-02T03:04:05Z".to_owned();
        let walk = PassReport {
            pass: 1_767_323_045_000_000,
            begun,
            by: PassKind::Walk,
            entries: 12,
            whole: true,
            bytes: 400,
        };
        let drift = PassReport { by: PassKind::Drift, entries: 1, whole: false, ..walk.clone() };
        UndoReport::new("media".parse().unwrap(), vec![walk, drift], undone)
    }

    #[test]
    fn passes_are_listed_with_their_numbers() {
        let text = undo(&report(None), Palette::none());
        let expected = "volume media\n  1767323045000000  2026-01-02T03:04:05Z  walk   12 changes\n  \
                        1767323045000000  2026-01-02T03:04:05Z  drift  1 change, open\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn of_a_volume_that_is_declared_no_more_it_says_what_its_records_are_for() {
        let undeclared = UndoReport { undeclared: true, ..report(None) };
        let text = undo(&undeclared, Palette::none());
        assert!(text.contains("`pctd undo media`"), "{text}");
        assert!(text.contains("`rm -r /var/lib/pctd/undo/media`"), "{text}");
    }

    #[test]
    fn what_was_left_is_named_and_what_there_is_none_of_is_not() {
        let tally = Tally { entries: 13, restored: 11, withheld: 2, ..Tally::default() };
        let undone = UndoneReport { dry_run: false, done: false, cancelled: false, tally };
        let text = undo(&report(Some(undone)), Palette::none());
        assert!(text.contains("  took back 1767323045000000"), "{text}");
        assert!(text.contains("         11 restored\n          2 had setuid"), "{text}");
        assert!(!text.contains("gone"), "{text}");
        assert!(text.ends_with("  not done again until `pctd apply media`\n"), "{text}");
    }
}
