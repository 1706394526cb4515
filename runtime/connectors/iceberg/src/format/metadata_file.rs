//! Metadata as files: where a catalog knows no more than an address, writers make the file behind it.

use super::metadata::Metadata;
use crate::permanent;
use bytes::Bytes;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use uuid::Uuid;
use weir_connectors::api::ConnectorError;

/// Files of earlier metadata that a table names, unless its properties say otherwise.
const PREVIOUS_FILES: usize = 100;
/// Of metadata that is compressed: what comes out of a broken file must not fill the memory.
const MAX_BYTES: u64 = 1 << 30;
const GZIP: [u8; 2] = [0x1f, 0x8b];
/// By the format, ids of partition fields are counted from 1000.
const LAST_PARTITION_ID: i64 = 999;

/// The metadata that comes next, and what is to be forgotten once it counts.
pub(crate) struct Next {
    pub json: Value,
    /// Files of earlier metadata that the table is set to delete.
    pub obsolete: Vec<String>,
}

/// Of a table that nothing was written to.
pub(crate) fn first(location: &str, schema: &Value, spec: &Value, now_ms: i64) -> Value {
    let highest = |fields: Option<&Value>, id: &str| {
        let fields = fields.and_then(Value::as_array).into_iter().flatten();
        fields.filter_map(|field| field.get(id)?.as_i64()).max()
    };
    json!({
        "format-version": 2,
        "table-uuid": Uuid::new_v4().to_string(),
        "location": location,
        "last-sequence-number": 0,
        "last-updated-ms": now_ms,
        "last-column-id": highest(schema.get("fields"), "id").unwrap_or(0),
        "current-schema-id": 0,
        "schemas": [schema],
        "default-spec-id": 0,
        "partition-specs": [spec],
        "last-partition-id": highest(spec.get("fields"), "field-id").unwrap_or(LAST_PARTITION_ID),
        "default-sort-order-id": 0,
        "sort-orders": [{"order-id": 0, "fields": []}],
        "properties": {},
        // None, as Iceberg's own writers say it in this version.
        "current-snapshot-id": -1,
        "refs": {},
        "snapshots": [],
        "statistics": [],
        "partition-statistics": [],
        "snapshot-log": [],
        "metadata-log": [],
    })
}

/// With a snapshot on top of the main branch. `address`: of the file that `base` came from.
pub(crate) fn with_snapshot(
    base: &Metadata,
    address: &str,
    snapshot: &Value,
    properties: &BTreeMap<String, String>,
) -> Result<Next, ConnectorError> {
    let mut json = base.0.clone();
    let number = |name: &str| snapshot.get(name).and_then(Value::as_i64);
    let (Some(table), Some(id), Some(sequence_number), Some(at_ms)) =
        (json.as_object_mut(), number("snapshot-id"), number("sequence-number"), number("timestamp-ms"))
    else {
        return permanent("the table's metadata can't be read: it is no object");
    };
    let before_ms = table.get("last-updated-ms").and_then(Value::as_i64).unwrap_or(0);
    list(table, "snapshots").push(snapshot.clone());
    list(table, "snapshot-log").push(json!({"timestamp-ms": at_ms, "snapshot-id": id}));
    let log = list(table, "metadata-log");
    log.push(json!({"timestamp-ms": before_ms, "metadata-file": address}));
    let kept = base.property("write.metadata.previous-versions-max").and_then(|text| text.parse().ok());
    let surplus = log.len().saturating_sub(kept.unwrap_or(PREVIOUS_FILES).max(1));
    let dropped = log.drain(..surplus).filter_map(|entry| Some(entry.get("metadata-file")?.as_str()?.to_owned()));
    let dropped: Vec<String> = dropped.collect();
    table.insert("last-sequence-number".to_owned(), json!(sequence_number));
    // A table's history doesn't go backward, whatever clocks say.
    table.insert("last-updated-ms".to_owned(), json!(at_ms.max(before_ms)));
    table.insert("current-snapshot-id".to_owned(), json!(id));
    // What it says of how long its snapshots are kept stays.
    let main = object(object(table, "refs"), "main");
    main.insert("snapshot-id".to_owned(), json!(id));
    main.insert("type".to_owned(), json!("branch"));
    let said = object(table, "properties");
    said.extend(properties.iter().map(|(name, value)| (name.clone(), json!(value))));
    let deletes = base.property("write.metadata.delete-after-commit.enabled") == Some("true");
    Ok(Next { json, obsolete: if deletes { dropped } else { vec![] } })
}

