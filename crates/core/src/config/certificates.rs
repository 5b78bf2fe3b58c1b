//! `certificates` of a volume, and what they ask of the modes of its files.

use std::time::Duration;

use super::document::Node;
use super::report::{Complaint, Report};
use super::syntax;
use super::text::shown;
use crate::desired::{Certificate, Volume};
use crate::modes::{FilePattern, ModeRule};

/// The mode of a key where the mode of other files would let everybody read it.
const KEY_MODE: u32 = 0o640;
/// What everybody may do.
const OTHERS: u32 = 0o007;
/// The names that files have until they are put in place.
const UNFINISHED_KEYS: &str = ".pctd-*.key";
/// The mode of a file that is not finished: root's alone.
const UNFINISHED_MODE: u32 = 0o600;

/// Returns the certificates of a volume, in the order given.
pub(super) fn read(node: &Node<'_>, report: &mut Report<'_>) -> Vec<Certificate> {
    let mut certificates: Vec<Certificate> = Vec::new();
    for item in node.get("certificates").iter().flat_map(Node::items) {
        let Some(at) = item.get("domain") else { continue };
        let Some(domain) = at.text() else { continue };
        if certificates.iter().any(|other| other.domain.eq_ignore_ascii_case(domain)) {
            report.problem(
                &at.spot,
                Complaint::new(format!("two certificates for {}", shown(domain)))
                    .or("keep one of them"),
            );
            continue;
        }
        let days = item.get("days").and_then(|node| node.whole());
        let days = days.and_then(|days| u32::try_from(days).ok()).unwrap_or(Certificate::DAYS);
        let given = item.get("renew_before");
        let renew_before = given.as_ref().and_then(Node::text);
        let renew_before =
            renew_before.and_then(|text| syntax::duration(text, Duration::ZERO).ok());
        let renew_before = renew_before.unwrap_or(Certificate::RENEW_BEFORE);
        if renew_before.as_secs() >= u64::from(days) * 24 * 60 * 60 {
            let at = given.or_else(|| item.get("days")).map_or(at.spot, |node| node.spot);
            report.problem(
                &at,
                Complaint::new(format!(
                    "a certificate for {days} days would always be due for renewal {} before it expires",
                    humantime::format_duration(renew_before)
                ))
                .or("write a shorter renew_before"),
            );
        }
        let names = item.get("subject_alt_names");
        let names = names.iter().flat_map(Node::items);
        let mut alt_names: Vec<String> =
            names.filter_map(|name| name.text().map(str::to_owned)).collect();
        alt_names.sort();
        alt_names.dedup();
        alt_names.retain(|name| name != domain);
        let domain = domain.to_owned();
        certificates.push(Certificate { domain, alt_names, days, renew_before });
    }
    certificates
}

/// Makes sure that no declared mode opens a key to everybody, neither when it is made nor at a later
/// walk.
pub(super) fn keep_keys_closed(volume: &mut Volume, node: &Node<'_>, report: &mut Report<'_>) {
    let keys: Vec<String> = volume.certificates.iter().map(Certificate::key_file).collect();
    let mut patterns = Vec::new();
    for key in &keys {
        let named = volume.file_modes.iter().find(|(pattern, _)| pattern.matches(key.as_bytes()));
        match named {
            Some((pattern, rule)) if opens(rule) => {
                let declared = node.get("file_modes").or_else(|| node.get("certificates"));
                report.problem(
                    &declared.map_or_else(|| node.spot.clone(), |node| node.spot),
                    Complaint::new(format!(
                        "{} would let everybody read the key {}",
                        shown(pattern.as_str()),
                        shown(key)
                    ))
                    .or(format!("add {} with a mode such as \"0640\"", shown(key))),
                );
            }
            None if opens(&volume.file_mode) => patterns.push((key.as_str(), KEY_MODE)),
            Some(_) | None => {}
        }
    }
    if !keys.is_empty() && opens(&volume.file_mode) {
        patterns.push((UNFINISHED_KEYS, UNFINISHED_MODE));
    }
    let patterns = patterns
        .into_iter()
        .filter_map(|(pattern, mode)| Some((FilePattern::new(pattern)?, ModeRule::Exact(mode))));
    volume.file_modes.extend(patterns);
    volume.file_modes.sort_by_key(|(pattern, _)| std::cmp::Reverse(pattern.as_str().len()));
}

/// Returns whether a file that is root's alone would be more than that to everybody.
fn opens(rule: &ModeRule) -> bool {
    rule.apply(UNFINISHED_MODE, false) & OTHERS != 0
}
