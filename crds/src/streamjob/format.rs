//! Formats: how bytes become records, and records bytes.

use kube::{KubeSchema, core::Rule};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Compression, NoOptions, SecretValue};
use crate::{
    defaults,
    rules::{DNS_LABEL_PATTERN, MAX_NAME_LENGTH, MAX_SQL_LENGTH, MAX_TEXT_LENGTH, exactly_one},
};

/// The fields of which exactly one says how a source's bytes become records.
pub const SOURCE_FORMATS: [&str; 6] = ["json", "csv", "parquet", "raw", "avro", "debezium"];
/// The fields of which exactly one says how a sink's records become bytes.
pub const SINK_FORMATS: [&str; 6] = ["json", "csv", "parquet", "raw", "avro", "debezium"];

/// The format of a source: exactly one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema, Default)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = exactly_one(&SOURCE_FORMATS))]
pub struct SourceFormat {
    /// One JSON object a line, or a message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub json: Option<JsonSourceFormat>,
    /// Comma-separated values.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub csv: Option<CsvSourceFormat>,
    /// Apache Parquet files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parquet: Option<NoOptions>,
    /// Each line or message is the only column, of type VARCHAR or BYTES.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub raw: Option<NoOptions>,
    /// Apache Avro, with a schema registry or with one schema for all messages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub avro: Option<AvroSourceFormat>,
    /// Change events of Debezium, as JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub debezium: Option<DebeziumSourceFormat>,
}

/// One JSON object a line, or a message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema, Default)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = dead_letter_sink_rule())]
pub struct JsonSourceFormat {
    /// What to do with a record that cannot be read.
    #[schemars(extend("default" = defaults::ON_BAD_RECORD))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_bad_record: Option<OnBadRecord>,
    /// With `onBadRecord: DeadLetter`: the sink that gets it. That sink has no `from`.
    #[schemars(length(min = 1, max = MAX_NAME_LENGTH), regex(pattern = DNS_LABEL_PATTERN))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_letter_sink: Option<String>,
}

/// Comma-separated values.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema, Default)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = dead_letter_sink_rule())]
pub struct CsvSourceFormat {
    /// The first line names the columns, which are then matched by name. Without it they come in the schema's order.
    #[schemars(extend("default" = defaults::CSV_HEADER))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header: Option<bool>,
    /// One ASCII character; a tab is "\t".
    #[schemars(extend("default" = defaults::CSV_DELIMITER))]
    #[schemars(length(min = 1, max = 1))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delimiter: Option<String>,
    /// One ASCII character.
    #[schemars(extend("default" = defaults::CSV_QUOTE))]
    #[schemars(length(min = 1, max = 1))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quote: Option<String>,
    /// The text that stands for NULL, where it is not in quotes: `NA`.
    #[schemars(extend("default" = defaults::CSV_NULL_VALUE))]
    #[schemars(length(max = 64))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub null_value: Option<String>,
    /// What to do with a record that cannot be read.
    #[schemars(extend("default" = defaults::ON_BAD_RECORD))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_bad_record: Option<OnBadRecord>,
    /// With `onBadRecord: DeadLetter`: the sink that gets it. That sink has no `from`.
    #[schemars(length(min = 1, max = MAX_NAME_LENGTH), regex(pattern = DNS_LABEL_PATTERN))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_letter_sink: Option<String>,
}

/// Apache Avro, with a schema registry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema, Default)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = dead_letter_sink_rule())]
pub struct AvroSourceFormat {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registry: Option<SchemaRegistry>,
    /// Without a registry: the schema that all messages are written with, as JSON.
    #[schemars(length(min = 1, max = MAX_SQL_LENGTH))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schema: Option<String>,
    /// What to do with a record that cannot be read.
    #[schemars(extend("default" = defaults::ON_BAD_RECORD))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_bad_record: Option<OnBadRecord>,
    /// With `onBadRecord: DeadLetter`: the sink that gets it. That sink has no `from`.
    #[schemars(length(min = 1, max = MAX_NAME_LENGTH), regex(pattern = DNS_LABEL_PATTERN))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_letter_sink: Option<String>,
}

/// Change events of Debezium, as JSON. The result is updating.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema, Default)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = dead_letter_sink_rule())]
pub struct DebeziumSourceFormat {
    /// What to do with a record that cannot be read.
    #[schemars(extend("default" = defaults::ON_BAD_RECORD))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_bad_record: Option<OnBadRecord>,
    /// With `onBadRecord: DeadLetter`: the sink that gets it. That sink has no `from`.
    #[schemars(length(min = 1, max = MAX_NAME_LENGTH), regex(pattern = DNS_LABEL_PATTERN))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_letter_sink: Option<String>,
}

/// A Confluent-compatible schema registry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct SchemaRegistry {
    #[schemars(length(min = 1, max = MAX_TEXT_LENGTH))]
    pub url: String,
    /// `user:password`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub basic_auth: Option<SecretValue>,
}

/// What happens to a record that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnBadRecord {
    /// The job fails, naming the record's place and what is wrong.
    Fail,
    /// It is skipped and counted.
    Skip,
    /// It goes to the sink named by `deadLetterSink`, and is counted.
    DeadLetter,
}

fn dead_letter_sink_rule() -> Rule {
    Rule::new("has(self.deadLetterSink) == (has(self.onBadRecord) && self.onBadRecord == 'DeadLetter')")
        .message("deadLetterSink belongs to onBadRecord: DeadLetter, and is required there")
}

