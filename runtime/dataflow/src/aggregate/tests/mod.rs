use super::group::{GroupAggregate, state_schemas};
use crate::operator::{Operator, OperatorContext, OperatorError, OperatorMetrics};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::record_batch::RecordBatch;
use cluster::Cluster;
use datafusion_common::ScalarValue;
use oracle::{Row, call, result, text};
use proptest::prelude::*;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rows::{KEY, all_calls, arrival_calls, batch, counted, random_row, stream};
use std::collections::BTreeMap;
use std::sync::Arc;
use weir_model::graph::{AggregateCall, AggregateFunction, GroupAggregateSpec, StreamSchema};
use weir_model::{ChangeKind, CheckpointId, KeyGroupRange};
use weir_state::{KeyedState, MemorySegments, StateConfig};

pub(crate) mod cluster;
pub(crate) mod oracle;
pub(crate) mod rows;

pub(crate) fn keyed_state() -> KeyedState {
    KeyedState::new(KeyGroupRange { first: 0, last: 127 }, 128)
}

fn spec(keys: Vec<usize>, aggregates: Vec<AggregateCall>) -> GroupAggregateSpec {
    GroupAggregateSpec { keys, aggregates, state_ttl_ms: None, update_before: true }
}

fn output(input: &StreamSchema, spec: &GroupAggregateSpec) -> StreamSchema {
    let mut fields: Vec<Arc<Field>> = spec.keys.iter().map(|key| input.fields.fields()[*key].clone()).collect();
    fields.extend(spec.aggregates.iter().map(|call| call.output.clone()));
    fields.push(Arc::new(weir_model::change::change_kind_field()));
    StreamSchema::append_only(Arc::new(Schema::new(fields)))
}

fn process(
    operator: &mut dyn Operator,
    state: &mut KeyedState,
    batch: RecordBatch,
) -> Result<Vec<RecordBatch>, OperatorError> {
    let (mut metrics, mut out) = (OperatorMetrics::default(), vec![]);
    let mut context = OperatorContext { state, processing_time_us: 0, metrics: &mut metrics };
    operator.process(0, batch, &mut context, &mut out)?;
    Ok(out)
}

pub(crate) fn rows_of(batch: &RecordBatch) -> Vec<Row> {
    let cell = |row: usize| move |column: &arrow::array::ArrayRef| ScalarValue::try_from_array(column, row).unwrap();
    (0..batch.num_rows()).map(|row| batch.columns().iter().map(cell(row)).collect()).collect()
}

/// Seeds of a random test. A failing one is repeated with `WEIR_SEED=<seed> cargo test -p weir-dataflow <test>`.
pub(crate) fn seeds() -> impl Strategy<Value = u64> {
    match std::env::var("WEIR_SEED") {
        Ok(seed) => Just(seed.parse().expect("WEIR_SEED is a number")).boxed(),
        Err(_) => any::<u64>().no_shrink().boxed(),
    }
}

/// Fails with the rows in which two results differ.
pub(crate) fn assert_same(
    found: &BTreeMap<String, String>,
    expected: &BTreeMap<String, String>,
    calls: &[AggregateCall],
    context: &str,
) {
    let mut differences = vec![];
    for key in found.keys().chain(expected.keys().filter(|key| !found.contains_key(*key))) {
        match (found.get(key), expected.get(key)) {
            (Some(found), Some(expected)) => {
                let cells = found.split(' ').zip(expected.split(' ')).zip(calls);
                for ((found, expected), call) in cells.filter(|((found, expected), _)| found != expected) {
                    differences.push(format!("{key}: {} is {found}, not {expected}", call.output.name()));
                }
            }
            (Some(_), None) => differences.push(format!("{key}: shouldn't be there")),
            (None, _) => differences.push(format!("{key}: is missing")),
        }
    }
    assert!(differences.is_empty(), "{context}:\n{}", differences.join("\n"));
}

/// What a changelog amounts to; each change must fit what there is.
#[derive(Default)]
pub(crate) struct Materialised {
    pub(crate) rows: BTreeMap<String, String>,
}

