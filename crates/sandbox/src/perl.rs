//! What Perl does to text that a conf or an argument goes through.
//!
//! A Perl string is a list of characters; a file read without a layer gives one character per
//! byte (so Latin-1), and printing gives them back, unless one of them is above 255: then the
//! whole string is written as UTF-8 with a warning. Arguments are decoded by the locale. Both
//! show in `/etc/pve` (`/srv/hü` becomes byte FC, or two U+FFFD under the C locale), so the
//! model keeps text as characters and converts where Proxmox does.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use bstr::BString;

/// The warning of `print` for a character above 255 (perldiag).
pub(crate) const WIDE_CHARACTER: &str =
    "Wide character in print at /usr/share/perl5/PVE/Tools.pm line 311.\n";

/// Returns the characters a file with these bytes is read as.
pub(crate) fn from_file(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

/// Returns the bytes `print` writes for this text, and whether it warns of a wide character.
pub(crate) fn to_file(text: &str) -> (BString, bool) {
    let narrow: Option<Vec<u8>> = text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect();
    match narrow {
        Some(bytes) => (bytes.into(), false),
        None => (text.into(), true),
    }
}

/// Returns a path of a conf as the system takes it.
pub(crate) fn to_path(text: &str) -> OsString {
    OsString::from_vec(to_file(text).0.into())
}

/// How arguments are decoded: what `Encode::Locale` makes of the environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Locale {
    /// `C` or `POSIX`: a byte above 127 is no character.
    Ascii,
    /// A UTF-8 locale.
    Utf8,
}

impl Locale {
    /// Returns the locale that this environment selects (locale(7): `LC_ALL`, `LC_CTYPE`, `LANG`).
    pub(crate) fn of(mut variable: impl FnMut(&str) -> Option<String>) -> Self {
        let name = ["LC_ALL", "LC_CTYPE", "LANG"]
            .into_iter()
            .find_map(|key| variable(key).filter(|value| !value.is_empty()))
            .unwrap_or_default()
            .to_ascii_lowercase();
        if name.contains("utf-8") || name.contains("utf8") { Self::Utf8 } else { Self::Ascii }
    }

    /// Returns an argument as the program sees it.
    pub(crate) fn decode(self, argument: &OsStr) -> String {
        let bytes = argument.as_bytes();
        match self {
            Self::Utf8 => String::from_utf8_lossy(bytes).into_owned(),
            Self::Ascii => {
                bytes
                    .iter()
                    .map(|byte| {
                        if byte.is_ascii() {
                            char::from(*byte)
                        } else {
                            char::REPLACEMENT_CHARACTER
                        }
                    })
                    .collect()
            }
        }
    }
}

/// Returns the entries of a list option (`PVE::Tools::split_list`).
pub(crate) fn split_list(text: &str) -> Vec<String> {
    if text.contains('\0') {
        return text.split('\0').map(str::to_owned).collect();
    }
    text.split(|c: char| matches!(c, ',' | ';') || is_space(c))
        .filter(|entry| !entry.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Returns whether `\s` matches: the ASCII blanks with vertical tab and form feed.
pub(crate) fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t'..='\r')
}

/// Reads a boolean word (`PVE::JSONSchema::parse_boolean`).
pub(crate) fn parse_boolean(word: &str) -> Option<bool> {
    match word.to_ascii_lowercase().as_str() {
        "1" | "on" | "yes" | "true" => Some(true),
        "0" | "off" | "no" | "false" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_latin_1_character_is_one_byte_and_a_wide_one_makes_all_utf_8() {
        assert_eq!(to_file("/srv/h\u{fc}"), (BString::from(b"/srv/h\xfc"), false));
        assert_eq!(to_file("\u{fc}\u{fffd}"), ("\u{fc}\u{fffd}".into(), true));
    }

    #[test]
    fn the_c_locale_destroys_each_byte_of_a_character() {
        assert_eq!(Locale::Ascii.decode(OsStr::new("hü")), "h\u{fffd}\u{fffd}");
        assert_eq!(Locale::Utf8.decode(OsStr::new("hü")), "hü");
        let of =
            |value: &'static str| Locale::of(move |key| (key == "LANG").then(|| value.to_owned()));
        assert_eq!(of("C"), Locale::Ascii);
        assert_eq!(of("C.UTF-8"), Locale::Utf8);
    }

    #[test]
    fn lists_are_split_at_any_of_their_separators() {
        assert_eq!(split_list(" a, b;c"), ["a", "b", "c"]);
        assert!(split_list("").is_empty());
    }
}
