//! What is kept of the walks of a volume, each in a file with its name, and forgotten with it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use pctd_core::ids::VolumeName;

use crate::paths::NodePaths;
use crate::{bookmark, trace};

/// Forgets what was kept of volumes other than these.
pub fn forget_others(paths: &NodePaths, wanted: &BTreeSet<VolumeName>) {
    for dir in bookmark::dirs(paths).into_iter().chain([trace::dir(paths)]) {
        forget_all_but(&dir, wanted);
    }
}

/// Removes the files of volumes other than these.
fn forget_all_but(dir: &Path, wanted: &BTreeSet<VolumeName>) {
    let Ok(kept) = fs::read_dir(dir) else { return };
    let is_wanted = |name: &str| name.parse().is_ok_and(|name| wanted.contains(&name));
    for entry in kept.flatten() {
        if !entry.file_name().to_str().is_some_and(is_wanted) {
            // It may stay: nobody reads it.
            let _removed = fs::remove_file(entry.path());
        }
    }
}
