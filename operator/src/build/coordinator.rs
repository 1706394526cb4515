//! The coordinator's pod. It has one name for all runs, so that there can be only one; the commit log fences whatever
//! a lost node may still run. The kubelet starts a crashed one again by itself; one that ended for good says so.

use serde_json::{Value, json};
use weir_crds::streamjob::BeginningFrom;

use super::pod::{
    Draft, JOB_FOLDER, Liveness, Scratch, TLS_FOLDER, TOKEN_FOLDER, certificates, job_file, template, without_nulls,
};
use super::{BuildError, Parts, SPEC_KEY};
use crate::names::{
    self, CONTROL_PORT, COORDINATOR, HTTPS_PORT, LAYOUT, LAYOUT_ANNOTATION, RESTART_ANNOTATION, RUN_ANNOTATION,
};

/// A stop takes a last checkpoint: at least so long, at most the checkpoint timeout or this.
const GRACE_SECONDS: (u64, u64) = (30, 600);
/// It reads the storage, and asks what the job connects to, before it answers.
const START_SECONDS: u64 = 300;

pub(super) fn pod(parts: &Parts<'_>) -> Result<Value, BuildError> {
    let pods = parts.spec.pods.as_ref().and_then(|pods| pods.coordinator.as_ref());
    let timeout = parts.spec.checkpoint.as_ref().map_or(0, |policy| policy.timeout().as_secs());
    let restart = parts.job.metadata.annotations.as_ref().and_then(|all| all.get(RESTART_ANNOTATION));
    let (job_volume, job_mount) = job_file(parts);
    let (tls_volume, tls_mount) = certificates(parts);
    let token_volume = json!({"name": "token", "secret": {"secretName": names::token(parts.name())}});
    let template = template(
        parts,
        Draft {
            component: COORDINATOR,
            annotations: without_nulls(json!({
                RUN_ANNOTATION: parts.run.number.to_string(),
                RESTART_ANNOTATION: restart,
                LAYOUT_ANNOTATION: LAYOUT,
            })),
            arguments: arguments(parts),
            ports: json!([
                {"name": "control", "containerPort": CONTROL_PORT},
                {"name": "https", "containerPort": HTTPS_PORT},
            ]),
            readiness: json!({"tcpSocket": {"port": "control"}, "periodSeconds": 5}),
            liveness: Liveness { scheme: "HTTPS", port: "https", start_seconds: START_SECONDS },
            resources: pods.and_then(|pods| pods.resources.as_ref()),
            restart_policy: "OnFailure",
            grace_period_seconds: timeout.clamp(GRACE_SECONDS.0, GRACE_SECONDS.1),
            scratch: Scratch::EmptyDir { size: None },
            volumes: vec![job_volume, token_volume, tls_volume],
            mounts: vec![job_mount, json!({"name": "token", "mountPath": TOKEN_FOLDER, "readOnly": true}), tls_mount],
            template: pods.and_then(|pods| pods.template.as_ref()),
            template_field: "spec.pods.coordinator.template",
        },
    )?;
    let mut metadata = serde_json::to_value(template.metadata).unwrap_or_default();
    if let (Some(fields), Value::Object(own)) =
        (metadata.as_object_mut(), parts.metadata(names::coordinator(parts.name())))
    {
        for (key, value) in own {
            if key != "labels" {
                fields.insert(key, value);
            }
        }
    }
    Ok(without_nulls(json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template.spec})))
}

fn arguments(parts: &Parts<'_>) -> Vec<String> {
    let all = [
        "coordinator",
        &format!("{JOB_FOLDER}/{SPEC_KEY}"),
        "--listen",
        &format!("0.0.0.0:{CONTROL_PORT}"),
        "--tls-dir",
        TLS_FOLDER,
        "--workers",
        &parts.workers_needed().to_string(),
        "--http",
        &format!("0.0.0.0:{HTTPS_PORT}"),
        "--http-token-file",
        &format!("{TOKEN_FOLDER}/token"),
        "--outcome",
        "/dev/termination-log",
        "--quiet",
    ];
    let beginning = parts.run.beginning.iter().flat_map(|beginning| {
        let from = match beginning.from {
            BeginningFrom::Nothing => Some("none".to_owned()),
            BeginningFrom::Checkpoint => beginning.checkpoint.map(|id| id.to_string()),
            BeginningFrom::Spec => None,
        };
        let from = from.map(|from| format!("--from={from}"));
        from.into_iter().chain([format!("--once={}", beginning.once)])
    });
    let metrics = parts.settings.open_metrics.then_some("--http-open-metrics");
    all.into_iter().chain(metrics).map(str::to_owned).chain(beginning).collect()
}
