//! A simulated cluster: some nodes, each with its own view of one `/etc/pve`.
//!
//! A change by one node (`pct`, or what this module does as an admin on it) shows in the views of all
//! nodes it reaches; each counts it in a `.vmlist` of its own. Nodes can be cut off from each other,
//! and notice it later: until then their writes hang, as they do for about 6.5 s on the real one. What
//! is edited in a view directly, past this module, stays in that view.
//!
//! A change that comes from another node raises events here, which on the real file system it does not.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pctd_core::conf::Conf;
use pctd_core::ids::Ctid;

use crate::cluster::shared::{Member, Shared, copy_view, has_majority};
use crate::error::NodeError;
use crate::node::{Node, NodeOptions};
use crate::paths::Root;

pub(crate) mod shared;

/// A cluster in a directory.
#[derive(Debug, Clone)]
pub struct Cluster {
    shared: Shared,
    nodes: BTreeMap<String, Node>,
}

/// Where a container came to be, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Since when.
    pub since: SystemTime,
    /// The container.
    pub ctid: Ctid,
    /// The node; none: it was removed.
    pub node: Option<String>,
}

impl Cluster {
    /// Makes a cluster of new nodes, each in the directory of its name, as `options` say.
    pub fn create(dir: &Path, names: &[&str], options: &NodeOptions) -> Result<Self, NodeError> {
        let failed = |error| NodeError::io(dir, error);
        let shared = Shared::new(dir.join("cluster"));
        let mut nodes = BTreeMap::new();
        let mut members = Vec::new();
        for name in names {
            let peers = names.iter().filter(|peer| *peer != name).map(ToString::to_string);
            let options =
                NodeOptions { name: (*name).to_owned(), peers: peers.collect(), ..options.clone() };
            let node = Node::create(dir.join(name), options)?;
            // Their counters have nothing to do with each other.
            for _ in 0..nodes.len() {
                node.pmxcfs().restart()?;
            }
            shared.join(node.paths()).map_err(failed)?;
            let root = node.root().to_owned();
            members.push(Member { name: (*name).to_owned(), root, side: 0 });
            nodes.insert((*name).to_owned(), node);
        }
        shared.set_members(&members).map_err(failed)?;
        let cluster = Self { shared, nodes };
        cluster.notice()?;
        Ok(cluster)
    }

    /// Returns a node.
    ///
    /// # Panics
    ///
    /// There is none of this name.
    pub fn node(&self, name: &str) -> &Node {
        self.nodes.get(name).expect("a node of the cluster")
    }

    /// Returns all nodes by name.
    pub const fn nodes(&self) -> &BTreeMap<String, Node> {
        &self.nodes
    }

    /// Cuts these nodes off from the others, together. Nothing shows it before [`Self::notice`].
    pub fn cut(&self, names: &[&str]) -> Result<(), NodeError> {
        self.change_sides(|members| {
            let side = members.iter().map(|member| member.side).max().unwrap_or_default() + 1;
            let cut = members.iter_mut().filter(|member| names.contains(&member.name.as_str()));
            cut.for_each(|member| member.side = side);
        })
    }

    /// Shows on every node what it reaches.
    pub fn notice(&self) -> Result<(), NodeError> {
        let _held = self.lock()?;
        self.show()
    }

    /// Lets all nodes reach each other again, as all of them see at once.
    pub fn heal(&self) -> Result<(), NodeError> {
        let _held = self.lock()?;
        let mut members = self.members()?;
        let source = self.source(&members).map(|member| self.view(member));
        for member in &mut members {
            let node = self.node(&member.name);
            if let Some(source) = source.as_ref().filter(|_| node.pmxcfs().is_up()) {
                copy_view(source, &node.paths().etc_pve())
                    .map_err(|error| NodeError::io(node.root(), error))?;
                node.pmxcfs().refresh()?;
            }
            member.side = 0;
        }
        self.set_members(&members)?;
        self.show()
    }

    /// Stops the cluster file system of one node; the others go on.
    pub fn stop_pmxcfs(&self, name: &str) -> Result<(), NodeError> {
        let _held = self.lock()?;
        self.node(name).stop_pmxcfs()
    }

    /// Starts it again, with what changed meanwhile; its counters begin anew.
    pub fn start_pmxcfs(&self, name: &str) -> Result<(), NodeError> {
        let _held = self.lock()?;
        let (members, node) = (self.members()?, self.node(name));
        let side = members.iter().find(|member| member.name == name).map(|member| member.side);
        let source =
            self.source(&members).filter(|_| side.is_some_and(|s| has_majority(&members, s)));
        if let Some(source) = source {
            copy_view(&self.view(source), &node.aside())
                .map_err(|error| NodeError::io(node.root(), error))?;
        }
        node.start_pmxcfs()?;
        self.show()
    }

    /// Moves the conf of a container to another node, as `mv` on the node `on` does.
    pub fn move_conf(&self, on: &str, ctid: Ctid, to: &str) -> Result<(), NodeError> {
        let node = self.node(on);
        let id = ctid.to_string();
        let (from, _) = node
            .pmxcfs()
            .owner(&id)
            .ok_or_else(|| NodeError::Conflict(format!("{id} is on no node")))?;
        let path = node.paths().conf(to, &id);
        let moved = |root: &Root| fs::rename(root.conf(&from, &id), root.conf(to, &id));
        let moved = self.shared.change(on, Some(&id), &moved);
        moved.map_err(|error| NodeError::io(&path, error))?;
        self.shared.note(&id, Some(to)).map_err(|error| NodeError::io(&path, error))
    }

