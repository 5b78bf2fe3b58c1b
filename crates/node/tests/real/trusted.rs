//! Files that decide what root does: what of their way is believed, and what is not.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use pctd_core::ids::HostIds;
use pctd_node::trusted::{Exposure, Flaw, Reading};
use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::support::{Tree, set_ids, set_mode};

const SOMEBODY: HostIds = HostIds::new(1000, 1000);

/// A tree with `etc/pctd/config.json`, as a package makes it.
fn tree() -> Tree {
    let tree = Tree::new();
    fs::create_dir_all(tree.outside("etc/pctd")).unwrap();
    for dir in ["etc", "etc/pctd"] {
        set_mode(tree.outside(dir), 0o755);
    }
    write(&tree, "etc/pctd/config.json", 0o644);
    tree
}

fn write(tree: &Tree, path: &str, mode: u32) {
    fs::write(tree.outside(path), path).unwrap();
    set_mode(tree.outside(path), mode);
}

/// Returns the files that were read, by name, and what is wrong with the way, below the root.
fn read(tree: &Tree, path: &str) -> (Vec<String>, Vec<(String, Exposure)>) {
    let mut reading = Reading::default();
    reading.add(&tree.paths, &tree.outside(path), ".json").unwrap();
    let below = |path: &Path| path.strip_prefix(tree.dir.path()).unwrap().display().to_string();
    let files = reading.files.iter().map(|(path, _)| below(path)).collect();
    (files, reading.flaws.iter().map(|flaw| (below(&flaw.path), flaw.what)).collect())
}

fn fails(tree: &Tree, path: &str) -> io::Error {
    let mut reading = Reading::default();
    let error = reading.add(&tree.paths, &tree.outside(path), ".json").unwrap_err();
    assert!(reading.files.is_empty());
    error.source
}

fn flaws(tree: &Tree, path: &str) -> Vec<(String, Exposure)> {
    read(tree, path).1
}

#[test]
fn what_only_root_can_change_is_read() {
    let tree = tree();
    for mode in [0o644, 0o600, 0o640, 0o444, 0o4755] {
        set_mode(tree.outside("etc/pctd/config.json"), mode);
        let expected = (vec!["etc/pctd/config.json".to_owned()], vec![]);
        assert_eq!(read(&tree, "etc/pctd/config.json"), expected, "{mode:o}");
    }
}

#[test]
fn of_a_directory_the_files_with_the_suffix_are_read_in_their_order() {
    let tree = tree();
    for name in ["10-b.json", "2-a.json", "note.txt", ".json", "x.json~"] {
        write(&tree, &format!("etc/pctd/{name}"), 0o644);
    }
    let (files, flaws) = read(&tree, "etc/pctd");
    assert_eq!(files, ["10-b.json", "2-a.json", "config.json"].map(|n| format!("etc/pctd/{n}")));
    assert_eq!(flaws, []);
}

#[test]
fn what_others_could_change_is_named_wherever_it_is_on_the_way() {
    let owner = Exposure::Owner { uid: 1000 };
    let group = |mode| Exposure::Group { gid: 0, mode };
    let everybody = |mode| Exposure::Everybody { mode };
    let cases: [(&str, Option<u32>, Exposure); 9] = [
        ("etc/pctd/config.json", Some(0o664), group(0o664)),
        ("etc/pctd/config.json", Some(0o646), everybody(0o646)),
        ("etc/pctd/config.json", Some(0o666), everybody(0o666)),
        ("etc/pctd/config.json", None, owner),
        ("etc/pctd", Some(0o775), group(0o775)),
        ("etc/pctd", Some(0o777), everybody(0o777)),
        ("etc/pctd", None, owner),
        ("etc", Some(0o777), everybody(0o777)),
        ("etc", None, owner),
    ];
    for (at, mode, expected) in cases {
        let tree = tree();
        match mode {
            Some(mode) => set_mode(tree.outside(at), mode),
            None => set_ids(tree.outside(at), SOMEBODY),
        }
        let expected = vec![(at.to_owned(), expected)];
        assert_eq!(flaws(&tree, "etc/pctd/config.json"), expected, "{at} {mode:?}");
        assert_eq!(flaws(&tree, "etc/pctd"), expected, "{at} {mode:?}");
    }
}

