//! Perl's view of bytes: blanks, truth, lists and the encoding of descriptions.
//!
//! Proxmox reads a conf as bytes, so none of this knows of characters above 127.

use std::fmt::Write as _;

use bstr::BString;

/// How much of a string Perl quotes when it refuses it as a reference (perldiag).
const QUOTED_BYTES: usize = 32;

/// What U+FFFD, the stand-in for what cannot be decoded, is in UTF-8.
const REPLACEMENT: &[u8] = "\u{fffd}".as_bytes();

/// Returns whether Perl's `\s` matches: blank, tab, line feed, vertical tab, form feed, return.
pub(crate) const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

/// Returns the text without blanks at either end.
pub(crate) fn trim(text: &[u8]) -> &[u8] {
    trim_end(trim_start(text))
}

/// Returns the text without blanks before it.
pub(crate) fn trim_start(text: &[u8]) -> &[u8] {
    let start = text.iter().position(|b| !is_space(*b)).unwrap_or(text.len());
    &text[start..]
}

/// Returns the text without blanks after it.
pub(crate) fn trim_end(text: &[u8]) -> &[u8] {
    let end = text.iter().rposition(|b| !is_space(*b)).map_or(0, |last| last + 1);
    &text[..end]
}

/// Returns whether Perl takes the text for true: all but the empty one and `0`.
pub(crate) fn is_true(text: &[u8]) -> bool {
    !text.is_empty() && text != b"0"
}

/// Returns whether the text is one digit or more.
pub(crate) fn is_digits(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(u8::is_ascii_digit)
}

/// Reads one of the words for a boolean, in any case (`PVE::JSONSchema::parse_boolean`).
pub(crate) fn parse_boolean(word: &[u8]) -> Option<bool> {
    let is = |words: &[&str]| words.iter().any(|w| word.eq_ignore_ascii_case(w.as_bytes()));
    if is(&["1", "on", "yes", "true"]) {
        Some(true)
    } else if is(&["0", "off", "no", "false"]) {
        Some(false)
    } else {
        None
    }
}

/// Returns the entries of a list (`PVE::Tools::split_list`).
pub(crate) fn split_list(list: &[u8]) -> Vec<&[u8]> {
    if list.contains(&0) {
        return split_fields(list, 0);
    }
    list.split(|b| is_space(*b) || matches!(b, b',' | b';')).filter(|e| !e.is_empty()).collect()
}

/// Returns the fields between separators without the empty ones at the end, as `split` does.
pub(crate) fn split_fields(text: &[u8], separator: u8) -> Vec<&[u8]> {
    let mut fields: Vec<&[u8]> = text.split(|b| *b == separator).collect();
    while fields.last().is_some_and(|field| field.is_empty()) {
        fields.pop();
    }
    fields
}

/// A string where Perl wanted a reference, which `use strict` makes it die of.
///
/// The parser keeps properties and its own tables in one hash, so a property named like a table
/// takes its place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.text())]
pub struct NotAReference {
    /// The value found.
    pub value: BString,
    /// What was wanted: `an ARRAY` or `a HASH`.
    pub wanted: &'static str,
}

impl NotAReference {
    pub(crate) fn array(value: &[u8]) -> Self {
        Self { value: value.into(), wanted: "an ARRAY" }
    }

    pub(crate) fn hash(value: &[u8]) -> Self {
        Self { value: value.into(), wanted: "a HASH" }
    }

    /// Returns Perl's message, without the place in Perl's source.
    pub fn text(&self) -> BString {
        let (shown, more) = match self.value.get(..QUOTED_BYTES) {
            Some(start) if self.value.len() > QUOTED_BYTES => (start, "..."),
            _ => (self.value.as_slice(), ""),
        };
        let mut text = BString::from("Can't use string (\"");
        text.extend_from_slice(shown);
        let rest = format!("\"{more}) as {} ref while \"strict refs\" in use", self.wanted);
        text.extend_from_slice(rest.as_bytes());
        text
    }
}

