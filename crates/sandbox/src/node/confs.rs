//! Confs of a simulated node, as others than Proxmox and pctd read, write and lock them.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use pctd_core::ids::Ctid;

use super::{Node, make_dir};
use crate::error::NodeError;
use crate::flock::{self, FlockGuard};

impl Node {
    /// Returns the path of a container's conf on this node.
    pub fn conf_path(&self, ctid: Ctid) -> Result<PathBuf, NodeError> {
        Ok(self.root.conf(&self.settings()?.node, &ctid.to_string()))
    }

    /// Reads a container's conf, wherever in the cluster it is; `None` if there is none.
    pub fn read_conf(&self, ctid: Ctid) -> Result<Option<Vec<u8>>, NodeError> {
        let Some((node, "lxc")) = self.pmxcfs().owner(&ctid.to_string()) else { return Ok(None) };
        let path = self.root.conf(&node, &ctid.to_string());
        crate::file::read(&path).map_err(|error| NodeError::io(&path, error))
    }

    /// Writes a conf on this node as an editor does: without Proxmox's flock, whatever it says.
    pub fn write_conf(&self, ctid: Ctid, content: impl AsRef<[u8]>) -> Result<(), NodeError> {
        let id = ctid.to_string();
        let own = self.settings()?.node;
        if let Some((node, kind)) =
            self.pmxcfs().owner(&id).filter(|(node, kind)| *node != own || *kind != "lxc")
        {
            return Err(NodeError::Conflict(format!("{id} is a guest of {node} ({kind}) already")));
        }
        let path = self.root.conf(&own, &id);
        self.pmxcfs()
            .write(&own, &id, content.as_ref(), Duration::ZERO)
            .map_err(|error| NodeError::io(&path, error))
    }

    /// Writes the conf of a virtual machine on this node.
    pub fn write_vm_conf(&self, id: Ctid, content: impl AsRef<[u8]>) -> Result<(), NodeError> {
        let path =
            self.root.guests(&self.settings()?.node, "qemu-server").join(format!("{id}.conf"));
        crate::file::replace(&path, content.as_ref())
            .map_err(|error| NodeError::io(&path, error))?;
        self.pmxcfs().touched(&id.to_string())
    }

    /// Removes a conf of this node.
    pub fn remove_conf(&self, ctid: Ctid) -> Result<(), NodeError> {
        let (path, node) = (self.conf_path(ctid)?, self.settings()?.node);
        let removed = self.pmxcfs().remove(&node, &ctid.to_string());
        removed.map_err(|error| NodeError::io(&path, error))
    }

    /// Moves a container's conf to another node of the cluster, as a migration does.
    pub fn move_to(&self, ctid: Ctid, node: &str) -> Result<(), NodeError> {
        let id = ctid.to_string();
        let owner = self.pmxcfs().owner(&id);
        let (from, _) = owner.ok_or_else(|| NodeError::Conflict(format!("{id} is on no node")))?;
        let path = self.root.conf(node, &id);
        make_dir(&self.root.guests(node, "lxc"))?;
        fs::rename(self.root.conf(&from, &id), &path)
            .map_err(|error| NodeError::io(&path, error))?;
        self.pmxcfs().touched(&id)
    }

    /// Holds the flock of a conf, as another writer would, until the guard is dropped.
    pub fn hold_flock(&self, ctid: Ctid) -> Result<FlockGuard, NodeError> {
        let path = self.root.flock(&ctid.to_string());
        flock::hold(&path).map_err(|error| NodeError::io(&path, error))
    }
}