#[test]
fn everything_that_is_wrong_is_named_once() {
    let tree = tree();
    set_mode(tree.outside("etc"), 0o777);
    set_ids(tree.outside("etc/pctd/config.json"), SOMEBODY);
    set_mode(tree.outside("etc/pctd/config.json"), 0o666);
    write(&tree, "etc/pctd/more.json", 0o620);
    let found = flaws(&tree, "etc/pctd");
    let places: Vec<&str> = found.iter().map(|(path, _)| path.as_str()).collect();
    let config = "etc/pctd/config.json";
    assert_eq!(places, ["etc", config, config, "etc/pctd/more.json"]);
}

#[test]
fn a_sticky_directory_protects_what_is_roots_and_nothing_else() {
    let tree = tree();
    set_mode(tree.outside("etc/pctd"), 0o1777);
    assert_eq!(flaws(&tree, "etc/pctd/config.json"), []);
    // Whoever can add a file to the directory can add to the configuration.
    let added = vec![("etc/pctd".to_owned(), Exposure::Everybody { mode: 0o1777 })];
    assert_eq!(flaws(&tree, "etc/pctd"), added);
    let owner = Exposure::Owner { uid: 1000 };
    set_ids(tree.outside("etc/pctd/config.json"), SOMEBODY);
    let theirs = vec![("etc/pctd/config.json".to_owned(), owner)];
    assert_eq!(flaws(&tree, "etc/pctd/config.json"), theirs);
    // A link that somebody put there, to a file that is root's.
    symlink("../../etc/pctd/config.json", tree.outside("etc/pctd/link.json")).unwrap();
    set_ids(tree.outside("etc/pctd/config.json"), HostIds::ROOT);
    set_ids(tree.outside("etc/pctd/link.json"), SOMEBODY);
    let link = vec![("etc/pctd/link.json".to_owned(), owner)];
    assert_eq!(flaws(&tree, "etc/pctd/link.json"), link);
}

#[test]
fn a_link_is_taken_where_it_leads_and_its_way_is_judged() {
    let tree = tree();
    fs::create_dir_all(tree.outside("srv/real")).unwrap();
    write(&tree, "srv/real/site.json", 0o644);
    symlink("../../srv/real/site.json", tree.outside("etc/pctd/relative.json")).unwrap();
    symlink(tree.outside("srv/real/site.json"), tree.outside("etc/pctd/absolute.json")).unwrap();
    symlink("../../srv/real", tree.outside("etc/pctd/conf.d")).unwrap();
    for path in ["etc/pctd/relative.json", "etc/pctd/absolute.json"] {
        assert_eq!(read(&tree, path), (vec![path.to_owned()], vec![]));
    }
    assert_eq!(read(&tree, "etc/pctd/conf.d").0, ["etc/pctd/conf.d/site.json"]);
    set_mode(tree.outside("srv"), 0o777);
    let open = vec![("srv".to_owned(), Exposure::Everybody { mode: 0o777 })];
    for path in ["etc/pctd/relative.json", "etc/pctd/absolute.json", "etc/pctd/conf.d"] {
        assert_eq!(flaws(&tree, path), open, "{path}");
    }
}

