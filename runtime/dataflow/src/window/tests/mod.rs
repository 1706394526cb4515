use super::*;
use crate::aggregate::tests::cluster::Cluster;
use crate::aggregate::tests::oracle::{Row, call};
use crate::aggregate::tests::rows::{KEY, TIME, all_calls, arrival_calls, batch, random_row, stream};
use crate::aggregate::tests::{Materialised, assert_same, keyed_state, rows_of, seeds};
use crate::operator::{OperatorContext, OperatorMetrics};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::record_batch::RecordBatch;
use datafusion_common::ScalarValue;
use oracle::Oracle;
use proptest::prelude::*;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::sync::Arc;
use weir_model::graph::{AggregateCall, AggregateFunction, TimeDomain, WindowAssignSpec, WindowColumns};
use weir_model::types::TIMESTAMP;
use weir_model::{ChangeKind, Watermark};

mod oracle;

pub(super) fn spec(window: WindowKind, aggregates: Vec<AggregateCall>, lateness: i64) -> WindowAggregateSpec {
    let time = TimeDomain::EventTime { column: TIME };
    WindowAggregateSpec { keys: vec![KEY], window, time, assigned: None, aggregates, allowed_lateness_us: lateness }
}

pub(super) fn output(input: &StreamSchema, spec: &WindowAggregateSpec) -> StreamSchema {
    let mut fields: Vec<Arc<Field>> = spec.keys.iter().map(|key| input.fields.fields()[*key].clone()).collect();
    fields.extend(["window_start", "window_end"].map(|name| Arc::new(Field::new(name, TIMESTAMP, false))));
    fields.extend(spec.aggregates.iter().map(|call| call.output.clone()));
    if spec.allowed_lateness_us > 0 {
        fields.push(Arc::new(weir_model::change::change_kind_field()));
    }
    StreamSchema::append_only(Arc::new(Schema::new(fields)))
}

/// An operator with its state and what a driver lends to it.
struct Subtask {
    operator: Box<dyn Operator>,
    state: KeyedState,
    metrics: OperatorMetrics,
    now_us: i64,
}

impl Subtask {
    fn new(spec: &WindowAggregateSpec, input: &StreamSchema) -> Self {
        let mut state = keyed_state();
        let operator = create_aggregate(spec, input, &output(input, spec), &mut state).unwrap();
        Subtask { operator, state, metrics: OperatorMetrics::default(), now_us: 0 }
    }

    fn call(
        &mut self,
        call: impl FnOnce(&mut dyn Operator, &mut OperatorContext<'_>, &mut Vec<RecordBatch>) -> Result<(), OperatorError>,
    ) -> Vec<RecordBatch> {
        let mut out = vec![];
        let Subtask { operator, state, metrics, now_us } = self;
        let mut context = OperatorContext { state, processing_time_us: *now_us, metrics };
        call(operator.as_mut(), &mut context, &mut out).unwrap();
        out
    }

    fn process(&mut self, batch: RecordBatch) -> Vec<RecordBatch> {
        self.call(|operator, context, out| operator.process(0, batch, context, out))
    }

    fn watermark(&mut self, watermark: i64) -> Vec<RecordBatch> {
        self.call(|operator, context, out| operator.on_watermark(Watermark(watermark), context, out))
    }
}

fn check(seed: u64, window: WindowKind, calls: Vec<AggregateCall>, lateness: i64) {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let (input, spec) = (stream(false), spec(window, calls.clone(), lateness));
    let output = output(&input, &spec);
    let create = |state: &mut KeyedState| create_aggregate(&spec, &input, &output, state);
    let mut cluster = Cluster::new(&input, &[KEY], Box::new(create));
    let mut oracle = Oracle::new(window, lateness, calls.clone());
    let mut materialised = Materialised::default();
    let mut apply = |batches: Vec<RecordBatch>| {
        for mut batch in batches {
            if lateness == 0 {
                let kinds = arrow::array::Int8Array::from_value(ChangeKind::Insert as i8, batch.num_rows());
                let mut fields = batch.schema().fields().to_vec();
                fields.push(Arc::new(weir_model::change::change_kind_field()));
                let mut columns = batch.columns().to_vec();
                columns.push(Arc::new(kinds));
                batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap();
            }
            materialised.apply(&batch, 3);
        }
        materialised.rows.clone()
    };
    let (mut now, mut watermark) = (random.random_range(-100..100), i64::MIN);
    let spread = random.random_range(1..60);
    for step in 0..12 {
        let rows: Vec<(Row, ChangeKind)> = (0..random.random_range(1..40))
            .map(|_| {
                now += random.random_range(0..3);
                let time = now - random.random_range(0..spread);
                (random_row(&mut random, 4, time), ChangeKind::Insert)
            })
            .collect();
        rows.iter().for_each(|(row, _)| oracle.add(row));
        let found = apply(cluster.process(batch(&input.fields, &rows)));
        assert_same(&found, &oracle.fired(), &calls, &format!("WEIR_SEED={seed}, after the rows of step {step}"));
        // Before the restored subtasks hear of a watermark again, late rows are late all the same.
        if random.random_ratio(1, 3) {
            cluster.checkpoint(&mut random);
        }
        if random.random_ratio(2, 3) {
            watermark = watermark.max(now - random.random_range(0..40));
            oracle.advance(watermark);
            let found = apply(cluster.watermark(watermark));
            assert_same(
                &found,
                &oracle.fired(),
                &calls,
                &format!("WEIR_SEED={seed}, after the watermark of step {step}"),
            );
            if random.random_ratio(1, 3) {
                cluster.checkpoint(&mut random);
            }
        }
    }
    oracle.advance(i64::MAX - 1000);
    let found = apply(cluster.watermark(i64::MAX));
    assert_same(&found, &oracle.fired(), &calls, &format!("WEIR_SEED={seed}, at the end"));
    assert_eq!(cluster.metrics.late_records_dropped, oracle.dropped, "WEIR_SEED={seed}");
}

fn mergeable_calls() -> Vec<AggregateCall> {
    all_calls().into_iter().filter(|call| !call.distinct || call.argument.is_none()).collect()
}

fn every_call() -> Vec<AggregateCall> {
    [all_calls(), arrival_calls()].concat()
}

const TUMBLE: WindowKind = WindowKind::Tumble { size_us: 20, offset_us: 3 };
const HOP: WindowKind = WindowKind::Hop { size_us: 20, slide_us: 5, offset_us: 0 };
const SESSION: WindowKind = WindowKind::Session { gap_us: 6 };

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn tumbling(seed in seeds()) {
        check(seed, TUMBLE, every_call(), 0);
    }

