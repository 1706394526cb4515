use super::Input;
use crate::types::{ColumnType, Record};
use crate::{Error, Result};
use arrow::datatypes::{DataType, Field, Schema};
use std::sync::Arc;
use weir_model::CHANGE_KIND_COLUMN;
use weir_model::change::change_kind_field;
use weir_model::graph::StreamSchema;

/// The columns of a stream, in order: what an operator emits, or in a test what it reads.
///
/// ```
/// # use weir_sdk::{RowSchema, Timestamp};
/// RowSchema::new()
///     .column::<String>("airport")
///     .column::<Timestamp>("at")
///     .column::<Option<f64>>("worst")
///     .event_time("at");
/// ```
#[derive(Clone, Debug, Default)]
pub struct RowSchema {
    fields: Vec<Field>,
    event_times: Vec<String>,
    updating: bool,
}

impl RowSchema {
    pub fn new() -> Self {
        Self::default()
    }

    /// The fields of a record.
    pub fn of<T: Record>() -> Self {
        let fields = T::fields().iter().map(|field| field.to_field()).collect();
        RowSchema { fields, ..Self::default() }
    }

    /// All columns of an input, without its change kind, and the times that its watermark speaks of. What is added
    /// comes after them.
    pub fn like(input: Input<'_>) -> Self {
        let stream = input.stream();
        let fields: Vec<Field> =
            stream.fields.fields().iter().take(stream.value_columns()).map(|field| field.as_ref().clone()).collect();
        let event_times = stream.time_columns.iter().filter_map(|index| fields.get(*index));
        RowSchema { event_times: event_times.map(|field| field.name().clone()).collect(), fields, updating: false }
    }

    /// One column; an `Option` may be null.
    pub fn column<T: ColumnType>(self, name: &str) -> Self {
        self.column_of(name, T::KIND.data_type(), T::NULLABLE)
    }

    /// One column of a type that has no Rust type of its own here (a `DECIMAL(10, 2)`).
    pub fn column_of(mut self, name: &str, data_type: DataType, nullable: bool) -> Self {
        self.fields.push(Field::new(name, data_type, nullable));
        self
    }

    /// Declares that the stream's watermark speaks of this TIMESTAMP column too: no row is emitted whose time is
    /// behind the watermark. That is so for times of input rows that are in time, and for those of event-time
    /// timers. Steps that read the output may then use it for windows.
    pub fn event_time(mut self, name: &str) -> Self {
        self.event_times.push(name.to_owned());
        self
    }

    /// Rows carry change kinds: they are emitted by `Output::emit_change`.
    pub fn updating(mut self) -> Self {
        self.updating = true;
        self
    }

    /// # Errors
    /// No columns, a name twice, an event time that is no such column.
    pub(crate) fn into_stream(self) -> Result<StreamSchema> {
        let RowSchema { mut fields, event_times, updating } = self;
        if fields.is_empty() {
            return Err(Error::new("its output has no columns"));
        }
        for (index, field) in fields.iter().enumerate() {
            if field.name() == CHANGE_KIND_COLUMN {
                return Err(Error::new(format!("`{CHANGE_KIND_COLUMN}` is no column to declare; use `updating()`")));
            }
            if fields[..index].iter().any(|other| other.name() == field.name()) {
                return Err(Error::new(format!("its output has two columns named `{}`", field.name())));
            }
        }
        let time_column = |name: &String| {
            let found = fields.iter().position(|field| field.name() == name);
            found
                .filter(|index| matches!(fields[*index].data_type(), DataType::Timestamp(_, _)))
                .ok_or_else(|| Error::new(format!("its event time `{name}` is not a TIMESTAMP column of its output")))
        };
        let time_columns = event_times.iter().map(time_column).collect::<Result<_>>()?;
        if updating {
            fields.push(change_kind_field());
        }
        Ok(StreamSchema { fields: Arc::new(Schema::new(fields)), time_columns, window: None })
    }
}
