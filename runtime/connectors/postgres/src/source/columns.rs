//! From the server's rows to Arrow's columns.

mod texts;

use crate::table::{Table, TableColumn, quoted};
use arrow::array::*;
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::*;
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use std::error::Error;
use std::sync::Arc;
use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, Type};
use weir_connectors::api::ConnectorError;
use weir_model::types::{TIMESTAMP, sql_type_name};

const EPOCH_DAYS: i32 = 10_957;
const EPOCH_US: i64 = EPOCH_DAYS as i64 * 86_400_000_000;
/// How the server writes `infinity` and `-infinity`; we have neither.
const INFINITE: [i64; 2] = [i64::MAX, i64::MIN];
const INFINITE_DAYS: [i32; 2] = [i32::MAX, i32::MIN];
/// Of a numeric without precision and scale, unless the job's schema says another type.
const ANY_NUMERIC: DataType = DataType::Decimal128(38, 10);

/// How a column is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// In its binary form, which is that of this type of ours.
    Binary,
    /// As text, which is then read as the column's type.
    Text,
}

/// The type of ours that a column of the table has by itself.
pub(crate) fn natural(column: &TableColumn) -> (Asked, DataType) {
    let binary = |data_type| (Asked::Binary, data_type);
    match Type::from_oid(column.oid) {
        Some(Type::BOOL) => binary(DataType::Boolean),
        Some(Type::INT2) => binary(DataType::Int16),
        Some(Type::INT4) => binary(DataType::Int32),
        Some(Type::INT8) => binary(DataType::Int64),
        Some(Type::FLOAT4) => binary(DataType::Float32),
        Some(Type::FLOAT8) => binary(DataType::Float64),
        Some(Type::BYTEA) => binary(DataType::Binary),
        Some(Type::DATE) => binary(DataType::Date32),
        Some(Type::TIME) => binary(DataType::Time64(TimeUnit::Microsecond)),
        Some(Type::TIMESTAMP | Type::TIMESTAMPTZ) => binary(TIMESTAMP),
        Some(Type::TEXT | Type::VARCHAR) => binary(DataType::Utf8),
        Some(Type::NUMERIC) => match column.numeric {
            Some((precision @ 1..=38, scale)) if (0..=precision).contains(&scale) => {
                (Asked::Text, DataType::Decimal128(precision as u8, scale as i8))
            }
            _ => (Asked::Text, ANY_NUMERIC),
        },
        // json, uuid, enums, arrays and all others: as the server writes them.
        _ => (Asked::Text, DataType::Utf8),
    }
}

pub(crate) struct Columns {
    schema: SchemaRef,
    columns: Vec<Column>,
}

struct Column {
    expression: String,
    /// Of what comes from the server.
    data_type: DataType,
    /// `char(n)`: blanks at the end count for nothing, and are left out where the server itself makes it text.
    is_padded: bool,
}

impl Columns {
    pub(crate) fn of(table: &Table, schema: &SchemaRef) -> Result<Self, ConnectorError> {
        let mut columns = Vec::new();
        for field in schema.fields() {
            let Some(column) = table.column(field.name()) else {
                let has: Vec<&str> = table.columns.iter().map(|column| column.name.as_str()).collect();
                return Err(ConnectorError::Permanent(format!(
                    "the table `{}` has no column `{}`; it has {}",
                    table.name,
                    field.name(),
                    has.join(", ")
                )));
            };
            let (asked, natural) = natural(column);
            let (expression, data_type) = match asked {
                Asked::Binary => (quoted(&column.name), natural.clone()),
                Asked::Text => (format!("{}::text", quoted(&column.name)), DataType::Utf8),
            };
            let (from, to) = (&natural, field.data_type());
            let is_same_kind = from == to
                || from.is_numeric() && to.is_numeric()
                || matches!((from, to), (_, DataType::Utf8) | (DataType::Date32, DataType::Timestamp(..)));
            if !is_same_kind {
                return Err(ConnectorError::Permanent(format!(
                    "column `{}` of `{}` is {}, which cannot be read as {}; declare it as {}, or leave `schema` out",
                    field.name(),
                    table.name,
                    column.type_name,
                    sql_type_name(to),
                    sql_type_name(&natural)
                )));
            }
            let is_padded = column.oid == Type::BPCHAR.oid();
            columns.push(Column { expression, data_type, is_padded });
        }
        Ok(Columns { schema: schema.clone(), columns })
    }

    /// For a SELECT.
    pub(crate) fn expressions(&self) -> String {
        self.columns.iter().map(|column| column.expression.as_str()).collect::<Vec<_>>().join(", ")
    }

    /// Of rows that begin with what `expressions` asks for.
    pub(crate) fn batch(&self, rows: &[Row]) -> Result<RecordBatch, ConnectorError> {
        let read = |index: usize, column: &Column| read(rows, index, &column.data_type);
        self.batch_of(rows.len(), read)
    }