/// # Errors
/// What the file holds is no metadata.
pub(crate) fn parse(content: &[u8]) -> Result<Metadata, ConnectorError> {
    let unreadable = |reason: &dyn std::fmt::Display| ConnectorError::Permanent(format!("it can't be read: {reason}"));
    let json = if content.starts_with(&GZIP) {
        let mut text = vec![];
        GzDecoder::new(content).take(MAX_BYTES).read_to_end(&mut text).map_err(|error| unreadable(&error))?;
        serde_json::from_slice(&text)
    } else {
        serde_json::from_slice(content)
    };
    Metadata::parse(json.map_err(|error| unreadable(&error))?)
}

/// Name and content of the file that follows the one at `address`; None: of a table's first.
pub(crate) fn file(metadata: &Value, address: Option<&str>) -> (String, Bytes) {
    let version = address.map_or(0, |address| version_of(address) + 1);
    let codec = metadata.get("properties").and_then(|properties| properties.get("write.metadata.compression-codec"));
    let text = metadata.to_string();
    let is_gzip = codec.and_then(Value::as_str).is_some_and(|codec| codec.eq_ignore_ascii_case("gzip"));
    let (suffix, content) = match is_gzip {
        true => (".gz.metadata.json", gzip(text.as_bytes())),
        false => (".metadata.json", text.into_bytes()),
    };
    (format!("{version:05}-{}{suffix}", Uuid::new_v4()), Bytes::from(content))
}

/// `00012-<uuid>.metadata.json` is the thirteenth; who names files otherwise begins anew.
fn version_of(address: &str) -> i64 {
    let name = address.rsplit_once('/').map_or(address, |(_, name)| name);
    name.split_once('-').and_then(|(version, _)| version.parse::<u32>().ok()).map_or(-1, i64::from)
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(vec![], Compression::default());
    encoder.write_all(text).and_then(|()| encoder.finish()).expect("it is compressed in memory")
}

fn list<'a>(table: &'a mut Map<String, Value>, name: &str) -> &'a mut Vec<Value> {
    let value = table.entry(name).or_insert(Value::Null);
    if !value.is_array() {
        *value = json!([]);
    }
    value.as_array_mut().expect("made one above")
}

