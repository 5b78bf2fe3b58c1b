use super::*;

/// One node of two, with container 100 here and 200 there.
fn cfs() -> Cfs {
    let mut cfs = Cfs::new("a", &["b".into()], 1000);
    for dir in ["nodes", "priv"] {
        cfs.load(dir.as_ref(), None, 1);
    }
    for node in ["a", "b"] {
        cfs.load(format!("nodes/{node}").as_ref(), None, 1);
        for kind in ["lxc", "qemu-server"] {
            cfs.load(format!("nodes/{node}/{kind}").as_ref(), None, 1);
        }
    }
    cfs.load("nodes/a/lxc/100.conf".as_ref(), Some(b"arch: amd64\n".to_vec()), 1);
    cfs.load("nodes/b/lxc/200.conf".as_ref(), Some(b"arch: amd64\n".to_vec()), 1);
    cfs.begin();
    cfs
}

fn find(cfs: &Cfs, path: &str) -> Ino {
    cfs.tree.find(path.as_ref()).unwrap()
}

fn split<'a>(cfs: &Cfs, path: &'a str) -> (Ino, &'a OsStr) {
    let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
    (find(cfs, dir), name.as_ref())
}

fn create(cfs: &mut Cfs, path: &str) -> Result<Ino, Errno> {
    let (dir, name) = split(cfs, path);
    let made = cfs.create(dir, name, 5)?;
    cfs.close(made);
    Ok(made)
}

fn rename(cfs: &mut Cfs, from: &str, to: &str) -> Result<(), Errno> {
    let (from, to) = (split(cfs, from), split(cfs, to));
    cfs.rename(from, to, 6)
}

fn remove(cfs: &mut Cfs, path: &str) -> Result<(), Errno> {
    let (dir, name) = split(cfs, path);
    cfs.remove(dir, name, 7)
}

/// The counter of the list, then node and counter of every guest.
fn list(cfs: &Cfs) -> (u64, Vec<(u32, String, u64)>) {
    let guest = |(id, guest): (&u32, &Guest)| (*id, guest.node.clone(), guest.version);
    (cfs.vmlist, cfs.guests.iter().map(guest).collect())
}

#[test]
fn an_id_is_used_once_whatever_the_node_and_the_kind() {
    let mut cfs = cfs();
    for taken in ["nodes/b/lxc/100.conf", "nodes/a/qemu-server/100.conf", "nodes/a/lxc/200.conf"] {
        assert_eq!(create(&mut cfs, taken), Err(Errno::EXIST), "{taken}");
        create(&mut cfs, "nodes/a/lxc/tmp").unwrap();
        assert_eq!(rename(&mut cfs, "nodes/a/lxc/tmp", taken), Err(Errno::EXIST), "{taken}");
        remove(&mut cfs, "nodes/a/lxc/tmp").unwrap();
        assert_eq!(cfs.peer_write(taken.as_ref(), Vec::new(), 1), Err(Errno::EXIST), "{taken}");
    }
    rename(&mut cfs, "nodes/a/lxc/100.conf", "nodes/b/lxc/100.conf").unwrap();
    assert_eq!(list(&cfs).1[0], (100, "b".into(), 3));
    // Names that are no id are nobody's.
    for free in ["nodes/b/lxc/0100.conf", "nodes/b/lxc/abc.conf", "nodes/b/100.conf"] {
        create(&mut cfs, free).unwrap();
    }
    assert_eq!(list(&cfs).1.len(), 2);
}

#[test]
fn every_change_of_a_guest_is_counted_and_nothing_else() {
    let mut cfs = cfs();
    assert_eq!(list(&cfs), (1, vec![(100, "a".into(), 1), (200, "b".into(), 1)]));
    let conf = find(&cfs, "nodes/a/lxc/100.conf");
    cfs.write(conf, 0, b"x", 5).unwrap();
    assert_eq!(list(&cfs).1[0], (100, "a".into(), 2));
    cfs.set_mtime(conf, 9).unwrap();
    cfs.open(conf, false).unwrap();
    assert_eq!(cfs.read(conf, 0, 4).unwrap(), b"xrch");
    cfs.close(conf);
    create(&mut cfs, "nodes/a/lxc/100.conf.tmp.7").unwrap();
    assert_eq!(list(&cfs).0, 2, "a time, a read and a temporary file do not count");
    rename(&mut cfs, "nodes/a/lxc/100.conf.tmp.7", "nodes/a/lxc/100.conf").unwrap();
    assert_eq!(list(&cfs).1[0], (100, "a".into(), 3));
    cfs.peer_write("nodes/b/lxc/200.conf".as_ref(), b"y".to_vec(), 6).unwrap();
    remove(&mut cfs, "nodes/a/lxc/100.conf").unwrap();
    assert_eq!(list(&cfs), (5, vec![(200, "b".into(), 4)]));
    let dir = split(&cfs, "nodes/a/x").0;
    cfs.mkdir(dir, "x".as_ref(), 8).unwrap();
    remove(&mut cfs, "nodes/a/x").unwrap();
    assert_eq!(list(&cfs), (6, vec![(200, "b".into(), 4)]), "a directory that goes moves the list");
    create(&mut cfs, "storage.cfg").unwrap();
    assert!(cfs.generate(Generated::Version).contains("\"storage.cfg\": 2,"));
}

