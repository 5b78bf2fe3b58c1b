//! How much happened, in all and of late.

use std::time::{Duration, Instant};

const WINDOW: Duration = Duration::from_mins(1);

/// A count, and an estimate of how much of it fell into the last minute.
#[derive(Debug, Default)]
pub(super) struct Rate {
    total: u64,
    before: u64,
    current: u64,
    since: Option<Instant>,
}

impl Rate {
    /// Counts.
    pub(super) fn add(&mut self, count: u64, now: Instant) {
        self.turn(now);
        self.total += count;
        self.current += count;
    }

    /// Returns everything counted.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// Returns about how much was counted in the last minute.
    pub(super) fn per_minute(&self, now: Instant) -> u64 {
        let Some(since) = self.since else { return 0 };
        let age = now.saturating_duration_since(since);
        if age >= WINDOW * 2 {
            return 0;
        }
        let share = |count: u64, age: Duration| {
            let left = WINDOW.saturating_sub(age).as_millis();
            let part = u128::from(count) * left / WINDOW.as_millis();
            u64::try_from(part).unwrap_or(u64::MAX)
        };
        match age.checked_sub(WINDOW) {
            // The minute before counts with the part of it that is less than a minute ago.
            None => self.current + share(self.before, age),
            Some(older) => share(self.current, older),
        }
    }

    fn turn(&mut self, now: Instant) {
        let since = *self.since.get_or_insert(now);
        let age = now.saturating_duration_since(since);
        if age < WINDOW {
            return;
        }
        self.before = if age < WINDOW * 2 { self.current } else { 0 };
        self.current = 0;
        self.since = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_older_than_a_minute_fades() {
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        let mut rate = Rate::default();
        assert_eq!(rate.per_minute(start), 0);
        rate.add(60, at(0));
        assert_eq!(rate.per_minute(at(30)), 60);
        assert_eq!(rate.per_minute(at(90)), 30);
        rate.add(6, at(60));
        assert_eq!(rate.per_minute(at(75)), 6 + 45);
        assert_eq!(rate.per_minute(at(300)), 0);
        rate.add(1, at(300));
        assert_eq!((rate.per_minute(at(301)), rate.total()), (1, 67));
    }
}
