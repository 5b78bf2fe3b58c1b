//! Comma-separated lists of options (`PVE::JSONSchema::parse_property_string`).

use std::collections::BTreeMap;

use bstr::{BString, ByteSlice};

use crate::conf::schema::Complaint;
use crate::conf::schema::rule::{self, Kind, Rule};
use crate::conf::text::{is_space, is_true, parse_boolean, split_fields};

/// Returns the options of a property string by name, boolean words as `0` or `1`.
///
/// `path` is the name of the property where one is known; the names in complaints begin with it.
pub(crate) fn parse_property_string(
    rules: &[Rule],
    text: &[u8],
    path: Option<&[u8]>,
) -> Result<BTreeMap<BString, BString>, Complaint> {
    let options = split_options(rules, text)?;
    let complaints = complaints(rules, &options, path);
    if complaints.is_empty() {
        Ok(options)
    } else {
        Err(Complaint::about("format error\n", &rule::lines(&complaints), ""))
    }
}

fn split_options(rules: &[Rule], text: &[u8]) -> Result<BTreeMap<BString, BString>, Complaint> {
    let mut options: BTreeMap<BString, BString> = BTreeMap::new();
    let mut default_given = false;
    for part in split_fields(text, b',') {
        if part.iter().all(|b| is_space(*b)) {
            continue;
        }
        if let Some((name, value)) = part.split_once_str("=") {
            if name.is_empty() || value.is_empty() {
                return Err(Complaint::new("missing key in comma-separated list property\n"));
            }
            if options.contains_key(name.as_bstr()) {
                return Err(duplicate(name));
            }
            let rule = rules.iter().find(|rule| rule.name.as_bytes() == name);
            let is_boolean = rule.is_some_and(|rule| rule.kind == Kind::Boolean);
            let word = if is_boolean { parse_boolean(value) } else { None };
            let value = word.map_or(value, |on| if on { b"1" } else { b"0" });
            options.insert(name.into(), value.into());
            continue;
        }
        let Some(rule) = rules.iter().find(|rule| rule.is_default) else {
            let text = "value without key, but schema does not define a default key\n";
            return Err(Complaint::new(text));
        };
        // A value that Perl takes for false may be given again, once.
        let name = rule.name.as_bytes();
        if default_given || options.get(name.as_bstr()).is_some_and(|value| is_true(value)) {
            return Err(duplicate(name));
        }
        default_given = true;
        options.insert(name.into(), part.into());
    }
    Ok(options)
}

fn duplicate(name: &[u8]) -> Complaint {
    Complaint::about("duplicate key in comma-separated list property: ", name, "\n")
}

/// Returns what is wrong with the options (`PVE::JSONSchema::check_object`).
fn complaints(
    rules: &[Rule],
    options: &BTreeMap<BString, BString>,
    path: Option<&[u8]>,
) -> Vec<(BString, BString)> {
    let below = |name: &[u8]| match path {
        Some(path) => [path, b".", name].concat(),
        None => name.to_vec(),
    };
    let mut all = Vec::new();
    for rule in rules {
        let value = options.get(rule.name.as_bytes().as_bstr()).map(|value| value.as_bstr());
        all.extend(rule.complaints(&below(rule.name.as_bytes()), value));
    }
    let known = |name: &BString| rules.iter().any(|rule| rule.name.as_bytes() == name.as_slice());
    for name in options.keys().filter(|name| !known(name)) {
        let text = "property is not defined in schema and the schema does not allow \
                    additional properties";
        all.push((below(name).into(), text.into()));
    }
    all
}
