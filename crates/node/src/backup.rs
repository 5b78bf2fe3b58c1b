//! The backup a container is converted from: what stands against making one, `vzdump`, and whether
//! what it made can be relied on.
//!
//! Between the end of the old disks and that of the restore the archive is all there is of the
//! container. So it has to hold every disk, by vzdump's own account, and it is read to its end with
//! the very program that unpacks it (`PVE::LXC::Create::restore_tar_archive` runs `tar`).

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead, BufReader, Read as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use pctd_core::ids::Ctid;
use pctd_core::observed::{ConvertFacts, Obstacle};

use crate::paths::NodePaths;
use crate::pct::{Deadline, Limits, Pct, PctError};
use crate::storages;

/// Where backups are below the directory of a storage (`PVE::Storage::Plugin`).
const DUMPS: &str = "dump";

/// The conf of the container in its backup.
const CONF: &str = "./etc/vzdump/pct.conf";

/// How many ids the map of an unprivileged container has (`PVE::LXC::parse_id_maps`).
const IDS: u64 = 65_536;

/// How much of what `tar` complains of is kept.
const COMPLAINT_BYTES: u64 = 4096;

/// Why there is no backup to rely on.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// `vzdump` failed.
    #[error("{error}{}", .said.as_ref().map(|said| format!(" ({said})")).unwrap_or_default())]
    Vzdump {
        /// How.
        error: PctError,
        /// The line of its log that says why.
        said: Option<String>,
    },
    /// It does not say where the archive is.
    #[error("vzdump does not say where it put the archive")]
    Nowhere,
    /// It left something out.
    #[error("vzdump left {what} out of the backup {archive}")]
    LeftOut {
        /// What.
        what: String,
        /// The archive.
        archive: String,
    },
    /// The archive cannot be read to its end.
    #[error("the backup {archive} cannot be read to its end: {why}")]
    Unreadable {
        /// The archive.
        archive: String,
        /// What was met.
        why: String,
    },
    /// The archive has no conf.
    #[error("the backup {archive} has no {CONF}")]
    NoConf {
        /// The archive.
        archive: String,
    },
    /// Something in it belongs to an id that no unprivileged container has.
    #[error(
        "{entry} in the backup {archive} belongs to {owner}, and an unprivileged container has no ids from {IDS} on; give it another owner"
    )]
    NoSuchId {
        /// The archive.
        archive: String,
        /// What `tar` says of the entry.
        entry: String,
        /// Its owner.
        owner: String,
    },
    /// pctd is to stop.
    #[error("pctd was stopped meanwhile")]
    Stopped,
}

/// Returns what stands against conversions beside the confs of the containers.
pub fn facts(
    paths: &NodePaths,
    node: &str,
    wanted: &BTreeMap<Ctid, String>,
) -> BTreeMap<Ctid, ConvertFacts> {
    if wanted.is_empty() {
        return BTreeMap::new();
    }
    let managed = sections(paths, "/etc/pve/ha/resources.cfg");
    let replicated = sections(paths, "/etc/pve/replication.cfg");
    let excluded = excluded(paths);
    let each = |(ctid, storage): (&Ctid, &String)| {
        let mut obstacles = Vec::new();
        let of =
            |found: &Result<Vec<String>, Obstacle>, is_its: &dyn Fn(&str) -> bool, obstacle| {
                match found {
                    Ok(ids) => ids.iter().any(|id| is_its(id)).then_some(obstacle),
                    Err(unreadable) => Some(unreadable.clone()),
                }
            };
        let id = ctid.to_string();
        obstacles.extend(on_storage(paths, storage, node));
        let is_service = |name: &str| name == id;
        obstacles.extend(of(&managed, &is_service, Obstacle::HighAvailability(*ctid)));
        // `TYPE: CTID-NUMBER`
        let is_job = |name: &str| name.split('-').next() == Some(id.as_str());
        obstacles.extend(of(&replicated, &is_job, Obstacle::Replication));
        obstacles.extend(excluded.clone());
        (*ctid, ConvertFacts { obstacles })
    };
    wanted.iter().map(each).collect()
}

fn on_storage(paths: &NodePaths, id: &str, node: &str) -> Option<Obstacle> {
    let why = match storages::read(paths) {
        Err(error) => {
            let path = "/etc/pve/storage.cfg".to_owned();
            return Some(Obstacle::Unreadable { path, why: error.to_string() });
        }
        Ok(storages) => match storages.get(id) {
            None => Some("it is not in /etc/pve/storage.cfg".to_owned()),
            Some(storage) => storage.cannot_take("backup", node).or_else(|| {
                let is_files = storage.dir(id, "backup", DUMPS).is_some();
                let kind = &storage.kind;
                (!is_files).then(|| format!("it is of type {kind}, and only a file can be checked"))
            }),
        },
    };
    why.map(|why| Obstacle::Storage { storage: id.to_owned(), why })
}

