//! The watch on real file systems. Changes are made by other processes: its own are no drift.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use pctd_core::desired::Volume;
use pctd_core::ids::HostIds;
use pctd_core::observed::{Drift, Watch};
use pctd_core::ownership::OwnershipRule;
use pctd_core::undo::{PassKind, Privileges};
use pctd_node::undo::passes;
use pctd_node::watch::Standing;
use pctd_node::{News, Node, NodeOptions, NodePaths, UndoRequest, Watcher};
use rustix::mount::{UnmountFlags, unmount};

use crate::support::{Mounted, OWNER, Tree, ctime, ids, marks_of, mode, rule, set_ids, set_mode};

/// Long enough for a machine that does other things as well.
const PATIENCE: Duration = Duration::from_secs(10);
/// Long enough for what must not happen to happen.
const QUIET: Duration = Duration::from_millis(300);

/// A watched volume.
struct Watching {
    tree: Tree,
    watcher: Watcher,
    news: Receiver<News>,
    mounted: Option<Mounted>,
}

impl Watching {
    /// A volume on a file system of its own, or `None` where nothing can be mounted.
    fn new(rule: OwnershipRule) -> Option<Self> {
        let tree = Tree::new();
        let mounted = Mounted::tmpfs(&tree.at(""))?;
        Some(Self::on(tree, Some(mounted), rule))
    }

    /// A volume that is one directory of a larger file system.
    fn part_of_more(rule: OwnershipRule) -> Option<Self> {
        let Tree { dir, volume, .. } = Tree::new();
        let mounted = Mounted::tmpfs(dir.path())?;
        // The root that was opened before is under the mount now.
        let paths = NodePaths::new(Some(dir.path().into())).unwrap();
        let tree = Tree { dir, paths, volume };
        fs::create_dir(tree.at("")).unwrap();
        Some(Self::on(tree, Some(mounted), rule))
    }

    fn on(tree: Tree, mounted: Option<Mounted>, rule: OwnershipRule) -> Self {
        let (sender, news) = channel();
        let watcher = Watcher::start(tree.paths.clone(), move |news| {
            let _test_ended = sender.send(news);
        })
        .unwrap();
        tree.repair(&rule);
        watcher.begin_walk(&tree.volume, &rule);
        watcher.hold(&tree.volume, standing(Some(rule)));
        Self { tree, watcher, news, mounted }
    }

    fn drift(&self) -> Drift {
        match self.watcher.state(&self.tree.volume.name) {
            Watch::Events(drift) => drift,
            Watch::Walks(why) => panic!("not watched: {why}"),
        }
    }

    /// Waits until the watch has something to say of a doubt.
    fn doubt(&self) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.news.recv_timeout(deadline - Instant::now()).unwrap() {
                News::Doubt { why, .. } => return why,
                News::Repaired { .. } => {}
            }
        }
    }
}

fn standing(rule: Option<OwnershipRule>) -> Standing {
    Standing { rule, cpu_percent: 100, confirm_above: 10, undo_limit: 0 }
}

