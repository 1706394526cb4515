//! From messages to rows: the value through the format's decoder, the rest into columns of its own.

use super::{KafkaSourceConfig, Metadata};
use crate::registry::RegistryClient;
use arrow::array::{ArrayRef, BinaryBuilder, Int32Builder, Int64Builder, StringBuilder, TimestampMicrosecondBuilder};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use std::sync::Arc;
use weir_connectors::api::ConnectorError;
use weir_connectors::formats::{BadRecord, DecoderConfig, Intake, Place, beside, decoder};
use weir_kafka_client::records::RecordView;
use weir_model::change::change_kind_field;
use weir_model::types::{TIMESTAMP, sql_type_name};

/// Which columns come from where.
pub(super) struct RowLayout {
    /// The change kind of an updating stream is last.
    schema: SchemaRef,
    /// Of the message's value.
    value_schema: SchemaRef,
    /// Place in the schema, what it holds, and whether as bytes.
    metadata: Vec<(usize, Metadata, DataType)>,
}

/// Rows of one batch.
pub(super) struct Rows {
    layout: RowLayout,
    intake: Intake,
    registry: Option<RegistryClient>,
    columns: Vec<Column>,
}

struct Column {
    holds: Metadata,
    builder: Builder,
}

enum Builder {
    Text(StringBuilder),
    Bytes(BinaryBuilder),
    Int(Int32Builder),
    BigInt(Int64Builder),
    Timestamp(TimestampMicrosecondBuilder),
}

impl RowLayout {
    pub(super) fn of(config: &KafkaSourceConfig) -> Result<Self, ConnectorError> {
        let (mut fields, mut metadata): (Vec<Field>, _) = (vec![], vec![]);
        let is_updating = config.format == DecoderConfig::Debezium;
        for (place, field) in config.schema.fields().iter().enumerate() {
            match config.metadata.iter().find(|(name, _)| name == field.name()) {
                None => fields.push(field.as_ref().clone()),
                Some((name, holds)) => {
                    let types = holds.types();
                    if !types.contains(field.data_type()) {
                        let types: Vec<String> = types.iter().map(sql_type_name).collect();
                        return Err(ConnectorError::Permanent(format!(
                            "column `{name}` holds a message's {holds:?} and must be of type {}, not {}",
                            types.join(" or "),
                            sql_type_name(field.data_type())
                        )));
                    }
                    if *holds == Metadata::Key && !field.is_nullable() {
                        return Err(ConnectorError::Permanent(format!(
                            "column `{name}` holds a message's key, which a message need not have: remove `nullable: false`"
                        )));
                    }
                    if is_updating && !holds.is_of_key() {
                        return Err(ConnectorError::Permanent(format!(
                            "column `{name}` holds a message's {holds:?}, which is another one in the message that takes a row \
                             back: with debezium only Topic, Partition and Key can be read"
                        )));
                    }
                    metadata.push((place, *holds, field.data_type().clone()));
                }
            }
        }
        let value_schema = Arc::new(Schema::new(fields));
        if matches!(&config.format, DecoderConfig::Csv(csv) if csv.header) {
            return Err(ConnectorError::Permanent(
                "a message of CSV has no header: set `csv.header: false`, which takes the schema's columns in their order".into(),
            ));
        }
        decoder(&config.format, &value_schema)?;
        let change_kind = is_updating.then(|| Arc::new(change_kind_field()));
        let columns = config.schema.fields().iter().cloned().chain(change_kind);
        let schema = Arc::new(Schema::new(columns.collect::<Vec<_>>()));
        Ok(RowLayout { schema, value_schema, metadata })
    }
}

impl Metadata {
    /// Whether all messages of a key have the same.
    fn is_of_key(self) -> bool {
        matches!(self, Metadata::Topic | Metadata::Partition | Metadata::Key)
    }

    fn types(self) -> Vec<DataType> {
        match self {
            Metadata::Topic | Metadata::Headers => vec![DataType::Utf8],
            Metadata::Partition => vec![DataType::Int32],
            Metadata::Offset => vec![DataType::Int64],
            Metadata::Timestamp => vec![TIMESTAMP],
            Metadata::Key => vec![DataType::Utf8, DataType::Binary],
        }
    }
}

