//! Making a key and a certificate, and remembering that they are pctd's.

use std::time::Instant;

use pctd_core::desired::Volume;
use pctd_core::ledger::LedgerEntry;
use pctd_core::observed::{Snapshot, SourceState};
use pctd_core::ownership::OwnershipRule;
use pctd_core::plan::CreateCertificate;
use pctd_node::{CertificateError, InstallError, InstallRequest, WalkError};
use tracing::info;

use super::{Engine, StepEnd};
use crate::config_files::chain;

impl Engine {
    /// Makes a pair. Its fingerprints are entered into the ledger first: what a crash leaves in the
    /// directory is then known as pctd's own, and finished.
    pub(super) fn create_certificate(
        &self,
        snapshot: &Snapshot,
        volume: &Volume,
        rule: &OwnershipRule,
        create: &CreateCertificate,
    ) -> StepEnd {
        let observed = snapshot.volumes.get(&volume.name);
        let before = observed.and_then(|found| found.certificates.pairs.get(&create.domain));
        let source = observed.map(|found| &found.source);
        let mut declared = volume.certificates.iter();
        let certificate = declared.find(|certificate| certificate.domain == create.domain);
        let (Some(before), Some(SourceState::Directory(dir)), Some(certificate)) =
            (before, source, certificate)
        else {
            return StepEnd::Refused;
        };
        let begun = Instant::now();
        let new = match self.node.generate_certificate(certificate) {
            Ok(new) => new,
            Err(error) => return StepEnd::Failed(chain(&error)),
        };
        let entry = |made: bool| {
            let (volume, domain) = (volume.name.clone(), create.domain.clone());
            let pair = new.record().clone();
            if made {
                LedgerEntry::CertificateMade { volume, domain, pair }
            } else {
                LedgerEntry::CertificateIntended { volume, domain, pair }
            }
        };
        if let Err(error) = self.enter([entry(false)]) {
            return StepEnd::Failed(error);
        }
        let file_system = &dir.file_system.id;
        let request = InstallRequest { volume, rule, file_system, certificate, before };
        match self.node.install_certificate(&request, &new) {
            Ok(()) => {}
            Err(
                error @ (InstallError::Volume(WalkError::FileSystemChanged { .. })
                | InstallError::Certificate(CertificateError::Raced { .. })),
            ) => return StepEnd::Conflict(chain(&error)),
            Err(error) => return StepEnd::Failed(chain(&error)),
        }
        if let Err(error) = self.enter([entry(true)]) {
            return StepEnd::Failed(error);
        }
        let did = if create.renew { "renewed" } else { "made" };
        info!(
            VOLUME = %volume.name,
            STEP = "create_certificate",
            PATH = volume.host_path,
            ELAPSED_MS = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
            "{}: {did} {}.key and {}.crt in {}, for {} days",
            volume.name,
            create.domain,
            create.domain,
            volume.host_path,
            certificate.days
        );
        StepEnd::Done
    }
}
