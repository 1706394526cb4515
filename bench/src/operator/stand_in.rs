//! Kubelet and StatefulSet controller, as far as a job at rest notices them: pods are there, and are ready.

use super::coordinators::Coordinators;
use anyhow::{Result, bail};
use futures::TryStreamExt;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use serde_json::json;
use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use weir_crds::StreamJob;
use weir_crds::conditions::{ConditionType, find_condition};

const AT_ONCE: usize = 8;
const JOB_LABEL: &str = "weir.dev/job";
const REVISION: &str = "bench";

pub struct StandIn {
    ready: Arc<Mutex<HashSet<String>>>,
    tasks: JoinSet<()>,
}

impl StandIn {
    pub fn start(client: Client, coordinators: Arc<Coordinators>) -> Self {
        let mut tasks = JoinSet::new();
        tasks.spawn(play_pods(client.clone(), coordinators));
        tasks.spawn(play_sets(client.clone()));
        let ready = Arc::new(Mutex::new(HashSet::new()));
        tasks.spawn(look(client, Arc::clone(&ready)));
        StandIn { ready, tasks }
    }

    /// Waits until so many jobs have been Ready.
    pub async fn until_ready(&self, jobs: usize, within: Duration) -> Result<()> {
        let (since, mut said) = (Instant::now(), Instant::now());
        loop {
            let ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner).len();
            if ready >= jobs {
                return Ok(());
            }
            if since.elapsed() > within || self.tasks.len() < 3 {
                bail!("of {jobs} jobs {ready} are ready after {:.0} s", since.elapsed().as_secs_f64());
            }
            if said.elapsed() > Duration::from_secs(30) {
                said = Instant::now();
                eprintln!("bench: {ready} of {jobs} jobs are ready after {:.0} s", since.elapsed().as_secs_f64());
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

async fn look(client: Client, ready: Arc<Mutex<HashSet<String>>>) {
    let jobs = watcher(Api::<StreamJob>::all(client), watcher::Config::default()).default_backoff().applied_objects();
    let seen = jobs.try_for_each(|job| {
        let conditions = job.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
        if find_condition(conditions, ConditionType::Ready).is_some_and(|found| found.status == "True") {
            let name = format!("{}/{}", job.namespace().unwrap_or_default(), job.name_any());
            ready.lock().unwrap_or_else(PoisonError::into_inner).insert(name);
        }
        futures::future::ok(())
    });
    report("jobs", seen.await);
}

async fn play_pods(client: Client, coordinators: Arc<Coordinators>) {
    let config = watcher::Config::default().labels(JOB_LABEL);
    let pods = watcher(Api::<Pod>::all(client.clone()), config).default_backoff().applied_objects();
    let done = pods.try_for_each_concurrent(AT_ONCE, |pod| {
        let (client, coordinators) = (client.clone(), Arc::clone(&coordinators));
        async move {
            let is_there = pod.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Running"));
            if is_there || pod.metadata.deletion_timestamp.is_some() {
                return Ok(());
            }
            let namespace = pod.namespace().unwrap_or_default();
            let now = chrono::Utc::now().format("%Y-%m-%dT%H:%M:%SZ").to_string();
            let status = json!({"status": {
                "phase": "Running",
                "podIP": super::ADDRESS,
                "podIPs": [{"ip": super::ADDRESS}],
                "startTime": now,
                "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": now}],
                "containerStatuses": [{
                    "name": "weir", "image": "weir", "imageID": "weir", "ready": true, "started": true,
                    "restartCount": 0, "state": {"running": {"startedAt": now}},
                }],
            }});
            let api: Api<Pod> = Api::namespaced(client, &namespace);
            let name = pod.name_any();
            match api.patch_status(&name, &PatchParams::default(), &Patch::Merge(status)).await {
                Ok(_) => {}
                Err(error) => eprintln!("bench: the pod {name} is not made ready: {error}"),
            }
            if let Some(job) = name.strip_suffix("-coordinator") {
                coordinators.start(format!("{namespace}/{job}"));
            }
            Ok(())
        }
    });
    report("pods", done.await);
}

async fn play_sets(client: Client) {
    let config = watcher::Config::default().labels(JOB_LABEL);
    let sets = watcher(Api::<StatefulSet>::all(client.clone()), config).default_backoff().applied_objects();
    let done = sets.try_for_each_concurrent(AT_ONCE, |set| {
        let client = client.clone();
        async move {
            if let Err(error) = play_set(&client, &set).await {
                eprintln!("bench: the workers {} are not made: {error}", set.name_any());
            }
            Ok(())
        }
    });
    report("workers", done.await);
}

async fn play_set(client: &Client, set: &StatefulSet) -> Result<(), kube::Error> {
    let Some(spec) = &set.spec else { return Ok(()) };
    let wanted = spec.replicas.unwrap_or(1);
    let status = set.status.clone().unwrap_or_default();
    let is_done = status.observed_generation == set.metadata.generation && status.ready_replicas.unwrap_or(0) == wanted;
    if is_done || set.metadata.deletion_timestamp.is_some() {
        return Ok(());
    }
    let namespace = set.namespace().unwrap_or_default();
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    for ordinal in 0..wanted {
        let mut pod = Pod { spec: spec.template.spec.clone(), ..Pod::default() };
        let template = spec.template.metadata.clone().unwrap_or_default();
        let revision = ("controller-revision-hash".to_owned(), REVISION.to_owned());
        pod.metadata.labels = Some(template.labels.unwrap_or_default().into_iter().chain([revision]).collect());
        pod.metadata.annotations = template.annotations;
        pod.metadata.name = Some(format!("{}-{ordinal}", set.name_any()));
        pod.metadata.owner_references = kube::Resource::controller_owner_ref(set, &()).map(|owner| vec![owner]);
        ignore(409, pods.create(&PostParams::default(), &pod).await.map(drop))?;
    }
    for ordinal in wanted..status.replicas {
        let gone = pods.delete(&format!("{}-{ordinal}", set.name_any()), &DeleteParams::default()).await;
        ignore(404, gone.map(drop))?;
    }
    let status = json!({"status": {
        "observedGeneration": set.metadata.generation,
        "replicas": wanted, "readyReplicas": wanted, "availableReplicas": wanted, "currentReplicas": wanted,
        "updatedReplicas": wanted, "currentRevision": REVISION, "updateRevision": REVISION,
    }});
    let api: Api<StatefulSet> = Api::namespaced(client.clone(), &namespace);
    api.patch_status(&set.name_any(), &PatchParams::default(), &Patch::Merge(status)).await?;
    Ok(())
}

fn ignore(code: u16, result: Result<(), kube::Error>) -> Result<(), kube::Error> {
    match result {
        Err(kube::Error::Api(status)) if status.code == code => Ok(()),
        other => other,
    }
}

fn report(what: &str, ended: Result<(), watcher::Error>) {
    match ended {
        Ok(()) => eprintln!("bench: the watch of {what} ended"),
        Err(error) => eprintln!("bench: the watch of {what} ended: {error}"),
    }
}
