//! The planner in tables: a world, and every step and hold that follows from it.

#![expect(clippy::unwrap_used, reason = "a test whose world cannot be made ends")]
#![expect(clippy::too_many_lines, reason = "a table is as long as its cases are many")]

mod cases;
mod laws;
mod world;

use std::collections::BTreeSet;

use pctd_core::plan::{Hold, Step};

use world::lines;

#[test]
fn every_case_gives_exactly_its_steps_and_holds() {
    for case in cases::all() {
        assert_eq!(lines(&case.world.plans()), case.expected, "{}", case.name);
    }
}

#[test]
fn every_step_and_every_hold_occurs_in_a_case() {
    let mut steps = BTreeSet::new();
    let mut holds = BTreeSet::new();
    for case in cases::all() {
        let plans = case.world.plans();
        holds.extend(plans.node.iter().map(Hold::reason));
        for key in plans.keys() {
            steps.extend(plans.steps(&key).iter().map(Step::name));
            holds.extend(plans.holds(&key).iter().map(Hold::reason));
        }
    }
    assert_eq!(steps, Step::NAMES.iter().copied().collect());
    assert_eq!(holds, Hold::REASONS.iter().copied().collect());
}

#[test]
fn every_hold_says_something_that_ends_in_advice_or_a_fact() {
    for case in cases::all() {
        let plans = case.world.plans();
        for hold in plans.keys().flat_map(|key| plans.holds(&key)) {
            let text = hold.to_string();
            assert!(text.len() > 20 && !text.ends_with('.') && !text.contains("  "), "{text}");
        }
    }
}
