//! The package and its service on a booted Debian: the unit as it is shipped, under a real systemd,
//! with a real journal.
//!
//! They run where `PCTD_DEB` names a package, and take `lxc` and `mmdebstrap`:
//!
//!     PCTD_DEB=$PWD/target/debian/pctd_0.1.0-1_amd64.deb cargo test -p pctd-tests --test systemd

#![expect(clippy::unwrap_used, reason = "a test whose machine cannot be made ends")]

mod image;
mod life;
mod machine;
mod package;
mod service;
mod setup;

/// Runs a program that has to succeed, and returns what it printed.
fn said(command: &mut std::process::Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (out, err) = (&output.stdout, String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {err}");
    String::from_utf8_lossy(out).into_owned()
}
