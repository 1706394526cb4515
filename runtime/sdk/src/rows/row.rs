use super::{Column, ColumnData, OutputRow, OutputWriter, RecordColumns};
use crate::types::{ColumnType, Record, RecordReader, Timestamp, Value};
use crate::{Error, Result};
use weir_model::ChangeKind;

/// One row of an input, where it lies in its batch. Reading allocates nothing: text is lent from the batch.
#[derive(Clone, Copy)]
pub struct Row<'a> {
    pub(crate) batch: &'a BatchRows<'a>,
    pub(crate) index: usize,
}

/// What the rows of a batch have in common.
pub(crate) struct BatchRows<'a> {
    pub(crate) input: usize,
    /// Without the change kind.
    pub(crate) columns: Vec<ColumnData<'a>>,
    /// Of an updating input.
    pub(crate) kinds: Option<&'a [i8]>,
    pub(crate) time_column: Option<usize>,
}

impl<'a> Row<'a> {
    /// The value of a column.
    ///
    /// # Errors
    /// A null in a column that isn't read as an `Option`; a column of another input.
    #[inline]
    pub fn get<T: ColumnType>(&self, column: Column<T>) -> Result<T::Ref<'a>> {
        if column.input != self.batch.input {
            return Err(self.of_another_input(column.input));
        }
        self.get_at::<T>(column.index)
    }

    /// The row as a record.
    ///
    /// # Errors
    /// As `get`.
    pub fn read<T: Record>(&self, columns: &RecordColumns<T>) -> Result<T> {
        if columns.input != self.batch.input {
            return Err(self.of_another_input(columns.input));
        }
        T::read(&mut ColumnReader { row: *self, indexes: columns.indexes.iter() })
    }

    /// Which input the row came by, from 0.
    pub fn input(&self) -> usize {
        self.batch.input
    }

    /// What the row does to the result of the step it comes from; `Insert` unless that is updating.
    #[inline]
    pub fn kind(&self) -> ChangeKind {
        match self.batch.kinds {
            Some(kinds) => ChangeKind::from_byte(kinds[self.index]).unwrap_or(ChangeKind::Insert),
            None => ChangeKind::Insert,
        }
    }

    /// The row's event time: the value of the first column that the input's watermark speaks of. `None` if there
    /// is no such column, or it is null.
    pub fn event_time(&self) -> Option<Timestamp> {
        match self.batch.columns.get(self.batch.time_column?)?.value(self.index)? {
            Value::Timestamp(micros) => Some(Timestamp::from_micros(micros)),
            _ => None,
        }
    }

    /// The number of columns, without the change kind.
    pub fn len(&self) -> usize {
        self.batch.columns.len()
    }

    pub fn is_empty(&self) -> bool {
        self.batch.columns.is_empty()
    }

    /// Column number `index`, whatever its type. `None` if there is none, or its type isn't one of SQL's.
    pub fn value(&self, index: usize) -> Option<Value<'a>> {
        self.batch.columns.get(index)?.value(self.index)
    }

    #[inline]
    pub(crate) fn get_at<T: ColumnType>(&self, index: usize) -> Result<T::Ref<'a>> {
        let value = self.batch.columns[index].value(self.index).unwrap_or(Value::Null);
        T::borrow(value).map_err(|error| Error::new(format!("column {} of a row: {error}", index + 1)))
    }

    #[cold]
    fn of_another_input(&self, input: usize) -> Error {
        Error::new(format!(
            "a column of input {} was read from a row of input {}; look at `row.input()` first",
            input + 1,
            self.batch.input + 1
        ))
    }
}

struct ColumnReader<'a, 'i> {
    row: Row<'a>,
    indexes: std::slice::Iter<'i, usize>,
}

impl RecordReader for ColumnReader<'_, '_> {
    fn take<T: ColumnType>(&mut self) -> Result<T> {
        let index = self.indexes.next().ok_or_else(|| Error::new("a record reads more columns than it has fields"))?;
        self.row.get_at::<T>(*index).map(T::own)
    }
}

/// All columns of the row.
impl OutputRow for Row<'_> {
    fn write_to(&self, out: &mut OutputWriter<'_>) -> Result<()> {
        for column in &self.batch.columns {
            match column.value(self.index) {
                Some(value) => out.push_value(value)?,
                None => return Err(Error::new("a column whose type isn't one of SQL's cannot be passed on by row")),
            }
        }
        Ok(())
    }
}
