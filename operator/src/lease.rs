//! One replica acts, the others wait: by a Lease, whose holder renews it. A holder that cannot renew in time ends its
//! process, so that it never acts beside its successor. The Lease names the holder's pod, too: of one that is gone, which
//! Kubernetes says only when its process has ended or somebody vouches for that, nobody need wait for.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ObjectMeta, PostParams};
use kube::{Client, ResourceExt};

/// After so long without a renewal another replica takes over.
const DURATION: Duration = Duration::from_secs(15);
const RENEWAL: Duration = Duration::from_secs(5);
/// Before the duration is over, by as much as two clocks may differ and a request may take.
const GIVE_UP: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_secs(2);
/// On the Lease: the UID of the holder's pod, whose name is the holder's identity.
const POD_ANNOTATION: &str = "weir.dev/holder-pod-uid";

pub struct Election {
    api: Api<Lease>,
    pods: Api<Pod>,
    name: String,
    identity: String,
    /// Outside of a cluster there is none.
    pod_uid: Option<String>,
}

impl Election {
    pub fn new(client: Client, namespace: &str, name: &str, identity: &str, pod_uid: Option<String>) -> Self {
        Election {
            api: Api::namespaced(client.clone(), namespace),
            pods: Api::namespaced(client, namespace),
            name: name.to_owned(),
            identity: identity.to_owned(),
            pod_uid,
        }
    }

    /// Waits until this replica leads.
    pub async fn win(&self) {
        // Whose renewal was seen last, and when by this clock: the holder's clock is not compared with.
        let mut seen: Option<(Option<MicroTime>, tokio::time::Instant)> = None;
        loop {
            match self.try_acquire(&mut seen).await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, "the lease could not be asked for"),
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Renews until that has failed for too long.
    pub async fn hold(&self) {
        let mut renewed = tokio::time::Instant::now();
        loop {
            tokio::time::sleep(RENEWAL.min(RETRY)).await;
            match tokio::time::timeout(RENEWAL, self.renew()).await {
                Ok(Ok(true)) => renewed = tokio::time::Instant::now(),
                Ok(Ok(false)) => {
                    tracing::error!("another replica has the lease");
                    return;
                }
                Ok(Err(error)) => tracing::warn!(%error, "the lease could not be renewed"),
                Err(_) => tracing::warn!("the lease could not be renewed in time"),
            }
            if renewed.elapsed() > GIVE_UP {
                tracing::error!("the lease was not renewed for {} s", GIVE_UP.as_secs());
                return;
            }
        }
    }

    async fn try_acquire(
        &self,
        seen: &mut Option<(Option<MicroTime>, tokio::time::Instant)>,
    ) -> Result<bool, kube::Error> {
        let Some(mut lease) = self.api.get_opt(&self.name).await? else {
            let lease = Lease {
                metadata: ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() },
                spec: Some(self.spec(0, None)),
            };
            let lease = self.named(lease);
            return created(self.api.create(&PostParams::default(), &lease).await);
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let is_own = spec.holder_identity.as_deref() == Some(&self.identity);
        let is_free = spec.holder_identity.as_deref().unwrap_or_default().is_empty();
        if !is_own && !is_free && !self.is_gone(&lease).await? {
            let since = match seen {
                Some((renewal, since)) if *renewal == spec.renew_time => *since,
                _ => {
                    *seen = Some((spec.renew_time.clone(), tokio::time::Instant::now()));
                    return Ok(false);
                }
            };
            if since.elapsed() < DURATION {
                return Ok(false);
            }
        }
        lease.spec = Some(self.spec(spec.lease_transitions.unwrap_or_default() + i32::from(!is_own), None));
        created(self.api.replace(&self.name, &PostParams::default(), &self.named(lease)).await)
    }

    /// Whether the holder's pod is there no more. One that says nothing of its pod is waited for.
    async fn is_gone(&self, lease: &Lease) -> Result<bool, kube::Error> {
        let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref());
        let (Some(holder), Some(uid)) = (holder, lease.annotations().get(POD_ANNOTATION)) else { return Ok(false) };
        let pod = self.pods.get_metadata_opt(holder).await?;
        Ok(pod.is_none_or(|pod| pod.uid().as_ref() != Some(uid)))
    }

    /// With this replica's pod.
    fn named(&self, mut lease: Lease) -> Lease {
        match &self.pod_uid {
            Some(uid) => drop(lease.annotations_mut().insert(POD_ANNOTATION.to_owned(), uid.clone())),
            None => drop(lease.annotations_mut().remove(POD_ANNOTATION)),
        }
        lease
    }

    async fn renew(&self) -> Result<bool, kube::Error> {
        let mut lease = self.api.get(&self.name).await?;
        let spec = lease.spec.clone().unwrap_or_default();
        if spec.holder_identity.as_deref() != Some(&self.identity) {
            return Ok(false);
        }
        lease.spec = Some(self.spec(spec.lease_transitions.unwrap_or_default(), spec.acquire_time));
        created(self.api.replace(&self.name, &PostParams::default(), &lease).await)
    }

    fn spec(&self, transitions: i32, acquired: Option<MicroTime>) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            acquire_time: acquired.or_else(|| Some(now.clone())),
            renew_time: Some(now),
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        }
    }

    /// So that the next replica need not wait.
    pub async fn release(&self) {
        let Ok(mut lease) = self.api.get(&self.name).await else { return };
        let Some(spec) = lease.spec.as_mut() else { return };
        if spec.holder_identity.as_deref() == Some(&self.identity) {
            spec.holder_identity = Some(String::new());
            let _ = self.api.replace(&self.name, &PostParams::default(), &lease).await;
        }
    }
}

/// Somebody else was quicker: that is no error.
fn created(result: Result<Lease, kube::Error>) -> Result<bool, kube::Error> {
    match result {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error),
    }
}
