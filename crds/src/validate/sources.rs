//! Sources: connectors, columns, watermarks.

mod kinesis;

use std::collections::BTreeSet;

use regex::Regex;

use super::{Findings, formats, generator, standing};
use crate::{
    column_type::ColumnType,
    streamjob::{
        CheckpointMode, CheckpointPolicy, Compression, FilesSource, KafkaSource, MessageMetadata, PostgresSource,
        SOURCE_CONNECTORS, SocketSource, Source, SourceConnector, StartFrom, StreamJobSpec,
    },
    suggest::{list, nearest},
};

pub(super) fn check(spec: &StreamJobSpec, findings: &mut Findings) {
    for (index, source) in spec.pipeline.sources.iter().enumerate() {
        let path = format!("spec.pipeline.sources[{index}]");
        let named: Vec<&str> = source.connectors().iter().map(SourceConnector::field).collect();
        findings.exactly_one(&path, "connector", &named, &SOURCE_CONNECTORS);
        if let Some(connector) = source.connector() {
            formats::source_format(source, connector.field(), &path, findings);
            columns(source, connector, &path, findings);
            self::connector(spec, source, connector, &path, findings);
        }
        watermark(source, &path, findings);
    }
}

fn connector(
    spec: &StreamJobSpec,
    source: &Source,
    connector: SourceConnector<'_>,
    path: &str,
    findings: &mut Findings,
) {
    match connector {
        SourceConnector::Files(files) => self::files(files, source, path, findings),
        SourceConnector::Generator(rows) => generator::check(rows, source, path, findings),
        SourceConnector::Nexmark(nexmark) => {
            let path = format!("{path}.nexmark.start");
            generator::timestamp(nexmark.start.as_deref(), &path, findings);
        }
        SourceConnector::Socket(socket) => self::socket(spec, socket, path, findings),
        SourceConnector::Kafka(kafka) => self::kafka(kafka, path, findings),
        SourceConnector::Kinesis(kinesis) => kinesis::check(kinesis, spec, source, path, findings),
        SourceConnector::Postgres(postgres) => self::postgres(postgres, path, findings),
        SourceConnector::Custom(_) => {}
    }
}

fn files(files: &FilesSource, source: &Source, path: &str, findings: &mut Findings) {
    if let Some(compression @ (Compression::Snappy | Compression::Lz4)) = files.compression {
        findings.error(
            format!("{path}.files.compression"),
            format!("{compression:?} exists inside Parquet only"),
            "use Auto, None, Gzip or Zstd",
        );
    }
    let parquet = source.format.as_ref().is_some_and(|format| format.parquet.is_some());
    if parquet && matches!(files.compression, Some(Compression::Gzip | Compression::Zstd)) {
        findings.error(
            format!("{path}.files.compression"),
            "Parquet files compress by themselves and say how",
            "remove `compression`",
        );
    }
    if files.path.contains("://") && !files.path.starts_with("file://") {
        let scheme = files.path.split("://").next().unwrap_or_default();
        if !crate::streamjob::STORAGE_SCHEMES.contains(&scheme) {
            findings.error(
                format!("{path}.files.path"),
                format!("the scheme `{scheme}` is unknown"),
                "write a path, or a URI with file, s3, gs, az or hdfs",
            );
        }
    }
    if files.poll_interval.is_some_and(|interval| interval.is_zero()) {
        findings.error(format!("{path}.files.pollInterval"), "would poll without a pause", "write 100ms or more");
    }
}

fn socket(spec: &StreamJobSpec, socket: &SocketSource, path: &str, findings: &mut Findings) {
    let port =
        socket.address.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port.parse::<u16>());
    if !matches!(port, Some(Ok(1..))) {
        findings.error(
            format!("{path}.socket.address"),
            format!("`{}` is not an address", socket.address),
            "write host:port, such as localhost:9999",
        );
    }
    let exactly_once = spec.checkpoint.as_ref().map(CheckpointPolicy::mode) == Some(CheckpointMode::ExactlyOnce);
    if exactly_once && !socket.accept_at_most_once() {
        findings.error(
            format!("{path}.socket.acceptAtMostOnce"),
            "a socket cannot be read again, so its records are at most once, and the job asks for ExactlyOnce",
            "set `acceptAtMostOnce: true` to accept the loss of records in flight at a failure, or checkpoint.mode: AtLeastOnce",
        );
    }
}

