//! Certificates in real directories, with somebody else at work in them.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use pctd_core::desired::{Certificate, Volume};
use pctd_core::ids::HostIds;
use pctd_core::modes::FilePattern;
use pctd_core::observed::{ObservedPair, ObservedVolume, PairFile, SourceState};
use pctd_core::ownership::OwnershipRule;
use pctd_node::{
    CertificateError, InstallError, InstallRequest, NewPair, Node, NodeOptions, WalkError,
};
use rustix::fs::inotify;

use crate::support::{OWNER, Tree, ids, mode, rule, set_ids, set_mode};

/// A volume in which the pair for `a.b` is to be kept.
struct House {
    tree: Tree,
    node: Node,
    volume: Volume,
    rule: OwnershipRule,
}

impl House {
    fn new(file_mode: &str) -> Self {
        let tree = Tree::new();
        let node = Node::open(tree.paths.clone(), NodeOptions::default());
        let certificate = Certificate {
            domain: "a.b".to_owned(),
            alt_names: vec!["10.0.0.1".to_owned(), "*.c.d".to_owned()],
            days: 90,
            renew_before: Duration::ZERO,
        };
        let volume = Volume { certificates: vec![certificate], ..tree.volume.clone() };
        let pattern = FilePattern::new("*.key").unwrap();
        let file_modes = vec![(pattern, "0640".parse().unwrap())];
        let rule = OwnershipRule { file_modes, ..rule("0755", file_mode) };
        Self { tree, node, volume, rule }
    }

    fn look(&self) -> ObservedVolume {
        self.node.observe_volumes([&self.volume]).remove(0)
    }

    fn pair(&self) -> ObservedPair {
        let mut found = self.look().certificates;
        assert!(found.at > 1_700_000_000);
        found.pairs.remove("a.b").unwrap()
    }

    fn generate(&self) -> NewPair {
        self.node.generate_certificate(&self.volume.certificates[0]).unwrap()
    }

    fn install(&self, new: &NewPair, before: &ObservedPair) -> Result<(), InstallError> {
        let SourceState::Directory(dir) = self.look().source else { panic!("no directory") };
        self.install_on(&dir.file_system.id, new, before)
    }

    fn install_on(
        &self,
        file_system: &str,
        new: &NewPair,
        before: &ObservedPair,
    ) -> Result<(), InstallError> {
        let (volume, rule) = (&self.volume, &self.rule);
        let certificate = &volume.certificates[0];
        let request = InstallRequest { volume, rule, file_system, certificate, before };
        self.node.install_certificate(&request, new)
    }

