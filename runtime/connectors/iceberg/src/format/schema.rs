//! A table's columns, and the types that they share with ours.

use arrow::datatypes::{DataType, TimeUnit};
use serde_json::{Value, json};
use std::fmt;
use weir_connectors::api::ConnectorError;

use crate::permanent;

/// The columns of a table at one time. A column is known by its id, whatever it is called.
#[derive(Clone, Debug)]
pub(crate) struct TableSchema {
    pub id: i64,
    pub columns: Vec<TableColumn>,
    /// As it stands in the table's metadata.
    pub json: Value,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TableColumn {
    pub id: i32,
    pub name: String,
    pub is_required: bool,
    pub kind: TableType,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TableType {
    Boolean,
    Int,
    Long,
    Float,
    Double,
    Decimal {
        precision: u8,
        scale: i8,
    },
    Date,
    Time,
    /// Without a zone.
    Timestamp,
    /// A point in time.
    Timestamptz,
    String,
    Binary,
    /// What this sink doesn't write: `uuid`, `fixed`, structs, lists, maps and what came later.
    Other(String),
}

impl TableSchema {
    pub(crate) fn parse(json: &Value) -> Result<Self, ConnectorError> {
        let fields = json.get("fields").and_then(Value::as_array);
        let Some(fields) = fields else { return malformed("a schema has no `fields`") };
        let columns = fields.iter().map(|field| {
            let id = field.get("id").and_then(Value::as_i64).and_then(|id| i32::try_from(id).ok());
            let (name, required) = (field.get("name").and_then(Value::as_str), field.get("required"));
            match (id, name, field.get("type")) {
                (Some(id), Some(name), Some(kind)) => Ok(TableColumn {
                    id,
                    name: name.to_owned(),
                    is_required: required.and_then(Value::as_bool).unwrap_or(false),
                    kind: TableType::parse(kind),
                }),
                _ => malformed(format!("a column of a schema lacks id, name or type: {field}")),
            }
        });
        let id = json.get("schema-id").and_then(Value::as_i64).unwrap_or(0);
        Ok(TableSchema { id, columns: columns.collect::<Result<_, _>>()?, json: json.clone() })
    }

    pub(crate) fn column(&self, name: &str) -> Option<&TableColumn> {
        self.columns.iter().find(|column| column.name == name)
    }

    pub(crate) fn column_of_id(&self, id: i64) -> Option<&TableColumn> {
        self.columns.iter().find(|column| i64::from(column.id) == id)
    }

    /// The schema of a table that is to be created; ids are counted from 1.
    pub(crate) fn json_of(columns: &[TableColumn]) -> Value {
        let field = |column: &TableColumn| {
            let TableColumn { id, name, is_required, kind } = column;
            json!({"id": id, "name": name, "required": is_required, "type": kind.to_string()})
        };
        let fields: Vec<Value> = columns.iter().map(field).collect();
        json!({"type": "struct", "schema-id": 0, "fields": fields})
    }
}

impl TableType {
    fn parse(json: &Value) -> Self {
        let Some(text) = json.as_str() else {
            let kind = json.get("type").and_then(Value::as_str).unwrap_or("nested");
            return TableType::Other(kind.to_owned());
        };
        match text {
            "boolean" => TableType::Boolean,
            "int" => TableType::Int,
            "long" => TableType::Long,
            "float" => TableType::Float,
            "double" => TableType::Double,
            "date" => TableType::Date,
            "time" => TableType::Time,
            "timestamp" => TableType::Timestamp,
            "timestamptz" => TableType::Timestamptz,
            "string" => TableType::String,
            "binary" => TableType::Binary,
            other => Self::decimal(other).unwrap_or_else(|| TableType::Other(other.to_owned())),
        }
    }

    /// `decimal(P, S)`, with or without the blank.
    fn decimal(text: &str) -> Option<Self> {
        let inside = text.strip_prefix("decimal(")?.strip_suffix(')')?;
        let (precision, scale) = inside.split_once(',')?;
        Some(TableType::Decimal { precision: precision.trim().parse().ok()?, scale: scale.trim().parse().ok()? })
    }

    /// What a column of ours becomes in a table that is created for it; None: it has no counterpart.
    pub(crate) fn for_input(ours: &DataType) -> Option<Self> {
        Some(match ours {
            DataType::Boolean => TableType::Boolean,
            DataType::Int8 | DataType::Int16 | DataType::Int32 => TableType::Int,
            DataType::Int64 => TableType::Long,
            DataType::Float32 => TableType::Float,
            DataType::Float64 => TableType::Double,
            DataType::Decimal128(precision, scale) if *scale >= 0 => {
                TableType::Decimal { precision: *precision, scale: *scale }
            }
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => TableType::String,
            DataType::Binary | DataType::LargeBinary | DataType::BinaryView => TableType::Binary,
            DataType::Date32 => TableType::Date,
            DataType::Time64(TimeUnit::Microsecond) => TableType::Time,
            DataType::Timestamp(TimeUnit::Second | TimeUnit::Millisecond | TimeUnit::Microsecond, _) => {
                TableType::Timestamptz
            }
            _ => return None,
        })
    }

    /// Whether every value of our column has its place in a column of this type.
    pub(crate) fn takes(&self, ours: &DataType) -> bool {
        let Some(natural) = TableType::for_input(ours) else { return false };
        match (&natural, self) {
            (TableType::Int, TableType::Long)
            | (TableType::Float, TableType::Double)
            // Our timestamps are points in time; without a zone the table holds UTC.
            | (TableType::Timestamptz, TableType::Timestamp) => true,
            (TableType::Decimal { precision, scale }, TableType::Decimal { precision: wider, scale: same }) => {
                scale == same && precision <= wider
            }
            (natural, kind) => natural == kind,
        }
    }

    /// What its values are in a file.
    pub(crate) fn arrow(&self) -> Option<DataType> {
        Some(match self {
            TableType::Boolean => DataType::Boolean,
            TableType::Int => DataType::Int32,
            TableType::Long => DataType::Int64,
            TableType::Float => DataType::Float32,
            TableType::Double => DataType::Float64,
            TableType::Decimal { precision, scale } => DataType::Decimal128(*precision, *scale),
            TableType::Date => DataType::Date32,
            TableType::Time => DataType::Time64(TimeUnit::Microsecond),
            TableType::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
            TableType::Timestamptz => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            TableType::String => DataType::Utf8,
            TableType::Binary => DataType::Binary,
            TableType::Other(_) => return None,
        })
    }
}

impl fmt::Display for TableType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TableType::Boolean => "boolean",
            TableType::Int => "int",
            TableType::Long => "long",
            TableType::Float => "float",
            TableType::Double => "double",
            TableType::Decimal { precision, scale } => return write!(f, "decimal({precision}, {scale})"),
            TableType::Date => "date",
            TableType::Time => "time",
            TableType::Timestamp => "timestamp",
            TableType::Timestamptz => "timestamptz",
            TableType::String => "string",
            TableType::Binary => "binary",
            TableType::Other(kind) => kind,
        })
    }
}