    /// Migrates a container as `pct migrate --restart` does: locked while its disk is copied, stopped
    /// where it ran and started where it goes.
    pub fn migrate(&self, ctid: Ctid, to: &str, copy: Duration) -> Result<(), NodeError> {
        let id = ctid.to_string();
        let from = self.place(ctid)?;
        let from = from.ok_or_else(|| NodeError::Conflict(format!("{id} is on no node")))?;
        let (source, target) = (self.node(&from), self.node(to));
        let held = source.hold_flock(ctid)?;
        let ran = source.is_running(ctid);
        self.relock(&from, ctid, |conf| conf.current.set("lock", "migrate"))?;
        if ran {
            // `vm_stop` by the migration itself, which holds the lock.
            drop(held);
            self.relock(&from, ctid, |conf| drop(conf.current.remove("lock")))?;
            source.stop_ct(ctid)?;
            self.relock(&from, ctid, |conf| conf.current.set("lock", "migrate"))?;
        }
        std::thread::sleep(copy);
        for volume in source.volumes()?.iter().filter(|name| name.contains(&format!("/vm-{id}-"))) {
            if !target.volumes()?.contains(volume) {
                target.create_volume(volume, 1 << 30)?;
            }
        }
        self.move_conf(&from, ctid, to)?;
        self.relock(to, ctid, |conf| drop(conf.current.remove("lock")))?;
        if ran {
            target.start_ct(ctid)?;
        }
        Ok(())
    }

    fn relock(
        &self,
        node: &str,
        ctid: Ctid,
        change: impl FnOnce(&mut Conf),
    ) -> Result<(), NodeError> {
        let path = self.node(node).paths().conf(node, &ctid.to_string());
        let failed = |error| NodeError::io(&path, error);
        let bytes = fs::read(&path).map_err(failed)?;
        let mut conf = Conf::parse(ctid, &bytes).map_err(|e| failed(io::Error::other(e)))?;
        change(&mut conf);
        let text = conf.rewritten().map_err(|e| failed(io::Error::other(e.to_string())))?;
        self.node(node).write_conf(ctid, text)
    }

    /// Returns the node that has a container, as those know that have a majority.
    pub fn place(&self, ctid: Ctid) -> Result<Option<String>, NodeError> {
        let members = self.members()?;
        let source = self.source(&members).map(|member| self.node(&member.name).pmxcfs());
        let owner = source.and_then(|pmxcfs| pmxcfs.owner(&ctid.to_string()));
        Ok(owner.map(|(node, _)| node))
    }

    /// Writes a file of `/etc/pve` on one node, as an editor does there.
    pub fn write_file(&self, on: &str, path: &str, text: &str) -> Result<(), NodeError> {
        let write = |root: &Root| crate::file::replace(&root.etc_pve().join(path), text.as_bytes());
        self.shared.change(on, None, &write).map_err(|error| NodeError::io(Path::new(path), error))
    }

    /// Returns where containers came to be so far, in order.
    pub fn places(&self) -> Result<Vec<Place>, NodeError> {
        let moves =
            self.shared.moves().map_err(|error| NodeError::io(Path::new("moves"), error))?;
        let place = |moved: shared::Moved| {
            let since = UNIX_EPOCH + Duration::from_millis(moved.at);
            Some(Place { since, ctid: moved.id.parse().ok()?, node: moved.node })
        };
        Ok(moves.into_iter().filter_map(place).collect())
    }

    fn change_sides(&self, change: impl FnOnce(&mut Vec<Member>)) -> Result<(), NodeError> {
        let _held = self.lock()?;
        let mut members = self.members()?;
        change(&mut members);
        self.set_members(&members)
    }

    fn view(&self, member: &Member) -> PathBuf {
        self.node(&member.name).paths().etc_pve()
    }

    /// Returns whose view has all changes: one of the majority, or anybody where there is none.
    fn source<'m>(&self, members: &'m [Member]) -> Option<&'m Member> {
        let is_up = |member: &&Member| self.node(&member.name).pmxcfs().is_up();
        let majority = |member: &&Member| has_majority(members, member.side);
        let up = || members.iter().filter(is_up);
        up().find(majority).or_else(|| up().next())
    }

    fn show(&self) -> Result<(), NodeError> {
        let members = self.members()?;
        for member in &members {
            let node = self.node(&member.name);
            if node.pmxcfs().is_up() {
                let others = members.iter().filter(|other| other.side != member.side);
                let offline: BTreeSet<String> = others.map(|other| other.name.clone()).collect();
                node.show_quorum(has_majority(&members, member.side), &offline)?;
            }
        }
        Ok(())
    }

    fn lock(&self) -> Result<fs::File, NodeError> {
        self.shared.lock().map_err(|error| NodeError::io(Path::new("cluster lock"), error))
    }

    fn members(&self) -> Result<Vec<Member>, NodeError> {
        self.shared.members().map_err(|error| NodeError::io(Path::new("members"), error))
    }

    fn set_members(&self, members: &[Member]) -> Result<(), NodeError> {
        self.shared.set_members(members).map_err(|error| NodeError::io(Path::new("members"), error))
    }
}
