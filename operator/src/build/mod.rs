//! From a job's spec to the objects that run it. Pure: the same spec gives the same text.

mod coordinator;
mod pod;
mod services;
mod workers;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Resource;
use serde_json::{Value, json};
use weir_crds::streamjob::RunStatus;
use weir_crds::{StreamJob, StreamJobSpec};

use crate::certificates::Issued;
use crate::names;
use crate::settings::Settings;

pub use pod::template_problems;
pub use services::token_of;

/// What objects are made from.
pub struct Parts<'a> {
    pub job: &'a StreamJob,
    /// Of the run: not always the job's current one.
    pub spec: &'a StreamJobSpec,
    pub run: &'a RunStatus,
    pub settings: &'a Settings,
}

#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("{field}: {reason}")]
    Template { field: &'static str, reason: String },
    #[error("the object {name} cannot be written down: {reason}")]
    Shape { name: String, reason: String },
}

impl Parts<'_> {
    pub fn name(&self) -> &str {
        self.job.metadata.name.as_deref().unwrap_or_default()
    }

    pub fn namespace(&self) -> &str {
        self.job.metadata.namespace.as_deref().unwrap_or("default")
    }

    /// Pods that the run needs: as many slots as its widest step has subtasks.
    pub fn workers_needed(&self) -> u32 {
        widest(self.spec).div_ceil(self.spec.worker_slots().max(1))
    }

    /// What the workers' objects are made from, as a hash: with another one they have to be applied again.
    pub fn made_from(&self) -> Result<String, BuildError> {
        workers::stateful_set(self, 0).map(|(made_from, _)| made_from)
    }

    /// Everything beside the coordinator's pod.
    pub fn objects(&self, workers: u32) -> Result<Vec<Object>, BuildError> {
        Ok(vec![
            services::token(self),
            services::coordinator(self),
            services::workers(self),
            services::disruption_budget(self),
            services::network_policy(self),
            workers::stateful_set(self, workers)?.1,
        ])
    }

    /// The Secret with the token.
    pub fn token(&self) -> Object {
        services::token(self)
    }

    /// The Secret with the certificates.
    pub fn certificates(&self, issued: &Issued) -> Object {
        services::certificates(self, issued)
    }

    pub fn coordinator(&self) -> Result<Value, BuildError> {
        coordinator::pod(self)
    }

    fn metadata(&self, name: String) -> Value {
        json!({
            "name": name,
            "namespace": self.namespace(),
            "labels": names::labels(self.name()),
            "ownerReferences": [self.owner()],
        })
    }

    fn owner(&self) -> Option<OwnerReference> {
        self.job.controller_owner_ref(&())
    }

    fn image(&self) -> &str {
        self.spec.image.as_deref().unwrap_or(&self.settings.image)
    }
}

/// An object to apply.
pub struct Object {
    pub kind: ObjectKind,
    pub name: String,
    pub value: Value,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectKind {
    Secret,
    Service,
    PodDisruptionBudget,
    NetworkPolicy,
    StatefulSet,
}

/// The spec of a generation as a ConfigMap, with the job as the coordinator reads it.
pub fn spec_map(parts: &Parts<'_>) -> Result<Value, BuildError> {
    let name = names::spec(parts.name(), parts.run.generation);
    let text = spec_text(parts)?;
    Ok(json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": parts.metadata(name),
        "data": {SPEC_KEY: text},
    }))
}

/// The job as a coordinator reads it.
pub fn spec_text(parts: &Parts<'_>) -> Result<String, BuildError> {
    let job = json!({
        "apiVersion": weir_crds::API_VERSION,
        "kind": "StreamJob",
        "metadata": {"name": parts.name(), "namespace": parts.namespace(), "uid": parts.run.storage_id},
        "spec": parts.spec,
    });
    let shape = |error: serde_yaml::Error| BuildError::Shape { name: parts.name().into(), reason: error.to_string() };
    serde_yaml::to_string(&job).map_err(shape)
}

/// The key in the ConfigMap, and the file's name in the pod.
pub const SPEC_KEY: &str = "job.yaml";

/// The widest step's parallelism.
pub fn widest(spec: &StreamJobSpec) -> u32 {
    let pipeline = &spec.pipeline;
    let steps = pipeline.sources.iter().map(|source| source.parallelism);
    let steps = steps.chain(pipeline.transforms.iter().map(|transform| transform.parallelism));
    let steps = steps.chain(pipeline.sinks.iter().map(|sink| sink.parallelism));
    steps.map(|own| spec.step_parallelism(own)).max().unwrap_or(1)
}
