use super::savepoint::{absolute, request};
use crate::job_file::JobFile;
use anyhow::Result;
use clap::Args;
use std::process::ExitCode;
use std::sync::Arc;
use weir_node::Registry;
use weir_node::control_socket::SocketRequest;

#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    job: JobFile,
    /// Write a savepoint, into this folder or beside the checkpoints. If that fails the job goes on.
    #[arg(long, value_name = "FOLDER", num_args = 0..=1, default_missing_value = "")]
    savepoint: Option<String>,
}

pub(crate) fn run(arguments: &Arguments, registry: Arc<Registry>) -> Result<ExitCode> {
    let job = arguments.job.job(registry)?;
    let asked = match &arguments.savepoint {
        Some(folder) => {
            let folder = Some(folder.as_str()).filter(|folder| !folder.is_empty());
            SocketRequest::Savepoint { folder: folder.map(absolute).transpose()?, stop: true }
        }
        None => SocketRequest::Stop,
    };
    match request(&job, &asked)? {
        Some(savepoint) => println!("{savepoint}"),
        None => println!("{} stops after a last checkpoint", job.name),
    }
    Ok(ExitCode::SUCCESS)
}
