//! Where a process that coordinates serves HTTP, as its command line says.

use clap::Args;
use std::net::SocketAddr;
use std::path::PathBuf;
use weir_node::http::{HttpOptions, OpenReads};

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
    pub(crate) fn of_run(&self) -> HttpOptions {
        self.options(None)
    }

    pub(crate) fn of_coordinator(&self) -> HttpOptions {
        self.options(COORDINATOR.parse().ok())
    }

    fn options(&self, default: Option<SocketAddr>) -> HttpOptions {
        HttpOptions {
            listen: match self.http {
                None => default,
                Some(Listen::Off) => None,
                Some(Listen::On(address)) => Some(address),
            },
            is_optional: self.http.is_none(),
            token_file: self.http_token_file.clone(),
            open: match (self.http_open_reads, self.http_open_metrics) {
                (true, _) => OpenReads::All,
                (false, true) => OpenReads::Metrics,
                (false, false) => OpenReads::Nothing,
            },
        }
    }
}
