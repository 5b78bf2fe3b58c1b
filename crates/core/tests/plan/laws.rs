//! Laws of the planner, for worlds nobody thought of.
//!
//! A law holds for every world that [`generate`] can make, with the daemon of [`model`] working
//! on it. `PROPTEST_CASES=10000 cargo test -p pctd-core --test plan laws` looks harder.

mod generate;
mod model;

use std::collections::BTreeSet;

use bstr::BString;
use pctd_core::conf::{
    Conf, IdLine, MountClass, MountEntry, MountIdMap, MountLine, RawLine, normalise_path,
};
use pctd_core::desired::{Desired, DiskIds, Enforce, Mechanism, Mount, MountIds, Volume};
use pctd_core::idmap::{IdKind, IdMap};
use pctd_core::ids::{Ctid, HostIds, Key, VolumeName};
use pctd_core::ledger::{Ledger, Memory};
use pctd_core::observed::{NodeState, Presence, Removal, Running};
use pctd_core::ownership::Place;
use pctd_core::plan::{Basis, ConvertContainer, ConvertPhase, Hold, Step, VolumePlan, plan};
use proptest::prelude::*;
use serde_json::Value;

use generate::{any_crash, any_scenario, desired_of};
use model::{Fuse, Guest, Node, Source, apply_pending, executable};

fn by_pct(mount: &Mount) -> bool {
    mount.mechanism == Mechanism::Pct
}

/// Whether a mount point is as a volume's mount is desired, by its meaning.
fn is_in_place(entry: &MountEntry, volume: &Volume, mount: &Mount) -> bool {
    let Ok(mp) = &entry.parsed else { return false };
    let option = |name: &str, value: &str| {
        let default = if name == "replicate" { "1" } else { "0" };
        let actual = mp.options.get(name).map(String::as_str);
        if name == "mountoptions" {
            let items = |list: &str| -> BTreeSet<String> {
                list.split(';').filter(|item| !item.is_empty()).map(str::to_owned).collect()
            };
            items(actual.unwrap_or_default()) == items(value)
        } else {
            actual.unwrap_or(default) == value
        }
    };
    mp.class == MountClass::Bind
        && normalise_path(&mp.volume) == volume.host_path.as_str()
        && normalise_path(&mp.target) == mount.target.as_str()
        && mount.options.iter().all(|(name, value)| option(name, value))
}

/// Checks for some ids of a container that they are on disk where the volume declares them, by
/// Proxmox's rule and not the planner's.
fn check_ids(volume: &Volume, mount: &Mount, map: Option<&MountIdMap>, own: &IdMap) {
    let at = |id: u32| match (&mount.idmap, &volume.disk_ids) {
        (Some(MountIds::Plain), _) => own.host_id(IdKind::User, id),
        (Some(MountIds::Disk(DiskIds::Passthrough)), _) | (None, Some(DiskIds::Passthrough)) => {
            Some(id)
        }
        (Some(MountIds::Disk(DiskIds::Ranges(space))), _)
        | (None, Some(DiskIds::Ranges(space))) => space.host_id(IdKind::User, id),
        _ => None,
    };
    let is_map = |id| match map {
        None => own.host_id(IdKind::User, id),
        Some(MountIdMap::Passthrough) => Some(id),
        Some(MountIdMap::Lines(lines)) => {
            let named = IdMap::new(lines.iter().map(IdLine::range).collect());
            named.host_id(IdKind::User, id).or_else(|| own.host_id(IdKind::User, id))
        }
    };
    for id in
        [0, 33, 1000, 65_535].into_iter().filter(|id| own.host_id(IdKind::User, *id).is_some())
    {
        if let Some(declared) = at(id) {
            assert_eq!(is_map(id), Some(declared), "{id} in {}", volume.name);
        }
    }
}

/// Everything in a conf that is nobody's business but its owner's: every property, raw line,
/// snapshot and pending change but the mount points that pctd may write.
#[derive(Debug, PartialEq, Eq)]
struct Frame {
    current: BTreeSet<String>,
    pending: BTreeSet<String>,
    rest: String,
}

