//! What a pass changed is taken back: exactly, entry by entry, and nothing that others changed since.

use std::collections::BTreeMap;
use std::fs;
use std::num::NonZeroUsize;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use pctd_core::desired::Volume;
use pctd_core::ids::HostIds;
use pctd_core::ownership::OwnershipRule;
use pctd_core::undo::{PassKind, Privileges, Tally};
use pctd_node::undo::{Pass, passes};
use pctd_node::{
    FdBudget, Node, NodeOptions, NodePaths, Progress, Recorder, UndoError, UndoRequest, Undone,
    Walk, WalkMode, WalkReport, source,
};
use rustix::fs::{CWD, FileType, FlockOperation, Mode, RenameFlags, flock, mknodat, renameat_with};

use crate::support::adversary::{Adversary, Victim};
use crate::support::{
    Mounted, OWNER, Tree, all_below, ctime, ids, mode, rule, set_ids, set_mode, walk_volume,
};

const ROOM: u64 = 64 << 20;
const OTHER: HostIds = HostIds::new(33, 34);

static NEVER: AtomicBool = AtomicBool::new(false);

/// A tree of everything there is, of several owners.
fn tree() -> Tree {
    let tree = Tree::new();
    for dir in 0..12 {
        for file in 0..20 {
            tree.file(&format!("{dir}/sub/{file}"));
        }
        set_ids(tree.at(&format!("{dir}/sub/3")), HostIds::new(dir, 1000 + dir));
        set_mode(tree.at(&format!("{dir}/sub/4")), 0o600 + dir);
        set_mode(tree.at(&format!("{dir}/sub")), 0o700);
        set_ids(tree.at(&format!("{dir}")), HostIds::new(dir, 7));
    }
    let odd = tree.file("odd/\u{e4} \n x");
    set_ids(odd, OTHER);
    fs::hard_link(tree.at("3/sub/3"), tree.at("twice")).unwrap();
    symlink("/etc/passwd", tree.at("link")).unwrap();
    set_ids(tree.at("link"), OTHER);
    mknodat(CWD, tree.at("fifo"), FileType::Fifo, Mode::from_raw_mode(0o640), 0).unwrap();
    set_mode(tree.file("setuid"), 0o4755);
    set_mode(tree.file("setgid"), 0o2755);
    fs::create_dir(tree.at("setgid-dir")).unwrap();
    set_mode(tree.at("setgid-dir"), 0o2770);
    set_mode(tree.at(""), 0o751);
    tree
}

/// Owner and mode of everything, by path.
fn look(tree: &Tree) -> BTreeMap<PathBuf, (HostIds, u32)> {
    all_below(&tree.at("")).into_iter().map(|at| (at.clone(), (ids(&at), mode(&at)))).collect()
}

fn recorder(tree: &Tree, kind: PassKind, rule: &OwnershipRule, room: u64) -> Recorder {
    let (_, open) = source::open(&tree.paths, &tree.volume);
    let what = (kind, format!("{rule:?}"));
    Recorder::new(&tree.paths, &tree.volume.name, &open.unwrap(), what, room).unwrap()
}

/// Repairs on the record.
fn repair(tree: &Tree, rule: &OwnershipRule) -> WalkReport {
    repair_until(tree, rule, u64::MAX, 1)
}

/// As [`repair`], interrupted after so many entries.
fn repair_until(tree: &Tree, rule: &OwnershipRule, end: u64, threads: usize) -> WalkReport {
    let record = recorder(tree, PassKind::Walk, rule, ROOM);
    let cancel = AtomicBool::new(false);
    let progress = |now: Progress| {
        cancel.fetch_or(now.entries >= end, Ordering::Relaxed);
    };
    let report = tree.walk_with(Walk {
        record: Some(&record),
        cancel: &cancel,
        progress: &progress,
        threads: NonZeroUsize::new(threads),
        ..Walk::new(WalkMode::Repair, rule)
    });
    if report.came_to_its_end() {
        record.end();
    }
    report
}

fn request() -> UndoRequest<'static> {
    UndoRequest {
        back_to: None,
        privileges: Privileges::GivenBack,
        dry_run: false,
        cancel: &NEVER,
        progress: &|_| {},
    }
}

fn undo_with(tree: &Tree, request: UndoRequest<'_>) -> Result<Undone, UndoError> {
    let node = Node::open(tree.paths.clone(), NodeOptions::default());
    node.undo(&tree.volume, request).unwrap()
}

