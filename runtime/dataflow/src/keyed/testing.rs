//! What the tests of keyed operators share: rows as numbers, streams to and from batches, and a driver.

use crate::operator::{Operator, OperatorContext, OperatorError, OperatorMetrics};
use arrow::array::*;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, TimestampMicrosecondType};
use arrow::record_batch::RecordBatch;
use std::collections::BTreeMap;
use std::sync::Arc;
use weir_model::change::change_kind_field;
use weir_model::graph::StreamSchema;
use weir_model::types::TIMESTAMP;
use weir_model::{ChangeKind, EvalError, Expression, KeyGroupRange, Watermark};
use weir_state::KeyedState;

/// Whatever a column's type, its values are written as numbers.
pub(crate) type Row = Vec<Option<i64>>;
pub(crate) type Change = (Row, ChangeKind);
/// Rows with how many times they are there.
pub(crate) type Table = BTreeMap<Row, i64>;

pub(crate) fn stream(columns: &[(&str, DataType)], updating: bool) -> StreamSchema {
    let mut fields: Vec<Field> = columns.iter().map(|(name, kind)| Field::new(*name, kind.clone(), true)).collect();
    if updating {
        fields.push(change_kind_field());
    }
    StreamSchema::append_only(Arc::new(Schema::new(fields)))
}

/// The columns of several streams one after the other.
pub(crate) fn concat(streams: &[&StreamSchema], updating: bool) -> StreamSchema {
    let columns: Vec<(String, DataType)> = (streams.iter())
        .flat_map(|stream| stream.fields.fields().iter().take(stream.value_columns()))
        .enumerate()
        .map(|(index, field)| (format!("{}{index}", field.name()), field.data_type().clone()))
        .collect();
    let columns: Vec<_> = columns.iter().map(|(name, kind)| (name.as_str(), kind.clone())).collect();
    self::stream(&columns, updating)
}

fn column(data_type: &DataType, values: impl Iterator<Item = Option<i64>>) -> ArrayRef {
    match data_type {
        DataType::Int64 => Arc::new(values.collect::<Int64Array>()),
        DataType::Utf8 => {
            Arc::new(values.map(|value| value.map(|value| format!("{:05}", value + 10_000))).collect::<StringArray>())
        }
        DataType::Timestamp(_, _) => Arc::new(values.collect::<TimestampMicrosecondArray>()),
        other => panic!("no test column of type {other}"),
    }
}

fn number(column: &ArrayRef, row: usize) -> Option<i64> {
    column.is_valid(row).then(|| match column.data_type() {
        DataType::Int64 => column.as_primitive::<Int64Type>().value(row),
        DataType::Utf8 => column.as_string::<i32>().value(row).parse::<i64>().unwrap() - 10_000,
        DataType::Timestamp(_, _) => column.as_primitive::<TimestampMicrosecondType>().value(row),
        other => panic!("no test column of type {other}"),
    })
}

pub(crate) fn batch(stream: &StreamSchema, changes: &[Change]) -> RecordBatch {
    let fields = stream.fields.fields().iter().take(stream.value_columns()).enumerate();
    let value = |index: usize| changes.iter().map(move |(row, _)| row[index]);
    let mut columns: Vec<ArrayRef> = fields.map(|(index, field)| column(field.data_type(), value(index))).collect();
    if stream.is_updating() {
        columns.push(Arc::new(Int8Array::from_iter_values(changes.iter().map(|(_, kind)| *kind as i8))));
    }
    RecordBatch::try_new(stream.fields.clone(), columns).unwrap()
}

pub(crate) fn changes(stream: &StreamSchema, batch: &RecordBatch) -> Vec<Change> {
    assert_eq!(batch.schema_ref(), &stream.fields);
    let values = stream.value_columns();
    let row = |row: usize| {
        let kind = match stream.is_updating() {
            true => ChangeKind::from_byte(batch.column(values).as_primitive::<arrow::datatypes::Int8Type>().value(row)),
            false => Some(ChangeKind::Insert),
        };
        ((0..values).map(|column| number(batch.column(column), row)).collect(), kind.unwrap())
    };
    (0..batch.num_rows()).map(row).collect()
}

