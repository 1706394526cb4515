use crate::running_job::RunningJob;
use crate::text;
use anyhow::{Result, bail};
use clap::Args;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use weir_api::view::{RescaleRequest, RescaleState};
use weir_node::Registry;

/// One question for its end; asked again as long as it takes.
const WAIT: Duration = Duration::from_secs(30);

#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    job: RunningJob,
}

pub(crate) fn run(arguments: &Arguments, registry: Arc<Registry>) -> Result<ExitCode> {
    let Some(parallelism) = arguments.job.parallelism() else { bail!("say which parallelism: -p N") };
    let connection = arguments.job.connect(registry)?;
    let mut rescale = connection.ask(connection.client.rescale(&RescaleRequest { parallelism, leaving: vec![] }))?;
    while rescale.state == RescaleState::InProgress {
        rescale = connection.ask(connection.client.rescale_state(rescale.id, WAIT))?;
    }
    if rescale.state == RescaleState::Failed {
        bail!(rescale.failure.unwrap_or_else(|| "it failed".to_owned()));
    }
    let name = connection.name.as_deref().unwrap_or("the job");
    println!("{name} runs with parallelism {parallelism}, after {}", text::duration(rescale.duration_ms.unwrap_or(0)));
    Ok(ExitCode::SUCCESS)
}
