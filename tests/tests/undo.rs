//! What pctd changed is taken back, and ids are shifted, whatever is killed on the way.

#![expect(clippy::unwrap_used, reason = "what fails in a helper ends the test")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use fastrand::Rng;
use pctd_tests::daemon::{Ran, eventually};
use pctd_tests::world::{Tmpfs, UNPRIVILEGED, World, holds, json_of, own};
use rustix::fs::chmod;

/// How often everything is killed somewhere; `PCTD_SEEDS` says otherwise.
const SEEDS: u64 = 50;
const DIRECTORIES: u32 = 40;
const FILES: u32 = 24;
/// Where ids are shifted from, and to.
const FROM: u32 = 200_000;
const TO: u32 = 100_000;
const IDS: u32 = 65_536;

/// Entries of everybody are to be 4242's.
const ALWAYS: &str =
    r#""owner": "4242:4242", "enforce": "always", "dir_mode": "2775", "file_mode": "0664""#;
const KEEP: &str = r#""owner": "keep""#;
const SETTINGS: &str = r#""confirm_above": 100000"#;

type Owners = BTreeMap<PathBuf, (u32, u32, u32)>;

struct House {
    world: World,
    tank: Tmpfs,
    entries: Vec<PathBuf>,
}

/// A node with a volume of a thousand entries.
fn house(fields: &str) -> Option<House> {
    let world = World::new(env!("CARGO_BIN_EXE_pctd-tests"))?;
    world.container(100, &[UNPRIVILEGED]);
    let tank = Tmpfs::mount(&world.dir("/tank", 0, 0o755))?;
    let root = world.dir("/tank/data", 0, 0o755);
    let mut entries = vec![root.clone()];
    for dir in 0..DIRECTORIES {
        // Three levels deep.
        let at = root.join(format!("{}/{}/{dir}", dir % 3, dir % 7));
        fs::create_dir_all(&at).unwrap();
        for file in 0..FILES {
            let path = at.join(file.to_string());
            match file {
                0 => symlink("/etc/shadow", &path).unwrap(),
                _ => fs::write(&path, "").unwrap(),
            }
            entries.push(path);
        }
        entries.push(at);
    }
    declare(&world, fields);
    Some(House { world, tank, entries })
}

fn declare(world: &World, fields: &str) {
    world.volumes(
        SETTINGS,
        &format!(
            r#""data": {{"host_path": "/tank/data", "mounts": {{"100": "/data"}}, {fields}}}"#
        ),
    );
}

impl House {
    /// Gives every entry to somebody, with some mode.
    fn shuffle(&self, rng: &mut Rng, id: impl Fn(&mut Rng) -> u32) {
        for path in &self.entries {
            own(path, id(rng), id(rng));
            if !path.is_symlink() {
                // Setuid and setgid now and then.
                let special = [0, 0, 0, 0o2000, 0o4000, 0o6000][rng.usize(..6)];
                chmod(path, (rng.u32(..0o1000) | special).into()).unwrap();
            }
        }
    }

    fn owners(&self) -> Owners {
        let look = |path: &PathBuf| {
            let stat = fs::symlink_metadata(path).unwrap();
            (path.clone(), (stat.uid(), stat.gid(), stat.mode() & 0o7777))
        };
        self.entries.iter().map(look).collect()
    }

    /// Runs a command that is killed at random a few times, and then to its end.
    fn killed(&self, rng: &mut Rng, arguments: &[&str], took: &mut Took, check: impl Fn()) -> Ran {
        for _ in 0..rng.usize(1..3) {
            // What it does is in the later half of its time, after it has looked at everything.
            let after = took.time.mul_f64(0.3 + rng.f64() * 0.8);
            let before = self.owners();
            let ran = self.world.pctd.run_and_kill(arguments, after);
            check();
            if ran.code != -1 {
                return ran;
            }
            // The root comes last.
            let (root, now) = (&self.entries[0], self.owners());
            took.half_way += u64::from(now != before && now[root] == before[root]);
        }
        let begun = Instant::now();
        let ran = self.world.pctd.run(arguments);
        // Slower under the load of other tests: then the kills come later, too.
        took.time = (took.time + begun.elapsed()) / 2;
        ran
    }
}

