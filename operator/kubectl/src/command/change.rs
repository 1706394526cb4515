//! Changing: always a resource, so that it is the operator who acts, and whoever looks can see what was asked for.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use weir_crds::streamjob::ApprovalMode;
use weir_crds::{Savepoint, SavepointPhase, SavepointSpec, StreamJob, StreamJobSpec};
use weir_operator::names::{self, APPROVE_ANNOTATION, RESTART_ANNOTATION};

use crate::cluster::Cluster;

const FIELD_MANAGER: &str = "kubectl-weir";
/// How long a savepoint is waited for; it goes on without anybody who waits.
const SAVEPOINT_PATIENCE: Duration = Duration::from_secs(600);
const POLL_INTERVAL: Duration = Duration::from_millis(500);

pub async fn savepoint(cluster: &Cluster, job: &str, name: Option<String>, to: Option<String>) -> Result<()> {
    cluster.job(job).await?;
    let name = name.unwrap_or_else(|| format!("{job}-{}", Timestamp::now().strftime("%Y%m%d-%H%M%S")));
    let spec = SavepointSpec { job: job.to_owned(), trigger: None, path: to, on_delete: None };
    let api = cluster.api::<Savepoint>();
    api.create(&PostParams::default(), &Savepoint::new(&name, spec)).await.context("the Savepoint")?;
    eprintln!("savepoint/{name} is asked for");
    let started = Instant::now();
    let mut said = String::new();
    while started.elapsed() < SAVEPOINT_PATIENCE {
        let status = api.get(&name).await?.status.unwrap_or_default();
        match status.phase {
            Some(SavepointPhase::Completed) => {
                println!("{}", status.path.unwrap_or_default());
                return Ok(());
            }
            Some(SavepointPhase::Failed) => bail!(status.message.unwrap_or_else(|| "it failed".to_owned())),
            _ => {}
        }
        if let Some(why) = status.message.filter(|why| *why != said) {
            eprintln!("it waits: {why}");
            said = why;
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    bail!("it is not complete after {} s; look at savepoint/{name} later", SAVEPOINT_PATIENCE.as_secs())
}

pub async fn rescale(cluster: &Cluster, job: &str, parallelism: u32) -> Result<()> {
    patch(cluster, job, json!({"spec": {"parallelism": parallelism}})).await?;
    println!("streamjob/{job} is to run with parallelism {parallelism}");
    Ok(())
}

pub async fn state(cluster: &Cluster, job: &str, state: &str) -> Result<()> {
    patch(cluster, job, json!({"spec": {"state": state}})).await?;
    println!("streamjob/{job} is to be {state}");
    Ok(())
}

pub async fn restart(cluster: &Cluster, job: &str) -> Result<()> {
    annotate(cluster, job, RESTART_ANNOTATION, &Timestamp::now().to_string()).await?;
    println!("streamjob/{job} is to be restarted");
    Ok(())
}

pub async fn approve(cluster: &Cluster, name: &str) -> Result<()> {
    let job = cluster.job(name).await?;
    if job.spec.upgrade().approval != Some(ApprovalMode::Manual) {
        bail!("nothing waits for an approval: spec.upgrade.approval is not Manual");
    }
    let generation = job.metadata.generation.unwrap_or_default();
    annotate(cluster, name, APPROVE_ANNOTATION, &generation.to_string()).await?;
    println!("streamjob/{name}: generation {generation} is approved");
    Ok(())
}

/// What a job is set back to.
pub enum Point {
    /// A resource's name, or an address.
    Savepoint(String),
    /// The number of one of its own.
    Checkpoint(u64),
}

pub async fn restore(cluster: &Cluster, name: &str, point: &Point) -> Result<()> {
    let job = cluster.job(name).await?;
    let (field, named) = match point {
        Point::Savepoint(uri) if uri.contains("://") => ("path", uri.clone()),
        Point::Savepoint(savepoint) => {
            let found = cluster.api::<Savepoint>().get(savepoint).await;
            let status = found.with_context(|| format!("savepoint/{savepoint}"))?.status.unwrap_or_default();
            if status.phase != Some(SavepointPhase::Completed) {
                bail!("savepoint/{savepoint} is not complete: {}", status.message.unwrap_or_default());
            }
            ("savepoint", savepoint.clone())
        }
        Point::Checkpoint(id) => ("checkpoint", names::checkpoint(name, *id)),
    };
    let mut from = json!({"latest": null, "checkpoint": null, "savepoint": null, "path": null});
    from[field] = json!(named);
    let nonce = job.spec.restore.and_then(|restore| restore.nonce).unwrap_or_default() + 1;
    patch(cluster, name, json!({"spec": {"restore": {"from": from, "nonce": nonce}}})).await?;
    println!("streamjob/{name} is to be set back to {named}");
    Ok(())
}

/// The spec that was verified before the one that runs becomes the spec again; the operator upgrades to it.
pub async fn rollback(cluster: &Cluster, name: &str) -> Result<()> {
    let job = cluster.job(name).await?;
    let run = job.status.as_ref().and_then(|status| status.run.as_ref());
    let before = run.and_then(|run| run.fallback.clone());
    let before = before.ok_or_else(|| anyhow!("no version before the one that runs was ever good"))?;
    let map = cluster.api::<ConfigMap>().get(&names::spec(name, before.generation)).await;
    let map = map.with_context(|| format!("the spec of generation {}", before.generation))?;
    let text = map.data.and_then(|mut data| data.remove("job.yaml")).context("it has no job.yaml")?;
    let stored: StreamJob = serde_yaml::from_str(&text).context("it cannot be read")?;
    // Of the spec that was looked at: the status may change meanwhile, and does all the time.
    let replaced = json!([
        {"op": "test", "path": "/metadata/generation", "value": job.metadata.generation},
        {"op": "replace", "path": "/spec", "value": back(&job.spec, stored.spec)},
    ]);
    let patch = Patch::<StreamJob>::Json(serde_json::from_value(replaced)?);
    let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    let answer = cluster.api::<StreamJob>().patch(name, &parameters, &patch).await;
    answer.context("the StreamJob (if its spec was changed meanwhile, look at it and try again)")?;
    println!("streamjob/{name} is to go back to generation {}", before.generation);
    Ok(())
}

/// What a rollback does not touch: where the job first began, and whether it stands still.
fn back(current: &StreamJobSpec, stored: StreamJobSpec) -> StreamJobSpec {
    StreamJobSpec { restore: current.restore.clone(), state: current.state, ..stored }
}

async fn annotate(cluster: &Cluster, job: &str, annotation: &str, value: &str) -> Result<()> {
    patch(cluster, job, json!({"metadata": {"annotations": {annotation: value}}})).await
}

async fn patch(cluster: &Cluster, job: &str, patch: Value) -> Result<()> {
    let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    cluster.job(job).await?;
    cluster.api::<StreamJob>().patch(job, &parameters, &Patch::Merge(patch)).await.context("the StreamJob")?;
    Ok(())
}
