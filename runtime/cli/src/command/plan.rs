use super::run::start_from;
use crate::job_file::JobFile;
use crate::text;
use anyhow::Result;
use clap::Args;
use std::process::ExitCode;
use std::sync::Arc;
use weir_connectors::api::Probe;
use weir_node::{Job, Preflight, Probed, Registry, StartError, preflight, probe};

#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    job: JobFile,
    /// Compare with this restore point, as `weir run --from` would start from it.
    #[arg(long, value_name = "WHERE")]
    from: Option<String>,
    /// Do not connect to what the job reads and writes.
    #[arg(long)]
    offline: bool,
}

pub(crate) fn run(arguments: &Arguments, registry: Arc<Registry>) -> Result<ExitCode> {
    let job = arguments.job.job(registry)?;
    print!("{}", job.explain());
    let reachable = arguments.offline || show_probes(&probe(&job));
    let from = start_from(arguments.from.as_deref())?;
    match preflight(&job, &from) {
        Ok(found) => Ok(if show(&job, &found) && reachable { ExitCode::SUCCESS } else { ExitCode::FAILURE }),
        Err(StartError::AlreadyFinished) => {
            println!("\n{} has finished: `weir run` would not run it again, `weir run --from none` would", job.name);
            Ok(if reachable { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Err(error) => Err(anyhow::Error::new(error).context(format!("`{}` would not start", job.name))),
    }
}

/// What the systems at the job's ends say; whether nothing speaks against a start.
fn show_probes(probes: &[Probed]) -> bool {
    let mut is_fine = true;
    for Probed { step, result } in probes {
        match result {
            Ok(Probe { found, problems }) => {
                found.iter().for_each(|line| println!("{step}: {line}"));
                problems.iter().for_each(|problem| eprintln!("error: {step}: {problem}"));
                is_fine &= problems.is_empty();
            }
            Err(error) => {
                eprintln!("error: {step}: {error} (`--offline` plans without asking)");
                is_fine = false;
            }
        }
    }
    is_fine
}

/// Whether the job would be started.
fn show(job: &Job, found: &Preflight) -> bool {
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
    found.refusals.is_empty()
}
