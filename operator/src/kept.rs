//! What of watched objects stays in memory. A pod's spec is most of a pod, and nobody here reads it.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use kube::api::ObjectMeta;
use weir_crds::{Savepoint, StreamJob};

use crate::leaving;

/// The spec once more, as the user's kubectl remembers it.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Lets go of what no decision needs.
pub trait Kept {
    fn keep_what_is_read(&mut self);
}

impl Kept for StreamJob {
    fn keep_what_is_read(&mut self) {
        trim(&mut self.metadata);
    }
}

impl Kept for Savepoint {
    fn keep_what_is_read(&mut self) {
        trim(&mut self.metadata);
    }
}

impl Kept for Pod {
    /// Who and whose it is, and how its container goes.
    fn keep_what_is_read(&mut self) {
        trim(&mut self.metadata);
        self.spec = None;
        if let Some(status) = &mut self.status {
            status.host_ip = None;
            status.host_ips = None;
            status.pod_ips = None;
            status.qos_class = None;
            status.start_time = None;
            let is_leaving = self.metadata.deletion_timestamp.is_some();
            if let Some(conditions) = &mut status.conditions {
                conditions.retain(|condition| match condition.type_.as_str() {
                    "PodScheduled" => condition.status == "False",
                    leaving::READY | leaving::DISRUPTED => is_leaving,
                    _ => false,
                });
            }
            for container in status.container_statuses.iter_mut().flatten() {
                container.image.clear();
                container.image_id.clear();
                container.container_id = None;
                container.resources = None;
                container.allocated_resources = None;
                container.volume_mounts = None;
            }
        }
    }
}

impl Kept for StatefulSet {
    /// How many pods it asks for, and how many there are.
    fn keep_what_is_read(&mut self) {
        trim(&mut self.metadata);
        if let Some(spec) = &mut self.spec {
            spec.template = PodTemplateSpec::default();
            spec.volume_claim_templates = None;
            spec.selector = Default::default();
        }
        if let Some(status) = &mut self.status {
            status.conditions = None;
        }
    }
}

fn trim(metadata: &mut ObjectMeta) {
    metadata.managed_fields = None;
    if let Some(annotations) = &mut metadata.annotations {
        annotations.remove(LAST_APPLIED);
    }
}

#[cfg(test)]
mod tests {
    use kube::ResourceExt;
    use serde_json::json;

    use super::*;
    use crate::observe::pod_state;
    use crate::world::PodState;

    #[test]
    fn what_is_decided_on_stays() {
        let mut pod: Pod = serde_json::from_value(json!({
            "metadata": {
                "name": "orders-coordinator", "uid": "1",
                "labels": {"weir.dev/job": "orders"},
                "annotations": {"weir.dev/run": "3", LAST_APPLIED: "{}"},
                "managedFields": [{"manager": "kubelet"}],
            },
            "spec": {"containers": [{"name": "weir", "image": "weir"}]},
            "status": {
                "phase": "Pending", "podIP": "10.0.0.1",
                "conditions": [
                    {"type": "Ready", "status": "False"},
                    {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no node"},
                ],
            },
        }))
        .unwrap();
        let before = pod_state(&pod);
        pod.keep_what_is_read();
        assert!(matches!(&before, PodState::Waiting { reason, .. } if reason == "Unschedulable"), "{before:?}");
        assert_eq!(pod_state(&pod), before);
        assert_eq!(pod.annotations().keys().collect::<Vec<_>>(), ["weir.dev/run"]);
        assert_eq!(pod.labels().len(), 1);
        assert_eq!((pod.uid().as_deref(), pod.spec.is_none()), (Some("1"), true));
        assert_eq!(pod.status.and_then(|status| status.pod_ip).as_deref(), Some("10.0.0.1"));
    }
}
