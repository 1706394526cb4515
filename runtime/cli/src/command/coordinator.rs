use super::run::{drive, report, start_from, started};
use crate::http::HttpArguments;
use crate::job_file::JobFile;
use crate::security::SecurityArguments;
use anyhow::{Context, Result};
use clap::Args;
use serde::Serialize;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use weir_crds::text::{Diagnostic, Severity};
use weir_node::{CoordinatorOptions, DistributedJob, Loaded, Mark, Outcome, Registry, StartError, StartFrom};

#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    job: JobFile,
    /// Where to begin, as with `weir run`.
    #[arg(long, value_name = "WHERE")]
    from: Option<String>,
    /// Begin there although the job has checkpoints of its own, or where the spec says if --from is not given: once. From
    /// then on the log says that it was done, and a start with the same NAME goes on from the latest checkpoint.
    #[arg(long, value_name = "NAME")]
    once: Option<Mark>,
    /// Where workers register.
    #[arg(long, default_value = "127.0.0.1:6123", value_name = "ADDRESS")]
    listen: SocketAddr,
    #[command(flatten)]
    security: SecurityArguments,
    /// How many workers will come, if that is known: worth a short wait for the last of them.
    #[arg(long, default_value_t = 0, value_name = "N")]
    workers: usize,
    #[command(flatten)]
    http: HttpArguments,
    /// For whoever starts coordinators again, as Kubernetes does: how the job ended is written to FILE as a line of JSON,
    /// and the exit code is 0 wherever another start would end the same way.
    #[arg(long, value_name = "FILE")]
    outcome: Option<PathBuf>,
    /// Show no progress.
    #[arg(short, long)]
    quiet: bool,
}

pub(crate) fn run(arguments: &Arguments, registry: Arc<Registry>) -> Result<ExitCode> {
    let job = match &arguments.outcome {
        None => Arc::new(arguments.job.job(registry)?),
        Some(file) => {
            let Loaded { job, diagnostics, text: _ } = arguments.job.load(registry)?;
            match job {
                Some(job) => Arc::new(job),
                None => return ended(file, Ending::Refused { reason: mistakes(&diagnostics) }),
            }
        }
    };
    let from = start_from(arguments.from.as_deref())?;
    let from = match &arguments.once {
        Some(mark) => StartFrom::Once { mark: mark.clone(), from: Box::new(from) },
        None => from,
    };
    let security = arguments.security.security(&[("--listen", &arguments.listen.to_string())])?;
    let http = arguments.http.of_coordinator(&security)?;
    let options = CoordinatorOptions { listen: arguments.listen, workers: arguments.workers, security };
    let start = DistributedJob::start(Arc::clone(&job), &from, options);
    if let (Some(file), Err(error)) = (&arguments.outcome, &start) {
        match error {
            StartError::AlreadyFinished => return ended(file, Ending::Finished),
            StartError::Refused(reason) => return ended(file, Ending::Refused { reason: reason.clone() }),
            // It may pass.
            StartError::Storage(_) | StartError::Thread(_) => {}
        }
    }
    started(&job, start, |distributed| {
        let (address, slots) = (distributed.address(), distributed.slots());
        eprintln!("{}: waiting at {address} for workers with {slots} slots", job.name);
        let outcome = drive(&job, distributed.into_job(), &http, arguments.quiet)?;
        let code = report(&job.name, &outcome);
        match &arguments.outcome {
            Some(file) => ended(file, Ending::of(outcome)),
            None => Ok(code),
        }
    })
}

/// By field: whoever reads them does not see the file.
fn mistakes(diagnostics: &[Diagnostic]) -> String {
    let errors = diagnostics.iter().filter(|found| found.severity == Severity::Error);
    let lines: Vec<String> =
        errors.map(|found| format!("{}: {}; {}", found.field_path, found.reason, found.remedy)).collect();
    lines.join("\n")
}

/// How a job ended, as the operator reads it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase", tag = "outcome")]
enum Ending {
    Finished,
    Stopped { savepoint: Option<String> },
    Cancelled,
    Failed { reason: String },
    Refused { reason: String },
    Fenced { reason: String },
}

impl Ending {
    fn of(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Finished => Ending::Finished,
            Outcome::Stopped { savepoint } => Ending::Stopped { savepoint },
            Outcome::Cancelled => Ending::Cancelled,
            Outcome::Failed { reason } => Ending::Failed { reason },
            Outcome::Fenced { by } => Ending::Fenced { reason: by },
        }
    }

    /// Reasons as long as Kubernetes keeps a termination message.
    fn bounded(self) -> Self {
        let short = |reason: String| reason.chars().take(REASON_CHARS).collect::<String>();
        match self {
            Ending::Failed { reason } => Ending::Failed { reason: short(reason) },
            Ending::Refused { reason } => Ending::Refused { reason: short(reason) },
            Ending::Fenced { reason } => Ending::Fenced { reason: short(reason) },
            other => other,
        }
    }
}

/// A quarter of what Kubernetes keeps, in bytes: a character may take four.
const REASON_CHARS: usize = 1_000;

fn ended(file: &Path, ending: Ending) -> Result<ExitCode> {
    let line = serde_json::to_string(&ending.bounded())?;
    eprintln!("{line}");
    std::fs::write(file, line + "\n").with_context(|| format!("--outcome {}", file.display()))?;
    Ok(ExitCode::SUCCESS)
}
