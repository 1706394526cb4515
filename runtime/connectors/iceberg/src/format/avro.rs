//! Avro container files, as far as manifests and lists of manifests are made of it.
//! <https://avro.apache.org/docs/1.12.0/specification/#object-container-files>

use serde_json::Value;
use std::collections::HashMap;
use std::io::{Read, Write};
use weir_connectors::formats::write_avro_long;

const MAGIC: &[u8; 4] = b"Obj\x01";
const SYNC_BYTES: usize = 16;
/// Types inside types deeper than this are refused, so that no file can exhaust the stack.
const MAX_DEPTH: usize = 32;
/// What a block may be once it is decompressed.
const MAX_BLOCK_BYTES: u64 = 1 << 30;

/// A value of a record. Fields are known by their Iceberg id.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Datum {
    Null,
    Boolean(bool),
    /// Of `int` too.
    Long(i64),
    Float(f32),
    Double(f64),
    Bytes(Vec<u8>),
    String(String),
    Record(Vec<(Option<i64>, Datum)>),
    Array(Vec<Datum>),
    Map(Vec<(String, Datum)>),
}

impl Datum {
    /// The field of a record with this id.
    pub(crate) fn field(&self, id: i64) -> Option<&Datum> {
        let Datum::Record(fields) = self else { return None };
        fields.iter().find(|(field, _)| *field == Some(id)).map(|(_, value)| value)
    }

    pub(crate) fn as_long(&self) -> Option<i64> {
        if let Datum::Long(value) = self { Some(*value) } else { None }
    }
}

/// Writes values in the order of their schema.
#[derive(Default)]
pub(crate) struct Encoder(pub Vec<u8>);

impl Encoder {
    pub(crate) fn long(&mut self, value: i64) -> &mut Self {
        write_avro_long(value, &mut self.0);
        self
    }

    pub(crate) fn boolean(&mut self, value: bool) -> &mut Self {
        self.0.push(u8::from(value));
        self
    }

    pub(crate) fn bytes(&mut self, value: &[u8]) -> &mut Self {
        self.long(value.len() as i64);
        self.0.extend_from_slice(value);
        self
    }

    pub(crate) fn string(&mut self, value: &str) -> &mut Self {
        self.bytes(value.as_bytes())
    }

    /// Of the union `["null", T]`.
    pub(crate) fn null(&mut self) -> &mut Self {
        self.long(0)
    }

    /// Of the union `["null", T]`; the value follows.
    pub(crate) fn present(&mut self) -> &mut Self {
        self.long(1)
    }

    /// An array; of a map that Iceberg writes as an array of entries too.
    pub(crate) fn array<T>(&mut self, items: &[T], mut write: impl FnMut(&mut Self, &T)) -> &mut Self {
        if !items.is_empty() {
            self.long(items.len() as i64);
            for item in items {
                write(self, item);
            }
        }
        self.long(0)
    }
}

/// A file of records that are encoded already.
pub(crate) fn container(schema: &Value, metadata: &[(&str, String)], count: usize, records: &[u8]) -> Vec<u8> {
    let mut deflated = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
    // To memory.
    deflated.write_all(records).expect("memory takes every byte");
    let block = deflated.finish().expect("memory takes every byte");
    let sync: [u8; SYNC_BYTES] = rand::random();
    let (schema, codec) = (schema.to_string(), "deflate".to_owned());
    let entries: Vec<(&str, &str)> = [("avro.schema", schema.as_str()), ("avro.codec", codec.as_str())]
        .into_iter()
        .chain(metadata.iter().map(|(key, value)| (*key, value.as_str())))
        .collect();
    let mut file = Encoder(MAGIC.to_vec());
    file.array(&entries, |out, (key, value)| {
        out.string(key).string(value);
    });
    file.0.extend_from_slice(&sync);
    if count > 0 {
        file.long(count as i64).bytes(&block);
        file.0.extend_from_slice(&sync);
    }
    file.0
}

/// The records of a file.
///
/// # Errors
/// What is wrong with the file.
pub(crate) fn read(file: &[u8]) -> Result<Vec<Datum>, String> {
    let mut input = Input(file);
    if input.take(MAGIC.len())? != MAGIC {
        return Err("it is no Avro file".to_owned());
    }
    let (mut schema, mut codec) = (None, "null".to_owned());
    input.blocks(|input| {
        let (key, value) = (input.string()?, input.bytes()?);
        match key.as_str() {
            "avro.schema" => schema = Some(value.to_vec()),
            "avro.codec" => codec = String::from_utf8_lossy(value).into_owned(),
            _ => {}
        }
        Ok(())
    })?;
    let schema: Value = serde_json::from_slice(&schema.ok_or("it has no schema")?)
        .map_err(|error| format!("its schema is no JSON: {error}"))?;
    let mut named = HashMap::new();
    collect_named(&schema, &mut named, 0)?;
    let sync = input.take(SYNC_BYTES)?.to_vec();
    let mut records = vec![];
    while !input.0.is_empty() {
        let count = input.length()?;
        let block = decompress(&codec, input.bytes()?)?;
        let mut block = Input(&block);
        block.check_count(count)?;
        for _ in 0..count {
            records.push(block.value(&schema, &named, 0)?);
        }
        if input.take(SYNC_BYTES)? != sync {
            return Err("one of its blocks doesn't end where it should".to_owned());
        }
    }
    Ok(records)
}