fn kafka(kafka: &KafkaSource, path: &str, findings: &mut Findings) {
    let path = format!("{path}.kafka");
    let named = standing(&[("topics", kafka.topics.is_some()), ("topicPattern", kafka.topic_pattern.is_some())]);
    findings.exactly_one(&path, "choice of topics", &named, &["topics", "topicPattern"]);
    if let Some(pattern) = &kafka.topic_pattern
        && let Err(error) = Regex::new(pattern)
    {
        let first = error.to_string().lines().last().unwrap_or_default().trim().to_owned();
        findings.error(format!("{path}.topicPattern"), "not a regular expression", first);
    }
    let at_timestamp = kafka.start_from == Some(StartFrom::Timestamp);
    start_timestamp(at_timestamp, kafka.start_timestamp.as_deref(), &path, findings);
    start_offsets(kafka, &format!("{path}.startOffsets"), findings);
}

fn postgres(postgres: &PostgresSource, path: &str, findings: &mut Findings) {
    let path = format!("{path}.postgres");
    for (field, name) in [("slot", &postgres.slot), ("publication", &postgres.publication)] {
        if name.is_some() && postgres.bounded() {
            let reason = "rows that are read once need no replication";
            findings.error(format!("{path}.{field}"), reason, "remove it, or `bounded: true`");
        }
    }
    let is_slot_name = |name: &str| name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'));
    if let Some(slot) = postgres.slot.as_deref().filter(|slot| !is_slot_name(slot)) {
        let reason = format!("`{slot}` is no name of a replication slot");
        findings.error(format!("{path}.slot"), reason, "use lower-case letters, digits and underscores");
    }
}

fn start_offsets(kafka: &KafkaSource, path: &str, findings: &mut Findings) {
    let offsets = match (kafka.start_from == Some(StartFrom::Offsets), &kafka.start_offsets) {
        (true, Some(offsets)) if !offsets.is_empty() => offsets,
        (true, _) => {
            let remedy = "add them, such as `[{topic: orders, partition: 0, offset: 42}]`";
            return findings.error(path, "startFrom: Offsets needs them", remedy);
        }
        (false, Some(_)) => {
            return findings.error(path, "they belong to startFrom: Offsets", "set that, or remove them");
        }
        (false, None) => return,
    };
    let mut seen = BTreeSet::new();
    for (index, offset) in offsets.iter().enumerate() {
        let at = format!("{path}[{index}]");
        if offset.partition < 0 || offset.offset < 0 {
            findings.error(at.clone(), "partitions and offsets count from 0", "write a number from 0 on");
        }
        if !seen.insert((&offset.topic, offset.partition)) {
            let reason = format!("{}, partition {}, stands here twice", offset.topic, offset.partition);
            findings.error(at.clone(), reason, "remove one of them");
        }
        if kafka.topics.as_ref().is_some_and(|topics| !topics.contains(&offset.topic)) {
            let reason = format!("the source does not read the topic `{}`", offset.topic);
            findings.error(format!("{at}.topic"), reason, "name one of `topics`, or add it there");
        }
    }
}

fn start_timestamp(is_asked_for: bool, timestamp: Option<&str>, path: &str, findings: &mut Findings) {
    let path = format!("{path}.startTimestamp");
    match (is_asked_for, timestamp) {
        (true, None) => findings.error(path, "startFrom: Timestamp needs one", "add it, such as 2026-01-31T00:00:00Z"),
        (false, Some(_)) => findings.error(path, "belongs to startFrom: Timestamp", "set that, or remove it"),
        (_, timestamp) => generator::timestamp(timestamp, &path, findings),
    }
}