    #[test]
    fn tumbling_with_lateness(seed in seeds()) {
        check(seed, TUMBLE, every_call(), 13);
    }

    #[test]
    fn hopping_by_slices(seed in seeds()) {
        check(seed, HOP, mergeable_calls(), 0);
    }

    #[test]
    fn hopping_by_windows(seed in seeds()) {
        check(seed, HOP, every_call(), 0);
    }

    #[test]
    fn hopping_with_lateness(seed in seeds()) {
        check(seed, HOP, every_call(), 13);
    }

    #[test]
    fn sessions(seed in seeds()) {
        check(seed, SESSION, all_calls(), 0);
    }

    #[test]
    fn sessions_with_lateness(seed in seeds()) {
        check(seed, SESSION, all_calls(), 13);
    }
}

fn count() -> Vec<AggregateCall> {
    vec![call("n", AggregateFunction::Count, None, DataType::Int64)]
}

/// `key@time` for each row.
fn rows_at(input: &StreamSchema, rows: &[(i64, i64)]) -> RecordBatch {
    let row = |(key, time): &(i64, i64)| {
        let types = input.fields.fields().iter().take(9).map(|field| field.data_type());
        let mut row: Row = types.map(|data_type| ScalarValue::try_from(data_type).unwrap()).collect();
        row[KEY] = ScalarValue::Int64(Some(*key));
        row[TIME] = ScalarValue::TimestampMicrosecond(Some(*time), None);
        (row, ChangeKind::Insert)
    };
    batch(&input.fields, &rows.iter().map(row).collect::<Vec<_>>())
}

/// Key, window and count of each row.
fn printed(batches: &[RecordBatch]) -> Vec<String> {
    let number = |value: &ScalarValue| match value {
        ScalarValue::Int64(Some(number)) | ScalarValue::TimestampMicrosecond(Some(number), _) => *number,
        other => panic!("{other:?}"),
    };
    let line = |row: Row| {
        let numbers: Vec<i64> = row[..4].iter().map(number).collect();
        format!("{}: {}..{} {}", numbers[0], numbers[1], numbers[2], numbers[3])
    };
    batches.iter().flat_map(rows_of).map(line).collect()
}

#[test]
fn a_window_fires_when_the_watermark_reaches_its_end() {
    let (input, spec) = (stream(false), spec(WindowKind::Tumble { size_us: 10, offset_us: 0 }, count(), 0));
    let mut subtask = Subtask::new(&spec, &input);
    subtask.process(rows_at(&input, &[(1, 0), (1, 9), (1, 10)]));
    assert!(subtask.watermark(9).is_empty());
    assert_eq!(printed(&subtask.watermark(10)), ["1: 0..10 2"]);
    subtask.process(rows_at(&input, &[(1, 9), (1, 10)]));
    assert_eq!(subtask.metrics.late_records_dropped, 1);
    assert_eq!(printed(&subtask.watermark(i64::MAX)), ["1: 10..20 2"]);
}

