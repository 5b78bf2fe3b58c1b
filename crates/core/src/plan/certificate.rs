//! The certificates of a volume: which pairs are to be made, and which are left alone.
//!
//! What is there is compared with what the ledger says pctd put there, by fingerprint; a pair that
//! is anybody else's is never touched. No certificate is ever read: of its own pctd knows everything.

use crate::desired::{Certificate, Volume};
use crate::ledger::{CertificateRecord, LedgerEntry, PairRecord};
use crate::observed::{ObservedCertificates, ObservedPair, PairFile, Snapshot};
use crate::plan::hold::Hold;
use crate::plan::notice::Notice;
use crate::plan::planned::{Readiness, VolumePlan};
use crate::plan::step::{CreateCertificate, Step};

/// Plans the certificates of a volume whose directory is there and whose owner is known.
pub(crate) fn plan(
    plan: &mut VolumePlan,
    snapshot: &Snapshot,
    volume: &Volume,
    observed: &ObservedCertificates,
) {
    for certificate in &volume.certificates {
        let Some(pair) = observed.pairs.get(&certificate.domain) else { continue };
        let record = snapshot.ledger.certificate(&volume.name, &certificate.domain);
        match judge(certificate, pair, record, observed.at) {
            Verdict::InPlace => {}
            Verdict::Done(pair) => plan.records.push(LedgerEntry::CertificateMade {
                volume: volume.name.clone(),
                domain: certificate.domain.clone(),
                pair,
            }),
            Verdict::Foreign => {
                let domain = certificate.domain.clone();
                plan.notices.push(Notice::CertificateForeign { domain });
            }
            Verdict::Make { renew } => {
                plan.steps.push(step(volume, certificate, renew));
                if !renew && plan.readiness == Readiness::Ready {
                    // What starts with the volume mounted expects to find it there.
                    plan.readiness = Readiness::Soon;
                }
            }
            Verdict::Blocked(why) => {
                let domain = certificate.domain.clone();
                plan.holds.push(Hold::CertificateBlocked { domain, why });
            }
        }
    }
}

/// Plans the certificates of a volume whose directory is still to be made.
pub(crate) fn plan_missing(plan: &mut VolumePlan, volume: &Volume) {
    let steps = volume.certificates.iter().map(|certificate| step(volume, certificate, false));
    plan.steps.extend(steps);
}

fn step(volume: &Volume, certificate: &Certificate, renew: bool) -> Step {
    Step::CreateCertificate(CreateCertificate {
        path: volume.host_path.clone(),
        domain: certificate.domain.clone(),
        alt_names: certificate.alt_names.clone(),
        days: certificate.days,
        renew,
    })
}

/// What one pair needs.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// Nothing.
    InPlace,
    /// Nothing, but the ledger does not know yet that this pair was finished.
    Done(PairRecord),
    /// It is somebody else's.
    Foreign,
    /// It is to be made.
    Make { renew: bool },
    /// It is to be made, and something is in the way.
    Blocked(String),
}

fn judge(
    certificate: &Certificate,
    pair: &ObservedPair,
    record: Option<&CertificateRecord>,
    at: u64,
) -> Verdict {
    let nothing = CertificateRecord::default();
    let record = record.unwrap_or(&nothing);
    let (key_file, certificate_file) = (certificate.key_file(), certificate.certificate_file());
    let own = || record.made.iter().chain(&record.making);
    let is_own_key = |key: &str| own().any(|pair| pair.key == key);
    let is_own_certificate = |found: &str| own().any(|pair| pair.certificate == found);
    // Only a crash in the middle of its own work lets pctd finish a half pair.
    let was_interrupted = !record.making.is_empty();
    let half = |there: &str, missing: &str| {
        Verdict::Blocked(format!(
            "{there} is there and {missing} is not; put it beside it, or remove {there} to have a new pair made"
        ))
    };
    match (&pair.key, &pair.certificate) {
        (PairFile::Missing, PairFile::Missing) => Verdict::Make { renew: false },
        (PairFile::File { fingerprint: key }, PairFile::File { fingerprint: found }) => {
            let is_it = |pair: &&PairRecord| pair.key == *key && pair.certificate == *found;
            if let Some(made) = record.made.as_ref().filter(is_it) {
                if is_due(certificate, made, at) {
                    Verdict::Make { renew: true }
                } else {
                    Verdict::InPlace
                }
            } else if let Some(done) = record.making.iter().find(is_it) {
                Verdict::Done(done.clone())
            } else if was_interrupted && is_own_key(key) && is_own_certificate(found) {
                Verdict::Make { renew: true }
            } else {
                Verdict::Foreign
            }
        }
        (PairFile::File { fingerprint: key }, PairFile::Missing) => {
            if was_interrupted && is_own_key(key) {
                Verdict::Make { renew: false }
            } else {
                half(&key_file, &certificate_file)
            }
        }
        (PairFile::Missing, PairFile::File { .. }) => half(&certificate_file, &key_file),
        (PairFile::Unusable(why), _) => Verdict::Blocked(format!("{key_file} {why}")),
        (_, PairFile::Unusable(why)) => Verdict::Blocked(format!("{certificate_file} {why}")),
    }
}

/// Returns whether a pair of pctd's own is to be made anew: it expires soon, a clock that was ahead
/// made it so that it is not valid yet, or another one is declared.
fn is_due(certificate: &Certificate, made: &PairRecord, at: u64) -> bool {
    made.names != certificate.names()
        || made.days != certificate.days
        || at.saturating_add(certificate.renew_before.as_secs()) >= made.expires
        || at < made.valid_from()
}
