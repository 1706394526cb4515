use crate::names;
use crate::types::{ColumnType, Kind, Record};
use crate::{Error, Result};
use arrow::datatypes::SchemaRef;
use std::marker::PhantomData;
use weir_model::graph::StreamSchema;
use weir_model::types::sql_type_name;

/// The streams that a step reads, in the order of the step's `inputs`.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    streams: &'a [StreamSchema],
}

impl<'a> Inputs<'a> {
    pub(crate) fn new(streams: &'a [StreamSchema]) -> Self {
        Inputs { streams }
    }

    pub fn len(&self) -> usize {
        self.streams.len()
    }

    pub fn is_empty(&self) -> bool {
        self.streams.is_empty()
    }

    /// Input number `index`, from 0.
    ///
    /// # Errors
    /// If the step has fewer inputs.
    pub fn get(&self, index: usize) -> Result<Input<'a>> {
        match self.streams.get(index) {
            Some(stream) => Ok(Input { index, stream }),
            None => Err(Error::new(format!(
                "it reads at least {} inputs, and the step has {}; name them in `inputs`",
                index + 1,
                self.streams.len()
            ))),
        }
    }

    /// The one input there is.
    ///
    /// # Errors
    /// If there are several.
    pub fn only(&self) -> Result<Input<'a>> {
        match self.streams {
            [stream] => Ok(Input { index: 0, stream }),
            several => Err(Error::new(format!("it reads one input, and the step has {}", several.len()))),
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = Input<'a>> + use<'a> {
        self.streams.iter().enumerate().map(|(index, stream)| Input { index, stream })
    }
}

/// One stream that a step reads.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    index: usize,
    stream: &'a StreamSchema,
}

/// A column of one input, found by its name once and read from each row by `Row::get`.
pub struct Column<T> {
    pub(crate) input: usize,
    pub(crate) index: usize,
    value: PhantomData<fn() -> T>,
}

impl<T> Clone for Column<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Column<T> {}

impl<T> Column<T> {
    pub(crate) fn new(input: usize, index: usize) -> Self {
        Column { input, index, value: PhantomData }
    }
}

/// The columns of a record in one input, read from each row by `Row::read`.
pub struct RecordColumns<T> {
    pub(crate) input: usize,
    pub(crate) indexes: Vec<usize>,
    value: PhantomData<fn() -> T>,
}

impl<'a> Input<'a> {
    pub fn index(&self) -> usize {
        self.index
    }

    /// All columns; of an updating stream the last one is the change kind.
    pub fn schema(&self) -> &'a SchemaRef {
        &self.stream.fields
    }

    pub(crate) fn stream(&self) -> &'a StreamSchema {
        self.stream
    }

    /// Whether rows carry change kinds (the input is an aggregate without a window, for instance).
    pub fn is_updating(&self) -> bool {
        self.stream.is_updating()
    }

    pub fn has_column(&self, name: &str) -> bool {
        self.names().any(|column| column == name)
    }

    /// Names of the columns, without the change kind.
    pub fn names(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.stream.fields.fields().iter().take(self.stream.value_columns()).map(|field| field.name().as_str())
    }

    /// The column of this name.
    ///
    /// # Errors
    /// If there is none, or it can't be read as a `T`.
    pub fn column<T: ColumnType>(&self, name: &str) -> Result<Column<T>> {
        let index = self.find(name)?;
        let data_type = self.stream.fields.field(index).data_type();
        if Kind::of(data_type).is_some_and(T::accepts) {
            return Ok(Column::new(self.index, index));
        }
        let is = sql_type_name(data_type);
        let wanted = T::KIND.sql_name();
        Err(Error::new(format!(
            "column `{name}` of {} is {is}, and {wanted} is needed; CAST it in the step before",
            self.described()
        )))
    }

    /// The columns that carry the names of the record's fields.
    ///
    /// # Errors
    /// As `column`.
    pub fn record<T: Record>(&self) -> Result<RecordColumns<T>> {
        let find = |field: &weir_model::StateField| {
            let index = self.find(&field.name)?;
            let is = self.stream.fields.field(index).data_type();
            if *is == field.data_type {
                return Ok(index);
            }
            let (is, wanted) = (sql_type_name(is), sql_type_name(&field.data_type));
            Err(Error::new(format!(
                "column `{}` of {} is {is}, and {wanted} is needed; CAST it in the step before",
                field.name,
                self.described()
            )))
        };
        let indexes = T::fields().iter().map(find).collect::<Result<_>>()?;
        Ok(RecordColumns { input: self.index, indexes, value: PhantomData })
    }

    /// The first columns, in order, whatever their names.
    pub(crate) fn positions<T: Record>(&self) -> Result<RecordColumns<T>> {
        let fields = T::fields();
        if fields.len() != self.stream.value_columns() {
            let (is, wanted) = (self.stream.value_columns(), fields.len());
            return Err(Error::new(format!("there are {is} columns, and {wanted} are asked for")));
        }
        Ok(RecordColumns { input: self.index, indexes: (0..fields.len()).collect(), value: PhantomData })
    }

    pub(crate) fn find(&self, name: &str) -> Result<usize> {
        self.names().position(|column| column == name).ok_or_else(|| {
            let known = names::listed(name, self.names());
            Error::new(format!("{} has no column `{name}`; its columns are {known}", self.described()))
        })
    }

    fn described(&self) -> String {
        format!("input {}", self.index + 1)
    }
}
