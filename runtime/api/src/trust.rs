//! By what a client believes a job's HTTPS, and what it shows of itself.

use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::fmt;
use std::io::Read;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

/// A certificate with its chain takes a few KB, a bundle of CAs some hundred: what is longer is something else.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Text in PEM form. A file is read for each connection: certificates are replaced while clients run.
#[derive(Clone, Debug)]
pub enum Pem {
    File(PathBuf),
    Text(String),
}

/// The CAs that are believed, the name that the server's certificate must have, and perhaps a certificate to show.
#[derive(Clone)]
pub struct Trust {
    authorities: Pem,
    own: Option<(Pem, Pem)>,
    server_name: Option<String>,
    /// Of text, which stays what it is: made once, for all clones.
    made: Arc<OnceLock<Arc<ClientConfig>>>,
}

impl Trust {
    pub fn new(authorities: Pem) -> Self {
        Trust { authorities, own: None, server_name: None, made: Arc::default() }
    }

    /// Shows this certificate to a server that asks for one.
    pub fn with_certificate(self, certificate: Pem, key: Pem) -> Self {
        Trust { own: Some((certificate, key)), made: Arc::default(), ..self }
    }

    /// The server's certificate is of this name rather than of the host that is connected to.
    pub fn with_server_name(self, name: impl Into<String>) -> Self {
        Trust { server_name: Some(name.into()), ..self }
    }

    /// For a connection to this host.
    pub(crate) fn config(&self, host: &str) -> Result<(Arc<ClientConfig>, ServerName<'static>), String> {
        let name = self.server_name.as_deref().unwrap_or(host.trim_matches(['[', ']']));
        let name = ServerName::try_from(name.to_owned()).map_err(|error| format!("`{name}`: {error}"))?;
        let of_files = self.own.iter().flat_map(|(certificate, key)| [certificate, key]).chain([&self.authorities]);
        if of_files.into_iter().any(|pem| matches!(pem, Pem::File(_))) {
            return Ok((Arc::new(self.make()?), name));
        }
        if let Some(made) = self.made.get() {
            return Ok((Arc::clone(made), name));
        }
        let made = Arc::new(self.make()?);
        Ok((Arc::clone(self.made.get_or_init(|| made)), name))
    }

    fn make(&self) -> Result<ClientConfig, String> {
        let mut roots = RootCertStore::empty();
        for authority in certificates(&self.authorities)? {
            roots.add(authority).map_err(|error| format!("{}: {error}", self.authorities))?;
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots);
        let mut config = match &self.own {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = certificates(certificate)?;
                let read = PrivateKeyDer::from_pem_slice(&key.read()?);
                let private = read.map_err(|error| format!("{key}: no private key in PEM form: {error}"))?;
                builder.with_client_auth_cert(chain, private).map_err(|error| format!("{certificate}: {error}"))?
            }
        };
        // Each question has a connection of its own, and they are seldom: nothing is kept for the next one.
        config.resumption = Resumption::disabled();
        Ok(config)
    }
}

impl fmt::Debug for Trust {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

fn certificates(pem: &Pem) -> Result<Vec<CertificateDer<'static>>, String> {
    let bytes = pem.read()?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match all {
        Err(error) => Err(format!("{pem}: not in PEM form: {error}")),
        Ok(all) if all.is_empty() => Err(format!("{pem}: there is no certificate in PEM form in it")),
        Ok(all) => Ok(all),
    }
}

impl Pem {
    fn read(&self) -> Result<Vec<u8>, String> {
        let path = match self {
            Pem::Text(text) => return Ok(text.clone().into_bytes()),
            Pem::File(path) => path,
        };
        let mut bytes = vec![];
        let read = std::fs::File::open(path).and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes));
        match read {
            Err(error) => Err(format!("{self}: {error}")),
            Ok(_) if bytes.len() as u64 > MAX_FILE_BYTES => Err(format!("{self}: more than {MAX_FILE_BYTES} bytes")),
            Ok(_) => Ok(bytes),
        }
    }
}

impl fmt::Display for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Pem::File(path) => path.display().fmt(f),
            Pem::Text(_) => f.write_str("the text"),
        }
    }
}
