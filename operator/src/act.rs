//! Carrying a decision out. Everything is applied by server-side apply under one field manager, and can be done again.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use weir_crds::{Checkpoint, Savepoint, SavepointSpec, StreamJob, StreamJobStatus};

use crate::build::{BuildError, Object, ObjectKind, Parts, spec_map};
use crate::decide::NewSavepoint;
use crate::names::{
    self, FIELD_MANAGER, FINALIZER, HURRIED_GRACE_S, JOB_LABEL, PATH_ANNOTATION, PRUNED_ANNOTATION, SAVEPOINT_FINALIZER,
};

#[derive(Debug, thiserror::Error)]
pub enum ActError {
    #[error("the API server: {0}")]
    Api(#[from] kube::Error),
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error("the coordinator: {0}")]
    Coordinator(String),
    #[error("the certificates: {0}")]
    Certificates(String),
    #[error("the spec of generation {0} is gone")]
    SpecLost(i64),
    #[error("the job cannot be written down: {0}")]
    Shape(#[from] serde_json::Error),
}

impl ActError {
    /// Somebody else was quicker; the next look sees what they did.
    pub fn is_conflict(&self) -> bool {
        matches!(self, ActError::Api(kube::Error::Api(status)) if status.code == 409)
    }
}

/// The objects of one namespace.
pub struct Hands {
    client: Client,
    namespace: String,
}

impl Hands {
    pub fn new(client: Client, namespace: &str) -> Self {
        Hands { client, namespace: namespace.to_owned() }
    }

    fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub fn checkpoints(&self) -> Api<Checkpoint> {
        self.api()
    }

    pub async fn checkpoint(&self, name: &str) -> Result<Option<Checkpoint>, ActError> {
        Ok(self.checkpoints().get_opt(name).await?)
    }

