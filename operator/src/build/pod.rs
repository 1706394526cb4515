//! What the pods of coordinator and workers have in common.

use std::collections::BTreeSet;

use k8s_openapi::DeepMerge;
use k8s_openapi::api::core::v1::{PodTemplateSpec, Toleration};
use serde_json::{Value, json};
use weir_crds::StreamJobSpec;
use weir_crds::streamjob::Resources;

use super::{BuildError, Parts, SPEC_KEY};
use crate::names::{self, CONTAINER};

/// Neither root nor anyone that an image knows.
const USER: i64 = 65532;
pub(super) const JOB_FOLDER: &str = "/etc/weir/job";
const SECRETS_FOLDER: &str = "/etc/weir/secrets";
pub(super) const TOKEN_FOLDER: &str = "/etc/weir/token";
pub(super) const TLS_FOLDER: &str = "/etc/weir/tls";
/// Of the files with a key: for the pod's own group.
const KEY_FILE_MODE: u32 = 0o440;
/// Files that a pod may lose.
pub(super) const SCRATCH: &str = "/var/weir";

/// One component's pod, before the user's templates.
pub(super) struct Draft<'a> {
    pub component: &'static str,
    pub annotations: Value,
    pub arguments: Vec<String>,
    pub ports: Value,
    pub readiness: Value,
    /// Probes that end a process which no longer answers.
    pub liveness: Liveness,
    pub resources: Option<&'a Resources>,
    pub restart_policy: &'static str,
    pub grace_period_seconds: u64,
    /// Where state and scratch files go: an emptyDir, or a claim of that name.
    pub scratch: Scratch,
    pub volumes: Vec<Value>,
    pub mounts: Vec<Value>,
    pub template: Option<&'a Value>,
    pub template_field: &'static str,
}

/// A process that hangs keeps its connections and answers nobody: the kubelet has to end it.
pub(super) struct Liveness {
    /// `HTTP`, or `HTTPS`, whose certificate the kubelet doesn't look at.
    pub scheme: &'static str,
    /// The name of the port that answers `GET /healthz`.
    pub port: &'static str,
    /// How long a process may take until it answers for the first time.
    pub start_seconds: u64,
}

/// One probe in so many seconds, answered within so many, and so many that fail until the process is ended, by force: it
/// would not hear anything else.
const PROBE_PERIOD_S: u64 = 10;
const PROBE_TIMEOUT_S: u64 = 5;
const PROBE_FAILURES: u64 = 3;
const PROBE_GRACE_S: u64 = 5;

impl Liveness {
    fn startup(&self) -> Value {
        json!({
            "httpGet": self.request(), "periodSeconds": PROBE_TIMEOUT_S,
            "timeoutSeconds": PROBE_TIMEOUT_S, "failureThreshold": self.start_seconds.div_ceil(PROBE_TIMEOUT_S),
        })
    }

    fn liveness(&self) -> Value {
        json!({
            "httpGet": self.request(), "periodSeconds": PROBE_PERIOD_S,
            "timeoutSeconds": PROBE_TIMEOUT_S, "failureThreshold": PROBE_FAILURES,
            "terminationGracePeriodSeconds": PROBE_GRACE_S,
        })
    }

    fn request(&self) -> Value {
        json!({"scheme": self.scheme, "path": "/healthz", "port": self.port})
    }
}

/// How long pods stay on a node that has gone silent: it may only have been restarted, and local copies of state with it.
const LOST_NODE_S: i64 = 30;
const NO_EXECUTE: &str = "NoExecute";

pub(super) enum Scratch {
    EmptyDir { size: Option<String> },
    Claim,
}

/// The volume with scratch files, also of a claim.
pub(super) const SCRATCH_VOLUME: &str = "scratch";

pub(super) fn template(parts: &Parts<'_>, draft: Draft<'_>) -> Result<PodTemplateSpec, BuildError> {
    let Draft {
        component,
        annotations,
        arguments,
        ports,
        readiness,
        liveness,
        resources,
        restart_policy,
        grace_period_seconds,
        scratch,
        volumes: own_volumes,
        mounts: own_mounts,
        template: own_template,
        template_field,
    } = draft;
    let secrets = secrets(parts.spec);
    let mut volumes = vec![json!({"name": "tmp", "emptyDir": {}})];
    if let Scratch::EmptyDir { size } = scratch {
        volumes.push(json!({"name": SCRATCH_VOLUME, "emptyDir": {"sizeLimit": size}}));
    }
    let mut mounts =
        vec![json!({"name": "tmp", "mountPath": "/tmp"}), json!({"name": SCRATCH_VOLUME, "mountPath": SCRATCH})];
    for (index, secret) in secrets.iter().enumerate() {
        let name = format!("secret-{index}");
        volumes.push(json!({"name": name, "secret": {"secretName": secret}}));
        mounts.push(json!({"name": name, "mountPath": format!("{SECRETS_FOLDER}/{secret}"), "readOnly": true}));
    }
    volumes.extend(own_volumes);
    mounts.extend(own_mounts);
    let pod = json!({
        "metadata": {"labels": names::pod_labels(parts.name(), component), "annotations": annotations},
        "spec": {
            "restartPolicy": restart_policy,
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "terminationGracePeriodSeconds": grace_period_seconds,
            "securityContext": {
                "runAsNonRoot": true, "runAsUser": USER, "runAsGroup": USER, "fsGroup": USER,
                "fsGroupChangePolicy": "OnRootMismatch", "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [{
                "name": CONTAINER,
                "image": parts.image(),
                "imagePullPolicy": parts.settings.image_pull_policy,
                "args": arguments,
                "env": [
                    {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                    {"name": "TMPDIR", "value": SCRATCH},
                    {"name": "WEIR_SECRETS_DIR", "value": SECRETS_FOLDER},
                ],
                "ports": ports,
                "readinessProbe": readiness,
                "startupProbe": liveness.startup(),
                "livenessProbe": liveness.liveness(),
                "resources": resources,
                "securityContext": {
                    "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                    "capabilities": {"drop": ["ALL"]},
                },
                "terminationMessagePolicy": "FallbackToLogsOnError",
                "volumeMounts": mounts,
            }],
            "volumes": volumes,
        },
    });
    let shape = |error: serde_json::Error| BuildError::Shape { name: component.to_owned(), reason: error.to_string() };
    let mut template: PodTemplateSpec = serde_json::from_value(without_nulls(pod)).map_err(shape)?;
    let common = parts.spec.pods.as_ref().and_then(|pods| pods.template.as_ref());
    let own = own_template.map(|own| (template_field, own));
    for (field, patch) in common.map(|patch| ("spec.pods.template", patch)).into_iter().chain(own) {
        template.merge_from(parsed(field, patch)?);
    }
    leave_lost_nodes(&mut template);
    Ok(template)
}