fn malformed<T>(reason: impl fmt::Display) -> Result<T, ConnectorError> {
    permanent(format!("the table's metadata can't be read: {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_read_and_written() {
        for text in ["boolean", "int", "long", "decimal(9, 2)", "timestamptz", "string", "binary", "date", "time"] {
            let kind = TableType::parse(&json!(text));
            assert_eq!(kind.to_string(), text);
            assert!(kind.arrow().is_some(), "{text}");
        }
        assert_eq!(TableType::parse(&json!("decimal(9,2)")), TableType::Decimal { precision: 9, scale: 2 });
        let list = json!({"type": "list", "element-id": 3, "element": "int", "element-required": true});
        assert_eq!(TableType::parse(&list), TableType::Other("list".to_owned()));
        assert_eq!(TableType::parse(&json!("uuid")).arrow(), None);
    }

    #[test]
    fn nothing_is_narrowed() {
        assert!(TableType::Long.takes(&DataType::Int32));
        assert!(!TableType::Int.takes(&DataType::Int64));
        assert!(TableType::Double.takes(&DataType::Float32));
        let decimal = |precision, scale| TableType::Decimal { precision, scale };
        assert!(decimal(12, 2).takes(&DataType::Decimal128(10, 2)));
        assert!(!decimal(12, 3).takes(&DataType::Decimal128(10, 2)));
        assert!(!decimal(9, 2).takes(&DataType::Decimal128(10, 2)));
        assert!(!TableType::Timestamptz.takes(&DataType::Timestamp(TimeUnit::Nanosecond, None)));
    }
}
