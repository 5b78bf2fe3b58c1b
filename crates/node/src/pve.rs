//! `/etc/pve` as pmxcfs shows it: whether it can be believed, and the confs in it.
//!
//! Confs are read directly, without `pct` and its 0.7 s. Nothing is written here. Whatever cannot
//! be read whole makes the answer "unknown": an empty `/etc/pve` is a stopped pmxcfs, not a
//! cluster that lost its containers.

use std::io;
use std::path::Path;
use std::time::Duration;

use pctd_core::conf::Conf;
use pctd_core::ids::Ctid;
use pctd_core::observed::Cluster;
use pctd_core::presence::{ConfDir, ConfRead, Evidence, Verdict, judge};
use pctd_core::vmlist::{Fingerprint, Guest, Members, Vmlist, parse_starttime};
use rustix::fs::{CWD, Mode, lstat, readlinkat, stat};

use crate::paths::NodePaths;

/// How often a conf that `.vmlist` lists is looked for.
///
/// A writer's rename hides it for up to 4.6 ms (seen with the real pmxcfs); together with
/// [`RETRY_PAUSE`] this is four times as long.
const CONF_ATTEMPTS: u32 = 5;
/// The pause between two attempts.
const RETRY_PAUSE: Duration = Duration::from_millis(4);
/// How often both reads are made anew when they disagree: a conf shows about 1 ms before
/// `.vmlist` moves.
const VERDICT_ATTEMPTS: u32 = 2;

/// pmxcfs is up; what it said in one read of each file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pve {
    /// This node in its cluster.
    pub cluster: Cluster,
    /// Every guest, and what to compare at the next poll.
    pub fingerprint: Fingerprint,
}

/// Reads the state of `/etc/pve`; `node` overrides the name that `local` gives.
///
/// # Errors
///
/// The reason, with the path, why pmxcfs cannot be believed to be up.
pub fn read(paths: &NodePaths, node: Option<&str>) -> Result<Pve, String> {
    let fingerprint = Fingerprint {
        starttime: read_parsed(&paths.version(), parse_starttime)?,
        vmlist: read_parsed(&paths.vmlist(), Vmlist::parse)?,
    };
    let members = members(&paths.members())?;
    let node = match node {
        Some(node) => node.to_owned(),
        None => local_name(&paths.local())?,
    };
    if let Some(own) = members.node.filter(|own| members.clustered && *own != node) {
        // One configuration for all nodes must not make each of them act as the same one.
        return Err(format!(
            "this node of the cluster is {own}, and not {node}; take `node` out of the settings"
        ));
    }
    let (quorate, online) = (members.quorate && writable(paths)?, members.online);
    Ok(Pve { cluster: Cluster { node, quorate, online }, fingerprint })
}

/// Which content of its conf a guest has, as pmxcfs counts it; to be compared for "different" only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfVersion {
    starttime: u64,
    guest: Guest,
}

/// Returns the version of a guest's conf. Every stop of a container makes it another one, since the
/// post-stop hook writes the conf even where nothing changes (PROXMOX.md 5 and 8).
///
/// # Errors
///
/// The reason, with the path, why it cannot be told.
pub fn version(paths: &NodePaths, ctid: Ctid) -> Result<ConfVersion, String> {
    // Of a start in between the older time is taken, which is not found again.
    let starttime = read_parsed(&paths.version(), parse_starttime)?;
    let path = paths.vmlist();
    let listed = read_parsed(&path, Vmlist::parse)?;
    let guest =
        listed.get(ctid).cloned().ok_or_else(|| at(&path, &format!("{ctid} is not there")))?;
    Ok(ConfVersion { starttime, guest })
}

fn read_parsed<T, E: std::fmt::Display>(
    path: &Path,
    parse: impl FnOnce(&[u8]) -> Result<T, E>,
) -> Result<T, String> {
    let text = std::fs::read(path).map_err(|error| at(path, &error))?;
    parse(&text).map_err(|error| at(path, &error))
}

fn at(path: &Path, problem: &dyn std::fmt::Display) -> String {
    format!("{}: {problem}", path.display())
}

