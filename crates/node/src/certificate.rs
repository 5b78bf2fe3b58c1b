//! Certificates of a volume: looked at, made, and put in place without anybody reading a key.
//!
//! A volume belongs to the root of its containers, who may rename, link and remove in it whatever
//! pctd does there. So a new file is written under a name of its own that did not exist, closed to
//! everybody but root, and gets its owner, its mode and its place in this order, all but the last
//! by file descriptor. A name that is taken is never overwritten: a new file takes a free name or
//! changes places with an old one, which is then looked at and put back where it is not the one
//! that was to go.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, SystemTime};

use pctd_core::desired::Certificate;
use pctd_core::ids::HostIds;
use pctd_core::ledger::{BACKDATED, PairRecord};
use pctd_core::observed::{ObservedCertificates, ObservedPair, PairFile};
use pctd_core::ownership::{EntryKind, OwnershipRule};
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose,
};
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom as _, SystemRandom};
use rustix::fs::{
    AtFlags, CWD, Gid, Mode, OFlags, RenameFlags, Uid, fchmod, fchown, fremovexattr, fsync, linkat,
    openat, renameat_with, unlinkat,
};
use rustix::io::Errno;
use rustix::path::DecInt;
use time::OffsetDateTime;

use crate::source::OpenVolume;
use crate::stat::{Identity, Stat, open_path_here};

/// No key and no certificate is longer; what is, is nothing pctd made.
const MAX_BYTES: u64 = 64 * 1024;
/// The mode a file has until its owner is set, and a key's where no other is declared.
const CLOSED: u32 = 0o600;
/// The mode of a certificate where no other is declared: it holds nothing secret.
const CERTIFICATE_MODE: u32 = 0o644;
/// What everybody may do with a file; nothing with a key, whatever is declared.
const OTHERS: u32 = 0o007;
/// Longer names are no common names (RFC 5280, `ub-common-name`).
const MAX_COMMON_NAME: usize = 64;
/// Tries to find a free name for a new file: two in a row are taken by intent only.
const NAME_TRIES: usize = 8;

const DAY: Duration = Duration::from_hours(24);

/// Why a pair was not made, or not put in place.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The key or the certificate could not be made.
    #[error("cannot make a certificate for {domain}: {why}")]
    Generate {
        /// The domain.
        domain: String,
        /// What was said.
        why: String,
    },
    /// Somebody else was at work under the same name.
    #[error("{name} was changed by somebody else meanwhile; it is left as it is")]
    Raced {
        /// The file.
        name: String,
    },
    /// A file in use can only be replaced by an exchange, and this file system has none.
    #[error(
        "this file system cannot exchange {name} for a new one; remove the pair and pctd makes another"
    )]
    NoExchange {
        /// The file.
        name: String,
    },
    /// A system call failed.
    #[error("cannot write {name}: {call}")]
    Io {
        /// The file.
        name: String,
        /// The call.
        call: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// A pair that was made and is nowhere yet.
#[derive(Clone)]
pub struct NewPair {
    key: String,
    certificate: String,
    record: PairRecord,
}

impl NewPair {
    /// Returns what the ledger keeps of it.
    pub const fn record(&self) -> &PairRecord {
        &self.record
    }
}

impl std::fmt::Debug for NewPair {
    // Never the key itself.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewPair").field("record", &self.record).finish_non_exhaustive()
    }
}

/// Looks at the files of these certificates.
pub(crate) fn observe(volume: &OpenVolume, certificates: &[Certificate]) -> ObservedCertificates {
    let pair = |certificate: &Certificate| {
        let key = look(volume, &certificate.key_file());
        let pair = ObservedPair { key, certificate: look(volume, &certificate.certificate_file()) };
        (certificate.domain.clone(), pair)
    };
    let pairs: BTreeMap<_, _> = certificates.iter().map(pair).collect();
    ObservedCertificates { at: now().as_secs(), pairs }
}

fn now() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// Looks at one file. Nothing but a regular file is opened: reading a fifo would wait, and opening a
/// device may do something.
fn look(dir: impl AsFd, name: &str) -> PairFile {
    let read = || -> Result<PairFile, Errno> {
        let name = CString::new(name).map_err(|_| Errno::INVAL)?;
        let fd = match open_path_here(&dir, &name) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(PairFile::Missing),
            Err(Errno::XDEV) => return Ok(PairFile::Unusable("is a mount point".to_owned())),
            Err(errno) => return Err(errno),
        };
        if Stat::of(&fd)?.entry.kind != EntryKind::File {
            return Ok(PairFile::Unusable("is no regular file; remove it".to_owned()));
        }
        // The magic link leads to the file that was looked at and to no other. Without waiting:
        // its owner may hold a lease on it (fcntl(2)).
        let link = format!("/proc/self/fd/{}", DecInt::from_fd(&fd).as_str());
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let mut bytes = Vec::new();
        let file = File::from(openat(CWD, link, flags, Mode::empty())?);
        match file.take(MAX_BYTES + 1).read_to_end(&mut bytes) {
            Ok(_) => Ok(PairFile::File { fingerprint: fingerprint(&bytes) }),
            Err(error) => Err(Errno::from_io_error(&error).unwrap_or(Errno::IO)),
        }
    };
    read().unwrap_or_else(|errno| PairFile::Unusable(format!("cannot be read: {errno}")))
}

