//! The laws on everything that was recorded, and on what a fuzzer found before.

use std::collections::BTreeMap;

use pctd_fuzz::seeds::{TARGETS, all};

#[test]
fn every_law_holds_for_what_is_known() {
    let mut tried: BTreeMap<&str, usize> = BTreeMap::new();
    for seed in all().unwrap() {
        let (name, law) = TARGETS.iter().find(|(name, _)| *name == seed.target).unwrap();
        println!("{name}: {}", seed.name);
        law(&seed.bytes);
        // A reader is most easily surprised by an end.
        for end in (0..seed.bytes.len()).rev().take(8) {
            law(&seed.bytes[..end]);
        }
        *tried.entry(name).or_default() += 1;
    }
    assert!(TARGETS.iter().all(|(name, _)| tried.contains_key(name)), "{tried:?}");
}