fn local_name(local: &Path) -> Result<String, String> {
    let target = readlinkat(CWD, local, Vec::new()).map_err(|errno| at(local, &errno))?;
    let target = target.to_str().ok().and_then(|target| target.strip_prefix("nodes/"));
    let name = target.filter(|name| !name.is_empty() && !name.contains('/'));
    name.map(str::to_owned).ok_or_else(|| at(local, &"does not lead to a directory of nodes/"))
}

fn members(path: &Path) -> Result<Members, String> {
    match std::fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Members::STANDALONE),
        Err(error) => Err(at(path, &error)),
        Ok(text) => Members::parse(&text).map_err(|error| at(path, &error)),
    }
}

/// Returns whether pmxcfs shows `local` as writable.
///
/// Proxmox tests the w bit of `lstat(/etc/pve/local)`, which pmxcfs takes away from everything
/// without quorum. The link of an ordinary directory tree always has it, so what the link leads to
/// is asked as well. `access(2)` is of no use: root always may.
fn writable(paths: &NodePaths) -> Result<bool, String> {
    let local = paths.local();
    let owner_may = |mode| Mode::from_raw_mode(mode).contains(Mode::WUSR);
    let link = lstat(&local).map_err(|errno| at(&local, &errno))?;
    let target = stat(&local).map_err(|errno| at(&local, &errno))?;
    Ok(owner_may(link.st_mode) && owner_may(target.st_mode))
}

/// Returns where a container is, with its conf where it is here.
pub fn locate(paths: &NodePaths, pve: &Pve, ctid: Ctid) -> Verdict {
    locate_with(paths, pve, &conf_dir(&paths.lxc_dir(&pve.cluster.node)), ctid)
}

/// Returns where these containers are; the directory of confs is judged once for all of them.
pub fn locate_all(
    paths: &NodePaths,
    pve: &Pve,
    ctids: impl IntoIterator<Item = Ctid>,
) -> Vec<(Ctid, Verdict)> {
    let dir = conf_dir(&paths.lxc_dir(&pve.cluster.node));
    ctids.into_iter().map(|ctid| (ctid, locate_with(paths, pve, &dir, ctid))).collect()
}

fn locate_with(paths: &NodePaths, pve: &Pve, dir: &ConfDir, ctid: Ctid) -> Verdict {
    let node = &pve.cluster.node;
    let mut verdict = locate_once(paths, node, &pve.fingerprint.vmlist, dir, ctid);
    for _ in 1..VERDICT_ATTEMPTS {
        if !matches!(verdict, Verdict::Unknown(_)) {
            break;
        }
        std::thread::sleep(RETRY_PAUSE);
        let vmlist = match read_parsed(&paths.vmlist(), Vmlist::parse) {
            Ok(read) => read,
            Err(reason) => return Verdict::Unknown(reason),
        };
        verdict = locate_once(paths, node, &vmlist, &conf_dir(&paths.lxc_dir(node)), ctid);
    }
    verdict
}

fn locate_once(
    paths: &NodePaths,
    node: &str,
    vmlist: &Vmlist,
    dir: &ConfDir,
    ctid: Ctid,
) -> Verdict {
    let listed_here = vmlist.get(ctid).is_some_and(|guest| guest.node == node);
    let conf = read_conf(&paths.conf(node, ctid), if listed_here { CONF_ATTEMPTS } else { 1 });
    judge(Evidence { ctid, node, vmlist, dir, conf })
}

/// Returns the conf of a container that `.vmlist` has on another node.
///
/// # Errors
///
/// The reason, with the path, why it cannot be read or parsed.
pub fn conf_elsewhere(paths: &NodePaths, node: &str, ctid: Ctid) -> Result<Conf, String> {
    let path = paths.conf(node, ctid);
    match read_conf(&path, CONF_ATTEMPTS) {
        ConfRead::Bytes(bytes) => Conf::parse(ctid, &bytes).map_err(|error| at(&path, &error)),
        ConfRead::Missing => Err(at(&path, &"is not there")),
        ConfRead::Failed(reason) => Err(reason),
    }
}

