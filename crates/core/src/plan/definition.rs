//! Making a container that is defined and absent, and finishing one that was just made.
//!
//! What may not be done without being sure: a container is made only where its id is nobody's,
//! where it was never seen before, and, in a cluster, on the node its definition names. Chains of
//! clones need no order of their own: a source that is not there yet is a hold that passes.

use std::collections::{BTreeMap, BTreeSet};

use bstr::{BStr, ByteSlice as _};

use crate::conf::{MountClass, RawLine, Section};
use crate::desired::definition::{Property, listed};
use crate::desired::{ContainerDef, Definition, Desired, Source};
use crate::idmap::IdMap;
use crate::ids::Ctid;
use crate::ledger::{LedgerEntry, Making, Memory};
use crate::observed::{Cluster, ObservedContainer, Presence, Running, Snapshot, TemplateState};
use crate::plan::fields::{self, drifts, future, options_of, startup_of};
use crate::plan::hold::{Hold, Missing, NotReady, SourceLack};
use crate::plan::id_map;
use crate::plan::planned::ContainerPlan;
use crate::plan::step::{CloneContainer, ConfigureContainer, CreateContainer, EditConf, Step};

/// Options of an interface that say where it is in the network.
const ADDRESSES: [&str; 4] = ["gw", "gw6", "ip", "ip6"];

/// Plans a container that is nowhere in the cluster.
pub(super) fn plan_absent(
    plan: &mut ContainerPlan,
    desired: &Desired,
    snapshot: &Snapshot,
    cluster: &Cluster,
    ctid: Ctid,
) {
    let Some(def) = desired.containers.get(&ctid) else { return };
    let Some(source) = &def.source else { return };
    if snapshot.making.at_work.contains(&ctid) {
        // A `pct` that outlived the pctd that called it has not written a conf yet.
        return plan.holds.push(Hold::Busy { ctid });
    }
    match may_make(desired, snapshot, cluster, def) {
        Ok(true) => {}
        Ok(false) => return,
        Err(hold) => return plan.holds.push(hold),
    }
    let made = match source {
        Source::Template(template) => match snapshot.making.templates.get(template) {
            Some(TemplateState::Usable(argument)) => {
                made(snapshot, def, None, || vec![create(def, argument)])
            }
            Some(TemplateState::Missing(looked)) => {
                Err(Hold::TemplateMissing { template: template.clone(), looked: looked.clone() })
            }
            Some(TemplateState::Unknown(why)) => {
                Err(Hold::TemplateUnreadable { template: template.clone(), why: why.clone() })
            }
            // Planned beside another key, for which nobody looked.
            None => Ok(Vec::new()),
        },
        Source::Clone { from, snapshot: name } => {
            let name = name.as_deref();
            source_section(desired, snapshot, def, *from, name).and_then(|section| {
                made(snapshot, def, Some(section), || clone(def, *from, name, section))
            })
        }
    };
    match made {
        Ok(steps) => plan.steps.extend(steps),
        Err(hold) => plan.holds.push(hold),
    }
}

/// Returns the steps that make a container, the raw lines at the end, or why it could not be what is
/// declared.
fn made(
    snapshot: &Snapshot,
    def: &ContainerDef,
    source: Option<&Section>,
    make: impl FnOnce() -> Vec<Step>,
) -> Result<Vec<Step>, Hold> {
    if let Some(hold) = id_map::unmakeable(snapshot, def, source) {
        return Err(hold);
    }
    let mut steps = make();
    steps.extend(raw_lines(def, source));
    Ok(steps)
}