/// Taints of a node that has gone silent. Where the user's template says nothing of them, Kubernetes would leave the
/// pods there for five minutes.
fn leave_lost_nodes(template: &mut PodTemplateSpec) {
    let tolerations = template.spec.get_or_insert_default().tolerations.get_or_insert_default();
    for taint in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let is_about_it = |one: &Toleration| {
            let is_effect = one.effect.as_deref().is_none_or(|effect| effect.is_empty() || effect == NO_EXECUTE);
            is_effect && one.key.as_deref().is_none_or(|key| key.is_empty() || key == taint)
        };
        if !tolerations.iter().any(is_about_it) {
            tolerations.push(Toleration {
                key: Some(taint.to_owned()),
                operator: Some("Exists".to_owned()),
                effect: Some(NO_EXECUTE.to_owned()),
                toleration_seconds: Some(LOST_NODE_S),
                value: None,
            });
        }
    }
}

/// The volume and the mount of the job's text.
pub(super) fn job_file(parts: &Parts<'_>) -> (Value, Value) {
    let map = names::spec(parts.name(), parts.run.generation);
    (
        json!({"name": "job", "configMap": {"name": map, "items": [{"key": SPEC_KEY, "path": SPEC_KEY}]}}),
        json!({"name": "job", "mountPath": JOB_FOLDER, "readOnly": true}),
    )
}

/// The volume and the mount of the job's certificates.
pub(super) fn certificates(parts: &Parts<'_>) -> (Value, Value) {
    let secret = json!({"secretName": names::certificates(parts.name()), "defaultMode": KEY_FILE_MODE});
    (json!({"name": "tls", "secret": secret}), json!({"name": "tls", "mountPath": TLS_FOLDER, "readOnly": true}))
}

/// What is wrong with the pod templates of a spec, with the field's path.
pub fn template_problems(spec: &StreamJobSpec) -> Option<String> {
    let pods = spec.pods.as_ref()?;
    let coordinator = pods.coordinator.as_ref().and_then(|coordinator| coordinator.template.as_ref());
    let workers = pods.workers.as_ref().and_then(|workers| workers.template.as_ref());
    let all = [
        ("spec.pods.template", pods.template.as_ref()),
        ("spec.pods.coordinator.template", coordinator),
        ("spec.pods.workers.template", workers),
    ];
    all.into_iter().find_map(|(field, template)| parsed(field, template?).err()).map(|error| error.to_string())
}

fn parsed(field: &'static str, patch: &Value) -> Result<PodTemplateSpec, BuildError> {
    let mut patch = patch.clone();
    // The type wants containers, which a patch may well leave out.
    if let Some(spec) = patch.get_mut("spec").and_then(Value::as_object_mut) {
        spec.entry("containers").or_insert_with(|| json!([]));
    }
    serde_json::from_value(patch).map_err(|error| BuildError::Template {
        field,
        reason: format!("not a piece of a PodTemplateSpec: {error}; write {{metadata, spec}} as in a pod template"),
    })
}

/// The names of all Secrets that a spec refers to.
fn secrets(spec: &StreamJobSpec) -> BTreeSet<String> {
    fn collect(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(fields) => {
                for (key, field) in fields {
                    let name = field.get("name").and_then(Value::as_str);
                    match name.filter(|_| key == "secretRef" || key == "secretKeyRef") {
                        Some(name) => drop(found.insert(name.to_owned())),
                        // What a pod template refers to is mounted by that template.
                        None if key == "pods" => {}
                        None => collect(field, found),
                    }
                }
            }
            Value::Array(items) => items.iter().for_each(|item| collect(item, found)),
            _ => {}
        }
    }
    let mut found = BTreeSet::new();
    // A spec that was read can be written.
    collect(&serde_json::to_value(spec).unwrap_or_default(), &mut found);
    found
}

/// Absent fields are left out: a null would take them away from whoever else sets them.
pub(super) fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let kept = fields.into_iter().filter(|(_, field)| !field.is_null());
            Value::Object(kept.map(|(key, field)| (key, without_nulls(field))).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(without_nulls).collect()),
        other => other,
    }
}
