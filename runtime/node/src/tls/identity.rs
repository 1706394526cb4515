//! The job that a certificate is of.

use rustls::pki_types::{CertificateDer, ServerName};
use std::fmt;

/// Every identity ends so. `.internal` is kept free for private use: nobody can own such a name in the public DNS.
const SUFFIX: &str = ".streamjobs.weir.internal";
const DEFAULT_NAMESPACE: &str = "default";

/// A job's name in the certificates of its processes: the DNS name `<job>.<namespace>.streamjobs.weir.internal`.
///
/// A DNS name because every issuer can write one; it is never looked up.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobIdentity {
    job_and_namespace: String,
}

impl JobIdentity {
    /// Of a job by its name and namespace; `default` without one.
    pub fn new(job: &str, namespace: Option<&str>) -> Self {
        JobIdentity { job_and_namespace: format!("{job}.{}", namespace.unwrap_or(DEFAULT_NAMESPACE)) }
    }

    pub fn of_job(job: &crate::Job) -> Self {
        Self::new(&job.name, job.resource.metadata.namespace.as_deref())
    }

    /// The name as it stands in a certificate.
    pub fn dns_name(&self) -> String {
        format!("{}{SUFFIX}", self.job_and_namespace)
    }

    /// The one job that a certificate is of.
    ///
    /// # Errors
    /// It names none, or several: then it would be a matter of luck which one is meant.
    pub fn of_certificate(certificate: &CertificateDer<'_>) -> Result<Self, String> {
        let parsed =
            webpki::EndEntityCert::try_from(certificate).map_err(|error| format!("it is no certificate: {error}"))?;
        let names: Vec<&str> = parsed.valid_dns_names().collect();
        let mut of_jobs = names.iter().filter_map(|name| {
            let job = name.strip_suffix(SUFFIX)?;
            let is_whole = job.split('.').count() == 2 && !job.contains('*');
            is_whole.then(|| JobIdentity { job_and_namespace: job.to_owned() })
        });
        match (of_jobs.next(), of_jobs.next()) {
            (Some(identity), None) => Ok(identity),
            (Some(first), Some(second)) => {
                Err(format!("it is of two jobs, `{first}` and `{second}`: each job needs its own"))
            }
            (None, _) => Err(format!(
                "it names no job: among its DNS names ({}) there is none of the form `<job>.<namespace>{SUFFIX}`",
                if names.is_empty() { "it has none".to_owned() } else { names.join(", ") },
            )),
        }
    }

    /// What the connecting side announces; any process of the job answers to it.
    pub(super) fn server_name(&self) -> Result<ServerName<'static>, String> {
        ServerName::try_from(self.dns_name()).map_err(|error| format!("`{}`: {error}", self.dns_name()))
    }
}

impl fmt::Display for JobIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.job_and_namespace)
    }
}

impl fmt::Debug for JobIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
