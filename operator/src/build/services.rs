//! How pods find each other, and what protects them.

use ring::hmac::{HMAC_SHA256, Key, sign};
use serde_json::json;

use super::{Object, ObjectKind, Parts};
use crate::certificates::Issued;
use crate::names::{self, CONTROL_PORT, COORDINATOR, DATA_PORT, HTTPS_PORT, WORKER};

/// For workers and whoever asks the job. With addresses that are not ready: a worker that comes first waits there.
pub(super) fn coordinator(parts: &Parts<'_>) -> Object {
    let name = names::coordinator(parts.name());
    let value = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": parts.metadata(name.clone()),
        "spec": {
            "selector": names::selector(parts.name(), COORDINATOR),
            "publishNotReadyAddresses": true,
            "ports": [
                {"name": "control", "port": CONTROL_PORT, "targetPort": "control", "protocol": "TCP"},
                {"name": "https", "port": HTTPS_PORT, "targetPort": "https", "protocol": "TCP"},
            ],
        },
    });
    Object { kind: ObjectKind::Service, name, value }
}

/// Gives each worker its name.
pub(super) fn workers(parts: &Parts<'_>) -> Object {
    let name = names::workers(parts.name());
    let value = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": parts.metadata(name.clone()),
        "spec": {
            "clusterIP": "None",
            "selector": names::selector(parts.name(), WORKER),
            "publishNotReadyAddresses": true,
            "ports": [{"name": "data", "port": DATA_PORT, "targetPort": "data", "protocol": "TCP"}],
        },
    });
    Object { kind: ObjectKind::Service, name, value }
}

/// A drain takes one worker at a time: each costs the job a restart from its last checkpoint.
pub(super) fn disruption_budget(parts: &Parts<'_>) -> Object {
    let name = names::workers(parts.name());
    let value = json!({
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": parts.metadata(name.clone()),
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": names::selector(parts.name(), WORKER)}},
    });
    Object { kind: ObjectKind::PodDisruptionBudget, name, value }
}

/// Control plane and data are for the job's own pods. The REST API asks for its token.
pub(super) fn network_policy(parts: &Parts<'_>) -> Object {
    let name = names::pods(parts.name());
    let own = json!([{"podSelector": {"matchLabels": names::job_selector(parts.name())}}]);
    let value = json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": parts.metadata(name.clone()),
        "spec": {
            "podSelector": {"matchLabels": names::job_selector(parts.name())},
            "policyTypes": ["Ingress"],
            "ingress": [
                {"from": own, "ports": [{"port": CONTROL_PORT, "protocol": "TCP"}, {"port": DATA_PORT, "protocol": "TCP"}]},
                {"ports": [{"port": HTTPS_PORT, "protocol": "TCP"}]},
            ],
        },
    });
    Object { kind: ObjectKind::NetworkPolicy, name, value }
}

/// What the coordinator asks for before it is changed. The operator can make it again at any time, and so never has to
/// read a Secret.
pub(super) fn token(parts: &Parts<'_>) -> Object {
    let name = names::token(parts.name());
    let value = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": parts.metadata(name.clone()),
        "type": "Opaque",
        "stringData": {"token": token_of(&parts.settings.token_key, parts.namespace(), parts.name())},
    });
    Object { kind: ObjectKind::Secret, name, value }
}

/// The certificates of a job's pods, as `weir` reads them.
pub(super) fn certificates(parts: &Parts<'_>, issued: &Issued) -> Object {
    let name = names::certificates(parts.name());
    let value = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": parts.metadata(name.clone()),
        "type": "kubernetes.io/tls",
        "stringData": {"tls.crt": issued.certificate, "tls.key": issued.key, "ca.crt": issued.authority},
    });
    Object { kind: ObjectKind::Secret, name, value }
}

/// The token of a job.
pub fn token_of(key: &[u8], namespace: &str, job: &str) -> String {
    let tag = sign(&Key::new(HMAC_SHA256, key), format!("{namespace}/{job}").as_bytes());
    tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
