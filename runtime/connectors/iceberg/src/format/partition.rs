//! How a table is divided, and to which part a row belongs.

use super::data_file::{PartitionValue, unscaled_bytes};
use super::schema::{TableSchema, TableType};
use crate::permanent;
use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::*;
use serde_json::{Value, json};
use weir_connectors::api::ConnectorError;

const MICROS_PER_HOUR: i64 = 3_600_000_000;
const MICROS_PER_DAY: i64 = 24 * MICROS_PER_HOUR;
/// Ids of partition fields begin here.
const FIRST_FIELD_ID: i64 = 1000;

/// The division of a table at one time; files keep the one that they were written by.
#[derive(Clone, Debug)]
pub(crate) struct PartitionSpec {
    pub id: i64,
    pub fields: Vec<PartitionField>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PartitionField {
    pub name: String,
    pub id: i64,
    /// The column's.
    pub source_id: i64,
    pub transform: Transform,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transform {
    Identity,
    Year,
    Month,
    Day,
    Hour,
    Bucket(u32),
    Truncate(u32),
    /// A field that was dropped from the spec.
    Void,
}

impl PartitionSpec {
    pub(crate) fn parse(json: &Value) -> Result<Self, ConnectorError> {
        let id = json.get("spec-id").and_then(Value::as_i64);
        let fields = json.get("fields").and_then(Value::as_array);
        let (Some(id), Some(fields)) = (id, fields) else {
            return permanent(format!(
                "the table's metadata can't be read: a partition spec lacks id or fields: {json}"
            ));
        };
        let fields = fields.iter().map(|field| {
            let text = |name: &str| field.get(name).and_then(Value::as_str);
            let number = |name: &str| field.get(name).and_then(Value::as_i64);
            let parsed = (text("name"), number("field-id"), number("source-id"), text("transform"));
            let (Some(name), Some(id), Some(source_id), Some(transform)) = parsed else {
                return permanent(format!("the table's partition field {field} can't be read"));
            };
            let Some(transform) = Transform::parse(transform) else {
                return permanent(format!(
                    "the table is partitioned by `{transform}`, which this sink doesn't know; it knows identity, year, \
                     month, day, hour, bucket[N], truncate[N] and void"
                ));
            };
            Ok(PartitionField { name: name.to_owned(), id, source_id, transform })
        });
        Ok(PartitionSpec { id, fields: fields.collect::<Result<_, _>>()? })
    }

    /// The spec of a table that is to be created, from `column`, `day(column)`, `bucket(16, column)` and the like.
    pub(crate) fn json_of(partition_by: &[String], schema: &TableSchema) -> Result<Value, ConnectorError> {
        let fields = partition_by.iter().zip(FIRST_FIELD_ID..).map(|(text, id)| {
            let (transform, column) = parse_partition_by(text)?;
            let Some(source) = schema.column(column) else {
                let has: Vec<&str> = schema.columns.iter().map(|column| column.name.as_str()).collect();
                let has = has.join(", ");
                return permanent(format!(
                    "partitionBy names the column `{column}`, which the input lacks; it has {has}"
                ));
            };
            if transform.result(&source.kind).is_none() {
                return permanent(format!(
                    "partitionBy `{text}`: `{column}` is {}, which can't be divided so",
                    source.kind
                ));
            }
            let name = match transform {
                Transform::Identity | Transform::Void => column.to_owned(),
                Transform::Bucket(_) => format!("{column}_bucket"),
                Transform::Truncate(_) => format!("{column}_trunc"),
                Transform::Year => format!("{column}_year"),
                Transform::Month => format!("{column}_month"),
                Transform::Day => format!("{column}_day"),
                Transform::Hour => format!("{column}_hour"),
            };
            Ok(json!({"name": name, "field-id": id, "source-id": source.id, "transform": transform.to_string()}))
        });
        Ok(json!({"spec-id": 0, "fields": fields.collect::<Result<Vec<_>, _>>()?}))
    }

    /// The type of each field's values; the columns of a field of a spec that is no longer used may be gone.
    pub(crate) fn results(&self, schema: &TableSchema) -> Vec<TableType> {
        let result = |field: &PartitionField| {
            let column = schema.column_of_id(field.source_id);
            column.and_then(|column| field.transform.result(&column.kind)).unwrap_or(TableType::String)
        };
        self.fields.iter().map(result).collect()
    }
}

/// `column` or `transform(column)` or `transform(N, column)`.
pub(crate) fn parse_partition_by(text: &str) -> Result<(Transform, &str), ConnectorError> {
    let Some((name, rest)) = text.split_once('(') else { return Ok((Transform::Identity, text.trim())) };
    let inside = rest.trim_end().strip_suffix(')').unwrap_or("");
    let (argument, column) = match inside.split_once(',') {
        Some((argument, column)) => (Some(argument.trim().parse::<u32>().ok()), column.trim()),
        None => (None, inside.trim()),
    };
    let transform = match (name.trim().to_lowercase().as_str(), argument) {
        ("identity", None) => Some(Transform::Identity),
        ("year", None) => Some(Transform::Year),
        ("month", None) => Some(Transform::Month),
        ("day", None) => Some(Transform::Day),
        ("hour", None) => Some(Transform::Hour),
        ("bucket", Some(Some(count))) if count > 0 => Some(Transform::Bucket(count)),
        ("truncate", Some(Some(width))) if width > 0 => Some(Transform::Truncate(width)),
        _ => None,
    };
    match transform {
        Some(transform) if !column.is_empty() => Ok((transform, column)),
        _ => permanent(format!(
            "partitionBy: `{text}` is none; write `column`, `year(column)`, `month(column)`, `day(column)`, \
             `hour(column)`, `bucket(N, column)` or `truncate(N, column)`"
        )),
    }
}

impl Transform {
    fn parse(text: &str) -> Option<Self> {
        let with = |name: &str| -> Option<u32> {
            text.strip_prefix(name)?.strip_prefix('[')?.strip_suffix(']')?.parse().ok().filter(|number| *number > 0)
        };
        Some(match text {
            "identity" => Transform::Identity,
            "year" => Transform::Year,
            "month" => Transform::Month,
            "day" => Transform::Day,
            "hour" => Transform::Hour,
            "void" => Transform::Void,
            _ => with("bucket").map(Transform::Bucket).or_else(|| with("truncate").map(Transform::Truncate))?,
        })
    }

    /// The type of what it gives. None: it can't be applied to such a column.
    pub(crate) fn result(self, kind: &TableType) -> Option<TableType> {
        use TableType::*;
        let is_timestamp = matches!(kind, Timestamp | Timestamptz);
        Some(match self {
            Transform::Void => kind.clone(),
            // Not-a-number is no value of a partition.
            Transform::Identity if !matches!(kind, Float | Double | Other(_)) => kind.clone(),
            Transform::Year | Transform::Month if is_timestamp || *kind == Date => Int,
            // Iceberg's own library calls it a date.
            Transform::Day if is_timestamp || *kind == Date => Date,
            Transform::Hour if is_timestamp => Int,
            Transform::Bucket(_) if !matches!(kind, Boolean | Float | Double | Other(_)) => Int,
            Transform::Truncate(_) if matches!(kind, Int | Long | String | Binary | Decimal { .. }) => kind.clone(),
            _ => return None,
        })
    }

    /// The value of a row's field; the column as it is in files. None: NULL.
    pub(crate) fn apply(self, column: &ArrayRef, row: usize) -> Option<PartitionValue> {
        if self == Transform::Void || column.is_null(row) {
            return None;
        }
        let value = Plain::of(column, row)?;
        Some(match self {
            Transform::Identity | Transform::Void => value.identity(),
            Transform::Bucket(count) => PartitionValue::Int(((value.hash() & 0x7fff_ffff) % count) as i32),
            Transform::Truncate(width) => value.truncated(width).identity(),
            Transform::Year | Transform::Month | Transform::Day | Transform::Hour => {
                let micros = match value {
                    Plain::Date(days) => i64::from(days) * MICROS_PER_DAY,
                    Plain::Long(micros) => micros,
                    _ => return None,
                };
                let days = micros.div_euclid(MICROS_PER_DAY);
                PartitionValue::Int(match self {
                    Transform::Hour => micros.div_euclid(MICROS_PER_HOUR) as i32,
                    Transform::Day => days as i32,
                    Transform::Month => months_since_1970(days) as i32,
                    _ => months_since_1970(days).div_euclid(12) as i32,
                })
            }
        })
    }
}

impl std::fmt::Display for Transform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Transform::Identity => f.write_str("identity"),
            Transform::Year => f.write_str("year"),
            Transform::Month => f.write_str("month"),
            Transform::Day => f.write_str("day"),
            Transform::Hour => f.write_str("hour"),
            Transform::Bucket(count) => write!(f, "bucket[{count}]"),
            Transform::Truncate(width) => write!(f, "truncate[{width}]"),
            Transform::Void => f.write_str("void"),
        }
    }
}

