//! What went wrong with a TLS connection, for the people who run the job.

use rustls::{AlertDescription, CertificateError, Error};
use std::error::Error as StdError;

pub(super) const NOT_TLS: &str = "it doesn't speak TLS: start it with --tls-dir, as this side is";
pub(super) const PLAIN_HTTP: &str = "it speaks HTTP, and this port HTTPS";
pub(super) const NO_CERTIFICATE: &str = "it shows no certificate: start it with --tls-dir";

/// An error with its causes, one after the other, and in place of what TLS calls it what it means here.
pub fn explain(error: &(dyn StdError + 'static)) -> String {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(cause) = next {
        if let Some(tls) = tls_error(cause) {
            return of_tls(tls);
        }
        let words = match cause.downcast_ref::<tonic::Status>() {
            Some(status) => status.message().to_owned(),
            None => cause.to_string(),
        };
        // Many say what their cause says.
        if !text.contains(&words) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&words);
        }
        next = cause.source();
    }
    text
}

fn tls_error<'a>(cause: &'a (dyn StdError + 'static)) -> Option<&'a Error> {
    if let Some(error) = cause.downcast_ref::<Error>() {
        return Some(error);
    }
    cause.downcast_ref::<std::io::Error>()?.get_ref()?.downcast_ref::<Error>()
}

/// Said by the side that meets the error, of the other one.
pub(super) fn of_tls(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(problem) => format!("its certificate is refused: {}", of_certificate(problem)),
        Error::NoCertificatesPresented => NO_CERTIFICATE.to_owned(),
        Error::InvalidMessage(_) => NOT_TLS.to_owned(),
        Error::AlertReceived(AlertDescription::CertificateExpired) => {
            "it refuses our certificate, which has expired, or isn't valid yet by its clock".to_owned()
        }
        Error::AlertReceived(AlertDescription::UnknownCA) => {
            "it refuses our certificate: it doesn't know the CA that signed it (see its ca.crt)".to_owned()
        }
        Error::AlertReceived(AlertDescription::CertificateRequired) => {
            "it wants a certificate, and we have none".to_owned()
        }
        Error::AlertReceived(
            AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateRevoked
            | AlertDescription::DecryptError,
        ) => format!("it refuses our certificate ({error}); its own log says why"),
        other => other.to_string(),
    }
}

pub(super) fn of_certificate(problem: &CertificateError) -> String {
    match problem {
        CertificateError::UnknownIssuer => "it is signed by no CA of our ca.crt".to_owned(),
        CertificateError::Expired => "it has expired".to_owned(),
        CertificateError::ExpiredContext { not_after, .. } => {
            format!("it has expired on {}", time(not_after.as_secs()))
        }
        CertificateError::NotValidYet => "it isn't valid yet".to_owned(),
        CertificateError::NotValidYetContext { not_before, .. } => {
            format!("it isn't valid before {}", time(not_before.as_secs()))
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "it isn't made for both ends of a connection: its extended key usage must have server auth and client auth"
                .to_owned()
        }
        other => other.to_string(),
    }
}

fn time(seconds: u64) -> String {
    match chrono::DateTime::from_timestamp(i64::try_from(seconds).unwrap_or(i64::MAX), 0) {
        Some(time) => time.format("%Y-%m-%d %H:%M:%S UTC").to_string(),
        None => format!("second {seconds} since 1970"),
    }
}
