//! What a shift changes, or changed.

use pctd_core::report::{ShiftReport, ShiftedReport};

use super::line;
use crate::cli::style::{Palette, Tone};

/// Returns a shift as text.
pub(crate) fn shift(report: &ShiftReport, palette: Palette) -> String {
    let mut text = String::new();
    let title = format!("volume {}", report.volume);
    line(&mut text, format_args!("{}", palette.paint(Tone::Heading, title)));
    let (sign, done) = if report.dry_run {
        (palette.paint(Tone::Change, "~"), report.to_shift)
    } else {
        (palette.paint(Tone::Add, "~"), report.changed)
    };
    let would = if report.dry_run { "would be " } else { "" };
    line(
        &mut text,
        format_args!(
            "  {sign} {done} of {} entries {would}shifted from {}",
            report.entries, report.shift
        ),
    );
    for ShiftedReport { path, before, after } in &report.examples {
        line(&mut text, format_args!("      {before} -> {after}  {path}"));
    }
    let mut also = |number: u64, what: &str| {
        if number > 0 {
            line(&mut text, format_args!("  {} {number} {what}", palette.paint(Tone::Hold, "!")));
        }
    };
    also(
        report.in_target,
        "have ids of the target range already, and cannot be told apart afterwards",
    );
    also(
        report.in_conflict,
        "would be given to somebody else again by what is declared: it would be refused",
    );
    also(report.privileges, "lose setuid, setgid or capabilities");
    also(report.hard_links, "have other names, which change with them");
    also(report.errors, "could not be looked at or changed");
    for error in &report.first_errors {
        line(&mut text, format_args!("    {error}"));
    }
    for mount in &report.nested_mounts {
        line(&mut text, format_args!("  ! something is mounted at {mount}, which is left alone"));
    }
    if report.cancelled {
        line(&mut text, format_args!("  ended before it was through; the same command goes on"));
    }
    text
}

#[cfg(test)]
mod tests {
    use pctd_core::ids::HostIds;
    use pctd_core::observed::Audit;
    use pctd_core::shift::{Ranges, Shift};

    use super::*;

    #[test]
    fn a_dry_run_names_how_many_and_a_few() {
        let shift = Shift::new(Ranges { from: 200_000, to: 100_000, count: 65_536 }).unwrap();
        let audit = Audit { entries: 7, changes: 4, privileges: 1, ..Audit::default() };
        let mut report = ShiftReport::new("media".parse().unwrap(), shift, true, &audit);
        let ids = HostIds::new;
        let (before, after) = (ids(200_033, 200_033), ids(100_033, 100_033));
        report.examples = vec![ShiftedReport { path: "a/b".to_owned(), before, after }];
        let expected = "volume media
  ~ 4 of 7 entries would be shifted from 200000-265535 to 100000-165535
      200033:200033 -> 100033:100033  a/b
  ! 1 lose setuid, setgid or capabilities
";
        assert_eq!(super::shift(&report, Palette::none()), expected);
    }
}
