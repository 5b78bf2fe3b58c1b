//! `pctd inspect`: a container as pctd reads it.

use std::collections::{BTreeMap, BTreeSet};

use pctd_core::conf::{Conf, MountEntry, MountPoint};
use pctd_core::ids::{Ctid, HostIds};
use pctd_core::mount_map;
use pctd_core::observed::{NodeState, ObservedContainer, Presence, Running};
use pctd_core::report::{InspectMount, InspectPending, InspectReport, REPORT_VERSION};

use super::args::Global;
use super::{Ended, Failure, open_engine, print_report, render};

pub(super) fn run(global: &Global, ctid: Ctid) -> Result<Ended, Failure> {
    let engine = open_engine(global)?;
    if let (NodeState::Unknown(why), _) = engine.node().cluster() {
        return Err(format!("/etc/pve is not usable: {why}").into());
    }
    let found = engine.node().observe_containers(&BTreeSet::from([ctid])).remove(&ctid);
    let report = report(ctid, found.as_ref());
    print_report(global, &report, |palette| render::inspect(&report, palette))?;
    Ok(Ended::InSync)
}

fn report(ctid: Ctid, found: Option<&Presence>) -> InspectReport {
    let mut report = InspectReport {
        version: REPORT_VERSION,
        ctid,
        presence: String::new(),
        unprivileged: None,
        idmap: Vec::new(),
        root: None,
        not_ready: None,
        mounts: BTreeMap::new(),
        pending: InspectPending::default(),
        snapshots: Vec::new(),
        lock: None,
        template: false,
        protection: false,
        digest: None,
        running: false,
        warnings: Vec::new(),
    };
    let (presence, why) = match found {
        Some(Presence::Here(container)) => {
            fill(&mut report, container);
            return report;
        }
        Some(Presence::OnNode(node)) => ("on_node", Some(format!("it is on node {node}"))),
        Some(Presence::Vm) => ("vm", Some("the id is a virtual machine's".to_owned())),
        Some(Presence::Absent) => ("absent", Some("there is no such container".to_owned())),
        Some(Presence::Unknown(why)) => ("unknown", Some(why.clone())),
        None => ("unknown", None),
    };
    presence.clone_into(&mut report.presence);
    report.not_ready = why;
    report
}

fn fill(report: &mut InspectReport, container: &ObservedContainer) {
    let conf = &container.conf;
    "here".clone_into(&mut report.presence);
    report.unprivileged = Some(conf.is_effectively_unprivileged());
    report.running = container.running != Running::No;
    report.digest = Some(conf.digest.to_string());
    report.lock = conf.lock().map(ToString::to_string);
    report.template = conf.is_template();
    report.protection = conf.is_protected();
    report.snapshots = conf.snapshots.keys().cloned().collect();
    report.warnings =
        conf.warnings.iter().map(|line| line.to_string().trim_end().to_owned()).collect();
    report.mounts =
        conf.mounts().iter().map(|(key, entry)| (key.to_string(), mount(conf, entry))).collect();
    let pending = &conf.pending.section;
    report.pending = InspectPending {
        set: pending.properties().iter().map(|(k, v)| (k.clone(), v.to_string())).collect(),
        delete: conf.pending.deletes().into_keys().map(|name| name.to_string()).collect(),
    };
    map(report, conf, container);
}

/// Enters the id map and the host ids of root, or what is missing.
fn map(report: &mut InspectReport, conf: &Conf, container: &ObservedContainer) {
    let map = match conf.effective_idmap() {
        Ok(map) => map,
        Err(error) => {
            report.not_ready = Some(error.to_string());
            return;
        }
    };
    if conf.is_effectively_unprivileged() {
        let range = |r: &pctd_core::idmap::IdRange| {
            (r.kind.letter().to_string(), r.container, r.host, r.count)
        };
        report.idmap = map.ranges().iter().map(range).collect();
    }
    report.not_ready = if conf.lock().is_some_and(|lock| *lock == "create") {
        Some("it is being created (lock: create)".to_owned())
    } else if !conf.has_rootfs() {
        Some("its conf is not complete yet".to_owned())
    } else if container.flock_held && container.running == Running::No {
        Some("a task holds its lock".to_owned())
    } else {
        conf.idmap_overlap()
    };
    let root = conf.root_ids_as_proxmox().ok();
    report.root =
        root.and_then(|root| Some(HostIds::new(root.uid.parse().ok()?, root.gid.parse().ok()?)));
    if conf.is_effectively_unprivileged() && map.host_ids(0, 0).is_none() {
        report.warnings.push("the id map has no entry for container id 0".to_owned());
    }
    if let Running::Yes { map: Some(in_force), .. } = &container.running
        && !in_force.same_mapping(&map)
    {
        report.warnings.push("the map in force differs; it changes at the next start".to_owned());
    }
}

/// Says which ids are which on disk, where a mount has a map that counts.
fn ids_on_disk(conf: &Conf, mp: &MountPoint) -> Option<String> {
    let option = mp.idmap().filter(|_| conf.is_effectively_unprivileged())?;
    let own = conf.effective_idmap().ok()?;
    Some(mount_map::describe(&mount_map::through(&own, &option)))
}

fn mount(conf: &Conf, entry: &MountEntry) -> InspectMount {
    match &entry.parsed {
        Ok(mp) => InspectMount {
            class: mp.class.as_str().to_owned(),
            source: mp.volume.to_string(),
            target: Some(mp.target.to_string()),
            options: mp.options.clone(),
            ids: ids_on_disk(conf, mp),
        },
        Err(_) => InspectMount {
            class: "invalid".to_owned(),
            source: entry.raw.to_string(),
            target: None,
            options: BTreeMap::new(),
            ids: None,
        },
    }
}
