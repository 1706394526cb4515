//! Jobs laid down as the operator leaves them: to have it start thousands, which it does well, takes an hour of a small
//! machine. It made the first of them, and these have what that one has.

use super::NAMESPACE_OF_OPERATOR;
use anyhow::{Context, Result, anyhow};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{Api, PostParams};
use kube::{Client, ResourceExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use weir_crds::StreamJob;
use weir_operator::Settings;
use weir_operator::build::{ObjectKind, Parts, spec_map};
use weir_operator::certificates::Authority;
use weir_operator::names;

pub const IMAGE: &str = "weir.local/weir:bench";
const AT_ONCE: usize = 16;

/// The settings of the operator, of what matters to the objects.
pub struct Layer {
    settings: Settings,
    pub key_file: PathBuf,
}

impl Layer {
    pub fn new(scratch: &Path) -> Result<Self> {
        let (key, key_file) = (vec![7; 64], scratch.join("operator.key"));
        std::fs::write(&key_file, &key).context("cannot write the operator's key")?;
        let settings = Settings {
            image: IMAGE.to_owned(),
            image_pull_policy: None,
            namespace: None,
            poll_interval: Duration::ZERO,
            status_interval: Duration::ZERO,
            open_metrics: false,
            concurrency: 1,
            certificate_lifetime: Duration::ZERO,
            token_key: key,
        };
        Ok(Layer { settings, key_file })
    }

    /// The operator's own key.
    pub fn key(&self) -> &[u8] {
        &self.settings.token_key
    }

    /// Lays down jobs of these namespaces and names, like the one.
    pub async fn lay(&self, client: &Client, like: &StreamJob, jobs: Vec<(String, String)>) -> Result<()> {
        let laid = stream::iter(jobs).map(|(namespace, name)| async move {
            let laid = self.lay_one(client, like, &namespace, &name).await;
            laid.with_context(|| format!("{namespace}/{name} beside {NAMESPACE_OF_OPERATOR}"))
        });
        laid.buffer_unordered(AT_ONCE).try_collect().await
    }

    async fn lay_one(&self, client: &Client, like: &StreamJob, namespace: &str, name: &str) -> Result<()> {
        let (parameters, mut job) = (PostParams::default(), StreamJob::new(name, like.spec.clone()));
        job.metadata.finalizers = like.metadata.finalizers.clone();
        let jobs: Api<StreamJob> = Api::namespaced(client.clone(), namespace);
        let mut job = jobs.create(&parameters, &job).await?;
        let mut status = like.status.clone().context("the first job has no status")?;
        let mut run = status.run.take().context("the first job has no run")?;
        run.storage_id = names::storage_id(&job);
        status.run = Some(run.clone());
        let authority = Authority::of(&self.settings.token_key, namespace, name).map_err(|error| anyhow!(error))?;
        if let Some(certificates) = &mut status.certificates {
            certificates.authority = authority.name().to_owned();
        }
        job.status = Some(status);
        jobs.replace_status(name, &parameters, &job).await?;
        let parts = Parts { job: &job, spec: &job.spec, run: &run, settings: &self.settings };
        let map: ConfigMap = serde_json::from_value(spec_map(&parts)?)?;
        Api::namespaced(client.clone(), namespace).create(&parameters, &map).await?;
        for object in parts.objects(parts.workers_needed())? {
            if object.kind == ObjectKind::StatefulSet {
                let set: StatefulSet = serde_json::from_value(object.value)?;
                Api::namespaced(client.clone(), namespace).create(&parameters, &set).await?;
            }
        }
        let pod: Pod = serde_json::from_value(parts.coordinator()?)?;
        Api::namespaced(client.clone(), &job.namespace().unwrap_or_default()).create(&parameters, &pod).await?;
        Ok(())
    }
}