fn decompress(codec: &str, block: &[u8]) -> Result<Vec<u8>, String> {
    let broken = |error: &dyn std::fmt::Display| format!("a block can't be decompressed ({codec}): {error}");
    let mut plain = vec![];
    match codec {
        "null" => plain.extend_from_slice(block),
        "deflate" => {
            let mut reader = flate2::read::DeflateDecoder::new(block).take(MAX_BLOCK_BYTES);
            reader.read_to_end(&mut plain).map_err(|error| broken(&error))?;
        }
        "zstandard" => {
            let reader = zstd::stream::read::Decoder::new(block).map_err(|error| broken(&error))?;
            reader.take(MAX_BLOCK_BYTES).read_to_end(&mut plain).map_err(|error| broken(&error))?;
        }
        "snappy" => {
            // A checksum stands behind it.
            let compressed = block.len().checked_sub(4).map(|end| &block[..end]).ok_or_else(|| broken(&"too short"))?;
            let length = snap::raw::decompress_len(compressed).map_err(|error| broken(&error))?;
            if length as u64 > MAX_BLOCK_BYTES {
                return Err(broken(&format!("it would be {length} bytes")));
            }
            plain = snap::raw::Decoder::new().decompress_vec(compressed).map_err(|error| broken(&error))?;
        }
        other => return Err(format!("it is compressed by `{other}`, which this sink doesn't read")),
    }
    Ok(plain)
}

