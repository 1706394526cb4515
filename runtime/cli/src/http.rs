//! Where a process that coordinates serves HTTP, as its command line says.

use anyhow::{Context, Result};
use clap::Args;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use weir_node::http::{HttpOptions, OpenReads};
use weir_node::tls::{Security, Tls};

/// Of a coordinator, where nothing else is said: this machine alone reaches it.
const COORDINATOR: &str = "127.0.0.1:8081";

#[derive(Args)]
pub(crate) struct HttpArguments {
    /// Serve the REST API and metrics on this address; port 0 lets the system choose one. A coordinator serves on
    /// 127.0.0.1:8081 if nothing is said; `none` turns it off.
    #[arg(long, value_name = "ADDRESS", value_parser = listen)]
    http: Option<Listen>,
    /// Whoever sends the content of this file as a bearer token may change the job. The file is read again for each
    /// request. Without it nothing that changes a job is open to the network.
    #[arg(long, value_name = "FILE")]
    http_token_file: Option<PathBuf>,
    /// Serve HTTPS, with tls.crt, tls.key and ca.crt of this folder: whoever shows a certificate of the job may change it.
    /// A coordinator with --tls-dir does so with that folder if nothing is said.
    #[arg(long, value_name = "DIR")]
    http_tls_dir: Option<PathBuf>,
    /// Let everybody who reaches the address read, not only this machine.
    #[arg(long)]
    http_open_reads: bool,
    /// Let everybody who reaches the address read the metrics.
    #[arg(long)]
    http_open_metrics: bool,
}

#[derive(Clone, Copy)]
enum Listen {
    Off,
    On(SocketAddr),
}

fn listen(text: &str) -> Result<Listen, String> {
    match text {
        "none" => Ok(Listen::Off),
        text => {
            text.parse().map(Listen::On).map_err(|_| "write HOST:PORT, with the host as a number, or `none`".into())
        }
    }
}

impl HttpArguments {
    /// For `weir run`: off unless asked for.
    pub(crate) fn of_run(&self) -> Result<HttpOptions> {
        self.options(None, &Security::Open)
    }

    /// `security`: of its connections with workers.
    pub(crate) fn of_coordinator(&self, security: &Security) -> Result<HttpOptions> {
        self.options(COORDINATOR.parse().ok(), security)
    }

    fn options(&self, default: Option<SocketAddr>, security: &Security) -> Result<HttpOptions> {
        Ok(HttpOptions {
            listen: match self.http {
                None => default,
                Some(Listen::Off) => None,
                Some(Listen::On(address)) => Some(address),
            },
            is_optional: self.http.is_none(),
            security: match &self.http_tls_dir {
                None => security.clone(),
                Some(folder) => Security::Tls(Arc::new(Tls::of_folder(folder).context("--http-tls-dir")?)),
            },
            token_file: self.http_token_file.clone(),
            open: match (self.http_open_reads, self.http_open_metrics) {
                (true, _) => OpenReads::All,
                (false, true) => OpenReads::Metrics,
                (false, false) => OpenReads::Nothing,
            },
        })
    }
}
