//! The `lxc.idmap` lines of a conf and what Proxmox makes of them
//! (`PVE::LXC::parse_id_maps`, `validate_id_maps`).

use std::cmp::Ordering;
use std::fmt;

use bstr::{BStr, BString};

use crate::conf::number::Number;
use crate::conf::text::{NotAReference, is_digits, is_space, trim_end};
use crate::idmap::{IdKind, IdMap, IdRange};

/// Why there is no telling which ids a container has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdMapError {
    /// An `lxc.idmap` line that is none; the text after its key.
    #[error("failed to parse idmap: {0}")]
    BadLine(BString),
    /// A property `lxc` stands where the raw lines should be.
    #[error(transparent)]
    NoLines(NotAReference),
}

/// One entry of an id map as written: the numbers are not bounded, nor stripped of zeros.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct IdLine {
    /// Users or groups.
    pub kind: IdKind,
    /// The first id inside the container, in digits.
    pub container: String,
    /// The first id outside, in digits: on the host, or on disk for the map of one mount.
    pub host: String,
    /// How many ids, in digits.
    pub count: String,
}

impl IdLine {
    /// Reads the value of an `lxc.idmap` line: `[ug] <container> <host> <count>`.
    pub(crate) fn parse(value: &[u8]) -> Result<Self, IdMapError> {
        let fields: Vec<&[u8]> =
            trim_end(value).split(|b| is_space(*b)).filter(|f| !f.is_empty()).collect();
        let is_leading = !value.first().is_some_and(|b| is_space(*b));
        is_leading
            .then(|| Self::from_fields(&fields))
            .flatten()
            .ok_or_else(|| IdMapError::BadLine(value.into()))
    }

    pub(crate) fn from_fields(fields: &[&[u8]]) -> Option<Self> {
        let &[kind, container, host, count] = fields else { return None };
        let kind = match kind {
            b"u" => IdKind::User,
            b"g" => IdKind::Group,
            _ => return None,
        };
        let digits =
            |text: &[u8]| is_digits(text).then(|| String::from_utf8(text.to_vec()).ok()).flatten();
        Some(Self {
            kind,
            container: digits(container)?,
            host: digits(host)?,
            count: digits(count)?,
        })
    }

    /// Returns the entry in numbers.
    ///
    /// One beyond 64 bits becomes the greatest there is, which says the same about the 32-bit ids
    /// that exist: none of them is mapped by such a start, all of them by such a count.
    pub fn range(&self) -> IdRange {
        let number = |digits: &str| digits.parse().unwrap_or(u64::MAX);
        IdRange {
            kind: self.kind,
            container: number(&self.container),
            host: number(&self.host),
            count: number(&self.count),
        }
    }

    fn number(digits: &str) -> Number {
        // The fields hold digits, which are a number always.
        Number::from_digits(digits.as_bytes()).unwrap_or(Number::Integer(0))
    }
}

impl fmt::Display for IdLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} {}", self.kind.letter(), self.container, self.host, self.count)
    }
}

/// The lines that hold for a container without any of its own.
fn default_lines() -> Vec<IdLine> {
    let line = |range: &IdRange| IdLine {
        kind: range.kind,
        container: range.container.to_string(),
        host: range.host.to_string(),
        count: range.count.to_string(),
    };
    IdMap::default_unprivileged().ranges().iter().map(line).collect()
}

/// Returns the lines in force for these `lxc.idmap` values, none for host ids.
pub(crate) fn lines_in_force<'a>(
    custom: impl Iterator<Item = &'a BStr>,
    unprivileged: bool,
) -> Result<Vec<IdLine>, IdMapError> {
    let lines: Vec<IdLine> = custom.map(|value| IdLine::parse(value)).collect::<Result<_, _>>()?;
    Ok(if lines.is_empty() && unprivileged { default_lines() } else { lines })
}

/// The host's ids of a container's root as Proxmox computes them, in digits as written.
///
/// Proxmox only looks at entries that begin at 0 and takes host 0 where there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootIds {
    /// The user id.
    pub uid: String,
    /// The group id.
    pub gid: String,
}

