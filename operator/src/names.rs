//! What the operator's objects are called, and the labels and annotations by which it knows them.

use std::collections::BTreeMap;

use weir_crds::{Savepoint, StreamJob};

/// Who applies the fields that the operator sets.
pub const FIELD_MANAGER: &str = "weir-operator";
/// Of every object of a job: the job's name.
pub const JOB_LABEL: &str = "weir.dev/job";
/// Of pods: [`COORDINATOR`] or [`WORKER`].
pub const COMPONENT_LABEL: &str = "weir.dev/component";
pub const COORDINATOR: &str = "coordinator";
pub const WORKER: &str = "worker";
/// Of the coordinator's pod: the number of the run that it belongs to.
pub const RUN_ANNOTATION: &str = "weir.dev/run";
/// Of the workers' StatefulSet: what its text was made from.
pub const MADE_FROM_ANNOTATION: &str = "weir.dev/made-from";
/// On a StreamJob: the generation whose upgrade a person allows.
pub const APPROVE_ANNOTATION: &str = "weir.dev/approve";
/// On a StreamJob: another value ends the coordinator's pod after a last checkpoint, and starts it again.
pub const RESTART_ANNOTATION: &str = "weir.dev/restart";
pub const FINALIZER: &str = "weir.dev/stop";
/// Of a Savepoint whose data goes with it.
pub const SAVEPOINT_FINALIZER: &str = "weir.dev/remove-data";
/// On a Savepoint that retention lets go: its data goes, too.
pub const PRUNED_ANNOTATION: &str = "weir.dev/pruned";
/// On a Savepoint that stands for one that was taken already: where it is.
pub const PATH_ANNOTATION: &str = "weir.dev/path";
/// Of the coordinator's pod: how it and the workers' are built. Pods of two layouts do not understand each other.
pub const LAYOUT_ANNOTATION: &str = "weir.dev/pod-layout";
/// 2: with certificates. 3: with probes of the processes' health. 4: with HTTPS.
pub const LAYOUT: &str = "4";
/// What a coordinator gets that has no workers left to take a last checkpoint with, in seconds.
pub const HURRIED_GRACE_S: u32 = 1;
/// The one container of each pod.
pub const CONTAINER: &str = "weir";

pub const CONTROL_PORT: u16 = 6123;
pub const DATA_PORT: u16 = 6124;
pub const HTTPS_PORT: u16 = 8081;
/// Where workers tell the kubelet that they turn.
pub const HEALTH_PORT: u16 = 6125;

pub fn coordinator(job: &str) -> String {
    format!("{job}-coordinator")
}

pub fn workers(job: &str) -> String {
    format!("{job}-worker")
}

/// What is about all pods of a job.
pub fn pods(job: &str) -> String {
    format!("{job}-weir")
}

pub fn worker_pod(job: &str, ordinal: u32) -> String {
    format!("{job}-worker-{ordinal}")
}

/// The ConfigMap with the job as it was at a generation.
pub fn spec(job: &str, generation: i64) -> String {
    format!("{job}-spec-{generation}")
}

/// The Secret with the token that the coordinator asks for.
pub fn token(job: &str) -> String {
    format!("{job}-weir-token")
}

/// The Secret with the certificates of the job's pods.
pub fn certificates(job: &str) -> String {
    format!("{job}-weir-tls")
}

/// The Savepoint that a schedule asks for at a time, in seconds.
pub fn scheduled_savepoint(job: &str, at_s: i64) -> String {
    const SECONDS_OF_A_MINUTE: i64 = 60;
    format!("{job}-{}", at_s / SECONDS_OF_A_MINUTE)
}

/// By which coordinators know a Savepoint: another one of the same name is another savepoint.
pub fn savepoint_id(savepoint: &Savepoint) -> String {
    const UID_CHARS: usize = 8;
    const NAME_CHARS: usize = 100;
    let uid = savepoint.metadata.uid.as_deref().unwrap_or_default();
    let name = savepoint.metadata.name.as_deref().unwrap_or_default();
    match name.len() <= NAME_CHARS {
        true => format!("{name}-{}", &uid[..uid.len().min(UID_CHARS)]),
        false => format!("savepoint-{uid}"),
    }
}

pub fn checkpoint(job: &str, id: u64) -> String {
    format!("{job}-{id:08}")
}

/// The number of this job's Checkpoint of that name.
pub fn checkpoint_of(job: &str, name: &str) -> Option<u64> {
    let id = name.strip_prefix(job)?.strip_prefix('-')?.parse().ok()?;
    (checkpoint(job, id) == name).then_some(id)
}

/// Labels of every object that the operator makes for a job.
pub fn labels(job: &str) -> BTreeMap<String, String> {
    [
        (JOB_LABEL, job),
        ("app.kubernetes.io/name", "weir"),
        ("app.kubernetes.io/instance", job),
        ("app.kubernetes.io/managed-by", FIELD_MANAGER),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into()
}

/// Labels of a pod, and the selector of its service.
pub fn pod_labels(job: &str, component: &str) -> BTreeMap<String, String> {
    let mut labels = labels(job);
    labels.insert(COMPONENT_LABEL.to_owned(), component.to_owned());
    labels
}

/// What a selector names: fewer than all, so that more can be added.
pub fn selector(job: &str, component: &str) -> BTreeMap<String, String> {
    [(JOB_LABEL, job), (COMPONENT_LABEL, component)].map(|(key, value)| (key.to_owned(), value.to_owned())).into()
}

/// All pods of a job.
pub fn job_selector(job: &str) -> BTreeMap<String, String> {
    [(JOB_LABEL.to_owned(), job.to_owned())].into()
}

/// The folder of a job's checkpoints on its storage. By namespace and name, so that a job that was deleted and made
/// again goes on where it was.
pub fn storage_id(job: &StreamJob) -> String {
    let namespace = job.metadata.namespace.as_deref().unwrap_or("default");
    format!("{namespace}.{}", job.metadata.name.as_deref().unwrap_or_default())
}

/// How the addresses of checkpoints begin that the job's coordinator has copied as savepoints, to begin with them.
pub fn copies(job: &StreamJob) -> String {
    let uri = job.spec.storage_uri().unwrap_or_default().trim_end_matches('/').to_owned();
    format!("{uri}/savepoints/{}-of-", storage_id(job))
}

/// By the resource's UID, of which a part is enough.
pub fn savepoint_prefix(job: &StreamJob) -> String {
    const UID_CHARS: usize = 8;
    let uid: String = job.metadata.uid.iter().flat_map(|uid| uid.chars()).take(UID_CHARS).collect();
    format!("{}-{uid}", job.metadata.name.as_deref().unwrap_or_default())
}
