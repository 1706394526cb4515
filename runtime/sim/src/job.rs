//! The simulated job: a source of several splits that can be replayed, an exchange by key group, an aggregate, and a
//! sink in two phases. And the oracle: what the sink must hold when all is read.

use arrow::array::{ArrayRef, AsArray, Int64Array, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Int8Type, Int64Type, Schema, SchemaRef, TimestampMicrosecondType};
use arrow::record_batch::RecordBatch;
use std::collections::BTreeMap;
use std::sync::Arc;
use weir_coordinator::AttemptShape;
use weir_dataflow::alignment::AlignmentMode;
use weir_dataflow::{NoCustomOperators, Operator, OperatorError, factory};
use weir_model::change::change_kind_field;
use weir_model::graph::{
    AggregateCall, AggregateFunction, GroupAggregateSpec, OperatorSpec, StreamSchema, TimeDomain, WindowAggregateSpec,
    WindowKind,
};
use weir_model::types::TIMESTAMP;
use weir_model::{ChangeKind, OperatorUid, StateSchema, SubtaskId};
use weir_state::KeyedState;

pub(crate) const JOB_UID: &str = "job";
const WINDOW_US: i64 = 40_000;
/// Event time from one record of a split to the next.
const RECORD_US: i64 = 5_000;

/// What the aggregate does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Count and sum of each key, as they change: every change follows the one before, or something was lost.
    Totals,
    /// Count and sum of each key and window, when event time has passed it.
    Windows,
}

/// What is the same over all runs of the job.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) kind: Kind,
    pub(crate) seed: u64,
    pub(crate) splits: u32,
    pub(crate) records_per_split: u64,
    pub(crate) keys: u64,
    pub(crate) max_parallelism: u32,
    pub(crate) alignment: AlignmentMode,
    /// Checkpoints may be unaligned: where event time is becomes part of them.
    pub(crate) is_unaligned: bool,
    /// State is in front of a store, and what is more than so many bytes of a subtask's lets all of it spill.
    pub(crate) cache_bytes: Option<usize>,
}

/// One row that the sink was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) key: i64,
    /// Begin of the window; 0 without windows.
    pub(crate) window_us: i64,
    pub(crate) count: i64,
    pub(crate) sum: i64,
    pub(crate) change: ChangeKind,
}

/// Of each key and window: count and sum.
pub(crate) type Table = BTreeMap<(i64, i64), (i64, i64)>;

pub(crate) fn source_uid() -> OperatorUid {
    OperatorUid::new("numbers")
}

pub(crate) fn aggregate_uid() -> OperatorUid {
    OperatorUid::new("totals")
}

pub(crate) fn sink_uid() -> OperatorUid {
    OperatorUid::new("out")
}

/// The subtasks, the sources first. The aggregate's have the sink's chained to them.
fn subtasks(parallelism: u32) -> (Vec<SubtaskId>, Vec<SubtaskId>) {
    let of = |operator: OperatorUid| (0..parallelism).map(move |index| SubtaskId { operator: operator.clone(), index });
    let sources: Vec<_> = of(source_uid()).collect();
    (sources.iter().cloned().chain(of(aggregate_uid())).collect(), sources)
}

/// The tasks of an attempt.
pub(crate) fn shape(parallelism: u32) -> AttemptShape {
    let (tasks, sources) = subtasks(parallelism);
    AttemptShape { tasks, sources, parallelism, slots: parallelism, wanted: vec![] }
}

impl Job {
    /// Key, value and event time of a record.
    fn record(&self, split: u32, position: u64) -> (i64, i64, i64) {
        let mixed = weir_model::hash::hash_u64(self.seed ^ ((split as u64) << 40) ^ position);
        let jitter = (mixed >> 20) as i64 & 0xfff;
        ((mixed % self.keys) as i64, (mixed >> 40) as i64 & 0xff, position as i64 * RECORD_US + jitter)
    }

