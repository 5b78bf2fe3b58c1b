//! What a walk counts, and the first few errors it met.

use pctd_core::observed::Audit;
use rustix::io::Errno;

use super::account::Counted;
use super::entry::{Finding, Refusal};
use super::report::{Progress, Unsupported, WalkReport};
use crate::bookmark::Counts;

/// How many errors are kept with their path; the rest is counted.
const ERRORS_KEPT: usize = 5;

/// How many refusals, without one success before, end a walk.
///
/// Arbitrary: enough that a few odd files do not look like a file system that cannot do it.
pub(super) const REFUSALS_BEFORE_END: u64 = 8;

/// The counts of a walk that is under way.
#[derive(Debug, Default)]
pub(super) struct Tally {
    report: WalkReport,
    /// How often something was met that speaks against calling a directory dealt with.
    loose_ends: u64,
}

impl Tally {
    pub(super) fn entry(&mut self) {
        self.report.audit.entries += 1;
    }

    /// Counts an entry that an earlier walk had looked at.
    pub(super) fn believed(&mut self) {
        self.report.audit.entries += 1;
        self.report.audit.believed += 1;
    }

    /// Notes that an entry was left to somebody else.
    pub(super) fn left(&mut self) {
        self.loose_ends += 1;
    }

    /// Returns what was counted so far, and how many loose ends there are.
    pub(super) fn so_far(&self) -> Counted {
        (Counts::of(&self.report.audit), self.loose_ends)
    }

    /// Adds what an earlier walk had found, where any of that was believed.
    pub(super) fn add_findings(&mut self, found: Counts) {
        if self.report.audit.believed > 0 {
            found.add_findings_to(&mut self.report.audit);
        }
    }

    pub(super) fn finding(&mut self, finding: &Finding<'_>, fresh: bool) {
        let audit = &mut self.report.audit;
        audit.acls += u64::from(finding.acl);
        let Some(change) = finding.change else { return };
        audit.changes += 1;
        audit.fresh += u64::from(fresh);
        audit.owners += u64::from(change.owner.is_some());
        audit.modes += u64::from(change.mode.is_some_and(|new| new != finding.mode));
        audit.default_acls += u64::from(change.default_acl.is_some());
        audit.hard_links += u64::from(finding.hard_link);
        audit.privileges += u64::from(finding.privileged);
    }

    pub(super) fn changed(&mut self) {
        self.report.changed += 1;
    }

    /// Notes that the next change would be one too many.
    pub(super) fn limited(&mut self) {
        self.loose_ends += 1;
        self.report.limited = true;
    }

    /// Notes that something could not be recorded, and so was not changed.
    pub(super) fn unrecorded(&mut self, why: String) {
        self.loose_ends += 1;
        self.report.unrecorded.get_or_insert(why);
    }

    pub(super) fn nested_mount(&mut self, path: String) {
        self.loose_ends += 1;
        self.report.audit.nested_mounts.push(path);
    }

    pub(super) fn error(&mut self, path: impl FnOnce() -> String, problem: &dyn std::fmt::Display) {
        self.loose_ends += 1;
        let audit = &mut self.report.audit;
        audit.errors += 1;
        if audit.first_errors.len() < ERRORS_KEPT {
            audit.first_errors.push(format!("{}: {problem}", path()));
        }
    }

    /// Counts an entry that the file system would not let change.
    pub(super) fn refused(&mut self, kind: &str, refusal: Refusal) {
        self.loose_ends += 1;
        let unsupported = self.report.unsupported.get_or_insert_with(|| Unsupported {
            kind: kind.to_owned(),
            message: refusal.to_string(),
            entries: 0,
        });
        unsupported.entries += 1;
    }

    /// Adds what another worker of the same walk counted.
    pub(super) fn merge(mut self, other: Self) -> Self {
        let (sum, more) = (&mut self.report, other.report);
        sum.changed += more.changed;
        sum.limited |= more.limited;
        sum.unrecorded = sum.unrecorded.take().or(more.unrecorded);
        sum.unsupported = match (sum.unsupported.take(), more.unsupported) {
            (Some(one), Some(two)) => {
                Some(Unsupported { entries: one.entries + two.entries, ..one })
            }
            (one, two) => one.or(two),
        };
        // Taken apart, so that a new count cannot be forgotten.
        let Audit {
            entries,
            believed,
            changes,
            fresh,
            owners,
            modes,
            default_acls,
            acls,
            hard_links,
            privileges,
            nested_mounts,
            errors,
            first_errors,
        } = more.audit;
        let audit = &mut sum.audit;
        audit.entries += entries;
        audit.believed += believed;
        audit.changes += changes;
        audit.fresh += fresh;
        audit.owners += owners;
        audit.modes += modes;
        audit.default_acls += default_acls;
        audit.acls += acls;
        audit.hard_links += hard_links;
        audit.privileges += privileges;
        audit.nested_mounts.extend(nested_mounts);
        audit.errors += errors;
        audit.first_errors.extend(first_errors);
        audit.first_errors.truncate(ERRORS_KEPT);
        self
    }

    pub(super) fn progress(&self) -> Progress {
        let Audit { entries, changes, .. } = self.report.audit;
        Progress { entries, changes, rate: 0 }
    }

    pub(super) fn finish(mut self, cancelled: bool) -> WalkReport {
        self.report.cancelled = cancelled;
        self.report.audit.nested_mounts.sort_unstable();
        self.report
    }
}

/// Returns whether an error only says that the entry is gone.
pub(super) fn is_vanished(errno: Errno) -> bool {
    errno == Errno::NOENT || errno == Errno::STALE
}

/// Returns a relative path for people: lossy, without control characters.
pub(super) fn display_path(path: &[u8]) -> String {
    let mut out = String::with_capacity(path.len());
    for c in String::from_utf8_lossy(path).chars() {
        if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
    }
    if out.is_empty() { ".".into() } else { out }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_for_people_have_no_control_characters_and_are_never_empty() {
        assert_eq!(display_path(b"x/a\nb/c\xff"), "x/a\\nb/c\u{fffd}");
        assert_eq!(display_path(b""), ".");
    }
}