impl Materialised {
    pub(crate) fn apply(&mut self, batch: &RecordBatch, keys: usize) {
        for mut row in rows_of(batch) {
            let Some(ScalarValue::Int8(Some(kind))) = row.pop() else { panic!("no change kind") };
            let (key, value) = (text(&row[..keys]), text(&row[keys..]));
            match ChangeKind::from_byte(kind).unwrap() {
                ChangeKind::Insert => assert_eq!(self.rows.insert(key, value), None, "+I of what is there"),
                ChangeKind::UpdateAfter => {
                    self.rows.insert(key, value);
                }
                ChangeKind::UpdateBefore | ChangeKind::Delete => {
                    assert_eq!(self.rows.remove(&key), Some(value), "of key {key}");
                }
            }
        }
    }
}

/// What the oracle knows of a group: how many rows, and for each call the values that count, by arrival.
#[derive(Default)]
struct Group {
    rows: usize,
    values: Vec<Vec<ScalarValue>>,
}

fn check(seed: u64, updating: bool, keys: Vec<usize>, calls: Vec<AggregateCall>) {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let input = stream(updating);
    let update_before = random.random();
    let spec = GroupAggregateSpec { update_before, ..spec(keys.clone(), calls.clone()) };
    let output = output(&input, &spec);
    let create = |state: &mut KeyedState| -> Result<Box<dyn Operator>, OperatorError> {
        Ok(Box::new(GroupAggregate::new(&spec, &input, &output, state)?))
    };
    let mut cluster = Cluster::new(&input, &keys, Box::new(create));
    let mut groups: BTreeMap<String, (Row, Group)> = BTreeMap::new();
    let mut live: Vec<Row> = vec![];
    let mut materialised = Materialised::default();
    for _ in 0..random.random_range(1..12) {
        let mut rows: Vec<(Row, ChangeKind)> = vec![];
        for _ in 0..random.random_range(1..60) {
            let retract = updating && !live.is_empty() && random.random_ratio(2, 5);
            let (row, kind) = match retract {
                true => (live.swap_remove(random.random_range(0..live.len())), ChangeKind::Delete),
                false => (random_row(&mut random, 5, 7), ChangeKind::Insert),
            };
            let key: Row = keys.iter().map(|key| row[*key].clone()).collect();
            let (_, group) = groups.entry(text(&key)).or_insert((key, Group::default()));
            group.values.resize(calls.len(), vec![]);
            for (call, values) in calls.iter().zip(&mut group.values) {
                for value in counted(call, std::iter::once(&row)) {
                    match retract {
                        false => values.push(value),
                        true => {
                            let at = values.iter().position(|other| *other == value).unwrap();
                            values.remove(at);
                        }
                    }
                }
            }
            if retract {
                group.rows -= 1;
            } else {
                group.rows += 1;
                live.push(row.clone());
            }
            rows.push((row, kind));
        }
        for batch in cluster.process(batch(&input.fields, &rows)) {
            materialised.apply(&batch, keys.len());
        }
        if random.random_ratio(1, 3) {
            cluster.checkpoint(&mut random);
        }
        groups.retain(|_, (_, group)| group.rows > 0);
        let expected = groups.iter().map(|(key, (_, group))| {
            let results: Row = calls.iter().zip(&group.values).map(|(call, values)| result(call, values)).collect();
            (key.clone(), text(&results))
        });
        let expected: BTreeMap<String, String> = expected.collect();
        assert_same(&materialised.rows, &expected, &calls, &format!("WEIR_SEED={seed}"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn append_only_input(seed in seeds()) {
        check(seed, false, vec![KEY], [all_calls(), arrival_calls()].concat());
    }

    #[test]
    fn updating_input(seed in seeds()) {
        check(seed, true, vec![KEY], [all_calls(), arrival_calls()].concat());
    }

    #[test]
    fn keys_of_several_columns(seed in seeds()) {
        check(seed, true, vec![5, KEY, 6], all_calls());
    }

    #[test]
    fn no_key(seed in seeds()) {
        check(seed, true, vec![], all_calls());
    }
}

fn long_batch(input: &StreamSchema, rows: &[(Option<i64>, Option<i64>, ChangeKind)]) -> RecordBatch {
    let row = |key: Option<i64>, value: Option<i64>| {
        let mut row: Row =
            input.fields.fields().iter().take(9).map(|f| ScalarValue::try_from(f.data_type()).unwrap()).collect();
        row[0] = ScalarValue::Int64(key);
        row[2] = ScalarValue::Int64(value);
        row
    };
    batch(&input.fields, &rows.iter().map(|(key, value, kind)| (row(*key, *value), *kind)).collect::<Vec<_>>())
}

fn changes(batches: &[RecordBatch]) -> Vec<String> {
    let line = |mut row: Row| {
        let Some(ScalarValue::Int8(Some(kind))) = row.pop() else { panic!("no change kind") };
        let cells: Vec<String> = row.iter().map(|value| value.to_string()).collect();
        format!("{} {}", ChangeKind::from_byte(kind).unwrap().symbol(), cells.join(" "))
    };
    batches.iter().flat_map(rows_of).map(line).collect()
}

const ADD: ChangeKind = ChangeKind::Insert;
const BACK: ChangeKind = ChangeKind::UpdateBefore;

#[test]
fn one_change_per_key_and_batch() {
    let input = stream(true);
    let calls = vec![
        call("n", AggregateFunction::Count, None, DataType::Int64),
        call("total", AggregateFunction::Sum, Some(2), DataType::Int64),
    ];
    let spec = spec(vec![KEY], calls);
    let mut state = keyed_state();
    let mut operator = GroupAggregate::new(&spec, &input, &output(&input, &spec), &mut state).unwrap();
    let mut changes_of = |rows: &[(Option<i64>, Option<i64>, ChangeKind)]| {
        changes(&process(&mut operator, &mut state, long_batch(&input, rows)).unwrap())
    };
    let (one, two) = (Some(1), Some(2));
    assert_eq!(changes_of(&[(one, Some(5), ADD), (two, None, ADD), (one, Some(6), ADD)]), ["+I 1 2 11", "+I 2 1 NULL"]);
    assert_eq!(changes_of(&[(one, Some(1), ADD)]), ["-U 1 2 11", "+U 1 3 12"]);
    assert_eq!(changes_of(&[(one, Some(1), ADD), (one, Some(1), BACK)]), Vec::<String>::new(), "nothing changed");
    assert_eq!(changes_of(&[(two, None, BACK), (None, Some(3), ADD)]), ["-D 2 1 NULL", "+I NULL 1 3"]);
    assert_eq!(changes_of(&[(two, Some(9), BACK)]), Vec::<String>::new(), "what isn't there can't be taken back");
    assert_eq!(changes_of(&[(two, Some(9), BACK), (two, Some(8), ADD)]), ["+I 2 1 8"]);
}

#[test]
fn overflow_names_the_aggregate() {
    let input = stream(false);
    let spec = spec(vec![KEY], vec![call("total", AggregateFunction::Sum, Some(2), DataType::Int64)]);
    let mut state = keyed_state();
    let mut operator = GroupAggregate::new(&spec, &input, &output(&input, &spec), &mut state).unwrap();
    let rows = [(Some(1), Some(i64::MAX), ADD), (Some(1), Some(1), ADD)];
    let error = process(&mut operator, &mut state, long_batch(&input, &rows)).unwrap_err().to_string();
    assert_eq!(error, "aggregate `total`: SUM overflows BIGINT; cast its argument to a wider type (DECIMAL or DOUBLE)");
}

#[test]
fn what_a_function_does_not_take() {
    let input = stream(false);
    let spec = spec(vec![KEY], vec![call("x", AggregateFunction::Sum, Some(5), DataType::Int64)]);
    let error = state_schemas(&spec, &input).unwrap_err().to_string();
    assert_eq!(error, "aggregate `x`: Sum doesn't take an argument of type Utf8");
}

#[test]
fn fields_are_named_after_the_aggregate() {
    let calls = vec![
        call("n", AggregateFunction::Count, None, DataType::Int64),
        call("mean", AggregateFunction::Avg, Some(2), DataType::Float64),
        call("least", AggregateFunction::Min, Some(1), DataType::Int32),
    ];
    let printed = |updating| {
        let schemas = state_schemas(&spec(vec![KEY], calls.clone()), &stream(updating)).unwrap();
        let line = |schema: &weir_model::StateSchema| {
            let fields = schema.value.iter().zip(&schema.semantics);
            let fields = fields.map(|(field, semantics)| format!("{}={semantics}", field.name)).collect::<Vec<_>>();
            format!("{}: {}", schema.name, fields.join(", "))
        };
        schemas.iter().map(line).collect::<Vec<_>>().join("\n")
    };
    assert_eq!(
        printed(false),
        "groups: n.count=count(*), mean.sum=sum(Decimal128(38, 0)), mean.count=count(Int64), least.value=min(Int64)"
    );
    assert_eq!(
        printed(true),
        "groups: row_count=count(*), n.count=count(*), mean.sum=sum(Decimal128(38, 0)), mean.count=count(Int64), \
         least.value=min(Int64)\nleast.values: count=count of each(Int64)"
    );
}

/// Values that a naive sum of squares would lose: large and close together.
#[test]
fn variance_does_not_cancel() {
    let input = stream(false);
    let spec = spec(vec![KEY], vec![call("v", AggregateFunction::VarPop, Some(2), DataType::Float64)]);
    let mut state = keyed_state();
    let mut operator = GroupAggregate::new(&spec, &input, &output(&input, &spec), &mut state).unwrap();
    let rows: Vec<_> = (0..1000).map(|n| (Some(1), Some(1_000_000_000_000 + n % 2), ADD)).collect();
    let printed = changes(&process(&mut operator, &mut state, long_batch(&input, &rows)).unwrap());
    assert_eq!(printed, ["+I 1 0.25"]);
}

/// An aggregate that is new in a restored job starts from scratch in the groups there are.
#[test]
fn an_aggregate_is_added_to_a_job_with_state() {
    let input = stream(false);
    let total = call("total", AggregateFunction::Sum, Some(2), DataType::Int64);
    let added = [
        call("n", AggregateFunction::Count, None, DataType::Int64),
        call("least", AggregateFunction::Min, Some(2), DataType::Int64),
        call("mean", AggregateFunction::Avg, Some(2), DataType::Float64),
    ];
    let old_spec = spec(vec![KEY], vec![total.clone()]);
    let new_spec = spec(vec![KEY], [vec![total], added.to_vec()].concat());
    let mut segments = MemorySegments::default();
    let mut state = keyed_state();
    let mut operator = GroupAggregate::new(&old_spec, &input, &output(&input, &old_spec), &mut state).unwrap();
    process(&mut operator, &mut state, long_batch(&input, &[(Some(1), Some(5), ADD), (Some(2), Some(6), ADD)]))
        .unwrap();
    let handle = state.cut(CheckpointId(1)).unwrap().write(&mut segments).unwrap();

    let config = StateConfig { key_groups: state.key_groups(), max_parallelism: state.max_parallelism() };
    let mut state = KeyedState::open(config, &[handle], &segments).unwrap();
    let mut operator = GroupAggregate::new(&new_spec, &input, &output(&input, &new_spec), &mut state).unwrap();
    let printed = changes(&process(&mut operator, &mut state, long_batch(&input, &[(Some(1), Some(7), ADD)])).unwrap());
    assert_eq!(printed, ["-U 1 5 0 NULL NULL", "+U 1 12 1 7 7"]);
}

#[test]
fn state_that_expires_begins_anew() {
    let input = stream(true);
    let calls = vec![
        call("n", AggregateFunction::Count, None, DataType::Int64),
        call("greatest", AggregateFunction::Max, Some(2), DataType::Int64),
    ];
    let spec = GroupAggregateSpec { state_ttl_ms: Some(1000), ..spec(vec![KEY], calls) };
    let mut state = keyed_state();
    let mut operator = GroupAggregate::new(&spec, &input, &output(&input, &spec), &mut state).unwrap();
    let mut changes_at = |now_ms: i64, rows: &[(Option<i64>, Option<i64>, ChangeKind)]| {
        state.between_batches(now_ms * 1000).unwrap();
        changes(&process(&mut operator, &mut state, long_batch(&input, rows)).unwrap())
    };
    let one = Some(1);
    assert_eq!(changes_at(0, &[(one, Some(5), ADD)]), ["+I 1 1 5"]);
    assert_eq!(changes_at(900, &[(one, Some(4), ADD)]), ["-U 1 1 5", "+U 1 2 5"]);
    assert_eq!(changes_at(1500, &[(one, Some(1), ADD)]), ["-U 1 2 5", "+U 1 3 5"], "writing keeps it alive");
    assert_eq!(changes_at(1600, &[(one, Some(1), ADD), (one, Some(1), BACK)]), ["-U 1 3 5", "+U 1 3 5"], "repeated");
    assert_eq!(changes_at(9000, &[(one, Some(4), BACK)]), Vec::<String>::new());
    assert_eq!(changes_at(9000, &[(one, Some(2), ADD)]), ["+I 1 1 2"]);
}