fn undo(tree: &Tree) -> Tally {
    let undone = undo_with(tree, request()).unwrap();
    assert!(undone.is_done, "{undone:?}");
    undone.tally
}

fn kept(tree: &Tree) -> Vec<Pass> {
    passes(&tree.paths, &tree.volume.name).unwrap()
}

/// Repairs a volume of any file system on the record, and takes it back.
pub(crate) fn is_taken_back(paths: &NodePaths, volume: &Volume, at: &Path) {
    let look = || -> Vec<_> { all_below(at).iter().map(|at| (ids(at), mode(at))).collect() };
    let before = look();
    let rule = OwnershipRule { owner: Some(OTHER), ..rule("0700", "0600") };
    let (_, open) = source::open(paths, volume);
    let what = (PassKind::Walk, format!("{rule:?}"));
    let record = Recorder::new(paths, &volume.name, &open.unwrap(), what, ROOM).unwrap();
    let walk = Walk { record: Some(&record), ..Walk::new(WalkMode::Repair, &rule) };
    let repaired = walk_volume(paths, volume, walk);
    record.end();
    assert!(repaired.is_complete() && look() != before, "{repaired:?}");
    let node = Node::open(paths.clone(), NodeOptions::default());
    let tally = node.undo(volume, request()).unwrap().unwrap().tally;
    assert_eq!((tally.restored, tally.errors), (repaired.changed, 0), "{tally:?}");
    assert_eq!(look(), before);
}

#[test]
fn everything_gets_its_owner_and_mode_back() {
    for threads in [1, 4] {
        let tree = tree();
        let before = look(&tree);
        let report = repair_until(&tree, &rule("2770", "0660"), u64::MAX, threads);
        assert!(report.is_complete() && report.changed > 250, "{report:?}");
        let [pass] = &kept(&tree)[..] else { panic!() };
        assert_eq!(
            (pass.kind, pass.is_whole, pass.entries),
            (PassKind::Walk, true, report.changed)
        );
        let tally = undo(&tree);
        assert_eq!(look(&tree), before);
        let expected =
            Tally { entries: report.changed, restored: report.changed, ..Tally::default() };
        assert_eq!(tally, expected);
        assert!(matches!(undo_with(&tree, request()), Err(UndoError::Nothing)));
    }
}

#[test]
fn the_record_is_for_root_alone_and_there_only_if_something_changed() {
    let tree = tree();
    let records = tree.outside("var/lib/pctd/undo");
    repair(&tree, &rule("0755", "0644"));
    let dir = records.join("test");
    let file = all_below(&dir).pop().unwrap();
    assert_eq!((mode(&records), mode(&dir), mode(&file)), (0o700, 0o700, 0o600));
    let stamp = ctime(&dir);
    assert_eq!(repair(&tree, &rule("0755", "0644")).changed, 0);
    assert_eq!((ctime(&dir), kept(&tree).len()), (stamp, 1));
}

#[test]
fn setuid_is_withheld_until_it_is_asked_for() {
    let tree = tree();
    let before = look(&tree);
    repair(&tree, &rule("0755", "0644"));
    let careful = UndoRequest { privileges: Privileges::Withheld, ..request() };
    let undone = undo_with(&tree, careful).unwrap();
    assert_eq!((undone.tally.withheld, undone.is_done), (2, false));
    let is = |name: &str| (ids(tree.at(name)), mode(tree.at(name)));
    assert_eq!((is("setuid"), is("setgid")), ((HostIds::ROOT, 0o755), (HostIds::ROOT, 0o755)));
    assert_eq!(is("setgid-dir").1, 0o2770);
    assert_eq!(undo(&tree).restored, 2);
    assert_eq!(look(&tree), before);
}

#[test]
fn a_dry_run_counts_the_same_and_changes_nothing() {
    let tree = tree();
    repair(&tree, &rule("0755", "0644"));
    let stamps = || -> Vec<_> { all_below(&tree.at("")).iter().map(ctime).collect() };
    let before = stamps();
    let dry = undo_with(&tree, UndoRequest { dry_run: true, ..request() }).unwrap();
    assert_eq!((stamps(), dry.is_done), (before, false));
    assert_eq!(undo(&tree), dry.tally);
}