impl Frame {
    fn of(
        node: &Node,
        ctid: Ctid,
        conf: &Conf,
        ours: &BTreeSet<String>,
        edited: &BTreeSet<RawLine>,
    ) -> Self {
        let lines = |section: &pctd_core::conf::Section| -> BTreeSet<String> {
            let foreign = section.properties().iter().filter(|(name, _)| !ours.contains(*name));
            foreign.map(|(name, value)| format!("{name}: {value}")).collect()
        };
        let (current, pending) = (&conf.current, &conf.pending);
        // What pctd wrote comes and goes; whether it may is for the model to judge.
        let is_own = |(key, value): &&(String, BString)| {
            let line = format!("{key}: {value}").parse::<RawLine>();
            line.is_ok_and(|line| edited.contains(&line))
        };
        let rest = format!(
            "{:?} {:?} {:?} {:?} {:?} {}",
            current.description(),
            current.env(),
            current.lxc().iter().filter(|line| !is_own(line)).collect::<Vec<_>>(),
            pending.deletes().keys().filter(|n| !ours.contains(&n.to_string())).collect::<Vec<_>>(),
            conf.snapshots,
            node.desired.mounts_of(ctid).count(),
        );
        Self { current: lines(current), pending: lines(&pending.section), rest }
    }
}

/// The keys that pctd may write: free ones, those that mount a desired source at its target, and
/// those at a desired target that stand as the ledger says pctd left them.
fn writable(node: &Node, ctid: Ctid, conf: &Conf) -> BTreeSet<String> {
    let mounts: Vec<(&Volume, &Mount)> =
        node.desired.mounts_of(ctid).filter(|(_, mount)| by_pct(mount)).collect();
    let written = node.ledger.mounts.get(&ctid);
    let desired = |entry: &MountEntry| {
        entry.parsed.as_ref().is_ok_and(|mp| {
            mounts.iter().any(|(volume, mount)| {
                mp.class == MountClass::Bind
                    && normalise_path(&mp.target) == mount.target.as_str()
                    && normalise_path(&mp.volume) == volume.host_path.as_str()
            })
        })
    };
    let at_target = |entry: &MountEntry| {
        entry.parsed.as_ref().is_ok_and(|mp| {
            mounts.iter().any(|(_, mount)| normalise_path(&mp.target) == mount.target.as_str())
        })
    };
    let taken_over = |entry: &MountEntry| {
        entry.parsed.as_ref().is_ok_and(|mp| {
            mp.class == MountClass::Bind
                && mounts.iter().any(|(_, mount)| {
                    mount.adopt && normalise_path(&mp.target) == mount.target.as_str()
                })
        })
    };
    // What is not declared and stands as pctd left it goes, with prune.
    let left_over = |key: &pctd_core::ids::MpKey, entry: &MountEntry| {
        let is_bind = entry.parsed.as_ref().is_ok_and(|mp| mp.class == MountClass::Bind);
        is_bind
            && node.desired.settings.prune
            && node.removal == Removal::Allowed
            && !at_target(entry)
            && node.ledger.is_own_mount(ctid, *key, &entry.raw)
    };
    pctd_core::ids::MpKey::all()
        .filter(|key| {
            let ours = |entry: &MountEntry| {
                let value = written.and_then(|written| written.get(key));
                value.is_some_and(|value| entry.raw == value.as_str())
            };
            let of_current = |m: &MountEntry| desired(m) || (at_target(m) && ours(m));
            (!conf.pending_delete(*key)
                || conf.pending_mounts().get(key).is_some_and(|entry| left_over(key, entry)))
                && match (conf.mounts().get(key), conf.pending_mounts().get(key)) {
                    // Whatever stands behind it would go when the container stops.
                    (_, Some(pending)) => ours(pending),
                    (Some(current), None) => {
                        of_current(current) || taken_over(current) || left_over(key, current)
                    }
                    (None, None) => true,
                }
        })
        .map(|key| key.to_string())
        .collect()
}

/// Returns whether a container stops in this step, which applies what is pending of it.
const fn stops(step: &Step) -> bool {
    matches!(
        step,
        Step::RebootContainer { .. }
            | Step::ConvertContainer(ConvertContainer { phase: ConvertPhase::Stop, .. })
    )
}

