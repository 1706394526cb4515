use super::run::start_from;
use crate::job_file::JobFile;
use crate::text;
use anyhow::Result;
use clap::Args;
use std::process::ExitCode;
use std::sync::Arc;
use weir_node::{Job, Preflight, Registry, StartError, preflight};

#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    job: JobFile,
    /// Compare with this restore point, as `weir run --from` would start from it.
    #[arg(long, value_name = "WHERE")]
    from: Option<String>,
}

pub(crate) fn run(arguments: &Arguments, registry: Arc<Registry>) -> Result<ExitCode> {
    let job = arguments.job.job(registry)?;
    print!("{}", job.explain());
    let from = start_from(arguments.from.as_deref())?;
    match preflight(&job, &from) {
        Ok(found) => Ok(show(&job, &found)),
        Err(StartError::AlreadyFinished) => {
            println!("\n{} has finished: `weir run` would not run it again, `weir run --from none` would", job.name);
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => Err(anyhow::Error::new(error).context(format!("`{}` would not start", job.name))),
    }
}

fn show(job: &Job, found: &Preflight) -> ExitCode {
    match &found.from {
        None => println!("\n{} would start empty", job.name),
        Some(from) => {
            println!("\n{} would start from {from}", job.name);
            let rows: Vec<Vec<String>> = (found.states.iter())
                .map(|state| vec![state.operator.to_string(), state.state.clone(), state.fit.to_string()])
                .collect();
            if !rows.is_empty() {
                print!("{}", text::table(&["OPERATOR", "STATE", "FITS"], &rows));
            }
        }
    }
    for refusal in &found.refusals {
        eprintln!("error: {refusal}");
    }
    if found.refusals.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
