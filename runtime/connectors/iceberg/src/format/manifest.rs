//! Manifests: lists of files; and the lists of those, one for each snapshot.

use super::avro::{self, Datum, Encoder};
use super::data_file::{ColumnFigures, DataFile, PartitionValue};
use super::metadata::Metadata;
use super::partition::PartitionSpec;
use super::schema::TableType;
use crate::permanent;
use serde_json::{Value, json};
use weir_connectors::api::ConnectorError;

/// Files that a snapshot adds.
const ADDED: i64 = 1;

/// A manifest as a list names it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ManifestEntry {
    pub path: String,
    pub length: i64,
    pub spec: i64,
    /// 0: files of rows; 1: of deletes.
    pub content: i64,
    pub sequence_number: i64,
    pub min_sequence_number: i64,
    pub added_snapshot: i64,
    /// Added, existing, deleted.
    pub files: [i64; 3],
    pub rows: [i64; 3],
    /// Of each partition field; none: unknown.
    pub partitions: Option<Vec<FieldSummary>>,
    pub key_metadata: Option<Vec<u8>>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct FieldSummary {
    pub contains_null: bool,
    pub contains_nan: Option<bool>,
    pub lower: Option<Vec<u8>>,
    pub upper: Option<Vec<u8>>,
}

/// A manifest of files that the snapshot adds, all of one partition spec.
pub(crate) fn manifest(
    metadata: &Metadata,
    snapshot: i64,
    spec: &PartitionSpec,
    files: &[&DataFile],
) -> Result<Vec<u8>, ConnectorError> {
    let schema = metadata.schema()?;
    let types = spec.results(&schema);
    let mut records = Encoder::default();
    for file in files {
        // Sequence numbers are those of the snapshot, which only its commit knows: they are inherited.
        records.long(ADDED).present().long(snapshot).null().null();
        write_file(&mut records, file, &types)?;
    }
    let about = [
        ("schema", schema.json.to_string()),
        ("schema-id", schema.id.to_string()),
        ("partition-spec", metadata.spec_fields_json(spec.id).to_string()),
        ("partition-spec-id", spec.id.to_string()),
        ("format-version", "2".to_owned()),
        ("content", "data".to_owned()),
    ];
    Ok(avro::container(&manifest_schema(spec, &types), &about, files.len(), &records.0))
}

fn write_file(out: &mut Encoder, file: &DataFile, types: &[TableType]) -> Result<(), ConnectorError> {
    let DataFile { path, rows, bytes, spec, partition, columns } = file;
    out.long(0).string(path).string("PARQUET");
    if partition.len() != types.len() {
        return permanent(format!(
            "{path} has {} partition values, and the spec {spec} has {}",
            partition.len(),
            types.len()
        ));
    }
    for (value, kind) in partition.iter().zip(types) {
        match value {
            None => {
                out.null();
            }
            Some(value) => write_partition(out.present(), value, kind, path)?,
        }
    }
    out.long(*rows as i64).long(*bytes as i64);
    let counts = |out: &mut Encoder, count: fn(&ColumnFigures) -> i64| {
        out.present().array(columns, |out, column| {
            out.long(i64::from(column.id)).long(count(column));
        });
    };
    counts(out, |column| column.values);
    counts(out, |column| column.nulls);
    let bounds = |out: &mut Encoder, bound: fn(&ColumnFigures) -> Option<&Vec<u8>>| {
        let known: Vec<_> = columns.iter().filter_map(|column| Some((column.id, bound(column)?))).collect();
        out.present().array(&known, |out, (id, bound)| {
            out.long(i64::from(*id)).bytes(bound);
        });
    };
    bounds(out, |column| column.lower.as_ref());
    bounds(out, |column| column.upper.as_ref());
    Ok(())
}

