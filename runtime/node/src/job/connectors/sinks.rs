//! Sinks.

use super::{Fault, known, postgres_url, resolve, secrets};
use crate::job::storage::object_options;
use crate::registry::Registry;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use weir_connectors::api::{ConnectorError, Sink};
use weir_connectors::blackhole::BlackholeSink;
use weir_connectors::files::{
    FilesSink, FilesSinkConfig, ObjectFilesSink, ParquetCompression, ParquetFormat, Rolling, SinkCompression,
    SinkFileFormat,
};
use weir_connectors::formats::{CsvFormat, EncoderConfig};
use weir_connectors::print::PrintSink;
use weir_connectors_http::{BodyFormat, HttpSink, HttpSinkConfig, Method};
use weir_connectors_postgres::{CommitBy, ExactlyOnce, PostgresSink, PostgresSinkConfig};
use weir_crds::streamjob::{self as crd, Compression, Delivery, SinkConnector, SinkFormatKind, StreamJobSpec};

pub(super) fn set_up(sink: &crd::Sink, spec: &StreamJobSpec, registry: &Registry) -> Result<Arc<dyn Sink>, Fault> {
    let made: Result<Arc<dyn Sink>, ConnectorError> = match sink.connector() {
        None => return Err(Fault::new("", "a sink has exactly one connector", "name one")),
        Some(SinkConnector::Files(files)) => self::files(sink, files, registry)?,
        Some(SinkConnector::Kafka(kafka)) => super::kafka::sink(sink, kafka, message_format(sink)?),
        Some(SinkConnector::Print(print)) => Ok(Arc::new(PrintSink::new(print.prefix.clone()))),
        Some(SinkConnector::Blackhole(blackhole)) => {
            Ok(Arc::new(BlackholeSink { rows_per_second: blackhole.rows_per_second }))
        }
        Some(SinkConnector::Postgres(postgres)) => self::postgres(sink, postgres)?,
        Some(SinkConnector::Iceberg(iceberg)) => super::iceberg::sink(sink, iceberg, spec, registry)?,
        Some(SinkConnector::Http(http)) => self::http(sink, http)?,
        Some(SinkConnector::Custom(custom)) => match registry.sinks.get(&custom.connector_type) {
            Some(factory) => {
                let config = custom.config.clone().unwrap_or(serde_json::Value::Object(Default::default()));
                factory(&sink.name, &config)
            }
            None => {
                let reason = format!("no sink of type `{}` is registered", custom.connector_type);
                return Err(Fault::new("custom.type", reason, known(registry.sinks.keys())));
            }
        },
    };
    let field = sink.connector().map_or("", |connector| connector.field());
    made.map_err(|error| Fault::of_connector(field, &error))
}

/// In a directory, or in a store of objects.
fn files(
    sink: &crd::Sink,
    files: &crd::FilesSink,
    registry: &Registry,
) -> Result<Result<Arc<dyn Sink>, ConnectorError>, Fault> {
    let scheme = files.scheme();
    let path = if scheme.is_some() { PathBuf::from(&files.path) } else { resolve(&files.path) };
    let config = FilesSinkConfig {
        format: file_format(sink)?,
        compression: sink_compression(files.compression())?,
        partition_by: files.partition_by.clone(),
        change_kind_column: sink.change_kind_column.clone(),
        rolling: Rolling {
            max_size_bytes: files.rolling_max_size().bytes(),
            max_age: files.rolling_max_age(),
            inactivity: files.rolling_inactivity(),
        },
        ..FilesSinkConfig::json(path)
    };
    let Some(scheme) = scheme else { return Ok(FilesSink::new(config).map(|sink| Arc::new(sink) as _)) };
    let Some(factory) = registry.object_stores.get(scheme).cloned() else {
        let reason = format!("this binary writes no files to {scheme}://");
        return Err(Fault::new("files.path", reason, known(registry.object_stores.keys())));
    };
    let storage = files.storage.clone();
    // A job is checked where its secrets need not be.
    let connect = move || {
        let options = object_options(storage.as_ref()).map_err(ConnectorError::Permanent)?;
        factory(&options)
    };
    Ok(ObjectFilesSink::new(config, Arc::new(connect)).map(|sink| Arc::new(sink) as _))
}

fn postgres(sink: &crd::Sink, postgres: &crd::PostgresSink) -> Result<Result<Arc<dyn Sink>, ConnectorError>, Fault> {
    let url = postgres_url(&postgres.url)?;
    let by = match postgres.commit_by() {
        crd::PostgresCommitBy::StagingTables => CommitBy::StagingTables,
        crd::PostgresCommitBy::PreparedTransactions => CommitBy::PreparedTransactions,
    };
    let exactly_once = ExactlyOnce { by, schema: postgres.staging_schema.clone() };
    let config = PostgresSinkConfig {
        url,
        table: postgres.table.clone(),
        key: postgres.key.clone(),
        exactly_once: (sink.delivery() == Delivery::ExactlyOnce).then_some(exactly_once),
        change_kind_column: sink.change_kind_column.clone(),
        batch_rows: postgres.batch_rows() as usize,
    };
    Ok(PostgresSink::new(config).map(|sink| Arc::new(sink) as _))
}

