//! The walk of `pctd-node` as a process: what the daemon does, with nothing around it.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::path::Path;
use std::process::ExitCode;

use pctd_core::desired::{Enforce, Owner, RequireMount, Volume};
use pctd_core::ids::HostIds;
use pctd_core::modes::ModeRule;
use pctd_core::ownership::{OwnershipRule, Scope};
use pctd_core::undo::PassKind;
use pctd_node::{NodePaths, Recorder, Walk, WalkMode, WalkReport, source};
use pctd_tests::machine;

use crate::tree::{DIR_MODE, FILE_MODE, OWNER};

/// As `undo_mb` without a word.
const RECORDS: u64 = 512 << 20;

/// Repairs a tree; prints how many entries there were, how many it changed, and by how many KiB
/// the peak of its memory grew.
pub(crate) fn main(dir: &Path, threads: usize) -> ExitCode {
    let before = machine::peak_kib();
    match repair(dir, threads) {
        Ok(report) if report.is_complete() => {
            let grown = machine::peak_kib().saturating_sub(before);
            println!("{} {} {grown}", report.audit.entries, report.changed);
            ExitCode::SUCCESS
        }
        Ok(report) => {
            eprintln!("{}: the walk is not complete: {report:?}", dir.display());
            ExitCode::FAILURE
        }
        Err(problem) => {
            eprintln!("{}: {problem}", dir.display());
            ExitCode::FAILURE
        }
    }
}

fn repair(dir: &Path, threads: usize) -> Result<WalkReport, String> {
    let (Some(above), Some(name)) = (dir.parent(), dir.file_name()) else {
        return Err("is no directory with a name".into());
    };
    let paths = NodePaths::new(Some(above.to_owned())).map_err(|error| error.to_string())?;
    let volume = volume(&format!("/{}", name.to_string_lossy()));
    let (state, open) = source::open(&paths, &volume);
    let open = open.ok_or_else(|| format!("{state:?}"))?;
    let rule = OwnershipRule {
        owner: Some(HostIds::new(OWNER, OWNER)),
        group: None,
        default_acl: None,
        scope: Scope::All,
        dir_mode: ModeRule::Exact(DIR_MODE),
        file_mode: ModeRule::Exact(FILE_MODE),
        file_modes: Vec::new(),
        recurse: true,
    };
    let threads = NonZeroUsize::new(threads);
    // On the record, beside the tree, as in a volume.
    let what = (PassKind::Walk, format!("{rule:?}"));
    let record = Recorder::new(&paths, &volume.name, &open, what, RECORDS);
    let record = record.map_err(|error| error.to_string())?;
    let walk = Walk { threads, record: Some(&record), ..Walk::new(WalkMode::Repair, &rule) };
    let report = pctd_node::walk::walk(&open, walk).map_err(|errno| errno.to_string())?;
    record.end();
    Ok(report)
}

fn volume(host_path: &str) -> Volume {
    Volume {
        name: "bench".parse().expect("a name"),
        host_path: host_path.into(),
        owner: Owner::Keep,
        group: None,
        default_acl: None,
        owner_ctid: None,
        disk_ids: None,
        dir_mode: ModeRule::Keep,
        file_mode: ModeRule::Keep,
        file_modes: Vec::new(),
        enforce: Enforce::Always,
        recurse: true,
        create: false,
        require_mount: RequireMount::No,
        nodes: BTreeSet::new(),
        shared: None,
        mounts: BTreeMap::new(),
        certificates: Vec::new(),
    }
}