fn object<'a>(table: &'a mut Map<String, Value>, name: &str) -> &'a mut Map<String, Value> {
    let value = table.entry(name).or_insert(Value::Null);
    if !value.is_object() {
        *value = json!({});
    }
    value.as_object_mut().expect("made one above")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(id: i64, sequence_number: i64, at_ms: i64) -> Value {
        json!({"snapshot-id": id, "sequence-number": sequence_number, "timestamp-ms": at_ms})
    }

    fn table() -> Metadata {
        let schema = json!({"type": "struct", "schema-id": 0, "fields": [{"id": 7, "name": "n", "required": false, "type": "int"}]});
        let spec =
            json!({"spec-id": 0, "fields": [{"name": "n", "field-id": 1000, "source-id": 7, "transform": "identity"}]});
        Metadata::parse(first("s3://b/t", &schema, &spec, 10)).unwrap()
    }

    #[test]
    fn a_table_that_is_created() {
        let table = table();
        assert_eq!((&table.0["last-column-id"], &table.0["last-partition-id"]), (&json!(7), &json!(1000)));
        let uuid = table.uuid().unwrap();
        assert_eq!((uuid.len(), &uuid[14..15]), (36, "4"), "{uuid}");
        assert!("89ab".contains(&uuid[19..20]), "{uuid}");
        assert!(table.current().is_none());
        assert_eq!((table.schema().unwrap().columns.len(), table.default_spec().unwrap().fields.len()), (1, 1));
    }

    #[test]
    fn a_snapshot_is_added_and_the_rest_stays() {
        let mut base = table();
        base.0["refs"] =
            json!({"main": {"snapshot-id": 1, "type": "branch", "max-ref-age-ms": 5}, "tag": {"snapshot-id": 1}});
        base.0["unknown"] = json!({"kept": 9_007_199_254_740_993_i64});
        base.0["properties"] = json!({"theirs": "x"});
        let ours = BTreeMap::from([("ours".to_owned(), "y".to_owned())]);
        let next = with_snapshot(&base, "s3://b/t/metadata/1.json", &snapshot(4, 3, 20), &ours).unwrap().json;
        assert_eq!(next["refs"]["main"], json!({"snapshot-id": 4, "type": "branch", "max-ref-age-ms": 5}));
        assert_eq!(next["refs"]["tag"], json!({"snapshot-id": 1}));
        assert_eq!(next["properties"], json!({"theirs": "x", "ours": "y"}));
        assert_eq!(next["unknown"], base.0["unknown"]);
        assert_eq!(next["snapshot-log"], json!([{"timestamp-ms": 20, "snapshot-id": 4}]));
        assert_eq!(next["metadata-log"], json!([{"timestamp-ms": 10, "metadata-file": "s3://b/t/metadata/1.json"}]));
        let numbers = ["last-sequence-number", "last-updated-ms", "current-snapshot-id"].map(|name| &next[name]);
        assert_eq!(numbers, [&json!(3), &json!(20), &json!(4)]);
        // A clock that is behind that of the last writer.
        let late = Metadata::parse(next).unwrap();
        let next = with_snapshot(&late, "2.json", &snapshot(5, 4, 15), &ours).unwrap().json;
        assert_eq!((&next["last-updated-ms"], &next["metadata-log"][1]["timestamp-ms"]), (&json!(20), &json!(20)));
    }

    #[test]
    fn old_files_go_when_the_table_says_so() {
        let mut base = table();
        base.0["metadata-log"] = json!([{"metadata-file": "a"}, {"metadata-file": "b"}]);
        base.0["properties"] = json!({"write.metadata.previous-versions-max": "2"});
        let next = |base: &Metadata| with_snapshot(base, "c", &snapshot(1, 1, 1), &BTreeMap::new()).unwrap();
        let kept = next(&base);
        let files: Vec<_> =
            kept.json["metadata-log"].as_array().unwrap().iter().map(|entry| &entry["metadata-file"]).collect();
        assert_eq!((files, kept.obsolete.len()), (vec![&json!("b"), &json!("c")], 0));
        base.0["properties"]["write.metadata.delete-after-commit.enabled"] = json!("true");
        assert_eq!(next(&base).obsolete, ["a"]);
    }

    #[test]
    fn files_are_named_by_their_version() {
        let table = table();
        for (before, version) in [
            (None, "00000-"),
            (Some("s3://b/t/metadata/00041-x.gz.metadata.json"), "00042-"),
            (Some("v7.metadata.json"), "00000-"),
        ] {
            let (name, content) = file(&table.0, before);
            assert!(name.starts_with(version) && name.ends_with(".metadata.json") && name.len() == 56, "{name}");
            assert_eq!(parse(&content).unwrap().0, table.0);
        }
        let mut compressed = table.clone();
        compressed.0["properties"]["write.metadata.compression-codec"] = json!("gzip");
        let (name, content) = file(&compressed.0, None);
        assert!(name.ends_with(".gz.metadata.json") && content.starts_with(&GZIP), "{name}");
        assert_eq!(parse(&content).unwrap().0, compressed.0);
        assert!(parse(&content[..content.len() / 2]).unwrap_err().to_string().contains("can't be read"));
        assert!(parse(b"<html>").unwrap_err().to_string().contains("can't be read"));
    }
}