/// How long a command takes, and how often it was killed half way.
struct Took {
    time: Duration,
    half_way: u64,
}

impl Default for Took {
    fn default() -> Self {
        Self { time: Duration::from_millis(40), half_way: 0 }
    }
}

fn seeds() -> impl Iterator<Item = u64> {
    let number = |name: &str| Some(std::env::var(name).ok()?.parse::<u64>().unwrap());
    match number("PCTD_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("PCTD_SEEDS").unwrap_or(SEEDS),
    }
}

fn difference(now: &Owners, then: &Owners) -> Vec<String> {
    let each = then.iter().filter(|(path, was)| now[*path] != **was);
    each.map(|(path, was)| format!("{}: {was:?} became {:?}", path.display(), now[path])).collect()
}

#[test]
fn whenever_it_is_killed_the_undo_restores_everything() {
    let Some(house) = house(ALWAYS) else { return };
    let (mut applying, mut undoing) = (Took::default(), Took::default());
    for seed in seeds() {
        let mut rng = Rng::with_seed(seed);
        house.shuffle(&mut rng, |rng| rng.u32(..300_000));
        let before = house.owners();
        let ran = house.killed(&mut rng, &["apply", "data"], &mut applying, || {});
        assert_eq!(ran.code, 0, "seed {seed}: {ran:?}");
        let right = |(path, is): (&PathBuf, &(u32, u32, u32))| {
            let mode = if path.is_symlink() {
                0o777
            } else if path.is_dir() {
                0o2775
            } else {
                0o664
            };
            *is == (4242, 4242, mode)
        };
        assert!(house.owners().iter().all(right), "seed {seed}");
        let undo = ["undo", "data", "--setuid", "--output-format", "json"];
        let ran = house.killed(&mut rng, &undo, &mut undoing, || {});
        let gone = ran.stderr.contains("nothing that pctd changed");
        assert!(ran.code == 0 || gone, "seed {seed}: {ran:?}");
        let wrong = difference(&house.owners(), &before);
        assert!(wrong.is_empty(), "seed {seed}: {} entries, {:#?}", wrong.len(), &wrong[..1]);
    }
    let halves = [applying.half_way, undoing.half_way];
    println!("killed half way: {halves:?} of {}", seeds().count());
    assert!(seeds().count() < 20 || halves.iter().all(|count| *count >= 3), "{halves:?}");
}

#[test]
fn whenever_a_shift_is_killed_no_entry_has_a_wrong_id() {
    let Some(house) = house(KEEP) else { return };
    let (mut shifting, mut undoing) = (Took::default(), Took::default());
    let shifted = |id: u32| if (FROM..FROM + IDS).contains(&id) { id - FROM + TO } else { id };
    for seed in seeds() {
        let mut rng = Rng::with_seed(seed);
        // Of the range, and of some others that stay.
        house.shuffle(&mut rng, |rng| match rng.u32(..4) {
            0 => rng.u32(..1000),
            _ => FROM + rng.u32(..IDS),
        });
        let before = house.owners();
        let is_either = || {
            for (path, (uid, gid, _)) in house.owners() {
                let old = before[&path];
                let is = |now, old| now == old || now == shifted(old);
                assert!(is(uid, old.0) && is(gid, old.1), "seed {seed}: {}", path.display());
            }
        };
        let arguments = ["shift", "data", "--from", "200000", "--to", "100000"];
        let ran = house.killed(&mut rng, &arguments, &mut shifting, is_either);
        assert_eq!(ran.code, 0, "seed {seed}: {ran:?}");
        for (path, (uid, gid, mode)) in house.owners() {
            let old = before[&path];
            assert_eq!((uid, gid), (shifted(old.0), shifted(old.1)), "{}", path.display());
            // Setuid and setgid may have gone, and nothing else.
            assert_eq!(mode & 0o1777, old.2 & 0o1777, "{}", path.display());
        }
        let undo = ["undo", "data", "--setuid"];
        let ran = house.killed(&mut rng, &undo, &mut undoing, is_either);
        let gone = ran.stderr.contains("nothing that pctd changed");
        assert!(ran.code == 0 || gone, "seed {seed}: {ran:?}");
        let wrong = difference(&house.owners(), &before);
        assert!(wrong.is_empty(), "seed {seed}: {} entries, {:#?}", wrong.len(), &wrong[..1]);
    }
    let halves = [shifting.half_way, undoing.half_way];
    println!("killed half way: {halves:?} of {}", seeds().count());
    assert!(seeds().count() < 20 || halves.iter().all(|count| *count >= 3), "{halves:?}");
}

