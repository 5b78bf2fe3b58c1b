//! A process with the ids of an unprivileged container, but for the container.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::daemon::eventually;
use crate::world::skip;

/// Runs a script of sh in a user namespace with Proxmox's own map, and in further namespaces by the
/// options of unshare(1). It begins with no id that the map knows; `setpriv` chooses one.
///
/// `None` where this machine has no such namespaces for us.
///
/// # Panics
///
/// `unshare` cannot be run.
pub fn run(dir: &Path, namespaces: &[&str], script: &str) -> Option<Output> {
    let mut command = Command::new("unshare");
    command.args(["--user", "--keep-caps"]).args(namespaces);
    // It waits for its map.
    command.args(["sh", "-euc", &format!("read go; {script}")]).current_dir(dir);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let own_namespace = fs::read_link("/proc/self/ns/user").unwrap();
    let of_child = format!("/proc/{}", child.id());
    eventually("a namespace of its own", || {
        fs::read_link(format!("{of_child}/ns/user")).is_ok_and(|its| its != own_namespace)
    });
    for map in ["uid_map", "gid_map"] {
        if let Err(error) = fs::write(format!("{of_child}/{map}"), "0 100000 65536") {
            child.kill().and_then(|()| child.wait()).unwrap();
            skip("a user namespace of an unprivileged container", &error.to_string());
            return None;
        }
    }
    child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    Some(child.wait_with_output().unwrap())
}