fn fingerprint(bytes: &[u8]) -> String {
    let hex = |byte: &u8| format!("{byte:02x}");
    digest(&SHA256, bytes).as_ref().iter().map(hex).collect()
}

/// Makes a key and a certificate for it, in memory.
pub(crate) fn generate(certificate: &Certificate) -> Result<NewPair, CertificateError> {
    let failed = |why: &dyn std::fmt::Display| CertificateError::Generate {
        domain: certificate.domain.clone(),
        why: why.to_string(),
    };
    let now = now();
    let expires = now + DAY * certificate.days;
    let date = |time: Duration| {
        let seconds = i64::try_from(time.as_secs()).map_err(|error| failed(&error))?;
        OffsetDateTime::from_unix_timestamp(seconds).map_err(|error| failed(&error))
    };
    let names = certificate.names();
    let mut params = CertificateParams::new(names.clone()).map_err(|error| failed(&error))?;
    params.not_before = date(now.saturating_sub(BACKDATED))?;
    params.not_after = date(expires)?;
    params.distinguished_name = DistinguishedName::new();
    if certificate.domain.len() <= MAX_COMMON_NAME {
        params.distinguished_name.push(DnType::CommonName, certificate.domain.as_str());
    }
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate().map_err(|error| failed(&error))?;
    let signed = params.self_signed(&key).map_err(|error| failed(&error))?;
    let (key, signed) = (key.serialize_pem(), signed.pem());
    let record = PairRecord {
        key: fingerprint(key.as_bytes()),
        certificate: fingerprint(signed.as_bytes()),
        names,
        days: certificate.days,
        expires: expires.as_secs(),
    };
    Ok(NewPair { key, certificate: signed, record })
}

/// Puts a pair in place: the key first, so that no certificate is ever there without one.
///
/// `before` is what was there when that was decided. Both files are on disk when this returns.
pub(crate) fn install(
    volume: &OpenVolume,
    rule: &OwnershipRule,
    certificate: &Certificate,
    new: &NewPair,
    before: &ObservedPair,
) -> Result<(), CertificateError> {
    let at = |name: &str| {
        let name = name.to_owned();
        move |errno: Errno| CertificateError::Io { name, call: "stat", source: errno.into() }
    };
    let key_file = certificate.key_file();
    // Where no owner is declared, the files belong to whom the directory belongs.
    let directory = Stat::of(volume.fd()).map_err(at(&key_file))?.entry.ids;
    let owner = rule.ids_for(directory);
    let mode = |name: &str, fresh| rule.new_file_mode(name.as_bytes(), fresh);
    let key = NewFile {
        bytes: new.key.as_bytes(),
        owner,
        mode: mode(&key_file, CLOSED) & !OTHERS,
        suffix: "key",
        name: key_file,
    };
    key.install(volume, &before.key)?;
    let certificate_file = certificate.certificate_file();
    let certificate = NewFile {
        bytes: new.certificate.as_bytes(),
        owner,
        mode: mode(&certificate_file, CERTIFICATE_MODE),
        suffix: "crt",
        name: certificate_file,
    };
    certificate.install(volume, &before.certificate)
}

/// A file to be put in place.
struct NewFile<'a> {
    name: String,
    suffix: &'static str,
    bytes: &'a [u8],
    owner: HostIds,
    mode: u32,
}

