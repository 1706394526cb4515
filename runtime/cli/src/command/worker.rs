use crate::security::SecurityArguments;
use anyhow::Result;
use clap::Args;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use weir_node::{Registry, WorkerOptions, run_worker};

#[derive(Args)]
pub(crate) struct Arguments {
    /// The coordinator's address, host:port.
    #[arg(long, value_name = "ADDRESS")]
    coordinator: String,
    /// How many subtasks of one step it takes.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=4096))]
    slots: u32,
    /// Where other workers connect to; port 0 lets the system choose one.
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDRESS")]
    listen: SocketAddr,
    /// What other workers are told instead: host:port, where the address above is not what they reach.
    #[arg(long, value_name = "ADDRESS")]
    advertise: Option<String>,
    /// How long a coordinator that isn't reached is waited for, in seconds.
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    patience: u64,
    /// How long tasks go on without a coordinator, in seconds, for one that takes them over as they run. 0: they end with
    /// the connection.
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    hold: u64,
    /// Where copies of checkpoints are kept, for a job with `localRecovery`: on a disk that outlives the process. What
    /// is there already is restored from. Without it beside RocksDB's files, or among temporary files.
    #[arg(long, value_name = "FOLDER")]
    local_dir: Option<PathBuf>,
    /// Wait for the next coordinator when the job is over, for as long as --patience says each time.
    #[arg(long)]
    stay: bool,
    /// Where `GET /healthz` is answered, for whoever would restart a process that hangs.
    #[arg(long, value_name = "ADDRESS")]
    health: Option<SocketAddr>,
    #[command(flatten)]
    security: SecurityArguments,
}

pub(crate) fn run(arguments: &Arguments, registry: &Arc<Registry>) -> Result<ExitCode> {
    let listen = arguments.listen.to_string();
    let security = arguments.security.security(&[("--coordinator", &arguments.coordinator), ("--listen", &listen)])?;
    let options = WorkerOptions {
        coordinator: arguments.coordinator.clone(),
        slots: arguments.slots,
        listen: arguments.listen,
        advertise: arguments.advertise.clone(),
        patience: Duration::from_secs(arguments.patience),
        hold: Duration::from_secs(arguments.hold),
        local_dir: arguments.local_dir.clone(),
        security,
        stays: arguments.stay,
        health: arguments.health,
    };
    end_on_terminate()?;
    run_worker(&options, registry)?;
    Ok(ExitCode::SUCCESS)
}

/// As process 1 of a container it would not be ended by a signal that nobody handles. What it runs is taken up from the
/// last checkpoint, so there is nothing to wait for.
fn end_on_terminate() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        runtime.block_on(async {
            if let Ok(mut terminate) = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
                terminate.recv().await;
                std::process::exit(TERMINATED);
            }
        });
    })?;
    Ok(())
}

/// 128 and the signal's number, as a shell says it.
const TERMINATED: i32 = 143;
