//! Whether what a client read is what is in force: the contents count, not the names.

use std::collections::BTreeMap;

use pctd_core::request::ReadFile;

/// Returns what differs between the files a client read and those in force, in words; `None` where
/// they say the same.
pub(super) fn difference(theirs: &[ReadFile], ours: &[ReadFile]) -> Option<String> {
    if theirs.iter().map(|file| &file.sha1).eq(ours.iter().map(|file| &file.sha1)) {
        return None;
    }
    let by_path = |files: &[ReadFile]| -> BTreeMap<String, String> {
        files.iter().map(|file| (file.path.clone(), file.sha1.clone())).collect()
    };
    let (theirs, ours) = (by_path(theirs), by_path(ours));
    let added = theirs.keys().filter(|path| !ours.contains_key(*path));
    let added = added.map(|path| format!("{path} is not among what the daemon reads"));
    let other = ours.iter().filter_map(|(path, sha1)| match theirs.get(path) {
        None => Some(format!("{path}, which the daemon reads, is not in yours")),
        Some(other) if other != sha1 => Some(format!("{path} is not as the daemon read it")),
        Some(_) => None,
    });
    let parts: Vec<String> = added.chain(other).collect();
    if parts.is_empty() {
        return Some("the same files count in another order".to_owned());
    }
    Some(parts.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(list: &[(&str, &str)]) -> Vec<ReadFile> {
        list.iter().map(|(path, text)| ReadFile::of(path, text.as_bytes())).collect()
    }

    #[test]
    fn the_contents_count_and_what_differs_is_named() {
        let ours = files(&[("/a", "1"), ("/b", "2")]);
        for (theirs, says) in [
            (&[("/a", "1"), ("/b", "2")][..], None),
            (&[("./a", "1"), ("./b", "2")], None),
            (&[("/a", "1"), ("/b", "3")], Some("/b is not as the daemon read it")),
            (&[("/a", "1")], Some("/b, which the daemon reads, is not in yours")),
            (
                &[("/a", "1"), ("/c", "3")],
                Some(
                    "/c is not among what the daemon reads; /b, which the daemon reads, is not in yours",
                ),
            ),
            (&[("/b", "2"), ("/a", "1")], Some("the same files count in another order")),
        ] {
            assert_eq!(difference(&files(theirs), &ours).as_deref(), says, "{theirs:?}");
        }
    }
}