fn write_partition(
    out: &mut Encoder,
    value: &PartitionValue,
    kind: &TableType,
    path: &str,
) -> Result<(), ConnectorError> {
    match (value, kind) {
        (PartitionValue::Boolean(value), TableType::Boolean) => out.boolean(*value),
        (PartitionValue::Int(value), TableType::Int | TableType::Date | TableType::Long) => out.long(i64::from(*value)),
        (
            PartitionValue::Long(value),
            TableType::Long | TableType::Time | TableType::Timestamp | TableType::Timestamptz,
        ) => out.long(*value),
        (PartitionValue::String(value), TableType::String) => out.string(value),
        (PartitionValue::Bytes(value), TableType::Binary) => out.bytes(value),
        (PartitionValue::Bytes(value), TableType::Decimal { precision, .. }) => {
            let size = decimal_bytes(*precision);
            let sign = if value.first().is_some_and(|first| first & 0x80 != 0) { 0xff } else { 0 };
            let mut fixed = vec![sign; size.saturating_sub(value.len())];
            fixed.extend_from_slice(value);
            out.0.extend_from_slice(&fixed);
            out
        }
        (value, kind) => {
            return permanent(format!(
                "{path} has the partition value {value:?}, which is no {kind}; was the column's type changed?"
            ));
        }
    };
    Ok(())
}

/// The least number of bytes that every number of so many digits has its place in.
fn decimal_bytes(precision: u8) -> usize {
    (1..=16).find(|size| precision <= ((size * 8 - 1) as f64 * 2f64.log10()).floor() as u8).unwrap_or(16)
}

/// How a partition value stands among bounds.
fn single_value(value: &PartitionValue) -> Vec<u8> {
    match value {
        PartitionValue::Boolean(value) => vec![u8::from(*value)],
        PartitionValue::Int(value) => value.to_le_bytes().to_vec(),
        PartitionValue::Long(value) => value.to_le_bytes().to_vec(),
        PartitionValue::String(value) => value.as_bytes().to_vec(),
        PartitionValue::Bytes(value) => value.clone(),
    }
}

/// What a list says of the partitions of a manifest's files.
pub(crate) fn summaries(spec: &PartitionSpec, files: &[&DataFile]) -> Vec<FieldSummary> {
    let of_field = |index: usize| {
        let values = files.iter().map(|file| file.partition.get(index).and_then(Option::as_ref));
        let known: Vec<&PartitionValue> = values.clone().flatten().collect();
        // Unscaled numbers don't order by their bytes.
        let is_ordered = !known.iter().any(|value| matches!(value, PartitionValue::Bytes(_)));
        let bound = |value: Option<&&PartitionValue>| value.filter(|_| is_ordered).map(|value| single_value(value));
        FieldSummary {
            contains_null: values.clone().any(|value| value.is_none()),
            contains_nan: Some(false),
            lower: bound(known.iter().min()),
            upper: bound(known.iter().max()),
        }
    };
    (0..spec.fields.len()).map(of_field).collect()
}

fn manifest_schema(spec: &PartitionSpec, types: &[TableType]) -> Value {
    let partition: Vec<Value> = spec
        .fields
        .iter()
        .zip(types)
        .map(|(field, kind)| {
            let name = avro_name(&field.name);
            json!({"name": name, "type": ["null", avro_type(kind)], "default": null, "field-id": field.id})
        })
        .collect();
    let map = |name: &str, id: i64, key: i64, value: i64, kind: &str| {
        let entry = json!({"type": "record", "name": format!("k{key}_v{value}"), "fields": [
            {"name": "key", "type": "int", "field-id": key},
            {"name": "value", "type": kind, "field-id": value},
        ]});
        let map = json!({"type": "array", "items": entry, "logicalType": "map"});
        json!({"name": name, "type": ["null", map], "default": null, "field-id": id})
    };
    let optional_long =
        |name: &str, id: i64| json!({"name": name, "type": ["null", "long"], "default": null, "field-id": id});
    json!({"type": "record", "name": "manifest_entry", "fields": [
        {"name": "status", "type": "int", "field-id": 0},
        optional_long("snapshot_id", 1),
        optional_long("sequence_number", 3),
        optional_long("file_sequence_number", 4),
        {"name": "data_file", "field-id": 2, "type": {"type": "record", "name": "r2", "fields": [
            {"name": "content", "type": "int", "field-id": 134},
            {"name": "file_path", "type": "string", "field-id": 100},
            {"name": "file_format", "type": "string", "field-id": 101},
            {"name": "partition", "type": {"type": "record", "name": "r102", "fields": partition}, "field-id": 102},
            {"name": "record_count", "type": "long", "field-id": 103},
            {"name": "file_size_in_bytes", "type": "long", "field-id": 104},
            map("value_counts", 109, 119, 120, "long"),
            map("null_value_counts", 110, 121, 122, "long"),
            map("lower_bounds", 125, 126, 127, "bytes"),
            map("upper_bounds", 128, 129, 130, "bytes"),
        ]}},
    ]})
}

