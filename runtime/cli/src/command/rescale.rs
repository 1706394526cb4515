use super::savepoint::ask_running;
use crate::job_file::JobFile;
use crate::text;
use anyhow::{Result, bail};
use clap::Args;
use std::process::ExitCode;
use std::sync::Arc;
use weir_node::Registry;
use weir_node::control_socket::{SocketAnswer, SocketRequest};

#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    job: JobFile,
}

pub(crate) fn run(arguments: &Arguments, registry: Arc<Registry>) -> Result<ExitCode> {
    let Some(parallelism) = arguments.job.parallelism else { bail!("say which parallelism: -p N") };
    let job = arguments.job.job(registry)?;
    match ask_running(&job, &SocketRequest::Rescale { parallelism })? {
        SocketAnswer::Rescaled { parallelism, duration_ms } => {
            println!("{} runs with parallelism {parallelism}, after {}", job.name, text::duration(duration_ms));
            Ok(ExitCode::SUCCESS)
        }
        SocketAnswer::Failed { reason } => bail!(reason),
        SocketAnswer::Done { .. } => bail!("`{}` answered to something else", job.name),
    }
}
