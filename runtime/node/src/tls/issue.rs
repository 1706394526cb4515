//! Certificates that a process makes for itself and those that it starts: a CA that lives no longer than they do.

use super::identity::JobIdentity;
use super::scratch::ScratchFolder;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};
use std::fs::OpenOptions;
use std::io::{Error, Result, Write};
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// How long they are valid.
const VALID_FOR: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Clocks of one machine are one clock; that it is set back a little must not make a new certificate one of tomorrow.
const VALID_SINCE: Duration = Duration::from_secs(60 * 60);

/// A folder with certificates for all processes of a job, readable by this user alone and removed in the end. The CA's
/// key is never written, and gone once the certificates are signed.
pub struct OwnCertificates {
    folder: ScratchFolder,
    identity: JobIdentity,
    issued: SystemTime,
    /// The CA before, which running processes' certificates are signed by until they read the new ones.
    last_ca: String,
}

impl OwnCertificates {
    /// # Errors
    /// The scratch folder cannot be written.
    pub fn issue(identity: JobIdentity) -> Result<Self> {
        let folder = ScratchFolder::in_folder(&std::env::temp_dir())?;
        let mut own = OwnCertificates { folder, identity, issued: SystemTime::now(), last_ca: String::new() };
        own.renew()?;
        Ok(own)
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Issues new ones once a day; to be asked now and then.
    ///
    /// # Errors
    /// As `issue`; the ones before stay.
    pub fn renew_if_due(&mut self) -> Result<()> {
        match self.issued.elapsed() {
            Ok(age) if age < DAY => Ok(()),
            // A clock that was set back tells no age.
            _ => self.renew(),
        }
    }

    pub(super) fn renew(&mut self) -> Result<()> {
        let now = SystemTime::now();
        let valid = now - VALID_SINCE..now + VALID_FOR;
        let authority = Authority::new(valid.clone())?;
        let Issued { certificate, key } = authority.issue(vec![self.identity.dns_name()], valid)?;
        let ca = authority.pem();
        // First whom to believe, then the new certificate: whoever reads in between believes both.
        self.replace("ca.crt", &format!("{ca}{}", self.last_ca))?;
        self.replace("tls.key", &key)?;
        self.replace("tls.crt", &certificate)?;
        self.last_ca = ca;
        self.issued = now;
        Ok(())
    }

    fn replace(&self, name: &str, text: &str) -> Result<()> {
        let partial = self.folder().join(format!("{name}.partial"));
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&partial)?;
        file.write_all(text.as_bytes())?;
        std::fs::rename(partial, self.folder().join(name))
    }
}

/// A CA whose key is in memory only, and gone with it.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key, in PEM form.
pub struct Issued {
    pub certificate: String,
    pub key: String,
}

impl Authority {
    /// # Errors
    /// The system gives no random numbers.
    pub fn new(valid: Range<SystemTime>) -> Result<Self> {
        let mut ca = CertificateParams::new(vec![]).map_err(Error::other)?;
        (ca.not_before, ca.not_after) = (valid.start.into(), valid.end.into());
        ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        // Each CA has its own name, so that one of two in a bundle is found by it.
        ca.distinguished_name = named(&format!("weir {}", uuid::Uuid::new_v4()));
        let key = KeyPair::generate().map_err(Error::other)?;
        Ok(Authority { issuer: CertifiedIssuer::self_signed(ca, key).map_err(Error::other)? })
    }

    /// The CA's own certificate.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A certificate for both ends of a connection.
    ///
    /// # Errors
    /// A name is no DNS name.
    pub fn issue(&self, dns_names: Vec<String>, valid: Range<SystemTime>) -> Result<Issued> {
        let mut own = CertificateParams::new(dns_names).map_err(Error::other)?;
        (own.not_before, own.not_after) = (valid.start.into(), valid.end.into());
        own.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        own.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        own.distinguished_name = named("weir");
        let key = KeyPair::generate().map_err(Error::other)?;
        let certificate = own.signed_by(&key, &self.issuer).map_err(Error::other)?;
        Ok(Issued { certificate: certificate.pem(), key: key.serialize_pem() })
    }
}

fn named(name: &str) -> DistinguishedName {
    let mut named = DistinguishedName::new();
    named.push(DnType::CommonName, name);
    named
}
