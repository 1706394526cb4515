//! Sinks: connectors, formats and what they promise.

use std::collections::BTreeMap;

use super::{Findings, formats, human};
use crate::streamjob::{
    CheckpointMode, CheckpointPolicy, Compression, Delivery, FilesSink, ICEBERG_CATALOGS, IcebergSink, KafkaSink,
    SINK_CONNECTORS, Sink, SinkConnector, StreamJobSpec,
};

pub(super) fn check(spec: &StreamJobSpec, findings: &mut Findings) {
    for (index, sink) in spec.pipeline.sinks.iter().enumerate() {
        let path = format!("spec.pipeline.sinks[{index}]");
        let named: Vec<&str> = sink.connectors().iter().map(SinkConnector::field).collect();
        findings.exactly_one(&path, "connector", &named, &SINK_CONNECTORS);
        let Some(connector) = sink.connector() else { continue };
        formats::sink_format(sink, connector.field(), &path, findings);
        delivery(spec, sink, connector, &path, findings);
        match connector {
            SinkConnector::Files(files) => self::files(files, sink, &path, findings),
            SinkConnector::Kafka(kafka) => transaction_timeout(spec, sink, kafka, &path, findings),
            SinkConnector::Iceberg(iceberg) => self::iceberg(iceberg, spec, &path, findings),
            SinkConnector::Http(http) => {
                if http.timeout().is_zero() {
                    let reason = "no answer comes in no time";
                    findings.error(format!("{path}.http.timeout"), reason, "write 1s or more");
                }
            }
            SinkConnector::Print(_)
            | SinkConnector::Blackhole(_)
            | SinkConnector::Postgres(_)
            | SinkConnector::Custom(_) => {}
        }
    }
    shared_targets(&spec.pipeline.sinks, findings);
}

fn delivery(spec: &StreamJobSpec, sink: &Sink, connector: SinkConnector<'_>, path: &str, findings: &mut Findings) {
    let path_of_delivery = format!("{path}.delivery");
    match sink.delivery() {
        Delivery::AtLeastOnce => {}
        Delivery::ExactlyOnce => match spec.checkpoint.as_ref().map(CheckpointPolicy::mode) {
            _ if matches!(connector, SinkConnector::Print(_)) => findings.error(
                path_of_delivery,
                "what is printed cannot be taken back, so print is at least once",
                "remove `delivery`",
            ),
            _ if matches!(connector, SinkConnector::Http(_)) => findings.error(
                path_of_delivery,
                "a request cannot be taken back, so http is at least once",
                "remove `delivery`; a receiver can pass over keys that it had before (http.idempotencyHeader)",
            ),
            None => findings.error(
                path_of_delivery,
                "ExactlyOnce commits with checkpoints, and the job takes none",
                "add `checkpoint: {interval: 10s}` to the spec",
            ),
            Some(CheckpointMode::AtLeastOnce) => findings.warning(
                path_of_delivery,
                "each result is written once, but in checkpoint.mode AtLeastOnce some records may count twice in it",
                "set checkpoint.mode: ExactlyOnce",
            ),
            Some(CheckpointMode::ExactlyOnce) => {}
        },
        Delivery::Upsert => match connector {
            SinkConnector::Iceberg(_) => findings.error(
                path_of_delivery,
                "iceberg can only append: this version writes no delete files, by which a table takes rows back",
                "use ExactlyOnce, with changeKindColumn for an updating input",
            ),
            SinkConnector::Postgres(postgres) if postgres.key.is_empty() => findings.error(
                format!("{path}.postgres.key"),
                "Upsert needs to know which columns identify a row",
                "add `key: [column, ...]`",
            ),
            SinkConnector::Kafka(kafka) if kafka.key.is_empty() => findings.error(
                format!("{path}.kafka.key"),
                "Upsert needs to know which columns make the message key",
                "add `key: [column, ...]`",
            ),
            SinkConnector::Postgres(_) | SinkConnector::Kafka(_) | SinkConnector::Custom(_) => {}
            SinkConnector::Files(_)
            | SinkConnector::Print(_)
            | SinkConnector::Blackhole(_)
            | SinkConnector::Http(_) => findings.error(
                path_of_delivery,
                format!("{} has no keys to write by", connector.field()),
                "use ExactlyOnce or AtLeastOnce, with changeKindColumn for an updating input",
            ),
        },
    }
}

