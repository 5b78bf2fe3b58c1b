//! What a mount into a container needs: a real directory without a symbolic link on the way, a
//! target without one, and an id map the tools and the kernel take.
//!
//! `PVE::LXC::__mountpoint_mount`, `walk_tree_nofollow`, `mountpoint_hotplug`.

use std::fs;
use std::io;
use std::path::Path;

use pctd_core::conf::{MountClass, MountIdMap, MountLine, MountPoint, Section, normalise_path};
use pctd_core::idmap::IdRange;
use pctd_sys::idmapped;

use crate::id_maps;
use crate::paths::Root;
use crate::perl::{from_file, is_space};
use crate::running::Mounted;
use crate::storage::Storages;

/// Links and files of a Debian guest, where a mount target cannot lead through.
const GUEST_NO_DIRECTORIES: &[&str] = &[
    "bin",
    "lib",
    "lib32",
    "lib64",
    "libx32",
    "sbin",
    "var/run",
    "var/lock",
    "etc/hostname",
    "etc/hosts",
    "etc/passwd",
    "etc/group",
    "etc/resolv.conf",
    "etc/fstab",
    "etc/mtab",
];

/// As many links as the kernel follows (`path_resolution(7)`).
const MAX_LINKS: u32 = 40;

/// The mount options that show, in the kernel's order; `discard` and `lazytime` are the file
/// system's and mean nothing to a bind mount.
const SHOWN_OPTIONS: [&str; 4] = ["nosuid", "nodev", "noexec", "noatime"];

/// Where mounts are made: a node, and a container with this id map.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Site<'a> {
    pub(crate) root: &'a Root,
    pub(crate) storages: Storages<'a>,
    /// The id map of the container; empty for a privileged one.
    pub(crate) own: &'a [IdRange],
}

/// Checks the source of a bind mount.
///
/// `-d` follows links, so a link to nowhere does not exist; the walk that follows refuses links.
pub(crate) fn check_source(root: &Root, source: &str) -> Result<(), String> {
    if !resolves_to_directory(root, source) {
        return Err(format!("directory '{source}' does not exist\n"));
    }
    let mut walked = String::from("/");
    let mut path = root.path().to_owned();
    for component in source.split('/').filter(|component| !component.is_empty()) {
        walked = format!("{walked}/{component}");
        path.push(crate::perl::to_path(component));
        let meta = fs::symlink_metadata(&path)
            .map_err(|error| format!("cannot open directory {walked}: {error}\n"))?;
        if !meta.is_dir() {
            return Err(format!("symlink encountered at: {walked}\n"));
        }
    }
    Ok(())
}

/// Follows links as the host would, absolute ones from the root of the node.
fn resolves_to_directory(root: &Root, source: &str) -> bool {
    let mut links = 0;
    let mut pending: Vec<String> = components(source);
    let mut resolved: Vec<String> = Vec::new();
    while let Some(component) = pending.pop() {
        if component == ".." {
            resolved.pop();
            continue;
        }
        resolved.push(component);
        let path = root.path().join(crate::perl::to_path(&resolved.join("/")));
        match fs::symlink_metadata(&path) {
            Ok(meta) if meta.is_symlink() && links < MAX_LINKS => {
                let Ok(target) = fs::read_link(&path) else { return false };
                links += 1;
                resolved.pop();
                if target.is_absolute() {
                    resolved.clear();
                }
                pending.extend(components(&target.to_string_lossy()));
            }
            Ok(meta) if meta.is_dir() => {}
            _ => return false,
        }
    }
    true
}

/// Returns the components in reverse order, as a stack.
fn components(path: &str) -> Vec<String> {
    path.split('/')
        .filter(|part| !part.is_empty() && *part != ".")
        .rev()
        .map(str::to_owned)
        .collect()
}

/// Checks the target of a mount inside the guest.
fn check_target(target: &str) -> Result<(), String> {
    let mut walked = String::new();
    for component in target.split('/').filter(|component| !component.is_empty()) {
        if !walked.is_empty() {
            walked.push('/');
        }
        walked.push_str(component);
        if GUEST_NO_DIRECTORIES.contains(&walked.as_str()) {
            // The walk starts at `/`, to which a `/` is added.
            return Err(format!("symlink encountered at: //{walked}\n"));
        }
    }
    Ok(())
}