fn conf_dir(dir: &Path) -> ConfDir {
    let first = std::fs::read_dir(dir).and_then(|mut entries| entries.next().transpose());
    match first {
        Ok(Some(_)) => ConfDir::Filled,
        Ok(None) => ConfDir::Empty,
        Err(error) => ConfDir::Unusable(at(dir, &error)),
    }
}

fn read_conf(path: &Path, attempts: u32) -> ConfRead {
    for attempt in 1..=attempts {
        match std::fs::read(path) {
            Ok(bytes) => return ConfRead::Bytes(bytes),
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return ConfRead::Failed(at(path, &error));
            }
            Err(_) if attempt < attempts => std::thread::sleep(RETRY_PAUSE),
            Err(_) => {}
        }
    }
    ConfRead::Missing
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    const VMLIST: &str = r#"{"version":3,"ids":{"100":{"node":"vm","type":"lxc","version":2},
        "101":{"node":"other","type":"lxc","version":1},"102":{"node":"vm","type":"qemu","version":1}}}"#;

    fn node() -> (tempfile::TempDir, NodePaths) {
        let dir = tempfile::tempdir().unwrap();
        let pve = dir.path().join("etc/pve");
        fs::create_dir_all(pve.join("nodes/vm/lxc")).unwrap();
        symlink("nodes/vm", pve.join("local")).unwrap();
        fs::write(pve.join(".version"), r#"{"starttime":1,"vmlist":3}"#).unwrap();
        fs::write(pve.join(".vmlist"), VMLIST).unwrap();
        fs::write(pve.join(".members"), r#"{"nodename":"vm","version":0}"#).unwrap();
        fs::write(pve.join("nodes/vm/lxc/100.conf"), "arch: amd64\n").unwrap();
        let paths = NodePaths::new(Some(dir.path().into())).unwrap();
        (dir, paths)
    }

    fn ctid(id: u32) -> Ctid {
        Ctid::new(id).unwrap()
    }

    #[test]
    fn a_conf_has_another_version_after_a_write_or_a_start_of_pmxcfs() {
        let (dir, paths) = node();
        let before = version(&paths, ctid(100)).unwrap();
        assert_eq!(version(&paths, ctid(100)).unwrap(), before);
        let put = |name: &str, text: &str| fs::write(dir.path().join("etc/pve").join(name), text);
        put(".version", r#"{"starttime":2,"vmlist":3}"#).unwrap();
        assert_ne!(version(&paths, ctid(100)).unwrap(), before);
        put(".version", r#"{"starttime":1,"vmlist":3}"#).unwrap();
        put(".vmlist", &VMLIST.replace(r#""version":2"#, r#""version":4"#)).unwrap();
        assert_ne!(version(&paths, ctid(100)).unwrap(), before);
        assert!(version(&paths, ctid(103)).unwrap_err().contains("103 is not there"));
    }

    #[test]
    fn a_node_that_is_up_has_a_name_and_a_quorum() {
        let (_dir, paths) = node();
        let pve = read(&paths, None).unwrap();
        assert_eq!(
            pve.cluster,
            Cluster { node: "vm".into(), quorate: true, online: BTreeSet::new() }
        );
        assert_eq!(read(&paths, Some("renamed")).unwrap().cluster.node, "renamed");
        assert_eq!(locate(&paths, &pve, ctid(100)), Verdict::Here(b"arch: amd64\n".to_vec()));
        assert_eq!(locate(&paths, &pve, ctid(101)), Verdict::OnNode("other".into()));
        assert_eq!(locate(&paths, &pve, ctid(102)), Verdict::Vm);
        assert_eq!(locate(&paths, &pve, ctid(103)), Verdict::Absent);
    }

    #[test]
    fn what_is_missing_or_cut_makes_the_node_unknown_and_names_the_path() {
        for (file, content) in [
            (".version", None),
            (".vmlist", None),
            ("local", None),
            (".vmlist", Some("")),
            (".vmlist", Some(r#"{"version":3,"ids":{"#)),
            (".version", Some("{}")),
            (".members", Some("{")),
        ] {
            let (_dir, paths) = node();
            let path = paths.pve().join(file);
            fs::remove_file(&path).unwrap();
            if let Some(content) = content {
                fs::write(&path, content).unwrap();
            }
            let reason = read(&paths, None).unwrap_err();
            assert!(reason.starts_with(path.to_str().unwrap()), "{file}: {reason}");
        }
    }

    #[test]
    fn no_quorum_shows_in_members_or_in_the_mode_of_the_nodes_directory() {
        let (_dir, paths) = node();
        let members = r#"{"nodename":"vm","cluster":{"name":"c","nodes":2,"quorate":0}}"#;
        fs::write(paths.members(), members).unwrap();
        assert!(!read(&paths, None).unwrap().cluster.quorate);

        let (_dir, paths) = node();
        let dir = rustix::fs::open(paths.node_dir("vm"), rustix::fs::OFlags::RDONLY, Mode::empty());
        rustix::fs::fchmod(dir.unwrap(), Mode::from_raw_mode(0o555)).unwrap();
        assert!(!read(&paths, None).unwrap().cluster.quorate);
    }

    #[test]
    fn a_node_of_a_cluster_is_nobody_else() {
        let (_dir, paths) = node();
        let members = r#"{"nodename":"vm","cluster":{"name":"c","nodes":2,"quorate":1},
            "nodelist":{"vm":{"id":1,"online":1},"b":{"id":2,"online":0}}}"#;
        fs::write(paths.members(), members).unwrap();
        let online = BTreeSet::from(["vm".to_owned()]);
        let cluster = Cluster { node: "vm".into(), quorate: true, online };
        assert_eq!(read(&paths, Some("vm")).unwrap().cluster, cluster);
        let refused = read(&paths, Some("b")).unwrap_err();
        assert!(refused.contains("is vm, and not b"), "{refused}");
    }

    #[test]
    fn an_empty_or_missing_conf_directory_is_never_an_absence() {
        let (_dir, paths) = node();
        let pve = read(&paths, None).unwrap();
        fs::remove_file(paths.conf("vm", ctid(100))).unwrap();
        for id in [100, 103] {
            assert!(matches!(locate(&paths, &pve, ctid(id)), Verdict::Unknown(_)), "{id}");
        }
        fs::remove_dir(paths.lxc_dir("vm")).unwrap();
        let Verdict::Unknown(reason) = locate(&paths, &pve, ctid(103)) else { panic!() };
        assert!(reason.contains("nodes/vm/lxc"), "{reason}");
    }

    #[test]
    fn a_conf_that_moved_since_the_list_was_read_is_found_where_it_is_now() {
        let (_dir, paths) = node();
        fs::write(paths.conf("vm", ctid(200)), "").unwrap();
        let pve = read(&paths, None).unwrap();
        fs::remove_file(paths.conf("vm", ctid(100))).unwrap();
        fs::write(paths.vmlist(), VMLIST.replacen("vm", "other", 1)).unwrap();
        assert_eq!(locate(&paths, &pve, ctid(100)), Verdict::OnNode("other".into()));
    }

    /// pmxcfs lets readers meet ENOENT for some ms while a writer renames over a conf.
    #[test]
    fn a_conf_that_flickers_is_here() {
        let (_dir, paths) = node();
        let pve = read(&paths, None).unwrap();
        fs::write(paths.conf("vm", ctid(200)), "").unwrap();
        let conf = paths.conf("vm", ctid(100));
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let aside = conf.with_extension("aside");
                while !stop.load(Ordering::Relaxed) {
                    fs::rename(&conf, &aside).unwrap();
                    fs::rename(&aside, &conf).unwrap();
                    std::thread::sleep(Duration::from_micros(300));
                }
            });
            let verdicts: Vec<_> = (0..100).map(|_| locate(&paths, &pve, ctid(100))).collect();
            stop.store(true, Ordering::Relaxed);
            let here = Verdict::Here(b"arch: amd64\n".to_vec());
            assert!(verdicts.iter().all(|verdict| *verdict == here), "{verdicts:?}");
        });
    }
}
