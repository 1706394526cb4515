use crate::types::{ColumnType, Kind, RecordReader, RecordWriter, Value};
use crate::{Error, Result};
use weir_state::{FieldKind, RowState, Slot};

/// Reads a record from the fields of a row.
pub(crate) struct RowFieldReader<'a> {
    rows: &'a RowState,
    slot: Slot,
    next: usize,
}

impl<'a> RowFieldReader<'a> {
    pub(crate) fn new(rows: &'a RowState, slot: Slot) -> Self {
        RowFieldReader { rows, slot, next: 0 }
    }
}

impl RecordReader for RowFieldReader<'_> {
    #[inline]
    fn take<T: ColumnType>(&mut self) -> Result<T> {
        let field = self.rows.layout().field(self.next);
        self.next += 1;
        let row = self.rows.row(self.slot);
        let value = if field.is_null(row) {
            Value::Null
        } else {
            match T::KIND {
                Kind::Boolean => Value::Boolean(field.get_u64(row) != 0),
                Kind::TinyInt => Value::TinyInt(field.get_i64(row) as i8),
                Kind::SmallInt => Value::SmallInt(field.get_i64(row) as i16),
                Kind::Int => Value::Int(field.get_i64(row) as i32),
                Kind::BigInt => Value::BigInt(field.get_i64(row)),
                Kind::Float => Value::Float(field.get_f32(row)),
                Kind::Double => Value::Double(field.get_f64(row)),
                Kind::Decimal => Value::Decimal(field.get_i128(row)),
                Kind::Varchar => {
                    let bytes = self.rows.get_var(self.slot, field).unwrap_or_default();
                    Value::Varchar(std::str::from_utf8(bytes)?)
                }
                Kind::Bytes => Value::Bytes(self.rows.get_var(self.slot, field).unwrap_or_default()),
                Kind::Date => Value::Date(field.get_i64(row) as i32),
                Kind::Time => Value::Time(field.get_i64(row)),
                Kind::Timestamp => Value::Timestamp(field.get_i64(row)),
            }
        };
        let read = T::borrow(value).map(T::own);
        read.map_err(|error| {
            Error::new(format!("column {} of state `{}`: {error}", self.next, self.rows.schema().name))
        })
    }
}

/// Writes a record into the fields of a row.
pub(crate) struct RowFieldWriter<'a> {
    rows: &'a mut RowState,
    slot: Slot,
    next: usize,
}

impl<'a> RowFieldWriter<'a> {
    pub(crate) fn new(rows: &'a mut RowState, slot: Slot) -> Self {
        RowFieldWriter { rows, slot, next: 0 }
    }

    #[inline]
    fn put_value(&mut self, value: Value<'_>) -> Result<()> {
        let field = self.rows.layout().field(self.next);
        self.next += 1;
        if field.kind() == FieldKind::Var {
            let bytes = match value {
                Value::Varchar(text) => Some(text.as_bytes()),
                Value::Bytes(bytes) => Some(bytes),
                _ => None,
            };
            return Ok(self.rows.set_var(self.slot, field, bytes)?);
        }
        let row = self.rows.row_mut(self.slot);
        match value {
            Value::Null | Value::Varchar(_) | Value::Bytes(_) => {
                field.set_null(row);
                if field.kind() == FieldKind::Word {
                    field.put_u64(row, 0);
                }
            }
            Value::Boolean(value) => field.set_i64(row, value.into()),
            Value::TinyInt(value) => field.set_i64(row, value.into()),
            Value::SmallInt(value) => field.set_i64(row, value.into()),
            Value::Int(value) | Value::Date(value) => field.set_i64(row, value.into()),
            Value::BigInt(value) | Value::Time(value) | Value::Timestamp(value) => field.set_i64(row, value),
            Value::Float(value) => field.set_f32(row, value),
            Value::Double(value) => field.set_f64(row, value),
            Value::Decimal(value) => field.set_i128(row, value),
        }
        Ok(())
    }
}

impl RecordWriter for RowFieldWriter<'_> {
    #[inline]
    fn put<T: ColumnType>(&mut self, value: &T) -> Result<()> {
        value.with_value(|value| self.put_value(value))
    }
}
