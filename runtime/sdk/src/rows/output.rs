use crate::types::{ToValue, Value};
use crate::{Error, Result};
use arrow::array::*;
use arrow::datatypes::{DataType, Decimal128Type, DecimalType, Field, SchemaRef};
use std::sync::Arc;
use weir_dataflow::Collector;
use weir_model::ChangeKind;
use weir_model::element::BATCH_ROWS;
use weir_model::graph::StreamSchema;

/// A batch of long texts goes on before it has all its rows: channels are bounded in bytes.
const BATCH_TEXT_BYTES: usize = 4 << 20;

/// Where an operator puts its rows. They are gathered into batches and go on when a batch is full, and at the end
/// of each call at the latest.
pub struct Output<'a> {
    buffer: &'a mut OutputBuffer,
    collector: &'a mut dyn Collector,
}

/// What can be emitted: a row of the input, a value, a record, or a tuple of such, side by side.
pub trait OutputRow {
    /// Pushes the row's columns, in order.
    fn write_to(&self, out: &mut OutputWriter<'_>) -> Result<()>;
}

impl<'a> Output<'a> {
    pub(crate) fn new(buffer: &'a mut OutputBuffer, collector: &'a mut dyn Collector) -> Self {
        Output { buffer, collector }
    }

    /// Emits a row, as an insertion if the output is updating.
    ///
    /// # Errors
    /// A row that doesn't fit the output schema; the job is being cancelled.
    pub fn emit(&mut self, row: impl OutputRow) -> Result<()> {
        self.emit_change(ChangeKind::Insert, row)
    }

    /// Emits a change.
    ///
    /// # Errors
    /// As `emit`; anything but an insertion if the output isn't updating.
    pub fn emit_change(&mut self, kind: ChangeKind, row: impl OutputRow) -> Result<()> {
        self.buffer.append(kind, &row)?;
        if self.buffer.rows >= BATCH_ROWS || self.buffer.text_bytes >= BATCH_TEXT_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    pub(crate) fn flush(&mut self) -> Result<()> {
        if let Some(batch) = self.buffer.finish()? {
            self.collector.emit(batch)?;
        }
        Ok(())
    }
}

/// Takes the columns of one row, in order.
pub struct OutputWriter<'a> {
    buffer: &'a mut OutputBuffer,
    next: usize,
}

impl OutputWriter<'_> {
    /// The next column's value.
    ///
    /// # Errors
    /// A value that doesn't fit the column.
    #[inline]
    pub fn push(&mut self, value: &impl ToValue) -> Result<()> {
        value.with_value(|value| self.push_value(value))
    }

    /// As `push`, of a value whose type isn't known before.
    #[inline]
    pub fn push_value(&mut self, value: Value<'_>) -> Result<()> {
        let index = self.next;
        let Some(column) = self.buffer.columns.get_mut(index) else {
            return Err(Error::new(format!("a row of more columns than the {index} of the output schema")));
        };
        self.next += 1;
        self.buffer.text_bytes += match value {
            Value::Varchar(text) => text.len(),
            Value::Bytes(bytes) => bytes.len(),
            _ => 0,
        };
        column.append(value).map_err(|reason| {
            let field = self.buffer.schema.field(index);
            Error::new(format!("output column `{}`: {reason}", field.name()))
        })
    }
}

impl<T: ToValue> OutputRow for T {
    #[inline]
    fn write_to(&self, out: &mut OutputWriter<'_>) -> Result<()> {
        out.push(self)
    }
}

macro_rules! tuples {
    ($($type:ident $number:tt),+) => {
        impl<$($type: OutputRow),+> OutputRow for ($($type,)+) {
            #[inline]
            fn write_to(&self, out: &mut OutputWriter<'_>) -> Result<()> {
                $(self.$number.write_to(out)?;)+
                Ok(())
            }
        }
    };
}
tuples!(A 0);
tuples!(A 0, B 1);
tuples!(A 0, B 1, C 2);
tuples!(A 0, B 1, C 2, D 3);
tuples!(A 0, B 1, C 2, D 3, E 4);
tuples!(A 0, B 1, C 2, D 3, E 4, F 5);
tuples!(A 0, B 1, C 2, D 3, E 4, F 5, G 6);
tuples!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7);
tuples!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8);
tuples!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9);
tuples!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9, K 10);
tuples!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7, I 8, J 9, K 10, L 11);

