//! The story: a real daemon converges a simulated node, told as it happens.
//!
//! Every chapter checks what it claims against the node's own files; the first claim that does
//! not hold ends the story with an error. So it is a demonstration and an end-to-end test at once.

mod chapters;
mod scene;
mod stage;

use std::path::Path;
use std::process::ExitCode;

use scene::Scene;
use stage::{Broken, Stage};

/// Tells the story; `program` can be run as `pct` and as `pctd`.
pub(crate) fn tell(program: &Path) -> ExitCode {
    if !rustix::process::geteuid().is_root() {
        eprintln!(
            "pctd-sandbox: this needs root, because pctd changes owners of files\n\
             run it as root, or as root of a user namespace:\n    \
             unshare --map-auto --map-root-user cargo run --release -p pctd-sandbox\n\
             (needs /etc/subuid and /etc/subgid entries of at least 200000 ids for you)"
        );
        return ExitCode::FAILURE;
    }
    let stage = Stage::new();
    match perform(program, &stage) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Broken(what)) => {
            stage.broken(&what);
            ExitCode::FAILURE
        }
    }
}

fn perform(program: &Path, stage: &Stage) -> Result<(), Broken> {
    let directory = tempfile::Builder::new().prefix("pctd-").tempdir()?;
    let scene = Scene::build(directory.path(), program)?;
    stage.title(&format!(
        "A simulated Proxmox VE node in {}, and the real pctd on it",
        directory.path().display()
    ));
    chapters::the_node_as_it_is(&scene, stage)?;
    chapters::the_plan(&scene, stage)?;
    let daemon = chapters::the_daemon_converges(&scene, stage)?;
    chapters::a_container_appears_late(&scene, stage, &daemon)?;
    chapters::an_edit(&scene, stage, &daemon)?;
    chapters::drift(&scene, stage, &daemon)?;
    chapters::a_bad_edit(&scene, stage, &daemon)?;
    chapters::the_end(&scene, stage, daemon)?;
    stage.say("");
    stage.say("What to try next");
    stage.say("  cargo run --release -p pctd-sandbox -- serve /tmp/node    keeps such a node alive to play with");
    stage.say("  cargo test --workspace                                    runs every test");
    Ok(())
}

/// Makes a node in `directory` if there is none, and runs the daemon on it until interrupted.
pub(crate) fn serve(directory: &Path, program: &Path, fuse: bool) -> ExitCode {
    match scene::serve(directory, program, fuse) {
        Ok(code) => code,
        Err(Broken(what)) => {
            eprintln!("pctd-sandbox: {what}");
            ExitCode::FAILURE
        }
    }
}
