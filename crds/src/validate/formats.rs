//! What formats need, and which go with which connector.

use super::{Findings, standing};
use crate::streamjob::{
    OnBadRecord, SINK_FORMATS, SOURCE_FORMATS, Sink, SinkFormat, Source, SourceFormat, SourceFormatKind,
};

/// The format that a source names, as its field is called; `json` where there is none.
pub(super) fn source_format_field(source: &Source) -> &'static str {
    source.format.as_ref().and_then(|format| named_source_formats(format).first().copied()).unwrap_or("json")
}

pub(super) fn named_source_formats(format: &SourceFormat) -> Vec<&'static str> {
    let SourceFormat { json, csv, parquet, raw, avro, debezium } = format;
    standing(&[
        ("json", json.is_some()),
        ("csv", csv.is_some()),
        ("parquet", parquet.is_some()),
        ("raw", raw.is_some()),
        ("avro", avro.is_some()),
        ("debezium", debezium.is_some()),
    ])
}

pub(super) fn named_sink_formats(format: &SinkFormat) -> Vec<&'static str> {
    let SinkFormat { json, csv, parquet, raw, avro, debezium } = format;
    standing(&[
        ("json", json.is_some()),
        ("csv", csv.is_some()),
        ("parquet", parquet.is_some()),
        ("raw", raw.is_some()),
        ("avro", avro.is_some()),
        ("debezium", debezium.is_some()),
    ])
}

/// Which formats a connector reads or writes; `None` where it takes none.
fn allowed(connector: &str) -> Option<&'static [&'static str]> {
    match connector {
        "files" => Some(&["json", "csv", "parquet", "raw", "avro"]),
        "socket" => Some(&["json", "csv", "raw"]),
        "kafka" => Some(&["json", "csv", "raw", "avro", "debezium"]),
        "kinesis" => Some(&["json", "csv", "raw", "avro"]),
        "http" => Some(&["json", "csv", "raw"]),
        "print" => Some(&["json", "csv"]),
        "custom" => Some(&SOURCE_FORMATS),
        _ => None,
    }
}

fn required(connector: &str) -> bool {
    matches!(connector, "files" | "socket" | "kafka" | "kinesis" | "http")
}

pub(super) fn source_format(source: &Source, connector: &str, path: &str, findings: &mut Findings) {
    let named = source.format.as_ref().map(named_source_formats);
    connector_format(connector, named.as_deref(), &SOURCE_FORMATS, path, findings);
    let Some(format) = &source.format else { return };
    if let Some(csv) = &format.csv {
        separators(csv.delimiter.as_deref(), csv.quote.as_deref(), &format!("{path}.format.csv"), findings);
    }
    if let Some(avro) = &format.avro {
        let named = standing(&[("registry", avro.registry.is_some()), ("schema", avro.schema.is_some())]);
        findings.exactly_one(&format!("{path}.format.avro"), "origin of schemas", &named, &["registry", "schema"]);
    }
    let (field, on_bad_record, dead_letter_sink) = match format.kind() {
        Some(SourceFormatKind::Json(json)) => ("json", json.on_bad_record, &json.dead_letter_sink),
        Some(SourceFormatKind::Csv(csv)) => ("csv", csv.on_bad_record, &csv.dead_letter_sink),
        Some(SourceFormatKind::Avro(avro)) => ("avro", avro.on_bad_record, &avro.dead_letter_sink),
        Some(SourceFormatKind::Debezium(debezium)) => ("debezium", debezium.on_bad_record, &debezium.dead_letter_sink),
        Some(SourceFormatKind::Parquet | SourceFormatKind::Raw) | None => return,
    };
    match (on_bad_record == Some(OnBadRecord::DeadLetter), dead_letter_sink) {
        (true, None) => findings.error(
            format!("{path}.format.{field}.deadLetterSink"),
            "onBadRecord: DeadLetter needs a sink for the bad records",
            "add `deadLetterSink` with the name of a sink that has no `from`",
        ),
        (false, Some(_)) => findings.error(
            format!("{path}.format.{field}.deadLetterSink"),
            "a deadLetterSink without onBadRecord: DeadLetter gets nothing",
            "add `onBadRecord: DeadLetter`, or remove deadLetterSink",
        ),
        (true, Some(_)) | (false, None) => {}
    }
}

pub(super) fn sink_format(sink: &Sink, connector: &str, path: &str, findings: &mut Findings) {
    let named = sink.format.as_ref().map(named_sink_formats);
    connector_format(connector, named.as_deref(), &SINK_FORMATS, path, findings);
    avro_sink(sink, connector, path, findings);
    if let Some(csv) = sink.format.as_ref().and_then(|format| format.csv.as_ref()) {
        separators(csv.delimiter.as_deref(), csv.quote.as_deref(), &format!("{path}.format.csv"), findings);
    }
}

/// Whoever reads a message has to know its schema.
fn avro_sink(sink: &Sink, connector: &str, path: &str, findings: &mut Findings) {
    let Some(avro) = sink.format.as_ref().and_then(|format| format.avro.as_ref()) else { return };
    if connector == "kafka" && avro.registry.is_none() && avro.schema.is_none() {
        findings.error(
            format!("{path}.format.avro"),
            "nobody could tell by which schema the messages are to be read",
            "add `registry`, in which the schema is registered, or the `schema` to write with",
        );
    }
}

fn connector_format(connector: &str, named: Option<&[&str]>, all: &[&str], path: &str, findings: &mut Findings) {
    let path = format!("{path}.format");
    match (named, allowed(connector)) {
        (None, Some(formats)) if required(connector) => {
            findings.error(
                path,
                format!("{connector} needs a format"),
                format!("add `format` with one of {}", formats.join(", ")),
            );
        }
        (Some(_), None) => findings.error(path, format!("{connector} has no format"), "remove it"),
        (Some(named), Some(formats)) => {
            findings.exactly_one(&path, "format", named, all);
            if let [only] = named
                && !formats.contains(only)
            {
                let reason = format!("{connector} cannot have the format {only}");
                findings.error(format!("{path}.{only}"), reason, format!("use one of {}", formats.join(", ")));
            }
        }
        (None, _) => {}
    }
}

fn separators(delimiter: Option<&str>, quote: Option<&str>, path: &str, findings: &mut Findings) {
    for (field, value) in [("delimiter", delimiter), ("quote", quote)] {
        if let Some(value) = value
            && (value.len() != 1 || !value.is_ascii() || matches!(value, "\n" | "\r"))
        {
            findings.error(
                format!("{path}.{field}"),
                format!("{value:?} is not one ASCII character"),
                "write one, such as \",\", \";\", \"|\" or \"\\t\" in double quotes",
            );
        }
    }
    if delimiter.is_some() && delimiter == quote {
        findings.error(format!("{path}.quote"), "delimiter and quote are the same character", "change one of them");
    }
}
