//! Avro records into columns, by the schema that each was written with.
//!
//! Fields go to the columns of their names: one that no column has is passed over, a column that the writer did not know
//! is NULL, and a value may be narrower than its column.

mod cursor;
mod encoder;
mod schema;
#[cfg(test)]
mod tests;

pub(super) use encoder::AvroEncoder;
pub use encoder::{avro_schema, write_long};

use super::columns::ColumnBuilder;
use super::text::write_base64;
use super::{BadRecord, Decoder, UnsupportedColumn, columns};
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use cursor::Cursor;
use schema::{AvroSchema, Type, TypeId};
use serde_json::{Map, Value};
use std::collections::HashMap;

/// Values inside values.
const MAX_DEPTH: usize = 64;
/// Of an array or a map: elements may take no bytes at all.
const MAX_ELEMENTS: usize = 1 << 20;
/// Before a message of a schema registry's: a zero, and the schema's number.
const MAGIC: u8 = 0;
const HEADER_BYTES: usize = 5;

/// Where the schema that a record was written with is found.
#[derive(Clone, Debug, PartialEq)]
pub enum AvroSchemas {
    /// All records have this one, as JSON.
    One(String),
    /// Each record begins with the number of its schema (Confluent's wire format), which whoever drives the decoder
    /// looks up.
    ByNumber,
}

pub(super) struct AvroDecoder {
    schema: SchemaRef,
    columns: Vec<ColumnBuilder>,
    rows: usize,
    is_by_number: bool,
    writers: HashMap<u32, Writer>,
}

/// How records of one schema are read.
struct Writer {
    schema: AvroSchema,
    /// In the order of the bytes: the column that takes the field, and its type.
    fields: Vec<(Option<usize>, TypeId)>,
    /// Columns that no field has.
    absent: Vec<usize>,
}

impl AvroDecoder {
    pub(super) fn new(schemas: &AvroSchemas, schema: &SchemaRef) -> Result<Self, AvroError> {
        let columns = schema.fields().iter().map(|field| ColumnBuilder::new(field)).collect::<Result<_, _>>()?;
        let is_by_number = *schemas == AvroSchemas::ByNumber;
        let mut decoder =
            AvroDecoder { schema: schema.clone(), columns, rows: 0, is_by_number, writers: HashMap::new() };
        if let AvroSchemas::One(text) = schemas {
            let writer = decoder.writer(text).map_err(AvroError::Schema)?;
            decoder.writers.insert(0, writer);
        }
        Ok(decoder)
    }

    fn writer(&self, text: &str) -> Result<Writer, String> {
        let schema = AvroSchema::parse(text)?;
        let column = |name: &str| self.columns.iter().position(|column| column.name() == name);
        let fields: Vec<_> = schema.fields()?.iter().map(|(name, of)| (column(name), *of)).collect();
        let is_absent = |column: &usize| !fields.iter().any(|(field, _)| *field == Some(*column));
        let absent = (0..self.columns.len()).filter(is_absent).collect();
        Ok(Writer { schema, fields, absent })
    }

    fn row(&mut self, record: &[u8]) -> Result<(), BadRecord> {
        let (number, body) = match (self.is_by_number, number_of(record)) {
            (false, _) => (0, record),
            (true, Some(number)) => (number, &record[HEADER_BYTES..]),
            (true, None) => {
                return Err(BadRecord::new(
                    "it does not begin with a zero byte and the number of a schema in a registry",
                ));
            }
        };
        let Some(Writer { schema, fields, absent }) = self.writers.get(&number) else {
            return Err(BadRecord::new(format!("the registry has no schema {number}")));
        };
        let mut cursor = Cursor::new(body);
        for (column, of) in fields {
            match column {
                Some(column) => value(&mut cursor, schema, *of, &mut self.columns[*column], 0)?,
                None => skip(&mut cursor, schema, *of, 0)?,
            }
        }
        if !cursor.is_at_end() {
            return Err(BadRecord::new(format!(
                "{} bytes are left behind the record: it was written with another schema",
                cursor.left()
            )));
        }
        absent.iter().try_for_each(|column| self.columns[*column].push_null())
    }
}

impl Decoder for AvroDecoder {
    fn decode(&mut self, record: &[u8]) -> Result<(), BadRecord> {
        let decoded = self.row(record);
        match decoded {
            Ok(()) => self.rows += 1,
            Err(_) => self.columns.iter_mut().for_each(|column| column.truncate(self.rows)),
        }
        decoded
    }

    fn unknown_schema(&self, record: &[u8]) -> Option<u32> {
        number_of(record).filter(|number| self.is_by_number && !self.writers.contains_key(number))
    }

    fn learn_schema(&mut self, number: u32, text: &str) -> Result<(), BadRecord> {
        let writer = self.writer(text).map_err(|reason| BadRecord::new(format!("schema {number}: {reason}")))?;
        self.writers.insert(number, writer);
        Ok(())
    }