/// A value of a column as it is in files.
enum Plain {
    Boolean(bool),
    Int(i32),
    Date(i32),
    Long(i64),
    Decimal(i128),
    String(String),
    Binary(Vec<u8>),
}

impl Plain {
    fn of(column: &ArrayRef, row: usize) -> Option<Self> {
        Some(match column.data_type() {
            DataType::Boolean => Plain::Boolean(column.as_boolean().value(row)),
            DataType::Int32 => Plain::Int(column.as_primitive::<Int32Type>().value(row)),
            DataType::Int64 => Plain::Long(column.as_primitive::<Int64Type>().value(row)),
            DataType::Date32 => Plain::Date(column.as_primitive::<Date32Type>().value(row)),
            DataType::Time64(TimeUnit::Microsecond) => {
                Plain::Long(column.as_primitive::<Time64MicrosecondType>().value(row))
            }
            DataType::Timestamp(TimeUnit::Microsecond, _) => {
                Plain::Long(column.as_primitive::<TimestampMicrosecondType>().value(row))
            }
            DataType::Decimal128(_, _) => Plain::Decimal(column.as_primitive::<Decimal128Type>().value(row)),
            DataType::Utf8 => Plain::String(column.as_string::<i32>().value(row).to_owned()),
            DataType::Binary => Plain::Binary(column.as_binary::<i32>().value(row).to_vec()),
            _ => return None,
        })
    }

