//! Sources.

use super::{Fault, known, postgres_url, resolve};
use crate::registry::Registry;
use arrow::datatypes::{Field, Schema, SchemaRef};
use std::sync::Arc;
use weir_connectors::api::{ConnectorError, Source};
use weir_connectors::files::{FileFormat, FilesSource, FilesSourceConfig, SourceCompression};
use weir_connectors::formats::{AvroSchemas, CsvFormat, DecoderConfig, OnBadRecord};
use weir_connectors::generator::{ColumnRule, DEFAULT_SPLITS, GeneratorConfig, GeneratorSource, RandomRule, RowOrder};
use weir_connectors::nexmark::{NexmarkConfig, NexmarkSource, NexmarkTable};
use weir_connectors::socket::{Reconnect, SocketConfig, SocketSource};
use weir_connectors_postgres::{PostgresChanges, PostgresChangesConfig, PostgresSource, PostgresSourceConfig};
use weir_crds::streamjob::{self as crd, BadRecords, Compression, SourceConnector, SourceFormatKind};
use weir_model::types::{SQL_TYPE_NAMES, parse_sql_type};

pub(super) fn set_up(source: &crd::Source, registry: &Registry) -> Result<Arc<dyn Source>, Fault> {
    let schema = schema(source)?;
    let made: Result<Arc<dyn Source>, ConnectorError> = match source.connector() {
        None => return Err(Fault::new("", "a source has exactly one connector", "name one")),
        Some(SourceConnector::Files(files)) => {
            let config = FilesSourceConfig {
                path: resolve(&files.path).display().to_string(),
                split_size_bytes: split_size_bytes(source, files),
                format: file_format(source)?,
                schema,
                compression: compression(files.compression())?,
                on_bad_record: on_bad_record(source),
                follow: files.follow(),
                poll_interval: files.poll_interval(),
            };
            FilesSource::new(config).map(|source| Arc::new(source) as _)
        }
        Some(SourceConnector::Generator(generator)) => {
            let columns = generator.columns.iter().map(column_rule).collect::<Result<_, _>>()?;
            let config = GeneratorConfig {
                schema,
                columns,
                count: generator.count,
                rows_per_second: generator.rows_per_second,
                seed: generator.seed(),
                splits: DEFAULT_SPLITS,
            };
            GeneratorSource::new(config).map(|source| Arc::new(source) as _)
        }
        Some(SourceConnector::Nexmark(nexmark)) => {
            let config = NexmarkConfig {
                table: match nexmark.table {
                    crd::NexmarkTable::Person => NexmarkTable::Person,
                    crd::NexmarkTable::Auction => NexmarkTable::Auction,
                    crd::NexmarkTable::Bid => NexmarkTable::Bid,
                    crd::NexmarkTable::All => NexmarkTable::All,
                },
                events: nexmark.events,
                events_per_second: nexmark.events_per_second,
                seed: nexmark.seed(),
                start_us: event_time_us(nexmark.start(), "nexmark.start")?,
                event_interval_ns: nexmark.event_interval().as_nanos() as i64,
            };
            NexmarkSource::new(config).map(|source| Arc::new(source) as _)
        }
        Some(SourceConnector::Socket(socket)) => {
            let FileFormat::Text(format) = file_format(source)? else {
                return Err(Fault::new("format", "lines cannot be Parquet", "use json, csv or raw"));
            };
            let config = SocketConfig {
                address: socket.address.clone(),
                format,
                schema,
                on_bad_record: on_bad_record(source),
                reconnect: Reconnect::default(),
            };
            SocketSource::new(config).map(|source| Arc::new(source) as _)
        }
        Some(SourceConnector::Kafka(kafka)) => super::kafka::source(source, kafka, schema)?,
        Some(SourceConnector::Kinesis(kinesis)) => super::kinesis::source(source, kinesis, schema)?,
        Some(SourceConnector::Postgres(postgres)) => {
            let (url, table) = (postgres_url(&postgres.url)?, postgres.table.clone());
            if postgres.bounded() {
                let config = PostgresSourceConfig { url, table, schema: source.schema.is_some().then_some(schema) };
                PostgresSource::new(config).map(|source| Arc::new(source) as _)
            } else {
                let (slot, publication) = (postgres.slot.clone(), postgres.publication.clone());
                let config = PostgresChangesConfig { url, table, schema, slot, publication };
                PostgresChanges::new(config).map(|source| Arc::new(source) as _)
            }
        }
        Some(SourceConnector::Custom(custom)) => match registry.sources.get(&custom.connector_type) {
            Some(factory) => {
                let config = custom.config.clone().unwrap_or(serde_json::Value::Object(Default::default()));
                factory(&source.name, &config)
            }
            None => {
                let reason = format!("no source of type `{}` is registered", custom.connector_type);
                return Err(Fault::new("custom.type", reason, known(registry.sources.keys())));
            }
        },
    };
    let field = source.connector().map_or("", |connector| connector.field());
    made.map_err(|error| Fault::of_connector(field, &error))
}

/// By default only what can be cut anywhere is cut: a growing file cannot, nor CSV, whose quoted values may hold line
/// breaks. Who sets a size for CSV says that they don't.
fn split_size_bytes(source: &crd::Source, files: &crd::FilesSource) -> Option<u64> {
    let kind = source.format.as_ref().and_then(|format| format.kind());
    let by_default = !files.follow() && matches!(kind, Some(SourceFormatKind::Json(_) | SourceFormatKind::Raw));
    (by_default || files.split_size.is_some()).then(|| files.split_size().bytes())
}