/// The format of a sink: exactly one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema, Default)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = exactly_one(&SINK_FORMATS))]
pub struct SinkFormat {
    /// One JSON object a line, or a message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub json: Option<JsonSinkFormat>,
    /// Comma-separated values.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub csv: Option<CsvSinkFormat>,
    /// Apache Parquet files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parquet: Option<ParquetSinkFormat>,
    /// The only column, of type VARCHAR or BYTES, is the line or message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub raw: Option<NoOptions>,
    /// Apache Avro, to Kafka.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub avro: Option<AvroSinkFormat>,
    /// Change events of Debezium, as JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub debezium: Option<NoOptions>,
}

/// One JSON object a line, or a message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct JsonSinkFormat {
    /// Leave out fields that are NULL, rather than write `null`.
    #[schemars(extend("default" = false))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub omit_nulls: Option<bool>,
}

/// Comma-separated values.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct CsvSinkFormat {
    /// Begin each file with the columns' names.
    #[schemars(extend("default" = defaults::CSV_HEADER))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header: Option<bool>,
    /// One ASCII character; a tab is "\t".
    #[schemars(extend("default" = defaults::CSV_DELIMITER))]
    #[schemars(length(min = 1, max = 1))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delimiter: Option<String>,
    /// One ASCII character.
    #[schemars(extend("default" = defaults::CSV_QUOTE))]
    #[schemars(length(min = 1, max = 1))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quote: Option<String>,
    /// What is written for NULL.
    #[schemars(extend("default" = defaults::CSV_NULL_VALUE))]
    #[schemars(length(max = 64))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub null_value: Option<String>,
}

/// Apache Parquet files.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct ParquetSinkFormat {
    #[schemars(extend("default" = defaults::PARQUET_COMPRESSION))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compression: Option<Compression>,
    /// Rows in a row group.
    #[schemars(extend("default" = defaults::PARQUET_ROW_GROUP_ROWS))]
    #[schemars(range(min = 1, max = 10000000))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub row_group_rows: Option<u32>,
}

/// Apache Avro, with a schema registry or with a schema that all messages are written with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase")]
pub struct AvroSinkFormat {
    /// The schema is registered as `<topic>-value`, and its number stands before each message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registry: Option<SchemaRegistry>,
    /// The writer's schema as JSON; made from the columns if nothing is said.
    #[schemars(length(min = 1, max = MAX_SQL_LENGTH))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schema: Option<String>,
}

/// The format that a source names.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SourceFormatKind<'a> {
    Json(&'a JsonSourceFormat),
    Csv(&'a CsvSourceFormat),
    Parquet,
    Raw,
    Avro(&'a AvroSourceFormat),
    Debezium(&'a DebeziumSourceFormat),
}

/// The format that a sink names.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SinkFormatKind<'a> {
    Json(&'a JsonSinkFormat),
    Csv(&'a CsvSinkFormat),
    Parquet(&'a ParquetSinkFormat),
    Raw,
    Avro(&'a AvroSinkFormat),
    Debezium,
}

/// What a source does with bad records, with the sink where there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadRecords<'a> {
    Fail,
    Skip,
    DeadLetter { sink: &'a str },
}

impl SourceFormat {
    /// The format. `None` unless exactly one is named, which validation refuses.
    pub fn kind(&self) -> Option<SourceFormatKind<'_>> {
        let Self { json, csv, parquet, raw, avro, debezium } = self;
        only(vec![
            json.as_ref().map(SourceFormatKind::Json),
            csv.as_ref().map(SourceFormatKind::Csv),
            parquet.map(|NoOptions {}| SourceFormatKind::Parquet),
            raw.map(|NoOptions {}| SourceFormatKind::Raw),
            avro.as_ref().map(SourceFormatKind::Avro),
            debezium.as_ref().map(SourceFormatKind::Debezium),
        ])
    }

    /// What to do with a record that cannot be read. A dead letter without a sink, which validation refuses, fails.
    pub fn bad_records(&self) -> BadRecords<'_> {
        let (on_bad_record, sink) = match self.kind() {
            Some(SourceFormatKind::Json(json)) => (json.on_bad_record, &json.dead_letter_sink),
            Some(SourceFormatKind::Csv(csv)) => (csv.on_bad_record, &csv.dead_letter_sink),
            Some(SourceFormatKind::Avro(avro)) => (avro.on_bad_record, &avro.dead_letter_sink),
            Some(SourceFormatKind::Debezium(debezium)) => (debezium.on_bad_record, &debezium.dead_letter_sink),
            Some(SourceFormatKind::Parquet | SourceFormatKind::Raw) | None => (None, &None),
        };
        match (on_bad_record.unwrap_or(defaults::ON_BAD_RECORD), sink) {
            (OnBadRecord::Skip, _) => BadRecords::Skip,
            (OnBadRecord::DeadLetter, Some(sink)) => BadRecords::DeadLetter { sink },
            (OnBadRecord::DeadLetter, None) | (OnBadRecord::Fail, _) => BadRecords::Fail,
        }
    }
}

impl SinkFormat {
    /// The format. `None` unless exactly one is named, which validation refuses.
    pub fn kind(&self) -> Option<SinkFormatKind<'_>> {
        let Self { json, csv, parquet, raw, avro, debezium } = self;
        only(vec![
            json.as_ref().map(SinkFormatKind::Json),
            csv.as_ref().map(SinkFormatKind::Csv),
            parquet.as_ref().map(SinkFormatKind::Parquet),
            raw.map(|NoOptions {}| SinkFormatKind::Raw),
            avro.as_ref().map(SinkFormatKind::Avro),
            debezium.map(|NoOptions {}| SinkFormatKind::Debezium),
        ])
    }
}

/// The one choice that stands, where exactly one does.
pub(super) fn only<T>(choices: Vec<Option<T>>) -> Option<T> {
    let mut standing = choices.into_iter().flatten();
    let first = standing.next()?;
    standing.next().is_none().then_some(first)
}
