//! What a node is like: read anew at each call, and none that does not answer waited for for ever.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;

use pctd_core::conf::{Conf, MountLine};
use pctd_core::desired::{Mechanism, Volume};
use pctd_core::ids::Ctid;
use pctd_core::observed::{
    Accounts, BadSource, ConvertFacts, FileSystem, MakingFacts, MappingFacts, MappingSupport,
    NodeState, ObservedCertificates, ObservedContainer, ObservedEntry, ObservedVolume, Presence,
    Running, SourceState, TemplateState,
};
use pctd_core::presence::Verdict;
use pctd_core::subids::SubIds;
use pctd_core::vmlist::Fingerprint;

use crate::answers::{NoAnswer, Question};
use crate::node::Node;
use crate::paths::NodePaths;
use crate::procfs::{Locks, Sockets};
use crate::pve::ConfVersion;
use crate::source::OpenVolume;
use crate::{
    accounts, acl, backup, certificate, look, making, mapping, pve, raw_source, reach, source,
    subids,
};

impl Node {
    /// Reads the state of `/etc/pve`, and what to compare with at the next poll.
    pub fn cluster(&self) -> (NodeState, Option<Fingerprint>) {
        match self.pve() {
            Ok(pve::Pve { cluster, fingerprint }) => (NodeState::Up(cluster), Some(fingerprint)),
            Err(reason) => (NodeState::Unknown(reason), None),
        }
    }

    pub(crate) fn pve(&self) -> Result<pve::Pve, String> {
        pve::read(&self.paths, self.options().node.as_deref())
    }

    /// Looks where these containers are, and at those that are here.
    pub fn observe_containers(&self, ctids: &BTreeSet<Ctid>) -> BTreeMap<Ctid, Presence> {
        let observed = self.pve().and_then(|pve| self.observe_in(&pve, ctids));
        observed.unwrap_or_else(|reason| {
            ctids.iter().map(|ctid| (*ctid, Presence::Unknown(reason.clone()))).collect()
        })
    }

    fn observe_in(
        &self,
        pve: &pve::Pve,
        ctids: &BTreeSet<Ctid>,
    ) -> Result<BTreeMap<Ctid, Presence>, String> {
        let proc = |error: io::Error| format!("/proc: {error}");
        // A create holds the flock from before the first conf to after the last one. Only a flock
        // that is free before and after the conf is read says that the conf is whole.
        let before = Locks::read().map_err(proc)?;
        let verdicts = pve::locate_all(&self.paths, pve, ctids.iter().copied());
        let after = Locks::read().map_err(proc)?;
        let sockets = Sockets::read().map_err(proc)?;
        let held = |ctid| -> io::Result<bool> {
            Ok(before.held(&self.paths, ctid)? || after.held(&self.paths, ctid)?)
        };
        let presence = |(ctid, verdict)| {
            let presence = match verdict {
                Verdict::Here(bytes) => match held(ctid) {
                    Ok(held) => here(ctid, &bytes, held, sockets.running(&self.paths, ctid)),
                    Err(error) => Presence::Unknown(format!(
                        "{}: {error}",
                        self.paths.conf_lock(ctid).display()
                    )),
                },
                Verdict::OnNode(node) => Presence::OnNode(node),
                Verdict::Vm => Presence::Vm,
                Verdict::Absent => Presence::Absent,
                Verdict::Unknown(reason) => Presence::Unknown(reason),
            };
            (ctid, presence)
        };
        Ok(verdicts.into_iter().map(presence).collect())
    }

    /// Returns which content of its conf a container has, to tell later whether it is the same.
    ///
    /// # Errors
    ///
    /// The reason, with the path, why it cannot be told.
    pub fn conf_version(&self, ctid: Ctid) -> Result<ConfVersion, String> {
        pve::version(&self.paths, ctid)
    }

    /// Returns the confs of these containers, each on the node that `.vmlist` names for it.
    pub fn confs_elsewhere<'n>(
        &self,
        containers: impl IntoIterator<Item = (Ctid, &'n str)>,
    ) -> BTreeMap<Ctid, Result<Conf, String>> {
        let read = |(ctid, node)| (ctid, pve::conf_elsewhere(&self.paths, node, ctid));
        containers.into_iter().map(read).collect()
    }

    /// Returns the host's users and groups.
    ///
    /// # Errors
    ///
    /// Their files cannot be read.
    pub fn accounts(&self) -> io::Result<Accounts> {
        accounts::read(&self.paths)
    }