/// Returns whether an absent container is this node's to make now.
fn may_make(
    desired: &Desired,
    snapshot: &Snapshot,
    cluster: &Cluster,
    def: &ContainerDef,
) -> Result<bool, Hold> {
    let ctid = def.ctid;
    if !desired.settings.create_containers {
        return Err(Hold::NotDefined { ctid });
    }
    match &def.definition.node {
        Some(node) if *node != cluster.node => return Ok(false),
        None if snapshot.making.clustered => return Err(Hold::NodeNotNamed { ctid }),
        Some(_) | None => {}
    }
    if !snapshot.requests.named.contains(&ctid) {
        if snapshot.ledger.seen.contains(&ctid) {
            return Err(Hold::Gone { ctid });
        }
        if let Memory::Lost(why) = &snapshot.memory {
            return Err(Hold::LedgerLost { missing: Missing::Container(ctid), why: why.clone() });
        }
    }
    if !def.definition.faults.is_empty() {
        return Err(Hold::DefinitionInvalid { ctid, faults: def.definition.faults.clone() });
    }
    if cluster.quorate { Ok(true) } else { Err(Hold::NoQuorum) }
}

fn create(def: &ContainerDef, template: &str) -> Step {
    let Definition { storage, size_gb, plain, startup, features, network, .. } = &def.definition;
    let mut set: BTreeMap<String, String> = plain
        .iter()
        // Only the last write of a creation has a swap line, given or default. One that Proxmox adds
        // is what tells a container that is whole from one whose creation was cut off.
        .filter(|(property, _)| **property != Property::Swap)
        .map(|(property, value)| (property.name().to_owned(), value.clone()))
        .collect();
    for (name, options) in [("startup", startup), ("features", features)] {
        if !options.is_empty() {
            set.insert(name.to_owned(), listed(options));
        }
    }
    if let Some(network) = network {
        set.insert("net0".to_owned(), network.value());
    }
    let rootfs = match (storage, size_gb) {
        (Some(storage), Some(size)) => Some(format!("{storage}:{size}")),
        (None, Some(size)) => Some(size.to_string()),
        (_, None) => None,
    };
    Step::CreateContainer(CreateContainer {
        template: template.to_owned(),
        unprivileged: def.unprivileged.unwrap_or(true),
        storage: storage.clone().filter(|_| rootfs.is_none()),
        rootfs,
        set,
    })
}

/// Returns the clone, and what will be left to configure as far as the source tells.
fn clone(def: &ContainerDef, from: Ctid, name: Option<&str>, source: &Section) -> Vec<Step> {
    let other_storage = |storage: &&String| {
        source.volumes().any(|(_, mount)| !mount.volume.starts_with_str(format!("{storage}:")))
    };
    let clone = Step::CloneContainer(CloneContainer {
        from,
        snapshot: name.map(str::to_owned),
        hostname: def.definition.plain.get(&Property::Hostname).cloned(),
        storage: def.definition.storage.as_ref().filter(other_storage).cloned(),
    });
    let mut copy = source.clone();
    if let Some(hostname) = def.definition.plain.get(&Property::Hostname) {
        copy.set("hostname", hostname.as_str());
    }
    let mut configure = finish(&def.definition, Making::Clone, &copy);
    if let Some(value) = configure.as_mut().and_then(|step| step.set.get_mut("net0")) {
        // The clone gets a hardware address of its own, which nobody knows yet.
        let declared = def.definition.network.iter().any(|net| net.options.contains_key("hwaddr"));
        let mut options = options_of(value);
        if !declared && options.remove("hwaddr").is_some() {
            *value = interface(options);
        }
    }
    std::iter::once(clone).chain(configure.map(Step::ConfigureContainer)).collect()
}

/// Returns the raw lines that will be left to write once the container is made, as far as its source
/// tells.
fn raw_lines(def: &ContainerDef, source: Option<&Section>) -> Option<Step> {
    let is_there = |line: &RawLine| source.is_some_and(|source| line.is_in(source));
    let how = if source.is_some() { Making::Clone } else { Making::Create };
    let (mut remove, mut add) = (Vec::new(), Vec::new());
    let files = source.and_then(|source| source.effective_idmap().ok());
    let files = files.unwrap_or_else(IdMap::default_unprivileged);
    if let Some(map) = def.id_map.as_ref().filter(|map| !map.same_mapping(&files)) {
        let lines = id_map::lines(map);
        let old = source.into_iter().flat_map(id_map::idmap_lines).flatten();
        remove.extend(old.filter(|line| !lines.contains(line)));
        add.extend(lines.into_iter().filter(|line| !is_there(line)));
    }
    add.extend(def.definition.lxc_options.iter().filter(|line| !is_there(line)).cloned());
    let is_some = !remove.is_empty() || !add.is_empty();
    let edit = EditConf { remove, add, finishes: Some(how), ..EditConf::default() };
    is_some.then_some(Step::EditConf(edit))
}