fn schema(source: &crd::Source) -> Result<SchemaRef, Fault> {
    let field = |column: &crd::Column| {
        let name = column.column_type.to_string();
        let data_type = parse_sql_type(&name).ok_or_else(|| {
            let reason = format!("column `{}`: the type {name} cannot be used in a job yet", column.name);
            Fault::new("schema", reason, format!("use one of {}", SQL_TYPE_NAMES.join(", ")))
        })?;
        Ok(Field::new(&column.name, data_type, column.is_nullable()))
    };
    let fields = source.columns().iter().map(field).collect::<Result<Vec<_>, Fault>>()?;
    Ok(Arc::new(Schema::new(fields)))
}

fn file_format(source: &crd::Source) -> Result<FileFormat, Fault> {
    let kind = source.format.as_ref().and_then(|format| format.kind());
    match kind {
        Some(SourceFormatKind::Parquet) => Ok(FileFormat::Parquet),
        _ => text_format(source, "files").map(FileFormat::Text),
    }
}

/// A format of text, for what holds it: files, messages.
pub(super) fn text_format(source: &crd::Source, what: &str) -> Result<DecoderConfig, Fault> {
    let kind = source.format.as_ref().and_then(|format| format.kind());
    Ok(match kind {
        Some(SourceFormatKind::Json(_)) => DecoderConfig::Json,
        Some(SourceFormatKind::Csv(csv)) => {
            let separators = csv.separators();
            DecoderConfig::Csv(CsvFormat {
                header: csv.header(),
                delimiter: separators.delimiter,
                quote: separators.quote,
                null_value: csv.null_value().to_owned(),
            })
        }
        Some(SourceFormatKind::Raw) => DecoderConfig::Raw,
        Some(SourceFormatKind::Parquet | SourceFormatKind::Avro(_) | SourceFormatKind::Debezium(_)) => {
            return Err(Fault::new("format", format!("{what} cannot have this format yet"), "use json, csv or raw"));
        }
        None => {
            return Err(Fault::new("format", "the format must be named", "add `format: {json: {}}` or another"));
        }
    })
}

/// A format of messages and records, each by itself.
pub(super) fn message_format(source: &crd::Source) -> Result<DecoderConfig, Fault> {
    if source.format.as_ref().is_some_and(|format| format.debezium.is_some()) {
        return Ok(DecoderConfig::Debezium);
    }
    let Some(avro) = source.format.as_ref().and_then(|format| format.avro.as_ref()) else {
        return text_format(source, "messages");
    };
    Ok(DecoderConfig::Avro(match &avro.schema {
        Some(schema) => AvroSchemas::One(schema.clone()),
        None => AvroSchemas::ByNumber,
    }))
}

pub(super) fn on_bad_record(source: &crd::Source) -> OnBadRecord {
    match source.format.as_ref().map(|format| format.bad_records()) {
        Some(BadRecords::Skip) => OnBadRecord::Skip,
        Some(BadRecords::DeadLetter { .. }) => OnBadRecord::DeadLetter,
        Some(BadRecords::Fail) | None => OnBadRecord::Fail,
    }
}

fn compression(compression: Compression) -> Result<SourceCompression, Fault> {
    Ok(match compression {
        Compression::Auto => SourceCompression::Auto,
        Compression::None => SourceCompression::None,
        Compression::Gzip => SourceCompression::Gzip,
        Compression::Zstd => SourceCompression::Zstd,
        Compression::Snappy | Compression::Lz4 => {
            return Err(Fault::new("files.compression", "files are not compressed so", "use Auto, None, Gzip or Zstd"));
        }
    })
}

fn column_rule(column: &crd::ColumnGenerator) -> Result<(String, ColumnRule), Fault> {
    let rule = match column.rule() {
        None => return Err(Fault::new("generator.columns", "a column has exactly one rule", "name one")),
        Some(crd::ColumnRule::Sequence(sequence)) => ColumnRule::Sequence {
            start: sequence.start(),
            step: sequence.step(),
            cardinality: sequence.cardinality,
            order: match sequence.order() {
                crd::RowOrder::Sequential => RowOrder::Sequential,
                crd::RowOrder::Mixed => RowOrder::Mixed,
            },
        },
        Some(crd::ColumnRule::Random(random)) => ColumnRule::Random(RandomRule {
            min: random.min,
            max: random.max,
            length: random.length(),
            values: random.values.clone(),
            null_ratio: random.null_ratio(),
        }),
        Some(crd::ColumnRule::Constant(constant)) => {
            ColumnRule::Constant(constant.value.clone().unwrap_or(serde_json::Value::Null))
        }
        Some(crd::ColumnRule::Time(time)) => ColumnRule::Time {
            start_us: event_time_us(time.start(), "generator.columns")?,
            step_ns: time.step().as_nanos() as i64,
            max_out_of_orderness_us: time.max_out_of_orderness().as_micros() as i64,
        },
    };
    Ok((column.name.clone(), rule))
}

/// A time in RFC 3339 as microseconds since the Unix epoch.
pub(super) fn event_time_us(text: &str, field: &'static str) -> Result<i64, Fault> {
    match chrono::DateTime::parse_from_rfc3339(text) {
        Ok(time) => Ok(time.timestamp_micros()),
        Err(error) => {
            Err(Fault::new(field, format!("`{text}` is not a time: {error}"), "write it as 2026-01-01T00:00:00Z"))
        }
    }
}
