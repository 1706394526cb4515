//! What the cluster says about the sink before anything is started.

use super::layout::Layout;
use super::{Delivery, KafkaSinkConfig, ids, subject};
use crate::failure::connector_error;
use crate::registry::{RegistryClient, incompatible};
use crate::settings::PATIENCE;
use weir_connectors::api::{ConnectorError, Probe, ProbeContext};
use weir_kafka_client::TransactionVersion;

/// What brokers allow where nobody has said otherwise, and they don't let us see it.
const DEFAULT_MAX_TIMEOUT_MS: u64 = 900_000;

pub(super) fn probe(config: &KafkaSinkConfig, context: &ProbeContext) -> Result<Probe, ConnectorError> {
    let mut probe = Probe::default();
    let mut cluster = config.cluster.client()?;
    let failed = |error| connector_error(&format!("sink `{}`", context.name), &error);
    let topic = cluster.topic(&config.topic).map_err(failed)?;
    probe.found.push(format!("topic `{}` has {} partitions", topic.name, topic.partitions.len()));
    if let Some(registry) = &config.registry
        && let Some(schema) = Layout::of(config, &context.schema)?.avro_schema(config)?
    {
        let subject = subject(&config.topic);
        let problems = RegistryClient::new(registry)?.incompatibilities(&subject, &schema)?;
        if problems.is_empty() {
            probe.found.push(format!("the schema registry {} takes the rows' schema as `{subject}`", registry.url));
        } else {
            probe.problems.push(incompatible(&subject, &problems.join("; ")));
        }
    }
    if config.delivery == Delivery::Upsert {
        let cleanup = cluster.topic_setting(&config.topic, "cleanup.policy").unwrap_or_default();
        if cleanup.as_deref().is_some_and(|policy| !policy.contains("compact")) {
            probe.found.push("the topic is not compacted: what upserts replace is kept until its retention".into());
        }
    }
    if config.delivery != Delivery::ExactlyOnce {
        return Ok(probe);
    }
    let version = match cluster.version_of_transactions().map_err(failed)? {
        TransactionVersion::V1 => 1,
        TransactionVersion::V2 => 2,
    };
    probe.found.push(format!("transactions of version {version}"));
    let limit_ms = match cluster.broker_setting("transaction.max.timeout.ms") {
        Ok(limit) => limit.and_then(|limit| limit.parse().ok()).unwrap_or(DEFAULT_MAX_TIMEOUT_MS),
        Err(error) => {
            probe.found.push(format!("transaction.max.timeout.ms cannot be asked for ({error}); taken to be 15 min"));
            DEFAULT_MAX_TIMEOUT_MS
        }
    };
    let timeout_ms = config.transaction_timeout.as_millis() as u64;
    if timeout_ms > limit_ms {
        probe.problems.push(format!(
            "transactionTimeout is {timeout_ms} ms, and the brokers allow {limit_ms} ms (transaction.max.timeout.ms): lower \
             the one or raise the other"
        ));
    } else {
        probe.found.push(format!("transactionTimeout {timeout_ms} ms, of {limit_ms} ms that the brokers allow"));
    }
    // Asks for the right to look, which aborting needs.
    let prefix = ids::prefix(config.transactional_id_prefix.as_deref(), &context.job_uid, &context.name);
    let open = cluster.open_transactions(&prefix, PATIENCE).map_err(failed)?;
    if !open.is_empty() {
        probe.found.push(format!("{} transactions `{prefix}*` are open; a start ends them", open.len()));
    }
    Ok(probe)
}
