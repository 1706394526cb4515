//! Which of our types goes into which of the server's.

use crate::table::TableColumn;
use arrow::datatypes::{DataType, TimeUnit};
use tokio_postgres::types::{Kind, Type};
use weir_model::types::sql_type_name;

/// A value's form in `COPY ... (FORMAT binary)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wire {
    Bool,
    Int2,
    Int4,
    Int8,
    Float4,
    Float8,
    Numeric,
    /// Text, and what is read from text: enums, json.
    Text,
    /// Text behind a version.
    Jsonb,
    Uuid,
    Bytea,
    Date,
    Time,
    Timestamp,
    Array {
        element: u32,
        wire: Box<Wire>,
    },
}

impl Wire {
    /// The Arrow type whose values are written so; a column is cast to it before.
    pub(crate) fn arrow(&self, from: &DataType) -> DataType {
        match self {
            Wire::Bool => DataType::Boolean,
            Wire::Int2 => DataType::Int16,
            Wire::Int4 => DataType::Int32,
            Wire::Int8 => DataType::Int64,
            Wire::Float4 => DataType::Float32,
            Wire::Float8 => DataType::Float64,
            Wire::Numeric => match from {
                DataType::Decimal128(precision, scale) => DataType::Decimal128(*precision, *scale),
                // Integers; 20 digits hold each of them.
                _ => DataType::Decimal128(20, 0),
            },
            Wire::Text | Wire::Jsonb | Wire::Uuid => DataType::Utf8,
            Wire::Bytea => DataType::Binary,
            Wire::Date => DataType::Date32,
            Wire::Time => DataType::Time64(TimeUnit::Microsecond),
            Wire::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
            Wire::Array { wire, .. } => {
                let element = match from {
                    DataType::List(field) | DataType::LargeList(field) => field.data_type().clone(),
                    other => other.clone(),
                };
                DataType::new_list(wire.arrow(&element), true)
            }
        }
    }
}

/// How values of an Arrow type are written into a column of the table. None: they don't fit.
pub(crate) fn wire_of(from: &DataType, column: &TableColumn) -> Option<Wire> {
    scalar(from, column.oid, column.type_kind, column.numeric)
}

fn scalar(from: &DataType, oid: u32, kind: char, numeric: Option<(i32, i32)>) -> Option<Wire> {
    use DataType as D;
    let is_enum = kind == 'e';
    let to = Type::from_oid(oid).filter(|_| !is_enum);
    Some(match (from, to) {
        (D::Boolean, Some(Type::BOOL)) => Wire::Bool,
        (D::Int8 | D::Int16, Some(Type::INT2)) => Wire::Int2,
        (D::Int8 | D::Int16 | D::Int32, Some(Type::INT4)) => Wire::Int4,
        (D::Int8 | D::Int16 | D::Int32 | D::Int64, Some(Type::INT8)) => Wire::Int8,
        (D::Int8 | D::Int16 | D::Int32 | D::Int64, Some(Type::NUMERIC)) => {
            let digits = match from {
                D::Int8 => 3,
                D::Int16 => 5,
                D::Int32 => 10,
                _ => 19,
            };
            return numeric.is_none_or(|(precision, scale)| precision - scale >= digits).then_some(Wire::Numeric);
        }
        (D::Float32, Some(Type::FLOAT4)) => Wire::Float4,
        (D::Float32 | D::Float64, Some(Type::FLOAT8)) => Wire::Float8,
        (D::Decimal128(precision, scale), Some(Type::NUMERIC)) if *scale >= 0 => {
            let (digits, scale) = (i32::from(*precision) - i32::from(*scale), i32::from(*scale));
            let fits = |(p, s): (i32, i32)| s >= scale && p - s >= digits;
            return numeric.is_none_or(fits).then_some(Wire::Numeric);
        }
        (D::Utf8 | D::LargeUtf8 | D::Utf8View, None) if is_enum => Wire::Text,
        (
            D::Utf8 | D::LargeUtf8 | D::Utf8View,
            Some(Type::TEXT | Type::VARCHAR | Type::BPCHAR | Type::JSON | Type::NAME),
        ) => Wire::Text,
        (D::Utf8 | D::LargeUtf8 | D::Utf8View, Some(Type::JSONB)) => Wire::Jsonb,
        (D::Utf8 | D::LargeUtf8 | D::Utf8View, Some(Type::UUID)) => Wire::Uuid,
        (D::Binary | D::LargeBinary | D::BinaryView, Some(Type::BYTEA)) => Wire::Bytea,
        (D::Date32, Some(Type::DATE)) => Wire::Date,
        (D::Time32(_) | D::Time64(_), Some(Type::TIME)) => Wire::Time,
        (D::Timestamp(..), Some(Type::TIMESTAMP | Type::TIMESTAMPTZ)) => Wire::Timestamp,
        (D::List(field) | D::LargeList(field), Some(array)) => {
            let Kind::Array(element) = array.kind() else { return None };
            let wire = scalar(field.data_type(), element.oid(), 'b', None)?;
            if matches!(wire, Wire::Array { .. }) {
                return None;
            }
            Wire::Array { element: element.oid(), wire: Box::new(wire) }
        }
        _ => return None,
    })
}