#[test]
fn without_a_quorum_everything_is_read_only_and_says_so_in_its_own_way() {
    let mut cfs = cfs();
    let conf = find(&cfs, "nodes/a/lxc/100.conf");
    let lxc = find(&cfs, "nodes/a/lxc");
    let modes = |cfs: &Cfs| {
        ["", "nodes/a/lxc", "nodes/a/lxc/100.conf", "priv", "local", ".vmlist"]
            .map(|path| cfs.attributes(find(cfs, path)).unwrap().mode)
    };
    assert_eq!(modes(&cfs), [0o755, 0o755, 0o640, 0o700, 0o755, 0o440]);
    cfs.set_quorate(false);
    assert_eq!(modes(&cfs), [0o555, 0o555, 0o440, 0o500, 0o555, 0o440]);
    assert!(cfs.generate(Generated::Members).contains("\"quorate\": 0"));
    let before = list(&cfs);
    assert_eq!(cfs.open(conf, true), Ok(()), "only the write fails");
    assert_eq!(cfs.write(conf, 0, b"x", 5), Err(Errno::IO));
    assert_eq!(cfs.truncate(conf, 0, 5), Err(Errno::ACCESS));
    assert_eq!(cfs.set_mtime(conf, 5), Err(Errno::ACCESS));
    assert_eq!(cfs.create(lxc, "300.conf".as_ref(), 5), Err(Errno::ACCESS));
    assert_eq!(cfs.mkdir(lxc, "x".as_ref(), 5), Err(Errno::ACCESS));
    assert_eq!(remove(&mut cfs, "nodes/a/lxc/100.conf"), Err(Errno::ACCESS));
    let moved = rename(&mut cfs, "nodes/a/lxc/100.conf", "nodes/b/lxc/100.conf");
    assert_eq!(moved, Err(Errno::ACCESS));
    assert_eq!(list(&cfs), before);
    cfs.set_quorate(true);
    cfs.write(conf, 0, b"x", 5).unwrap();
}

#[test]
fn a_file_holds_a_mebibyte_and_one_that_is_cut_off_stays() {
    let mut cfs = cfs();
    let file = create(&mut cfs, "nodes/a/lxc/big").unwrap();
    let mebibyte = vec![b'x'; 1 << 20];
    assert_eq!(cfs.write(file, 0, &mebibyte, 5), Ok(()));
    assert_eq!(cfs.write(file, 1 << 20, b"x", 5), Err(Errno::FBIG));
    assert_eq!(cfs.write(file, u64::MAX, b"x", 5), Err(Errno::FBIG));
    assert_eq!(cfs.truncate(file, MAX_FILE + 1, 5), Err(Errno::FBIG));
    assert_eq!(cfs.attributes(file).unwrap().size, 1 << 20);
}

#[test]
fn what_is_generated_and_the_links_stay_as_they_are() {
    let mut cfs = cfs();
    for name in [".vmlist", "local", "lxc"] {
        assert_eq!(remove(&mut cfs, name), Err(Errno::ACCESS), "{name}");
        assert_eq!(rename(&mut cfs, name, "x"), Err(Errno::ACCESS), "{name}");
        assert_eq!(create(&mut cfs, name), Err(Errno::EXIST), "{name}");
    }
    let vmlist = find(&cfs, ".vmlist");
    assert_eq!(cfs.open(vmlist, true), Err(Errno::ACCESS));
    assert_eq!(cfs.write(vmlist, 0, b"x", 5), Err(Errno::ACCESS));
    assert_eq!(cfs.link(find(&cfs, "lxc")), Ok("nodes/a/lxc".as_ref()));
}

#[test]
fn an_open_file_outlives_its_name_and_cannot_be_opened_again() {
    let mut cfs = cfs();
    let old = find(&cfs, "nodes/a/lxc/100.conf");
    cfs.open(old, false).unwrap();
    create(&mut cfs, "nodes/a/lxc/new").unwrap();
    rename(&mut cfs, "nodes/a/lxc/new", "nodes/a/lxc/100.conf").unwrap();
    assert_ne!(find(&cfs, "nodes/a/lxc/100.conf"), old);
    assert_eq!(cfs.read(old, 0, 100).unwrap(), b"arch: amd64\n");
    assert_eq!(cfs.open(old, false), Err(Errno::NOENT));
    cfs.close(old);
    assert_eq!(cfs.read(old, 0, 100), Err(Errno::NOENT));
    // What another node writes keeps the inode by which this node's kernel knows the name.
    let kept = find(&cfs, "nodes/b/lxc/200.conf");
    cfs.peer_write("nodes/b/lxc/200.conf".as_ref(), b"new".to_vec(), 5).unwrap();
    assert_eq!(find(&cfs, "nodes/b/lxc/200.conf"), kept);
}

#[test]
fn only_the_owner_and_the_mode_that_are_there_anyway_can_be_set() {
    let mut cfs = cfs();
    let conf = find(&cfs, "nodes/a/lxc/100.conf");
    assert_eq!(cfs.chmod(conf, 0o100_640), Ok(()));
    assert_eq!(cfs.chmod(conf, 0o600), Err(Errno::PERM));
    let secret = create(&mut cfs, "priv/key").unwrap();
    assert_eq!(cfs.chmod(secret, 0o600), Ok(()));
    assert_eq!(cfs.chmod(secret, 0o640), Err(Errno::PERM));
    assert_eq!(cfs.attributes(secret).unwrap().mode, 0o600);
}

#[test]
fn everything_that_changed_is_told_to_the_store_once() {
    let mut cfs = cfs();
    assert_eq!(cfs.take_changes(), []);
    create(&mut cfs, "x").unwrap();
    rename(&mut cfs, "x", "y").unwrap();
    remove(&mut cfs, "y").unwrap();
    let expected = [
        Change::Content("x".into()),
        Change::Renamed("x".into(), "y".into()),
        Change::Removed("y".into()),
    ];
    assert_eq!(cfs.take_changes(), expected);
    assert_eq!(cfs.take_changes(), []);
}
