//! How long ago restarts were, whatever becomes of the clock.
//!
//! The ledger has the time of day of each. That is compared with the clock once, and from then on it
//! is measured: a clock that is set forward neither forgets a start that is owed nor shortens
//! `restart_limit`, and one that is set back keeps no container waiting for hours.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use pctd_core::ids::Ctid;
use pctd_core::ledger::LedgerEntry;

/// The restarts that the ledger knows of.
#[derive(Debug, Default)]
pub(super) struct Restarts(BTreeMap<Ctid, Known>);

#[derive(Debug)]
struct Known {
    /// The mark in the ledger, in seconds since 1970.
    at: u64,
    /// How long ago that was when it was first seen.
    ago: Duration,
    seen: Instant,
}

impl Restarts {
    /// Notes that a container is about to be restarted, and returns the mark for the ledger.
    pub(super) fn begin(&mut self, ctid: Ctid) -> LedgerEntry {
        let at = now().as_secs();
        self.0.insert(ctid, Known { at, ago: Duration::ZERO, seen: Instant::now() });
        LedgerEntry::Restarted { ctid, at }
    }

    /// Returns how long ago each restart in the ledger was. One of the future was just now, by a clock
    /// that has been set back since.
    pub(super) fn ago(&mut self, ledger: &BTreeMap<Ctid, u64>) -> BTreeMap<Ctid, Duration> {
        self.0.retain(|ctid, known| ledger.get(ctid) == Some(&known.at));
        let mut ago = BTreeMap::new();
        for (ctid, at) in ledger {
            let known = self.0.entry(*ctid).or_insert_with(|| Known {
                at: *at,
                ago: now().checked_sub(Duration::from_secs(*at)).unwrap_or_default(),
                seen: Instant::now(),
            });
            ago.insert(*ctid, known.ago + known.seen.elapsed());
        }
        ago
    }
}

fn now() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_of_the_future_was_just_now_and_is_of_the_past_in_a_while() {
        let (soon, long_ago) = (Ctid::new(100).unwrap(), Ctid::new(101).unwrap());
        let hour = Duration::from_hours(1);
        let at = now().as_secs();
        let ledger = BTreeMap::from([(soon, at + 3600), (long_ago, at - 3600)]);
        let mut restarts = Restarts::default();
        let first = restarts.ago(&ledger);
        assert!(first[&soon] < hour && first[&long_ago] >= hour, "{first:?}");
        let second = Duration::from_secs(1);
        let known = restarts.0.get_mut(&soon).unwrap();
        known.seen = known.seen.checked_sub(second).unwrap();
        assert!(restarts.ago(&ledger)[&soon] >= second);
    }

    #[test]
    fn a_restart_is_measured_from_its_begin_and_forgotten_with_its_mark() {
        let ctid = Ctid::new(100).unwrap();
        let mut restarts = Restarts::default();
        let LedgerEntry::Restarted { at, .. } = restarts.begin(ctid) else { panic!("no mark") };
        // The ledger could not be written, or knows of an older one.
        assert_eq!(restarts.ago(&BTreeMap::new()), BTreeMap::new());
        let older = restarts.ago(&BTreeMap::from([(ctid, at - 60)]));
        assert!(older[&ctid] >= Duration::from_mins(1), "{older:?}");
    }
}
