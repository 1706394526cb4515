//! Whether and how the processes of a job secure their connections.

use anyhow::{Context, Result, bail};
use clap::Args;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use weir_node::tls::{Security, Tls};

#[derive(Args, Clone, Debug)]
pub(crate) struct SecurityArguments {
    /// The folder with tls.crt, tls.key and ca.crt, as a Kubernetes TLS secret holds them. They are read again when
    /// they change. Needed as soon as an address is not of this machine only.
    #[arg(long, value_name = "DIR", conflicts_with = "insecure")]
    tls_dir: Option<PathBuf>,
    /// Let everybody who reaches this process connect to it, read along and take part in the job.
    #[arg(long)]
    insecure: bool,
}

impl SecurityArguments {
    /// `addresses`: the options that name where this process is reached, or whom it reaches.
    pub(crate) fn security(&self, addresses: &[(&str, &str)]) -> Result<Security> {
        if let Some(folder) = &self.tls_dir {
            let tls = Tls::of_folder(folder).context("--tls-dir")?;
            return Ok(Security::Tls(Arc::new(tls)));
        }
        if let Some((option, address)) = addresses.iter().find(|(_, address)| !is_loopback(address)) {
            if !self.insecure {
                bail!(
                    "{option} {address} is not of this machine only, and nothing secures the connections: give \
                     --tls-dir DIR with tls.crt, tls.key and ca.crt, or say --insecure where nobody else can reach it"
                );
            }
            tracing::warn!("--insecure: whoever reaches this process can read the job's data and take part in it");
        }
        Ok(Security::Open)
    }
}

/// Of host:port. A name other than `localhost` may be anybody's.
fn is_loopback(address: &str) -> bool {
    if let Ok(address) = address.parse::<SocketAddr>() {
        return address.ip().is_loopback();
    }
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host == "localhost" || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(insecure: bool, address: &str) -> Result<Security> {
        SecurityArguments { tls_dir: None, insecure }.security(&[("--listen", address)])
    }

    #[test]
    fn without_certificates_only_on_this_machine() {
        for address in ["127.0.0.1:6123", "[::1]:6123", "localhost:6123", "127.8.8.8:1"] {
            assert!(open(false, address).is_ok(), "{address}");
        }
        for address in ["0.0.0.0:6123", "[::]:6123", "10.0.0.5:6123", "coordinator:6123", "localhost.example:1"] {
            let refused = open(false, address).expect_err(address).to_string();
            assert!(refused.contains(address) && refused.contains("--tls-dir"), "{refused}");
            assert!(open(true, address).is_ok(), "{address}");
        }
    }
}
