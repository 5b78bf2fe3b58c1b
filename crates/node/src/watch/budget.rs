//! How much processor time the repairs of one volume may take.
//!
//! Whoever can write to a volume can make work for pctd. A bucket per volume fills with a share of
//! one core and is emptied by what its repairs and its events cost; while it is empty the volume
//! waits, the others do not.

use std::time::{Duration, Instant};

/// How much may be saved up: a burst of this length is put right without a pause.
const BURST: Duration = Duration::from_secs(1);
/// The least that must be there to go on, so that a volume does not wake the thread for one entry.
const ENOUGH: Duration = Duration::from_millis(5);

/// A bucket of processor time. Pure: the time is given.
#[derive(Debug)]
pub(super) struct Budget {
    percent: u32,
    /// What is left; what was overspent is owed.
    left: i128,
    filled: Instant,
}

impl Budget {
    /// Returns a full bucket that fills with `percent` of one core.
    pub(super) fn new(percent: u32, now: Instant) -> Self {
        Self { percent: percent.max(1), left: nanos(BURST), filled: now }
    }

    /// Takes another share; what is left stays.
    pub(super) fn set_percent(&mut self, percent: u32, now: Instant) {
        self.fill(now);
        self.percent = percent.max(1);
    }

    /// Takes out what was spent.
    pub(super) fn spend(&mut self, time: Duration, now: Instant) {
        // First what came until now, or what overflowed the bucket meanwhile would pay for it.
        self.fill(now);
        self.left -= nanos(time);
    }

    /// Returns how long to wait until there is enough to go on; zero: now.
    pub(super) fn wait(&mut self, now: Instant) -> Duration {
        self.fill(now);
        if self.left > 0 {
            return Duration::ZERO;
        }
        let missing = nanos(ENOUGH) - self.left;
        let wait = missing * 100 / i128::from(self.percent);
        Duration::from_nanos(u64::try_from(wait).unwrap_or(u64::MAX))
    }

    fn fill(&mut self, now: Instant) {
        let passed = nanos(now.saturating_duration_since(self.filled));
        let share = passed * i128::from(self.percent) / 100;
        if share > 0 {
            self.left = (self.left + share).min(nanos(BURST));
            self.filled = now;
        }
    }
}

fn nanos(time: Duration) -> i128 {
    i128::try_from(time.as_nanos()).unwrap_or(i128::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn over_any_stretch_no_more_is_spent_than_the_burst_and_the_share() {
        let start = Instant::now();
        let mut budget = Budget::new(10, start);
        let (mut spent, mut now) = (Duration::ZERO, start);
        let slice = Duration::from_millis(3);
        while now < start + Duration::from_secs(100) {
            let wait = budget.wait(now);
            if wait.is_zero() {
                budget.spend(slice, now);
                spent += slice;
                now += slice;
            } else {
                now += wait;
            }
        }
        let share = Duration::from_secs(10);
        assert!(spent > share && spent <= share + BURST + slice, "{spent:?}");
    }

    #[test]
    fn what_is_saved_up_has_a_limit() {
        let start = Instant::now();
        let mut budget = Budget::new(50, start);
        let late = start + Duration::from_hours(9);
        assert_eq!(budget.wait(late), Duration::ZERO);
        budget.spend(BURST, late);
        // Empty, so it waits until there is enough for a slice.
        assert_eq!(budget.wait(late), ENOUGH * 2);
        assert_eq!(budget.wait(late + ENOUGH * 2), Duration::ZERO);
    }

    #[test]
    fn what_is_saved_up_has_a_limit_though_nobody_asked_for_it() {
        let start = Instant::now();
        let mut budget = Budget::new(50, start);
        let late = start + Duration::from_hours(9);
        budget.spend(BURST, late);
        assert_eq!(budget.wait(late), ENOUGH * 2);
    }

    #[test]
    fn another_share_counts_from_now_on() {
        let start = Instant::now();
        let mut budget = Budget::new(1, start);
        budget.spend(BURST, start);
        assert_eq!(budget.wait(start), ENOUGH * 100);
        budget.set_percent(100, start);
        assert_eq!(budget.wait(start), ENOUGH);
    }
}