/// Applies changes to a table; taking back what isn't there fails the test.
pub(crate) fn apply(table: &mut Table, changes: impl IntoIterator<Item = Change>) {
    for (row, kind) in changes {
        let count = table.entry(row.clone()).or_default();
        *count += if kind.is_retraction() { -1 } else { 1 };
        assert!(*count >= 0, "{} of a row that isn't there: {row:?}", kind.symbol());
        if *count == 0 {
            table.remove(&row);
        }
    }
}

/// One operator with its state and what it has emitted.
pub(crate) struct Driver<O> {
    pub(crate) operator: O,
    pub(crate) state: KeyedState,
    pub(crate) metrics: OperatorMetrics,
    pub(crate) inputs: Vec<StreamSchema>,
    pub(crate) output: StreamSchema,
    pub(crate) table: Table,
    /// What the last call emitted.
    pub(crate) last: Vec<Change>,
}

impl<O: Operator> Driver<O> {
    pub(crate) fn new(
        inputs: Vec<StreamSchema>,
        output: StreamSchema,
        create: impl FnOnce(&[StreamSchema], &StreamSchema, &mut KeyedState) -> Result<O, OperatorError>,
    ) -> Self {
        let mut state = KeyedState::new(KeyGroupRange { first: 0, last: 15 }, 16);
        let operator = create(&inputs, &output, &mut state).unwrap();
        let metrics = OperatorMetrics::default();
        Driver { operator, state, metrics, inputs, output, table: Table::new(), last: vec![] }
    }

    pub(crate) fn process(&mut self, input: usize, changes: &[Change]) {
        let batch = batch(&self.inputs[input], changes);
        self.call(|operator, context, out| operator.process(input, batch, context, out));
    }

    pub(crate) fn watermark(&mut self, time: i64) {
        self.call(|operator, context, out| operator.on_watermark(Watermark(time), context, out));
    }

    fn call(
        &mut self,
        call: impl FnOnce(&mut O, &mut OperatorContext<'_>, &mut Vec<RecordBatch>) -> Result<(), OperatorError>,
    ) {
        let mut out = vec![];
        let mut context = OperatorContext { state: &mut self.state, processing_time_us: 0, metrics: &mut self.metrics };
        call(&mut self.operator, &mut context, &mut out).unwrap();
        assert!(out.iter().all(|batch| batch.num_rows() > 0), "an empty batch");
        self.last = out.iter().flat_map(|batch| changes(&self.output, batch)).collect();
        apply(&mut self.table, self.last.clone());
    }
}

/// `left < right` over two number columns.
#[derive(Debug)]
pub(crate) struct LessThan(pub(crate) usize, pub(crate) usize);

impl Expression for LessThan {
    fn evaluate(&self, batch: &RecordBatch) -> Result<ArrayRef, EvalError> {
        let compare = |row: usize| Some(number(batch.column(self.0), row)? < number(batch.column(self.1), row)?);
        Ok(Arc::new((0..batch.num_rows()).map(compare).collect::<BooleanArray>()))
    }

    fn data_type(&self) -> &DataType {
        &DataType::Boolean
    }

    fn sql(&self) -> &str {
        "left < right"
    }
}

/// Cuts consecutive events of one input into batches: `cuts` says after which ones.
pub(crate) fn batches(events: &[(usize, Change)], cuts: &[bool]) -> Vec<(usize, Vec<Change>)> {
    let mut batches: Vec<(usize, Vec<Change>)> = vec![];
    for (index, (input, change)) in events.iter().enumerate() {
        match batches.last_mut() {
            Some((last, batch)) if last == input && !cuts[index % cuts.len()] => batch.push(change.clone()),
            _ => batches.push((*input, vec![change.clone()])),
        }
    }
    batches
}

pub(crate) const INT: DataType = DataType::Int64;
pub(crate) const TEXT: DataType = DataType::Utf8;
pub(crate) const TIME: DataType = TIMESTAMP;