#[test]
fn what_others_changed_since_is_theirs() {
    let tree = tree();
    let before = look(&tree);
    repair(&tree, &rule("0755", "0644"));
    set_ids(tree.at("1/sub/1"), OTHER);
    set_mode(tree.at("1/sub/2"), 0o400);
    fs::remove_file(tree.at("1/sub/5")).unwrap();
    // The same name, owner and mode, and perhaps the same inode number.
    fs::remove_file(tree.at("1/sub/6")).unwrap();
    set_mode(tree.file("1/sub/6"), 0o644);
    set_ids(tree.at("1/sub/6"), OWNER);
    // Under another name in its directory, nobody looks for it.
    fs::rename(tree.at("1/sub/7"), tree.at("1/sub/seven")).unwrap();
    // A directory is found wherever it is in the volume, and nowhere else.
    fs::rename(tree.at("2/sub"), tree.at("odd/moved")).unwrap();
    fs::rename(tree.at("4"), tree.outside("moved-out")).unwrap();
    let out = look_at(&tree.outside("moved-out"));
    let tally = undo(&tree);
    assert_eq!(tally.changed_since, 2);
    assert_eq!(look_at(&tree.outside("moved-out")), out);
    // In "4": itself, "sub" and its 20 files.
    assert_eq!(tally.gone, 3 + 22);
    let is = |name: &str| (ids(tree.at(name)), mode(tree.at(name)));
    assert_eq!(is("1/sub/1"), (OTHER, 0o644));
    assert_eq!(is("1/sub/2"), (OWNER, 0o400));
    assert_eq!(is("1/sub/6"), (OWNER, 0o644));
    assert_eq!(is("1/sub/seven").0, OWNER);
    for n in 0..20 {
        assert_eq!(is(&format!("odd/moved/{n}")), before[&tree.at(&format!("2/sub/{n}"))]);
    }
}

fn look_at(dir: &Path) -> Vec<(HostIds, u32, (i64, i64))> {
    all_below(dir).iter().map(|at| (ids(at), mode(at), ctime(at))).collect()
}

#[test]
fn a_pass_that_was_interrupted_is_one_with_the_one_that_goes_on() {
    let rule = rule("0755", "0644");
    for end in [1, 30, 100, 200, 250] {
        let tree = tree();
        let before = look(&tree);
        assert!(repair_until(&tree, &rule, end, 1).cancelled);
        assert!(repair_until(&tree, &rule, end + 20, 1).cancelled);
        assert!(kept(&tree).iter().all(|pass| !pass.is_whole));
        assert!(repair(&tree, &rule).is_complete());
        let [pass] = &kept(&tree)[..] else { panic!("{:?}", kept(&tree)) };
        assert!(pass.is_whole);
        undo(&tree);
        assert_eq!(look(&tree), before, "{end}");
    }
}

#[test]
fn a_pass_that_rests_keeps_nothing_open_and_goes_on_or_begins_anew_where_its_record_went() {
    let tree = tree();
    let mut before = look(&tree);
    let rule = rule("0755", "0644");
    let record = recorder(&tree, PassKind::Drift, &rule, ROOM);
    let put_right = || {
        let walk = Walk { record: Some(&record), ..Walk::new(WalkMode::Repair, &rule) };
        assert!(tree.walk_with(walk).is_complete());
    };
    let dir = tree.paths.state_dir().join("undo");
    let is_open = || {
        let fds = fs::read_dir("/proc/self/fd").unwrap();
        fds.flatten().filter_map(|fd| fs::read_link(fd.path()).ok()).any(|at| at.starts_with(&dir))
    };
    put_right();
    assert!(is_open());
    record.rest();
    assert!(!is_open());
    let again = tree.at("0/sub/0");
    set_mode(&again, 0o700);
    put_right();
    record.rest();
    assert_eq!(kept(&tree).len(), 1, "it is still one pass");
    undo(&tree);
    before.insert(again, (OWNER, 0o700)).unwrap();
    assert_eq!(look(&tree), before);
    assert_eq!(kept(&tree), []);
    put_right();
    assert_eq!(kept(&tree).len(), 1, "the undo took the other one");
}

