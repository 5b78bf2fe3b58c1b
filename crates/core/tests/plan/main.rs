//! The planner in tables: a world, and every step and hold that follows from it.

#![expect(clippy::unwrap_used, reason = "a test whose world cannot be made ends")]
#![expect(clippy::too_many_lines, reason = "a table is as long as its cases are many")]

mod cases;
mod cluster;
mod conversions;
mod definitions;
mod disk_ids;
mod doctor;
mod group;
mod laws;
mod lines;
mod world;

use std::collections::BTreeSet;

use pctd_core::ledger::{LedgerEntry, Memory};
use pctd_core::observed::{Audit, Requests};
use pctd_core::plan::{Hold, Notice, Step};

use pctd_core::ownership::Scope;
use world::{UNPRIVILEGED, World, lines, volume};

#[test]
fn every_case_gives_exactly_its_steps_and_holds() {
    let mut wrong = Vec::new();
    for case in cases::all() {
        let found = lines(&case.world.plans());
        if found != case.expected {
            wrong.push(format!("{}\n  is {found:#?}\n  not {:#?}", case.name, case.expected));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
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
fn entries_are_held_to_the_rule_as_they_change_where_all_were_in_place() {
    let world = || World::one_mount().here(100, UNPRIVILEGED);
    let standing =
        |world: &World| world.plans().volumes.remove(&volume("data")).unwrap().standing.is_some();
    let unread = || Some(Audit { entries: 2, errors: 1, ..Audit::default() });
    let cases = [
        ("in place", world(), true),
        ("never walked", world().audit("data", None), false),
        ("much is wrong at first", world().drift("data", 4), false),
        ("a little is wrong later", world().settle().drift("data", 4), true),
        // Nothing is asked about it, and nobody is kept from the rest for it.
        ("an entry that cannot be read", world().settle().audit("data", unread()), true),
        ("one of a volume that never was in place", world().audit("data", unread()), false),
    ];
    for (name, world, expected) in cases {
        assert_eq!(standing(&world), expected, "{name}");
    }
}

#[test]
fn nothing_is_held_to_a_rule_while_it_is_not_known_what_containers_own() {
    let world = World::new(
        r#"{"settings": {"seed_defaults": false}, "shared_volumes": {"data": {
            "host_path": "/tank/data", "owner": "100000:100000", "enforce": "adopt",
            "mounts": {"100": "/data"}}}}"#,
    );
    let standing = |world: &World| {
        let plan = world.plans().volumes.remove(&volume("data")).unwrap();
        (plan.rule.map(|rule| rule.scope == Scope::RootOnly), plan.standing.is_some())
    };
    assert_eq!(standing(&world.clone().here(100, UNPRIVILEGED)), (Some(false), true));
    assert_eq!(standing(&world.here(100, UNPRIVILEGED).flock(100)), (Some(true), false));
}

#[test]
fn what_was_set_once_and_taken_back_is_set_once_more_when_an_admin_asks_for_it() {
    let declared = World::new(
        r#"{"settings": {"seed_defaults": false}, "shared_volumes": {"data": {
            "host_path": "/tank/data", "owner": "container_root", "enforce": "once",
            "mounts": {"100": "/data"}}}}"#,
    );
    let scope = |world: &World| {
        let plan = world.plans().volumes.remove(&volume("data")).unwrap();
        plan.rule.map(|rule| rule.scope == Scope::All)
    };
    let done = declared.here(100, UNPRIVILEGED).settle();
    assert_eq!(scope(&done), Some(false));
    let undone = done.undone("data");
    assert_eq!(scope(&undone), None, "nothing is looked at");
    let asked = undone.confirmed("data");
    assert_eq!(scope(&asked), Some(true));
    let again = asked.settle().with(|world| world.snapshot.requests = Requests::default());
    assert_eq!(scope(&again), Some(false));
    assert!(again.snapshot.ledger.undone.is_empty());
}

#[test]
fn an_undo_that_came_to_nothing_leaves_the_ledger_as_it_was() {
    let name = volume("data");
    let never = World::new(
        r#"{"settings": {"seed_defaults": false}, "shared_volumes": {"data": {
            "host_path": "/tank/data", "owner": "container_root", "enforce": "once",
            "mounts": {"100": "/data"}}}}"#,
    );
    let done = never.clone().here(100, UNPRIVILEGED).settle();
    // One that took something back, and was declared otherwise then.
    let declared = "before".to_owned();
    let earlier = done.clone().entered(LedgerEntry::Undone { volume: name.clone(), declared });
    for world in [never, done.clone(), done.undone("data"), earlier] {
        let before = world.snapshot.ledger.clone();
        let as_before = pctd_core::plan::not_undone(&before, &name);
        let after = as_before.into_iter().fold(world.undone("data"), World::entered);
        assert_eq!(after.snapshot.ledger, before);
    }
}

#[test]
fn after_the_ledger_was_lost_once_is_adopt_until_an_admin_says_otherwise() {
    let declared = World::new(
        r#"{"settings": {"seed_defaults": false}, "shared_volumes": {"data": {
            "host_path": "/tank/data", "owner": "container_root", "enforce": "once",
            "mounts": {"100": "/data"}}}}"#,
    );
    let seen = |world: &World| {
        let plan = world.plans().volumes.remove(&volume("data")).unwrap();
        let all = plan.rule.unwrap().scope == Scope::All;
        (all, plan.notices.iter().map(Notice::reason).collect::<Vec<_>>())
    };
    let new = declared.here(100, UNPRIVILEGED);
    assert_eq!(seen(&new), (true, vec![]));
    let done = new.clone().settle();
    assert_eq!(seen(&done), (false, vec![]));
    // Nothing says whether it was done: what is not remembered may have been.
    let lost = done.forgot();
    assert_eq!(seen(&lost), (false, vec!["LedgerLost"]));
    // The doubt is remembered, also once the old file is put away.
    let again = lost.settle().with(|world| world.snapshot.memory = Memory::Whole);
    assert_eq!(seen(&again), (false, vec!["LedgerLost"]));
    let unwalked = again.clone().audit("data", None).plans();
    assert!(!unwalked.volumes[&volume("data")].needs_audit, "it is walked once, not at every look");
    let confirmed = again.confirmed("data");
    assert_eq!(seen(&confirmed), (true, vec![]));
    let done_again = confirmed.settle().with(|world| world.snapshot.requests = Requests::default());
    assert_eq!(seen(&done_again), (false, vec![]));
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