fn columns(source: &Source, connector: SourceConnector<'_>, path: &str, findings: &mut Findings) {
    let path = format!("{path}.schema");
    let mut names = BTreeSet::new();
    for (index, column) in source.columns().iter().enumerate() {
        if !names.insert(column.name.as_str()) {
            findings.error(
                format!("{path}[{index}].name"),
                format!("there are two columns `{}`", column.name),
                "remove or rename one of them",
            );
        }
    }
    if matches!(connector, SourceConnector::Nexmark(_)) && source.schema.is_some() {
        findings.error(path, "Nexmark has columns of its own", "remove `schema`");
        return;
    }
    for (index, column) in source.columns().iter().enumerate() {
        let Some(metadata) = column.metadata else { continue };
        let known: &[MessageMetadata] = match connector {
            SourceConnector::Kafka(_) => &MessageMetadata::OF_KAFKA,
            SourceConnector::Kinesis(_) => &MessageMetadata::OF_KINESIS,
            _ => {
                let reason = format!("{} has no messages with metadata", connector.field());
                findings.error(format!("{path}[{index}].metadata"), reason, "remove it");
                continue;
            }
        };
        if !known.contains(&metadata) {
            let names = known.iter().map(|known| format!("{known:?}")).collect::<Vec<_>>().join(", ");
            let reason = format!("{} has no {metadata:?}", connector.field());
            findings.error(format!("{path}[{index}].metadata"), reason, format!("use one of {names}"));
        }
    }
    let format = source.format.as_ref();
    if format.is_some_and(|format| format.raw.is_some()) {
        let of_value: Vec<_> = source.columns().iter().filter(|column| column.metadata.is_none()).collect();
        let fits = match of_value.as_slice() {
            [] => source.columns().is_empty(),
            [only] => matches!(only.column_type, ColumnType::Varchar | ColumnType::Bytes),
            _ => false,
        };
        if !fits {
            findings.error(
                path,
                "a raw record is one column of type VARCHAR or BYTES",
                "declare one, or leave `schema` out",
            );
        }
        return;
    }
    let knows_itself = match connector {
        SourceConnector::Nexmark(_) | SourceConnector::Custom(_) => true,
        // Its changes go on while the table gets other columns.
        SourceConnector::Postgres(postgres) => postgres.bounded(),
        SourceConnector::Files(_) => format.is_some_and(|format| format.parquet.is_some()),
        SourceConnector::Generator(_)
        | SourceConnector::Socket(_)
        | SourceConnector::Kafka(_)
        | SourceConnector::Kinesis(_) => false,
    };
    if source.schema.is_none() && !knows_itself {
        findings.error(path, "the columns are not known", "add `schema` with the name and type of each column");
    }
}

fn watermark(source: &Source, path: &str, findings: &mut Findings) {
    let Some(watermark) = &source.watermark else { return };
    let path = format!("{path}.watermark");
    if watermark.idle_timeout.is_some_and(|timeout| timeout.is_zero()) {
        findings.error(
            format!("{path}.idleTimeout"),
            "every input would always be idle",
            "write how long an input may be silent, or remove it",
        );
    }
    let columns = source.columns();
    if columns.is_empty() {
        return;
    }
    let path = format!("{path}.column");
    match columns.iter().find(|column| column.name == watermark.column) {
        Some(column) if column.column_type.is_timestamp() => {}
        Some(column) => findings.error(
            path,
            format!("`{}` is a {}, and a watermark runs on a TIMESTAMP", column.name, column.column_type),
            "declare the column as TIMESTAMP, or name another",
        ),
        None => {
            let names = || columns.iter().map(|column| column.name.as_str());
            let remedy = match nearest(&watermark.column, names()) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("the columns are {}", list(names())),
            };
            findings.error(path, format!("there is no column `{}` in the schema", watermark.column), remedy);
        }
    }
}
