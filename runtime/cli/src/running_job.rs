//! How commands find a job that runs: on this machine by its file, elsewhere by its address.

use crate::job_file::JobFile;
use anyhow::{Context, Result, anyhow};
use clap::Args;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::runtime::Runtime;
use weir_api::{Address, Client, ClientError};
use weir_node::Registry;
use weir_node::http::socket_path;

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
    /// Where the job's HTTP is reached, instead of the job file: http://HOST:PORT
    #[arg(long, value_name = "URL", conflicts_with_all = ["file", "backend", "set"])]
    url: Option<String>,
    /// The file with the token that the job's HTTP wants.
    #[arg(long, value_name = "FILE", requires = "url")]
    token_file: Option<PathBuf>,
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
            return Ok(Connection { client: self.with_token(client)?, name: None, runtime });
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
