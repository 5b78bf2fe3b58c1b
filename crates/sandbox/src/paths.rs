//! Where everything of a node lies below its root directory.
//!
//! `pct` of the sandbox finds the root by `PCTD_SANDBOX_ROOT`, or by having been run as
//! `DIR/usr/sbin/pct`. Host paths that stand in a conf (`/srv/h1`) mean `DIR/srv/h1`.

use std::ffi::{OsStr, OsString};
use std::path::{Component, Path, PathBuf};

/// The environment variable that names the root directory.
pub const ROOT_VARIABLE: &str = "PCTD_SANDBOX_ROOT";

/// The root directory of a simulated node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root(PathBuf);

/// No way to tell which node a program shall work on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "no node directory: set {ROOT_VARIABLE}, or run this program as DIR/usr/sbin/pct (it was run as `{program}`)"
)]
pub struct RootUnknown {
    program: String,
}

impl Root {
    /// Returns the root at this path, made absolute without following links.
    pub fn new(dir: impl AsRef<Path>) -> Self {
        let dir = dir.as_ref();
        let absolute = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
        Self(absolute.components().collect())
    }

    /// Finds the root of the node a program belongs to.
    ///
    /// `program` is its `argv[0]` before any link is resolved; one without a slash is looked up
    /// in `search_path`, as the shell did.
    pub fn find(
        variable: Option<&OsStr>,
        program: &OsStr,
        search_path: &OsStr,
    ) -> Result<Self, RootUnknown> {
        if let Some(dir) = variable.filter(|dir| !dir.is_empty()) {
            return Ok(Self::new(dir));
        }
        let path = Path::new(program);
        let found = if program.as_encoded_bytes().contains(&b'/') {
            Some(path.to_owned())
        } else {
            std::env::split_paths(search_path).map(|dir| dir.join(path)).find(|path| path.exists())
        };
        found
            .and_then(|path| std::path::absolute(path).ok())
            .and_then(|path| {
                let dir = path.parent()?;
                let root = dir.strip_suffix_dir("usr/sbin").or(dir.strip_suffix_dir("usr/bin"));
                root.map(Path::to_owned)
            })
            .map(Self::new)
            .ok_or_else(|| RootUnknown { program: program.to_string_lossy().into_owned() })
    }

    /// Returns the directory itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Returns where a host path lies, e.g. `/srv/h1`.
    ///
    /// `..` cannot leave the root: Proxmox refuses it in a mount point, a conf written by hand
    /// could still have it.
    pub fn host(&self, path: &str) -> PathBuf {
        let below = Path::new(path)
            .components()
            .filter(|component| matches!(component, Component::Normal(_)));
        self.0.join(below.collect::<PathBuf>())
    }

    /// Returns `/etc/pve`.
    pub fn etc_pve(&self) -> PathBuf {
        self.0.join("etc/pve")
    }

    /// Returns where the process that serves `/etc/pve` keeps its files; there on such a node only.
    pub(crate) fn cluster_store(&self) -> PathBuf {
        self.0.join("var/lib/pve-cluster")
    }

    /// Returns the file with the id of the process that serves `/etc/pve`.
    pub(crate) fn pmxcfs_pid(&self) -> PathBuf {
        self.0.join("run/pve-cluster.pid")
    }

    /// Returns the directory of one kind of guests (`lxc`, `qemu-server`) on one node.
    pub fn guests(&self, node: &str, kind: &str) -> PathBuf {
        self.etc_pve().join("nodes").join(node).join(kind)
    }

    /// Returns the conf of a container on a node.
    pub fn conf(&self, node: &str, ctid: &str) -> PathBuf {
        self.guests(node, "lxc").join(format!("{ctid}.conf"))
    }

    /// Returns the file whose flock serialises the writers of a conf
    /// (`PVE::LXC::Config::config_file_lock`).
    pub fn flock(&self, ctid: &str) -> PathBuf {
        self.0.join(format!("run/lock/lxc/pve-config-{ctid}.lock"))
    }

    /// Returns the runtime directory of a container.
    pub fn lxc(&self, ctid: &str) -> PathBuf {
        self.0.join("var/lib/lxc").join(ctid)
    }

    /// Returns the name of a container's command socket in the abstract namespace, as lxc-start
    /// binds it (`lxc_make_abstract_socket_name`).
    pub fn command_socket(&self, ctid: &str) -> OsString {
        self.lxc(ctid).join("command").into_os_string()
    }

    /// Returns the file with the settings of the model.
    pub fn settings(&self) -> PathBuf {
        self.0.join("etc/pctd-sandbox.json")
    }

    /// Returns a file of the model's own state.
    pub(crate) fn state(&self, name: &str) -> PathBuf {
        self.0.join("var/lib/pctd-sandbox").join(name)
    }

    /// Returns the record of all runs of `pct`.
    pub fn calls(&self) -> PathBuf {
        self.0.join("var/log/pct-calls.jsonl")
    }

    /// Returns what stderr of a container's start is kept in (pve-container@.service).
    pub(crate) fn start_log(&self, ctid: &str) -> PathBuf {
        self.0.join(format!("run/pve/ct-{ctid}.stderr"))
    }
}

/// What `Path` lacks: taking a suffix of whole components off.
trait StripSuffixDir {
    fn strip_suffix_dir(&self, suffix: &str) -> Option<&Path>;
}

impl StripSuffixDir for Path {
    fn strip_suffix_dir(&self, suffix: &str) -> Option<&Path> {
        let depth = Path::new(suffix).components().count();
        self.ends_with(suffix).then(|| self.ancestors().nth(depth)).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(variable: Option<&str>, program: &str) -> Option<PathBuf> {
        Root::find(variable.map(OsStr::new), OsStr::new(program), OsStr::new("/nowhere"))
            .ok()
            .map(|root| root.path().to_owned())
    }

    #[test]
    fn the_root_is_where_the_program_was_run() {
        assert_eq!(find(None, "/t/node/usr/sbin/pct"), Some("/t/node".into()));
        assert_eq!(find(Some("/t/other"), "/t/node/usr/sbin/pct"), Some("/t/other".into()));
        assert_eq!(find(Some(""), "pct"), None);
        assert_eq!(find(None, "/t/node/usr/bin/vzdump"), Some("/t/node".into()));
        assert_eq!(find(None, "/usr/local/pct"), None);
        assert_eq!(find(None, "/usr/sbin/pct"), Some("/".into()));
    }

    #[test]
    fn host_paths_stay_below_the_root() {
        let root = Root::new("/t/node/");
        assert_eq!(root.host("/srv//h1/"), Path::new("/t/node/srv/h1"));
        assert_eq!(root.host("/srv/../../etc"), Path::new("/t/node/srv/etc"));
        assert_eq!(root.command_socket("100"), "/t/node/var/lib/lxc/100/command");
    }
}