/// The batch that is being gathered.
pub(crate) struct OutputBuffer {
    schema: SchemaRef,
    columns: Vec<ColumnBuilder>,
    kinds: Option<Int8Builder>,
    rows: usize,
    /// Of all text and byte columns.
    text_bytes: usize,
}

impl OutputBuffer {
    /// # Errors
    /// A column of a type that no SQL type of a job has.
    pub(crate) fn new(stream: &StreamSchema) -> Result<Self> {
        let fields = stream.fields.fields().iter().take(stream.value_columns());
        Ok(OutputBuffer {
            schema: stream.fields.clone(),
            columns: fields.map(|field| ColumnBuilder::new(field)).collect::<Result<_>>()?,
            kinds: stream.is_updating().then(Int8Builder::new),
            rows: 0,
            text_bytes: 0,
        })
    }

    pub(crate) fn append(&mut self, kind: ChangeKind, row: &impl OutputRow) -> Result<()> {
        match &mut self.kinds {
            Some(kinds) => kinds.append_value(kind as i8),
            None if kind == ChangeKind::Insert => {}
            None => {
                let reason = format!("a change {} on an output that isn't updating", kind.symbol());
                return Err(Error::new(format!("{reason}; declare it with `RowSchema::updating`")));
            }
        }
        let mut writer = OutputWriter { buffer: self, next: 0 };
        row.write_to(&mut writer)?;
        let (given, wanted) = (writer.next, self.columns.len());
        if given < wanted {
            return Err(Error::new(format!("a row of {given} columns; the output schema has {wanted}")));
        }
        self.rows += 1;
        Ok(())
    }

    /// `None` if there are no rows.
    pub(crate) fn finish(&mut self) -> Result<Option<RecordBatch>> {
        if self.rows == 0 {
            return Ok(None);
        }
        self.rows = 0;
        self.text_bytes = 0;
        let mut columns = Vec::with_capacity(self.columns.len() + 1);
        for (column, field) in self.columns.iter_mut().zip(self.schema.fields()) {
            columns.push(column.finish(field)?);
        }
        if let Some(kinds) = &mut self.kinds {
            columns.push(Arc::new(kinds.finish()));
        }
        Ok(Some(RecordBatch::try_new(self.schema.clone(), columns)?))
    }
}

struct ColumnBuilder {
    values: Builder,
    nullable: bool,
}

enum Builder {
    Boolean(BooleanBuilder),
    TinyInt(Int8Builder),
    SmallInt(Int16Builder),
    Int(Int32Builder),
    BigInt(Int64Builder),
    Float(Float32Builder),
    Double(Float64Builder),
    Decimal { values: Decimal128Builder, precision: u8 },
    Varchar(StringBuilder),
    Bytes(BinaryBuilder),
    Date(Date32Builder),
    Time(Time64MicrosecondBuilder),
    Timestamp(TimestampMicrosecondBuilder),
}

impl ColumnBuilder {
    fn new(field: &Field) -> Result<Self> {
        use crate::types::Kind;
        let Some(kind) = Kind::of(field.data_type()) else {
            let reason = format!("output column `{}` has type {}", field.name(), field.data_type());
            return Err(Error::new(format!("{reason}, which no SQL type of a job stands for")));
        };
        let values = match kind {
            Kind::Boolean => Builder::Boolean(BooleanBuilder::new()),
            Kind::TinyInt => Builder::TinyInt(Int8Builder::new()),
            Kind::SmallInt => Builder::SmallInt(Int16Builder::new()),
            Kind::Int => Builder::Int(Int32Builder::new()),
            Kind::BigInt => Builder::BigInt(Int64Builder::new()),
            Kind::Float => Builder::Float(Float32Builder::new()),
            Kind::Double => Builder::Double(Float64Builder::new()),
            Kind::Decimal => {
                let &DataType::Decimal128(precision, scale) = field.data_type() else {
                    unreachable!("a decimal is a Decimal128")
                };
                let values = Decimal128Builder::new().with_precision_and_scale(precision, scale)?;
                Builder::Decimal { values, precision }
            }
            Kind::Varchar => Builder::Varchar(StringBuilder::new()),
            Kind::Bytes => Builder::Bytes(BinaryBuilder::new()),
            Kind::Date => Builder::Date(Date32Builder::new()),
            Kind::Time => Builder::Time(Time64MicrosecondBuilder::new()),
            Kind::Timestamp => Builder::Timestamp(TimestampMicrosecondBuilder::new()),
        };
        Ok(ColumnBuilder { values, nullable: field.is_nullable() })
    }

