use anyhow::Result;
use clap::Args;
use std::net::SocketAddr;
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
}

pub(crate) fn run(arguments: &Arguments, registry: &Arc<Registry>) -> Result<ExitCode> {
    let options = WorkerOptions {
        coordinator: arguments.coordinator.clone(),
        slots: arguments.slots,
        listen: arguments.listen,
        advertise: arguments.advertise.clone(),
        patience: Duration::from_secs(arguments.patience),
    };
    run_worker(&options, registry)?;
    Ok(ExitCode::SUCCESS)
}
