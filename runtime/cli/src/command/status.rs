use crate::running_job::RunningJob;
use crate::text;
use anyhow::Result;
use clap::Args;
use std::fmt::Write;
use std::process::ExitCode;
use std::sync::Arc;
use weir_api::view::{CheckpointView, CheckpointsView, JobView, SubtasksView, TaskSubtasks};
use weir_node::Registry;

/// Longest reason that is shown on one line.
const REASON_CHARS: usize = 300;

#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    job: RunningJob,
    #[arg(long, default_value = "table", value_parser = ["table", "json"])]
    output: String,
}

pub(crate) fn run(arguments: &Arguments, registry: Arc<Registry>) -> Result<ExitCode> {
    let connection = arguments.job.connect(registry)?;
    let job = connection.ask(connection.client.job())?;
    if arguments.output == "json" {
        println!("{}", serde_json::to_string_pretty(&job)?);
        return Ok(ExitCode::SUCCESS);
    }
    let subtasks = connection.ask(connection.client.subtasks())?;
    let checkpoints = connection.ask(connection.client.checkpoints())?;
    print!("{}{}{}", summary(&job), tasks(&subtasks), progress(&checkpoints));
    Ok(ExitCode::SUCCESS)
}

fn summary(job: &JobView) -> String {
    let mut out = String::new();
    let uptime = job.uptime_ms.map(|ms| format!(" for {}", text::long_duration(ms))).unwrap_or_default();
    let mut line = |name: &str, value: String| writeln!(out, "{name:<14}{value}").ok();
    line("job", format!("{} (epoch {}, attempt {})", job.name, job.epoch, job.attempt));
    line("phase", format!("{:?}{uptime}", job.phase));
    if let Some(waits_for) = &job.waits_for {
        line("waits", format!("has {waits_for}"));
    }
    if let Some(outcome) = &job.outcome {
        line("outcome", outcome.clone());
    }
    line(
        "parallelism",
        format!("{} of at most {}, {} workers", job.parallelism, job.max_parallelism, job.workers.len()),
    );
    line("started from", job.restored_from.clone().unwrap_or_else(|| "nothing".to_owned()));
    let counts = &job.checkpoints;
    line("checkpoints", format!("{} completed, {} failed", counts.completed, counts.failed));
    if let Some(last) = &counts.last_completed {
        line("last", completed(last));
    }
    if let Some(failed) = counts.last_failed.as_ref().filter(|_| counts.failed_in_a_row > 0) {
        let reason = failed.failure.as_deref().unwrap_or("for an unknown reason");
        line(
            "failing",
            format!("{} in a row; {}: {}", counts.failed_in_a_row, failed.id, text::shortened(reason, REASON_CHARS)),
        );
    }
    line("restarts", job.restarts.count.to_string());
    for counted in job.restarts.reasons.iter().take(3) {
        line("", format!("{} times: {}", counted.count, text::shortened(&counted.reason, REASON_CHARS)));
    }
    line("storage", job.storage.clone());
    out
}

fn completed(last: &CheckpointView) -> String {
    format!(
        "{} at {} UTC in {}, {} new of {}{}",
        last.id,
        text::time_of_ms(last.triggered_at_ms + last.duration_ms),
        text::duration(last.duration_ms),
        text::bytes(last.new_bytes),
        text::bytes(last.full_bytes),
        text::unaligned(last.is_unaligned, last.in_flight_bytes)
    )
}

fn tasks(subtasks: &SubtasksView) -> String {
    let header = ["OPERATOR", "SUBTASKS", "IN", "OUT", "RATE", "BUSY", "IDLE", "BACKPRESSURED", "WATERMARK"];
    let rows: Vec<_> = subtasks.tasks.iter().flat_map(rows).collect();
    if rows.is_empty() { String::new() } else { format!("\n{}", text::table(&header, &rows)) }
}

/// A row for each operator; what the whole chain does stands in its first.
fn rows(task: &TaskSubtasks) -> Vec<Vec<String>> {
    let operators = task.subtasks.first().map_or(0, |subtask| subtask.operators.len());
    let row = |index: usize| {
        let each = || task.subtasks.iter().filter_map(|subtask| subtask.operators.get(index));
        let first = each().next()?;
        let (records_in, records_out) =
            (each().map(|one| one.records_in).sum::<u64>(), each().map(|one| one.records_out).sum::<u64>());
        let per_second = each().map(|one| one.records_in_per_second.max(one.records_out_per_second)).sum();
        let share = |of: fn(&weir_api::view::TimeShares) -> f64| match index {
            0 => text::percent(task.subtasks.iter().map(|subtask| of(&subtask.time)).fold(0.0, f64::max)),
            _ => String::new(),
        };
        // The least of the subtasks', as the operators behind it see it.
        let watermark = match each().map(|one| one.watermark_us).min().flatten() {
            Some(watermark_us) => text::event_time(watermark_us),
            None if each().all(|one| one.is_at_end) => "end".to_owned(),
            None => String::new(),
        };
        let name = if index == 0 { first.uid.clone() } else { format!("  {}", first.uid) };
        Some(vec![
            name,
            if index == 0 { task.subtasks.len().to_string() } else { String::new() },
            text::count(records_in),
            text::count(records_out),
            text::rate(per_second),
            share(|time| time.busy),
            share(|time| time.idle),
            share(|time| time.backpressured),
            watermark,
        ])
    };
    (0..operators).filter_map(row).collect()
}

fn progress(checkpoints: &CheckpointsView) -> String {
    let mut out = String::new();
    for under_way in &checkpoints.under_way {
        let (turning, done) = (text::turning_unaligned(under_way), under_way.acknowledged);
        write!(out, "\ncheckpoint {}{turning}: {done} of {} subtasks", under_way.id, under_way.subtasks).ok();
        let named = under_way.held_up_by.iter().map(|held| format!("{}[{}] {:?}", held.task, held.subtask, held.why));
        let named: Vec<_> = named.collect();
        if !named.is_empty() {
            write!(out, "; held up by {}", named.join(", ")).ok();
        }
        out.push('\n');
    }
    out
}
