//! What a path means: on the host or in the container, through which mount, of which volume.

use super::binds::{self, Bind};
use crate::conf::normalise_path;
use crate::desired::Desired;
use crate::ids::{Ctid, VolumeName};
use crate::observed::{Presence, Snapshot};

/// A path, and what it is below.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// As it was typed.
    pub asked: String,
    /// The directory of the host it is below: a mount's source, a volume's, or `/`.
    pub source: String,
    /// The rest of it; empty where it is that directory itself.
    pub below: String,
    /// In the container, where it is there.
    pub inside: Option<String>,
    /// The mount it is reached through.
    pub mount: Option<Bind>,
    /// The volume it belongs to.
    pub volume: Option<VolumeName>,
}

impl Located {
    /// Returns the path on the host.
    pub fn host(&self) -> String {
        join(&self.source, &self.below)
    }
}

/// Finds out what a path means: below a source that the container mounts it is the host's, below a
/// target the container's, else below a volume or anywhere the host's.
///
/// # Errors
///
/// In words, why the path means nothing.
pub fn locate(
    desired: &Desired,
    snapshot: &Snapshot,
    ctid: Ctid,
    asked: &str,
) -> Result<Located, String> {
    if !asked.starts_with('/') || asked.split('/').any(|part| part == "..") {
        return Err(format!("{asked:?} is no absolute path without `..`"));
    }
    let path = normalise_path(asked.as_bytes()).to_string();
    let binds = match snapshot.containers.get(&ctid) {
        Some(Presence::Here(container)) => binds::of(snapshot, ctid, container),
        _ => Vec::new(),
    };
    let by_source = nearest(&binds, |bind| rest(&path, &bind.source));
    let by_target = nearest(&binds, |bind| rest(&path, &bind.target));
    let volume_of = |host: &str| {
        let volumes = desired.volumes.values().filter(|v| rest(host, &v.host_path).is_some());
        volumes.max_by_key(|volume| volume.host_path.len())
    };
    let mounted = by_source.or(by_target);
    let (source, below) = match (&mounted, volume_of(&path)) {
        (Some((bind, below)), _) => (bind.source.clone(), below.clone()),
        (None, Some(volume)) => {
            let below = rest(&path, &volume.host_path).unwrap_or_default();
            (volume.host_path.clone(), below.to_owned())
        }
        (None, None) => ("/".to_owned(), path.trim_start_matches('/').to_owned()),
    };
    let volume = volume_of(&join(&source, &below)).map(|volume| volume.name.clone());
    Ok(Located {
        asked: asked.to_owned(),
        inside: mounted.as_ref().map(|(bind, below)| join(&bind.target, below)),
        mount: mounted.map(|(bind, _)| bind.clone()),
        source,
        below,
        volume,
    })
}

/// Returns the mount that leaves the least of a path, with what it leaves.
fn nearest<'b, 'p>(
    binds: &'b [Bind],
    left: impl Fn(&Bind) -> Option<&'p str>,
) -> Option<(&'b Bind, String)> {
    let each = binds.iter().filter_map(|bind| Some((bind, left(bind)?)));
    let found = each.min_by_key(|(_, left)| left.len());
    found.map(|(bind, left)| (bind, left.to_owned()))
}

/// Returns what of a path is below a directory.
fn rest<'p>(path: &'p str, directory: &str) -> Option<&'p str> {
    if directory == "/" {
        return Some(path.trim_start_matches('/'));
    }
    let left = path.strip_prefix(directory)?;
    if left.is_empty() { Some(left) } else { left.strip_prefix('/') }
}

fn join(directory: &str, below: &str) -> String {
    match (directory, below) {
        (directory, "") => directory.to_owned(),
        ("/", below) => format!("/{below}"),
        (directory, below) => format!("{directory}/{below}"),
    }
}
