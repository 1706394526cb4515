//! TLS towards brokers.

use crate::error::{KafkaError, Result};
use crate::options::TlsOptions;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::net::TcpStream;
use std::sync::Arc;

pub(crate) type TlsStream = StreamOwned<ClientConnection, TcpStream>;

pub(crate) fn config(options: &TlsOptions) -> Result<Arc<ClientConfig>> {
    let unusable = |what: &str, error: &dyn std::fmt::Display| KafkaError::Unusable(format!("TLS: {what}: {error}"));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable("no protocol version", &error))?
        .with_root_certificates(roots(options.ca_pem.as_deref())?);
    let config = match &options.identity_pem {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = certificates(certificate)?;
            let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| unusable("the client's key", &error))?;
            builder.with_client_auth_cert(chain, key).map_err(|error| unusable("the client's certificate", &error))?
        }
    };
    Ok(Arc::new(config))
}

pub(crate) fn connect(config: &Arc<ClientConfig>, host: &str, stream: TcpStream) -> Result<TlsStream> {
    let name = ServerName::try_from(host.to_owned())
        .map_err(|error| KafkaError::Unusable(format!("`{host}` is no name that a certificate could have: {error}")))?;
    let session = ClientConnection::new(Arc::clone(config), name)
        .map_err(|error| KafkaError::Unusable(format!("TLS to {host}: {error}")))?;
    Ok(StreamOwned::new(session, stream))
}

/// What broke a connection, where TLS did. A certificate that one side doesn't believe will not be believed the next time;
/// one that has expired may have been replaced by then.
pub(crate) fn broken(peer: &str, error: &rustls::Error) -> KafkaError {
    use rustls::AlertDescription as Alert;
    use rustls::CertificateError as Certificate;
    use rustls::Error;
    let (reason, remedy) = match error {
        Error::InvalidCertificate(Certificate::UnknownIssuer) => (
            "its certificate is signed by an authority that is not known here".to_owned(),
            "name that authority's certificate in ssl.ca.location or ssl.ca.pem",
        ),
        Error::InvalidCertificate(Certificate::NotValidForName | Certificate::NotValidForNameContext { .. }) => (
            "its certificate is not for this name".to_owned(),
            "use names that brokers' certificates have, in bootstrapServers and in the brokers' advertised.listeners",
        ),
        Error::InvalidCertificate(
            Certificate::Expired
            | Certificate::ExpiredContext { .. }
            | Certificate::NotValidYet
            | Certificate::NotValidYetContext { .. },
        ) => return KafkaError::Connection(format!("{peer}: TLS: {error}")),
        Error::InvalidCertificate(reason) => (
            format!("its certificate is not accepted ({reason})"),
            "have one made that is, or name its authority in ssl.ca.location",
        ),
        Error::AlertReceived(
            alert @ (Alert::BadCertificate
            | Alert::CertificateRequired
            | Alert::CertificateUnknown
            | Alert::CertificateRevoked
            | Alert::UnsupportedCertificate
            | Alert::UnknownCA
            | Alert::AccessDenied),
        ) => (
            format!("it refuses this client's certificate, or wants one ({alert:?})"),
            "set ssl.certificate.location and ssl.key.location to a certificate that the broker believes",
        ),
        Error::InvalidMessage(_) => {
            ("what it answers is not TLS".to_owned(), "name a listener that speaks TLS, or correct security.protocol")
        }
        other => return KafkaError::Connection(format!("{peer}: TLS: {other}")),
    };
    KafkaError::Unusable(format!("TLS with {peer}: {reason}; {remedy}"))
}

fn roots(pem: Option<&[u8]>) -> Result<RootCertStore> {
    let mut store = RootCertStore::empty();
    match pem {
        Some(pem) => {
            for certificate in certificates(pem)? {
                store
                    .add(certificate)
                    .map_err(|error| KafkaError::Unusable(format!("TLS: a certificate of ssl.ca: {error}")))?;
            }
        }
        // Some of the system's may be too old for us; the others do.
        None => {
            store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    if store.is_empty() {
        return Err(KafkaError::Unusable("TLS: no certificate of an authority is known: set ssl.ca.location".into()));
    }
    Ok(store)
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_slice_iter(pem)
        .collect::<std::result::Result<_, _>>()
        .map_err(|error| KafkaError::Unusable(format!("TLS: a certificate that is not PEM: {error}")))
}