fn files(files: &FilesSink, sink: &Sink, path: &str, findings: &mut Findings) {
    match (files.scheme(), &files.storage) {
        (None, Some(_)) => findings.error(
            format!("{path}.files.storage"),
            "a directory needs no storage settings",
            "remove it, or write to `s3://bucket/prefix`",
        ),
        (Some(scheme), _) if scheme != "s3" => findings.error(
            format!("{path}.files.path"),
            format!("files are not written to {scheme}:// yet"),
            "use a directory or `s3://bucket/prefix`",
        ),
        (None, None) | (Some(_), _) => {}
    }
    let parquet = sink.format.as_ref().and_then(|format| format.parquet.as_ref());
    let compression_path = format!("{path}.files.compression");
    match files.compression {
        Some(Compression::Gzip | Compression::Zstd) if parquet.is_some() => {
            findings.error(
                compression_path,
                "Parquet compresses inside its files",
                "set format.parquet.compression instead",
            );
        }
        Some(compression @ (Compression::Auto | Compression::Snappy | Compression::Lz4)) => findings.error(
            compression_path,
            format!("{compression:?} is not for files that are written"),
            "use None, Gzip or Zstd",
        ),
        Some(Compression::None | Compression::Gzip | Compression::Zstd) | None => {}
    }
    if parquet.is_some_and(|parquet| parquet.compression == Some(Compression::Auto)) {
        findings.error(
            format!("{path}.format.parquet.compression"),
            "Auto is for reading",
            "use None, Snappy, Zstd, Gzip or Lz4",
        );
    }
    for (index, column) in files.partition_by.iter().enumerate() {
        if files.partition_by[..index].contains(column) {
            findings.error(
                format!("{path}.files.partitionBy[{index}]"),
                format!("`{column}` stands here twice"),
                "remove one of the two",
            );
        }
    }
    if files.rolling_max_size().bytes() == 0 {
        findings.error(
            format!("{path}.files.rolling.maxSize"),
            "no record fits into a file of no size",
            "write 1Mi or more",
        );
    }
    if files.rolling_max_age().is_zero() {
        findings.error(format!("{path}.files.rolling.maxAge"), "each file would end at once", "write 1s or more");
    }
}

fn iceberg(iceberg: &IcebergSink, spec: &StreamJobSpec, path: &str, findings: &mut Findings) {
    let path = format!("{path}.iceberg");
    findings.exactly_one(&format!("{path}.catalog"), "catalog", &iceberg.catalog.named(), &ICEBERG_CATALOGS);
    if let Some(rest) = &iceberg.catalog.rest
        && rest.token.is_some()
        && rest.credential.is_some()
    {
        let reason = "a token and a credential for which one is fetched exclude each other";
        findings.error(format!("{path}.catalog.rest.token"), reason, "remove one of the two");
    }
    if iceberg.target_file_size().bytes() == 0 {
        let reason = "no record fits into a file of no size";
        findings.error(format!("{path}.targetFileSize"), reason, "write 1Mi or more");
    }
    if iceberg.commit_interval.is_some() && spec.checkpoint.is_none() {
        findings.error(
            format!("{path}.commitInterval"),
            "the job takes no checkpoints, of which several could be committed together",
            "remove it, or add `checkpoint: {interval: 10s}` to the spec",
        );
    }
}

/// An open transaction must outlive the longest time between two commits, or the broker aborts what a checkpoint has
/// already promised.
fn transaction_timeout(spec: &StreamJobSpec, sink: &Sink, kafka: &KafkaSink, path: &str, findings: &mut Findings) {
    let Some(checkpoint) = spec.checkpoint.as_ref().filter(|_| sink.delivery() == Delivery::ExactlyOnce) else {
        return;
    };
    let (interval, timeout) = (checkpoint.interval(), checkpoint.timeout());
    let needed = interval + timeout;
    if kafka.transaction_timeout() <= needed {
        findings.error(
            format!("{path}.kafka.transactionTimeout"),
            format!(
                "{} does not exceed checkpoint interval + timeout = {} + {} = {}: the broker could abort a transaction \
                 that a checkpoint counts on",
                human(kafka.transaction_timeout()),
                human(interval),
                human(timeout),
                human(needed)
            ),
            "raise transactionTimeout (and transaction.max.timeout.ms of the brokers, 15m by default), or lower \
             checkpoint.timeout",
        );
    }
}

/// Two sinks in one place would take each other's files or transactions for their own.
fn shared_targets(sinks: &[Sink], findings: &mut Findings) {
    let mut folders: BTreeMap<(&str, Option<&str>), &str> = BTreeMap::new();
    let mut prefixes: BTreeMap<(&str, &str), &str> = BTreeMap::new();
    for (index, sink) in sinks.iter().enumerate() {
        let path = format!("spec.pipeline.sinks[{index}]");
        if let Some(files) = &sink.files
            && let endpoint = files.storage.as_ref().and_then(|storage| storage.endpoint.as_deref())
            && let Some(first) = folders.insert((files.path.trim_end_matches('/'), endpoint), &sink.name)
        {
            findings.error(
                format!("{path}.files.path"),
                format!("sink `{first}` writes into the same directory"),
                "give each sink a directory of its own",
            );
        }
        if let Some(kafka) = &sink.kafka
            && let Some(prefix) = &kafka.transactional_id_prefix
            && let Some(first) = prefixes.insert((&kafka.bootstrap_servers, prefix), &sink.name)
        {
            findings.error(
                format!("{path}.kafka.transactionalIdPrefix"),
                format!("sink `{first}` has the same: they would abort each other's transactions"),
                "give each sink its own, or leave it out",
            );
        }
    }
}
