//! The cases.

use std::sync::Arc;
use std::time::Duration;

use pctd_core::idmap::IdMap;
use pctd_core::ids::HostIds;
use pctd_core::ledger::{LedgerEntry, Memory};
use pctd_core::observed::{Audit, NodeState, Presence, Removal, Running, SourceState};

use crate::world::{PRIVILEGED, SHIFTED, UNPRIVILEGED, World, ctid, file_system, volume};

mod containers;
mod mounts;
mod volumes;

/// One case: what is wanted and there, and what follows.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) world: World,
    pub(crate) expected: Vec<&'static str>,
}

pub(crate) fn case(name: &'static str, world: World, expected: &[&'static str]) -> Case {
    Case { name, world, expected: expected.to_vec() }
}

/// One volume with these fields, mounted in 100 at /data.
fn with_fields(fields: &str) -> World {
    let text = r#"{"settings": {"seed_defaults": false}, "shared_volumes": {"data": {
        "host_path": "/tank/data", "mounts": {"100": "/data"}, FIELDS}}}"#;
    World::new(&text.replace("FIELDS", fields))
}

fn with_settings(settings: &str) -> World {
    let text = r#"{"settings": {"seed_defaults": false, SETTINGS}, "shared_volumes": {"data": {
        "host_path": "/tank/data", "owner": "container_root", "mounts": {"100": "/data"}}}}"#;
    World::new(&text.replace("SETTINGS", settings))
}

/// One volume mounted in 900 and 901.
fn shared(fields: &str) -> World {
    let text = r#"{"settings": {"seed_defaults": false}, "shared_volumes": {"data": {
        "host_path": "/tank/data", "owner": "container_root", FIELDS
        "mounts": {"900": "/data", "901": "/data"}}}}"#;
    World::new(&text.replace("FIELDS", fields)).here(900, UNPRIVILEGED).here(901, SHIFTED)
}

fn conf(lines: &str) -> String {
    format!("{UNPRIVILEGED}{lines}\n")
}

fn defined(fields: &str) -> World {
    let text = r#"{"settings": {"seed_defaults": false}, "lxc_configs": {"100": {FIELDS}},
        "shared_volumes": {"data": {"host_path": "/tank/data", "owner": "container_root",
        "mounts": {"100": "/data"}}}}"#;
    World::new(&text.replace("FIELDS", fields))
}

/// Every case.
pub(crate) fn all() -> Vec<Case> {
    let mut cases = mounts::mounts();
    cases.extend(mounts::removals());
    cases.extend(mounts::adoptions());
    cases.extend(containers::restarts());
    cases.extend(containers::containers());
    cases.extend(volumes::owners());
    cases.extend(volumes::sources());
    cases.extend(volumes::certificates());
    cases.extend(crate::definitions::all());
    cases.extend(crate::cluster::all());
    cases.extend(crate::lines::all());
    cases.extend(crate::disk_ids::all());
    cases.extend(crate::group::all());
    cases.extend(crate::conversions::all());
    cases
}
