use crate::job_file::JobFile;
use crate::text;
use anyhow::{Context, Result};
use clap::Args;
use serde_json::json;
use std::process::ExitCode;
use std::sync::Arc;
use weir_node::{Registry, job_folder};
use weir_snapshot::{CheckpointSummary, Restorable, list_checkpoints};

#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    job: JobFile,
    #[arg(long, default_value = "table", value_parser = ["table", "json"])]
    output: String,
}

pub(crate) fn run(arguments: &Arguments, registry: Arc<Registry>) -> Result<ExitCode> {
    let job = arguments.job.job(registry)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let folder = runtime.block_on(job_folder(&job))?;
    let list = runtime.block_on(list_checkpoints(&folder)).context("cannot read the commit log")?;
    if arguments.output == "json" {
        let all: Vec<_> = list.checkpoints.iter().map(as_json).collect();
        println!("{}", serde_json::to_string_pretty(&all)?);
    } else if list.checkpoints.is_empty() {
        println!("{} has no checkpoints in {}", job.name, job.storage_uri());
    } else {
        let header = ["ID", "TYPE", "COMPLETED (UTC)", "DURATION", "SIZE", "FULL SIZE", "IN FLIGHT", "RESTORABLE"];
        let rows: Vec<_> = list.checkpoints.iter().map(as_row).collect();
        print!("{}", text::table(&header, &rows));
    }
    for broken in &list.broken {
        eprintln!("warning: `{}` cannot be read: {}", broken.object, broken.reason);
    }
    Ok(ExitCode::SUCCESS)
}

fn as_row(summary: &CheckpointSummary) -> Vec<String> {
    vec![
        summary.checkpoint.to_string(),
        format!("{:?}{}", summary.kind, if summary.unaligned { ", unaligned" } else { "" }),
        text::time_of_ms(summary.completed_at_ms),
        text::duration(summary.duration_ms),
        text::bytes(summary.new_bytes),
        text::bytes(summary.full_bytes),
        if summary.unaligned { text::bytes(summary.in_flight_bytes) } else { String::new() },
        match &summary.restorable {
            Restorable::Yes => "True".to_owned(),
            Restorable::No(faults) => format!("False: {}", faults.join("; ")),
        },
    ]
}

fn as_json(summary: &CheckpointSummary) -> serde_json::Value {
    let faults = match &summary.restorable {
        Restorable::Yes => vec![],
        Restorable::No(faults) => faults.clone(),
    };
    json!({
        "id": summary.checkpoint.0,
        "type": format!("{:?}", summary.kind),
        "completedAtMs": summary.completed_at_ms,
        "durationMs": summary.duration_ms,
        "sizeBytes": summary.new_bytes,
        "fullSizeBytes": summary.full_bytes,
        "unaligned": summary.unaligned,
        "inFlightBytes": summary.in_flight_bytes,
        "restorable": faults.is_empty(),
        "faults": faults,
    })
}
