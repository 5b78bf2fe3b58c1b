//! The contenders, each as the command that is measured.

use std::path::Path;
use std::process::Command;

use crate::tree::{DIR_MODE, FILE_MODE, OWNER};

/// Who looks at a tree or repairs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    /// `getdents64` and nothing else: blind to owners and modes.
    Names,
    /// `getdents64` and one `statx` for each entry: the floor.
    Floor,
    /// `find` that prints what is out of order and changes nothing.
    Find,
    /// `chown -R`: owners only, written whether they differ or not.
    ChownR,
    /// What a careful admin writes: `chown -R`, then `find -exec chmod {} +` twice.
    Sane,
    /// What the script before pctd does: as `Sane`, but one `chmod` process for each entry.
    Seed,
    /// pctd's walk with so many threads.
    Ours(usize),
}

impl Peer {
    /// Returns its name in a table.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Names => "names only".into(),
            Self::Floor => "floor: names and statx".into(),
            Self::Find => "find, detects only".into(),
            Self::ChownR => "chown -R, owners only".into(),
            Self::Sane => "sane script".into(),
            Self::Seed => "the seed's script".into(),
            Self::Ours(1) => "pctd, 1 thread".into(),
            Self::Ours(threads) => format!("pctd, {threads} threads"),
        }
    }

    /// Returns whether a tree is in order afterwards.
    pub(crate) fn repairs(self) -> bool {
        matches!(self, Self::Sane | Self::Seed | Self::Ours(_))
    }

    /// Returns whether it only looks.
    pub(crate) fn only_looks(self) -> bool {
        matches!(self, Self::Names | Self::Floor | Self::Find)
    }

    /// Returns whether it is this program itself, which tells what it counted.
    pub(crate) fn reports(self) -> bool {
        matches!(self, Self::Names | Self::Floor | Self::Ours(_))
    }

    /// Returns the command.
    pub(crate) fn command(self, dir: &Path) -> Command {
        let owner = format!("{OWNER}:{OWNER}");
        let mut command = match self {
            Self::Names => this(&["floor", "--names-only"]),
            Self::Floor => this(&["floor"]),
            Self::Ours(threads) => this(&["ours", "--threads", &threads.to_string()]),
            Self::ChownR => {
                let mut command = Command::new("chown");
                command.args(["-R", &owner]);
                command
            }
            Self::Find => shell(&format!(
                "exec find \"$1\" \\( ! -user {OWNER} -o ! -group {OWNER} \
                 -o -type d ! -perm {DIR_MODE:o} -o -type f ! -perm {FILE_MODE:o} \\) -print"
            )),
            Self::Sane => shell(&script(&owner, "+")),
            Self::Seed => shell(&script(&owner, "\\;")),
        };
        command.arg(dir);
        command
    }
}

fn script(owner: &str, end: &str) -> String {
    format!(
        "chown -R {owner} \"$1\" && find \"$1\" -type d -exec chmod {DIR_MODE:o} {{}} {end} \
         && find \"$1\" -type f -exec chmod {FILE_MODE:o} {{}} {end}"
    )
}

fn shell(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh"]);
    command
}

fn this(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program is there"));
    command.args(arguments);
    command
}
