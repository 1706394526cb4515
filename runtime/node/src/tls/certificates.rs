//! The certificate of this process and the CAs that it believes, read from a folder and read again when they change.

use super::identity::JobIdentity;
use super::words::of_certificate;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, ServerConfig, SignatureScheme};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A certificate with its chain takes a few KB, a bundle of CAs some hundred: what is longer is something else.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// The folder of a mounted Secret holds a link of this name to the files' current version, which moves all at once.
const CURRENT_VERSION: &str = "..data";

/// A process's part in the trust of its job. Cheap to ask: the files are compared at each new connection, and read into
/// new configurations only when they differ.
pub struct Tls {
    folder: PathBuf,
    identity: JobIdentity,
    held: Mutex<Held>,
}

struct Held {
    files: Files,
    /// Files that were read and could not be used: said once, not at each connection.
    refused: Option<Files>,
    material: Arc<Material>,
}

/// What one version of the files comes to.
pub(super) struct Material {
    pub(super) client: Arc<ClientConfig>,
    /// For connections between the processes of a job.
    pub(super) server: Arc<ServerConfig>,
    /// For HTTP, to clients with a certificate or without.
    pub(super) http_server: Arc<ServerConfig>,
}

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {}: {source}", .path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("{}: {reason}", .path.display())]
    Unusable { path: PathBuf, reason: String },
}

#[derive(PartialEq, Eq)]
struct Files {
    certificate: Vec<u8>,
    key: Vec<u8>,
    ca: Vec<u8>,
}

impl Tls {
    /// `folder` holds tls.crt (the certificate and what stands between it and its CA), tls.key, and ca.crt, as a
    /// Kubernetes TLS secret does that cert-manager made.
    ///
    /// # Errors
    /// A file is missing, they don't belong together, the certificate is not valid now, or it names no job.
    pub fn of_folder(folder: &Path) -> Result<Self, TlsError> {
        let files = Files::read(folder)?;
        let (identity, material) = Material::of(&files).map_err(|problem| problem.within(folder))?;
        let held = Held { files, refused: None, material: Arc::new(material) };
        Ok(Tls { folder: folder.to_path_buf(), identity, held: Mutex::new(held) })
    }

    /// The job whose process this is. It never changes: a certificate of another job is not taken over.
    pub fn identity(&self) -> &JobIdentity {
        &self.identity
    }

    /// What new connections are made with.
    pub(super) fn material(&self) -> Arc<Material> {
        let mut held = self.lock();
        match Files::read(&self.folder) {
            Ok(files) if files == held.files => {}
            Ok(files) if held.refused.as_ref() == Some(&files) => {}
            Ok(files) => match self.renewed(&files) {
                Ok(material) => {
                    tracing::info!(folder = %self.folder.display(), "new certificates are in use");
                    *held = Held { files, refused: None, material: Arc::new(material) };
                }
                Err(error) => {
                    tracing::warn!(%error, "the new certificates cannot be used; the ones before stay in use");
                    held.refused = Some(files);
                }
            },
            // Perhaps in the middle of being replaced. What is held is as good as it was.
            Err(error) => tracing::warn!(%error, "the certificates cannot be read again; the ones before stay in use"),
        }
        Arc::clone(&held.material)
    }

    fn renewed(&self, files: &Files) -> Result<Material, TlsError> {
        let (identity, material) = Material::of(files).map_err(|problem| problem.within(&self.folder))?;
        if identity != self.identity {
            let reason = format!("the certificate is of job `{identity}`, and this process of `{}`", self.identity);
            return Err(Problem { file: "tls.crt", reason }.within(&self.folder));
        }
        Ok(material)
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tls({}, {})", self.identity, self.folder.display())
    }
}

/// What is wrong with one of the files.
struct Problem {
    file: &'static str,
    reason: String,
}

impl Problem {
    fn within(self, folder: &Path) -> TlsError {
        TlsError::Unusable { path: folder.join(self.file), reason: self.reason }
    }
}

impl Files {
    fn read(folder: &Path) -> Result<Self, TlsError> {
        // All of one version: a link that moves between two reads must not mix them.
        let current = folder.join(CURRENT_VERSION).canonicalize();
        let folder = current.as_deref().unwrap_or(folder);
        Ok(Files {
            certificate: read(folder.join("tls.crt"))?,
            key: read(folder.join("tls.key"))?,
            ca: read(folder.join("ca.crt"))?,
        })
    }
}

fn read(path: PathBuf) -> Result<Vec<u8>, TlsError> {
    let mut bytes = vec![];
    let read = std::fs::File::open(&path).and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes));
    match read {
        Err(source) => Err(TlsError::Unreadable { path, source }),
        Ok(_) if bytes.len() as u64 > MAX_FILE_BYTES => {
            Err(TlsError::Unusable { path, reason: format!("it has more than {MAX_FILE_BYTES} bytes") })
        }
        Ok(_) => Ok(bytes),
    }
}