fn avro_type(kind: &TableType) -> Value {
    match kind {
        TableType::Boolean => json!("boolean"),
        TableType::Int => json!("int"),
        TableType::Long => json!("long"),
        TableType::Date => json!({"type": "int", "logicalType": "date"}),
        TableType::Time => json!({"type": "long", "logicalType": "time-micros"}),
        TableType::Timestamp => json!({"type": "long", "logicalType": "timestamp-micros", "adjust-to-utc": false}),
        TableType::Timestamptz => json!({"type": "long", "logicalType": "timestamp-micros", "adjust-to-utc": true}),
        TableType::Binary => json!("bytes"),
        TableType::Decimal { precision, scale } => json!({
            "type": "fixed", "name": format!("decimal_{precision}_{scale}"), "size": decimal_bytes(*precision),
            "logicalType": "decimal", "precision": precision, "scale": scale,
        }),
        TableType::Float => json!("float"),
        TableType::Double => json!("double"),
        TableType::String | TableType::Other(_) => json!("string"),
    }
}

/// What Avro lets be a name, as Iceberg's own library makes it: `_` and the code before what may not be there.
fn avro_name(name: &str) -> String {
    let mut made = String::new();
    for (index, character) in name.chars().enumerate() {
        match character {
            'a'..='z' | 'A'..='Z' | '_' => made.push(character),
            '0'..='9' if index > 0 => made.push(character),
            '0'..='9' => made.extend(['_', character]),
            other => made.push_str(&format!("_x{:X}", u32::from(other))),
        }
    }
    made
}

/// The list of a snapshot's manifests.
pub(crate) fn list(snapshot: i64, parent: Option<i64>, sequence_number: i64, entries: &[ManifestEntry]) -> Vec<u8> {
    let mut records = Encoder::default();
    for entry in entries {
        let ManifestEntry { path, length, spec, content, files, rows, partitions, key_metadata, .. } = entry;
        records.string(path).long(*length).long(*spec).long(*content);
        records.long(entry.sequence_number).long(entry.min_sequence_number).long(entry.added_snapshot);
        for count in files.iter().chain(rows) {
            records.long(*count);
        }
        match partitions {
            None => drop(records.null()),
            Some(summaries) => drop(records.present().array(summaries, |out, summary| {
                let FieldSummary { contains_null, contains_nan, lower, upper } = summary;
                out.boolean(*contains_null);
                match contains_nan {
                    None => drop(out.null()),
                    Some(value) => drop(out.present().boolean(*value)),
                }
                for bound in [lower, upper] {
                    optional_bytes(out, bound.as_deref());
                }
            })),
        }
        optional_bytes(&mut records, key_metadata.as_deref());
    }
    let about = [
        ("snapshot-id", snapshot.to_string()),
        ("parent-snapshot-id", parent.map_or("null".to_owned(), |parent| parent.to_string())),
        ("sequence-number", sequence_number.to_string()),
        ("format-version", "2".to_owned()),
    ];
    avro::container(&list_schema(), &about, entries.len(), &records.0)
}

fn optional_bytes(out: &mut Encoder, bytes: Option<&[u8]>) {
    match bytes {
        None => out.null(),
        Some(bytes) => out.present().bytes(bytes),
    };
}

