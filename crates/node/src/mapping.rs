//! Whether ids can be mapped for single mounts here: by Proxmox, by LXC, and by the file system of a
//! volume.
//!
//! All of it is found out before anything is written: a container whose mount cannot be mapped does
//! not start. Nothing is tried on a mount that anybody sees.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bstr::ByteSlice as _;
use pctd_core::mount_map::{is_known_by, is_known_to, is_known_to_lxc};
use pctd_core::observed::{FileSystem, MappingFacts, MappingSupport};
use pctd_sys::idmapped;
use rustix::io::Errno;

use crate::paths::NodePaths;
use crate::pct::{Deadline, Pct};

/// What a mount is tried with: ids that exist in every kernel, of whoever they are.
const TRIAL_MAP: &str = "0 100000 65536\n";

/// How long a program may take to say what it knows. Perl takes about a second.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is known already.
#[derive(Debug, Default)]
pub(crate) struct Mapping {
    /// By the name of a file system. Its driver does not change while this process runs.
    file_systems: Mutex<BTreeMap<String, MappingSupport>>,
    /// What is installed, and the list of packages that said so, which has megabytes, or `pct`.
    installed: Mutex<Option<([Stamp; 2], MappingFacts)>>,
}

/// Inode, size and time of the last change: a package manager writes a new file each time.
type Stamp = (u64, u64, i64, i64);

impl Mapping {
    /// Returns what is known of the node; `pct` is asked where its version is not known.
    pub(crate) fn facts(&self, paths: &NodePaths, pct: &Pct) -> MappingFacts {
        let list = paths.host("/var/lib/dpkg/status");
        let stamp = [&list, &pct.program].map(|file| stamp(file).unwrap_or_default());
        let mut known = lock(&self.installed);
        if let Some((then, facts)) = &*known
            && *then == stamp
        {
            return facts.clone();
        }
        let packages = Packages::read(&list);
        let proxmox = packages
            .knows("pve-container", is_known_to)
            .or_else(|why| ask(pct, &["help", "set"], is_known_by).map_err(|more| (why, more)));
        let lxc = packages.knows("lxc-pve", is_known_to_lxc).or_else(|why| {
            let lxc = Pct { program: paths.host("/usr/bin/lxc-start"), ..pct.clone() };
            let version = |said: &str| is_known_to_lxc(said.trim());
            ask(&lxc, &["--version"], version).map_err(|more| (why, more))
        });
        // What a program did not tell it may tell the next time.
        let is_known_now = proxmox.is_ok() && lxc.is_ok();
        let or_no = |(why, more)| MappingSupport::No(format!("{why}; {more}"));
        let facts =
            MappingFacts { proxmox: proxmox.unwrap_or_else(or_no), lxc: lxc.unwrap_or_else(or_no) };
        if is_known_now {
            *known = Some((stamp, facts.clone()));
        }
        facts
    }

    /// Returns whether a directory can be mounted with mapped ids.
    pub(crate) fn of(&self, dir: BorrowedFd<'_>, on: &FileSystem) -> MappingSupport {
        if let Some(known) = lock(&self.file_systems).get(&on.id) {
            return known.clone();
        }
        let tried = try_on(dir, false);
        let support = support(&tried);
        if tried.as_ref().err().is_none_or(is_final) {
            // A lack of something else, such as of fds, may pass.
            lock(&self.file_systems).insert(on.id.clone(), support.clone());
        }
        support
    }
}

/// Returns whether a directory can be mounted with mapped ids with everything that is mounted below.
pub(crate) fn of_tree(dir: BorrowedFd<'_>) -> MappingSupport {
    support(&try_on(dir, true))
}

/// Returns with what the kernel refuses to mount a directory or file with mapped ids, if it does.
pub(crate) fn refusal(at: BorrowedFd<'_>, whole: bool) -> Option<String> {
    let error = try_on(at, whole).err()?;
    is_final(&error).then(|| error.to_string())
}

fn support(tried: &io::Result<()>) -> MappingSupport {
    tried
        .as_ref()
        .map_or_else(|error| MappingSupport::No(error.to_string()), |()| MappingSupport::Yes)
}

