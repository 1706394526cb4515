//! The workers: a StatefulSet, so that each keeps its name and, with a storage class, its disk. Pods of an older
//! template are replaced by the operator, all at once, while nothing runs: one by one would make a restart of each.

use serde_json::{Value, json};

use super::pod::{
    Draft, Liveness, SCRATCH, SCRATCH_VOLUME, Scratch, TLS_FOLDER, certificates, template, without_nulls,
};
use super::{BuildError, Object, ObjectKind, Parts};
use crate::names::{self, CONTROL_PORT, DATA_PORT, HEALTH_PORT, MADE_FROM_ANNOTATION, WORKER};
use crate::spec_hash::hash;

/// A worker that is told to go goes at once: its last checkpoint is the coordinator's to take.
const GRACE_SECONDS: u64 = 10;
/// It looks through its local copies before it answers.
const START_SECONDS: u64 = 120;

/// The set, and what it is made from, as a hash.
pub(super) fn stateful_set(parts: &Parts<'_>, replicas: u32) -> Result<(String, Object), BuildError> {
    let pods = parts.spec.pods.as_ref().and_then(|pods| pods.workers.as_ref());
    let disk = pods.and_then(|pods| pods.local_storage.as_ref());
    let class = disk.and_then(|disk| disk.storage_class_name.as_ref());
    let size = disk.map(|disk| disk.size.to_string());
    let (tls_volume, tls_mount) = certificates(parts);
    let template = template(
        parts,
        Draft {
            component: WORKER,
            annotations: json!({}),
            arguments: arguments(parts),
            ports: json!([
                {"name": "data", "containerPort": DATA_PORT},
                {"name": "health", "containerPort": HEALTH_PORT},
            ]),
            readiness: json!({"tcpSocket": {"port": "data"}, "periodSeconds": 5}),
            liveness: Liveness { scheme: "HTTP", port: "health", start_seconds: START_SECONDS },
            resources: pods.and_then(|pods| pods.resources.as_ref()),
            restart_policy: "Always",
            grace_period_seconds: GRACE_SECONDS,
            scratch: if class.is_some() { Scratch::Claim } else { Scratch::EmptyDir { size: size.clone() } },
            volumes: vec![tls_volume],
            mounts: vec![tls_mount],
            template: pods.and_then(|pods| pods.template.as_ref()),
            template_field: "spec.pods.workers.template",
        },
    )?;
    let claims = class.map(|class| {
        json!([{
            "metadata": {"name": SCRATCH_VOLUME, "labels": names::labels(parts.name())},
            "spec": {
                "accessModes": ["ReadWriteOnce"], "storageClassName": class,
                "resources": {"requests": {"storage": size}},
            },
        }])
    });
    let name = names::workers(parts.name());
    let mut value = without_nulls(json!({
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": parts.metadata(name.clone()),
        "spec": {
            "replicas": replicas,
            "serviceName": name,
            "podManagementPolicy": "Parallel",
            "updateStrategy": {"type": "OnDelete"},
            "selector": {"matchLabels": names::selector(parts.name(), WORKER)},
            "template": template,
            "volumeClaimTemplates": claims,
            "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Delete", "whenScaled": "Retain"},
        },
    }));
    let mut made_from = value.clone();
    made_from["spec"]["replicas"] = Value::Null;
    let made_from = hash(&made_from);
    value["metadata"]["annotations"] = json!({MADE_FROM_ANNOTATION: made_from});
    Ok((made_from, Object { kind: ObjectKind::StatefulSet, name, value }))
}

fn arguments(parts: &Parts<'_>) -> Vec<String> {
    let coordinator = format!("{}.{}.svc:{CONTROL_PORT}", names::coordinator(parts.name()), parts.namespace());
    [
        "worker",
        "--coordinator",
        &coordinator,
        "--tls-dir",
        TLS_FOLDER,
        // With a storage class it outlives the pod, and so do the copies of checkpoints for local recovery.
        "--local-dir",
        &format!("{SCRATCH}/local"),
        "--slots",
        &parts.spec.worker_slots().to_string(),
        "--listen",
        &format!("0.0.0.0:{DATA_PORT}"),
        "--advertise",
        &format!("$(POD_IP):{DATA_PORT}"),
        // One that ends with its job is started again by the kubelet, ever later: the fifth upgrade would wait for minutes.
        "--stay",
        "--health",
        &format!("0.0.0.0:{HEALTH_PORT}"),
    ]
    .map(str::to_owned)
    .into()
}
