//! The file system of a machine: the essential packages of a Debian and systemd, in a directory
//! that is made once and kept below `target/`, and over it a layer in memory for each machine.

use std::ffi::CString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, unmount};

use crate::said;

/// Which Debian: `bookworm`, which Proxmox VE 8 is, or `PCTD_SUITE`.
static SUITE: LazyLock<String> =
    LazyLock::new(|| std::env::var("PCTD_SUITE").unwrap_or_else(|_| "bookworm".to_owned()));

/// Made by the first test that asks; the others wait.
static IMAGE: LazyLock<PathBuf> = LazyLock::new(|| {
    let image = Path::new(env!("CARGO_TARGET_TMPDIR")).join(&*SUITE);
    if !image.exists() {
        make(&image);
    }
    image
});

/// Makes the image; one that was cut off has not got its name yet.
fn make(image: &Path) {
    let unfinished = image.with_extension("unfinished");
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished).unwrap();
    }
    said(
        Command::new("mmdebstrap")
            // dpkg and what it needs, and what the package depends on; the rest of a Debian has
            // no part in this.
            .args(["--variant=essential", "--include=systemd-sysv,procps"])
            // It is nothing that has to outlive a power cut.
            .arg("--dpkgopt=force-unsafe-io")
            .arg(&*SUITE)
            .arg(&unfinished),
    );
    fs::rename(&unfinished, image).unwrap();
}

/// The file system of one machine; nothing of it is left when it is dropped.
pub(crate) struct Root(PathBuf);

impl Root {
    /// Lays it out in an empty directory. `/tank` is no part of the layers: it is on the file
    /// system of that directory, as a pool of a node is on one of its own.
    pub(crate) fn mount(dir: &Path) -> Self {
        let parts = ["memory", "root", "tank"].map(|name| dir.join(name));
        for part in &parts {
            fs::create_dir(part).unwrap();
        }
        let root = Self(dir.to_owned());
        let [memory, merged, tank] = parts;
        mount("tmpfs", &memory, "tmpfs", MountFlags::empty(), None).unwrap();
        let (upper, work) = (memory.join("upper"), memory.join("work"));
        fs::create_dir(&upper).and_then(|()| fs::create_dir(&work)).unwrap();
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            IMAGE.display(),
            upper.display(),
            work.display()
        );
        let options = CString::new(options).unwrap();
        mount("overlay", &merged, "overlay", MountFlags::empty(), Some(&*options)).unwrap();
        fs::create_dir(merged.join("tank")).unwrap();
        mount_bind(&tank, merged.join("tank")).unwrap();
        root
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        for part in ["root/tank", "root", "memory"] {
            // It may not have come that far.
            let _unmounted = unmount(self.0.join(part), UnmountFlags::DETACH);
        }
    }
}