    fn make(&self) -> NewPair {
        let (new, before) = (self.generate(), self.pair());
        self.install(&new, &before).unwrap();
        new
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.tree.at("")).unwrap();
        let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
        let mut names: Vec<_> = entries.map(|entry| name(entry).into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn observed(new: &NewPair) -> ObservedPair {
    let file = |fingerprint: &str| PairFile::File { fingerprint: fingerprint.to_owned() };
    let record = new.record();
    ObservedPair { key: file(&record.key), certificate: file(&record.certificate) }
}

fn raced(result: &Result<(), InstallError>) -> bool {
    matches!(result, Err(InstallError::Certificate(CertificateError::Raced { .. })))
}

#[test]
fn a_pair_gets_its_owner_its_modes_and_nothing_is_left_beside_it() {
    let house = House::new("0664");
    let missing = ObservedPair { key: PairFile::Missing, certificate: PairFile::Missing };
    assert_eq!(house.pair(), missing);
    let new = house.make();
    assert_eq!(house.pair(), observed(&new));
    assert_eq!(house.names(), ["a.b.crt", "a.b.key"]);
    let (key, certificate) = (house.tree.at("a.b.key"), house.tree.at("a.b.crt"));
    assert_eq!((ids(&key), mode(&key)), (OWNER, 0o640));
    assert_eq!((ids(&certificate), mode(&certificate)), (OWNER, 0o664));
    let text = |path: &Path| fs::read_to_string(path).unwrap();
    assert!(text(&key).starts_with("-----BEGIN PRIVATE KEY-----"));
    assert!(text(&certificate).starts_with("-----BEGIN CERTIFICATE-----"));
    assert_eq!(house.tree.repair(&house.rule).changed, 1, "only the directory itself is left");
}

/// What a program other than pctd makes of it; only where there is one.
#[test]
fn openssl_takes_it_for_a_certificate_of_its_names_and_days() {
    let house = House::new("0644");
    house.make();
    let openssl = |arguments: &[&str]| {
        let command = std::process::Command::new("openssl")
            .args(arguments)
            .current_dir(house.tree.at(""))
            .output();
        let output = command.ok()?;
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Some(text)
    };
    let Some(names) =
        openssl(&["x509", "-in", "a.b.crt", "-noout", "-subject", "-ext", "subjectAltName"])
    else {
        println!("skipped: there is no openssl");
        return;
    };
    assert!(names.contains("CN = a.b") || names.contains("CN=a.b"), "{names}");
    assert!(names.contains("DNS:a.b, IP Address:10.0.0.1, DNS:*.c.d"), "{names}");
    openssl(&["verify", "-CAfile", "a.b.crt", "a.b.crt"]).unwrap();
    let almost = (90 * 24 * 60 * 60 - 60).to_string();
    openssl(&["x509", "-in", "a.b.crt", "-noout", "-checkend", &almost]).unwrap();
    let of_key = openssl(&["pkey", "-in", "a.b.key", "-pubout"]).unwrap();
    assert_eq!(openssl(&["x509", "-in", "a.b.crt", "-noout", "-pubkey"]).unwrap(), of_key);
}

#[test]
fn where_nothing_is_declared_a_key_is_closed_and_the_directory_says_whose_it_is() {
    let mut house = House::new("keep");
    let their = HostIds::new(100_033, 100_033);
    set_ids(house.tree.at(""), their);
    house.rule = OwnershipRule { owner: None, file_modes: Vec::new(), ..rule("keep", "keep") };
    house.make();
    assert_eq!((ids(house.tree.at("a.b.key")), mode(house.tree.at("a.b.key"))), (their, 0o600));
    assert_eq!((ids(house.tree.at("a.b.crt")), mode(house.tree.at("a.b.crt"))), (their, 0o644));
}

#[test]
fn a_mode_that_would_open_a_key_to_everybody_does_not() {
    let mut house = House::new("0666");
    house.rule.file_modes.clear();
    house.make();
    assert_eq!(mode(house.tree.at("a.b.key")), 0o660);
}

#[test]
fn a_renewal_replaces_both_and_nothing_else() {
    let house = House::new("0644");
    fs::write(house.tree.at("b.key"), "another").unwrap();
    let first = house.make();
    let second = house.make();
    assert_ne!(first.record().key, second.record().key);
    assert_eq!(house.pair(), observed(&second));
    assert_eq!(house.names(), ["a.b.crt", "a.b.key", "b.key"]);
}

#[test]
fn what_came_meanwhile_is_never_overwritten() {
    let house = House::new("0644");
    let (new, before) = (house.generate(), house.pair());
    fs::write(house.tree.at("a.b.key"), "theirs").unwrap();
    assert!(raced(&house.install(&new, &before)));
    assert_eq!(fs::read_to_string(house.tree.at("a.b.key")).unwrap(), "theirs");
    assert_eq!(house.names(), ["a.b.key"], "and no certificate without its key");

    fs::remove_file(house.tree.at("a.b.key")).unwrap();
    house.make();
    let (new, before) = (house.generate(), house.pair());
    fs::write(house.tree.at("a.b.key"), "theirs").unwrap();
    assert!(raced(&house.install(&new, &before)));
    assert_eq!(fs::read_to_string(house.tree.at("a.b.key")).unwrap(), "theirs");
    assert_eq!(house.names(), ["a.b.crt", "a.b.key"]);

    fs::remove_file(house.tree.at("a.b.key")).unwrap();
    assert!(raced(&house.install(&new, &before)), "nothing is there to change places with");
    assert_eq!(house.names(), ["a.b.crt"]);
}

#[test]
fn links_and_other_things_are_neither_read_nor_written_through() {
    let house = House::new("0644");
    let secret = house.tree.outside("secret");
    fs::write(&secret, "secret").unwrap();
    let key = house.tree.at("a.b.key");
    let make: [&dyn Fn(); 3] =
        [&|| symlink(&secret, &key).unwrap(), &|| fs::create_dir(&key).unwrap(), &|| {
            let fifo = rustix::fs::FileType::Fifo;
            rustix::fs::mknodat(rustix::fs::CWD, &key, fifo, 0o666.into(), 0).unwrap();
        }];
    for make in make {
        let (new, before) = (house.generate(), house.pair());
        make();
        assert!(matches!(house.pair().key, PairFile::Unusable(why) if why.contains("regular")));
        assert!(raced(&house.install(&new, &before)));
        assert!(raced(&house.install(&new, &house.pair())));
        assert_eq!(fs::read_to_string(&secret).unwrap(), "secret");
        assert_eq!(house.names(), ["a.b.key"]);
        if key.is_dir() && !key.is_symlink() {
            fs::remove_dir(&key).unwrap();
        } else {
            fs::remove_file(&key).unwrap();
        }
    }
}

#[test]
fn a_volume_that_is_not_the_one_that_was_planned_for_gets_nothing() {
    let house = House::new("0644");
    let result = house.install_on("zfs:7", &house.generate(), &house.pair());
    assert!(matches!(result, Err(InstallError::Volume(WalkError::FileSystemChanged { .. }))));
    assert_eq!(house.names(), [""; 0]);
}

#[test]
fn an_acl_of_the_directory_lets_nobody_in() {
    let house = House::new("0644");
    // user::rwx user:4711:r-- group::r-x mask::r-x other::r-x, as setfacl -d -m u:4711:r writes it.
    let mut acl = 2u32.to_le_bytes().to_vec();
    for (tag, perm, id) in [
        (0x01u16, 7u16, u32::MAX),
        (0x02, 4, 4711),
        (0x04, 5, u32::MAX),
        (0x10, 5, u32::MAX),
        (0x20, 5, u32::MAX),
    ] {
        acl.extend([tag.to_le_bytes(), perm.to_le_bytes()].concat());
        acl.extend(id.to_le_bytes());
    }
    let set = rustix::fs::setxattr(
        house.tree.at(""),
        "system.posix_acl_default",
        &acl,
        rustix::fs::XattrFlags::empty(),
    );
    if let Err(errno) = set {
        return crate::support::skip("access control lists", errno);
    }
    house.make();
    let key = house.tree.at("a.b.key");
    let acl = rustix::fs::getxattr(&key, "system.posix_acl_access", &mut [0u8; 256]);
    assert_eq!(acl, Err(rustix::io::Errno::NODATA));
    assert_eq!(mode(&key), 0o640);
}

/// Looks at every key as fast as it can, and at each as soon as the kernel tells of it.
struct Watch<'a> {
    dir: PathBuf,
    stop: &'a AtomicBool,
    seen: &'a AtomicUsize,
    unfinished: &'a AtomicUsize,
}

impl Watch<'_> {
    fn look(&self, name: &OsStr) {
        let is_key = name.as_bytes().ends_with(b".key");
        let Ok(stat) = fs::symlink_metadata(self.dir.join(name)) else { return };
        if !is_key || !stat.is_file() {
            return;
        }
        self.seen.fetch_add(1, Ordering::Relaxed);
        if name.as_bytes().starts_with(b".pctd-") {
            self.unfinished.fetch_add(1, Ordering::Relaxed);
        }
        let (mode, name) = (stat.permissions().mode() & 0o777, name.display());
        assert_eq!(mode & 0o007, 0, "{name} is {mode:o}");
        if stat.uid() == 0 {
            assert_eq!(mode & 0o077, 0, "{name} is {mode:o} before it has its owner");
        }
    }

