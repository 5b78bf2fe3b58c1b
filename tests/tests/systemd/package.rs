//! The package under test, and newer ones made of it.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::said;

/// The variable that names the package, and by that says that these tests are to run.
const VARIABLE: &str = "PCTD_DEB";

/// Returns the package under test, if there is one.
pub(crate) fn built() -> Option<PathBuf> {
    let path = PathBuf::from(std::env::var_os(VARIABLE)?);
    assert!(path.is_file(), "{VARIABLE}: there is no {}", path.display());
    Some(path)
}

/// Says that a test needs a package. It is no skip that `PCTD_REQUIRE_REAL` would make a failure:
/// these tests take machines of their own, and run where somebody asks for them.
pub(crate) fn not_asked_for() {
    eprintln!("not run: {VARIABLE} names no package");
}

/// Returns the version of a package.
pub(crate) fn version(deb: &Path) -> String {
    said(Command::new("dpkg-deb").args(["--field"]).arg(deb).arg("Version")).trim().to_owned()
}

/// Makes a package that differs in nothing but a higher version, in `dir`.
pub(crate) fn newer(deb: &Path, dir: &Path) -> PathBuf {
    let (tree, next) = (dir.join("newer"), dir.join("newer.deb"));
    said(Command::new("dpkg-deb").arg("--raw-extract").arg(deb).arg(&tree));
    let control = tree.join("DEBIAN/control");
    let old = format!("Version: {}\n", version(deb));
    let fields = std::fs::read_to_string(&control).unwrap();
    assert!(fields.contains(&old), "{fields}");
    let fields = fields.replace(&old, &format!("Version: {}+newer\n", version(deb)));
    std::fs::write(&control, fields).unwrap();
    said(Command::new("dpkg-deb").args(["-Znone", "--build"]).arg(&tree).arg(&next));
    next
}