#[test]
fn an_undo_that_was_interrupted_anywhere_is_gone_on_with() {
    let rule = rule("0755", "0644");
    for end in [0, 10, 100, 200, 280] {
        let tree = tree();
        let before = look(&tree);
        repair(&tree, &rule);
        let cancel = AtomicBool::new(false);
        let count = AtomicU64::new(0);
        let progress = |now: Progress| {
            count.store(now.entries, Ordering::Relaxed);
            cancel.fetch_or(now.entries >= end, Ordering::Relaxed);
        };
        let (cancel, progress) = (&cancel, &progress);
        let half = undo_with(&tree, UndoRequest { cancel, progress, ..request() }).unwrap();
        if half.cancelled {
            assert!(!half.is_done && mode(tree.at("")) == 0o755, "the root comes last");
            let tally = undo(&tree);
            assert_eq!(tally.in_place, half.tally.restored);
            assert_eq!(tally.in_place + tally.restored, tally.entries);
        }
        assert_eq!(look(&tree), before, "{end}");
    }
}

#[test]
fn several_passes_are_taken_back_one_by_one_or_all_at_once() {
    let tree = tree();
    let first = look(&tree);
    repair(&tree, &rule("0755", "0644"));
    let second = look(&tree);
    let other = OwnershipRule { owner: Some(OTHER), ..rule("0700", "0600") };
    repair(&tree, &other);
    let third = look(&tree);
    repair(&tree, &rule("0750", "0640"));
    undo(&tree);
    assert_eq!(look(&tree), third);
    repair(&tree, &rule("0750", "0640"));
    let all = kept(&tree);
    let undone =
        undo_with(&tree, UndoRequest { back_to: Some(all[1].begun), ..request() }).unwrap();
    assert_eq!(undone.passes.len(), 2);
    assert_eq!(look(&tree), second);
    undo(&tree);
    assert_eq!(look(&tree), first);
    let none = undo_with(&tree, UndoRequest { back_to: Some(1), ..request() });
    assert!(matches!(none, Err(UndoError::NoSuchPass(1))), "{none:?}");
}

/// As a kill leaves it: what is not whole was not changed either.
#[test]
fn a_record_that_was_cut_off_is_good_up_to_there() {
    let tree = tree();
    let before = look(&tree);
    repair_until(&tree, &rule("0755", "0644"), 150, 1);
    let file = all_below(&tree.outside("var/lib/pctd/undo/test")).pop().unwrap();
    let whole = fs::read(&file).unwrap();
    // A record that was being written, before what it speaks of was changed.
    fs::write(&file, [&whole, &whole[..whole.len() / 2]].concat()).unwrap();
    let torn = kept(&tree)[0].entries;
    fs::write(&file, [&whole, &[60, 0, 0, 0, 1, 2, 3][..]].concat()).unwrap();
    assert!(torn > 0 && kept(&tree)[0].entries > 0);
    assert!(repair(&tree, &rule("0755", "0644")).is_complete());
    assert_eq!(kept(&tree).len(), 1);
    undo(&tree);
    assert_eq!(look(&tree), before);
}

#[test]
fn what_cannot_be_recorded_is_not_changed() {
    let tree = tree();
    let before = look_at(&tree.at(""));
    let rule = rule("0755", "0644");
    fs::create_dir_all(tree.outside("var/lib/pctd")).unwrap();
    let records = tree.outside("var/lib/pctd/undo");
    fs::write(&records, "in the way").unwrap();
    let blocked = repair(&tree, &rule);
    assert!(blocked.unrecorded.is_some() && !blocked.is_complete(), "{blocked:?}");
    assert_eq!((blocked.changed, look_at(&tree.at(""))), (0, before.clone()));
    fs::remove_file(&records).unwrap();
    let record = recorder(&tree, PassKind::Walk, &rule, 300);
    let walk = Walk { record: Some(&record), ..Walk::new(WalkMode::Repair, &rule) };
    let full = tree.walk_with(walk);
    let why = full.unrecorded.unwrap();
    assert!(why.contains("`undo_mb`"), "{why}");
    drop(record);
    undo(&tree);
    assert_eq!(look_at(&tree.at("")).len(), before.len());
    let (now, then) = (look_at(&tree.at("")), before);
    assert!(now.iter().zip(then).all(|(now, then)| (now.0, now.1) == (then.0, then.1)));
}