impl RootIds {
    pub(crate) fn of(lines: &[IdLine]) -> Self {
        let of = |kind| {
            let is_root = |line: &&IdLine| {
                line.kind == kind && line.container.bytes().all(|digit| digit == b'0')
            };
            lines.iter().rfind(is_root).map_or_else(|| "0".to_owned(), |line| line.host.clone())
        };
        Self { uid: of(IdKind::User), gid: of(IdKind::Group) }
    }
}

/// Returns Proxmox's message about the first two entries that overlap, in the container or on the
/// host.
pub(crate) fn overlap(lines: &[IdLine]) -> Option<String> {
    for kind in [IdKind::User, IdKind::Group] {
        for side in [Side::Container, Side::Host] {
            let number = |line: &IdLine| IdLine::number(side.start(line));
            let mut sorted: Vec<&IdLine> = lines.iter().filter(|line| line.kind == kind).collect();
            sorted.sort_by(|a, b| number(a).compare(number(b)));
            let clash = sorted.windows(2).find(|pair| {
                let end = number(pair[0]).plus(IdLine::number(&pair[0].count));
                end.compare(number(pair[1])) == Ordering::Greater
            });
            if let Some(&[before, line]) = clash {
                let (name, letter, id) = (side.as_str(), kind.letter(), side.start(line));
                return Some(format!(
                    "invalid map entry '{line}': {name} {letter}id {id} is also mapped by entry \
                     '{before}'"
                ));
            }
        }
    }
    None
}

/// One of the two ids an entry begins at.
#[derive(Clone, Copy)]
enum Side {
    Container,
    Host,
}

impl Side {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Host => "host",
        }
    }

    fn start(self, line: &IdLine) -> &str {
        match self {
            Self::Container => &line.container,
            Self::Host => &line.host,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(texts: &[&str]) -> Vec<IdLine> {
        texts.iter().map(|text| IdLine::parse(text.as_bytes()).unwrap()).collect()
    }

    #[test]
    fn only_a_kind_and_three_numbers_are_a_line() {
        assert_eq!(lines(&["u\t0  100000 \x0b65536 "])[0].to_string(), "u 0 100000 65536");
        for text in
            ["", "b 0 1 2", "u 0 1", "u 0 1 2 3", "u 0 -1 2", "u 0 1 2 # x", " u 0 1 2", "u0 1 2 3"]
        {
            let error = IdLine::parse(text.as_bytes()).unwrap_err();
            assert_eq!(error, IdMapError::BadLine(text.into()), "{text}");
        }
    }

    #[test]
    fn root_is_where_the_last_entry_from_zero_says() {
        let root = |texts| {
            let ids = RootIds::of(&lines(texts));
            (ids.uid, ids.gid)
        };
        assert_eq!(root(&["u 0 5 1", "u 00 07 1", "g 1 9 9"]), ("07".into(), "0".into()));
    }

    #[test]
    fn entries_that_share_an_id_are_named() {
        for (texts, message) in [
            (&["u 0 100 10", "u 10 110 10", "g 0 100 10"][..], None),
            (
                &["u 1000 1000 1", "u 0 100000 65536"],
                Some(
                    "'u 1000 1000 1': container uid 1000 is also mapped by entry 'u 0 100000 65536'",
                ),
            ),
            (
                &["g 0 5 2", "g 2 06 1"],
                Some("'g 2 06 1': host gid 06 is also mapped by entry 'g 0 5 2'"),
            ),
            (&["u 0 5 0", "u 0 6 0"], None),
            (&["u 5 18446744073709551615 1", "u 7 18446744073709551616 1"], None),
        ] {
            let expected = message.map(|text| format!("invalid map entry {text}"));
            assert_eq!(overlap(&lines(texts)), expected, "{texts:?}");
        }
    }

    #[test]
    fn ids_beyond_64_bits_map_nothing() {
        let line = &lines(&["u 0 18446744073709551616 99999999999999999999"])[0];
        assert_eq!(IdMap::new(vec![line.range()]).host_id(IdKind::User, 0), None);
    }
}
