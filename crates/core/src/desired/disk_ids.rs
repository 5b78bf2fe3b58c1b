//! Whose ids stand on the disk: the declaration of per-mount id maps.

use crate::idmap::{IdKind, IdMap, IdRange};
use crate::ids::{Ctid, HostIds};

/// How ids inside the containers stand on the disk below a volume, for all of them alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskIds {
    /// Every id inside is the same on disk.
    Passthrough,
    /// As in an id map: ids inside (`container`) and on disk (`host`).
    Ranges(IdMap),
    /// Root inside is whoever the root directory belongs to, and every other id as far from it as
    /// it is from 0 inside.
    Owner,
    /// As this container has them without a map of its mount.
    Container(Ctid),
}

/// What one mount says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountIds {
    /// Its mount has no map: ids are on disk as on the host.
    Plain,
    /// This instead of what the volume says.
    Disk(DiskIds),
}

/// How many ids a container has that Proxmox makes without being told otherwise.
pub const USUAL_COUNT: u64 = 65_536;

impl DiskIds {
    /// Returns the space in which these are the ids of root, [`USUAL_COUNT`] ids large.
    pub fn from_root(root: HostIds) -> IdMap {
        let range = |kind, id| IdRange {
            kind,
            container: 0,
            host: u64::from(id),
            count: USUAL_COUNT.min(u64::from(u32::MAX - id)),
        };
        IdMap::new(vec![range(IdKind::User, root.uid), range(IdKind::Group, root.gid)])
    }
}