/// Returns the names of the sections of a file of Proxmox, `TYPE: NAME`; none where it is not there.
fn sections(paths: &NodePaths, path: &str) -> Result<Vec<String>, Obstacle> {
    let text = read(paths, path)?;
    let heads = text.lines().filter(|line| !line.starts_with([' ', '\t', '#']));
    Ok(heads.filter_map(|line| Some(line.split_once(':')?.1.trim().to_owned())).collect())
}

/// Returns the paths that `/etc/vzdump.conf` keeps out of every backup (`PVE::VZDump::new` adds them
/// to those of the command line, so that nothing there takes them back).
fn excluded(paths: &NodePaths) -> Option<Obstacle> {
    let text = match read(paths, "/etc/vzdump.conf") {
        Ok(text) => text,
        Err(unreadable) => return Some(unreadable),
    };
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix("exclude-path:"))?;
    let what = line.trim();
    (!what.is_empty()).then(|| Obstacle::Excluded(what.to_owned()))
}

fn read(paths: &NodePaths, path: &str) -> Result<String, Obstacle> {
    match std::fs::read(paths.host(path)) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(Obstacle::Unreadable { path: path.to_owned(), why: error.to_string() }),
    }
}

/// A backup that `vzdump` has made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// Where it is, as a path of the node.
    pub archive: String,
    /// A disk of the container that is not in it.
    left_out: Option<String>,
}

impl Made {
    /// Returns whether everything is in it, by `vzdump`'s own account.
    ///
    /// # Errors
    ///
    /// [`BackupError::LeftOut`].
    pub fn is_whole(&self) -> Result<(), BackupError> {
        let left_out = |what: &String| BackupError::LeftOut {
            what: what.clone(),
            archive: self.archive.clone(),
        };
        self.left_out.as_ref().map(left_out).map_or(Ok(()), Err)
    }
}

/// How `vzdump` is run.
#[derive(Debug, Clone)]
pub struct Vzdump(Pct);

impl Vzdump {
    /// Returns it as a program that is run like `pct`.
    pub(crate) const fn new(program: Pct) -> Self {
        Self(program)
    }

    /// Backs a container up.
    ///
    /// `disks` are the mount points that must be in it; a backup that lacks one is made all the same,
    /// and is to be told of. Nothing is left out by default
    /// (`--stdexcludes`), no backup of before is pruned (`--remove`) and this one is by nobody
    /// (`--protected`). Told to end it cleans up after itself.
    ///
    /// # Errors
    ///
    /// [`BackupError`]; the container is as it was.
    pub fn back_up(
        &self,
        ctid: Ctid,
        storage: &str,
        disks: &BTreeSet<String>,
        limits: Limits<'_>,
    ) -> Result<Made, BackupError> {
        let ctid = ctid.to_string();
        let args = ["--mode", "stop", "--compress", "zstd", "--stdexcludes", "0"];
        let keep = ["--remove", "0", "--protected", "1"];
        let args = [&[&*ctid, "--storage", storage][..], &args, &keep].concat();
        let program = Pct { grace: self.0.grace.max(limits.grace), ..self.0.clone() };
        let (called, log) = program.call(&args, Deadline::Limits(limits));
        called.map_err(|error| {
            if limits.stop.load(Ordering::Relaxed) {
                return BackupError::Stopped;
            }
            BackupError::Vzdump { error, said: complaint(&log) }
        })?;
        read_log(&log, &ctid, disks)
    }
}

/// Returns the line of a log that says why a backup failed.
fn complaint(log: &str) -> Option<String> {
    let mut lines = log.lines().filter_map(|line| line.strip_prefix("ERROR: "));
    lines.next().map(str::to_owned)
}

/// Returns the archive that a log names, and whether these disks are in it and nothing else was left
/// out.
fn read_log(log: &str, ctid: &str, disks: &BTreeSet<String>) -> Result<Made, BackupError> {
    let mut missing = disks.clone();
    let mut excluded = None;
    let mut archive = None;
    for line in log.lines().filter_map(|line| line.strip_prefix("INFO: ")) {
        if let Some(rest) = line.strip_prefix("including mount point ") {
            missing.remove(rest.split(' ').next().unwrap_or_default());
        } else if let Some(rest) = line.strip_prefix("excluding ") {
            // Bind mounts and devices are no part of a container's disks; their lines in the conf are.
            if rest.starts_with("volume mount point ") || !rest.contains("(not a volume)") {
                excluded.get_or_insert_with(|| rest.to_owned());
            }
        } else if let Some(rest) = line.strip_prefix("creating vzdump archive '") {
            archive = rest.strip_suffix('\'').map(str::to_owned);
        }
    }
    let left_out = excluded.or_else(|| missing.pop_first());
    let archive = archive.ok_or(BackupError::Nowhere)?;
    let name = Path::new(&archive).file_name().unwrap_or_default().to_string_lossy();
    let is_its = archive.starts_with('/') && name.starts_with(&format!("vzdump-lxc-{ctid}-"));
    if is_its { Ok(Made { archive, left_out }) } else { Err(BackupError::Nowhere) }
}

