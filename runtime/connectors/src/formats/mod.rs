//! Formats: bytes of a record in, columns out; rows in, bytes out. They know nothing of files or topics.

mod avro;
mod beside;
mod change_kinds;
mod columns;
mod csv_decoder;
mod csv_encoder;
mod debezium;
mod encoder;
mod intake;
mod json_decoder;
mod json_encoder;
mod raw;
mod text;

pub use avro::{AvroSchemas, avro_schema, write_long as write_avro_long};
pub use beside::beside;
pub use change_kinds::change_kind_symbols;
pub use encoder::{Cells, Encoder, Rows, check_encodable};
pub use intake::{Intake, Place};

pub(crate) use text::write_integer;

use crate::api::ConnectorError;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::record_batch::RecordBatch;
use weir_model::types::{SQL_TYPE_NAMES, sql_type_name};

/// How bytes become rows.
///
/// In all of them a timestamp is ISO 8601 text (`T` or a blank between date and time, an optional fraction and
/// `Z` or offset; UTC without one) or an integer: milliseconds since 1970. Bytes are base64.
#[derive(Clone, Debug, PartialEq)]
pub enum DecoderConfig {
    /// One JSON object a record. Fields that the schema lacks are passed over, a missing one is NULL. A text
    /// column takes any value: numbers, objects and arrays as their JSON text.
    Json,
    Csv(CsvFormat),
    /// The record is the schema's only column, of type VARCHAR or BYTES.
    Raw,
    /// Avro's binary encoding, a value a record.
    Avro(AvroSchemas),
    /// A change event of Debezium a record, as JSON. Behind the schema's columns the change kind stands.
    Debezium,
}

/// Comma-separated values as RFC 4180 has them: a field in quotes may hold delimiters, line ends and, doubled, quotes.
#[derive(Clone, Debug, PartialEq)]
pub struct CsvFormat {
    /// The first record names the columns, which are matched by name; without it they are the schema's, in order.
    pub header: bool,
    pub delimiter: u8,
    pub quote: u8,
    /// Stands for NULL where it isn't in quotes. An empty field that isn't in quotes is NULL too in a column
    /// of any other type than text.
    pub null_value: String,
}

impl Default for CsvFormat {
    fn default() -> Self {
        CsvFormat { header: true, delimiter: b',', quote: b'"', null_value: String::new() }
    }
}

/// How rows become bytes. Timestamps are ISO 8601 without a zone (UTC), bytes base64, NaN and infinities text.
#[derive(Clone, Debug, PartialEq)]
pub enum EncoderConfig {
    Json {
        /// Leave NULL fields out rather than write `null`.
        omit_nulls: bool,
    },
    Csv(CsvFormat),
    /// The only column, of type VARCHAR or BYTES, is the record.
    Raw,
    /// Avro's binary encoding, a value a record.
    Avro {
        /// As JSON; made of the columns if there is none.
        schema: Option<String>,
        /// The schema's number in a registry, which stands before each record (Confluent's wire format).
        number: Option<u32>,
    },
}

/// What happens to a record that can't be decoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnBadRecord {
    /// The attempt fails, with the record's place and what is wrong with it.
    #[default]
    Fail,
    /// It is counted and passed over.
    Skip,
    /// It goes out as a dead letter, and is counted.
    DeadLetter,
}

/// Turns records into rows of a schema.
pub trait Decoder: Send {
    /// Appends the row (or rows) of one record; of a bad one nothing is left behind.
    fn decode(&mut self, record: &[u8]) -> Result<(), BadRecord>;

    /// Takes the record that names the columns of all that follow, where the format has one.
    fn header(&mut self, _header: &[u8]) -> Result<(), BadRecord> {
        Ok(())
    }

    /// The number of the schema that this record was written with, where that has to be learned before it can be decoded.
    fn unknown_schema(&self, _record: &[u8]) -> Option<u32> {
        None
    }

    /// What a schema registry says of the number.
    fn learn_schema(&mut self, number: u32, _schema: &str) -> Result<(), BadRecord> {
        Err(BadRecord::new(format!("the format has no schemas, and is told one with the number {number}")))
    }

    /// Whether these bytes stand between records and are none.
    fn is_blank(&self, record: &[u8]) -> bool {
        record.is_empty()
    }

    /// Rows since the last `finish`.
    fn rows(&self) -> usize;

    fn finish(&mut self) -> RecordBatch;
}

/// Why a record has no row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadRecord {
    pub column: Option<String>,
    pub reason: String,
}

impl BadRecord {
    pub(crate) fn new(reason: impl Into<String>) -> Self {
        BadRecord { column: None, reason: reason.into() }
    }

    pub(crate) fn in_column(column: &str, reason: impl Into<String>) -> Self {
        BadRecord { column: Some(column.into()), reason: reason.into() }
    }
}

impl std::fmt::Display for BadRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.column {
            Some(column) => write!(f, "column `{column}`: {}", self.reason),
            None => f.write_str(&self.reason),
        }
    }
}

/// A column of a type that text formats can't hold.
#[derive(Clone, Debug, thiserror::Error)]
#[error(
    "column `{column}` is of type {}, which this format can't hold; it can hold {}",
    sql_type_name(data_type),
    SQL_TYPE_NAMES.join(", ")
)]
pub struct UnsupportedColumn {
    pub column: String,
    pub data_type: DataType,
}

impl From<UnsupportedColumn> for ConnectorError {
    fn from(unsupported: UnsupportedColumn) -> Self {
        ConnectorError::Permanent(unsupported.to_string())
    }
}

/// The decoder for records of this schema; an error if the format can't hold it.
pub fn decoder(config: &DecoderConfig, schema: &SchemaRef) -> Result<Box<dyn Decoder>, ConnectorError> {
    Ok(match config {
        DecoderConfig::Json => Box::new(json_decoder::JsonDecoder::new(schema)?),
        DecoderConfig::Csv(csv) => Box::new(csv_decoder::CsvDecoder::new(csv, schema)?),
        DecoderConfig::Raw => Box::new(raw::RawDecoder::new(schema)?),
        DecoderConfig::Debezium => Box::new(debezium::DebeziumDecoder::new(schema)?),
        DecoderConfig::Avro(schemas) => Box::new(avro::AvroDecoder::new(schemas, schema)?),
    })
}

/// The encoder for rows of this schema; an error if the format can't hold it.
pub fn encoder(config: &EncoderConfig, schema: &SchemaRef) -> Result<Box<dyn Encoder>, ConnectorError> {
    Ok(match config {
        EncoderConfig::Json { omit_nulls } => Box::new(json_encoder::JsonEncoder::new(schema, *omit_nulls)?),
        EncoderConfig::Csv(csv) => Box::new(csv_encoder::CsvEncoder::new(csv, schema)?),
        EncoderConfig::Raw => Box::new(raw::RawEncoder::new(schema)?),
        EncoderConfig::Avro { schema: text, number } => {
            Box::new(avro::AvroEncoder::new(text.as_deref(), *number, schema)?)
        }
    })
}