#[test]
fn windows_of_the_clock() {
    for (window, expected) in [
        (WindowKind::Tumble { size_us: 10, offset_us: 0 }, vec!["5: 0..10 3", "9: 10..20 1"]),
        (
            WindowKind::Hop { size_us: 20, slide_us: 10, offset_us: 0 },
            vec!["5: -10..10 3", "5: 0..20 3", "9: 0..20 1", "9: 10..30 1"],
        ),
        (WindowKind::Session { gap_us: 8 }, vec!["5: 3..15 3", "9: 12..20 1"]),
    ] {
        let mut spec = spec(window, count(), 0);
        spec.time = TimeDomain::ProcessingTime;
        let input = stream(false);
        let mut subtask = Subtask::new(&spec, &input);
        assert_eq!(subtask.operator.next_processing_time_us(), None);
        let mut fired = vec![];
        for (now_us, rows) in [(3, vec![(5, 999), (5, -5)]), (7, vec![(5, 0)]), (12, vec![(9, 0)]), (40, vec![])] {
            while let Some(time) = subtask.operator.next_processing_time_us().filter(|time| *time <= now_us) {
                subtask.now_us = time;
                let batches = subtask.call(|operator, context, out| operator.on_processing_time(context, out));
                fired.extend(printed(&batches));
            }
            subtask.now_us = now_us;
            if !rows.is_empty() {
                subtask.process(rows_at(&input, &rows));
            }
        }
        fired.sort();
        assert_eq!(fired, expected, "{window:?}");
    }
}

#[test]
fn an_assigned_input_keeps_its_windows() {
    let input = stream(false);
    let time = TimeDomain::EventTime { column: TIME };
    let mut fields = input.fields.fields().to_vec();
    fields
        .extend(["window_start", "window_end", "window_time"].map(|name| Arc::new(Field::new(name, TIMESTAMP, false))));
    let windows = WindowColumns { start: 9, end: 10 };
    let assigned = StreamSchema { window: Some(windows), ..StreamSchema::append_only(Arc::new(Schema::new(fields))) };
    let assign = WindowAssignSpec { window: HOP, time };
    let mut assign = WindowAssign::new(&assign, &input, &assigned).unwrap();
    let mut direct = Subtask::new(&spec(HOP, count(), 0), &input);
    let second = WindowAggregateSpec { assigned: Some(windows), ..spec(HOP, count(), 0) };
    let mut second = Subtask::new(&second, &assigned);

    let rows = rows_at(&input, &[(1, 0), (1, 3), (2, 17), (1, 21), (1, -1)]);
    let (mut state, mut metrics, mut out) = (keyed_state(), OperatorMetrics::default(), vec![]);
    let mut context = OperatorContext { state: &mut state, processing_time_us: 0, metrics: &mut metrics };
    assign.process(0, rows.clone(), &mut context, &mut out).unwrap();
    assert_eq!(out.iter().map(RecordBatch::num_rows).sum::<usize>(), 20);
    let first = rows_of(&out[0]);
    assert_eq!(
        format!("{:?}", &first[0][9..]),
        format!("{:?}", [-15i64, 5, -995].map(|time| ScalarValue::TimestampMicrosecond(Some(time), None)))
    );

    for batch in out {
        second.process(batch);
    }
    direct.process(rows);
    for watermark in [4, 18, 30, i64::MAX] {
        assert_eq!(printed(&second.watermark(watermark)), printed(&direct.watermark(watermark)));
    }
}

#[test]
fn specs_that_cannot_be() {
    let error = |input: &StreamSchema, spec: WindowAggregateSpec| state_schemas(&spec, input).unwrap_err().to_string();
    assert!(error(&stream(true), spec(TUMBLE, count(), 0)).contains("append-only"));
    assert!(error(&stream(false), spec(TUMBLE, count(), -1)).contains("negative"));
    assert!(error(&stream(false), spec(SESSION, arrival_calls(), 0)).contains("FIRST_VALUE"));
    let wide = WindowKind::Hop { size_us: 1_000_000, slide_us: 1, offset_us: 0 };
    assert!(error(&stream(false), spec(wide, count(), 5)).contains("longer slide"));
}

#[test]
fn a_time_that_is_null() {
    let input = stream(false);
    let mut row: Row = rows_of(&rows_at(&input, &[(1, 1)])).remove(0);
    row[TIME] = ScalarValue::TimestampMicrosecond(None, None);
    let mut subtask = Subtask::new(&spec(TUMBLE, count(), 0), &input);
    let Subtask { operator, state, metrics, .. } = &mut subtask;
    let mut context = OperatorContext { state, processing_time_us: 0, metrics };
    let rows = batch(&input.fields, &[(row, ChangeKind::Insert)]);
    let error = operator.process(0, rows, &mut context, &mut Vec::<RecordBatch>::new()).unwrap_err().to_string();
    assert!(error.contains("`ts` is null in 1 of 1 rows"), "{error}");
}