/// Returns what of a source would be cloned, or why it cannot be cloned now.
fn source_section<'s>(
    desired: &Desired,
    snapshot: &'s Snapshot,
    def: &ContainerDef,
    from: Ctid,
    name: Option<&str>,
) -> Result<&'s Section, Hold> {
    let ctid = def.ctid;
    let lacks = |why| Hold::CloneSourceNotReady { ctid, from, why };
    let container = match snapshot.containers.get(&from) {
        Some(Presence::Here(container)) => container,
        Some(Presence::Absent) => {
            let is_made = desired.containers.get(&from).is_some_and(|def| def.source.is_some());
            return Err(lacks(if is_made { SourceLack::Coming } else { SourceLack::Absent }));
        }
        Some(Presence::OnNode(node)) => return Err(lacks(SourceLack::OnNode(node.clone()))),
        Some(Presence::Vm) => return Err(lacks(SourceLack::Vm)),
        Some(Presence::Unknown(_)) | None => return Err(lacks(SourceLack::Unknown)),
    };
    let conf = &container.conf;
    if snapshot.ledger.making.contains_key(&from) || !conf.has_rootfs() {
        return Err(lacks(SourceLack::Coming));
    }
    if snapshot.making.cloning.contains(&from)
        || container.flock_held
        || snapshot.ledger.converting.contains_key(&from)
    {
        return Err(lacks(SourceLack::Busy));
    }
    match conf.lock() {
        Some(lock) if *lock == "create" => return Err(lacks(SourceLack::Coming)),
        Some(lock) => return Err(lacks(SourceLack::Locked(lock.to_string()))),
        None => {}
    }
    let section = match name {
        Some(name) => conf
            .snapshots
            .get(name)
            // One that is being taken or removed.
            .filter(|section| section.get("snapstate").is_none())
            .ok_or_else(|| lacks(SourceLack::NoSnapshot(name.to_owned())))?,
        None if container.running != Running::No => return Err(lacks(SourceLack::Running)),
        None => &conf.current,
    };
    if let Some((key, _)) = section.volumes().find(|(_, mp)| mp.class != MountClass::Volume) {
        let of = name.map(str::to_owned);
        return Err(lacks(SourceLack::HasMount { key, snapshot: of }));
    }
    let unprivileged = section.has_custom_idmap() || section.flag("unprivileged").unwrap_or(false);
    match def.unprivileged.filter(|wanted| *wanted != unprivileged) {
        Some(wanted_unprivileged) => {
            Err(Hold::UnprivilegedMismatch { ctid, wanted_unprivileged, clone_of: Some(from) })
        }
        None => Ok(section),
    }
}

/// Returns the hold of a container whose creation was cut off, or is not over where only that tells.
pub(super) fn interrupted(
    desired: &Desired,
    snapshot: &Snapshot,
    ctid: Ctid,
    container: &ObservedContainer,
    map: Result<(), &NotReady>,
) -> Option<Hold> {
    let conf = &container.conf;
    let half_made = snapshot.ledger.making.get(&ctid) == Some(&Making::Create)
        && conf.lock().is_none()
        && conf.current.get("swap").is_none();
    if container.flock_held || snapshot.making.at_work.contains(&ctid) {
        let why = NotReady::Busy;
        return half_made.then_some(Hold::IdmapNotReady { ctid, why });
    }
    let left_locked = map == Err(&NotReady::BeingCreated);
    if !left_locked && !half_made {
        return None;
    }
    let from = match desired.containers.get(&ctid).and_then(|def| def.source.as_ref()) {
        Some(Source::Clone { from, .. }) => Some(*from),
        Some(Source::Template(_)) | None => None,
    };
    Some(Hold::CreateInterrupted { ctid, from, is_locked: left_locked })
}