impl Rows {
    pub(super) fn new(source: &str, layout: RowLayout, config: &KafkaSourceConfig) -> Result<Self, ConnectorError> {
        let decoder = decoder(&config.format, &layout.value_schema)?;
        let columns = layout.metadata.iter().map(|(_, holds, data_type)| {
            let builder = match data_type {
                DataType::Binary => Builder::Bytes(BinaryBuilder::new()),
                DataType::Int32 => Builder::Int(Int32Builder::new()),
                DataType::Int64 => Builder::BigInt(Int64Builder::new()),
                DataType::Timestamp(..) => {
                    Builder::Timestamp(TimestampMicrosecondBuilder::new().with_data_type(TIMESTAMP))
                }
                _ => Builder::Text(StringBuilder::new()),
            };
            Column { holds: *holds, builder }
        });
        let columns = columns.collect();
        let registry = config.registry.as_ref().map(RegistryClient::new).transpose()?;
        Ok(Rows { layout, intake: Intake::new(source, decoder, config.on_bad_record), registry, columns })
    }

    /// Takes one message. One without a value (a tombstone) has no row.
    #[inline]
    pub(super) fn take(&mut self, record: &RecordView<'_>, topic: &str, partition: i32) -> Result<(), ConnectorError> {
        let Some(value) = record.value else { return Ok(()) };
        let place = || Place {
            split: format!("{topic}, partition {partition}"),
            position: format!("offset {}", record.offset),
        };
        if !self.columns.is_empty() {
            let text_key = self.columns.iter().any(|column| column.is_text_key());
            if let Some(key) = record.key.filter(|_| text_key)
                && std::str::from_utf8(key).is_err()
            {
                let bad = BadRecord { column: None, reason: "the message's key is not UTF-8".into() };
                return self.intake.reject(value, &bad, place());
            }
        }
        if let Some(number) = self.intake.unknown_schema(value)
            && let Some(registry) = &mut self.registry
            && let Some(schema) = registry.schema(number)?
            && let Err(bad) = self.intake.learn_schema(number, &schema)
        {
            return self.intake.reject(value, &bad, place());
        }
        let rows = self.intake.rows();
        self.intake.take(value, place)?;
        // Of a bad record there is no row; of a change there are two.
        for _ in rows..self.intake.rows() {
            self.columns.iter_mut().for_each(|column| column.push(record, topic, partition));
        }
        Ok(())
    }

    /// Rows and dead letters since the last `finish`.
    #[inline]
    pub(super) fn taken(&self) -> usize {
        self.intake.taken()
    }

    pub(super) fn finish(&mut self) -> Result<(RecordBatch, Option<RecordBatch>), ConnectorError> {
        let (values, rejected) = self.intake.finish();
        if self.columns.is_empty() {
            return Ok((values, rejected));
        }
        let places = self.layout.metadata.iter().map(|(place, ..)| *place);
        let metadata = places.zip(self.columns.iter_mut().map(Column::finish));
        Ok((beside(&values, metadata, &self.layout.schema)?, rejected))
    }

    pub(super) fn skipped(&self) -> u64 {
        self.intake.skipped()
    }
}

impl Column {
    fn is_text_key(&self) -> bool {
        self.holds == Metadata::Key && matches!(self.builder, Builder::Text(_))
    }

    fn push(&mut self, record: &RecordView<'_>, topic: &str, partition: i32) {
        match (&mut self.builder, self.holds) {
            (Builder::Text(text), Metadata::Topic) => text.append_value(topic),
            (Builder::Text(text), Metadata::Headers) => text.append_value(headers(record)),
            // It was found to be UTF-8 before.
            (Builder::Text(text), _) => text.append_option(record.key.and_then(|key| std::str::from_utf8(key).ok())),
            (Builder::Bytes(bytes), _) => bytes.append_option(record.key),
            (Builder::Int(int), _) => int.append_value(partition),
            (Builder::BigInt(int), _) => int.append_value(record.offset),
            (Builder::Timestamp(time), _) => time.append_value(record.timestamp_ms.saturating_mul(1000)),
        }
    }

    fn finish(&mut self) -> ArrayRef {
        match &mut self.builder {
            Builder::Text(builder) => Arc::new(builder.finish()),
            Builder::Bytes(builder) => Arc::new(builder.finish()),
            Builder::Int(builder) => Arc::new(builder.finish()),
            Builder::BigInt(builder) => Arc::new(builder.finish()),
            Builder::Timestamp(builder) => Arc::new(builder.finish()),
        }
    }
}

fn headers(record: &RecordView<'_>) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let object: serde_json::Map<String, serde_json::Value> =
        record.headers().map(|(name, value)| (text(name), value.map(text).into())).collect();
    serde_json::Value::Object(object).to_string()
}
