//! The work queue: which key is looked at next, and when. Pure; time is passed in.
//!
//! A key is in it at most once, the earlier deadline wins, and a key that is being worked on is
//! never handed out again before it is done: what arrives meanwhile runs right after.

use std::collections::{BTreeMap, BTreeSet};

use pctd_core::ids::Key;
use tokio::time::Instant;

/// Keys waiting for their time, and keys being worked on.
#[derive(Debug, Default)]
pub(crate) struct WorkQueue {
    waiting: BTreeMap<Key, Instant>,
    running: BTreeSet<Key>,
}

impl WorkQueue {
    /// Asks for `key` to be looked at no later than `at`.
    pub(crate) fn add(&mut self, key: Key, at: Instant) {
        let due = self.waiting.entry(key).or_insert(at);
        *due = at.min(*due);
    }

    /// Takes a key whose time has come, that nobody works on and for which there is room; the
    /// longest due first.
    pub(crate) fn pop(&mut self, now: Instant, has_room: impl Fn(&Key) -> bool) -> Option<Key> {
        let due = self.ready().filter(|(key, at)| *at <= now && has_room(key));
        let ready = due.min_by_key(|(_, at)| *at);
        let key = ready.map(|(key, _)| key.clone())?;
        self.waiting.remove(&key);
        self.running.insert(key.clone());
        Some(key)
    }

    /// Says that work on `key` has ended.
    pub(crate) fn done(&mut self, key: &Key) {
        self.running.remove(key);
    }

    /// Forgets a key that is no longer wanted; work on it that is under way goes on.
    pub(crate) fn forget(&mut self, key: &Key) {
        self.waiting.remove(key);
    }

    /// Returns when `key` is looked at next.
    pub(crate) fn due(&self, key: &Key) -> Option<Instant> {
        self.waiting.get(key).copied()
    }

    /// Returns when the next key can be taken, if no work ends before.
    pub(crate) fn next_deadline(&self, has_room: impl Fn(&Key) -> bool) -> Option<Instant> {
        self.ready().filter(|(key, _)| has_room(key)).map(|(_, at)| at).min()
    }

    fn ready(&self) -> impl Iterator<Item = (&Key, Instant)> {
        self.waiting.iter().filter(|(key, _)| !self.running.contains(key)).map(|(k, at)| (k, *at))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn key(text: &str) -> Key {
        text.parse().unwrap()
    }

    fn any(_: &Key) -> bool {
        true
    }

    fn start() -> (WorkQueue, Instant) {
        (WorkQueue::default(), Instant::now())
    }

    #[test]
    fn the_earlier_deadline_wins() {
        let (mut queue, now) = start();
        queue.add(key("100"), now + Duration::from_secs(9));
        queue.add(key("100"), now);
        queue.add(key("100"), now + Duration::from_secs(5));
        assert_eq!(queue.pop(now, any), Some(key("100")));
        assert_eq!(queue.pop(now + Duration::from_secs(10), any), None);
    }

    #[test]
    fn a_key_is_never_handed_out_twice_at_once() {
        let (mut queue, now) = start();
        queue.add(key("100"), now);
        assert_eq!(queue.pop(now, any), Some(key("100")));
        queue.add(key("100"), now);
        assert_eq!(queue.pop(now, any), None);
        assert_eq!(queue.next_deadline(any), None);
        queue.done(&key("100"));
        assert_eq!(queue.pop(now, any), Some(key("100")));
    }

    #[test]
    fn a_key_without_room_neither_runs_nor_wakes_the_loop() {
        let (mut queue, now) = start();
        queue.add(key("data"), now);
        queue.add(key("100"), now + Duration::from_secs(1));
        let containers = |key: &Key| matches!(key, Key::Container(_));
        assert_eq!(queue.next_deadline(containers), Some(now + Duration::from_secs(1)));
        assert_eq!(queue.pop(now, containers), None);
    }

    #[test]
    fn the_longest_due_key_goes_first() {
        let (mut queue, now) = start();
        queue.add(key("data"), now + Duration::from_secs(1));
        queue.add(key("100"), now + Duration::from_secs(2));
        let late = now + Duration::from_secs(3);
        assert_eq!(queue.next_deadline(any), Some(now + Duration::from_secs(1)));
        assert_eq!(queue.pop(late, any), Some(key("data")));
        assert_eq!(queue.pop(late, any), Some(key("100")));
    }
}
