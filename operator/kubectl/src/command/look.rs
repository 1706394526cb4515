//! Looking.

use std::fmt::Write;

use anyhow::Result;
use weir_api::Operation;
use weir_api::view::RestorePointsView;
use weir_crds::{ByteSize, StreamJob};

use crate::cluster::Cluster;

pub async fn status(cluster: &Cluster, name: &str) -> Result<()> {
    print!("{}", described(&cluster.job(name).await?));
    Ok(())
}

/// The status for people, the worst first.
pub fn described(job: &StreamJob) -> String {
    let mut out = String::new();
    let Some(status) = &job.status else { return "the operator has not seen it yet\n".to_owned() };
    let phase = status.phase.map_or("unknown".to_owned(), |phase| format!("{phase:?}"));
    // Writing into a String cannot fail.
    let _ = writeln!(out, "{phase}, parallelism {}", status.replicas.unwrap_or_default());
    for condition in &status.conditions {
        let text = condition.message.lines().next().unwrap_or_default();
        let _ = writeln!(out, "  {:<22} {:<8} {} {text}", condition.type_, condition.status, condition.reason);
    }
    if let Some(last) = status.checkpoints.as_ref().and_then(|checkpoints| checkpoints.last_completed.as_ref()) {
        let size = ByteSize::from_bytes(last.size).approximate();
        let _ = writeln!(out, "checkpoint {} of {}, {size}, took {}", last.id, last.completed_at.0, last.duration);
    }
    for (what, point) in [("started from", &status.restored_from), ("would start from", &status.next_restore)] {
        if let Some(point) = point {
            let name = point.name.as_ref().or(point.path.as_ref()).cloned().unwrap_or_default();
            let _ = writeln!(out, "{what} {:?} {name}", point.kind);
        }
    }
    if let Some(restarts) = status.restarts.as_ref().filter(|restarts| restarts.count > 0) {
        let why = restarts.last.as_ref().and_then(|last| last.message.clone()).unwrap_or_default();
        let _ = writeln!(out, "{} restarts; the last: {why}", restarts.count);
    }
    for upgrade in &status.upgrades {
        let why = upgrade.message.clone().unwrap_or_default();
        let _ = writeln!(
            out,
            "upgrade {} -> {}: {:?} ({:?}) {why}",
            upgrade.from, upgrade.generation, upgrade.result, upgrade.mode
        );
    }
    out
}

pub async fn checkpoints(cluster: &Cluster, name: &str) -> Result<()> {
    cluster.job(name).await?;
    let points: RestorePointsView = cluster.view(name, Operation::RestorePoints).await?;
    println!("{:>10}  {:>10}  {:>10}  {:>9}  RESTORABLE", "ID", "NEW", "FULL", "DURATION");
    for point in points.checkpoints.iter().rev() {
        let size = |bytes| ByteSize::from_bytes(bytes).approximate();
        let restorable = match point.faults.first() {
            None => "yes".to_owned(),
            Some(fault) => format!("no: {fault}"),
        };
        let (new, full) = (size(point.new_bytes), size(point.full_bytes));
        println!("{:>10}  {new:>10}  {full:>10}  {:>6} ms  {restorable}", point.id, point.duration_ms);
    }
    for broken in &points.broken {
        println!("cannot be read: {broken}");
    }
    println!("would start from {}", points.next.as_deref().unwrap_or("nothing"));
    Ok(())
}
