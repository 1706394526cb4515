//! What is watched, and what a change of it leads to.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::{Stream, StreamExt, TryStreamExt, stream};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use kube::api::Api;
use kube::runtime::controller::{Config, applier};
use kube::runtime::events::Recorder;
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::{PredicateConfig, WatchStreamExt, reflector as reflect, watcher};
use kube::{Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use weir_crds::{Checkpoint, Savepoint, StreamJob};

use crate::checkpoints::is_pin_asked;
use crate::job_metrics::JobMetrics;
use crate::kept::Kept;
use crate::names::JOB_LABEL;
use crate::packed::Packed;
use crate::reconcile::{Context, on_error, reconcile};
use crate::remembered::{Failures, Pins, Views};
use crate::savepoints::{self, SavepointContext};
use crate::serve::Metrics;
use crate::settings::Settings;
use crate::status::without_progress;

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
    let (pods, pod_events) = watch_packed::<Pod>(&client, namespace.as_deref(), own.clone());
    let (sets, set_events) = watch_packed::<StatefulSet>(&client, namespace.as_deref(), own);
    let jobs_changed = job_events.predicate_filter(what_counts, PredicateConfig::default());
    let jobs_changed = jobs_changed.map_ok(|job| ObjectRef::from_obj(&job));
    let pods_changed = pod_events.try_filter_map(|pod| async move { Ok(owner(&pod)) });
    let sets_changed = set_events.try_filter_map(|set| async move { Ok(owner(&set)) });
    let pins = Arc::new(Pins::default());
    let pins_changed = pins_asked(&client, namespace.as_deref(), Arc::clone(&pins));
    let queue = [jobs_changed.boxed(), pods_changed.boxed(), sets_changed.boxed(), pins_changed.boxed()];
    let queue = stream::select_all(queue);
    let (savepoints, savepoint_events) = watch::<Savepoint>(&client, namespace.as_deref(), watcher::Config::default());
    job_metrics.show(jobs.clone(), savepoints.clone());
    let savepoints_changed = savepoint_events.map_ok(|savepoint| ObjectRef::from_obj(&savepoint));
    let context = Arc::new(Context {
        client,
        settings,
        jobs: jobs.clone(),
        pods: pods.clone(),
        sets: sets.clone(),
        savepoints: savepoints.clone(),
        recorder,
        metrics,
        failures: Failures::default(),
        views: Views::default(),
        pins,
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
        + Kept
        + Send
        + Sync
        + 'static,
{
    let (store, writer) = reflector::store();
    let api = api_of(client, namespace);
    let events =
        watcher(api, config).default_backoff().modify(Kept::keep_what_is_read).reflect(writer).touched_objects();
    (store, events)
}

/// The same, of objects whose types have room for much more than is kept.
fn watch_packed<K>(
    client: &Client,
    namespace: Option<&str>,
    config: watcher::Config,
) -> (Store<Packed<K>>, impl Stream<Item = Result<Packed<K>, watcher::Error>> + Send + 'static)
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + Serialize
        + DeserializeOwned
        + Kept
        + Send
        + Sync
        + 'static,
{
    let (store, writer) = reflector::store();
    let events = watcher(api_of::<K>(client, namespace), config).default_backoff().modify(Kept::keep_what_is_read);
    (store, reflect(writer, events.map_ok(Packed::event)).touched_objects())
}

fn api_of<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

/// Jobs of whose Checkpoints somebody asks for a pin, or for its end. Nothing of the Checkpoints is kept: there are many.
fn pins_asked(
    client: &Client,
    namespace: Option<&str>,
    pins: Arc<Pins>,
) -> impl Stream<Item = Result<ObjectRef<StreamJob>, watcher::Error>> + Send + 'static {
    let checkpoints = watcher(api_of::<Checkpoint>(client, namespace), watcher::Config::default());
    checkpoints.default_backoff().applied_objects().try_filter_map(move |checkpoint| {
        let asked = is_pin_asked(&checkpoint).then(|| {
            let (namespace, job) = (checkpoint.namespace().unwrap_or_default(), &checkpoint.spec.job);
            pins.ask(&namespace, job);
            ObjectRef::new(job).within(&namespace)
        });
        async move { Ok(asked) }
    })
}

/// Of a job all but its progress: the operator writes that itself, and need not look again because of it.
fn what_counts(job: &StreamJob) -> Option<u64> {
    let metadata = &job.metadata;
    let status = job.status.as_ref().map(without_progress);
    let counts = (
        metadata.generation,
        &metadata.annotations,
        &metadata.labels,
        &metadata.finalizers,
        &metadata.deletion_timestamp,
        status,
    );
    // One that cannot be written down is looked at each time.
    serde_json::to_vec(&counts).ok().map(|text| {
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        hasher.finish()
    })
}

/// The job that an object belongs to.
fn owner<K: Resource<DynamicType = ()> + Serialize + DeserializeOwned>(
    object: &Packed<K>,
) -> Option<ObjectRef<StreamJob>> {
    let (namespace, job) = object.job()?;
    Some(ObjectRef::new(job).within(namespace))
}