#[test]
fn pmxcfs_is_a_place_for_it() {
    // As pmxcfs has it: directories root:www-data 0755, files root:www-data 0640.
    let tree = tree();
    let www_data = HostIds::new(0, 33);
    fs::create_dir_all(tree.outside("etc/pve/nodes/pve")).unwrap();
    for dir in ["etc/pve", "etc/pve/nodes", "etc/pve/nodes/pve"] {
        set_ids(tree.outside(dir), www_data);
        set_mode(tree.outside(dir), 0o755);
    }
    symlink("nodes/pve", tree.outside("etc/pve/local")).unwrap();
    write(&tree, "etc/pve/nodes/pve/pctd.json", 0o640);
    set_ids(tree.outside("etc/pve/nodes/pve/pctd.json"), www_data);
    let path = "etc/pve/local/pctd.json";
    assert_eq!(read(&tree, path), (vec![path.to_owned()], vec![]));
}

#[test]
fn what_is_no_file_is_not_opened_and_what_leads_nowhere_ends() {
    let tree = tree();
    let pipe = tree.outside("etc/pctd/pipe.json");
    mknodat(CWD, &pipe, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    symlink("loop.json", tree.outside("etc/pctd/loop.json")).unwrap();
    symlink("nowhere", tree.outside("etc/pctd/dangling.json")).unwrap();
    fs::create_dir(tree.outside("etc/pctd/dir.json")).unwrap();
    // Would wait for a writer, were it opened for reading.
    assert_eq!(fails(&tree, "etc/pctd/pipe.json").kind(), io::ErrorKind::InvalidInput);
    let circle = fails(&tree, "etc/pctd/loop.json").raw_os_error();
    assert_eq!(circle, Some(rustix::io::Errno::LOOP.raw_os_error()));
    assert_eq!(fails(&tree, "etc/pctd/dangling.json").kind(), io::ErrorKind::NotFound);
    assert_eq!(fails(&tree, "etc/pctd/config.json/x").kind(), io::ErrorKind::NotADirectory);
    assert_eq!(fails(&tree, "etc/pctd/nothing").kind(), io::ErrorKind::NotFound);
}

#[test]
fn outside_of_the_root_the_way_is_judged_from_the_top() {
    let (tree, elsewhere) = (tree(), Tree::new());
    set_mode(elsewhere.dir.path(), 0o777);
    fs::write(elsewhere.outside("config.json"), "").unwrap();
    set_mode(elsewhere.outside("config.json"), 0o644);
    let climbing = tree.dir.path().join("..").join(elsewhere.dir.path().file_name().unwrap());
    let paths: [PathBuf; 2] = [elsewhere.outside("config.json"), climbing.join("config.json")];
    for path in paths {
        let mut reading = Reading::default();
        reading.add(&tree.paths, &path, ".json").unwrap();
        let what = Exposure::Everybody { mode: 0o777 };
        let flaw = Flaw { path: elsewhere.dir.path().to_path_buf(), what };
        assert_eq!(reading.flaws, [flaw], "{}", path.display());
    }
}

#[test]
fn what_is_read_is_what_was_judged_while_others_exchange_it() {
    // Somebody exchanges a file of root's for one of theirs, and back, as fast as they can: what
    // is theirs is never read without being named.
    let tree = tree();
    set_mode(tree.outside("etc/pctd"), 0o777);
    let theirs = tree.outside("theirs");
    fs::write(&theirs, "theirs").unwrap();
    set_ids(&theirs, SOMEBODY);
    let path = tree.outside("etc/pctd/config.json");
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let swap = rustix::fs::RenameFlags::EXCHANGE;
                rustix::fs::renameat_with(CWD, &theirs, CWD, &path, swap).unwrap();
            }
        });
        let mut both = [0, 0];
        for _ in 0..5000 {
            let mut reading = Reading::default();
            reading.add(&tree.paths, &path, ".json").unwrap();
            let named =
                reading.flaws.iter().any(|f| matches!(f.what, Exposure::Owner { uid: 1000 }));
            let is_theirs = reading.files[0].1 == b"theirs";
            assert!(named || !is_theirs, "{:?}", reading.flaws);
            both[usize::from(is_theirs)] += 1;
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(both.iter().all(|seen| *seen > 0), "nothing was exchanged: {both:?}");
    });
}