impl NewFile<'_> {
    fn error(&self, call: &'static str, errno: Errno) -> CertificateError {
        CertificateError::Io { name: self.name.clone(), call, source: errno.into() }
    }

    fn raced(&self) -> CertificateError {
        CertificateError::Raced { name: self.name.clone() }
    }

    fn install(&self, dir: &OpenVolume, before: &PairFile) -> Result<(), CertificateError> {
        let name =
            CString::new(self.name.as_str()).map_err(|_| self.error("open", Errno::INVAL))?;
        let (fd, unfinished) = self.create(dir)?;
        let identity = Stat::of(&fd).map_err(|errno| self.error("stat", errno))?.identity;
        let placed = self.write(&fd).and_then(|()| match before {
            PairFile::Missing => self.take_free_name(dir, &unfinished, &name),
            PairFile::File { fingerprint } => self.exchange(dir, &unfinished, &name, fingerprint),
            PairFile::Unusable(_) => Err(self.raced()),
        });
        if let Err(error) = placed {
            remove(dir, &unfinished, identity);
            return Err(error);
        }
        // Somebody may have put another file under the unfinished name, which then took the place.
        let now = open_path_here(dir.fd(), &name).and_then(Stat::of);
        if now.map_err(|errno| self.error("open", errno))?.identity != identity {
            return Err(self.raced());
        }
        fsync(dir.fd()).map_err(|errno| self.error("fsync", errno))
    }

    /// Makes an empty file that nobody but root can open.
    fn create(&self, dir: &OpenVolume) -> Result<(OwnedFd, CString), CertificateError> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        for _ in 0..NAME_TRIES {
            let mut random = [0; 8];
            let filled = SystemRandom::new().fill(&mut random);
            filled.map_err(|_| self.error("getrandom", Errno::IO))?;
            let name = format!(".pctd-{:016x}.{}", u64::from_ne_bytes(random), self.suffix);
            let name = CString::new(name).map_err(|_| self.error("open", Errno::INVAL))?;
            match openat(dir.fd(), &name, flags, Mode::from_raw_mode(CLOSED)) {
                Ok(fd) => return Ok((fd, name)),
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(self.error("open", errno)),
            }
        }
        Err(self.error("open", Errno::EXIST))
    }

    /// Fills the file and gives it to its owner; it is closed to all others until that is done.
    fn write(&self, fd: &OwnedFd) -> Result<(), CertificateError> {
        let failed = |call| move |errno| self.error(call, errno);
        let mut file = File::from(fd.try_clone().map_err(|error| self.io("dup", &error))?);
        file.write_all(self.bytes).map_err(|error| self.io("write", &error))?;
        // A default ACL of the directory names others, whom the group's bits of the final mode would
        // let in.
        match fremovexattr(fd, "system.posix_acl_access") {
            Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            Err(errno) => return Err(self.error("removexattr", errno)),
        }
        fchmod(fd, Mode::from_raw_mode(CLOSED)).map_err(failed("chmod"))?;
        let (uid, gid) = (Uid::from_raw(self.owner.uid), Gid::from_raw(self.owner.gid));
        if Stat::of(fd).map_err(failed("stat"))?.entry.ids != self.owner {
            fchown(fd, Some(uid), Some(gid)).map_err(failed("chown"))?;
        }
        fchmod(fd, Mode::from_raw_mode(self.mode)).map_err(failed("chmod"))?;
        fsync(fd).map_err(failed("fsync"))
    }

    fn io(&self, call: &'static str, error: &io::Error) -> CertificateError {
        self.error(call, Errno::from_io_error(error).unwrap_or(Errno::IO))
    }

    /// Gives the file its name, if nothing has it.
    fn take_free_name(
        &self,
        dir: &OpenVolume,
        unfinished: &CString,
        name: &CString,
    ) -> Result<(), CertificateError> {
        let fd = dir.fd();
        let renamed = match renameat_with(fd, unfinished, fd, name, RenameFlags::NOREPLACE) {
            // Network file systems and old ones do not know the flag; a link never replaces either.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                linkat(fd, unfinished, fd, name, AtFlags::empty())
                    .and_then(|()| unlinkat(fd, unfinished, AtFlags::empty()))
            }
            other => other,
        };
        match renamed {
            Err(Errno::EXIST) => Err(self.raced()),
            other => other.map_err(|errno| self.error("rename", errno)),
        }
    }

    /// Changes places with the file that has the name, and removes that one if it is the one that
    /// was to go; else everything is put back.
    fn exchange(
        &self,
        dir: &OpenVolume,
        unfinished: &CString,
        name: &CString,
        old: &str,
    ) -> Result<(), CertificateError> {
        let fd = dir.fd();
        let swap = || renameat_with(fd, unfinished, fd, name, RenameFlags::EXCHANGE);
        match swap() {
            Ok(()) => {}
            Err(Errno::NOENT) => return Err(self.raced()),
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                return Err(CertificateError::NoExchange { name: self.name.clone() });
            }
            Err(errno) => return Err(self.error("rename", errno)),
        }
        let text = unfinished.to_string_lossy();
        if look(fd, &text) != (PairFile::File { fingerprint: old.to_owned() }) {
            swap().map_err(|errno| self.error("rename", errno))?;
            return Err(self.raced());
        }
        unlinkat(fd, unfinished, AtFlags::empty()).map_err(|errno| self.error("unlink", errno))
    }
}

/// Removes an unfinished file, if the name is still its own.
///
/// Whoever exchanges it between the look and the removal has put a file under a name that only pctd
/// uses, to have it removed.
fn remove(dir: &OpenVolume, name: &CString, identity: Identity) {
    let is_it = open_path_here(dir.fd(), name)
        .and_then(Stat::of)
        .is_ok_and(|stat| stat.identity == identity);
    if is_it && let Err(errno) = unlinkat(dir.fd(), name, AtFlags::empty()) {
        tracing::warn!("{} could not be removed: {errno}", name.to_string_lossy());
    }
}