/// Types that have a name, by which they may come again.
fn collect_named<'a>(schema: &'a Value, named: &mut HashMap<&'a str, &'a Value>, depth: usize) -> Result<(), String> {
    if depth > MAX_DEPTH {
        return Err("its schema is nested too deep".to_owned());
    }
    match schema {
        Value::Array(branches) => branches.iter().try_for_each(|branch| collect_named(branch, named, depth + 1)),
        Value::Object(object) => {
            if let Some(name) = object.get("name").and_then(Value::as_str)
                && matches!(object.get("type").and_then(Value::as_str), Some("record" | "fixed" | "enum"))
            {
                named.insert(name, schema);
            }
            for inner in ["type", "items", "values"] {
                if let Some(inner) = object.get(inner).filter(|inner| !inner.is_string()) {
                    collect_named(inner, named, depth + 1)?;
                }
            }
            let fields = object.get("fields").and_then(Value::as_array);
            fields
                .into_iter()
                .flatten()
                .try_for_each(|field| field.get("type").map_or(Ok(()), |inner| collect_named(inner, named, depth + 1)))
        }
        _ => Ok(()),
    }
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or("it ends too early")?;
        self.0 = rest;
        Ok(taken)
    }

    fn long(&mut self) -> Result<i64, String> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
            }
        }
        Err("a number in it is too long".to_owned())
    }

    fn length(&mut self) -> Result<usize, String> {
        usize::try_from(self.long()?).map_err(|_| "a length in it is negative".to_owned())
    }

    /// What Iceberg counts takes a byte at the least: a broken count must not fill memory with values of none.
    fn check_count(&self, count: usize) -> Result<(), String> {
        if count > self.0.len() {
            return Err(format!("it counts {count} values in {} bytes", self.0.len()));
        }
        Ok(())
    }

    fn bytes(&mut self) -> Result<&'a [u8], String> {
        let length = self.length()?;
        self.take(length)
    }

    fn string(&mut self) -> Result<String, String> {
        String::from_utf8(self.bytes()?.to_vec()).map_err(|_| "a text in it is not UTF-8".to_owned())
    }

    /// The blocks of an array or of a map.
    fn blocks(&mut self, mut item: impl FnMut(&mut Self) -> Result<(), String>) -> Result<(), String> {
        loop {
            let mut count = self.long()?;
            if count == 0 {
                return Ok(());
            }
            if count < 0 {
                // Then its size follows, for those who pass over it.
                self.long()?;
                count = count.checked_neg().ok_or("a count in it is out of range")?;
            }
            self.check_count(usize::try_from(count).unwrap_or(usize::MAX))?;
            for _ in 0..count {
                item(self)?;
            }
        }
    }

    fn value(&mut self, schema: &Value, named: &HashMap<&str, &Value>, depth: usize) -> Result<Datum, String> {
        if depth > MAX_DEPTH {
            return Err("its values are nested too deep".to_owned());
        }
        let unknown = || format!("its schema has the unknown type {schema}");
        let primitive = |name: &str, input: &mut Self| {
            Ok(Some(match name {
                "null" => Datum::Null,
                "boolean" => Datum::Boolean(input.take(1)?[0] != 0),
                "int" | "long" => Datum::Long(input.long()?),
                "float" => Datum::Float(f32::from_le_bytes(input.take(4)?.try_into().expect("four bytes"))),
                "double" => Datum::Double(f64::from_le_bytes(input.take(8)?.try_into().expect("eight bytes"))),
                "bytes" => Datum::Bytes(input.bytes()?.to_vec()),
                "string" => Datum::String(input.string()?),
                _ => return Ok::<_, String>(None),
            }))
        };
        match schema {
            Value::String(name) => match primitive(name, self)? {
                Some(value) => Ok(value),
                None => self.value(named.get(name.as_str()).ok_or_else(unknown)?, named, depth + 1),
            },
            Value::Array(branches) => {
                let branch = branches.get(self.length()?).ok_or("it takes a branch that its union doesn't have")?;
                self.value(branch, named, depth + 1)
            }
            Value::Object(object) => match object.get("type") {
                Some(Value::String(kind)) => match kind.as_str() {
                    "record" => {
                        let fields = object.get("fields").and_then(Value::as_array).ok_or_else(unknown)?;
                        let values = fields.iter().map(|field| {
                            let kind = field.get("type").ok_or_else(unknown)?;
                            let id = field.get("field-id").and_then(Value::as_i64);
                            Ok((id, self.value(kind, named, depth + 1)?))
                        });
                        Ok(Datum::Record(values.collect::<Result<_, String>>()?))
                    }
                    "array" => {
                        let (items, mut values) = (object.get("items").ok_or_else(unknown)?, vec![]);
                        self.blocks(|input| {
                            values.push(input.value(items, named, depth + 1)?);
                            Ok(())
                        })?;
                        Ok(Datum::Array(values))
                    }
                    "map" => {
                        let (kind, mut entries) = (object.get("values").ok_or_else(unknown)?, vec![]);
                        self.blocks(|input| {
                            entries.push((input.string()?, input.value(kind, named, depth + 1)?));
                            Ok(())
                        })?;
                        Ok(Datum::Map(entries))
                    }
                    "fixed" => {
                        let size = object.get("size").and_then(Value::as_u64).ok_or_else(unknown)?;
                        Ok(Datum::Bytes(self.take(size as usize)?.to_vec()))
                    }
                    "enum" => Ok(Datum::Long(self.long()?)),
                    other => primitive(other, self)?.ok_or_else(unknown),
                },
                Some(inner) => self.value(inner, named, depth + 1),
                None => Err(unknown()),
            },
            _ => Err(unknown()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn schema() -> Value {
        json!({"type": "record", "name": "r", "fields": [
            {"name": "a", "type": "long", "field-id": 1},
            {"name": "b", "type": ["null", "string"], "default": null, "field-id": 2},
            {"name": "c", "type": {"type": "array", "items": "int"}, "field-id": 3},
        ]})
    }

    #[test]
    fn what_is_written_is_read() {
        let mut records = Encoder::default();
        for value in [0, 1, -1, 63, -64, 64, i64::MAX, i64::MIN] {
            records.long(value).present().string("x").array(&[1i64, 2], |out, item| {
                out.long(*item);
            });
            records.long(value).null().array::<i64>(&[], |_, _| {});
        }
        let file = container(&schema(), &[("k", "v".to_owned())], 16, &records.0);
        let read = read(&file).unwrap();
        assert_eq!(read.len(), 16);
        assert_eq!(read[14].field(1), Some(&Datum::Long(i64::MIN)));
        assert_eq!(read[14].field(2), Some(&Datum::String("x".to_owned())));
        assert_eq!(read[14].field(3), Some(&Datum::Array(vec![Datum::Long(1), Datum::Long(2)])));
        assert_eq!(read[15].field(2), Some(&Datum::Null));
        assert_eq!(read[15].field(9), None);
    }

    #[test]
    fn a_broken_file_is_an_error() {
        let mut records = Encoder::default();
        records.long(1).null().array::<i64>(&[], |_, _| {});
        let file = container(&schema(), &[], 1, &records.0);
        for length in 0..file.len() {
            // Between two blocks a file may end.
            if let Ok(records) = read(&file[..length]) {
                assert_eq!(records, vec![], "cut at {length}");
            }
        }
        assert!(read(&file[..file.len() - 1]).is_err());
        assert!(read(b"PAR1").is_err());
    }

    #[test]
    fn a_count_without_values_is_an_error() {
        let nulls = json!({"type": "record", "name": "r", "fields": [{"name": "a", "type": "null", "field-id": 1}]});
        assert!(read(&container(&nulls, &[], 1 << 40, &[0])).unwrap_err().contains("in 1 bytes"));
        let list = json!({"type": "record", "name": "r", "fields": [
            {"name": "a", "type": {"type": "array", "items": "null"}, "field-id": 1},
        ]});
        let mut record = Encoder::default();
        record.long(1 << 40).long(0);
        assert!(read(&container(&list, &[], 1, &record.0)).unwrap_err().contains("in 1 bytes"));
    }
}
