//! What is watched, and what a change of it leads to.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::{FutureExt, Stream, StreamExt, TryStreamExt, stream};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use kube::api::Api;
use kube::runtime::events::Recorder;
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::watcher::Event;
use kube::runtime::{WatchStreamExt, reflector as reflect, watcher};
use kube::{Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use weir_crds::streamjob::UpgradeResult;
use weir_crds::{Checkpoint, Savepoint, StreamJob};

use crate::checkpoints::is_pin_asked;
use crate::coordinator_api::Coordinators;
use crate::job_metrics::JobMetrics;
use crate::kept::Kept;
use crate::looks;
use crate::names::JOB_LABEL;
use crate::packed::{Packed, Packer};
use crate::queue::{Turn, Urgency};
use crate::reconcile::{Context, reconcile};
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
    let namespace = settings.namespace.as_deref();
    let slots = usize::from(settings.concurrency);
    let own = watcher::Config::default().labels(JOB_LABEL);
    let (jobs, job_events) = watch::<StreamJob>(&client, namespace, watcher::Config::default());
    let (pods, pod_events) = watch_packed::<Pod>(&client, namespace, own.clone());
    let (sets, set_events) = watch_packed::<StatefulSet>(&client, namespace, own);
    let (savepoints, savepoint_events) = watch::<Savepoint>(&client, namespace, watcher::Config::default());
    job_metrics.show(jobs.clone(), savepoints.clone());
    let pins = Arc::new(Pins::default());
    let pins_changed = pins_asked(&client, namespace, Arc::clone(&pins));
    let pods_changed = touched(pod_events).try_filter_map(|(pod, urgency)| async move { Ok(owner(&pod, urgency)) });
    let sets_changed = touched(set_events).try_filter_map(|(set, urgency)| async move { Ok(owner(&set, urgency)) });
    let all = [jobs_changed(job_events).boxed(), pods_changed.boxed(), sets_changed.boxed(), pins_changed.boxed()];
    let changed = stream::select_all(all);
    let savepoints_changed =
        touched(savepoint_events).map_ok(|(savepoint, urgency)| (ObjectRef::from_obj(&savepoint), urgency));
    // A decision on half a list would start what runs already, and what is not listed yet is not absent.
    let listed = {
        let (jobs, pods, sets, savepoints) = (jobs.clone(), pods.clone(), sets.clone(), savepoints.clone());
        async move {
            let all = [
                jobs.wait_until_ready().await.is_ok(),
                pods.wait_until_ready().await.is_ok(),
                sets.wait_until_ready().await.is_ok(),
                savepoints.wait_until_ready().await.is_ok(),
            ];
            // They end with the process.
            if all != [true; 4] {
                std::future::pending::<()>().await;
            }
            is_ready.store(true, Ordering::Relaxed);
        }
    };
    let listed = listed.shared();
    let context = Arc::new(Context {
        coordinators: Coordinators::of(settings.token_key.clone()),
        client,
        settings,
        jobs: jobs.clone(),
        pods,
        sets,
        savepoints: savepoints.clone(),
        recorder,
        metrics,
        failures: Failures::default(),
        views: Views::default(),
        pins,
    });
    let savepoint_context = Arc::new(SavepointContext { jobs: jobs.clone(), shared: Arc::clone(&context) });
    let look_at_savepoint = move |turn: Turn<ObjectRef<Savepoint>>| {
        let (savepoint, context) = (savepoints.get(&turn.key), Arc::clone(&savepoint_context));
        async move { Some(savepoints::reconcile(&*savepoint?, &context).await) }
    };
    let look_at_job = move |turn: Turn<ObjectRef<StreamJob>>| {
        let (job, context) = (jobs.get(&turn.key), Arc::clone(&context));
        async move { Some(reconcile(&*job?, &turn, &context).await) }
    };
    tokio::join!(
        looks::run(changed, listed.clone(), slots, look_at_job),
        looks::run(savepoints_changed, listed, slots, look_at_savepoint)
    );
}

/// A kind of object that is watched, and of which only what is read is kept.
trait Watched:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + std::fmt::Debug
    + Serialize
    + DeserializeOwned
    + Kept
    + Send
    + Sync
    + 'static
{
}

impl<K> Watched for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + Serialize
        + DeserializeOwned
        + Kept
        + Send
        + Sync
        + 'static
{
}

/// What happens to objects of a kind.
trait Events<K>: Stream<Item = Result<Event<K>, watcher::Error>> + Send + 'static {}

impl<K, S: Stream<Item = Result<Event<K>, watcher::Error>> + Send + 'static> Events<K> for S {}