/// Reads an archive to its end; returns how many entries it has.
///
/// # Errors
///
/// [`BackupError`]; it is not to be relied on.
pub fn check(archive: &Path, unprivileged: bool, stop: &AtomicBool) -> Result<u64, BackupError> {
    let name = || archive.display().to_string();
    let unreadable = |why: String| BackupError::Unreadable { archive: name(), why };
    let failed = |error: io::Error| unreadable(error.to_string());
    let mut child = Command::new("tar")
        .args(["--zstd", "--numeric-owner", "-tvf"])
        .arg(archive)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let complaints = child.stderr.take().map(|stderr| {
        std::thread::spawn(move || {
            let mut stderr = stderr.take(COMPLAINT_BYTES);
            let mut text = Vec::new();
            // What cannot be read says nothing; what does not fit must not block it.
            let _unread = stderr.read_to_end(&mut text);
            let _rest = io::copy(stderr.get_mut(), &mut io::sink());
            text
        })
    });
    let mut listing = Listing { archive: name(), entries: 0, has_conf: false, unprivileged };
    let listed = match child.stdout.take() {
        Some(stdout) => listing.read(BufReader::new(stdout), stop),
        None => Ok(()),
    };
    if listed.is_err() {
        // It only reads; whether it was there to be ended does not matter.
        let _ended = child.kill();
    }
    let status = child.wait().map_err(failed)?;
    let complaints = complaints.and_then(|thread| thread.join().ok()).unwrap_or_default();
    listed.map_err(|error| match error {
        ListError::Io(error) => failed(error),
        ListError::Refused(error) => error,
    })?;
    if !status.success() {
        let text = String::from_utf8_lossy(&complaints).into_owned();
        let first = text.lines().next().map_or_else(|| status.to_string(), str::to_owned);
        return Err(unreadable(first));
    }
    if !listing.has_conf {
        return Err(BackupError::NoConf { archive: name() });
    }
    Ok(listing.entries)
}

/// What was seen of a listing by `tar -tv`.
struct Listing {
    /// What it is a listing of.
    archive: String,
    entries: u64,
    has_conf: bool,
    unprivileged: bool,
}

enum ListError {
    Io(io::Error),
    Refused(BackupError),
}

impl Listing {
    /// Reads the lines; names in them are quoted, so that each entry has one.
    fn read(&mut self, mut lines: impl BufRead, stop: &AtomicBool) -> Result<(), ListError> {
        let mut line = Vec::new();
        loop {
            if stop.load(Ordering::Relaxed) {
                return Err(ListError::Refused(BackupError::Stopped));
            }
            line.clear();
            if lines.read_until(b'\n', &mut line).map_err(ListError::Io)? == 0 {
                return Ok(());
            }
            self.entry(&String::from_utf8_lossy(&line)).map_err(ListError::Refused)?;
        }
    }