    fn is_blank(&self, _record: &[u8]) -> bool {
        false
    }

    fn rows(&self) -> usize {
        self.rows
    }

    fn finish(&mut self) -> RecordBatch {
        self.rows = 0;
        columns::into_batch(&self.schema, &mut self.columns)
    }
}

/// Why there is no decoder.
#[derive(Debug, thiserror::Error)]
pub(super) enum AvroError {
    #[error(transparent)]
    Column(#[from] UnsupportedColumn),
    #[error("{0}")]
    Schema(String),
}

impl From<AvroError> for crate::api::ConnectorError {
    fn from(error: AvroError) -> Self {
        crate::api::ConnectorError::Permanent(error.to_string())
    }
}

fn number_of(record: &[u8]) -> Option<u32> {
    let header: [u8; HEADER_BYTES] = record.get(..HEADER_BYTES)?.try_into().ok()?;
    let [magic, number @ ..] = header;
    (magic == MAGIC).then(|| u32::from_be_bytes(number))
}

fn value(
    cursor: &mut Cursor<'_>,
    schema: &AvroSchema,
    of: TypeId,
    column: &mut ColumnBuilder,
    depth: usize,
) -> Result<(), BadRecord> {
    let found = schema.of(of);
    match found {
        Type::Null => column.push_null(),
        Type::Boolean => column.push_boolean(cursor.boolean()?),
        Type::Int | Type::Long => column.push_integer(cursor.long()?),
        Type::Float => column.push_float(f64::from(cursor.float()?)),
        Type::Double => column.push_float(cursor.double()?),
        Type::Text => column.push_text(cursor.text()?),
        Type::Bytes => column.push_bytes(cursor.bytes()?),
        Type::Fixed(size) => column.push_bytes(cursor.take(*size)?),
        Type::Enum(symbols) => column.push_text(symbol(cursor, symbols)?),
        Type::Date => column.push_date(cursor.long()?),
        Type::TimeMillis => column.push_time_us(cursor.long()?.saturating_mul(1_000)),
        Type::TimeMicros => column.push_time_us(cursor.long()?),
        Type::TimestampMillis => {
            let millis = cursor.long()?;
            let micros = millis.checked_mul(1_000);
            column.push_timestamp_us(micros.ok_or_else(|| column.mismatch(&format!("{millis} ms since 1970")))?)
        }
        Type::TimestampMicros => column.push_timestamp_us(cursor.long()?),
        Type::TimestampNanos => column.push_timestamp_us(cursor.long()?.div_euclid(1_000)),
        Type::Decimal { size, scale } => {
            let bytes = if let Some(size) = size { cursor.take(*size)? } else { cursor.bytes()? };
            let Some(unscaled) = integer(bytes) else {
                return Err(column.mismatch("a decimal of more than 38 digits"));
            };
            column.push_decimal(unscaled, *scale)
        }
        Type::Union(branches) if depth < MAX_DEPTH => {
            let branch = branch(cursor, branches)?;
            value(cursor, schema, branch, column, depth + 1)
        }
        Type::Array(_) | Type::Map(_) | Type::Record(_) if column.is_text() => {
            let nested = json(cursor, schema, of, depth)?;
            column.push_text(&nested.to_string())
        }
        other => Err(column.mismatch(&format!("a value of the type {}", other.name()))),
    }
}

fn skip(cursor: &mut Cursor<'_>, schema: &AvroSchema, of: TypeId, depth: usize) -> Result<(), BadRecord> {
    if depth > MAX_DEPTH {
        return Err(too_deep());
    }
    match schema.of(of) {
        Type::Null => Ok(()),
        Type::Boolean => cursor.boolean().map(|_| ()),
        Type::Int
        | Type::Long
        | Type::Date
        | Type::TimeMillis
        | Type::TimeMicros
        | Type::TimestampMillis
        | Type::TimestampMicros
        | Type::TimestampNanos
        | Type::Enum(_) => cursor.long().map(|_| ()),
        Type::Float => cursor.float().map(|_| ()),
        Type::Double => cursor.double().map(|_| ()),
        Type::Text | Type::Bytes | Type::Decimal { size: None, .. } => cursor.bytes().map(|_| ()),
        Type::Fixed(size) | Type::Decimal { size: Some(size), .. } => cursor.take(*size).map(|_| ()),
        Type::Union(branches) => {
            let branch = branch(cursor, branches)?;
            skip(cursor, schema, branch, depth + 1)
        }
        Type::Array(items) => elements(cursor, |cursor| skip(cursor, schema, *items, depth + 1)),
        Type::Map(values) => elements(cursor, |cursor| {
            cursor.bytes()?;
            skip(cursor, schema, *values, depth + 1)
        }),
        Type::Record(fields) => fields.iter().try_for_each(|(_, of)| skip(cursor, schema, *of, depth + 1)),
    }
}

/// A value inside another one, for a column of text.
fn json(cursor: &mut Cursor<'_>, schema: &AvroSchema, of: TypeId, depth: usize) -> Result<Value, BadRecord> {
    if depth > MAX_DEPTH {
        return Err(too_deep());
    }
    Ok(match schema.of(of) {
        Type::Null => Value::Null,
        Type::Boolean => cursor.boolean()?.into(),
        Type::Int
        | Type::Long
        | Type::Date
        | Type::TimeMillis
        | Type::TimeMicros
        | Type::TimestampMillis
        | Type::TimestampMicros
        | Type::TimestampNanos => cursor.long()?.into(),
        Type::Float => f64::from(cursor.float()?).into(),
        Type::Double => cursor.double()?.into(),
        Type::Text => cursor.text()?.into(),
        Type::Bytes => base64(cursor.bytes()?).into(),
        Type::Fixed(size) => base64(cursor.take(*size)?).into(),
        Type::Decimal { size, .. } => {
            base64(if let Some(size) = size { cursor.take(*size)? } else { cursor.bytes()? }).into()
        }
        Type::Enum(symbols) => symbol(cursor, symbols)?.into(),
        Type::Union(branches) => {
            let branch = branch(cursor, branches)?;
            json(cursor, schema, branch, depth + 1)?
        }
        Type::Array(items) => {
            let mut array = vec![];
            elements(cursor, |cursor| {
                array.push(json(cursor, schema, *items, depth + 1)?);
                Ok(())
            })?;
            Value::Array(array)
        }
        Type::Map(values) => {
            let mut object = Map::new();
            elements(cursor, |cursor| {
                let key = cursor.text()?.to_owned();
                object.insert(key, json(cursor, schema, *values, depth + 1)?);
                Ok(())
            })?;
            Value::Object(object)
        }
        Type::Record(fields) => {
            let mut object = Map::new();
            for (name, of) in fields {
                object.insert(name.clone(), json(cursor, schema, *of, depth + 1)?);
            }
            Value::Object(object)
        }
    })
}

/// Of an array or a map: in blocks, each with its count, the last one empty.
fn elements(
    cursor: &mut Cursor<'_>,
    mut each: impl FnMut(&mut Cursor<'_>) -> Result<(), BadRecord>,
) -> Result<(), BadRecord> {
    let mut total = 0usize;
    loop {
        let count = cursor.long()?;
        if count == 0 {
            return Ok(());
        }
        if count < 0 {
            // With the block's length in bytes, for those who pass over it.
            cursor.long()?;
        }
        let count = usize::try_from(count.unsigned_abs()).unwrap_or(usize::MAX);
        total = total.saturating_add(count);
        if total > MAX_ELEMENTS {
            return Err(BadRecord::new(format!("an array or a map has more than {MAX_ELEMENTS} elements")));
        }
        for _ in 0..count {
            each(cursor)?;
        }
    }
}

fn branch(cursor: &mut Cursor<'_>, branches: &[TypeId]) -> Result<TypeId, BadRecord> {
    let number = cursor.long()?;
    let branch = usize::try_from(number).ok().and_then(|number| branches.get(number)).copied();
    branch.ok_or_else(|| BadRecord::new(format!("a union has no branch {number}: it was written with another schema")))
}

fn symbol<'s>(cursor: &mut Cursor<'_>, symbols: &'s [String]) -> Result<&'s str, BadRecord> {
    let number = cursor.long()?;
    let symbol = usize::try_from(number).ok().and_then(|number| symbols.get(number));
    symbol.map(String::as_str).ok_or_else(|| BadRecord::new(format!("an enum has no symbol {number}")))
}

/// Two's complement, big-endian.
fn integer(bytes: &[u8]) -> Option<i128> {
    let filler = if bytes.first().is_none_or(|first| first & 0x80 == 0) { 0 } else { 0xff };
    let extra = bytes.len().saturating_sub(16);
    if bytes[..extra].iter().any(|byte| *byte != filler) {
        return None;
    }
    let mut full = [filler; 16];
    let significant = &bytes[extra..];
    full[16 - significant.len()..].copy_from_slice(significant);
    let value = i128::from_be_bytes(full);
    // What was cut off must have been the sign alone.
    (extra == 0 || (value < 0) == (filler == 0xff)).then_some(value)
}

fn base64(bytes: &[u8]) -> String {
    let mut text = vec![];
    write_base64(bytes, &mut text);
    text.into_iter().map(char::from).collect()
}

fn too_deep() -> BadRecord {
    BadRecord::new(format!("values are more than {MAX_DEPTH} deep in one another"))
}