impl Site<'_> {
    /// Returns the mount as it is seen inside the container, or why it fails; what tools print
    /// and Proxmox warns of meanwhile goes to `warnings`.
    ///
    /// A volume leaves nothing to see: its source is no host directory.
    pub(crate) fn mount(
        &self,
        name: &str,
        mount: &MountPoint,
        warnings: &mut String,
    ) -> Result<Option<Mounted>, String> {
        let ro = mount.is_on("ro");
        let mut options = shown(mount.options.get("mountoptions").map(String::as_str), ';');
        // `is_valid_ro_mount_option`
        options.retain(|option| !(ro && option == "noatime"));
        if let Some(map) = mount.idmap() {
            if self.own.is_empty() {
                let ignored = "ignoring 'idmap' option unsupported by privileged container";
                warnings.extend(["WARN: '", name, "' - ", ignored, "\n"]);
            } else {
                self.install_map(&map, warnings)?;
                options.push("idmapped".into());
            }
        }
        let (source, target) = (from_file(&mount.volume), from_file(&mount.target));
        match mount.class {
            MountClass::Bind => check_source(self.root, &source)?,
            MountClass::Device => self.check_device(name, &source, warnings)?,
            MountClass::Volume if !self.storages.exists(&source) => {
                return Err(format!("volume '{source}' does not exist\n"));
            }
            MountClass::Volume => {}
        }
        check_target(&target)?;
        if mount.class != MountClass::Bind {
            return Ok(None);
        }
        if options.iter().any(|option| option == "idmapped") {
            check_mappable(&self.root.host(&source), false)
                .map_err(|()| "mount_setattr: Invalid argument\n".to_owned())?;
        }
        if mount.is_on("quota") && !ro {
            warnings.push_str("cannot enable quota control for bind mounts\n");
        }
        let (source, target) = (normal(&source), normal(&target));
        Ok(Some(Mounted { source, target, ro, options }))
    }

    /// Makes a user namespace for the map of one mount; that of the container serves for
    /// `passthrough`.
    fn install_map(&self, map: &MountIdMap, warnings: &mut String) -> Result<(), String> {
        if *map == MountIdMap::Passthrough {
            return Ok(());
        }
        id_maps::install(self.root, &id_maps::resolve(self.own, map)?).map_err(|refused| {
            warnings.push_str(&refused.output);
            refused.error
        })
    }

    fn check_device(&self, name: &str, device: &str, warnings: &mut String) -> Result<(), String> {
        if self.root.host(device).exists() {
            return Ok(());
        }
        // mount(8) of util-linux 2.38.
        let stage = format!("/var/lib/lxc/.pve-staged-mounts/{name}");
        warnings.extend(["mount: ", &stage, ": special device ", device, " does not exist.\n"]);
        warnings.push_str(
            "       dmesg(1) may have more information after failed mount system call.\n",
        );
        Err(format!("command 'mount {device} {stage}' failed: exit code 32\n"))
    }
}

/// Checks that the file system of a source lets ids be mapped, as `mount_setattr` finds out.
///
/// Where this machine does not permit the attempt it is not known, and nothing is refused.
fn check_mappable(source: &Path, whole: bool) -> Result<(), ()> {
    const ANY_MAP: &str = "0 100000 65536\n";
    let attempt = || -> io::Result<()> {
        let (source, namespace) =
            (fs::File::open(source)?, idmapped::user_namespace(ANY_MAP, ANY_MAP)?);
        let mapped = if whole {
            idmapped::map_ids_of_tree(idmapped::detached_tree(source)?, namespace)
        } else {
            idmapped::map_ids(idmapped::detached_clone(source)?, namespace)
        };
        Ok(mapped?)
    };
    match attempt() {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Err(()),
        _ => Ok(()),
    }
}

/// Returns what the raw `lxc.mount.entry` lines mount, or why lxc fails in a container with this id
/// map, where one is given.
pub(crate) fn raw_entries(
    root: &Root,
    own: Option<&[IdRange]>,
    section: &Section,
) -> Result<Vec<Mounted>, String> {
    let mut mounted = Vec::new();
    for (_, value) in section.lxc().iter().filter(|(key, _)| key == "lxc.mount.entry") {
        let text = from_file(value);
        let target = text.split(is_space).filter(|field| !field.is_empty()).nth(1);
        let Some(line) = MountLine::parse(value) else { continue };
        if target.is_some_and(|target| target.starts_with('/')) {
            return Err(format!("Ignoring mount point \"{}\"\n", line.target));
        }
        let source = line.source.to_string();
        if !root.host(&source).exists() {
            if !line.needs_source() {
                continue;
            }
            return Err(format!("No such file or directory - Failed to mount \"{source}\"\n"));
        }
        let mut shown = shown(Some(&line.options.join(",")), ',');
        own.map_or(Ok(()), |own| check_line(&root.host(&source), own, &line))?;
        if line.is_mapped() {
            shown.push("idmapped".into());
        }
        let (ro, target) = (line.has("ro"), line.target.to_string());
        mounted.push(Mounted { source, target, ro, options: shown });
    }
    Ok(mounted)
}

/// Checks what LXC needs to make a mount from within a user namespace, where what is mounted below
/// cannot be left out, and to map its ids: a namespace that has others, which is the container's
/// (that of another cannot be opened from there), and file systems that can.
fn check_line(host: &Path, own: &[IdRange], line: &MountLine) -> Result<(), String> {
    let below = format!("{}/", host.display());
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let is_below = |entry: &str| entry.split(' ').nth(4).is_some_and(|at| at.starts_with(&below));
    if !own.is_empty() && !line.is_recursive() && mounts.lines().any(is_below) {
        let what = if line.is_mapped() { "create detached mount" } else { "mount" };
        return Err(format!("Invalid argument - Failed to {what}\n"));
    }
    if line.is_mapped() && line.idmap().is_none() {
        return Err("Permission denied - Failed to open user namespace\n".into());
    }
    if line.is_mapped() && own.is_empty() {
        return Err("Operation not permitted - Failed to idmap detached mount\n".into());
    }
    let mapped = if line.is_mapped() { check_mappable(host, line.is_recursive()) } else { Ok(()) };
    mapped.map_err(|()| "Invalid argument - Failed to idmap detached mount\n".into())
}

fn shown(list: Option<&str>, separator: char) -> Vec<String> {
    let given: Vec<&str> = list.map(|list| list.split(separator).collect()).unwrap_or_default();
    SHOWN_OPTIONS.into_iter().filter(|option| given.contains(option)).map(str::to_owned).collect()
}

/// Returns a path as the kernel shows it.
fn normal(path: &str) -> String {
    normalise_path(path.as_bytes()).to_string()
}