/// What of the server's types takes a value of this one, for messages; the first is the usual.
pub(crate) fn suitable(from: &DataType) -> Option<String> {
    use DataType as D;
    Some(match from {
        D::Boolean => "boolean".into(),
        D::Int8 | D::Int16 => "smallint, integer or bigint".into(),
        D::Int32 => "integer or bigint".into(),
        D::Int64 => "bigint".into(),
        D::Float32 => "real or double precision".into(),
        D::Float64 => "double precision".into(),
        D::Decimal128(precision, scale) if *scale >= 0 => format!("numeric({precision}, {scale}) or wider"),
        D::Utf8 | D::LargeUtf8 | D::Utf8View => "text, varchar, json, jsonb, uuid or an enum".into(),
        D::Binary | D::LargeBinary | D::BinaryView => "bytea".into(),
        D::Date32 => "date".into(),
        D::Time32(_) | D::Time64(_) => "time".into(),
        D::Timestamp(..) => "timestamp or timestamptz".into(),
        D::List(field) | D::LargeList(field) => format!("an array of {}", suitable(field.data_type())?),
        _ => return None,
    })
}

/// Why a column can't be written, and what to do.
pub(crate) fn mismatch(name: &str, from: &DataType, column: &TableColumn) -> String {
    let ours = sql_type_name(from);
    let remedy = match suitable(from) {
        Some(types) => format!(
            "make the table's column {types}, or CAST the value in the query that the sink reads{}",
            matches!(from, DataType::Int64).then_some(" (a count is a BIGINT)").unwrap_or_default()
        ),
        None => "CAST the value to another type in the query that the sink reads".to_owned(),
    };
    format!("column `{name}`: {ours} does not fit into the table's {}; {remedy}", column.type_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(to: &Type, type_name: &str, numeric: Option<(i32, i32)>) -> TableColumn {
        TableColumn {
            name: "c".into(),
            oid: to.oid(),
            type_name: type_name.into(),
            type_kind: 'b',
            numeric,
            not_null: false,
            has_default: false,
            is_generated: false,
        }
    }

    #[test]
    fn what_fits_and_what_does_not() {
        let fits = |from: &DataType, to: &Type, numeric| wire_of(from, &column(to, "", numeric));
        assert_eq!(fits(&DataType::Int32, &Type::INT8, None), Some(Wire::Int8));
        assert_eq!(fits(&DataType::Int64, &Type::INT4, None), None);
        assert_eq!(fits(&DataType::Int64, &Type::NUMERIC, Some((18, 0))), None);
        assert_eq!(fits(&DataType::Decimal128(10, 2), &Type::NUMERIC, Some((12, 2))), Some(Wire::Numeric));
        assert_eq!(fits(&DataType::Decimal128(10, 2), &Type::NUMERIC, Some((10, 4))), None);
        assert_eq!(fits(&DataType::Decimal128(38, 10), &Type::NUMERIC, None), Some(Wire::Numeric));
        assert_eq!(fits(&DataType::Utf8, &Type::INT4, None), None);
        assert_eq!(fits(&DataType::Float64, &Type::FLOAT4, None), None);
        let list = DataType::new_list(DataType::Int64, true);
        let wire = Wire::Array { element: Type::INT8.oid(), wire: Box::new(Wire::Int8) };
        assert_eq!(fits(&list, &Type::INT8_ARRAY, None), Some(wire));
        assert_eq!(fits(&list, &Type::TEXT_ARRAY, None), None);
    }

    #[test]
    fn a_mismatch_names_column_types_and_remedy() {
        let message = mismatch("n", &DataType::Int64, &column(&Type::INT4, "integer", None));
        assert_eq!(
            message,
            "column `n`: BIGINT does not fit into the table's integer; make the table's column bigint, or CAST the value \
             in the query that the sink reads (a count is a BIGINT)"
        );
    }
}