/// Checks that what was not pctd's is as it was; a restart applies what others left pending.
fn check_frames(before: &Node, after: &Node) {
    for (at, pair) in &before.pairs {
        let are_theirs = [&pair.0, &pair.1].into_iter().flatten().next().is_some();
        assert!(!are_theirs || after.pairs[at] == *pair, "{at:?} was somebody else's");
    }
    for (ctid, guest) in &before.guests {
        let (Guest::Here(was), Some(now)) = (guest, after.conf(*ctid)) else { continue };
        let mut ours = writable(before, *ctid, &was.conf);
        let mut was = was.conf.clone();
        let own = |key: &Key| *key == Key::Container(*ctid);
        let reboot = |(key, step): &(Key, Step)| own(key) && stops(step);
        let converted =
            |(key, step): &(Key, Step)| own(key) && matches!(step, Step::ConvertContainer(_));
        if after.taken.iter().any(converted) {
            ours.insert("unprivileged".to_owned());
        }
        let edits = after.taken.iter().filter_map(|(key, step)| match step {
            Step::EditConf(edit) if *key == Key::Container(*ctid) => Some(edit),
            _ => None,
        });
        let lines: BTreeSet<RawLine> =
            edits.flat_map(|edit| edit.add.iter().chain(&edit.remove)).cloned().collect();
        let frames = |was: &Conf, ours: &BTreeSet<String>| {
            let frame = |node, conf| Frame::of(node, *ctid, conf, ours, &lines);
            (frame(before, was), frame(after, now))
        };
        let (mut expected, mut found) = frames(&was, &ours);
        // Only a restart that was planned may apply anything, and only when it was carried out; what
        // is pending after that was written later.
        if after.taken.iter().any(reboot) && (now.pending.is_empty() || expected != found) {
            apply_pending(&mut was);
            // A key that somebody deleted is free from then on.
            ours.extend(writable(before, *ctid, &was));
            (expected, found) = frames(&was, &ours);
        }
        assert_eq!(expected, found, "{ctid}");
    }
}

/// Checks that a node at rest is as desired wherever nothing is held, without asking the planner.
fn check_in_place(node: &mut Node) {
    for key in node.keys() {
        let plans = node.look(&key, true);
        assert_eq!(executable(&node.desired, plans.steps(&key)), None, "{key} is not at rest");
        match &key {
            Key::Container(ctid) => {
                let (Some(Guest::Here(container)), Some(plan)) =
                    (node.guests.get(ctid), plans.containers.get(ctid))
                else {
                    continue;
                };
                let settled = plan.holds.iter().all(|hold| {
                    matches!(hold, Hold::UnprivilegedMismatch { .. } | Hold::IdmapNotReady { .. })
                });
                if !settled || !plan.waits_for.is_empty() || !plan.steps.is_empty() {
                    continue;
                }
                if !container.conf.has_rootfs()
                    || container.conf.lock().is_some_and(|l| l == "create")
                {
                    continue;
                }
                let mut conf = container.conf.clone();
                if container.running == Running::No {
                    // Proxmox does so before it starts it.
                    apply_pending(&mut conf);
                }
                if node.desired.settings.prune {
                    check_pruned(node, *ctid, &conf);
                }
                for (volume, mount) in node.desired.mounts_of(*ctid) {
                    if matches!(mount.mechanism, Mechanism::Lxc { .. }) {
                        let at =
                            |(line, _): &(MountLine, String)| line.target == mount.target.as_str();
                        let lines: Vec<_> = MountLine::of(&conf.current).filter(at).collect();
                        assert_eq!(lines.len(), 1, "{} in {ctid}", volume.name);
                        assert_eq!(lines[0].0.source, volume.host_path.as_str());
                        if let (Ok(own), true) = (conf.effective_idmap(), plan.holds.is_empty()) {
                            check_ids(volume, mount, lines[0].0.idmap().as_ref(), &own);
                        }
                        continue;
                    }
                    let found: Vec<_> =
                        conf.mounts().values().filter(|m| is_in_place(m, volume, mount)).collect();
                    assert_eq!(found.len(), 1, "{} in {ctid}", volume.name);
                    if let (Ok(mp), Ok(own), true) =
                        (&found[0].parsed, conf.effective_idmap(), plan.holds.is_empty())
                    {
                        check_ids(volume, mount, mp.idmap().as_ref(), &own);
                    }
                }
            }
            Key::Volume(name) => {
                let planned = &plans.volumes[name];
                check_pairs(node, name, planned);
                let (Some(rule), Basis::Walk) = (&planned.rule, planned.basis) else { continue };
                let Source::Directory { root, entries } = &node.sources[name] else {
                    panic!("{name} is owned and not there");
                };
                assert_eq!(rule.owner.unwrap_or(root.ids), root.ids, "{name}");
                for (file, entry) in entries.iter().filter(|_| rule.looks_below()) {
                    assert_eq!(
                        rule.decide(Place::Below(file.as_bytes()), entry),
                        None,
                        "{name}/{file}"
                    );
                }
            }
        }
    }
}