    /// Takes one line in: `MODE UID/GID SIZE DATE TIME NAME`.
    fn entry(&mut self, line: &str) -> Result<(), BackupError> {
        let line = line.trim_end();
        self.entries += 1;
        self.has_conf |= line.ends_with(&format!(" {CONF}"));
        let owner = line.split_whitespace().nth(1).unwrap_or_default();
        // What no number stands for is not known to be one that fits.
        let fits = |id: &str| id.parse::<u64>().is_ok_and(|id| id < IDS);
        if self.unprivileged && !owner.split('/').all(fits) {
            let (entry, owner) = (line.to_owned(), owner.to_owned());
            return Err(BackupError::NoSuchId { archive: self.archive.clone(), entry, owner });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "INFO: starting new backup job: vzdump 157 --mode stop --storage local\n\
        INFO: including mount point rootfs ('/') in backup\n\
        INFO: excluding bind mount point mp0 ('/a') from backup (not a volume)\n\
        INFO: including mount point mp2 ('/data/v2') in backup\n\
        INFO: creating vzdump archive '/var/lib/vz/dump/vzdump-lxc-157-2026_11_23-16_27_16.tar.zst'\n\
        INFO: Finished Backup of VM 157 (00:00:02)\n";

    fn disks(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_log_says_where_the_archive_is_and_what_is_in_it() {
        let archive = "/var/lib/vz/dump/vzdump-lxc-157-2026_11_23-16_27_16.tar.zst";
        let read = |log: &str, names: &[&str]| read_log(log, "157", &disks(names));
        let whole = read(LOG, &["mp2", "rootfs"]).unwrap();
        assert_eq!((whole.archive.as_str(), whole.is_whole().is_ok()), (archive, true));
        // What was left out does not keep the archive from being there.
        let lacks = |log: &str, names: &[&str]| {
            let made = read(log, names).unwrap();
            assert_eq!(made.archive, archive);
            made.is_whole().unwrap_err().to_string()
        };
        let what = format!("vzdump left mp3 out of the backup {archive}");
        assert_eq!(lacks(LOG, &["mp3"]), what);
        let out = "INFO: excluding volume mount point mp1 ('/data/vol') from backup (disabled)\n";
        assert!(lacks(&format!("{LOG}{out}"), &["rootfs"]).contains("left volume mount point mp1"));
        let other = LOG.replace("vzdump-lxc-157-", "vzdump-lxc-158-");
        assert!(matches!(read(&other, &["rootfs"]), Err(BackupError::Nowhere)));
        assert!(matches!(read("", &[]), Err(BackupError::Nowhere)));
    }

    #[test]
    fn an_entry_of_an_id_that_the_map_lacks_is_refused() {
        let refuses = |line: &str, unprivileged| {
            let archive = "/dump/a.tar.zst".to_owned();
            let mut listing = Listing { archive, entries: 0, has_conf: false, unprivileged };
            let refused = listing.entry(line).err();
            // Whoever gives the entry another owner does not need that backup any more.
            refused.is_some_and(|error| error.to_string().contains("/dump/a.tar.zst"))
        };
        let line = |owner: &str| format!("-rw-r--r-- {owner}  0 2026-11-23 16:27 ./srv/a b");
        assert!(!refuses(&line("0/65535"), true));
        assert!(refuses(&line("0/65536"), true));
        assert!(refuses(&line("100000/0"), true));
        assert!(!refuses(&line("100000/0"), false));
        assert!(refuses(&line("root/root"), true));
        assert!(!refuses("crw-rw-rw- 0/0 1,3 2026-11-23 16:27 ./dev/null", true));
    }

    #[test]
    fn what_stands_against_a_conversion_is_read_from_the_node() {
        let dir = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let paths = NodePaths::new(Some(dir.path().into())).unwrap();
        let ctid = |id| Ctid::new(id).unwrap();
        let reasons = |id: u32, storage: &str| -> Vec<String> {
            let wanted = BTreeMap::from([(ctid(id), storage.to_owned())]);
            let found = facts(&paths, "pve", &wanted).remove(&ctid(id)).unwrap();
            found.obstacles.iter().map(ToString::to_string).collect()
        };
        assert_eq!(reasons(100, "local"), [""; 0]);
        put(
            "etc/pve/storage.cfg",
            "dir: local\n\tpath /var/lib/vz\n\tcontent iso,vztmpl\n\nzfspool: quick\n\tpool a\n\tcontent backup\n\n\
             nfs: far\n\tserver b\n\tcontent backup\n\tnodes pve2,pve3\n\ndir: off\n\tpath /x\n\tdisable\n\tcontent backup\n\n\
             nfs: near\n\tserver c\n\tcontent images,backup\n\tnodes pve\n",
        );
        assert_eq!(reasons(100, "near"), [""; 0]);
        for (storage, why) in [
            ("local", "`backup` is not among its contents"),
            ("quick", "it is of type zfspool"),
            ("far", "it is not on this node"),
            ("off", "it is disabled"),
            ("none", "it is not in /etc/pve/storage.cfg"),
        ] {
            let found = reasons(100, storage);
            assert!(found.len() == 1 && found[0].contains(why), "{found:?}");
        }
        put("etc/pve/ha/resources.cfg", "ct: 101\n\tstate started\n\nvm: 103\n");
        put("etc/pve/replication.cfg", "local: 102-0\n\ttarget pve2\n");
        assert_eq!(reasons(100, "near"), [""; 0]);
        assert!(reasons(101, "near")[0].contains("HA"));
        assert!(reasons(102, "near")[0].contains("replicated"));
        put("etc/vzdump.conf", "#exclude-path: /no\ntmpdir: /x\nexclude-path: /var/cache\n");
        assert!(reasons(100, "near")[0].contains("/var/cache"));
    }
}
