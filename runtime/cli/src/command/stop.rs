use super::savepoint::{ended, request};
use crate::running_job::RunningJob;
use anyhow::Result;
use clap::Args;
use std::process::ExitCode;
use std::sync::Arc;
use weir_api::view::StopRequest;
use weir_node::Registry;

#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    job: RunningJob,
    /// Write a savepoint, into this folder or beside the checkpoints. If that fails the job goes on.
    #[arg(long, value_name = "FOLDER", num_args = 0..=1, default_missing_value = "")]
    savepoint: Option<String>,
    /// What the savepoint is called.
    #[arg(long, value_name = "NAME", requires = "savepoint")]
    name: Option<String>,
}

pub(crate) fn run(arguments: &Arguments, registry: Arc<Registry>) -> Result<ExitCode> {
    let connection = arguments.job.connect(registry)?;
    let savepoint = match &arguments.savepoint {
        None => None,
        Some(folder) => {
            let folder = Some(folder.as_str()).filter(|folder| !folder.is_empty());
            Some(request(&arguments.job, &connection, folder, arguments.name.as_deref())?)
        }
    };
    let accepted = connection.ask(connection.client.stop(&StopRequest { savepoint }))?;
    match accepted.savepoint {
        Some(savepoint) => println!("{}", ended(&connection, savepoint)?),
        None => println!("{} stops after a last checkpoint", connection.name.as_deref().unwrap_or("the job")),
    }
    Ok(ExitCode::SUCCESS)
}