    /// Of values as the server writes them, a column each.
    pub(crate) fn batch_of_texts(&self, rows: usize, texts: &[StringArray]) -> Result<RecordBatch, ConnectorError> {
        self.batch_of(rows, |index, column| match column.is_padded {
            true => {
                let trimmed = texts[index].iter().map(|text| text.map(|text| text.trim_end_matches(' ')));
                Ok(Arc::new(trimmed.collect::<StringArray>()))
            }
            false => texts::read(&texts[index], &column.data_type),
        })
    }

    fn batch_of(
        &self,
        rows: usize,
        read: impl Fn(usize, &Column) -> Read<ArrayRef>,
    ) -> Result<RecordBatch, ConnectorError> {
        let fields = self.schema.fields().iter();
        let column = |(index, (field, column)): (usize, (&Arc<Field>, &Column))| {
            let refused = |reason: String| ConnectorError::Permanent(format!("column `{}`: {reason}", field.name()));
            let read = read(index, column).map_err(|error| refused(error.to_string()))?;
            let options = CastOptions { safe: false, ..CastOptions::default() };
            let cast = cast_with_options(&read, field.data_type(), &options).map_err(|error| {
                let ours = sql_type_name(field.data_type());
                refused(format!("a value cannot be read as {ours}: {error}; declare a wider type in `schema`"))
            })?;
            if !field.is_nullable() && cast.null_count() > 0 {
                return Err(refused("it holds NULLs, and the schema says `nullable: false`".into()));
            }
            Ok(cast)
        };
        let columns = fields.zip(&self.columns).enumerate().map(column).collect::<Result<Vec<_>, _>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)
            .map_err(|error| ConnectorError::Permanent(error.to_string()))
    }
}

/// A value as it came.
struct Raw<'a>(&'a [u8]);

impl<'a> FromSql<'a> for Raw<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Raw(raw))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

type Read<T> = Result<T, Box<dyn Error + Sync + Send>>;

fn read(rows: &[Row], index: usize, data_type: &DataType) -> Read<ArrayRef> {
    let raw = |row: &'_ Row| -> Read<Option<Vec<u8>>> {
        Ok(row.try_get::<_, Option<Raw<'_>>>(index)?.map(|raw| raw.0.to_vec()))
    };
    macro_rules! fixed {
        ($arrow:ty, $native:ty, $convert:expr) => {{
            let mut values = PrimitiveBuilder::<$arrow>::with_capacity(rows.len());
            for row in rows {
                let value = row.try_get::<_, Option<Raw<'_>>>(index)?;
                let value = value.map(|raw| raw.0.try_into().map(<$native>::from_be_bytes)).transpose()?;
                values.append_option(value.map($convert).transpose()?);
            }
            Arc::new(values.finish()) as ArrayRef
        }};
    }
    Ok(match data_type {
        DataType::Boolean => {
            let mut values = BooleanBuilder::with_capacity(rows.len());
            for row in rows {
                values.append_option(raw(row)?.map(|raw| raw.first().is_some_and(|byte| *byte != 0)));
            }
            Arc::new(values.finish())
        }
        DataType::Int16 => fixed!(Int16Type, i16, Read::Ok),
        DataType::Int32 => fixed!(Int32Type, i32, Read::Ok),
        DataType::Int64 => fixed!(Int64Type, i64, Read::Ok),
        DataType::Float32 => fixed!(Float32Type, f32, Read::Ok),
        DataType::Float64 => fixed!(Float64Type, f64, Read::Ok),
        DataType::Date32 => fixed!(Date32Type, i32, date),
        DataType::Time64(_) => fixed!(Time64MicrosecondType, i64, Read::Ok),
        DataType::Timestamp(..) => fixed!(TimestampMicrosecondType, i64, timestamp),
        DataType::Binary => {
            let mut values = BinaryBuilder::new();
            for row in rows {
                values.append_option(raw(row)?);
            }
            Arc::new(values.finish())
        }
        _ => {
            let mut values = StringBuilder::new();
            for row in rows {
                values.append_option(row.try_get::<_, Option<&str>>(index)?);
            }
            Arc::new(values.finish())
        }
    })
}

fn date(days: i32) -> Read<i32> {
    match INFINITE_DAYS.contains(&days) {
        true => Err("an infinite date, which has no counterpart; NULL it, or leave such rows out".into()),
        false => days.checked_add(EPOCH_DAYS).ok_or_else(|| "a date out of range".into()),
    }
}

fn timestamp(us: i64) -> Read<i64> {
    match INFINITE.contains(&us) {
        true => Err("an infinite timestamp, which has no counterpart; NULL it, or leave such rows out".into()),
        false => us.checked_add(EPOCH_US).ok_or_else(|| "a timestamp out of range".into()),
    }
}
