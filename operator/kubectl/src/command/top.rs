//! What each step of a running job does, as a table: now, and again for as long as one looks.

use std::fmt::Write;
use std::time::Duration;

use anyhow::Result;
use k8s_openapi::jiff::Timestamp;
use weir_api::Operation;
use weir_api::view::{JobView, OperatorFigures, SubtasksView, TaskSubtasks};

use crate::cluster::Cluster;

/// The cursor to the first line, and nothing below it.
const CLEAR: &str = "\u{1b}[H\u{1b}[2J";

/// `every`: look again so often, until it is interrupted.
pub async fn top(cluster: &Cluster, name: &str, every: Option<Duration>) -> Result<()> {
    cluster.job(name).await?;
    loop {
        let job: JobView = cluster.view(name, Operation::Job).await?;
        let subtasks: SubtasksView = cluster.view(name, Operation::Subtasks).await?;
        let text = shown(&job, &subtasks);
        let Some(every) = every else {
            print!("{text}");
            return Ok(());
        };
        print!("{CLEAR}{text}");
        tokio::time::sleep(every).await;
    }
}

fn shown(job: &JobView, subtasks: &SubtasksView) -> String {
    let mut out = String::new();
    // Writing into a String cannot fail.
    let _ = writeln!(
        out,
        "{:?}, parallelism {}, {} workers, {} restarts, {} checkpoints",
        job.phase,
        job.parallelism,
        job.workers.len(),
        job.restarts.count,
        job.checkpoints.completed
    );
    let _ = writeln!(
        out,
        "{:<40}  {:>8}  {:>10}  {:>10}  {:>5}  {:>13}  {:<20}  NOTES",
        "OPERATOR", "SUBTASKS", "IN/S", "OUT/S", "BUSY", "BACKPRESSURED", "WATERMARK"
    );
    for task in &subtasks.tasks {
        rows(task, &mut out);
    }
    out
}

/// A row for each operator of the chain; how busy the chain is stands in the first.
fn rows(task: &TaskSubtasks, out: &mut String) {
    // The busiest subtask tells more than a mean that hides it.
    let busy = task.subtasks.iter().map(|one| one.time.busy).fold(0.0, f64::max);
    let backpressured = task.subtasks.iter().map(|one| one.time.backpressured).fold(0.0, f64::max);
    let operators = task.subtasks.first().map_or(0, |first| first.operators.len());
    for index in 0..operators {
        let each: Vec<&OperatorFigures> = task.subtasks.iter().filter_map(|one| one.operators.get(index)).collect();
        let Some(first) = each.first() else { continue };
        let name = if index == 0 { first.uid.clone() } else { format!("  {}", first.uid) };
        let shares = match index {
            0 => (percent(busy), percent(backpressured)),
            _ => (String::new(), String::new()),
        };
        let records_in: f64 = each.iter().map(|one| one.records_in_per_second).sum();
        let records_out: f64 = each.iter().map(|one| one.records_out_per_second).sum();
        let row = format!(
            "{name:<40}  {:>8}  {records_in:>10.0}  {records_out:>10.0}  {:>5}  {:>13}  {:<20}  {}",
            each.len(),
            shares.0,
            shares.1,
            watermark(&each),
            notes(&each)
        );
        let _ = writeln!(out, "{}", row.trim_end());
    }
}

fn percent(share: f64) -> String {
    format!("{:.0}%", share * 100.0)
}

/// The least of the subtasks that have not come to their end: what operators behind them see.
fn watermark(each: &[&OperatorFigures]) -> String {
    let running: Vec<_> = each.iter().filter(|one| !one.is_at_end).collect();
    if running.is_empty() {
        return "end".to_owned();
    }
    let least = running.iter().map(|one| one.watermark_us).min().flatten();
    match least.map(Timestamp::from_microsecond) {
        Some(Ok(time)) => time.to_string(),
        Some(Err(_)) | None => "-".to_owned(),
    }
}

fn notes(each: &[&OperatorFigures]) -> String {
    let late: u64 = each.iter().map(|one| one.late_records).sum();
    let bad: u64 = each.iter().map(|one| one.bad_records).sum();
    let pending: Option<u64> = each.iter().filter_map(|one| one.pending_records).reduce(u64::saturating_add);
    let all = [
        (late > 0).then(|| format!("{late} late")),
        (bad > 0).then(|| format!("{bad} bad")),
        pending.map(|pending| format!("{pending} to read")),
    ];
    all.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn figures(uid: &str, rate: f64, changes: Value) -> Value {
        let mut all = json!({
            "uid": uid, "recordsIn": 0, "recordsOut": 0, "recordsInPerSecond": rate, "recordsOutPerSecond": rate,
            "lateRecords": 0, "badRecords": 0,
        });
        for (key, value) in changes.as_object().into_iter().flatten() {
            all[key] = value.clone();
        }
        all
    }

    #[test]
    fn steps_are_summed_over_subtasks_and_shares_are_the_busiest_ones() {
        let subtask = |index: u32, busy: f64, watermark_us: i64| {
            let time = json!({"busy": busy, "idle": 1.0 - busy, "backpressured": 0.0});
            let operators = [
                figures("clicks", 100.0, json!({"watermarkUs": watermark_us, "pendingRecords": 7})),
                figures("clicks/filter", 50.0, json!({"isAtEnd": true, "lateRecords": 2})),
            ];
            json!({"index": index, "time": time, "operators": operators, "bytesIn": 0, "bytesOut": 0})
        };
        let task = json!({"task": "clicks", "subtasks": [subtask(0, 0.25, 2_000_000), subtask(1, 0.75, 1_000_000)]});
        let task: TaskSubtasks = serde_json::from_value(task).unwrap();
        let mut out = String::new();
        rows(&task, &mut out);
        let words: Vec<Vec<&str>> = out.lines().map(|line| line.split_whitespace().collect()).collect();
        let first = ["clicks", "2", "200", "200", "75%", "0%", "1970-01-01T00:00:01Z", "14", "to", "read"];
        assert_eq!(words[0], first);
        assert_eq!(words[1], ["clicks/filter", "2", "100", "100", "end", "4", "late"]);
    }
}
