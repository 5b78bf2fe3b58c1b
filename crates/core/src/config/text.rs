//! Words in messages: how a text of the file is shown, and which known word was probably meant.

/// How much of a text from a file a message shows: enough for any path or key worth reading.
const SHOWN_CHARS: usize = 120;

/// Returns `text` in backticks, cut when long, with nothing in it that a terminal would act on.
pub(super) fn shown(text: &str) -> String {
    let mut shown: String = text
        .chars()
        .take(SHOWN_CHARS)
        .flat_map(|c| {
            // Quotes stay as they are: nothing here is ever read back.
            let escaped: Vec<char> =
                if matches!(c, '"' | '\'' | '\\') { vec![c] } else { c.escape_debug().collect() };
            escaped
        })
        .collect();
    if text.chars().nth(SHOWN_CHARS).is_some() {
        shown.push_str("...");
    }
    format!("`{shown}`")
}

/// Returns the one of `known` that was probably meant by `word`, and is not `word` itself.
///
/// One slip of the finger per five letters, after which case and `-` for `_` do not count.
pub(super) fn nearest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let plain = |word: &str| word.to_ascii_lowercase().replace(['-', '_', ' '], "");
    let (word, given) = (plain(word), word);
    known
        .into_iter()
        .filter(|known| *known != given)
        .filter_map(|known| {
            let candidate = plain(known);
            let allowed = word.chars().count().max(candidate.chars().count()) / 5;
            let distance = strsim::osa_distance(&word, &candidate);
            (distance <= allowed).then_some((distance, known))
        })
        .min()
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_recognised_and_other_words_are_not() {
        let known =
            ["name", "node", "cores", "mount_points", "clone_from_ctid", "unprivileged", "owner"];
        for (word, meant) in [
            ("mount_point", Some("mount_points")),
            ("mountPoints", Some("mount_points")),
            ("clone-from-ctid", Some("clone_from_ctid")),
            ("unpriviledged", Some("unprivileged")),
            ("onwer", Some("owner")),
            ("Name", Some("name")),
            ("note", None),
            ("ports", None),
            ("features", None),
            ("name", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, known), meant, "{word}");
        }
    }

    #[test]
    fn a_text_that_is_shown_cannot_drive_a_terminal() {
        assert_eq!(shown("a\u{1b}[2J\n\"b\""), "`a\\u{1b}[2J\\n\"b\"`");
        assert_eq!(shown(&"x".repeat(500)).len(), SHOWN_CHARS + 5);
    }
}
