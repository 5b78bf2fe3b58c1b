//! The configuration: JSON files in, the desired state or everything that is wrong with them out.
//!
//! Pure. The caller reads the files; nothing here looks at the node, so that a configuration can be
//! checked anywhere. What exists and what does not is found out when it is observed.
//!
//! The way through: `document` and `json` make a tree in which every value knows its place; `shape`
//! checks it against the tables in `fields`, from which `schema` is made as well; `settings`,
//! `volumes` and `containers` turn it into [`Desired`]; `conflicts` checks what concerns several
//! volumes.

mod certificates;
mod conflicts;
mod containers;
mod default_acl;
mod definition;
mod disk_ids;
mod document;
mod fields;
mod id_maps;
mod json;
mod owner;
mod paths;
mod place;
mod report;
mod schema;
mod seed;
mod settings;
mod shape;
mod syntax;
mod text;
mod volumes;

use std::collections::BTreeMap;

pub use place::{Note, Place, Problem, Problems, Severity};
pub use report::Strictness;
pub use schema::schema;

use crate::desired::Desired;
use crate::ids::Key;
use document::{Document, Node};
use report::Report;
use shape::Shape;

/// A valid configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// What it asks for.
    pub desired: Desired,
    /// What is worth knowing about it, in the order of the files.
    pub notes: Vec<Note>,
    /// Where every volume and every container of `lxc_configs` is declared.
    pub places: BTreeMap<Key, Place>,
}

/// Makes one desired state of files, each with the name it goes by in messages.
///
/// ```
/// use pctd_core::config::{Strictness, load};
///
/// let text = r#"{"shared_volumes": {"media": {"host_path": "/tank/media", "mounts": {"101": "/media"}}}}"#;
/// let loaded = load(&[("config.json".to_owned(), text.into())], Strictness::Lenient)?;
/// assert_eq!(loaded.desired.volumes.len(), 1);
///
/// let text = r#"{"settings": {"poll_intervall": "2s"}}"#;
/// let problems = load(&[("config.json".to_owned(), text.into())], Strictness::Lenient).unwrap_err();
/// assert_eq!(
///     problems.to_string(),
///     "config.json:1:15: settings.poll_intervall: `poll_intervall` is not a key of a settings section; \
///      did you mean \"poll_interval\"?",
/// );
/// # Ok::<(), pctd_core::config::Problems>(())
/// ```
///
/// # Errors
///
/// Returns everything that is wrong in any of the files.
pub fn load(files: &[(String, Vec<u8>)], strictness: Strictness) -> Result<Loaded, Problems> {
    let (documents, undecoded): (Vec<_>, Vec<_>) =
        files.iter().map(|(name, bytes)| Document::new(name, bytes)).unzip();
    let mut report = Report::new(&documents, strictness);
    let mut values = Vec::new();
    for (file, (document, fault)) in documents.iter().zip(undecoded).enumerate() {
        let mut faults = Vec::from_iter(fault);
        if faults.is_empty() {
            values.extend(document.parse(&mut faults).map(|value| (file, value)));
        }
        for fault in faults {
            report.fault(file, fault);
        }
    }
    let roots: Vec<Node<'_>> =
        values.iter().map(|(file, value)| Node::root(*file, value)).collect();
    for root in &roots {
        shape::check(root, &Shape::Object(&fields::FILE), &mut report);
    }

    let settings = settings::read(&roots, &mut report);
    let mut volumes = volumes::read(&roots, settings.seed_defaults, &mut report);
    let containers = containers::read(&roots, &mut report);
    containers::add_mount_points(&containers, &mut volumes, &mut report);
    conflicts::check(&volumes, &mut report);

    let place = |spot| report.place(spot);
    let places = volumes
        .iter()
        .map(|(name, declared)| (Key::Volume(name.clone()), place(&declared.spot)))
        .chain(containers.iter().map(|(ctid, c)| (Key::Container(*ctid), place(&c.spot))))
        .collect();
    let volumes = volumes.into_iter().map(|(name, declared)| (name, declared.volume)).collect();
    let containers = containers.into_iter().map(|(ctid, c)| (ctid, c.container)).collect();
    let notes = report.finish()?;
    Ok(Loaded { desired: Desired { settings, volumes, containers }, notes, places })
}

#[cfg(test)]
mod tests;
