//! `storage.cfg`: the storages that are directories, for what is looked for or put there as a file.

use std::collections::BTreeMap;
use std::io;

use crate::paths::NodePaths;

/// Types of storages that are a directory which is always there.
const LOCAL_KINDS: [&str; 2] = ["dir", "btrfs"];

/// Types of storages that Proxmox mounts at `/mnt/pve/ID` when it uses them.
const MOUNTED_KINDS: [&str; 4] = ["nfs", "cifs", "cephfs", "glusterfs"];

/// A storage, as far as its files need it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Storage {
    pub(crate) kind: String,
    path: Option<String>,
    /// What may be on it, where that is said.
    content: Option<String>,
    /// Where a kind of content is below it, if elsewhere than usual.
    dirs: BTreeMap<String, String>,
    /// The nodes it is on, where it is not on all.
    nodes: Option<String>,
    is_disabled: bool,
}

impl Storage {
    /// Returns whether Proxmox mounts it when it uses it.
    pub(crate) fn is_mounted_on_use(&self) -> bool {
        MOUNTED_KINDS.contains(&self.kind.as_str())
    }

    /// Returns the directory of a kind of content; none where the storage is no directory.
    /// `usual` is where that is unless the storage says otherwise (`PVE::Storage::Plugin`).
    pub(crate) fn dir(&self, id: &str, content: &str, usual: &str) -> Option<String> {
        if !self.is_mounted_on_use() && !LOCAL_KINDS.contains(&self.kind.as_str()) {
            return None;
        }
        let base = self.path.clone().unwrap_or_else(|| format!("/mnt/pve/{id}"));
        let below = self.dirs.get(content).map_or(usual, String::as_str).trim_matches('/');
        Some(format!("{}/{below}", base.trim_end_matches('/')))
    }

    /// Returns why this node cannot put files of this kind there, if so.
    pub(crate) fn cannot_take(&self, content: &str, node: &str) -> Option<String> {
        let has = |list: &Option<String>, word: &str| {
            list.as_ref().is_some_and(|list| list.split(',').any(|item| item.trim() == word))
        };
        if self.is_disabled {
            Some("it is disabled".to_owned())
        } else if self.nodes.is_some() && !has(&self.nodes, node) {
            Some("it is not on this node".to_owned())
        } else if has(&self.content, content) {
            None
        } else {
            Some(format!("`{content}` is not among its contents"))
        }
    }
}

/// Returns the storages of a node.
///
/// # Errors
///
/// `storage.cfg` is there and cannot be read.
pub(crate) fn read(paths: &NodePaths) -> io::Result<BTreeMap<String, Storage>> {
    let text = match std::fs::read_to_string(paths.host("/etc/pve/storage.cfg")) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error),
    };
    let mut storages = parse(&text);
    // It is there without being written down (`PVE::Storage::Plugin::parse_config`).
    storages.entry("local".to_owned()).or_insert_with(|| Storage {
        kind: "dir".to_owned(),
        path: Some("/var/lib/vz".to_owned()),
        content: Some("backup,images,iso,rootdir,snippets,vztmpl".to_owned()),
        ..Storage::default()
    });
    Ok(storages)
}

/// Reads `storage.cfg`: `KIND: ID`, and below it, indented, `KEY VALUE`.
fn parse(text: &str) -> BTreeMap<String, Storage> {
    let mut storages: BTreeMap<String, Storage> = BTreeMap::new();
    let mut current = None;
    for line in text.lines().filter(|line| !line.trim_start().starts_with('#')) {
        if line.starts_with(char::is_whitespace) {
            let line = line.trim();
            let (key, value) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
            let value = value.trim().to_owned();
            let Some(storage) = current.as_ref().and_then(|id| storages.get_mut(id)) else {
                continue;
            };
            match key {
                "path" => storage.path = Some(value),
                "content" => storage.content = Some(value),
                "nodes" => storage.nodes = Some(value),
                "disable" => storage.is_disabled = value != "0",
                "content-dirs" => {
                    let dirs = value.split(',').filter_map(|dir| dir.split_once('='));
                    let owned = |text: &str| text.trim().to_owned();
                    storage.dirs = dirs.map(|(kind, dir)| (owned(kind), owned(dir))).collect();
                }
                _ => {}
            }
        } else if let Some((kind, id)) = line.split_once(':') {
            let kind = kind.trim().to_owned();
            storages.insert(id.trim().to_owned(), Storage { kind, ..Storage::default() });
            current = Some(id.trim().to_owned());
        }
    }
    storages
}
