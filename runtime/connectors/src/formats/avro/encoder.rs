//! Rows as Avro records, by the schema that is made of the columns or that somebody gives.

use super::schema::{AvroSchema, Type, TypeId};
use super::{AvroError, HEADER_BYTES, MAGIC};
use crate::formats::encoder::{Cells, Encoder, Rows, check_encodable};
use arrow::array::Array;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use serde_json::{Value, json};
use weir_model::types::sql_type_name;

pub(in crate::formats) struct AvroEncoder {
    /// Before each record: of a registry's schema.
    header: Option<[u8; HEADER_BYTES]>,
    /// In the order of the bytes.
    fields: Vec<FieldPlan>,
}

/// How a column becomes a field.
struct FieldPlan {
    column: usize,
    of: Written,
    /// The numbers of a union's branches for NULL and for a value.
    branches: Option<Branches>,
}

#[derive(Clone, Copy)]
struct Branches {
    null: i64,
    value: i64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Written {
    Boolean,
    Integer,
    Float,
    /// Of a FLOAT or DOUBLE column.
    Double,
    Text,
    Bytes,
    Date,
    TimeMicros,
    TimestampMicros,
    TimestampMillis,
    /// Big-endian, in as many bytes as it takes, or in so many.
    Decimal {
        size: Option<usize>,
    },
}

/// The schema of rows of these columns, as JSON: a record `name`, whose fields may be null where the columns may.
///
/// # Errors
/// A column whose name no field can have.
pub fn avro_schema(name: &str, schema: &Schema) -> Result<String, String> {
    let mut fields = vec![];
    for field in schema.fields() {
        if !is_name(field.name()) {
            return Err(format!(
                "column `{}` has a name that no field of Avro can have (letters, digits and underscores): give it another one \
                 in the query, `AS {}`",
                field.name(),
                name_of(field.name())
            ));
        }
        let of = type_of(field)?;
        fields.push(match field.is_nullable() {
            false => json!({"name": field.name(), "type": of}),
            true => json!({"name": field.name(), "type": ["null", of], "default": null}),
        });
    }
    Ok(json!({"type": "record", "name": name_of(name), "namespace": "weir", "fields": fields}).to_string())
}

fn type_of(field: &Field) -> Result<Value, String> {
    let logical = |of: &str, logical: &str| json!({"type": of, "logicalType": logical});
    Ok(match field.data_type() {
        DataType::Boolean => json!("boolean"),
        DataType::Int8 | DataType::Int16 | DataType::Int32 => json!("int"),
        DataType::Int64 => json!("long"),
        DataType::Float32 => json!("float"),
        DataType::Float64 => json!("double"),
        DataType::Utf8 => json!("string"),
        DataType::Binary => json!("bytes"),
        DataType::Date32 => logical("int", "date"),
        DataType::Time64(_) => logical("long", "time-micros"),
        DataType::Timestamp(..) => logical("long", "timestamp-micros"),
        DataType::Decimal128(precision, scale) => {
            json!({"type": "bytes", "logicalType": "decimal", "precision": precision, "scale": scale})
        }
        other => {
            return Err(format!(
                "column `{}` is of type {}, which Avro can't hold",
                field.name(),
                sql_type_name(other)
            ));
        }
    })
}

fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// A name that Avro takes, as near as can be.
fn name_of(name: &str) -> String {
    let fit = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    let fitting: String = name.chars().map(fit).collect();
    if is_name(&fitting) { fitting } else { format!("_{fitting}") }
}

impl AvroEncoder {
    /// `text`: the schema to write with; made of the columns if there is none. `number`: its number in a registry.
    pub(in crate::formats) fn new(
        text: Option<&str>,
        number: Option<u32>,
        columns: &SchemaRef,
    ) -> Result<Self, AvroError> {
        check_encodable(columns)?;
        let made = text.is_none().then(|| avro_schema("row", columns)).transpose().map_err(AvroError::Schema)?;
        let text = text.or(made.as_deref()).unwrap_or_default();
        let schema = AvroSchema::parse(text).map_err(AvroError::Schema)?;
        let fields = plan(&schema, columns).map_err(AvroError::Schema)?;
        let header = number.map(|number| {
            let [a, b, c, d] = number.to_be_bytes();
            [MAGIC, a, b, c, d]
        });
        Ok(AvroEncoder { header, fields })
    }
}

fn plan(schema: &AvroSchema, columns: &SchemaRef) -> Result<Vec<FieldPlan>, String> {
    let fields = schema.fields()?;
    let lacks = |field: &Field| !fields.iter().any(|(name, _)| name == field.name());
    if let Some(column) = columns.fields().iter().find(|field| lacks(field)) {
        return Err(format!(
            "the Avro schema has no field `{}`: add it, or leave the column out of the query",
            column.name()
        ));
    }
    fields.iter().map(|(name, of)| field_plan(schema, columns, name, *of)).collect()
}

fn field_plan(schema: &AvroSchema, columns: &SchemaRef, name: &str, of: TypeId) -> Result<FieldPlan, String> {
    let Some((column, field)) = columns.column_with_name(name) else {
        return Err(format!(
            "the Avro schema has a field `{name}`, and the input has no such column: add it to the query"
        ));
    };
    let written = |of: TypeId| written(schema.of(of), field.data_type());
    let (found, branches) = match schema.of(of) {
        Type::Union(all) => {
            let null = all.iter().position(|branch| *schema.of(*branch) == Type::Null);
            let value = all.iter().position(|branch| written(*branch).is_some());
            if null.is_none() && field.is_nullable() {
                return Err(may_be_null(name));
            }
            match value {
                Some(value) => {
                    // Without a branch for it there is no NULL either.
                    let branches = Branches { null: null.unwrap_or(value) as i64, value: value as i64 };
                    (written(all[value]), Some(branches))
                }
                None => (None, None),
            }
        }
        _ if field.is_nullable() => return Err(may_be_null(name)),
        _ => (written(of), None),
    };
    let of = found.ok_or_else(|| {
        format!(
            "the Avro schema has field `{name}` as {}, and the column is of type {}: cast it in the query, or change the schema",
            schema.of(of).name(),
            sql_type_name(field.data_type())
        )
    })?;
    Ok(FieldPlan { column, of, branches })
}

fn may_be_null(name: &str) -> String {
    format!("column `{name}` may be NULL, and the Avro schema's field may not: make it a union with null")
}

/// How a column's value is written as this type. None: it can't be.
fn written(of: &Type, column: &DataType) -> Option<Written> {
    use DataType::*;
    Some(match (of, column) {
        (Type::Boolean, Boolean) => Written::Boolean,
        (Type::Int, Int8 | Int16 | Int32) | (Type::Long, Int8 | Int16 | Int32 | Int64) => Written::Integer,
        (Type::Float, Float32) => Written::Float,
        (Type::Double, Float32 | Float64) => Written::Double,
        (Type::Text, Utf8) => Written::Text,
        (Type::Bytes, Binary) => Written::Bytes,
        (Type::Date, Date32) => Written::Date,
        (Type::TimeMicros, Time64(_)) => Written::TimeMicros,
        (Type::TimestampMicros, Timestamp(..)) => Written::TimestampMicros,
        (Type::TimestampMillis, Timestamp(..)) => Written::TimestampMillis,
        (Type::Decimal { size, scale }, Decimal128(precision, own))
            if scale == own && size.is_none_or(|size| size >= decimal_bytes(*precision)) =>
        {
            Written::Decimal { size: *size }
        }
        _ => return None,
    })
}

impl Encoder for AvroEncoder {
    fn encode(
        &mut self,
        batch: &RecordBatch,
        rows: Rows<'_>,
        out: &mut Vec<u8>,
        end_record: &mut dyn FnMut(&mut Vec<u8>),
    ) {
        let columns: Vec<_> = self
            .fields
            .iter()
            .map(|field| (field, Cells::of(batch.column(field.column)), batch.column(field.column).logical_nulls()))
            .collect();
        rows.for_each(batch.num_rows(), |row| {
            if let Some(header) = &self.header {
                out.extend_from_slice(header);
            }
            for (field, cells, nulls) in &columns {
                let is_null = nulls.as_ref().is_some_and(|nulls| nulls.is_null(row));
                if let Some(Branches { null, value }) = field.branches {
                    write_long(if is_null { null } else { value }, out);
                }
                if !is_null {
                    write(cells, field.of, row, out);
                }
            }
            end_record(out);
        });
    }
}

#[inline]
fn write(cells: &Cells<'_>, of: Written, row: usize, out: &mut Vec<u8>) {
    match (cells, of) {
        (Cells::Boolean(array), _) => out.push(array.value(row).into()),
        (Cells::Int8(array), _) => write_long(array.value(row).into(), out),
        (Cells::Int16(array), _) => write_long(array.value(row).into(), out),
        (Cells::Int32(array), _) => write_long(array.value(row).into(), out),
        (Cells::Int64(array), _) => write_long(array.value(row), out),
        (Cells::Float32(array), Written::Float) => out.extend_from_slice(&array.value(row).to_le_bytes()),
        (Cells::Float32(array), _) => out.extend_from_slice(&f64::from(array.value(row)).to_le_bytes()),
        (Cells::Float64(array), _) => out.extend_from_slice(&array.value(row).to_le_bytes()),
        (Cells::Text(array), _) => write_bytes(array.value(row).as_bytes(), out),
        (Cells::Bytes(array), _) => write_bytes(array.value(row), out),
        (Cells::Date(array), _) => write_long(array.value(row).into(), out),
        (Cells::Time(array), _) => write_long(array.value(row), out),
        (Cells::Timestamp(array), Written::TimestampMillis) => write_long(array.value(row).div_euclid(1_000), out),
        (Cells::Timestamp(array), _) => write_long(array.value(row), out),
        (Cells::Decimal(array, _), Written::Decimal { size: Some(size) }) => {
            let value = array.value(row);
            let bytes = value.to_be_bytes();
            let fill = if value < 0 { 0xff } else { 0 };
            // Of a size that holds the column's precision, what is cut off in front says nothing.
            out.extend(std::iter::repeat_n(fill, size.saturating_sub(bytes.len())));
            out.extend_from_slice(&bytes[bytes.len().saturating_sub(size)..]);
        }
        (Cells::Decimal(array, _), _) => write_bytes(shortest(&array.value(row).to_be_bytes()), out),
    }
}

/// Two's complement without the bytes in front that only repeat the sign.
fn shortest(bytes: &[u8]) -> &[u8] {
    let repeats = |pair: &[u8]| matches!((pair[0], pair[1] & 0x80), (0, 0) | (0xff, 0x80));
    let skipped = bytes.windows(2).take_while(|pair| repeats(pair)).count();
    &bytes[skipped..]
}

fn write_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    write_long(bytes.len() as i64, out);
    out.extend_from_slice(bytes);
}