    /// Looks at the host paths of these volumes and the certificates declared for them, and waits for
    /// none for ever.
    pub fn observe_volumes<'a>(
        &self,
        volumes: impl IntoIterator<Item = &'a Volume>,
    ) -> Vec<ObservedVolume> {
        let question = |volume: &Volume| -> Question<ObservedVolume> {
            let (paths, path) = (self.paths.clone(), volume.host_path.clone());
            let (place, require_mount) = (path.clone(), volume.require_mount.clone());
            let declared = volume.certificates.clone();
            let mapping = volume.maps_ids().then(|| Arc::clone(&self.mapping));
            let made = |by: Mechanism| volume.mounts.values().any(|mount| mount.mechanism == by);
            let whole = made(Mechanism::Lxc { recursive: true });
            let by_lxc = whole || made(Mechanism::Lxc { recursive: false });
            let wants_acl = volume.default_acl.as_ref().is_some_and(|acl| !acl.is_none());
            let look = move || {
                let (source, open) = source::open_at(&paths, &place, &require_mount);
                let opened = open.as_ref().filter(|_| by_lxc);
                let nested = opened.and_then(|open| raw_source::nested(open, &place));
                let mapping_whole = match &open {
                    Some(open) if whole && mapping.is_some() && nested.is_some() => {
                        mapping::of_tree(open.fd())
                    }
                    _ => MappingSupport::NotAsked,
                };
                let mapping = mapping.and_then(|known| {
                    ask_there(&paths, &place, &source, open.as_ref(), |dir, on| known.of(dir, on))
                });
                let mapping = mapping.unwrap_or(MappingSupport::NotAsked);
                let certificates = match &open {
                    Some(open) if !declared.is_empty() => certificate::observe(open, &declared),
                    _ => ObservedCertificates::default(),
                };
                let refusal = |dir: BorrowedFd<'_>, _: &FileSystem| acl::refusal(dir);
                let no_acl = wants_acl
                    .then(|| ask_there(&paths, &place, &source, open.as_ref(), refusal).flatten())
                    .flatten()
                    .map(|errno| errno.to_string());
                let found = ObservedVolume::new(source);
                ObservedVolume { certificates, mapping, mapping_whole, nested, no_acl, ..found }
            };
            (path, Box::new(look))
        };
        let found = self.answers.ask_all(volumes.into_iter().map(question).collect());
        let volume = |found: Result<ObservedVolume, NoAnswer>| {
            let unknown = |error: NoAnswer| SourceState::Unreadable(error.to_string());
            found.unwrap_or_else(|error| ObservedVolume::new(unknown(error)))
        };
        found.into_iter().map(volume).collect()
    }

    /// Returns what is known for maps of single mounts.
    pub fn mapping_facts(&self) -> MappingFacts {
        self.mapping.facts(&self.paths, &self.pct())
    }

    /// Returns what is known for making containers: where these templates are, and at which of
    /// these containers, whose confs say that they are being made, a task is at work.
    pub fn making_facts<'t>(
        &self,
        templates: impl IntoIterator<Item = &'t str>,
        suspects: &BTreeSet<Ctid>,
    ) -> MakingFacts {
        // Their storage may be on a server that is down.
        let names: Vec<&str> = templates.into_iter().collect();
        let question = |name: &&str| -> Question<TemplateState> {
            let (paths, name) = (self.paths.clone(), (*name).to_owned());
            (name.clone(), Box::new(move || making::template(&paths, &name)))
        };
        let found = self.answers.ask_all(names.iter().map(question).collect());
        let found = found
            .into_iter()
            .map(|state| state.unwrap_or_else(|error| TemplateState::Unknown(error.to_string())));
        MakingFacts {
            clustered: making::is_clustered(&self.paths),
            templates: names.into_iter().map(str::to_owned).zip(found).collect(),
            at_work: making::at_work(&self.paths, &self.pct().program, suspects),
            cloning: BTreeSet::new(),
        }
    }

    /// Returns which ids of the host root may give to containers.
    pub fn sub_ids(&self) -> SubIds {
        subids::read(&self.paths)
    }

    /// Returns the boot of the machine; empty where the kernel does not say.
    pub fn boot_id(&self) -> String {
        let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
        id.map(|id| id.trim().to_owned()).unwrap_or_default()
    }

    /// Looks at what is `below` a directory of the node, for an explanation.
    pub fn look_at(&self, source: &str, below: &str) -> ObservedEntry {
        let paths = self.paths.clone();
        let (source, below) = (source.to_owned(), below.to_owned());
        let path = format!("{source}/{below}");
        let look = move || look::at(&paths, &source, &below);
        self.answers
            .ask(&path, look)
            .unwrap_or_else(|error| ObservedEntry::Unreadable(error.to_string()))
    }

    /// Returns what stands against the conversions of these containers beside their confs; the
    /// storages are those their backups are to be put on.
    pub fn convert_facts(
        &self,
        node: &str,
        storages: &BTreeMap<Ctid, String>,
    ) -> BTreeMap<Ctid, ConvertFacts> {
        backup::facts(&self.paths, node, storages)
    }

    /// Returns whether a container would start with this bind source: a directory that is reached
    /// without a link (`PVE::LXC::walk_tree_nofollow_fd`).
    pub fn is_bind_source(&self, path: &str) -> bool {
        let (paths, place) = (self.paths.clone(), path.to_owned());
        self.answers.ask(path, move || reach::is_directory(&paths, &place)).unwrap_or(false)
    }

    /// Returns why a container would not start with the mount of a raw line.
    pub fn fault_of(&self, line: &MountLine, is_unprivileged: bool) -> Option<BadSource> {
        let (paths, place, path) = (self.paths.clone(), line.clone(), line.source.to_string());
        let found =
            self.answers.ask(&path, move || raw_source::fault(&paths, &place, is_unprivileged));
        found.unwrap_or(Some(BadSource::Missing(path)))
    }
}

/// Asks something of the directory of a volume, or of the one that it would be made in.
fn ask_there<T>(
    paths: &NodePaths,
    path: &str,
    source: &SourceState,
    open: Option<&OpenVolume>,
    ask: impl FnOnce(BorrowedFd<'_>, &FileSystem) -> T,
) -> Option<T> {
    match (source, open) {
        (_, Some(open)) => Some(ask(open.fd(), open.file_system())),
        (SourceState::Missing { file_system }, None) => {
            source::nearest(paths, path).map(|dir| ask(dir.as_fd(), file_system))
        }
        _ => None,
    }
}

fn here(ctid: Ctid, bytes: &[u8], flock_held: bool, running: Running) -> Presence {
    match Conf::parse(ctid, bytes) {
        Ok(conf) => Presence::Here(Box::new(ObservedContainer { conf, flock_held, running })),
        Err(error) => Presence::Unknown(error.to_string()),
    }
}