    /// The records of a split from one position up to another.
    pub(crate) fn batch(&self, split: u32, from: u64, to: u64) -> RecordBatch {
        let records: Vec<_> = (from..to).map(|position| self.record(split, position)).collect();
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from_iter_values(records.iter().map(|record| record.0))),
            Arc::new(Int64Array::from_iter_values(records.iter().map(|record| record.1))),
            Arc::new(TimestampMicrosecondArray::from_iter_values(records.iter().map(|record| record.2))),
        ];
        RecordBatch::try_new(self.input().fields, columns).expect("columns of the schema")
    }

    fn input(&self) -> StreamSchema {
        let field = |name: &str, data_type: DataType| Field::new(name, data_type, false);
        let fields = [field("key", DataType::Int64), field("value", DataType::Int64), field("time", TIMESTAMP)];
        StreamSchema { time_columns: vec![2], ..StreamSchema::append_only(Arc::new(Schema::new(fields.to_vec()))) }
    }

    fn output(&self) -> StreamSchema {
        let number = |name: &str| Field::new(name, DataType::Int64, true);
        let fields = match self.kind {
            Kind::Totals => vec![number("key"), number("count"), number("sum"), change_kind_field()],
            Kind::Windows => {
                let bound = |name: &str| Field::new(name, TIMESTAMP, false);
                vec![number("key"), bound("window_start"), bound("window_end"), number("count"), number("sum")]
            }
        };
        StreamSchema::append_only(Arc::new(Schema::new(fields)) as SchemaRef)
    }

    fn spec(&self) -> OperatorSpec {
        let call = |function, argument, name: &str| AggregateCall {
            function,
            argument,
            distinct: false,
            filter: None,
            output: Arc::new(Field::new(name, DataType::Int64, true)),
        };
        let aggregates =
            vec![call(AggregateFunction::Count, None, "count"), call(AggregateFunction::Sum, Some(1), "sum")];
        match self.kind {
            Kind::Totals => OperatorSpec::GroupAggregate(GroupAggregateSpec {
                keys: vec![0],
                aggregates,
                state_ttl_ms: None,
                update_before: true,
            }),
            Kind::Windows => OperatorSpec::WindowAggregate(WindowAggregateSpec {
                keys: vec![0],
                window: WindowKind::Tumble { size_us: WINDOW_US, offset_us: 0 },
                time: TimeDomain::EventTime { column: 2 },
                assigned: None,
                aggregates,
                allowed_lateness_us: 0,
            }),
        }
    }

    pub(crate) fn operator(&self, state: &mut KeyedState) -> Result<Box<dyn Operator>, OperatorError> {
        factory::create(&self.spec(), &[self.input()], &self.output(), state, &NoCustomOperators)
    }

    pub(crate) fn state_schemas(&self) -> Vec<StateSchema> {
        factory::state_schemas(&self.spec(), &[self.input()], &NoCustomOperators).expect("the job is valid")
    }

    /// What a batch of the aggregate's output says.
    pub(crate) fn rows(&self, batch: &RecordBatch) -> Vec<Row> {
        let number = |column: usize, row: usize| batch.column(column).as_primitive::<Int64Type>().value(row);
        let row = |row: usize| match self.kind {
            Kind::Totals => Row {
                key: number(0, row),
                window_us: 0,
                count: number(1, row),
                sum: number(2, row),
                change: ChangeKind::from_byte(batch.column(3).as_primitive::<Int8Type>().value(row))
                    .expect("a change kind"),
            },
            Kind::Windows => Row {
                key: number(0, row),
                window_us: batch.column(1).as_primitive::<TimestampMicrosecondType>().value(row),
                count: number(3, row),
                sum: number(4, row),
                change: ChangeKind::Insert,
            },
        };
        (0..batch.num_rows()).map(row).collect()
    }

    /// Whether the sink may hold this when everything is read, where the oracle says `expected`. Without alignment some
    /// records count more than once.
    pub(crate) fn accepts(&self, found: (i64, i64), expected: (i64, i64)) -> bool {
        match self.alignment {
            AlignmentMode::ExactlyOnce => found == expected,
            AlignmentMode::AtLeastOnce => found.0 >= expected.0 && found.1 >= expected.1,
        }
    }

    /// What the sink must hold when everything is read.
    pub(crate) fn oracle(&self) -> Table {
        let mut table = Table::new();
        for split in 0..self.splits {
            for position in 0..self.records_per_split {
                let (key, value, time_us) = self.record(split, position);
                let window_us = match self.kind {
                    Kind::Totals => 0,
                    Kind::Windows => time_us.div_euclid(WINDOW_US) * WINDOW_US,
                };
                let total = table.entry((key, window_us)).or_default();
                *total = (total.0 + 1, total.1 + value);
            }
        }
        table
    }
}

/// Applies a row to what the sink holds.
///
/// # Errors
/// It takes back what isn't there, or puts what is there already: rows were lost, or came twice.
pub(crate) fn apply(table: &mut Table, row: &Row) -> Result<(), String> {
    let place = (row.key, row.window_us);
    let (before, value) = (table.get(&place).copied(), (row.count, row.sum));
    let fits = match row.change {
        ChangeKind::Insert | ChangeKind::UpdateAfter => before.is_none(),
        ChangeKind::UpdateBefore | ChangeKind::Delete => before == Some(value),
    };
    if !fits {
        return Err(format!("{} {row:?} came where the sink held {before:?}", row.change.symbol()));
    }
    if row.change.is_retraction() {
        table.remove(&place);
    } else {
        table.insert(place, value);
    }
    Ok(())
}