/// Zigzag, seven bits a byte, the lowest first.
#[inline]
pub fn write_long(value: i64, out: &mut Vec<u8>) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest > 0x7f {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// Bytes of a decimal of so many digits.
fn decimal_bytes(precision: u8) -> usize {
    let largest = 10i128.checked_pow(u32::from(precision)).map_or(i128::MAX, |limit| limit - 1);
    shortest(&largest.to_be_bytes()).len()
}

#[cfg(test)]
mod tests {
    use super::super::{AvroDecoder, AvroSchemas};
    use super::*;
    use crate::formats::Decoder;
    use arrow::array::*;
    use std::sync::Arc;
    use weir_model::types::TIMESTAMP;

    fn rows() -> RecordBatch {
        let columns: Vec<(&str, bool, ArrayRef)> = vec![
            ("b", true, Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)]))),
            ("i", false, Arc::new(Int32Array::from(vec![0, -1, i32::MAX]))),
            ("l", true, Arc::new(Int64Array::from(vec![Some(i64::MIN), None, Some(64)]))),
            ("d", true, Arc::new(Float64Array::from(vec![Some(0.1), Some(f64::INFINITY), None]))),
            ("t", true, Arc::new(StringArray::from(vec![Some("ä"), Some(""), None]))),
            ("y", true, Arc::new(BinaryArray::from(vec![Some(&b"\x00\xff"[..]), None, Some(&[][..])]))),
            (
                "at",
                true,
                Arc::new(TimestampMicrosecondArray::from(vec![Some(-1), None, Some(5)]).with_data_type(TIMESTAMP)),
            ),
            ("on", true, Arc::new(Date32Array::from(vec![Some(-1), None, Some(20_000)]))),
            (
                "m",
                true,
                Arc::new(
                    Decimal128Array::from(vec![Some(-128), Some(128), Some(99_999_999)])
                        .with_precision_and_scale(8, 2)
                        .unwrap(),
                ),
            ),
        ];
        let fields: Vec<Field> = columns
            .iter()
            .map(|(name, is_nullable, column)| Field::new(*name, column.data_type().clone(), *is_nullable))
            .collect();
        let columns = columns.into_iter().map(|(.., column)| column).collect();
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
    }

    fn encoded(encoder: &mut AvroEncoder, batch: &RecordBatch) -> Vec<Vec<u8>> {
        let (mut out, mut ends) = (vec![], vec![0]);
        encoder.encode(batch, Rows::All, &mut out, &mut |out| ends.push(out.len()));
        ends.windows(2).map(|range| out[range[0]..range[1]].to_vec()).collect()
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let batch = rows();
        let schema = avro_schema("orders-2", &batch.schema()).unwrap();
        assert!(schema.contains(r#""name":"orders_2""#), "{schema}");
        let mut encoder = AvroEncoder::new(Some(&schema), None, &batch.schema()).unwrap();
        let mut decoder = AvroDecoder::new(&AvroSchemas::One(schema), &batch.schema()).unwrap();
        for record in encoded(&mut encoder, &batch) {
            decoder.decode(&record).unwrap();
        }
        assert_eq!(decoder.finish(), batch);
    }

    #[test]
    fn a_registered_schema_has_its_number_in_front() {
        let batch = rows().project(&[1]).unwrap();
        let mut encoder = AvroEncoder::new(None, Some(258), &batch.schema()).unwrap();
        assert_eq!(encoded(&mut encoder, &batch)[1], [0, 0, 0, 1, 2, 1]);
    }

    #[test]
    fn a_given_schema_may_be_wider_and_in_another_order() {
        let batch = rows().project(&[1, 4]).unwrap();
        let field = |name: &str, of: Value| json!({"name": name, "type": of});
        let of = |fields: Value| json!({"type": "record", "name": "r", "fields": fields}).to_string();
        let given = of(json!([field("t", json!(["string", "null"])), field("i", json!("long"))]));
        let mut encoder = AvroEncoder::new(Some(&given), None, &batch.schema()).unwrap();
        assert_eq!(encoded(&mut encoder, &batch)[2], [2, 254, 255, 255, 255, 15]);
        for (fields, part) in [
            (json!([field("i", json!("int"))]), "has no field `t`"),
            (json!([field("t", json!("string")), field("i", json!("int"))]), "may be NULL"),
            (json!([field("t", json!(["null", "int"])), field("i", json!("int"))]), "as union"),
            (
                json!([field("t", json!(["null", "string"])), field("i", json!("int")), field("x", json!("int"))]),
                "no such column",
            ),
        ] {
            let error = AvroEncoder::new(Some(&of(fields)), None, &batch.schema()).err().unwrap().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn names_that_avro_has_not_are_refused_with_one_that_it_has() {
        let schema = Schema::new(vec![Field::new("count(*)", DataType::Int64, false)]);
        let error = avro_schema("t", &schema).unwrap_err();
        assert!(error.contains("AS count___"), "{error}");
        assert_eq!(decimal_bytes(8), 4);
    }
}