/// Checks that every declared certificate is there, if nothing stands against it.
fn check_pairs(node: &Node, name: &VolumeName, planned: &VolumePlan) {
    if !planned.holds.is_empty() || planned.rule.is_none() {
        return;
    }
    for certificate in &node.desired.volumes[name].certificates {
        let pair = node.pairs.get(&(name.clone(), certificate.domain.clone()));
        let whole = pair.is_some_and(|(key, crt)| key.is_some() && crt.is_some());
        assert!(whole, "{} in {name}: {pair:?}", certificate.domain);
    }
}

/// Checks that nothing which pctd added and nobody declares is left in a conf.
fn check_pruned(node: &Node, ctid: Ctid, conf: &Conf) {
    for (key, entry) in conf.mounts() {
        let Ok(mp) = &entry.parsed else { continue };
        let target = normalise_path(&mp.target);
        let mut mounts = node.desired.mounts_of(ctid).filter(|(_, mount)| by_pct(mount));
        let is_left = mp.class == MountClass::Bind
            && !mounts.any(|(_, mount)| target == mount.target.as_str())
            && !node.ledger.is_borrowed(ctid, *key)
            && node.ledger.is_own_mount(ctid, *key, &entry.raw);
        assert!(!is_left, "{key} of {ctid} is left: {}", entry.raw);
    }
}

/// Writes the members of every object in another order.
fn reversed(value: &Value) -> String {
    match value {
        Value::Object(members) => {
            let members = members.iter().rev();
            let members: Vec<String> = members
                .map(|(k, v)| format!("{}:{}", Value::from(k.as_str()), reversed(v)))
                .collect();
            format!("{{{}}}", members.join(","))
        }
        other => other.to_string(),
    }
}

fn look_twice(desired: &Desired, node: &Node) {
    let snapshot = node.snapshot(&node.keys());
    assert_eq!(plan(desired, &snapshot), plan(desired, &snapshot));
}

