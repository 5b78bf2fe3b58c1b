//! Backoff: how long a key waits after a failure. The only place where that is decided.

use std::time::Duration;

/// The bounds of a delay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Backoff {
    /// The delay after the first failure.
    pub(crate) initial: Duration,
    /// No delay is longer.
    pub(crate) max: Duration,
}

impl Backoff {
    /// Returns the delay after `failures` failures in a row, at least one.
    ///
    /// Doubling, and spread over the upper half of the interval by `roll` (0 to 255) so that keys
    /// that failed together do not come back together. Never zero: a failing key must not spin.
    pub(crate) fn delay(&self, failures: u32, roll: u8) -> Duration {
        let doubled = self.initial.saturating_mul(1 << failures.saturating_sub(1).min(20));
        let full = doubled.clamp(Duration::from_millis(1), self.max.max(Duration::from_millis(1)));
        full / 2 + full * u32::from(roll) / (2 * u32::from(u8::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff =
        Backoff { initial: Duration::from_millis(500), max: Duration::from_mins(2) };

    #[test]
    fn delays_double_up_to_the_longest() {
        let delays: Vec<_> = (1..=10).map(|n| BACKOFF.delay(n, 255).as_millis()).collect();
        let expected = [500, 1000, 2000, 4000, 8000, 16_000, 32_000, 64_000, 120_000, 120_000];
        assert_eq!(delays, expected);
    }

    #[test]
    fn the_spread_is_half_of_the_delay_and_never_reaches_zero() {
        assert_eq!(BACKOFF.delay(1, 0), Duration::from_millis(250));
        assert_eq!(BACKOFF.delay(u32::MAX, 0), Duration::from_mins(1));
        let none = Backoff { initial: Duration::ZERO, max: Duration::ZERO };
        assert!(none.delay(1, 0) > Duration::ZERO);
    }
}
