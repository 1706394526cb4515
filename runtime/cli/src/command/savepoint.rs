use crate::running_job::{Connection, RunningJob};
use anyhow::{Context, Result, bail};
use clap::Args;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use weir_api::SavepointId;
use weir_api::view::{SavepointRequest, SavepointState, SavepointView};
use weir_node::Registry;

/// One question for the end of a savepoint; asked again as long as it takes.
const WAIT: Duration = Duration::from_secs(30);
/// Of a job's name, in the id of its savepoint.
const NAME_CHARS: usize = 80;

#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    job: RunningJob,
    /// The folder to write to; beside the checkpoints if not given.
    #[arg(long, value_name = "FOLDER")]
    to: Option<String>,
    /// What it is called. Asked for again under the same name, it is not written again.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
}

pub(crate) fn run(arguments: &Arguments, registry: Arc<Registry>) -> Result<ExitCode> {
    let connection = arguments.job.connect(registry)?;
    let request = request(&arguments.job, &connection, arguments.to.as_deref(), arguments.name.as_deref())?;
    let asked = connection.ask(connection.client.trigger_savepoint(&request))?;
    println!("{}", ended(&connection, asked)?);
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn request(
    job: &RunningJob,
    connection: &Connection,
    folder: Option<&str>,
    name: Option<&str>,
) -> Result<SavepointRequest> {
    let name = match name {
        Some(name) => name.to_owned(),
        None => {
            let job = match &connection.name {
                Some(name) => name.clone(),
                None => connection.ask(connection.client.job())?.name,
            };
            let job: String = job.chars().take(NAME_CHARS).collect();
            format!("{job}-{}", chrono::Utc::now().format("%Y%m%d-%H%M%S-%3f"))
        }
    };
    let id = SavepointId::try_from(name).map_err(|reason| anyhow::anyhow!("--name: {reason}"))?;
    let folder = match folder {
        Some(folder) if job.is_here() => Some(absolute(folder)?),
        Some(folder) if !folder.contains("://") && !folder.starts_with('/') => {
            bail!("`{folder}`: name the folder in full; the job that writes it runs elsewhere")
        }
        folder => folder.map(str::to_owned),
    };
    Ok(SavepointRequest { id, folder })
}

/// Waits for its end; the savepoint's address.
pub(crate) fn ended(connection: &Connection, mut savepoint: SavepointView) -> Result<String> {
    loop {
        match savepoint.state {
            SavepointState::Completed => return savepoint.address.context("the job doesn't say where it stands"),
            SavepointState::Failed => bail!(savepoint.failure.unwrap_or_else(|| "it failed".to_owned())),
            SavepointState::InProgress => {}
        }
        savepoint = connection.ask(connection.client.savepoint(&savepoint.id, WAIT))?;
    }
}

/// The folder as its address: the process that writes it may stand in another directory than this one.
fn absolute(folder: &str) -> Result<String> {
    let path = match folder.strip_prefix("file://") {
        None if folder.contains("://") => return Ok(folder.to_owned()),
        None => folder,
        Some(path) => path,
    };
    let path = std::path::absolute(path).with_context(|| format!("`{folder}` is no folder"))?;
    Ok(format!("file://{}", path.display()))
}