/// Plans what a container that is here lacks of its definition.
pub(super) fn plan_here(
    plan: &mut ContainerPlan,
    desired: &Desired,
    snapshot: &Snapshot,
    ctid: Ctid,
    container: &ObservedContainer,
    lacks_lines: bool,
) {
    let making = snapshot.ledger.making.get(&ctid).copied();
    let Some(def) = desired.containers.get(&ctid) else {
        // Nobody says any more what it should be.
        plan.records.extend(making.map(|_| LedgerEntry::MakeEnded(ctid)));
        return;
    };
    if let Some(how) = making {
        match finish(&def.definition, how, &future(&container.conf)) {
            Some(step) => plan.steps.push(Step::ConfigureContainer(step)),
            None if container.flock_held || lacks_lines => {}
            None => plan.records.push(LedgerEntry::MakeEnded(ctid)),
        }
        return;
    }
    fields::plan(plan, &desired.settings.manage, &def.definition, container);
}

/// Returns what a container that pctd made still needs, a clone without what is its source's.
fn finish(def: &Definition, how: Making, section: &Section) -> Option<ConfigureContainer> {
    let mut step = ConfigureContainer { finishes: Some(how), ..ConfigureContainer::default() };
    for drift in drifts(def, section) {
        step.set.insert(drift.property.to_owned(), drift.declared);
    }
    if let Some(value) = def.plain.get(&Property::Nameserver)
        && !same_words(section.get("nameserver"), value)
    {
        step.set.insert("nameserver".to_owned(), value.clone());
    }
    if let Some(value) = network(def, section) {
        step.set.insert("net0".to_owned(), value);
    }
    if how == Making::Clone {
        do_not_inherit(def, section, &mut step);
    }
    (!step.set.is_empty() || !step.delete.is_empty()).then_some(step)
}

/// Takes from a clone what is its source's alone: whether, when and under which address it starts.
fn do_not_inherit(def: &Definition, section: &Section, step: &mut ConfigureContainer) {
    let mut delete = BTreeSet::new();
    let on = |name: &str| section.flag(name).unwrap_or(false);
    if on("onboot") && !def.plain.contains_key(&Property::Onboot) {
        delete.insert("onboot".to_owned());
    }
    if on("protection") {
        delete.insert("protection".to_owned());
    }
    let startup = startup_of(section.get("startup"));
    if startup != def.startup {
        if def.startup.is_empty() {
            delete.insert("startup".to_owned());
        } else {
            step.set.insert("startup".to_owned(), listed(&def.startup));
        }
    }
    for (name, value) in section.properties() {
        let number = name.strip_prefix("net").and_then(|number| number.parse::<u8>().ok());
        let declared = number == Some(0) && def.network.is_some();
        if number.is_some() && !declared && has_address(&options_of(&value.to_string())) {
            delete.insert(name.clone());
        }
    }
    step.delete = delete.into_iter().collect();
}

fn has_address(options: &BTreeMap<String, String>) -> bool {
    let fixed = |key: &str| options.get(key).is_some_and(|ip| ip.contains('/'));
    fixed("ip") || fixed("ip6") || options.contains_key("gw") || options.contains_key("gw6")
}

/// Returns `net0` as it is to be, where it is not: as declared, in the network only where declared,
/// and otherwise (VLAN, firewall, hardware address) as it is.
fn network(def: &Definition, section: &Section) -> Option<String> {
    let declared = &def.network.as_ref()?.options;
    let now = section.get("net0").map(|value| options_of(&value.to_string())).unwrap_or_default();
    let mut wanted = now.clone();
    wanted.retain(|key, _| !ADDRESSES.contains(&key.as_str()));
    wanted.extend(declared.clone());
    (wanted != now).then(|| interface(wanted))
}

fn interface(options: BTreeMap<String, String>) -> String {
    crate::desired::Interface { options }.value()
}

fn same_words(found: Option<&BStr>, wanted: &str) -> bool {
    let words = |text: &str| -> Vec<String> {
        let words = text.split([' ', ',', ';']).filter(|word| !word.is_empty());
        words.map(str::to_owned).collect()
    };
    found.is_some_and(|found| words(&found.to_string()) == words(wanted))
}