fn http(sink: &crd::Sink, http: &crd::HttpSink) -> Result<Result<Arc<dyn Sink>, ConnectorError>, Fault> {
    let format = match text_format(sink, "requests")? {
        EncoderConfig::Json { omit_nulls } => BodyFormat::Json { omit_nulls },
        format @ EncoderConfig::Csv(_) => BodyFormat::Lines { format, content_type: "text/csv" },
        format @ EncoderConfig::Raw => BodyFormat::Lines { format, content_type: "text/plain" },
        // `text_format` gives none.
        EncoderConfig::Avro { .. } => {
            return Err(Fault::new("format.avro", "requests are text", "use json, csv or raw"));
        }
    };
    let (mut secret_headers, mut missing_secrets) = (BTreeMap::new(), vec![]);
    for (name, value) in &http.secret_headers {
        // A job is checked where its secrets need not be.
        match secrets::value(value) {
            Ok(value) => drop(secret_headers.insert(name.clone(), value)),
            Err(reason) => missing_secrets.push(format!("the header {name}: {reason}")),
        }
    }
    let config = HttpSinkConfig {
        url: http.url.clone(),
        method: match http.method() {
            crd::HttpMethod::Post => Method::Post,
            crd::HttpMethod::Put => Method::Put,
        },
        headers: http.headers.clone(),
        secret_headers,
        missing_secrets,
        idempotency_header: http.idempotency_header().to_owned(),
        format,
        change_kind_column: sink.change_kind_column.clone(),
        batch_rows: http.batch_rows() as usize,
        timeout: http.timeout(),
        max_retries: http.max_retries(),
        ca_file: http.ca_file.as_deref().map(resolve),
    };
    Ok(HttpSink::new(config).map(|sink| Arc::new(sink) as _))
}

fn file_format(sink: &crd::Sink) -> Result<SinkFileFormat, Fault> {
    let kind = sink.format.as_ref().and_then(|format| format.kind());
    Ok(match kind {
        Some(SinkFormatKind::Parquet(parquet)) => SinkFileFormat::Parquet(ParquetFormat {
            compression: parquet_compression(parquet.compression())?,
            row_group_rows: parquet.row_group_rows() as usize,
        }),
        _ => SinkFileFormat::Text(text_format(sink, "files")?),
    })
}

fn message_format(sink: &crd::Sink) -> Result<EncoderConfig, Fault> {
    match sink.format.as_ref().and_then(|format| format.avro.as_ref()) {
        Some(avro) => Ok(EncoderConfig::Avro { schema: avro.schema.clone(), number: None }),
        None => text_format(sink, "messages"),
    }
}

/// A format of text, for what holds it: files, messages.
fn text_format(sink: &crd::Sink, what: &str) -> Result<EncoderConfig, Fault> {
    let kind = sink.format.as_ref().and_then(|format| format.kind());
    Ok(match kind {
        Some(SinkFormatKind::Json(json)) => EncoderConfig::Json { omit_nulls: json.omit_nulls() },
        Some(SinkFormatKind::Csv(csv)) => {
            let separators = csv.separators();
            EncoderConfig::Csv(CsvFormat {
                header: csv.header(),
                delimiter: separators.delimiter,
                quote: separators.quote,
                null_value: csv.null_value().to_owned(),
            })
        }
        Some(SinkFormatKind::Raw) => EncoderConfig::Raw,
        Some(SinkFormatKind::Parquet(_) | SinkFormatKind::Avro(_) | SinkFormatKind::Debezium) => {
            return Err(Fault::new("format", format!("{what} cannot have this format yet"), "use json, csv or raw"));
        }
        None => {
            return Err(Fault::new("format", "the format must be named", "add `format: {json: {}}` or another"));
        }
    })
}

fn sink_compression(compression: Compression) -> Result<SinkCompression, Fault> {
    Ok(match compression {
        Compression::None => SinkCompression::None,
        Compression::Gzip => SinkCompression::Gzip,
        Compression::Zstd => SinkCompression::Zstd,
        Compression::Auto | Compression::Snappy | Compression::Lz4 => {
            return Err(Fault::new("files.compression", "files are not compressed so", "use None, Gzip or Zstd"));
        }
    })
}

fn parquet_compression(compression: Compression) -> Result<ParquetCompression, Fault> {
    Ok(match compression {
        Compression::None => ParquetCompression::None,
        Compression::Gzip => ParquetCompression::Gzip,
        Compression::Zstd => ParquetCompression::Zstd,
        Compression::Snappy => ParquetCompression::Snappy,
        Compression::Lz4 => ParquetCompression::Lz4,
        Compression::Auto => {
            return Err(Fault::new("format.parquet.compression", "there is nothing to tell it from", "name one"));
        }
    })
}
