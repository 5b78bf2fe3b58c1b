//! What is made of repeated measurements.
//!
//! Medians and percentiles only: a mean lets one disturbed round speak for all.

use std::io::{self, Write as _};

/// Returns the median; the mean of the middle two of an even number.
///
/// # Panics
///
/// There are no values.
pub fn median(values: &[f64]) -> f64 {
    let sorted = sorted(values);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 {
        sorted[middle]
    } else {
        f64::midpoint(sorted[middle - 1], sorted[middle])
    }
}

/// Returns the smallest value that at least `percent` of them do not exceed (nearest rank).
///
/// # Panics
///
/// There are no values.
pub fn percentile(values: &[f64], percent: usize) -> f64 {
    let sorted = sorted(values);
    let rank = (sorted.len() * percent.min(100)).div_ceil(100);
    sorted[rank.max(1) - 1]
}

/// Returns the smallest and the largest value.
///
/// # Panics
///
/// There are no values.
pub fn range(values: &[f64]) -> (f64, f64) {
    let sorted = sorted(values);
    (sorted[0], sorted[sorted.len() - 1])
}

fn sorted(values: &[f64]) -> Vec<f64> {
    assert!(!values.is_empty(), "nothing was measured");
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// Prints what a long test counted, for the table at the end of `.ci/run`, which adds it up.
pub fn counted(counts: &[(u64, &str)]) {
    // Past the harness, which shows what a test printed only when it fails.
    let mut out = io::stderr().lock();
    for (count, what) in counts {
        let _unwritable = writeln!(out, "counted: {count} {what}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_the_mean_of_the_middle_two() {
        for (values, expected) in
            [(&[3.0, 1.0, 2.0][..], 2.0), (&[4.0, 1.0, 2.0, 3.0], 2.5), (&[7.0], 7.0)]
        {
            assert!((median(values) - expected).abs() < f64::EPSILON, "{values:?}");
        }
    }

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let values: Vec<f64> = (1..=200).map(f64::from).collect();
        for (percent, expected) in [(0, 1.0), (1, 2.0), (50, 100.0), (99, 198.0), (100, 200.0)] {
            assert!((percentile(&values, percent) - expected).abs() < f64::EPSILON, "{percent}");
        }
        assert!((percentile(&[5.0], 99) - 5.0).abs() < f64::EPSILON);
    }
}