    fn identity(self) -> PartitionValue {
        match self {
            Plain::Boolean(value) => PartitionValue::Boolean(value),
            Plain::Int(value) | Plain::Date(value) => PartitionValue::Int(value),
            Plain::Long(value) => PartitionValue::Long(value),
            Plain::Decimal(value) => PartitionValue::Bytes(unscaled_bytes(value)),
            Plain::String(value) => PartitionValue::String(value),
            Plain::Binary(value) => PartitionValue::Bytes(value),
        }
    }

    /// As the specification's appendix B has it.
    fn hash(&self) -> u32 {
        match self {
            Plain::Boolean(value) => murmur3(&i64::from(*value).to_le_bytes()),
            Plain::Int(value) | Plain::Date(value) => murmur3(&i64::from(*value).to_le_bytes()),
            Plain::Long(value) => murmur3(&value.to_le_bytes()),
            Plain::Decimal(value) => murmur3(&unscaled_bytes(*value)),
            Plain::String(value) => murmur3(value.as_bytes()),
            Plain::Binary(value) => murmur3(value),
        }
    }

    fn truncated(self, width: u32) -> Self {
        match self {
            Plain::Int(value) => Plain::Int(value - value.rem_euclid(width.min(i32::MAX as u32) as i32)),
            Plain::Long(value) => Plain::Long(value - value.rem_euclid(i64::from(width))),
            Plain::Decimal(value) => Plain::Decimal(value - value.rem_euclid(i128::from(width))),
            Plain::String(value) => Plain::String(value.chars().take(width as usize).collect()),
            Plain::Binary(mut value) => {
                value.truncate(width as usize);
                Plain::Binary(value)
            }
            other => other,
        }
    }
}

/// Of the civil calendar, from days since 1970-01-01.
fn months_since_1970(days: i64) -> i64 {
    // The era of 400 years that begins on a March 1st.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let year = year_of_era + era * 400 + i64::from(month_from_march >= 10);
    (year - 1970) * 12 + (month_from_march + 2) % 12
}