/// A store of all objects of a kind, and the events that keep it up to date.
fn watch<K: Watched>(
    client: &Client,
    namespace: Option<&str>,
    config: watcher::Config,
) -> (Store<K>, impl Events<K> + use<K>) {
    let (store, writer) = reflector::store();
    let events = watcher(api_of(client, namespace), config).default_backoff().modify(Kept::keep_what_is_read);
    (store, events.reflect(writer))
}

/// The same, of objects whose types have room for much more than is kept.
fn watch_packed<K: Watched>(
    client: &Client,
    namespace: Option<&str>,
    config: watcher::Config,
) -> (Store<Packed<K>>, impl Events<Packed<K>> + use<K>) {
    let (store, writer) = reflector::store();
    let events = watcher(api_of::<K>(client, namespace), config).default_backoff().modify(Kept::keep_what_is_read);
    let mut packer = Packer::default();
    (store, reflect(writer, events.map_ok(move |event| packer.event(event))))
}

fn api_of<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

/// What is there or was, and how urgent it is: what is listed was there before, or has not changed since.
fn touched<K: Send + Sync + 'static>(
    events: impl Events<K>,
) -> impl Stream<Item = Result<(K, Urgency), watcher::Error>> + Send + 'static {
    events.try_filter_map(|event| async move {
        Ok(match event {
            Event::Apply(object) | Event::Delete(object) => Some((object, Urgency::Change)),
            Event::InitApply(object) => Some((object, Urgency::Routine)),
            Event::Init | Event::InitDone => None,
        })
    })
}

/// Jobs that are others than before but for their progress. One that is listed with a spec or an act that waits for the
/// operator is as urgent as if it changed now.
fn jobs_changed(
    events: impl Events<StreamJob>,
) -> impl Stream<Item = Result<(ObjectRef<StreamJob>, Urgency), watcher::Error>> + Send + 'static {
    let mut seen: HashMap<ObjectRef<StreamJob>, u64> = HashMap::new();
    events.try_filter_map(move |event| {
        let changed = match event {
            Event::Init => {
                seen.clear();
                None
            }
            Event::InitDone => None,
            Event::Delete(job) => {
                let key = ObjectRef::from_obj(&job);
                seen.remove(&key);
                Some((key, Urgency::Change))
            }
            Event::InitApply(job) => {
                let urgency = if is_waiting(&job) { Urgency::Change } else { Urgency::Routine };
                is_news(&mut seen, &job).map(|key| (key, urgency))
            }
            Event::Apply(job) => is_news(&mut seen, &job).map(|key| (key, Urgency::Change)),
        };
        async move { Ok(changed) }
    })
}

fn is_news(seen: &mut HashMap<ObjectRef<StreamJob>, u64>, job: &StreamJob) -> Option<ObjectRef<StreamJob>> {
    let (key, counts) = (ObjectRef::from_obj(job), what_counts(job));
    let before = match counts {
        Some(counts) => seen.insert(key.clone(), counts),
        None => seen.remove(&key),
    };
    (counts.is_none() || counts != before).then_some(key)
}

/// For the operator: with a spec that it has not seen, or with something that it has begun.
fn is_waiting(job: &StreamJob) -> bool {
    let Some(status) = &job.status else { return true };
    let is_upgraded = status.upgrades.first().is_some_and(|one| one.result == UpgradeResult::InProgress);
    let is_seen = status.observed_generation == job.metadata.generation;
    !is_seen || is_upgraded || status.intention.is_some() || job.metadata.deletion_timestamp.is_some()
}

/// Jobs of whose Checkpoints somebody asks for a pin, or for its end. Nothing of the Checkpoints is kept: there are many.
fn pins_asked(
    client: &Client,
    namespace: Option<&str>,
    pins: Arc<Pins>,
) -> impl Stream<Item = Result<(ObjectRef<StreamJob>, Urgency), watcher::Error>> + Send + 'static {
    let checkpoints = watcher(api_of::<Checkpoint>(client, namespace), watcher::Config::default());
    checkpoints.default_backoff().applied_objects().try_filter_map(move |checkpoint| {
        let asked = is_pin_asked(&checkpoint).then(|| {
            let (namespace, job) = (checkpoint.namespace().unwrap_or_default(), &checkpoint.spec.job);
            pins.ask(&namespace, job);
            (ObjectRef::new(job).within(&namespace), Urgency::Change)
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
fn owner<K: Watched>(object: &Packed<K>, urgency: Urgency) -> Option<(ObjectRef<StreamJob>, Urgency)> {
    let (namespace, job) = object.job()?;
    Some((ObjectRef::new(job).within(namespace), urgency))
}
