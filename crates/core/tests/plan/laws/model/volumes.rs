//! Steps of a volume: owners, modes and certificates.

use super::*;

impl Node {
    pub(super) fn certificates(&self, name: &VolumeName) -> ObservedCertificates {
        if !matches!(self.sources[name], Source::Directory { .. }) {
            return ObservedCertificates::default();
        }
        let file = |found: &Option<String>| match found {
            None => PairFile::Missing,
            Some(fingerprint) => PairFile::File { fingerprint: fingerprint.clone() },
        };
        let nothing = (None, None);
        let pair = |domain: &String| {
            let found = self.pairs.get(&(name.clone(), domain.clone())).unwrap_or(&nothing);
            ObservedPair { key: file(&found.0), certificate: file(&found.1) }
        };
        let domains = self.desired.volumes[name].certificates.iter().map(|c| &c.domain);
        let pairs = domains.map(|domain| (domain.clone(), pair(domain))).collect();
        ObservedCertificates { at: self.now.as_secs(), pairs }
    }

    pub(super) fn create_certificate(
        &mut self,
        name: &VolumeName,
        create: &CreateCertificate,
        crash: Option<Crash>,
    ) {
        let (volume, domain) = (name.clone(), create.domain.clone());
        let found = self.pairs.entry((volume.clone(), domain.clone())).or_default();
        let nothing = CertificateRecord::default();
        let record = self.ledger.certificate(name, &domain).unwrap_or(&nothing);
        let own: Vec<&PairRecord> = record.made.iter().chain(&record.making).collect();
        let is_own = |file: &Option<String>| {
            let known =
                |file: &String| own.iter().any(|p| p.key == *file || p.certificate == *file);
            file.as_ref().is_none_or(known)
        };
        assert!(is_own(&found.0) && is_own(&found.1), "{domain}: somebody else's: {found:?}");
        let number = self.taken.len();
        let names = std::iter::once(&domain).chain(&create.alt_names).cloned().collect();
        let pair = PairRecord {
            key: format!("key {number}"),
            certificate: format!("certificate {number}"),
            names,
            days: create.days,
            // Longer than any settling takes, or it would be renewed on and on.
            expires: (self.now + Duration::from_hours(24 * u64::from(create.days))).as_secs(),
        };
        if crash != Some(Crash::BeforeStep) {
            found.0 = Some(pair.key.clone());
        }
        if crash.is_none_or(|crash| crash == Crash::AfterStep) {
            found.1 = Some(pair.certificate.clone());
        }
        self.ledger.enter(match crash {
            Some(_) => LedgerEntry::CertificateIntended { volume, domain, pair },
            None => LedgerEntry::CertificateMade { volume, domain, pair },
        });
    }

    pub(super) fn set_ownership(
        &mut self,
        name: &VolumeName,
        rule: &OwnershipRule,
        crash: Option<Crash>,
    ) {
        let Some(Source::Directory { root, entries }) = self.sources.get_mut(name) else {
            panic!("{name} is no directory");
        };
        if crash == Some(Crash::BeforeStep) {
            return;
        }
        if rule.looks_below() {
            for (name, entry) in entries.iter_mut() {
                change(entry, rule.decide(Place::Below(name.as_bytes()), entry));
            }
        }
        if crash != Some(Crash::Midway) {
            // Last: a right root is what says that all is right.
            change(root, rule.decide(Place::Root, root));
        }
    }
}

fn change(entry: &mut EntryStat, change: Option<Change<'_>>) {
    let Some(change) = change else { return };
    if let Some(ids) = change.owner {
        entry.ids = ids;
        if entry.kind == EntryKind::File {
            // As the kernel does on every chown of a file.
            entry.mode &= !0o6000;
        }
    }
    if let Some(mode) = change.mode {
        entry.mode = mode;
    }
}

/// A read-only walk.
pub(super) fn walk(
    rule: &OwnershipRule,
    root: &EntryStat,
    entries: &[(&'static str, EntryStat)],
) -> Audit {
    let below = entries.iter().map(|(name, entry)| (Place::Below(name.as_bytes()), entry));
    let below = below.filter(|_| rule.looks_below());
    let mut audit = Audit::default();
    for (place, entry) in std::iter::once((Place::Root, root)).chain(below) {
        audit.entries += 1;
        if let Some(change) = rule.decide(place, entry) {
            audit.changes += 1;
            audit.owners += u64::from(change.owner.is_some());
            audit.modes += u64::from(change.mode.is_some());
        }
    }
    audit
}
