//! A configuration file read as text, and the tree of values in it.

use super::json::{self, Fault, Kind, Member, Value, member_path};
use super::place::Place;

/// The bytes some editors put before UTF-8 text. JSON forbids them.
const UTF8_MARK: &[u8] = b"\xef\xbb\xbf";

/// The bytes that UTF-16 files begin with, in both byte orders.
const UTF16_MARKS: [&[u8]; 2] = [b"\xff\xfe", b"\xfe\xff"];

/// A file and where its lines begin.
#[derive(Debug)]
pub(super) struct Document {
    name: String,
    text: String,
    line_starts: Vec<usize>,
}

impl Document {
    /// Returns the file, or as much of it as is text with what is wrong with the rest.
    pub(super) fn new(name: &str, bytes: &[u8]) -> (Self, Option<Fault>) {
        let (text, fault) = decode(bytes);
        let line_starts = std::iter::once(0)
            .chain(text.match_indices('\n').map(|(newline, _)| newline + 1))
            .collect();
        (Self { name: name.to_owned(), text: text.to_owned(), line_starts }, fault)
    }

    /// Returns the value in the file.
    pub(super) fn parse(&self, faults: &mut Vec<Fault>) -> Option<Value> {
        json::parse(&self.text, faults)
    }

    /// Returns the place that lies `offset` bytes into the file.
    pub(super) fn place(&self, offset: usize, json_path: &str) -> Place {
        let line = self.line_starts.partition_point(|start| *start <= offset);
        let start = self.line_starts.get(line.saturating_sub(1)).copied().unwrap_or(0);
        let column = self.text.get(start..offset).map_or(0, |before| before.chars().count()) + 1;
        Place { file: self.name.clone(), line, column, json_path: json_path.to_owned() }
    }
}

fn decode(bytes: &[u8]) -> (&str, Option<Fault>) {
    let fault = |offset: usize, message: &str, remedy: &str| Fault {
        offset,
        json_path: String::new(),
        message: message.to_owned(),
        also: None,
        remedy: Some(remedy.to_owned()),
    };
    if bytes.starts_with(UTF8_MARK) {
        return (
            "",
            Some(fault(0, "begins with a byte order mark", "save it as UTF-8 without one")),
        );
    }
    if UTF16_MARKS.iter().any(|mark| bytes.starts_with(mark)) {
        return ("", Some(fault(0, "is UTF-16", "save it as UTF-8")));
    }
    match str::from_utf8(bytes) {
        Ok(text) => (text, None),
        Err(error) => {
            let valid = &bytes[..error.valid_up_to()];
            let text = str::from_utf8(valid).unwrap_or_default();
            (text, Some(fault(valid.len(), "not UTF-8 from here on", "save the file as UTF-8")))
        }
    }
}

/// A place on the way to becoming a [`Place`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Spot {
    /// Which of the files.
    pub(super) file: usize,
    pub(super) offset: usize,
    pub(super) json_path: String,
}

/// A value in its file, with the path that leads to it.
#[derive(Debug, Clone)]
pub(super) struct Node<'t> {
    pub(super) value: &'t Value,
    pub(super) spot: Spot,
}

impl<'t> Node<'t> {
    /// Returns the value of file number `file`.
    pub(super) const fn root(file: usize, value: &'t Value) -> Self {
        let spot = Spot { file, offset: value.offset, json_path: String::new() };
        Self { value, spot }
    }

    /// Returns the members of an object, of anything else none: key, place of the key, value.
    pub(super) fn members(&self) -> impl Iterator<Item = (&'t str, Spot, Self)> + use<'t> {
        let members: &'t [Member] = match &self.value.kind {
            Kind::Object(members) => members,
            _ => &[],
        };
        let (file, path) = (self.spot.file, self.spot.json_path.clone());
        members.iter().map(move |Member { key_offset, key, value }| {
            let json_path = member_path(&path, key);
            let key_spot = Spot { file, offset: *key_offset, json_path: json_path.clone() };
            let spot = Spot { file, offset: value.offset, json_path };
            (key.as_str(), key_spot, Self { value, spot })
        })
    }

    /// Returns the member `key` of an object.
    pub(super) fn get(&self, key: &str) -> Option<Self> {
        self.members().find(|(candidate, ..)| *candidate == key).map(|(.., node)| node)
    }

    /// Returns whether it is an object with the member `key`.
    pub(super) fn has(&self, key: &str) -> bool {
        matches!(&self.value.kind, Kind::Object(members) if members.iter().any(|m| m.key == key))
    }

    /// Returns the items of a list, of anything else none.
    pub(super) fn items(&self) -> impl Iterator<Item = Self> + use<'t> {
        let items: &'t [Value] = match &self.value.kind {
            Kind::List(items) => items,
            _ => &[],
        };
        let (file, path) = (self.spot.file, self.spot.json_path.clone());
        items.iter().enumerate().map(move |(i, value)| {
            let spot = Spot { file, offset: value.offset, json_path: format!("{path}[{i}]") };
            Self { value, spot }
        })
    }

    /// Returns the text that it is.
    pub(super) fn text(&self) -> Option<&'t str> {
        match &self.value.kind {
            Kind::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Returns whether it is `true` or `false`.
    pub(super) const fn boolean(&self) -> Option<bool> {
        match self.value.kind {
            Kind::Boolean(value) => Some(value),
            _ => None,
        }
    }

    /// Returns the whole number that it is: digits alone, neither `1.0` nor `1e3`.
    pub(super) fn whole(&self) -> Option<u64> {
        match &self.value.kind {
            Kind::Number(text) => text.parse().ok(),
            _ => None,
        }
    }
}
