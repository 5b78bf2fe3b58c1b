//! When a key is looked at again without an event: after a failure, a conflict, a hold. The
//! numbers of one delay are [`Backoff`]'s.

use std::collections::BTreeMap;
use std::time::Duration;

use pctd_core::desired::Settings;
use pctd_core::ids::Key;
use pctd_core::plan::{Hold, Recheck};
use tokio::time::Instant;

use super::backoff::Backoff;
use super::walks;
use crate::reconciler::{Outcome, Verdict};

/// A conflict is retried at once this often before it counts as a failure.
pub(super) const CONFLICTS: u32 = 3;

/// What is heard of a container this soon after a run over it failed is taken for the echo of that
/// run: a `pct set` that fails closes the lock file it took, too.
const ECHO: Duration = Duration::from_secs(1);

/// The failures of every key that are not overcome yet.
#[derive(Debug, Default)]
pub(super) struct Retries {
    failures: BTreeMap<Key, u32>,
    /// When the last run over a key ended, where it failed.
    failed_at: BTreeMap<Key, Instant>,
}

impl Retries {
    /// Forgets every failure: another configuration is in force.
    pub(super) fn clear(&mut self) {
        self.failures.clear();
        self.failed_at.clear();
    }

    /// Returns how many keys failed and did not succeed since.
    pub(super) fn failing(&self) -> usize {
        self.failures.len()
    }

    /// Lets the delays of `key` start over.
    pub(super) fn start_over(&mut self, key: &Key) {
        self.failures.remove(key);
    }

    /// Returns whether what is heard of `key` now may be the echo of a run over it that failed.
    pub(super) fn is_echo(&self, key: &Key, is_running: bool) -> bool {
        let failed = self.failed_at.get(key);
        failed.is_some_and(|failed| is_running || failed.elapsed() < ECHO)
    }

    /// Decides when `key` is looked at again without an event; `None`: at the resync.
    pub(super) fn delay_after(
        &mut self,
        key: &Key,
        outcome: &mut Outcome,
        took: Duration,
        settings: &Settings,
    ) -> Option<Duration> {
        let backoff = Backoff { initial: settings.retry_initial, max: settings.retry_max };
        self.failed_at.remove(key);
        let pause = walks::pause(key, took, settings);
        match &outcome.verdict {
            Verdict::Converged => {
                self.failures.remove(key);
                None
            }
            Verdict::Conflict(why) => {
                let failures = self.fail(key);
                let Some(later) = failures.checked_sub(CONFLICTS).filter(|left| *left > 0) else {
                    return Some(Duration::ZERO);
                };
                // Whoever follows it is not to wait until somebody else stops writing.
                outcome.verdict = Verdict::Failed(why.clone());
                self.failed_at.insert(key.clone(), Instant::now());
                Some(backoff.delay(later, fastrand::u8(..)))
            }
            Verdict::Failed(_) => {
                let delay = backoff.delay(self.fail(key), fastrand::u8(..));
                self.failed_at.insert(key.clone(), Instant::now());
                Some(delay.max(pause))
            }
            Verdict::Held => {
                let holds = &outcome.view.holds;
                if holds.iter().any(Hold::is_busy) {
                    // Its end raises an event, which may come while this run is still at work.
                    let delay = backoff.delay(self.fail(key), fastrand::u8(..));
                    Some(delay.min(settings.poll_interval).max(pause))
                } else if holds.iter().any(|hold| hold.recheck() == Recheck::Backoff) {
                    Some(backoff.delay(self.fail(key), fastrand::u8(..)))
                } else {
                    self.failures.remove(key);
                    Some(settings.hold_interval.max(pause))
                }
            }
            // The volume's own run wakes it; this is for the case that nothing does.
            Verdict::Waiting => Some(settings.hold_interval),
            // The configuration changed, and with it what is to be done.
            Verdict::Cancelled => Some(Duration::ZERO),
        }
    }

    fn fail(&mut self, key: &Key) -> u32 {
        let failures = self.failures.entry(key.clone()).or_insert(0);
        *failures = failures.saturating_add(1);
        *failures
    }
}