#[test]
fn a_directory_that_cannot_be_recorded_is_not_changed_either() {
    let tree = Tree::new();
    tree.file("dir/file");
    let rule = rule("0755", "0644");
    assert!(tree.walk_with(Walk::new(WalkMode::Repair, &rule)).is_complete());
    fs::create_dir_all(tree.outside("var/lib/pctd")).unwrap();
    fs::write(tree.outside("var/lib/pctd/undo"), "in the way").unwrap();
    for dir in ["dir", ""] {
        // Nothing else differs, so nothing before it ended the walk.
        set_mode(tree.at(dir), 0o700);
        let blocked = repair(&tree, &rule);
        assert!(blocked.unrecorded.is_some(), "{dir}: {blocked:?}");
        assert_eq!((blocked.changed, mode(tree.at(dir))), (0, 0o700), "{dir}");
        set_mode(tree.at(dir), 0o755);
    }
}

#[test]
fn a_record_on_a_disk_that_is_full_ends_the_pass_and_is_whole_up_to_there() {
    let tree = tree();
    fs::create_dir_all(tree.outside("var/lib/pctd")).unwrap();
    let state = tree.outside("var/lib/pctd");
    let small = Mounted::mount("tmpfs", "size=4k", Path::new("tmpfs"), &state);
    let Some(_small) = small else { return };
    let before = look(&tree);
    let full = repair(&tree, &rule("0755", "0644"));
    let why = full.unrecorded.as_ref().unwrap();
    assert!(why.contains("No space left"), "{why}");
    assert!(full.changed > 0 && full.changed < full.audit.entries, "{full:?}");
    assert_eq!(mode(tree.at("")), 0o751, "the root comes last");
    undo(&tree);
    assert_eq!(look(&tree), before);
}

#[test]
fn the_oldest_pass_makes_room() {
    let tree = tree();
    let rules = [rule("0755", "0644"), rule("0750", "0640"), rule("0700", "0600")];
    let mut room = 0;
    let mut seen = Vec::new();
    for rule in rules.iter().cycle().take(6) {
        let limit = if room == 0 { ROOM } else { room };
        let record = recorder(&tree, PassKind::Walk, rule, limit);
        let walk = Walk { record: Some(&record), ..Walk::new(WalkMode::Repair, rule) };
        assert!(tree.walk_with(walk).is_complete());
        record.end();
        let kept = kept(&tree);
        seen.push(kept.len());
        // For two of them and a half.
        room = kept[0].bytes * 5 / 2;
        assert!(limit == ROOM || kept.iter().map(|pass| pass.bytes).sum::<u64>() <= limit);
    }
    assert_eq!(seen, [1, 2, 2, 2, 2, 2]);
}

#[test]
fn another_directory_under_the_path_is_not_touched() {
    let tree = tree();
    repair(&tree, &rule("0755", "0644"));
    fs::rename(tree.at(""), tree.outside("old")).unwrap();
    fs::create_dir(tree.at("")).unwrap();
    let undone = undo_with(&tree, request());
    assert!(matches!(undone, Err(UndoError::Elsewhere(_))), "{undone:?}");
}

/// Whoever asked for it is told apart what changed nothing and what did.
#[test]
fn an_undo_that_breaks_off_fails_where_it_changed_nothing_and_counts_where_it_did() {
    let tree = tree();
    let before = look(&tree);
    repair(&tree, &rule("0755", "0644"));
    let never = UndoRequest { cancel: &AtomicBool::new(true), ..request() };
    let cancelled = undo_with(&tree, never).unwrap();
    assert!(cancelled.cancelled && !cancelled.changed, "{cancelled:?}");
    // As if somebody wrote to the record: it cannot be removed.
    let records = tree.paths.state_dir().join(format!("undo/{}", tree.volume.name));
    let record = fs::read_dir(records).unwrap().next().unwrap().unwrap().path();
    let record = fs::File::open(record).unwrap();
    flock(&record, FlockOperation::LockExclusive).unwrap();
    let broken_off = undo_with(&tree, request()).unwrap();
    assert!(broken_off.changed && !broken_off.is_done, "{broken_off:?}");
    let Tally { errors: 1, first_errors, .. } = &broken_off.tally else { panic!("{broken_off:?}") };
    assert!(first_errors[0].starts_with("it was broken off: "), "{broken_off:?}");
    assert_eq!(look(&tree), before);
    let again = undo_with(&tree, request());
    assert!(matches!(again, Err(UndoError::Io { .. })), "{again:?}");
    drop(record);
    undo(&tree);
    assert_eq!(look(&tree), before);
}

