//! Fields of a definition that a container which is here does not have as declared: those that are
//! managed are set, the others are only shown.

use std::collections::{BTreeMap, BTreeSet};

use bstr::BStr;

use crate::conf::{Conf, Section};
use crate::desired::definition::{Property, listed};
use crate::desired::{Definition, Field};
use crate::observed::{ObservedContainer, Running};
use crate::plan::notice::Notice;
use crate::plan::planned::{ContainerPlan, FieldDrift};
use crate::plan::step::{ConfigureContainer, Step};

/// Plans the fields of a container that is whole.
pub(super) fn plan(
    plan: &mut ContainerPlan,
    manage: &BTreeSet<Field>,
    def: &Definition,
    container: &ObservedContainer,
) {
    let future = future(&container.conf);
    let mut step = ConfigureContainer::default();
    for drift in drifts(def, &future) {
        if manage.contains(&drift.field) {
            step.set.insert(drift.property.to_owned(), drift.declared);
        } else {
            plan.drift.push(drift);
        }
    }
    // Two fields of one property, of which one is managed: the other stays as it is.
    if step.set.contains_key("startup") {
        let mut options = startup_of(future.get("startup"));
        for (field, key) in [(Field::BootOrder, "order"), (Field::BootDelay, "up")] {
            let managed = manage.contains(&field);
            if let Some(value) = def.startup.get(key).filter(|_| managed) {
                options.insert(key.to_owned(), value.clone());
            }
        }
        step.set.insert("startup".to_owned(), listed(&options));
    }
    if !step.set.is_empty() {
        plan.steps.push(Step::ConfigureContainer(step));
    }
    let manages = |name: &&str| *name == "features" && manage.contains(&Field::PctOptions);
    let waiting = container.conf.pending.section.properties();
    let waiting: Vec<String> =
        waiting.keys().filter(|name| manages(&name.as_str())).cloned().collect();
    if container.running != Running::No && !waiting.is_empty() {
        plan.notices.push(Notice::PropertyPendingRestart { names: waiting });
    }
}

impl ConfigureContainer {
    /// Returns whether a conf has all of it, whatever else its values say.
    pub fn is_in(&self, conf: &Conf) -> bool {
        let section = future(conf);
        let has = |(name, value): (&String, &String)| {
            let Some(found) = section.get(name) else { return name == "onboot" && value == "0" };
            let found = found.to_string();
            match name.as_str() {
                // Proxmox orders and completes these.
                "net0" | "features" | "startup" => {
                    let now = options_of(&found);
                    options_of(value).iter().all(|(key, value)| now.get(key) == Some(value))
                }
                _ => found == *value,
            }
        };
        self.set.iter().all(has) && self.delete.iter().all(|name| section.get(name).is_none())
    }
}

/// Returns the properties as they will be when what is pending has taken effect.
pub(super) fn future(conf: &Conf) -> Section {
    let mut section = conf.current.clone();
    for (name, value) in conf.pending.section.properties() {
        section.set(name, value.clone());
    }
    for name in conf.pending.deletes().into_keys() {
        section.remove(&name.to_string());
    }
    section
}

/// Returns the fields that are not as declared.
pub(super) fn drifts(def: &Definition, section: &Section) -> Vec<FieldDrift> {
    let mut drifts = Vec::new();
    let text = |value: &BStr| value.to_string();
    let plain = [
        (Field::Name, Property::Hostname),
        (Field::MemoryMb, Property::Memory),
        (Field::SwapMb, Property::Swap),
        (Field::Cores, Property::Cores),
        (Field::StartAtBoot, Property::Onboot),
    ];
    for (field, property) in plain {
        let Some(declared) = def.plain.get(&property) else { continue };
        let found = section.get(property.name());
        let same = match property {
            Property::Onboot => section.flag("onboot").unwrap_or(false) == (declared == "1"),
            _ => found.is_some_and(|found| *found == declared.as_str()),
        };
        if !same {
            let (property, declared) = (property.name(), declared.clone());
            drifts.push(FieldDrift { field, property, declared, found: found.map(text) });
        }
    }
    let startup = startup_of(section.get("startup"));
    for (field, key) in [(Field::BootOrder, "order"), (Field::BootDelay, "up")] {
        let Some(value) = def.startup.get(key).filter(|v| startup.get(key) != Some(*v)) else {
            continue;
        };
        let mut wanted = startup.clone();
        wanted.insert(key.to_owned(), value.clone());
        // With both fields of it, in whichever order they come.
        wanted.extend(def.startup.clone());
        let (declared, found) = (listed(&wanted), section.get("startup").map(text));
        drifts.push(FieldDrift { field, property: "startup", declared, found });
    }
    let now = section.get("features").map(|value| options_of(&value.to_string()));
    let now = now.unwrap_or_default();
    if def.features.iter().any(|(key, value)| now.get(key) != Some(value)) {
        let mut wanted = now;
        wanted.extend(def.features.clone());
        let (declared, found) = (listed(&wanted), section.get("features").map(text));
        drifts.push(FieldDrift { field: Field::PctOptions, property: "features", declared, found });
    }
    drifts
}

/// Reads `KEY=VALUE,...`.
pub(super) fn options_of(text: &str) -> BTreeMap<String, String> {
    let pairs = text.split(',').filter_map(|part| part.split_once('='));
    pairs.map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned())).collect()
}

/// Reads `startup`, of which the order may stand without its name.
pub(super) fn startup_of(value: Option<&BStr>) -> BTreeMap<String, String> {
    let Some(value) = value else { return BTreeMap::new() };
    let text = value.to_string();
    let mut options = options_of(&text);
    let bare = text.split(',').find(|part| !part.contains('='));
    if let Some(order) = bare.filter(|order| !order.trim().is_empty()) {
        options.insert("order".to_owned(), order.trim().to_owned());
    }
    options
}
