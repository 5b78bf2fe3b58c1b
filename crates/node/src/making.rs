//! What has to be known before a container is made: where its template is, whether the node is in
//! a cluster, and whether a task is at work on a conf that says `lock: create`.
//!
//! Only looked at. Templates are paths of the admin's own configuration and of Proxmox's storages,
//! nothing a container can write to; `pct` opens them, not pctd.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use bstr::ByteSlice as _;
use pctd_core::ids::Ctid;
use pctd_core::observed::TemplateState;
use pctd_core::vmlist::Members;

use crate::mounts;
use crate::paths::NodePaths;
use crate::process::{Own, Process, is_gone};
use crate::storages;

/// Where templates are below the directory of a storage (`PVE::Storage::Plugin`).
const TEMPLATES: &str = "template/cache";

/// Returns where a template is that a definition names: an absolute path, a volume of a storage,
/// or a path that begins with the name of a ZFS dataset.
pub fn template(paths: &NodePaths, name: &str) -> TemplateState {
    if name.starts_with('/') {
        return among(paths, vec![name.to_owned()]);
    }
    if let Some((storage, volume)) = name.split_once(':').filter(|(id, _)| !id.contains('/')) {
        return on_storage(paths, name, storage, volume);
    }
    // The mount point of the longest dataset that it begins with; by default a dataset is mounted
    // at its own name.
    let mountinfo = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    let mut candidates: Vec<(usize, String)> = mounts::datasets(&mountinfo)
        .into_iter()
        .filter_map(|(dataset, mount_point)| {
            let rest = name.strip_prefix(&dataset)?.strip_prefix('/')?;
            Some((dataset.len(), format!("{}/{rest}", mount_point.trim_end_matches('/'))))
        })
        .collect();
    candidates.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
    let mut looked: Vec<String> = candidates.into_iter().map(|(_, path)| path).collect();
    looked.push(format!("/{name}"));
    looked.dedup();
    among(paths, looked)
}

fn among(paths: &NodePaths, looked: Vec<String>) -> TemplateState {
    match looked.iter().find(|path| paths.host(path).is_file()) {
        Some(found) => TemplateState::Usable(found.clone()),
        None => TemplateState::Missing(looked),
    }
}

fn on_storage(paths: &NodePaths, name: &str, id: &str, volume: &str) -> TemplateState {
    let usable = || TemplateState::Usable(name.to_owned());
    // Proxmox knows better than a file that cannot be read.
    let Ok(storages) = storages::read(paths) else { return usable() };
    let Some(storage) = storages.get(id) else {
        return TemplateState::Missing(vec![format!("the storage `{id}` in /etc/pve/storage.cfg")]);
    };
    let Some(file) = volume.strip_prefix("vztmpl/") else {
        return TemplateState::Missing(vec![format!("a volume such as {id}:vztmpl/FILE")]);
    };
    let Some(dir) = storage.dir(id, "vztmpl", TEMPLATES) else { return usable() };
    let path = format!("{dir}/{file}");
    // What is not mounted now, pct mounts.
    if paths.host(&path).is_file() || storage.is_mounted_on_use() && !paths.host(&dir).is_dir() {
        return usable();
    }
    TemplateState::Missing(vec![path])
}