#[test]
fn few_fds_do_for_a_walk_on_the_record() {
    let tree = tree();
    let before = look(&tree);
    let rule = rule("0755", "0644");
    let record = recorder(&tree, PassKind::Walk, &rule, ROOM);
    let walk =
        Walk { record: Some(&record), fds: FdBudget::new(2), ..Walk::new(WalkMode::Repair, &rule) };
    assert!(tree.walk_with(walk).is_complete());
    record.end();
    undo(&tree);
    assert_eq!(look(&tree), before);
}

/// Without file handles directories are found by their paths.
#[test]
fn a_file_system_without_handles_will_do() {
    let tree = Tree::new();
    let dir = |name: &str| {
        fs::create_dir(tree.outside(name)).unwrap();
        tree.outside(name).display().to_string()
    };
    // Of a file system in memory: overlayfs takes no overlayfs above.
    let Some(_memory) = Mounted::tmpfs(Path::new(&dir("memory"))) else { return };
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        dir("memory/l"),
        dir("memory/u"),
        dir("memory/w")
    );
    let overlay = Mounted::mount("overlay", &options, Path::new("overlay"), &tree.at(""));
    let Some(_overlay) = overlay else { return };
    for name in ["a/b/c/1", "a/b/c/2", "a/\u{1}/3", "4"] {
        set_ids(tree.file(name), OTHER);
    }
    let before = look(&tree);
    assert_eq!(repair(&tree, &rule("0755", "0640")).changed, 9);
    fs::rename(tree.at("a/b/c"), tree.at("moved")).unwrap();
    let tally = undo_with(&tree, request()).unwrap().tally;
    assert_eq!((tally.restored, tally.gone), (6, 3));
    fs::rename(tree.at("moved"), tree.at("a/b/c")).unwrap();
    let after = look(&tree);
    let changed = before.iter().filter(|(at, was)| after[*at] != **was).count();
    assert_eq!(changed, 3);
}

/// Whoever exchanges entries while they are taken back gets nothing outside changed.
#[test]
fn swaps_during_an_undo_change_nothing_outside() {
    let tree = Tree::in_memory();
    let victim = Victim::make(tree.dir.path());
    fs::create_dir(tree.at("sub")).unwrap();
    for n in 0..20 {
        tree.file(&format!("sub/filler-{n}"));
    }
    let adversary = Adversary::against(&victim, &tree.at("sub"));
    // Directories that change places as well, so that handles lead elsewhere.
    for name in ["x", "y"] {
        tree.file(&format!("{name}/deep/file"));
    }
    let (x, y) = (tree.at("x/deep"), tree.at("y"));
    let moving = Adversary::doing(move || {
        u64::from(renameat_with(CWD, &x, CWD, y.join("deep"), RenameFlags::EXCHANGE).is_ok())
    });
    let rules = [rule("0775", "0664"), rule("0700", "0600")];
    let begun = std::time::Instant::now();
    let (mut restored, mut rounds) = (0, 0);
    while begun.elapsed() < Duration::from_secs(3) || adversary.swaps() < 20_000 {
        for rule in &rules {
            repair(&tree, rule);
            assert_eq!(victim.harm(), None, "round {rounds}: the repair");
            if let Ok(undone) = undo_with(&tree, request()) {
                restored += undone.tally.restored;
            }
            assert_eq!(victim.harm(), None, "round {rounds}: the undo");
        }
        rounds += 1;
    }
    println!("{rounds} rounds, {} swaps, {restored} entries restored", adversary.swaps());
    assert!(restored > 100 && moving.swaps() > 100);
    drop((adversary, moving));
    assert_eq!(fs::metadata(victim.file()).unwrap().uid(), 0);
}

/// Of an entry that was changed twice, the newer record finds it as it was before both.
#[test]
fn what_an_interrupted_undo_had_taken_back_through_several_records_is_nobodys_change() {
    let tree = Tree::new();
    let path = tree.file("f");
    let other = OwnershipRule { owner: Some(OTHER), ..rule("0700", "0600") };
    for rule in [&rule("0755", "0644"), &other] {
        repair(&tree, rule);
    }
    // As if the undo of both had been killed when it was through with this one.
    set_ids(&path, HostIds::ROOT);
    set_mode(&path, 0o644);
    let first = kept(&tree)[0].begun;
    let undone = undo_with(&tree, UndoRequest { back_to: Some(first), ..request() }).unwrap();
    assert_eq!((undone.tally.changed_since, undone.is_done), (0, true), "{undone:?}");
    assert_eq!((ids(&path), mode(&path)), (HostIds::ROOT, 0o644));
}
