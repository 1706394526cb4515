//! The certificates by which a job's pods know each other: a CA of the job's own, and one certificate for all its pods.
//!
//! The CA's key is made of the operator's key and the job's name, and so need not be kept: nothing has to be read again
//! to sign the next certificate by the same CA, and no Secret holds what could sign others.

use std::time::{Duration, SystemTime};

use k8s_openapi::jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, PKCS_ED25519,
};
use ring::hmac::{HMAC_SHA256, Key, sign};
use rustls::pki_types::PrivatePkcs8KeyDer;

/// Of an Ed25519 key in PKCS#8, before its 32 bytes.
const PKCS8_ED25519: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
/// The clocks of two nodes may differ.
const VALID_SINCE: Duration = Duration::from_secs(60 * 60);
/// A certificate never outlives its CA's.
const AUTHORITY_LIVES_LONGER: Duration = Duration::from_secs(24 * 60 * 60);
/// Every identity ends so, as `weir` checks it.
const SUFFIX: &str = ".streamjobs.weir.internal";

/// What goes into the Secret, in PEM form.
pub struct Issued {
    pub certificate: String,
    pub key: String,
    pub authority: String,
    pub not_after: Timestamp,
}

/// The CA of one job.
pub struct Authority {
    key: KeyPair,
    name: String,
    identity: String,
}

impl Authority {
    pub fn of(operator_key: &[u8], namespace: &str, job: &str) -> Result<Self, String> {
        // Another message than a token's: neither tells the other.
        let seed = sign(&Key::new(HMAC_SHA256, operator_key), format!("ca/{namespace}/{job}").as_bytes());
        let document = [&PKCS8_ED25519[..], seed.as_ref()].concat();
        let document = PrivatePkcs8KeyDer::from(document);
        let key = KeyPair::from_pkcs8_der_and_sign_algo(&document, &PKCS_ED25519).map_err(|error| error.to_string())?;
        let identity = format!("{job}.{namespace}{SUFFIX}");
        let name = name_of(&key);
        Ok(Authority { key, name, identity })
    }

    /// Tells it from the CA that another key of the operator would make.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name that the certificates of the job's pods have.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// The CA's own certificate, for who looks at a certificate of the job now.
    pub fn certificate(self, now: Timestamp) -> Result<String, String> {
        let now = SystemTime::from(now);
        Ok(self.certified(now - VALID_SINCE, now + AUTHORITY_LIVES_LONGER)?.0.pem())
    }

    pub fn issue(self, now: Timestamp, lifetime: Duration) -> Result<Issued, String> {
        let said = |error: rcgen::Error| error.to_string();
        let not_after = now.checked_add(lifetime).map_err(|error| error.to_string())?;
        let (since, until) = (SystemTime::from(now) - VALID_SINCE, SystemTime::from(not_after));
        let (issuer, identity) = self.certified(since, until + AUTHORITY_LIVES_LONGER)?;
        let mut own = CertificateParams::new(vec![identity]).map_err(said)?;
        (own.not_before, own.not_after) = (since.into(), until.into());
        own.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        own.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        own.distinguished_name = named("weir");
        let key = KeyPair::generate().map_err(said)?;
        let certificate = own.signed_by(&key, &issuer).map_err(said)?;
        Ok(Issued {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
            authority: issuer.pem(),
            not_after: Timestamp::from_second(not_after.as_second()).map_err(|error| error.to_string())?,
        })
    }

    /// With the job's identity.
    fn certified(
        self,
        since: SystemTime,
        until: SystemTime,
    ) -> Result<(CertifiedIssuer<'static, KeyPair>, String), String> {
        let said = |error: rcgen::Error| error.to_string();
        let mut ca = CertificateParams::new(vec![]).map_err(said)?;
        (ca.not_before, ca.not_after) = (since.into(), until.into());
        ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        // The same key has the same name: a certificate of today is believed by who read the CA's of last week.
        ca.distinguished_name = named(&format!("weir {}", self.name));
        Ok((CertifiedIssuer::self_signed(ca, self.key).map_err(said)?, self.identity))
    }
}

fn name_of(key: &KeyPair) -> String {
    const BYTES: usize = 8;
    let digest = ring::digest::digest(&ring::digest::SHA256, key.public_key_raw());
    digest.as_ref().iter().take(BYTES).map(|byte| format!("{byte:02x}")).collect()
}

fn named(name: &str) -> DistinguishedName {
    let mut named = DistinguishedName::new();
    named.push(DnType::CommonName, name);
    named
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
    use rustls::server::ParsedCertificate;
    use rustls::{RootCertStore, client};

    use super::*;

    const KEY: &[u8] = b"0123456789abcdef0123456789abcdef";
    const LIFETIME: Duration = Duration::from_secs(14 * 24 * 3600);

    fn believes(authority: &str, certificate: &str, name: &str, at: Timestamp) -> bool {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.as_bytes()).unwrap()).unwrap();
        let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
        let parsed = ParsedCertificate::try_from(&certificate).unwrap();
        let at = UnixTime::since_unix_epoch(Duration::from_secs(at.as_second() as u64));
        let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms;
        let signed = client::verify_server_cert_signed_by_trust_anchor(&parsed, &roots, &[], at, algorithms.all);
        let name = ServerName::try_from(name.to_owned()).unwrap();
        signed.is_ok() && client::verify_server_name(&parsed, &name).is_ok()
    }

    #[test]
    fn a_ca_is_the_same_each_time_and_another_for_each_job_and_key() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let later = now.checked_add(LIFETIME / 2).unwrap();
        let issue = |key: &[u8], job: &str, at| Authority::of(key, "data", job).unwrap().issue(at, LIFETIME).unwrap();
        let name = "orders.data.streamjobs.weir.internal";
        let (first, second) = (issue(KEY, "orders", now), issue(KEY, "orders", later));
        assert!(believes(&first.authority, &first.certificate, name, now));
        // Pods that read the files at different times believe each other.
        assert!(believes(&first.authority, &second.certificate, name, later));
        assert!(believes(&second.authority, &first.certificate, name, later));
        assert!(!believes(&first.authority, &first.certificate, "flights.data.streamjobs.weir.internal", now));
        assert!(!believes(&issue(KEY, "flights", now).authority, &first.certificate, name, now));
        let other = issue(b"another key, as long as a key is", "orders", now);
        assert!(!believes(&other.authority, &first.certificate, name, now));
        assert!(!believes(&first.authority, &first.certificate, name, first.not_after.checked_add(LIFETIME).unwrap()));
        let asking = Authority::of(KEY, "data", "orders").unwrap();
        assert_eq!(asking.identity(), name);
        let asking = asking.certificate(later).unwrap();
        assert!(believes(&asking, &first.certificate, name, later), "who asks the coordinator later");
        let long_ago = now.checked_sub(LIFETIME * 2).unwrap();
        let remembered = Authority::of(KEY, "data", "orders").unwrap().certificate(long_ago).unwrap();
        assert!(believes(&remembered, &second.certificate, name, later), "who made it once, and asks again and again");
        let name = |key: &[u8]| Authority::of(key, "data", "orders").unwrap().name().to_owned();
        assert_eq!(name(KEY), name(KEY));
        assert_ne!(name(KEY), name(b"another key, as long as a key is"));
    }
}