/// MurmurHash3, 32 bits, seed 0: what bucket partitions are defined by.
fn murmur3(bytes: &[u8]) -> u32 {
    let mix = |block: u32| block.wrapping_mul(0xcc9e_2d51).rotate_left(15).wrapping_mul(0x1b87_3593);
    let mut hash = 0u32;
    let (blocks, tail) = bytes.as_chunks::<4>();
    for block in blocks {
        hash ^= mix(u32::from_le_bytes(*block));
        hash = hash.rotate_left(13).wrapping_mul(5).wrapping_add(0xe654_6b64);
    }
    let rest = tail.iter().rev().fold(0u32, |rest, byte| rest << 8 | u32::from(*byte));
    hash ^= mix(rest);
    hash ^= bytes.len() as u32;
    hash ^= hash >> 16;
    hash = hash.wrapping_mul(0x85eb_ca6b);
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(0xc2b2_ae35);
    hash ^ hash >> 16
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Date32Array, Int32Array, StringArray, TimestampMicrosecondArray};
    use std::sync::Arc;

    /// The values that the specification itself gives in its appendix B.
    #[test]
    fn hashes_are_those_of_the_specification() {
        let hash = |plain: Plain| plain.hash() as i32;
        assert_eq!(hash(Plain::Int(34)), 2_017_239_379);
        assert_eq!(hash(Plain::Long(34)), 2_017_239_379);
        assert_eq!(hash(Plain::Decimal(1420)), -500_754_589);
        assert_eq!(hash(Plain::Date(17_486)), -653_330_422);
        assert_eq!(hash(Plain::Long(81_068_000_000)), -662_762_989);
        assert_eq!(hash(Plain::Long(1_510_871_468_000_000)), -2_047_944_441);
        assert_eq!(hash(Plain::String("iceberg".to_owned())), 1_210_000_089);
        assert_eq!(hash(Plain::Binary(vec![0, 1, 2, 3])), -188_683_207);
    }

    #[test]
    fn times_are_counted_from_1970() {
        // 2017-11-16T22:31:08
        let array: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![1_510_871_468_000_000, -1]));
        let apply = |transform: Transform, row| transform.apply(&array, row);
        assert_eq!(apply(Transform::Year, 0), Some(PartitionValue::Int(47)));
        assert_eq!(apply(Transform::Month, 0), Some(PartitionValue::Int(47 * 12 + 10)));
        assert_eq!(apply(Transform::Day, 0), Some(PartitionValue::Int(17_486)));
        assert_eq!(apply(Transform::Hour, 0), Some(PartitionValue::Int(17_486 * 24 + 22)));
        for transform in [Transform::Year, Transform::Month, Transform::Day, Transform::Hour] {
            assert_eq!(apply(transform, 1), Some(PartitionValue::Int(-1)), "{transform} before 1970");
        }
        let dates: ArrayRef = Arc::new(Date32Array::from(vec![Some(31), None]));
        assert_eq!(Transform::Month.apply(&dates, 0), Some(PartitionValue::Int(1)));
        assert_eq!(Transform::Month.apply(&dates, 1), None);
    }

    #[test]
    fn truncates_downward() {
        let numbers: ArrayRef = Arc::new(Int32Array::from(vec![1, -1]));
        assert_eq!(Transform::Truncate(10).apply(&numbers, 0), Some(PartitionValue::Int(0)));
        assert_eq!(Transform::Truncate(10).apply(&numbers, 1), Some(PartitionValue::Int(-10)));
        let texts: ArrayRef = Arc::new(StringArray::from(vec!["iceberg"]));
        assert_eq!(Transform::Truncate(3).apply(&texts, 0), Some(PartitionValue::String("ice".to_owned())));
    }

    #[test]
    fn partition_by_is_read() {
        assert_eq!(parse_partition_by("day(ts)").unwrap(), (Transform::Day, "ts"));
        assert_eq!(parse_partition_by("bucket(16, id)").unwrap(), (Transform::Bucket(16), "id"));
        assert_eq!(parse_partition_by("region").unwrap(), (Transform::Identity, "region"));
        for wrong in ["days(ts)", "bucket(id)", "bucket(0, id)", "day()", "day(ts", "truncate(x, id)"] {
            let error = parse_partition_by(wrong).unwrap_err().to_string();
            assert!(error.contains(wrong) && error.contains("bucket(N, column)"), "{error}");
        }
    }
}
