//! JSON with the place of every key and value.
//!
//! What is JSON and what is not stays the business of `serde_json`, which checks the whole text
//! first. This module then takes it apart value by value; a borrowed [`RawValue`] is a slice of the
//! text and so tells where it stands. Keys that come twice are refused here: `serde_json` alone
//! would take the last.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::text::shown;

/// How deep values may nest. The deepest thing pctd knows lies six levels down, and other tools'
/// sections hardly deeper; the bound keeps the recursion off the stack's end.
const MAX_DEPTH: usize = 64;

/// A value and where it begins, in bytes.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Value {
    pub(super) offset: usize,
    pub(super) kind: Kind,
}

/// What a value is.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kind {
    Null,
    Boolean(bool),
    /// A number as written.
    Number(String),
    Text(String),
    List(Vec<Value>),
    Object(Vec<Member>),
}

impl Kind {
    /// Returns what it is in an admin's words.
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Boolean(_) => "true or false",
            Self::Number(_) => "a number",
            Self::Text(_) => "a text",
            Self::List(_) => "a list",
            Self::Object(_) => "an object",
        }
    }
}

/// A key of an object with its value.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Member {
    pub(super) key_offset: usize,
    pub(super) key: String,
    pub(super) value: Value,
}

/// Something that is not strict JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) offset: usize,
    pub(super) json_path: String,
    pub(super) message: String,
    /// Another place the message speaks of.
    pub(super) also: Option<usize>,
    pub(super) remedy: Option<String>,
}

/// Returns the value that `text` is, or `None` where it is none; `faults` says why.
///
/// A value comes back even with faults in it, without the faulty parts, so that the rest of the file
/// is checked as well.
pub(super) fn parse(text: &str, faults: &mut Vec<Fault>) -> Option<Value> {
    match serde_json::from_str::<&RawValue>(text) {
        Ok(root) => Reader { text, faults }.value(root.get(), "", 0),
        Err(error) => {
            faults.push(syntax_fault(text, 0, &error, ""));
            None
        }
    }
}

/// Returns the path of the member `key` of the object at `path`.
pub(super) fn member_path(path: &str, key: &str) -> String {
    let plain = !key.is_empty()
        && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'$'));
    let key = if plain { key.to_owned() } else { serde_json::Value::from(key).to_string() };
    if path.is_empty() { key } else { format!("{path}.{key}") }
}

struct Reader<'t, 'f> {
    text: &'t str,
    faults: &'f mut Vec<Fault>,
}

impl Reader<'_, '_> {
    fn value(&mut self, raw: &str, path: &str, depth: usize) -> Option<Value> {
        let offset = self.offset_of(raw);
        if depth > MAX_DEPTH {
            self.faults.push(Fault {
                offset,
                json_path: path.to_owned(),
                message: format!("more than {MAX_DEPTH} levels deep"),
                also: None,
                remedy: None,
            });
            return None;
        }
        let kind = match raw.as_bytes().first() {
            Some(b'{') => Kind::Object(self.members(raw, path, depth)?),
            Some(b'[') => Kind::List(self.items(raw, path, depth)?),
            Some(b'"') => Kind::Text(self.part(raw, raw, path)?),
            Some(b't') => Kind::Boolean(true),
            Some(b'f') => Kind::Boolean(false),
            Some(b'n') => Kind::Null,
            _ => Kind::Number(raw.to_owned()),
        };
        Some(Value { offset, kind })
    }

    fn items(&mut self, raw: &str, path: &str, depth: usize) -> Option<Vec<Value>> {
        let items: Vec<&RawValue> = self.part(raw, raw, path)?;
        let values = items
            .iter()
            .enumerate()
            .filter_map(|(i, item)| self.value(item.get(), &format!("{path}[{i}]"), depth + 1));
        Some(values.collect())
    }

    fn members(&mut self, raw: &str, path: &str, depth: usize) -> Option<Vec<Member>> {
        let entries: Entries<'_> = self.part(raw, raw, path)?;
        let mut first_at: BTreeMap<String, usize> = BTreeMap::new();
        let mut members = Vec::new();
        for (raw_key, raw_value) in entries.0 {
            let key_offset = self.offset_of(raw_key.get());
            let Some(key) = self.part::<String>(raw_key.get(), raw_key.get(), path) else {
                continue;
            };
            let path = member_path(path, &key);
            if let Some(&first) = first_at.get(&key) {
                self.faults.push(Fault {
                    offset: key_offset,
                    json_path: path,
                    message: format!("the key {} is there twice in one object", shown(&key)),
                    also: Some(first),
                    remedy: Some("keep one of them".to_owned()),
                });
                continue;
            }
            first_at.insert(key.clone(), key_offset);
            if let Some(value) = self.value(raw_value.get(), &path, depth + 1) {
                members.push(Member { key_offset, key, value });
            }
        }
        Some(members)
    }

    /// Reads `raw`, which the check of the whole text let pass, as something more definite.
    ///
    /// That can still fail: only here half a surrogate pair in a text is looked at.
    fn part<'t, T: Deserialize<'t>>(&mut self, raw: &'t str, at: &str, path: &str) -> Option<T> {
        serde_json::from_str(raw)
            .map_err(|error| {
                let offset = self.offset_of(at);
                self.faults.push(syntax_fault(raw, offset, &error, path));
            })
            .ok()
    }

    fn offset_of(&self, part: &str) -> usize {
        part.as_ptr().addr().saturating_sub(self.text.as_ptr().addr())
    }
}

/// The members of an object as they stand in the text, those with one key twice among them.
struct Entries<'t>(Vec<(&'t RawValue, &'t RawValue)>);

impl<'de> Deserialize<'de> for Entries<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EntriesVisitor;

        impl<'de> Visitor<'de> for EntriesVisitor {
            type Value = Entries<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }

        deserializer.deserialize_map(EntriesVisitor)
    }
}

/// Says what `serde_json` found in `part`, which begins at `start` of the whole text.
fn syntax_fault(part: &str, start: usize, error: &serde_json::Error, path: &str) -> Fault {
    let within = offset_at(part, error.line(), error.column());
    let full = error.to_string();
    let position = format!(" at line {} column {}", error.line(), error.column());
    let what = full.strip_suffix(&position).unwrap_or(&full);
    let rest = &part[within..];
    let remedy = if part.trim_start().is_empty() {
        Some("write at least {}")
    } else if rest.starts_with('/') || rest.starts_with('#') {
        Some("JSON has no comments: use a \"comment\" key")
    } else if rest.starts_with('\'') {
        Some("write texts in double quotes")
    } else if rest.starts_with(['}', ']']) && part[..within].trim_end().ends_with(',') {
        Some("leave the comma before the closing bracket out")
    } else {
        None
    };
    Fault {
        offset: start + within,
        json_path: path.to_owned(),
        message: format!("not JSON: {what}"),
        also: None,
        remedy: remedy.map(str::to_owned),
    }
}

/// Returns the byte offset of what `serde_json` calls line and column: both from 1, in bytes, the
/// column 0 for a line's end.
fn offset_at(text: &str, line: usize, column: usize) -> usize {
    let before = line.saturating_sub(1);
    let line_start = text.split_inclusive('\n').take(before).map(str::len).sum::<usize>();
    let mut offset = (line_start + column.saturating_sub(1)).min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    offset
}