/// Somebody else changes something.
fn sh(dir: &Path, script: &str) {
    let status = Command::new("sh").arg("-euc").arg(script).current_dir(dir).status().unwrap();
    assert!(status.success(), "{script}");
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn is(path: &Path, wanted_mode: u32) -> bool {
    path.symlink_metadata().is_ok() && (ids(path), mode(path)) == (OWNER, wanted_mode)
}

#[test]
fn whatever_is_made_or_changed_is_put_right() {
    let Some(watching) = Watching::new(rule("0755", "0640")) else { return };
    let at = |path| watching.tree.at(path);
    let victim = watching.tree.outside("victim");
    fs::write(&victim, "").unwrap();
    set_mode(&victim, 0o600);
    sh(&at(""), "mkdir -p a/b; echo x > a/b/f; ln -s ../../victim a/l; mkfifo a/p; chmod 777 .");
    for (path, mode) in
        [("a", 0o755), ("a/b", 0o755), ("a/b/f", 0o640), ("a/l", 0o777), ("", 0o755)]
    {
        eventually(path, || is(&at(path), mode));
    }
    eventually("a fifo has an owner only", || ids(at("a/p")) == OWNER);
    sh(&at(""), "chown 0:0 a/b/f; chmod 4777 a/b/f; chown 7:7 a/b; chmod 0 a");
    for (path, mode) in [("a/b/f", 0o640), ("a/b", 0o755), ("a", 0o755)] {
        eventually(path, || is(&at(path), mode));
    }
    // By name alone: the entry itself did not change.
    sh(&at(""), "mv a/b/f a/g; mv a/b .");
    eventually("moved", || is(&at("a/g"), 0o640) && is(&at("b"), 0o755));
    assert_eq!((ids(&victim), mode(&victim)), (HostIds::ROOT, 0o600));
    let Drift { repaired, doubt, .. } = watching.drift();
    assert!(repaired >= 9, "{repaired}");
    assert_eq!(doubt, None);
}

#[test]
fn what_is_right_or_its_own_doing_is_left_alone() {
    let Some(watching) = Watching::new(rule("0755", "0640")) else { return };
    let file = watching.tree.at("f");
    sh(&watching.tree.at(""), "echo x > f");
    eventually("put right", || is(&file, 0o640));
    let (before, events) = (ctime(&file), watching.drift().events);
    // This process stands for the daemon: what it does itself is no drift.
    set_ids(&file, HostIds::ROOT);
    sh(&watching.tree.at(""), "echo more >> f; cat f > /dev/null");
    std::thread::sleep(QUIET);
    assert_eq!(ids(&file), HostIds::ROOT);
    assert_eq!(watching.drift().events, events);
    assert!(ctime(&file) > before);
}

#[test]
fn without_a_rule_events_are_kept_until_there_is_one() {
    let Some(watching) = Watching::new(rule("0755", "0640")) else { return };
    let file = watching.tree.at("f");
    watching.watcher.hold(&watching.tree.volume, standing(None));
    sh(&watching.tree.at(""), "echo x > f");
    eventually("kept", || watching.drift().waiting == 1);
    assert_eq!(ids(&file), HostIds::ROOT);
    watching.watcher.hold(&watching.tree.volume, standing(Some(rule("0755", "0600"))));
    eventually("put right", || is(&file, 0o600));
}

#[test]
fn a_tree_that_was_moved_in_is_looked_at_whole_or_left_to_a_walk() {
    let Some(watching) = Watching::part_of_more(rule("0755", "0640")) else { return };
    let top = watching.tree.outside("");
    sh(&top, "mkdir -p vol/a/b other/c small/d; echo x > vol/a/b/f; echo x > small/d/f");
    sh(&top, "for n in 1 2 3 4 5 6 7 8 9 10 11 12; do echo x > other/c/$n; done");
    eventually("put right", || is(&watching.tree.at("a/b/f"), 0o640));
    sh(&top, "mv vol/a/b vol/b; mkdir empty; mv empty vol");
    eventually("put right", || is(&watching.tree.at("empty"), 0o755));
    assert_eq!(watching.drift().doubt, None);
    assert_eq!(ids(watching.tree.outside("small/d/f")), HostIds::ROOT);
    sh(&top, "mv small vol");
    eventually("a small tree", || is(&watching.tree.at("small/d/f"), 0o640));
    assert_eq!(watching.drift().doubt, None);
    // More changes than may be made without a question.
    sh(&top, "mv other vol");
    assert_eq!(watching.doubt(), "a large directory was moved in");
    watching.watcher.begin_walk(&watching.tree.volume, &rule("0755", "0640"));
    assert_eq!(watching.drift().doubt, None);
}

#[test]
fn a_directory_that_came_in_by_detours_is_looked_at_all_the_same() {
    let Some(watching) = Watching::part_of_more(rule("0755", "0640")) else { return };
    let (volume, top) = (&watching.tree.volume, watching.tree.outside(""));
    // Under another name before anybody looked, and out of a directory that came in after it.
    for script in ["mv other vol/tmp; mv vol/tmp vol/final", "mv p/d vol/d; mv p vol/p"] {
        sh(&top, "mkdir -p other p/d; echo x > other/f; echo x > p/d/f; echo x > p/f");
        watching.watcher.hold(volume, standing(None));
        sh(&top, script);
        watching.watcher.hold(volume, standing(Some(rule("0755", "0640"))));
    }
    for path in ["final/f", "d/f", "p/f"] {
        eventually(path, || is(&watching.tree.at(path), 0o640));
    }
    assert_eq!(watching.doubt(), "a directory was moved in and on before it was looked at");
}

#[test]
fn without_recursion_nothing_below_is_touched() {
    let flat = OwnershipRule { recurse: false, ..rule("0755", "0640") };
    let Some(watching) = Watching::new(flat) else { return };
    sh(&watching.tree.at(""), "mkdir d; echo x > f; chmod 600 f; chmod 700 .");
    eventually("the root", || is(&watching.tree.at(""), 0o755));
    eventually("all looked at", || watching.drift().waiting == 0);
    assert_eq!((ids(watching.tree.at("f")), mode(watching.tree.at("f"))), (HostIds::ROOT, 0o600));
    assert_eq!(ids(watching.tree.at("d")), HostIds::ROOT);
}

/// Another volume on the same node.
fn volume(name: &str, host_path: &str) -> Volume {
    Volume { name: name.parse().unwrap(), ..crate::support::volume(host_path) }
}

/// Modes only.
fn modes(file_mode: &str) -> OwnershipRule {
    OwnershipRule { owner: None, ..rule("keep", file_mode) }
}

#[test]
fn an_entry_of_two_volumes_is_held_to_both() {
    let Some(watching) = Watching::new(rule("keep", "keep")) else { return };
    fs::create_dir(watching.tree.at("inner")).unwrap();
    let inner = volume("inner", "/vol/inner");
    watching.watcher.begin_walk(&inner, &modes("0600"));
    watching.watcher.hold(&inner, standing(Some(modes("0600"))));
    sh(&watching.tree.at(""), "echo x > inner/f; echo x > f; chmod 644 f inner/f");
    eventually("owner and mode", || is(&watching.tree.at("inner/f"), 0o600));
    eventually("owner", || is(&watching.tree.at("f"), 0o644));
    // Whoever may write to the outer one can exchange the inner one's root.
    sh(&watching.tree.at(""), "mv inner old; mkdir inner");
    let why = watching.doubt();
    assert!(why.contains("is another directory now") || why.contains("is missing"), "{why}");
    watching.watcher.begin_walk(&inner, &modes("0600"));
    watching.watcher.hold(&inner, standing(Some(modes("0600"))));
    sh(&watching.tree.at("inner"), "echo x > f; chmod 644 f");
    eventually("the new one", || is(&watching.tree.at("inner/f"), 0o600));
}

/// Somebody who writes for as long as this lives.
struct Writer(std::process::Child);

impl Drop for Writer {
    fn drop(&mut self) {
        // One that ended is none that goes on.
        let _ended = self.0.kill().and_then(|()| self.0.wait());
    }
}

#[test]
fn what_changes_right_after_a_volume_was_armed_is_seen_however_busy_the_watch_is() {
    let Some(watching) = Watching::part_of_more(rule("0755", "0640")) else { return };
    let busy = watching.tree.outside("busy");
    fs::create_dir(&busy).unwrap();
    // Some 300,000 events a second, none of which is the same as one that waits.
    let script = "for (1..3000) { open my $f, '>', $_ } \
                  for (;;) { chmod 0600, 1..3000; chmod 0640, 1..3000 }";
    let mut writer = Command::new("perl");
    let _writer = Writer(writer.args(["-e", script]).current_dir(&busy).spawn().unwrap());
    for n in 0..60 {
        let name = format!("late{n}");
        fs::create_dir(watching.tree.outside(&name)).unwrap();
        let late = volume(&name, &format!("/{name}"));
        watching.watcher.begin_walk(&late, &rule("0755", "0640"));
        // From now on a walk need not see what changes.
        sh(&watching.tree.outside(&name), "echo x > f");
        watching.watcher.hold(&late, standing(Some(rule("0755", "0640"))));
        let is_doubted = || match watching.watcher.state(&late.name) {
            Watch::Events(drift) => drift.doubt.is_some(),
            Watch::Walks(_) => false,
        };
        let file = watching.tree.outside(&name).join("f");
        eventually("seen", || is(&file, 0o640) || is_doubted());
        watching.watcher.forget(&late.name);
    }
}

#[test]
fn a_bind_mount_beside_a_volume_does_not_make_it_deaf() {
    let Some(watching) = Watching::part_of_more(rule("0755", "0640")) else { return };
    for dir in ["beside/a", "bound"] {
        fs::create_dir_all(watching.tree.outside(dir)).unwrap();
    }
    let (from, at) = (watching.tree.outside("beside"), watching.tree.outside("bound"));
    let Some(_bound) = Mounted::bind(&from, &at) else { return };
    // What the other mount shows is not below this one's root, and the other way round.
    let bound = volume("bound", "/bound/a");
    watching.watcher.begin_walk(&bound, &rule("0755", "0600"));
    watching.watcher.hold(&bound, standing(Some(rule("0755", "0600"))));
    sh(&watching.tree.outside(""), "mkdir vol/d; echo x > vol/d/f; echo x > beside/a/f");
    eventually("of the file system", || is(&watching.tree.at("d/f"), 0o640));
    eventually("of the bind mount", || is(&watching.tree.outside("beside/a/f"), 0o600));
}

#[test]
fn one_that_is_watched_again_is_doubted_and_one_that_is_not_has_no_mark() {
    let Some(watching) = Watching::new(rule("0755", "0640")) else { return };
    let (name, volume) = (&watching.tree.volume.name, &watching.tree.volume);
    let device = fs::metadata(watching.tree.at("")).unwrap().dev();
    assert_eq!(marks_of(device), 1);
    watching.watcher.forget(name);
    assert_eq!(marks_of(device), 0);
    sh(&watching.tree.at(""), "echo x > f");
    watching.watcher.hold(volume, standing(Some(rule("0755", "0640"))));
    assert_eq!(watching.doubt(), "it was not watched for a while");
    // Another volume on the file system keeps the mark.
    fs::create_dir(watching.tree.at("inner")).unwrap();
    watching.watcher.hold(&self::volume("inner", "/vol/inner"), standing(Some(modes("0600"))));
    watching.watcher.keep(&BTreeSet::from([name.clone()]));
    assert_eq!(marks_of(device), 1);
    watching.watcher.keep(&BTreeSet::new());
    assert_eq!(marks_of(device), 0);
}

#[test]
fn only_the_rule_of_a_walk_makes_what_changes_meanwhile_the_watchs() {
    let Some(watching) = Watching::new(rule("0755", "0640")) else { return };
    let volume = &watching.tree.volume;
    assert!(watching.watcher.begin_walk(volume, &rule("0755", "0640")));
    assert!(!watching.watcher.begin_walk(volume, &rule("0755", "0600")));
    watching.watcher.pause(&volume.name);
    assert!(!watching.watcher.begin_walk(volume, &rule("0755", "0640")));
}

#[test]
fn what_left_the_volume_is_not_touched() {
    let Some(watching) = Watching::part_of_more(rule("0755", "0640")) else { return };
    let top = watching.tree.outside("");
    sh(&top, "mkdir -p vol/a/b");
    eventually("put right", || is(&watching.tree.at("a/b"), 0o755));
    // Kept in mind while in the volume, and outside of it when its turn comes.
    watching.watcher.hold(&watching.tree.volume, standing(None));
    sh(&top, "echo x > vol/a/b/f; echo x > vol/g; mv vol/a elsewhere; mkdir vol/new");
    eventually("kept", || watching.drift().waiting >= 3);
    watching.watcher.hold(&watching.tree.volume, standing(Some(rule("0755", "0640"))));
    eventually("put right", || is(&watching.tree.at("g"), 0o640));
    eventually("all looked at", || watching.drift().waiting == 0);
    sh(&top, "echo x > elsewhere/b/late; chmod 777 elsewhere/b/f");
    std::thread::sleep(QUIET);
    for path in ["elsewhere/b/f", "elsewhere/b/late"] {
        assert_eq!(ids(watching.tree.outside(path)), HostIds::ROOT, "{path}");
    }
}

#[test]
fn a_root_that_is_another_directory_now_is_noticed() {
    let Some(watching) = Watching::part_of_more(rule("0755", "0640")) else { return };
    sh(&watching.tree.outside(""), "mv vol old; mkdir vol; echo x > old/f");
    // Which of the two depends on whether the thread looks between the two commands.
    let why = watching.doubt();
    assert!(why.contains("is another directory now") || why.contains("is missing"), "{why}");
    std::thread::sleep(QUIET);
    assert_eq!(ids(watching.tree.outside("old/f")), HostIds::ROOT);
    watching.watcher.begin_walk(&watching.tree.volume, &rule("0755", "0640"));
    watching.watcher.hold(&watching.tree.volume, standing(Some(rule("0755", "0640"))));
    sh(&watching.tree.at(""), "echo x > f");
    eventually("put right", || is(&watching.tree.at("f"), 0o640));
}

#[test]
fn a_volume_can_be_unmounted_and_is_armed_anew_when_it_is_back() {
    let Some(mut watching) = Watching::new(rule("0755", "0640")) else { return };
    sh(&watching.tree.at(""), "echo x > f");
    eventually("put right", || is(&watching.tree.at("f"), 0o640));
    eventually("nothing is open below it", || {
        unmount(watching.tree.at(""), UnmountFlags::empty()).is_ok()
    });
    watching.doubt();
    assert!(matches!(watching.watcher.state(&watching.tree.volume.name), Watch::Walks(_)));
    watching.mounted = Mounted::tmpfs(&watching.tree.at(""));
    watching.watcher.begin_walk(&watching.tree.volume, &rule("0755", "0640"));
    watching.watcher.hold(&watching.tree.volume, standing(Some(rule("0755", "0640"))));
    sh(&watching.tree.at(""), "echo x > f");
    eventually("put right", || is(&watching.tree.at("f"), 0o640));
}

#[test]
fn a_file_system_that_tells_of_nothing_is_walked() {
    let tree = Tree::new();
    let watcher = Watcher::start(tree.paths.clone(), |_| {}).unwrap();
    let mut volume = tree.volume.clone();
    assert!(matches!(watcher.state(&volume.name), Watch::Walks(_)));
    volume.host_path = "/missing".to_owned();
    watcher.begin_walk(&volume, &rule("keep", "keep"));
    let Watch::Walks(why) = watcher.state(&volume.name) else { panic!() };
    assert_eq!(why, "/missing is missing");
    for dir in ["lower", "upper", "work"] {
        fs::create_dir(tree.outside(dir)).unwrap();
    }
    let options = ["lower", "upper", "work"].map(|dir| tree.outside(dir).display().to_string());
    let options = format!("lowerdir={},upperdir={},workdir={}", options[0], options[1], options[2]);
    let options = std::ffi::CString::new(options).unwrap();
    let flags = rustix::mount::MountFlags::empty();
    let mounted = rustix::mount::mount("o", tree.at(""), "overlay", flags, options.as_c_str());
    if let Err(errno) = mounted {
        return crate::support::skip("overlayfs", errno);
    }
    watcher.begin_walk(&tree.volume, &rule("keep", "keep"));
    let state = watcher.state(&tree.volume.name);
    unmount(tree.at(""), UnmountFlags::DETACH).unwrap();
    assert_eq!(
        state,
        Watch::Walks("overlay has no file handles, so it tells of no changes".to_owned())
    );
    watcher.keep(&BTreeSet::new());
    assert_eq!(watcher.state(&tree.volume.name), Watch::Walks("it is not watched yet".to_owned()));
}

#[test]
fn a_watch_that_met_a_defect_does_not_pass_for_one() {
    let tree = Tree::new();
    let Some(_mounted) = Mounted::tmpfs(&tree.at("")) else { return };
    let watcher = Watcher::start(tree.paths.clone(), |news| panic!("as told: {news:?}")).unwrap();
    let (volume, rule) = (&tree.volume, rule("0755", "0640"));
    watcher.begin_walk(volume, &rule);
    watcher.hold(volume, standing(Some(rule.clone())));
    sh(&tree.at(""), "echo x > f");
    let ended = || watcher.state(&volume.name);
    let why = "the watch ended unexpectedly; restart pctd".to_owned();
    eventually("said so", || ended() == Watch::Walks(why.clone()));
    assert!(!watcher.begin_walk(volume, &rule));
    watcher.hold(volume, standing(Some(rule)));
    assert_eq!(ended(), Watch::Walks(why));
}

#[test]
fn a_burst_larger_than_any_queue_is_put_right_or_doubted() {
    let Some(watching) = Watching::new(rule("0755", "0640")) else { return };
    sh(
        &watching.tree.at(""),
        "for d in 1 2 3 4; do (mkdir $d; cd $d; seq 25000 | xargs touch) & done; wait",
    );
    eventually("all looked at", || watching.drift().waiting == 0);
    std::thread::sleep(QUIET);
    if watching.drift().doubt.is_some() {
        // What a daemon does then.
        watching.watcher.begin_walk(&watching.tree.volume, &rule("0755", "0640"));
        watching.tree.repair(&rule("0755", "0640"));
    }
    let wrong = watching.tree.audit(&rule("0755", "0640")).audit;
    assert_eq!((wrong.entries, wrong.changes), (100_005, 0), "{:?}", watching.drift());
}

/// Held to the rule on the record.
fn recorded(watching: &Watching, rule: OwnershipRule) {
    let standing = Standing { undo_limit: 1 << 20, ..standing(Some(rule)) };
    watching.watcher.hold(&watching.tree.volume, standing);
}

#[test]
fn what_is_put_right_is_on_record_and_taken_back_once_the_watch_lets_go() {
    let Some(watching) = Watching::new(rule("0755", "0640")) else { return };
    let Watching { tree, watcher, .. } = &watching;
    sh(&tree.at(""), "mkdir a; echo x > a/f");
    eventually("it is right", || is(&tree.at("a/f"), 0o640));
    recorded(&watching, rule("0755", "0640"));
    sh(&tree.at(""), "chown 7:8 a/f");
    eventually("it is right again", || is(&tree.at("a/f"), 0o640));
    sh(&tree.at(""), "chmod 700 a");
    eventually("so is the directory", || is(&tree.at("a"), 0o755));
    assert!(watcher.pause_now(&tree.volume.name));
    let [pass] = &passes(&tree.paths, &tree.volume.name).unwrap()[..] else { panic!() };
    assert_eq!((pass.kind, pass.entries), (PassKind::Drift, 2));
    let never = AtomicBool::new(false);
    let request = UndoRequest {
        back_to: None,
        privileges: Privileges::Withheld,
        dry_run: false,
        cancel: &never,
        progress: &|_| {},
    };
    let node = Node::open(tree.paths.clone(), NodeOptions::default());
    let undone = node.undo(&tree.volume, request).unwrap().unwrap();
    assert_eq!((undone.tally.restored, undone.is_done), (2, true));
    // Nor does it do anything to what others change by then.
    sh(&tree.at(""), "chmod 600 a/f");
    std::thread::sleep(QUIET);
    assert_eq!((ids(tree.at("a/f")), mode(tree.at("a/f"))), (HostIds::new(7, 8), 0o600));
    assert_eq!(mode(tree.at("a")), 0o700);
    // When it is held again, what happened meanwhile is put right, in a record of its own.
    recorded(&watching, rule("0755", "0640"));
    eventually("it is right once more", || is(&tree.at("a/f"), 0o640));
    assert_eq!(passes(&tree.paths, &tree.volume.name).unwrap().len(), 1);
}

#[test]
fn what_cannot_be_recorded_is_not_put_right_and_doubted() {
    let Some(watching) = Watching::new(rule("0755", "0640")) else { return };
    let tree = &watching.tree;
    fs::create_dir_all(tree.outside("var/lib/pctd")).unwrap();
    fs::write(tree.outside("var/lib/pctd/undo"), "in the way").unwrap();
    recorded(&watching, rule("0755", "0640"));
    sh(&tree.at(""), "echo x > f; chmod 600 f");
    let why = watching.doubt();
    assert!(why.contains("it cannot be recorded"), "{why}");
    assert_eq!((ids(tree.at("f")), mode(tree.at("f"))), (HostIds::ROOT, 0o600));
}