#[test]
fn the_daemon_does_not_do_it_again_until_it_is_told_to() {
    let Some(house) = house(ALWAYS) else { return };
    let world = &house.world;
    house.shuffle(&mut Rng::with_seed(7), |rng| rng.u32(..1000));
    let before = house.owners();
    let daemon = world.pctd.start();
    daemon.until_all("Converged");
    // What the watch puts right is on record as well.
    let drifted = world.host("/tank/data/drifted");
    fs::rename(world.file("/tank/drifted", 33, 0o600), &drifted).unwrap();
    eventually("drift is put right", || world.owner("/tank/data/drifted") == "4242:4242 0664");
    let list = world.pctd.json(&["undo", "data", "--list"]);
    let by: Vec<_> = list["passes"].as_array().unwrap().iter().map(|pass| &pass["by"]).collect();
    assert_eq!(by, ["walk", "drift"], "{list:#}");
    // One that is refused holds nothing up.
    let refused = world.pctd.run(&["undo", "data", "--back-to", "1"]);
    assert!(refused.code == 1 && refused.stderr.contains("no pass 1 of data"), "{refused:?}");
    daemon.until_all("Converged");
    let dry = world.pctd.json(&["undo", "data", "--dry-run", "--setuid"]);
    let report = world.pctd.json(&["undo", "data", "--setuid"]);
    assert_eq!(report["undone"]["restored"], dry["undone"]["restored"], "{report:#}");
    assert_eq!(report["undone"]["done"], true, "{report:#}");
    assert_eq!(difference(&house.owners(), &before), Vec::<String>::new());
    assert_eq!(world.owner("/tank/data/drifted"), "33:33 0600");
    let is_held = |status: &serde_json::Value| holds(status, "volumes", "data") == ["Undone"];
    daemon.until("it is held", is_held);
    // Neither what happens in it nor a restart brings it back.
    own(&drifted, 34, 34);
    daemon.stop();
    let daemon = world.pctd.start();
    daemon.until("it is held again", is_held);
    own(&drifted, 35, 35);
    assert_eq!(difference(&house.owners(), &before), Vec::<String>::new());
    let (code, plan) = world.plan();
    assert_eq!((code, holds(&plan, "volumes", "data")), (3, vec!["Undone".to_owned()]));
    // An admin does.
    world.apply(&["data"], 0);
    assert_eq!(world.owner("/tank/data/drifted"), "4242:4242 0664");
    daemon.until_all("Converged");
    // Or another declaration.
    world.pctd.json(&["undo", "data"]);
    assert_eq!(world.owner("/tank/data/drifted"), "35:35 0600");
    declare(world, &ALWAYS.replace("0664", "0660"));
    eventually("what is declared now", || world.owner("/tank/data/drifted") == "4242:4242 0660");
    daemon.until_all("Converged");
}

