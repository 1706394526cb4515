//! How commands find a job that runs: on this machine by its file, elsewhere by its address.

use crate::job_file::JobFile;
use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::runtime::Runtime;
use weir_api::{Address, Client, ClientError, Pem, Trust};
use weir_node::Registry;
use weir_node::http::socket_path;
use weir_node::tls::Tls;

#[derive(Args)]
pub(crate) struct RunningJob {
    /// The job file (YAML) of a job that runs on this machine.
    #[arg(required_unless_present = "url")]
    file: Option<PathBuf>,
    /// Another parallelism than the file's.
    #[arg(short, long)]
    parallelism: Option<u32>,
    /// Another state backend than the file's.
    #[arg(long, value_parser = ["heap", "rocksdb"])]
    backend: Option<String>,
    /// Another value for a field, as it was given to the job that runs. Can be given several times.
    #[arg(long, value_name = "FIELD=VALUE")]
    set: Vec<String>,
    /// Where the job's HTTP is reached, instead of the job file: https://HOST:PORT or http://HOST:PORT
    #[arg(long, value_name = "URL", conflicts_with_all = ["file", "backend", "set"])]
    url: Option<String>,
    /// The file with the token that the job's HTTP wants.
    #[arg(long, value_name = "FILE", requires = "url")]
    token_file: Option<PathBuf>,
    /// The file with the CAs of which one has to have signed the certificate that the job's HTTPS shows.
    #[arg(long, value_name = "FILE", requires = "url", conflicts_with = "tls_dir")]
    certificate_authority: Option<PathBuf>,
    /// The name that certificate is of, if it isn't the URL's host: JOB.NAMESPACE.streamjobs.weir.internal
    #[arg(long, value_name = "NAME", requires = "certificate_authority")]
    tls_server_name: Option<String>,
    /// The folder with a certificate of the job, as its processes have it: it is shown to the job's HTTPS instead of a
    /// token, and that has to show one of the same job.
    #[arg(long, value_name = "DIR", requires = "url")]
    tls_dir: Option<PathBuf>,
}

/// A job to talk to.
pub(crate) struct Connection {
    pub(crate) client: Client,
    /// Of the job file; asked by address, the job itself knows it.
    pub(crate) name: Option<String>,
    pub(crate) runtime: Runtime,
}

impl RunningJob {
    pub(crate) fn connect(&self, registry: Arc<Registry>) -> Result<Connection> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        if let Some(url) = &self.url {
            let client = Client::new(Address::of_url(url)?);
            let client = self.with_trust(self.with_token(client)?)?;
            return Ok(Connection { client, name: None, runtime });
        }
        let file = self.file.clone().context("name the job file, or its --url")?;
        let file =
            JobFile { file, parallelism: self.parallelism, backend: self.backend.clone(), set: self.set.clone() };
        let job = file.job(registry)?;
        let client = Client::new(Address::Unix(socket_path(&job)?));
        Ok(Connection { client, name: Some(job.name), runtime })
    }

    pub(crate) fn parallelism(&self) -> Option<u32> {
        self.parallelism
    }

    /// The job is on this machine, so that relative folders mean the same to both.
    pub(crate) fn is_here(&self) -> bool {
        self.url.is_none()
    }

    fn with_token(&self, client: Client) -> Result<Client> {
        let Some(file) = &self.token_file else { return Ok(client) };
        let token = std::fs::read_to_string(file).with_context(|| format!("--token-file {}", file.display()))?;
        Ok(client.with_token(token.trim()))
    }

    fn with_trust(&self, client: Client) -> Result<Client> {
        let trust = match (&self.tls_dir, &self.certificate_authority) {
            (Some(folder), _) => {
                let own = Tls::of_folder(folder).context("--tls-dir")?;
                let file = |name| Pem::File(folder.join(name));
                Trust::new(file("ca.crt"))
                    .with_certificate(file("tls.crt"), file("tls.key"))
                    .with_server_name(own.identity().dns_name())
            }
            (None, Some(file)) => {
                let trust = Trust::new(Pem::File(file.clone()));
                match &self.tls_server_name {
                    None => trust,
                    Some(name) => trust.with_server_name(name),
                }
            }
            (None, None) if matches!(client.address(), Address::Tls(_)) => bail!(
                "nothing says which CA the certificate of {} has to be of: give --certificate-authority FILE with a \
                 token, or --tls-dir DIR with a certificate of the job",
                client.address()
            ),
            (None, None) => return Ok(client),
        };
        Ok(client.with_trust(trust))
    }
}

impl Connection {
    pub(crate) fn ask<T>(&self, asked: impl Future<Output = Result<T, ClientError>>) -> Result<T> {
        self.runtime.block_on(asked).map_err(|error| match (&error, &self.name) {
            (ClientError::NotReached { .. }, Some(name)) => {
                anyhow!("`{name}` doesn't answer; does it run on this machine, from the same file? ({error})")
            }
            _ => anyhow!(error),
        })
    }
}
