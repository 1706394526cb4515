//! What is watched, and what a change of it leads to.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::{Stream, StreamExt, TryStreamExt, stream};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use kube::api::Api;
use kube::runtime::controller::{Config, applier};
use kube::runtime::events::Recorder;
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use weir_crds::{Savepoint, StreamJob};

use crate::job_metrics::JobMetrics;
use crate::names::JOB_LABEL;
use crate::reconcile::{Context, Failures, on_error, reconcile};
use crate::savepoints::{self, SavepointContext};
use crate::serve::Metrics;
use crate::settings::Settings;

/// Looks after all jobs until the watches end, which they do not by themselves.
pub async fn run(
    client: Client,
    settings: Settings,
    recorder: Recorder,
    metrics: Metrics,
    job_metrics: JobMetrics,
    is_ready: Arc<AtomicBool>,
) {
    let namespace = settings.namespace.clone();
    let concurrency = settings.concurrency;
    let own = watcher::Config::default().labels(JOB_LABEL);
    let (jobs, job_events) = watch::<StreamJob>(&client, namespace.as_deref(), watcher::Config::default());
    let (pods, pod_events) = watch::<Pod>(&client, namespace.as_deref(), own.clone());
    let (sets, set_events) = watch::<StatefulSet>(&client, namespace.as_deref(), own);
    let jobs_changed = job_events.map_ok(|job| ObjectRef::from_obj(&job));
    let pods_changed = pod_events.try_filter_map(|pod| async move { Ok(owner(&pod)) });
    let sets_changed = set_events.try_filter_map(|set| async move { Ok(owner(&set)) });
    let queue = stream::select_all([jobs_changed.boxed(), pods_changed.boxed(), sets_changed.boxed()]);
    let (savepoints, savepoint_events) = watch::<Savepoint>(&client, namespace.as_deref(), watcher::Config::default());
    job_metrics.show(jobs.clone(), savepoints.clone());
    let savepoints_changed = savepoint_events.map_ok(|savepoint| ObjectRef::from_obj(&savepoint));
    let context = Arc::new(Context {
        client,
        settings,
        pods: pods.clone(),
        sets: sets.clone(),
        savepoints: savepoints.clone(),
        recorder,
        metrics,
        failures: Failures::default(),
    });
    let listed = async move {
        // A decision on half a list would start what runs already.
        let all = [pods.wait_until_ready().await.is_ok(), sets.wait_until_ready().await.is_ok()];
        is_ready.store(all == [true, true], Ordering::Relaxed);
    };
    let savepoint_context = Arc::new(SavepointContext { jobs: jobs.clone(), shared: Arc::clone(&context) });
    let look = |savepoint, context| Box::pin(savepoints::reconcile(savepoint, context));
    let of_savepoints = applier(
        look,
        savepoints::on_error,
        savepoint_context,
        savepoints,
        Box::pin(savepoints_changed),
        Config::default().concurrency(concurrency),
    );
    let savepoint_looks = of_savepoints.for_each(|result| async move {
        if let Err(error) = result {
            tracing::debug!(%error, "a look at a savepoint did not come to an end");
        }
    });
    let reconciler = |job, context| Box::pin(reconcile(job, context));
    // The queue feeds the stores too, so it is read while they fill; the runner waits for the store of the jobs, and
    // each look for the others.
    let applied = applier(reconciler, on_error, context, jobs, queue, Config::default().concurrency(concurrency));
    let looks = applied.for_each(|result| async move {
        if let Err(error) = result {
            tracing::debug!(%error, "a look at a job did not come to an end");
        }
    });
    tokio::join!(listed, looks, savepoint_looks);
}

/// A store of all objects of a kind, and the stream that keeps it up to date and yields what changed.
fn watch<K>(
    client: &Client,
    namespace: Option<&str>,
    config: watcher::Config,
) -> (Store<K>, impl Stream<Item = Result<K, watcher::Error>> + Send + 'static)
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned
        + Send
        + Sync
        + 'static,
{
    let api: Api<K> = match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    };
    let (store, writer) = reflector::store();
    let events = watcher(api, config)
        .default_backoff()
        .modify(|object| {
            // Half of an object's size, and nobody reads it.
            object.managed_fields_mut().clear();
        })
        .reflect(writer)
        .touched_objects();
    (store, events)
}

/// The job that an object belongs to.
fn owner<K: Resource<DynamicType = ()>>(object: &K) -> Option<ObjectRef<StreamJob>> {
    let job = object.labels().get(JOB_LABEL)?;
    Some(ObjectRef::new(job).within(&object.namespace()?))
}