#[test]
fn an_undo_that_fails_before_it_took_anything_back_holds_nothing_up() {
    let Some(house) = house(ALWAYS) else { return };
    let world = &house.world;
    house.shuffle(&mut Rng::with_seed(11), |rng| rng.u32(..1000));
    let daemon = world.pctd.start();
    daemon.until_all("Converged");
    let done = house.owners();
    let goes_on = |after: &str| {
        daemon.until_all("Converged");
        own(&house.entries[2], 33, 33);
        eventually(after, || house.owners() == done);
    };
    // Something that pctd remembers of the volume cannot be removed.
    let in_the_way = world.host("/var/lib/pctd/walks/audit/data");
    fs::create_dir_all(&in_the_way).unwrap();
    let failed = world.pctd.run(&["undo", "data", "--setuid"]);
    assert!(failed.code == 1 && failed.stderr.contains("cannot walk"), "{failed:?}");
    goes_on("drift is put right after an undo that failed");
    fs::remove_dir(&in_the_way).unwrap();
    // Nothing can be written there.
    house.tank.set_read_only(true);
    let failed = world.pctd.run(&["undo", "data", "--setuid"]);
    assert!(failed.code == 1 && failed.stdout.contains("Read-only"), "{failed:?}");
    house.tank.set_read_only(false);
    goes_on("drift is put right after an undo of what was read-only");
    // What one did take back stays so, whatever becomes of the next.
    let partly = world.pctd.json(&["undo", "data"]);
    assert_eq!(partly["undone"]["done"], false, "{partly:#}");
    let before = house.owners();
    fs::create_dir(&in_the_way).unwrap();
    let failed = world.pctd.run(&["undo", "data", "--setuid"]);
    assert!(failed.code == 1 && failed.stderr.contains("cannot walk"), "{failed:?}");
    daemon.until("it is held", |status| holds(status, "volumes", "data") == ["Undone"]);
    assert_eq!(house.owners(), before);
}

