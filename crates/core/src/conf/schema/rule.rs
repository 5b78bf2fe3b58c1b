//! One property of a schema and the check of a value against it (`PVE::JSONSchema::check_prop`).

use bstr::{BStr, BString};

use crate::conf::schema::format::Format;

/// The type of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `0` or `1`, or a word for one of them.
    Boolean,
    /// Digits.
    Integer,
    /// Digits with a fraction.
    Number,
    /// Anything its format allows.
    Text,
}

/// What a value of one property may be.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// The name within its schema; a family such as `mp0` to `mp255` has one rule.
    pub name: &'static str,
    /// The type.
    pub kind: Kind,
    /// The format, for text.
    pub format: Format,
    /// The pattern a text must match as a whole.
    pub pattern: Option<fn(&[u8]) -> bool>,
    /// The least number.
    pub min: Option<u32>,
    /// The greatest number.
    pub max: Option<u32>,
    /// The greatest length in bytes.
    pub max_length: Option<usize>,
    /// The values allowed, if not empty.
    pub choices: &'static [&'static str],
    /// Whether it may be absent.
    pub optional: bool,
    /// Whether its name may be left out in a property string.
    pub is_default: bool,
}

impl Rule {
    const fn new(name: &'static str, kind: Kind) -> Self {
        Self {
            name,
            kind,
            format: Format::Any,
            pattern: None,
            min: None,
            max: None,
            max_length: None,
            choices: &[],
            optional: true,
            is_default: false,
        }
    }

    pub(crate) const fn boolean(name: &'static str) -> Self {
        Self::new(name, Kind::Boolean)
    }

    pub(crate) const fn integer(name: &'static str) -> Self {
        Self::new(name, Kind::Integer)
    }

    pub(crate) const fn number(name: &'static str) -> Self {
        Self::new(name, Kind::Number)
    }

    pub(crate) const fn text(name: &'static str, format: Format) -> Self {
        Self { format, ..Self::new(name, Kind::Text) }
    }

    pub(crate) const fn one_of(name: &'static str, choices: &'static [&'static str]) -> Self {
        Self { choices, ..Self::new(name, Kind::Text) }
    }

    pub(crate) const fn matching(name: &'static str, pattern: fn(&[u8]) -> bool) -> Self {
        Self { pattern: Some(pattern), ..Self::new(name, Kind::Text) }
    }

    pub(crate) const fn at_least(self, min: u32) -> Self {
        Self { min: Some(min), ..self }
    }

    pub(crate) const fn at_most(self, max: u32) -> Self {
        Self { max: Some(max), ..self }
    }

    pub(crate) const fn no_longer_than(self, max_length: usize) -> Self {
        Self { max_length: Some(max_length), ..self }
    }

    pub(crate) const fn required(self) -> Self {
        Self { optional: false, ..self }
    }

    pub(crate) const fn by_default(self) -> Self {
        Self { is_default: true, ..self }
    }

    /// Returns all that is wrong with a value, by the path it stands at.
    pub(crate) fn complaints(&self, path: &[u8], value: Option<&BStr>) -> Vec<(BString, BString)> {
        let complaint = match value {
            Some(value) => self.complaint(path, value),
            None if self.optional => None,
            None => Some("property is missing and it is not optional".into()),
        };
        complaint.into_iter().map(|text| (path.into(), text)).collect()
    }

    fn complaint(&self, path: &[u8], value: &[u8]) -> Option<BString> {
        let quoted = |before: &str, after: &str| {
            Some([before.as_bytes(), b"'", value, b"'", after.as_bytes()].concat().into())
        };
        match self.kind {
            Kind::Boolean if value != b"0" && value != b"1" => {
                return quoted("type check ('boolean') failed - got ", "");
            }
            Kind::Integer if !is_integer(value) => {
                return quoted("type check ('integer') failed - got ", "");
            }
            Kind::Number if to_number(value).is_none() => {
                return quoted("type check ('number') failed - got ", "");
            }
            _ => {}
        }
        if let Err(complaint) = self.format.check(value, Some(path)) {
            return Some([b"invalid format - ", complaint.0.as_slice()].concat().into());
        }
        if self.pattern.is_some_and(|matches| !matches(value)) {
            return Some("value does not match the regex pattern".into());
        }
        if let Some(max) = self.max_length.filter(|max| value.len() > *max) {
            return Some(format!("value may only be {max} characters long").into());
        }
        if let Some(number) = to_number(value) {
            if let Some(max) = self.max.filter(|max| number > f64::from(*max)) {
                return Some(format!("value must have a maximum value of {max}").into());
            }
            if let Some(min) = self.min.filter(|min| number < f64::from(*min)) {
                return Some(format!("value must have a minimum value of {min}").into());
            }
        }
        if !self.choices.is_empty() && !self.choices.iter().any(|c| c.as_bytes() == value) {
            let choices = self.choices.join(", ");
            let after = format!(" does not have a value in the enumeration '{choices}'");
            return quoted("value ", &after);
        }
        None
    }
}

/// Returns complaints as an exception of Proxmox lists them (`PVE::Exception::stringify`).
pub(crate) fn lines(complaints: &[(BString, BString)]) -> Vec<u8> {
    complaints.iter().flat_map(|(path, text)| [path, &b": "[..], text, b"\n"].concat()).collect()
}

fn is_integer(value: &[u8]) -> bool {
    let digits = value.strip_prefix(b"+").or_else(|| value.strip_prefix(b"-")).unwrap_or(value);
    crate::conf::text::is_digits(digits)
}

/// Returns the number a value is (`PVE::JSONSchema::is_number`).
fn to_number(value: &[u8]) -> Option<f64> {
    // Rust reads the same numbers and some words such as `inf`, which have a letter but `e`.
    let letters = value.iter().any(|b| b.is_ascii_alphabetic() && !matches!(b, b'e' | b'E'));
    if letters { None } else { std::str::from_utf8(value).ok()?.parse().ok() }
}