proptest! {
    #[test]
    fn taking_the_first_step_again_and_again_ends_in_place(scenario in any_scenario()) {
        let before = scenario.node();
        let mut node = before.clone();
        node.settle(&scenario.order);
        check_in_place(&mut node);
        check_frames(&before, &node);
    }

    #[test]
    fn a_node_at_rest_stays_at_rest(scenario in any_scenario()) {
        let mut node = scenario.node();
        look_twice(&node.desired, &node);
        node.settle(&scenario.order);
        let (ledger, taken) = (node.ledger.clone(), node.taken.len());
        node.settle(&scenario.order);
        prop_assert_eq!((&node.ledger, node.taken.len()), (&ledger, taken));
        look_twice(&node.desired, &node);
    }

    #[test]
    fn a_world_that_is_as_desired_gives_no_step(scenario in any_scenario(), forget in any::<bool>()) {
        let mut node = scenario.node();
        node.settle(&scenario.order);
        // What is in place needs no memory of how it came there; what is held may: whose a mount is
        // decides what waits for it.
        let keys = node.keys();
        let is_held = keys.iter().any(|key| !node.look(key, true).holds(key).is_empty());
        if forget && !is_held {
            node.ledger.mounts.clear();
            node.ledger.seen.clear();
        }
        for key in node.keys() {
            let plans = node.look(&key, true);
            prop_assert_eq!(executable(&node.desired, plans.steps(&key)), None);
        }
    }

    #[test]
    fn a_lost_ledger_makes_no_directory_and_sets_nothing_that_a_container_may_own(
        scenario in any_scenario(),
    ) {
        let mut before = scenario.node();
        // Once all of this was done; nothing of it is remembered.
        before.ledger = Ledger::default();
        before.memory = Memory::Lost("ledger.json: EOF while parsing".to_owned());
        let mut node = before.clone();
        node.settle(&scenario.order);
        check_in_place(&mut node);
        check_frames(&before, &node);
        for (key, step) in &node.taken {
            prop_assert!(!matches!(step, Step::CreateDirectory { .. }), "{} was made", key);
        }
        // A restart brings another map in force, and that is a new declaration; so does a conversion.
        let restarted = node
            .taken
            .iter()
            .any(|(_, step)| stops(step) || matches!(step, Step::ConvertContainer(_)));
        // What is mapped on the way to the disk is another's in other words.
        let is_mapped = |volume: &Volume| {
            let of_mount = |mount: &Mount| mount.idmap.is_some();
            let confs = volume.mounts.keys().filter_map(|ctid| before.conf(*ctid));
            volume.disk_ids.is_some()
                || volume.mounts.values().any(of_mount)
                || confs.flat_map(|conf| conf.mounts().values()).any(|m| m.raw.to_string().contains("idmap="))
        };
        let once = |volume: &&Volume| {
            volume.enforce == Enforce::Once && !restarted && !is_mapped(volume)
        };
        for volume in node.desired.volumes.values().filter(once) {
            let name = &volume.name;
            let (Source::Directory { entries: was, .. }, Source::Directory { entries: is, .. }) =
                (&before.sources[name], &node.sources[name])
            else {
                continue;
            };
            let maps = volume.mounts.keys().filter_map(|ctid| match &node.guests[ctid] {
                Guest::Here(container) => match &container.running {
                    Running::Yes { map: Some(map), .. } => Some(map.clone()),
                    _ => container.conf.effective_idmap().ok(),
                },
                Guest::Away(_) => None,
            });
            let maps: Vec<_> = maps.collect();
            let holds = |ids: HostIds| maps.iter().any(|map| map.can_own(ids));
            for (was, is) in was.iter().zip(is).filter(|((_, entry), _)| holds(entry.ids)) {
                prop_assert_eq!(was, is, "{}", name);
            }
        }
    }

    #[test]
    fn the_order_of_keys_in_the_configuration_is_irrelevant(scenario in any_scenario()) {
        let node = scenario.node();
        let other = desired_of(&reversed(&scenario.config));
        prop_assert_eq!(&other, &*node.desired);
        let snapshot = node.snapshot(&node.keys());
        prop_assert_eq!(plan(&other, &snapshot), plan(&node.desired, &snapshot));
    }

    #[test]
    fn nothing_is_done_on_a_node_that_is_unknown(scenario in any_scenario()) {
        let mut node = scenario.node();
        node.state = NodeState::Unknown("/etc/pve/.vmlist: no such file".to_owned());
        for key in node.keys() {
            let plans = node.look(&key, true);
            prop_assert_eq!(plans.steps(&key), []);
            let reasons: Vec<_> = plans.holds(&key).iter().map(Hold::reason).collect();
            prop_assert_eq!(reasons, ["NodeUnknown"]);
        }
    }

    #[test]
    fn nothing_is_done_to_a_container_that_is_not_surely_here(scenario in any_scenario()) {
        let mut node = scenario.node();
        for guest in node.guests.values_mut() {
            *guest = Guest::Away(Presence::Unknown("two reads disagree".to_owned()));
        }
        for ctid in node.desired.ctids() {
            let key = Key::Container(ctid);
            let plans = node.look(&key, true);
            prop_assert_eq!(plans.steps(&key), []);
        }
    }
}

/// Every case is as many as it has steps.
fn half_as_many_cases() -> ProptestConfig {
    let all = ProptestConfig::default();
    ProptestConfig { cases: all.cases.div_ceil(2), ..all }
}

proptest! {
    #![proptest_config(half_as_many_cases())]

    #[test]
    fn a_crash_at_any_step_changes_nothing_in_the_end(
        scenario in any_scenario(),
        crashes in prop::collection::vec(any_crash(), 16),
    ) {
        let before = scenario.node();
        let mut whole = before.clone();
        whole.settle(&scenario.order);
        for (step, crash) in (0..whole.taken.len()).zip(crashes.into_iter().cycle()) {
            let mut node = before.clone();
            node.settle_with(&scenario.order, Some(Fuse { step, crash }));
            check_frames(&before, &node);
            check_in_place(&mut node);
            prop_assert_eq!(node.mounts(), whole.mounts(), "{:?} at step {}", crash, step);
            // What ran before runs again.
            prop_assert_eq!(node.running(), before.running(), "{:?} at step {}", crash, step);
            prop_assert!(node.ledger.start_owed.is_empty() && node.ledger.converting.is_empty());
            prop_assert_eq!(node.privileges(), whole.privileges(), "{:?} at step {}", crash, step);
        }
    }
}