#[test]
fn what_cannot_be_recorded_is_not_changed_unless_nothing_is_to_be() {
    let Some(world) = World::new(env!("CARGO_BIN_EXE_pctd-tests")) else { return };
    world.container(100, &[UNPRIVILEGED]);
    world.dir("/tank/data", 0, 0o755);
    world.file("/tank/data/file", 0, 0o600);
    declare(&world, ALWAYS);
    let before = world.owners("/tank/data");
    fs::create_dir_all(world.host("/var/lib/pctd")).unwrap();
    fs::write(world.host("/var/lib/pctd/undo"), "in the way").unwrap();
    let report = world.apply(&["data"], 3);
    assert_eq!(holds(&report, "volumes", "data"), ["UndoUnavailable"], "{report:#}");
    assert_eq!(world.owners("/tank/data"), before);
    // The daemon tries again, and goes on by itself once it can.
    let daemon = world.pctd.start();
    let is_held =
        |status: &serde_json::Value| holds(status, "volumes", "data") == ["UndoUnavailable"];
    daemon.until("it is held", is_held);
    assert_eq!(world.owners("/tank/data"), before);
    fs::remove_file(world.host("/var/lib/pctd/undo")).unwrap();
    daemon.until_all("Converged");
    assert_eq!(world.owner("/tank/data/file"), "4242:4242 0664");
    daemon.stop();
    world.pctd.json(&["undo", "data"]);
    assert_eq!(world.owners("/tank/data"), before);
    // What is on record of a volume stays when it is declared no more, and is named.
    world.apply(&["data"], 0);
    let listed = |undeclared: Option<bool>| {
        let all = world.pctd.json(&["undo", "--list"]);
        let all = all.as_array().unwrap();
        assert_eq!(all.len(), 1, "{all:?}");
        assert_eq!(
            (&all[0]["volume"], all[0]["passes"].as_array().unwrap().len()),
            (&"data".into(), 1)
        );
        assert_eq!(all[0]["undeclared"].as_bool(), undeclared, "{all:?}");
    };
    listed(None);
    world.volumes(SETTINGS, "");
    world.apply(&[], 0);
    listed(Some(true));
    declare(&world, ALWAYS);
    world.pctd.json(&["undo", "data"]);
    assert_eq!(world.owners("/tank/data"), before);
    assert_eq!(world.pctd.json(&["undo", "--list"]), serde_json::json!([]));
    // Whoever says that nothing is to be recorded gets nothing back.
    fs::remove_dir_all(world.host("/var/lib/pctd/undo")).unwrap();
    let off = format!(r#"{SETTINGS}, "undo_mb": 0"#);
    let volume =
        format!(r#""data": {{"host_path": "/tank/data", "mounts": {{"100": "/data"}}, {ALWAYS}}}"#);
    world.volumes(&off, &volume);
    world.apply(&["data"], 0);
    assert_eq!(world.owner("/tank/data/file"), "4242:4242 0664");
    assert!(!world.host("/var/lib/pctd/undo").exists());
    let nothing = world.pctd.run(&["undo", "data"]);
    assert!(nothing.code == 1 && nothing.stderr.contains("on record"), "{nothing:?}");
}

#[test]
fn a_shift_keeps_apart_who_owns_what_and_is_refused_where_it_would_not_last() {
    let Some(world) = World::new(env!("CARGO_BIN_EXE_pctd-tests")) else { return };
    world.running(100, &[UNPRIVILEGED]);
    world.dir("/tank/data", FROM, 0o755);
    world.dir("/tank/data/db", FROM + 999, 0o700);
    world.file("/tank/data/db/table", FROM + 999, 0o600);
    world.file("/tank/data/host", 0, 0o644);
    declare(&world, KEEP);
    let before = world.owners("/tank/data");
    let daemon = world.pctd.start();
    daemon.until_all("Converged");
    let shift = |more: &[&str]| {
        let arguments = ["shift", "data", "--from", "200000", "--to", "100000"];
        world.pctd.run(&[&arguments, more].concat())
    };
    let dry = shift(&["--dry-run", "--output-format", "json"]);
    assert_eq!((dry.code, json_of(&dry)["to_shift"].as_u64()), (3, Some(3)), "{dry:?}");
    let text = shift(&["--dry-run"]).stdout;
    assert!(text.contains("200999:200999 -> 100999:100999  db/table"), "{text}");
    // A container that works on it would be left half way.
    let refused = shift(&[]);
    assert!(refused.code == 1 && refused.stderr.contains("`pct stop 100`"), "{refused:?}");
    let overlap = world.pctd.run(&["shift", "data", "--from", "0", "--to", "100"]);
    assert!(overlap.code == 1 && overlap.stderr.contains("overlap"), "{overlap:?}");
    assert_eq!(world.owners("/tank/data"), before);
    world.pct(&["stop", "100"]);
    let done = shift(&[]);
    assert_eq!(done.code, 0, "{done:?}");
    let is = |path: &str| world.owner(&format!("/tank/data/{path}"));
    assert_eq!(
        (is(""), is("db/table")),
        ("100000:100000 0755".into(), "100999:100999 0600".into())
    );
    assert_eq!(is("host"), "0:0 0644");
    // It is what it is to be now, in the eyes of the container's own map.
    declare(&world, r#""owner": "container_root", "enforce": "adopt""#);
    eventually("what no container owns is its root's", || is("host") == "100000:100000 0644");
    assert_eq!(is("db/table"), "100999:100999 0600");
    daemon.until_all("Converged");
    // Back again is not what is declared.
    let arguments = ["shift", "data", "--from", "100000", "--to", "200000"];
    let refused = world.pctd.run(&arguments);
    assert!(
        refused.code == 1 && refused.stderr.contains("another owner is declared"),
        "{refused:?}"
    );
    // The shift is not the last pass any more.
    let list = world.pctd.json(&["undo", "data", "--list"]);
    let pass = list["passes"][0]["pass"].to_string();
    assert_eq!(list["passes"][0]["by"], "shift", "{list:#}");
    world.pctd.json(&["undo", "data", "--back-to", &pass]);
    assert_eq!(world.owners("/tank/data"), before);
}