    #[inline]
    fn append(&mut self, value: Value<'_>) -> Result<(), String> {
        match (&mut self.values, value) {
            (_, Value::Null) => return self.append_null(),
            (Builder::Boolean(column), Value::Boolean(value)) => column.append_value(value),
            (Builder::TinyInt(column), Value::TinyInt(value)) => column.append_value(value),
            (Builder::SmallInt(column), Value::SmallInt(value)) => column.append_value(value),
            (Builder::SmallInt(column), Value::TinyInt(value)) => column.append_value(value.into()),
            (Builder::Int(column), Value::Int(value)) => column.append_value(value),
            (Builder::Int(column), Value::SmallInt(value)) => column.append_value(value.into()),
            (Builder::Int(column), Value::TinyInt(value)) => column.append_value(value.into()),
            (Builder::BigInt(column), Value::BigInt(value)) => column.append_value(value),
            (Builder::BigInt(column), Value::Int(value)) => column.append_value(value.into()),
            (Builder::BigInt(column), Value::SmallInt(value)) => column.append_value(value.into()),
            (Builder::BigInt(column), Value::TinyInt(value)) => column.append_value(value.into()),
            (Builder::Float(column), Value::Float(value)) => column.append_value(value),
            (Builder::Double(column), Value::Double(value)) => column.append_value(value),
            (Builder::Double(column), Value::Float(value)) => column.append_value(value.into()),
            (Builder::Double(column), Value::Int(value)) => column.append_value(value.into()),
            (Builder::Decimal { values, precision }, Value::Decimal(value)) => {
                if !Decimal128Type::is_valid_decimal_precision(value, *precision) {
                    return Err(format!("{value} (unscaled) has more than {precision} digits"));
                }
                values.append_value(value)
            }
            (Builder::Varchar(column), Value::Varchar(value)) => column.append_value(value),
            (Builder::Bytes(column), Value::Bytes(value)) => column.append_value(value),
            (Builder::Date(column), Value::Date(value)) => column.append_value(value),
            (Builder::Time(column), Value::Time(value)) => column.append_value(value),
            (Builder::Timestamp(column), Value::Timestamp(value)) => column.append_value(value),
            (_, other) => return Err(format!("a {} does not fit", other.type_name())),
        }
        Ok(())
    }

    fn append_null(&mut self) -> Result<(), String> {
        if !self.nullable {
            return Err("a null, and it is declared not to be null; declare it as an Option".to_owned());
        }
        match &mut self.values {
            Builder::Boolean(column) => column.append_null(),
            Builder::TinyInt(column) => column.append_null(),
            Builder::SmallInt(column) => column.append_null(),
            Builder::Int(column) => column.append_null(),
            Builder::BigInt(column) => column.append_null(),
            Builder::Float(column) => column.append_null(),
            Builder::Double(column) => column.append_null(),
            Builder::Decimal { values, precision: _ } => values.append_null(),
            Builder::Varchar(column) => column.append_null(),
            Builder::Bytes(column) => column.append_null(),
            Builder::Date(column) => column.append_null(),
            Builder::Time(column) => column.append_null(),
            Builder::Timestamp(column) => column.append_null(),
        }
        Ok(())
    }

    fn finish(&mut self, field: &Field) -> Result<ArrayRef> {
        Ok(match &mut self.values {
            Builder::Boolean(column) => Arc::new(column.finish()),
            Builder::TinyInt(column) => Arc::new(column.finish()),
            Builder::SmallInt(column) => Arc::new(column.finish()),
            Builder::Int(column) => Arc::new(column.finish()),
            Builder::BigInt(column) => Arc::new(column.finish()),
            Builder::Float(column) => Arc::new(column.finish()),
            Builder::Double(column) => Arc::new(column.finish()),
            Builder::Decimal { values, precision: _ } => {
                Arc::new(values.finish().with_data_type(field.data_type().clone()))
            }
            Builder::Varchar(column) => Arc::new(column.finish()),
            Builder::Bytes(column) => Arc::new(column.finish()),
            Builder::Date(column) => Arc::new(column.finish()),
            Builder::Time(column) => Arc::new(column.finish()),
            Builder::Timestamp(column) => Arc::new(column.finish()),
        })
    }
}