    /// Adds or takes away the finalizer, on the version of the job that was seen.
    pub async fn set_finalizer(&self, job: &StreamJob, stands: bool) -> Result<(), ActError> {
        let mut finalizers: Vec<&str> = job.finalizers().iter().map(String::as_str).collect();
        finalizers.retain(|finalizer| *finalizer != FINALIZER);
        if stands {
            finalizers.push(FINALIZER);
        }
        let patch = json!({"metadata": {"resourceVersion": job.resource_version(), "finalizers": finalizers}});
        self.api::<StreamJob>().patch(&job.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await?;
        Ok(())
    }

    /// Replaces the status, on the version of the job that was seen: what was decided on an old one is refused.
    pub async fn write_status(&self, job: &StreamJob, status: &StreamJobStatus) -> Result<(), ActError> {
        let mut job = job.clone();
        job.status = Some(status.clone());
        job.metadata.managed_fields = None;
        let parameters = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        self.api::<StreamJob>().replace_status(&job.name_any(), &parameters, &job).await?;
        Ok(())
    }

    /// The spec of a generation that was written down before.
    pub async fn spec_of(&self, job: &str, generation: i64) -> Result<StreamJob, ActError> {
        let map = self.api::<ConfigMap>().get_opt(&names::spec(job, generation)).await?;
        let text = map.and_then(|map| map.data).and_then(|mut data| data.remove(crate::build::SPEC_KEY));
        let text = text.ok_or(ActError::SpecLost(generation))?;
        serde_yaml::from_str(&text).map_err(|_| ActError::SpecLost(generation))
    }

    pub async fn write_spec(&self, parts: &Parts<'_>) -> Result<(), ActError> {
        self.apply::<ConfigMap>(&names::spec(parts.name(), parts.run.generation), &spec_map(parts)?).await
    }

    /// Removes the specs of generations that nobody can come back to.
    pub async fn prune_specs(&self, job: &str, kept: &[i64]) -> Result<(), ActError> {
        let api = self.api::<ConfigMap>();
        let prefix = names::spec(job, 0);
        let prefix = prefix.trim_end_matches('0');
        let listed = api.list_metadata(&ListParams::default().labels(&format!("{JOB_LABEL}={job}"))).await?;
        for map in listed {
            let name = map.name_any();
            let generation = name.strip_prefix(prefix).and_then(|end| end.parse::<i64>().ok());
            if generation.is_some_and(|generation| !kept.contains(&generation)) {
                ignore_missing(api.delete(&name, &DeleteParams::default()).await.map(drop))?;
            }
        }
        Ok(())
    }

    pub async fn apply_objects(&self, parts: &Parts<'_>, workers: u32) -> Result<(), ActError> {
        for object in parts.objects(workers)? {
            match object.kind {
                ObjectKind::Secret => self.apply::<Secret>(&object.name, &object.value).await?,
                ObjectKind::Service => self.apply::<Service>(&object.name, &object.value).await?,
                ObjectKind::PodDisruptionBudget => {
                    self.apply::<PodDisruptionBudget>(&object.name, &object.value).await?
                }
                ObjectKind::NetworkPolicy => self.apply::<NetworkPolicy>(&object.name, &object.value).await?,
                ObjectKind::StatefulSet => self.apply::<StatefulSet>(&object.name, &object.value).await?,
            }
        }
        Ok(())
    }

    /// Changes the number of workers alone: for a job whose run is over.
    pub async fn scale_workers(&self, job: &str, workers: u32) -> Result<(), ActError> {
        let patch = json!({"spec": {"replicas": workers}});
        let api = self.api::<StatefulSet>();
        let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        ignore_missing(api.patch(&names::workers(job), &parameters, &Patch::Merge(patch)).await.map(drop))
    }

    /// Refused if there is one, whatever it is.
    pub async fn create_coordinator(&self, parts: &Parts<'_>) -> Result<(), ActError> {
        let pod: Pod = serde_json::from_value(parts.coordinator()?)?;
        let parameters = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        self.api::<Pod>().create(&parameters, &pod).await?;
        Ok(())
    }

    pub async fn apply_secret(&self, object: &Object) -> Result<(), ActError> {
        self.apply::<Secret>(&object.name, &object.value).await
    }

    /// An automatic savepoint's resource. It belongs to nobody: it outlives its job.
    pub async fn create_savepoint(&self, job: &str, new: &NewSavepoint) -> Result<(), ActError> {
        let NewSavepoint { name, trigger, path } = new;
        let spec = SavepointSpec { job: job.to_owned(), trigger: Some(*trigger), path: None, on_delete: None };
        let mut savepoint = Savepoint::new(name, spec);
        savepoint.metadata.labels = Some(names::labels(job));
        savepoint.metadata.annotations = path.clone().map(|path| [(PATH_ANNOTATION.to_owned(), path)].into());
        let parameters = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        match self.api::<Savepoint>().create(&parameters, &savepoint).await {
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            other => Ok(other.map(drop)?),
        }
    }

    /// With its data: whoever deletes it by hand keeps that.
    pub async fn prune_savepoint(&self, name: &str) -> Result<(), ActError> {
        let api = self.api::<Savepoint>();
        let metadata = json!({"annotations": {PRUNED_ANNOTATION: "true"}, "finalizers": [SAVEPOINT_FINALIZER]});
        let patch = Patch::Merge(json!({"metadata": metadata}));
        ignore_missing(api.patch(name, &PatchParams::default(), &patch).await.map(drop))?;
        ignore_missing(api.delete(name, &DeleteParams::default()).await.map(drop))
    }

    /// Only the pod that was seen, not one that has taken its place.
    pub async fn delete_pod(&self, pod: &Pod) -> Result<(), ActError> {
        self.delete_within(pod, None).await
    }

    /// Of a pod that is going already: sooner than it was told.
    pub async fn hurry_pod(&self, pod: &Pod) -> Result<(), ActError> {
        self.delete_within(pod, Some(HURRIED_GRACE_S)).await
    }

    /// Without a word of its node.
    pub async fn remove_pod(&self, pod: &Pod) -> Result<(), ActError> {
        self.delete_within(pod, Some(0)).await
    }

    async fn delete_within(&self, pod: &Pod, grace_period_seconds: Option<u32>) -> Result<(), ActError> {
        let preconditions = Some(Preconditions { uid: pod.uid(), resource_version: None });
        let parameters = DeleteParams { preconditions, grace_period_seconds, ..DeleteParams::default() };
        ignore_missing(self.api::<Pod>().delete(&pod.name_any(), &parameters).await.map(drop))
    }

    pub async fn apply<K>(&self, name: &str, value: &Value) -> Result<(), ActError>
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + DeserializeOwned,
    {
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        self.api::<K>().patch(name, &parameters, &Patch::Apply(value)).await?;
        Ok(())
    }
}

fn ignore_missing(result: Result<(), kube::Error>) -> Result<(), ActError> {
    match result {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => Ok(other?),
    }
}