/// Returns whether this node is in a cluster; one that cannot be told is.
pub fn is_clustered(paths: &NodePaths) -> bool {
    match std::fs::read(paths.members()) {
        Ok(text) => Members::parse(&text).map_or(true, |members| members.clustered),
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

/// Returns those of these containers for which a task that makes one is at work.
///
/// A clone holds no flock on its way, so its conf alone does not tell whether it goes on. A `pct`
/// is known by its command line, a task that Proxmox forked by the name it gives itself
/// (`PVE::RESTEnvironment::fork_worker`); that of a clone has only its source's id, so any counts.
pub fn at_work(paths: &NodePaths, pct: &Path, ctids: &BTreeSet<Ctid>) -> BTreeSet<Ctid> {
    if ctids.is_empty() {
        return BTreeSet::new();
    }
    found_at_work(paths, pct, ctids).unwrap_or_else(|_| ctids.clone())
}

fn found_at_work(
    paths: &NodePaths,
    pct: &Path,
    ctids: &BTreeSet<Ctid>,
) -> io::Result<BTreeSet<Ctid>> {
    let is_real = paths.pve() == Path::new("/etc/pve");
    let own = Own::read()?;
    let mut at_work = BTreeSet::new();
    for process in Process::all()? {
        let process = process?;
        // A process that ended meanwhile is not at work.
        let Ok(argv) = process.command_line() else { continue };
        let is_made = |ctid: &&Ctid| is_making(&argv, pct, is_real, &ctid.to_string());
        let mut made = ctids.iter().filter(is_made).peekable();
        // Anybody can call a process so.
        if made.peek().is_some() && own.has(&process).unwrap_or_else(|error| !is_gone(&error)) {
            at_work.extend(made);
        }
    }
    Ok(at_work)
}

fn is_making(argv: &[Vec<u8>], pct: &Path, is_real: bool, id: &str) -> bool {
    let is_pct = |word: &Vec<u8>| {
        let path = word.to_path_lossy();
        *path == *pct || is_real && path.file_name().is_some_and(|name| name == "pct")
    };
    if let Some(at) = argv.iter().position(is_pct) {
        let mut rest = argv[at + 1..].iter().map(Vec::as_slice);
        let makes =
            rest.next().is_some_and(|command| matches!(command, b"create" | b"clone" | b"restore"));
        return makes && rest.any(|word| word == id.as_bytes());
    }
    // One word, in the place of the command line.
    let title = argv.first().map(|word| word.to_str_lossy()).unwrap_or_default();
    let Some(upid) = title.strip_prefix("task UPID:").filter(|_| is_real) else { return false };
    let fields: Vec<&str> = upid.split(':').collect();
    match fields.get(4) {
        Some(&"vzclone") => true,
        Some(&("vzcreate" | "vzrestore")) => fields.get(5) == Some(&id),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read as _;
    use std::process::{Command, Stdio};

    use super::*;

    fn node(files: &[&str], storage_cfg: &str) -> (tempfile::TempDir, NodePaths) {
        let dir = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        put("etc/pve/storage.cfg", storage_cfg);
        for file in files {
            put(file, "");
        }
        let paths = NodePaths::new(Some(dir.path().into())).unwrap();
        (dir, paths)
    }

    const STORAGES: &str = "dir: local\n\tpath /var/lib/vz\n\tcontent iso,vztmpl\n\n\
        dir: other\n\tpath /bulk/iso\n\tcontent-dirs iso=i,vztmpl=tars\n\n\
        nfs: far\n\tserver 10.0.0.1\n\tpath /mnt/pve/far\n\n\
        zfspool: quick\n\tpool quick/lxc\n";

    #[test]
    fn a_template_is_found_by_path_by_volume_and_by_dataset() {
        let files = [
            "bulk/iso/template/cache/a.tar.zst",
            "var/lib/vz/template/cache/b.tar.zst",
            "bulk/iso/tars/c",
        ];
        let (_dir, paths) = node(&files, STORAGES);
        let usable = |name: &str, argument: &str| {
            let expected = TemplateState::Usable(argument.to_owned());
            assert_eq!(template(&paths, name), expected, "{name}");
        };
        usable("/bulk/iso/template/cache/a.tar.zst", "/bulk/iso/template/cache/a.tar.zst");
        usable("bulk/iso/template/cache/a.tar.zst", "/bulk/iso/template/cache/a.tar.zst");
        usable("local:vztmpl/b.tar.zst", "local:vztmpl/b.tar.zst");
        usable("other:vztmpl/c", "other:vztmpl/c");
        // Not mounted, or nothing to look at: Proxmox decides.
        usable("far:vztmpl/x", "far:vztmpl/x");
        usable("quick:vztmpl/x", "quick:vztmpl/x");
    }

    #[test]
    fn a_template_that_is_nowhere_says_where_it_was_looked_for() {
        let (_dir, paths) = node(&["mnt/pve/far/template/cache/y"], STORAGES);
        for (name, looked) in [
            ("/no/such.tar", "/no/such.tar"),
            ("no/such.tar", "/no/such.tar"),
            ("local:vztmpl/x", "/var/lib/vz/template/cache/x"),
            ("other:vztmpl/x", "/bulk/iso/tars/x"),
            ("far:vztmpl/x", "/mnt/pve/far/template/cache/x"),
            ("nosuch:vztmpl/x", "the storage `nosuch` in /etc/pve/storage.cfg"),
            ("local:iso/x", "a volume such as local:vztmpl/FILE"),
        ] {
            let expected = TemplateState::Missing(vec![looked.to_owned()]);
            assert_eq!(template(&paths, name), expected, "{name}");
        }
    }

    #[test]
    fn a_task_is_known_by_its_command_line() {
        let argv = |line: &str| -> Vec<Vec<u8>> { line.split('|').map(Vec::from).collect() };
        for (line, is_real, expected) in [
            ("/usr/bin/perl|-T|/usr/sbin/pct|clone|900|901", true, true),
            ("/usr/sbin/pct|create|901|local:vztmpl/x", true, true),
            ("/usr/sbin/pct|set|901|--memory|5", true, false),
            ("/usr/sbin/pct|clone|900|902", true, false),
            ("task UPID:pve:1:2:3:vzclone:900:root@pam:", true, true),
            ("task UPID:pve:1:2:3:vzcreate:901:root@pam:", true, true),
            ("task UPID:pve:1:2:3:vzcreate:902:root@pam:", true, false),
            ("task UPID:pve:1:2:3:vzdump:901:root@pam:", true, false),
            // Beside a node in a directory other nodes may be at work.
            ("/other/usr/sbin/pct|clone|900|901", false, false),
            ("task UPID:pve:1:2:3:vzclone:900:root@pam:", false, false),
        ] {
            let found = is_making(&argv(line), Path::new("/usr/sbin/pct"), is_real, "901");
            assert_eq!(found, expected, "{line}");
        }
    }

    #[test]
    fn only_a_process_of_the_node_is_at_work() {
        let (_dir, paths) = node(&[], "");
        let ctid = Ctid::new(953).unwrap();
        let at_work = |prefix: &[&str]| {
            let pct = paths.pct();
            let words = ["sh", "-c", "echo; read line; :", pct.to_str().unwrap(), "restore", "953"];
            let words = [prefix, &words].concat();
            let mut process = Command::new(words[0])
                .args(&words[1..])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            process.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
            let found = super::at_work(&paths, &pct, &[ctid].into());
            // It ends with its input.
            process.stdin = None;
            process.wait().unwrap();
            !found.is_empty()
        };
        assert!(at_work(&["setpriv", "--reuid=0"]));
        assert!(!at_work(&["setpriv", "--reuid=65534"]));
        assert!(!at_work(&["unshare", "--user", "--map-root-user"]));
    }
}
