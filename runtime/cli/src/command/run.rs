use crate::children::{Children, Worker};
use crate::http::HttpArguments;
use crate::job_file::JobFile;
use crate::progress::Progress;
use anyhow::{Context, Result};
use clap::Args;
use std::net::Ipv4Addr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::channel;
use weir_model::CheckpointId;
use weir_node::http::{HttpOptions, HttpServer};
use weir_node::tls::{JobIdentity, OwnCertificates, Security, Tls};
use weir_node::{
    CoordinatorOptions, DistributedJob, Job, LocalJob, Outcome, Registry, Request, StartError, StartFrom, StopMode,
    local_copies_folder,
};

#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    job: JobFile,
    /// Where to begin: `latest` checkpoint, `none` (empty), a checkpoint's number, or a savepoint's folder. Without it
    /// the job goes on from its latest checkpoint, and begins where `spec.restore` says.
    #[arg(long, value_name = "WHERE")]
    from: Option<String>,
    /// Run the job in so many worker processes beside this one, which coordinates; without it in this process alone.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    workers: Option<u32>,
    #[command(flatten)]
    http: HttpArguments,
    /// Show no progress.
    #[arg(short, long)]
    quiet: bool,
}

/// Exit code of a process that ended because it was interrupted.
const INTERRUPTED: u8 = 130;

pub(crate) fn run(arguments: &Arguments, registry: Arc<Registry>) -> Result<ExitCode> {
    let job = Arc::new(arguments.job.job(registry)?);
    let from = start_from(arguments.from.as_deref())?;
    let http = arguments.http.of_run()?;
    let Some(workers) = arguments.workers else {
        let local = LocalJob::start(Arc::clone(&job), &from);
        return started(&job, local, |local| Ok(report(&job.name, &drive(&job, local, &http, arguments.quiet)?)));
    };
    // Other users of this machine reach its loopback, too.
    let certificates =
        OwnCertificates::issue(JobIdentity::of_job(&job)).context("cannot make certificates for the workers")?;
    let security = Security::Tls(Arc::new(Tls::of_folder(certificates.folder())?));
    let options = CoordinatorOptions { listen: (Ipv4Addr::LOCALHOST, 0).into(), workers: workers as usize, security };
    started(&job, DistributedJob::start(Arc::clone(&job), &from, options), |distributed| {
        // Subtasks are spread over all of them; a rescale may want more, up to the number of key groups.
        let (slots, local_dir) = (job.graph.max_parallelism, local_copies_folder(&job));
        let tls_dir = certificates.folder().to_path_buf();
        let worker = Worker { coordinator: distributed.address(), slots, local_dir, tls_dir };
        let children = Children::start(workers, &worker, certificates)?;
        let outcome = drive(&job, distributed.into_job(), &http, arguments.quiet);
        children.end();
        Ok(report(&job.name, &outcome?))
    })
}

/// Goes on with a job that could be taken over.
pub(crate) fn started<T>(
    job: &Job,
    started: Result<T, StartError>,
    go_on: impl FnOnce(T) -> Result<ExitCode>,
) -> Result<ExitCode> {
    match started {
        Ok(started) => go_on(started),
        Err(StartError::AlreadyFinished) => {
            println!("{}: has finished; `--from none` runs it again from the beginning", job.name);
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => Err(error).with_context(|| format!("cannot start `{}`", job.name)),
    }
}

/// Runs a job to its end, shows how it goes, and takes requests meanwhile.
pub(crate) fn drive(job: &Arc<Job>, local: LocalJob, http: &HttpOptions, quiet: bool) -> Result<Outcome> {
    let server = HttpServer::start(Arc::clone(job), local.status(), local.requests(), http)?;
    if let Some(url) = server.url() {
        eprintln!("{}: HTTP at {url}", job.name);
    }
    stop_on_interrupt(&local)?;
    let progress = Progress::start(job, local.status(), quiet);
    let outcome = local.run();
    progress.end();
    server.finish();
    Ok(outcome)
}

pub(crate) fn start_from(text: Option<&str>) -> Result<StartFrom> {
    let Some(text) = text else { return Ok(StartFrom::Spec) };
    Ok(match text {
        "latest" => StartFrom::Latest,
        "none" => StartFrom::Nothing,
        number if number.parse::<u64>().is_ok() => StartFrom::Checkpoint(CheckpointId(number.parse()?)),
        uri if uri.contains("://") => StartFrom::Savepoint(uri.to_owned()),
        path => {
            let folder = std::fs::canonicalize(path).with_context(|| format!("--from {path}"))?;
            StartFrom::Savepoint(format!("file://{}", folder.display()))
        }
    })
}

/// The first Ctrl-C stops after a last checkpoint, the second at once.
fn stop_on_interrupt(local: &LocalJob) -> Result<()> {
    let requests = local.requests();
    let (interrupted, interruptions) = channel();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        runtime.block_on(async {
            let mut terminate = match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
                Ok(terminate) => terminate,
                Err(_) => return,
            };
            loop {
                tokio::select! {
                    _ = tokio::signal::ctrl_c() => {}
                    _ = terminate.recv() => {}
                }
                if interrupted.send(()).is_err() {
                    return;
                }
            }
        });
    })?;
    std::thread::Builder::new().name("interrupts".to_owned()).spawn(move || {
        let modes = std::iter::once(StopMode::Drain).chain(std::iter::repeat(StopMode::Cancel));
        for (mode, ()) in modes.zip(interruptions) {
            match mode {
                StopMode::Drain => eprintln!("stopping after a last checkpoint; again to stop at once"),
                StopMode::Cancel => eprintln!("stopping at once"),
            }
            requests.send(Request::Stop(mode));
        }
    })?;
    Ok(())
}

pub(crate) fn report(name: &str, outcome: &Outcome) -> ExitCode {
    match outcome {
        Outcome::Finished => {
            println!("{name}: finished");
            ExitCode::SUCCESS
        }
        Outcome::Stopped { savepoint: Some(savepoint) } => {
            println!("{name}: stopped, savepoint {savepoint}");
            ExitCode::SUCCESS
        }
        Outcome::Stopped { savepoint: None } => {
            println!("{name}: stopped; `weir run` goes on from the last checkpoint");
            ExitCode::SUCCESS
        }
        Outcome::Cancelled => {
            println!("{name}: cancelled");
            ExitCode::from(INTERRUPTED)
        }
        Outcome::Failed { reason } => {
            eprintln!("error: {name} failed: {reason}");
            ExitCode::FAILURE
        }
        Outcome::Fenced { by } => {
            eprintln!("error: {name} was taken over: {by}");
            ExitCode::FAILURE
        }
    }
}