/// Encodes a line of a description (`PVE::Tools::encode_text`).
pub fn encode_text(text: &[u8]) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text {
        if matches!(byte, 0x20..=0x24 | 0x26..=0x39 | 0x3b..=0x7e) {
            encoded.push(char::from(*byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

/// Decodes a line of a description (`PVE::Tools::decode_text`).
///
/// The result is UTF-8 as Perl's lax `utf8` has it, which lets surrogates and numbers beyond
/// Unicode pass.
pub fn decode_text(text: &[u8]) -> BString {
    let plain = unescape(text);
    let mut decoded = BString::from(Vec::with_capacity(plain.len()));
    let mut rest = plain.as_slice();
    while !rest.is_empty() {
        let (length, valid) = sequence(rest);
        decoded.extend_from_slice(if valid { &rest[..length] } else { REPLACEMENT });
        rest = &rest[length..];
    }
    decoded
}

/// Replaces `%XX` (`URI::Escape::uri_unescape`).
fn unescape(text: &[u8]) -> Vec<u8> {
    let digit = |at: usize| text.get(at).and_then(|b| char::from(*b).to_digit(16));
    let mut plain = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        let escaped = (*byte == b'%').then(|| digit(at + 1).zip(digit(at + 2))).flatten();
        let decoded = escaped.and_then(|(high, low)| u8::try_from(high * 16 + low).ok());
        plain.push(decoded.unwrap_or(*byte));
        at += if decoded.is_some() { 3 } else { 1 };
    }
    plain
}

/// Returns how many bytes at the start are one character, or one fault, and which of both.
///
/// Follows `process_utf8` of Perl's Encode: a fault ends before the first byte that does not
/// continue the sequence, and a sequence longer than it need be is one fault as a whole. (Perl 5.36
/// also loses a good character right behind a stray byte, a fault of its own not repeated here.)
fn sequence(text: &[u8]) -> (usize, bool) {
    let first = text[0];
    let (wanted, bits) = match first {
        0x00..=0x7f => return (1, true),
        0x80..=0xbf => return (1, false),
        0xc0..=0xdf => (2, first & 0x1f),
        0xe0..=0xef => (3, first & 0x0f),
        0xf0..=0xf7 => (4, first & 0x07),
        0xf8..=0xfb => (5, first & 0x03),
        0xfc..=0xfd => (6, first & 0x01),
        0xfe => (7, 0),
        0xff => (13, 0),
    };
    let tail = text[1..].iter().take(wanted - 1).take_while(|b| matches!(b, 0x80..=0xbf));
    let (length, number) = tail.fold((1, u128::from(bits)), |(length, number), byte| {
        (length + 1, number << 6 | u128::from(byte & 0x3f))
    });
    // The longest sequence for numbers below these, one byte longer each time.
    let shortest = match number {
        0..0x80 => 1,
        0x80..0x800 => 2,
        0x800..0x1_0000 => 3,
        0x1_0000..0x20_0000 => 4,
        0x20_0000..0x400_0000 => 5,
        0x400_0000..0x8000_0000 => 6,
        0x8000_0000..0x10_0000_0000 => 7,
        _ => 13,
    };
    (length, length == wanted && wanted == shortest)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Results of Perl 5.36 with Encode 3.19.
    #[test]
    fn descriptions_are_decoded_as_perl_decodes_them() {
        for (text, expected) in [
            (&b"a%3A b%25 c%0Ad"[..], &b"a: b% c\nd"[..]),
            (b"%zz%4", b"%zz%4"),
            (b"caf\xe9 %E9", b"caf\xef\xbf\xbd \xef\xbf\xbd"),
            (b"\xe2\x82", b"\xef\xbf\xbd"),
            (b"\xe2\x28\xa1", b"\xef\xbf\xbd(\xef\xbf\xbd"),
            (b"\xc0\x80x", b"\xef\xbf\xbdx"),
            (b"\xf0\x80\x80\x80", b"\xef\xbf\xbd"),
            (b"\xff\xfe", b"\xef\xbf\xbd\xef\xbf\xbd"),
            (b"\xed\xa0\x80", b"\xed\xa0\x80"),
            (b"%F4%90%80%80", b"\xf4\x90\x80\x80"),
        ] {
            assert_eq!(decode_text(text), expected, "{text:?}");
        }
    }

    #[test]
    fn what_is_encoded_is_decoded_to_the_same() {
        let all: Vec<u8> = "\u{0}\n\r :%~\u{7f}ü日".bytes().collect();
        assert_eq!(encode_text(&all), "%00%0A%0D %3A%25~%7F%C3%BC%E6%97%A5");
        assert_eq!(decode_text(encode_text(&all).as_bytes()), all);
    }

    #[test]
    fn only_ascii_blanks_are_blanks() {
        assert_eq!(trim(b"\x0b\x0c a b\t\r\n"), b"a b");
        assert_eq!(trim(b"\xa0\x85"), b"\xa0\x85");
        assert_eq!(trim(b" \n"), b"");
    }

    #[test]
    fn a_list_with_a_nul_is_split_there_alone() {
        assert_eq!(split_list(b" a,b;\tc "), [b"a", b"b", b"c"]);
        assert_eq!(split_list(b"a b\0,\0\0"), [&b"a b"[..], b","]);
    }

    #[test]
    fn a_long_string_is_quoted_in_part() {
        let long = NotAReference::array(&[b'a'; 40]).text();
        let shown = "a".repeat(32);
        let expected = format!(
            "Can't use string (\"{shown}\"...) as an ARRAY ref while \"strict refs\" in use"
        );
        assert_eq!(long, expected);
    }
}