    fn poll(&self) {
        while !self.stop.load(Ordering::Relaxed) {
            for entry in fs::read_dir(&self.dir).unwrap().flatten() {
                self.look(&entry.file_name());
            }
        }
    }

    fn listen(&self) {
        let fd = inotify::init(inotify::CreateFlags::NONBLOCK).unwrap();
        inotify::add_watch(&fd, &self.dir, inotify::WatchFlags::ALL_EVENTS).unwrap();
        let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(&fd, &mut buffer);
        while !self.stop.load(Ordering::Relaxed) {
            while let Ok(event) = events.next() {
                if let Some(name) = event.file_name() {
                    self.look(OsStr::from_bytes(name.to_bytes()));
                }
            }
        }
    }
}

/// Stops those who watch, also where a failure ends the scope that waits for them.
struct AtItsEnd<'a>(&'a AtomicBool);

impl Drop for AtItsEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_key_is_never_readable_by_others_at_any_moment() {
    let house = House::new("0666");
    set_mode(house.tree.at(""), 0o777);
    let (stop, seen, unfinished) =
        (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    let watch = Watch { dir: house.tree.at(""), stop: &stop, seen: &seen, unfinished: &unfinished };
    std::thread::scope(|scope| {
        let poll = scope.spawn(|| watch.poll());
        let listen = scope.spawn(|| watch.listen());
        let end = AtItsEnd(&stop);
        for _ in 0..100 {
            house.make();
            if poll.is_finished() || listen.is_finished() {
                break;
            }
        }
        drop(end);
        poll.join().unwrap();
        listen.join().unwrap();
    });
    let (seen, unfinished) = (seen.into_inner(), unfinished.into_inner());
    assert!(seen > 100 && unfinished > 10, "too little was seen: {seen}, {unfinished} unfinished");
}
