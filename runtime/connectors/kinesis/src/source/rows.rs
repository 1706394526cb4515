//! From records to rows: the data through the format's decoder, the rest into columns of its own.

use super::{KinesisSourceConfig, Metadata};
use crate::client::arrival_ms;
use arrow::array::{ArrayRef, StringBuilder, TimestampMicrosecondBuilder};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use aws_sdk_kinesis::types::Record;
use std::sync::Arc;
use weir_connectors::api::ConnectorError;
use weir_connectors::formats::{BadRecord, DecoderConfig, Intake, Place, beside, decoder};
use weir_model::types::{TIMESTAMP, sql_type_name};

/// Which columns come from where.
pub(super) struct RowLayout {
    schema: SchemaRef,
    /// Of the record's data.
    data_schema: SchemaRef,
    /// Place in the schema, and what it holds.
    metadata: Vec<(usize, Metadata)>,
}

/// Rows of one batch.
pub(super) struct Rows {
    layout: RowLayout,
    intake: Intake,
    columns: Vec<Column>,
}

enum Column {
    PartitionKey(StringBuilder),
    SequenceNumber(StringBuilder),
    Shard(StringBuilder),
    Timestamp(TimestampMicrosecondBuilder),
}

impl RowLayout {
    pub(super) fn of(config: &KinesisSourceConfig) -> Result<Self, ConnectorError> {
        let (mut fields, mut metadata): (Vec<Field>, _) = (vec![], vec![]);
        for (place, field) in config.schema.fields().iter().enumerate() {
            let Some((name, holds)) = config.metadata.iter().find(|(name, _)| name == field.name()) else {
                fields.push(field.as_ref().clone());
                continue;
            };
            let expected = holds.data_type();
            if *field.data_type() != expected {
                return Err(ConnectorError::Permanent(format!(
                    "column `{name}` holds a record's {holds:?} and must be of type {}, not {}",
                    sql_type_name(&expected),
                    sql_type_name(field.data_type())
                )));
            }
            metadata.push((place, *holds));
        }
        let data_schema = Arc::new(Schema::new(fields));
        if matches!(&config.format, DecoderConfig::Csv(csv) if csv.header) {
            return Err(ConnectorError::Permanent(
                "a record of CSV has no header: set `csv.header: false`, which takes the schema's columns in their order".into(),
            ));
        }
        decoder(&config.format, &data_schema)?;
        Ok(RowLayout { schema: config.schema.clone(), data_schema, metadata })
    }
}

impl Metadata {
    fn data_type(self) -> DataType {
        match self {
            Metadata::PartitionKey | Metadata::SequenceNumber | Metadata::Shard => DataType::Utf8,
            Metadata::Timestamp => TIMESTAMP,
        }
    }
}

impl Rows {
    pub(super) fn new(source: &str, layout: RowLayout, config: &KinesisSourceConfig) -> Result<Self, ConnectorError> {
        let decoder = decoder(&config.format, &layout.data_schema)?;
        let columns = layout.metadata.iter().map(|(_, holds)| Column::of(*holds)).collect();
        Ok(Rows { layout, intake: Intake::new(source, decoder, config.on_bad_record), columns })
    }

    /// Takes what one user has put: a record, or one of those inside an aggregated record.
    pub(super) fn take(
        &mut self,
        record: &Record,
        shard: &str,
        key: Option<&str>,
        data: &[u8],
    ) -> Result<(), ConnectorError> {
        let rows = self.intake.rows();
        self.intake.take(data, || place(record, shard))?;
        // Of a bad record there is no row.
        for _ in rows..self.intake.rows() {
            for column in &mut self.columns {
                column.push(record, shard, key)?;
            }
        }
        Ok(())
    }

    pub(super) fn reject(&mut self, record: &Record, shard: &str, reason: String) -> Result<(), ConnectorError> {
        let bad = BadRecord { column: None, reason };
        self.intake.reject(record.data().as_ref(), &bad, place(record, shard))
    }

    /// Rows and dead letters since the last `finish`.
    pub(super) fn taken(&self) -> usize {
        self.intake.taken()
    }

    pub(super) fn finish(&mut self) -> Result<(RecordBatch, Option<RecordBatch>), ConnectorError> {
        let (values, rejected) = self.intake.finish();
        if self.columns.is_empty() {
            return Ok((values, rejected));
        }
        let places = self.layout.metadata.iter().map(|(place, _)| *place);
        let metadata = places.zip(self.columns.iter_mut().map(Column::finish));
        Ok((beside(&values, metadata, &self.layout.schema)?, rejected))
    }

    pub(super) fn skipped(&self) -> u64 {
        self.intake.skipped()
    }
}

fn place(record: &Record, shard: &str) -> Place {
    Place { split: shard.to_owned(), position: format!("sequence number {}", record.sequence_number()) }
}

impl Column {
    fn of(holds: Metadata) -> Self {
        match holds {
            Metadata::PartitionKey => Column::PartitionKey(StringBuilder::new()),
            Metadata::SequenceNumber => Column::SequenceNumber(StringBuilder::new()),
            Metadata::Shard => Column::Shard(StringBuilder::new()),
            Metadata::Timestamp => Column::Timestamp(TimestampMicrosecondBuilder::new().with_data_type(TIMESTAMP)),
        }
    }

    fn push(&mut self, record: &Record, shard: &str, key: Option<&str>) -> Result<(), ConnectorError> {
        match self {
            Column::PartitionKey(text) => text.append_option(key),
            Column::SequenceNumber(text) => text.append_value(record.sequence_number()),
            Column::Shard(text) => text.append_value(shard),
            Column::Timestamp(time) => {
                let arrived = arrival_ms(record).ok_or_else(|| {
                    let number = record.sequence_number();
                    ConnectorError::Transient(format!("{shard}: the record {number} came without its arrival time"))
                })?;
                time.append_value(arrived.saturating_mul(1000));
            }
        }
        Ok(())
    }

    fn finish(&mut self) -> ArrayRef {
        match self {
            Column::PartitionKey(builder) | Column::SequenceNumber(builder) | Column::Shard(builder) => {
                Arc::new(builder.finish())
            }
            Column::Timestamp(builder) => Arc::new(builder.finish()),
        }
    }
}
