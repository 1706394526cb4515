use crate::running_job::RunningJob;
use anyhow::Result;
use clap::Args;
use std::process::ExitCode;
use std::sync::Arc;
use weir_node::Registry;

#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    job: RunningJob,
}

pub(crate) fn run(arguments: &Arguments, registry: Arc<Registry>) -> Result<ExitCode> {
    let connection = arguments.job.connect(registry)?;
    connection.ask(connection.client.cancel())?;
    println!("{} is being cancelled", connection.name.as_deref().unwrap_or("the job"));
    Ok(ExitCode::SUCCESS)
}