fn list_schema() -> Value {
    let field = |name: &str, kind: &str, id: i64| json!({"name": name, "type": kind, "field-id": id});
    let optional = |name: &str, kind: Value, id: i64| json!({"name": name, "type": ["null", kind], "default": null, "field-id": id});
    let summary = json!({"type": "record", "name": "r508", "fields": [
        field("contains_null", "boolean", 509),
        optional("contains_nan", json!("boolean"), 518),
        optional("lower_bound", json!("bytes"), 510),
        optional("upper_bound", json!("bytes"), 511),
    ]});
    json!({"type": "record", "name": "manifest_file", "fields": [
        field("manifest_path", "string", 500),
        field("manifest_length", "long", 501),
        field("partition_spec_id", "int", 502),
        field("content", "int", 517),
        field("sequence_number", "long", 515),
        field("min_sequence_number", "long", 516),
        field("added_snapshot_id", "long", 503),
        field("added_files_count", "int", 504),
        field("existing_files_count", "int", 505),
        field("deleted_files_count", "int", 506),
        field("added_rows_count", "long", 512),
        field("existing_rows_count", "long", 513),
        field("deleted_rows_count", "long", 514),
        optional("partitions", json!({"type": "array", "items": summary, "element-id": 508}), 507),
        optional("key_metadata", json!("bytes"), 519),
    ]})
}

/// The manifests that a list names.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn read_list(file: &[u8]) -> Result<Vec<ManifestEntry>, String> {
    avro::read(file)?.iter().map(read_entry).collect()
}

fn read_entry(record: &Datum) -> Result<ManifestEntry, String> {
    let number = |id: i64| record.field(id).and_then(Datum::as_long);
    let bytes = |value: Option<&Datum>| match value {
        Some(Datum::Bytes(bytes)) => Some(bytes.clone()),
        _ => None,
    };
    let required = |id: i64| number(id).ok_or_else(|| format!("a manifest in it has no field {id}"));
    let Some(Datum::String(path)) = record.field(500) else { return Err("a manifest in it has no path".to_owned()) };
    let partitions = match record.field(507) {
        Some(Datum::Array(summaries)) => {
            let summary = |summary: &Datum| FieldSummary {
                contains_null: summary.field(509) == Some(&Datum::Boolean(true)),
                contains_nan: match summary.field(518) {
                    Some(Datum::Boolean(value)) => Some(*value),
                    _ => None,
                },
                lower: bytes(summary.field(510)),
                upper: bytes(summary.field(511)),
            };
            Some(summaries.iter().map(summary).collect())
        }
        _ => None,
    };
    Ok(ManifestEntry {
        path: path.clone(),
        length: required(501)?,
        spec: number(502).unwrap_or(0),
        content: number(517).unwrap_or(0),
        // Absent in lists of version 1, whose files are all of number 0.
        sequence_number: number(515).unwrap_or(0),
        min_sequence_number: number(516).unwrap_or(0),
        added_snapshot: required(503)?,
        files: [number(504).unwrap_or(0), number(505).unwrap_or(0), number(506).unwrap_or(0)],
        rows: [number(512).unwrap_or(0), number(513).unwrap_or(0), number(514).unwrap_or(0)],
        partitions,
        key_metadata: bytes(record.field(519)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_as_it_was_written() {
        let summary = FieldSummary { contains_null: true, contains_nan: None, lower: Some(vec![1]), upper: None };
        let plain = ManifestEntry {
            path: "s3://bucket/m0.avro".to_owned(),
            length: 4711,
            spec: 1,
            content: 0,
            sequence_number: 5,
            min_sequence_number: 3,
            added_snapshot: i64::MAX,
            files: [1, 2, 3],
            rows: [10, 20, 30],
            partitions: Some(vec![summary]),
            key_metadata: None,
        };
        let other = ManifestEntry { partitions: None, key_metadata: Some(vec![7]), ..plain.clone() };
        let entries = [plain, other];
        assert_eq!(read_list(&list(1, None, 6, &entries)).unwrap(), entries);
    }

    #[test]
    fn decimals_have_their_bytes() {
        // The greatest number of digits for each number of bytes, from the specification of Parquet.
        for (precision, bytes) in [(2, 1), (3, 2), (4, 2), (9, 4), (10, 5), (18, 8), (38, 16)] {
            assert_eq!(decimal_bytes(precision), bytes, "{precision}");
        }
    }

    #[test]
    fn names_that_avro_takes() {
        assert_eq!(avro_name("ts_day"), "ts_day");
        assert_eq!(avro_name("9 lives"), "_9_x20lives");
    }
}