impl Material {
    fn of(files: &Files) -> Result<(JobIdentity, Self), Problem> {
        let of = |file, reason: String| Problem { file, reason };
        let chain = certificates(&files.certificate).map_err(|reason| of("tls.crt", reason))?;
        let key = PrivateKeyDer::from_pem_slice(&files.key)
            .map_err(|error| of("tls.key", format!("there is no private key in PEM form in it: {error}")))?;
        let mut roots = RootCertStore::empty();
        for ca in certificates(&files.ca).map_err(|reason| of("ca.crt", reason))? {
            roots.add(ca).map_err(|error| of("ca.crt", format!("one of its certificates cannot be used: {error}")))?;
        }
        let identity = JobIdentity::of_certificate(&chain[0]).map_err(|reason| of("tls.crt", reason))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let certified = CertifiedKey::from_der(chain.clone(), key, &provider).map_err(|error| {
            of("tls.key", format!("it isn't the key of the certificate in tls.crt, or cannot be used: {error}"))
        })?;
        let trust = Trust::new(roots, &provider).map_err(|error| of("ca.crt", error))?;
        trust.check_own(&chain).map_err(|reason| of("tls.crt", reason))?;
        let material = trust.configurations(certified, &provider).map_err(|error| of("tls.crt", error.to_string()))?;
        Ok((identity, material))
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match all {
        Err(error) => Err(format!("it isn't in PEM form: {error}")),
        Ok(all) if all.is_empty() => Err("there is no certificate in PEM form in it".to_owned()),
        Ok(all) => Ok(all),
    }
}

/// The CAs, for both ends of a connection.
struct Trust {
    clients: Arc<dyn ClientCertVerifier>,
    perhaps_clients: Arc<dyn ClientCertVerifier>,
    servers: Arc<SignedByCa>,
}

impl Trust {
    fn new(roots: RootCertStore, provider: &Arc<CryptoProvider>) -> Result<Self, String> {
        let roots = Arc::new(roots);
        let builder = || WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(provider));
        Ok(Trust {
            clients: builder().build().map_err(|error| error.to_string())?,
            perhaps_clients: builder().allow_unauthenticated().build().map_err(|error| error.to_string())?,
            servers: Arc::new(SignedByCa {
                roots: Arc::clone(&roots),
                algorithms: provider.signature_verification_algorithms,
            }),
        })
    }

    /// What a peer with the same CAs would find wrong with our own certificate: better said here and now.
    fn check_own(&self, chain: &[CertificateDer<'static>]) -> Result<(), String> {
        let words = |error: Error| match error {
            Error::InvalidCertificate(problem) => of_certificate(&problem),
            other => other.to_string(),
        };
        let (own, between) = chain.split_first().ok_or("there is no certificate in it")?;
        self.clients.verify_client_cert(own, between, UnixTime::now()).map_err(words)?;
        self.servers.check(own, between, UnixTime::now()).map_err(words)
    }

    fn configurations(&self, own: CertifiedKey, provider: &Arc<CryptoProvider>) -> Result<Material, Error> {
        let own = Arc::new(SingleCertAndKey::from(own));
        let mut client = ClientConfig::builder_with_provider(Arc::clone(provider))
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&self.servers) as _)
            .with_client_cert_resolver(Arc::clone(&own) as _);
        // A session taken up again would show no certificate: one that has been replaced, or that a new CA bundle no
        // longer believes, would go on for as long as the session does.
        client.resumption = Resumption::disabled();
        let server = |clients: &Arc<dyn ClientCertVerifier>| {
            let mut server = ServerConfig::builder_with_provider(Arc::clone(provider))
                .with_protocol_versions(&[&TLS13])?
                .with_client_cert_verifier(Arc::clone(clients))
                .with_cert_resolver(Arc::clone(&own) as _);
            server.session_storage = Arc::new(NoServerSessionStorage {});
            server.send_tls13_tickets = 0;
            Ok::<_, Error>(server)
        };
        let mut http_server = server(&self.perhaps_clients)?;
        http_server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Material {
            client: Arc::new(client),
            server: Arc::new(server(&self.clients)?),
            http_server: Arc::new(http_server),
        })
    }
}

/// Believes a server whose certificate is signed by one of the CAs, whatever its address: that it is of the right job is
/// looked at by both sides once they have seen each other's certificate, so that both can say what is wrong.
#[derive(Debug)]
struct SignedByCa {
    roots: Arc<RootCertStore>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl SignedByCa {
    fn check(&self, own: &CertificateDer<'_>, between: &[CertificateDer<'_>], now: UnixTime) -> Result<(), Error> {
        let own = ParsedCertificate::try_from(own)?;
        verify_server_cert_signed_by_trust_anchor(&own, &self.roots, between, now, self.algorithms.all)
    }
}

impl ServerCertVerifier for SignedByCa {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(end_entity, intermediates, now).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