/// Returns whether it is the file system that says so.
fn is_final(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is kept is replaced whole, so a panic elsewhere leaves nothing half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Maps the ids of a mount that is never attached.
fn try_on(dir: BorrowedFd<'_>, whole: bool) -> io::Result<()> {
    let namespace = || idmapped::user_namespace(TRIAL_MAP, TRIAL_MAP);
    if whole {
        Ok(idmapped::map_ids_of_tree(idmapped::detached_tree(dir)?, namespace()?)?)
    } else {
        Ok(idmapped::map_ids(idmapped::detached_clone(dir)?, namespace()?)?)
    }
}

fn stamp(file: &Path) -> io::Result<Stamp> {
    let meta = std::fs::metadata(file)?;
    Ok((meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec()))
}

/// Asks a program what it knows.
///
/// # Errors
///
/// In words, why it does not tell.
fn ask(
    program: &Pct,
    args: &[&str],
    knows: impl Fn(&str) -> Option<bool>,
) -> Result<MappingSupport, String> {
    let (ended, said) = program.call(args, Deadline::After(PATIENCE));
    ended.map_err(|error| error.to_string())?;
    let line = format!("`{} {}`", program.program.display(), args.join(" "));
    match knows(&said) {
        Some(true) => Ok(MappingSupport::Yes),
        Some(false) => Ok(MappingSupport::No(format!("{line} says so"))),
        None => Err(format!("{line} does not tell")),
    }
}

/// dpkg's list of packages (deb-status(5)), or why it cannot be read.
struct Packages(Result<Vec<u8>, String>);

impl Packages {
    fn read(list: &Path) -> Self {
        Self(std::fs::read(list).map_err(|error| format!("{}: {error}", list.display())))
    }

    /// Returns whether the installed version of a package knows maps of mounts.
    ///
    /// # Errors
    ///
    /// In words, why its version is not known.
    fn knows(
        &self,
        package: &str,
        knows: impl Fn(&str) -> Option<bool>,
    ) -> Result<MappingSupport, String> {
        let list = self.0.as_ref().map_err(Clone::clone)?;
        let version = version(list, package)
            .ok_or_else(|| format!("{package} is not in the list of packages"))?;
        match knows(&version) {
            Some(true) => Ok(MappingSupport::Yes),
            Some(false) => Ok(MappingSupport::No(format!("{package} is {version}"))),
            None => Err(format!("{package} is of no known version: {version}")),
        }
    }
}

/// Returns the version of a package that is installed.
fn version(status: &[u8], package: &str) -> Option<String> {
    let mut stanzas = status.split_str("\n\n");
    let first = format!("Package: {package}");
    let is_it = |stanza: &&[u8]| stanza.lines().any(|line| line == first.as_bytes());
    let fields = stanzas.find(is_it)?;
    let field = |name: &[u8]| fields.lines().find_map(|line| line.strip_prefix(name));
    // Removed packages with conf files stay in the list.
    field(b"Status: ").filter(|status| status.ends_with(b" installed"))?;
    field(b"Version: ").map(|version| version.trim_ascii().to_str_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &[u8] = b"Package: pve-cluster\nStatus: install ok installed\nVersion: 9.1.6\n\n\
Package: pve-container\nStatus: install ok installed\nPriority: optional\nVersion: 6.1.10\nDescription: x\n Version: 1\n\n\
Package: zlib1g\nStatus: install ok installed\nVersion: 1\n";

    #[test]
    fn the_installed_version_is_found_among_the_packages() {
        assert_eq!(version(STATUS, "pve-container").as_deref(), Some("6.1.10"));
        assert_eq!(version(STATUS, "zlib1g").as_deref(), Some("1"));
        let removed =
            STATUS.replace("install ok installed\nPriority", "deinstall ok config-files\nPriority");
        assert_eq!(version(&removed, "pve-container"), None);
        assert_eq!(version(b"", "pve-container"), None);
    }

    #[test]
    fn where_the_version_is_not_known_the_program_is_asked_what_it_takes() {
        let dir = tempfile::tempdir().unwrap();
        let paths = NodePaths::new(Some(dir.path().to_owned())).unwrap();
        let (list, pct) = (dir.path().join("var/lib/dpkg/status"), dir.path().join("pct"));
        let says = |text: &str| {
            let program = format!("#!/bin/sh\n[ \"$*\" = 'help set' ] && printf '{text}'\n");
            std::fs::write(&pct, program).unwrap();
            let file = std::fs::File::open(&pct).unwrap();
            rustix::fs::fchmod(&file, 0o755.into()).unwrap();
            let pct = Pct::new(&pct, Duration::from_secs(9));
            loop {
                match Mapping::default().facts(&paths, &pct).proxmox {
                    // A fork in another test may hold a copy of the script's fd for a moment (ETXTBSY).
                    MappingSupport::No(why) if why.contains("Text file busy") => {}
                    found => return found,
                }
            }
        };
        let new = "USAGE: pct set\\n -mp[n] [volume=]<volume> ,mp=<Path> [,backup=<1|0>]\\n [,idmap=<x>] [,size=<DiskSize>]\\n";
        let old = "USAGE: pct set\\n -mp[n] [volume=]<volume> ,mp=<Path> [,backup=<1|0>]\\n [,size=<DiskSize>]\\n -rootfs <x> [,idmap=<x>]\\n";
        assert_eq!(says(new), MappingSupport::Yes);
        let message = |support| match support {
            MappingSupport::No(why) => why,
            other => panic!("{other:?}"),
        };
        assert!(message(says(old)).ends_with("help set` says so"));
        let told = message(says("what"));
        assert!(told.contains("status: No such file") && told.ends_with("does not tell"), "{told}");
        // A version that is known is believed.
        std::fs::create_dir_all(list.parent().unwrap()).unwrap();
        std::fs::write(&list, STATUS).unwrap();
        assert_eq!(says(old), MappingSupport::Yes);
        std::fs::write(&list, STATUS.replace("6.1.10", "6.1.5")).unwrap();
        assert_eq!(message(says(new)), "pve-container is 6.1.5");
    }
}
