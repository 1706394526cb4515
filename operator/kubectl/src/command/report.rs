//! What a bug report needs, in one file, without credentials.

use std::path::PathBuf;

use anyhow::{Context, Result};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::ResourceExt;
use kube::api::{ListParams, LogParams};
use serde_json::Value;
use weir_api::Operation;
use weir_crds::{Checkpoint, Savepoint};
use weir_operator::names::JOB_LABEL;

use super::look::described;
use crate::cluster::Cluster;
use crate::redact::{redacted, redacted_text};

/// Of each pod's log.
const LOG_LINES: i64 = 500;
const ASKED: [Operation; 6] = [
    Operation::Job,
    Operation::Graph,
    Operation::Subtasks,
    Operation::Checkpoints,
    Operation::RestorePoints,
    Operation::Metrics,
];

pub async fn report(cluster: &Cluster, name: &str, output: Option<PathBuf>) -> Result<()> {
    let job = cluster.job(name).await?;
    let mut report = Report::default();
    report.section("kubectl weir", env!("CARGO_PKG_VERSION"));
    report.section("status", &described(&job));
    report.object("streamjob", serde_json::to_value(&job)?);
    let own = ListParams::default().labels(&format!("{JOB_LABEL}={name}"));
    let pods = cluster.api::<Pod>().list(&own).await.context("pods")?;
    for set in cluster.api::<StatefulSet>().list(&own).await.context("statefulsets")? {
        report.object("statefulset", serde_json::to_value(&set)?);
    }
    for pod in &pods {
        report.object("pod", serde_json::to_value(pod)?);
    }
    for checkpoint in cluster.api::<Checkpoint>().list(&own).await.context("checkpoints")? {
        report.object("checkpoint", serde_json::to_value(&checkpoint)?);
    }
    let savepoints = cluster.api::<Savepoint>().list(&ListParams::default()).await.context("savepoints")?;
    for savepoint in savepoints.into_iter().filter(|savepoint| savepoint.spec.job == name) {
        report.object("savepoint", serde_json::to_value(&savepoint)?);
    }
    let events = cluster.api::<Event>().list(&ListParams::default()).await.context("events")?;
    let is_about = |event: &&Event| event.involved_object.name.as_deref().is_some_and(|about| about.starts_with(name));
    for event in events.iter().filter(is_about) {
        let (reason, message) = (event.reason.as_deref(), event.message.as_deref());
        let about = event.involved_object.name.as_deref().unwrap_or_default();
        report.section("event", &format!("{about} {}: {}", reason.unwrap_or_default(), message.unwrap_or_default()));
    }
    for operation in ASKED {
        let said = cluster.ask(name, operation, None).await;
        report.section(operation.path(), &said.unwrap_or_else(|error| format!("no answer: {error:#}")));
    }
    for pod in &pods {
        let pod = pod.name_any();
        for previous in [false, true] {
            let parameters = LogParams { tail_lines: Some(LOG_LINES), previous, ..LogParams::default() };
            if let Ok(log) = cluster.api::<Pod>().logs(&pod, &parameters).await {
                report.section(&format!("log of {pod}{}", if previous { ", before" } else { "" }), &log);
            }
        }
    }
    let output = output.unwrap_or_else(|| PathBuf::from(format!("weir-report-{name}.txt")));
    std::fs::write(&output, report.text).with_context(|| output.display().to_string())?;
    println!("{}: look through it before you send it", output.display());
    Ok(())
}

#[derive(Default)]
struct Report {
    text: String,
}

impl Report {
    fn section(&mut self, title: &str, text: &str) {
        self.text += &format!("==== {title}\n{}\n", redacted_text(text.trim_end()));
    }

    fn object(&mut self, kind: &str, object: Value) {
        let text = serde_yaml::to_string(&redacted(object)).unwrap_or_default();
        self.section(kind, &text);
    }
}
