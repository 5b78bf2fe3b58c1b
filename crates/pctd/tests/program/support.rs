//! Running the program, and the smallest directory it takes for a node.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// The program under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_pctd");

/// How a run of the program ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs the program to its end.
pub(crate) fn pctd(arguments: &[&str]) -> Ran {
    let mut command = Command::new(PROGRAM);
    command.args(arguments).stdin(Stdio::null());
    // As on a terminal, wherever the tests run.
    command.env_remove("JOURNAL_STREAM").env_remove("NOTIFY_SOCKET").env("NO_COLOR", "1");
    let output = command.output().expect("the program was built");
    Ran {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).expect("the program prints UTF-8"),
        stderr: String::from_utf8(output.stderr).expect("the program prints UTF-8"),
    }
}

/// Returns the directory of the workspace.
pub(crate) fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A directory for `--root`.
#[derive(Debug)]
pub(crate) struct Root(TempDir);

impl Root {
    /// Makes an empty one.
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary directory can be made"))
    }

    /// Makes a node with the container 100, which mounts `/srv/data` at `/data`.
    pub(crate) fn node() -> Self {
        let root = Self::new();
        root.write("etc/pve/.version", r#"{"starttime":1,"vmlist":1}"#);
        root.write("etc/pve/.members", r#"{"nodename":"pve","version":0}"#);
        let guests = r#"{"version":1,"ids":{"100":{"node":"pve","type":"lxc","version":1}}}"#;
        root.write("etc/pve/.vmlist", guests);
        let conf =
            "arch: amd64\nmp0: /srv/data,mp=/data\nrootfs: local:100/vm.raw\nunprivileged: 1\n";
        root.write("etc/pve/nodes/pve/lxc/100.conf", conf);
        symlink("nodes/pve", root.path("etc/pve/local")).expect("the link can be made");
        root.write("srv/data/file", "");
        root.write("etc/passwd", "");
        root.write("etc/group", "");
        root
    }

    /// Writes a file, and the directories above it.
    pub(crate) fn write(&self, name: &str, content: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap_or(&path)).expect("a directory can be made");
        fs::write(&path, content).expect("a file can be written");
    }

    /// Declares that the container 100 mounts `/srv/data`, here at `target`.
    pub(crate) fn declare(&self, target: &str) {
        let text = format!(
            r#"{{"settings": {{"seed_defaults": false}}, "shared_volumes":
               {{"data": {{"host_path": "/srv/data", "mounts": {{"100": "{target}"}}}}}}}}"#
        );
        self.write("etc/pctd/config.json", &text);
    }

    /// Returns where a path of the node is.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs the program on it.
    pub(crate) fn pctd(&self, arguments: &[&str]) -> Ran {
        let root = self.0.path().display().to_string();
        pctd(&[&["--root", root.as_str()], arguments].concat())
    }
}
